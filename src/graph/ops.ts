/** @file How values are made: each function checks its shapes, so that a mistake points at the line that made it. */
import { fail } from "../errors.ts"
import { float32, show, type DType, type StoredTensor, type Tensor } from "../tensor/tensor.ts"
import { broadcast, product, type Dim, type Shape } from "./dims.ts"
import { is, Value, type Turned } from "./value.ts"

export const input = (name: string, shape: Shape, dtype: DType = "float32"): Value =>
  new Value("Input", [], { name }, shape, dtype)

export const param = (name: string, shape: readonly number[], tensor?: Tensor | StoredTensor): Value =>
  new Value("Param", [], { name, tensor }, shape, tensor?.dtype)

export const constant = (tensor: Tensor): Value => new Value("Constant", [], { tensor }, tensor.shape, tensor.dtype)
export const scalar = (x: number): Value => constant(float32([], [x]))

export const add = (a: Value, b: Value): Value => binary("Add", a, b)
export const sub = (a: Value, b: Value): Value => binary("Sub", a, b)
/** What is zero beside a part stays so: only the part is multiplied. */
export const mul = (a: Value, b: Value): Value => ofPart(a, b) ?? ofPart(b, a) ?? binary("Mul", a, b)
export const div = (a: Value, b: Value): Value => binary("Div", a, b)
export const equal = (a: Value, b: Value): Value => new Value("Equal", [a, b], {}, fitted("equal", a, b), "bool")

export const greater = (a: Value, b: Value): Value => new Value("Greater", [a, b], {}, fitted("greater", a, b), "bool")

export const neg = (x: Value): Value => new Value("Neg", [x], {}, x.shape, x.dtype)
export const exp = (x: Value): Value => new Value("Exp", [x], {}, x.shape)
export const log = (x: Value): Value => new Value("Log", [x], {}, x.shape)
export const sqrt = (x: Value): Value => new Value("Sqrt", [x], {}, x.shape)
export const erf = (x: Value): Value => new Value("Erf", [x], {}, x.shape)
export const normalCdf = (x: Value): Value => new Value("NormalCdf", [x], {}, x.shape)
export const tanh = (x: Value): Value => new Value("Tanh", [x], {}, x.shape)
export const sigmoid = (x: Value): Value => new Value("Sigmoid", [x], {}, x.shape)
export const relu = (x: Value): Value => new Value("Relu", [x], {}, x.shape)
/** onnxruntime's FastGelu takes no scalar. */
export const gelu = (x: Value, approximate: "none" | "tanh" = "none"): Value =>
  approximate === "tanh" && !x.shape.length
    ? reshape(gelu(reshape(x, [1]), approximate), [])
    : new Value("Gelu", [x], { approximate }, x.shape)
export const quickGelu = (x: Value, alpha = 1.702): Value => new Value("QuickGelu", [x], { alpha }, x.shape)
/** Over the last axis. */
export const softmax = (x: Value): Value => new Value("Softmax", [alongLast("softmax", x)], {}, x.shape)
export const logSoftmax = (x: Value): Value => new Value("LogSoftmax", [alongLast("logSoftmax", x)], {}, x.shape)

/** Over the last axis; `w` and `b` [d]. */
export const layerNorm = (x: Value, w: Value, b: Value, eps: number): Value =>
  new Value("LayerNorm", normInputs(x, w, b), { eps }, x.shape)
/** 1 / sqrt(variance + eps) of what `layerNorm` of the same inputs norms: [..., 1]; costs no node of its own. */
export const layerNormInvStd = (x: Value, w: Value, b: Value, eps: number): Value =>
  new Value("LayerNormInvStd", normInputs(x, w, b), { eps }, [...x.shape.slice(0, -1), 1])
/** The mean that `layerNorm` of the same inputs takes off: [..., 1]; costs no node of its own either. */
export const layerNormMean = (x: Value, w: Value, b: Value, eps: number): Value =>
  new Value("LayerNormMean", normInputs(x, w, b), { eps }, [...x.shape.slice(0, -1), 1])

