/** @file Models by repo id from a loopback Hub: cold, then offline with the Hub gone; what is asked for and what is not; revisions,
 * rights and other names; and one cache for Python and for us. */
import { existsSync, lstatSync, mkdirSync, readdirSync, readFileSync, writeFileSync } from "node:fs"
import { join } from "node:path"
import { afterAll, afterEach, beforeAll, describe, expect, it } from "vitest"
import { repoPlace } from "../src/hub/cache.ts"
import { cachedRepos, findDamage } from "../src/hub/damage.ts"
import { downloadModel, type DownloadOptions } from "../src/hub/download.ts"
import { hubHttp } from "../src/hub/http.ts"
import { inventory } from "../src/hub/inventory.ts"
import { loadPretrained } from "../src/index.ts"
import { fakeClock } from "./helpers/fake-clock.ts"
import { startHub, type RepoOptions, type TestHub } from "./helpers/hub/index.ts"
import { PARITY_ROOTS, parityCases, readCase } from "./helpers/parity.ts"
import { layoutProblems, pythonFinds, repoIn, writePythonCache } from "./helpers/python-cache.ts"
import { thrown } from "./helpers/thrown.ts"
import * as v from "./helpers/variants.ts"

const CASE = "hf-vit-grey-relu"
const ID = "owner/model"
const root = v.scratch()
let count = 0
const fresh = (): string => v.folderAt(root, `cache ${count++}`)
const newHub = (): Promise<TestHub> => startHub({ root: fresh(), pageSize: 5 })

/** What a model is made of, by what the case's folder holds. */
const filesOf = (folder: string): Record<string, Uint8Array> =>
  Object.fromEntries(
    readdirSync(folder)
      .filter((name) => !/^(expected\.safetensors|case\.json)$/.test(name))
      .map((name) => [name, readFileSync(join(folder, name))]),
  )
/** What other repos have beside it. */
const BESIDE = {
  "README.md": "---\nlicense: mit\n---\n",
  "modeling_vit.py": "raise SystemExit\n",
  "pytorch_model.bin": "a pickle",
  "tf_model.h5": "keras",
  "flax_model.msgpack": "flax",
  "model.fp16.safetensors": "half",
  "onnx/model.onnx": "onnx",
  "training_args.bin": "arguments",
  "expected.safetensors": "of tests",
} as const

let hub: TestHub
beforeAll(async () => void (hub = await newHub()))
afterAll(() => hub.close())
afterEach(() => {
  hub.reset()
  for (const id of hub.store.ids()) hub.store.removeRepo(id)
})
const serve = (about: RepoOptions = {}, more: Record<string, string | Uint8Array> = {}, id = ID) =>
  hub.addRepo(id, { ...BESIDE, ...filesOf(v.caseFolder(CASE)), ...more }, about)
const online = (cacheDir: string, token: string | false = false) => ({ endpoint: hub.url, token, cacheDir })
/** Names of files whose bytes were asked for. */
const fetched = (from = hub): string[] =>
  from.requests.flatMap(({ host, path }) => (host === "hub" ? (/\/resolve\/[^/]+\/(.*)$/.exec(path)?.[1] ?? []) : [])).sort() // prettier-ignore
/** Download without real waits. */
const get = (cacheDir: string, { token = false, ...options }: DownloadOptions = {}, id = ID) => {
  const http = hubHttp({ endpoint: hub.url, clock: fakeClock(), ...(token && { token }) })
  return downloadModel(id, { endpoint: hub.url, token, cacheDir, http, ...options })
}

