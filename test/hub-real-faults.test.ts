/** @file Faults that nobody plays: a cache that the system keeps this user from writing to, certificates that TLS itself refuses,
 * a name that the machine's own resolver does not know. */
import { spawnSync } from "node:child_process"
import { chmodSync, chownSync, lstatSync, readdirSync, readFileSync, readlinkSync, symlinkSync, writeFileSync } from "node:fs" // prettier-ignore
import { connect, type AddressInfo, type Socket } from "node:net"
import { tmpdir } from "node:os"
import { join } from "node:path"
import { createServer, type TLSSocket } from "node:tls"
import { afterAll, beforeAll, describe, expect, it } from "vitest"
import { downloadModel } from "../src/hub/download.ts"
import { float32 } from "../src/index.ts"
import { makeCertificate, type Certificate } from "./helpers/certificate.ts"
import { runTs, type User } from "./helpers/child.ts"
import { cli, MAIN, root as clone } from "./helpers/cli.ts"
import { fakeHub, repoOf, sha256, type FakeHub } from "./helpers/download-hub.ts"
import { startHub, type TestHub } from "./helpers/hub/index.ts"
import { repoIn, writePythonCache } from "./helpers/python-cache.ts"
import * as v from "./helpers/variants.ts"

const ID = "owner/model"
const WEIGHTS = "model.safetensors"
const FOLDER = v.caseFolder("hf-vit-grey-relu")
const files = new Map(["config.json", WEIGHTS].map((name) => [name, readFileSync(join(FOLDER, name))]))
const root = v.scratch()

/** Whom rights stop: whoever runs the tests, but nobody in place of root, whom they do not. */
const user: User = process.getuid?.() === 0 ? { uid: 65534, gid: 65534 } : {}
const LOOK = `for (const path of process.argv.slice(1)) require("fs").accessSync(path, 4)`
const NEEDED = [MAIN, ...["package.json", "node_modules", "node_modules/onnxruntime-node/package.json"].map((name) => join(clone, name)), tmpdir()] // prettier-ignore
const isRightful =
  process.platform !== "win32" && spawnSync(process.execPath, ["-e", LOOK, ...NEEDED], user).status === 0

