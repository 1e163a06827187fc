import { describe, expect, it } from "vitest"
import { type Filter, FILTERS, type Pixels, resize } from "../src/data/resize.ts"
import { readSafetensors } from "./helpers/read-safetensors.ts"

interface Case {
  readonly name: string
  readonly image: string
  readonly filter: Filter
  readonly height: number
  readonly width: number
}

const { tensors, metadata } = readSafetensors(new URL("fixtures/preprocess/cases.safetensors", import.meta.url))
const cases = (JSON.parse(metadata.get("cases")!) as { resize: Case[] }).resize

function pixels(name: string): Pixels {
  const { shape, bytes } = tensors.get(name)!
  const [height, width, channels] = shape as [number, number, number]
  return { height, width, channels, data: bytes }
}

/** Deterministic bytes (mulberry32). */
function noise(n: number, seed: number): Uint8Array {
  let a = seed
  return Uint8Array.from({ length: n }, () => {
    a = (a + 0x6d2b79f5) | 0
    let t = Math.imul(a ^ (a >>> 15), 1 | a)
    t = (t + Math.imul(t ^ (t >>> 7), 61 | t)) ^ t
    return (t ^ (t >>> 14)) >>> 24
  })
}

describe("resize gives Pillow's bytes", () => {
  it("has cases for every filter, up and down, 1 to 4 channels, 1 x 1 and 1 x 10,000", () => {
    expect(new Set(cases.map((c) => c.filter))).toEqual(new Set(FILTERS))
    const channels = new Set(cases.map((c) => pixels(`image/${c.image}`).channels))
    expect(channels).toEqual(new Set([1, 3, 4]))
  })

  it.each(cases)("$name", ({ name, image, filter, height, width }) => {
    const out = resize(pixels(`image/${image}`), width, height, filter)
    expect(out).toEqual(pixels(`resize/${name}`))
  })
})

describe("resize", () => {
  const src: Pixels = { width: 61, height: 43, channels: 3, data: noise(61 * 43 * 3, 1) }

  it.each(FILTERS)("computes only a window, and that is the same as cutting it out (%s)", (filter) => {
    for (const [width, height] of [
      [30, 25],
      [61, 20],
      [100, 43],
      [97, 89],
    ] as const) {
      const whole = resize(src, width, height, filter)
      const window = { left: 7, top: 3, width: 20, height: 15 }
      const part = resize(src, width, height, filter, window)
      const cut = Array.from({ length: 15 }, (_, y) => {
        const from = ((3 + y) * width + 7) * 3
        return [...whole.data.subarray(from, from + 60)]
      })
      expect([part.width, part.height]).toEqual([20, 15])
      expect([...part.data]).toEqual(cut.flat())
    }
  })

  it("needs no more memory for a window of an enormous result", () => {
    const line: Pixels = { width: 10_000, height: 1, channels: 3, data: noise(30_000, 2) }
    const left = 224 * 5000
    const out = resize(line, 224 * 10_000, 224, "bicubic", { left, top: 0, width: 224, height: 224 })
    expect(out.data.length).toBe(224 * 224 * 3)
    // The source pixel 5000 spreads over the window; its middle lies in the middle of it.
    const middle = out.data.subarray(112 * 3, 113 * 3)
    for (let c = 0; c < 3; c++) expect(Math.abs(middle[c]! - line.data[5000 * 3 + c]!)).toBeLessThanOrEqual(1)
  })

  it("keeps a constant image constant, whatever the filter and size", () => {
    const flat: Pixels = { width: 13, height: 9, channels: 1, data: new Uint8Array(13 * 9).fill(200) }
    for (const filter of FILTERS) {
      for (const n of [1, 2, 9, 13, 40]) expect(new Set(resize(flat, n, n, filter).data)).toEqual(new Set([200]))
    }
  })

  it("returns the same pixels where the size stays", () => {
    for (const filter of FILTERS) expect(resize(src, 61, 43, filter).data).toEqual(src.data)
  })

  it("resizes 512 x 512 RGB to 224 in a moment", () => {
    const image: Pixels = { width: 512, height: 512, channels: 3, data: noise(512 * 512 * 3, 3) }
    const times = Array.from({ length: 9 }, () => {
      const start = performance.now()
      resize(image, 224, 224, "bilinear")
      return performance.now() - start
    })
    // 4 ms on a quiet machine; the bound leaves room for a busy one.
    expect(Math.min(...times)).toBeLessThan(60)
  })

  it.each([
    ["width 0", () => resize(src, 0, 5, "box"), /width must be an integer >= 1, got 0/],
    ["height 2.5", () => resize(src, 5, 2.5, "box"), /height must be an integer >= 1, got 2.5/],
    ["height NaN", () => resize(src, 5, Number.NaN, "nearest"), /height must be an integer >= 1, got NaN/],
    ["few bytes", () => resize({ ...src, height: 44 }, 5, 5, "box"), /61 x 44 pixels with 3 channels: got 7869 bytes/],
    [
      "a window outside",
      () => resize(src, 8, 8, "box", { left: 4, top: 0, width: 5, height: 8 }),
      /window .* leaves the 8 x 8 result/,
    ],
  ])("refuses %s", (_, run, message) => {
    expect(run).toThrow(expect.objectContaining({ code: "E_INPUT", message: expect.stringMatching(message) }))
  })
})
