/** @file One training step as one graph: forward, loss, gradients, clipping by their norm, optimizer. */
import { grad } from "../autodiff/grad.ts"
import type { Values } from "../graph/emit.ts"
import { add, concat, div, input, mul, relu, scalar, sqrt, sub, sum } from "../graph/ops.ts"
import type { Value } from "../graph/value.ts"
import { pieceValues, type Layout } from "./layout.ts"
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

/** Inputs and outputs of a compiled step; what is carried has the same names on both sides, "w.0" for the first piece of "w". */
export interface StepGraph {
  readonly inputs: Values
  readonly outputs: Values
}

export interface Step {
  readonly layout: Layout
  /** The vectors carried from step to step: "w", the optimizer's, "ema". */
  readonly carried: readonly string[]
  /** Adds a batch's gradient to the vector "g" and changes nothing else. */
  readonly accumulate: StepGraph
  readonly apply: StepGraph
}

/** The graphs of a step; `objective` is given the vector of all weights. */
export function trainingStep(at: Layout, objective: (flat: Value) => Objective, options: StepOptions): Step {
  const { accumulation = 1, emaDecay, maxGradNorm } = options
  const rule = OPTIMIZERS[options.optimizer]
  const stateNames = rule.state(options)
  const inOf = (name: string) => pieceValues(at, name)
  const [w, gathered, ema] = [inOf("w"), inOf("g"), inOf("ema")]
  const state = stateNames.map((name) => inOf(name))
  const { inputs, loss, metrics } = objective(concat(Object.values(w), 0))
  const gradients = grad(loss, Object.values(w)).map((g) => (accumulation > 1 ? mul(g, scalar(1 / accumulation)) : g))
  const totals = gradients.map((g, i) => (accumulation > 1 ? add(gathered[`g.${i}`]!, g) : g))
  const squares = totals.map((g) => mul(g, g))
  const norm = sqrt(squares.map((s) => sum(s, [0])).reduce(add))
  const scale = maxGradNorm === undefined ? undefined : clipping(norm, maxGradNorm)

  const hyper = Object.fromEntries(Object.keys(rule.hyper(options, 0, 1)).map((name) => [name, input(name, [])]))
  const next: Record<string, Value> = {}
  for (const [i, g] of totals.entries()) {
    const mine = Object.fromEntries(stateNames.map((name, n) => [name, state[n]![`${name}.${i}`]!]))
    const made = rule.update(options, hyper, w[`w.${i}`]!, { g, square: squares[i]!, scale }, mine)
    for (const [name, value] of Object.entries({ w: made.w, ...made.state })) next[`${name}.${i}`] = value
    if (emaDecay === undefined) continue
    next[`ema.${i}`] = add(mul(ema[`ema.${i}`]!, scalar(emaDecay)), mul(made.w, scalar(1 - emaDecay)))
  }

  const report = { loss, ...metrics }
  const carriedIn = Object.assign({}, w, ...state, emaDecay === undefined ? {} : ema) as Values
  return {
    layout: at,
    carried: ["w", ...stateNames, ...(emaDecay === undefined ? [] : ["ema"])],
    accumulate: {
      inputs: { ...inputs, ...w, ...gathered },
      outputs: { ...report, ...Object.fromEntries(totals.map((g, i) => [`g.${i}`, g])) },
    },
    apply: {
      inputs: { ...inputs, ...carriedIn, ...hyper, ...(accumulation > 1 && gathered) },
      outputs: { ...report, gradNorm: norm, ...next },
    },
  }
}

/** min(1, limit / (norm + 1e-6)), as PyTorch's clip_grad_norm_; c / (1 + relu(c - 1)) is min(1, c) */
function clipping(norm: Value, limit: number): Value {
  const c = div(scalar(limit), add(norm, scalar(1e-6)))
  return div(c, add(relu(sub(c, scalar(1))), scalar(1)))
}
