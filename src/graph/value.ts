/** @file The one record of a graph: a value, the op that makes it and the values it is made of. */
import type { DType, StoredTensor, Tensor } from "../tensor/tensor.ts"
import type { Dim, Shape } from "./dims.ts"

/** Which factors of a product are read with their last two axes swapped. */
export interface Turned {
  readonly transA: boolean
  readonly transB: boolean
}

/** What each op carries besides its inputs. The keys of this table are the ops there are. */
export interface Attrs {
  /** Fed when the graph runs. */
  Input: { readonly name: string }
  /** A weight: its bytes, or where they lie; undefined while a model is only listed. */
  Param: { readonly name: string; readonly tensor: Tensor | StoredTensor | undefined }
  Constant: { readonly tensor: Tensor }
  Add: {}
  Sub: {}
  Mul: {}
  Div: {}
  Neg: {}
  Exp: {}
  Log: {}
  Sqrt: {}
  Erf: {}
  /** Phi(x), the distribution of a standard normal number */
  NormalCdf: {}
  Tanh: {}
  Sigmoid: {}
  Relu: {}
  /** x * Phi(x); `tanh` is the approximation of arXiv:1606.08415. */
  Gelu: { readonly approximate: "none" | "tanh" }
  /** x * sigmoid(alpha * x) */
  QuickGelu: { readonly alpha: number }
  Softmax: {}
  LogSoftmax: {}
  /** (x - mean) / sqrt(variance + eps) * w + b over the last axis */
  LayerNorm: { readonly eps: number }
  /** 1 / sqrt(variance + eps), the third output of the node that LayerNorm of the same inputs becomes */
  LayerNormInvStd: { readonly eps: number }
  /** The mean over the last axis, the second output of that node */
  LayerNormMean: { readonly eps: number }
  /** op(a) op(b) of the last two axes, op a transpose where its flag says so */
  MatMul: Turned
  /** op(a) op(b) + c of matrices; x W^T + b of a weight stored as PyTorch does */
  Gemm: Turned
  Transpose: { readonly perm: readonly number[] }
  Reshape: { readonly shape: Shape }
  Expand: { readonly shape: Shape }
  Concat: { readonly axis: number }
  Slice: { readonly axis: number; readonly start: number; readonly end: Dim }
  /** Zeros before and after along one axis, until it is `size` long: what undoes a Slice */
  Pad: { readonly axis: number; readonly before: number; readonly size: Dim }
  /** Rows of a table [n, ...] at integer indices of any shape */
  Gather: {}
  /** Zeros [rows, ...] to which each row of the first input is added at its integer index: what undoes a Gather */
  ScatterAdd: { readonly rows: number }
  /** The length of one axis as a scalar */
  Extent: { readonly axis: number }
  ReduceSum: { readonly axes: readonly number[]; readonly keepdims: boolean }
  ReduceMean: { readonly axes: readonly number[]; readonly keepdims: boolean }
  /** Index of the first largest element along the last axis, which is dropped */
  ArgMax: {}
  Equal: {}
  Greater: {}
  /** The same value, through which no gradient flows */
  Detach: {}
  /** The first input if it is fed, that is, if its first axis is not empty; else the second */
  OrElse: {}
  Cast: { readonly to: DType }
}

export type Op = keyof Attrs

/** One node of the graph. Every op has one output, so a node is its value; it never changes once made. */
export class Value<O extends Op = Op> {
  readonly op: O
  readonly inputs: readonly Value[]
  readonly attrs: Attrs[O]
  readonly shape: Shape
  readonly dtype: DType

  constructor(op: O, inputs: readonly Value[], attrs: Attrs[O], shape: Shape, dtype: DType = "float32") {
    this.op = op
    this.inputs = inputs
    this.attrs = attrs
    this.shape = shape
    this.dtype = dtype
  }
}

export const is = <O extends Op>(value: Value, op: O): value is Value<O> => value.op === op

/** Every value that `outputs` need, inputs before users, not walking past `stop`. */
export function toposort(
  outputs: Iterable<Value>,
  stop: ReadonlySet<Value> = new Set(),
  inputsOf: (v: Value) => readonly Value[] = (v) => v.inputs,
): Value[] {
  const order: Value[] = []
  // false: its inputs are being visited; true: it is in `order`.
  const visited = new Map<Value, boolean>()
  const stack = [...outputs].reverse()
  while (stack.length) {
    const value = stack.at(-1)!
    const done = visited.get(value)
    const inputs = done === undefined && !stop.has(value) ? inputsOf(value) : []
    if (inputs.length) {
      visited.set(value, false)
      for (let i = inputs.length - 1; i >= 0; i--) stack.push(inputs[i]!)
      continue
    }
    stack.pop()
    if (done) continue
    visited.set(value, true)
    order.push(value)
  }
  return order
}
