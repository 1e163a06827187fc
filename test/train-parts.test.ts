/** @file The parts of a training step, each against loops in float64 written from its formula: optimizers, clipping, losses, schedules, masks. */
import { afterAll, describe, expect, it } from "vitest"
import { grad } from "../src/autodiff/grad.ts"
import { defineConfig, InductionConfig, initOptions, modelConfig, type ConfigOverrides } from "../src/configs/index.ts"
import { add, concat, div, input, mean, mul, reshape, scalar, sub, sum } from "../src/graph/ops.ts"
import type { Value } from "../src/graph/value.ts"
import { initialise } from "../src/model/init.ts"
import { load, nodeRuntime } from "../src/runtime/node.ts"
import { Runtime } from "../src/runtime/runtime.ts"
import { float32, int64, tensor, type Tensor } from "../src/tensor/tensor.ts"
import { cut, feedsOf, flatten, layout, pieceValues, type Layout, type Pieces } from "../src/train/layout.ts"
import { countCorrect, crossEntropy, meanSquaredError, reconstruction } from "../src/train/losses.ts"
import { trainedModel } from "../src/train/objective.ts"
import type { OptimizerName } from "../src/train/optimizers.ts"
import { taskOf } from "../src/train/plan.ts"
import { learningRate, type ScheduleOptions } from "../src/train/schedule.ts"
import { trainingStep, type StepOptions } from "../src/train/step.ts"
import { stepper, type Vectors } from "../src/train/stepper.ts"
import { mulberry32 } from "./helpers/causality.ts"
import { evaluate } from "./helpers/evaluate.ts"
import { binary, make, type Numbers } from "./helpers/loops.ts"

const runtime = nodeRuntime({ threads: 1 })
afterAll(() => runtime.release())

const random = mulberry32(5)
const numbers = (n: number, from = -1, to = 1) => Array.from({ length: n }, () => from + (to - from) * random())
const total = (values: readonly number[]) => values.reduce((a, b) => a + b, 0)
/** The largest difference, as a share of the largest number. */
const apart = (got: ArrayLike<number>, want: readonly number[]) =>
  Math.max(...want.map((x, i) => Math.abs(x - got[i]!))) / Math.max(...want.map(Math.abs))

const joined = (pieces: Pieces): number[] => pieces.flatMap((piece) => [...piece])

const N = 6
/** In two pieces, as a vector of millions is. */
const SHAPES: Layout = {
  ...layout([
    ["a", [2, 2]],
    ["b", [2]],
  ]),
  pieces: [
    [0, 4],
    [4, 6],
  ],
}
const CURVATURE = [0.3, 2, 0.05, 1, 0.5, 4]
/** The mean over x [b, 6] of x w + c w^2 / 2, whose gradient is mean(x) + c w. */
function quadratic(w: Value) {
  const x = input("x", ["batch", N])
  const straight = sum(mul(mean(x, [0]), w), [0])
  const c = input("c", [N])
  return { inputs: { x, c }, loss: add(straight, mul(sum(mul(c, mul(w, w)), [0]), scalar(0.5))), metrics: {} }
}
const given = (x: readonly number[]) => ({ x: float32([x.length / N, N], x), c: float32([N], CURVATURE) })
const means = (x: readonly number[]) =>
  CURVATURE.map((_, j) => total(x.filter((__, i) => i % N === j)) / (x.length / N))
const gradient = (x: readonly number[], w: readonly number[]) => means(x).map((m, j) => m + CURVATURE[j]! * w[j]!)
const norm = (g: readonly number[]) => Math.sqrt(total(g.map((v) => v * v)))

const OPTIONS = { betas: [0.9, 0.99], eps: 1e-3, weightDecay: 0, momentum: 0, nesterov: false } as const
const START = numbers(N)
const optimized = (options: StepOptions) =>
  stepper(runtime, trainingStep(SHAPES, quadratic, options), options, { w: cut(SHAPES, Float32Array.from(START)) })

