/**
 * @file Feature visualisation (Olah et al., https://distill.pub/2017/feature-visualization): an image that is changed step
 * by step until a class, a neuron, a channel or any other number of the model is large.
 *
 * A step is one compiled graph: coefficients and Adam's moments go in, and their next values come out. The bases that
 * make pixels of coefficients are fed, so that moving the image about costs nothing.
 */
import { grad } from "../../autodiff/grad.ts"
import { fail } from "../../errors.ts"
import {
  add,
  constant,
  div,
  input,
  matmul,
  mean,
  mul,
  scalar,
  sigmoid,
  slice,
  sqrt,
  sub,
  sum,
  transpose,
} from "../../graph/ops.ts"
import type { Value } from "../../graph/value.ts"
import { nPatches } from "../../model/config.ts"
import { pointOf, unknownHook } from "../../model/hooks.ts"
import { build } from "../../model/model.ts"
import { noRequests } from "../../model/scope.ts"
import { Random } from "../../tensor/random.ts"
import { float32, show, size, type Tensor } from "../../tensor/tensor.ts"
import { imageTotal, type Metric } from "../gradients.ts"
import type { HookedViT } from "../hooked-vit.ts"
import { amplitudes, BASES, shifted, type Parametrisation } from "./bases.ts"
import { whole } from "./batches.ts"

export interface VisualiseOptions {
  /** How many images are made, each from its own start; 1. */
  readonly images?: number
  readonly steps?: number
  /** Adam's; 0.05. */
  readonly learningRate?: number
  /** Of the starts and of the jitter; 0. */
  readonly seed?: number
  /** "fourier" (the default) changes all pixels of a frequency together, which keeps single pixels from running off. */
  readonly parametrisation?: Parametrisation
  /** Before each step the image is moved by up to so many pixels each way, around its edges; a sixteenth of it. */
  readonly jitter?: number
  /** Taken off the objective: so many times the mean of (pixel - 0.5)^2; 0. */
  readonly l2?: number
  /** Taken off the objective: so many times the mean step between neighbouring pixels (total variation); 0. */
  readonly totalVariation?: number
  /** What the model's images are normalised with, one number a channel, as its preprocessing says; 0.5 by default. */
  readonly mean?: readonly number[]
  readonly std?: readonly number[]
}

export interface Visualised {
  /** [n, c, H, W], from 0 to 1. */
  readonly images: Tensor<"float32">
  /** The same, normalised, as the model takes them. */
  readonly pixelValues: Tensor<"float32">
  /** Of each image before each step, as it was moved, and at the end where it stands: [steps + 1, n]. */
  readonly objective: Tensor<"float32">
}

const ADAM = { beta1: 0.9, beta2: 0.999, eps: 1e-8 }
/** Standard deviation of the first coefficients: an almost even grey. */
const START = 0.01

/**
 * Images that make a metric of each image large: "logits[:, 7]", "blocks.2.mlp.hook_post[:, 0, 17]" (a neuron at a
 * token), "blocks.1.hook_resid_post[:, :, 3]" (a channel, all tokens). The same seed gives the same images. Errors:
 * E_INPUT, E_HOOK.
 */
export async function visualise(
  model: HookedViT,
  objective: Metric,
  options: VisualiseOptions = {},
): Promise<Visualised> {
  const { nChannels: c, imageSize } = model.config.vision
  const [h, w] = imageSize
  const { images: n = 1, steps = 256, seed = 0, parametrisation = "fourier" } = options
  const { jitter = Math.floor(Math.min(h, w) / 16) } = options
  check(options)
  whole("images", n, 256)
  whole("steps", steps, 1_000_000)
  whole("seed", seed, Number.MAX_SAFE_INTEGER, 0)
  whole("jitter", jitter, Math.min(h, w), 0)

  const { inputs, next, seen } = stepGraph(model, objective, options)
  const step = await model.runtime.compile(inputs, next)
  const shape = [n, c, h, w]
  let state = { z: start(shape, seed), m: zeros(shape), v: zeros(shape) }
  const { config } = model
  const masked = config.vision.reconstructs === "masked" && { patch_mask: zeros([n, nPatches(config.vision)]) }
  const bases = [BASES[parametrisation](h).rows, BASES[parametrisation](w).rows] as const
  const fed = (down: number, across: number, corrections: readonly [number, number]) => ({
    ...state,
    ...masked,
    rows: float32([h, h], shifted(bases[0], h, down)),
    columns: float32([w, w], shifted(bases[1], w, across)),
    corrections: float32([2], corrections),
  })

  const random = new Random(seed, "jitter")
  const reached = new Float32Array((steps + 1) * n)
  for (let i = 0; i < steps; i++) {
    const by = () => random.below(2 * jitter + 1) - jitter
    const corrections = [1 / (1 - ADAM.beta1 ** (i + 1)), 1 / (1 - ADAM.beta2 ** (i + 1))] as const
    const got = (await step(fed(by(), by(), corrections))) as Record<keyof typeof next, Tensor<"float32">>
    if (!got.objective.data.every(Number.isFinite)) {
      fail("E_INPUT", `the objective is not finite at step ${i}: take a smaller learning rate or another objective`)
    }
    reached.set(got.objective.data, i * n)
    state = { z: got.z, m: got.m, v: got.v }
  }
  const look = await model.runtime.compile(inputs, seen)
  const last = (await look(fed(0, 0, [1, 1]))) as Record<keyof typeof seen, Tensor<"float32">>
  reached.set(last.objective.data, steps * n)
  return { images: last.raw, pixelValues: last.pixels, objective: float32([steps + 1, n], reached) }
}

