/** @file Attention rollout (Abnar and Zuidema, "Quantifying Attention Flow in Transformers", arXiv:2005.00928). */
import { fail } from "../../errors.ts"
import { float32, show, type Tensor } from "../../tensor/tensor.ts"
import { asPattern } from "./patterns.ts"

/** How the heads of a layer become one matrix. */
export type HeadFusion = "mean" | "max" | "min"

const FUSE: { readonly [F in HeadFusion]: (a: number, b: number) => number } = {
  mean: (a, b) => a + b,
  max: Math.max,
  min: Math.min,
}
export const HEAD_FUSIONS = Object.keys(FUSE) as HeadFusion[]

export interface RolloutOptions {
  readonly headFusion?: HeadFusion
  /**
   * In [0, 1): this share of each layer's fused entries, the lowest of all queries and keys together, becomes 0; of
   * equal ones the first. 0 by default.
   */
  readonly discardRatio?: number
  /** In [0, 1): the stream that goes past attention; 0.5 as in the paper. */
  readonly residual?: number
}

/** The heads of a pattern [b, h, T, T] as one, [b, 1, T, T]: what is held of a layer where all heads are too much. */
export function fuseHeads(pattern: Tensor, how: HeadFusion = "mean"): Tensor<"float32"> {
  const { b, h, t, data } = asPattern(pattern)
  const fuse = FUSE[how] ?? fail("E_INPUT", `headFusion must be ${HEAD_FUSIONS.join(", ")}, got ${how}`)
  const one = t * t
  const out = new Float32Array(b * one)
  for (let i = 0; i < out.length; i++) {
    const from = Math.floor(i / one) * h * one + (i % one)
    let fused = data[from]!
    for (let head = 1; head < h; head++) fused = fuse(fused, data[from + head * one]!)
    out[i] = how === "mean" ? fused / h : fused
  }
  return float32([b, 1, t, t], out)
}

/** Each image's matrix of a layer, (1 - w) A + w I with rows of sum 1: A the heads fused, w the residual weight. */
export function mixing(
  pattern: Tensor,
  { headFusion, discardRatio = 0, residual = 0.5 }: RolloutOptions = {},
): Float64Array[] {
  checkShare("discardRatio", discardRatio)
  checkShare("residual", residual)
  const { shape, data } = fuseHeads(pattern, headFusion)
  const [b, , t] = shape as [number, number, number]
  return Array.from({ length: b }, (_, image) => {
    const fused = Float64Array.from(data.subarray(image * t * t, (image + 1) * t * t))
    discard(fused, Math.floor(discardRatio * fused.length))
    return mixed(fused, t, residual)
  })
}

/**
 * Where each query's answer comes from: the product of the layers' matrices, last layer first. `layers` are patterns
 * [b, h, T, T] from the first layer to the last. Without `from` all queries, [b, T, T]; with it, weights [T] over the
 * last layer's tokens (`readout` of a model), [b, T], T^2 steps a layer in place of T^3. Rows have the sum of `from`.
 */
export function rollout(
  layers: readonly Tensor[],
  options: RolloutOptions & { readonly from?: ArrayLike<number> } = {},
): Tensor<"float32"> {
  const { from, ...mix } = options
  const first = layers[0] ?? fail("E_INPUT", "rollout: no layer was given")
  const { b, t } = asPattern(first)
  for (const { shape } of layers) {
    if (String(shape) !== String(first.shape)) {
      fail("E_INPUT", `rollout: layers of ${show(first.shape)} and ${show(shape)}; all must be alike`)
    }
  }
  if (from && from.length !== t)
    fail("E_INPUT", `rollout: from must have ${t} weights, one a token, got ${from.length}`)
  const odd = from && Array.from(from).findIndex((x) => !Number.isFinite(x))
  if (odd !== undefined && odd >= 0)
    fail("E_INPUT", `rollout: from must hold finite numbers, got ${from![odd]} at ${odd}`)
  const rows = from ? 1 : t
  let carried = Array.from({ length: b }, () => (from ? Float64Array.from(from) : identity(t)))
  for (const layer of layers.toReversed()) {
    const matrices = mixing(layer, mix)
    carried = carried.map((rowsOf, i) => product(rowsOf, matrices[i]!, rows, t))
  }
  const out = new Float32Array(b * rows * t)
  for (const [i, values] of carried.entries()) out.set(values, i * rows * t)
  return float32(from ? [b, t] : [b, t, t], out)
}

function checkShare(name: string, x: number): void {
  if (!(x >= 0 && x < 1)) fail("E_INPUT", `${name} must be in [0, 1), got ${String(x)}`)
}

/** The `n` lowest become 0, of equal ones the first. */
function discard(values: Float64Array, n: number): void {
  if (!n) return
  const edge = values.toSorted()[n - 1]!
  let ties = n - values.reduce((below, x) => below + (x < edge ? 1 : 0), 0)
  for (const [i, x] of values.entries()) {
    if (x < edge || (x === edge && ties-- > 0)) values[i] = 0
  }
}

function mixed(a: Float64Array, t: number, residual: number): Float64Array {
  for (let q = 0; q < t; q++) {
    const row = a.subarray(q * t, (q + 1) * t)
    for (let k = 0; k < t; k++) row[k]! *= 1 - residual
    row[q]! += residual
    const total = row.reduce((sum, x) => sum + x, 0)
    // Without a residual, a query of which all was discarded looks nowhere.
    if (total > 0) for (let k = 0; k < t; k++) row[k]! /= total
  }
  return a
}

const identity = (t: number): Float64Array => Float64Array.from({ length: t * t }, (_, i) => (i % (t + 1) ? 0 : 1))

/** [rows, t] times [t, t] */
function product(a: Float64Array, b: Float64Array, rows: number, t: number): Float64Array {
  const out = new Float64Array(rows * t)
  for (let i = 0; i < rows; i++) {
    for (let k = 0; k < t; k++) {
      const x = a[i * t + k]!
      if (x) for (let j = 0; j < t; j++) out[i * t + j]! += x * b[k * t + j]!
    }
  }
  return out
}
