/** @file What a model is, as plain data: the two towers' sizes and options, in our own field names. */

/** How a checkpoint's library writes its activation function; the values are what `activations` in layers.ts makes. */
export type Activation = "gelu" | "gelu_tanh" | "quick_gelu" | "relu" | "silu" | "tanh"

/** A stack of pre-norm transformer blocks: both towers have one. */
export interface StackConfig {
  readonly nLayers: number
  /** Width of the residual stream. */
  readonly dModel: number
  readonly nHeads: number
  readonly dHead: number
  /** Width between the two MLP layers; of a gated MLP, of each half. */
  readonly dMlp: number
  readonly activation: Activation
  /** Gated MLP: activation(gate) * linear, as SwiGLU (arXiv:2002.05202). */
  readonly gatedMlp: boolean
  readonly eps: number
  readonly qkvBias: boolean
  readonly attnOutBias: boolean
  readonly mlpBias: boolean
  /** LayerNorm over each head's q and k. */
  readonly qkNorm: boolean
  /** A learned factor per channel on what attention and MLP add (arXiv:2103.17239). */
  readonly layerScale: boolean
}

/** Learned tokens before the patches, in the checkpoint's own order. */
export interface PrefixToken {
  readonly name: "cls" | "dist" | "reg"
  readonly count: number
}

/** The tokens that the position table has a row for. `classAndPatches`: all but registers. */
export type PositionRows = "all" | "patches" | "classAndPatches" | "none"

/**
 * What becomes of the final tokens: the class token; the mean of the patches; the class token beside the mean of
 * the patches; attention by a learned query; class and distillation token each under a head; nothing.
 */
export type Pool = "cls" | "mean" | "clsAndMean" | "attention" | "distilled" | "none"

/** What the library's class returns of a vision tower. */
export type VisionOutput =
  | "logits"
  | "last_hidden_state"
  | "pooler_output"
  | "image_embeds"
  | "cls_logits"
  | "distillation_logits"

export interface VisionConfig extends StackConfig {
  /** [height, width] in pixels. */
  readonly imageSize: readonly [number, number]
  readonly patchSize: readonly [number, number]
  /** Patches down and across that the position table was made for; another image size resamples it. */
  readonly positionGrid: readonly [number, number]
  /** Does the library smooth a table that it makes smaller? */
  readonly positionsAntialiased: boolean
  readonly nChannels: number
  readonly patchBias: boolean
  readonly prefix: readonly PrefixToken[]
  readonly positions: PositionRows
  /** A norm before the first block (CLIP). */
  readonly lnPre: boolean
  /** The norm after the last block, of every token. */
  readonly lnFinal: boolean
  readonly pool: Pool
  /** Pooling sees the prefix tokens too, not the patches alone. */
  readonly poolsPrefix: boolean
  /** MLP width of attention pooling. */
  readonly poolMlp: number
  /** A norm after pooling. */
  readonly lnPooled: boolean
  /** A dense layer on the pooled token, with its activation (BERT's pooler). */
  readonly pooler: Activation | undefined
  /** Number of classes; 0 is no classifier. */
  readonly nClasses: number
  /** Width of the projection into the space shared with text; 0 is none. */
  readonly dProjection: number
  /** `last_hidden_state` before the final norm (transformers' CLIP) rather than after it. */
  readonly rawHiddenState: boolean
  readonly outputs: readonly VisionOutput[]
}

export interface TextConfig extends StackConfig {
  readonly vocabulary: number
  readonly contextLength: number
  readonly causal: boolean
  /**
   * The token whose final value is the text: the first with id `eosTokenId`; the first with the largest id
   * (CLIP's end of text was the last of its vocabulary); the last.
   */
  readonly pool: "eos" | "largestId" | "last"
  readonly eosTokenId: number
  readonly dProjection: number
  readonly projectionBias: boolean
}

/** Two towers compared: logits_per_image = exp(scale) * image . text (+ bias). */
export interface DualConfig {
  readonly logitBias: boolean
}

export interface ModelConfig {
  /** The converter that claimed the checkpoint: "hf-vit", "timm", ... */
  readonly family: string
  /** The source's own name of the architecture. */
  readonly architecture: string
  readonly vision: VisionConfig
  readonly text: TextConfig | undefined
  /** Present where both towers are: outputs are then unit vectors and their products. */
  readonly dual: DualConfig | undefined
  /** Class names by index; empty where the source names none. */
  readonly labels: readonly string[]
}

/** Patches down and across; pixels that fill no patch are not read. */
export const grid = ({ imageSize, patchSize }: VisionConfig): readonly [number, number] => [
  Math.floor(imageSize[0] / patchSize[0]),
  Math.floor(imageSize[1] / patchSize[1]),
]

export const nPatches = (cfg: VisionConfig): number => grid(cfg)[0] * grid(cfg)[1]

export const nPrefix = (cfg: VisionConfig): number => cfg.prefix.reduce((n, t) => n + t.count, 0)

/** Tokens in the residual stream: prefix and patches. */
export const nTokens = (cfg: VisionConfig): number => nPrefix(cfg) + nPatches(cfg)
