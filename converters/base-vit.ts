/**
 * @file Prisma's first ViT, BaseViT of vit-prisma 0.1 (https://github.com/soniajoseph/ViT-Prisma, commit 40181a5): from
 * the config.json that its trainer writes, and as this project's own trainer saves it.
 *
 * Without layer_norm_eps there is no norm at all; with it the norms stand after attention and MLP. The patch
 * embedding, q, k and v have no bias.
 */
import type { Activation, DropRates, ModelConfig, VisionConfig, VisionOutput } from "../src/model/config.ts"
import { build } from "../src/model/model.ts"
import { plainVision } from "./hf.ts"
import type { ConfigReader } from "./reader.ts"
import { fused, module, patchConv, perLayer, type Family, type Rule, type Source } from "./rules.ts"
import { isRecord } from "../src/tensor/record.ts"

/** What of the seed's GlobalConfig decides the model. */
export interface SeedModel {
  readonly imageSize: number
  readonly patchSize: number
  readonly nChannels: number
  readonly hiddenDim: number
  readonly numHeads: number
  readonly numLayers: number
  readonly mlpDim: number
  readonly activation: Activation
  readonly attentionOnly: boolean
  readonly attnHiddenLayer: boolean
  readonly qknorm: boolean
  /** 0: no norm ("seed"), or PRE_NORM_EPS ("preLN"). */
  readonly layerNormEps: number
  /** No class token; the mean of all tokens is what the head reads. */
  readonly globalPool: boolean
  readonly numClasses: number
  /** "preLN": norms before attention and MLP and biases everywhere, as transformers' ViTForImageClassification. */
  readonly architecture: "seed" | "preLN"
  readonly reconstructs?: "all" | "masked" | undefined
  readonly drop?: DropRates | undefined
}

/** torch's own of the q and k norms. */
const QK_NORM_EPS = 1e-5
/** timm's of ViTs; a float32 variance of 1e-12, transformers' default, is rounding. */
const PRE_NORM_EPS = 1e-6

export const SEED_ACTIVATIONS = {
  ReLU: "relu",
  LeakyReLU: "leaky_relu",
  GELU: "gelu",
  Linear: "linear",
} as const satisfies Readonly<Record<string, Activation>>

/** The model of these fields; `dModel` must be a multiple of the heads, the image of the patch. */
export function seedModel(f: SeedModel): ModelConfig {
  const pre = f.architecture === "preLN"
  const eps = f.layerNormEps || (pre ? PRE_NORM_EPS : 0)
  const perToken = pre || f.reconstructs !== undefined
  const grid = Math.floor(f.imageSize / f.patchSize)
  const outputs: VisionOutput[] = f.reconstructs ? ["reconstruction"] : ["logits", "pooler_output"]
  const vision: VisionConfig = {
    ...plainVision,
    nLayers: f.numLayers,
    dModel: f.hiddenDim,
    nHeads: f.numHeads,
    dHead: f.hiddenDim / f.numHeads,
    dMlp: f.mlpDim,
    activation: f.activation,
    gatedMlp: false,
    eps,
    qkvBias: pre,
    attnOutBias: true,
    mlpBias: true,
    qkNorm: f.qknorm,
    qkNormEps: QK_NORM_EPS,
    layerScale: false,
    norm: pre ? "pre" : eps ? "post" : "none",
    attnOnly: f.attentionOnly,
    attnOutIdentity: !f.attnHiddenLayer,
    ...(f.drop && { drop: f.drop }),
    imageSize: [f.imageSize, f.imageSize],
    patchSize: [f.patchSize, f.patchSize],
    positionGrid: [grid, grid],
    nChannels: f.nChannels,
    patchBias: pre,
    prefix: f.globalPool ? [] : [{ name: "cls", count: 1 }],
    lnPre: !pre && eps > 0,
    // The seed pools and then norms.
    lnFinal: perToken && eps > 0,
    lnPooled: !perToken && eps > 0,
    pool: f.reconstructs ? "none" : f.globalPool ? "mean" : "cls",
    nClasses: f.reconstructs ? 0 : f.numClasses,
    ...(f.reconstructs && { reconstructs: f.reconstructs }),
    outputs,
  }
  const architecture = pre ? "BaseViT (pre-norm)" : "BaseViT"
  return { family: "base-vit", architecture, vision, text: undefined, dual: undefined, labels: [] }
}

/** What a reconstruction loss makes of the model. */
export const RECONSTRUCTS = {
  CrossEntropy: undefined,
  MSE: undefined,
  Reconstruction: "all",
  MaskedReconstruction: "masked",
} as const

