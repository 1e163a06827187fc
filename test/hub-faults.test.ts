/** @file Downloads from the loopback Hub in bad weather and onto bad disks: what docs/hub.md promises of each. */
import { copyFileSync, existsSync, readdirSync, readFileSync, statSync, truncateSync, writeFileSync } from "node:fs"
import { createServer } from "node:net"
import type { AddressInfo } from "node:net"
import { join } from "node:path"
import { afterAll, afterEach, beforeAll, describe, expect, it } from "vitest"
import { downloadModel, type DownloadOptions, type Snapshot } from "../src/hub/download.ts"
import { hubHttp } from "../src/hub/http.ts"
import { runTs } from "./helpers/child.ts"
import { fakeClock } from "./helpers/fake-clock.ts"
import { FAULTS } from "./helpers/faults.ts"
import { startHub, type Effect, type TestHub } from "./helpers/hub/index.ts"
import { layoutProblems, repoIn, writePythonCache } from "./helpers/python-cache.ts"
import { thrown } from "./helpers/thrown.ts"
import * as v from "./helpers/variants.ts"

const ID = "owner/model"
const WEIGHTS = "model.safetensors"
const FOLDER = v.caseFolder("hf-vit-sharded")
const root = v.scratch()
let count = 0
const fresh = (): string => v.folderAt(root, `cache ${count++}`)
const read = (name: string): Buffer => readFileSync(join(v.caseFolder("hf-vit-grey-relu"), name))

let hub: TestHub
beforeAll(async () => void (hub = await startHub({ root: fresh() })))
afterAll(() => hub.close())
afterEach(() => {
  hub.reset()
  for (const id of hub.store.ids()) hub.store.removeRepo(id)
})
const serve = (weights: Uint8Array = read(WEIGHTS)) =>
  hub.addRepo(ID, { "config.json": read("config.json"), [WEIGHTS]: weights })
const noise = (n: number): Buffer => Buffer.from(Uint32Array.from({ length: n / 4 }, (_, i) => Math.imul(i, 2654435761)).buffer) // prettier-ignore

/** Download on a clock that runs only when something waits, or is told to. */
function get(cacheDir: string, options: DownloadOptions = {}) {
  const clock = fakeClock()
  const waits: string[] = []
  const http = hubHttp({ endpoint: hub.url, clock, onWait: (text) => waits.push(text) })
  const work = downloadModel(ID, { endpoint: hub.url, token: false, cacheDir, http, ...options })
  return Object.assign(work, { clock, waits })
}
/** The same, while each request that the fault is for makes `ms` pass, and more where that was not enough: a busy machine costs no time. */
async function timed(
  work: ReturnType<typeof get>,
  on: RegExp,
  ms: number,
  times = Infinity,
): Promise<string | undefined> {
  let [seen, looks, spent] = [0, 0, 0]
  const ticking = setInterval(() => {
    const n = asked(on).length
    if (n !== seen) [seen, looks, spent] = [n, 0, 0]
    if (n === 0 || n > times || ++looks < 8 || (spent >= ms && looks % 64)) return
    spent += 5000
    work.clock.pass(5000)
  }, 4)
  return work.then(() => undefined, (e: { code: string }) => e.code).finally(() => clearInterval(ticking)) // prettier-ignore
}
const asked = (on: RegExp) => hub.requests.filter((r) => on.test(`${r.host === "cdn" ? "cdn " : ""}${r.method} ${r.path}`)) // prettier-ignore
const fine = (cache: string) => expect(layoutProblems(repoIn(cache, ID))).toEqual([])
const leftIn = (cache: string) =>
  readdirSync(cache, { recursive: true, encoding: "utf8" }).filter((n) => /\.tmp-|\.pid$/.test(n))

const REVISION = /^GET \/api\/models\/owner\/model\/revision/
const TREE = /^GET .*\/tree\//
const CONFIG = /^GET .*\/config\.json$/
const STORE = /^cdn GET/

