/** @file Where models are loaded from: folders, the Hub cache, exports, pickles. */
import { copyFileSync, mkdirSync, readdirSync, readFileSync, symlinkSync, writeFileSync } from "node:fs"
import { homedir } from "node:os"
import { basename, join, relative } from "node:path"
import { afterAll, afterEach, beforeAll, beforeEach, describe, expect, it } from "vitest"
import { convertModel } from "../src/export/convert.ts"
import { loadPretrained, PrismaError } from "../src/index.ts"
import { fakeHub, type FakeHub } from "./helpers/download-hub.ts"
import { readCase } from "./helpers/parity.ts"
import * as v from "./helpers/variants.ts"

const root = v.scratch()
const CASE = "hf-vit-grey-relu"
const COMMIT = "0123456789abcdef0123456789abcdef01234567"
const { inputs } = readCase({ name: CASE, folder: v.caseFolder(CASE) })
const expected = await v.outputsOf(v.caseFolder(CASE), inputs)

/** A new empty folder. */
let count = 0
const fresh = (): string => v.folderAt(root, `folder ${count++}`)

/** A Hub cache with one model, as huggingface_hub lays it out: every file of the snapshot is a relative link to a blob. */
function hubCache(cache: string, id = "owner/model", from = v.caseFolder(CASE), refs: Record<string, string> = {}): string {
  const repo = join(cache, `models--${id.replace("/", "--")}`)
  const snapshot = v.folderAt(repo, "snapshots", COMMIT)
  v.folderAt(repo, "blobs")
  for (const file of readdirSync(from).filter((f) => f !== "expected.safetensors")) {
    const hash = Buffer.from(file).toString("hex")
    copyFileSync(join(from, file), join(repo, "blobs", hash))
    symlinkSync(join("..", "..", "blobs", hash), join(snapshot, file))
  }
  for (const [ref, commit] of Object.entries({ main: COMMIT, ...refs })) {
    mkdirSync(join(repo, "refs", ref, ".."), { recursive: true })
    writeFileSync(join(repo, "refs", ref), commit)
  }
  return repo
} // prettier-ignore

/** Replace a link or file. */
function link(path: string, to: string): void {
  v.remove(path)
  symlinkSync(to, path)
}

const blobOf = (repo: string, file: string): string => join(repo, "blobs", Buffer.from(file).toString("hex"))

// A Hub that has nothing: what the cache has not is nowhere.
let hub: FakeHub
beforeAll(async () => {
  hub = await fakeHub()
  process.env["HF_ENDPOINT"] = hub.url
})
afterAll(() => hub.close())

const at = process.cwd()
afterEach(() => process.chdir(at))

