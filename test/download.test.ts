/** @file Downloads from a loopback Hub that does everything a Hub, a store or the network between may do wrong. */
import { createHash } from "node:crypto"
import { existsSync, readdirSync, readFileSync, readlinkSync, statSync, writeFileSync } from "node:fs"
import { basename, join } from "node:path"
import { afterAll, afterEach, beforeAll, describe, expect, it } from "vitest"
import type { PrismaError } from "../src/errors.ts"
import { downloadModel, type DownloadOptions } from "../src/hub/download.ts"
import { hubHttp } from "../src/hub/http.ts"
import { loadPretrained } from "../src/index.ts"
import {
  etagOf,
  fakeHub,
  gitSha1,
  repoOf,
  sha256,
  type Asked,
  type FakeHub,
  type Fault,
} from "./helpers/download-hub.ts"
import { fakeClock } from "./helpers/fake-clock.ts"
import { thrown } from "./helpers/thrown.ts"
import { CVE_NAMES } from "./helpers/unsafe-names.ts"
import * as v from "./helpers/variants.ts"

const CASE = "hf-vit-grey-relu"
const COMMIT = "a".repeat(40)
const root = v.scratch()
let count = 0
const fresh = (): string => v.folderAt(root, `cache ${count++}`)

let hub: FakeHub
beforeAll(async () => void (hub = await fakeHub()))
afterAll(() => hub.close())
afterEach(() => {
  hub.fault = undefined
  hub.asked.length = 0
  hub.repos.clear()
})

/** A repo with one case, with weights of this size in place of its own. */
function serve(bytes?: number) {
  const repo = repoOf(v.caseFolder(CASE))
  if (bytes !== undefined) repo.files.set("model.safetensors", noise(bytes))
  hub.repos.set("owner/model", repo)
  return repo
}

/** Bytes that do not repeat. */
function noise(n: number): Uint8Array {
  const bytes = new Uint8Array(n)
  for (let i = 0, x = 1; i < n; i++) bytes[i] = (x = (Math.imul(x, 1664525) + 1013904223) >>> 0) >>> 24
  return bytes
}

/** Download without real waits. */
function get(cacheDir: string, options: DownloadOptions = {}) {
  const clock = fakeClock()
  const http = hubHttp({ endpoint: hub.url, clock })
  const work = downloadModel("owner/model", { endpoint: hub.url, token: false, cacheDir, http, ...options })
  return Object.assign(work, { clock })
}

const WEIGHTS = "model.safetensors"
const INDEX = `${WEIGHTS}.index.json`
const isWeights = ({ host, path }: Asked): boolean => host === "store" || path.endsWith(WEIGHTS)
/** A fault of the answers that carry weights' bytes: the first of them, or all. */
const onBody = (fault: Fault, times = Infinity): Fault => {
  let left = times
  return (asked, response, send) => asked.host === "store" && left-- > 0 && fault(asked, response, send)
}
const sentOfWeights = (): number => hub.asked.filter((a) => a.host === "store").reduce((n, a) => n + a.sent, 0)
const repoIn = (cache: string): string => join(cache, "models--owner--model")

/** What must hold after every case: blobs have the hash in their names, and nothing is left half done. */
function checkCache(cache: string, { partials = 0 } = {}): string[] {
  const blobs = join(repoIn(cache), "blobs")
  const names = existsSync(blobs) ? readdirSync(blobs) : []
  const whole = names.filter((n) => !n.startsWith("."))
  for (const name of whole) {
    const bytes = readFileSync(join(blobs, name))
    expect(name.length === 64 ? sha256(bytes) : gitSha1(bytes)).toBe(name)
  }
  const left = readdirSync(cache, { recursive: true, encoding: "utf8" }).filter((n) => /\.tmp-|\.pid$/.test(n))
  expect(left).toHaveLength(partials)
  return whole
}

