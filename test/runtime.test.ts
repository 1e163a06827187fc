/** @file Sessions: kept by content, dropped over budget, on each device, over any module; what is refused before a run. */
import { mkdirSync, mkdtempSync, readdirSync, rmSync, writeFileSync } from "node:fs"
import { createRequire } from "node:module"
import { availableParallelism, tmpdir } from "node:os"
import { dirname, join, resolve } from "node:path"
import { afterAll, describe, expect, it } from "vitest"
import {
  DEVICES,
  HookedViT,
  loadPretrained,
  ops,
  PrismaError,
  Runtime,
  type OrtModule,
  type Tensor,
} from "../src/index.ts"
import { readTensor } from "../src/files/safetensors-file.ts"
import { physicalCores } from "../src/runtime/cores.ts"
import { load, nodeRuntime } from "../src/runtime/node.ts"
import { float32, int64 } from "../src/tensor/tensor.ts"
import { runTs } from "./helpers/child.ts"
import { change } from "./helpers/causality.ts"
import { compare, readCase } from "./helpers/parity.ts"

const x = ops.input("x", ["b", 2])
const one = float32([1, 2], [5, 7])
const times = (k: number) => ({ y: ops.mul(x, ops.scalar(k)) })
const first = async (runtime: Runtime, k: number) =>
  (await (await runtime.compile({ x }, times(k)))({ x: one })).y.data[0]
const errorOf = async (promise: Promise<unknown>): Promise<PrismaError> =>
  promise.then(
    () => expect.unreachable("nothing was refused"),
    (error: unknown) => (error instanceof PrismaError ? error : expect.unreachable(String(error))),
  )

/** onnxruntime-node behind a wrapper that notes what is asked of it. */
function noted(overrides: Partial<OrtModule> = {}) {
  const ort = load("onnxruntime-node")
  const calls = { create: [] as unknown[], run: 0, release: 0, tensors: 0 }
  const module: OrtModule = {
    InferenceSession: {
      async create(model, options) {
        calls.create.push(options?.["executionProviders"])
        const session = await ort.InferenceSession.create(model, { ...options, executionProviders: ["cpu"] })
        return {
          run: (feeds, fetches) => (calls.run++, session.run(feeds, fetches)),
          release: () => (calls.release++, session.release()),
        }
      },
    },
    Tensor: class extends ort.Tensor {
      constructor(type: never, data: never, dims: readonly number[]) {
        super(type, data, dims)
        calls.tensors++
      }
    },
    ...overrides,
  }
  return { module, calls }
}

describe("cores", () => {
  const machine = (siblings: readonly (string | undefined)[]) => {
    const folder = mkdtempSync(join(tmpdir(), "vit-prisma-cores-"))
    for (const name of ["cpufreq", "cpuidle", ...siblings.keys()]) {
      const list = typeof name === "number" ? siblings[name] : "0"
      const topology = join(folder, typeof name === "number" ? `cpu${name}` : name, "topology")
      mkdirSync(list === undefined ? dirname(topology) : topology, { recursive: true })
      if (list !== undefined) writeFileSync(join(topology, "thread_siblings_list"), `${list}\n`)
    }
    try {
      return physicalCores(folder)
    } finally {
      rmSync(folder, { recursive: true })
    }
  }

  it.each([
    ["a core of two threads", ["0-1", "0-1"], 1],
    ["four threads of two cores, one switched off", ["0,2", "1,3", "0,2", undefined], 2],
    ["one core", ["0"], 1],
    ["none that is told", [undefined, undefined], undefined],
  ] as const)("of %s", (_, siblings, cores) => {
    expect(machine(siblings)).toBe(cores === undefined ? undefined : Math.min(cores, availableParallelism()))
  })

  it("are no more than the process may use, and unknown where nothing tells", () => {
    expect(machine(Array.from({ length: 4096 }, (_, i) => String(i)))).toBe(availableParallelism())
    expect(physicalCores("/nowhere/at/all")).toBe(undefined)
  })

  it("are the threads of a session unless others are asked for", async () => {
    const threads: unknown[] = []
    const { module } = noted()
    const told: OrtModule = {
      ...module,
      InferenceSession: {
        create: (bytes, o) => (threads.push(o?.["intraOpNumThreads"]), module.InferenceSession.create(bytes, o)),
      },
    }
    for (const options of [{}, { threads: 1 }]) await first(nodeRuntime({ module: told, ...options }), 3)
    expect(threads).toEqual([physicalCores(), 1])
  })
})