describe("a folder", () => {
  it("is found by absolute and relative paths, with a slash at the end, and through a link", async () => {
    const parent = fresh()
    v.copyInto(CASE, join(parent, "model"))
    symlinkSync("model", join(parent, "link"))
    process.chdir(parent)
    const names = ["model", "./model", "model/", "./model//", "../" + basename(parent) + "/model", join(parent, "model"), "link", "link/"]
    for (const name of names) expect(await v.outputsOf(name, inputs), name).toEqual(expected)
    process.chdir("model")
    expect(await v.outputsOf(".", inputs)).toEqual(expected)
    expect(await v.outputsOf("./", inputs)).toEqual(expected)
  }) // prettier-ignore

  it("goes before a repo id of the same spelling; one without a model's files does not", async () => {
    const parent = fresh()
    const cacheDir = fresh()
    hubCache(cacheDir, "owner/model", v.caseFolder("hf-deit"))
    process.chdir(parent)
    v.folderAt(parent, "owner", "model", "src")
    expect(await v.using("owner/model", (m) => m.config.architecture, { cacheDir })).toBe("DeiTForImageClassification")
    v.copyInto(CASE, join(parent, "owner", "model"))
    expect(await v.outputsOf("owner/model", inputs, { cacheDir })).toEqual(expected)
  })

  it.each(["with spaces", "it's", 'a "quoted" one', "🐈 é 日本", "#1", "100%", "%2F", "a;b&c|d$e`f", "[x]*?", "-rf", "C:x"])(
    "may be called %j, and the model runs",
    async (name) => {
      const parent = fresh()
      v.copyInto(CASE, join(parent, name))
      expect(await v.outputsOf(join(parent, name), inputs)).toEqual(expected)
      const shards = join(parent, name, "shards")
      v.copyInto("hf-vit-sharded", shards)
      const sharded = readCase({ name: "hf-vit-sharded", folder: v.caseFolder("hf-vit-sharded") }).inputs
      expect(await v.outputsOf(shards, sharded)).toEqual(await v.outputsOf(v.caseFolder("hf-vit-sharded"), sharded))
    },
  ) // prettier-ignore

  it("that is not there, is a file, is empty or holds no model is told apart", async () => {
    const parent = fresh()
    expect(await v.refused(join(parent, "nowhere"), "E_INPUT")).toMatch(/nowhere: no such folder/)
    expect(await v.refused("~/nowhere", "E_INPUT")).toContain("~/nowhere: no such folder")
    const file = join(v.caseFolder(CASE), "model.safetensors")
    expect(await v.refused(file, "E_INPUT")).toContain("is a file; give the folder it is in")
    process.chdir(v.caseFolder(".."))
    expect(await v.refused("reference/README.md", "E_INPUT")).toContain("is a file")
    expect(await v.refused(parent, "E_HUB_NOT_FOUND")).toMatch(/holds no weights; looked for model\.safetensors, .*pytorch_model\.bin/)
    writeFileSync(join(parent, "config.json"), "{}")
    expect(await v.refused(parent, "E_HUB_NOT_FOUND")).toContain("holds no weights")
    copyFileSync(file, join(parent, "model.safetensors"))
    v.remove(join(parent, "config.json"))
    expect(await v.refused(parent, "E_CONFIG")).toContain("holds weights but no config.json or open_clip_config.json")
  }) // prettier-ignore

  it("with two configs: config.json counts, unless the weights are open_clip's", async () => {
    const both = fresh()
    v.copyInto("timm-wide", both)
    v.copyInto("open-clip-quickgelu", both)
    expect(await v.using(both, (m) => [m.source.configFile, m.config.family])).toEqual(["config.json", "timm"])
    v.remove(join(both, "model.safetensors"))
    expect(await v.using(both, (m) => [m.source.configFile, m.config.family])).toEqual(["open_clip_config.json", "open-clip"]) // prettier-ignore
    copyFileSync(join(v.caseFolder("timm-wide"), "model.safetensors"), join(both, "model.safetensors"))
    v.remove(join(both, "config.json"))
    expect(await v.refused(both, "E_MISSING_TENSORS")).toContain("open_clip_config.json: CLIP (open-clip)")
  })
})

