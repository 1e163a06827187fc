/** @file transformers' DINOv3 ViT: rotary positions, registers, LayerScale, keys without a bias. */
import type { ModelConfig, VisionConfig } from "../src/model/config.ts"
import { architectureOf, classAndRegisters, imageOf, plainVision, registerRule, stackOf } from "./hf.ts"
import type { ConfigReader } from "./reader.ts"
import { module, patchConv, perLayer, prefixOf, unused, type Family, type Rule } from "./rules.ts"

// transformers models/dinov3_vit/configuration_dinov3_vit.py
const DEFAULTS = { hidden_act: "gelu", layer_norm_eps: 1e-5 } as const
const BASE = 100

const ARCHITECTURES = ["DINOv3ViTModel"] as const

/** Which of q, k and v have a bias; ours are all, none, and all but the keys. */
function biasesOf(c: ConfigReader): Pick<VisionConfig, "qkvBias" | "keyBias"> {
  const [query, key, value] = [c.bool("query_bias", true), c.bool("key_bias", false), c.bool("value_bias", true)]
  if (query !== value || (key && !query)) {
    c.invalid(
      `query_bias, key_bias and value_bias must be all true, all false, or false for the keys alone, got ${query}, ${key}, ${value}`,
    )
  }
  return { qkvBias: query, keyBias: key }
}

export const hfDinov3: Family = {
  name: "hf-dinov3",
  supports: ARCHITECTURES,
  claims: (c) => c.string("model_type", "") === "dinov3_vit",

  read(c): ModelConfig {
    const architecture = architectureOf(c, ARCHITECTURES, "DINOv3ViTModel")
    const stack = stackOf(c, DEFAULTS)
    if (stack.dHead % 4)
      c.invalid(`hidden_size / num_attention_heads must be a multiple of 4 for rotary positions, got ${stack.dHead}`)
    const registers = c.count("num_register_tokens", { fallback: 0, limit: "tokens" })
    const vision: VisionConfig = {
      ...plainVision,
      ...stack,
      ...biasesOf(c),
      attnOutBias: c.bool("proj_bias", true),
      mlpBias: c.bool("mlp_bias", true),
      gatedMlp: c.bool("use_gated_mlp", false),
      layerScale: true,
      rotary: { base: c.positive("rope_theta", { fallback: BASE }) },
      ...imageOf(c, { image_size: 224, patch_size: 16 }),
      prefix: classAndRegisters(registers),
      positions: "none",
      anySize: true,
      outputs: ["last_hidden_state", "pooler_output"],
    }
    return { family: "hf-dinov3", architecture, vision, text: undefined, dual: undefined, labels: [] }
  },

  table(config, source, reader) {
    const { nLayers, gatedMlp } = config.vision
    // On the Hub without, and with, as transformers has them in memory.
    const blocks = `${prefixOf(source, "layer.0.norm1.weight", ["", "model."], reader)}layer.`
    return new Map<string, Rule>([
      ["embeddings.cls_token", "embed.cls"],
      ["embeddings.register_tokens", registerRule(config)],
      ["embeddings.mask_token", unused], // read in pre-training only
      ...patchConv("embeddings.patch_embeddings", config),
      ...perLayer(nLayers, (i) => {
        const at = `${blocks}${i}.`
        const to = `blocks.${i}.`
        return [
          ...module(`${at}norm1`, `${to}ln1`),
          ...(["q", "k", "v"] as const).flatMap((kind) => module(`${at}attention.${kind}_proj`, `${to}attn.${kind}`)),
          ...module(`${at}attention.o_proj`, `${to}attn.out`),
          [`${at}layer_scale1.lambda1`, `${to}ls1.gamma`],
          ...module(`${at}norm2`, `${to}ln2`),
          ...(gatedMlp ? module(`${at}mlp.gate_proj`, `${to}mlp.in`) : []),
          ...module(`${at}mlp.up_proj`, `${to}mlp.${gatedMlp ? "linear" : "in"}`),
          ...module(`${at}mlp.down_proj`, `${to}mlp.out`),
          [`${at}layer_scale2.lambda1`, `${to}ls2.gamma`],
        ]
      }),
      ...module("norm", "ln_final"),
    ])
  },
}
