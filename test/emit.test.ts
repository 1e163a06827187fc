/** @file How a graph becomes a model: where it is cut, and what things are called. */
import { afterAll, describe, expect, it } from "vitest"
import { emit, type EmitOptions, type Values } from "../src/graph/emit.ts"
import * as ops from "../src/graph/ops.ts"
import type { Value } from "../src/graph/value.ts"
import { checkNames } from "../src/onnx/names.ts"
import { load, nodeRuntime } from "../src/runtime/node.ts"
import { float32 } from "../src/tensor/tensor.ts"
import { readModel } from "./helpers/protobuf.ts"

const runtime = nodeRuntime({ threads: 1 })
afterAll(() => runtime.release())

const x = ops.input("x", ["b", 2])
const w = ops.param("w", [2], float32([2], [3, 4]))
const one = float32([1, 2], [5, 6])
const made = (inputs: Values, outputs: Values, options?: EmitOptions) => readModel(emit(inputs, outputs, options).bytes)
const names = (model: ReturnType<typeof readModel>) => [
  ...model.inputs.keys(),
  ...model.initializers.keys(),
  ...model.nodes.flatMap((n) => n.outputs.filter(Boolean)),
]
const run = async (inputs: Values, outputs: Values, feeds: Record<string, ReturnType<typeof float32>>) => {
  const got = await (await runtime.compile(inputs, outputs))(feeds)
  return Object.fromEntries(Object.entries(got).map(([name, t]) => [name, [...t.shape, "|", ...t.data].join(" ")]))
}
/** onnxruntime itself takes the bytes as a model. */
async function accepted(bytes: Uint8Array): Promise<void> {
  const session = await load("onnxruntime-node").InferenceSession.create(bytes)
  await session.release()
}