describe("an answer that can be had again is asked for again", () => {
  it("after the time that a 429 says (HD-04)", async () => {
    serve()
    hub.fault({ on: REVISION, do: { status: 429, headers: { "retry-after": "2" } } })
    hub.fault({ on: TREE, do: { status: 429, headers: { ratelimit: '"api";r=0;t=2' } } })
    const work = get(fresh())
    await work
    expect(work.clock.slept).toHaveLength(2)
    for (const ms of work.clock.slept) expect([ms >= 2000, ms <= 4000]).toEqual([true, true])
    expect(work.waits.join()).toMatch(/revision\/main: HTTP 429; trying again in 2 s \(2 of 6\)/)
  })

  const BROKEN: readonly (readonly [string, Effect])[] = [
    ["reset", { reset: true }],
    ["cut in its body", { cut: 20 }],
    ["cut where no length was told", { cut: 20, clean: true }],
    ["without a head", { stall: "head" }],
    ["without the rest of its body", { stall: 20 }],
  ]
  const WHERE: readonly (readonly [string, RegExp])[] = [
    ["the commit", REVISION],
    ["the list of files", TREE],
    ["a small file", CONFIG],
    ["a large file", STORE],
  ]
  it.each(WHERE.flatMap(([where, on]) => BROKEN.map(([how, effect]) => [where, how, on, effect] as const)))(
    "%s, %s, up to four times (G7)",
    async (_, how, on, effect) => {
      serve()
      // An end that nothing tells of counts as one where some of the file came.
      const fault = "cut" in effect && on === STORE ? { ...effect, cut: 5000 } : effect
      // A list that ends early and cleanly is no JSON, which is not worth a second look.
      const isHopeless = how.endsWith("told") && (on === REVISION || on === TREE)
      // Two that stand still in the body of a file are all that fit into two minutes.
      const isFile = on === CONFIG || on === STORE
      const times = effect === BROKEN[4]![1] && isFile ? 2 : 4
      hub.fault({ on, times, do: fault })
      const cache = fresh()
      const code = await timed(get(cache), on, isFile && effect !== BROKEN[3]![1] ? 30_000 : 20_000, times)
      expect(code).toBe(isHopeless ? "E_HUB_PROTOCOL" : undefined)
      if (!isHopeless) fine(cache)
    },
  )

  it.each(WHERE)("%s, which never comes, is given up after five tries at most (HD-13)", async (_, on) => {
    for (const effect of [{ stall: "head" }, { stall: 5 }] as const) {
      serve()
      hub.fault({ on, times: Infinity, do: effect })
      const ms = effect.stall !== "head" && (on === CONFIG || on === STORE) ? 30_000 : 20_000
      expect(await timed(get(fresh()), on, ms)).toBe("E_HUB_TIMEOUT")
      expect(asked(on).length).toBeLessThanOrEqual(5)
      hub.reset()
    }
  })

  it("as a byte every five seconds it is no answer (HD-13): E_HUB_TIMEOUT", async () => {
    serve(noise(4000))
    hub.fault({ on: STORE, times: Infinity, do: { slow: [1, 15] } })
    expect(await timed(get(fresh()), STORE, 30_000)).toBe("E_HUB_TIMEOUT")
  })

  it("a list that is compressed although nobody asked is read", async () => {
    serve()
    hub.fault({ on: /api/, times: 2, do: { gzip: true } })
    await get(fresh())
  })
})

describe("an answer that is none", () => {
  it.each<[string, RegExp, Effect]>([
    ["a page for the commit", REVISION, { html: true }],
    ["a page for the list", TREE, { html: true }],
    ["a page for a file", CONFIG, { html: true }],
    ["a page for weights", STORE, { html: true }],
    ["a list without end", TREE, { endless: true }],
    ["a commit without end", REVISION, { endless: true }],
    ["a list of 20 MB", TREE, { bigJson: 20_000_000 }],
    ["no X-Repo-Commit (HD-20)", CONFIG, { change: { "x-repo-commit": null } }],
    ["no ETag (HD-20)", CONFIG, { change: { etag: null } }],
    ["another linked size (HD-20)", /^GET .*safetensors$/, { change: { "x-linked-size": "7" } }],
    ["a loop (HD-18)", CONFIG, { redirect: "loop" }],
    ["a file of this machine (HD-18)", CONFIG, { redirect: "file:///etc/passwd" }],
    ["a cloud's metadata (HD-18)", CONFIG, { redirect: "http://169.254.169.254/latest/meta-data" }],
    ["plain http elsewhere (HD-18)", CONFIG, { redirect: "http://hub.example/config.json" }],
  ])("%s is E_HUB_PROTOCOL, asked for once, and leaves nothing", async (_, on, effect) => {
    const { tree } = serve()
    hub.fault({ on, times: Infinity, do: effect })
    const cache = fresh()
    const error = await thrown(get(cache))
    expect([error.code, error.exitCode]).toEqual(["E_HUB_PROTOCOL", 4])
    expect(error.message).toContain(hub.url.slice(0, 16))
    expect(asked(on)).toHaveLength(1)
    expect(existsSync(join(repoIn(cache, ID), "refs"))).toBe(false)
    // Weights that came meanwhile may wait for the next time.
    const begun = on === STORE ? "none" : tree[WEIGHTS]!.lfs!.oid
    expect(leftIn(cache).filter((name) => !name.includes(begun))).toEqual([])
  })

  it("a 403 of the store is no fault of the token", async () => {
    serve()
    hub.fault({ on: STORE, do: { status: 403 } })
    const { code, message } = await thrown(get(fresh(), { token: "hf_write" }))
    expect([code, message]).toEqual(["E_HUB_AUTH", expect.not.stringContaining("the token has no right")])
  })
})

