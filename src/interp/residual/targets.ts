/** @file What is attributed or looked at: a class, a difference of classes, an embedding of the other tower, any output. */
import { fail } from "../../errors.ts"
import type { Values } from "../../graph/emit.ts"
import {
  add,
  cast,
  constant,
  detach,
  div,
  equal,
  linear,
  mul,
  reshape,
  scalar,
  slice,
  sqrt,
  sub,
  sum,
} from "../../graph/ops.ts"
import type { Value } from "../../graph/value.ts"
import type { Activation, ModelConfig, TextConfig } from "../../model/config.ts"
import { activations } from "../../model/layers.ts"
import { quote } from "../../tensor/quote.ts"
import { expectFloat32, float32, show, type Tensor } from "../../tensor/tensor.ts"
import { metricValue, type Metric } from "../gradients.ts"
import { HookedViT, type GraphView } from "../hooked-vit.ts"
import { classIndex, className, type ClassName } from "./classes.ts"
import type { Tower } from "./straight.ts"

/**
 * `classes`: the logit of each, by index or label. `difference`: the logit of the first less that of the second.
 * `embeds`: of a dual encoder, the logit with each of these embeddings [n, p] of the other tower, brought to unit
 * length, scale and bias applied; with `difference`, the first less the second. `direction` [d]: an output's product with
 * it, by default of `pooler_output`, else of the class token's `last_hidden_state`. `metric`: an output with an index, as
 * "pooler_output[:, 3]", or a function of the graph that is linear in the model's outputs.
 */
export type Target =
  | { readonly classes: ClassName | readonly ClassName[] }
  | { readonly difference: readonly [ClassName, ClassName] }
  | { readonly embeds: Tensor; readonly names?: readonly string[]; readonly difference?: true }
  | { readonly direction: Tensor; readonly output?: string; readonly name?: string }
  | { readonly metric: Metric; readonly name?: string }

/** One number of the graph that is attributed, and what of it is known beforehand. */
export interface Readout {
  readonly name: string
  readonly value: (view: GraphView) => Value
  readonly constants: readonly { readonly name: string; readonly value: number }[]
}

/**
 * The model without what makes its outputs non-linear in the stream: the embeddings of a dual encoder as they are before
 * they are brought to unit length, and the pooler without its activation, which `readable` puts back.
 */
export function linearTower({ config, weights, runtime }: HookedViT, tower: Tower): HookedViT {
  if (tower === "text.") return new HookedViT({ config, weights, runtime })
  const vision = { ...config.vision, ...(config.vision.pooler && { pooler: "linear" as const }) }
  return new HookedViT({ config: { ...config, vision, text: undefined, dual: undefined }, weights, runtime })
}

/**
 * The view of such a tower with the outputs that the model has: u act(u) / u, and embeddings over their length, quotient
 * and length taken for constants.
 */
export function readable(view: GraphView, { vision, dual }: ModelConfig): GraphView {
  const { pooler_output: u, image_embeds: e } = view.outputs
  const quotient = (x: Value, act: Activation) => div(activations[act](x), add(x, cast(equal(x, scalar(0)), "float32")))
  const outputs: Values = {
    ...view.outputs,
    ...(u && vision.pooler && { pooler_output: mul(u, detach(quotient(u, vision.pooler))) }),
    ...(e && dual && { image_embeds: div(e, lengthOf(e)) }),
  }
  const hook = (name: string): Value => {
    if (dual && PAIRS.has(name))
      fail("E_INPUT", `${name} is of both towers: attribute { embeds }, the logit with embeddings of the other tower`)
    return outputs[name] ?? view.hook(name)
  }
  return { ...view, outputs, hook }
}

const PAIRS: ReadonlySet<string> = new Set(["logits_per_image", "logits_per_text", "text_embeds"])

const lengthOf = (e: Value): Value => detach(sqrt(sum(mul(e, e), [-1], true)))

/** The numbers that a target names. Errors: E_INPUT for what this model or tower does not have. */
export async function readouts(model: HookedViT, target: Target, tower: Tower, ids?: Tensor): Promise<Readout[]> {
  if (typeof target !== "object" || target === null) unknownTarget()
  if ("embeds" in target) return embeddingReadouts(model, target, tower, ids)
  if (tower) fail("E_INPUT", "of a text tower only the target { embeds } is there: embeddings of images")
  if ("metric" in target) {
    const { metric, name = typeof metric === "string" ? metric : "metric" } = target
    return [{ name, value: (view) => metricValue(metric, view), constants: [] }]
  }
  if ("direction" in target) return [directionReadout(model, target)]
  const { config } = model
  if (!("classes" in target) && !("difference" in target)) {
    return unknownTarget()
  }
  expectLogits(model)
  const logit = (view: GraphView, c: number): Value => slice(view.outputs["logits"]!, 1, c, c + 1)
  if ("difference" in target) {
    const [a, b] = target.difference.map((c) => classIndex(config, c)) as [number, number]
    const name = `${className(config, a)} - ${className(config, b)}`
    return [{ name, value: (view) => total(sub(logit(view, a), logit(view, b))), constants: [] }]
  }
  const wanted = Array.isArray(target.classes)
    ? (target.classes as readonly ClassName[])
    : [target.classes as ClassName]
  if (!wanted.length) fail("E_INPUT", "no class was named")
  return wanted.map((c) => {
    const index = classIndex(config, c)
    return { name: className(config, index), value: (view) => total(logit(view, index)), constants: [] }
  })
}

const unknownTarget = (): never =>
  fail("E_INPUT", "a target is one of { classes }, { difference }, { embeds }, { direction } and { metric }")

