/** @file A run's plan as the training loop takes it, and a step of that loop as a line of the log. */
import type { GlobalConfig } from "../configs/index.ts"
import { batches, type Augmentation } from "../datasets/loader.ts"
import type { Evaluation } from "./evaluate.ts"
import { fedOf, type RunPlan } from "./plan.ts"
import { learningRate } from "./schedule.ts"
import type { Stepper } from "./stepper.ts"
import type { Values } from "./tracking/index.ts"
import type { Plan, Stepped } from "./trainer.ts"

/** `workers`: threads that decode images. */
export function loopOf(plan: RunPlan, stepper: Stepper, workers = 0): Plan {
  const { config, train, trained, schedule, batchSize, batchesPerEpoch, steps } = plan
  const { seed, accumulation } = config.training
  const augment = config.data.augment as readonly Augmentation[] | undefined
  return {
    stepper,
    batchesPerEpoch,
    accumulation,
    steps,
    lr: (t) => learningRate(schedule, t),
    async *batches(epoch, start) {
      let n = start
      const given = { batchSize, seed, epoch, startBatch: start, workers, ...(augment && { augment }) }
      for await (const batch of batches(train, given)) {
        const masks = trained.masks("training", batch.indices.length, seed, `mask:${epoch}:${n++}`)
        yield { feeds: { ...fedOf(config, batch), ...masks }, indices: batch.indices }
      }
    },
  }
}

export function valuesOf({ report, lr, position }: Stepped, { batchSize }: RunPlan): Values {
  const { loss, gradNorm, correct } = report
  return {
    "train/loss": loss!,
    ...(correct !== undefined && { "train/accuracy": correct / batchSize }),
    "train/grad_norm": gradNorm!,
    lr,
    images: position.images,
  }
}

export const named = (part: string, values: Evaluation): Values =>
  Object.fromEntries(Object.entries(values).map(([name, value]) => [`${part}/${name}`, value as number]))

/** Higher is better. */
export const score = ({ accuracy, loss }: Evaluation): number => accuracy ?? -loss

/** Is there a checkpoint after this step? */
export const savesAt = (config: GlobalConfig, step: number): boolean =>
  step % config.saving.save_cp_frequency === 0 || isLogSpaced(config, step)

/** Is it one that is kept? */
export const isLogSpaced = ({ saving }: GlobalConfig, step: number): boolean =>
  saving.log_spaced && (step === 0 || Number.isInteger(Math.log2(step)))