describe("what an interrupted download has", () => {
  const size = 400_000
  /** A cache in which `part` of the weights lies, as a process left it that is no more. */
  async function begun(part: Uint8Array): Promise<string> {
    const cache = fresh()
    const { tree } = serve(noise(size))
    const blobs = v.folderAt(repoIn(cache, ID), "blobs")
    writeFileSync(join(blobs, `.${tree[WEIGHTS]!.lfs!.oid}.tmp-999999999-abc`), part)
    await get(cache)
    fine(cache)
    expect(leftIn(cache)).toEqual([])
    return cache
  }
  const ranges = () => asked(STORE).map((r) => r.headers.range)

  it("is gone on with, accepted where it is all (HD-11), and begun anew where it is not the file's", async () => {
    await begun(noise(size).subarray(0, 300_000))
    expect(ranges()).toEqual(["bytes=300000-"])
    hub.reset()
    await begun(noise(size))
    expect(ranges()).toEqual([])
    hub.reset()
    await begun(Buffer.concat([noise(size), Buffer.from("more")]))
    expect(ranges()).toEqual([undefined])
    hub.reset()
    await begun(Buffer.alloc(size))
    expect(ranges()).toEqual([undefined])
    hub.reset()
    await begun(Buffer.alloc(300_000))
    expect(ranges()).toEqual(["bytes=300000-", undefined])
  })

  it.each<[string, Effect, (string | undefined)[]]>([
    ["is thrown away where the range is not heeded (HD-08)", { ignoreRange: true }, ["bytes=300000-"]],
    ["is thrown away where the range is refused (HD-11)", { status: 416 }, ["bytes=300000-", undefined]],
  ])("%s", async (_, effect, expected) => {
    hub.fault({ on: STORE, do: effect })
    await begun(noise(size).subarray(0, 300_000))
    expect(ranges()).toEqual(expected)
  })

  it("is gone on with where the store gives a part of the rest, in its own words", async () => {
    const headers = { "content-range": "Bytes 300000-339999/*" }
    hub.fault({ on: STORE, do: { status: 206, headers, body: noise(size).subarray(300_000, 340_000) } })
    await begun(noise(size).subarray(0, 300_000))
    expect(ranges()).toEqual(["bytes=300000-", "bytes=340000-"])
  })

  it("stays where the caller ends it, as E_INTERRUPTED", async () => {
    serve(noise(size))
    const cache = fresh()
    const stop = new AbortController()
    hub.fault({ on: STORE, do: { stall: 200_000 } })
    const onProgress = ({ file, done }: { file: string; done: number }) => file === WEIGHTS && done === 200_000 && stop.abort() // prettier-ignore
    const error = await thrown(get(cache, { signal: stop.signal, onProgress: (p) => void onProgress(p) }))
    expect([error.code, error.exitCode]).toEqual(["E_INTERRUPTED", 130])
    hub.reset()
    await get(cache)
    expect(ranges()).toEqual(["bytes=200000-"])
    fine(cache)
  })
})