/** Error: E_INPUT for a model without class logits, with what it has instead. */
export function expectLogits({ outputNames }: HookedViT): void {
  if (outputNames.includes("logits")) return
  fail(
    "E_INPUT",
    `the model has no class logits; it gives ${outputNames.join(", ")}: name a direction or metric of these, or embeddings of the other tower`,
  )
}

function directionReadout({ outputNames }: HookedViT, target: Extract<Target, { direction: Tensor }>): Readout {
  const direction = expectFloat32(target.direction, "the direction")
  const output =
    target.output ?? ["pooler_output", "last_hidden_state"].find((name) => outputNames.includes(name)) ?? "image_embeds"
  if (!outputNames.includes(output)) {
    fail("E_INPUT", `the model has no output ${quote(output)}; it gives ${outputNames.join(", ")}`)
  }
  const value = (view: GraphView): Value => {
    const all = view.outputs[output]!
    const one = all.shape.length === 3 ? slice(all, 1, 0, 1) : all
    if (direction.shape.length !== 1 || direction.shape[0] !== all.shape.at(-1)) {
      fail("E_INPUT", `the direction must be [${all.shape.at(-1)}] as ${output}, got ${show(direction.shape)}`)
    }
    return total(mul(one, constant(direction)))
  }
  return { name: target.name ?? `${output} along a direction`, value, constants: [] }
}

async function embeddingReadouts(
  model: HookedViT,
  { embeds, names, difference }: Extract<Target, { embeds: Tensor }>,
  tower: Tower,
  ids: Tensor | undefined,
): Promise<Readout[]> {
  const { scale, bias } = await similarity(model)
  const width = embeddingWidth(model, tower)
  const rows = unitRows(embeds, width)
  const n = rows.length / width
  const called = (i: number): string => names?.[i] ?? `embedding ${i}`
  const row = (i: number): Float32Array => rows.subarray(i * width, (i + 1) * width)
  const read = (direction: Float32Array) => (view: GraphView) => {
    const e = tower ? textEmbedding(view, model.config.text!, ids!) : view.outputs["image_embeds"]!
    return mul(total(div(mul(e, constant(float32([width], direction))), lengthOf(e))), scalar(scale))
  }
  if (difference) {
    if (n !== 2) fail("E_INPUT", `the difference of embeddings wants [2, ${width}], got ${show(embeds.shape)}`)
    const apart = row(0).map((v, i) => v - row(1)[i]!)
    return [{ name: `${called(0)} - ${called(1)}`, value: read(apart), constants: [] }]
  }
  const constants = bias === undefined ? [] : [{ name: "logit_bias", value: bias }]
  return [...Array(n).keys()].map((i) => {
    const value = read(row(i))
    return { name: called(i), value: (view) => (bias ? add(value(view), scalar(bias)) : value(view)), constants }
  })
}

/** exp(logit_scale) and logit_bias of a dual encoder; of one tower alone, whose checkpoint has none, 1. */
export async function similarity(model: HookedViT): Promise<{ scale: number; bias: number | undefined }> {
  const read = async (name: string) => (await model.weight(name)).data[0]!
  const { dual } = model.config
  return {
    scale: dual ? Math.exp(await read("logit_scale")) : 1,
    bias: dual?.logitBias ? await read("logit_bias") : undefined,
  }
}

/** Error: E_INPUT where the model has no space shared with another tower. */
export function embeddingWidth({ config: { vision, text } }: HookedViT, tower: Tower): number {
  if (tower) return text!.dProjection
  if (!vision.outputs.includes("image_embeds")) {
    fail("E_INPUT", `the model gives ${vision.outputs.join(", ")} and no image_embeds to compare with embeddings`)
  }
  return vision.dProjection || vision.dModel
}

/** Rows of [n, p] (or one [p]) at unit length. Error: E_INPUT for another width, and for a row that has no direction. */
export function unitRows(embeds: Tensor, width: number): Float32Array {
  const t = expectFloat32(embeds, "embeds")
  if (t.shape.length < 1 || t.shape.length > 2 || t.shape.at(-1) !== width || !t.data.length) {
    fail("E_INPUT", `embeds must be [n, ${width}], got ${show(t.shape)}`)
  }
  const out = Float32Array.from(t.data)
  for (let at = 0; at < out.length; at += width) {
    const length = Math.hypot(...out.subarray(at, at + width))
    if (!(length > 0 && length < Infinity)) {
      fail("E_INPUT", `embeds: row ${at / width} has length ${length}; there is no direction`)
    }
    for (let i = at; i < at + width; i++) out[i]! /= length
  }
  return out
}

/** A text's embedding before it is brought to unit length, from the token that stands for it: [1, p]. */
function textEmbedding(view: GraphView, cfg: TextConfig, ids: Tensor): Value {
  const normed = view.hook("text.ln_final.hook_normalized")
  const at = pooledToken(cfg, Array.from(ids.data as ArrayLike<number | bigint>, Number))
  const pooled = reshape(slice(normed, 1, at, at + 1), [normed.shape[0]!, cfg.dModel])
  return linear(pooled, view.weight("text.projection.weight")!, view.weight("text.projection.bias"))
}

/** Which token stands for a text; as model/text.ts pools. */
function pooledToken({ pool, eosTokenId }: TextConfig, ids: readonly number[]): number {
  if (pool === "last") return ids.length - 1
  const wanted = pool === "eos" ? eosTokenId : Math.max(...ids)
  return Math.max(0, ids.indexOf(wanted))
}

const total = (x: Value): Value =>
  sum(
    x,
    x.shape.map((_, i) => i),
  )
