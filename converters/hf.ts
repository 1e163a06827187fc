/** @file What transformers' configs of all families share: sizes, labels, refusals. */
import { fail, listed } from "../src/errors.ts"
import type { Activation, ModelConfig, PrefixToken, StackConfig, VisionConfig } from "../src/model/config.ts"
import { quote } from "../src/tensor/quote.ts"
import { brief, nearestTo, type ConfigReader } from "./reader.ts"
import { unused, type Rule, type Source } from "./rules.ts"

/** A class's defaults, for sub-configs: transformers leaves out of them what is equal to its default. */
export interface HfDefaults {
  readonly hidden_size?: number
  readonly num_hidden_layers?: number
  readonly num_attention_heads?: number
  readonly intermediate_size?: number
  readonly image_size?: number
  readonly patch_size?: number
  readonly hidden_act: Activation
  readonly layer_norm_eps: number
}

/** The block stack of a transformers config; what it does not say is the class's default. */
export function stackOf(c: ConfigReader, d: HfDefaults): StackConfig {
  const dModel = c.int("hidden_size", { fallback: d.hidden_size })
  const nHeads = c.int("num_attention_heads", { fallback: d.num_attention_heads })
  return {
    nLayers: c.int("num_hidden_layers", { fallback: d.num_hidden_layers, limit: "count" }),
    dModel,
    nHeads,
    dHead: c.divide("hidden_size", dModel, "num_attention_heads", nHeads),
    dMlp: c.int("intermediate_size", { fallback: d.intermediate_size }),
    activation: c.activation("hidden_act", d.hidden_act),
    gatedMlp: false,
    eps: c.positive("layer_norm_eps", { fallback: d.layer_norm_eps }),
    qkvBias: c.bool("qkv_bias", true),
    attnOutBias: true,
    mlpBias: true,
    qkNorm: false,
    layerScale: false,
  }
}

/** A class token and so many registers. */
export const classAndRegisters = (registers: number): PrefixToken[] => [
  { name: "cls", count: 1 },
  ...(registers ? [{ name: "reg", count: registers } as const] : []),
]

/** Registers of no tokens, [1, 0, d], lie in the file where the config says that there are none. */
export const registerRule = ({ vision: { prefix } }: ModelConfig): Rule =>
  prefix.some(({ name }) => name === "reg") ? "embed.reg" : unused

/** Image, patches and channels, checked against each other. */
export function imageOf(c: ConfigReader, d: Partial<HfDefaults>, key = "image_size") {
  const optional = (value: number | undefined) => (value === undefined ? {} : { fallback: [value, value] as const })
  const imageSize = c.pair(key, optional(d.image_size))
  const patchSize = c.pair("patch_size", optional(d.patch_size))
  const positionGrid = c.patches(key, imageSize, patchSize)
  return { imageSize, patchSize, positionGrid, nChannels: c.int("num_channels", { fallback: 3, limit: "count" }) }
}

/** A vision tower without any of the options; families override what they have. */
export const plainVision = {
  patchBias: true,
  prefix: [],
  positions: "all",
  lnPre: false,
  lnFinal: true,
  pool: "cls",
  poolsPrefix: false,
  positionsAntialiased: false,
  poolMlp: 0,
  lnPooled: false,
  pooler: undefined,
  nClasses: 0,
  dProjection: 0,
  rawHiddenState: false,
  outputs: [],
} as const satisfies Partial<VisionConfig>

/**
 * Class names by index from `id2label`; without it `num_labels` numbered ones, by default 2 as in transformers.
 * Errors: E_CONFIG where the classifier has another number of rows or an index is left out.
 */
export function labelsOf(c: ConfigReader, source: Source, classifier: string): string[] {
  const key = c.has("id2label") ? "id2label" : "num_labels"
  const map = key === "id2label" ? entriesOf(c, key) : undefined
  const n = map?.size ?? c.int(key, { fallback: 2, limit: "classes" })
  if (!n) c.invalid(`${key} must name at least 1 class, got {}`)
  const rows = source.get(classifier)?.shape[0]
  if (rows !== undefined && rows !== n) c.invalid(`${key} gives ${n} classes, "${classifier}" has ${rows} rows`)
  return Array.from({ length: n }, (_, i) => {
    const label = map ? map.get(String(i)) : `LABEL_${i}`
    if (typeof label === "string") return label
    const got = label === undefined ? "nothing" : brief(label)
    return c.invalid(`${key} must have a text for each of 0 to ${n - 1}, got ${got} for ${i}`)
  })
}

function entriesOf(c: ConfigReader, key: string): ReadonlyMap<string, unknown> {
  c.object(key) // its check
  return new Map(Object.entries(c.raw(key) as object))
}

/** The class of the model, from `architectures`; `known` lists what is supported. */
export function architectureOf<A extends string>(c: ConfigReader, known: readonly A[], fallback: A): A {
  const [name = fallback, ...more] = c.strings("architectures") ?? []
  if (!more.length && known.includes(name as A)) return name as A
  const said = listed([name, ...more].map(quote), 3)
  const near = more.length ? "" : ` (nearest: ${nearestTo(name, known)})`
  return fail(
    "E_UNSUPPORTED_ARCH",
    `${c.file}: architectures ${said} of model_type "${c.string("model_type", "")}" is not supported${near}; supported are ${known.join(", ")}`,
    { file: c.file },
  )
}
