/** @file How each op is written in ONNX: a table closed by the compiler (https://onnx.ai/onnx/operators). */
import { fail } from "../errors.ts"
import { dataType, type Attribute } from "../onnx/model.ts"
import { float32, type StoredTensor, type Tensor } from "../tensor/tensor.ts"
import { product, type Dim, type Shape } from "./dims.ts"
import { is, type Op, type Value } from "./value.ts"

/** How one op is written: nodes made with `w`. Returns the name of the result: `out`, or one that has it already. */
type Lowering<O extends Op> = (w: Writing, v: Value<O>, ins: readonly string[], out: string) => string
export interface Rule<O extends Op> {
  readonly lower: Lowering<O>
  /** The result has the bytes of its first input. */
  readonly view?: true
  /** What the node reads, where that is not the op's inputs as they are. */
  readonly reads?: (v: Value<O>, w: Writing) => readonly Value[]
}

/** What a rule writes with: the emission (emit.ts). */
export interface Writing {
  /** Values that are fed: what they were made of is not written. */
  readonly stop: ReadonlySet<Value>
  /** May nodes be written that only onnxruntime's CPU provider is sure to have? */
  readonly fused: boolean
  /** The value whose bytes `v` has. */
  root(v: Value): Value
  /** The values that the names given to a rule are of. */
  read(v: Value): readonly Value[]
  /** `name`, or one like it that nothing else has. */
  unique(name: string): string
  /** Returns `out`, or what an equal node before has made. */
  node(op: string, ins: readonly string[], out: string, attrs?: Record<string, Attribute>, domain?: string): string
  /** Is `op` of `x` part of the graph too? */
  has(op: Op, x: Value): boolean
  /** Output number `index` of the one node of this kind that all who ask share, and its name. */
  shared(index: number, op: string, ins: readonly string[], out: string, attrs: Record<string, Attribute>): string
  ints(values: readonly number[]): string
  /** What `write` makes, under the name it is told or another; written once for each key. */
  once(key: string, write: (out: string) => string): string
  /** An int64 vector of dimensions, computed from the inputs' shapes where they are names. */
  dims(shape: Shape, like?: Shape): string
  /** Returns `name`. */
  initializer(name: string, tensor: Tensor | StoredTensor): string
}

const plain =
  (op: string, domain?: string) =>
  (w: Writing, _: Value, ins: readonly string[], out: string): string =>
    w.node(op, ins, out, {}, domain)

const norm =
  (index: number): Lowering<"LayerNorm" | "LayerNormMean" | "LayerNormInvStd"> =>
  (w, v, ins, out) => {
    const attrs = { axis: -1, epsilon: { float: v.attrs.eps } }
    return w.shared(index, "LayerNormalization", ins, out, attrs)
  }

/** A number of float32, once however often it is used. */
const scalar = (w: Writing, x: number): string =>
  w.once(`number_${Object.is(x, -0) ? "-0" : x}`, (name) => w.initializer(name, float32([], [x])))

/** (1 + erf(x / sqrt 2)) / 2; HardSigmoid(y) = max(0, min(1, y / 2 + 1 / 2)) */
function normalCdf(w: Writing, x: string, out: string): string {
  const c = scalar(w, Math.fround(Math.SQRT1_2))
  const erf = w.node("Erf", [w.node("Mul", [x, c], w.unique(`${out}:x`))], w.unique(`${out}:erf`))
  return w.node("HardSigmoid", [erf], out, { alpha: { float: 0.5 }, beta: { float: 0.5 } })
}

/** Fewer rows are no work. */
const MANY_ROWS = 64

/** Rows and columns of the sum of all rows of many, [..., n] to [n], as the gradient of a bias is; undefined of other sums. */
function summed({ attrs: { axes }, inputs: [x], dtype }: Value<"ReduceSum">): [rows: Dim, n: number] | undefined {
  const [before, n] = [x!.shape.slice(0, -1), x!.shape.at(-1)]
  const rows = product(before)
  const all = axes.length === before.length && axes.every((axis, i) => axis === i)
  return all && dtype === "float32" && typeof n === "number" && !(Number(rows) < MANY_ROWS) ? [rows, n] : undefined
}