describe("a download", () => {
  it("lays the cache out as huggingface_hub does: blobs, refs, snapshots of relative links, .no_exist, trees", async () => {
    const { files } = serve()
    files.set("onnx/model.onnx", noise(10))
    files.set("README.md", noise(10))
    files.set("flax_model.msgpack", noise(10))
    const cache = fresh()
    const { folder, commit, warnings } = await get(cache)
    expect([folder, commit, warnings]).toEqual([join(repoIn(cache), "snapshots", COMMIT), COMMIT, []])
    expect(readFileSync(join(repoIn(cache), "refs", "main"), "utf8")).toBe(COMMIT)
    expect(readdirSync(folder).sort()).toEqual(["config.json", WEIGHTS])
    for (const name of readdirSync(folder)) {
      const bytes = files.get(name)!
      expect(readlinkSync(join(folder, name))).toBe(`../../blobs/${etagOf(name, bytes)}`)
      expect(readFileSync(join(folder, name)).equals(bytes)).toBe(true)
    }
    expect(readdirSync(join(repoIn(cache), ".no_exist", COMMIT)).sort()).toEqual(["open_clip_config.json", "preprocessor_config.json", "processor_config.json", "training.json"]) // prettier-ignore
    const tree = JSON.parse(readFileSync(join(repoIn(cache), "trees", `${COMMIT}.json`), "utf8")) as { format_version: number; files: Record<string, unknown> } // prettier-ignore
    expect(tree.format_version).toBe(1)
    const [config, weights] = [files.get("config.json")!, files.get(WEIGHTS)!]
    expect(tree.files).toMatchObject({
      "config.json": { size: config.length, blob_id: gitSha1(config) },
      [WEIGHTS]: { size: weights.length, lfs_sha256: sha256(weights), lfs_size: weights.length },
      "onnx/model.onnx": { size: 10 },
    })
    expect(readFileSync(join(cache, "CACHEDIR.TAG"), "utf8")).toMatch(/^Signature: 8a477f597d28d172789f06886806bc55\n/)
    expect(checkCache(cache)).toHaveLength(2)
    expect(hub.count(/README|onnx|flax/)).toBe(0)
  })

  it("of a branch with slashes, a tag, a pull request and a commit keeps a ref for what is none", async () => {
    const repo = serve()
    repo.refs = { "feature/a": COMMIT, "v1.0": COMMIT, "refs/pr/1": COMMIT }
    const cache = fresh()
    for (const revision of Object.keys(repo.refs)) {
      expect((await get(cache, { revision })).commit).toBe(COMMIT)
      expect(readFileSync(join(repoIn(cache), "refs", ...revision.split("/")), "utf8")).toBe(COMMIT)
    }
    await get(cache, { revision: COMMIT })
    expect(readdirSync(join(repoIn(cache), "refs")).sort()).toEqual(["feature", "refs", "v1.0"])
    expect(hub.count(/revision\/refs%2Fpr%2F1/)).toBe(1)
    expect(hub.asked.filter((a) => a.host === "store")).toHaveLength(1)
  })

  it("follows a branch: new files come, equal ones are not fetched again, an old commit stays", async () => {
    const repo = serve()
    const cache = fresh()
    await get(cache)
    repo.commit = "b".repeat(40)
    repo.refs = { main: repo.commit }
    repo.files.set("config.json", Buffer.concat([repo.files.get("config.json")!, Buffer.from("\n")]))
    hub.asked.length = 0
    expect((await get(cache)).commit).toBe(repo.commit)
    expect(hub.count(/resolve/)).toBe(1)
    expect(checkCache(cache)).toHaveLength(3)
    hub.asked.length = 0
    expect((await get(cache, { revision: COMMIT })).commit).toBe(COMMIT)
    expect(hub.asked).toEqual([])
  })

  it("warm asks one thing of a branch, nothing of a commit, and nothing offline", async () => {
    serve()
    const cache = fresh()
    await get(cache)
    hub.asked.length = 0
    await get(cache)
    expect(hub.asked.map((a) => a.path)).toEqual(["/api/models/owner/model/revision/main"])
    hub.asked.length = 0
    await get(cache, { revision: COMMIT })
    await get(cache, { offline: true })
    await get(cache, { offline: true, revision: COMMIT })
    expect(hub.asked).toEqual([])
  })

  it("tells how far it is, and never more than there is", async () => {
    const { files } = serve(300_000)
    const seen: number[] = []
    await get(fresh(), {
      onProgress: ({ repo, commit, done, size, totalDone, total }) => {
        expect([repo, commit, total]).toEqual(["owner/model", COMMIT, 300_000 + files.get("config.json")!.length])
        expect(done).toBeLessThanOrEqual(size)
        seen.push(totalDone)
      },
    })
    expect(seen).toEqual([...seen].sort((a, b) => a - b))
    expect(seen.at(-1)).toBe(300_000 + files.get("config.json")!.length)
  })

  it("takes one set of weights: safetensors before others, shards as their index says, pickles where allowed", async () => {
    const sharded = repoOf(v.caseFolder("hf-vit-sharded"))
    sharded.files.set("pytorch_model.bin", noise(10))
    sharded.files.set("model.fp16.safetensors", noise(10))
    hub.repos.set("owner/model", sharded)
    const names = readdirSync((await get(fresh())).folder).sort()
    expect(names.filter((n) => n.endsWith(".safetensors")).length).toBeGreaterThan(1)
    expect(names).not.toContain("pytorch_model.bin")
    expect(names).not.toContain("model.fp16.safetensors")

    const { files } = serve()
    files.delete(WEIGHTS)
    files.set("pytorch_model.bin", noise(10))
    const cache = fresh()
    const error = await thrown(get(cache))
    expect(error).toMatchObject({ code: "E_UNSAFE_FORMAT", exitCode: 3 })
    expect(error.message).toMatch(/owner\/model.*--allow-pickle/)
    expect(hub.count(/resolve\/a+\/pytorch/)).toBe(0)
    expect(readdirSync((await get(cache, { allowPickle: true })).folder)).toContain("pytorch_model.bin")
    files.delete("pytorch_model.bin")
    hub.repos.get("owner/model")!.commit = "b".repeat(40)
    hub.repos.get("owner/model")!.refs = { main: "b".repeat(40) }
    expect((await thrown(get(cache))).message).toContain("holds no weights")
  })
})

