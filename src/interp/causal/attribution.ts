/**
 * @file Attribution patching: what patching every value would do, to first order, from one gradient.
 *
 * Nanda 2023 (https://www.neelnanda.io/mechanistic-interpretability/attribution-patching); with `steps` the gradient is
 * averaged along the straight line between the two images (integrated gradients, arXiv:2403.17806).
 */
import { grad } from "../../autodiff/grad.ts"
import { mul, sum } from "../../graph/ops.ts"
import { matchHooks, type HookNames } from "../../model/hooks.ts"
import { fail } from "../../errors.ts"
import { float32, show, size, type Tensor } from "../../tensor/tensor.ts"
import { inputValues } from "../feeds.ts"
import { scalarMetric, type Metric } from "../gradients.ts"
import type { HookedViT } from "../hooked-vit.ts"
import { sourceRows, type Source } from "./sources.ts"

export interface AttributionOptions {
  /** Images [n, c, H, W]: the run in which values are thought to be replaced. */
  readonly base: Tensor
  /** What is thought to be put in their place. */
  readonly source: Source
  readonly hooks: HookNames
  readonly metric: Metric
  /** Gradients along the line from base to source, averaged: 1 is the gradient at the base alone. Needs `source.run`. */
  readonly steps?: number
}

/**
 * For each hook the first-order change of the metric if its values were replaced: (source - base) gradient, summed over
 * the last axis: [n, T] of the stream, [n, T, h] of heads, [n, h, T] of patterns.
 * Errors: E_HOOK, E_INPUT.
 */
export async function attributionPatching(
  model: HookedViT,
  { base, source, hooks, metric, steps = 1 }: AttributionOptions,
): Promise<ReadonlyMap<string, Tensor<"float32">>> {
  const names = matchHooks(model.hooks, hooks)
  const n = inputValues(model.config, base)["pixel_values"]!.shape[0]!
  if ("zero" in source && steps === 1) return fromZero(model, base, names, metric)
  const from = sourceRows(model, source, n, n)
  const [theirs, ours, slopes] = [
    await from(names, 0, n),
    (await model.runWithCache(base, { names })).cache,
    await slopesOf(model, line(base, source, steps), names, metric),
  ]
  return new Map(
    names.map((name) => {
      const slope = slopes.get(name)!
      const [a, b] = [ours.get(name), theirs.get(name)!]
      const differences = slope.data.map((g, i) => g * (b.data[i % b.data.length]! - Number(a.data[i % a.data.length])))
      return [name, overLast(float32(slope.shape, differences))]
    }),
  )
}

/** Nothing but the sums leaves the graph. */
async function fromZero(model: HookedViT, base: Tensor, names: readonly string[], metric: Metric) {
  const out = await model.run(base, {
    at: names,
    outputs: (view) => {
      const points = names.map(view.hook)
      const slopes = grad(total(scalarMetric(metric, view)), points)
      const sums = slopes.map((g, i) => sum(mul(g, points[i]!), [g.shape.length - 1]))
      return Object.fromEntries(names.map((name, i) => [name, sums[i]!]))
    },
  })
  return new Map(
    names.map((name) => {
      const t = out[name] as Tensor<"float32">
      const { shape } = model.hooks.get(name)!
      // Zero less the value.
      return [
        name,
        float32(
          [t.shape[0]!, ...(shape.slice(1, -1) as number[])],
          t.data.map((x) => -x),
        ),
      ]
    }),
  )
}

const total = (value: ReturnType<typeof scalarMetric>) => sum(value, [0])

async function slopesOf(model: HookedViT, points: readonly Tensor[], names: readonly string[], metric: Metric) {
  const sums = new Map<string, Tensor<"float32">>()
  for (const point of points) {
    const { hooks } = await model.gradients(point, (view) => scalarMetric(metric, view), { at: names })
    for (const name of names) {
      const t = hooks.get(name)!
      const before = sums.get(name)?.data
      sums.set(
        name,
        float32(
          t.shape,
          t.data.map((g, i) => (before?.[i] ?? 0) + g / points.length),
        ),
      )
    }
  }
  return sums
}

/** Midpoints of `steps` equal parts of the way; of one step, the base itself. */
export function line(base: Tensor, source: Source, steps: number): Tensor[] {
  if (!Number.isInteger(steps) || steps < 1) fail("E_INPUT", `steps must be a whole number of at least 1, got ${steps}`)
  if (steps === 1) return [base]
  if (!("run" in source))
    return fail("E_INPUT", "more than one step needs a source that is a run: there is no line to others")
  const end = source.run.data as Float32Array
  if (end.length !== base.data.length && end.length !== size(base.shape.slice(1))) {
    fail(
      "E_INPUT",
      `the source is ${show(source.run.shape)}, the base ${show(base.shape)}: they must be images of one size`,
    )
  }
  return Array.from({ length: steps }, (_, k) => {
    const way = (k + 0.5) / steps
    return float32(
      base.shape,
      (base.data as Float32Array).map((x, i) => x + way * (end[i % end.length]! - x)),
    )
  })
}

function overLast({ shape, data }: Tensor<"float32">): Tensor<"float32"> {
  const last = shape.at(-1)!
  const out = new Float32Array(data.length / last)
  for (let i = 0; i < out.length; i++) for (let j = 0; j < last; j++) out[i]! += data[i * last + j]!
  return float32(shape.slice(0, -1), out)
}
