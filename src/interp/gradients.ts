/** @file Gradients of a metric at hooks and weights: what is differentiated, and how a metric is written as text. */
import { fail } from "../errors.ts"
import { slice, sum } from "../graph/ops.ts"
import { Value } from "../graph/value.ts"
import type { HookNames } from "../model/hooks.ts"
import { quote } from "../tensor/quote.ts"
import { show, type Tensor } from "../tensor/tensor.ts"
import type { GraphView } from "./hooked-vit.ts"
import type { Interventions } from "./interventions.ts"

/** One number of the graph, or one of each image; or text: an output or hook with an index, "logits[:, 1]". */
export type Metric = string | ((at: GraphView) => Value)

export interface GradientOptions extends Pick<Interventions, "patch" | "edit" | "inputs"> {
  /** Hooks to differentiate at, or `pixel_values`. */
  readonly at?: HookNames
  /** Differentiate at every weight too. */
  readonly params?: boolean
}

export interface Gradients {
  /** The metric itself. */
  readonly value: number
  /** d metric / d hook, of the hook's shape. */
  readonly hooks: ReadonlyMap<string, Tensor<"float32">>
  /** d metric / d weight, under our names and in our orientation; empty unless asked for. */
  readonly params: ReadonlyMap<string, Tensor<"float32">>
}

/** The metric as a scalar of the graph, over all images. Errors: E_INPUT, also for several numbers of an image; E_HOOK. */
export function metricValue(metric: Metric, view: GraphView): Value {
  const value = numberOf(metric, view)
  return sum(
    value,
    value.shape.map((_, i) => i),
  )
}

/** The metric of each image, [batch]. Errors: those of `metricValue`; E_INPUT for one that mixes images. */
export function imageMetric(metric: Metric, view: GraphView): Value {
  return totals(numberOf(metric, view))
}

/** All that a metric has of each image, summed, [batch]: a channel at all tokens. Errors: E_INPUT, E_HOOK. */
export function imageTotal(metric: Metric, view: GraphView): Value {
  return totals(valueOf(metric, view))
}

function totals(value: Value): Value {
  if (value.shape[0] !== "batch") {
    const got = show(value.shape)
    fail("E_INPUT", `the metric must be one of each image, with the images along its first axis, got ${got}`)
  }
  return sum(
    value,
    value.shape.slice(1).map((_, i) => i + 1),
  )
}

/** [], or one number along the first axis. */
function numberOf(metric: Metric, view: GraphView): Value {
  const value = valueOf(metric, view)
  if (value.shape.slice(1).every((size) => size === 1)) return value
  const called = typeof metric === "string" ? `the metric ${quote(metric)}` : "the metric"
  const got = show(value.shape)
  return fail(
    "E_INPUT",
    `${called} must be one number of each image, got ${got}: index it, as "logits[:, 1]", or sum it`,
  )
}

function valueOf(metric: Metric, view: GraphView): Value {
  if (typeof metric !== "string" && typeof metric !== "function") {
    fail("E_INPUT", `a metric is a text as "logits[:, 1]" or a function of the graph, got ${typeof metric}`)
  }
  const value = typeof metric === "string" ? parsed(metric, view) : metric(view)
  return value instanceof Value
    ? value
    : fail("E_INPUT", `a metric must return a Value of the graph, got ${typeof value}`)
}

const TEXT = /^([\w.-]+)(?:\[([^\]]*)\])?$/

/** NAME or NAME[i, :, a:b, ...]: one index for each axis, axes that are left out whole. */
function parsed(text: string, view: GraphView): Value {
  const [, name, indices] = TEXT.exec(text.replaceAll(" ", "")) ?? []
  if (name === undefined) return malformed(text)
  const value = view.hook(name)
  if (indices === undefined) return value
  const parts = indices.split(",")
  if (parts.length > value.shape.length) {
    fail("E_INPUT", `the metric ${quote(text)} has ${parts.length} indices, ${name} is ${show(value.shape)}`)
  }
  return parts.reduce((v, part, axis) => taken(v, part, axis, text, view.sizes), value)
}

function taken(value: Value, part: string, axis: number, text: string, sizes: GraphView["sizes"]): Value {
  if (part === ":") return value
  const shape = value.shape.map((d) => (typeof d === "number" ? d : (sizes.get(d) ?? d)))
  const size = shape[axis]!
  const fromEnd = (n: number): number =>
    typeof size === "number" ? size + n : fail("E_INPUT", `the metric ${quote(text)}: axis ${axis} has no fixed end`)
  const place = (i: string): number => {
    if (!/^-?\d+$/.test(i)) return malformed(text)
    return i.startsWith("-") ? fromEnd(Number(i)) : Number(i)
  }
  const [from, to, ...more] = part.split(":")
  if (more.length) return malformed(text)
  const start = to !== undefined && from === "" ? 0 : place(from!)
  // What goes on to the end from the start is the whole axis, whatever its size.
  if (start === 0 && to === "") return value
  const end = to === undefined ? start + 1 : to === "" ? fromEnd(0) : place(to)
  if (start < 0 || start >= end || (typeof size === "number" && end > size)) {
    fail("E_INPUT", `the metric ${quote(text)} is outside ${show(shape)}`)
  }
  return slice(value, axis, start, end)
}

const malformed = (text: string): never =>
  fail("E_INPUT", `${quote(text)} is no metric; write an output or hook with an index for each axis, as "logits[:, 1]"`)