/** A step of each optimizer as PyTorch's pages write it (https://docs.pytorch.org/docs/stable/optim.html); t = 1, 2, ... */
type Loop = (o: StepOptions, w: number[], g: number[], lr: number, t: number, m: number[], v: number[]) => void
const adam =
  (decoupled: boolean): Loop =>
  ({ betas: [b1, b2], eps, weightDecay }, w, g, lr, t, m, v) => {
    for (let i = 0; i < w.length; i++) {
      let d = g[i]!
      if (decoupled) w[i] = w[i]! - lr * weightDecay * w[i]!
      else d += weightDecay * w[i]!
      m[i] = b1 * m[i]! + (1 - b1) * d
      v[i] = b2 * v[i]! + (1 - b2) * d * d
      w[i] = w[i]! - (lr * (m[i]! / (1 - b1 ** t))) / (Math.sqrt(v[i]! / (1 - b2 ** t)) + eps)
    }
  }
const sgd: Loop = ({ weightDecay, momentum, nesterov }, w, g, lr, t, m) => {
  for (let i = 0; i < w.length; i++) {
    let d = g[i]! + weightDecay * w[i]!
    if (momentum) {
      m[i] = t === 1 ? d : momentum * m[i]! + d
      d = nesterov ? d + momentum * m[i]! : m[i]!
    }
    w[i] = w[i]! - lr * d
  }
}
const LOOPS: { readonly [O in OptimizerName]: Loop } = { AdamW: adam(true), Adam: adam(false), SGD: sgd }

describe("20 steps of", () => {
  const momentum = { momentum: 0.9 }
  it.each<[OptimizerName, Partial<StepOptions>]>([
    ["AdamW", {}],
    ["AdamW", { weightDecay: 0.1 }],
    ["AdamW", { weightDecay: 0.1, maxGradNorm: 0.5, betas: [0.5, 0.7] }],
    ["Adam", {}],
    ["Adam", { weightDecay: 0.1 }],
    ["Adam", { eps: 1e-8, maxGradNorm: 0.5 }],
    ["SGD", {}],
    ["SGD", { weightDecay: 0.1 }],
    ["SGD", momentum],
    ["SGD", { ...momentum, weightDecay: 0.1, maxGradNorm: 0.5 }],
    ["SGD", { ...momentum, nesterov: true }],
    ["SGD", { ...momentum, nesterov: true, weightDecay: 0.1 }],
    ["SGD", { maxGradNorm: 1e6 }],
  ])("%s %j are those of PyTorch's formulas", async (optimizer, some) => {
    const options: StepOptions = { ...OPTIONS, ...some, optimizer }
    const state = optimized(options)
    const w = joined(state.vectors["w"]!)
    const [m, v] = [w.map(() => 0), w.map(() => 0)]
    let clipped = 0
    for (let t = 1; t <= 20; t++) {
      const [x, lr] = [numbers(3 * N), 0.1 / t + 0.01]
      const report = await state.step([given(x)], lr, t)
      const g = gradient(x, w)
      expect(Math.abs(report["gradNorm"]! / norm(g) - 1)).toBeLessThan(1e-5)
      // clip_grad_norm_: the norm of all gradients together, and min(1, limit / (norm + 1e-6))
      const factor = Math.min(1, (options.maxGradNorm ?? Infinity) / (norm(g) + 1e-6))
      if (factor < 1) clipped++
      const scaled = g.map((d) => factor * d)
      LOOPS[optimizer](options, w, scaled, lr, t, m, v)
    }
    expect(clipped > 0).toBe(options.maxGradNorm === 0.5)
    expect(apart(joined(state.vectors["w"]!), w)).toBeLessThan(5e-6)
  })
})

