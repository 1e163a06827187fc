/** @file Interleaved timing, and what a series of measurements says. */
import { setImmediate } from "node:timers/promises"

/** Of sorted values, the one at a share of the way: 0.5 is the median. */
const quantile = (sorted: readonly number[], share: number): number =>
  sorted[Math.min(sorted.length - 1, Math.max(0, Math.floor(share * sorted.length)))] ?? Number.NaN

const sorted = (values: readonly number[]): number[] => [...values].sort((a, b) => a - b)

export const median = (values: readonly number[]): number => quantile(sorted(values), 0.5)

/** Half the width of the 95 % interval of the median, relative to it: ranks n/2 -+ 0.98 sqrt(n) (binomial). */
export function uncertainty(values: readonly number[]): number {
  const s = sorted(values)
  const half = 0.98 / Math.sqrt(s.length)
  return (quantile(s, 0.5 + half) - quantile(s, 0.5 - half)) / 2 / quantile(s, 0.5)
}

export interface Effort {
  /** Stop after so many seconds. */
  readonly seconds: number
  /** At least so many rounds, whatever they take; 5. */
  readonly least?: number
  /** Stop once the medians are known this well; 0.01. */
  readonly tolerance?: number
}

type Action = () => Promise<unknown>

/**
 * Milliseconds of each action, taken in turns (ABAB...), so that what else the machine does falls on all alike. One
 * round before the first is not counted. Series are as long as each other.
 */
export async function inTurns<N extends string>(
  actions: Readonly<Record<N, Action>>,
  { seconds, least = 5, tolerance = 0.01 }: Effort,
): Promise<Record<N, number[]>> {
  const named = Object.entries(actions) as [N, Action][]
  const times = Object.fromEntries(named.map(([name]) => [name, []])) as unknown as Record<N, number[]>
  for (const [, action] of named) await action()
  const end = performance.now() + seconds * 1000
  for (let round = 1; ; round++) {
    for (const [name, action] of named) {
      const start = performance.now()
      await action()
      times[name].push(performance.now() - start)
    }
    // What a round left behind is collected before the next, as between a program's own calls.
    await setImmediate()
    if (round < least) continue
    const known = named.every(([name]) => uncertainty(ratios(times[name], times[named[0]![0]])) <= tolerance)
    if (performance.now() > end || (known && round >= 2 * least)) return times
  }
}

/** b / a, pair by pair. */
export const ratios = (b: readonly number[], a: readonly number[]): number[] => b.map((t, i) => t / a[i]!)