describe("a repo in the Hub cache", () => {
  const VARIABLES = ["HF_HUB_CACHE", "HUGGINGFACE_HUB_CACHE", "HF_HOME", "XDG_CACHE_HOME", "HOME"]
  const before = new Map(VARIABLES.map((name) => [name, process.env[name]]))
  const restore = () => {
    for (const [name, value] of before) {
      if (value === undefined) delete process.env[name]
      else process.env[name] = value
    }
  }
  beforeEach(() => VARIABLES.slice(0, 4).forEach((name) => delete process.env[name]))
  afterEach(restore)

  it("is found by branch, tag, pull request and commit", async () => {
    const cacheDir = fresh()
    hubCache(cacheDir, "owner/model", undefined, {
      "v1.0+cpu": `${COMMIT}\n`,
      "refs/pr/1": COMMIT,
      "feature/a": COMMIT,
    })
    for (const revision of [undefined, "main", "v1.0+cpu", "refs/pr/1", "feature/a", COMMIT]) {
      const options = { cacheDir, ...(revision && { revision }) }
      expect(await v.outputsOf("owner/model", inputs, options), revision).toEqual(expected)
    }
    hubCache(cacheDir, "model")
    expect(await v.outputsOf("model", inputs, { cacheDir })).toEqual(expected)
  })

  it("is looked for where the environment says, in huggingface_hub's order", async () => {
    const wrong = fresh()
    const set = [
      ["HOME", fresh(), [".cache", "huggingface", "hub"]],
      ["XDG_CACHE_HOME", fresh(), ["huggingface", "hub"]],
      ["HF_HOME", fresh(), ["hub"]],
      ["HUGGINGFACE_HUB_CACHE", fresh(), []],
      ["HF_HUB_CACHE", fresh(), []],
    ] as const
    for (const [name, folder, below] of set) {
      process.env[name] = wrong
      await v.refused("owner/model", "E_HUB_NOT_FOUND")
      process.env[name] = folder
      const repo = hubCache(v.folderAt(folder, ...below))
      const source = await v.using("owner/model", (m) => m.source.folder)
      expect(relative(repo, source)).toBe(join("snapshots", COMMIT))
    }
    expect(await v.refused("owner/model", "E_HUB_NOT_FOUND", { cacheDir: wrong })).toContain(wrong)
  })

  it("may lie below a ~ that no shell has replaced", async () => {
    process.env["HOME"] = fresh()
    process.env["HF_HOME"] = "~/hf # home"
    hubCache(v.folderAt(homedir(), "hf # home", "hub"))
    expect(await v.outputsOf("owner/model", inputs)).toEqual(expected)
  })

  it.each(["with spaces", "it's \"it\"", "🐈", "#", "100% %20"])("may lie below a home called %j", async (name) => {
    process.env["HOME"] = v.folderAt(fresh(), name)
    hubCache(v.folderAt(homedir(), ".cache", "huggingface", "hub"))
    expect(await v.outputsOf("owner/model", inputs)).toEqual(expected)
  }) // prettier-ignore

  it("may be moved elsewhere behind links", async () => {
    const [cache, moved] = [fresh(), fresh()]
    hubCache(moved, "owner/model")
    symlinkSync(moved, join(cache, "cache"))
    symlinkSync(join(moved, "models--owner--model"), join(cache, "models--owner--model"))
    expect(await v.outputsOf("owner/model", inputs, { cacheDir: join(cache, "cache") })).toEqual(expected)
    expect(await v.outputsOf("owner/model", inputs, { cacheDir: cache })).toEqual(expected)
    const blobs = join(moved, "models--owner--model", "blobs")
    const other = fresh()
    for (const blob of readdirSync(blobs)) copyFileSync(join(blobs, blob), join(other, blob))
    link(blobs, other)
    expect(await v.outputsOf("owner/model", inputs, { cacheDir: cache })).toEqual(expected)
  })

  it("that is not there is E_HUB_NOT_FOUND, which says what is", async () => {
    const cacheDir = fresh()
    expect(await v.refused("owner/model", "E_HUB_NOT_FOUND", { cacheDir })).toContain(join(cacheDir, "models--owner--model"))
    hubCache(cacheDir)
    const message = await v.refused("owner/model", "E_HUB_NOT_FOUND", { cacheDir, revision: "v2" })
    expect(message).toContain("owner/model at revision v2")
    expect(message).toContain(`it holds the commits ${COMMIT}`)
    await v.refused("owner/model", "E_HUB_NOT_FOUND", { cacheDir, revision: "f".repeat(40) })
    const repo = hubCache(cacheDir, "owner/empty", fresh())
    expect(await v.refused("owner/empty", "E_HUB_NOT_FOUND", { cacheDir })).toContain("lacks config.json, model.safetensors")
    writeFileSync(join(repo, "refs", "main"), "f".repeat(40))
    await v.refused("owner/empty", "E_HUB_NOT_FOUND", { cacheDir })
  }) // prettier-ignore

  it.each(["..", "a/b/c", "a--b/c", "-x", "x-/y", "x".repeat(97), "x.git", "datasets/a/b", "a/..", "a b/c", "a\u0000b", "", "é/x", "https://huggingface.co/a/b", "a/b@main", "a\\b\\c", "models--a--b"])(
    "has an id, which %j is not",
    async (id) => {
      process.chdir(fresh())
      expect(await v.refused(id, "E_REPO_ID", { cacheDir: fresh() })).toContain("expected a form like owner/name")
    },
  ) // prettier-ignore

  it.each(["", "..", "../x", "a/../b", "/etc/passwd", "a//b", "a/", "-x", "a b", "a\u0000", "a~1", "a^", "a:b", "a\\b", "x.lock", "x.lock/y", ".hidden", "a/.b", "@{u}", "a?", "a*", "a[", "x".repeat(256), "a\nb"])(
    "has a revision, which %j is not",
    async (revision) => {
      const cacheDir = fresh()
      hubCache(cacheDir)
      const message = await v.refused("owner/model", "E_REVISION", { cacheDir, revision })
      expect(message).toContain("of owner/model must be a branch, a tag or a commit")
    },
  ) // prettier-ignore

  const OUTSIDE = { "to a file": "/etc/hostname", "to a folder": "/etc", "to nothing": "../../blobs/nothing" }

  it.each(Object.entries(OUTSIDE))("is refused as damaged with a file that is a link %s", async (_, target) => {
    for (const file of ["config.json", "model.safetensors", "preprocessor_config.json"]) {
      const cacheDir = fresh()
      const repo = hubCache(cacheDir, "owner/model")
      const path = join(repo, "snapshots", COMMIT, file)
      if (file === "preprocessor_config.json") symlinkSync(target, path)
      else link(path, target)
      expect(await v.refused("owner/model", "E_CACHE_CORRUPT", { cacheDir }), file).toContain(file)
    }
  })

  it("is refused as damaged with a link out of its blobs, also to another repo's, or in place of its snapshot", async () => {
    const cacheDir = fresh()
    const [repo, other] = [hubCache(cacheDir), hubCache(cacheDir, "owner/model-2")]
    const config = join(repo, "snapshots", COMMIT, "config.json")
    link(config, blobOf(other, "config.json"))
    await v.refused("owner/model", "E_CACHE_CORRUPT", { cacheDir })
    link(config, blobOf(repo, "config.json"))
    link(blobOf(repo, "config.json"), "/etc/hostname")
    await v.refused("owner/model", "E_CACHE_CORRUPT", { cacheDir })
    link(join(repo, "snapshots", COMMIT), join(other, "snapshots", COMMIT))
    await v.refused("owner/model", "E_CACHE_CORRUPT", { cacheDir })
  }) // prettier-ignore

  it("is refused as damaged with a ref that names no commit", async () => {
    const cacheDir = fresh()
    const repo = hubCache(cacheDir)
    for (const text of [
      "",
      "main",
      COMMIT.slice(1),
      `${COMMIT}\n${COMMIT}`,
      "../../../etc",
      "\u0000",
      "x".repeat(1e6),
    ]) {
      writeFileSync(join(repo, "refs", "main"), text)
      expect(await v.refused("owner/model", "E_CACHE_CORRUPT", { cacheDir })).toContain("holds no commit")
    }
  })
})

