/** @file What a mouse was trained to make small, on a dataset: of regression and reconstruction, which have no classes. */
import { modelConfig, type GlobalConfig } from "../configs/index.ts"
import type { NamedDataset } from "../datasets/dataset.ts"
import type { HookedViT } from "../interp/hooked-vit.ts"
import { evaluator } from "../train/evaluate.ts"
import { flatten } from "../train/layout.ts"
import { trainedModel } from "../train/objective.ts"
import { firstSamples, taskOf } from "../train/plan.ts"

export interface EvaluatedLoss {
  /** Images. */
  readonly n: number
  /** The mean over them; of numbers and pixels, the mean squared error. */
  readonly loss: number
}

/**
 * The loss of `config`, by which `model` was trained, on every sample once; which patches a masked autoencoder does not see
 * is drawn by the config's seed, as at the end of training. Errors: E_CONFIG for a model or data of another kind, E_SHAPE_MISMATCH,
 * E_HOOK for weights that are not there; those of the dataset; E_INTERRUPTED.
 */
export async function evaluateLoss(
  model: HookedViT,
  config: GlobalConfig,
  data: NamedDataset,
  { signal }: { readonly signal?: AbortSignal } = {},
): Promise<EvaluatedLoss> {
  const trained = trainedModel(modelConfig(config), taskOf(config, await firstSamples([data], config)))
  const names = [...trained.layout.places.keys()]
  const weights = new Map(await Promise.all(names.map(async (name) => [name, await model.weight(name)] as const)))
  const { loss } = await evaluator(model.runtime, trained)(data, config, flatten(trained.layout, weights), signal)
  return { n: data.length, loss }
}
