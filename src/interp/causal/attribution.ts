/**
 * @file Attribution patching: what patching every value would do, to first order, from one gradient.
 *
 * Nanda 2023 (https://www.neelnanda.io/mechanistic-interpretability/attribution-patching); with `steps` the gradient is
 * averaged along the straight line between the two images (integrated gradients, arXiv:2403.17806).
 */
import { grad } from "../../autodiff/grad.ts"
import type { Values } from "../../graph/emit.ts"
import { mul, neg, sub, sum } from "../../graph/ops.ts"
import type { Value } from "../../graph/value.ts"
import { matchHooks, type HookNames } from "../../model/hooks.ts"
import { fail } from "../../errors.ts"
import { float32, show, size, type Tensor } from "../../tensor/tensor.ts"
import { imageMetric, type Metric } from "../gradients.ts"
import type { GraphView, HookedViT } from "../hooked-vit.ts"
import { BATCH, putRows, whole } from "../inputs/batches.ts"
import { imagesIn, imagesOf, sourceRows, valuesAt, type Rows, type Source } from "./sources.ts"

export interface AttributionOptions {
  /** Images [n, c, H, W]: the run in which values are thought to be replaced. */
  readonly base: Tensor
  /** What is thought to be put in their place. */
  readonly source: Source
  readonly hooks: HookNames
  readonly metric: Metric
  /** Images that run at once: 8. */
  readonly batch?: number
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
  { base, source, hooks, metric, steps = 1, batch = BATCH }: AttributionOptions,
): Promise<ReadonlyMap<string, Tensor<"float32">>> {
  whole("batch", batch, 4096)
  const names = matchHooks(model.hooks, hooks)
  if (!names.length) fail("E_INPUT", 'no hook was named; one is "blocks.*.hook_resid_pre"')
  const n = imagesIn(model, base).shape[0]!
  const points = line(base, source, steps)
  const from = "zero" in source ? undefined : sourceRows(model, source, n, batch)
  const all = new Map<string, Tensor<"float32">>()
  const isShared = (name: string) => model.hooks.get(name)!.shape[0] === 1
  for (let first = 0; first < n; first += batch) {
    const end = Math.min(n, first + batch)
    const of = (t: Tensor) => imagesOf(t, first, end)
    const theirs = await from?.(names, first, end)
    const got = await attributed(model, { base: of(base), points: points.map(of), theirs, names, metric })
    putRows(
      all,
      [...got].filter(([name]) => !isShared(name)),
      first,
      n,
    )
    for (const name of names.filter(isShared)) all.set(name, added(got.get(name)!, all.get(name)))
    // Made for this alone; a cache is the caller's, and means are those of the next images too.
    if (theirs && ("run" in source || "resample" in source)) model.runtime.giveBack([...theirs.values()])
  }
  return new Map(names.map((name) => [name, all.get(name)!]))
}

/** What all images share, as positions, has the sum of what it is to each. */
const added = (t: Tensor<"float32">, before: Tensor<"float32"> | undefined): Tensor<"float32"> =>
  before
    ? float32(
        t.shape,
        t.data.map((x, i) => x + before.data[i]!),
      )
    : t

interface Part {
  readonly base: Tensor
  readonly points: readonly Tensor[]
  readonly theirs: Rows | undefined
  readonly names: readonly string[]
  readonly metric: Metric
}

/** Of images that run at once. */
async function attributed(model: HookedViT, { base, points, theirs, names, metric }: Part) {
  // Along a line the difference stays that of its ends.
  const ours = points.length === 1 ? undefined : await valuesAt(model, base, names)
  const inputs = { ...fed(SOURCE, theirs), ...fed(BASE, ours) }
  // Nothing but the sums leaves the graph: at a ViT-B/16 they are 1 % of the values.
  const outputs = (view: GraphView): Values => {
    const own = names.map(view.hook)
    const value = sum(imageMetric(metric, view), [0])
    // (0 - base) gradient: one number's sign is turned, not that of every hook's sums.
    const slopes = grad(theirs ? value : neg(value), own)
    const along = (slope: Value, change: Value) => sum(mul(slope, change), [slope.shape.length - 1])
    return Object.fromEntries(
      names.map((name, i) => {
        const from = ours ? view.hook(BASE + name) : own[i]!
        const [slope, to] = [slopes[i]!, theirs && view.hook(SOURCE + name)]
        return [name, along(slope, to ? sub(to, from) : from)]
      }),
    )
  }
  const key =
    typeof metric === "string" ? ["attribution", names, metric, theirs && "theirs", ours && "ours"] : undefined
  const means = new Map<string, Tensor<"float32">>()
  for (const point of points) {
    const got = await model.run(point, { at: names, inputs, outputs, key })
    for (const name of names) {
      const t = got[name] as Tensor<"float32">
      const before = means.get(name)?.data
      const mean = (x: number, i: number) => (before?.[i] ?? 0) + x / points.length
      means.set(name, points.length === 1 ? t : float32(t.shape, t.data.map(mean)))
    }
  }
  if (ours) model.runtime.giveBack([...ours.values()])
  return means
}

/** Inputs of the graph that hold the values of hooks: no hook has such a name. */
const [SOURCE, BASE] = ["source of ", "base of "] as const
const fed = (prefix: string, rows: Rows | undefined): Record<string, Tensor> =>
  Object.fromEntries([...(rows ?? [])].map(([name, t]) => [prefix + name, t]))

/** Midpoints of `steps` equal parts of the way; of one step, the base itself. */
export function line(base: Tensor, source: Source, steps: number): Tensor[] {
  whole("steps", steps, 1024)
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
