/** @file Feature visualisation: every step against the same in plain loops; what it makes is what was asked for. */
import { describe, expect, it } from "vitest"
import {
  float32,
  HookedViT,
  initialise,
  loadPretrained,
  Random,
  visualise,
  type VisualiseOptions,
} from "../src/index.ts"
import { amplitudes, BASES, shifted } from "../src/interp/inputs/bases.ts"
import { reference, root } from "./helpers/cli.ts"
import { thrown } from "./helpers/thrown.ts"

const model = await loadPretrained(reference("hf-vit-pooler-wide"), { threads: 1 }) // 32 x 48 pixels, 3 channels
const mouse = await loadPretrained(`${root}/model-cards/mnist`, { threads: 1 })

/** What image a coefficient alone makes: cosines and sines written out, or one pixel. */
function wave(kind: "pixels" | "fourier", n: number, k: number, x: number): number {
  if (kind === "pixels") return k === x ? 1 : 0
  const f = Math.floor((k + 1) / 2)
  if (f === 0) return Math.sqrt(1 / n)
  if (2 * f === n) return Math.sqrt(1 / n) * Math.cos(Math.PI * x)
  return Math.sqrt(2 / n) * (k % 2 ? Math.cos : Math.sin)((2 * Math.PI * f * x) / n)
}
const wrap = (x: number, n: number): number => ((x % n) + n) % n

/** The whole method once more, in float64 and without a graph but for the model's own gradient. */
async function slowly(metric: string, o: Required<Omit<VisualiseOptions, "images">>) {
  const [c, h, w] = [3, 32, 48]
  const { steps, learningRate, seed, parametrisation: kind, jitter, l2, totalVariation, mean, std } = o
  const start = new Random(seed, "visualise")
  const shake = new Random(seed, "jitter")
  const z = Array.from({ length: c * h * w }, () => Math.fround(0.01 * start.normal()))
  const [m, v] = [z.map(() => 0), z.map(() => 0)]
  const frequency = (k: number, n: number) => Math.floor((k + 1) / 2) / n
  const amplitude = (ky: number, kx: number) =>
    kind === "pixels" ? 1 : 1 / Math.max(1 / 48, Math.hypot(frequency(ky, h), frequency(kx, w)))
  const tables = [h, w].map((n) => Array.from({ length: n * n }, (_, i) => wave(kind, n, Math.floor(i / n), i % n)))
  const image = (dy: number, dx: number) => {
    const out = new Float64Array(c * h * w)
    for (let ch = 0; ch < c; ch++) {
      // Along the rows, then down the columns.
      const half = new Float64Array(h * w)
      for (let ky = 0; ky < h; ky++)
        for (let kx = 0; kx < w; kx++)
          for (let x = 0; x < w; x++)
            half[ky * w + x]! += z[(ch * h + ky) * w + kx]! * amplitude(ky, kx) * tables[1]![kx * w + wrap(x - dx, w)]!
      for (let ky = 0; ky < h; ky++)
        for (let y = 0; y < h; y++)
          for (let x = 0; x < w; x++)
            out[(ch * h + y) * w + x]! += half[ky * w + x]! * tables[0]![ky * h + wrap(y - dy, h)]!
    }
    return out.map((x) => 1 / (1 + Math.exp(-x)))
  }
  const values = (raw: Float64Array) =>
    float32(
      [1, c, h, w],
      Array.from(raw, (x, i) => (x - mean[Math.floor(i / h / w)]!) / std[Math.floor(i / h / w)]!),
    )
  const reached: number[] = []
  for (let step = 1; step <= steps; step++) {
    const [dy, dx] = [shake.below(2 * jitter + 1) - jitter, shake.below(2 * jitter + 1) - jitter]
    const raw = image(dy, dx)
    const { value, hooks } = await model.gradients(values(raw), metric, { at: "pixel_values" })
    reached.push(value)
    const slope = Float64Array.from(hooks.get("pixel_values")!.data, (g, i) => {
      const ch = Math.floor(i / h / w)
      const [y, x] = [Math.floor(i / w) % h, i % w]
      const n = c * h * w
      let total = g / std[ch]! - (l2 * 2 * (raw[i]! - 0.5)) / n
      const edge = (other: number, count: number) => {
        const step0 = raw[i]! - raw[other]!
        total -= (totalVariation * step0) / Math.sqrt(step0 * step0 + 1e-8) / count
      }
      if (y > 0) edge(i - w, c * (h - 1) * w)
      if (y < h - 1) edge(i + w, c * (h - 1) * w)
      if (x > 0) edge(i - 1, c * h * (w - 1))
      if (x < w - 1) edge(i + 1, c * h * (w - 1))
      return total * raw[i]! * (1 - raw[i]!)
    })
    for (let ch = 0; ch < c; ch++) {
      const half = new Float64Array(h * w)
      for (let y = 0; y < h; y++)
        for (let x = 0; x < w; x++)
          for (let kx = 0; kx < w; kx++)
            half[y * w + kx]! += slope[(ch * h + y) * w + x]! * tables[1]![kx * w + wrap(x - dx, w)]!
      for (let ky = 0; ky < h; ky++)
        for (let kx = 0; kx < w; kx++) {
          let g = 0
          for (let y = 0; y < h; y++) g += half[y * w + kx]! * tables[0]![ky * h + wrap(y - dy, h)]!
          g *= amplitude(ky, kx)
          const i = (ch * h + ky) * w + kx
          m[i] = 0.9 * m[i]! + 0.1 * g
          v[i] = 0.999 * v[i]! + 0.001 * g * g
          z[i]! += (learningRate * m[i]) / (1 - 0.9 ** step) / (Math.sqrt(v[i] / (1 - 0.999 ** step)) + 1e-8)
        }
    }
  }
  return { raw: image(0, 0), reached }
}