describe("weights that nobody can use are not fetched", () => {
  const options = () => ({ endpoint: hub.url, token: false, cacheDir: fresh() }) as const

  it.each<[string, Record<string, unknown> | undefined, string, RegExp]>([
    ["without a config", undefined, "E_CONFIG", /owner\/model.*holds weights but no config\.json/],
    ["of another kind of model", { model_type: "bert" }, "E_UNSUPPORTED_ARCH", /model_type "bert" is not supported/],
    ["quantised", { model_type: "vit", quantization_config: { bits: 4 } }, "E_UNSUPPORTED_QUANT", /original one/],
  ])("%s", async (_, config, code, what) => {
    const { files } = serve()
    if (config) files.set("config.json", Buffer.from(JSON.stringify(config)))
    else files.delete("config.json")
    const error = await thrown(loadPretrained("owner/model", options()))
    expect([error.code, error.message]).toEqual([code, expect.stringMatching(what)])
    expect(hub.asked.filter(isWeights)).toEqual([])
  })
})

describe("what a Hub refuses", () => {
  const json = (code: number, error: string, header?: string): Fault => (_, response) => {
    response.writeHead(code, header ? { "x-error-code": header } : {}).end(JSON.stringify({ error }))
    return true
  } // prettier-ignore
  it("credentials (HD-01): E_HUB_AUTH after one request", async () => {
    hub.fault = json(401, "Invalid credentials in Authorization header")
    expect((await thrown(get(fresh()))).code).toBe("E_HUB_AUTH")
    expect(hub.asked).toHaveLength(1)
  })
  it("a gated repo (HD-02): E_HUB_GATED with the page to visit", async () => {
    hub.fault = json(403, "Access is restricted", "GatedRepo")
    const error = await thrown(get(fresh()))
    expect(error.code).toBe("E_HUB_GATED")
    expect(error.message).toContain(`${hub.url}/owner/model`)
  })
  it("what is not there (HD-03): E_HUB_NOT_FOUND, three texts, with the cache's folder", async () => {
    const cache = fresh()
    const messages = [(await thrown(get(cache))).message]
    serve()
    messages.push((await thrown(get(cache, { revision: "v9" }))).message)
    hub.fault = (asked, response) => isWeights(asked) && json(404, "gone", "EntryNotFound")(asked, response, () => {})
    messages.push((await thrown(get(cache))).message)
    expect(messages[0]).toMatch(/no such repo.*private/)
    expect(messages[1]).toMatch(/v9.*no such revision/)
    expect(messages[2]).toMatch(/no such file/)
    for (const text of messages.slice(0, 2)) expect(text).toContain(repoIn(cache))
  })
  it.each(["..", "a/b/c", "a--b/c", "-x", "x".repeat(97), "x.git", "datasets/a/b"])("never the id %j (PA-03): no request", async (id) => {
    const cacheDir = fresh()
    expect((await thrown(downloadModel(id, { endpoint: hub.url, cacheDir }))).code).toBe("E_REPO_ID")
    expect((await thrown(get(cacheDir, { revision: "../x" }))).code).toBe("E_REVISION")
    expect([hub.asked, readdirSync(cacheDir)]).toEqual([[], []])
  }) // prettier-ignore
})