/** As a product with a row of ones: of [4160, 2048] 1.3 ms, where ReduceSum takes 3.4 (2 threads). */
function rowSum(
  w: Writing,
  { inputs: [of], shape }: Value<"ReduceSum">,
  [rows, n]: [Dim, number],
  x: string,
  out: string,
): string {
  const ones = w.node("Expand", [scalar(w, 1), w.dims([1, rows])], w.unique(`ones_${rows}`))
  const matrix = of!.shape.length === 2 ? x : w.node("Reshape", [x, w.ints([-1, n])], w.unique(`${out}:rows`))
  const sum = w.node("MatMul", [ones, matrix], w.unique(`${out}:sum`))
  return w.node("Reshape", [sum, w.dims(shape)], out)
}

/** What a matrix is the transpose of, or itself. */
const stored = (x: Value, { stop }: Writing): Value =>
  is(x, "Transpose") && x.attrs.perm[0] === 1 && !stop.has(x) ? x.inputs[0]! : x

/** A factor of a MatMul as the node reads it: `of`, permuted first, times `scale`. */
interface Factor {
  readonly of: Value
  readonly turned: boolean
  readonly perm: readonly number[] | undefined
  readonly scale: number
}

/**
 * onnxruntime's own node reads a factor transposed or times a number for nothing; the standard's reads it as it is, so
 * that a transpose of a transpose is one node before it.
 */
function factor(x: Value, turned: boolean, { fused, stop }: Writing): Factor {
  if (!fused) {
    if (!turned) return { of: x, turned, perm: undefined, scale: 1 }
    const n = x.shape.length
    const swap = [...Array(n - 2).keys(), n - 1, n - 2]
    return is(x, "Transpose") && !stop.has(x)
      ? { of: x.inputs[0]!, turned: false, perm: swap.map((axis) => x.attrs.perm[axis]!), scale: 1 }
      : { of: x, turned: false, perm: swap, scale: 1 }
  }
  let [of, scale] = [x, 1]
  while (is(of, "Mul") && !stop.has(of)) {
    const numbers = of.inputs.map(numberOf)
    const at = numbers.findIndex((number) => number !== undefined)
    if (at < 0 || of.inputs[1 - at]!.shape.length !== of.shape.length) break
    scale *= numbers[at]!
    of = of.inputs[1 - at]!
  }
  return { of, turned, perm: undefined, scale }
}

/** The value of a scalar constant. */
const numberOf = (x: Value): number | undefined =>
  is(x, "Constant") && !x.shape.length && x.dtype === "float32" ? Number(x.attrs.tensor.data[0]) : undefined

const factors = ({ inputs: [a, b], attrs: { transA, transB } }: Value<"MatMul">, w: Writing): [Factor, Factor] => [
  factor(a!, transA, w),
  factor(b!, transB, w),
]

/** The weight whose bytes a Reshape has, in its shape. */
function reshapedWeight(v: Value<"Reshape">, w: Writing) {
  const root = w.root(v.inputs[0]!)
  const shape = v.shape.filter((d) => typeof d === "number")
  if (!is(root, "Param") || w.stop.has(root) || !root.attrs.tensor || shape.length !== v.shape.length) return undefined
  return { name: root.attrs.name, tensor: { ...root.attrs.tensor, shape } }
}

const CONTRIB = "com.microsoft"

