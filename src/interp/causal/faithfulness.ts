/** @file How faithful a part of a model is, for each number of kept nodes or edges (arXiv:2403.17806). */
import { fail } from "../../errors.ts"

/** `mean`: the metric where the first `kept` are the model's own; `faithfulness` is 1 at the whole model's, 0 at none's. */
export interface CurvePoint {
  readonly kept: number
  readonly mean: number
  readonly faithfulness: number
}

export interface CurveOptions {
  /** At most so many are kept; all where left out. */
  readonly budget?: number
  /** The numbers that are tried. */
  readonly sizes?: readonly number[]
  readonly signal?: AbortSignal
  readonly onProgress?: (done: number, total: number) => void
}

/**
 * (metric(kept) - metric(0)) / (metric(all) - metric(0)) at each of `sizes`, in rising order; 1 where both ends agree.
 * Errors: E_INPUT for sizes that are no numbers of the ranking, E_INTERRUPTED.
 */
export async function curveOf(
  total: number,
  whole: number,
  metric: (kept: number) => Promise<number>,
  { budget = total, sizes, signal, onProgress }: CurveOptions,
  every: (most: number) => readonly number[],
): Promise<CurvePoint[]> {
  if (!Number.isInteger(budget) || budget < 0) fail("E_INPUT", `budget must be a whole number from 0 on, got ${budget}`)
  const most = Math.min(budget, total)
  const asked = sizes ?? every(most)
  const wrong = asked.find((k) => !Number.isInteger(k) || k < 0 || k > total)
  if (wrong !== undefined) fail("E_INPUT", `a circuit keeps from 0 to ${total}, got ${wrong}`)
  const tried = [...new Set(asked.filter((k) => k <= most))].sort((a, b) => a - b)
  const none = await metric(0)
  const curve: CurvePoint[] = []
  for (const kept of tried) {
    if (signal?.aborted) fail("E_INTERRUPTED", `the circuit was stopped after ${curve.length} of ${tried.length} runs`)
    const mean = kept === 0 ? none : await metric(kept)
    curve.push({ kept, mean, faithfulness: whole === none ? 1 : (mean - none) / (whole - none) })
    onProgress?.(curve.length, tried.length)
  }
  return curve
}

export const meanOf = (values: readonly number[]): number => values.reduce((a, b) => a + b, 0) / values.length