function normInputs(x: Value, w: Value, b: Value): Value[] {
  for (const p of [w, b]) {
    if (p.shape.length !== 1 || p.shape[0] !== x.shape.at(-1)) mismatch("layerNorm", x, p)
  }
  return [x, w, b]
}

/** Batched matrix product with broadcasting, as numpy's, of `a` and `b` or, by the flags, of their last two axes swapped. */
export function matmul(a: Value, b: Value, { transA = false, transB = false }: Partial<Turned> = {}): Value {
  const [m, k] = matrix(a, transA)
  const [k2, n] = matrix(b, transB)
  if (m === undefined || n === undefined || k !== k2) return mismatch("matmul", a, b)
  const batch = broadcast(a.shape.slice(0, -2), b.shape.slice(0, -2)) ?? mismatch("matmul", a, b)
  return new Value("MatMul", [a, b], { transA, transB }, [...batch, m, n])
}

const matrix = ({ shape }: Value, turned: boolean): Shape => (turned ? shape.slice(-2).reverse() : shape.slice(-2))

/** x [..., in] times a weight [out, in], plus b [out]: [..., out], as one Gemm over all leading axes. */
export function linear(x: Value, w: Value, b?: Value): Value {
  const [out, inner] = w.shape
  const width = x.shape.at(-1)
  if (w.shape.length !== 2 || out === undefined || inner !== width) return mismatch("linear", x, w)
  if (b && (b.shape.length !== 1 || b.shape[0] !== out)) mismatch("linear", w, b)
  const flat = reshape(x, [product(x.shape.slice(0, -1)), width!])
  return reshape(gemm(flat, w, { transB: true, ...(b && { c: b }) }), [...x.shape.slice(0, -1), out])
}

/** op(a) op(b) + c of matrices [m, k] and [k, n] after `op`, a transpose where the flag says so; `c` broadcasts. */
export function gemm(
  a: Value,
  b: Value,
  { transA = false, transB = false, c }: Partial<Turned> & { c?: Value } = {},
): Value {
  if (a.shape.length !== 2 || b.shape.length !== 2) return mismatch("gemm", a, b)
  const [m, k] = matrix(a, transA)
  const [k2, n] = matrix(b, transB)
  if (k !== k2) return mismatch("gemm", a, b)
  if (c && !same(broadcast(c.shape, [m!, n!]) ?? [], [m!, n!])) mismatch("gemm", a, c)
  return new Value("Gemm", c ? [a, b, c] : [a, b], { transA, transB }, [m!, n!])
}

export function transpose(x: Value, perm: readonly number[]): Value {
  if (perm.length !== x.shape.length || x.shape.some((_, i) => !perm.includes(i))) {
    fail("E_INPUT", `transpose: permutation [${perm.join(", ")}] does not fit shape ${show(x.shape)}`)
  }
  return new Value(
    "Transpose",
    [x],
    { perm },
    perm.map((i) => x.shape[i]!),
    x.dtype,
  )
}

/** The same elements in another shape; one to the same shape is none. */
export function reshape(x: Value, shape: Shape): Value {
  if (product(x.shape) !== product(shape)) {
    fail("E_INPUT", `reshape: ${show(x.shape)} has ${product(x.shape)} elements, ${show(shape)} has ${product(shape)}`)
  }
  return same(x.shape, shape) ? x : new Value("Reshape", [x], { shape }, shape, x.dtype)
}

/** Repeat along axes of size 1 (and new leading ones). */
export function expand(x: Value, shape: Shape): Value {
  const fits = broadcast(x.shape, shape)
  if (!fits || !same(fits, shape)) fail("E_INPUT", `expand: ${show(x.shape)} does not expand to ${show(shape)}`)
  return same(x.shape, shape) ? x : new Value("Expand", [x], { shape }, shape, x.dtype)
}

