/** @file transformers' CLIP and SigLIP: both towers, and their vision towers alone. */
import type { DualConfig, ModelConfig, TextConfig, VisionConfig, VisionOutput } from "../src/model/config.ts"
import { architectureOf, imageOf, labelsOf, plainVision, stackOf, type HfDefaults } from "./hf.ts"
import type { ConfigReader } from "./reader.ts"
import { fused, module, patchConv, perLayer, prefixOf, unused, type Family, type Rule } from "./rules.ts"

interface Kind {
  /** transformers models/{clip,siglip}/configuration_*.py */
  readonly vision: HfDefaults
  readonly text: HfDefaults & { readonly vocab_size: number; readonly max_position_embeddings: number }
  /** What differs in the vision tower. */
  readonly tower: Partial<VisionConfig>
}

const KINDS: Readonly<Record<"clip" | "siglip", Kind>> = {
  clip: {
    vision: {
      hidden_size: 768, num_hidden_layers: 12, num_attention_heads: 12, intermediate_size: 3072,
      image_size: 224, patch_size: 32, hidden_act: "quick_gelu", layer_norm_eps: 1e-5,
    },
    text: {
      hidden_size: 512, num_hidden_layers: 12, num_attention_heads: 8, intermediate_size: 2048,
      hidden_act: "quick_gelu", layer_norm_eps: 1e-5, vocab_size: 49408, max_position_embeddings: 77,
    },
    tower: { patchBias: false, prefix: [{ name: "cls", count: 1 }], lnPre: true, pool: "cls", rawHiddenState: true },
  },
  siglip: {
    vision: {
      hidden_size: 768, num_hidden_layers: 12, num_attention_heads: 12, intermediate_size: 3072,
      image_size: 224, patch_size: 16, hidden_act: "gelu_tanh", layer_norm_eps: 1e-6,
    },
    text: {
      hidden_size: 768, num_hidden_layers: 12, num_attention_heads: 12, intermediate_size: 3072,
      hidden_act: "gelu_tanh", layer_norm_eps: 1e-6, vocab_size: 32000, max_position_embeddings: 64,
    },
    tower: { pool: "attention" },
  },
} // prettier-ignore

/** What each class returns of its vision tower, and where its vision config stands. */
const ARCHITECTURES: Readonly<
  Record<string, { readonly outputs: readonly VisionOutput[]; readonly pool?: VisionConfig["pool"] }>
> = {
  CLIPModel: { outputs: ["image_embeds", "pooler_output"] },
  CLIPVisionModel: { outputs: ["last_hidden_state", "pooler_output"] },
  CLIPVisionModelWithProjection: { outputs: ["image_embeds", "last_hidden_state", "pooler_output"] },
  CLIPForImageClassification: { outputs: ["logits"], pool: "mean" },
  SiglipModel: { outputs: ["image_embeds", "pooler_output"] },
  SiglipVisionModel: { outputs: ["last_hidden_state", "pooler_output"] },
  SiglipForImageClassification: { outputs: ["logits"], pool: "mean" },
}

const FALLBACKS: Readonly<Record<string, string>> = {
  clip: "CLIPModel",
  clip_vision_model: "CLIPVisionModel",
  siglip: "SiglipModel",
  siglip_vision_model: "SiglipVisionModel",
}

const kindOf = (c: ConfigReader) => (c.string("model_type").startsWith("clip") ? "clip" : "siglip")

export const hfClip: Family = {
  name: "hf-clip",
  supports: Object.keys(ARCHITECTURES),
  claims: (c) => Object.hasOwn(FALLBACKS, c.string("model_type", "")),

  read(c, source): ModelConfig {
    const kind = kindOf(c)
    const known = Object.keys(ARCHITECTURES).filter((a) => a.toLowerCase().startsWith(kind))
    const architecture = architectureOf(c, known, FALLBACKS[c.string("model_type")]!)
    const { outputs, pool } = ARCHITECTURES[architecture]!
    const nested = !c.string("model_type").endsWith("vision_model")
    const v = nested ? subConfig(c, "vision_config", kind) : c
    const both = architecture === "CLIPModel" || architecture === "SiglipModel"
    const projects = kind === "clip" && outputs.includes("image_embeds")
    const dProjection = projects ? (nested ? c : v).int("projection_dim", { fallback: 512 }) : 0
    const labels = outputs.includes("logits") ? labelsOf(c, source, "classifier.weight") : []
    const stack = stackOf(v, nested ? KINDS[kind].vision : required(KINDS[kind].vision))
    const headless = kind === "siglip" && !v.bool("vision_use_head", true)
    const vision: VisionConfig = {
      ...plainVision,
      ...stack,
      ...imageOf(v, nested ? KINDS[kind].vision : {}),
      ...KINDS[kind].tower,
      ...(headless && { pool: "none" as const }),
      ...(pool && { pool }),
      // CLIPForImageClassification averages tokens that no final norm has seen.
      ...(architecture === "CLIPForImageClassification" && { lnFinal: false }),
      poolMlp: stack.dMlp,
      nClasses: labels.length,
      dProjection,
      outputs: headless ? outputs.filter((o) => o === "last_hidden_state" || o === "logits") : outputs,
    }
    const text = both ? textOf(c, kind, dProjection) : undefined
    const dual: DualConfig | undefined = both ? { logitBias: kind === "siglip" } : undefined
    return { family: "hf-clip", architecture, vision, text, dual, labels }
  },

  table(config, source, reader) {
    const kind = kindOf(reader)
    const prefixes = ["vision_model.", "", "vision_model.vision_model."]
    const b = prefixOf(source, "embeddings.patch_embedding.weight", prefixes, reader)
    const { vision, text } = config
    const rules: [string, Rule][] = [
      [`${b}embeddings.class_embedding`, "embed.cls"],
      [`${b}embeddings.position_embedding.weight`, "embed.pos"],
      [`${b}embeddings.position_ids`, unused],
      ...patchConv(`${b}embeddings.patch_embedding`, config),
      ...module(`${b}pre_layrnorm`, "ln_pre"),
      ...encoder(`${b}encoder.layers.`, "blocks.", vision.nLayers),
      ...module(`${b}post_layernorm`, vision.lnFinal ? "ln_final" : "").map(([from, to]): [string, Rule] => [
        from,
        vision.lnFinal ? to : unused,
      ]),
      ["visual_projection.weight", "projection.weight"],
      ...module("classifier", "head"),
      ...(kind === "siglip" ? poolingHead(`${b}head.`, vision.pool === "attention") : []),
    ]
    return new Map([...rules, ...(text ? textTower(text, kind) : [])])
  },
}

