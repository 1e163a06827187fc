/** @file What a model is, as plain data: the two towers' sizes and options, in our own field names. */

/** How a checkpoint's library writes its activation function; the values are what `activations` in layers.ts makes. */
export type Activation = "gelu" | "gelu_tanh" | "quick_gelu" | "relu" | "leaky_relu" | "silu" | "tanh" | "linear"

/**
 * What is dropped in training, each a probability in [0, 1): values of the patch embedding, of the tokens with their
 * positions, of the attention pattern, of what attention gives, of the MLP after its activation and at its end;
 * `path`, a block's whole addition to one image's stream, grows from 0 at the first block to this at the last
 * (arXiv:1603.09382).
 */
export interface DropRates {
  readonly patch: number
  readonly position: number
  readonly attention: number
  readonly proj: number
  readonly mlp: number
  readonly path: number
}

/**
 * Rotary positions in two dimensions (arXiv:2104.09864, as DINOv3 has them, arXiv:2508.10104): the queries and keys of a
 * patch are turned by angles that grow with its row and its column, the fastest `base` times as fast as a slowest would.
 */
export interface Rotary {
  readonly base: number
  /** Where patches were dropped: which stayed, of what grid. */
  readonly kept?: { readonly grid: readonly [number, number]; readonly patches: readonly number[] }
}

/** A stack of transformer blocks: both towers have one. Of the options that may be absent none is there then. */
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
  /** False: of q, k and v the keys alone have no bias (DINOv3). */
  readonly keyBias?: boolean
  readonly attnOutBias: boolean
  readonly mlpBias: boolean
  /** LayerNorm over each head's q and k. */
  readonly qkNorm: boolean
  /** A learned factor per channel on what attention and MLP add (arXiv:2103.17239). */
  readonly layerScale: boolean
  /**
   * Where a block norms: what attention and MLP read ("pre", the default); the stream after each has been added to it,
   * and the MLP's hidden values, as Prisma's first ViT ("post"); nowhere ("none").
   */
  readonly norm?: "pre" | "post" | "none"
  /** Blocks of attention alone. */
  readonly attnOnly?: boolean
  /** The heads' outputs side by side are what attention adds: no output projection. */
  readonly attnOutIdentity?: boolean
  /** Of a vision tower alone. */
  readonly rotary?: Rotary
  /** Epsilon of q and k norm where it is not `eps`. */
  readonly qkNormEps?: number
  readonly drop?: DropRates
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
  | "reconstruction"

export interface VisionConfig extends StackConfig {
  /** [height, width] in pixels. */
  readonly imageSize: readonly [number, number]
  readonly patchSize: readonly [number, number]
  /** Patches down and across that the position table was made for; another image size resamples it. */
  readonly positionGrid: readonly [number, number]
  /** The library takes whatever image comes and makes its positions for that: the config's size says nothing. */
  readonly anySize?: true
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
  /** Width of the pooler; by default `dModel`. */
  readonly dPooler?: number
  /** Number of classes; 0 is no classifier. */
  readonly nClasses: number
  /** Width of the projection into the space shared with text; 0 is none. */
  readonly dProjection: number
  /** `last_hidden_state` before the final norm (transformers' CLIP) rather than after it. */
  readonly rawHiddenState: boolean
  /**
   * `reconstruction`: a linear head gives each patch's c * ph * pw pixels. "masked": patches that the input `patch_mask`
   * [b, P] marks with 1 are replaced by a learned token (arXiv:2111.09886).
   */
  readonly reconstructs?: "all" | "masked"
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
