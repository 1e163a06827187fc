/** @file What is put in a value's place: that of another run, zero, a mean, or that of an image drawn for each. */
import { fail } from "../../errors.ts"
import { Random } from "../../tensor/random.ts"
import { float32, show, size, type Tensor } from "../../tensor/tensor.ts"
import type { ActivationCache } from "../cache.ts"
import { inputValues, type ModelInput } from "../feeds.ts"
import type { HookedViT } from "../hooked-vit.ts"

/**
 * `run`: the values of a run on these images, one for each image of the experiment or one for all. `cache`: those that
 * `runWithCache` kept of such a run, every token of them. `zero`. `mean`: over
 * these images, for each token and unit. `resample`: those of one of these images, drawn for each from `seed`.
 */
export type Source =
  | { readonly run: Tensor }
  | { readonly cache: ActivationCache }
  | { readonly zero: true }
  | { readonly mean: Tensor }
  | { readonly resample: Tensor; readonly seed?: number }

/** Values at hooks, a row for each image; of one row it is everybody's. */
export type Rows = ReadonlyMap<string, Tensor<"float32">>

/** The values of hooks for the images `first` to `end` of the experiment. */
export type SourceRows = (names: readonly string[], first: number, end: number) => Promise<Rows>

export const imagesOf = (t: Tensor, first: number, end: number): Tensor => {
  const n = size(t.shape.slice(1))
  return { ...t, shape: [end - first, ...t.shape.slice(1)], data: t.data.subarray(first * n, end * n) }
}

/** The images of an experiment, [n, c, H, W]. Error: E_INPUT for none. */
export function imagesIn(model: HookedViT, given: ModelInput, what = "the experiment"): Tensor {
  const images = inputValues(model.config, given)["pixel_values"]
  return images?.shape[0] ? images : fail("E_INPUT", `${what} needs pixel_values [n, c, H, W] of at least one image`)
}

/** The values at hooks of a run on images, of which at most `batch` run at once. */
export async function valuesAt(model: HookedViT, given: ModelInput, names: readonly string[]): Promise<Rows> {
  const { cache } = await model.runWithCache(given, { names })
  return new Map(names.map((name) => [name, cache.get(name) as Tensor<"float32">]))
}

const KINDS = ["run", "cache", "zero", "mean", "resample"]

/** Errors: E_INPUT for no source, and for a number of images that is neither 1 nor the experiment's. */
export function sourceRows(model: HookedViT, source: Source, images: number, batch: number): SourceRows {
  if (typeof source !== "object" || source === null || !KINDS.some((kind) => kind in source)) {
    return fail("E_INPUT", "a source is one of { run }, { cache }, { zero: true }, { mean } and { resample }")
  }
  if ("zero" in source) {
    return async (names) => new Map(names.map((name) => [name, blank(model, name)]))
  }
  if ("mean" in source) {
    const pool = imagesIn(model, source.mean, "a mean")
    const means = new Map<string, Promise<Rows>>()
    return (names) => {
      const key = names.join(" ")
      const made = means.get(key) ?? meanAt(model, pool, names, batch)
      means.set(key, made)
      return made
    }
  }
  if ("resample" in source) {
    const pool = imagesIn(model, source.resample, "resampling")
    const random = new Random(source.seed ?? 0, "resample")
    const drawn = Array.from({ length: images }, () => random.below(pool.shape[0]!))
    return (names, first, end) => valuesAt(model, gathered(pool, drawn.slice(first, end)), names)
  }
  if ("cache" in source) {
    const kept = (name: string) => keptAt(model, source.cache, name, images)
    return async (names, first, end) => new Map(names.map((name) => [name, someOf(kept(name), first, end)]))
  }
  const run = imagesIn(model, source.run, "the source")
  const count = run.shape[0]!
  if (count !== 1 && count !== images) {
    fail("E_INPUT", `the source has ${count} images ${show(run.shape)}, expected 1 or the experiment's ${images}`)
  }
  return (names, first, end) => valuesAt(model, someOf(run, first, end), names)
}

/** What is of one image is of all. */
const someOf = <T extends Tensor>(t: T, first: number, end: number): T =>
  t.shape[0] === 1 ? t : (imagesOf(t, first, end) as T)

/** Errors: E_HOOK for a hook that was not kept, E_INPUT for one of which not all was. */
function keptAt(model: HookedViT, cache: ActivationCache, name: string, images: number): Tensor<"float32"> {
  const t = cache.get(name)
  const [rows, ...rest] = t.shape
  const wanted = model.hooks.get(name)!.shape.slice(1)
  if (String(rest) === String(wanted) && (rows === 1 || rows === images)) return t as Tensor<"float32">
  const expected = `[1 or ${images}, ${wanted.join(", ")}]`
  return fail("E_INPUT", `the source's cache has "${name}" as ${show(t.shape)}, expected ${expected}`)
}

async function meanAt(model: HookedViT, images: Tensor, names: readonly string[], batch: number): Promise<Rows> {
  const n = images.shape[0]!
  const sums = new Map(names.map((name) => [name, new Float64Array(size(blank(model, name).shape))]))
  for (let first = 0; first < n; first += batch) {
    const values = await valuesAt(model, imagesOf(images, first, Math.min(n, first + batch)), names)
    for (const [name, t] of values) {
      const sum = sums.get(name)!
      // What has one row for all images comes once with each batch.
      const share = 1 / (model.hooks.get(name)!.shape[0] === 1 ? Math.ceil(n / batch) : n)
      for (let i = 0; i < t.data.length; i++) sum[i % sum.length]! += t.data[i]! * share
    }
    model.runtime.giveBack(values.values())
  }
  return new Map([...sums].map(([name, sum]) => [name, float32(blank(model, name).shape, Float32Array.from(sum))]))
}

/** Zeros of one row of a hook. */
function blank(model: HookedViT, name: string): Tensor<"float32"> {
  const shape = [1, ...(model.hooks.get(name)!.shape.slice(1) as number[])]
  return float32(shape, new Float32Array(size(shape)))
}

/** These rows of a tensor, in this order. */
export function gathered(t: Tensor, rows: readonly number[]): Tensor {
  const n = size(t.shape.slice(1))
  const data = new Float32Array(rows.length * n)
  for (const [i, row] of rows.entries()) data.set((t.data as Float32Array).subarray(row * n, (row + 1) * n), i * n)
  return float32([rows.length, ...t.shape.slice(1)], data)
}