describe.skipIf(!isRightful)("a cache that may not be written to (HD-27; skipped where a user with no rights cannot read the clone)", () => {
  const SHAPE = [2, 1, 28, 28]
  const PROGRAM = `
    import { createHash } from "node:crypto"
    import { readdirSync, readFileSync, writeFileSync } from "node:fs"
    import { join } from "node:path"
    import { loadPretrained } from "../src/hub/load-pretrained.ts"
    import { float32 } from "../src/tensor/tensor.ts"
    const [endpoint, root, shape, loads] = process.argv.slice(2)
    const folders = [root, ...readdirSync(root, { recursive: true, withFileTypes: true }).filter((e) => e.isDirectory()).map((e) => join(e.parentPath, e.name))]
    const written = folders.filter((folder) => {
      try {
        writeFileSync(join(folder, "x"), "")
        return true
      } catch (error) {
        return error.code !== "EACCES"
      }
    })
    const sizes = JSON.parse(shape)
    const pixel_values = float32(sizes, Array.from({ length: sizes.reduce((a, b) => a * b) }, (_, i) => Math.sin(i)))
    const rows = []
    for (const options of JSON.parse(loads)) {
      try {
        const model = await loadPretrained("owner/model", { endpoint, token: false, threads: 1, ...options })
        const { folder, commit } = model.source
        const outputs = Object.fromEntries(Object.entries(await model.run({ pixel_values })).map(([name, t]) => [name, Array.from(t.data)]))
        const hashes = ["config.json", "model.safetensors"].map((name) => createHash("sha256").update(readFileSync(join(folder, name))).digest("hex"))
        rows.push({ commit, outputs, hashes, warnings: model.warnings })
        await model.release()
      } catch ({ code, exitCode, message }) {
        rows.push({ code, exitCode, message })
      }
    }
    console.log(JSON.stringify({ written, rows }))`
  interface Row {
    readonly code?: string
    readonly exitCode?: number
    readonly message?: string
    readonly commit?: string
    readonly outputs?: object
    readonly hashes?: readonly string[]
    readonly warnings?: readonly string[]
  }

  let hub: TestHub
  beforeAll(async () => void (hub = await startHub({ root: v.folderAt(root, "hub") })))
  afterAll(() => hub.close())

  /** All below a folder and itself, links apart. */
  const below = (folder: string): string[] => {
    const entries = readdirSync(folder, { recursive: true, withFileTypes: true })
    return [folder, ...entries.filter((e) => !e.isSymbolicLink()).map((e) => join(e.parentPath, e.name))]
  }
  const allow = (folder: string, write: boolean): void => {
    for (const path of below(folder)) chmodSync(path, (lstatSync(path).isDirectory() ? 0o555 : 0o444) | (write ? 0o200 : 0)) // prettier-ignore
  }
  const stateOf = (folder: string): Map<string, string> =>
    new Map(
      ["", ...readdirSync(folder, { recursive: true, encoding: "utf8" })].map((name) => {
        const path = join(folder, name)
        const s = lstatSync(path, { bigint: true })
        const holds = s.isSymbolicLink() ? readlinkSync(path) : s.isFile() ? sha256(readFileSync(path)) : "folder"
        return [name, `${s.mode} ${s.ino} ${s.mtimeNs} ${s.ctimeNs} ${holds}`]
      }),
    )

  it("works for what is in it, to the bit; what is not is E_CACHE_READONLY; nothing is written there or elsewhere", async () => {
    const sandbox = v.folderAt(root, "sandbox")
    const caches = v.folderAt(sandbox, "caches")
    const at = (name: string) => v.folderAt(caches, name)
    const get = (cacheDir: string, revision?: string) => downloadModel(ID, { endpoint: hub.url, token: false, cacheDir, revision }) // prettier-ignore
    hub.addRepo(ID, { "config.json": "{}", [WEIGHTS]: files.get(WEIGHTS)! })
    await get(at("moved"))
    const commit = hub.addRepo(ID, Object.fromEntries(files))
    const { id, tree } = commit
    await get(at("ours"))
    await get(at("no ref"), id)
    const left = at("left")
    await get(left)
    symlinkSync("x", join(repoIn(left, ID), "snapshots", id, ".config.json.tmp-999999999-x"))
    writeFileSync(join(repoIn(left, ID), "blobs", `.${tree[WEIGHTS]!.lfs!.oid}.tmp-999999999-x`), "part")
    writePythonCache(at("python"), ID, commit, files, ["main"])
    writePythonCache(at("copies"), ID, commit, files, ["main"], "copies")
    writePythonCache(at("config"), ID, commit, new Map([...files].slice(0, 1)), ["main"])
    at("empty")
    // What he may write to is where nothing is to be written either.
    const own = ["home", "temporary"].map((name) => v.folderAt(sandbox, name))
    if (user.uid !== undefined) for (const folder of own) chownSync(folder, user.uid, user.gid!)
    for (const path of [root, sandbox]) chmodSync(path, 0o755)
    const env = { HOME: own[0]!, TMPDIR: own[1]!, HF_HOME: "", HF_TOKEN: "", XDG_CACHE_HOME: "" }

    type Load = readonly [cache: string, options: { readonly revision?: string; readonly offline?: boolean }]
    const THERE: readonly Load[] = [
      ["ours", {}],
      ["ours", { revision: id }],
      ["ours", { offline: true }],
      ["no ref", {}],
      ["left", {}],
      ["python", {}],
      ["python", { offline: true }],
      ["copies", {}],
    ]
    const ABSENT: readonly Load[] = [
      ["empty", {}],
      ["empty", { revision: id }],
      ["not/there", {}],
      ["config", {}],
      ["moved", {}],
    ]
    const OFFLINE: readonly Load[] = [
      ["empty", { offline: true }],
      ["config", { offline: true }],
    ]
    const loads = [...THERE, ...ABSENT, ...OFFLINE].map(([name, o]) => ({ cacheDir: join(caches, name), ...o }))
    allow(caches, false)
    try {
      hub.reset()
      const state = stateOf(sandbox)
      expect(state.size).toBeGreaterThan(80)
      const args = [hub.url, caches, JSON.stringify(SHAPE), JSON.stringify(loads)]
      const ran = await runTs(PROGRAM, { args, env, user, timeout: 60_000 })
      expect([ran.code, ran.stderr]).toEqual([0, ""])
      const { written, rows } = JSON.parse(ran.stdout) as { written: string[]; rows: Row[] }
      expect(written).toEqual([])
      expect(rows).toHaveLength(loads.length)

      const pixels = Array.from({ length: SHAPE.reduce((a, b) => a * b) }, (_, i) => Math.sin(i))
      const outputs = await v.outputsOf(FOLDER, { pixel_values: float32(SHAPE, pixels) })
      const hashes = [...files.values()].map((bytes) => sha256(bytes))
      for (const [i, [name, { offline }]] of THERE.entries()) {
        // Of what Python has fetched it is not known whether there is more.
        const asks = !offline && ["python", "copies"].includes(name)
        const warnings = asks ? [expect.stringMatching(/it is not known whether it has more files: .*\(EACCES\)$/)] : []
        expect(rows[i], `${name} ${offline}`).toMatchObject({ commit: id, outputs, hashes })
        expect(rows[i]!.warnings!.filter((text) => !text.startsWith("images cannot")), name).toEqual(warnings)
      }
      for (const [i, [name]] of ABSENT.entries()) {
        const { code, exitCode, message } = rows[THERE.length + i]!
        expect([code, exitCode], `${name}: ${message}`).toEqual(["E_CACHE_READONLY", 5])
        expect(message).toMatch(/^\S.*: the Hub cache takes no new files; set HF_HOME, or --cache-dir, to a folder that can be written to: .*\(EACCES\)$/) // prettier-ignore
        expect(message!.startsWith(join(caches, name))).toBe(true)
      }
      for (const { code, exitCode } of rows.slice(-OFFLINE.length)) expect([code, exitCode]).toEqual(["E_OFFLINE", 4])

      const command = (cache: string, ...words: string[]) =>
        cli([...words, "--cache-dir", join(caches, cache)], { cwd: sandbox, env: { ...env, HF_ENDPOINT: hub.url }, user })
      const refused = await command("empty", "info", ID)
      expect([refused.code, refused.stdout, refused.stderr]).toEqual([5, "", expect.stringMatching(/^[^\n]*takes no new files[^\n]*E_CACHE_READONLY[^\n]*\n$/)]) // prettier-ignore
      for (const words of [["info", ID], ["info", ID, "--offline"], ["cache", "verify"], ["cache", "ls"]]) {
        expect(await command("ours", ...words)).toMatchObject({ code: 0, stderr: "" })
      }
      // No file was asked for that there is no place for.
      expect(hub.requests.filter((r) => r.host === "cdn" || r.path.includes("/resolve/"))).toEqual([])
      expect(stateOf(sandbox)).toEqual(state)
    } finally {
      allow(caches, true)
    }
  })
}) // prettier-ignore

