/** @file The package as it is published: what the tarball holds, and that a project that installed it runs and compiles. */
import { execFile } from "node:child_process"
import {
  existsSync,
  mkdirSync,
  mkdtempSync,
  readdirSync,
  readFileSync,
  rmSync,
  symlinkSync,
  writeFileSync,
} from "node:fs"
import { tmpdir } from "node:os"
import { dirname, join } from "node:path"
import { pathToFileURL } from "node:url"
import { promisify } from "node:util"
import { publint } from "publint"
import { afterAll, beforeAll, describe, expect, it } from "vitest"
import { root } from "./helpers/cli.ts"

const run = promisify(execFile)
const scratch = mkdtempSync(join(tmpdir(), "vit-prisma-pack-"))
afterAll(() => rmSync(scratch, { recursive: true }))

const modules = join(scratch, "node_modules")
const installed = join(modules, "vit-prisma")

interface Package {
  name: string
  version: string
  bin: Record<string, string>
  dependencies: Record<string, string>
}
const own = JSON.parse(readFileSync(join(root, "package.json"), "utf8")) as Package

let tarball: string
let files: readonly string[]

beforeAll(async () => {
  const npm = process.platform === "win32" ? "npm.cmd" : "npm"
  const { stdout } = await run(npm, ["pack", "--ignore-scripts", "--json", "--pack-destination", scratch], {
    cwd: root,
  })
  const [packed] = JSON.parse(stdout) as [{ filename: string; files: { path: string }[] }]
  tarball = join(scratch, packed.filename)
  files = packed.files.map(({ path }) => path).sort()
  // As npm installs it, but for the dependencies, which are this checkout's: those that are declared, no others.
  mkdirSync(installed, { recursive: true })
  await run("tar", ["-xzf", tarball, "-C", installed, "--strip-components=1"])
  for (const name of Object.keys(own.dependencies)) {
    mkdirSync(dirname(join(modules, name)), { recursive: true })
    symlinkSync(join(root, "node_modules", name), join(modules, name))
  }
  mkdirSync(join(modules, ".bin"))
  for (const [name, path] of Object.entries(own.bin))
    symlinkSync(join("..", "vit-prisma", path), join(modules, ".bin", name))
  writeFileSync(join(scratch, "package.json"), JSON.stringify({ type: "module" }))
})

describe("the tarball", () => {
  it("holds the build, the demo's model, and what a reader looks for; no sources, tests or leftovers", () => {
    const kinds = [
      /^(LICENSE|README\.md|CHANGELOG\.md|package\.json)$/,
      /^dist\/lib\/.+\.js$/,
      /^dist\/(src|converters)\/.+\.d\.ts$/,
      /^model-cards\/[a-z0-9-]+\/(README\.md|[a-z_]+\.json|curves\.svg|model\.safetensors)$/,
      /^model-cards\/mnist\/seven\.png$/,
      /^model-cards\/template\.md$/,
    ]
    expect(files.filter((file) => !kinds.some((kind) => kind.test(file)))).toEqual([])
    for (const file of [
      "LICENSE",
      "README.md",
      "package.json",
      "model-cards/mnist/model.safetensors",
      "model-cards/mnist/seven.png",
    ])
      expect(files).toContain(file)
    expect(files.filter((file) => /test|fixture|\.tsbuildinfo|\.env|\.npmrc/i.test(file))).toEqual([])
  })

  it("declares every module of the sources and none that is gone", () => {
    const sources = ["src", "converters"].flatMap((folder) =>
      readdirSync(join(root, folder), { recursive: true, encoding: "utf8" })
        .filter((name) => name.endsWith(".ts"))
        .map((name) => join("dist", folder, name).replaceAll("\\", "/").replace(/\.ts$/, ".d.ts")),
    )
    // The page's script is read as text: it has no declarations.
    const declared = sources.filter((file) => !file.startsWith("dist/src/viewer/page/"))
    expect(files.filter((file) => file.endsWith(".d.ts"))).toEqual(declared.sort())
  })

  it("holds each module once: what two files hold would be two of each class and of each cache", () => {
    const held = files
      .filter((file) => file.startsWith("dist/lib/"))
      .flatMap((file) => readFileSync(join(installed, file), "utf8").match(/^\/\/ dist\/.+\.js$/gm) ?? [])
    expect(held.length).toBeGreaterThan(200)
    expect(held.filter((name, i) => held.indexOf(name) !== i)).toEqual([])
  })

  it("exports from its few files what the sources export", async () => {
    for (const entry of ["index", "core"]) {
      const [shipped, source] = (await Promise.all([
        import(pathToFileURL(join(installed, `dist/lib/${entry}.js`)).href),
        import(`../src/${entry}.ts`),
      ])) as [object, object]
      expect(Object.keys(shipped).sort(), entry).toEqual(Object.keys(source).sort())
    }
  })

  it("has a core that reaches no package and nothing of Node", () => {
    const reached = new Set([join(installed, "dist/lib/core.js")])
    const outside: string[] = []
    for (const file of reached) {
      const text = readFileSync(file, "utf8")
      for (const [, from] of text.matchAll(/(?:\bfrom|^import|\bimport\() ?"([^"]+)"/gm)) {
        if (from!.startsWith(".")) reached.add(join(dirname(file), from!))
        else outside.push(from!)
      }
    }
    expect(reached.size).toBeGreaterThan(3)
    expect(outside).toEqual([])
  })

  it("speaks of no path of a machine", () => {
    const names = /\/(root|home|work|Users)\/|\/tmp\//
    for (const file of files.filter((name) => /\.(js|ts|json|md)$/.test(name))) {
      expect(readFileSync(join(installed, file), "utf8").match(names)?.[0], file).toBeUndefined()
    }
  })

  it("is what publint and attw ask for", async () => {
    const bytes = readFileSync(tarball)
    const pack = { tarball: new Uint8Array(bytes).buffer }
    expect((await publint({ pack, strict: true })).messages).toEqual([])
    const attw = join(root, "node_modules/@arethetypeswrong/cli/dist/index.js")
    const { stdout } = await run(process.execPath, [attw, tarball, "--profile", "esm-only", "--format", "json"])
    // It ends with an error where there is a problem; what the profile leaves out is CommonJS alone.
    const { problems = {} } = JSON.parse(stdout) as { problems?: Record<string, unknown> }
    expect(Object.keys(problems).filter((kind) => !["NoResolution", "CJSResolvesToESM"].includes(kind))).toEqual([])
  })
})

