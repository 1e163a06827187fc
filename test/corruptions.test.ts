/** @file Images made worse on purpose, against plain loops. */
import { describe, expect, it } from "vitest"
import { addNoise, blur, fillMean, swapRegion } from "../src/interp/causal/corruptions.ts"
import { Random } from "../src/tensor/random.ts"
import { float32 } from "../src/tensor/tensor.ts"

describe("corruptions", () => {
  const x = float32(
    [1, 2, 4, 5],
    Float32Array.from({ length: 40 }, (_, i) => i),
  )
  const y = float32(
    [1, 2, 4, 5],
    Float32Array.from({ length: 40 }, (_, i) => 100 + i),
  )
  const region = { top: 1, left: 2, height: 2, width: 2 }
  const within = (i: number) => [7, 8, 12, 13].includes(i % 20)

  it("swap a region", () => {
    expect(Array.from(swapRegion(x, y, region).data)).toEqual(Array.from(x.data, (v, i) => (within(i) ? v + 100 : v)))
  })
  it("fill a region with its mean, channel by channel", () => {
    expect(Array.from(fillMean(x, region).data)).toEqual(
      Array.from(x.data, (v, i) => (within(i) ? (i < 20 ? 10 : 30) : v)),
    )
  })
  it("add noise of the deviation that is asked for, the same for a seed", () => {
    const big = float32([1, 1, 100, 100], new Float32Array(10_000))
    const { data } = addNoise(big, 2, 3)
    expect(addNoise(big, 2, 3).data).toEqual(data)
    expect(addNoise(big, 2, 4).data).not.toEqual(data)
    expect(Math.sqrt(data.reduce((s, v) => s + v * v, 0) / 1e4)).toBeCloseTo(2, 1)
  })
  it("blur: a constant stays, a point becomes the Gaussian's product", () => {
    const flat = blur(float32([1, 1, 6, 7], new Float32Array(42).fill(3)), 1.5)
    for (const v of flat.data) expect(v).toBeCloseTo(3, 5)
    const point = float32([1, 1, 15, 15], new Float32Array(225))
    point.data[7 * 15 + 7] = 1
    const { data } = blur(point, 1)
    const g = [-3, -2, -1, 0, 1, 2, 3].map((k) => Math.exp(-(k * k) / 2))
    const total = g.reduce((a, b) => a + b)
    expect(data[5 * 15 + 8]!).toBeCloseTo((g[1]! * g[4]!) / total ** 2, 6)
    expect(data[7 * 15 + 7]!).toBeCloseTo((g[3]! * g[3]!) / total ** 2, 6)
  })
  describe("in three channels of two images", () => {
    const [n, H, W] = [6, 5, 7]
    const random = new Random(1, "pixels")
    const pixels = float32(
      [2, 3, H, W],
      Float32Array.from({ length: n * H * W }, () => random.normal()),
    )
    const part = { top: 1, left: 3, height: 3, width: 2 }
    const inPart = (i: number) => {
      const [y, x] = [Math.floor(i / W) % H, i % W]
      return y >= 1 && y < 4 && x >= 3 && x < 5
    }

    it("blur each by itself, the border repeated, and in a region alone", () => {
      const g = (k: number) => Math.exp(-(k * k) / (2 * 0.8 ** 2))
      const clamp = (k: number, size: number) => Math.min(size - 1, Math.max(0, k))
      const want = Array.from(pixels.data, (_, i) => {
        const [plane, y, x] = [Math.floor(i / (H * W)), Math.floor(i / W) % H, i % W]
        let [sum, total] = [0, 0]
        for (let dy = -3; dy <= 3; dy++)
          for (let dx = -3; dx <= 3; dx++) {
            sum += g(dy) * g(dx) * pixels.data[(plane * H + clamp(y + dy, H)) * W + clamp(x + dx, W)]!
            total += g(dy) * g(dx)
          }
        return sum / total
      })
      for (const [i, v] of blur(pixels, 0.8).data.entries()) expect(v).toBeCloseTo(want[i]!, 5)
      for (const [i, v] of blur(pixels, 0.8, part).data.entries())
        expect(v).toBeCloseTo(inPart(i) ? want[i]! : pixels.data[i]!, 5)
    })

    it("add noise to every pixel, and in a region to its pixels alone", () => {
      const changed = (data: ArrayLike<number>) => Array.from(pixels.data, (x, i) => data[i] !== x)
      expect(changed(addNoise(pixels, 0.5).data)).toEqual(Array.from(pixels.data, () => true))
      expect(changed(addNoise(pixels, 0.5, 0, part).data)).toEqual(Array.from(pixels.data, (_, i) => inPart(i)))
    })
  })
  it("refuse a region outside", () => {
    expect(() => fillMean(x, { top: 3, left: 0, height: 2, width: 1 })).toThrow(/outside the 4x5 image/)
    for (const top of [0.5, NaN]) {
      expect(() => swapRegion(x, y, { ...region, top })).toThrow(/outside the 4x5 image/)
    }
  })
  it.each([-1, NaN, Infinity])("refuse a deviation of %d", (deviation) => {
    expect(() => addNoise(x, deviation)).toThrow(/a number of at least 0, got/)
    expect(() => blur(x, deviation)).toThrow(/above 0 and at most the image's 5 pixels, got/)
  })
})
