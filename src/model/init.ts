/**
 * @file Weights to begin training with, after Prisma's first ViT or timm's `init_weights_vit_timm`
 * (https://github.com/huggingface/pytorch-image-models/blob/main/timm/models/vision_transformer.py).
 */
import { fail } from "../errors.ts"
import { Random } from "../tensor/random.ts"
import { float32, size, type Tensor } from "../tensor/tensor.ts"
import type { Activation, ModelConfig } from "./config.ts"
import { build } from "./model.ts"

export type Scheme = "seed" | "timm"

export interface InitOptions {
  /** "seed": Prisma's first ViT; "timm". */
  readonly scheme?: Scheme
  /** A safe integer >= 0; the same gives the same weights. */
  readonly seed?: number
  /** Linear weights of the scheme "seed": He's (arXiv:1502.01852), or what torch gives a new nn.Linear. */
  readonly weightType?: "he" | "default"
  /** Standard deviation of the class token. */
  readonly clsStd?: number
  /** Standard deviation of the position table. */
  readonly posStd?: number
  /** Make only these weights. */
  readonly only?: (name: string) => boolean
}

/** Parameters of a new model: 4 GiB, four times a ViT-g. */
const MOST = 2 ** 30

/** What a weight is for, by its name; the first that fits counts. */
const ROLES = [
  ["gain", /(^|\.)(ln\w*|[qk]_norm)\.weight$/],
  ["shift", /(^|\.)(ln\w*|[qk]_norm)\.bias$/],
  ["layerScale", /\.gamma$/],
  ["token", /(^|\.)embed\.(cls|dist|reg)$/],
  ["position", /(^|\.)embed\.pos$/],
  ["embedding", /(^|\.)embed\.(mask|tokens)$/],
  ["query", /^pool\.query$/],
  ["patchWeight", /^embed\.proj\.weight$/],
  ["patchBias", /^embed\.proj\.bias$/],
  ["logitScale", /^logit_scale$/],
  ["logitBias", /^logit_bias$/],
  ["weight", /\.weight$/],
  ["bias", /\.bias$/],
] as const

type Role = (typeof ROLES)[number][0]

interface Place {
  readonly random: Random
  /** Inputs of the layer that the weight or bias belongs to. */
  readonly fanIn: number
  readonly options: Required<Omit<InitOptions, "only">>
  readonly activation: Activation
}

/** Draws one value after the other. */
type Draw = (place: Place) => () => number

const constant =
  (value: number): Draw =>
  () =>
  () =>
    value
const normal =
  (std: (place: Place) => number): Draw =>
  (place) => {
    const s = std(place)
    return () => s * place.random.normal()
  }
/** torch's trunc_normal_ cuts at -2 and 2, not at two standard deviations. */
const truncated =
  (std: (place: Place) => number): Draw =>
  (place) => {
    const s = std(place)
    return () => s * place.random.truncatedNormal(2 / s)
  }
/** U(-1 / sqrt(fanIn), 1 / sqrt(fanIn)): torch's kaiming_uniform_(a = sqrt(5)) of new layers, and their biases. */
const torchDefault: Draw = ({ random, fanIn }) => {
  const bound = 1 / Math.sqrt(fanIn)
  return () => bound * (2 * random.uniform() - 1)
}

/** std = gain / sqrt(fanIn). Prisma takes ReLU's gain for GELU and LeakyReLU too; of none it has no entry: torch's is 1. */
const he = normal(({ fanIn, activation }) => (activation === "linear" ? 1 : Math.SQRT2) / Math.sqrt(fanIn))
const isHe = ({ options }: Place): boolean => options.weightType === "he"

/** Common to both. */
const SHARED = {
  gain: constant(1),
  shift: constant(0),
  layerScale: constant(1e-5), // timm's init_values of DINOv2
  token: normal(({ options }) => options.clsStd),
  position: truncated(({ options }) => options.posStd),
  embedding: truncated(() => 0.02),
  query: truncated(({ fanIn }) => 1 / Math.sqrt(fanIn)), // timm's AttentionPoolLatent
  patchWeight: torchDefault,
  patchBias: torchDefault,
  logitScale: constant(Math.log(1 / 0.07)), // CLIP (arXiv:2103.00020)
  logitBias: constant(-10), // SigLIP (arXiv:2303.15343)
} as const satisfies Partial<Record<Role, Draw>>

const SCHEMES: { readonly [S in Scheme]: { readonly [R in Role]: Draw } } = {
  seed: {
    ...SHARED,
    weight: (place) => (isHe(place) ? he : torchDefault)(place),
    bias: (place) => (isHe(place) ? constant(0) : torchDefault)(place),
  },
  timm: { ...SHARED, weight: truncated(() => 0.02), bias: constant(0) },
}

/**
 * Every weight that the model lists, by name. Each is drawn from a stream of its own, so that it depends on seed, name
 * and shape alone. Errors: E_CONFIG for a seed that is no whole number >= 0 or a deviation that is no number >= 0,
 * E_CONFIG_LIMIT for more than 2^30 parameters.
 */
export function initialise(cfg: ModelConfig, given: InitOptions = {}): Map<string, Tensor<"float32">> {
  const options = { scheme: "seed", seed: 0, weightType: "he", clsStd: 1e-6, posStd: 0.02, ...given } as const
  const { seed, clsStd, posStd } = options
  if (!Number.isSafeInteger(seed) || seed < 0) fail("E_CONFIG", `the seed must be a whole number >= 0, got ${seed}`)
  for (const [name, std] of Object.entries({ clsStd, posStd })) {
    if (!Number.isFinite(std) || std < 0) fail("E_CONFIG", `${name} must be a number >= 0, got ${std}`)
  }
  const { params } = build(cfg).scope
  const total = [...params.values()].reduce((n, { shape }) => n + size(shape as number[]), 0)
  if (total > MOST) fail("E_CONFIG_LIMIT", `the config's model has ${total} parameters, the limit is ${MOST}`)
  const shapeOf = (name: string) => params.get(name)?.shape as readonly number[] | undefined
  return new Map(
    [...params.keys()].filter(given.only ?? (() => true)).map((name) => {
      const shape = shapeOf(name)!
      const fanIn = (shapeOf(name.replace(/bias$/, "weight")) ?? shape).at(-1)!
      const activation = (name.startsWith("text.") ? cfg.text : undefined)?.activation ?? cfg.vision.activation
      const random = new Random(seed, `init:${name}`)
      const draw = SCHEMES[options.scheme][roleOf(name)]({ random, fanIn, options, activation })
      return [name, float32(shape, Float32Array.from({ length: size(shape) }, draw))]
    }),
  )
}

const roleOf = (name: string): Role =>
  ROLES.find(([, pattern]) => pattern.test(name))?.[0] ?? fail("E_CONFIG", `no role is known for the weight "${name}"`)
