/** @file Many images through one graph, some at a time. */
import { fail } from "../../errors.ts"
import type { Value } from "../../graph/value.ts"
import { float32, show, size, type Tensor } from "../../tensor/tensor.ts"
import { asImages, imageRange } from "../attention/patterns.ts"
import { imageMetric, type Metric } from "../gradients.ts"
import type { GraphView, HookedViT } from "../hooked-vit.ts"
import type { Interventions } from "../interventions.ts"

export interface InputOptions extends Pick<Interventions, "patch" | "edit"> {
  /** Images run at once; 8. */
  readonly batch?: number
}

export const BATCH = 8

/** Values of the graph that have the images along their first axis, for all images [b, c, H, W]. Error: E_INPUT. */
export async function inBatches<O extends string>(
  model: HookedViT,
  given: Tensor,
  { batch = BATCH, patch, edit }: InputOptions,
  outputs: (view: GraphView) => Readonly<Record<O, Value>>,
): Promise<Record<O, Tensor<"float32">>> {
  whole("batch", batch, 4096)
  const images = asImages(given)
  const b = images.shape[0]!
  const all = new Map<string, Tensor<"float32">>()
  for (let first = 0; first < b; first += batch) {
    const some = imageRange(images, first, Math.min(b, first + batch))
    const got = await model.run(some, { ...(patch && { patch }), ...(edit && { edit }), outputs })
    putRows(all, Object.entries(got), first, b)
  }
  return Object.fromEntries(all) as Record<O, Tensor<"float32">>
}

/** Put what some images gave, from image `first` on, into the tensors of all `n`. */
export function putRows(
  all: Map<string, Tensor<"float32">>,
  got: Iterable<readonly [string, Tensor]>,
  first: number,
  n: number,
): void {
  for (const [name, { shape, data }] of got) {
    const one = size(shape.slice(1))
    const into = all.get(name) ?? float32([n, ...shape.slice(1)], new Float32Array(n * one))
    into.data.set(data as Float32Array, first * one)
    all.set(name, into)
  }
}

/** The metric of every image, [b]. */
export async function measured(
  model: HookedViT,
  images: Tensor,
  metric: Metric,
  options: InputOptions,
): Promise<Tensor<"float32">> {
  return (await inBatches(model, images, options, (view) => ({ metric: imageMetric(metric, view) }))).metric
}

/** An image [c, H, W] in the model's values from a number or a tensor. Error: E_INPUT for another shape. */
export function baselineImage(baseline: number | Tensor, images: Tensor): Float32Array {
  const shape = images.shape.slice(1)
  if (typeof baseline === "number") return new Float32Array(size(shape)).fill(baseline)
  const given = asImages(baseline)
  if (String(given.shape) !== String([1, ...shape])) {
    fail("E_INPUT", `the baseline must be one image ${show(shape)}, got ${show(baseline.shape)}`)
  }
  return given.data
}

/** Error: E_INPUT. */
export function whole(name: string, x: number, most: number, least = 1): void {
  if (Number.isSafeInteger(x) && x >= least && x <= most) return
  fail("E_INPUT", `${name} must be a whole number from ${least} to ${most}, got ${String(x)}`)
}
