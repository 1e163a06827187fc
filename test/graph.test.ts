/** @file Every op through emit and onnxruntime against plain loops; what is refused while a graph is built; dimensions. */
import * as ort from "onnxruntime-node"
import { afterAll, describe, expect, it } from "vitest"
import { bind, broadcast, product, symbolsOf, type Dim } from "../src/graph/dims.ts"
import { emit, type Values } from "../src/graph/emit.ts"
import * as ops from "../src/graph/ops.ts"
import { toposort, type Op, type Value } from "../src/graph/value.ts"
import { nodeRuntime } from "../src/runtime/node.ts"
import { mulberry32 } from "./helpers/causality.ts"
import { draw, EXAMPLES, numbers, worst } from "./helpers/op-examples.ts"
import { readModel } from "./helpers/protobuf.ts"

const runtime = nodeRuntime({ threads: 1 })
afterAll(() => runtime.release())

const random = mulberry32(7)

describe.each(Object.keys(EXAMPLES) as Op[])("%s", (op) => {
  const examples = EXAMPLES[op].map((e, i) => [i, e] as const)

  it.each(examples)("gives what loops give, here and exported (%i)", async (_, { feeds, graph, loops, nonEmpty }) => {
    const inputs = feeds.map(({ shape, dtype }, i) => ops.input(`x${i}`, shape, dtype))
    const y = graph(...inputs)
    const reached = toposort([y]).map((v) => v.op)
    expect(reached).toContain(op)
    const known = Object.fromEntries(inputs.map((x, i) => [`x${i}`, x]))
    const run = await runtime.compile(known, { y })
    const exported = await ort.InferenceSession.create(emit(known, { y }, { named: true }).bytes)
    for (const b of nonEmpty ? [3, 1] : [3, 1, 0]) {
      const symbols = new Map(Object.entries({ b, r: 0 }))
      const fed = feeds.map((feed) => draw(feed, symbols, random))
      const want = loops(...fed.map(numbers))
      const got = (await run(Object.fromEntries(fed.map((t, i) => [`x${i}`, t])))).y
      const there = Object.fromEntries(fed.map((t, i) => [`x${i}`, new ort.Tensor(t.dtype as "float32", t.data as never, t.shape)])) // prettier-ignore
      const { y: other } = await exported.run(
        Object.fromEntries(exported.inputNames.map((name) => [name, there[name]!])),
      )
      if (b > 0) expect(other!.dims).toEqual(want.shape) // ArgMax of nothing keeps the axis there
      expect(worst({ ...got, data: other!.data as never }, want)).toBeLessThan(2e-6)
      expect(got.shape).toEqual(want.shape)
      expect(got.shape).toEqual(y.shape.map((d) => bind(d, symbols)))
      expect(got.dtype).toBe(y.dtype)
      expect(worst(got, want)).toBeLessThan(2e-6)
    }
  })
})

