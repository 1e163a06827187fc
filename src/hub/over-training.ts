/** @file Any measurement over a run's checkpoints: how what was found came about. */
import { fail, listed, PrismaError } from "../errors.ts"
import { listCheckpoints } from "./checkpoints.ts"
import { type LoadedViT, loadPretrained, type LoadOptions } from "./load-pretrained.ts"

/** What was measured of a checkpoint, by name. */
export interface Measured {
  readonly step: number
  readonly values: Readonly<Record<string, number>>
}

export interface OverTrainingOptions extends Omit<LoadOptions, "checkpoint"> {
  /** Only these; by default all. */
  readonly steps?: readonly number[]
  /** Rows of an earlier time: they are given again, and not measured. */
  readonly done?: readonly Measured[]
}

/**
 * `measure` on the model of each checkpoint of a run's folder or repo, one at a time, by step. `name` is as in
 * `loadPretrained`. Errors: E_INPUT where there are none, or not those of `steps`; those of loadPretrained and of
 * `measure`; E_INTERRUPTED once `signal` is aborted, after the last whole row.
 */
export async function* overTraining(
  name: string,
  measure: (model: LoadedViT, step: number) => Promise<Readonly<Record<string, number>>>,
  options: OverTrainingOptions = {},
): AsyncGenerator<Measured, void, void> {
  const { steps, done = [], signal, ...load } = options
  const there = [...(await listCheckpoints(name, options)).keys()]
  if (!there.length) fail("E_INPUT", `${name}: has no checkpoints; a run saves them by saving.save_cp_frequency`)
  const missing = steps?.find((step) => !there.includes(step))
  if (missing !== undefined)
    fail("E_INPUT", `${name}: has no checkpoint of step ${missing}; it has ${listed(there.map(String), 12)}`)
  const known = new Map(done.map((row) => [row.step, row]))
  for (const step of there) {
    if (steps && !steps.includes(step)) continue
    if (signal?.aborted) throw new PrismaError("E_INTERRUPTED", `${name}: stopped before step ${step}`)
    const before = known.get(step)
    if (before) {
      yield before
      continue
    }
    const model = await loadPretrained(name, { ...load, ...(signal && { signal }), checkpoint: step })
    try {
      yield { step, values: await measure(model, step) }
    } finally {
      await model.release()
    }
  }
}
