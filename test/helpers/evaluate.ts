/** @file A graph's values in float64, op by op, by plain loops: what the graph says, without onnxruntime. */
import { bind, type Shape } from "../../src/graph/dims.ts"
import { toposort, type Attrs, type Op, type Value } from "../../src/graph/value.ts"
import * as loops from "./loops.ts"
import type { Numbers } from "./loops.ts"

type Evaluate<O extends Op> = (xs: Numbers[], attrs: Attrs[O], shape: readonly number[]) => Numbers

const u =
  (f: (x: number) => number) =>
  ([x]: Numbers[]) =>
    loops.unary(f)(x!)
const b =
  (f: (x: number, y: number) => number) =>
  ([x, y]: Numbers[]) =>
    loops.binary(f)(x!, y!)
const given = (): never => {
  throw new Error("an input without numbers")
}
const rowMeans = (x: Numbers) => loops.mean(x, [x.shape.length - 1], true)

const TABLE: { readonly [O in Op]: Evaluate<O> } = {
  Input: given,
  Param: (_, { tensor }) => {
    if (!tensor || !("data" in tensor)) return given()
    return { shape: tensor.shape, data: Array.from(tensor.data as ArrayLike<number>, Number) }
  },
  Constant: (_, { tensor }) => ({ shape: tensor.shape, data: Array.from(tensor.data as ArrayLike<number>, Number) }),
  Add: b((x, y) => x + y),
  Sub: b((x, y) => x - y),
  Mul: b((x, y) => x * y),
  Div: b((x, y) => x / y),
  Neg: u((x) => -x),
  Exp: u(Math.exp),
  Log: u(Math.log),
  Sqrt: u(Math.sqrt),
  Erf: u(loops.erf),
  NormalCdf: u((x) => (1 + loops.erf(x * Math.sqrt(0.5))) / 2),
  Tanh: u(Math.tanh),
  Sigmoid: u(loops.sigmoid),
  Relu: u((x) => Math.max(0, x)),
  Gelu: ([x], { approximate }) =>
    loops.unary((v) =>
      approximate === "tanh"
        ? (v / 2) * (1 + Math.tanh(Math.sqrt(2 / Math.PI) * (v + 0.044715 * v ** 3)))
        : (v * (1 + loops.erf(v * Math.sqrt(0.5)))) / 2,
    )(x!),
  QuickGelu: ([x], { alpha }) => loops.unary((v) => v * loops.sigmoid(alpha * v))(x!),
  Softmax: ([x]) => loops.softmax(x!),
  LogSoftmax: ([x]) => loops.unary(Math.log)(loops.softmax(x!)),
  LayerNorm: ([x, w, c], { eps }) => loops.layerNorm(x!, w!, c!, eps),
  LayerNormMean: ([x]) => rowMeans(x!),
  LayerNormInvStd: ([x], { eps }) => loops.invStd(x!, eps),
  MatMul: ([x, y], { transA, transB }) => loops.matmul(loops.turned(x!, transA), loops.turned(y!, transB)),
  Gemm: ([x, y, c], { transA, transB }) => {
    const product = loops.matmul(loops.turned(x!, transA), loops.turned(y!, transB))
    return c ? loops.binary((p, q) => p + q)(product, c) : product
  },
  Transpose: ([x], { perm }) => loops.transpose(x!, perm),
  Reshape: ([x], _, shape) => ({ shape, data: x!.data }),
  Expand: ([x], _, shape) => loops.expand(x!, shape),
  Concat: (xs, { axis }) => loops.concat(xs, axis),
  Slice: ([x], { axis, start }, shape) => loops.slice(x!, axis, start, start + shape[axis]!),
  Pad: ([x], { axis, before }, shape) => loops.pad(x!, axis, before, shape[axis]!),
  Gather: ([x, at]) => loops.gather(x!, at!),
  ScatterAdd: ([x, at], { rows }) => loops.scatterAdd(x!, at!, rows),
  Extent: ([x], { axis }) => ({ shape: [], data: [x!.shape[axis]!] }),
  ReduceSum: ([x], { axes, keepdims }) => loops.sum(x!, axes, keepdims),
  ReduceMean: ([x], { axes, keepdims }) => loops.mean(x!, axes, keepdims),
  ArgMax: ([x]) => loops.argMax(x!),
  Equal: b((x, y) => Number(x === y)),
  Greater: b((x, y) => Number(x > y)),
  Detach: ([x]) => x!,
  OrElse: ([x, y]) => (x!.shape[0] ? x! : y!),
  Cast: ([x], { to }) => (to.startsWith("float") ? x! : loops.unary(Math.trunc)(x!)),
}

/** The numbers of `outputs`, given those of some values and what their symbolic dimensions stand for. */
export function evaluate(
  outputs: readonly Value[],
  given: ReadonlyMap<Value, Numbers>,
  symbols: ReadonlyMap<string, number> = new Map(),
): Numbers[] {
  const known = new Map(given)
  const bound = (shape: Shape) => shape.map((d) => bind(d, symbols))
  for (const v of toposort(outputs, new Set(given.keys()))) {
    if (known.has(v)) continue
    const of = TABLE[v.op] as Evaluate<Op>
    known.set(
      v,
      of(
        v.inputs.map((x) => known.get(x)!),
        v.attrs,
        bound(v.shape),
      ),
    )
  }
  return outputs.map((v) => known.get(v)!)
}