describe("a step", () => {
  const common = { steps: 3, learningRate: 0.05, seed: 4, mean: [0.4, 0.5, 0.6], std: [0.2, 0.3, 0.25] }
  it.each([
    ["fourier", { jitter: 5, l2: 0, totalVariation: 0 }],
    ["pixels", { jitter: 3, l2: 2, totalVariation: 0.3 }],
  ] as const)("of %s, shaken and held back, is that of plain loops", async (parametrisation, more) => {
    const options = { ...common, ...more, parametrisation }
    const metric = "blocks.1.mlp.hook_post[:, 0, 5]"
    const { images, pixelValues, objective } = await visualise(model, metric, options)
    const { raw, reached } = await slowly(metric, options)
    const worst = raw.reduce((most, x, i) => Math.max(most, Math.abs(x - images.data[i]!)), 0)
    // Adam divides a slope by its own size: where it is near 0, rounding may turn a step of 0.05 about.
    const typical = [...raw].map((x, i) => Math.abs(x - images.data[i]!)).sort((a, b) => a - b)[
      Math.floor(raw.length * 0.95)
    ]
    expect(typical).toBeLessThan(1e-4)
    expect(worst).toBeLessThan(0.02)
    for (const [i, x] of reached.entries()) expect(objective.data[i]).toBeCloseTo(x, 4)
    expect(pixelValues.data[40]).toBeCloseTo((images.data[40]! - 0.4) / 0.2, 5)
  })
})

