/** @file Every tensor of every reference case against the activations of transformers, timm and open_clip. */
import { existsSync, readFileSync } from "node:fs"
import { resolve } from "node:path"
import { describe, expect, it } from "vitest"
import { float32, loadPretrained } from "../src/index.ts"
import { compare, measure, PARITY_ROOTS, parityCases, parityTable, readCase, TOLERANCE } from "./helpers/parity.ts"

const root = resolve(import.meta.dirname, "..")
const COUNTS = { "test/fixtures/reference": 53, "../shared/reference": 12 } as const

for (const from of PARITY_ROOTS) {
  describe.skipIf(!existsSync(resolve(root, from)))(`parity with the cases of ${from}`, () => {
    const cases = parityCases(from)

    it("finds them all", () => expect(cases).toHaveLength(COUNTS[from]))

    it.each(cases)("$name", async (c) => {
      const { tensors, worst, problems } = await measure(c)
      expect(problems).toEqual([])
      expect(tensors).toBe(readCase(c).expected.size)
      expect(worst).toBeLessThanOrEqual(TOLERANCE)
    })
  })
}

describe("cases of timm", () => {
  it("refuses the checkpoint whose norms are not the architecture's", async () => {
    const folder = resolve(root, "test/fixtures/reference/timm-scale-norms")
    await expect(loadPretrained(folder)).rejects.toMatchObject({ code: "E_UNSUPPORTED_ARCH" })
  })

  it("loads one whose preprocessing cannot be done, and says so when images are prepared", async () => {
    const model = await loadPretrained(resolve(root, "test/fixtures/reference/timm-grey")) // three means, one channel
    expect(model.warnings).toEqual([expect.stringMatching(/^images cannot be prepared: .*mean must be one number/)])
    expect(model.hasPreprocessing).toBe(false)
    expect(() => model.preprocessing).toThrow(expect.objectContaining({ code: "E_PREPROC" }))
  })
})

describe("the comparison", () => {
  const stored = (values: number[], shape = [values.length]) => ({
    dtype: "F32",
    shape,
    bytes: new Uint8Array(Float32Array.from(values).buffer),
  })

  it("accepts what is equal and bites on what is not", () => {
    expect(compare(float32([2], [1, -2]), stored([1, -2]))).toEqual({ error: 0 })
    expect(compare(float32([2], [1, -2.0001]), stored([1, -2])).problem).toMatch(/^differs by 4.99\d*e-5$/)
    expect(compare(float32([2], [1000.005, 0]), stored([1000, 0])).problem).toBeUndefined() // relative to the largest
    expect(compare(float32([2], [NaN, 0]), stored([1, 0])).problem).toBe("is not a number at 0")
    expect(compare(float32([2], [1, 0]), stored([NaN, 0])).problem).toBe("is not a number at 0")
    expect(compare(float32([2, 1], [1, 2]), stored([1, 2])).problem).toBe("has shape [2, 1], expected [2]")
    expect(compare(undefined, stored([1])).problem).toBe("absent")
  })

  it("finds one changed value of one hook of a case", async () => {
    const [c] = parityCases("test/fixtures/reference")
    const { inputs, expected } = readCase(c!)
    const model = await loadPretrained(c!.folder, { threads: 1 })
    const name = "blocks.1.attn.hook_z"
    const { cache } = await model.runWithCache(inputs, { names: name })
    const got = float32(cache.get(name).shape, Float32Array.from(cache.get(name).data as Float32Array))
    expect(compare(got, expected.get(name)!).problem).toBeUndefined()
    got.data[7]! += 1e-3
    expect(compare(got, expected.get(name)!).problem).toBeDefined()
  })
})

describe("docs/parity.md", () => {
  it("lists every case, and nothing else", () => {
    const listed = [...readFileSync(resolve(root, "docs/parity.md"), "utf8").matchAll(/^\| ([\w-]+) \| \d+ \|/gm)]
    const known = parityCases("test/fixtures/reference").map((c) => c.name)
    expect(listed).toHaveLength(known.length)
    expect(new Set(listed.map((m) => m[1]))).toEqual(new Set(known))
  })

  it("is written in the table's form", () => {
    const row = { name: "a", tensors: 3, worst: 1.25e-6, where: "logits", problems: [] }
    expect(parityTable([row]).split("\n").at(-1)).toBe("| a | 3 | 1.3e-6 | `logits` |")
  })
})
