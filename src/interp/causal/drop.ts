/**
 * @file Patch tokens taken out of the sequence: nothing attends to them, nothing pools them, as if there were none.
 *
 * The same weights over a shorter sequence (as arXiv:2111.06377's encoder runs), given the embeddings that stay.
 */
import { fail } from "../../errors.ts"
import { grid, nPatches, nPrefix } from "../../model/config.ts"
import { float32, type Tensor } from "../../tensor/tensor.ts"
import { Moments } from "../estimate.ts"
import { imageMetric, type Metric } from "../gradients.ts"
import { HookedViT } from "../hooked-vit.ts"
import { whole } from "../inputs/batches.ts"
import { imagesIn, imagesOf, valuesAt } from "./sources.ts"
import type { SweepRow } from "./sweep.ts"

/** What runs without some tokens: `model.run({}, { patch, ... })`, `model.runWithCache({}, { patch, ... })`. */
export interface Shorter {
  /** The same weights and hooks, over the tokens that stay. */
  readonly model: HookedViT
  /** Their embeddings, positions included. */
  readonly patch: Readonly<Record<string, Tensor>>
}

/**
 * A model without these tokens (places in the sequence, of patches only; other tokens are the model's own). Errors:
 * E_INPUT for tokens that are no patches, for all patches at once, and for a masked autoencoder.
 */
export async function withoutTokens(model: HookedViT, images: Tensor, tokens: readonly number[]): Promise<Shorter> {
  const { vision } = model.config
  const [prefix, patches] = [nPrefix(vision), nPatches(vision)]
  const gone = new Set(tokens)
  const wrong = tokens.find((t) => !Number.isInteger(t) || t < prefix || t >= prefix + patches)
  if (wrong !== undefined) {
    fail("E_INPUT", `token ${wrong} is no patch; the patches are tokens ${prefix} to ${prefix + patches - 1}`)
  }
  if (gone.size === patches) fail("E_INPUT", `all ${patches} patches would be dropped; keep at least one`)
  if (vision.reconstructs)
    fail("E_INPUT", "a model that reconstructs its patches cannot lack some; hide them by patch_mask")
  const full = (await valuesAt(model, images, ["hook_full_embed"])).get("hook_full_embed")!
  const [n, T, d] = full.shape as readonly [number, number, number]
  const kept = Array.from({ length: T }, (_, t) => t).filter((t) => !gone.has(t))
  const data = new Float32Array(n * kept.length * d)
  for (let i = 0; i < n; i++)
    for (const [k, t] of kept.entries()) {
      data.set(full.data.subarray((i * T + t) * d, (i * T + t + 1) * d), (i * kept.length + k) * d)
    }
  // An image of one row of patches has as many as stay; its pixels and positions are never read.
  const [ph, pw] = vision.patchSize
  const imageSize: readonly [number, number] = [ph, pw * (kept.length - prefix)]
  // Places that are turned by, not added, stay those of the whole image.
  const patchesKept = kept.filter((t) => t >= prefix).map((t) => t - prefix)
  const rotary = vision.rotary && { ...vision.rotary, kept: { grid: grid(vision), patches: patchesKept } }
  const config = { ...model.config, vision: { ...vision, imageSize, ...(rotary && { rotary }) } }
  const { weights, runtime, read } = model
  return {
    model: new HookedViT({ config, weights, runtime, read }),
    patch: { hook_full_embed: float32([n, kept.length, d], data) },
  }
}

export interface DropOptions {
  /** Images [n, c, H, W]. */
  readonly images: Tensor
  /** Tokens that are dropped together; `regionTokens` gives those of a rectangle. */
  readonly groups: readonly (readonly number[])[]
  /** One number for each image. */
  readonly metric: Metric
  /** Images that run at once: 8. */
  readonly batch?: number
  readonly signal?: AbortSignal
  readonly onProgress?: (done: number, total: number) => void
}

/** One row for each group: the metric without its tokens. Errors: E_HOOK, E_INPUT, E_INTERRUPTED. */
export async function* dropTokens(model: HookedViT, options: DropOptions): AsyncGenerator<SweepRow, void, void> {
  const { images, groups, metric, batch = 8, signal, onProgress } = options
  whole("batch", batch, 4096)
  const pixels = imagesIn(model, images)
  const n = pixels.shape[0]!
  for (const [g, tokens] of groups.entries()) {
    if (signal?.aborted) fail("E_INTERRUPTED", `dropping was stopped after ${g} of ${groups.length} groups`)
    const values: number[] = []
    for (let first = 0; first < n; first += batch) {
      const some = imagesOf(pixels, first, Math.min(n, first + batch))
      const { model: shorter, patch } = await withoutTokens(model, some, tokens)
      const { value } = await shorter.run({}, { patch, outputs: (view) => ({ value: imageMetric(metric, view) }) })
      values.push(...(value!.data as Float32Array))
    }
    const moments = new Moments(1)
    for (const x of values) moments.add(0, x)
    const { mean, interval } = moments.estimate(0, 0.95)
    yield { site: { hook: "hook_full_embed", tokens }, values, mean, ...(interval && { interval }) }
    onProgress?.(g + 1, groups.length)
  }
}
