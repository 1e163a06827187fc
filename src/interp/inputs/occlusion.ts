/** @file Occlusion (Zeiler and Fergus, arXiv:1311.2901): what the metric loses where a window of the image is covered. */
import { fail } from "../../errors.ts"
import { float32, size, type Tensor } from "../../tensor/tensor.ts"
import { asImages } from "../attention/patterns.ts"
import type { Metric } from "../gradients.ts"
import type { HookedViT } from "../hooked-vit.ts"
import { BATCH, baselineImage, measured, whole, type InputOptions } from "./batches.ts"

export interface OcclusionOptions extends InputOptions {
  /** Pixels down and across; the patch size by default. */
  readonly window?: number | readonly [height: number, width: number]
  /** Pixels from window to window; the window by default, and at most the window. */
  readonly stride?: number | readonly [down: number, across: number]
  /** What covers it, a number or an image [c, H, W] in the model's normalised values; 0, the mean colour. */
  readonly fill?: number | Tensor
}

export interface Occlusion {
  /** Metric of the whole image less that with each window covered, [b, windows down, windows across]. */
  readonly drops: Tensor<"float32">
  /** Mean drop of the windows that cover each pixel, [b, H, W]. */
  readonly values: Tensor<"float32">
  /** [b] */
  readonly metric: Tensor<"float32">
}

/** Each window is one run of the model, in batches of one graph; windows at the far edges end there. Errors: E_INPUT, E_HOOK. */
export async function occlusion(
  model: HookedViT,
  given: Tensor,
  metric: Metric,
  options: OcclusionOptions = {},
): Promise<Occlusion> {
  const images = asImages(given)
  const [b, c, h, w] = images.shape as [number, number, number, number]
  const window = both(options.window ?? model.config.vision.patchSize)
  const stride = both(options.stride ?? window)
  for (const [axis, edge] of [h, w].entries()) {
    whole("window", window[axis]!, edge)
    whole("stride", stride[axis]!, window[axis]!)
  }
  const [tops, lefts] = [starts(h, window[0], stride[0]), starts(w, window[1], stride[1])]
  const n = tops.length * lefts.length
  if (n > MOST) fail("E_INPUT", `occlusion: ${n} windows are more than ${MOST}; take larger steps`)
  const cover = baselineImage(options.fill ?? 0, images)
  const one = size(images.shape.slice(1))
  const seen = await measured(model, images, metric, options)
  const drops = new Float32Array(b * n)
  const { batch = BATCH } = options
  for (let from = 0; from < b * n; from += batch) {
    const covered = Array.from({ length: Math.min(batch, b * n - from) }, (_, i) => from + i)
    const pixels = new Float32Array(covered.length * one)
    for (const [slot, at] of covered.entries()) {
      const i = Math.floor(at / n)
      pixels.set(images.data.subarray(i * one, (i + 1) * one), slot * one)
      for (const [channel, y] of rowsOf(c, tops[Math.floor((at % n) / lefts.length)]!, window[0], h)) {
        const [left, row] = [lefts[at % lefts.length]!, (channel * h + y) * w]
        const end = Math.min(w, left + window[1])
        pixels.set(cover.subarray(row + left, row + end), slot * one + row + left)
      }
    }
    const { data } = await measured(model, float32([covered.length, c, h, w], pixels), metric, options)
    for (const [slot, at] of covered.entries()) drops[at] = seen.data[Math.floor(at / n)]! - data[slot]!
  }
  const shape = [b, tops.length, lefts.length]
  return { drops: float32(shape, drops), values: spread(drops, b, [h, w], [tops, lefts], window), metric: seen }
}

function* rowsOf(channels: number, top: number, height: number, h: number): Generator<readonly [number, number]> {
  for (let c = 0; c < channels; c++) for (let y = top; y < Math.min(h, top + height); y++) yield [c, y]
}

/** The mean of the windows over each pixel: [b, h, w]. */
function spread(
  drops: Float32Array,
  b: number,
  [h, w]: readonly [number, number],
  [tops, lefts]: readonly [readonly number[], readonly number[]],
  [height, width]: readonly [number, number],
): Tensor<"float32"> {
  const out = new Float32Array(b * h * w)
  const over = (at: readonly number[], length: number, pixel: number) =>
    [...at.keys()].filter((i) => at[i]! <= pixel && pixel < at[i]! + length)
  const columns = Array.from({ length: w }, (_, x) => over(lefts, width, x))
  for (let y = 0; y < h; y++) {
    const rows = over(tops, height, y)
    for (let x = 0; x < w; x++) {
      for (let i = 0; i < b; i++) {
        let sum = 0
        for (const r of rows) for (const k of columns[x]!) sum += drops[(i * tops.length + r) * lefts.length + k]!
        out[(i * h + y) * w + x] = sum / (rows.length * columns[x]!.length)
      }
    }
  }
  return float32([b, h, w], out)
}

const MOST = 65_536
const both = (x: number | readonly [number, number]): readonly [number, number] => (typeof x === "number" ? [x, x] : x)

function starts(edge: number, window: number, stride: number): number[] {
  const out = [0]
  while (out.at(-1)! + window < edge) out.push(out.at(-1)! + stride)
  return out
}
