/** @file What transformers' configs of all families share: sizes, labels, refusals. */
import { fail } from "../src/errors.ts"
import type { Activation, StackConfig, VisionConfig } from "../src/model/config.ts"
import type { ConfigReader } from "./reader.ts"
import type { Source } from "./rules.ts"

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
    dHead: c.divide("hidden_size by num_attention_heads", dModel, nHeads),
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

/** Image, patches and channels, checked against each other. */
export function imageOf(c: ConfigReader, d: Partial<HfDefaults>, key = "image_size") {
  const optional = (value: number | undefined) => (value === undefined ? {} : { fallback: [value, value] as const })
  const imageSize = c.pair(key, optional(d.image_size))
  const patchSize = c.pair("patch_size", optional(d.patch_size))
  const positionGrid = imageSize.map((size, i) => c.divide(`${key} by patch_size`, size, patchSize[i]!)) as [
    number,
    number,
  ]
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
  const map = c.has("id2label") ? c.raw("id2label") : undefined
  const labels = map === undefined ? numbered(c.count("num_labels", { fallback: 2, limit: "rows" })) : fromMap(c, map)
  const rows = source.get(classifier)?.shape[0]
  if (rows !== undefined && rows !== labels.length) {
    c.invalid(`id2label names ${labels.length} classes, "${classifier}" has ${rows} rows`)
  }
  return labels
}

const numbered = (n: number): string[] => Array.from({ length: n }, (_, i) => `LABEL_${i}`)

function fromMap(c: ConfigReader, map: unknown): string[] {
  if (typeof map !== "object" || map === null)
    return c.invalid(`id2label must be an object, got ${JSON.stringify(map)}`)
  const entries = new Map(Object.entries(map as Record<string, unknown>))
  return Array.from({ length: entries.size }, (_, i) => {
    const label = entries.get(String(i))
    if (typeof label === "string") return label
    return c.invalid(`id2label has ${entries.size} entries and ${label === undefined ? "none" : "no text"} for ${i}`)
  })
}

/** The class of the model, from `architectures`; `known` lists what is supported. */
export function architectureOf<A extends string>(c: ConfigReader, known: readonly A[], fallback: A): A {
  const [name, ...more] = c.strings("architectures") ?? [fallback]
  if (!more.length && known.includes(name as A)) return name as A
  return fail(
    "E_UNSUPPORTED_ARCH",
    `${c.file}: architecture ${[name, ...more].join(", ")} of model_type "${c.string("model_type", "")}" is not supported; supported are ${known.join(", ")}`,
    { file: c.file },
  )
}