describe("building a graph", () => {
  const x = ops.input("x", ["b", 2, 3])
  const n = ops.input("n", ["b", 2, 3], "int64")
  const w = ops.param("w", [4, 3])

  it.each<[string, () => Value, RegExp]>([
    ["add", () => ops.add(x, ops.input("y", [4])), /^add: shapes \[b, 2, 3\] and \[4\] do not fit$/],
    ["another symbol", () => ops.mul(x, ops.input("y", ["c", 2, 3])), /^mul: shapes \[b, 2, 3\] and \[c, 2, 3\]/],
    ["another dtype", () => ops.sub(x, n), /^sub: shapes \[b, 2, 3\] and int64 \[b, 2, 3\] do not fit$/],
    ["matmul", () => ops.matmul(x, w), /^matmul: shapes \[b, 2, 3\] and \[4, 3\] do not fit$/],
    ["matmul of a vector", () => ops.matmul(ops.param("v", [3]), w), /^matmul: shapes \[3\] and \[4, 3\]/],
    [
      "matmul of batches",
      () => ops.matmul(x, ops.input("y", [5, 3, 1])),
      /^matmul: shapes \[b, 2, 3\] and \[5, 3, 1\]/,
    ],
    ["linear", () => ops.linear(x, ops.param("w", [3, 4])), /^linear: shapes \[b, 2, 3\] and \[3, 4\]/],
    ["linear's bias", () => ops.linear(x, w, ops.param("c", [3])), /^linear: shapes \[4, 3\] and \[3\]/],
    ["linear of a scalar", () => ops.linear(ops.scalar(1), w), /^linear: shapes \[\] and \[4, 3\]/],
    ["layerNorm", () => ops.layerNorm(x, ops.param("g", [2]), w, 1), /^layerNorm: shapes \[b, 2, 3\] and \[2\]/],
    ["reshape", () => ops.reshape(x, ["b", 7]), /^reshape: \[b, 2, 3\] has 6\*b elements, \[b, 7\] has 7\*b$/],
    ["reshape that drops a symbol", () => ops.reshape(x, [6]), /^reshape: \[b, 2, 3\] has 6\*b elements, \[6\] has 6$/],
    ["expand", () => ops.expand(w, [2, 4, 2]), /^expand: \[4, 3\] does not expand to \[2, 4, 2\]$/],
    ["expand to less", () => ops.expand(w, [1, 3]), /^expand: \[4, 3\] does not expand to \[1, 3\]$/],
    ["transpose", () => ops.transpose(x, [0, 1]), /^transpose: permutation \[0, 1\] does not fit shape \[b, 2, 3\]$/],
    ["transpose twice", () => ops.transpose(x, [0, 1, 1]), /^transpose: permutation \[0, 1, 1\]/],
    ["transpose beyond", () => ops.transpose(x, [0, 1, 3]), /^transpose: permutation \[0, 1, 3\]/],
    ["concat", () => ops.concat([x, w], 1), /^concat: shapes \[b, 2, 3\] and \[4, 3\] do not fit$/],
    ["concat of dtypes", () => ops.concat([x, n], 1), /^concat: shapes \[b, 2, 3\] and int64 \[b, 2, 3\] do not fit$/],
    ["concat along nothing", () => ops.concat([x, x], 3), /^concat: \[b, 2, 3\] has no axis 3$/],
    ["concat of nothing", () => ops.concat([], 0), /^concat: nothing to join$/],
    ["concat along b", () => ops.concat([x, x], 0), /^concat: axis 0 of .* has no fixed size$/],
    ["slice", () => ops.slice(x, 1, 0, 3), /^slice: 0\.\.3 is outside axis 1 of \[b, 2, 3\]$/],
    ["slice before 0", () => ops.slice(x, 1, -1, 2), /^slice: -1\.\.2 is outside axis 1/],
    ["slice backwards", () => ops.slice(x, 2, 2, 1), /^slice: 2\.\.1 is outside axis 2/],
    ["slice of no axis", () => ops.slice(x, 3, 0, 1), /^slice: 0\.\.1 is outside axis 3/],
    ["slice to a name from 1", () => ops.slice(w, 0, 1, "b"), /^slice: 1\.\.b/],
    ["select", () => ops.select(x, 1, 2), /^slice: 2\.\.3 is outside axis 1/],
    ["slice between", () => ops.slice(x, 2, 0.5, 2), /^slice: 0\.5\.\.2 is outside axis 2/],
    [
      "gemm's addend",
      () => ops.gemm(w, ops.transpose(w, [1, 0]), { c: ops.param("c", [3]) }),
      /^gemm: shapes \[4, 3\] and \[3\]/,
    ],
    ["softmax of a scalar", () => ops.softmax(ops.scalar(1)), /^softmax: a scalar has no last axis$/],
    ["argMax of a scalar", () => ops.argMax(ops.scalar(1)), /^argMax: a scalar has no last axis$/],
    [
      "mean over one axis twice",
      () => ops.mean(x, [2, -1]),
      /^ReduceMean: axes \[2, -1\] name one of \[b, 2, 3\] twice$/,
    ],
    ["sum", () => ops.sum(x, [3]), /^ReduceSum: \[b, 2, 3\] has no axes \[3\]$/],
    ["mean", () => ops.mean(x, [-4]), /^ReduceMean: \[b, 2, 3\] has no axes \[-4\]$/],
    ["orElse", () => ops.orElse(x, w), /^orElse: shapes \[b, 2, 3\] and \[4, 3\] do not fit$/],
  ])("refuses %s", (_, build, message) => {
    expect(build).toThrow(message)
    expect(build).toThrow(expect.objectContaining({ code: "E_INPUT" }))
  })

  it("keeps a reshape of a reshape, so that the graph can be cut between, and writes one", () => {
    const flat = ops.reshape(x, ["6*b"])
    const back = ops.reshape(flat, ["b", 3, 2])
    expect(back.inputs).toEqual([flat])
    expect(ops.reshape(x, ["b", 2, 3])).toBe(x)
    const nodes = (inputs: Values, y: Value) => readModel(emit(inputs, { y }).bytes).nodes.map((node) => node.op)
    expect(nodes({ x }, ops.neg(back))).toEqual(["Reshape", "Neg"])
    expect(nodes({ flat, x }, ops.neg(back))).toEqual(["Reshape", "Neg"])
    expect(nodes({ x }, ops.neg(ops.reshape(flat, ["b", 2, 3])))).toEqual(["Neg"])
  })

  it("leaves out what changes nothing", () => {
    expect(ops.expand(x, ["b", 2, 3])).toBe(x)
    expect(ops.slice(x, 1, 0, 2)).toBe(x)
    expect(ops.concat([x], 1)).toBe(x)
    expect(ops.cast(n, "int64")).toBe(n)
  })

  it("orders values before their users, once each, and stops where it is told", () => {
    const shared = ops.neg(x)
    const y = ops.add(ops.exp(shared), shared)
    expect(toposort([y, shared]).map((v) => v.op)).toEqual(["Input", "Neg", "Exp", "Add"])
    expect(toposort([y], new Set([shared])).map((v) => v.op)).toEqual(["Neg", "Exp", "Add"])
  })

  it("walks a chain that recursion could not", () => {
    let y: Value = x
    for (let i = 0; i < 50_000; i++) y = ops.neg(y)
    expect(toposort([y])).toHaveLength(50_001)
  })
})

