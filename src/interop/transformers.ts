/** @file A hooked model in transformers.js' clothes; the only import of @huggingface/transformers, an optional peer. */
import { fail } from "../errors.ts"
import { transformersConfig } from "../export/transformers-config.ts"
import type { LoadedViT } from "../hub/load-pretrained.ts"
import type { Interventions } from "../interp/hooked-vit.ts"
import type { OrtTensor } from "../runtime/ort.ts"
import type { Tensor } from "../tensor/tensor.ts"

/** What of transformers.js' PreTrainedModel shows here; its types are not asked of those who have not installed it. */
export interface TransformersModel {
  (inputs: Readonly<Record<string, unknown>>): Promise<Record<string, unknown>>
  readonly config: unknown
}

/**
 * A model that transformers.js' pipelines and processors take as one of theirs, running our graph with
 * `interventions`; no ONNX file is needed. Error: E_RUNTIME where @huggingface/transformers is not installed.
 */
export async function transformersModel(
  model: LoadedViT,
  interventions: Interventions = {},
): Promise<TransformersModel> {
  const transformers = await import("@huggingface/transformers").catch((cause: unknown) =>
    fail("E_RUNTIME", "@huggingface/transformers is not installed: npm i @huggingface/transformers", { cause }),
  )
  const config = new transformers.PretrainedConfig(transformersConfig(model, model.source.configJson))
  const named = (transformers as unknown as Record<string, unknown>)[model.config.architecture]
  const type = (typeof named === "function" ? named : transformers.PreTrainedModel) as new (
    config: unknown,
    sessions: unknown,
    configs: unknown,
  ) => TransformersModel
  const inputNames = model.config.text ? ["pixel_values", "input_ids"] : ["pixel_values"]
  const session = {
    inputNames,
    outputNames: model.outputNames,
    config: {},
    run: async (feeds: Readonly<Record<string, OrtTensor>>) => {
      const given = Object.fromEntries(inputNames.map((name) => [name, fromOrt(feeds[name]!)]))
      const outputs = await model.run(given, interventions)
      return Object.fromEntries(
        Object.entries(outputs).map(([name, t]) => [
          name,
          new transformers.Tensor(t.dtype as never, t.data as never, [...t.shape]),
        ]),
      )
    },
  }
  return new type(config, { model: session }, {})
}

const fromOrt = ({ type, dims, data }: OrtTensor): Tensor => ({ dtype: type, shape: dims, data }) as Tensor
