/** @file What is read through slices only is computed for these alone: the same numbers from less. */
import { resolve } from "node:path"
import { afterAll, describe, expect, it } from "vitest"
import { loadPretrained } from "../src/index.ts"
import { grad } from "../src/autodiff/grad.ts"
import { bind, product, quotient } from "../src/graph/dims.ts"
import { emit, type Values } from "../src/graph/emit.ts"
import { narrow } from "../src/graph/narrow.ts"
import * as ops from "../src/graph/ops.ts"
import { print } from "../src/graph/print.ts"
import { toposort, type Op, type Value } from "../src/graph/value.ts"
import { build } from "../src/model/model.ts"
import { nodeRuntime } from "../src/runtime/node.ts"
import { float32 } from "../src/tensor/tensor.ts"
import { mulberry32 } from "./helpers/causality.ts"
import * as loops from "./helpers/loops.ts"
import { draw, EXAMPLES, numbers, worst, type Example, type Feed } from "./helpers/op-examples.ts"
import { readModel } from "./helpers/protobuf.ts"

const runtime = nodeRuntime({ threads: 1 })
afterAll(() => runtime.release())

const random = mulberry32(11)
const one = new Map(Object.entries({ b: 3, r: 0 }))

/** Nothing is computed for these, or only as a whole. */
const WHOLE = ["Input", "Param", "Constant", "ScatterAdd", "Extent", "OrElse"]

describe.each(Object.keys(EXAMPLES) as Op[])("a part of %s", (op) => {
  it("is what the same part of the whole is, along every axis", async () => {
    let narrowed = 0
    for (const { feeds, graph, loops: whole } of EXAMPLES[op]) {
      // Every axis has a length, but where the graph itself is made of the name.
      const fixed = feeds.map((feed) => ({ ...feed, shape: feed.shape.map((d) => bind(d, one)) }))
      const { inputs, y } = made(fixed, graph) ?? made(feeds, graph)!
      const known = Object.fromEntries(inputs.map((x, i) => [`x${i}`, x]))
      const fed = fixed.map((feed) => draw(feed, one, random))
      const want = whole(...fed.map(numbers))
      for (const [axis, size] of y.shape.entries()) {
        if (typeof size !== "number" || size < 2) continue
        const start = Math.floor(random() * size)
        const part = ops.slice(y, axis, start, start + 1)
        const less = narrow({ part }, new Set(inputs)).part
        if (toposort([part]).includes(y) && !toposort([less]).includes(y)) narrowed++
        const got = await (await runtime.compile(known, { part }))(Object.fromEntries(fed.map((t, i) => [`x${i}`, t])))
        expect(got.part.shape).toEqual(part.shape.map((d) => bind(d, one)))
        expect(worst(got.part, loops.slice(want, axis, start, start + 1))).toBeLessThan(2e-6)
      }
    }
    if (!WHOLE.includes(op)) expect(narrowed).toBeGreaterThan(0)
  })
})

function made(feeds: readonly Feed[], graph: Example["graph"]) {
  const inputs = feeds.map(({ shape, dtype }, i) => ops.input(`x${i}`, shape, dtype))
  try {
    return { inputs, y: graph(...inputs) }
  } catch {
    return undefined
  }
}

