/**
 * @file Computes no more than is read: a value that is used through slices only is made for these alone, and so is what
 * it is made of. A classifier reads one token of the last block; the queries and the MLP of the others are not computed.
 */
import { product, quotient, type Dim, type Shape } from "./dims.ts"
import type { Values } from "./emit.ts"
import * as ops from "./ops.ts"
import { toposort, Value, type Op } from "./value.ts"

/** Elements start..end of the middle axis of a value seen as [outer, size, inner]: the same through any reshape. */
export interface Part {
  readonly outer: Dim
  readonly size: number
  readonly inner: Dim
  readonly start: number
  readonly end: number
}

/** A part that lies within one axis, which is outer * size * inner long. */
interface Cut extends Part {
  readonly axis: number
}

/** What is read of each input; undefined: all of it. */
type Parts = readonly (Part | undefined)[]

interface Rule<O extends Op> {
  /** What must be read of the inputs to compute `cut` of the result; undefined where that cannot be told. */
  readonly inputs: (v: Value<O>, cut: Cut, part: Part) => Parts | undefined
  /** The result is this part of the only input. */
  readonly is?: (v: Value<O>) => Part | undefined
}

const whole: Rule<Op> = { inputs: () => undefined }
/** Element by element, broadcast as numpy does. */
const elementwise: Rule<Op> = {
  inputs: (v, cut) => v.inputs.map((x) => along(x, cut.axis - v.shape.length + x.shape.length, cut)),
}
/** The first input row by row along its last axis; further inputs are read whole. */
const rowwise: Rule<Op> = {
  inputs: (v, cut) =>
    cut.axis === v.shape.length - 1 ? undefined : v.inputs.map((x, i) => (i ? undefined : along(x, cut.axis, cut))),
}
const reduced: Rule<"ReduceSum" | "ReduceMean"> = {
  inputs: ({ attrs: { axes, keepdims }, inputs: [x] }, cut) => {
    const kept = x!.shape.flatMap((_, axis) => (keepdims || !axes.includes(axis) ? [axis] : []))
    const axis = kept[cut.axis]!
    return axes.includes(axis) ? undefined : [along(x!, axis, cut)]
  },
}
/** Along every axis but the op's own. */
const besides: Rule<"Concat" | "Pad"> = {
  inputs: (v, cut) => (cut.axis === v.attrs.axis ? undefined : v.inputs.map((x) => along(x, cut.axis, cut))),
}
const sliced = ({ attrs: { axis, start, end }, inputs: [x] }: Value<"Slice">): Part | undefined => {
  const size = x!.shape[axis]
  return typeof size === "number" && typeof end === "number"
    ? flat({ axis, outer: 1, size, inner: 1, start, end }, x!.shape)
    : undefined
}

const rules: { [O in Op]: Rule<O> } = {
  Input: whole,
  Param: whole,
  Constant: whole,
  Add: elementwise,
  Sub: elementwise,
  Mul: elementwise,
  Div: elementwise,
  Neg: elementwise,
  Exp: elementwise,
  Log: elementwise,
  Sqrt: elementwise,
  Erf: elementwise,
  NormalCdf: elementwise,
  Tanh: elementwise,
  Sigmoid: elementwise,
  Relu: elementwise,
  Gelu: elementwise,
  QuickGelu: elementwise,
  Softmax: rowwise,
  LogSoftmax: rowwise,
  LayerNorm: rowwise,
  LayerNormInvStd: rowwise,
  LayerNormMean: rowwise,
  MatMul: {
    inputs: ({ attrs: { transA, transB }, inputs: [a, b], shape }, cut) => {
      const fromEnd = cut.axis - shape.length
      const of = (x: Value, turned = false) => along(x, (turned ? -3 - fromEnd : fromEnd) + x.shape.length, cut)
      if (fromEnd === -2) return [of(a!, transA), undefined]
      return fromEnd === -1 ? [undefined, of(b!, transB)] : [of(a!), of(b!)]
    },
  },
  // The columns are a weight's rows, which are read as they are stored.
  Gemm: {
    inputs: ({ attrs: { transA }, inputs: [a, , c] }, cut) =>
      cut.axis === 0 && !transA
        ? [along(a!, 0, cut), undefined, ...(c ? [along(c, c.shape.length - 2, cut)] : [])]
        : undefined,
  },
  Transpose: { inputs: ({ attrs: { perm }, inputs: [x] }, cut) => [along(x!, perm[cut.axis]!, cut)] },
  Reshape: { inputs: ({ inputs: [x] }, _, part) => (within(part, x!.shape) ? [part] : undefined) },
  Expand: elementwise,
  Concat: besides,
  Slice: {
    inputs: ({ attrs: { axis }, inputs: [x] }, cut) => (cut.axis === axis ? undefined : [along(x!, cut.axis, cut)]),
    is: sliced,
  },
  Pad: besides,
  Gather: {
    inputs: ({ inputs: [, at] }, cut) =>
      cut.axis < at!.shape.length ? [undefined, along(at!, cut.axis, cut)] : undefined,
  },
  ScatterAdd: whole,
  Extent: whole,
  ReduceSum: reduced,
  ReduceMean: reduced,
  ArgMax: { inputs: ({ inputs: [x] }, cut) => [along(x!, cut.axis, cut)] },
  Equal: elementwise,
  Greater: elementwise,
  Detach: elementwise,
  OrElse: whole,
  Cast: elementwise,
}