/** Coefficients z [n, c, H, W] through bases, a sigmoid and the model; and Adam's step up the gradient. */
function stepGraph(model: HookedViT, objective: Metric, options: VisualiseOptions) {
  const { config, weights } = model
  const { nChannels: c, imageSize } = config.vision
  const [h, w] = imageSize
  const { parametrisation = "fourier", learningRate = 0.05, l2 = 0, totalVariation = 0 } = options
  const stateful = (name: string) => input(name, ["batch", c, h, w])
  const [z, m, v] = [stateful("z"), stateful("m"), stateful("v")]
  const [rows, columns, corrections] = [input("rows", [h, h]), input("columns", [w, w]), input("corrections", [2])]

  const scaled = mul(z, constant(float32([h, w], amplitudes(parametrisation, h, w))))
  const raw = sigmoid(matmul(matmul(transpose(rows, [1, 0]), scaled), columns))
  const pixels = div(sub(raw, channels("mean", options.mean, c)), channels("std", options.std, c))

  const built = build(config, weights, { ...noRequests, reads: () => true }, pixels)
  const view = {
    outputs: built.outputs,
    hook: (name: string) => built.outputs[name] ?? pointOf(built, name) ?? unknownHook(model.hooks, name),
    weight: (name: string) => built.scope.params.get(name),
    sizes: new Map<string, number>(),
  }
  const score = imageTotal(objective, view)
  const penalty = add(mul(fromGrey(raw), scalar(l2)), mul(variation(raw, [h, w]), scalar(totalVariation)))
  const slope = grad(sum(sub(score, penalty), [0]), [z])[0]!
  const { beta1, beta2, eps } = ADAM
  const nextM = add(mul(m, scalar(beta1)), mul(slope, scalar(1 - beta1)))
  const nextV = add(mul(v, scalar(beta2)), mul(mul(slope, slope), scalar(1 - beta2)))
  const spread = add(sqrt(mul(nextV, slice(corrections, 0, 1, 2))), scalar(eps))
  const nextZ = add(z, mul(div(mul(nextM, slice(corrections, 0, 0, 1)), spread), scalar(learningRate)))
  const { pixel_values: _, ...others } = built.inputs
  return {
    inputs: { z, m, v, rows, columns, corrections, ...others },
    next: { z: nextZ, m: nextM, v: nextV, objective: score },
    seen: { raw, pixels, objective: score },
  }
}

/** Mean of (x - 0.5)^2 of each image, [batch]. */
function fromGrey(x: Value): Value {
  const off = sub(x, scalar(0.5))
  return mean(mul(off, off), [1, 2, 3])
}

/** Mean absolute step down and across of each image, [batch]; rounded at 0, where its slope would jump. */
function variation(x: Value, [h, w]: readonly [number, number]): Value {
  const along = (axis: 2 | 3, length: number): Value => {
    const step = sub(slice(x, axis, 1, length), slice(x, axis, 0, length - 1))
    return mean(sqrt(add(mul(step, step), scalar(1e-8))), [1, 2, 3])
  }
  return add(along(2, h), along(3, w))
}

/** A number for each channel, [c, 1, 1]. Error: E_INPUT. */
function channels(name: "mean" | "std", given: readonly number[] | undefined, c: number): Value {
  const values = given ?? Array<number>(c).fill(0.5)
  if (values.length !== c || !values.every((x) => Number.isFinite(x) && (name === "mean" || x > 0))) {
    fail("E_INPUT", `${name} must be ${c} numbers, one a channel, got ${show(values)}`)
  }
  return constant(float32([c, 1, 1], values))
}

function check({
  parametrisation = "fourier",
  learningRate = 0.05,
  l2 = 0,
  totalVariation = 0,
}: VisualiseOptions): void {
  if (!Object.hasOwn(BASES, parametrisation)) {
    fail("E_INPUT", `parametrisation is ${Object.keys(BASES).join(" or ")}, got ${parametrisation as string}`)
  }
  for (const [name, x] of Object.entries({ learningRate, l2, totalVariation })) {
    if (!(x >= 0 && Number.isFinite(x))) fail("E_INPUT", `${name} must be a number of at least 0, got ${String(x)}`)
  }
}

const zeros = (shape: readonly number[]): Tensor<"float32"> => float32(shape, new Float32Array(size(shape)))

function start(shape: readonly number[], seed: number): Tensor<"float32"> {
  const random = new Random(seed, "visualise")
  return float32(
    shape,
    Float32Array.from({ length: size(shape) }, () => START * random.normal()),
  )
}