describe("sessions", () => {
  const folder = resolve(import.meta.dirname, "fixtures/reference/hf-vit-grey-relu")

  it("are one for a thousand patches at one hook", async () => {
    const model = await loadPretrained(folder, { threads: 1 })
    const { inputs } = readCase({ name: "", folder })
    const hook = "blocks.1.hook_resid_mid"
    const base = (await model.runWithCache(inputs, { names: hook })).cache.get(hook)
    const { made } = model.runtime.sessions
    const seen = new Set<string>()
    for (let i = 0; i < 1000; i++) {
      const patch = {
        [hook]: float32(
          base.shape,
          (base.data as Float32Array).map((v) => v * (1 + i / 500)),
        ),
      }
      seen.add(String((await model.run(inputs, { patch })).logits.data))
    }
    expect(model.runtime.sessions.made).toBe(made + 1)
    expect(seen.size).toBe(1000)
    await model.release()
  })

  it("are shared by equal graphs, and not by others", async () => {
    const runtime = nodeRuntime({ threads: 1 })
    expect([await first(runtime, 2), await first(runtime, 2), await first(runtime, 3)]).toEqual([10, 10, 15])
    expect(runtime.sessions).toEqual({ made: 2, kept: 2 })
    await runtime.release()
    expect(runtime.sessions).toEqual({ made: 2, kept: 0 })
    expect(await first(runtime, 2)).toBe(10)
    expect(runtime.sessions).toEqual({ made: 3, kept: 1 })
    await runtime.release()
  })

  it("are dropped over the budget, the least recently used first, and given back", async () => {
    const { module, calls } = noted()
    const runtime = nodeRuntime({ module, memoryBudget: 25 * 2 ** 20 }) // room for two
    for (const k of [1, 2, 1, 3]) await first(runtime, k)
    expect(runtime.sessions).toEqual({ made: 3, kept: 2 })
    expect(calls.release).toBe(1)
    await first(runtime, 1)
    expect(runtime.sessions.made).toBe(3)
    expect(await first(runtime, 2)).toBe(10) // was dropped
    expect(runtime.sessions.made).toBe(4)
    await runtime.release()
    expect(calls.release).toBe(4)
  })

  it("are not dropped while others are made and run at once", async () => {
    const runtime = nodeRuntime({ threads: 1, memoryBudget: 1 })
    const ks = Array.from({ length: 20 }, (_, i) => i)
    expect(await Promise.all(ks.map((k) => first(runtime, k)))).toEqual(ks.map((k) => 5 * k))
    const compiled = await Promise.all(ks.map((k) => runtime.compile({ x }, times(k))))
    const runs = await Promise.all(compiled.map((run) => run({ x: one })))
    expect(runs.map(({ y }) => y.data[1])).toEqual(ks.map((k) => 7 * k))
    expect(runtime.sessions.kept).toBe(1)
    await runtime.release()
  })

  it("that cannot be made, and runs that fail, are errors of one line and leave the runtime as it was", async () => {
    const runtime = nodeRuntime({ threads: 1 })
    const ids = ops.input("ids", ["n"], "int64")
    const bad = await errorOf(runtime.compile({ ids }, { y: ops.erf(ids) }))
    expect(bad).toMatchObject({
      code: "E_RUNTIME",
      message: expect.stringMatching(/^onnxruntime could not make a session: .+$/),
    })
    const rows = await runtime.compile({ ids }, { y: ops.gather(ops.constant(one), ids) })
    const wrong = await errorOf(rows({ ids: int64([1], [9]) }))
    expect(wrong).toMatchObject({
      code: "E_RUNTIME",
      message: expect.stringMatching(/^the model failed while running: .+$/),
    })
    expect((await rows({ ids: int64([1], [0]) })).y.data).toEqual(one.data)
    expect(runtime.sessions).toEqual({ made: 1, kept: 1 })
    await runtime.release()
  })
})

