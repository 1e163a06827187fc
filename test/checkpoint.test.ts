/** @file Checkpoint folders: which file is chosen, shards against their index, links in and out of the Hub cache, pickles. */
import {
  cpSync,
  mkdirSync,
  mkdtempSync,
  readFileSync,
  realpathSync,
  rmSync,
  symlinkSync,
  truncateSync,
  writeFileSync,
} from "node:fs"
import { tmpdir } from "node:os"
import { dirname, join, resolve } from "node:path"
import { afterAll, describe, expect, it } from "vitest"
import { PrismaError } from "../src/errors.ts"
import { type Checkpoint, openCheckpoint } from "../src/files/checkpoint.ts"
import { readTensor } from "../src/files/safetensors-file.ts"
import { bytesOf } from "../src/tensor/tensor.ts"
import { runTs } from "./helpers/child.ts"
import { readSafetensors as readPlainly } from "./helpers/read-safetensors.ts"
import { entry, file } from "./helpers/safetensors-corpus.ts"

const fixtures = resolve(import.meta.dirname, "fixtures")
const scratch = realpathSync(mkdtempSync(join(tmpdir(), "vit-prisma-checkpoint-")))
afterAll(() => rmSync(scratch, { recursive: true }))

let folders = 0
/** A new folder with these files; an object is written as JSON. */
function folder(files: Record<string, Uint8Array | string | object>, at = `folder-${folders++}`): string {
  const dir = join(scratch, at)
  mkdirSync(dir, { recursive: true })
  for (const [name, content] of Object.entries(files)) {
    mkdirSync(dirname(join(dir, name)), { recursive: true })
    const isRaw = typeof content === "string" || content instanceof Uint8Array
    writeFileSync(join(dir, name), isRaw ? content : JSON.stringify(content))
  }
  return dir
}

async function refusal(work: Promise<unknown>): Promise<PrismaError> {
  const error: unknown = await work.then(
    () => new Error("was accepted"),
    (e: unknown) => e,
  )
  if (!(error instanceof PrismaError)) throw error
  expect(error.message).not.toContain("\n")
  return error
}

const weights = (...names: string[]): Uint8Array =>
  file(`{${names.map((name, i) => entry(name, "F32", "[2]", 8 * i, 8 * i + 8)).join(",")}}`, 8 * names.length)
const index = (map: Record<string, unknown>, total?: number) => ({ metadata: { total_size: total }, weight_map: map })
const INDEX = "model.safetensors.index.json"

describe("the weights of a folder", () => {
  const every = [
    "model.safetensors",
    INDEX,
    "open_clip_model.safetensors",
    "open_clip_model.safetensors.index.json",
    "pytorch_model.bin",
    "model.pth",
  ]
  const content = (name: string) =>
    name.endsWith(".json") ? index({ a: "s" }) : name.endsWith("s") ? weights("a") : "not looked at"

  it("are looked for in the documented order", async () => {
    for (let from = 0; from < 4; from++) {
      const present = every.slice(from)
      const dir = folder({ s: weights("a"), ...Object.fromEntries(present.map((name) => [name, content(name)])) })
      const { source, format, files, tensors, warnings } = await openCheckpoint(dir)
      expect([source, format, [...tensors.keys()]]).toEqual([every[from], "safetensors", ["a"]])
      expect(files).toEqual([join(dir, source.endsWith(".json") ? "s" : source)])
      expect(warnings.length).toBe(3 - from)
      for (const other of present.slice(1, 4 - from)) expect(warnings.join()).toContain(`${other} is there too`)
    }
  })

  it("that are not there are an error that lists the names tried", async () => {
    const error = await refusal(openCheckpoint(folder({ "config.json": {}, "a.pth": "", "b.pt": "" })))
    expect(error.code).toBe("E_HUB_NOT_FOUND")
    for (const name of every) expect(error.message).toContain(name)
    expect(error.message).toContain("there are 2 .pth and .pt files")
  })

  it("need a folder", async () => {
    expect((await refusal(openCheckpoint(join(scratch, "nowhere")))).code).toBe("E_INPUT")
    expect((await refusal(openCheckpoint(join(folder({ x: "" }), "x")))).code).toBe("E_INPUT")
    expect((await refusal(openCheckpoint("a\0b"))).code).toBe("E_INPUT")
  })

  it("keep formats that cannot be computed with apart", async () => {
    const bytes = file(`{${entry("a", "F32", "[2]", 0, 8)},${entry("f8", "F8_E5M2", "[3]", 8, 11)}}`, 11)
    const { tensors, opaque } = await openCheckpoint(folder({ "model.safetensors": bytes }))
    expect([...tensors.keys()]).toEqual(["a"])
    expect(opaque.get("f8")).toMatchObject({ rawDtype: "F8_E5M2", shape: [3] })
  })

  it("are found in folders of any name", async () => {
    const dir = folder({ "model.safetensors": weights("a") }, `it's "a" b#%41 \u{1f600}/x`)
    expect((await openCheckpoint(dir)).files).toEqual([join(dir, "model.safetensors")])
  })
})

