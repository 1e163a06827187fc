/** @file Attention flow (Abnar and Zuidema, arXiv:2005.00928): maximum flow from a query down to each input token. */
import { fail } from "../../errors.ts"
import { float32, show, type Tensor } from "../../tensor/tensor.ts"
import { flowNetwork, type Edge } from "./max-flow.ts"
import { asPattern } from "./patterns.ts"
import { mixing, type RolloutOptions } from "./rollout.ts"

export interface FlowOptions extends RolloutOptions {
  /** Tokens of the last layer whose flow is wanted; [0] by default. */
  readonly queries?: readonly number[]
  /** Refuse networks of more edges, layers * T^2 (default 60,000: 12 layers of 70 tokens). */
  readonly maxEdges?: number
}

/**
 * The most that each input token can send to a query through edges as wide as the layers' matrices (those of `rollout`),
 * every input alone. `layers` are patterns [b, h, T, T] from the first layer to the last; returns [b, queries, T].
 * Errors: E_INPUT, also for networks too large to be solved T times.
 */
export function attentionFlow(
  layers: readonly Tensor[],
  { queries = [0], maxEdges = 60_000, ...mix }: FlowOptions = {},
): Tensor<"float32"> {
  const first = layers[0] ?? fail("E_INPUT", "attention flow: no layer was given")
  const { b, t } = asPattern(first)
  if (layers.length * t * t > maxEdges) {
    const size = `${layers.length} layers of ${t} tokens have ${layers.length * t * t} edges, the limit is ${maxEdges}`
    fail("E_INPUT", `attention flow: ${size}; take rollout, fewer layers or larger patches, or raise maxEdges`)
  }
  const wrong = queries.find((q) => !Number.isInteger(q) || q < 0 || q >= t)
  if (wrong !== undefined) fail("E_INPUT", `attention flow: there is no token ${wrong}; tokens are 0 to ${t - 1}`)
  const matrices = layers.map((layer) =>
    String(layer.shape) === String(first.shape)
      ? mixing(layer, mix)
      : fail("E_INPUT", `attention flow: layers of ${show(first.shape)} and ${show(layer.shape)}; all must be alike`),
  )
  const out = Array.from({ length: b }, (_, image) => {
    const edges = matrices.flatMap((of, layer): Edge[] =>
      // Node layer * T + token: the stream before that layer.
      Array.from(of[image]!, (capacity, i) => ({
        from: (layer + 1) * t + Math.floor(i / t),
        to: layer * t + (i % t),
        capacity,
      })),
    )
    const flow = flowNetwork((layers.length + 1) * t, edges)
    return queries.map((q) => Array.from({ length: t }, (__, token) => flow(layers.length * t + q, token)))
  })
  return float32([b, queries.length, t], out.flat(2))
}
