/** @file The rules that package.json and its lockfile keep, each shown to bite. */
import { execFileSync, spawn } from "node:child_process"
import { once } from "node:events"
import { existsSync, readFileSync } from "node:fs"
import { createServer } from "node:http"
import type { AddressInfo } from "node:net"
import { resolve } from "node:path"
import { text as read } from "node:stream/consumers"
import { isDeepStrictEqual } from "node:util"
import { describe, expect, it } from "vitest"
import { version } from "../src/version.ts"
import { packageOf, sources } from "./helpers/sources.ts"

const at = (path: string) => resolve(import.meta.dirname, "..", path)
const text = (path: string) => readFileSync(at(path), "utf8")

type Versions = Record<string, string>
interface Package {
  version: string
  license: string
  type: string
  engines: Versions
  files: string[]
  bin: Versions
  exports: Record<string, string | Versions>
  scripts: Versions
  dependencies: Versions
  devDependencies: Versions
  peerDependencies: Versions
  peerDependenciesMeta: Record<string, { optional?: boolean }>
  allowScripts: Record<string, boolean>
}
interface Locked {
  version?: string
  integrity?: string
  resolved?: string
  hasInstallScript?: boolean
  link?: boolean
  dependencies?: Versions
  optionalDependencies?: Versions
  devDependencies?: Versions
}
interface Lockfile {
  lockfileVersion: number
  packages: Record<string, Locked>
}

