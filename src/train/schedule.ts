/** @file Learning rates by step: a table of schedules. */

export type ScheduleName = "constant" | "WarmupThenStep" | "WarmupCosine" | "linear"

export interface ScheduleOptions {
  readonly schedule: ScheduleName
  readonly lr: number
  readonly minLr: number
  readonly warmupSteps: number
  /** WarmupThenStep multiplies by `gamma` after each `stepSize` steps. */
  readonly stepSize: number
  readonly gamma: number
  /** The length that WarmupCosine and linear come down over. */
  readonly totalSteps: number
  /** The seed's: the first step has lr 0, since t counts from 0. */
  readonly startsAtZero: boolean
}

const share = ({ warmupSteps, totalSteps }: ScheduleOptions, t: number): number =>
  Math.min(1, Math.max(0, (t - warmupSteps) / Math.max(1, totalSteps - warmupSteps)))

/** After the warm-up; t = 0, 1, ... counts optimizer steps. */
const AFTER: { readonly [S in ScheduleName]: (o: ScheduleOptions, t: number) => number } = {
  constant: ({ lr }) => lr,
  WarmupThenStep: ({ lr, gamma, warmupSteps, stepSize }, t) => lr * gamma ** Math.floor((t - warmupSteps) / stepSize),
  /** arXiv:1608.03983 */
  WarmupCosine: (o, t) => o.minLr + (o.lr - o.minLr) * 0.5 * (1 + Math.cos(Math.PI * share(o, t))),
  linear: (o, t) => o.lr + (o.minLr - o.lr) * share(o, t),
}

/** The learning rate of step t = 0, 1, ...; all schedules warm up linearly. */
export function learningRate(o: ScheduleOptions, t: number): number {
  if (t < o.warmupSteps) return o.lr * ((t + (o.startsAtZero ? 0 : 1)) / o.warmupSteps)
  return AFTER[o.schedule](o, t)
}
