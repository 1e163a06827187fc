/**
 * @file Prisma's HookedViT (https://github.com/Prisma-Multimodal/ViT-Prisma): weights under TransformerLens' names, one
 * matrix for each head, and a config.json of HookedViTConfig's fields.
 */
import type { ModelConfig, Pool } from "../src/model/config.ts"
import { plainVision } from "./hf.ts"
import type { ConfigReader } from "./reader.ts"
import { patchConv, perLayer, unused, type Family, type Rule, type View } from "./rules.ts"

// Fields of HookedViTConfig that change what is computed and that we do not have.
const REFUSED = [
  "normalize_output",
  "use_bert_block",
  "use_local_attn",
  "is_video_transformer",
  "gated_mlp",
  "parallel_attn_mlp",
  "scale_attn_by_inverse_layer_idx",
]

const POOLS: Readonly<Record<string, Pool>> = { cls: "cls", gaap: "mean" }
const RETURNS = { class_logits: "logits", pre_logits: "pooler_output" } as const

export const prisma: Family = {
  name: "prisma",
  supports: ["Prisma's HookedViT by its HookedViTConfig"],
  claims: (c) => ["n_layers", "d_model", "patch_size"].every((key) => c.has(key)),
  read,

  table(config) {
    const { nLayers, nHeads: h, dHead: e, dModel: d, nClasses, prefix } = config.vision
    const heads = (at: string, to: string, kind: string): [string, Rule][] => [
      [`${at}W_${kind}`, [{ to: `${to}${kind.toLowerCase()}.weight`, shape: [h, d, e], perm: [0, 2, 1] }]],
      [`${at}b_${kind}`, [{ to: `${to}${kind.toLowerCase()}.bias`, shape: [h, e] }]],
    ]
    const norm = (from: string, to = from): [string, Rule][] => [
      [`${from}.w`, `${to}.weight`],
      [`${from}.b`, `${to}.bias`],
    ]
    const head = (view: Omit<View, "to">): Rule => (nClasses ? [{ to: "head.weight", ...view }] : unused)
    return new Map([
      ["cls_token", prefix.length ? "embed.cls" : unused],
      ["pos_embed.W_pos", "embed.pos"],
      ...patchConv("embed.proj", config),
      ...norm("ln_pre"),
      ...perLayer(nLayers, (i) => {
        const at = `blocks.${i}.`
        return [
          ...norm(`${at}ln1`),
          ...["Q", "K", "V"].flatMap((kind) => heads(`${at}attn.`, `${at}attn.`, kind)),
          [`${at}attn.W_O`, [{ to: `${at}attn.out.weight`, shape: [h, e, d], transposed: true }]],
          [`${at}attn.b_O`, `${at}attn.out.bias`],
          ...norm(`${at}ln2`),
          [`${at}mlp.W_in`, [{ to: `${at}mlp.in.weight`, transposed: true }]],
          [`${at}mlp.b_in`, `${at}mlp.in.bias`],
          [`${at}mlp.W_out`, [{ to: `${at}mlp.out.weight`, transposed: true }]],
          [`${at}mlp.b_out`, `${at}mlp.out.bias`],
        ]
      }),
      ...norm("ln_final"),
      // A linear layer until 2024.
      ["head.weight", head({})],
      ["head.W_H", head({ transposed: true })],
      ...["head.bias", "head.b_H"].map((name): [string, Rule] => [name, nClasses ? "head.bias" : unused]),
    ])
  },
}

function read(c: ConfigReader): ModelConfig {
  for (const key of REFUSED) if (c.has(key) && c.raw(key) !== false) c.unsupported(key)
  if (!c.bool("use_attn_scale", true)) c.invalid("use_attn_scale must be true (nothing else is supported), got false")
  const normed = c.raw("normalization_type") !== null && c.choice("normalization_type", "LN", { LN: true })
  const pool = c.choice("classification_type", "cls", POOLS)
  const imageSize = c.pair("image_size", { fallback: [224, 224] })
  const patchSize = c.pair("patch_size", { fallback: [32, 32] })
  const dModel = c.int("d_model")
  const nHeads = c.int("n_heads", { fallback: 4 })
  const output = c.choice("return_type", "pre_logits", RETURNS)
  // Before the field there was, the pooling said it.
  const hasClass = c.bool("use_cls_token", pool === "cls")
  if (pool === "cls" && !hasClass) c.invalid(`classification_type "cls" needs use_cls_token true`)
  const vision = {
    ...plainVision,
    nLayers: c.int("n_layers", { limit: "count" }),
    dModel,
    nHeads,
    dHead: c.has("d_head") ? c.int("d_head") : c.divide("d_model", dModel, "n_heads", nHeads),
    dMlp: c.has("d_mlp") ? c.int("d_mlp") : 4 * dModel,
    activation: c.activation("activation_name", "gelu"),
    gatedMlp: false,
    eps: c.positive("eps", { fallback: 1e-6 }),
    qkvBias: true,
    attnOutBias: true,
    mlpBias: true,
    qkNorm: false,
    layerScale: false,
    norm: normed ? ("pre" as const) : ("none" as const),
    attnOnly: c.bool("attn_only", false),
    imageSize,
    patchSize,
    positionGrid: c.patches("image_size", imageSize, patchSize),
    nChannels: c.int("n_channels", { fallback: 3, limit: "count" }),
    prefix: hasClass ? [{ name: "cls" as const, count: 1 }] : [],
    lnPre: c.bool("layer_norm_pre", false),
    lnFinal: normed,
    pool,
    // Prisma's mean is over all tokens.
    poolsPrefix: true,
    nClasses: output === "logits" ? c.int("n_classes", { fallback: 10, limit: "classes" }) : 0,
    outputs: [output],
  }
  return { family: "prisma", architecture: "HookedViT", vision, text: undefined, dual: undefined, labels: [] }
}