async function bytesByName({ tensors }: Checkpoint): Promise<Map<string, Buffer>> {
  const found = new Map<string, Buffer>()
  for (const [name, t] of tensors) found.set(name, Buffer.from(bytesOf("data" in t ? t : await readTensor(t))))
  return found
}

describe("shards", () => {
  it("of a library's checkpoint hold what a plain reader finds", async () => {
    const dir = join(fixtures, "reference/hf-vit-sharded")
    const checkpoint = await openCheckpoint(dir)
    const plain = new Map<string, Buffer>()
    for (const i of [1, 2, 3]) {
      const { tensors } = readPlainly(join(dir, `model-0000${i}-of-00003.safetensors`))
      for (const [name, { bytes }] of tensors) plain.set(name, Buffer.from(bytes))
    }
    expect(await bytesByName(checkpoint)).toEqual(plain)
    expect(checkpoint.warnings).toEqual([])
    expect(checkpoint.files.length).toBe(3)
  })

  it.each<[string, unknown]>([
    ["not JSON", "{"],
    ["a list", []],
    ["null", "null"],
    ["no weight_map", {}],
    ["weight_map a list", { weight_map: [] }],
    ["weight_map null", { weight_map: null }],
    ["a number as shard", index({ a: 1 })],
    ["null as shard", index({ a: null })],
    ["a list as shard", index({ a: ["s"] })],
    ["nothing", index({})],
    ["deep", `${'{"a":'.repeat(100_000)}1${"}".repeat(100_000)}`],
    ["20,000 shards", index(Object.fromEntries(Array.from({ length: 20_000 }, (_, i) => [`t${i}`, `s${i}`])))],
  ])("need a sound index: %s", async (_, content) => {
    const dir = folder({ [INDEX]: content as string | object })
    expect((await refusal(openCheckpoint(dir))).code).toBe("E_INDEX")
  })

  it("need an index of a sane size, which is not read before", async () => {
    const dir = folder({ [INDEX]: "" })
    truncateSync(join(dir, INDEX), 300_000_000)
    const program = `
import { openCheckpoint } from "../src/files/checkpoint.ts"
const base = process.memoryUsage.rss()
const error = await openCheckpoint(process.argv[2]!).catch((e: unknown) => e as { code: string })
console.log("code" in error && error.code, (process.memoryUsage.rss() - base) / 2 ** 20 < 64)
`
    expect((await runTs(program, { args: [dir] })).stdout).toBe("E_INDEX true\n")
  })

  it("that are missing are listed all, and nothing else is said", async () => {
    const dir = folder({ b: weights("b"), [INDEX]: index({ a: "a", b: "b", c: "sub/c", d: "b/d" }) })
    const error = await refusal(openCheckpoint(dir))
    expect(error.code).toBe("E_SHARD_MISSING")
    expect(error.message).toContain("3 of 4 shards are missing: a, sub/c, b/d")
  })

  it.each(["../x", "/etc/x", "C:\\x", "D:x", "\\\\h\\s\\x", "a/../../b", "folder/\\evil", "x\0", "", "."])(
    "must have a safe name, unlike %j",
    async (name) => {
      // Without the check the missing shard would be found first.
      const dir = folder({ [INDEX]: index({ a: "missing", b: name }) })
      expect((await refusal(openCheckpoint(dir))).code).toBe("E_UNSAFE_PATH")
    },
  )

  it.each<[string, Record<string, Uint8Array>, Record<string, string>, string, string]>([
    ["a tensor in no shard", { s: weights("a") }, { a: "s", b: "s" }, "E_INDEX_MISMATCH", '"b" is in no shard'],
    ["a tensor not in the index", { s: weights("a", "b") }, { a: "s" }, "E_INDEX_MISMATCH", '"b" of "s" is not in'],
    [
      "a tensor elsewhere",
      { s: weights("a"), t: weights("b") },
      { a: "t", b: "t", c: "s" },
      "E_INDEX_MISMATCH",
      'not in "t"',
    ],
    [
      "a tensor twice",
      { s: weights("a"), t: weights("a", "b") },
      { a: "s", b: "t" },
      "E_DUPLICATE_TENSOR",
      '"s" and in "t"',
    ],
    ["a pickle", { s: Buffer.from("\x80\x02}q\0.....", "latin1") }, { a: "s" }, "E_NOT_SAFETENSORS", "pickle"],
  ])("must fit the index: %s", async (_, shards, map, code, says) => {
    const error = await refusal(openCheckpoint(folder({ ...shards, [INDEX]: index(map) })))
    expect(error.code).toBe(code)
    expect(error.message).toContain(says)
  })

  it("may be in folders, and a wrong total_size is a warning", async () => {
    const dir = folder({
      "sub/s": weights("a"),
      t: weights("__proto__"),
      [INDEX]: `{"weight_map":{"a":"sub/s","__proto__":"t"}}`,
    })
    expect((await openCheckpoint(dir)).warnings).toEqual([])
    const other = folder({ s: weights("a"), [INDEX]: index({ a: "s" }, 9) })
    expect((await openCheckpoint(other)).warnings).toEqual([
      `${join(other, INDEX)}: total_size is 9, the tensors have 8 bytes`,
    ])
    expect((await openCheckpoint(folder({ s: weights("a"), [INDEX]: index({ a: "s" }, 8) }))).warnings).toEqual([])
    const f8 = file(
      `{${entry("f8", "F8_E4M3", "[3]", 0, 3)},"x":{"dtype":"U8","shape":[0],"data_offsets":[3,3],"y":0}}`,
      3,
    )
    const mixed = await openCheckpoint(
      folder({ s: weights("a"), t: f8, [INDEX]: index({ a: "s", f8: "t", x: "t" }, 11) }),
    )
    expect([[...mixed.tensors.keys()], [...mixed.opaque.keys()]]).toEqual([["a", "x"], ["f8"]])
    expect(mixed.warnings.join()).toMatch(/^[^,]*"y" is not known[^,]*$/)
  })
})

