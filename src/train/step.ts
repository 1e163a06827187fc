/** @file One training step as one graph: forward, loss, gradients, clipping by their norm, optimizer. */
import { grad } from "../autodiff/grad.ts"
import type { Values } from "../graph/emit.ts"
import { add, div, input, mul, relu, scalar, sqrt, sub, sum } from "../graph/ops.ts"
import type { Value } from "../graph/value.ts"
import { flatValue, type Layout } from "./layout.ts"
import { OPTIMIZERS, type OptimizerOptions } from "./optimizers.ts"

export interface StepOptions extends OptimizerOptions {
  /** Gradients whose norm is larger are scaled down to it; undefined leaves them. */
  readonly maxGradNorm?: number | undefined
  /** Batches whose mean gradient makes one step. */
  readonly accumulation?: number
  /** A moving average of the weights: decay ema + (1 - decay) w. */
  readonly emaDecay?: number | undefined
}

/** What a step differentiates, and what it reports beside the loss. */
export interface Objective {
  readonly inputs: Values
  /** A scalar: the mean over the batch. */
  readonly loss: Value
  readonly metrics: Values
}

/** Inputs and outputs of a compiled step; names of what is carried are the same on both sides. */
export interface StepGraph {
  readonly inputs: Values
  readonly outputs: Values
}

export interface Step {
  readonly layout: Layout
  /** The vectors carried from step to step: "w", the optimizer's, "ema", "g" where gradients are accumulated. */
  readonly carried: readonly string[]
  /** Adds a batch's gradient to "g" and changes nothing else. */
  readonly accumulate: StepGraph
  readonly apply: StepGraph
}

/** The graphs of a step; `objective` is given the vector of all weights. */
export function trainingStep(at: Layout, objective: (flat: Value) => Objective, options: StepOptions): Step {
  const { accumulation = 1, emaDecay, maxGradNorm } = options
  const rule = OPTIMIZERS[options.optimizer]
  const w = flatValue(at, "w")
  const { inputs, loss, metrics } = objective(w)
  const [gradient] = grad(loss, [w]) as [Value]
  const share = accumulation > 1 ? mul(gradient, scalar(1 / accumulation)) : gradient

  const gathered = flatValue(at, "g")
  const total = accumulation > 1 ? add(gathered, share) : share
  const square = mul(total, total)
  const norm = sqrt(sum(square, [0]))
  const scale = maxGradNorm === undefined ? undefined : clipping(norm, maxGradNorm)

  const state = Object.fromEntries(rule.state(options).map((name) => [name, flatValue(at, name)]))
  const hyper = Object.fromEntries(Object.keys(rule.hyper(options, 0, 1)).map((name) => [name, input(name, [])]))
  const next = rule.update(options, hyper, w, { g: total, square, scale }, state)
  const ema = flatValue(at, "ema")
  const averaged =
    emaDecay === undefined ? {} : { ema: add(mul(ema, scalar(emaDecay)), mul(next.w, scalar(1 - emaDecay))) }

  const report = { loss, ...metrics }
  const carriedIn = { w, ...state, ...(emaDecay !== undefined && { ema }) }
  return {
    layout: at,
    carried: [...Object.keys(carriedIn), ...(accumulation > 1 ? ["g"] : [])],
    accumulate: { inputs: { ...inputs, w, g: gathered }, outputs: { ...report, g: total } },
    apply: {
      inputs: { ...inputs, ...carriedIn, ...hyper, ...(accumulation > 1 && { g: gathered }) },
      outputs: { ...report, gradNorm: norm, w: next.w, ...next.state, ...averaged },
    },
  }
}

/** min(1, limit / (norm + 1e-6)), as PyTorch's clip_grad_norm_; c / (1 + relu(c - 1)) is min(1, c) */
function clipping(norm: Value, limit: number): Value {
  const c = div(scalar(limit), add(norm, scalar(1e-6)))
  return div(c, add(relu(sub(c, scalar(1))), scalar(1)))
}
