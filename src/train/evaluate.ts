/** @file Loss and accuracy of a model on a whole dataset. */
import type { GlobalConfig } from "../configs/index.ts"
import type { Dataset } from "../datasets/dataset.ts"
import { batches } from "../datasets/loader.ts"
import type { Runtime } from "../runtime/runtime.ts"
import { tensor, type Tensor } from "../tensor/tensor.ts"
import { flatValue } from "./layout.ts"
import type { TrainedModel } from "./objective.ts"

export interface Evaluation {
  /** The mean over all samples. */
  readonly loss: number
  /** The share whose largest logit is the label's; of classifiers. */
  readonly accuracy?: number
}

// Larger batches gain nothing; smaller ones keep what is held at once below about 100 MB for 65 tokens of width 512.
const BATCH = 128

/** Evaluates weights given as a flat vector; no dropout, each sample once. */
export function evaluator(runtime: Runtime, model: TrainedModel) {
  const w = flatValue(model.layout, "w")
  const { inputs, loss, metrics } = model.objective(w, "evaluation")
  return async (data: Dataset, config: GlobalConfig, flat: Float32Array): Promise<Evaluation> => {
    const run = await runtime.compile({ ...inputs, w }, { loss, ...metrics })
    const weights = tensor("float32", [flat.length], flat)
    let [total, correct, n, i] = [0, 0, 0, 0]
    const all = batches(data, {
      batchSize: Math.min(BATCH, data.length),
      seed: 0,
      epoch: 0,
      shuffle: false,
      dropLast: false,
    })
    for await (const { images, labels, indices } of all) {
      const masks = model.masks("evaluation", indices.length, config.training.seed, `evaluation:${i++}`)
      const given = { images, labels, ...masks, w: weights }
      const feeds = Object.fromEntries(["w", ...Object.keys(inputs)].map((name) => [name, given[name as "w"]]))
      const got: Partial<Record<string, Tensor>> = await run(feeds)
      total += Number(got["loss"]!.data[0]) * indices.length
      correct += Number(got["correct"]?.data[0] ?? 0)
      n += indices.length
    }
    return { loss: total / n, ...(metrics["correct"] && { accuracy: correct / n }) }
  }
}