describe("links", () => {
  const sha = "0123456789abcdef0123456789abcdef01234567"
  /** A Hub cache of one repository; `links` are the snapshot's, by name. */
  function cache(blobs: Record<string, Uint8Array | object>, links: Record<string, string>): string {
    const repo = folder(
      Object.fromEntries(Object.entries(blobs).map(([name, b]) => [`blobs/${name}`, b])),
      `cache-${folders++}/models--o--n`,
    )
    const dir = join(repo, "snapshots", sha)
    mkdirSync(dir, { recursive: true })
    for (const [name, to] of Object.entries(links)) symlinkSync(to, join(dir, name))
    return dir
  }
  const outside = folder({ "model.safetensors": weights("a"), s: weights("a") })

  it("of a snapshot lead to blobs, and the blobs' own paths are given", async () => {
    const dir = cache({ h1: weights("a"), h2: index({ a: "s" }) }, { s: "../../blobs/h1", [INDEX]: "../../blobs/h2" })
    expect((await openCheckpoint(dir)).files).toEqual([join(dir, "../../blobs/h1")])
    symlinkSync(dir, join(scratch, "to-snapshot"))
    expect((await openCheckpoint(join(scratch, "to-snapshot"))).files).toEqual([join(dir, "../../blobs/h1")])
    const copied = cache({}, {})
    writeFileSync(join(copied, "model.safetensors"), weights("a"))
    expect((await openCheckpoint(copied)).files).toEqual([join(copied, "model.safetensors")])
  })

  it("of a snapshot that lead elsewhere or nowhere are a corrupt cache", async () => {
    const elsewhere = cache({}, { "model.safetensors": join(outside, "model.safetensors") })
    expect((await refusal(openCheckpoint(elsewhere))).code).toBe("E_CACHE_CORRUPT")
    const nowhere = cache({}, { "model.safetensors": "../../blobs/gone" })
    expect((await refusal(openCheckpoint(nowhere))).code).toBe("E_CACHE_CORRUPT")
    const beside = cache({}, { "model.safetensors": "../../blobs-evil/x" })
    writeFileSync(join(folder({}, "x-evil"), "x"), weights("a"))
    cpSync(join(scratch, "x-evil"), join(beside, "../../blobs-evil"), { recursive: true })
    expect((await refusal(openCheckpoint(beside))).code).toBe("E_CACHE_CORRUPT")
  })

  it("of shards that leave both are refused", async () => {
    const snapshot = cache({ h: index({ a: "s" }) }, { s: join(outside, "s"), [INDEX]: "../../blobs/h" })
    expect((await refusal(openCheckpoint(snapshot))).code).toBe("E_UNSAFE_PATH")
    const plain = folder({ [INDEX]: index({ a: "s" }) })
    symlinkSync(join(outside, "s"), join(plain, "s"))
    expect((await refusal(openCheckpoint(plain))).code).toBe("E_UNSAFE_PATH")
    const through = folder({ [INDEX]: index({ a: "d/s" }) })
    symlinkSync(outside, join(through, "d"))
    expect((await refusal(openCheckpoint(through))).code).toBe("E_UNSAFE_PATH")
    const inside = folder({ real: weights("a"), [INDEX]: index({ a: "s" }) })
    symlinkSync("real", join(inside, "s"))
    expect((await openCheckpoint(inside)).files).toEqual([join(inside, "real")])
  })

  it("of a user's own single file lead anywhere", async () => {
    const dir = folder({})
    symlinkSync(join(outside, "model.safetensors"), join(dir, "model.safetensors"))
    expect((await openCheckpoint(dir)).files).toEqual([join(outside, "model.safetensors")])
    const training = folder({}, "run/snapshots/epoch-3")
    symlinkSync(join(outside, "model.safetensors"), join(training, "model.safetensors"))
    expect((await openCheckpoint(training)).files).toEqual([join(outside, "model.safetensors")])
    symlinkSync("gone", join(folder({}, "dangling"), "model.safetensors"))
    expect((await refusal(openCheckpoint(join(scratch, "dangling")))).code).toBe("E_NOT_A_FILE")
  })
})