describe("dimensions", () => {
  const names = ["b", "t", "n"]
  const dims = Array.from({ length: 300 }, () => {
    const symbols = names.filter(() => random() < 0.5).concat(random() < 0.2 ? ["b"] : [])
    return product([Math.floor(random() * 7), ...symbols])
  })
  const bound = new Map(names.map((name, i) => [name, [5, 7, 11][i]!]))
  const triples = Array.from({ length: 100 }, (_, i) => dims.slice(3 * i, 3 * i + 3) as [Dim, Dim, Dim])

  it("multiply in any order to one form, which is bound to the product of what they are bound to", () => {
    for (const [a, b, c] of triples) {
      const abc = product([a, b, c])
      expect(product([product([c, a]), b])).toBe(abc)
      expect(bind(abc, bound)).toBe(bind(a, bound) * bind(b, bound) * bind(c, bound))
      expect(product([abc])).toBe(abc)
    }
  })

  it("know their symbols, each once", () => {
    expect([symbolsOf(3), symbolsOf("b"), symbolsOf("2*b*b*t")]).toEqual([[], ["b"], ["b", "t"]])
  })

  it("refuse what is not bound", () => {
    expect(() => bind("2*q", bound)).toThrow(/^dimension "q" of 2\*q is not bound by any input$/)
  })

  it("broadcast as numpy does", () => {
    for (let i = 0; i < 200; i++) {
      const shape = (): number[] =>
        Array.from({ length: Math.floor(random() * 4) }, () => [1, 1, 2, 3][Math.floor(random() * 4)]!)
      const [a, b] = [shape(), shape()]
      const rank = Math.max(a.length, b.length)
      const [p, q] = [a, b].map((s) => [...Array<number>(rank - s.length).fill(1), ...s]) as [number[], number[]]
      const fits = p.every((x, j) => x === q[j] || x === 1 || q[j] === 1)
      expect(broadcast(a, b)).toEqual(fits ? p.map((x, j) => Math.max(x, q[j]!)) : undefined)
    }
    expect(broadcast(["b", 1], [3])).toEqual(["b", 3])
    expect(broadcast(["b"], [0])).toBeUndefined()
    expect(broadcast([1], [0])).toEqual([0])
  })
})