// Of a value of which more than half is read, all is computed: the slices on the way there would cost more.
const WORTH = 0.5
const isSmall = (part: Part): boolean => part.end - part.start <= WORTH * part.size

/**
 * The same outputs, from a graph that computes only what they read. What lies in `stop` is taken as it is, as is what is
 * put out.
 */
export function narrow<T extends Values>(outputs: T, stop: ReadonlySet<Value> = new Set()): T {
  const order = toposort(Object.values(outputs), stop)
  const wanted = demand(order, new Set(Object.values(outputs)), stop)
  if (![...wanted.parts.values()].some((part) => part)) return outputs

  const made = new Map<Value, Value>()
  const taken = new Map<Value, Map<string, Value>>()
  /** Of `x` what is read of it. */
  const take = (x: Value, part: Part | undefined): Value => {
    const [now, has] = [made.get(x)!, wanted.parts.get(x)]
    if (!part || (has && has.start === part.start && has.end === part.end)) return now
    const known = taken.get(x) ?? taken.set(x, new Map()).get(x)!
    const key = `${part.outer}:${part.inner}:${part.start}:${part.end}`
    const offset = has?.start ?? 0
    const size = has ? has.end - has.start : part.size
    const cut = known.get(key) ?? slice(now, { ...part, size, start: part.start - offset, end: part.end - offset })
    known.set(key, cut)
    return cut
  }
  for (const v of order) {
    const [reads, part] = [wanted.reads.get(v), wanted.parts.get(v)]
    const untouched = !reads || (!part && v.inputs.every((x) => made.get(x) === x))
    const isPart = !part && reads?.[0] && (rules[v.op] as Rule<Op>).is
    if (untouched) made.set(v, v)
    else if (isPart) made.set(v, take(v.inputs[0]!, reads[0]))
    else {
      const inputs = v.inputs.map((x, i) => take(x, reads[i]))
      made.set(v, remade(v, inputs, part))
    }
  }
  return Object.fromEntries(Object.entries(outputs).map(([name, v]) => [name, made.get(v)!])) as Values as T
}

/** What is read of each value, users before what they are made of; without a part, all of it. */
function demand(order: readonly Value[], outputs: ReadonlySet<Value>, stop: ReadonlySet<Value>) {
  const parts = new Map<Value, Part | undefined>([...outputs].map((v) => [v, undefined]))
  const reads = new Map<Value, Parts>()
  for (const v of order.toReversed()) {
    const rule = rules[v.op] as Rule<Op>
    const asked = parts.get(v)
    const small = asked && isSmall(asked) ? asked : undefined
    const from = small && !stop.has(v) ? rule.inputs(v, within(small, v.shape)!, small) : undefined
    parts.set(v, from && small)
    if (stop.has(v)) continue
    const used = from ?? [rule.is?.(v)]
    reads.set(v, used)
    for (const [i, x] of v.inputs.entries()) parts.set(x, parts.has(x) ? both(parts.get(x), used[i]) : used[i])
  }
  return { parts, reads }
}

