/** @file Outputs computed where they are to lie: the same values as by copies, what other modules do, and arrays given back. */
import { resolve } from "node:path"
import { afterAll, describe, expect, it } from "vitest"
import { HookedViT, loadPretrained, ops, Runtime, type OrtModule, type PrismaError } from "../src/index.ts"
import { load, nodeRuntime } from "../src/runtime/node.ts"
import type { OrtSession, OrtTensor } from "../src/runtime/ort.ts"
import { bytesOf, float32, int64, type Tensor } from "../src/tensor/tensor.ts"

const ort = load("onnxruntime-node")
const copies = new Runtime(ort, { threads: 1 })
const inPlace = nodeRuntime({ threads: 1 })
afterAll(async () => {
  await copies.release()
  await inPlace.release()
})

type Run = OrtSession["run"]

/** onnxruntime-node whose sessions run as `change` has it, and every fetch they were asked for. */
function changed(change: (run: Run) => Run): { module: OrtModule; asked: (readonly string[] | object)[] } {
  const asked: (readonly string[] | object)[] = []
  const module: OrtModule = {
    Tensor: ort.Tensor,
    InferenceSession: {
      async create(bytes, options) {
        const session = await ort.InferenceSession.create(bytes, options)
        const run = change((feeds, fetches) => session.run(feeds, fetches))
        return { run: (feeds, fetches) => (asked.push(fetches), run(feeds, fetches)), release: () => session.release() }
      },
    },
  }
  return { module, asked }
}

const x = ops.input("x", ["b", 2])
const some = float32([3, 2], [1, -2, 3, -4, 5, -6])

/** Of each dtype and kind: computed, a view of it, a weight, what was fed, nothing at all, one number. */
const outputs = {
  product: ops.mul(x, ops.scalar(3)),
  view: ops.reshape(ops.mul(x, ops.scalar(3)), [2, "b"]),
  best: ops.argMax(x),
  positive: ops.greater(x, ops.scalar(0)),
  weight: ops.constant(float32([2], [8, 9])),
  fed: x,
  empty: ops.slice(x, 1, 2, 2),
  sum: ops.sum(x, [0, 1]),
}

describe("a run in place", () => {
  it("gives what copies give, of every dtype and kind", async () => {
    const [ours, theirs] = await Promise.all(
      [inPlace, copies].map(async (runtime) => (await runtime.compile({ x }, outputs))({ x: some })),
    )
    expect(ours).toEqual(theirs)
    expect(ours!.product.data).toEqual(Float32Array.of(3, -6, 9, -12, 15, -18))
    expect(ours!.view.shape).toEqual([2, 3])
    expect(ours!.empty.shape).toEqual([3, 0])
    expect(ours!.fed.data).toBe(some.data)
  })

  it("copies nothing: onnxruntime is asked with the arrays that the results lie in", async () => {
    const { module, asked } = changed((run) => run)
    const runtime = nodeRuntime({ module, threads: 1 })
    const run = await runtime.compile({ x }, { y: outputs.product })
    const { y } = await run({ x: some })
    await run({ x: some })
    expect(asked).toHaveLength(2)
    const handed = Object.values(asked[0] as Record<string, Tensor | null>).filter((t) => t !== null)
    expect(handed.map((t) => t.data)).toEqual([y.data])
    expect(handed[0]!.data.buffer).toBe(y.data.buffer)
    await runtime.release()
  })

  const nothing: Run = async () => ({})
  it.each<[string, (run: Run) => Run, number]>([
    [
      "copies, and leaves alone what it was handed",
      (run) => (feeds, fetches) =>
        Array.isArray(fetches) ? run(feeds, fetches) : Promise.reject(new Error("Non tensor type is not supported")),
      // In vain once, then no more.
      3,
    ],
    [
      "refuses arrays",
      (run) => (feeds, fetches) => (Array.isArray(fetches) ? run(feeds, fetches) : Promise.reject(new Error("no"))),
      3,
    ],
    [
      "makes tensors of anything",
      (run) => (feeds, fetches) => (Array.isArray(fetches) ? run : nothing)(feeds, fetches),
      3,
    ],
  ])("is given up with a module that %s", async (_, change, runs) => {
    const { module, asked } = changed(change)
    const runtime = nodeRuntime({ module, threads: 1 })
    const run = await runtime.compile({ x }, { y: outputs.product })
    for (let i = 0; i < 2; i++) expect((await run({ x: some })).y.data).toEqual(Float32Array.of(3, -6, 9, -12, 15, -18))
    const { z } = await (await runtime.compile({ x }, { z: ops.mul(x, ops.scalar(2)) }))({ x: some })
    expect(z.data).toEqual(Float32Array.of(2, -4, 6, -8, 10, -12))
    expect(asked.filter(Array.isArray)).toHaveLength(runs)
    expect(asked).toHaveLength(runs + 1)
    await runtime.release()
  })

  it("tells of a run that fails, the first as any other, and goes on", async () => {
    const table = ops.input("table", ["rows", 2])
    const at = ops.input("at", ["n"], "int64")
    const runtime = nodeRuntime({ threads: 1 })
    const run = await runtime.compile({ table, at }, { y: ops.gather(table, at), sum: ops.sum(table, [0, 1]) })
    const ask = (row: number) => run({ table: some, at: int64([1], [row]) })
    for (const row of [7, 1, 7, 2]) {
      const asked = ask(row)
      if (row < 3) expect((await asked).y.data).toEqual(some.data.slice(2 * row, 2 * row + 2))
      else await expect(asked).rejects.toThrow(expect.objectContaining({ code: "E_RUNTIME" }) as PrismaError)
    }
    await runtime.release()
  })
})