describe("a pickle", () => {
  const folder = () => {
    const at = fresh()
    v.copyInto(CASE, at)
    v.remove(join(at, "model.safetensors"))
    return at
  }
  // torch.save of the same tensors; made by make.py beside it.
  const pickle = join(import.meta.dirname, "fixtures", "resample", "pytorch_model.bin")

  it.each(["pytorch_model.bin", "model.pth", "weights.pt"])("as %s is read where it is allowed", async (name) => {
    const at = folder()
    copyFileSync(pickle, join(at, name))
    const message = await v.refused(at, "E_UNSAFE_FORMAT")
    expect(message).toContain("--allow-pickle")
    expect(message).toContain("huggingface.co/spaces/safetensors/convert")
    expect(await v.outputsOf(at, inputs, { allowPickle: true })).toEqual(expected)
  })

  it("is left alone where there is a safetensors file", async () => {
    const at = fresh()
    v.copyInto(CASE, at)
    writeFileSync(join(at, "pytorch_model.bin"), "not a pickle")
    expect(await v.outputsOf(at, inputs, { allowPickle: true })).toEqual(expected)
  })
})

describe("an exported folder", () => {
  it("loads as it was, and no longer when a bit of it has changed", async () => {
    const to = join(fresh(), "export")
    await v.using(v.caseFolder(CASE), (model) => convertModel(model, to))
    expect(await v.outputsOf(to, inputs)).toEqual(expected)
    for (const name of ["model.safetensors", "config.json"]) {
      const copy = join(fresh(), "copy")
      v.copyFolder(to, copy)
      const bytes = readFileSync(join(copy, name))
      bytes[bytes.length - 3]! ^= 1
      writeFileSync(join(copy, name), bytes)
      const message = await v.refused(copy, "E_INTEGRITY")
      expect(message).toMatch(new RegExp(`${name}: expected \\d+ bytes with sha256 .*, got \\d+ bytes`))
      v.remove(join(copy, name))
      expect(await v.refused(copy, "E_INTEGRITY")).toContain(name)
    }
  })
})

describe("what is given by mistake", () => {
  it.each([undefined, null, 5, {}, []])("a name %j is a typed error", async (name) => {
    const error = await loadPretrained(name as never).catch((e: unknown) => e)
    expect(error).toBeInstanceOf(PrismaError)
    expect(error).toMatchObject({ code: "E_USAGE", message: expect.stringContaining(`got ${typeof name}`) as unknown })
  })
})
