/**
 * @file transformers' ViT, DINO (a ViT without pooler), DeiT, MSN, I-JEPA and the encoder of MAE: old and transformers-5
 * names, with and without prefix.
 */
import { nPrefix, type ModelConfig, type PrefixToken, type VisionConfig } from "../src/model/config.ts"
import { architectureOf, imageOf, labelsOf, plainVision, stackOf, type HfDefaults } from "./hf.ts"
import type { ConfigReader } from "./reader.ts"
import { module, patchConv, perLayer, prefixOf, unused, type Family, type Rule, type Source } from "./rules.ts"

interface Kind {
  /** Before every name of the model in a classifier's file. */
  readonly prefix: string
  readonly defaults: HfDefaults
  readonly tokens: readonly PrefixToken["name"][]
}

// transformers models/{vit,deit,vit_msn,vit_mae,ijepa}/configuration_*.py
const DEFAULTS: HfDefaults = { hidden_act: "gelu", layer_norm_eps: 1e-12 }
const KINDS: ReadonlyMap<string, Kind> = new Map([
  ["vit", { prefix: "vit.", defaults: DEFAULTS, tokens: ["cls"] }],
  ["deit", { prefix: "deit.", defaults: DEFAULTS, tokens: ["cls", "dist"] }],
  ["vit_msn", { prefix: "vit.", defaults: { ...DEFAULTS, layer_norm_eps: 1e-6 }, tokens: ["cls"] }],
  ["vit_mae", { prefix: "vit.", defaults: DEFAULTS, tokens: ["cls"] }],
  ["ijepa", { prefix: "ijepa.", defaults: DEFAULTS, tokens: [] }],
])

/** What each class returns, and the names of its classifiers. */
const ARCHITECTURES = {
  ViTForImageClassification: { outputs: ["logits"], classifier: "classifier", pool: "cls" },
  DeiTForImageClassification: { outputs: ["logits"], classifier: "classifier", pool: "cls" },
  DeiTForImageClassificationWithTeacher: {
    outputs: ["logits", "cls_logits", "distillation_logits"],
    classifier: "cls_classifier",
    pool: "distilled",
  },
  ViTModel: { outputs: ["last_hidden_state"], classifier: undefined, pool: "cls" },
  DeiTModel: { outputs: ["last_hidden_state"], classifier: undefined, pool: "cls" },
  ViTMSNForImageClassification: { outputs: ["logits"], classifier: "classifier", pool: "cls" },
  ViTMSNModel: { outputs: ["last_hidden_state"], classifier: undefined, pool: "cls" },
  IJepaForImageClassification: { outputs: ["logits"], classifier: "classifier", pool: "mean" },
  // The pooler reads the first token, which is a patch.
  IJepaModel: { outputs: ["last_hidden_state"], classifier: undefined, pool: "cls" },
  // Of a masked autoencoder the encoder, which sees every patch, in order: mask_ratio is of its training.
  ViTMAEModel: { outputs: ["last_hidden_state"], classifier: undefined, pool: "cls" },
  ViTMAEForPreTraining: { outputs: ["last_hidden_state"], classifier: undefined, pool: "cls" },
} as const

type Architecture = keyof typeof ARCHITECTURES

function architecturesOf(type: string): Architecture[] {
  const stem = type.replace("_", "")
  const names = Object.keys(ARCHITECTURES) as Architecture[]
  return names.filter((a) => a.toLowerCase().startsWith(`${stem}for`) || a.toLowerCase() === `${stem}model`)
}

/** Where a block's parts lie: as transformers wrote them until version 4, and as version 5 names them. */
const GENERATIONS = [
  {
    block: "encoder.layer.",
    q: "attention.attention.query",
    k: "attention.attention.key",
    v: "attention.attention.value",
    out: "attention.output.dense",
    fc1: "intermediate.dense",
    fc2: "output.dense",
  },
  {
    block: "layers.",
    q: "attention.q_proj",
    k: "attention.k_proj",
    v: "attention.v_proj",
    out: "attention.o_proj",
    fc1: "mlp.fc1",
    fc2: "mlp.fc2",
  },
] as const

const kindOf = (c: ConfigReader): Kind => KINDS.get(c.string("model_type"))!

const body = (source: Source, c: ConfigReader) =>
  prefixOf(source, "embeddings.patch_embeddings.projection.weight", [kindOf(c).prefix, ""], c)

/** Where the blocks lie, and their parts. transformers 5.17 writes an MSN classifier's without the prefix of the rest. */
function blocksOf(source: Source, b: string) {
  const places = [b, ""].flatMap((at) => GENERATIONS.map((g) => ({ ...g, block: at + g.block })))
  return places.find(({ block, q }) => source.has(`${block}0.${q}.weight`)) ?? places[0]!
}

