/** @file For each op of the table, graphs that have it and the loops that give the same. */
import { bind, type Dim, type Shape } from "../../src/graph/dims.ts"
import * as ops from "../../src/graph/ops.ts"
import type { Op, Value } from "../../src/graph/value.ts"
import { float32, int64, type DType, type Tensor } from "../../src/tensor/tensor.ts"
import * as loops from "./loops.ts"
import type { Numbers } from "./loops.ts"

const matmul = (a: Value, b: Value): Value => ops.matmul(a, b)
const TURNS = [
  [false, true],
  [true, false],
  [true, true],
] as const

/** What is fed: a shape, where "b" is as many as a run has; numbers are drawn from -2 to 2, or as `draw` says. */
export interface Feed {
  readonly shape: Shape
  readonly dtype?: DType
  readonly draw?: (random: () => number) => number
}

export interface Example {
  readonly feeds: readonly Feed[]
  readonly graph: (...x: Value[]) => Value
  readonly loops: (...x: Numbers[]) => Numbers
  /** Not run with b = 0: the largest of nothing, or a mean over it. */
  readonly nonEmpty?: true
}

/** Numbers for a feed, its names bound. */
export function draw(
  { shape, dtype = "float32", draw: of = (r) => 4 * r() - 2 }: Feed,
  symbols: ReadonlyMap<string, number>,
  random: () => number,
): Tensor {
  const bound = shape.map((d) => bind(d, symbols))
  const values = Array.from({ length: bound.reduce((a, b) => a * b, 1) }, () => of(random))
  return dtype === "int64" ? int64(bound, values) : float32(bound, values)
}

export const numbers = (t: Tensor): Numbers => ({
  shape: t.shape,
  data: Array.from(t.data as ArrayLike<number>, Number),
})

/** The largest difference, relative to what is above 1. */
export function worst(got: Tensor, want: Numbers): number {
  const data = numbers(got).data
  return Math.max(0, ...want.data.map((x, i) => Math.abs(x - data[i]!) / Math.max(1, Math.abs(x))))
}

const f = (...shape: Dim[]): Feed => ({ shape })
const above0 = (...shape: Dim[]): Feed => ({ shape, draw: (random) => 0.1 + 3 * random() })
const wide = (...shape: Dim[]): Feed => ({ shape, draw: (random) => 12 * random() - 6 })
const index = (n: number, ...shape: Dim[]): Feed => ({
  shape,
  dtype: "int64",
  draw: (random) => Math.floor(n * random()),
})

const unary = (feed: Feed, graph: (x: Value) => Value, of: (x: number) => number): Example[] => [
  { feeds: [feed], graph, loops: loops.unary(of) },
]
/** Equal shapes, ones within, a shorter shape, a scalar. */
const binary = (graph: (a: Value, b: Value) => Value, of: (a: number, b: number) => number): Example[] =>
  [
    [f("b", 3), above0("b", 3)],
    [f("b", 1, 4), above0(3, 1)],
    [f(3), above0("b", 2, 3)],
    [f("b", 2), above0()],
  ].map((feeds) => ({ feeds, graph, loops: loops.binary(of) }))

const w = (d: number): Feed[] => [f(d), f(d)]
const EPS = 1e-3 // large enough to be seen
const SQRT1_2 = Math.sqrt(0.5)