describe("a project that installed it", () => {
  it("runs a model, and reaches nothing but what is exported", async () => {
    const program = `
      import { loadPretrained, actName, PrismaError } from "vit-prisma"
      import { float32, HookedViT } from "vit-prisma/core"
      import { createRequire } from "node:module"
      const require = createRequire(import.meta.url)
      const folder = "node_modules/vit-prisma/model-cards/mnist"
      const model = await loadPretrained(folder)
      const images = await model.images(folder + "/seven.png")
      const { logits, cache } = await model.runWithCache(images, { names: "*.hook_pattern" })
      const deep = await import("vit-prisma/dist/src/index.js").catch((e) => e.code)
      const refused = await loadPretrained("./nowhere").catch((e) => [e instanceof PrismaError, e.code])
      console.log(JSON.stringify([
        logits.data.indexOf(Math.max(...logits.data)), cache.pattern(0).shape, model instanceof HookedViT,
        float32([1], [2]).data[0], typeof actName, deep, refused, require("vit-prisma/package.json").version,
      ]))`
    writeFileSync(join(scratch, "program.js"), program)
    const { stdout, stderr } = await run(process.execPath, ["program.js"], { cwd: scratch })
    expect(stderr).toBe("")
    const deep = "ERR_PACKAGE_PATH_NOT_EXPORTED"
    expect(JSON.parse(stdout)).toEqual([7, [1, 4, 17, 17], true, 2, "function", deep, [true, "E_INPUT"], own.version])
  })

  it("loads of the packages what computes, and no other before it is needed", async () => {
    const loaded = async (rest: string) => {
      const coverage = mkdtempSync(join(scratch, "coverage-"))
      const program = `
        import { defineConfig, loadPretrained, MNISTConfig, float32 } from "vit-prisma"
        const model = await loadPretrained("node_modules/vit-prisma/model-cards/mnist")
        await model.run(float32([1, 1, 28, 28], new Float32Array(784)))
        ${rest}`
      writeFileSync(join(scratch, "loads.js"), program)
      await run(process.execPath, ["loads.js"], { cwd: scratch, env: { ...process.env, NODE_V8_COVERAGE: coverage } })
      const urls = readdirSync(coverage).flatMap((file) => {
        const { result } = JSON.parse(readFileSync(join(coverage, file), "utf8")) as { result: { url: string }[] }
        return result.flatMap(({ url }) => /.*\/node_modules\/((?:@[^/]+\/)?[^/]+)\//.exec(url)?.[1] ?? [])
      })
      return [...new Set(urls.filter((name) => name !== "vit-prisma"))].sort()
    }
    expect(await loaded("")).toEqual(["onnxruntime-common", "onnxruntime-node"])
    expect(await loaded("defineConfig(MNISTConfig, { training: { lr: 1 } })")).toContain("zod")
  })

  it("has the command, which runs the demo and converts", async () => {
    const bin = join(modules, ".bin/vit-prisma")
    expect(readFileSync(bin, "utf8")).toMatch(/^#!\/usr\/bin\/env node\n/)
    const demo = await run(process.execPath, [bin, "demo"], { cwd: scratch })
    expect(demo.stdout).toMatch(/It says\n {2}7 +99\.99 %/)
    await run(process.execPath, [bin, "convert", "node_modules/vit-prisma/model-cards/mnist", "--out", "out"], {
      cwd: scratch,
    })
    expect(existsSync(join(scratch, "out/onnx/model.onnx"))).toBe(true)
  })

  // What reads files needs Node's own types; what runs anywhere those of a browser are enough for.
  const node = `
import { BaseViT, defineConfig, induction, MNISTConfig, trainRun, type GlobalConfig, type RunResult } from "vit-prisma"
import { convertModel, loadPretrained, ops, type HookFunction, type LoadedViT, type Tensor } from "vit-prisma"
import { float32, type ModelInput, type Value } from "vit-prisma/core"
const model: LoadedViT = await loadPretrained("folder", { threads: 1 })
const input: ModelInput = float32([1, 1, 28, 28], new Float32Array(784))
const half: HookFunction = (t: Tensor) => t
const { logits, cache } = await model.runWithCache(input, { hooks: { hook_embed: half }, edit: { "*.hook_z": (v: Value) => ops.neg(v) } })
export const shapes: readonly number[][] = [[...logits.shape], [...cache.pattern(0).shape]]
export const folder: string = (await convertModel(model, "out", { hooks: "*", certify: true })).folder
const config: GlobalConfig = defineConfig(MNISTConfig, { training: { lr: 1e-3, loss_fn_name: "MSE" } })
const { runtime } = new BaseViT(config)
export const result: RunResult = await trainRun(config, induction(), { out: "run", runtime })
// @ts-expect-error a misspelt option is found
await loadPretrained("folder", { thread: 1 })
// @ts-expect-error and a misspelt field
defineConfig(MNISTConfig, { training: { rate: 1e-3 } })
// @ts-expect-error a tensor is no number
export const wrong: number = logits
`
  const anywhere = `
import { float32, grad, ops, type Gradients, type HookedViT, type Value } from "vit-prisma/core"
const x: Value = ops.input("x", [2])
export const [dx]: Value[] = grad(ops.sum(ops.mul(x, x), [0]), [x])
export const at = async (model: HookedViT): Promise<Gradients> =>
  model.gradients(float32([1, 1, 28, 28], new Float32Array(784)), "logits[:, 1]", { at: "blocks.*.hook_z" })
// @ts-expect-error a value is no tensor
export const wrong: Float32Array = dx.data
`
  const nodes = [join(root, "node_modules/@types/node")]
  it.each([
    ["nodenext", "nodenext", "Node's", node, nodes, []],
    ["bundler", "esnext", "Node's", node, nodes, []],
    ["bundler", "esnext", "a browser's", anywhere, [], ["dom"]],
  ])(
    "compiles with moduleResolution %s, module %s and %s types",
    async (moduleResolution, module, _, program, types, libs) => {
      const project = mkdtempSync(join(scratch, "project-"))
      writeFileSync(join(project, "package.json"), '{"type":"module"}')
      writeFileSync(join(project, "consumer.ts"), program)
      const options = {
        target: "es2022",
        lib: ["es2022", ...libs],
        module,
        moduleResolution,
        types,
        strict: true,
        noEmit: true,
        skipLibCheck: false,
      }
      writeFileSync(
        join(project, "tsconfig.json"),
        JSON.stringify({ compilerOptions: options, files: ["consumer.ts"] }),
      )
      const tsc = join(root, "node_modules/typescript/bin/tsc")
      const said = await run(process.execPath, [tsc, "-p", project]).catch((error: { stdout: string }) => error)
      expect(said.stdout).toBe("")
    },
  )
})