export const rules: { [O in Op]: Rule<O> } = {
  Input: { lower: (_, v) => fail("E_INPUT", `the outputs need the input "${v.attrs.name}", which is not fed`) },
  Param: {
    lower: (w, { attrs: { name, tensor } }, _, out) =>
      w.initializer(out, tensor ?? fail("E_INPUT", `the weight "${name}" has no values and is not fed`)),
  },
  Constant: {
    lower: (w, v, _, out) => {
      const number = numberOf(v)
      return number === undefined ? w.initializer(out, v.attrs.tensor) : scalar(w, number)
    },
  },
  Add: { lower: plain("Add") },
  Sub: { lower: plain("Sub") },
  Mul: { lower: plain("Mul") },
  Div: { lower: plain("Div") },
  Neg: { lower: plain("Neg") },
  Exp: { lower: plain("Exp") },
  Log: { lower: plain("Log") },
  Sqrt: { lower: plain("Sqrt") },
  Erf: { lower: plain("Erf") },
  NormalCdf: { lower: (w, _, [x], out) => normalCdf(w, x!, out) },
  Tanh: { lower: plain("Tanh") },
  Sigmoid: { lower: plain("Sigmoid") },
  Relu: { lower: plain("Relu") },
  // One node where only x Phi(x) is wanted; where a gradient needs Phi too, it is computed once for both.
  Gelu: {
    lower: (w, { attrs, inputs: [x] }, ins, out) => {
      if (attrs.approximate === "tanh") return w.node("FastGelu", ins, out, {}, CONTRIB)
      if (!w.has("NormalCdf", x!)) return w.node("Gelu", ins, out, {}, CONTRIB)
      return w.node("Mul", [ins[0]!, normalCdf(w, ins[0]!, w.unique(`${out}:cdf`))], out)
    },
  },
  QuickGelu: { lower: (w, v, ins, out) => w.node("QuickGelu", ins, out, { alpha: { float: v.attrs.alpha } }, CONTRIB) },
  Softmax: { lower: (w, _, ins, out) => w.node("Softmax", ins, out, { axis: -1 }) },
  LogSoftmax: { lower: (w, _, ins, out) => w.node("LogSoftmax", ins, out, { axis: -1 }) },
  LayerNorm: { lower: norm(0) },
  LayerNormMean: { lower: norm(1) },
  LayerNormInvStd: { lower: norm(2) },
  MatMul: {
    reads: (v, w) => factors(v, w).map((x) => x.of),
    lower: (w, v, ins, out) => {
      const [a, b] = factors(v, w)
      const alpha = a.scale * b.scale
      const [x, y] = [a, b].map(({ perm }, i) =>
        perm ? w.node("Transpose", [ins[i]!], w.unique(`${out}:${"ab"[i]}`), { perm }) : ins[i]!,
      ) as [string, string]
      if (alpha === 1 && !a.turned && !b.turned) return w.node("MatMul", [x, y], out)
      const flags = { ...(a.turned && { transA: 1 }), ...(b.turned && { transB: 1 }) }
      return w.node("FusedMatMul", [x, y], out, { ...flags, alpha: { float: alpha } }, CONTRIB)
    },
  },
  // A matrix that is itself a transpose is read as it is stored: of a weight, a Transpose would be folded into a private
  // copy when the session is made.
  Gemm: {
    reads: ({ inputs: [a, b, ...c] }, w) => [stored(a!, w), stored(b!, w), ...c],
    lower: (w, v, ins, out) => {
      const read = w.read(v)
      const turned = (i: 0 | 1): boolean => read[i] !== v.inputs[i]
      const [transA, transB] = [v.attrs.transA !== turned(0), v.attrs.transB !== turned(1)]
      return w.node("Gemm", ins, out, { ...(transA && { transA: 1 }), ...(transB && { transB: 1 }) })
    },
  },
  Transpose: { lower: (w, v, ins, out) => w.node("Transpose", ins, out, { perm: v.attrs.perm }) },
  Reshape: {
    view: true,
    // A reshape of reshapes is one, of what the first of them reads; of a weight it is that weight's bytes once more.
    reads: (v, w) => (reshapedWeight(v, w) ? [] : [w.root(v.inputs[0]!)]),
    lower: (w, v, [x], out) => {
      const weight = reshapedWeight(v, w)
      if (weight) return w.initializer(w.unique(weight.name), weight.tensor)
      const { shape } = w.read(v)[0]!
      return String(shape) === String(v.shape) ? x! : w.node("Reshape", [x!, w.dims(v.shape, shape)], out)
    },
  },
  Expand: { lower: (w, v, [x], out) => w.node("Expand", [x!, w.dims(v.shape)], out) },
  Concat: { lower: (w, v, ins, out) => w.node("Concat", ins, out, { axis: v.attrs.axis }) },
  Slice: {
    lower: (w, { attrs: { axis, start, end } }, [x], out) =>
      w.node("Slice", [x!, w.ints([start]), w.dims([end]), w.ints([axis])], out),
  },
  Pad: {
    lower: (w, { attrs: { axis, before, size }, inputs: [x], shape }, ins, out) => {
      const length = x!.shape[axis]!
      const others = shape.map(() => 0)
      const starts = others.with(axis, before)
      if (typeof size === "number" && typeof length === "number") {
        return w.node("Pad", [ins[0]!, w.ints([...starts, ...others.with(axis, size - before - length)])], out)
      }
      const end = typeof length === "number" ? w.ints([before + length]) : w.dims([length]) // a named length is at 0
      const after = w.node("Sub", [w.dims([size]), end], w.unique(`${out}:after`))
      const around = [w.ints([...starts, ...others.slice(0, axis)]), after, w.ints(others.slice(axis + 1))]
      const pads = w.node("Concat", around, w.unique(`${out}:pads`), { axis: 0 })
      return w.node("Pad", [ins[0]!, pads], out)
    },
  },
  Gather: { lower: (w, _, ins, out) => w.node("Gather", ins, out, { axis: 0 }) },
  ScatterAdd: {
    // ScatterElements adds one update after the other; ScatterND adds them in parallel, and equal indices would race.
    lower: (w, { inputs: [x], shape }, [updates, indices], out) => {
      const zeros = w.node("ConstantOfShape", [w.dims(shape)], w.unique(`${out}:zeros`))
      const column = w.node("Unsqueeze", [indices!, w.ints([1])], w.unique(`${out}:column`))
      const at = w.node("Expand", [column, w.dims(x!.shape)], w.unique(`${out}:at`))
      return w.node("ScatterElements", [zeros, at, updates!], out, { axis: 0, reduction: "add" })
    },
  },
  Extent: {
    lower: (w, { attrs: { axis } }, [x], out) => {
      const size = w.node("Shape", [x!], w.unique(`${out}:size`), { start: axis, end: axis + 1 })
      const real = w.node("Cast", [size], w.unique(`${out}:real`), { to: dataType("float32") })
      return w.node("Reshape", [real, w.ints([])], out)
    },
  },
  ReduceSum: {
    lower: (w, v, [x], out) => {
      const { axes, keepdims } = v.attrs
      const sizes = summed(v)
      if (sizes) return rowSum(w, v, sizes, x!, out)
      return w.node("ReduceSum", [x!, w.ints(axes)], out, { keepdims: Number(keepdims) })
    },
  },
  ReduceMean: {
    lower: (w, { attrs: { axes, keepdims } }, ins, out) =>
      w.node("ReduceMean", ins, out, { axes, keepdims: Number(keepdims) }),
  },
  ArgMax: { lower: (w, _, ins, out) => w.node("ArgMax", ins, out, { axis: -1, keepdims: 0 }) },
  Equal: { lower: plain("Equal") },
  Greater: { lower: plain("Greater") },
  Detach: { view: true, lower: plain("Identity") },
  OrElse: {
    lower: (w, v, [replacement, computed], out) => {
      const rows = w.node("Shape", [replacement!], w.unique(`${out}:rows`), { start: 0, end: 1 })
      const fed = w.node("Cast", [rows], w.unique(`${out}:fed`), { to: dataType("bool") })
      const branch = (from: string, which: string) => {
        const output = {
          name: w.unique(`${out}:${which}`),
          dtype: v.dtype,
          shape: v.shape.map((_, i) => `${out}:${i}`),
        }
        return { graph: { nodes: [{ op: "Identity", inputs: [from], outputs: [output.name], attrs: {} }], output } }
      }
      return w.node("If", [fed], out, {
        then_branch: branch(replacement!, "then"),
        else_branch: branch(computed!, "else"),
      })
    },
  },
  Cast: { lower: (w, v, ins, out) => w.node("Cast", ins, out, { to: dataType(v.attrs.to) }) },
}