describe("what is read in part", () => {
  const x = ops.input("x", ["b", 6, 4])
  const w = ops.param(
    "w",
    [5, 4],
    float32(
      [5, 4],
      Float32Array.from({ length: 20 }, (_, i) => Math.sin(i)),
    ),
  )
  const text = (outputs: Values) => print({ x }, narrow(outputs, new Set([x])))

  it("is computed in part, through a linear layer over all rows", () => {
    expect(text({ y: ops.select(ops.gelu(ops.linear(x, w)), 1, 2) })).toMatchInlineSnapshot(`
      "x: input [b, 6, 4]
      %1 = Slice{axis: 1, start: 2, end: 3}(x) [b, 1, 4]
      %2 = Reshape(%1) [b, 4]
      %3 = Gemm{transB: true}(%2, w) [b, 5]
      %4 = Reshape(%3) [b, 1, 5]
      %5 = Gelu{approximate: none}(%4) [b, 1, 5]
      %6 = Reshape(%5) [b, 5]
      return y = %6"
    `)
  })

  it("is what a product with zeros beside it reads", () => {
    const beside = ops.pad(ops.slice(x, 1, 0, 1), 1, 2, 6)
    expect(text({ y: ops.mul(ops.exp(x), beside) })).toMatchInlineSnapshot(`
      "x: input [b, 6, 4]
      %1 = Slice{axis: 1, start: 0, end: 1}(x) [b, 1, 4]
      %2 = Slice{axis: 1, start: 2, end: 3}(x) [b, 1, 4]
      %3 = Exp(%2) [b, 1, 4]
      %4 = Mul(%1, %3) [b, 1, 4]
      %5 = Pad{axis: 1, before: 2, size: 6}(%4) [b, 6, 4]
      return y = %5"
    `)
  })

  it("is cut before the value that something else reads whole", () => {
    const middle = ops.linear(x, w)
    expect(text({ y: ops.select(ops.exp(middle), 1, 0), middle })).toMatchInlineSnapshot(`
      "x: input [b, 6, 4]
      %1 = Reshape(x) [6*b, 4]
      %2 = Gemm{transB: true}(%1, w) [6*b, 5]
      %3 = Reshape(%2) [b, 6, 5]
      %4 = Slice{axis: 1, start: 0, end: 1}(%3) [b, 1, 5]
      %5 = Exp(%4) [b, 1, 5]
      %6 = Reshape(%5) [b, 5]
      return y = %6
      return middle = %3"
    `)
  })

  it("is computed for the least range that holds all that is read", () => {
    const y = ops.exp(x)
    expect(text({ a: ops.select(y, 1, 0), b: ops.select(y, 1, 2) })).toMatchInlineSnapshot(`
      "x: input [b, 6, 4]
      %1 = Slice{axis: 1, start: 0, end: 3}(x) [b, 3, 4]
      %2 = Exp(%1) [b, 3, 4]
      %3 = Slice{axis: 1, start: 0, end: 1}(%2) [b, 1, 4]
      %4 = Reshape(%3) [b, 4]
      %5 = Slice{axis: 1, start: 2, end: 3}(%2) [b, 1, 4]
      %6 = Reshape(%5) [b, 4]
      return a = %4
      return b = %6"
    `)
  })

  it("is computed whole where more than half of it is read, or along two axes", () => {
    const y = ops.exp(x)
    for (const outputs of [
      { a: ops.slice(y, 1, 0, 4) },
      { a: ops.select(y, 1, 0), b: ops.select(y, 1, 5) },
      { a: ops.select(y, 1, 0), b: ops.select(y, 2, 0) },
      { y, a: ops.select(y, 1, 0) },
    ]) {
      expect(narrow(outputs, new Set([x]))).toBe(outputs)
    }
  })

  it("is not sought behind what is fed", () => {
    const fed = ops.exp(x)
    const outputs = { y: ops.select(fed, 1, 0) }
    expect(narrow(outputs, new Set([fed]))).toBe(outputs)
    expect(readModel(emit({ fed }, outputs).bytes).nodes.map((n) => n.op)).toEqual(["Slice"])
  })

  it("is the same in graphs drawn by lot", async () => {
    for (let n = 0; n < 60; n++) {
      const { parts, wholes, cuts } = program(n)
      const feeds = { x: draw({ shape: ["b", 6, 4] }, one, random) }
      const less = await (await runtime.compile({ x }, parts))(feeds)
      const all = await (await runtime.compile({ x }, wholes))(feeds)
      for (const [name, [axis, start, end]] of Object.entries(cuts)) {
        expect(worst(less[name]!, loops.slice(numbers(all[name]!), axis, start, end))).toBeLessThan(1e-5)
      }
    }
  })

  it("has the gradient that it has where the rest is read and weighs nothing", async () => {
    const total = (v: Value) => ops.sum(v, [0, 1, 2])
    for (let n = 0; n < 60; n++) {
      const { parts, wholes, cuts } = program(n)
      const masked = Object.entries(wholes).map(([name, v]) => {
        const [axis, start, end] = cuts[name]!
        const at = (i: number) => (axis === 1 ? Math.floor(i / 4) : i % 4)
        const mask = Float32Array.from({ length: 24 }, (_, i) => (at(i) >= start && at(i) < end ? 1 : 0))
        return total(ops.mul(v, ops.constant(float32([1, 6, 4], mask))))
      })
      const feeds = { x: draw({ shape: ["b", 6, 4] }, one, random) }
      const slopes = [Object.values(parts).map(total), masked].map((terms) => grad(terms.reduce(ops.add), [x])[0]!)
      const [less, all] = [slopes[0]!, slopes[1]!]
      const got = await (await runtime.compile({ x }, { less, all }))(feeds)
      expect(worst(got.less, numbers(got.all))).toBeLessThan(2e-5)
    }
  })

  it("is differentiated as that part: what of a classifier's last block has no gradient is not computed", async () => {
    const model = await loadPretrained(resolve(import.meta.dirname, "fixtures/reference/hf-vit-names-v5"), { runtime })
    const { outputs, scope } = build(model.config, model.weights)
    const block = `blocks.${model.config.vision.nLayers - 1}.`
    const hooks = [...scope.hooks].filter(([name]) => name.startsWith(block)).map(([, { value }]) => value)
    const loss = ops.sum(ops.slice(outputs["logits"]!, 1, 0, 1), [0, 1])
    const forward = new Set(toposort([loss]))
    // Of the products of the gradient with the block's weights: rows an image, tokens or one.
    const rows = new Map<string, unknown>()
    for (const v of toposort(grad(loss, hooks))) {
      const weight = v.op === "Gemm" && !forward.has(v) && [...scope.params].find(([, p]) => v.inputs.includes(p))?.[0]
      if (weight && weight.startsWith(block)) rows.set(weight.slice(block.length), quotient(v.shape[0]!, "batch"))
    }
    const tokens = scope.hooks.get("hook_full_embed")!.value.shape[1]
    expect(Object.fromEntries(rows)).toEqual({
      "mlp.out.weight": 1,
      "mlp.in.weight": 1,
      "attn.out.weight": 1,
      "attn.q.weight": 1,
      "attn.k.weight": tokens,
      "attn.v.weight": tokens,
    })
  })

  /** A graph of 15 ops on x [b, 6, 4], and parts of three of its values. */
  function program(seed: number) {
    const lot = mulberry32(seed)
    const pick = <T>(list: readonly T[]): T => list[Math.floor(lot() * list.length)]!
    const square = ops.param(
      "s",
      [4, 4],
      float32(
        [4, 4],
        Float32Array.from({ length: 16 }, () => lot() - 0.5),
      ),
    )
    const values = [x]
    const ways: readonly ((v: Value, o: Value) => Value)[] = [
      (v) => ops.tanh(v),
      (v, o) => ops.add(v, o),
      (v, o) => ops.mul(v, ops.tanh(o)),
      (v) => ops.linear(v, square),
      (v) => ops.softmax(v),
      (v) =>
        ops.layerNorm(
          v,
          ops.param("g", [4], float32([4], [1, 2, 3, 4])),
          ops.param("h", [4], float32([4], [0, 1, 0, 1])),
          1e-3,
        ),
      (v, o) => ops.matmul(ops.softmax(ops.matmul(v, ops.transpose(o, [0, 2, 1]))), o),
      (v) => ops.transpose(ops.transpose(v, [1, 0, 2]), [1, 0, 2]),
      (v) => ops.reshape(ops.tanh(ops.reshape(v, ["6*b", 2, 2])), ["b", 6, 4]),
      (v, o) => ops.sub(v, ops.mean(o, [1], true)),
      (v, o) => ops.concat([ops.slice(v, 1, 0, 2), ops.slice(o, 1, 2, 6)], 1),
      (v) => ops.pad(ops.slice(v, 1, 1, 3), 1, 1, 6),
      (v, o) => ops.mul(v, ops.sigmoid(ops.expand(ops.slice(o, 1, 3, 4), ["b", 6, 4]))),
    ]
    for (let i = 0; i < 15; i++) values.push(pick(ways)(pick(values.slice(-4)), pick(values)))
    const cuts: Record<string, readonly [axis: number, start: number, end: number]> = {}
    const [parts, wholes] = [{} as Record<string, Value>, {} as Record<string, Value>]
    for (const name of ["p", "q", "r"]) {
      const axis = 1 + Math.floor(lot() * 1.3)
      const start = Math.floor(lot() * 4)
      cuts[name] = [axis, start, start + 1]
      wholes[name] = pick(values.slice(-3))
      parts[name] = ops.slice(wholes[name], ...cuts[name])
    }
    return { parts, wholes, cuts }
  }
})

