/** @file A hooked model in transformers.js' clothes, and its tokenizers for us; the only import of @huggingface/transformers, an optional peer. */
import { existsSync } from "node:fs"
import { join } from "node:path"
import { fail } from "../errors.ts"
import { transformersConfig } from "../export/transformers-config.ts"
import { readJson } from "../files/json.ts"
import type { LoadedViT } from "../hub/load-pretrained.ts"
import type { Interventions } from "../interp/interventions.ts"
import type { TextConfig } from "../model/config.ts"
import type { OrtTensor } from "../runtime/ort.ts"
import { quote } from "../tensor/quote.ts"
import { int64, type Tensor } from "../tensor/tensor.ts"

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
  const transformers = await library()
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

/**
 * Texts as token ids [1, t] each, by the tokenizer.json in a checkpoint's folder; cut to the context, and where the tower
 * sees all of it (SigLIP's) filled up to it. Errors: E_RUNTIME where @huggingface/transformers is not installed, E_CONFIG for a
 * tokenizer that is missing or that it cannot use, E_INPUT for a text with a token that the model does not have.
 */
export async function tokenized(folder: string, texts: readonly string[], cfg: TextConfig): Promise<Tensor[]> {
  const file = join(folder, "tokenizer.json")
  if (!existsSync(file)) {
    fail("E_CONFIG", `${file}: does not exist; texts want the model's tokenizer, or give their embeddings`, { file })
  }
  const json = await readJson(file, TOKENIZER)
  const settings = join(folder, "tokenizer_config.json")
  const config = existsSync(settings) ? await readJson(settings, TOKENIZER) : {}
  const { PreTrainedTokenizer } = await library()
  const unusable = (cause: unknown): never =>
    fail("E_CONFIG", `${file}: cannot be used: ${quote(cause instanceof Error ? cause.message : String(cause))}`, {
      file,
    })
  const encode = (text: string): (number | undefined)[] => {
    try {
      return tokenizer.encode(text)
    } catch (cause) {
      return unusable(cause)
    }
  }
  let tokenizer: InstanceType<typeof PreTrainedTokenizer>
  try {
    tokenizer = new PreTrainedTokenizer(json, config)
  } catch (cause) {
    return unusable(cause)
  }
  const { contextLength: most, pool, vocabulary } = cfg
  return texts.map((text) => {
    const ids = encode(text)
    // The last token closes the text and stands for it.
    const cut = ids.length > most ? [...ids.slice(0, most - 1), ids.at(-1)] : ids
    const filled =
      pool === "last" ? [...cut, ...Array<number>(most - cut.length).fill(tokenizer.pad_token_id ?? 0)] : cut
    const odd = filled.findIndex((id) => id === undefined || !(id >= 0 && id < vocabulary))
    if (odd >= 0 || !filled.length) {
      fail(
        "E_INPUT",
        `the text ${quote(text)} has a token that the model does not have (number ${odd}, id ${filled[odd]})`,
      )
    }
    return int64([1, filled.length], filled as number[])
  })
}

const TOKENIZER = { limit: 64 * 2 ** 20, malformed: "E_CONFIG", tooLarge: "E_CONFIG_LIMIT" } as const

const library = () =>
  import("@huggingface/transformers").catch((cause: unknown) =>
    fail("E_RUNTIME", "@huggingface/transformers is not installed: npm i @huggingface/transformers", { cause }),
  )

const fromOrt = ({ type, dims, data }: OrtTensor): Tensor => ({ dtype: type, shape: dims, data }) as Tensor
