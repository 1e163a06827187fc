/** @file transformers' DINOv2, with and without register tokens. */
import type { ModelConfig, StackConfig, VisionConfig } from "../src/model/config.ts"
import { architectureOf, classAndRegisters, imageOf, labelsOf, plainVision, registerRule, stackOf } from "./hf.ts"
import type { ConfigReader } from "./reader.ts"
import { fused, module, patchConv, perLayer, prefixOf, unused, type Family, type Rule, type Source } from "./rules.ts"

// transformers models/dinov2/configuration_dinov2.py
const ACTIVATION = "gelu"
const EPS = 1e-6

const ARCHITECTURES = [
  "Dinov2Model",
  "Dinov2ForImageClassification",
  "Dinov2WithRegistersModel",
  "Dinov2WithRegistersForImageClassification",
] as const

const TYPES = ["dinov2", "dinov2_with_registers"]

/** The config gives a ratio; of a gated MLP the width is two thirds of that, rounded up to a multiple of 8. */
function mlpOf(c: ConfigReader): Pick<StackConfig, "dMlp" | "gatedMlp" | "activation"> & { readonly full: number } {
  const full = c.scaled("mlp_ratio", 4, c.int("hidden_size"))
  if (!c.bool("use_swiglu_ffn", false)) {
    return { full, dMlp: full, gatedMlp: false, activation: c.activation("hidden_act", ACTIVATION) }
  }
  return { full, dMlp: Math.floor((Math.trunc((full * 2) / 3) + 7) / 8) * 8, gatedMlp: true, activation: "silu" }
}

/**
 * Of an image that is not square transformers takes the table for a square one and resamples it to the image
 * (interpolate_pos_encoding); where the table's length is no square it fails, and the table is taken as it lies.
 */
function gridOf({ positionGrid: [rows, columns] }: Pick<VisionConfig, "positionGrid">): readonly [number, number] {
  const side = Math.sqrt(rows * columns)
  return Number.isInteger(side) ? [side, side] : [rows, columns]
}

const body = (source: Source, c: ConfigReader) =>
  prefixOf(source, "embeddings.patch_embeddings.projection.weight", [`${c.string("model_type")}.`, ""], c)

export const hfDinov2: Family = {
  name: "hf-dinov2",
  supports: ARCHITECTURES,
  claims: (c) => TYPES.includes(c.string("model_type", "")),

  read(c, source): ModelConfig {
    const registers = c.string("model_type") === "dinov2_with_registers"
    const known = ARCHITECTURES.filter((a) => a.includes("WithRegisters") === registers)
    const architecture = architectureOf(c, known, known[0]!)
    const classifies = architecture.endsWith("Classification")
    const labels = classifies ? labelsOf(c, source, "classifier.weight") : []
    const nRegisters = registers ? c.count("num_register_tokens", { fallback: 4, limit: "tokens" }) : 0
    const { full, ...mlp } = mlpOf(c)
    const image = imageOf(c, {})
    const vision: VisionConfig = {
      ...plainVision,
      ...stackOf(c, { hidden_act: ACTIVATION, layer_norm_eps: EPS, intermediate_size: full }),
      ...mlp,
      ...image,
      positionGrid: gridOf(image),
      layerScale: true,
      prefix: classAndRegisters(nRegisters),
      positions: "classAndPatches",
      positionsAntialiased: registers,
      anySize: true,
      pool: classifies ? "clsAndMean" : "cls",
      nClasses: labels.length,
      outputs: classifies ? ["logits"] : ["last_hidden_state", "pooler_output"],
    }
    return { family: "hf-dinov2", architecture, vision, text: undefined, dual: undefined, labels }
  },

  table(config, source, reader) {
    const b = body(source, reader)
    const { nLayers, gatedMlp } = config.vision
    return new Map<string, Rule>([
      [`${b}embeddings.cls_token`, "embed.cls"],
      [`${b}embeddings.register_tokens`, registerRule(config)],
      [`${b}embeddings.position_embeddings`, "embed.pos"],
      [`${b}embeddings.mask_token`, unused], // read in pre-training only
      ...patchConv(`${b}embeddings.patch_embeddings.projection`, config),
      ...perLayer(nLayers, (i) => {
        const at = `${b}encoder.layer.${i}.`
        const to = `blocks.${i}.`
        return [
          ...module(`${at}norm1`, `${to}ln1`),
          ...module(`${at}attention.attention.query`, `${to}attn.q`),
          ...module(`${at}attention.attention.key`, `${to}attn.k`),
          ...module(`${at}attention.attention.value`, `${to}attn.v`),
          ...module(`${at}attention.output.dense`, `${to}attn.out`),
          [`${at}layer_scale1.lambda1`, `${to}ls1.gamma`],
          ...module(`${at}norm2`, `${to}ln2`),
          ...(gatedMlp
            ? [
                ...["weight", "bias"].map((kind) =>
                  fused(`${at}mlp.weights_in.${kind}`, `${to}mlp`, ["in", "linear"], kind),
                ),
                ...module(`${at}mlp.weights_out`, `${to}mlp.out`),
              ]
            : [...module(`${at}mlp.fc1`, `${to}mlp.in`), ...module(`${at}mlp.fc2`, `${to}mlp.out`)]),
          [`${at}layer_scale2.lambda1`, `${to}ls2.gamma`],
        ]
      }),
      ...module(`${b}layernorm`, "ln_final"),
      ...module("classifier", "head"),
    ])
  },
}