describe("a disk", () => {
  const PROGRAM = `
    import { mkdtempSync, readdirSync } from "node:fs"
    import { join } from "node:path"
    import { downloadModel } from "../src/hub/download.ts"
    const [endpoint, root] = process.argv.slice(2)
    const rows = []
    const others = ["open", "mkdir", "symlink"]
    const cases = ["write", "sync", "rename"].map((call) => ["owner/small", "EIO", [call], /blobs\\/\\.?[0-9a-f]{40}/])
    cases.push(["owner/model", "ENOSPC", ["write"]], ["owner/model", "EFBIG", ["write"]], ["owner/model", "EIO", others])
    for (const [id, code, only, where] of cases) {
      for (let at = 1; ; at += only === others ? 3 : 1) {
        const cacheDir = mkdtempSync(join(root, "disk-"))
        Object.assign(faults, { calls: [], at, code, only, where })
        const get = () => downloadModel(id, { endpoint, cacheDir, token: false })
        const error = await get().then(() => undefined, (e) => e)
        const isOver = faults.calls.length < at
        faults.at = 0
        if (isOver) break
        const left = readdirSync(cacheDir, { recursive: true }).filter((n) => /[.]tmp-|[.]pid$/.test(n))
        await get()
        rows.push({ id, code, call: only[0], got: error?.code, message: error?.message, left, cacheDir })
      }
    }
    console.log(JSON.stringify(rows))`
  interface Row {
    readonly id: string
    readonly code: string
    readonly call: string
    readonly got?: string
    readonly message?: string
    readonly left: string[]
    readonly cacheDir: string
  }

  it("that is full or broken at any step of writing (HD-28) is E_DISK_FULL or E_IO; the next download ends well", async () => {
    hub.addRepo(ID, Object.fromEntries(readdirSync(FOLDER).map((n) => [n, readFileSync(join(FOLDER, n))])))
    hub.addRepo("owner/small", { "config.json": read("config.json"), [WEIGHTS]: read(WEIGHTS) })
    const ran = await runTs(PROGRAM, { args: [hub.url, fresh()], preload: FAULTS, timeout: 60_000 })
    expect([ran.code, ran.stderr]).toEqual([0, ""])
    const rows = JSON.parse(ran.stdout) as Row[]
    // How many writes there are is the network's choice; each of the files is written at least once.
    for (const code of ["ENOSPC", "EFBIG", "EIO"]) expect(rows.filter((r) => r.code === code).length).toBeGreaterThan(2)
    for (const { id, code, got, message, left, cacheDir } of rows) {
      // The tag for backups and locks are done without.
      if (got !== undefined) expect([code, got, message]).toEqual([code, code === "EIO" ? "E_IO" : "E_DISK_FULL", message])
      expect(left).toEqual([])
      expect(layoutProblems(repoIn(cacheDir, id)).filter((p) => !/relative link: none|of no use/.test(p))).toEqual([])
    }
    // No step of the two blobs is.
    const ofBlobs = rows.filter(({ id }) => id === "owner/small")
    for (const { call, got } of ofBlobs) expect([call, got]).toEqual([call, "E_IO"])
    const steps = ["write", "sync", "rename"].map((call) => ofBlobs.filter((row) => row.call === call).length)
    expect([steps[0]! >= 2, ...steps.slice(1)]).toEqual([true, 2, 2])
    const full = rows.filter((r) => r.got === "E_DISK_FULL" && r.message!.startsWith("model"))
    for (const code of ["ENOSPC", "EFBIG"]) expect(full.filter((r) => r.code === code).length).toBeGreaterThan(0)
    for (const { message } of full) expect(message).toMatch(/^model\S+ of owner\/model: needs [\d.]+ [MG]B more, the disk has [\d.]+ [MG]B: .*E(NOSPC|FBIG)/) // prettier-ignore
  }) // prettier-ignore

  /** As on a file system that is mounted so that nothing can be written. */
  const READONLY = `
    import fs from "node:fs/promises"
    import { syncBuiltinESMExports } from "node:module"
    const refuse = async () => { throw Object.assign(new Error("EROFS: read-only file system"), { code: "EROFS" }) }
    for (const name of ["mkdir", "rename", "link", "unlink", "rm", "rmdir", "symlink", "copyFile", "writeFile", "truncate", "utimes"]) fs[name] = refuse
    const { open } = fs
    fs.open = (path, flags = "r", ...rest) => flags === "r" || (typeof flags === "number" && !(flags & 3)) ? open(path, flags, ...rest) : refuse()
    syncBuiltinESMExports()`
  const READER = `
    import { downloadModel } from "../src/hub/download.ts"
    const [endpoint, ...caches] = process.argv.slice(2)
    const rows = []
    for (const cacheDir of caches) {
      for (const offline of [false, true]) {
        rows.push(await downloadModel("owner/model", { endpoint, cacheDir, token: false, offline }).then((s) => s.warnings, (e) => e.code))
      }
    }
    console.log(JSON.stringify(rows))`

  it("that takes nothing (HD-27): what is there works, also where more might be wanted; what is not is E_CACHE_READONLY", async () => {
    const commit = serve()
    const files = new Map(["config.json", WEIGHTS].map((name) => [name, read(name)]))
    const [ours, python, none] = [fresh(), fresh(), fresh()]
    await get(ours)
    writePythonCache(python, ID, commit, files, ["main"])
    const ran = await runTs(READER, { args: [hub.url, ours, python, none], preload: READONLY })
    expect(ran.stderr).toBe("")
    expect(JSON.parse(ran.stdout)).toEqual([
      [],
      [],
      [expect.stringMatching(/it is not known whether it has more files: .*EROFS/)],
      [],
      "E_CACHE_READONLY",
      "E_OFFLINE",
    ])
  })

  it("whose blobs have changed size (HD-30) is E_CACHE_CORRUPT at once, shards and small files too", async () => {
    const names = readdirSync(FOLDER).filter((n) => n !== "expected.safetensors")
    hub.addRepo(ID, { ...Object.fromEntries(names.map((n) => [n, readFileSync(join(FOLDER, n))])), "preprocessor_config.json": "{}  " }) // prettier-ignore
    const cache = fresh()
    const { folder } = await get(cache)
    for (const name of [...names, "preprocessor_config.json"]) {
      const path = join(folder, name)
      copyFileSync(path, join(root, "whole"))
      truncateSync(path, statSync(path).size - 1)
      for (const offline of [false, true]) {
        const error = await thrown(get(cache, { offline }))
        expect([error.code, error.message]).toEqual(["E_CACHE_CORRUPT", expect.stringMatching(/the Hub listed \d+; repair it with "vit-prisma cache heal owner\/model"/)]) // prettier-ignore
      }
      copyFileSync(join(root, "whole"), path)
    }
    await get(cache, { offline: true })
  })
})

