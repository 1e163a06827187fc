/** @file Seeded splits, their files, and the search for equal images. */
import { mkdtemp, readFile, rm, writeFile } from "node:fs/promises"
import { tmpdir } from "node:os"
import { join } from "node:path"
import { afterAll, beforeAll, describe, expect, it } from "vitest"
import type { NamedDataset } from "../src/datasets/dataset.ts"
import { contentHash, generatorFingerprint, imageHash } from "../src/datasets/fingerprint.ts"
import { duplicates, leaks, type Parts, partition, readSplit, saveSplit, splitIndices } from "../src/datasets/split.ts"

/** A dataset whose images are single pixels. */
function dots(pixels: readonly number[], labels: readonly (number | number[])[] = pixels): NamedDataset {
  return {
    name: "dots",
    fingerprint: "f".repeat(64),
    classes: [],
    length: pixels.length,
    at: async (i) => ({
      image: { dtype: "uint8", shape: [1, 1, 1], data: Uint8Array.of(pixels[i]!) },
      label: labels[i]!,
    }),
  }
}

describe("splitIndices", () => {
  it("gives each sample to one part, as many as the fractions say", () => {
    const { train, test, val } = splitIndices(1000, { seed: 3, name: "a", test: 0.07, val: 0.2 })
    expect([train.length, test.length, val?.length]).toEqual([730, 70, 200])
    const all = [...train, ...test, ...val!]
    expect(all.toSorted((a, b) => a - b)).toEqual(Array.from({ length: 1000 }, (_, i) => i))
    for (const part of [train, test, val!]) expect(part.toSorted()).toEqual(part)
  })

  it("takes fractions of each class, rounded up as scikit-learn does", () => {
    const labels = Array.from({ length: 300 }, (_, i) => (i < 30 ? 7 : i % 3))
    const { test } = splitIndices(300, { test: 0.1, labels })
    const count = (label: number) => [...test].filter((i) => labels[i] === label).length
    expect([7, 0, 1, 2].map(count)).toEqual([3, 9, 9, 9])
    expect(splitIndices(25, { test: 0.1 }).test).toHaveLength(3)
  })

  it("is decided by seed and name", () => {
    const test = (seed: number, name: string) => splitIndices(500, { seed, name, test: 0.5 }).test.join()
    expect(test(0, "a")).toBe(test(0, "a"))
    expect(new Set([test(0, "a"), test(1, "a"), test(0, "b")]).size).toBe(3)
  })

  it.each([
    ["no samples", () => splitIndices(0, { test: 0.5 }), "E_DATASET_EMPTY", "dataset: has no samples to split"],
    ["one sample", () => splitIndices(1, { test: 0.5 }), "E_DATASET_EMPTY", "dataset: 1 samples, too few"],
    [
      "a class of one",
      () => splitIndices(3, { test: 0.5, labels: [0, 0, 4] }),
      "E_DATASET_EMPTY",
      "1 samples of class 4, too few",
    ],
    ["no part for testing", () => splitIndices(9, { test: 0 }), "E_CONFIG", "test above 0"],
    ["nothing left for training", () => splitIndices(9, { test: 0.5, val: 0.5 }), "E_CONFIG", "together below 1"],
    [
      "too few labels",
      () => splitIndices(9, { test: 0.5, labels: [1] }),
      "E_CONFIG",
      "a label for each of 9 samples, got 1",
    ],
    [
      "a seed too large",
      () => splitIndices(9, { test: 0.5, seed: 2 ** 53 }),
      "E_CONFIG",
      "seed must be a whole number",
    ],
  ])("refuses %s", (_, make, code, text) => {
    expect(make).toThrow(expect.objectContaining({ code, message: expect.stringContaining(text) }))
  })
})