describe("a step", () => {
  it("over 4 batches is one over a batch of 4 times the size", async () => {
    const whole: StepOptions = { ...OPTIONS, optimizer: "AdamW", weightDecay: 0.1, maxGradNorm: 0.5 }
    const [one, four] = [optimized(whole), optimized({ ...whole, accumulation: 4 })]
    for (let t = 1; t <= 20; t++) {
      const x = numbers(12 * N)
      const parts = [0, 1, 2, 3].map((i) => given(x.slice(3 * N * i, 3 * N * (i + 1))))
      const [a, b] = [await one.step([given(x)], 0.1, t), await four.step(parts, 0.1, t)]
      expect(Math.abs(a["loss"]! - b["loss"]!)).toBeLessThan(1e-6)
      expect(Math.abs(a["gradNorm"]! - b["gradNorm"]!)).toBeLessThan(1e-6)
    }
    expect(apart(joined(four.vectors["w"]!), joined(one.vectors["w"]!))).toBeLessThan(1e-6)
    expect(Object.keys(four.vectors)).toEqual(["w", "m", "v"])
    await expect(four.step([given(numbers(N))], 0.1, 21)).rejects.toMatchObject({
      code: "E_INPUT",
      message: "step 21: expected 4 batches, got 1",
    })
  })

  it("of a ViT over 4 batches is one over a batch of 4 times the size", async () => {
    const { config, trained } = small({})
    const vit = (accumulation: number) => {
      const options: StepOptions = { ...OPTIONS, optimizer: "SGD", accumulation }
      const step = trainingStep(trained.layout, (flat) => trained.objective(flat, "training"), options)
      return stepper(runtime, step, options, { w: flatten(trained.layout, initialise(modelConfig(config))) })
    }
    const [one, four] = [vit(1), vit(4)]
    const batch = (x: readonly number[]) => ({
      images: float32([x.length / 64, 1, 8, 8], x),
      labels: int64(
        [x.length / 64],
        Array.from({ length: x.length / 64 }, (_, i) => i % 4),
      ),
    })
    for (let t = 1; t <= 5; t++) {
      const x = numbers(16 * 64)
      const parts = [0, 1, 2, 3].map((i) => batch(x.slice(256 * i, 256 * (i + 1))))
      await one.step([batch(x)], 0.05, t)
      await four.step(parts, 0.05, t)
    }
    expect(apart(joined(four.vectors["w"]!), joined(one.vectors["w"]!))).toBeLessThan(1e-6)
  })

  it.each([
    ["attn.k.bias", false],
    ["attn.k_norm.bias", true],
  ])("leaves what softmax takes off again as it is: %s", async (name, qknorm) => {
    const { config, trained } = small({ architecture: "preLN", layernorm: { qknorm } })
    const options: StepOptions = { ...OPTIONS, optimizer: "AdamW", weightDecay: 0 }
    const step = trainingStep(trained.layout, (flat) => trained.objective(flat, "training"), options)
    const w = flatten(trained.layout, initialise(modelConfig(config)))
    const state = stepper(runtime, step, options, { w })
    await state.step([{ images: float32([4, 1, 8, 8], numbers(256)), labels: int64([4], [0, 1, 2, 3]) }], 0.1, 1)
    const [start, after] = [joined(w), joined(state.vectors["w"]!)]
    const still = [...trained.layout.places].filter(([, { shape, offset }]) => {
      const end = offset + shape.reduce((a, b) => a * b, 1)
      return start.slice(offset, end).every((x, i) => x === after[offset + i])
    })
    expect(still.map(([weight]) => weight)).toEqual([0, 1].map((i) => `blocks.${i}.${name}`))
  })

  it("keeps a moving average of the weights", async () => {
    const state = optimized({ ...OPTIONS, optimizer: "SGD", emaDecay: 0.8 })
    const ema = joined(state.vectors["w"]!)
    expect(joined(state.vectors["ema"]!)).toEqual(ema)
    for (let t = 1; t <= 20; t++) {
      await state.step([given(numbers(N))], 0.1, t)
      for (const [i, w] of joined(state.vectors["w"]!).entries()) ema[i] = 0.8 * ema[i]! + 0.2 * w
    }
    expect(apart(joined(state.vectors["ema"]!), ema)).toBeLessThan(1e-6)
    expect(apart(joined(state.vectors["ema"]!), joined(state.vectors["w"]!))).toBeGreaterThan(0.01)
  })

  it.each([1, 3])("over %d batches writes to what nobody sees any more, and to nothing else", async (accumulation) => {
    const copies = new Runtime(load("onnxruntime-node"), { threads: 1 })
    const options: StepOptions = { ...OPTIONS, optimizer: "AdamW", emaDecay: 0.8, accumulation }
    const step = trainingStep(SHAPES, quadratic, options)
    const start = Float32Array.from(START)
    const [ours, theirs] = [runtime, copies].map((r) => stepper(r, step, options, { w: cut(SHAPES, start) }))
    const seen = new Map<number, Vectors>()
    const wanted = new Map<number, Vectors>()
    const lent: [number, () => Promise<void>][] = []
    const late = new Map<number, Vectors>()
    for (let t = 1; t <= 12; t++) {
      const bad = t === 6 ? NaN : 1
      const batches = Array.from({ length: accumulation }, () => given([bad, ...numbers(N - 1)]))
      expect(await ours!.step(batches, 0.1, t)).toEqual(await theirs!.step(batches, 0.1, t))
      if (t % 4 === 0) seen.set(t, ours!.vectors)
      // Twice, and given back one after the other some steps later.
      const look = async (vectors: Vectors) => void late.set(t, structuredClone(vectors))
      if (t % 4 === 1) lent.push([t + 2, ours!.borrow(look)], [t + 5, ours!.borrow(look)])
      for (const [when, done] of lent) if (when === t) await done()
      wanted.set(t, structuredClone(theirs!.vectors))
    }
    expect([...late.keys()]).toEqual([1, 5, 9])
    for (const [t, vectors] of [...seen, ...late]) expect(vectors, String(t)).toEqual(wanted.get(t))
    expect([...start]).toEqual([...Float32Array.from(START)])
    // Nor to what another began with, though the same runtime made it.
    const last = structuredClone(ours!.vectors)
    const another = stepper(runtime, step, options, ours!.vectors)
    for (let t = 13; t < 16; t++) await another.step(Array(accumulation).fill(given(numbers(N))), 0.1, t)
    expect(ours!.vectors).toEqual(last)
    await copies.release()
  })

  it.each([NaN, Infinity])("changes nothing where a gradient is %d", async (bad) => {
    const state = optimized({ ...OPTIONS, optimizer: "AdamW", emaDecay: 0.8 })
    await state.step([given(numbers(N))], 0.1, 1)
    const before = state.vectors
    const report = await state.step([given([bad, ...numbers(N - 1)])], 0.1, 2)
    expect(Number.isFinite(report["gradNorm"])).toBe(false)
    expect(state.vectors).toBe(before)
  })

  it("that is aborted between two batches changes nothing", async () => {
    const state = optimized({ ...OPTIONS, optimizer: "AdamW", accumulation: 2 })
    const before = state.vectors
    const stepped = state.step([given(numbers(N)), given(numbers(N))], 0.1, 1, AbortSignal.abort())
    await expect(stepped).rejects.toMatchObject({ code: "E_INTERRUPTED" })
    expect(state.vectors).toBe(before)
  })
})