describe("the network", () => {
  it.each([408, 500, 502, 503, 504])("answers %i twice on everything (HD-06): still done", async (code) => {
    serve()
    const left = new Map<string, number>()
    hub.fault = (asked, response) => {
      const n = left.get(asked.path) ?? 2
      left.set(asked.path, n - 1)
      if (n > 0) response.writeHead(code).end()
      return n > 0
    }
    const cache = fresh()
    const work = get(cache)
    await work
    expect(checkCache(cache)).toHaveLength(2)
    // A try that is sent on begins again at the Hub: main, tree, config, weights, the store.
    expect(work.clock.slept.filter((ms) => ms === 1000)).toHaveLength(4)
  })
  it("answers 503 for ever (HD-06): E_HUB_UNAVAILABLE after 5 tries more than the first", async () => {
    hub.fault = (_, response) => Boolean(response.writeHead(503).end())
    const work = get(fresh())
    expect((await thrown(work)).code).toBe("E_HUB_UNAVAILABLE")
    expect(hub.asked).toHaveLength(6)
    expect(work.clock.slept).toEqual([1000, 2000, 4000, 8000, 8000])
  })
  it("is cut once (HD-07): resumed by Range, and little comes twice", async () => {
    const size = 400_000
    serve(size)
    hub.fault = onBody((_, __, send) => (send({ cut: 150_000 }), true), 1)
    const cache = fresh()
    await get(cache)
    expect(checkCache(cache)).toHaveLength(2)
    const ranges = hub.asked.filter((a) => a.host === "store").map((a) => a.headers.range)
    expect(ranges[0]).toBe(undefined)
    expect(ranges[1]).toMatch(/^bytes=\d+-$/)
    expect(sentOfWeights()).toBeLessThanOrEqual(size * 1.05)
  })
  it("is cut three times (G9): at most 1.05 times the size comes", async () => {
    // What lies in the sockets when a connection is cut is lost: some 20 kB each time on a busy machine.
    const size = 4_000_000
    serve(size)
    hub.fault = onBody((_, __, send) => (send({ cut: 1_000_000 }), true), 3)
    const cache = fresh()
    await get(cache)
    checkCache(cache)
    expect(hub.asked.filter((a) => a.host === "store")).toHaveLength(4)
    expect(sentOfWeights()).toBeLessThanOrEqual(size * 1.05)
  })
  it("is cut, and the rest comes from the start (HD-08): nothing is joined on", async () => {
    const { files } = serve(400_000)
    let first = true
    hub.fault = onBody((asked, _, send) => {
      send(first ? { cut: 150_000 } : { status: 200, body: files.get(WEIGHTS)!, headers: { "content-range": undefined, "content-length": "400000" } })
      first = false
      return asked.host === "store"
    }) // prettier-ignore
    const cache = fresh()
    await get(cache)
    checkCache(cache)
  })
  it("is cut, and the range is refused (HD-11): begun anew", async () => {
    serve(400_000)
    let n = 0
    hub.fault = onBody((_, response, send) => {
      if (n === 0) send({ cut: 150_000 })
      else if (n === 1) response.writeHead(416).end()
      else send()
      return n++ >= 0
    })
    const cache = fresh()
    await get(cache)
    checkCache(cache)
    expect(hub.asked.filter((a) => a.host === "store")).toHaveLength(3)
  })
  it("is cut for ever: E_NETWORK, and what came is there for the next time", async () => {
    const size = 400_000
    serve(size)
    const cache = fresh()
    let cuts = 0
    hub.fault = onBody((_, __, send) => (send({ cut: cuts++ ? 1 : 200_000 }), true))
    const error = await thrown(get(cache))
    expect([error.code, error.retryable]).toEqual(["E_NETWORK", true])
    checkCache(cache, { partials: 1 })
    hub.fault = undefined
    hub.asked.length = 0
    await get(cache)
    expect(sentOfWeights()).toBeLessThan(size * 0.6)
    checkCache(cache)
  })
  it("stands still in every body: E_HUB_TIMEOUT after three tries", async () => {
    serve(400_000)
    hub.fault = onBody((_, response) => response.writeHead(200).write("x"))
    const work = get(fresh())
    const ticking = setInterval(() => work.clock.pass(1000), 3)
    const error = await thrown(work)
    clearInterval(ticking)
    // Of 30 s each, and the waits between.
    expect([error.code, hub.asked.filter((a) => a.host === "store").length]).toEqual(["E_HUB_TIMEOUT", 3])
  })

  /** Download weights of this size, of whose body `n` bytes come every 5 s, and after so many times the connection breaks. */
  async function slowly(size: number, n: number, times = Infinity) {
    const weights = serve(size).files.get(WEIGHTS)!
    const clock = fakeClock(0.999)
    const began = clock.now()
    const ranges: (string | null)[] = []
    const send: typeof fetch = async (input, init) => {
      const response = await fetch(input, init)
      if (!response.url.startsWith(hub.storeUrl)) return response
      const range = new Headers(init?.headers).get("range")
      ranges.push(range)
      await response.body?.cancel()
      let [at, left] = [Number(/\d+/.exec(range ?? "0")), times]
      const pull = (controller: ReadableStreamDefaultController<Uint8Array>) => {
        if (at === size) return controller.close()
        if (left-- === 0) return controller.error(new TypeError("terminated"))
        clock.pass(5000)
        controller.enqueue(weights.slice(at, (at = Math.min(size, at + n))))
      }
      const { status, headers } = response
      return new Response(new ReadableStream({ pull }, { highWaterMark: 0 }), { status, headers })
    }
    const cache = fresh()
    const work = get(cache, { http: hubHttp({ endpoint: hub.url, clock, send }) })
    const error = await work.then(() => undefined, (e: PrismaError) => e) // prettier-ignore
    return { error, cache, ranges, seconds: (clock.now() - began) / 1000 }
  }
  it.each<[string, number, number, number]>([
    ["a small file", 500, Infinity, 3],
    ["a large file", 4_000_000, Infinity, 3],
    ["a small file, and is cut now and then", 500, 4, 4],
  ])("brings a byte every five seconds of %s (HD-13): tried again, then E_HUB_TIMEOUT within 120 s", async (_, size, times, tries) => {
    const { error, cache, ranges, seconds } = await slowly(size, 1, times)
    expect(error).toMatchObject({ code: "E_HUB_TIMEOUT", retryable: true, repo: "owner/model" })
    expect(error!.message).toContain("less than 1000 bytes a second came for")
    expect(seconds).toBeLessThanOrEqual(120)
    expect(ranges).toHaveLength(tries)
    expect(ranges.slice(1).every((range) => /^bytes=[1-9]/.test(range!))).toBe(true)
    checkCache(cache, { partials: 1 })
  }) // prettier-ignore
  it.each<[string, number]>([
    ["in one piece", Infinity],
    ["in many, each of which is cut", 5],
  ])("is slow, but not dead: 1.2 kB a second come to an end, %s", async (_, times) => {
    const { error, cache, ranges, seconds } = await slowly(400_000, 6000, times)
    expect([error, checkCache(cache).length]).toEqual([undefined, 2])
    expect(seconds).toBeGreaterThan(300)
    expect(ranges).toHaveLength(times === Infinity ? 1 : Math.ceil(400_000 / 6000 / times))
  })
  it("is away, and the branch is in the cache (HD-23): its commit is used, with a warning", async () => {
    serve()
    const cache = fresh()
    await get(cache)
    for (const code of [503, 401, 200]) {
      hub.fault = (_, response) => Boolean(response.writeHead(code, { "content-type": "text/html" }).end("<html>"))
      hub.asked.length = 0
      const { commit, warnings } = await get(cache)
      expect(commit).toBe(COMMIT)
      expect(warnings).toHaveLength(1)
      expect(warnings[0]).toMatch(/commit a{40} of main is used, as it is in the cache/)
      expect(hub.asked).toHaveLength(1)
    }
  })
  it("is not used offline (HD-22): E_OFFLINE says what is missing and what to do", async () => {
    serve()
    const cache = fresh()
    const cold = await thrown(get(cache, { offline: true }))
    expect([cold.code, cold.exitCode]).toEqual(["E_OFFLINE", 4])
    expect(cold.message).toMatch(/owner\/model at revision main.*HF_HUB_OFFLINE.*hf download owner\/model/)
    const { folder } = await get(cache)
    v.remove(join(folder, WEIGHTS))
    hub.asked.length = 0
    expect((await thrown(get(cache, { offline: true }))).message).toContain("lacks model.safetensors")
    expect(hub.asked).toEqual([])
    await get(cache)
    expect(hub.asked.filter((a) => a.host === "store")).toEqual([])
  })
})