describe("a classifier's logits", () => {
  it("need one token of the last block: its queries, its attention's output and its MLP", async () => {
    const model = await loadPretrained(resolve(import.meta.dirname, "fixtures/reference/hf-vit-names-v5"), { runtime })
    const { inputs, outputs, scope } = build(model.config, model.weights)
    const rows = (all: Values) => {
      const [block, tokens] = [
        `blocks.${model.config.vision.nLayers - 1}`,
        scope.hooks.get("hook_full_embed")!.value.shape[1],
      ]
      const used = new Map<string, unknown>()
      for (const v of toposort(Object.values(narrow(all, new Set(Object.values(inputs)))))) {
        const weight = v.op === "Gemm" ? [...scope.params].find(([, p]) => p === v.inputs[1])?.[0] : undefined
        if (weight?.startsWith(block)) used.set(weight.slice(block.length + 1), quotient(v.shape[0]!, "batch"))
      }
      return { used: Object.fromEntries(used), tokens }
    }
    const { used, tokens } = rows({ logits: outputs["logits"]! })
    expect(used).toEqual({
      "attn.q.weight": 1,
      "attn.k.weight": tokens,
      "attn.v.weight": tokens,
      "attn.out.weight": 1,
      "mlp.in.weight": 1,
      "mlp.out.weight": 1,
    })
    const block = scope.hooks.get(`blocks.${model.config.vision.nLayers - 1}.hook_mlp_out`)!.value
    expect(Object.values(rows({ logits: outputs["logits"]!, block }).used)).toEqual(Array(6).fill(tokens))
  })

  it("have sizes that divide or do not", () => {
    expect(quotient("197*batch", "batch")).toBe(197)
    expect(quotient(product(["a", "b", 6]), product([3, "b"]))).toBe("2*a")
    expect(quotient("batch", 2)).toBeUndefined()
    expect(quotient(6, "batch")).toBeUndefined()
    expect(quotient("a*a", "a")).toBe("a")
  })
})