describe("losses", () => {
  const run = async (loss: Value, inputs: Record<string, Value>, feeds: Record<string, Tensor>) =>
    Number((await (await runtime.compile(inputs, { loss }))(feeds)).loss.data[0])

  it.each([0, 0.1, 0.5])("cross entropy with label smoothing %d", async (e) => {
    const [b, classes] = [5, 7]
    const x = numbers(b * classes, -6, 6)
    const labels = [0, 6, 3, 3, 1]
    const [logits, at] = [input("x", ["batch", classes]), input("y", ["batch"], "int64")]
    const feeds = { x: float32([b, classes], x), y: int64([b], labels) }
    const rows = labels.map((_, i) => x.slice(i * classes, (i + 1) * classes))
    const each = rows.map((row, i) => {
      const logSum = Math.log(total(row.map(Math.exp)))
      const loss = (c: number) => logSum - row[c]!
      return (1 - e) * loss(labels[i]!) + (e / classes) * total(row.map((_, c) => loss(c)))
    })
    const got = await run(crossEntropy(logits, at, e), { x: logits, y: at }, feeds)
    expect(Math.abs(got - total(each) / b)).toBeLessThan(1e-5)
    const hits = rows.filter((row, i) => row.indexOf(Math.max(...row)) === labels[i]).length
    expect(await run(countCorrect(logits, at), { x: logits, y: at }, feeds)).toBe(hits)
  })

  it("mean squared error", async () => {
    const [x, y] = [numbers(12), numbers(12)]
    const [a, b] = [input("x", ["batch", 4]), input("y", ["batch", 4])]
    const got = await run(meanSquaredError(a, b), { x: a, y: b }, { x: float32([3, 4], x), y: float32([3, 4], y) })
    expect(Math.abs(got - total(x.map((v, i) => (v - y[i]!) ** 2)) / 12)).toBeLessThan(1e-6)
  })

  it("reconstruction, of all patches or of the hidden ones", async () => {
    const [b, P, d] = [2, 5, 3]
    const [x, y] = [numbers(b * P * d), numbers(b * P * d)]
    const hidden = [1, 0, 0, 1, 0, 0, 0, 1, 0, 0]
    const [p, t, m] = [input("p", ["batch", P, d]), input("t", ["batch", P, d]), input("m", ["batch", P])]
    const feeds = { p: float32([b, P, d], x), t: float32([b, P, d], y), m: float32([b, P], hidden) }
    const square = x.map((v, i) => (v - y[i]!) ** 2)
    const plain = await run(reconstruction(p, t), { p, t }, { p: feeds.p, t: feeds.t })
    expect(Math.abs(plain - total(square) / square.length)).toBeLessThan(1e-6)
    const masked = await run(reconstruction(p, t, m), { p, t, m }, feeds)
    const seen = square.filter((_, i) => hidden[Math.floor(i / d)])
    expect(seen).toHaveLength(9)
    expect(Math.abs(masked - total(seen) / seen.length)).toBeLessThan(1e-6)
  })
})

