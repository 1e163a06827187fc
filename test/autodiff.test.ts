/** @file Every gradient rule against central differences in float64, and the graphs they make through onnxruntime. */
import { afterAll, describe, expect, it } from "vitest"
import { grad } from "../src/autodiff/grad.ts"
import { bind } from "../src/graph/dims.ts"
import * as ops from "../src/graph/ops.ts"
import { toposort, type Op, type Value } from "../src/graph/value.ts"
import { nodeRuntime } from "../src/runtime/node.ts"
import { float32, int64, type Tensor } from "../src/tensor/tensor.ts"
import { mulberry32 } from "./helpers/causality.ts"
import { evaluate } from "./helpers/evaluate.ts"
import { slice, type Numbers } from "./helpers/loops.ts"
import { EXAMPLES, type Example, type Feed } from "./helpers/op-examples.ts"

const runtime = nodeRuntime({ threads: 1 })
afterAll(() => runtime.release())

const random = mulberry32(11)
const symbols = new Map(Object.entries({ b: 3, r: 0 }))
const uniform = () => 4 * random() - 2

const count = (shape: readonly number[]) => shape.reduce((a, b) => a * b, 1)
const filled = (shape: readonly number[], value: () => number): Numbers => ({
  shape,
  data: Array.from({ length: count(shape) }, value),
})
const drawn = ({ shape, draw = (r) => 4 * r() - 2 }: Feed): Numbers =>
  filled(
    shape.map((d) => bind(d, symbols)),
    () => draw(random),
  )
const asTensor = ({ shape, data }: Numbers, { dtype }: Feed): Tensor =>
  dtype === "int64" ? int64(shape, data) : float32(shape, data)

/** d/dx of `f` at each number of `x`, by central differences. */
function differences(f: (x: Numbers) => number, x: Numbers, h: number): number[] {
  return x.data.map((value, i) => {
    const moved = (d: number) => f({ shape: x.shape, data: x.data.with(i, value + d) })
    return (moved(h) - moved(-h)) / (2 * h)
  })
}

function worst(got: readonly number[], want: readonly number[]): number {
  const scale = Math.max(...want.map(Math.abs), 1e-3)
  return Math.max(...want.map((x, i) => Math.abs(x - got[i]!))) / scale
}

/** Ops through which nothing flows: integers, truth values, lengths. */
const FLAT: readonly Op[] = ["ArgMax", "Equal", "Greater", "Extent", "Detach", "OrElse"]

/** The examples of an op, with the gradients of a random weighting of their results, or of one element along an axis. */
function weighted({ feeds, graph, loops }: Example, cut?: readonly [axis: number, start: number]) {
  const inputs = feeds.map(({ shape, dtype }, i) => ops.input(`x${i}`, shape, dtype))
  const xs = feeds.map(drawn)
  const whole = graph(...inputs)
  const y = cut ? ops.slice(whole, ...cut, cut[1] + 1) : whole
  const read = (z: Numbers) => (cut ? slice(z, ...cut, cut[1] + 1) : z)
  const r = filled(
    y.shape.map((d) => bind(d, symbols)),
    uniform,
  )
  const weights = ops.input("r", y.shape)
  const product = ops.mul(ops.cast(y, "float32"), weights)
  const loss = ops.sum(
    product,
    product.shape.map((_, i) => i),
  )
  const real = inputs.filter((x) => x.dtype === "float32")
  const value = (moved: readonly Numbers[]) => read(loops(...moved)).data.reduce((s, v, i) => s + v * r.data[i]!, 0)
  return { inputs, xs, weights, r, loss, real, value }
}

describe.each((Object.keys(EXAMPLES) as Op[]).filter((op) => !FLAT.includes(op)))("the gradient of %s", (op) => {
  it.each(EXAMPLES[op].map((e, i) => [i, e] as const))("is that of differences (%i)", async (_, example) => {
    const { inputs, xs, weights, r, loss, real, value } = weighted(example)
    const dy = grad(loss, real)
    const given = new Map<Value, Numbers>([[weights, r], ...inputs.map((x, i) => [x, xs[i]!] as const)])
    const exact = evaluate(dy, given, symbols)
    const feeds = {
      r: asTensor(r, { shape: [] }),
      ...Object.fromEntries(xs.map((x, i) => [`x${i}`, asTensor(x, example.feeds[i]!)])),
    }
    const run = await runtime.compile(
      { r: weights, ...Object.fromEntries(inputs.map((x, i) => [`x${i}`, x])) },
      Object.fromEntries(dy.map((v, i) => [`d${i}`, v])),
    )
    const got = await run(feeds)
    for (const [i, x] of real.entries()) {
      const at = inputs.indexOf(x)
      const slope = differences((moved) => value(xs.with(at, moved)), xs[at]!, 1e-5)
      // Through an integer nothing flows, also where a difference would cross a step.
      const want = toposort([loss]).some((v) => v.op === "Cast" && v.dtype === "int64") ? slope.map(() => 0) : slope
      expect(exact[i]!.shape).toEqual(xs[at]!.shape)
      expect(worst(exact[i]!.data, want)).toBeLessThan(1e-6)
      expect(worst([...(got[`d${i}`]!.data as Float32Array)], exact[i]!.data)).toBeLessThan(2e-5)
    }
  })
})

describe.each((Object.keys(EXAMPLES) as Op[]).filter((op) => !FLAT.includes(op)))(
  "the gradient of a part of %s",
  (op) => {
    it.each(EXAMPLES[op].map((e, i) => [i, e] as const))(
      "is that of differences along every axis (%i)",
      (_, example) => {
        const { shape } = example.graph(...example.feeds.map(({ shape: s, dtype }, i) => ops.input(`x${i}`, s, dtype)))
        for (const [axis, size] of shape.entries()) {
          if (typeof size !== "number" || size < 2) continue
          const { inputs, xs, weights, r, loss, real, value } = weighted(example, [axis, Math.floor(random() * size)])
          if (toposort([loss]).some((v) => v.op === "Cast" && v.dtype === "int64")) continue
          const given = new Map<Value, Numbers>([[weights, r], ...inputs.map((x, i) => [x, xs[i]!] as const)])
          const exact = evaluate(grad(loss, real), given, symbols)
          for (const [i, x] of real.entries()) {
            const at = inputs.indexOf(x)
            const want = differences((moved) => value(xs.with(at, moved)), xs[at]!, 1e-5)
            expect(exact[i]!.shape).toEqual(xs[at]!.shape)
            expect(worst(exact[i]!.data, want)).toBeLessThan(1e-6)
          }
        }
      },
    )
  },
)

it.each(FLAT.slice(0, -1))("nothing flows through %s", (op) => {
  for (const example of EXAMPLES[op]) {
    const inputs = example.feeds.map(({ shape }, i) => ops.input(`x${i}`, shape))
    const y = ops.cast(example.graph(...inputs), "float32")
    const loss = ops.sum(
      y,
      y.shape.map((_, i) => i),
    )
    for (const d of grad(loss, inputs))
      expect(
        toposort([d])
          .map((v) => v.op)
          .sort(),
      ).toEqual(["Constant", "Expand"])
  }
})