export function concat(values: readonly Value[], axis: number): Value {
  const [first, ...rest] = values
  if (!first) return fail("E_INPUT", "concat: nothing to join")
  if (!rest.length) return first
  if (first.shape[axis] === undefined) fail("E_INPUT", `concat: ${show(first.shape)} has no axis ${axis}`)
  const fits = (v: Value) =>
    v.dtype === first.dtype &&
    v.shape.length === first.shape.length &&
    same(v.shape.with(axis, 0), first.shape.with(axis, 0))
  for (const v of rest) if (!fits(v)) mismatch("concat", first, v)
  const sizes = values.map((v) => v.shape[axis]!)
  const total = sizes.every((d) => typeof d === "number")
    ? sizes.reduce((a, b) => a + b, 0)
    : fail("E_INPUT", `concat: axis ${axis} of ${values.map((v) => show(v.shape)).join(" and ")} has no fixed size`)
  return new Value("Concat", values, { axis }, first.shape.with(axis, total), first.dtype)
}

/**
 * Elements start..end along one axis; an `end` that is a name is bound when the graph runs. What lies in one part of a
 * Concat is taken from that part.
 */
export function slice(x: Value, axis: number, start: number, end: Dim): Value {
  const size = x.shape[axis]
  const whole = Number.isInteger(start) && (typeof end === "string" || Number.isInteger(end))
  const inside = typeof end === "string" || typeof size === "string" || (size !== undefined && end <= size)
  if (size === undefined || !whole || start < 0 || !inside || (typeof end === "number" && end < start)) {
    fail("E_INPUT", `slice: ${start}..${end} is outside axis ${axis} of ${show(x.shape)}`)
  }
  if (start === 0 && end === size) return x
  if (is(x, "Concat") && x.attrs.axis === axis && typeof end === "number") {
    let before = 0
    for (const part of x.inputs) {
      const after = before + (part.shape[axis] as number)
      if (before <= start && end <= after) return slice(part, axis, start - before, end - before)
      before = after
    }
  }
  const length = typeof end === "number" ? end - start : start === 0 ? end : fail("E_INPUT", `slice: ${start}..${end}`)
  return new Value("Slice", [x], { axis, start, end }, x.shape.with(axis, length), x.dtype)
}

/** Zeros around `x` along one axis, so that it starts at `before` and the axis is `size` long; a named length at 0. */
export function pad(x: Value, axis: number, before: number, size: Dim): Value {
  const length = x.shape[axis]
  const fits = typeof length !== "number" ? before === 0 : typeof size !== "number" || before + length <= size
  if (length === undefined || before < 0 || !fits) {
    fail("E_INPUT", `pad: axis ${axis} of ${show(x.shape)} does not fit into ${size} from ${before}`)
  }
  if (before === 0 && length === size) return x
  return new Value("Pad", [x], { axis, before, size }, x.shape.with(axis, size), x.dtype)
}

/** `x * y` where `x` is a part between zeros. */
function ofPart(x: Value, y: Value): Value | undefined {
  if (!is(x, "Pad") || !same(x.shape, y.shape)) return undefined
  const { axis, before, size } = x.attrs
  const [part] = x.inputs as [Value]
  const length = part.shape[axis]
  if (typeof length !== "number") return undefined
  return pad(mul(part, slice(y, axis, before, before + length)), axis, before, size)
}

/** One element along an axis, which is dropped. */
export const select = (x: Value, axis: number, index: number): Value =>
  reshape(slice(x, axis, index, index + 1), x.shape.toSpliced(axis, 1))

/** Rows of `table` [n, ...] at `indices`: [...indices.shape, ...]. */
export const gather = (table: Value, indices: Value): Value =>
  new Value("Gather", [table, indices], {}, [...indices.shape, ...table.shape.slice(1)], table.dtype)

