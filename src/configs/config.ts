/** @file What is done with configs: taken by name, changed, read from a file, and the model and weights they mean. */
import { RECONSTRUCTS, SEED_ACTIVATIONS, seedModel } from "../../converters/base-vit.ts"
import { fail, nearest } from "../errors.ts"
import { readJson } from "../files/json.ts"
import type { ModelConfig } from "../model/config.ts"
import type { InitOptions } from "../model/init.ts"
import { quote } from "../tensor/quote.ts"
import { fieldsOf } from "../tensor/record.ts"
import { CONFIG_NAMES, merged, preset, SEED_NAMES, type ConfigName } from "./presets.ts"
import { fieldValue, parseConfig, type ConfigOverrides, type GlobalConfig } from "./schema.ts"

/**
 * A config by name: "induction", "circle", "mnist", "dsprites", "cifar10", "imagenet". "seed-exact" is the seed's file
 * as it is, for the four that it has. Error: E_CONFIG with the nearest name.
 */
export function configByName(name: string, variant: GlobalConfig["variant"] = "corrected"): GlobalConfig {
  const known = variant === "seed-exact" ? SEED_NAMES : CONFIG_NAMES
  if (known.includes(name as ConfigName)) return preset(name as ConfigName, variant)
  const near = nearest(name.slice(0, 100), known, 1)[0]!
  return fail("E_CONFIG", `no ${variant} config ${quote(name)} (nearest: "${near}"); there are ${known.join(", ")}`)
}

/**
 * `base` with other values; sections are merged field by field. Where `mlp_dim` was 4 `hidden_dim` it stays so, unless
 * the variant is "seed-exact", whose mlp_dim is a number of its own. Error: E_CONFIG.
 */
export const defineConfig = (base: GlobalConfig, overrides: ConfigOverrides): GlobalConfig =>
  parseConfig(laidOver(base, overrides), "the config")

function laidOver(base: GlobalConfig, overrides: ConfigOverrides): ConfigOverrides {
  const result = merged(base, overrides)
  const { hidden_dim, mlp_dim } = base.transformer
  const follows = result.variant !== "seed-exact" && mlp_dim === 4 * hidden_dim
  if (!follows || fieldsOf(overrides.transformer)["mlp_dim"] !== undefined) return result
  return { ...result, transformer: { ...result.transformer, mlp_dim: undefined } }
}

/**
 * `config` with the field that `name` ("training.lr") says set to what the text means: a number, true, false, null, a
 * list in JSON, or the text itself. Error: E_CONFIG, with the nearest field where there is none of this name.
 */
export const setField = (config: GlobalConfig, name: string, value: string): GlobalConfig =>
  setFields(config, [[name, value]])

/** The same of several, the later of two for one field; what they must be together is asked of all at once. */
export function setFields(
  config: GlobalConfig,
  changes: readonly (readonly [name: string, value: string])[],
): GlobalConfig {
  const where = (name: string, value: string) => `--set ${quote(`${name}=${value}`).slice(1, -1)}`
  const all = changes.reduce<ConfigOverrides>((before, [name, value]) => {
    const found = fieldValue(name, [...readings(value), value], where(name, value))
    const [section, field] = name.split(".") as [string, string | undefined]
    return merged(before, field === undefined ? { [section]: found } : { [section]: { [field]: found } })
  }, {})
  return parseConfig(laidOver(config, all), changes.length === 1 ? where(...changes[0]!) : "the config with --set")
}

const WORDS = new Map<string, unknown>([
  ["true", true],
  ["false", false],
  ["null", null],
])

function readings(text: string): unknown[] {
  if (WORDS.has(text)) return [WORDS.get(text)]
  if (text.trim() !== "" && !Number.isNaN(Number(text))) return [Number(text)]
  try {
    return text.startsWith("[") ? [JSON.parse(text) as unknown] : []
  } catch {
    return []
  }
}

const FILE = { limit: 2 ** 20, malformed: "E_CONFIG", tooLarge: "E_CONFIG_LIMIT" } as const

/**
 * A config.json of this project's or the seed's trainer. The seed's leaves out its class attributes, the whole
 * classification section among them: then `base` must say it. Errors: E_CONFIG, E_CONFIG_LIMIT, those of the file.
 */
export async function readConfig(file: string, base?: GlobalConfig): Promise<GlobalConfig> {
  const json = await readJson(file, FILE)
  return parseConfig(base ? merged(base, fieldsOf(json)) : json, file)
}

/** The model that a config means, without weights. */
export function modelConfig(config: GlobalConfig): ModelConfig {
  const { image, transformer, layernorm, classification, training, dropout, architecture } = config
  return seedModel({
    imageSize: image.image_size,
    patchSize: image.patch_size,
    nChannels: image.n_channels,
    hiddenDim: transformer.hidden_dim,
    numHeads: transformer.num_heads,
    numLayers: transformer.num_layers,
    mlpDim: transformer.mlp_dim,
    activation: SEED_ACTIVATIONS[transformer.activation_name],
    attentionOnly: transformer.attention_only,
    attnHiddenLayer: transformer.attn_hidden_layer,
    qknorm: layernorm.qknorm,
    layerNormEps: layernorm.layer_norm_eps,
    globalPool: classification.global_pool,
    numClasses: classification.num_classes,
    architecture,
    reconstructs: RECONSTRUCTS[training.loss_fn_name],
    ...(Object.values(dropout).some((rate) => rate > 0) && { drop: dropout }),
  })
}

/** How `initialise` makes the weights that this config begins with. */
export const initOptions = ({ init, training }: GlobalConfig): InitOptions => ({
  scheme: init.scheme,
  seed: training.seed,
  weightType: init.weight_type,
  clsStd: init.cls_std,
  posStd: init.pos_std,
})