describe("a graph cut", () => {
  const middle = ops.exp(ops.add(x, w))
  const y = ops.mul(middle, w)

  it("in the middle does not hold what is before", async () => {
    const model = made({ x, middle }, { y })
    expect([...model.inputs.keys()]).toEqual(["middle"])
    expect(model.nodes.map((n) => n.op)).toEqual(["Mul"])
    expect([...model.initializers.keys()]).toEqual(["w"])
    expect(await run({ x, middle }, { y }, { middle: one })).toEqual({ y: "1 2 | 15 24" })
  })

  it("at a weight takes it as input", async () => {
    const model = made({ x, weight: w }, { y })
    expect([...model.inputs.keys()]).toEqual(["x", "weight"])
    expect(model.initializers.size).toBe(0)
    expect(await run({ weight: w, x }, { y: ops.mul(x, w) }, { x: one, weight: float32([2], [1, 0]) })).toEqual({
      y: "1 2 | 5 0",
    })
  })

  it("gives back as output what is fed, also in another shape, and with nothing else to compute", async () => {
    const flat = ops.reshape(x, ["2*b"])
    expect(await run({ x }, { x, flat, z: ops.neg(x) }, { x: one })).toEqual({
      x: "1 2 | 5 6",
      flat: "2 | 5 6",
      z: "1 2 | -5 -6",
    })
    expect(await run({ x }, { same: x, flat }, { x: one })).toEqual({ same: "1 2 | 5 6", flat: "2 | 5 6" })
  })

  it("gives weights and constants", async () => {
    const outputs = { w, c: ops.scalar(7), turned: ops.reshape(w, [2, 1]) }
    expect(await run({}, outputs, {})).toEqual({ w: "2 | 3 4", c: "| 7", turned: "2 1 | 3 4" })
  })

  it("computes once what two outputs share, and puts a reshape out as it lies", async () => {
    const shared = ops.neg(x)
    const outputs = { a: shared, b: ops.reshape(shared, ["2*b"]), c: ops.exp(shared) }
    const model = made({ x }, outputs)
    expect(model.nodes.map((n) => n.op)).toEqual(["Neg", "Exp"])
    expect(model.outputs.size).toBe(2)
    const got = await run({ x }, outputs, { x: float32([1, 2], [0, -1]) })
    expect(got["a"]).toBe("1 2 | 0 1")
    expect(got["b"]).toBe("2 | 0 1")
  })

  it("reads a matrix that is a transpose as it is stored, or as it is fed", async () => {
    const t = ops.param("t", [2, 1], float32([2, 1], [3, 4]))
    const turned = ops.transpose(t, [1, 0])
    const y = {
      y: ops.linear(x, turned),
      both: ops.gemm(ops.transpose(x, [1, 0]), turned, { transA: true, transB: true }),
    }
    // The two are one product of what is stored.
    expect(made({ x }, y).nodes.map((n) => n.op)).toEqual(["Gemm"])
    expect(await run({ x }, y, { x: one })).toEqual({ y: "1 1 | 39", both: "1 1 | 39" })
    expect(await run({ x, turned }, y, { x: one, turned: float32([1, 2], [1, 0]) })).toMatchObject({ y: "1 1 | 5" })
    const still = ops.transpose(ops.param("s", [1, 2], float32([1, 2], [3, 4])), [0, 1])
    expect(await run({ x }, { y: ops.linear(x, still) }, { x: one })).toEqual({ y: "1 1 | 39" })
  })

  it("computes once what is written twice, under each name that an output needs", async () => {
    const twice = { y: ops.add(ops.exp(x), ops.exp(x)), z: ops.exp(x) }
    expect(made({ x }, twice).nodes.map((n) => n.op)).toEqual(["Exp", "Add"])
    const named = readModel(emit({ x }, { ...twice, again: ops.exp(x) }, { named: true }).bytes)
    expect(named.nodes.map((n) => n.op).sort()).toEqual(["Add", "Exp", "Identity", "Identity"])
    expect([...named.outputs.keys()]).toEqual(["y", "z", "again"])
  })

  it("tells apart what differs in a number that JSON does not have", () => {
    const times = (factor: number) => ops.matmul(ops.mul(x, ops.scalar(factor)), x, { transB: true })
    const all = { up: times(Infinity), down: times(-Infinity), zero: times(0), below: times(-0) }
    expect(readModel(emit({ x }, all, { fused: true }).bytes).nodes.map((n) => n.op)).toEqual(
      Array(4).fill("FusedMatMul"),
    )
  })

  it("makes one node of a norm and its scale, and of two equal norms", () => {
    const g = ops.param("g", [2], float32([2], [1, 1]))
    const [normed, std] = [ops.layerNorm(x, g, w, 1e-6), ops.layerNormInvStd(x, g, w, 1e-6)]
    const [node, ...rest] = made({ x }, { normed, std }).nodes
    expect(rest).toEqual([])
    expect(node).toMatchObject({ op: "LayerNormalization", inputs: ["x", "g", "w"] })
    expect(node!.outputs.map(Boolean)).toEqual([true, false, true])
    const again = ops.layerNorm(x, g, w, 1e-6)
    expect(made({ x }, { normed, again }).nodes).toHaveLength(1)
    expect(made({ x }, { y: ops.add(normed, again) }).nodes.map(({ op }) => op)).toEqual(["LayerNormalization", "Add"])
    const named = readModel(emit({ x }, { normed, again }, { named: true }).bytes)
    expect(named.nodes.map(({ op }) => op)).toEqual(["LayerNormalization", "Identity"])
  })

  it("reads a dimension from an input that is fed in any case", async () => {
    const u = ops.input("u", ["b", 2])
    const v = ops.mul(ops.expand(ops.scalar(2), ["b", 2]), u)
    expect(emit({ x, u }, { v }).inputs).toEqual(["u"])
    expect(await run({ x, u }, { v }, { u: one })).toEqual({ v: "1 2 | 10 12" })
    expect(emit({ x, u }, { v: ops.expand(ops.scalar(2), ["b"]) }).inputs).toEqual(["x"])
    const c = ops.input("c", ["c"])
    const product = { x: float32([2, 2], [0, 0, 0, 0]), c: float32([1], [0]) }
    expect(await run({ x, c }, { w: ops.expand(ops.scalar(2), ["2*b*c"]) }, product)).toEqual({ w: "4 | 2 2 2 2" })
  })

  it.each<[string, Values, Values, RegExp]>([
    ["an input that is not fed", {}, { y }, /^the outputs need the input "x", which is not fed$/],
    ["a weight without values", {}, { y: ops.param("v", [1]) }, /^the weight "v" has no values and is not fed$/],
    [
      "a dimension that no input has",
      { x },
      { y: ops.expand(w, ["q", 2]) },
      /^dimension "q" is not bound by any input$/,
    ],
  ])("refuses %s", (_, inputs, outputs, message) => {
    expect(() => emit(inputs, outputs)).toThrow(message)
    expect(() => emit(inputs, outputs)).toThrow(expect.objectContaining({ code: "E_INPUT" }))
  })

  it("refuses a weight in a file where no location is given, and writes the one that is", () => {
    const stored = {
      dtype: "float32",
      shape: [2],
      file: "/a/model.safetensors",
      offset: 5_000_000_001,
      length: 8,
    } as const
    const v = ops.param("v", [2], stored)
    expect(() => emit({ x }, { y: ops.add(x, v) })).toThrow(/^the weight "v" lies in \/a\/model\.safetensors/)
    const model = made({ x }, { y: ops.add(x, v) }, { locate: (file) => file.slice(3) })
    expect(model.initializers.get("v")).toEqual({
      dims: [2],
      type: 1,
      raw: new Uint8Array(),
      external: { location: "model.safetensors", offset: "5000000001", length: "8" },
    })
  })
})

