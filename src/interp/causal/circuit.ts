/**
 * @file Which few heads and MLPs do the work: the others are given another run's values, and the metric is watched.
 *
 * Nodes are ranked by attribution patching and kept from the first on (as arXiv:2310.10348 ranks edges); the curve says how
 * faithful each number of kept nodes is: 1 is the whole model, 0 is the other run.
 */
import { fail } from "../../errors.ts"
import { float32, type Tensor } from "../../tensor/tensor.ts"
import { imageMetric, type Metric } from "../gradients.ts"
import type { HookedViT } from "../hooked-vit.ts"
import { attributionPatching } from "./attribution.ts"
import { curveOf, meanOf, type CurveOptions, type CurvePoint } from "./faithfulness.ts"
import { imagesIn, sourceRows, type Source } from "./sources.ts"
import { measure } from "./sweep.ts"

/** A head, or the MLP, of a layer. */
export interface CircuitNode {
  readonly layer: number
  /** Absent for the MLP. */
  readonly head?: number
}

export interface CircuitOptions extends CurveOptions {
  readonly base: Tensor
  /** What the nodes outside are given. */
  readonly source: Source
  readonly metric: Metric
  /** Steps of integrated gradients for the ranking. */
  readonly steps?: number
}

export interface Circuit {
  /** All nodes, the most important first, each with the estimated effect of replacing it (mean over images). */
  readonly ranking: readonly { readonly node: CircuitNode; readonly effect: number }[]
  /** The metric where the first `kept` of these are the model's own. */
  readonly curve: readonly CurvePoint[]
}

/** Rank the nodes and follow the curve, at every number of them unless `sizes` are given. Errors: E_INPUT, E_INTERRUPTED. */
export async function findCircuit(model: HookedViT, options: CircuitOptions): Promise<Circuit> {
  const { base, source, metric, steps = 1 } = options
  const nodes = nodesOf(model)
  const hooks = [...new Set(nodes.map((node) => hookOf(node)))]
  const effects = await attributionPatching(model, { base, source, hooks, metric, steps })
  const ranking = nodes
    .map((node) => ({ node, effect: effectOf(node, effects.get(hookOf(node))!) }))
    .sort((a, b) => Math.abs(b.effect) - Math.abs(a.effect))
  const whole = meanOf(await measure(model, base, metric))
  const kept = async (n: number) =>
    meanOf(await runCircuit(model, { base, source, metric, keep: ranking.slice(0, n).map((r) => r.node) }))
  const curve = await curveOf(nodes.length, whole, kept, options, (most) => [...Array(most + 1).keys()])
  return { ranking, curve }
}

/** The metric of each image where only these nodes are the model's own and all others have the source's values. */
export async function runCircuit(
  model: HookedViT,
  {
    base,
    source,
    metric,
    keep,
  }: Pick<CircuitOptions, "base" | "source" | "metric"> & { readonly keep: readonly CircuitNode[] },
): Promise<number[]> {
  const n = imagesIn(model, base).shape[0]!
  const nodes = nodesOf(model)
  const there = new Set(nodes.map(keyOf))
  const missing = keep.find((node) => !there.has(keyOf(node)))
  if (missing) {
    const { nLayers, nHeads } = model.config.vision
    const mlps = nodes.some((node) => node.head === undefined) ? " and an MLP" : ""
    fail(
      "E_INPUT",
      `no node ${JSON.stringify(missing)}: layers 0 to ${nLayers - 1} have heads 0 to ${nHeads - 1}${mlps}`,
    )
  }
  const kept = new Set(keep.map(keyOf))
  const out = nodes.filter((node) => !kept.has(keyOf(node)))
  const hooks = [...new Set(out.map(hookOf))]
  const theirs = hooks.length
    ? await sourceRows(model, source, n, n)(hooks, 0, n)
    : new Map<string, Tensor<"float32">>()
  // Functions on numbers at every hook: whatever is kept, the sessions between the cuts are the same.
  const functions = Object.fromEntries(
    [...new Set(nodes.map(hookOf))].map((hook) => {
      const heads = out.filter((node) => hookOf(node) === hook).map((node) => node.head)
      return [hook, (value: Tensor) => mixed(value as Tensor<"float32">, theirs.get(hook), heads)]
    }),
  )
  const { value } = await model.run(base, {
    hooks: functions,
    outputs: (view) => ({ value: imageMetric(metric, view) }),
  })
  return Array.from(value!.data as Float32Array)
}

/** A value with these heads [n, T, h, e] of another, or all of it where the node is no head. */
function mixed(
  value: Tensor<"float32">,
  other: Tensor<"float32"> | undefined,
  heads: readonly (number | undefined)[],
): Tensor<"float32"> {
  if (!other || !heads.length) return value
  const [, , h = 1, e = 1] = value.shape
  const whole = heads[0] === undefined
  const { data, shape } = value
  return float32(
    shape,
    data.map((x, i) => (whole || heads.includes(Math.floor(i / e) % h) ? other.data[i % other.data.length]! : x)),
  )
}

function nodesOf({ config, hooks }: HookedViT): CircuitNode[] {
  const { nLayers, nHeads } = config.vision
  return Array.from({ length: nLayers }, (_, layer) => [
    ...Array.from({ length: nHeads }, (_, head) => ({ layer, head })),
    ...(hooks.has(`blocks.${layer}.hook_mlp_out`) ? [{ layer }] : []),
  ]).flat()
}

const hookOf = ({ layer, head }: CircuitNode): string =>
  head === undefined ? `blocks.${layer}.hook_mlp_out` : `blocks.${layer}.attn.hook_z`
const keyOf = ({ layer, head }: CircuitNode): string => `${layer}.${head ?? "mlp"}`

/** The mean over images of the sum over tokens; of a head [n, T, h], its own. */
function effectOf({ head }: CircuitNode, { shape, data }: Tensor<"float32">): number {
  const heads = shape[2] ?? 1
  return data.reduce((total, x, i) => total + (head === undefined || i % heads === head ? x : 0), 0) / shape[0]!
}