describe("arrays given back", () => {
  it("are written again, and empty for whoever holds them; others are left alone", async () => {
    const { module, asked } = changed((run) => run)
    const runtime = nodeRuntime({ module, threads: 1 })
    const run = await runtime.compile({ x }, outputs)
    const first = await run({ x: some })
    const kept = await run({ x: some })
    const before = Object.values(kept).map((t) => bytesOf(t).slice())
    const { buffer } = first.view.data
    structuredClone(buffer, { transfer: [buffer as ArrayBuffer] })
    runtime.giveBack(Object.values(first))
    runtime.giveBack(Object.values(first))
    expect(first.product.data).toHaveLength(0)
    expect(some.data).toEqual(Float32Array.of(1, -2, 3, -4, 5, -6))
    const other = float32([3, 2], [7, 7, 7, 7, 7, 7])
    const again = await run({ x: other })
    expect(again.product.data).toEqual(new Float32Array(6).fill(21))
    expect(again.fed.data).toBe(other.data)
    expect(Object.values(kept).map((t) => bytesOf(t))).toEqual(before)
    expect(asked).toHaveLength(3)
    await runtime.release()
  })

  it("are no more than the budget, or than ever came at once", async () => {
    const { InPlace } = await import("../src/runtime/in-place.ts")
    let made = 0
    const arrays = new InPlace((n) => ((made += n), new ArrayBuffer(n)), 100)
    const session: OrtSession = {
      async run(_, fetches) {
        for (const t of Object.values(fetches as Record<string, OrtTensor | null>))
          if (t !== null) (t.data as Uint8Array).fill(1)
        throw new Error("Non tensor type")
      },
      release: async () => {},
    }
    const get = async (...sizes: number[]) => {
      const ports = sizes.map((n, i) => ({ name: String(i), dtype: "uint8" as const, shape: [n] }))
      return (await arrays.run(session, {}, ports, (t) => ({ type: t.dtype, dims: t.shape, data: t.data })))!
    }
    const [small, large] = [await get(30, 30), await get(80, 90)]
    arrays.giveBack(small)
    expect(arrays.bytes).toBe(60)
    arrays.giveBack(large)
    arrays.giveBack([])
    expect(arrays.bytes).toBe(170)
    expect(made).toBe(230)
    arrays.giveBack(await get(20))
    // One of 80 or 90 went for it.
    expect([80, 90]).toContain(190 - arrays.bytes)
    const next = await get(90, 80, 30)
    expect(arrays.bytes).toBe(20)
    // The memory is the same, the object another: nobody else can reach it.
    expect(next.map((t) => t.data[0])).toEqual([1, 1, 1])
    expect(large.map((t) => t.data.length)).toEqual([0, 0])
    arrays.giveBack(next)
    arrays.clear()
    expect(arrays.bytes).toBe(0)
  })
})

describe("a cache that is disposed of", () => {
  const folder = resolve(import.meta.dirname, "fixtures/reference/hf-vit-grey-relu")

  it("holds nothing; outputs, images and patches stay, and the next run is right", async () => {
    const model = await loadPretrained(folder, { threads: 1 })
    const { nChannels, imageSize } = model.config.vision
    const shape = [2, nChannels, ...imageSize]
    const image = (seed: number) =>
      float32(
        shape,
        Float32Array.from({ length: shape.reduce((a, b) => a * b) }, (_, i) => Math.sin(i * seed)),
      )
    const plain = new HookedViT({ config: model.config, weights: model.weights, runtime: copies })
    const name = "blocks.1.hook_resid_pre"
    const { cache: other } = await model.runWithCache(image(3), { names: name })
    const patch = { [name]: other.get(name) }
    const bytes = bytesOf(patch[name]).slice()
    for (const seed of [1, 2]) {
      const { cache, ...outputs } = await model.runWithCache(image(seed), { patch })
      const { cache: wanted, ...expected } = await plain.runWithCache(image(seed), { patch })
      expect(Object.fromEntries(cache)).toEqual(Object.fromEntries(wanted))
      const pattern = cache.pattern(0)
      cache.dispose()
      cache.dispose()
      expect(outputs).toEqual(expected)
      expect(pattern.data).toHaveLength(0)
      expect(cache.names).toEqual([])
      expect(() => cache.pattern(0)).toThrow(/^"blocks.0.attn.hook_pattern" is not here: .* disposed of$/)
      // A patch is what the hook holds, and the caller's, though the runtime made it.
      expect(bytesOf(patch[name])).toEqual(bytes)
    }
    other.dispose()
    expect(bytesOf(patch[name])).toEqual(bytes)
    await model.release()
  })
})