/** Closed by the compiler: an op without an example does not compile. */
export const EXAMPLES: { readonly [O in Op]: readonly Example[] } = {
  Input: unary(
    f("b", 2),
    (x) => x,
    (x) => x,
  ),
  Param: unary(
    f("b", 2),
    (x) => ops.add(x, ops.param("p", [2], float32([2], [0.5, 0.5]))),
    (x) => x + 0.5,
  ),
  Constant: unary(
    f("b", 2),
    (x) => ops.add(x, ops.scalar(1.5)),
    (x) => x + 1.5,
  ),
  Add: binary(ops.add, (a, b) => a + b),
  Sub: binary(ops.sub, (a, b) => a - b),
  Mul: [
    ...binary(ops.mul, (a, b) => a * b),
    // Of what is zero beside a part, on either side.
    {
      feeds: [f("b", 2, 3), f("b", 5, 3)],
      graph: (x, y) => ops.mul(ops.pad(x, 1, 2, 5), y),
      loops: (x, y) => loops.binary((a, b) => a * b)(loops.pad(x, 1, 2, 5), y),
    },
    {
      feeds: [f("b", 5, 3), f("b", 2, 3)],
      graph: (x, y) => ops.mul(x, ops.pad(y, 1, 1, 5)),
      loops: (x, y) => loops.binary((a, b) => a * b)(x, loops.pad(y, 1, 1, 5)),
    },
  ],
  Div: binary(ops.div, (a, b) => a / b),
  Neg: unary(f("b", 3), ops.neg, (x) => -x),
  Exp: unary(f("b", 3), ops.exp, Math.exp),
  Log: unary(above0("b", 3), ops.log, Math.log),
  Sqrt: unary(above0("b", 3), ops.sqrt, Math.sqrt),
  Erf: unary(wide("b", 40), ops.erf, loops.erf),
  NormalCdf: unary(wide("b", 40), ops.normalCdf, (x) => (1 + loops.erf(x * SQRT1_2)) / 2),
  Tanh: unary(wide("b", 40), ops.tanh, Math.tanh),
  Sigmoid: unary(wide("b", 40), ops.sigmoid, loops.sigmoid),
  Relu: unary(f("b", 9), ops.relu, (x) => Math.max(0, x)),
  Gelu: [
    ...unary(
      wide("b", 40),
      (x) => ops.gelu(x),
      (x) => (x * (1 + loops.erf(x * SQRT1_2))) / 2,
    ),
    ...[wide("b", 40), wide()].flatMap((feed) =>
      unary(
        feed,
        (x) => ops.gelu(x, "tanh"),
        (x) => (x / 2) * (1 + Math.tanh(Math.sqrt(2 / Math.PI) * (x + 0.044715 * x ** 3))),
      ),
    ),
  ],
  QuickGelu: unary(wide("b", 40), ops.quickGelu, (x) => x * loops.sigmoid(1.702 * x)),
  Softmax: [{ feeds: [wide("b", 2, 5)], graph: ops.softmax, loops: loops.softmax }],
  LogSoftmax: [{ feeds: [wide("b", 5)], graph: ops.logSoftmax, loops: (x) => loops.unary(Math.log)(loops.softmax(x)) }],
  LayerNorm: [
    {
      feeds: [f("b", 3, 6), ...w(6)],
      graph: (x, g, h) => ops.layerNorm(x, g, h, EPS),
      loops: (x, g, h) => loops.layerNorm(x, g, h, EPS),
    },
  ],
  LayerNormInvStd: [
    {
      feeds: [f("b", 3, 6), ...w(6)],
      graph: (x, g, h) => ops.layerNormInvStd(x, g, h, EPS),
      loops: (x) => loops.invStd(x, EPS),
    },
    {
      // of the same inputs: one node for three values
      feeds: [f("b", 6), ...w(6)],
      graph: (x, g, h) =>
        ops.add(ops.mul(ops.layerNorm(x, g, h, EPS), ops.layerNormInvStd(x, g, h, EPS)), ops.layerNorm(x, g, h, EPS)),
      loops: (x, g, h) => loops.binary((a, s) => a * s + a)(loops.layerNorm(x, g, h, EPS), loops.invStd(x, EPS)),
    },
  ],
  LayerNormMean: [
    {
      feeds: [f("b", 3, 6), ...w(6)],
      graph: (x, g, h) => ops.layerNormMean(x, g, h, EPS),
      loops: (x) => loops.mean(x, [2], true),
    },
  ],
  MatMul: [
    { feeds: [f("b", 3, 4), f(4, 2)], graph: matmul, loops: loops.matmul },
    { feeds: [f("b", 2, 3, 4), f("b", 1, 4, 5)], graph: matmul, loops: loops.matmul },
    // onnxruntime repeats no matrix for an empty batch of vectors.
    { feeds: [f(2, 3, 4), f("b", 1, 4, 1)], graph: matmul, loops: loops.matmul, nonEmpty: true },
    ...TURNS.map(([transA, transB]): Example => ({
      feeds: [transA ? f("b", 2, 4, 3) : f("b", 2, 3, 4), transB ? f("b", 1, 5, 4) : f("b", 1, 4, 5)],
      graph: (x, m) => ops.matmul(x, m, { transA, transB }),
      loops: (x, m) => loops.matmul(loops.turned(x, transA), loops.turned(m, transB)),
    })),
    {
      feeds: [f("b", 3, 2, 4), f("b", 2, 5, 4)],
      graph: (x, m) =>
        ops.matmul(
          ops.mul(ops.mul(ops.scalar(2), ops.transpose(x, [0, 2, 1, 3])), ops.scalar(0.75)),
          ops.mul(m, ops.scalar(-1)),
          { transB: true },
        ),
      loops: (x, m) =>
        loops.unary((v) => v * -1.5)(loops.matmul(loops.transpose(x, [0, 2, 1, 3]), loops.turned(m, true))),
    },
  ],
  Gemm: [
    {
      feeds: [f("b", 3, 4), f(5, 4), f(5)],
      graph: (x, m, c) => ops.linear(x, m, c),
      loops: (x, m, c) => loops.binary((a, b) => a + b)(loops.matmul(x, loops.transpose(m, [1, 0])), c),
    },
    {
      feeds: [f("b", 4), f(4, 5)],
      graph: (x, m) => ops.linear(x, ops.transpose(m, [1, 0])),
      loops: loops.matmul,
    },
    ...TURNS.map(([transA, transB]): Example => ({
      feeds: [transA ? f(4, "b") : f("b", 4), transB ? f(5, 4) : f(4, 5), f(5)],
      graph: (x, m, c) => ops.gemm(x, m, { transA, transB, c }),
      loops: (x, m, c) =>
        loops.binary((a, b) => a + b)(loops.matmul(loops.turned(x, transA), loops.turned(m, transB)), c),
    })),
  ],
  Transpose: [
    { feeds: [f("b", 2, 3)], graph: (x) => ops.transpose(x, [2, 0, 1]), loops: (x) => loops.transpose(x, [2, 0, 1]) },
  ],
  Reshape: [
    { feeds: [f("b", 6)], graph: (x) => ops.neg(ops.reshape(x, ["b", 2, 3])), loops: reshaped((b) => [b, 2, 3]) },
    { feeds: [f("b", 2, 3)], graph: (x) => ops.neg(ops.reshape(x, ["2*b", 3])), loops: reshaped((b) => [2 * b, 3]) },
    { feeds: [f("b", 6)], graph: (x) => ops.neg(ops.reshape(x, [2, "b", 3])), loops: reshaped((b) => [2, b, 3]) },
  ],
  Expand: [
    {
      feeds: [f(1, 3, 1), f("b", 2)], // b comes from the other input
      graph: (x, y) => ops.add(ops.expand(x, ["b", 3, 2]), ops.reshape(y, ["b", 1, 2])),
      loops: (x, y) => loops.binary((a, b) => a + b)(x, { ...y, shape: [y.shape[0]!, 1, 2] }),
    },
  ],
  Concat: [
    {
      feeds: [f("b", 2), f("b", 1), f("b", 3)],
      graph: (...x) => ops.concat(x, 1),
      loops: (...x) => loops.concat(x, 1),
    },
    { feeds: [f(2, "b"), f(1, "b")], graph: (...x) => ops.concat(x, 0), loops: (...x) => loops.concat(x, 0) },
  ],
  Slice: [
    { feeds: [f("b", 5, 2)], graph: (x) => ops.slice(x, 1, 1, 4), loops: (x) => loops.slice(x, 1, 1, 4) },
    {
      feeds: [f(6, 2), f("b", 2)], // as many rows as the other has
      graph: (x, y) => ops.add(ops.slice(x, 0, 0, "b"), y),
      loops: (x, y) => loops.binary((a, b) => a + b)(loops.slice(x, 0, 0, y.shape[0]!), y),
    },
    {
      feeds: [f("b", 3, 2)],
      graph: (x) => ops.select(x, 1, 2),
      loops: (x) => ({ ...loops.slice(x, 1, 2, 3), shape: [x.shape[0]!, 2] }),
    },
  ],
  Pad: [
    { feeds: [f("b", 3, 2)], graph: (x) => ops.pad(x, 1, 2, 6), loops: (x) => loops.pad(x, 1, 2, 6) },
    { feeds: [f("b", 2)], graph: (x) => ops.pad(x, 0, 0, 9), loops: (x) => loops.pad(x, 0, 0, 9) },
    { feeds: [f(2, "b", 2)], graph: (x) => ops.pad(x, 1, 0, 9), loops: (x) => loops.pad(x, 1, 0, 9) },
  ],
  ScatterAdd: [
    {
      feeds: [f("b", 2, 3), index(4, "b", 2)],
      graph: (x, at) => ops.scatterAdd(x, at, 4),
      loops: (x, at) => loops.scatterAdd(x, at, 4),
    },
  ],
  Extent: [{ feeds: [f(2, "b")], graph: (x) => ops.extent(x, 1), loops: (x) => ({ shape: [], data: [x.shape[1]!] }) }],
  Gather: [{ feeds: [f(7, 3), index(7, "b", 2)], graph: ops.gather, loops: loops.gather }],
  ReduceSum: [
    { feeds: [f("b", 3, 2)], graph: (x) => ops.sum(x, [1]), loops: (x) => loops.sum(x, [1], false) },
    { feeds: [f("b", 3, 2)], graph: (x) => ops.sum(x, [0, -1], true), loops: (x) => loops.sum(x, [0, 2], true) },
    { feeds: [index(9, "b", 3)], graph: (x) => ops.sum(x, [1]), loops: (x) => loops.sum(x, [1], false) },
    // Sums of all rows, which are products with ones where there are many, or it is not known how many.
    { feeds: [f("b", 3)], graph: (x) => ops.sum(x, [0]), loops: (x) => loops.sum(x, [0], false) },
    { feeds: [f("b", 3, 2)], graph: (x) => ops.sum(x, [0, 1], true), loops: (x) => loops.sum(x, [0, 1], true) },
    { feeds: [f(70, 3)], graph: (x) => ops.sum(x, [0]), loops: (x) => loops.sum(x, [0], false) },
    { feeds: [f(2, 40, 3)], graph: (x) => ops.sum(x, [0, 1]), loops: (x) => loops.sum(x, [0, 1], false) },
  ],
  ReduceMean: [
    { feeds: [f("b", 3, 2)], graph: (x) => ops.mean(x, [-1], true), loops: (x) => loops.mean(x, [2], true) },
    {
      feeds: [f("b", 3)],
      graph: (x) => ops.mean(x, [0, 1]),
      loops: (x) => loops.mean(x, [0, 1], false),
      nonEmpty: true,
    },
  ],
  ArgMax: [
    { feeds: [f("b", 3, 4)], graph: ops.argMax, loops: loops.argMax },
    { feeds: [index(2, "b", 5)], graph: (x) => ops.argMax(ops.cast(x, "int32")), loops: loops.argMax }, // the first
  ],
  Equal: [
    {
      feeds: [index(3, "b", 4), index(3, 1)],
      graph: ops.equal,
      loops: loops.binary((a, b) => Number(a === b)),
    },
  ],
  Greater: [
    { feeds: [index(3, "b", 4), index(3, 4)], graph: ops.greater, loops: loops.binary((a, b) => Number(a > b)) },
  ],
  Detach: unary(
    f("b", 3),
    (x) => ops.neg(ops.detach(x)),
    (x) => -x,
  ),
  OrElse: [
    {
      feeds: [f("r", 2), f("b", 2)],
      graph: (x, y) => ops.orElse(x, ops.neg(y)),
      loops: (_, y) => loops.unary((v) => -v)(y),
    },
    { feeds: [f("b", 2), f("b", 2)], graph: (x, y) => ops.orElse(x, ops.neg(y)), loops: (x) => x },
  ],
  Cast: [
    { feeds: [f("b", 3)], graph: (x) => ops.cast(x, "int64"), loops: loops.unary(Math.trunc) },
    { feeds: [index(5, "b")], graph: (x) => ops.cast(x, "float32"), loops: (x) => x },
    {
      feeds: [index(5, "b"), index(5, "b")],
      graph: (x, y) => ops.cast(ops.equal(x, y), "float32"),
      loops: loops.binary((a, b) => Number(a === b)),
    },
  ],
}

function reshaped(shape: (b: number) => number[]): (x: Numbers) => Numbers {
  return (x) => {
    const b = x.data.length / 6
    return { shape: shape(b), data: x.data.map((v) => -v) }
  }
}
