/** @file The gradient of each op: a table closed by the compiler, so that an op without a rule does not compile. */
import { fail } from "../errors.ts"
import * as g from "../graph/ops.ts"
import type { Shape } from "../graph/dims.ts"
import type { Op, Value } from "../graph/value.ts"

/**
 * From dL/dy of y = op(...xs) to dL/dx of each x, broadcast as the op broadcasts; undefined where none flows.
 * `needs(i)` says whether anybody wants the gradient of input i.
 */
type Rule<O extends Op> = (
  dy: Value,
  y: Value<O>,
  xs: readonly Value[],
  needs: (i: number) => boolean,
) => readonly (Value | undefined)[]

const leaf = () => []
/** A step: its derivative is 0 wherever it has one. */
const flat = () => [undefined, undefined]

const s = g.scalar

export const rules: { [O in Op]: Rule<O> } = {
  Input: leaf,
  Param: leaf,
  Constant: leaf,
  Add: (dy) => [dy, dy],
  Sub: (dy, _, xs, needs) => [dy, needs(1) ? g.neg(toShape(dy, xs[1]!.shape)) : undefined],
  Mul: (dy, _, [a, b], needs) => [needs(0) ? g.mul(dy, b!) : undefined, needs(1) ? g.mul(dy, a!) : undefined],
  Div: (dy, y, [, b], needs) => {
    const da = g.div(dy, b!)
    return [da, needs(1) ? g.neg(g.mul(da, y)) : undefined]
  },
  Neg: (dy) => [g.neg(dy)],
  Exp: (dy, y) => [g.mul(dy, y)],
  Log: (dy, _, [x]) => [g.div(dy, x!)],
  Sqrt: (dy, y) => [g.div(g.mul(dy, s(0.5)), y)],
  Erf: (dy, _, [x]) => [g.mul(g.mul(dy, s(2 / Math.sqrt(Math.PI))), g.exp(g.neg(g.mul(x!, x!))))],
  Tanh: (dy, y) => [g.mul(dy, g.sub(s(1), g.mul(y, y)))],
  Sigmoid: (dy, y) => [g.mul(dy, g.mul(y, g.sub(s(1), y)))],
  Relu: (dy, _, [x]) => [g.mul(dy, g.cast(g.greater(x!, s(0)), x!.dtype))],
  // Phi' = exp(-x^2 / 2) / sqrt(2 pi)
  NormalCdf: (dy, _, [x]) => [g.mul(dy, normalDensity(x!))],
  Gelu: (dy, y, [x]) => [g.mul(dy, y.attrs.approximate === "tanh" ? geluTanhSlope(x!) : geluSlope(x!))],
  // d/dx x S(ax) = S + a x S (1 - S) = S + a y (1 - S)
  QuickGelu: (dy, y, [x]) => {
    const gate = g.sigmoid(g.mul(x!, s(y.attrs.alpha)))
    return [g.mul(dy, g.add(gate, g.mul(g.mul(y, s(y.attrs.alpha)), g.sub(s(1), gate))))]
  },
  Softmax: (dy, y) => [softmaxGrad(dy, y)],
  LogSoftmax: (dy, y) => [g.sub(dy, g.mul(g.exp(y), g.sum(dy, [-1], true)))],
  LayerNorm: (dy, y, [x, w, b], needs) => {
    const normed = normalised(y, x!, w!, b!)
    return [
      needs(0) ? throughNorm(g.mul(dy, w!), normed, g.layerNormInvStd(x!, w!, b!, y.attrs.eps)) : undefined,
      needs(1) ? g.mul(dy, normed) : undefined,
      dy,
    ]
  },
  // ds/dx = -s^3 (x - mean) / d
  LayerNormInvStd: (dy, y, [x]) => {
    const slope = g.mul(g.mul(g.mul(y, y), y), s(-1 / width(x!)))
    return [g.mul(g.mul(dy, slope), g.sub(x!, g.mean(x!, [-1], true))), undefined, undefined]
  },
  LayerNormMean: (dy, _, [x]) => [g.expand(g.mul(dy, s(1 / width(x!))), x!.shape), undefined, undefined],
  MatMul: throughProduct(g.matmul),
  Gemm: (dy, y, xs, needs) => [...throughProduct(g.gemm)(dy, y, xs, needs), dy],
  Transpose: (dy, { attrs: { perm } }) => [
    g.transpose(
      dy,
      perm.map((_, i) => perm.indexOf(i)),
    ),
  ],
  Reshape: (dy, _, [x]) => [g.reshape(dy, x!.shape)],
  Expand: (dy) => [dy],
  Concat: (dy, { attrs: { axis } }, xs) => {
    let at = 0
    return xs.map(({ shape }) => {
      const start = at
      at += shape[axis] as number
      return g.slice(dy, axis, start, at)
    })
  },
  Slice: (dy, { attrs: { axis, start } }, [x]) => [g.pad(dy, axis, start, x!.shape[axis]!)],
  Pad: (dy, { attrs: { axis, before } }, [x]) => {
    const length = x!.shape[axis]!
    return [g.slice(dy, axis, before, typeof length === "number" ? before + length : length)]
  },
  Gather: (dy, _, [table, indices]) => [g.scatterAdd(dy, indices!, table!.shape[0] as number), undefined],
  ScatterAdd: (dy, _, [, indices]) => [g.gather(dy, indices!), undefined],
  Extent: () => [undefined],
  ReduceSum: (dy, { attrs: { axes } }, [x]) => [spread(dy, axes, x!.shape)],
  ReduceMean: (dy, { attrs: { axes } }, [x]) => [
    spread(
      axes.reduce((d, axis) => g.div(d, g.extent(x!, axis)), dy),
      axes,
      x!.shape,
    ),
  ],
  ArgMax: () => [undefined],
  Equal: flat,
  Greater: flat,
  Detach: () => [undefined],
  OrElse: () =>
    fail(
      "E_INPUT",
      "a hook that may or may not be fed has no gradient: take it of a graph built without optional inputs",
    ),
  Cast: (dy, y, [x]) => [real(y) && real(x!) ? g.cast(dy, x!.dtype) : undefined],
}

