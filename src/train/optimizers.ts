/** @file Optimizers on one flat vector of weights: a table of update rules, as PyTorch's of the same names. */
import { add, div, mul, scalar, sqrt, sub } from "../graph/ops.ts"
import type { Value } from "../graph/value.ts"

export type OptimizerName = "AdamW" | "Adam" | "SGD"

export interface OptimizerOptions {
  readonly optimizer: OptimizerName
  readonly betas: readonly [number, number]
  readonly eps: number
  readonly weightDecay: number
  /** SGD's; 0 keeps no state for it. */
  readonly momentum: number
  readonly nesterov: boolean
}

/** Numbers that change from step to step: they are fed, so that the graph stays the same. */
export type Hyper = Readonly<Record<string, number>>

interface Optimizer {
  /** Names of the vectors it carries beside the weights, all zero at the start. */
  state(options: OptimizerOptions): readonly string[]
  /** What is fed at step t = 1, 2, ... at learning rate `lr`. */
  hyper(options: OptimizerOptions, lr: number, t: number): Hyper
  /** New weights and new state from weights, gradient and state. */
  update(
    options: OptimizerOptions,
    hyper: Readonly<Record<string, Value>>,
    w: Value,
    gradient: Gradient,
    state: Readonly<Record<string, Value>>,
  ): { readonly w: Value; readonly state: Readonly<Record<string, Value>> }
}

/**
 * The gradient is `scale g`: clipping is a number that goes into the others, for each pass over 12.7 million weights
 * takes about 10 ms.
 */
export interface Gradient {
  readonly g: Value
  /** g g, which the norm has made already. */
  readonly square: Value
  /** Of clipping; undefined is 1. */
  readonly scale: Value | undefined
}

/** `by` times what the gradient is scaled by. */
const scaled = (by: number, ...scales: readonly (Value | undefined)[]): Value =>
  scales.reduce<Value>((product, s) => (s ? mul(product, s) : product), scalar(by))

/** The gradient itself, and L2 decay in it where there is any. */
function decayed({ g, scale }: Gradient, w: Value, weightDecay: number): Value {
  const clipped = scale ? mul(g, scale) : g
  return weightDecay ? add(clipped, mul(w, scalar(weightDecay))) : clipped
}

const adam =
  (decoupled: boolean): Optimizer["update"] =>
  ({ betas: [beta1, beta2], weightDecay }, hyper, w, gradient, { m, v }) => {
    const mixed = weightDecay && !decoupled ? decayed(gradient, w, weightDecay) : undefined
    const { g, square, scale } = mixed ? { g: mixed, square: mul(mixed, mixed), scale: undefined } : gradient
    const m1 = add(mul(m!, scalar(beta1)), mul(g, scaled(1 - beta1, scale)))
    const v1 = add(mul(v!, scalar(beta2)), mul(square, scaled(1 - beta2, scale, scale)))
    // sqrt(v / c2) + eps = (sqrt(v) + eps sqrt(c2)) / sqrt(c2), and the factor goes into the step
    const denominator = add(sqrt(v1), hyper["eps"]!)
    const kept = weightDecay && decoupled ? mul(w, hyper["keep"]!) : w
    return { w: sub(kept, mul(div(m1, denominator), hyper["step"]!)), state: { m: m1, v: v1 } }
  }

const adamHyper: Optimizer["hyper"] = ({ betas: [beta1, beta2], eps, weightDecay }, lr, t) => {
  const root = Math.sqrt(1 - beta2 ** t)
  return { step: (lr * root) / (1 - beta1 ** t), eps: eps * root, keep: 1 - lr * weightDecay }
}

export const OPTIMIZERS: { readonly [N in OptimizerName]: Optimizer } = {
  /** arXiv:1711.05101 */
  AdamW: { state: () => ["m", "v"], hyper: adamHyper, update: adam(true) },
  /** arXiv:1412.6980, decay added to the gradient */
  Adam: { state: () => ["m", "v"], hyper: adamHyper, update: adam(false) },
  /** Momentum and Nesterov as PyTorch's: the buffer is mu buffer + g, and lr stands outside it */
  SGD: {
    state: ({ momentum }) => (momentum ? ["m"] : []),
    hyper: (_, lr) => ({ step: lr }),
    update: ({ weightDecay, momentum, nesterov }, hyper, w, given, { m }) => {
      const gradient = decayed(given, w, weightDecay)
      if (!m) return { w: sub(w, mul(gradient, hyper["step"]!)), state: {} }
      const m1 = add(mul(m, scalar(momentum)), gradient)
      const direction = nesterov ? add(gradient, mul(m1, scalar(momentum))) : m1
      return { w: sub(w, mul(direction, hyper["step"]!)), state: { m: m1 } }
    },
  },
}