describe("learning rates", () => {
  const base: ScheduleOptions = {
    schedule: "constant",
    lr: 0.8,
    minLr: 0.2,
    warmupSteps: 4,
    stepSize: 3,
    gamma: 0.5,
    totalSteps: 12,
    startsAtZero: false,
  }
  const rates = (o: Partial<ScheduleOptions>, steps: number) =>
    Array.from({ length: steps }, (_, t) => Number(learningRate({ ...base, ...o }, t).toFixed(9)))
  const warm = [0.2, 0.4, 0.6, 0.8]

  it("warm up and stay", () => expect(rates({}, 7)).toEqual([...warm, 0.8, 0.8, 0.8]))

  it("WarmupThenStep: gamma after each stepSize steps", () => {
    expect(rates({ schedule: "WarmupThenStep" }, 12)).toEqual([...warm, 0.8, 0.8, 0.8, 0.4, 0.4, 0.4, 0.2, 0.2])
  })

  it("WarmupThenStep, seed-exact: lr t / warmup, which is 0 at first", () => {
    const exact = rates({ schedule: "WarmupThenStep", startsAtZero: true }, 12)
    expect(exact).toEqual([0, 0.2, 0.4, 0.6, 0.8, 0.8, 0.8, 0.4, 0.4, 0.4, 0.2, 0.2])
  })

  it("WarmupCosine: half a cosine down to minLr, and there it stays", () => {
    const cosine = [0, 1, 2, 3, 4, 5, 6, 7, 8, 8].map((k) => 0.2 + 0.3 * (1 + Math.cos((Math.PI * k) / 8)))
    expect(rates({ schedule: "WarmupCosine" }, 14)).toEqual([...warm, ...cosine.map((x) => Number(x.toFixed(9)))])
  })

  it("linear: a line down to minLr, and there it stays", () => {
    const line = [0.8, 0.725, 0.65, 0.575, 0.5, 0.425, 0.35, 0.275, 0.2, 0.2]
    expect(rates({ schedule: "linear" }, 14)).toEqual([...warm, ...line])
  })

  it("need no warm-up", () =>
    expect(rates({ schedule: "WarmupThenStep", warmupSteps: 0 }, 4)).toEqual([0.8, 0.8, 0.8, 0.4]))
})

/** A ViT on 8 x 8 pixels with a linear way from each block to the logits. */
function small(overrides: ConfigOverrides) {
  const config = defineConfig(InductionConfig, {
    ...overrides,
    image: { image_size: 8, patch_size: 4 },
    transformer: { hidden_dim: 16, num_heads: 2, num_layers: 2, ...overrides.transformer },
  })
  return { config, trained: trainedModel(modelConfig(config), taskOf(config, "float32")) }
}

