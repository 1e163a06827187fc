/** @file open_clip's CLIP: both towers, also with a timm vision transformer as the vision tower. */
import { fail } from "../src/errors.ts"
import type { ModelConfig, StackConfig, TextConfig, VisionConfig } from "../src/model/config.ts"
import { plainVision } from "./hf.ts"
import { brief, ConfigReader } from "./reader.ts"
import { fused, module, patchConv, perLayer, unused, type Family, type Rule, type Source } from "./rules.ts"
import { TIMM_POOLS, timmArguments, timmTable, timmVision } from "./timm.ts"

// open_clip 3.3 model.py, CLIPVisionCfg and CLIPTextCfg: options that change what is computed and that we have not.
const REFUSED = [
  "attentional_pool", "qk_norm", "scaled_cosine_attn", "scale_heads", "scale_attn_inner", "scale_attn", "scale_fc",
  "embed_cls", "hf_model_name",
] // prettier-ignore

const POOLS = { tok: "cls", avg: "mean" } as const
const TEXT_POOLS = { argmax: "largestId", eos: "eos", last: "last" } as const

function stack(c: ConfigReader, width: number, heads: number, quickGelu: boolean): StackConfig {
  for (const key of REFUSED) {
    if (c.has(key) && c.raw(key) !== false) c.unsupported(key)
  }
  const part = (key: string) => (c.has(key) ? c.object(key) : c.empty())
  const gelu = part("act_kwargs").choice("approximate", "none", { none: "gelu", tanh: "gelu_tanh" } as const)
  return {
    nLayers: c.int("layers", { fallback: 12, limit: "count" }),
    dModel: width,
    nHeads: heads,
    dHead: c.divide("width", width, "heads", heads),
    dMlp: c.scaled("mlp_ratio", 4, width),
    activation: quickGelu ? "quick_gelu" : gelu,
    gatedMlp: false,
    eps: part("norm_kwargs").positive("eps", { fallback: 1e-5 }),
    qkvBias: true,
    attnOutBias: true,
    mlpBias: true,
    qkNorm: false,
    layerScale: c.has("ls_init_value"),
  }
}

function visionOf(c: ConfigReader, dProjection: number, quickGelu: boolean): VisionConfig {
  if (c.has("timm_model_name")) return trunk(c, dProjection)
  const layers = c.raw("layers")
  if (Array.isArray(layers) && layers.length === 4) {
    const what = `model_cfg.vision_cfg.layers ${brief(layers)} is a ResNet, which is not supported`
    fail("E_UNSUPPORTED_ARCH", `${c.file}: ${what}; supported are vision transformers, with one number of layers`, {
      file: c.file,
    })
  }
  const width = c.int("width", { fallback: 768 })
  const heads = c.divide("width", width, "head_width", c.int("head_width", { fallback: 64 }))
  const imageSize = c.pair("image_size", { fallback: [224, 224] })
  const patchSize = c.pair("patch_size", { fallback: [16, 16] })
  const afterPool = c.bool("final_ln_after_pool", false)
  return {
    ...plainVision,
    ...stack(c, width, heads, quickGelu),
    imageSize,
    patchSize,
    positionGrid: c.patches("image_size", imageSize, patchSize),
    positionsAntialiased: true,
    nChannels: 3,
    patchBias: false,
    prefix: [{ name: "cls", count: 1 }],
    lnPre: !c.bool("no_ln_pre", false),
    lnFinal: !afterPool,
    lnPooled: afterPool,
    pool: c.choice("pool_type", "tok", POOLS),
    dProjection,
    outputs: ["image_embeds"],
  }
}

/**
 * A timm tower: its pooled tokens, projected by a layer of open_clip's or not at all. For the former the pooling is set
 * after timm has built the trunk, whose norm therefore stays where its own pooling had it.
 */
function trunk(c: ConfigReader, dProjection: number): VisionConfig {
  const args = timmArguments(c.string("timm_model_name"), c.file)
  const [h, w] = c.pair("image_size", { fallback: [224, 224] })
  if (c.bool("timm_proj_bias", false)) c.unsupported("timm_proj_bias")
  const width = c.choice("timm_proj", "linear", { linear: dProjection, none: 0 })
  const global_pool = c.string("timm_pool", "avg")
  if (!width && !global_pool) c.invalid(`model_cfg.vision_cfg.timm_pool must not be "" where timm_proj is "none"`)
  const built = width ? c.empty() : new ConfigReader({ global_pool }, c.file, "model_cfg.vision_cfg.timm_")
  const own = timmVision(args, built, [3, h, w], 0)
  return {
    ...own,
    pool: c.choice("timm_pool", "avg", { ...TIMM_POOLS, "": own.pool }),
    dProjection: width,
    outputs: ["image_embeds"],
  }
}