describe("partition", () => {
  const parts = { train: Uint32Array.of(0, 2), test: Uint32Array.of(1), val: Uint32Array.of(3) }

  it("shows a dataset's parts", async () => {
    const { train, test, val } = partition(dots([5, 6, 7, 8]), parts)
    const pixels = async (d: NamedDataset) =>
      Promise.all(Array.from({ length: d.length }, async (_, i) => (await d.at(i)).image.data[0]))
    expect([await pixels(train), await pixels(test), await pixels(val)]).toEqual([[5, 7], [6], [8]])
    expect([train.name, test.name, val.name]).toEqual(["dots/train", "dots/test", "dots/val"])
    expect(new Set([train, test, val].map((d) => d.fingerprint)).size).toBe(3)
    expect(() => train.at(2)).toThrow(expect.objectContaining({ code: "E_INPUT" }))
  })

  it("refuses parts of another dataset", () => {
    expect(() => partition(dots([5, 6, 7]), parts)).toThrow(expect.objectContaining({ code: "E_INPUT" }))
    expect(() => partition(dots([5, 6, 7]), { ...parts, val: new Uint32Array() })).toThrow(
      expect.objectContaining({ code: "E_DATASET_EMPTY" }),
    )
  })
})

describe("a split's file", () => {
  let folder: string
  beforeAll(async () => {
    folder = await mkdtemp(join(tmpdir(), "split-"))
  })
  afterAll(() => rm(folder, { recursive: true }))

  const dataset = { name: "big", fingerprint: "ab".repeat(32), length: 60_001 }

  it("gives back what was written", async () => {
    const file = join(folder, "split.json")
    for (const val of [0, 0.1]) {
      const parts = splitIndices(dataset.length, { test: 0.2, val })
      await saveSplit(file, dataset, parts)
      expect(await readSplit(file, dataset)).toEqual(parts)
    }
    // Some samples may be in no part.
    const few: Parts = { train: Uint32Array.of(3), test: Uint32Array.of(0, 60_000) }
    await saveSplit(file, dataset, few)
    expect(await readSplit(file, dataset)).toEqual(few)
    const text = await readFile(file, "utf8")
    expect(text.length).toBeLessThan(25_000)
    expect(JSON.parse(text)).toMatchObject({ dataset: "big", fingerprint: dataset.fingerprint, length: 60_001 })
    await expect(saveSplit(file, { ...dataset, length: 9 }, few)).rejects.toMatchObject({ code: "E_INPUT" })
  })

  const small = { name: "small", fingerprint: "0".repeat(64), length: 12 }
  const good = {
    format: "vit-prisma/split/1",
    dataset: "small",
    fingerprint: small.fingerprint,
    length: 12,
    // Bits 0 and 8; 1 and 2.
    parts: { train: "AQE=", test: "BgA=" },
  }

  it("may be written by hand", async () => {
    const file = join(folder, "hand.json")
    await writeFile(file, JSON.stringify(good))
    expect(await readSplit(file, small)).toEqual({ train: Uint32Array.of(0, 8), test: Uint32Array.of(1, 2) })
  })

  const parts = (other: object) => ({ ...good, parts: { ...good.parts, ...other } })
  it.each<[string, unknown, string, string]>([
    ["no JSON", "{", "E_DATASET_SCHEMA", "is not valid JSON"],
    ["a list", [], "E_DATASET_SCHEMA", "the file must be a JSON object"],
    ["null", null, "E_DATASET_SCHEMA", "the file must be a JSON object"],
    ["another format", { ...good, format: 1 }, "E_DATASET_SCHEMA", 'format must be "vit-prisma/split/1"'],
    ["another dataset", { ...good, fingerprint: "x" }, "E_INTEGRITY", "was made of another dataset than small: finger"],
    ["another length", { ...good, length: 13 }, "E_INTEGRITY", "was made of another dataset than small: length"],
    ["no parts", { ...good, parts: null }, "E_DATASET_SCHEMA", "parts must be a JSON object"],
    ["an unknown part", parts({ dev: "AAA=" }), "E_DATASET_SCHEMA", "parts must be train, test and val, got"],
    ["its prototype", { ...good, parts: JSON.parse('{"__proto__": ""}') }, "E_DATASET_SCHEMA", "parts must be train"],
    ["no test part", { ...good, parts: { train: "AQE=" } }, "E_DATASET_SCHEMA", "part test must be 12 bits in base64"],
    ["too few bits", parts({ test: "Bg==" }), "E_DATASET_SCHEMA", "part test must be 12 bits in base64"],
    ["no base64", parts({ test: "B*A=" }), "E_DATASET_SCHEMA", "part test must be 12 bits in base64"],
    ["a number", parts({ test: 6 }), "E_DATASET_SCHEMA", "part test must be 12 bits in base64"],
    ["a sample too many", parts({ test: "ABA=" }), "E_DATASET_SCHEMA", "part test has sample 12 of 12"],
    ["a sample twice", parts({ test: "AwA=" }), "E_DATASET_SCHEMA", "sample 0, which is in another part too"],
    ["an empty part", parts({ val: "AAA=" }), "E_DATASET_EMPTY", "part val has no samples"],
    ["deep nesting", parts({ val: [[[[]]]] }), "E_DATASET_SCHEMA", "nesting deeper than 3"],
  ])("is refused with %s", async (_, json, code, text) => {
    const file = join(folder, "bad.json")
    await writeFile(file, typeof json === "string" ? json : JSON.stringify(json))
    await expect(readSplit(file, small)).rejects.toMatchObject({ code, file, message: expect.stringContaining(text) })
  })

  it("is refused where there is none", async () => {
    await expect(readSplit(join(folder, "none.json"), small)).rejects.toMatchObject({ name: "PrismaError" })
  })
})