/** Sizes must stand in a config of its own; activation and eps keep their defaults. */
const required = ({ hidden_act, layer_norm_eps }: HfDefaults): HfDefaults => ({ hidden_act, layer_norm_eps })

/** CLIP configs of 2022 have `vision_config_dict` too; where it is, transformers takes nothing else (configuration_clip.py). */
function subConfig(c: ConfigReader, key: "vision_config" | "text_config", kind: "clip" | "siglip"): ConfigReader {
  return c.object(kind === "clip" && c.has(`${key}_dict`) ? `${key}_dict` : key, { fallback: {} })
}

function textOf(c: ConfigReader, kind: "clip" | "siglip", dProjection: number): TextConfig {
  const t = subConfig(c, "text_config", kind)
  const defaults = KINDS[kind].text
  const stack = stackOf(t, defaults)
  const eosTokenId = t.count("eos_token_id", { fallback: 49407, limit: "rows" })
  const shared = {
    ...stack,
    vocabulary: t.int("vocab_size", { fallback: defaults.vocab_size, limit: "rows" }),
    contextLength: t.int("max_position_embeddings", { fallback: defaults.max_position_embeddings, limit: "context" }),
    eosTokenId,
  }
  if (kind === "siglip") {
    const width = t.int("projection_size", { fallback: stack.dModel })
    return { ...shared, causal: false, pool: "last", dProjection: width, projectionBias: true }
  }
  // Configs written before transformers 4.31 say 2 for every CLIP, whose end of text is the largest id.
  return { ...shared, causal: true, pool: eosTokenId === 2 ? "largestId" : "eos", dProjection, projectionBias: false }
}

const encoder = (from: string, to: string, n: number): [string, Rule][] =>
  perLayer(n, (i) => [
    ...module(`${from}${i}.layer_norm1`, `${to}${i}.ln1`),
    ...module(`${from}${i}.self_attn.q_proj`, `${to}${i}.attn.q`),
    ...module(`${from}${i}.self_attn.k_proj`, `${to}${i}.attn.k`),
    ...module(`${from}${i}.self_attn.v_proj`, `${to}${i}.attn.v`),
    ...module(`${from}${i}.self_attn.out_proj`, `${to}${i}.attn.out`),
    ...module(`${from}${i}.layer_norm2`, `${to}${i}.ln2`),
    ...module(`${from}${i}.mlp.fc1`, `${to}${i}.mlp.in`),
    ...module(`${from}${i}.mlp.fc2`, `${to}${i}.mlp.out`),
  ])

function poolingHead(from: string, read: boolean): [string, Rule][] {
  const rules: [string, Rule][] = [
    [`${from}probe`, "pool.query"],
    fused(`${from}attention.in_proj_weight`, "pool.attn"),
    fused(`${from}attention.in_proj_bias`, "pool.attn", ["q", "k", "v"], "bias"),
    ...module(`${from}attention.out_proj`, "pool.attn.out"),
    ...module(`${from}layernorm`, "pool.ln"),
    ...module(`${from}mlp.fc1`, "pool.mlp.in"),
    ...module(`${from}mlp.fc2`, "pool.mlp.out"),
  ]
  return read ? rules : rules.map(([name]) => [name, unused])
}

const textTower = ({ nLayers }: TextConfig, kind: "clip" | "siglip"): [string, Rule][] => [
  ["text_model.embeddings.token_embedding.weight", "text.embed.tokens"],
  ["text_model.embeddings.position_embedding.weight", "text.embed.pos"],
  ["text_model.embeddings.position_ids", unused],
  ...encoder("text_model.encoder.layers.", "text.blocks.", nLayers),
  ...module("text_model.final_layer_norm", "text.ln_final"),
  ...(kind === "clip" ? module("text_projection", "text.projection") : module("text_model.head", "text.projection")),
  ["logit_scale", "logit_scale"],
  ["logit_bias", "logit_bias"],
]
