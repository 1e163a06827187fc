/**
 * @file Which edges matter: scored by one gradient (arXiv:2310.10348, with `steps` arXiv:2403.17806), kept from the first
 * on, and run with all others carrying another run's values.
 */
import { float32, type Tensor } from "../../tensor/tensor.ts"
import { Moments } from "../estimate.ts"
import type { Metric } from "../gradients.ts"
import type { HookedViT } from "../hooked-vit.ts"
import { whole } from "../inputs/batches.ts"
import { line } from "./attribution.ts"
import {
  edgeLayout,
  edgeName,
  edgesOf,
  edgeSlopes,
  headScales,
  metricWithout,
  senderHooks,
  writtenOf,
  type Edge,
} from "./edges.ts"
import { curveOf, meanOf, type CurveOptions, type CurvePoint } from "./faithfulness.ts"
import { checkEdge } from "./path.ts"
import { imagesIn, imagesOf, sourceRows, valuesAt, type Source } from "./sources.ts"
import { measure } from "./sweep.ts"

export interface EdgeOptions {
  /** Images [n, c, H, W]: the run whose edges are cut. */
  readonly base: Tensor
  /** What a cut edge carries. */
  readonly source: Source
  /** One number for each image. */
  readonly metric: Metric
  /** Gradients along the line from base to source, averaged: 1 is the gradient at the base alone. Needs `source.run`. */
  readonly steps?: number
  /** Images whose values are held at once: 1. */
  readonly batch?: number
}

export interface EdgeScore extends Edge {
  /** Of each image: the estimated change of the metric if the edge carried the source's value. */
  readonly values: readonly number[]
  readonly mean: number
  /** Student's 95 % interval of the mean over images; absent for one image. */
  readonly interval?: readonly [low: number, high: number]
}

/** Every edge's score, by reader and then by sender. Errors: E_INPUT, also for a post-norm model. */
export async function edgeAttribution(model: HookedViT, options: EdgeOptions): Promise<EdgeScore[]> {
  const { source, metric, steps = 1 } = options
  const { layout, scales, parts, n } = await prepared(model, options)
  const edges = edgesOf(layout)
  const values = edges.map(() => new Float64Array(n))
  for (const { first, images, theirs } of parts) {
    const [rows, ours] = [await theirs(), await valuesAt(model, images, senderHooks(layout))]
    const count = images.shape[0]!
    const [to, from] = [writtenOf(layout, rows, scales, count), writtenOf(layout, ours, scales, count)]
    const change = float32(
      to.shape,
      to.data.map((x, i) => x - from.data[i]!),
    )
    const there =
      "run" in source && source.run.shape[0] !== 1 ? { run: imagesOf(source.run, first, first + count) } : source
    for (const point of line(images, there, steps)) {
      const { data } = await edgeSlopes({ model, layout, images: point, metric }, change)
      for (let i = 0; i < data.length; i++) {
        values[i % edges.length]![first + Math.floor(i / edges.length)]! += data[i]! / steps
      }
    }
  }
  return edges.map((edge, e) => {
    const moments = new Moments(1)
    for (const x of values[e]!) moments.add(0, x)
    const { mean, interval } = moments.estimate(0, 0.95)
    return { ...edge, values: Array.from(values[e]!), mean, ...(interval && { interval }) }
  })
}

type KeptEdges = EdgeOptions & { readonly keep: readonly Edge[] }

/** The metric of each image where only these edges carry the run's own values. Errors: E_INPUT. */
export async function runEdges(model: HookedViT, { keep, ...options }: KeptEdges): Promise<number[]> {
  const { layout, scales, parts } = await prepared(model, options)
  for (const { sender, receiver } of keep) checkEdge(model, sender, receiver)
  const kept = new Set(keep.map(edgeName))
  const out: number[] = []
  for (const { images, theirs } of parts) {
    const other = writtenOf(layout, await theirs(), scales, images.shape[0]!)
    const run = { model, layout, images, metric: options.metric }
    out.push(...(await metricWithout(run, other, scales, (edge) => !kept.has(edgeName(edge)))))
  }
  return out
}

export interface EdgeCircuit {
  /** All edges, the most important first (mean over images). */
  readonly ranking: readonly EdgeScore[]
  /** The metric where the first `kept` of these are the model's own. */
  readonly curve: readonly CurvePoint[]
}

/**
 * Rank the edges and follow the curve at `sizes`; by default 0, the powers of two and the budget.
 * Errors: E_INPUT, E_INTERRUPTED.
 */
export async function findEdges(model: HookedViT, options: EdgeOptions & CurveOptions): Promise<EdgeCircuit> {
  const scores = await edgeAttribution(model, options)
  const ranking = scores.toSorted((a, b) => Math.abs(b.mean) - Math.abs(a.mean))
  const whole = meanOf(await measure(model, options.base, options.metric))
  const kept = async (n: number) => meanOf(await runEdges(model, { ...options, keep: ranking.slice(0, n) }))
  return { ranking, curve: await curveOf(ranking.length, whole, kept, options, powers) }
}

const powers = (most: number): number[] => {
  const sizes = [0, most]
  for (let k = 1; k < most; k *= 2) sizes.push(k)
  return sizes
}

/** The images in parts, each with the rows that its edges would carry. */
async function prepared(model: HookedViT, { base, source, batch = 1 }: EdgeOptions) {
  const layout = edgeLayout(model)
  whole("batch", batch, 4096)
  const images = imagesIn(model, base)
  const n = images.shape[0]!
  const rows = sourceRows(model, source, n, batch)
  const parts = Array.from({ length: Math.ceil(n / batch) }, (_, k) => {
    const [first, end] = [k * batch, Math.min(n, (k + 1) * batch)]
    return { first, images: imagesOf(images, first, end), theirs: () => rows(senderHooks(layout), first, end) }
  })
  return { layout, scales: await headScales(model), parts, n }
}