describe("feeds", () => {
  const runtime = nodeRuntime({ threads: 1 })
  afterAll(() => runtime.release())
  const y = ops.input("y", ["b", 3])
  const sum = () => runtime.compile({ x, y }, { s: ops.add(ops.sum(x, [1]), ops.sum(y, [1])) })
  const three = float32([1, 3], [1, 2, 3])

  it.each<[string, Record<string, Tensor>, RegExp]>([
    ["of another dtype", { x: int64([1, 2], [1, 2]), y: three }, /^the input "x" is float32, got int64$/],
    ["of another size", { x: three, y: three }, /^the input "x" wants shape \[b, 2\], got \[1, 3\]$/],
    ["of another rank", { x: float32([2], [1, 2]), y: three }, /^the input "x" wants shape \[b, 2\], got \[2\]$/],
    [
      "of two batches",
      { x: float32([2, 2], [1, 2, 3, 4]), y: three },
      /^"b" is 2 in "x" and 1 in "y"; they must be equal$/,
    ],
    ["that are absent", { x: one }, /^the input "y" \[b, 3\] is needed and was not given$/],
    [
      "that are too short",
      { x: { ...one, data: new Float32Array(1) }, y: three },
      /^the input "x" of shape \[1, 2\] holds 1 values$/,
    ],
  ])("%s are refused", async (_, feeds, message) => {
    const error = await errorOf((await sum())(feeds))
    expect(error.code).toBe("E_INPUT")
    expect(error.message).toMatch(message)
    expect((await errorOf((await sum())(feeds))).message).toBe(error.message)
  })

  it("that nothing needs may be left out, and more may be given", async () => {
    const run = await runtime.compile({ x, y }, { n: ops.neg(x) })
    expect((await run({ x: one })).n.data).toEqual(Float32Array.of(-5, -7))
    expect((await run({ x: one, y: three, z: three })).n.shape).toEqual([1, 2])
  })

  it("of no image give nothing", async () => {
    expect((await (await sum())({ x: float32([0, 2], []), y: float32([0, 3], []) })).s.shape).toEqual([0])
  })
})

describe("devices", () => {
  it.each(DEVICES)("%s runs, or says in one line what it needs", async (device) => {
    const runtime = nodeRuntime({ device, threads: 1 })
    const got = await first(runtime, 3).catch((error: unknown) => error)
    await runtime.release()
    if (got === 15) return
    expect(device).not.toMatch(/^(cpu|auto)$/)
    expect(got).toMatchObject({
      code: "E_DEVICE",
      message: expect.stringMatching(`^device ${device} .*[:;] it (needs|comes|is for) .*$`),
    })
  })

  const backends = (...bundled: string[]) => ({
    listSupportedBackends: () => ["cpu", "cuda", ...bundled].map((name) => ({ name, bundled: bundled.includes(name) })),
  })
  const failing = (name: string, calls: unknown[]): OrtModule["InferenceSession"] => ({
    create(model, options) {
      calls.push(options?.["executionProviders"])
      const asked = options?.["executionProviders"] as string[]
      return asked[0] === name
        ? Promise.reject(new Error(`no ${name}\nat line 2`))
        : load("onnxruntime-node").InferenceSession.create(model, { executionProviders: ["cpu"] })
    },
  })

  it("auto takes the first accelerator that comes with the module", async () => {
    for (const [bundled, want] of [
      [["coreml"], ["coreml", "cpu"]],
      [
        ["dml", "cuda"],
        ["cuda", "cpu"],
      ],
      [[], ["cpu"]],
    ] as const) {
      const { module, calls } = noted(backends(...bundled))
      await first(nodeRuntime({ module, device: "auto" }), 3)
      expect(calls.create).toEqual([want])
    }
  })

  it("auto goes on with the processor where the accelerator does not work, and does not try it again", async () => {
    const calls: unknown[] = []
    const runtime = nodeRuntime({
      module: { ...noted(backends("cuda")).module, InferenceSession: failing("cuda", calls) },
      device: "auto",
    })
    expect([await first(runtime, 3), await first(runtime, 4)]).toEqual([15, 20])
    expect(calls).toEqual([["cuda", "cpu"], ["cpu"], ["cpu"]])
    await runtime.release()
  })

  it("named that does not work is an error, without a second try", async () => {
    const calls: unknown[] = []
    const runtime = nodeRuntime({
      module: { ...noted(backends("cuda")).module, InferenceSession: failing("cuda", calls) },
      device: "cuda",
    })
    const error = await errorOf(first(runtime, 3))
    expect(error).toMatchObject({
      code: "E_DEVICE",
      message: expect.stringMatching(/^device cuda does not work here: no cuda; it needs an NVIDIA GPU/),
    })
    expect(calls).toEqual([["cuda", "cpu"]])
    expect(runtime.sessions).toEqual({ made: 0, kept: 0 })
  })

  it("that a module has not, or that nobody has, are errors that name what there is", async () => {
    const { module } = noted(backends())
    const ask = (device: string) => errorOf(first(nodeRuntime({ module, device: device as "cpu" }), 3))
    expect(await ask("dml")).toMatchObject({
      code: "E_DEVICE",
      message: "device dml is not in this onnxruntime (it has cpu, cuda): it is for Windows",
    })
    expect(await ask("tpu")).toMatchObject({
      code: "E_DEVICE",
      message: `no device tpu; there are ${DEVICES.join(", ")}`,
    })
  })
})