/** Undo broadcasting: sum what was repeated. */
export function toShape(x: Value, shape: Shape): Value {
  const extra = x.shape.length - shape.length
  const axes = x.shape.flatMap((d, i) => (i < extra || (shape[i - extra] === 1 && d !== 1) ? [i] : []))
  return g.reshape(g.sum(x, axes), shape)
}

/** What a reduction over `axes` took, given back along them. */
function spread(dy: Value, axes: readonly number[], shape: Shape): Value {
  const kept = shape.map((d, i) => (axes.includes(i) ? 1 : d))
  return g.expand(g.reshape(dy, kept), shape)
}

const real = (x: Value): boolean => x.dtype.startsWith("float") || x.dtype === "bfloat16"

const width = (x: Value): number => x.shape.at(-1) as number

/** y = op(a) op(b): da = dy op(b)^T, or its transpose where a is one */
function throughProduct(times: typeof g.matmul): Rule<"MatMul" | "Gemm"> {
  return (dy, { attrs: { transA, transB } }, [a, b], needs) => [
    needs(0)
      ? transA
        ? times(b!, dy, { transA: transB, transB: true })
        : times(dy, b!, { transB: !transB })
      : undefined,
    needs(1)
      ? transB
        ? times(dy, a!, { transA: true, transB: transA })
        : times(a!, dy, { transA: !transA })
      : undefined,
  ]
}

/** y (dy - <dy, y>) */
const softmaxGrad = (dy: Value, y: Value): Value => g.mul(g.sub(dy, g.sum(g.mul(dy, y), [-1], true)), y)

/** (x - mean) / std of what a LayerNorm norms, from the mean and 1/std that its node gives. */
function normalised({ attrs: { eps } }: Value<"LayerNorm">, x: Value, w: Value, b: Value): Value {
  return g.mul(g.sub(x, g.layerNormMean(x, w, b, eps)), g.layerNormInvStd(x, w, b, eps))
}

/** From the gradient of n = (x - mean) / std to that of x: (dn - mean(dn) - n mean(dn n)) / std */
function throughNorm(dn: Value, n: Value, invStd: Value): Value {
  const along = g.mul(n, g.mean(g.mul(dn, n), [-1], true))
  return g.mul(g.sub(g.sub(dn, g.mean(dn, [-1], true)), along), invStd)
}

/** exp(-x^2 / 2) / sqrt(2 pi), the factor taken into the exponent: one pass less */
const normalDensity = (x: Value): Value => {
  const scaled = g.mul(x, s(Math.SQRT1_2))
  return g.exp(g.sub(s(-0.5 * Math.log(2 * Math.PI)), g.mul(scaled, scaled)))
}

/** Phi(x) + x phi(x), phi the density */
const geluSlope = (x: Value): Value => g.add(g.normalCdf(x), g.mul(x, normalDensity(x)))

/** d/dx x/2 (1 + t), t = tanh(u), u = c (x + 0.044715 x^3): (1 + t)/2 + x/2 (1 - t^2) u' */
function geluTanhSlope(x: Value): Value {
  const c = Math.sqrt(2 / Math.PI)
  const square = g.mul(x, x)
  const t = g.tanh(g.mul(x, g.add(g.mul(square, s(c * 0.044715)), s(c))))
  const slope = g.add(g.mul(square, s(3 * c * 0.044715)), s(c))
  const half = g.mul(g.add(t, s(1)), s(0.5))
  return g.add(half, g.mul(g.mul(g.mul(x, s(0.5)), g.sub(s(1), g.mul(t, t))), slope))
}