describe("the way to a Hub", () => {
  it("that refuses, is silent or nobody's, where the branch is in the cache (HD-23): its commit is used, with a warning", async () => {
    const { id } = serve()
    const cache = fresh()
    await get(cache)
    const used = ({ commit, warnings }: Snapshot) => {
      expect([commit, warnings]).toEqual([id, [expect.stringContaining(`commit ${id} of main is used, as it is in the cache`)]]) // prettier-ignore
    }
    for (const effect of [{ stall: "head" }, { stall: 5 }, { reset: true }] as const) {
      hub.reset()
      hub.fault({ on: /./, times: Infinity, do: effect })
      const work = get(cache)
      expect(await timed(work, REVISION, 10_000)).toBe(undefined)
      used(await work)
      expect([asked(/./).length, work.clock.slept]).toEqual([1, []])
    }
    for (const endpoint of ["http://127.0.0.1:9", "https://no-such-host.invalid"]) {
      const clock = fakeClock()
      used(await get(cache, { endpoint, http: hubHttp({ endpoint, clock }) }))
      expect(clock.slept).toEqual([])
    }
  }) // prettier-ignore

  it("that is no TLS is not tried again; a name that nobody knows is (HD-32)", async () => {
    const plain = createServer((socket) => void socket.on("error", () => {}).end("HTTP/1.1 200 OK\r\n\r\n"))
    let connections = 0
    plain.on("connection", () => connections++)
    await new Promise<void>((done) => plain.listen(0, "127.0.0.1", done))
    const to = (endpoint: string) => {
      const clock = fakeClock()
      const http = hubHttp({ endpoint, clock })
      return { clock, work: thrown(downloadModel(ID, { endpoint, token: false, cacheDir: fresh(), http })) }
    }
    const tls = to(`https://127.0.0.1:${(plain.address() as AddressInfo).port}`)
    const error = await tls.work
    expect([error.code, error.retryable, error.message]).toEqual(["E_NETWORK", false, expect.stringContaining("no secure connection to 127.0.0.1")]) // prettier-ignore
    expect([connections, tls.clock.slept]).toEqual([1, []])
    plain.close()
    const dns = to("https://no-such-host.invalid")
    const { code, message } = await dns.work
    expect([code, message]).toEqual(["E_NETWORK", expect.stringMatching(/no-such-host\.invalid is not known.*(ENOTFOUND|EAI_AGAIN)/)]) // prettier-ignore
    expect(dns.clock.slept.length).toBeGreaterThanOrEqual(2)
  })
})