/** The least part that holds both. */
function both(a: Part | undefined, b: Part | undefined): Part | undefined {
  if (!a || !b || !sameAxis(a, b)) return undefined
  return { ...a, start: Math.min(a.start, b.start), end: Math.max(a.end, b.end) }
}

const sameAxis = (a: Part, b: Part): boolean => a.outer === b.outer && a.size === b.size && a.inner === b.inner

export const samePart = (a: Part | undefined, b: Part | undefined): boolean =>
  a === b || (a !== undefined && b !== undefined && sameAxis(a, b) && a.start === b.start && a.end === b.end)

/** The op that makes only this part of `v`, and what it reads of the inputs of `v`; undefined where there is none, or where
 * it is not worth it. */
export function partOf(v: Value, part: Part): { readonly value: Value; readonly reads: Parts } | undefined {
  if (!isSmall(part)) return undefined
  const reads = (rules[v.op] as Rule<Op>).inputs(v, within(part, v.shape)!, part)
  if (!reads) return undefined
  const inputs = v.inputs.map((x, i) => (reads[i] ? slice(x, reads[i]) : x))
  return { value: remade(v, inputs, part), reads }
}

/** The part of its input that `v` is, if it is no more than that. */
export const partRead = (v: Value): Part | undefined => (rules[v.op] as Rule<Op>).is?.(v)

/** `x` where `part` of a value lies, and 0 beside it. */
export function placed(x: Value, part: Part, shape: Shape): Value {
  const { open, axis } = opened(part, shape)
  const given = ops.reshape(x, open.with(axis, part.end - part.start))
  return ops.reshape(ops.pad(given, axis, part.start, part.size), shape)
}

/** The op of `v` on these inputs; where they are narrower, so is the result. */
function remade(v: Value, inputs: readonly Value[], part: Part | undefined): Value {
  const shape = part ? narrowed(v.shape, within(part, v.shape)!) : v.shape
  // An attribute of this name is the shape of the result.
  const attrs = part && "shape" in v.attrs ? { ...v.attrs, shape } : v.attrs
  return new Value(v.op, inputs, attrs, shape, v.dtype)
}

const narrowed = (shape: Shape, { axis, outer, inner, start, end }: Cut): Shape =>
  shape.with(axis, product([outer, end - start, inner]))

function slice(x: Value, part: Part): Value {
  const { cut, open, axis } = opened(part, x.shape)
  return ops.reshape(ops.slice(ops.reshape(x, open), axis, part.start, part.end), narrowed(x.shape, cut))
}

/** `shape` with the part's own axis as one of its axes. */
function opened(part: Part, shape: Shape): { readonly cut: Cut; readonly open: Shape; readonly axis: number } {
  const cut = within(part, shape)!
  const axisOf = (d: Dim): Shape => (d === 1 ? [] : [d])
  const [before, after] = [axisOf(cut.outer), axisOf(cut.inner)]
  return { cut, open: shape.toSpliced(cut.axis, 1, ...before, part.size, ...after), axis: cut.axis + before.length }
}

/** The part of `x` that is `cut` along one of its axes; undefined where `x` is repeated along it. */
function along(x: Value, axis: number, cut: Cut): Part | undefined {
  return x.shape[axis] === product([cut.outer, cut.size, cut.inner]) ? flat({ ...cut, axis }, x.shape) : undefined
}

const flat = ({ axis, outer, size, inner, start, end }: Cut, shape: Shape): Part => ({
  outer: product([...shape.slice(0, axis), outer]),
  size,
  inner: product([inner, ...shape.slice(axis + 1)]),
  start,
  end,
})

/** Where a part lies in a shape; undefined where it reaches over several axes. */
function within(part: Part, shape: Shape): Cut | undefined {
  for (const [axis, length] of shape.entries()) {
    const outer = quotient(part.outer, product(shape.slice(0, axis)))
    const inner = quotient(part.inner, product(shape.slice(axis + 1)))
    if (outer === undefined || inner === undefined || product([outer, part.size, inner]) !== length) continue
    return { ...part, axis, outer, inner }
  }
  return undefined
}