/** What a download by HF_ENDPOINT comes to, on a clock that does not wait; and what the machine's resolver said to it. */
interface Tried {
  readonly code?: string
  readonly retryable?: boolean
  readonly exitCode?: number
  readonly message?: string
  readonly waits: readonly string[]
  readonly slept: readonly number[]
  readonly lookups: readonly (readonly [host: string, said: string])[]
}
const LOOKUPS = `
  import dns from "node:dns"
  import { syncBuiltinESMExports } from "node:module"
  const { lookup } = dns
  globalThis.lookups = []
  dns.lookup = (host, options, done) => lookup(host, options, (error, ...rest) => {
    lookups.push([host, error?.code ?? "found"])
    done(error, ...rest)
  })
  syncBuiltinESMExports()`
const TRIES = `
  import { downloadModel } from "../src/hub/download.ts"
  import { hubHttp } from "../src/hub/http.ts"
  import { hubSettings } from "../src/hub/settings.ts"
  import { fakeClock } from "./helpers/fake-clock.ts"
  const [cacheDir, ...endpoints] = process.argv.slice(2)
  const rows = []
  for (const endpoint of endpoints) {
    process.env["HF_ENDPOINT"] = endpoint
    const clock = fakeClock()
    const waits = []
    lookups.length = 0
    const http = hubHttp({ ...(await hubSettings()), clock, onWait: (text) => waits.push(text) })
    const got = await downloadModel("owner/model", { cacheDir: cacheDir + rows.length, http }).then(() => ({}), (e) => e)
    const { code, retryable, exitCode, message } = got
    rows.push({ code, retryable, exitCode, message, waits, slept: clock.slept, lookups: [...lookups] })
  }
  console.log(JSON.stringify(rows))`