describe("another module", () => {
  const folder = resolve(import.meta.dirname, "fixtures/reference/hf-clip-eos-2")

  it("does all the work when it is given", async () => {
    const { module, calls } = noted()
    const model = await loadPretrained(folder, { module, device: "cpu" })
    const { inputs, expected } = readCase({ name: "", folder })
    const { logits_per_image } = await model.run(inputs)
    expect(compare(logits_per_image, expected.get("logits_per_image")!).problem).toBeUndefined()
    await model.release()
    expect(calls).toEqual({ create: [["cpu"]], run: 1, release: 1, tensors: 7 })
  })

  it("may be onnxruntime-web, with weights in memory", async () => {
    const web = createRequire(import.meta.url)("onnxruntime-web") as OrtModule & {
      env: { wasm: { numThreads: number } }
    }
    web.env.wasm.numThreads = 1
    const { config, weights } = await loadPretrained(folder)
    const loaded = await Promise.all(
      [...weights].map(async ([name, w]) => {
        const tensor = "data" in w.tensor ? w.tensor : await readTensor(w.tensor)
        return [name, { ...w, tensor }] as const
      }),
    )
    const model = new HookedViT({ config, weights: new Map(loaded), runtime: new Runtime(web) })
    const { inputs, expected } = readCase({ name: "", folder })
    const hook = "blocks.0.ln1.hook_scale"
    const { cache, logits_per_image } = await model.runWithCache(inputs)
    expect(compare(logits_per_image, expected.get("logits_per_image")!).problem).toBeUndefined()
    expect(compare(cache.get(hook), expected.get(hook)!).problem).toBeUndefined()
    const same = await model.run(inputs, { hooks: { [hook]: () => {} } })
    expect(change(same.logits_per_image, logits_per_image)).toBeLessThan(1e-5)
    await model.release()
  })

  it("that is not installed is an error of one line", () => {
    expect(() => load("onnxruntime-nowhere")).toThrow(expect.objectContaining({ code: "E_RUNTIME" }))
    expect(() => load("onnxruntime-nowhere")).toThrow(
      /^onnxruntime-nowhere does not load: Cannot find module 'onnxruntime-nowhere'$/,
    )
  })
})

describe("telemetry", () => {
  it("is off before onnxruntime is loaded, which is at first use, and nothing is written", async () => {
    const home = mkdtempSync(join(tmpdir(), "vit-prisma-home-"))
    const env = { HOME: home, XDG_CACHE_HOME: join(home, "cache"), TMPDIR: home, ORT_DISABLE_TELEMETRY: "" }
    const preload = `
      import Module from "node:module"
      const load = Module._load
      Module._load = function (name, ...rest) {
        if (name === "onnxruntime-node") console.log("loaded with " + process.env.ORT_DISABLE_TELEMETRY)
        return load.call(this, name, ...rest)
      }`
    const source = `
      import { ops } from "../src/core.ts"
      import { nodeRuntime } from "../src/runtime/node.ts"
      import { float32 } from "../src/tensor/tensor.ts"
      console.log("imported with " + process.env.ORT_DISABLE_TELEMETRY)
      const x = ops.input("x", [1])
      const run = await nodeRuntime().compile({ x }, { y: ops.neg(x) })
      console.log((await run({ x: float32([1], [2]) })).y.data[0])`
    const { code, stdout, stderr } = await runTs(source, { env, preload })
    expect({ code, stderr }).toEqual({ code: 0, stderr: "" })
    expect(stdout.trim().split("\n")).toEqual(["imported with ", "loaded with 1", "-2"])
    expect(readdirSync(home)).toEqual([])
    rmSync(home, { recursive: true })
  })
})