describe("pickles", () => {
  const pickle = readFileSync(join(fixtures, "pickle/contiguous.pth"))

  it.each(["pytorch_model.bin", "open_clip_pytorch_model.bin", "model.pth", "model.bin", "mine.pth", "mine.pt"])(
    "%s is read by the flag alone",
    async (name) => {
      const dir = folder({ [name]: pickle })
      const error = await refusal(openCheckpoint(dir))
      expect(error.code).toBe("E_UNSAFE_FORMAT")
      expect(error.message).toContain("--allow-pickle")
      expect(error.message).toContain("https://huggingface.co/spaces/safetensors/convert")
      const checkpoint = await openCheckpoint(dir, { allowPickle: true })
      expect([checkpoint.source, checkpoint.format, checkpoint.files]).toEqual([name, "pickle", [join(dir, name)]])
      const { tensors } = readPlainly(join(fixtures, "pickle/contiguous.safetensors"))
      const found = await bytesByName(checkpoint)
      expect([...found.keys()].sort()).toEqual([...tensors.keys()].sort())
      for (const [tensor, { bytes }] of tensors) expect(Buffer.compare(found.get(tensor)!, bytes)).toBe(0)
    },
  )

  it("stay closed where there is safetensors", async () => {
    const dir = folder({ "pytorch_model.bin": "cos\nsystem\n", "model.safetensors": weights("a") })
    expect((await openCheckpoint(dir, { allowPickle: true })).source).toBe("model.safetensors")
  })

  it("in shards are read by their index", async () => {
    const names = [...readPlainly(join(fixtures, "pickle/contiguous.safetensors")).tensors.keys()]
    const map = Object.fromEntries(names.map((name) => [name, "p-1.bin"]))
    const dir = folder({ "p-1.bin": pickle, "pytorch_model.bin.index.json": index(map) })
    expect((await refusal(openCheckpoint(dir))).code).toBe("E_UNSAFE_FORMAT")
    const { source, tensors } = await openCheckpoint(dir, { allowPickle: true })
    expect([source, [...tensors.keys()].sort()]).toEqual(["pytorch_model.bin.index.json", names.sort()])
  })
})