describe("names", () => {
  it("of outputs are their own where asked, whatever weights and nodes are called", async () => {
    const y = ops.neg(ops.add(x, w))
    const outputs = { w: y, add_2: ops.exp(y), neg_3: ops.add(x, w), copy: y }
    const { bytes, outputs: ports } = emit({ x }, outputs, { named: true })
    const model = readModel(bytes)
    expect([...model.outputs.keys()]).toEqual(["w", "add_2", "neg_3", "copy"])
    expect([...ports.values()].map((p) => p.port)).toEqual(["w", "add_2", "neg_3", "copy"])
    expect(new Set(names(model)).size).toBe(names(model).length)
    expect([...model.initializers.keys()]).toEqual(["w~1"])
    await accepted(bytes)
  })

  it("of an output that is an input's, or an input itself, are unique too", async () => {
    for (const outputs of [{ x: ops.neg(x) }, { x }, { y: x, z: x }, { w, y: ops.add(x, w) }]) {
      const { bytes, outputs: ports } = emit({ x }, outputs, { named: true })
      const model = readModel(bytes)
      expect(new Set(names(model)).size).toBe(names(model).length)
      expect([...model.outputs.keys()]).toEqual([...ports.values()].map((p) => p.port))
      await accepted(bytes)
    }
  })

  it("that a node makes for itself give way to those of outputs", async () => {
    const p = ops.input("p", ["r", 2])
    const outputs = { y: ops.orElse(p, x), "y:rows": ops.neg(x), "y:fed": ops.exp(x), "y:then": ops.relu(x) }
    await accepted(emit({ x, p }, outputs, { named: true }).bytes)
    const shape = { dim_b: ops.neg(x), ints_2: ops.exp(x), v: ops.expand(ops.scalar(1), ["b", 2]) }
    await accepted(emit({ x }, shape, { named: true }).bytes)
  })

  it("stay unique for 10^5 hooks and for 10^5 weights of one name, in time", () => {
    const hooks = Object.fromEntries(Array.from({ length: 1e5 }, (_, i) => [`hook_${i}`, ops.add(x, w)]))
    let sum: Value = x
    for (let i = 0; i < 1e5; i++) sum = ops.add(sum, ops.param("w", [], float32([], [1])))
    const start = process.cpuUsage()
    const emitted = [hooks, { w: sum }].map((outputs) => emit({ x }, outputs, { named: true }))
    const { user, system } = process.cpuUsage(start)
    expect((user + system) / 1e6).toBeLessThan(10)
    for (const { bytes } of emitted) expect(() => checkNames(bytes, "model.onnx")).not.toThrow()
    expect(emitted[0]!.outputs.size).toBe(1e5)
    expect([...emitted[1]!.outputs.values()].map((o) => o.port)).toEqual(["w"])
  })

  it("may be any text", async () => {
    const outputs = { "../../etc/x": ops.neg(x), "权 é\n": ops.exp(x), "a b": ops.log(x) }
    const { bytes } = emit({ x }, outputs, { named: true })
    expect([...readModel(bytes).outputs.keys()]).toEqual(Object.keys(outputs))
    await accepted(bytes)
  })
})