describe("masks", () => {
  const RATES = { patch: 0.1, position: 0.2, attention: 0.3, proj: 0.4, mlp: 0.25, path: 0.5 }
  const { trained } = small({ dropout: RATES, transformer: { attention_only: false } })
  const w = concat(Object.values(pieceValues(trained.layout, "w")), 0)
  /** Each mask's rate, by the end of its name: what of the config drops there. */
  const rateOf = (name: string) =>
    ({
      drop_patches: RATES.patch,
      drop_embed: RATES.position,
      drop_pattern: RATES.attention,
      "attn.drop_out": RATES.proj,
      drop_post: RATES.mlp,
      "mlp.drop_out": RATES.mlp,
      drop_attn_path: RATES.path,
      drop_mlp_path: RATES.path,
    })[/(attn\.|mlp\.)?drop_\w+$/.exec(name)![0].replace(/^(attn|mlp)\.(?!drop_out)/, "")]!
  const bytes = (masks: Record<string, Tensor>) =>
    JSON.stringify(Object.entries(masks).map(([name, { data }]) => [name, [...(data as Uint8Array)].join("")]))

  it("are there for each place that drops: of the last block all, of the first no path", () => {
    const names = Object.keys(trained.masks("training", 1, 0, "x"))
    const inBlock = ["attn.drop_pattern", "attn.drop_out", "mlp.drop_post", "mlp.drop_out"]
    const all = [
      "drop_patches",
      "drop_embed",
      ...[0, 1].flatMap((i) => inBlock.map((name) => `blocks.${i}.${name}`)),
      ...["drop_attn_path", "drop_mlp_path"].map((name) => `blocks.1.${name}`),
    ]
    expect(names.toSorted()).toEqual(all.toSorted())
  })

  it("follow from seed and stream alone", () => {
    const of = (seed: number, stream: string) => bytes(trained.masks("training", 4, seed, stream))
    expect(of(1, "mask:0:0")).toBe(of(1, "mask:0:0"))
    expect(new Set([of(1, "mask:0:0"), of(2, "mask:0:0"), of(1, "mask:0:1"), of(1, "mask:1:0")]).size).toBe(4)
  })

  it("keep the share that the rate says", () => {
    const masks = trained.masks("training", 400, 3, "mask:0:0")
    for (const [name, { data, shape }] of Object.entries(masks)) {
      const [n, rate] = [data.length, rateOf(name)]
      const kept = total([...(data as Uint8Array)]) / n
      // 5 standard deviations
      expect(Math.abs(kept - (1 - rate)), `${name} of ${n}`).toBeLessThan(5 * Math.sqrt((rate * (1 - rate)) / n))
      // Stochastic depth drops whole images.
      if (name.endsWith("path")) expect(shape).toEqual([400, 1, 1])
      else expect(n).toBeGreaterThan(400 * 16 - 1)
    }
  })

  it("are not drawn in an evaluation", () => {
    expect(trained.masks("evaluation", 4, 0, "x")).toEqual({})
    expect(Object.keys(trained.objective(w, "evaluation").inputs)).toEqual(["images", "labels"])
  })

  /** The one number that a model gives for one image, with all of a mask 1 or 0: from (l - y)^2 at y = 0 and 1. */
  async function output(of: ReturnType<typeof small>, mode: "training" | "evaluation", value: 0 | 1): Promise<number> {
    const w = pieceValues(of.trained.layout, "w")
    const { inputs, loss } = of.trained.objective(concat(Object.values(w), 0), mode)
    const masks = Object.entries(of.trained.masks(mode, 1, 0, "x")).map(([name, { shape, data }]) => {
      return [name, tensor("uint8", shape, new Uint8Array(data.length).fill(value))] as const
    })
    const weights = flatten(of.trained.layout, initialise(modelConfig(of.config), { seed: 3 }))
    const fixed = {
      ...Object.fromEntries(masks),
      images: float32(
        [1, 1, 8, 8],
        Array.from({ length: 64 }, (_, i) => Math.sin(i)),
      ),
      ...feedsOf("w", weights),
    }
    const run = await runtime.compile({ ...inputs, ...w }, { loss })
    const at = async (y: number) => Number((await run({ ...fixed, labels: float32([1, 1], [y]) })).loss.data[0])
    return ((await at(0)) - (await at(1)) + 1) / 2
  }

  it.each(["proj", "path"] as const)("of %s keep the expectation", async (kind) => {
    const rate = 0.4
    const model = small({
      dropout: { [kind]: rate },
      training: { loss_fn_name: "MSE" },
      classification: { num_classes: 1 },
      // After its last block a model without norms is linear in what is dropped there.
      transformer: { num_layers: kind === "path" ? 2 : 1 },
    })
    const [none, all] = [await output(model, "training", 0), await output(model, "training", 1)]
    const plain = await output(model, "evaluation", 1)
    expect(Math.abs(all - none)).toBeGreaterThan(0.01)
    expect(Math.abs((1 - rate) * all + rate * none - plain)).toBeLessThan(2e-5)
  })
})

