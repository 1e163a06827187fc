/** @file Loss and accuracy of a model on a whole dataset. */
import type { GlobalConfig } from "../configs/index.ts"
import type { Dataset } from "../datasets/dataset.ts"
import { batches } from "../datasets/loader.ts"
import { fail } from "../errors.ts"
import { concat } from "../graph/ops.ts"
import type { Runtime } from "../runtime/runtime.ts"
import type { Tensor } from "../tensor/tensor.ts"
import { feedsOf, pieceValues, type Pieces } from "./layout.ts"
import type { TrainedModel } from "./objective.ts"
import { fedOf } from "./plan.ts"

export interface Evaluation {
  /** The mean over all samples. */
  readonly loss: number
  /** The share whose largest logit is the label's; of classifiers. */
  readonly accuracy?: number
}

// Larger batches gain nothing; smaller ones keep what is held at once below about 100 MB for 65 tokens of width 512.
const BATCH = 128

/** Evaluates weights given as a vector; no dropout, each sample once. Error: E_INTERRUPTED once `signal` is aborted. */
export function evaluator(runtime: Runtime, model: TrainedModel) {
  const w = pieceValues(model.layout, "w")
  const { inputs, loss, metrics } = model.objective(concat(Object.values(w), 0), "evaluation")
  return async (data: Dataset, config: GlobalConfig, weights: Pieces, signal?: AbortSignal): Promise<Evaluation> => {
    const run = await runtime.compile({ ...inputs, ...w }, { loss, ...metrics })
    const given = feedsOf("w", weights)
    let [total, correct, n, i] = [0, 0, 0, 0]
    const all = batches(data, {
      batchSize: Math.min(BATCH, data.length),
      seed: 0,
      epoch: 0,
      shuffle: false,
      dropLast: false,
    })
    for await (const batch of all) {
      if (signal?.aborted) fail("E_INTERRUPTED", "the evaluation was interrupted")
      const { indices } = batch
      const masks = model.masks("evaluation", indices.length, config.training.seed, `evaluation:${i++}`)
      const got: Partial<Record<string, Tensor>> = await run({ ...fedOf(config, batch), ...masks, ...given })
      total += Number(got["loss"]!.data[0]) * indices.length
      correct += Number(got["correct"]?.data[0] ?? 0)
      n += indices.length
    }
    return { loss: total / n, ...(metrics["correct"] && { accuracy: correct / n }) }
  }
}
