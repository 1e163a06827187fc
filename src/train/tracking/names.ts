/** @file What a metric's name says: `train/loss` and `test_loss` are the loss of two series. */

/** The series that trainers log, as they are called in a chart. */
export type Series = "train" | "test" | "val"

const NAMED = /^(train|test|val)[/_](.+)$/
const ACCURACY = new Set(["acc", "accuracy", "top1"])

export interface MetricName {
  /** Absent for what belongs to no data, such as `lr`. */
  readonly series?: Series
  /** "loss", "accuracy", "lr" */
  readonly metric: string
}

export function metricName(name: string): MetricName {
  const [, series, rest = name] = NAMED.exec(name) ?? []
  const metric = ACCURACY.has(rest) ? "accuracy" : rest
  return series === undefined ? { metric } : { series: series as Series, metric }
}

/** Whether values with these names hold what was measured on data not trained on. */
export const isEvaluation = (names: readonly string[]): boolean =>
  names.some((name) => /^(test|val)$/.test(metricName(name).series ?? ""))
