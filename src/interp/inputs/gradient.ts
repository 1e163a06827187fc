/**
 * @file Attributions to pixels by gradients: saliency (Simonyan et al., arXiv:1312.6034), integrated gradients
 * (Sundararajan et al., arXiv:1703.01365) and SmoothGrad (Smilkov et al., arXiv:1706.03825).
 *
 * All explain a metric of each image and run the model on batches of images as they are, with any patch and edit.
 */
import { grad } from "../../autodiff/grad.ts"
import { fail } from "../../errors.ts"
import { sum } from "../../graph/ops.ts"
import { Random } from "../../tensor/random.ts"
import { float32, size, type Tensor } from "../../tensor/tensor.ts"
import { asImages } from "../attention/patterns.ts"
import { imageMetric, type Metric } from "../gradients.ts"
import type { HookedViT } from "../hooked-vit.ts"
import { BATCH, baselineImage, inBatches, measured, whole, type InputOptions } from "./batches.ts"
import { gaussLegendre } from "./quadrature.ts"

export interface Attribution {
  /** Signed, [b, c, H, W]; `heatmap` and `patchMap` make pictures of it. */
  readonly values: Tensor<"float32">
  /** The metric of each image, [b]. */
  readonly metric: Tensor<"float32">
}

export interface SaliencyOptions extends InputOptions {
  /** Times the input: how far the metric, were it linear, comes from each pixel. */
  readonly timesInput?: boolean
}

/** d metric / d pixel. Errors: E_INPUT for a metric that is not one of each image, E_HOOK. */
export async function saliency(
  model: HookedViT,
  given: Tensor,
  metric: Metric,
  options: SaliencyOptions = {},
): Promise<Attribution> {
  const images = asImages(given)
  const out = await slopes(model, images, metric, options)
  if (!options.timesInput) return out
  const values = out.values.data.map((g, i) => g * images.data[i]!)
  return { ...out, values: float32(images.shape, values) }
}

export interface IntegratedOptions extends InputOptions {
  /**
   * Where the path begins: a number for all of it, or an image [c, H, W], in the model's normalised values. 0 by default,
   * the mean colour of what the model was trained on.
   */
  readonly baseline?: number | Tensor
  /** Points on the path, Gauss and Legendre's; 32. */
  readonly steps?: number
}

export interface IntegratedAttribution extends Attribution {
  /** The metric of the baseline, [b]: the same of each image. */
  readonly baselineMetric: Tensor<"float32">
  /** Sum of an image's values less (metric - baselineMetric), [b]: 0 but for the steps of the integral. */
  readonly error: Tensor<"float32">
}

/** (x - x0) times the mean of d metric / d pixel along the straight path from the baseline x0 to the image x. */
export async function integratedGradients(
  model: HookedViT,
  given: Tensor,
  metric: Metric,
  options: IntegratedOptions = {},
): Promise<IntegratedAttribution> {
  const images = asImages(given)
  const { steps = 32, batch = BATCH } = options
  whole("steps", steps, 1024)
  const start = baselineImage(options.baseline ?? 0, images)
  const [nodes, weights] = gaussLegendre(steps)
  const one = start.length
  const values = new Float32Array(images.data.length)
  const ends = new Float32Array(images.shape[0]!)
  const errors = new Float32Array(images.shape[0]!)
  const reached = await measured(model, images, metric, options)
  const left = await measured(model, float32([1, ...images.shape.slice(1)], start), metric, options)
  for (let i = 0; i < ends.length; i++) {
    const image = images.data.subarray(i * one, (i + 1) * one)
    const mean = new Float64Array(one)
    for (let k = 0; k < steps; k += batch) {
      const some = nodes.subarray(k, k + batch)
      const path = new Float32Array(some.length * one)
      for (let j = 0; j < path.length; j++) {
        const [from, to] = [start[j % one]!, image[j % one]!]
        path[j] = from + some[Math.floor(j / one)]! * (to - from)
      }
      const points = float32([some.length, ...images.shape.slice(1)], path)
      const { data } = (await slopes(model, points, metric, options)).values
      for (let j = 0; j < data.length; j++) mean[j % one]! += weights[k + Math.floor(j / one)]! * data[j]!
    }
    let total = 0
    for (let j = 0; j < one; j++) {
      const x = mean[j]! * (image[j]! - start[j]!)
      values[i * one + j] = x
      total += x
    }
    ends[i] = left.data[0]!
    errors[i] = total - (reached.data[i]! - ends[i]!)
  }
  const b = [ends.length]
  return {
    values: float32(images.shape, values),
    metric: reached,
    baselineMetric: float32(b, ends),
    error: float32(b, errors),
  }
}

export interface SmoothOptions extends SaliencyOptions {
  /** Noisy copies of each image; 32. */
  readonly samples?: number
  /** Standard deviation of the noise as a share of the image's range of values; 0.15. */
  readonly noise?: number
  /** Of the noise, which is the same for every image; 0. */
  readonly seed?: number
}

/** The mean saliency of copies with Gaussian noise. */
export async function smoothGrad(
  model: HookedViT,
  given: Tensor,
  metric: Metric,
  options: SmoothOptions = {},
): Promise<Attribution> {
  const images = asImages(given)
  const { samples = 32, noise = 0.15, seed = 0, timesInput, ...rest } = options
  whole("samples", samples, 4096)
  whole("seed", seed, Number.MAX_SAFE_INTEGER, 0)
  if (!(noise >= 0 && Number.isFinite(noise)))
    fail("E_INPUT", `noise must be a number of at least 0, got ${String(noise)}`)
  const one = size(images.shape.slice(1))
  const values = new Float32Array(images.data.length)
  const value = await measured(model, images, metric, rest)
  for (let i = 0; i < images.shape[0]!; i++) {
    const image = images.data.subarray(i * one, (i + 1) * one)
    const sigma = noise * range(image)
    const sum = new Float64Array(one)
    const { batch = BATCH } = rest
    for (let k = 0; k < samples; k += batch) {
      const n = Math.min(batch, samples - k)
      const noisy = new Float32Array(n * one)
      for (let s = 0; s < n; s++) {
        const random = new Random(seed, `smoothgrad:${k + s}`)
        for (let j = 0; j < one; j++) noisy[s * one + j] = image[j]! + sigma * random.normal()
      }
      const { values: g } = await slopes(model, float32([n, ...images.shape.slice(1)], noisy), metric, rest)
      for (let j = 0; j < n * one; j++) sum[j % one]! += timesInput ? g.data[j]! * noisy[j]! : g.data[j]!
    }
    for (let j = 0; j < one; j++) values[i * one + j] = sum[j]! / samples
  }
  return { values: float32(images.shape, values), metric: value }
}

/** The metric of every image and its gradient at the pixels, in one graph. */
async function slopes(model: HookedViT, images: Tensor, metric: Metric, options: InputOptions): Promise<Attribution> {
  return inBatches(model, images, options, (view) => {
    const each = imageMetric(metric, view)
    return { metric: each, values: grad(sum(each, [0]), [view.hook("pixel_values")])[0]! }
  })
}

function range(values: Float32Array): number {
  let [low, high] = [Infinity, -Infinity]
  for (const x of values) {
    low = Math.min(low, x)
    high = Math.max(high, x)
  }
  return high - low
}