/** Zeros [rows, ...], to which the rows of `x` [...indices.shape, ...] are added at `indices`. */
export function scatterAdd(x: Value, indices: Value, rows: number): Value {
  const [at, rest] = [x.shape.slice(0, indices.shape.length), x.shape.slice(indices.shape.length)]
  if (!same(at, indices.shape)) return mismatch("scatterAdd", x, indices)
  const [n, d] = [product(at), product(rest)]
  const flat = new Value("ScatterAdd", [reshape(x, [n, d]), reshape(indices, [n])], { rows }, [rows, d], x.dtype)
  return reshape(flat, [rows, ...rest])
}

/** The length of an axis as a scalar of float32. */
export const extent = (x: Value, axis: number): Value => {
  const size = x.shape[axis] ?? fail("E_INPUT", `extent: ${show(x.shape)} has no axis ${axis}`)
  return typeof size === "number" ? scalar(size) : new Value("Extent", [x], { axis }, [])
}

export const sum = (x: Value, axes: readonly number[], keepdims = false): Value =>
  reduce("ReduceSum", x, axes, keepdims)
export const mean = (x: Value, axes: readonly number[], keepdims = false): Value =>
  reduce("ReduceMean", x, axes, keepdims)

/** Index of the first largest element along the last axis, int64. */
export const argMax = (x: Value): Value =>
  new Value("ArgMax", [alongLast("argMax", x)], {}, x.shape.slice(0, -1), "int64")

/** The same value, which gradients take for a constant. */
export const detach = (x: Value): Value => new Value("Detach", [x], {}, x.shape, x.dtype)

/** `replacement` where it is fed; where its first axis is empty, `computed`. So an input can be left out. */
export const orElse = (replacement: Value, computed: Value): Value =>
  replacement.shape.length === computed.shape.length
    ? new Value("OrElse", [replacement, computed], {}, computed.shape, computed.dtype)
    : mismatch("orElse", replacement, computed)

export const cast = (x: Value, to: DType): Value => (x.dtype === to ? x : new Value("Cast", [x], { to }, x.shape, to))

function reduce(op: "ReduceSum" | "ReduceMean", x: Value, axes: readonly number[], keepdims: boolean): Value {
  if (!axes.length) return x
  const at = axes.map((a) => (a < 0 ? a + x.shape.length : a))
  if (at.some((a) => x.shape[a] === undefined)) {
    fail("E_INPUT", `${op}: ${show(x.shape)} has no axes [${axes.join(", ")}]`)
  }
  if (new Set(at).size < at.length)
    fail("E_INPUT", `${op}: axes [${axes.join(", ")}] name one of ${show(x.shape)} twice`)
  const shape = keepdims ? x.shape.map((d, i) => (at.includes(i) ? 1 : d)) : x.shape.filter((_, i) => !at.includes(i))
  return new Value(op, [x], { axes: at, keepdims }, shape, x.dtype)
}

function binary(op: "Add" | "Sub" | "Mul" | "Div", a: Value, b: Value): Value {
  return new Value(op, [a, b], {}, fitted(op.toLowerCase(), a, b), a.dtype)
}

const fitted = (op: string, a: Value, b: Value): Shape =>
  (a.dtype === b.dtype ? broadcast(a.shape, b.shape) : undefined) ?? mismatch(op, a, b)

const same = (a: Shape, b: Shape): boolean => a.length === b.length && a.every((d, i) => d === b[i])

const alongLast = (op: string, x: Value): Value =>
  x.shape.length ? x : fail("E_INPUT", `${op}: a scalar has no last axis`)

const mismatch = (op: string, a: Value, b: Value): never =>
  fail("E_INPUT", `${op}: shapes ${typed(a)} and ${typed(b)} do not fit`)

const typed = ({ dtype, shape }: Value): string => (dtype === "float32" ? show(shape) : `${dtype} ${show(shape)}`)