describe("what is asked for", () => {
  it("grows: a class of a trained model, which then says so, from each start its own image", async () => {
    const options = { steps: 40, images: 2, seed: 1 }
    const { images, pixelValues, objective } = await visualise(mouse, "logits[:, 3]", options)
    expect([images.shape, objective.shape]).toEqual([
      [2, 1, 28, 28],
      [41, 2],
    ])
    const { logits } = await mouse.run(pixelValues)
    for (const i of [0, 1]) {
      const row = [...(logits.data as Float32Array).subarray(i * 10, i * 10 + 10)]
      expect(row.indexOf(Math.max(...row))).toBe(3)
      expect(objective.data[80 + i]).toBeCloseTo(row[3]!, 4)
      expect(objective.data[80 + i]! - objective.data[i]!).toBeGreaterThan(8)
    }
    expect(images.data.every((x) => x > 0 && x < 1)).toBe(true)
    expect(images.data.slice(0, 784)).not.toEqual(images.data.slice(784))
    expect((await visualise(mouse, "logits[:, 3]", options)).images.data).toEqual(images.data)
    expect((await visualise(mouse, "logits[:, 3]", { ...options, seed: 2 })).images.data).not.toEqual(images.data)
  })

  it("is held back by its penalties", async () => {
    const spread = async (options: VisualiseOptions) => {
      const { images } = await visualise(mouse, "logits[:, 3]", { steps: 25, jitter: 0, ...options })
      const off = images.data.reduce((s, x) => s + (x - 0.5) ** 2, 0) / 784
      const steps = images.data.reduce((s, x, i) => s + (i % 28 ? Math.abs(x - images.data[i - 1]!) : 0), 0) / 756
      return [off, steps] as const
    }
    const [free, grey, even] = [await spread({}), await spread({ l2: 3000 }), await spread({ totalVariation: 300 })]
    expect(grey[0]).toBeLessThan(free[0] / 2)
    expect(even[1]).toBeLessThan(free[1] / 2)
  })

  it("may be a channel of one tower of two, or of a model that can hide patches", async () => {
    const clip = await loadPretrained(reference("hf-clip-eos-2"), { threads: 1 })
    const { objective } = await visualise(clip, "blocks.1.hook_resid_post[:, :, 3]", { steps: 6 })
    expect(objective.data[6]).toBeGreaterThan(objective.data[0]!)

    const vision = { ...mouse.config.vision, reconstructs: "masked", outputs: ["reconstruction"] } as const
    const config = { ...mouse.config, vision }
    const weights = new Map([...initialise(config)].map(([name, t]) => [name, { tensor: t, shape: t.shape }]))
    const masked = new HookedViT({ config, weights, runtime: mouse.runtime })
    const found = await visualise(masked, "reconstruction[:, 5, :]", { steps: 6, jitter: 0 })
    expect(found.objective.data[6]).toBeGreaterThan(found.objective.data[0]!)
  })
})

describe("bases", () => {
  it.each([1, 2, 5, 8])("of %i pixels are orthonormal, and move around the edge", (n) => {
    const { rows } = BASES.fourier(n)
    for (let i = 0; i < n; i++) {
      for (let j = 0; j < n; j++) {
        const dot = [...Array(n).keys()].reduce((s, x) => s + rows[i * n + x]! * rows[j * n + x]!, 0)
        expect(dot).toBeCloseTo(i === j ? 1 : 0, 12)
        expect(rows[i * n + j]).toBeCloseTo(wave("fourier", n, i, j), 12)
        expect(shifted(rows, n, -3)[i * n + j]).toBeCloseTo(rows[i * n + wrap(j + 3, n)]!, 6)
      }
    }
  })

  it("count low frequencies more", () => {
    expect([...amplitudes("fourier", 2, 3)]).toEqual([
      3, // the constant, taken for one cycle over 3 pixels
      expect.closeTo(3, 5),
      expect.closeTo(3, 5),
      2,
      expect.closeTo(1 / Math.hypot(0.5, 1 / 3), 5),
      expect.closeTo(1 / Math.hypot(0.5, 1 / 3), 5),
    ])
  })
})

it("what cannot be is refused in one line", async () => {
  const cases: [string | (() => never), VisualiseOptions, string, RegExp][] = [
    ["logits[:, 10]", {}, "E_INPUT", /outside \[batch, 10\]/],
    ["blocks.9.hook_resid_post[:, 0, 1]", {}, "E_HOOK", /nearest/],
    ["logits[0, 1]", {}, "E_INPUT", /images along its first axis/],
    ["logits[:, 1]", { steps: 0 }, "E_INPUT", /steps/],
    ["logits[:, 1]", { images: 1.5 }, "E_INPUT", /images/],
    ["logits[:, 1]", { jitter: 29 }, "E_INPUT", /jitter.*0 to 28/],
    ["logits[:, 1]", { mean: [0, 0, 0] }, "E_INPUT", /mean must be 1 numbers/],
    ["logits[:, 1]", { std: [0] }, "E_INPUT", /std must be 1 numbers/],
    ["logits[:, 1]", { l2: -1 }, "E_INPUT", /l2/],
    ["logits[:, 1]", { learningRate: Infinity }, "E_INPUT", /learningRate/],
    ["logits[:, 1]", { parametrisation: "cppn" as never }, "E_INPUT", /pixels or fourier, got cppn/],
  ]
  for (const [metric, options, code, said] of cases) {
    const error = await thrown(visualise(mouse, metric, { steps: 1, ...options }))
    expect([error.code, error.message]).toEqual([code, expect.stringMatching(said)])
  }
})