describe("every reference case by its repo id", () => {
  const cases = PARITY_ROOTS.flatMap(parityCases)

  it("loads cold from the loopback Hub and then, with the Hub gone, offline: with the outputs of its folder", async () => {
    expect(cases.length).toBeGreaterThan(30)
    const gone = await newHub()
    const cache = fresh()
    const options = { endpoint: gone.url, token: false as const, cacheDir: cache }
    const outputs = new Map<string, object>()
    for (const { name, folder } of cases) {
      const files = filesOf(folder)
      gone.addRepo(`owner/${name}`, { ...BESIDE, ...files })
      gone.reset()
      const { inputs } = readCase({ name, folder })
      outputs.set(name, await v.outputsOf(folder, inputs))
      expect(await v.outputsOf(`owner/${name}`, inputs, options), name).toEqual(outputs.get(name))
      // The revision, a list of as many pages as it has, and each file of the model once.
      expect(fetched(gone), name).toEqual(Object.keys(files).sort())
      const others = gone.requests.filter((r) => r.host === "hub" && !r.path.includes("/resolve/"))
      expect([...new Set(others.map((r) => r.path.split("/")[5]))]).toEqual(["revision", "tree"])
      expect(layoutProblems(repoIn(cache, `owner/${name}`))).toEqual([])
    }
    await gone.close()
    for (const { name, folder } of cases) {
      const { inputs } = readCase({ name, folder })
      expect(await v.outputsOf(`owner/${name}`, inputs, { ...options, offline: true }), name).toEqual(outputs.get(name))
    }
    expect(gone.requests.filter((r) => r.path.includes(cases[0]!.name))).toEqual([])
    for (const place of await cachedRepos(cache)) expect((await findDamage(place)).damages, place.repo).toEqual([])
    expect(await inventory(cache)).toHaveLength(cases.length)
  })

  it("has its commit in model.source, and its warnings among the model's", async () => {
    const { id: commit } = serve()
    const cache = fresh()
    const model = await loadPretrained(ID, online(cache))
    expect(model.source).toMatchObject({ name: ID, commit })
    hub.fault({ on: /revision/, do: { status: 401 } })
    const again = await loadPretrained(ID, online(cache))
    expect(again.warnings.join()).toContain("is used, as it is in the cache")
    await Promise.all([model.release(), again.release()])
  })
})

