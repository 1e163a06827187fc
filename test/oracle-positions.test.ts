/** @file The oracle's resampling of position tables against torch.nn.functional.interpolate. */
import { fileURLToPath } from "node:url"
import { describe, expect, it } from "vitest"
import { loadPretrained } from "../src/hub/load-pretrained.ts"
import { resampled } from "../src/export/oracle-positions.ts"

const SMALL = Array.from({ length: 12 }, (_, i) => ((7 * i * i + 3 * i) % 11) - 5) // 3 x 4
const LARGE = Array.from({ length: 64 }, (_, i) => (i * i) % 23) // 8 x 8

// torch 2.13 in float64: interpolate(mode="bicubic", align_corners=False, antialias=...)
const CASES = [
  [
    [3, 4],
    [5, 4],
    false,
    [
      -5.288, 5.672, -4.48, 1.48, -4.34, 2.5, -1.916, -0.868, -2.0, -2.0, 1.0, -4.0, 2.49999999999999, -4.34, 0.136,
      -4.972, 5.672, -5.288, -1.192, -5.096,
    ],
  ],
  [
    [3, 4],
    [5, 4],
    true,
    [
      -5.22641509433962, 5.52830188679245, -4.37735849056604, 1.37735849056604, -4.26119402985075, 2.67910447761194,
      -2.15671641791045, -0.7089552238806, -2.0, -2.0, 1.0, -4.0, 2.67910447761194, -4.26119402985075,
      -0.07462686567164, -4.87313432835821, 5.52830188679245, -5.22641509433962, -1.15094339622642, -5.07547169811321,
    ],
  ],
  [[3, 4], [2, 2], false, [0.0687255859375, -2.0394287109375, -0.916748046875, -2.266845703125]],
  [[3, 4], [2, 2], true, [-0.94929891354815, -0.84338643991351, -0.54715254102384, -2.87693511799743]],
  [
    [3, 4],
    [3, 6],
    false,
    [
      -5.86805555555555, 0.84375, 4.48958333333333, -2.96875, -2.34375, 1.43402777777778, -2.0, -2.28125,
      -1.48263888888889, 1.00347222222222, -1.21875, -4.43402777777778, 5.86805555555555, -0.375, -5.22453703703704,
      -1.40046296296296, -2.625, -5.34722222222222,
    ],
  ],
  [
    [3, 4],
    [3, 6],
    true,
    [
      -5.65789473684211, 0.23529411764706, 4.4375, -3.09027777777778, -1.88235294117647, 1.32894736842105, -2.0,
      -2.17647058823529, -1.58101851851852, 0.92824074074074, -1.47058823529412, -4.32894736842105, 5.65789473684211,
      0.05882352941176, -5.05092592592593, -1.36574074074074, -2.88235294117647, -5.26315789473684,
    ],
  ],
  [
    [8, 8],
    [3, 3],
    false,
    [
      11.45801852923526, 6.11592158564815, 14.20431321802126, 5.66030092592593, 7.1416015625, 12.20138888888889,
      7.93665739669067, 7.57060185185185, 17.83986518347051,
    ],
  ],
  [
    [8, 8],
    [3, 3],
    true,
    [
      7.41436861721243, 8.35584855254791, 8.21718410712351, 7.6253674161634, 8.43778361639585, 7.45048111810147,
      8.33647997825299, 8.61203876470056, 8.81276311294138,
    ],
  ],
] as const

describe("resampled", () => {
  it.each(CASES)("from %j to %j, antialias %j", (from, to, antialias, wanted) => {
    const table = from[0] === 3 ? SMALL : LARGE
    // A second channel whose values are other ones by a linear rule, as its samples then are.
    const two = Float64Array.from({ length: table.length * 2 }, (_, i) =>
      i % 2 ? 3 - 2 * table[i >> 1]! : table[i >> 1]!,
    )
    const got = resampled(two, 2, from, to, antialias)
    expect(got.length).toBe(2 * wanted.length)
    for (const [i, y] of wanted.entries()) {
      expect(got[2 * i]).toBeCloseTo(y, 12)
      expect(got[2 * i + 1]).toBeCloseTo(3 - 2 * y, 12)
    }
  })
})

describe("the filter of each library", () => {
  // timm layers/pos_embed.py, open_clip model.py, transformers models/*/modeling_*.py
  it.each([
    ["timm-deit3", true],
    ["open-clip-quickgelu", true],
    ["hf-dinov2-registers-base", true],
    ["hf-dinov2", false],
    ["hf-vit-names-v5", false],
    ["hf-siglip-vision", false],
  ])("%s: %j", async (name, wanted) => {
    const { config } = await loadPretrained(fileURLToPath(new URL(`fixtures/reference/${name}`, import.meta.url)))
    expect(config.vision.positionsAntialiased).toBe(wanted)
  })
})