it("first weights follow from the seed", () => {
  const of = (seed: number) => {
    const { config, trained } = small({ training: { seed } })
    return flatten(trained.layout, initialise(modelConfig(config), initOptions(config)))
  }
  expect(of(1)).toEqual(of(1))
  expect(of(1)).not.toEqual(of(2))
})

describe("gradients of what is broadcast", () => {
  const OPS = {
    Add: [add, (x: number, y: number) => x + y],
    Sub: [sub, (x: number, y: number) => x - y],
    Mul: [mul, (x: number, y: number) => x * y],
    Div: [div, (x: number, y: number) => x / y],
  } as const
  const pick = (n: number) => Math.floor(n * random())
  /** Two shapes that fit: each axis of the longer is in the other as it is, as 1, or not at all. */
  const pairs = Array.from({ length: 10 }, () => {
    const shape = Array.from({ length: pick(5) }, () => 1 + pick(3))
    const thin = (s: readonly number[]) => s.map((d) => (random() < 0.4 ? 1 : d))
    const two = [thin(shape), thin(shape).slice(pick(shape.length + 1))]
    return (random() < 0.5 ? two : two.toReversed()) as [number[], number[]]
  })
  const drawn = (shape: readonly number[]) => make(shape, () => (0.5 + random()) * (random() < 0.5 ? -1 : 1))

  it("in shapes of all ranks, longer on either side", () => {
    expect(new Set(pairs.map(([a, b]) => Math.sign(a.length - b.length)))).toEqual(new Set([-1, 0, 1]))
    expect(Math.max(...pairs.flat().map((s) => s.length))).toBe(4)
  })

  it.each(Object.keys(OPS) as (keyof typeof OPS)[])("%s", (name) => {
    const [op, of] = OPS[name]
    for (const [left, right] of pairs) {
      const inputs = [input("a", left), input("b", right)] as const
      const y = op(...inputs)
      const weights = input("r", y.shape)
      const xs = [drawn(left), drawn(right)]
      const r = drawn(y.shape as number[])
      const loss = sum(reshape(mul(y, weights), [r.data.length]), [0])
      const dy = grad(loss, inputs)
      const known = new Map<Value, Numbers>([
        [inputs[0], xs[0]!],
        [inputs[1], xs[1]!],
        [weights, r],
      ])
      const got = evaluate(dy, known)
      for (const [k, x] of xs.entries()) {
        const value = (i: number, h: number) => {
          const moved = xs.with(k, { ...x, data: x.data.with(i, x.data[i]! + h) })
          return total(binary(of)(moved[0]!, moved[1]!).data.map((v, j) => v * r.data[j]!))
        }
        const want = x.data.map((_, i) => (value(i, 1e-5) - value(i, -1e-5)) / 2e-5)
        expect(got[k]!.shape, `[${left.join()}] and [${right.join()}]`).toEqual(x.shape)
        for (const [i, d] of want.entries()) expect(Math.abs(got[k]!.data[i]! - d)).toBeLessThan(1e-6)
      }
    }
  })
})