function textOf(c: ConfigReader, dProjection: number, quickGelu: boolean): TextConfig {
  const width = c.int("width", { fallback: 512 })
  c.choice("proj_type", "linear", { linear: true })
  if (c.bool("final_ln_after_pool", false)) c.unsupported("final_ln_after_pool")
  return {
    ...stack(c, width, c.int("heads", { fallback: 8 }), quickGelu),
    vocabulary: c.int("vocab_size", { fallback: 49408, limit: "rows" }),
    contextLength: c.int("context_length", { fallback: 77, limit: "context" }),
    causal: !c.bool("no_causal_mask", false),
    pool: c.choice("pool_type", "argmax", TEXT_POOLS),
    eosTokenId: c.count("eos_id", { fallback: 2, limit: "rows" }),
    dProjection,
    projectionBias: c.bool("proj_bias", false),
  }
}

/** A CLIP's text tower lies at the top level; a model with a text tower of its own class has it under `text.`. */
const textPrefix = (source: Source): string => (source.has("text.token_embedding.weight") ? "text." : "")

export const openClip: Family = {
  name: "open-clip",
  supports: ["open_clip CLIP with a vision transformer (open_clip_config.json)"],
  claims: (c) => c.has("model_cfg"),

  read(c, source): ModelConfig {
    const m = c.object("model_cfg")
    const width = m.int("embed_dim")
    const quickGelu = m.bool("quick_gelu", false)
    const vision = visionOf(m.object("vision_cfg"), width, quickGelu)
    const text = textOf(m.object("text_cfg"), width, quickGelu)
    const logitBias = m.has("init_logit_bias") || source.has("logit_bias")
    return { family: "open-clip", architecture: "CLIP", vision, text, dual: { logitBias }, labels: [] }
  },

  table(config, source, reader) {
    const { text } = config
    const t = textPrefix(source)
    const v = reader.object("model_cfg").object("vision_cfg")
    const projection: [string, Rule] = text?.projectionBias
      ? [`${t}text_projection.weight`, "text.projection.weight"]
      : [`${t}text_projection`, [{ to: "text.projection.weight", transposed: true }]]
    return new Map<string, Rule>([
      ...(v.has("timm_model_name") ? trunkTable(config, v) : towerTable(config)),
      [`${t}token_embedding.weight`, "text.embed.tokens"],
      [`${t}positional_embedding`, "text.embed.pos"],
      [`${t}attn_mask`, unused],
      ["attn_mask", unused],
      ...resblocks(`${t}transformer.resblocks.`, "text.blocks.", text?.nLayers ?? 0),
      ...module(`${t}ln_final`, "text.ln_final"),
      projection,
      [`${t}text_projection.bias`, "text.projection.bias"],
      ["logit_scale", "logit_scale"],
      ["logit_bias", "logit_bias"],
    ])
  },
}

const towerTable = (config: ModelConfig): [string, Rule][] => [
  ["visual.class_embedding", "embed.cls"],
  ["visual.positional_embedding", "embed.pos"],
  ...patchConv("visual.conv1", config),
  ...module("visual.ln_pre", "ln_pre"),
  ...resblocks("visual.transformer.resblocks.", "blocks.", config.vision.nLayers),
  ...module("visual.ln_post", config.vision.lnFinal ? "ln_final" : "ln_pooled"),
  ["visual.proj", [{ to: "projection.weight", transposed: true }]],
]

function trunkTable(config: ModelConfig, v: ConfigReader): [string, Rule][] {
  const packed = timmArguments(v.string("timm_model_name"), v.file).mlp !== "SwiGLU"
  return [...timmTable("visual.trunk.", config, packed), ["visual.head.proj.weight", "projection.weight"]]
}

const resblocks = (from: string, to: string, n: number): [string, Rule][] =>
  perLayer(n, (i) => [
    ...module(`${from}${i}.ln_1`, `${to}${i}.ln1`),
    fused(`${from}${i}.attn.in_proj_weight`, `${to}${i}.attn`),
    fused(`${from}${i}.attn.in_proj_bias`, `${to}${i}.attn`, ["q", "k", "v"], "bias"),
    ...module(`${from}${i}.attn.out_proj`, `${to}${i}.attn.out`),
    [`${from}${i}.ls_1.gamma`, `${to}${i}.ls1.gamma`],
    ...module(`${from}${i}.ln_2`, `${to}${i}.ln2`),
    ...module(`${from}${i}.mlp.c_fc`, `${to}${i}.mlp.in`),
    ...module(`${from}${i}.mlp.c_proj`, `${to}${i}.mlp.out`),
    [`${from}${i}.ls_2.gamma`, `${to}${i}.ls2.gamma`],
  ])
