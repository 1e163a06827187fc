/**
 * @file `new PretrainedModel(name, config, { timm })`, as Prisma's README makes it: a checkpoint that is loaded when it is
 * first used, and that gets a new head where the config has another number of classes.
 */
import { initOptions } from "../configs/config.ts"
import type { GlobalConfig } from "../configs/schema.ts"
import { fail } from "../errors.ts"
import type { HookedViT } from "../interp/hooked-vit.ts"
import type { ModelConfig } from "../model/config.ts"
import { initialise } from "../model/init.ts"
import { build } from "../model/model.ts"
import { quote } from "../tensor/quote.ts"
import { readTensor } from "../files/safetensors-file.ts"
import type { Tensor } from "../tensor/tensor.ts"
import { answer, type ForwardOptions } from "./base-vit.ts"
import { LoadedViT, loadPretrained, type LoadOptions } from "./load-pretrained.ts"

export interface PretrainedOptions extends LoadOptions {
  /** The name is a timm architecture, with or without its tag. */
  readonly timm?: boolean
}

// The tags that timm takes for a bare name (vision_transformer.py, generate_default_cfgs).
const TIMM_TAGS = new Map([
  ["vit_tiny_patch16_224", "augreg_in21k_ft_in1k"],
  ["vit_small_patch16_224", "augreg_in21k_ft_in1k"],
  ["vit_small_patch32_224", "augreg_in21k_ft_in1k"],
  ["vit_base_patch16_224", "augreg2_in21k_ft_in1k"],
  ["vit_base_patch32_224", "augreg_in21k_ft_in1k"],
  ["vit_base_patch8_224", "augreg2_in21k_ft_in1k"],
  ["vit_large_patch16_224", "augreg_in21k_ft_in1k"],
])

/** The Hub's name of a timm model. Error: E_REPO_ID for a bare name whose tag is not known. */
function timmRepo(name: string): string {
  if (/[/\\]/.test(name)) return name
  if (name.includes(".")) return `timm/${name}`
  const tag = TIMM_TAGS.get(name)
  if (tag !== undefined) return `timm/${name}.${tag}`
  const what = `the weights of timm's ${quote(name)} must be named with their tag, as "${name}.augreg_in21k_ft_in1k"`
  return fail("E_REPO_ID", `${what}; without one there are ${[...TIMM_TAGS.keys()].join(", ")}`)
}

export class PretrainedModel {
  /** A folder or a repo id. */
  readonly name: string
  readonly #config: GlobalConfig | undefined
  readonly #options: LoadOptions
  #model: Promise<LoadedViT> | undefined

  constructor(name: string, config?: GlobalConfig, { timm = false, ...options }: PretrainedOptions = {}) {
    this.name = timm ? timmRepo(name) : name
    this.#config = config
    this.#options = options
  }

  /** The model, loaded once; a failure is told each time it is asked for. Errors: those of `loadPretrained`. */
  load(): Promise<LoadedViT> {
    return (this.#model ??= loadPretrained(this.name, this.#options).then((model) => fitted(model, this.#config)))
  }

  /** Images [b, c, H, W] to logits [b, classes] or to the token that the head reads [b, d]. */
  async forward(images: Tensor, { preLogits = false }: ForwardOptions = {}): Promise<Tensor<"float32">> {
    return answer(await this.run(images), preLogits)
  }

  async run(...given: Parameters<HookedViT["run"]>): ReturnType<HookedViT["run"]> {
    return (await this.load()).run(...given)
  }

  async runWithCache(...given: Parameters<HookedViT["runWithCache"]>): ReturnType<HookedViT["runWithCache"]> {
    return (await this.load()).runWithCache(...given)
  }

  async release(): Promise<void> {
    await (await this.#model)?.release()
  }
}

/** The model with the pooled token among its outputs and, where `config` has other classes, a new head. */
function fitted(model: LoadedViT, config: GlobalConfig | undefined): LoadedViT {
  const { vision, labels } = model.config
  const nClasses = config?.classification.num_classes ?? vision.nClasses
  const own = nClasses === vision.nClasses
  const pooled = vision.pool !== "none" && vision.pool !== "distilled"
  if (!own && !pooled) {
    const what = `${model.source.folder} has no pooled token that a new head of ${nClasses} classes could read`
    fail("E_CONFIG", `${what}; leave the config out or set classification.num_classes to ${vision.nClasses}`)
  }
  const added = [...(nClasses ? (["logits"] as const) : []), ...(pooled ? (["pooler_output"] as const) : [])]
  const changed: ModelConfig = {
    ...model.config,
    vision: {
      ...vision,
      outputs: [...new Set([...vision.outputs, ...added])],
      nClasses,
      // A new head reads the final class token, not what a pooler makes of it.
      ...(!own && { pooler: undefined }),
    },
    labels: own ? labels : [],
  }
  const isNew = (name: string) => !own && name.startsWith("head.")
  const made = initialise(changed, { ...(config && initOptions(config)), only: isNew })
  const weights = [...build(changed).scope.params.keys()].map((name) => {
    const tensor = made.get(name)
    return [name, tensor ? { tensor, shape: tensor.shape } : model.weights.get(name)!] as const
  })
  const parts = { config: changed, weights: new Map(weights), runtime: model.runtime, read: readTensor }
  return new LoadedViT(parts, model.source, model.hasPreprocessing ? model.preprocessing : undefined)
}
