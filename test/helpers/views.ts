/** @file Made-up views of any size: a drawn picture, and attention that looks near its query, at blobs, or at one token. */
import { float32, type Tensor } from "../../src/tensor/tensor.ts"
import type { ImageInput, ViewInput } from "../../src/viewer/encode.ts"

/** mulberry32: the same numbers for the same seed. */
function uniform(seed: number): () => number {
  let a = seed
  return () => {
    a = (a + 0x6d2b79f5) | 0
    let t = Math.imul(a ^ (a >>> 15), 1 | a)
    t = (t + Math.imul(t ^ (t >>> 7), 61 | t)) ^ t
    return ((t ^ (t >>> 14)) >>> 0) / 4294967296
  }
}

/** Hills, a sun and its light: RGB, `side` pixels to a patch. */
export function landscape([rows, columns]: readonly [number, number], side: number): ImageInput["pixels"] {
  const [width, height] = [columns * side, rows * side]
  const data = new Uint8Array(width * height * 3)
  for (let y = 0; y < height; y++) {
    for (let x = 0; x < width; x++) {
      const [u, v] = [x / width, y / height]
      const sun = Math.hypot((u - 0.7) * (width / height), v - 0.28)
      const hills = [0.55 + 0.08 * Math.sin(7 * u), 0.68 + 0.1 * Math.sin(4 * u + 2), 0.84 + 0.05 * Math.sin(9 * u + 1)]
      const layer = hills.findLastIndex((h) => v > h)
      const sky = [120 + 110 * (1 - v), 150 + 60 * v, 215 - 60 * v]
      const land = [
        [104, 134, 150],
        [66, 110, 96],
        [38, 68, 52],
      ][layer]
      const light = sun < 0.11 ? 1 : Math.max(0, 0.5 - 1.6 * sun)
      const colour = (land ?? sky).map((c, i) => c + (([255, 226, 150][i] ?? 0) - c) * (land ? light * 0.35 : light))
      data.set(colour, (y * width + x) * 3)
    }
  }
  return { width, height, channels: 3, data }
}

/** Patterns [heads, T, T] whose rows sum to 1; heads differ in how near and how sharply they look. */
export function patterns(
  grid: readonly [number, number],
  special: number,
  layers: number,
  heads: number,
): Map<number, Tensor> {
  const [rows, columns] = grid
  const t = special + rows * columns
  const random = uniform(t * 31 + layers)
  return new Map(
    Array.from({ length: layers }, (_, layer) => {
      const data = new Float32Array(heads * t * t)
      for (let head = 0; head < heads; head++) {
        const reach = 0.06 + 0.5 * random()
        const [cx, cy, sink, pull] = [random() * columns, random() * rows, 3 * random(), 3 * random()]
        const noise = Float32Array.from({ length: t }, () => 0.8 * random())
        for (let query = 0; query < t; query++) {
          const row = data.subarray((head * t + query) * t, (head * t + query + 1) * t)
          const p = query - special
          const [qx, qy] = p < 0 ? [cx, cy] : [p % columns, Math.floor(p / columns)]
          let total = 0
          for (let key = 0; key < t; key++) {
            const k = key - special
            const near = k < 0 ? 0 : Math.hypot((k % columns) - qx, Math.floor(k / columns) - qy) / columns
            const blob = k < 0 ? 0 : Math.hypot((k % columns) - cx, Math.floor(k / columns) - cy) / columns
            const score = k < 0 ? sink : 3 * Math.exp(-((near / reach) ** 2)) + pull * Math.exp(-((blob / 0.12) ** 2))
            total += row[key] = Math.exp(score + noise[key]!)
          }
          for (let key = 0; key < t; key++) row[key]! /= total
        }
      }
      return [layer, float32([heads, t, t], data)]
    }),
  )
}

export interface Sizes {
  readonly grid?: readonly [number, number]
  readonly special?: readonly string[]
  readonly layers?: number
  readonly heads?: number
  readonly side?: number
}

/** A view with attention, an overlay of each kind, bars and a matrix. */
export function madeUp({
  grid = [14, 14],
  special = ["CLS"],
  layers = 12,
  heads = 12,
  side = 16,
}: Sizes = {}): ViewInput {
  const [p, s] = [grid[0] * grid[1], special.length]
  const t = p + s
  const random = uniform(7)
  const wave = (i: number, phase: number) =>
    Math.sin((i % grid[1]) / 2.3 + phase) * Math.cos(Math.floor(i / grid[1]) / 1.9)
  const lensLayers = Array.from({ length: layers + 1 }, (_, l) => l - 1)
  const lens = lensLayers.flatMap((l) =>
    Array.from({ length: t }, (_, i) => Math.max(0, wave(i, l / 3)) * ((l + 2) / (layers + 1))),
  )
  return {
    title: "Attention on a drawn landscape",
    model: "made-up/vit",
    grid,
    special,
    images: [
      {
        name: "landscape.png",
        pixels: landscape(grid, side),
        predictions: [
          { label: "valley, vale", score: 0.614, logit: 9.1 },
          { label: "alp", score: 0.221, logit: 8.08 },
          { label: "lakeside, lakeshore", score: 0.043, logit: 6.44 },
        ],
        patterns: { layers: patterns(grid, s, layers, heads) },
        overlays: [
          {
            name: 'attribution to "valley"',
            kind: "diverging",
            units: "logits",
            values: Array.from({ length: p }, (_, i) => wave(i, 0.4) * 0.2),
          },
          {
            name: "logit lens",
            kind: "sequential",
            units: "probability",
            layers: lensLayers,
            values: lens,
            range: [0, 1],
            labels: {
              names: ["valley, vale", "alp", "lakeside"],
              glyphs: ["\u{1F33E}", "\u26f0", "\u{1F30A}"],
              index: lens.map((_, i) => i % 3),
            },
          },
        ],
      },
    ],
    tables: [
      {
        name: "Direct logit attribution",
        units: "logits",
        rows: Array.from({ length: 12 }, (_, i) => ({ name: `layer ${i} attention`, value: 3 * random() - 1 })),
      },
    ],
    matrices: [
      {
        name: "Patching the residual stream",
        kind: "diverging",
        units: "share of the logit difference",
        rows: Array.from({ length: layers }, (_, l) => `layer ${l}`),
        columns: Array.from({ length: heads }, (_, h) => String(h)),
        rowAxis: "layer",
        columnAxis: "head",
        values: Array.from({ length: layers * heads }, () => 2 * random() - 1),
      },
    ],
  }
}