const POSITION = ["position_embedding", "embed.pos"] as const
/** The seed's config.json leaves out its ClassificationConfig, whose values are those of a class; the head has them. */
const globalPool = (c: ConfigReader, source: Source): boolean =>
  c.bool(
    "global_pool",
    !["cls_token", "embed.cls"].some((name) => source.has(name)) && POSITION.some((n) => source.has(n)),
  )

function read(c: ConfigReader, source: Source): ModelConfig {
  const [image, transformer] = [c.object("image"), c.object("transformer")]
  const part = (key: string) => c.object(key, { fallback: {} })
  const [layernorm, classification, training] = [part("layernorm"), part("classification"), part("training")]
  const imageSize = image.int("image_size", { limit: "pixels" })
  const patchSize = image.int("patch_size", { limit: "pixels" })
  image.patches("image_size", [imageSize, imageSize], [patchSize, patchSize])
  const hiddenDim = transformer.int("hidden_dim")
  const numHeads = transformer.int("num_heads", { limit: "count" })
  transformer.divide("hidden_dim", hiddenDim, "num_heads", numHeads)
  const eps = layernorm.number("layer_norm_eps", { fallback: 0 })
  if (eps < 0) layernorm.invalid(`layernorm.layer_norm_eps must be at least 0, got ${eps}`)
  const reconstructs = training.choice("loss_fn_name", "CrossEntropy", RECONSTRUCTS)
  const rows = source.get("head.weight")?.shape[0]
  const numClasses = classification.int("num_classes", { fallback: rows, limit: "classes" })
  const labels = classification.strings("class_names") ?? []
  if (labels.length && labels.length !== numClasses) {
    classification.invalid(`classification.class_names has ${labels.length} names, num_classes is ${numClasses}`)
  }
  const model = seedModel({
    imageSize,
    patchSize,
    nChannels: image.int("n_channels", { limit: "count" }),
    hiddenDim,
    numHeads,
    numLayers: transformer.int("num_layers", { limit: "count" }),
    mlpDim: transformer.int("mlp_dim", { fallback: 4 * hiddenDim }),
    activation: transformer.choice("activation_name", "GELU", SEED_ACTIVATIONS),
    attentionOnly: transformer.bool("attention_only", false),
    attnHiddenLayer: transformer.bool("attn_hidden_layer", true),
    qknorm: layernorm.bool("qknorm", false),
    layerNormEps: eps,
    globalPool: globalPool(classification, source),
    numClasses,
    architecture: c.choice("architecture", "seed", { seed: "seed", preLN: "preLN" } as const),
    reconstructs,
  })
  return { ...model, labels }
}

export const baseVit: Family = {
  name: "base-vit",
  supports: ["Prisma's BaseViT by its GlobalConfig"],
  claims: (c) => isRecord(c.raw("transformer")) && isRecord(c.raw("image")),
  read,

  table(config) {
    const { nLayers } = config.vision
    const rules: [string, Rule][] = [
      ["cls_token", "embed.cls"],
      ["mask_token", "embed.mask"],
      ["position_embedding", "embed.pos"],
      ...patchConv("patch_embedding.proj", config),
      ...module("pre_block_norm", "ln_pre"),
      ...perLayer(nLayers, (i) => {
        const [at, to] = [`blocks.${i}.`, `blocks.${i}.`]
        return [
          fused(`${at}attention.qkv.weight`, `${to}attn`),
          fused(`${at}attention.qkv.bias`, `${to}attn`, ["q", "k", "v"], "bias"),
          ...module(`${at}attention.q_norm`, `${to}attn.q_norm`),
          ...module(`${at}attention.k_norm`, `${to}attn.k_norm`),
          ...module(`${at}attention.proj`, `${to}attn.out`),
          ...module(`${at}post_attn_ln`, `${to}ln1`),
          ...module(`${at}mlp.fc1`, `${to}mlp.in`),
          ...module(`${at}mlp.mlp_norm`, `${to}mlp.ln`),
          ...module(`${at}mlp.fc2`, `${to}mlp.out`),
          ...module(`${at}post_mlp_ln`, `${to}ln2`),
        ]
      }),
      ...module("pre_head_norm", config.vision.lnPooled ? "ln_pooled" : "ln_final"),
      ...module("head", "head"),
    ]
    // What this project trains is saved under its own names.
    const own = [...build(config).scope.params.keys()].map((name): [string, Rule] => [name, name])
    return new Map([...own, ...rules])
  },
}
