/** @file Random streams: Philox against its authors' known answers, and the draws made from it. */
import { describe, expect, it } from "vitest"
import { philox, Random } from "../src/tensor/random.ts"

const hex = (words: ArrayLike<number>) => Array.from(words, (w) => w.toString(16).padStart(8, "0")).join(" ")
const draw = (n: number, f: () => number) => Array.from({ length: n }, f)

describe("philox 4x32-10 gives the known answers of Random123 (kat_vectors)", () => {
  const ones = 0xffffffff
  it.each([
    [[0, 0, 0, 0], [0, 0], "6627e8d5 e169c58d bc57ac4c 9b00dbd8"],
    [[ones, ones, ones, ones], [ones, ones], "408f276d 41c83b0e a20bc7c6 6d5451fd"],
    [[0x243f6a88, 0x85a308d3, 0x13198a2e, 0x03707344], [0xa4093822, 0x299f31d0], "d16cfe09 94fdcceb 5001e420 24126ea1"],
  ])("%#", (counter, key, expected) => expect(hex(philox(counter, key, new Uint32Array(4)))).toBe(expected))
})

describe("streams", () => {
  it("repeat for one seed and name, and differ for others", () => {
    const of = (seed: number, name: string) => {
      const r = new Random(seed, name)
      return draw(100, () => r.bits()).join()
    }
    expect(of(7, "a")).toBe(of(7, "a"))
    expect(new Set([of(7, "a"), of(7, "b"), of(8, "a"), of(7 + 2 ** 32, "a")]).size).toBe(4)
  })

  it("have the moments of their distributions", () => {
    const r = new Random(1)
    const moments = (x: number[]) => {
      const mean = x.reduce((a, b) => a + b, 0) / x.length
      return [mean, Math.sqrt(x.reduce((a, b) => a + (b - mean) ** 2, 0) / x.length)] as const
    }
    const n = 40_000
    const [um, us] = moments(draw(n, () => r.uniform()))
    expect(Math.abs(um - 0.5)).toBeLessThan(0.006)
    expect(Math.abs(us - Math.sqrt(1 / 12))).toBeLessThan(0.004)
    const [nm, ns] = moments(draw(n, () => r.normal()))
    expect(Math.abs(nm)).toBeLessThan(0.02)
    expect(Math.abs(ns - 1)).toBeLessThan(0.015)
    const truncated = draw(n, () => r.truncatedNormal())
    expect(Math.max(...truncated.map(Math.abs))).toBeLessThanOrEqual(2)
    expect(Math.abs(moments(truncated)[1] - 0.8796)).toBeLessThan(0.015)
  })

  it("permute without loss and choose without bias", () => {
    const r = new Random(3)
    expect([...r.permutation(1000)].sort((a, b) => a - b)).toEqual(Array.from({ length: 1000 }, (_, i) => i))
    const counts = Array.from({ length: 6 }, () => 0)
    for (let i = 0; i < 60_000; i++) counts[r.below(6)]!++
    for (const c of counts) expect(Math.abs(c - 10_000)).toBeLessThan(400)
  })
})