/** `read` the other way: a ViTForImageClassification's config.json, of what its ViT has; dropping is left to the caller. */
export function hfVitConfig(vision: VisionConfig, labels: readonly string[]): Record<string, unknown> {
  const side = ([height, width]: readonly [number, number]) => (height === width ? height : [height, width])
  return {
    architectures: ["ViTForImageClassification"],
    model_type: "vit",
    hidden_size: vision.dModel,
    num_hidden_layers: vision.nLayers,
    num_attention_heads: vision.nHeads,
    intermediate_size: vision.dMlp,
    hidden_act: vision.activation,
    hidden_dropout_prob: 0,
    attention_probs_dropout_prob: 0,
    initializer_range: 0.02,
    layer_norm_eps: vision.eps,
    image_size: side(vision.imageSize),
    patch_size: side(vision.patchSize),
    num_channels: vision.nChannels,
    qkv_bias: vision.qkvBias,
    encoder_stride: vision.patchSize[0],
    pooler_output_size: vision.dModel,
    pooler_act: "tanh",
    id2label: Object.fromEntries(labels.map((label, i) => [i, label])),
    label2id: Object.fromEntries(labels.map((label, i) => [label, i])),
  }
}

export const hfVit: Family = {
  name: "hf-vit",
  supports: Object.keys(ARCHITECTURES),
  claims: (c) => KINDS.has(c.string("model_type", "")),

  read(c, source): ModelConfig {
    const { defaults, tokens } = kindOf(c)
    const b = body(source, c)
    const hasPooler = source.has(`${b}pooler.dense.weight`)
    const known = architecturesOf(c.string("model_type"))
    const architecture = architectureOf(
      c,
      known,
      known.find((a) => a.endsWith("Model"))!,
    )
    const { outputs, classifier, pool } = ARCHITECTURES[architecture]
    const labels = classifier ? labelsOf(c, source, `${classifier}.weight`) : []
    // The config does not say whether a base model was saved with its pooler; DINO's were not.
    const pooled = !classifier && hasPooler
    const vision: VisionConfig = {
      ...plainVision,
      ...stackOf(c, defaults),
      ...imageOf(c, {}),
      prefix: tokens.map((name) => ({ name, count: 1 })),
      pool,
      pooler: pooled ? c.activation("pooler_act", "tanh") : undefined,
      ...(pooled && c.has("pooler_output_size") && { dPooler: c.int("pooler_output_size") }),
      nClasses: labels.length,
      outputs: pooled ? [...outputs, "pooler_output"] : outputs,
    }
    return { family: "hf-vit", architecture, vision, text: undefined, dual: undefined, labels }
  },

  table(config, source, reader) {
    const { vision } = config
    const rows = vision.positionGrid[0] * vision.positionGrid[1] + nPrefix(vision)
    const b = body(source, reader)
    const g = blocksOf(source, b)
    const rules: [string, Rule][] = [
      [`${b}embeddings.cls_token`, [{ to: "embed.cls", shape: [1, 1, vision.dModel] }]],
      [`${b}embeddings.distillation_token`, [{ to: "embed.dist", shape: [1, 1, vision.dModel] }]],
      [`${b}embeddings.position_embeddings`, [{ to: "embed.pos", shape: [1, rows, vision.dModel] }]],
      ...patchConv(`${b}embeddings.patch_embeddings.projection`, config),
      ...perLayer(vision.nLayers, (i) => {
        const at = `${g.block}${i}.`
        const to = `blocks.${i}.`
        return [
          ...module(`${at}layernorm_before`, `${to}ln1`),
          ...module(`${at}${g.q}`, `${to}attn.q`),
          ...module(`${at}${g.k}`, `${to}attn.k`),
          ...module(`${at}${g.v}`, `${to}attn.v`),
          ...module(`${at}${g.out}`, `${to}attn.out`),
          ...module(`${at}layernorm_after`, `${to}ln2`),
          ...module(`${at}${g.fc1}`, `${to}mlp.in`),
          ...module(`${at}${g.fc2}`, `${to}mlp.out`),
        ]
      }),
      ...module(`${b}layernorm`, "ln_final"),
      ...module("classifier", "head"),
      ...module("cls_classifier", "head"),
      ...module("distillation_classifier", "head_dist"),
    ]
    const pooler: [string, Rule][] = vision.pooler
      ? module(`${b}pooler.dense`, "pooler")
      : // A classifier never reads the pooler that some checkpoints carry along.
        module(`${b}pooler.dense`, "").map(([name]) => [name, unused])
    const decoder = [...source.keys()].filter((name) => name.startsWith("decoder.")) // of a masked autoencoder
    return new Map<string, Rule>([
      ...rules,
      ...pooler,
      ...[`${b}embeddings.mask_token`, ...decoder].map((name): [string, Rule] => [name, unused]),
    ])
  },
}
