/** @file The attention patterns of many images, one layer at a time, within a limit of memory. */
import { fail } from "../../errors.ts"
import { nTokens } from "../../model/config.ts"
import { expectFloat32, float32, show, size, type Tensor } from "../../tensor/tensor.ts"
import type { HookedViT } from "../hooked-vit.ts"
import type { Interventions } from "../interventions.ts"

export interface PatternOptions extends Interventions {
  /** Blocks, in rising order; negative numbers count from the end. By default all. */
  readonly layers?: number | readonly number[]
  /** Hold at most so many bytes of patterns at once, but one layer of one image in any case (default 256 MiB). */
  readonly maxBytes?: number
}

/** One layer's pattern of some of the images. */
export interface LayerPattern {
  readonly layer: number
  /** Number of the first of these images. */
  readonly first: number
  /** [images, h, T, T], [query, key] */
  readonly pattern: Tensor<"float32">
}

/**
 * Patterns of images [b, c, H, W] in groups of images, and of each group in rising order of layers. Where one image's
 * patterns do not fit into `maxBytes`, the model runs several times for it. Errors: E_INPUT, E_HOOK.
 */
export async function* patterns(
  model: HookedViT,
  images: Tensor,
  { layers, maxBytes = 2 ** 28, ...interventions }: PatternOptions = {},
): AsyncGenerator<LayerPattern> {
  const { vision } = model.config
  const wanted = chosenLayers(vision.nLayers, layers)
  const all = asImages(images)
  const bytes = 4 * vision.nHeads * nTokens(vision) ** 2
  const atOnce = Math.max(1, Math.min(wanted.length, Math.floor(maxBytes / bytes)))
  const group = Math.max(1, Math.floor(maxBytes / (bytes * atOnce)))
  for (let first = 0; first < all.shape[0]!; first += group) {
    const some = imageRange(all, first, Math.min(all.shape[0]!, first + group))
    for (let i = 0; i < wanted.length; i += atOnce) {
      const names = wanted.slice(i, i + atOnce).map((layer) => [layer, `blocks.${layer}.attn.hook_pattern`] as const)
      const got = await model.run(some, { ...interventions, outputs: names.map(([, name]) => name) })
      for (const [layer, name] of names) yield { layer, first, pattern: got[name] as Tensor<"float32"> }
    }
  }
}

/** Layers as they are numbered from 0, rising. Error: E_HOOK for one that does not exist. */
export function chosenLayers(n: number, layers: number | readonly number[] | undefined): number[] {
  const at = (typeof layers === "number" ? [layers] : (layers ?? [...Array(n).keys()])).map((l) => {
    const i = l < 0 ? l + n : l
    return Number.isInteger(i) && i >= 0 && i < n
      ? i
      : fail("E_HOOK", `layer ${l} does not exist; the model has layers 0 to ${n - 1}`)
  })
  return [...new Set(at)].sort((a, b) => a - b)
}

/** Images [b, c, H, W], or one [c, H, W]. Error: E_INPUT. */
export function asImages(given: Tensor): Tensor<"float32"> {
  const t = expectFloat32(given, "images")
  const images = t.shape.length === 3 ? float32([1, ...t.shape], t.data) : t
  if (images.shape.length !== 4 || images.shape[0] === 0) {
    fail("E_INPUT", `images must be [b, c, H, W] with at least one image, got ${show(t.shape)}`)
  }
  return images
}

/** Images `from` up to `to`, as a view. */
export function imageRange(images: Tensor<"float32">, from: number, to: number): Tensor<"float32"> {
  const one = size(images.shape.slice(1))
  return float32([to - from, ...images.shape.slice(1)], images.data.subarray(from * one, to * one))
}

/** A pattern [b, h, T, T]: its sizes and values. Error: E_INPUT. */
export function asPattern(given: Tensor) {
  const { shape, data } = expectFloat32(given, "a pattern")
  const [b, h, t, keys] = shape as [number, number, number, number]
  if (shape.length !== 4 || t !== keys) fail("E_INPUT", `a pattern must be [b, h, T, T], got ${show(shape)}`)
  const wrong = data.findIndex((x) => !Number.isFinite(x))
  if (wrong >= 0) fail("E_INPUT", `a pattern must hold finite numbers, got ${data[wrong]} at ${wrong}`)
  return { b, h, t, data }
}
