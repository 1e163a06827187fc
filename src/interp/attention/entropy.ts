/** @file How wide and how far heads look: entropy of a pattern and mean attention distance. */
import { fail } from "../../errors.ts"
import { float32, type Tensor } from "../../tensor/tensor.ts"
import { asPattern } from "./patterns.ts"
import type { TokenLayout } from "./tokens.ts"

/** -sum p ln p over the keys, in nats, from 0 (one token) to ln T (all alike). A pattern [b, h, T, T] to [b, h, T]. */
export function attentionEntropy(pattern: Tensor): Tensor<"float32"> {
  const { b, h, t, data } = asPattern(pattern)
  return float32(
    [b, h, t],
    Float32Array.from({ length: b * h * t }, (_, row) => entropyOf(data.subarray(row * t, (row + 1) * t))),
  )
}

export const entropyOf = (row: ArrayLike<number>): number => {
  let sum = 0
  for (let i = 0; i < row.length; i++) if (row[i]! > 0) sum -= row[i]! * Math.log(row[i]!)
  return sum
}

export interface DistanceOptions {
  /** Of "patches", a step down or across is 1; of "pixels" (the default), the patch size. */
  readonly unit?: "pixels" | "patches"
  /**
   * Divide by what a query gives to patches, so that what goes to class and register tokens counts for nothing; true by
   * default. Otherwise it counts as distance 0, as in code where it is cut away.
   */
  readonly renormalise?: boolean
}

/**
 * Mean attention distance (Dosovitskiy et al., arXiv:2010.11929, figure 7): the distance between the centres of the
 * query's patch and the key's, weighted by the pattern, averaged over the patches that look at any. Class and register
 * tokens are left out on both sides. A pattern [b, h, T, T] to [b, h]; NaN where no patch is looked at.
 */
export function attentionDistance(
  pattern: Tensor,
  layout: TokenLayout,
  options: DistanceOptions = {},
): Tensor<"float32"> {
  const { b, h, t, data } = asPattern(pattern)
  const distances = patchDistances(layout, options.unit)
  return float32(
    [b, h],
    Float32Array.from({ length: b * h }, (_, i) =>
      distanceOf(data.subarray(i * t * t, (i + 1) * t * t), layout, distances, options.renormalise),
    ),
  )
}

/** [P, P] */
export function patchDistances(
  { grid: [rows, columns], patchSize: [height, width] }: TokenLayout,
  unit: DistanceOptions["unit"] = "pixels",
): Float64Array {
  if (unit !== "pixels" && unit !== "patches") fail("E_INPUT", `unit must be pixels or patches, got ${String(unit)}`)
  const n = rows * columns
  const [down, across] = unit === "pixels" ? [height, width] : [1, 1]
  return Float64Array.from({ length: n * n }, (_, i) => {
    const [q, k] = [Math.floor(i / n), i % n]
    const dy = Math.floor(q / columns) - Math.floor(k / columns)
    return Math.hypot(down * dy, across * ((q % columns) - (k % columns)))
  })
}

/** Of one head's [T, T]. */
export function distanceOf(
  pattern: ArrayLike<number>,
  { nTokens: t, nPrefix: p, nPatches: n }: TokenLayout,
  distances: Float64Array,
  renormalise = true,
): number {
  let [sum, counted] = [0, 0]
  for (let q = 0; q < n; q++) {
    let [far, mass] = [0, 0]
    for (let k = 0; k < n; k++) {
      const a = pattern[(p + q) * t + p + k]!
      far += a * distances[q * n + k]!
      mass += a
    }
    if (!mass) continue
    sum += renormalise ? far / mass : far
    counted++
  }
  return counted ? sum / counted : NaN
}