describe("equal images", () => {
  it("are found over two datasets and within one", async () => {
    const [a, b] = [dots([1, 2, 3, 2], [0, 0, 0, 9]), dots([7, 2, 3, 3], [0, 0, 5, 0])]
    expect(await leaks(a, b)).toEqual([
      { a: 1, b: 1, sameLabel: true },
      { a: 2, b: 2, sameLabel: false },
      { a: 2, b: 3, sameLabel: true },
    ])
    expect(await duplicates(a)).toEqual([{ a: 1, b: 3, sameLabel: false }])
    expect(await duplicates(dots([1, 2, 3]))).toEqual([])
  })

  it("have equal dtype, shape and bytes", () => {
    const of = (dtype: "uint8" | "float32", shape: number[], values: number[]) =>
      imageHash({
        image:
          dtype === "uint8"
            ? { dtype, shape, data: Uint8Array.from(values) }
            : { dtype, shape, data: Float32Array.from(values) },
        label: 0,
      })
    expect(of("uint8", [1, 1, 2], [1, 2])).toBe(of("uint8", [1, 1, 2], [1, 2]))
    const others = [of("uint8", [1, 2, 1], [1, 2]), of("float32", [1, 1, 2], [1, 2]), of("uint8", [1, 1, 2], [2, 1])]
    expect(new Set([...others, of("uint8", [1, 1, 2], [1, 2])]).size).toBe(4)
  })
})

describe("hashes", () => {
  it("of content tell pixels, labels and order apart", async () => {
    const all = [dots([1, 2]), dots([2, 1]), dots([1, 2], [1, 3]), dots([1, 2], [1, [2]]), dots([1])]
    const hashes = await Promise.all(all.map(contentHash))
    expect(new Set(hashes).size).toBe(all.length)
    expect(await contentHash(dots([1, 2]))).toBe(hashes[0])
  })

  it("of generators tell name, version and options apart, not the order of options", () => {
    const hash = generatorFingerprint("a", 1, { seed: 0, size: 32 })
    expect(generatorFingerprint("a", 1, { size: 32, seed: 0 })).toBe(hash)
    const others = [
      generatorFingerprint("b", 1, { seed: 0, size: 32 }),
      generatorFingerprint("a", 2, { seed: 0, size: 32 }),
      generatorFingerprint("a", 1, { seed: 1, size: 32 }),
      generatorFingerprint("a", 1, { seed: 0 }),
    ]
    expect(new Set([hash, ...others]).size).toBe(5)
  })
})