describe("a revision", () => {
  it("is a branch, a tag, a pull request, a commit or the start of one; each has its own files, online and off", async () => {
    const config = (n: number) => readFileSync(join(v.caseFolder(CASE), "config.json"), "utf8") + "\n".repeat(n)
    const commits = [serve({}, { "config.json": config(0) }), ...["step/1", "refs/pr/7"].map((revision, i) => serve({ revision }, { "config.json": config(i + 1) }))] // prettier-ignore
    const [first, branch, pull] = commits.map((c) => c.id) as [string, string, string]
    hub.store.setRefs(ID, { ...hub.refs(ID), tags: { "v1.0": first } })
    const main = serve({}, { "config.json": config(3) }).id
    const cache = fresh()
    const wanted = [["main", main, 3], ["v1.0", first, 0], ["step/1", branch, 1], ["refs/pr/7", pull, 2], [first, first, 0], [branch.slice(0, 7), branch, 1]] as const // prettier-ignore
    for (const offline of [false, true]) {
      for (const [revision, commit, n] of wanted) {
        const model = await get(cache, { revision, offline })
        expect(model.commit, revision).toBe(commit)
        expect(readFileSync(join(model.folder, "config.json"), "utf8")).toBe(config(n))
        expect(pythonFinds(cache, ID, revision, "config.json")).toBe(join(model.folder, "config.json"))
      }
      // One file of weights, four configs.
      expect(fetched()).toEqual([...Array<string>(4).fill("config.json"), "model.safetensors"])
    }
    expect(layoutProblems(repoIn(cache, ID))).toEqual([])
    const other = await thrown(get(cache, { revision: "v2" }))
    expect([other.code, other.message]).toEqual(["E_HUB_NOT_FOUND", expect.stringMatching(/revision v2.*no such revision/)]) // prettier-ignore
    expect((await thrown(get(cache, { revision: "v2", offline: true }))).code).toBe("E_OFFLINE")
  })

  it("that moves is followed: its new files come, and the old commit stays", async () => {
    const old = serve()
    const cache = fresh()
    const { inputs } = readCase({ name: CASE, folder: v.caseFolder(CASE) })
    const before = await v.outputsOf(ID, inputs, online(cache))
    const weights = Buffer.from(filesOf(v.caseFolder(CASE))["model.safetensors"]!)
    // The last number of the last tensor: the smallest change that a model can have.
    weights.writeFloatLE(weights.readFloatLE(weights.length - 4) + 1, weights.length - 4)
    const next = serve({}, { "model.safetensors": weights })
    hub.requests.length = 0
    const after = await v.outputsOf(ID, inputs, online(cache))
    expect(after).not.toEqual(before)
    expect(fetched()).toEqual(["model.safetensors"])
    hub.requests.length = 0
    expect(await v.outputsOf(ID, inputs, { ...online(cache), revision: old.id })).toEqual(before)
    expect(await v.outputsOf(ID, inputs, { ...online(cache), offline: true })).toEqual(after)
    expect(hub.requests).toEqual([])
    expect(readFileSync(join(repoIn(cache, ID), "refs/main"), "utf8")).toBe(next.id)
    expect(layoutProblems(repoIn(cache, ID))).toEqual([])
  })

  it("that has moved between two requests gives the files of one commit", async () => {
    const first = serve()
    hub.fault({ on: /\/tree\//, do: { delay: 100 } })
    const cache = fresh()
    const work = get(cache)
    await expect.poll(() => hub.requests.length, { interval: 2 }).toBe(2)
    serve({}, { "config.json": "{}" })
    const { commit, folder } = await work
    expect(commit).toBe(first.id)
    expect(readFileSync(join(folder, "config.json"), "utf8")).not.toBe("{}")
  })
})

describe("a repo", () => {
  it("that is gated loads for who has access, and tells the others where to ask", async () => {
    serve({ gated: true })
    const cache = fresh()
    for (const token of [false, "hf_other"] as const) {
      const error = await thrown(get(cache, { token }))
      expect([error.code, error.repo]).toEqual(["E_HUB_GATED", ID])
      expect(error.message).toContain(`${hub.url}/${ID}`)
    }
    expect(existsSync(join(repoIn(cache, ID), "refs/main"))).toBe(false)
    hub.grant("other")
    const { folder } = await get(cache, { token: "hf_other" })
    // What is in the cache is there for whoever reads the disk.
    expect((await get(cache, { offline: true })).folder).toBe(folder)
    hub.requests.length = 0
    await get(cache)
    expect(fetched()).toEqual([])
  })

  it("that is private is there for its owner alone, and for others as if it were not", async () => {
    serve({ private: true })
    const cache = fresh()
    const none = await thrown(get(cache))
    const other = await thrown(get(cache, { token: "hf_other" }))
    const none2 = await thrown(get(cache, {}, "owner/none"))
    expect([none.code, other.code, none2.code]).toEqual(Array(3).fill("E_HUB_NOT_FOUND"))
    expect(none.message.replaceAll("model", "none")).toBe(none2.message.replaceAll("model", "none"))
    expect(none.message).toMatch(/private.*HF_TOKEN/)
    const bad = await thrown(get(cache, { token: "hf_wrong" }))
    expect([bad.code, bad.message]).toEqual(["E_HUB_AUTH", expect.not.stringContaining("hf_wrong")])
    expect(readdirSync(cache)).toEqual([])
    await get(cache, { token: "hf_read" })
    expect(hub.requests.filter((r) => r.host === "cdn" && r.headers.authorization !== undefined)).toEqual([])
  })

  it("that was renamed loads by its old name, into the old name's place", async () => {
    serve({ private: true }, {}, "owner/old")
    hub.rename("owner/old", "org/new")
    const cache = fresh()
    await get(cache, { token: "hf_write" }, "owner/old")
    expect(layoutProblems(repoIn(cache, "owner/old"))).toEqual([])
    expect(pythonFinds(cache, "owner/old", "main", "config.json")).toBeDefined()
    hub.requests.length = 0
    await get(cache, { token: "hf_write" }, "owner/old")
    await get(cache, { offline: true }, "owner/old")
    expect(fetched()).toEqual([])
    expect(readdirSync(cache).filter((n) => n.startsWith("models--"))).toEqual(["models--owner--old"])
  })

  it("of another kind with the name is none", async () => {
    serve({ type: "dataset" })
    expect((await thrown(get(fresh()))).code).toBe("E_HUB_NOT_FOUND")
  })

  it("with pickles alone is refused before any of it comes, and loads where that is allowed", async () => {
    const legacy = join(v.caseFolder(".."), "legacy")
    hub.addRepo(ID, { ...filesOf(legacy), "README.md": "", "train.py": "" })
    const cache = fresh()
    const error = await thrown(loadPretrained(ID, online(cache)))
    expect([error.code, error.exitCode, error.message]).toEqual(["E_UNSAFE_FORMAT", 3, expect.stringMatching(/owner\/model.*model_640\.pth.*--allow-pickle/)]) // prettier-ignore
    expect(fetched()).toEqual([])
    for (const offline of [false, true]) {
      const options = { ...online(cache), allowPickle: true, offline }
      expect(await v.using(ID, (model) => model.config.family, options)).toBe("base-vit")
    }
    expect(fetched()).toEqual(["config.json", "model_640.pth"])
    expect((await thrown(loadPretrained(ID, { ...online(cache), offline: true }))).code).toMatch(/E_OFFLINE|E_UNSAFE_FORMAT/) // prettier-ignore
  })

  it("without weights (CF-20) names what was looked for, without a config it is the config that is missed", async () => {
    hub.addRepo(ID, { "config.json": "{}", "README.md": "" })
    const error = await thrown(get(fresh()))
    expect([error.code, error.message]).toEqual(["E_HUB_NOT_FOUND", expect.stringContaining("model.safetensors")])
    hub.addRepo("owner/bare", { "model.safetensors": filesOf(v.caseFolder(CASE))["model.safetensors"]! })
    expect((await thrown(loadPretrained("owner/bare", online(fresh())))).code).toBe("E_CONFIG")
  })

  it("of shards gets them by its index, those that a first attempt missed too", async () => {
    const name = "hf-vit-sharded"
    const files = filesOf(v.caseFolder(name))
    hub.addRepo(ID, { ...BESIDE, ...files, "model-00001-of-00009.safetensors": "of another index" })
    const cache = fresh()
    hub.fault({ on: /^cdn GET .*00002-of-00003/, do: { status: 403 } })
    await thrown(get(cache))
    expect(existsSync(join(repoIn(cache, ID), "refs/main"))).toBe(false)
    expect((await thrown(get(cache, { offline: true }))).code).toBe("E_OFFLINE")
    const sent = () => hub.requests.filter((r) => r.host === "cdn" && r.status === 200).reduce((n, r) => n + r.sent, 0)
    const { inputs } = readCase({ name, folder: v.caseFolder(name) })
    expect(await v.outputsOf(ID, inputs, online(cache))).toEqual(await v.outputsOf(v.caseFolder(name), inputs))
    const shards = Object.keys(files).filter((n) => n.endsWith(".safetensors"))
    const size = shards.reduce((n, shard) => n + files[shard]!.length, 0)
    expect(sent()).toBe(size)
    expect(layoutProblems(repoIn(cache, ID))).toEqual([])
  })
})

describe("a cache shared with Python (G12)", () => {
  const REFS = ["main", "v1.0", "feature/a", "refs/pr/1"]
  /** A repo in which all these mean one commit. */
  function serveRefs() {
    const commit = serve()
    const all = Object.fromEntries(REFS.map((ref) => [ref, commit.id]))
    const { "v1.0": tag, ...branches } = all
    hub.store.setRefs(ID, { branches, tags: { "v1.0": tag! } })
    return { commit, files: new Map(Object.entries(filesOf(v.caseFolder(CASE)))), revisions: [...REFS, commit.id] }
  }

  it("that we filled is found by its rules: by branch, tag, pull request and commit, and what is absent too", async () => {
    const { files, revisions } = serveRefs()
    const cache = fresh()
    for (const revision of REFS) await get(cache, { revision })
    for (const revision of revisions) {
      for (const [name, bytes] of files)
        expect(readFileSync(pythonFinds(cache, ID, revision, name)!).equals(bytes)).toBe(true)
      expect(pythonFinds(cache, ID, revision, "preprocessor_config.json")).toBe("absent")
      expect(pythonFinds(cache, ID, revision, "README.md")).toBe(undefined)
    }
    expect(layoutProblems(repoIn(cache, ID))).toEqual([])
  })

  it.each(["links", "copies", "shared"] as const)("that it filled (%s) is used without a byte, offline without a request", async (way) => {
    const { commit, files, revisions } = serveRefs()
    const cache = fresh()
    const repo = writePythonCache(cache, ID, commit, files, REFS, way)
    mkdirSync(join(repo, ".no_exist", commit.id), { recursive: true })
    writeFileSync(join(repo, ".no_exist", commit.id, "preprocessor_config.json"), "")
    const { inputs } = readCase({ name: CASE, folder: v.caseFolder(CASE) })
    const expected = await v.outputsOf(v.caseFolder(CASE), inputs)
    for (const revision of revisions)
      expect(await v.outputsOf(ID, inputs, { ...online(cache), revision, offline: true }), revision).toEqual(expected)
    await get(cache, { revision: commit.id })
    expect(hub.requests).toEqual([])
    for (const revision of REFS) await get(cache, { revision })
    expect(hub.requests.filter((r) => /resolve|tree/.test(r.path))).toEqual([])
    expect(await findDamage(repoPlace(cache, ID))).toMatchObject({ damages: [] })
  }) // prettier-ignore

  it("that it filled in part gets the rest: weights, shards, preprocessing", async () => {
    const shards = filesOf(v.caseFolder("hf-vit-sharded"))
    const files = { ...shards, "preprocessor_config.json": Buffer.from('{"image_processor_type":"ViTImageProcessor","size":32}') } // prettier-ignore
    const commit = hub.addRepo(ID, files)
    const names = Object.keys(files).filter((n) => n.endsWith(".safetensors"))
    for (const without of [["config.json"], ["model.safetensors.index.json"], names.slice(0, 1), names, ["preprocessor_config.json"]]) {
      const cache = fresh()
      writePythonCache(cache, ID, commit, new Map(Object.entries(files).filter(([name]) => !without.includes(name))), ["main"]) // prettier-ignore
      hub.requests.length = 0
      const { folder } = await get(cache)
      expect(fetched(), without.join()).toEqual(without)
      for (const name of Object.keys(files)) expect(existsSync(join(folder, name)), name).toBe(true)
      hub.requests.length = 0
      await get(cache, { revision: commit.id })
      expect(hub.requests).toEqual([])
      expect(layoutProblems(repoIn(cache, ID))).toEqual([])
    }
  }) // prettier-ignore

  it("may hold no links at all, where HF_HUB_DISABLE_SYMLINKS is set", async () => {
    serve()
    const cache = fresh()
    process.env["HF_HUB_DISABLE_SYMLINKS"] = "1"
    const { folder } = await get(cache).finally(() => delete process.env["HF_HUB_DISABLE_SYMLINKS"])
    for (const name of readdirSync(folder)) expect(lstatSync(join(folder, name)).isFile()).toBe(true)
    expect((await findDamage(repoPlace(cache, ID))).damages).toEqual([])
  })
})