/** All that is installed with this package, on any system, as node finds it: what each one needs, and so on. */
function installed({ packages }: Lockfile): string[] {
  const found = new Set<string>()
  const add = (from: string, name: string): void => {
    const inner = `${from}/node_modules/${name}`.replace(/^\//, "")
    const outer = from.slice(0, Math.max(0, from.lastIndexOf("/node_modules/")))
    if (!packages[inner]) return from ? add(outer, name) : expect.unreachable(`${name} is not locked`)
    if (found.has(inner)) return
    found.add(inner)
    const { dependencies, optionalDependencies } = packages[inner]
    for (const needed of Object.keys({ ...dependencies, ...optionalDependencies })) add(inner, needed)
  }
  for (const name of Object.keys(packages[""]!.dependencies!)) add("", name)
  return [...found]
}

const EXACT = /^\d+\.\d+\.\d+$/
const OWN_SCRIPTS = ["preinstall", "install", "postinstall", "preuninstall", "uninstall", "postuninstall"]

/** What is wrong with a package and its lockfile. */
function problems(pkg: Package, lock: Lockfile): string[] {
  const found: string[] = []
  const rule = (kept: boolean, what: string) => void (kept || found.push(what))
  const all = { ...pkg.dependencies, ...pkg.devDependencies }

  for (const [name, v] of Object.entries(all)) rule(EXACT.test(v), `${name} is not pinned: ${v}`)
  for (const name of Object.keys(pkg.peerDependencies)) {
    rule(pkg.peerDependenciesMeta[name]?.optional === true, `the peer ${name} is not optional`)
  }
  rule(pkg.license === "MIT", `the license is ${pkg.license}`)
  rule(pkg.type === "module", `the type is ${pkg.type}`)
  rule(/^>=20\.19(\.0)?$/.test(pkg.engines["node"] ?? ""), `node is ${pkg.engines["node"]}`)
  for (const name of OWN_SCRIPTS) rule(!(name in pkg.scripts), `there is a script ${name}`)
  for (const [name, may] of Object.entries(pkg.allowScripts)) rule(!may, `the install script of ${name} is allowed`)

  const { "": own, ...packages } = lock.packages
  rule(lock.lockfileVersion === 3, `the lockfile has version ${lock.lockfileVersion}`)
  rule(own?.version === pkg.version, `the lockfile is for version ${own?.version}`)
  rule(isDeepStrictEqual(own?.dependencies, pkg.dependencies), "the lockfile has other dependencies")
  rule(isDeepStrictEqual(own?.devDependencies, pkg.devDependencies), "the lockfile has other devDependencies")
  for (const [name, v] of Object.entries(all)) {
    rule(packages[`node_modules/${name}`]?.version === v, `${name} is not locked at ${v}`)
  }
  for (const [path, p] of Object.entries(packages)) {
    rule(EXACT.test((p.version ?? "").split(/[-+]/)[0]!), `${path} has version ${p.version}`)
    rule(/^sha512-[A-Za-z0-9+/]{86}==$/.test(p.integrity ?? ""), `${path} has no sha512`)
    // Without it npm asks the registry that is set, and never a git repository or a URL.
    rule(p.resolved === undefined && !p.link, `${path} comes from ${p.resolved ?? "a link"}`)
    const name = path.slice(path.lastIndexOf("node_modules/") + "node_modules/".length)
    rule(!p.hasInstallScript || pkg.allowScripts[name] === false, `${path} has an install script that is not refused`)
  }
  return found
}

const pkg = JSON.parse(text("package.json")) as Package
const lock = JSON.parse(text("package-lock.json")) as Lockfile

describe("package.json and its lockfile", () => {
  it("keep the rules: install scripts refused (SC-01, G34), sha512 and the registry everywhere (SC-02)", () => {
    expect(Object.keys(lock.packages).length).toBeGreaterThan(100)
    expect(problems(pkg, lock)).toEqual([])
  })

  const sharp = "node_modules/sharp"
  it.each<[string, (p: Package, l: Lockfile) => void, string]>([
    ["a range", (p) => (p.devDependencies["vite"] = "^8.0.0"), "vite is not pinned: ^8.0.0"],
    ["a git dependency", (p) => (p.dependencies["yauzl"] = "github:a/b"), "yauzl is not pinned: github:a/b"],
    ["a peer that is needed", (p) => (p.peerDependencies["x"] = "1.0.0"), "the peer x is not optional"],
    ["another license", (p) => (p.license = "ISC"), "the license is ISC"],
    ["an install script", (p) => (p.scripts["postinstall"] = "node x.js"), "there is a script postinstall"],
    ["an allowed one", (p) => (p.allowScripts["protobufjs"] = true), "the install script of protobufjs is allowed"],
    [
      "one nobody refused",
      (_, l) => (l.packages[sharp]!.hasInstallScript = true),
      `${sharp} has an install script that is not refused`,
    ],
    [
      "an older hash",
      (_, l) => (l.packages[sharp]!.integrity = "sha1-2jmj7l5rSw0yVb/vlWAYkK/YBwk="),
      `${sharp} has no sha512`,
    ],
    ["no hash", (_, l) => delete l.packages[sharp]!.integrity, `${sharp} has no sha512`],
    [
      "a tarball",
      (_, l) => (l.packages[sharp]!.resolved = "https://example.com/x.tgz"),
      `${sharp} comes from https://example.com/x.tgz`,
    ],
    ["a link", (_, l) => (l.packages[sharp]!.link = true), `${sharp} comes from a link`],
    [
      "another version",
      (_, l) => (l.packages[sharp]!.version = "0.0.1"),
      "sharp is not locked at " + pkg.dependencies["sharp"],
    ],
    ["a stale lockfile", (_, l) => (l.packages[""]!.version = "9.9.9"), "the lockfile is for version 9.9.9"],
  ])("refuse %s", (_, break_, message) => {
    const [p, l] = [structuredClone(pkg), structuredClone(lock)]
    break_(p, l)
    expect(problems(p, l)).toContain(message)
  })

  it("install with us what the decision record gives a reason for, and nothing else (SC-04, G34)", () => {
    const record = text("docs/decisions/008-runtime-dependencies.md")
    const listed = [...record.matchAll(/^\| `([^`]+)` \| `([^`]+)` \| \S.*\|$/gm)].map(([, name, path]) => [
      name!,
      path!,
    ])
    expect(new Set(listed.map(([name]) => name))).toEqual(new Set(Object.keys(pkg.dependencies)))
    expect(listed).toHaveLength(Object.keys(pkg.dependencies).length)
    for (const [name, path] of listed) expect(text(path!), path).toContain(`"${name}"`)
  })

  it("install no more with us than the decision record allows, each by its hash and without a script", () => {
    const [, budget] = /^At most (\d+) packages /m.exec(text("docs/decisions/008-runtime-dependencies.md")) ?? []
    const tree = installed(lock)
    expect(tree.length).toBeLessThanOrEqual(Number(budget))
    // Room for what one of them may come to need, not for another of ours.
    expect(Number(budget) - tree.length).toBeLessThan(5)
    for (const path of tree) {
      const { integrity, hasInstallScript = false } = lock.packages[path]!
      const name = path.split("node_modules/").at(-1)!
      expect([path, integrity?.slice(0, 7), hasInstallScript && pkg.allowScripts[name] !== false]).toEqual([path, "sha512-", false]) // prettier-ignore
    }
    expect(tree.filter((path) => lock.packages[path]!.hasInstallScript)).toEqual(["node_modules/onnxruntime-node"])

    const more = structuredClone(lock)
    more.packages["node_modules/yauzl"]!.dependencies = { ...more.packages["node_modules/yauzl"]!.dependencies, vite: "8" } // prettier-ignore
    expect(installed(more).length).toBeGreaterThan(Number(budget))
    expect(installed(lock)).not.toContain("node_modules/vite")
  })

  it("leave packages alone that are younger than 7 days (SC-04)", () => {
    expect(text(".npmrc")).toMatch(/^min-release-age=7$/m)
  })

  it("have no high or critical advisory in what is installed with us, where a registry tells (SC-04)", async (context) => {
    const flags = [
      "--omit=dev",
      "--omit=peer",
      "--json",
      "--loglevel=silent",
      "--fetch-retries=0",
      "--fetch-timeout=20000",
    ]
    const shell = process.platform === "win32" // npm is a script there
    const audit = async (...more: string[]) => {
      const child = spawn("npm", ["audit", ...flags, ...more], { cwd: at("."), shell, stdio: ["ignore", "pipe", "inherit"] }) // prettier-ignore
      return JSON.parse(await read(child.stdout)) as {
        metadata?: { vulnerabilities: Record<string, number> }
        vulnerabilities?: Record<string, unknown>
        message?: string
      }
    }
    // One that has an advisory for yauzl and for vite, which is not installed with us.
    const bad = { id: 1, url: "https://example.com", title: "x", severity: "high", vulnerable_versions: "*" }
    const server = createServer((request, response) => {
      const known = request.url?.endsWith("/advisories/bulk")
      response.writeHead(known ? 200 : 404).end(JSON.stringify(known ? { yauzl: [bad], vite: [bad] } : {}))
    }).listen(0, "127.0.0.1")
    await once(server, "listening")
    const { port } = server.address() as AddressInfo
    const found = await audit(`--registry=http://127.0.0.1:${port}/`).finally(() => server.close())
    expect(Object.keys(found.vulnerabilities ?? {})).toEqual(["yauzl"])
    expect(found.metadata!.vulnerabilities).toMatchObject({ high: 1, critical: 0 })

    const { metadata, message } = await audit()
    if (!metadata) context.skip(`advisories are unchecked: ${message}`)
    expect(metadata!.vulnerabilities).toMatchObject({ high: 0, critical: 0 })
  })

  it("name the version that the code and the changelog have", () => {
    expect(version).toBe(pkg.version)
    expect(text("CHANGELOG.md")).toContain(`\n## ${pkg.version}\n`)
  })

  it("carry the license's text", () => expect(text("LICENSE")).toMatch(/^MIT License\n/))

  it("publish what there is", () => {
    for (const name of pkg.files.filter((f) => !/^!?dist\b/.test(f))) expect(existsSync(at(name)), name).toBe(true)
    const built = [
      ...Object.values(pkg.bin),
      ...Object.values(pkg.exports).flatMap((e) => (typeof e === "string" ? e : Object.values(e))),
    ]
    const fromDist = built.filter((path) => path.includes("dist/"))
    expect(fromDist).toHaveLength(5)
    for (const path of fromDist) {
      const source = path.replace(/^(\.\/)?dist\/(?:lib|src)\//, "src/").replace(/(\.d\.ts|\.js)$/, ".ts")
      expect(existsSync(at(source)), source).toBe(true)
    }
    expect(text("src/cli/main.ts")).toMatch(/^#!\/usr\/bin\/env node\n/)
  })

  it("depend on what the sources import, and on nothing else", () => {
    const imported = new Set(
      sources(["src", "converters"]).flatMap((s) =>
        s.imports.flatMap(({ from }) => (!from || /^(\.|node:)/.test(from) ? [] : [packageOf(from)])),
      ),
    )
    const needed = [
      ...Object.keys(pkg.dependencies).filter((name) => name !== "onnxruntime-node"),
      // Optional peers, of which onnxruntime-node-gpu is loaded by name too.
      ...Object.keys(pkg.peerDependencies).filter((name) => name !== "onnxruntime-node-gpu"),
    ]
    expect(imported).toEqual(new Set(needed)) // onnxruntime-node is loaded by name (test/layers.test.ts)
    expect(pkg.peerDependencies).toHaveProperty(["@huggingface/transformers"])
  })

  it("pack only what is meant for users", () => {
    const args = ["pack", "--dry-run", "--ignore-scripts", "--json", "--loglevel=silent"]
    const shell = process.platform === "win32" // npm is a script there
    const [packed] = JSON.parse(execFileSync("npm", args, { cwd: at("."), encoding: "utf8", shell })) as [
      { files: { path: string }[] },
    ]
    const paths = packed.files.map((f) => f.path)
    expect(paths).toContain("model-cards/mnist/model.safetensors")
    expect(
      paths.filter(
        (p) => !/^(dist\/(lib|src|converters)\/|model-cards\/|(README|CHANGELOG)\.md$|LICENSE$|package\.json$)/.test(p),
      ),
    ).toEqual([])
  })
})