describe("what comes is not what was asked for", () => {
  /** Nothing of it may stay. */
  const refused = async (code: string, tries: number): Promise<string> => {
    const cache = fresh()
    const error = await thrown(get(cache))
    expect([error.code, error.repo]).toEqual([code, "owner/model"])
    expect(checkCache(cache).filter((n) => n.length === 64)).toEqual([])
    expect(hub.asked.filter((a) => a.host === "store")).toHaveLength(tries)
    expect(existsSync(join(repoIn(cache), "refs", "main"))).toBe(false)
    return error.message
  }
  const flipped = (bytes: Uint8Array, bit: number): Uint8Array => {
    const copy = Uint8Array.from(bytes)
    copy[bit >> 3]! ^= 1 << (bit & 7)
    return copy
  }

  it("by one bit, for ever (HD-15): E_INTEGRITY after one clean download more", async () => {
    const weights = serve(50_000).files.get(WEIGHTS)!
    hub.fault = onBody((_, __, send) => (send({ body: flipped(weights, 123_456) }), true))
    expect(await refused("E_INTEGRITY", 2)).toMatch(/expected sha256 [0-9a-f]{64}, got [0-9a-f]{64}/)
  })
  it("by one bit, once: fetched again, with a good end", async () => {
    const weights = serve(50_000).files.get(WEIGHTS)!
    hub.fault = onBody((_, __, send) => (send({ body: flipped(weights, 1) }), true), 1)
    const cache = fresh()
    await get(cache)
    checkCache(cache)
  })
  it("by one bit of a small file, whose hash is git's", async () => {
    const config = serve().files.get("config.json")!
    hub.fault = ({ path }, _, send) => path.endsWith("config.json") && (send({ body: flipped(config, 9) }), true)
    const cache = fresh()
    const error = await thrown(get(cache))
    expect(error.code).toBe("E_INTEGRITY")
    expect(error.message).toMatch(/git-sha1/)
    expect(checkCache(cache).filter((n) => n.length === 40)).toEqual([])
    expect(hub.count(/config\.json$/)).toBe(2)
  })
  it("by one bit of what was there from before: the whole is fetched anew", async () => {
    const size = 400_000
    const weights = serve(size).files.get(WEIGHTS)!
    let n = 0
    hub.fault = onBody((_, __, send) => (send({ cut: n++ ? 1 : 200_000, body: flipped(weights, 77) }), true))
    const cache = fresh()
    await thrown(get(cache))
    hub.fault = undefined
    await get(cache)
    checkCache(cache)
  })
  it.each<[string, (size: number) => Parameters<Parameters<Fault>[2]>[0]]>([
    ["too small a Content-Length", (n) => ({ body: noise(n).subarray(0, n - 1) })],
    ["too large a Content-Length", (n) => ({ body: Buffer.concat([noise(n), Buffer.from("x")]) })],
    ["no Content-Length and an early end", (n) => ({ body: noise(n).subarray(0, n / 2), headers: { "content-length": undefined } })],
    ["no Content-Length and more", (n) => ({ body: Buffer.concat([noise(n), noise(9)]), headers: { "content-length": undefined } })],
  ])("with %s (HD-14): E_INTEGRITY of the size, no blob", async (_, over) => {
    serve(50_000)
    hub.fault = onBody((__, ___, send) => (send({ status: 200, headers: {}, ...over(50_000) }), true))
    const cache = fresh()
    const error = await thrown(get(cache))
    expect(error.code).toBe("E_INTEGRITY")
    expect(error.message).toMatch(/expected 50000 bytes, got/)
    expect(checkCache(cache).filter((n) => n.length === 64)).toEqual([])
  }) // prettier-ignore
  it.each<[string, Fault]>([
    ["a page in place of weights", ({ host }, _, send) => host === "store" && (send({ headers: { "content-type": "text/html; charset=utf-8" } }), true)],
    ["no ETag", (a, _, send) => a.host === "hub" && isWeights(a) && (send({ headers: { "x-linked-etag": undefined, etag: undefined } }), true)],
    ["another ETag", (a, _, send) => a.host === "hub" && isWeights(a) && (send({ headers: { "x-linked-etag": `"${"0".repeat(64)}"` } }), true)],
    ["no X-Repo-Commit", (a, _, send) => a.host === "hub" && isWeights(a) && (send({ headers: { "x-repo-commit": undefined } }), true)],
    ["a store that is sent on to without a word on the file", (a, _, send) => a.host === "hub" && isWeights(a) && (send({ headers: { "x-repo-commit": undefined, "x-linked-etag": undefined } }), true)],
    ["another X-Repo-Commit", (a, _, send) => a.host === "hub" && isWeights(a) && (send({ headers: { "x-repo-commit": "b".repeat(40) } }), true)],
    ["another linked size", (a, _, send) => a.host === "hub" && isWeights(a) && (send({ headers: { "x-linked-size": "7" } }), true)],
    ["another range", ({ host }, _, send) => host === "store" && (send({ status: 206, headers: { "content-range": "bytes 5-9/10" } }), true)],
    ["a redirect off https", (a, _, send) => a.host === "hub" && isWeights(a) && (send({ headers: { location: "http://10.0.0.1/x" } }), true)],
  ])("with %s (HD-18, HD-20): E_HUB_PROTOCOL", async (_, fault) => {
    serve(50_000)
    hub.fault = fault
    const cache = fresh()
    expect((await thrown(get(cache))).code).toBe("E_HUB_PROTOCOL")
    expect(checkCache(cache).filter((n) => n.length === 64)).toEqual([])
  }) // prettier-ignore
  it.each<[string, unknown]>([
    ["no list", { error: 1 }],
    ["no JSON", undefined],
    ["a file without a path", [{ type: "file", size: 1, oid: "0".repeat(40) }]],
    ["a file without a hash", [{ type: "file", path: "x", size: 1 }]],
    ["a hash that is a path", [{ type: "file", path: "x", size: 1, oid: "../../../etc/passwd" }]],
    ["a size that is none", [{ type: "file", path: "x", size: -1, oid: "0".repeat(40) }]],
    ["null", [null]],
  ])("in the list of files: %s", async (_, list) => {
    serve()
    hub.fault = ({ path }, __, send) => /\/tree\//.test(path) && (send({ body: Buffer.from(list === undefined ? "<" : JSON.stringify(list)) }), true)
    expect((await thrown(get(fresh()))).code).toBe("E_HUB_PROTOCOL")
    expect(hub.count(/resolve/)).toBe(0)
  }) // prettier-ignore
  it.each([undefined, null, 5, "main", "A".repeat(40), "../..", `${COMMIT}0`])("as a commit: %j", async (sha) => {
    serve()
    hub.fault = ({ path }, _, send) => /\/revision\//.test(path) && (send({ body: Buffer.from(JSON.stringify({ sha })) }), true)
    expect((await thrown(get(fresh()))).code).toBe("E_HUB_PROTOCOL")
    expect(hub.asked).toHaveLength(1)
  }) // prettier-ignore
  it("in a circle of pages", async () => {
    serve()
    hub.fault = ({ path }, _, send) =>
      /\/tree\//.test(path) && (send({ headers: { link: `<${path}>; rel="next"` } }), true)
    expect((await thrown(get(fresh()))).message).toContain("goes in a circle")
  })
  it.each<[string, (path: string) => string, RegExp]>([
    ["without end, each page empty", (path) => `${path}&cursor=${Math.random()}`, /goes on without any$/],
    ["at no address of the web", () => "file:///etc/passwd", /goes on at no valid address$/],
    ["at no address at all", () => "https://[::1", /goes on at no valid address$/],
  ])("in pages that go on %s", async (_, next, said) => {
    serve()
    hub.fault = ({ path }, __, send) =>
      /\/tree\//.test(path) &&
      (send({ headers: { link: `<${next(path)}>; rel="next"` }, body: Buffer.from("[]") }), true)
    const error = await thrown(get(fresh()))
    expect([error.code, error.message.replace(/;.*/, "")]).toEqual(["E_HUB_PROTOCOL", expect.stringMatching(said)])
  })
  it("in a page whose address has a password: it is asked for without, of the Hub alone", async () => {
    serve()
    hub.fault = ({ path }, _, send) =>
      /\/tree\/(?!.*cursor)/.test(path) && (send({ headers: { link: `<https://u:pw@elsewhere.test:8443${path}&cursor=1>; rel="next"` }, body: Buffer.from("[]") }), true) // prettier-ignore
    await get(fresh())
    expect(hub.count(/cursor=1/)).toBe(1)
  })
  it.each<[string, (first: string, next: string) => string]>([
    ["as the Hub says it", (_, next) => `${next}; rel="next"`],
    ["with a title", (_, next) => `${next}; title="a, <b>"; rel="next"`],
    ["beside another", (first, next) => `${first}; rel="first", ${next};rel=next`],
    ["of two kinds", (first, next) => `${first}; rel="prev nexter", ${next}; rel="last next"; type=x`],
  ])("with several pages (%s) it is one list", async (_, links) => {
    serve()
    hub.fault = ({ path }, _, send) => {
      if (!/\/tree\//.test(path) || path.includes("cursor")) return false
      const [first, next] = ["0", "2"].map((cursor) => `<https://elsewhere.test${path}&cursor=${cursor}>`)
      const link = links(first!, next!)
      send({ headers: { link }, body: Buffer.from("[]") })
      return true
    }
    await get(fresh())
    expect([hub.count(/cursor=2/), hub.count(/cursor=0/)]).toEqual([1, 0])
  })
})

const HOSTILE = [
  ...CVE_NAMES,
  "../x", "../../x", "a/../../x", "..", ".", "/etc/passwd", "//x", "a//b", "a/", "C:\\x", "C:/x", "..\\x", "a\\..\\b", "a\u0000b", "a\nb", "\u001b[2J",
  ". .", "...", "a/./b", "a/.. /b", "a/../b", "\\\\host\\share", "/", "", "~\u0007", "a/\ud800", "x".repeat(256), `${"y/".repeat(1600)}z`, "c:x", "a/ /b",
  "blobs/../../refs/main", "./x", "x/.", "x/..", " ", "\u007f", "a/\u0085/b", "..//x", "....//../x", "a/b/c/../../../../d", "\\", "a/\t/b", "..\u0000/x",
] // prettier-ignore

describe("names from the server (PA-01, G20)", () => {
  /** The names that come with the commit, whatever is in the list of files. */
  const withCommit = (...names: string[]): Fault => ({ path }, _, send) =>
    /\/revision\//.test(path) && (send({ body: Buffer.from(JSON.stringify({ sha: COMMIT, siblings: names.map((rfilename) => ({ rfilename })) })) }), true) // prettier-ignore

  it("are more than 43, in the list of files or with the commit: the whole is refused, no file is written, none asked for", async () => {
    expect(new Set(HOSTILE).size).toBeGreaterThanOrEqual(43)
    expect(CVE_NAMES).toHaveLength(13)
    const parent = fresh()
    const cache = v.folderAt(parent, "cache")
    for (const name of HOSTILE) {
      const { files } = serve()
      for (const isListed of [true, false]) {
        if (isListed) files.set(name, noise(10))
        else files.delete(name)
        hub.fault = withCommit("config.json", WEIGHTS, ...(isListed ? [] : [name]))
        expect((await thrown(get(cache))).code, JSON.stringify(name)).toBe("E_UNSAFE_PATH")
      }
    }
    expect([hub.count(/\/tree\//), hub.count(/resolve/)]).toEqual([HOSTILE.length, 0])
    expect([readdirSync(parent), readdirSync(cache)]).toEqual([["cache"], []])
  }) // prettier-ignore
  it("that cannot be side by side (PA-07), in the list of files or with the commit: E_NAME_COLLISION", async () => {
    const { files } = serve()
    const cache = fresh()
    const collide = async () => expect((await thrown(get(cache))).code).toBe("E_NAME_COLLISION")
    hub.fault = withCommit("a", "a/b")
    await collide()
    files.set("a", noise(1))
    files.set("a/b", noise(1))
    hub.fault = withCommit("config.json", WEIGHTS)
    await collide()
    expect([hub.count(/\/tree\//), hub.count(/resolve/), readdirSync(cache)]).toEqual([1, 0, []])
  })
  it("of shards that lead out of the folder (IX-03): E_UNSAFE_PATH before a shard is asked for", async () => {
    const sharded = repoOf(v.caseFolder("hf-vit-sharded"))
    hub.repos.set("owner/model", sharded)
    const index = JSON.parse(Buffer.from(sharded.files.get(INDEX)!).toString()) as { weight_map: Record<string, string> }
    const [tensor] = Object.keys(index.weight_map)
    const parent = fresh()
    const cache = v.folderAt(parent, "cache")
    for (const name of new Set([...CVE_NAMES, "../x", "/etc/x", "C:\\x", "D:x", "\\\\h\\s\\x", "a/../../b", "folder/\\evil", "\0", "", "."])) {
      index.weight_map[tensor!] = name
      sharded.files.set(INDEX, Buffer.from(JSON.stringify(index)))
      expect((await thrown(get(cache))).code, JSON.stringify(name)).toBe("E_UNSAFE_PATH")
      v.remove(repoIn(cache))
    }
    const asked = hub.asked.filter(({ path }) => path.includes("/resolve/")).map(({ path }) => basename(path))
    expect([[...new Set(asked)].sort(), hub.asked.filter((a) => a.host === "store")]).toEqual([["config.json", INDEX], []])
    expect([readdirSync(parent), readdirSync(cache)]).toEqual([["cache"], [".locks", "CACHEDIR.TAG"]])
  }) // prettier-ignore
  it("with every odd but safe character are asked for as they are", async () => {
    const sharded = repoOf(v.caseFolder("hf-vit-sharded"))
    const index = JSON.parse(Buffer.from(sharded.files.get("model.safetensors.index.json")!).toString()) as { weight_map: Record<string, string> } // prettier-ignore
    const [shard] = Object.values(index.weight_map)
    const odd = "s p/a#c?e%20 é&+🐈.safetensors"
    for (const [tensor, file] of Object.entries(index.weight_map)) if (file === shard) index.weight_map[tensor] = odd
    sharded.files.set("model.safetensors.index.json", Buffer.from(JSON.stringify(index)))
    sharded.files.set(odd, sharded.files.get(shard!)!)
    hub.repos.set("owner/model", sharded)
    const cache = fresh()
    const { folder } = await get(cache)
    expect(readlinkSync(join(folder, odd))).toMatch(/^\.\.\/\.\.\/\.\.\/blobs\/[0-9a-f]{64}$/)
    expect(readFileSync(join(folder, odd)).equals(sharded.files.get(odd)!)).toBe(true)
    checkCache(cache)
  })
  it("of shards that the repo has not: E_SHARD_MISSING before the large files", async () => {
    const sharded = repoOf(v.caseFolder("hf-vit-sharded"))
    const shard = [...sharded.files.keys()].find((n) => n.endsWith(".safetensors"))!
    sharded.files.delete(shard)
    hub.repos.set("owner/model", sharded)
    expect((await thrown(get(fresh()))).code).toBe("E_SHARD_MISSING")
    expect(hub.asked.filter((a) => a.host === "store")).toEqual([])
  })
})

describe("a token", () => {
  const CANARY = "hf_canary0123456789"
  it("goes to the Hub and not to the store; errors do not hold it, nor signatures (HD-16, SE-02)", async () => {
    serve()
    const cache = fresh()
    const { http: _, ...options } = { http: undefined, token: CANARY }
    const http = hubHttp({ endpoint: hub.url, token: CANARY, clock: fakeClock() })
    await get(cache, { ...options, http })
    for (const { host, headers } of hub.asked) {
      expect(headers.authorization).toBe(host === "hub" ? `Bearer ${CANARY}` : undefined)
      if (host === "store") expect(JSON.stringify(headers)).not.toContain(CANARY)
    }
    hub.fault = onBody((__, response) => Boolean(response.writeHead(403).end(`<Error>${CANARY}</Error> https://x.test/?X-Amz-Signature=1`)))
    const error = await thrown(get(fresh(), { ...options, http }))
    expect(JSON.stringify(error)).not.toMatch(/canary|Signature/)
    const files = readdirSync(cache, { recursive: true, encoding: "utf8" }).filter((n) => statSync(join(cache, n)).isFile())
    for (const name of files) expect(readFileSync(join(cache, name)).includes(CANARY)).toBe(false)
  }) // prettier-ignore
})

describe("the disk", () => {
  it("has no room: E_DISK_FULL with both figures before anything comes", async () => {
    serve()
    hub.fault = ({ path }, _, send) => {
      if (!/\/tree\//.test(path)) return false
      const files = [...hub.repos.get("owner/model")!.files].map(([name, bytes]) => ({
        type: "file", path: name, size: name === WEIGHTS ? 2 ** 52 : bytes.length, oid: gitSha1(bytes), ...(name === WEIGHTS && { lfs: { oid: sha256(bytes), size: 2 ** 52 } }),
      })) // prettier-ignore
      send({ body: Buffer.from(JSON.stringify(files)) })
      return true
    }
    const error = await thrown(get(fresh()))
    expect([error.code, error.exitCode]).toEqual(["E_DISK_FULL", 5])
    expect(error.message).toMatch(/needs 4503\d{3}\.\d+ GB, the disk has [\d.]+ [MG]B/)
    expect(hub.count(/resolve/)).toBe(0)
  })
  it("cannot be written to (HD-27): E_CACHE_READONLY, but what is there works", async () => {
    serve()
    const file = join(fresh(), "file")
    writeFileSync(file, "")
    const error = await thrown(get(join(file, "cache")))
    expect([error.code, error.exitCode]).toEqual(["E_CACHE_READONLY", 5])
    expect(error.message).toContain("HF_HOME")
  })
  it("has a blob of another size: it is fetched again", async () => {
    const { files } = serve()
    const cache = fresh()
    const { folder } = await get(cache)
    const blob = join(repoIn(cache), "blobs", sha256(files.get(WEIGHTS)!))
    writeFileSync(blob, "short")
    const error = await thrown(get(cache, { revision: COMMIT }))
    expect(error.code).toBe("E_CACHE_CORRUPT")
    expect(error.message).toMatch(
      /has 5 bytes, the Hub listed \d+; repair it with "vit-prisma cache heal owner\/model"/,
    )
    expect(basename(folder)).toBe(COMMIT)
  })
  it("may be called anything (PA-11)", async () => {
    serve()
    const cache = v.folderAt(fresh(), `it's "a" 🐈 # 100% %20 home`)
    await get(cache)
    checkCache(cache)
  })
})

it("the hashes of this file are those of git and sha256", () => {
  expect(gitSha1(Buffer.from("hello\n"))).toBe("ce013625030ba8dba906f756967f9e9ca394464a")
  expect(sha256(Buffer.from(""))).toBe(createHash("sha256").digest("hex"))
})