async function tried(endpoints: readonly string[], env: Record<string, string>): Promise<Tried[]> {
  const args = [join(root, `cache ${tries++} `), ...endpoints]
  const ran = await runTs(TRIES, { args, preload: LOOKUPS, env, timeout: 100_000 })
  expect([ran.code, ran.stderr]).toEqual([0, ""])
  return JSON.parse(ran.stdout) as Tried[]
}
let tries = 0

describe("certificates (HD-32)", () => {
  const hosts = ["localhost"]
  const authority = makeCertificate("Authority of these tests")
  const stranger = makeCertificate("Authority of nobody")
  const CASES: readonly (readonly [what: string, certificate: Certificate, code: string, says: RegExp])[] = [
    ["its own", makeCertificate("Hub", { hosts }), "DEPTH_ZERO_SELF_SIGNED_CERT", /self-signed certificate/],
    ["a stranger's", makeCertificate("Hub", { hosts, issuer: stranger }), "UNABLE_TO_VERIFY_LEAF_SIGNATURE", /verify the first certificate/],
    ["a stranger's, with his own", chain(makeCertificate("Hub", { hosts, issuer: stranger }), stranger), "SELF_SIGNED_CERT_IN_CHAIN", /self-signed certificate in certificate chain/],
    ["an old one", makeCertificate("Hub", { hosts, issuer: authority, days: [-9, -1] }), "CERT_HAS_EXPIRED", /certificate has expired/],
    ["one of tomorrow", makeCertificate("Hub", { hosts, issuer: authority, days: [1, 9] }), "CERT_NOT_YET_VALID", /certificate is not yet valid/],
    ["another host's", makeCertificate("Hub", { hosts: ["hub.example"], issuer: authority }), "ERR_TLS_CERT_ALTNAME_INVALID", /certificate's altnames: Host: localhost\. .*hub\.example/],
    ["a client's", makeCertificate("Hub", { hosts, issuer: authority, use: "client" }), "INVALID_PURPOSE", /certificate purpose/],
    ["one that nobody understands", makeCertificate("Hub", { hosts, issuer: authority, isStrange: true }), "UNSPECIFIED", /unhandled critical extension/],
  ] // prettier-ignore
  const GOOD = makeCertificate("Hub", { hosts, issuer: authority })

  let hub: FakeHub
  beforeAll(async () => {
    hub = await fakeHub({ large: false })
    hub.repos.set(ID, repoOf(FOLDER))
  })
  afterAll(() => hub.close())

  const fronts: Front[] = []
  afterAll(() => Promise.all(fronts.map((front) => front.close())))
  const front = async (certificate: Certificate): Promise<Front> => {
    const made = await frontOf(certificate, Number(new URL(hub.url).port))
    fronts.push(made)
    return made
  }
  const trust = { NODE_EXTRA_CA_CERTS: join(root, "authority.pem"), HF_TOKEN: "hf_secret" }
  beforeAll(() => writeFileSync(trust.NODE_EXTRA_CA_CERTS, authority.cert))

  it("that TLS refuses end it at once: one connection, E_NETWORK that is not retryable and names the trouble; a good one serves", async () => {
    const [good, ...bad] = await Promise.all([GOOD, ...CASES.map(([, certificate]) => certificate)].map(front))
    const rows = await tried([...bad, good!].map(({ url }) => url), trust) // prettier-ignore
    const served = rows.pop()!
    expect([served.message, served.waits, good!.connections()]).toEqual([undefined, [], expect.any(Number)])
    // Of the revision, the list and the two files: of the refused nobody said a word to the Hub.
    expect(hub.asked.map((a) => a.headers.host)).toEqual(Array.from({ length: 4 }, () => new URL(good!.url).host))
    expect(hub.asked.map((a) => a.headers.authorization)).toEqual(Array.from({ length: 4 }, () => "Bearer hf_secret"))
    for (const [i, [what, , code, says]] of CASES.entries()) {
      const { message, waits, slept, ...row } = rows[i]!
      expect({ ...row, waits, slept }, `${what}: ${message}`).toMatchObject({ code: "E_NETWORK", exitCode: 4, retryable: false, waits: [], slept: [] }) // prettier-ignore
      const { host } = new URL(bad[i]!.url)
      const [before, after] = [`no secure connection to ${host}: "`, `; check the clock, the proxy and the certificates (${code})`]
      expect(message).toContain(`https://${host}/api/models/owner/model/revision/main: ${before}`)
      expect(message).toContain(after)
      expect(message!.split(before)[1]!.split(after)[0]).toMatch(says)
      expect(message).not.toMatch(/\n|hf_secret/)
      expect([bad[i]!.connections(), row.lookups.map(([name]) => name)], what).toEqual([1, ["localhost"]])
    }
  }) // prettier-ignore

  it("end the command line with 4, in one line, after one connection", async () => {
    const server = await front(CASES[0]![1])
    const ran = await cli(["info", ID, "--cache-dir", join(root, "cache of cli")], { env: { HF_ENDPOINT: server.url, HF_TOKEN: "" } }) // prettier-ignore
    expect([ran.code, ran.stdout, ran.stderr]).toEqual([4, "", expect.stringMatching(/^[^\n]*self-signed certificate[^\n]*E_NETWORK[^\n]*\n$/)]) // prettier-ignore
    expect(server.connections()).toBe(1)
  })
})

function chain(certificate: Certificate, issuer: Certificate): Certificate {
  return { ...certificate, cert: certificate.cert + issuer.cert }
}

interface Front {
  readonly url: string
  /** How many came. */
  connections(): number
  close(): Promise<void>
}

/** A TLS server on the loopback that hands what it is told to a plain one. */
async function frontOf({ cert, key }: Certificate, port: number): Promise<Front> {
  let connections = 0
  const open = new Set<Socket>()
  const server = createServer({ cert, key }, (client: TLSSocket) => {
    const there = connect(port, "127.0.0.1")
    for (const socket of [client, there]) {
      open.add(socket)
      socket.on("error", () => {}) // "close" follows
      socket.on("close", () => open.delete(socket))
    }
    client.pipe(there).pipe(client)
  })
  server.on("connection", () => connections++).on("tlsClientError", () => {})
  await new Promise<void>((done) => server.listen(0, "127.0.0.1", done))
  return {
    url: `https://localhost:${(server.address() as AddressInfo).port}`,
    connections: () => connections,
    async close() {
      open.forEach((socket) => socket.destroy())
      await new Promise((done) => server.close(done))
    },
  }
}

describe("a name", () => {
  const HOST = "no-such-host.invalid"

  it("that the machine's resolver does not know is asked for again, then E_NETWORK that names it (HD-32)", async (context) => {
    // Of resolvers that do not answer, one second is waited for (resolv.conf(5)).
    const [row] = await tried([`https://${HOST}`], { RES_OPTIONS: "timeout:1 attempts:1" })
    const { code, exitCode, retryable, message, waits, slept, lookups } = row!
    const said = lookups.map(([, answer]) => answer)
    context.skip(said.includes("found"), `the resolver of this machine has an address for ${HOST}`)
    expect([code, exitCode, retryable]).toEqual(["E_NETWORK", 4, true])
    expect(message).toMatch(/^[^\n]*the name no-such-host\.invalid is not known here; check the network and HF_ENDPOINT \((ENOTFOUND|EAI_\w+)\)$/) // prettier-ignore
    // A name that there is not has three tries, a resolver that is out of order six.
    const isKnown = said.every((answer) => /^(ENOTFOUND|EAI_\w+)$/.test(answer))
    expect([isKnown, lookups.every(([host]) => host === HOST)], said.join()).toEqual([true, true])
    const most = said.every((answer) => answer === "ENOTFOUND") ? 3 : 6
    expect([said.length >= 3, said.length <= most, said.at(-1) === "ENOTFOUND" || said.length === 6]).toEqual([true, true, true]) // prettier-ignore
    expect(slept).toEqual([1000, 2000, 4000, 8000, 8000].slice(0, said.length - 1))
    expect(waits).toHaveLength(said.length - 1)
    for (const text of waits) expect(text).toMatch(/^https:\/\/no-such-host\.invalid\/\S+: E_NETWORK; trying again in \d s/)
  }) // prettier-ignore
})
