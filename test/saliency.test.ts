/** @file Attributions: against PyTorch's in float64, against explicit runs, and on metrics whose answer is known. */
import { describe, expect, it } from "vitest"
import {
  attentionGradient,
  classMetric,
  float32,
  heatmap,
  integratedGradients,
  loadPretrained,
  occlusion,
  ops,
  patchMap,
  Random,
  readout,
  saliency,
  similarityMetric,
  smoothGrad,
  tokenLayout,
  type GraphView,
  type Tensor,
} from "../src/index.ts"
import { gaussLegendre } from "../src/interp/inputs/quadrature.ts"
import { mulberry32 } from "./helpers/causality.ts"
import { reference, root } from "./helpers/cli.ts"
import { floats, readSafetensors } from "./helpers/read-safetensors.ts"
import { thrown } from "./helpers/thrown.ts"

const mouse = await loadPretrained(`${root}/model-cards/mnist`, { threads: 1 })
const { tensors } = readSafetensors(`${root}/test/fixtures/interp/mnist.safetensors`)
const torch = (name: string): Tensor<"float32"> => float32(tensors.get(name)!.shape, floats(tensors.get(name)!))
const images = torch("pixels") // [2, 1, 28, 28]
const seven = classMetric(mouse, "7")

/** Largest difference as a share of the largest expected number. */
function off(got: Tensor, want: Tensor): number {
  expect(got.shape).toEqual(want.shape)
  const [a, b] = [got.data as Float32Array, want.data as Float32Array]
  const worst = b.reduce((m, x, i) => Math.max(m, Math.abs(x - a[i]!)), 0)
  return worst / b.reduce((m, x) => Math.max(m, Math.abs(x)), 0)
}

const random = mulberry32(3)
const noise = (shape: readonly number[]): Tensor<"float32"> =>
  float32(
    shape,
    Array.from({ length: shape.reduce((a, b) => a * b, 1) }, () => 2 * random() - 1),
  )
const one = (t: Tensor, i: number): Tensor<"float32"> => {
  const n = t.data.length / t.shape[0]!
  return float32([1, ...t.shape.slice(1)], (t.data as Float32Array).slice(i * n, (i + 1) * n))
}

describe("PyTorch's attributions of the same model", () => {
  it("by gradient are ours, by saliency and as a gradient at pixel_values", async () => {
    const { values, metric } = await saliency(mouse, images, seven)
    expect(off(values, torch("gradient"))).toBeLessThan(1e-4)
    expect(off(metric, torch("logits"))).toBeLessThan(1e-5)
    const { hooks } = await mouse.gradients(images, "logits[:, 7]", { at: ["pixel_values", "hook_embed"] })
    expect([...hooks.keys()]).toEqual(["pixel_values", "hook_embed"])
    expect(off(hooks.get("pixel_values")!, torch("gradient"))).toBeLessThan(1e-4)
    const { values: times } = await saliency(mouse, images, seven, { timesInput: true, batch: 1 })
    const product = float32(
      images.shape,
      images.data.map((x, i) => x * torch("gradient").data[i]!),
    )
    expect(off(times, product)).toBeLessThan(1e-4)
  })

  it("by integrated gradients are ours, and the error is what is missing", async () => {
    const { values, metric, baselineMetric, error } = await integratedGradients(mouse, images, seven, { steps: 8 })
    expect(off(values, torch("integrated"))).toBeLessThan(1e-4)
    expect(off(baselineMetric, torch("baseline"))).toBeLessThan(1e-5)
    for (const i of [0, 1]) {
      const sum = one(values, i).data.reduce((a, b) => a + b, 0)
      const want = sum - (metric.data[i]! - baselineMetric.data[i]!)
      expect(error.data[i]).toBeCloseTo(want, 3)
    }
    const [few, many] = [
      await integratedGradients(mouse, images, seven, { steps: 2 }),
      await integratedGradients(mouse, images, seven, { steps: 48 }),
    ]
    expect(Math.abs(many.error.data[0]!)).toBeLessThan(1e-3)
    expect(Math.abs(few.error.data[0]!)).toBeGreaterThan(1e-2)
  })

  it("by attention and its gradient are ours", async () => {
    const relevance = torch("relevance") // [2, T, T]
    const t = relevance.shape[1]!
    const first = float32(
      [2, t],
      [0, 1].flatMap((i) => [...relevance.data.subarray(i * t * t, i * t * t + t)]),
    )
    const { tokens, metric } = await attentionGradient(mouse, images, seven)
    expect(off(tokens, first)).toBeLessThan(1e-4)
    expect(off(metric, torch("logits"))).toBeLessThan(1e-5)
    expect(patchMap(tokens, tokenLayout(mouse.config.vision)).data).toEqual(
      Float32Array.from([...tokens.data].filter((_, i) => i % t > 0)),
    )
  })
})

describe("attention and its gradient", () => {
  it("of any pooling is the mean of the rows that the model reads, by explicit matrices", async () => {
    for (const name of ["timm-gap", "hf-dinov2-classifier", "hf-deit", "timm-map"]) {
      const model = await loadPretrained(reference(name), { threads: 1 })
      const { vision } = model.config
      const x = noise([2, vision.nChannels, ...vision.imageSize])
      const output = model.outputNames[0]!
      const metric = output === "last_hidden_state" ? `${output}[:, 0, 0]` : `${output}[:, 0]`
      const at = "blocks.*.attn.hook_pattern"
      const { tokens } = await attentionGradient(model, x, metric)
      const { hooks } = await model.gradients(x, metric, { at })
      const { cache } = await model.runWithCache(x, { names: at })
      const t = tokens.shape[1]!
      for (const image of [0, 1]) {
        let r = Array.from({ length: t }, (_, i) => Array.from({ length: t }, (__, j): number => (i === j ? 1 : 0)))
        for (const [hook, slope] of hooks) {
          const a = cache.get(hook).data as Float32Array
          const c = (q: number, k: number) => {
            let sum = 0
            for (let h = 0; h < vision.nHeads; h++) {
              const i = ((image * vision.nHeads + h) * t + q) * t + k
              sum += Math.max(0, a[i]! * slope.data[i]!)
            }
            return sum / vision.nHeads
          }
          r = r.map((row, q) => row.map((x0, j) => r.reduce((s, from, k) => s + c(q, k) * from[j]!, x0)))
        }
        const weights = readout(vision)
        const want = r[0]!.map((_, j) => r.reduce((s, row, q) => s + weights[q]! * row[j]!, 0))
        expect(off(one(tokens, image), float32([1, t], want)), name).toBeLessThan(1e-4)
      }
    }
  })
})

describe("SmoothGrad", () => {
  it("is the mean of the saliency of the copies that its seed draws", async () => {
    const options = { samples: 5, noise: 0.2, seed: 9, batch: 2 }
    const { values } = await smoothGrad(mouse, images, seven, options)
    for (const i of [0, 1]) {
      const image = one(images, i)
      const sigma = 0.2 * (Math.max(...image.data) - Math.min(...image.data))
      const mean = new Float32Array(784)
      for (let k = 0; k < 5; k++) {
        const draw = new Random(9, `smoothgrad:${k}`)
        const noisy = float32(
          image.shape,
          image.data.map((x) => x + sigma * draw.normal()),
        )
        const { hooks } = await mouse.gradients(noisy, "logits[:, 7]", { at: "pixel_values" })
        hooks.get("pixel_values")!.data.forEach((g, j) => (mean[j]! += g / 5))
      }
      expect(off(one(values, i), float32(image.shape, mean))).toBeLessThan(1e-4)
    }
    const again = await smoothGrad(mouse, images, seven, options)
    expect(again.values.data).toEqual(values.data)
    const other = await smoothGrad(mouse, images, seven, { ...options, seed: 10 })
    expect(off(other.values, values)).toBeGreaterThan(1e-2)
    const still = await smoothGrad(mouse, images, seven, { samples: 2, noise: 0 })
    expect(off(still.values, torch("gradient"))).toBeLessThan(1e-4)
  })
})

describe("occlusion", () => {
  it("is the metric of the whole image less that of explicit runs, from batches that end inside an image", async () => {
    const fill = noise([1, 28, 28])
    const options = { window: [9, 12], stride: [7, 10], fill, batch: 5 } as const
    const { drops, values, metric } = await occlusion(mouse, images, seven, options)
    const [tops, lefts] = [
      [0, 7, 14, 21],
      [0, 10, 20],
    ]
    expect(drops.shape).toEqual([2, 4, 3])
    const sums = [0, 1].map(() => Array.from({ length: 784 }, () => [] as number[]))
    for (const i of [0, 1]) {
      for (const [r, top] of tops.entries()) {
        for (const [c, left] of lefts.entries()) {
          const inside = (p: number) => {
            const [y, x] = [Math.floor(p / 28), p % 28]
            return y >= top && y < top + 9 && x >= left && x < left + 12
          }
          const covered = float32(
            [1, 1, 28, 28],
            one(images, i).data.map((x, p) => (inside(p) ? fill.data[p]! : x)),
          )
          const { logits } = await mouse.run(covered)
          const drop = metric.data[i]! - (logits.data as Float32Array)[7]!
          expect(drops.data[(i * 4 + r) * 3 + c]).toBeCloseTo(drop, 4)
          for (let p = 0; p < 784; p++) if (inside(p)) sums[i]![p]!.push(drop)
        }
      }
    }
    const want = sums.flatMap((of) => of.map((all) => all.reduce((a, b) => a + b, 0) / all.length))
    expect(off(values, float32([2, 28, 28], want))).toBeLessThan(1e-4)
  })

  it("of a metric of one patch is nothing elsewhere", async () => {
    const metric = ({ hook }: GraphView) => ops.sum(ops.slice(hook("hook_embed"), 1, 6, 7), [1, 2]) // a patch's embedding, which sees no other pixel
    const { drops } = await occlusion(mouse, images, metric)
    const moved = [...drops.data].map((x) => Math.abs(x) > 1e-6)
    expect(moved).toEqual(Array.from({ length: 32 }, (_, i) => i % 16 === 6))
    const { values } = await saliency(mouse, images, metric)
    const inside = patchMap(heatmap(values, "absolute"), tokenLayout(mouse.config.vision))
    expect([...inside.data].map((x) => x > 0)).toEqual(moved)
  })
})

describe("metrics", () => {
  it("of classes are logits and their differences, by index or name", async () => {
    const { logits } = await mouse.run(images)
    const at = (i: number, c: number) => (logits.data as Float32Array)[i * 10 + c]!
    const { metric } = await saliency(mouse, images, classMetric(mouse, 7, "1"))
    expect([...metric.data]).toEqual([expect.closeTo(at(0, 7) - at(0, 1), 4), expect.closeTo(at(1, 7) - at(1, 1), 4)])
  })

  it("of a text is the cosine of its embedding, and its saliency that of differences", async () => {
    const clip = await loadPretrained(reference("hf-clip-eos-2"), { threads: 1 })
    const x = noise([2, 3, 32, 32])
    const ids = float32([1, 5], [0, 7, 8, 2, 1])
    const run = await clip.run({ pixel_values: x, input_ids: ids })
    const { text_embeds } = await clip.run({ input_ids: ids }, { outputs: "text_embeds" })
    const likeness = similarityMetric(clip, text_embeds)
    const { metric, values } = await saliency(clip, x, likeness)
    const p = text_embeds.shape[1]!
    const cosine = (e: ArrayLike<number>, i: number) =>
      Array.from({ length: p }, (_, j) => e[i * p + j]! * (text_embeds.data as Float32Array)[j]!).reduce(
        (a, b) => a + b,
      )
    const embeds = run.image_embeds.data as Float32Array
    expect([...metric.data]).toEqual([expect.closeTo(cosine(embeds, 0), 5), expect.closeTo(cosine(embeds, 1), 5)])

    const direction = noise(x.shape)
    const moved = async (h: number) => {
      const there = float32(
        x.shape,
        x.data.map((v, i) => v + h * direction.data[i]!),
      )
      return (await saliency(clip, there, likeness)).metric.data[0]!
    }
    const slope = values.data.slice(0, 3072).reduce((s, g, i) => s + g * direction.data[i]!, 0)
    expect(((await moved(0.01)) - (await moved(-0.01))) / 0.02).toBeCloseTo(slope, 3)
  })

  it("may be of a run that is changed: below a patch nothing matters", async () => {
    const { cache } = await mouse.runWithCache(images, { names: "blocks.1.hook_resid_pre" })
    const patch = { "blocks.1.hook_resid_pre": cache.get("blocks.1.hook_resid_pre") }
    expect((await saliency(mouse, images, seven, { patch })).values.data.every((x) => x === 0)).toBe(true)
  })
})

describe("Gauss and Legendre's points", () => {
  it.each([1, 2, 5, 16, 257, 1024])("%i of them integrate polynomials of degree up to 2 n - 1", (n) => {
    const [nodes, weights] = gaussLegendre(n)
    for (const degree of [0, 1, 2, 3, 9, 31].filter((d) => d < 2 * n)) {
      const sum = nodes.reduce((s, x, i) => s + weights[i]! * x ** degree, 0)
      expect(sum).toBeCloseTo(1 / (degree + 1), 12)
    }
    expect([...nodes]).toEqual([...nodes].sort((a, b) => a - b))
  })
})

describe("heat maps", () => {
  it("reduce channels and patches as they say", () => {
    const t = float32([1, 2, 2, 2], [1, -2, 3, 0, -4, 1, 1, 0])
    expect([...heatmap(t, "sum").data]).toEqual([-3, -1, 4, 0])
    expect([...heatmap(t, "max").data]).toEqual([4, 2, 3, 0])
    expect([...heatmap(t, "absolute").data]).toEqual([5, 3, 4, 0])
    const layout = {
      ...tokenLayout(mouse.config.vision),
      grid: [1, 2],
      patchSize: [2, 1],
      nPatches: 2,
      nTokens: 3,
    } as const
    expect([...patchMap(float32([1, 2, 2], [1, 2, 5, 6]), layout).data]).toEqual([3, 4])
    expect([...patchMap(float32([1, 2, 2], [1, 2, 5, 6]), layout, "sum").data]).toEqual([6, 8])
  })
})

describe("what cannot be is refused in one line", () => {
  const cases: [string, () => Promise<unknown>, string, RegExp][] = [
    [
      "a class of no model",
      () => Promise.resolve().then(() => classMetric(mouse, 10)),
      "E_INPUT",
      /no class 10.*0 to 9/,
    ],
    ["a name", () => Promise.resolve().then(() => classMetric(mouse, "cat")), "E_INPUT", /no class "cat"; the nearest/],
    ["a hook", () => saliency(mouse, images, "blocks.9.hook_resid_pre"), "E_HOOK", /nearest.*blocks\.\d/],
    [
      "a mixed metric",
      () => saliency(mouse, images, "logits[0, 7]"),
      "E_INPUT",
      /images along its first axis, got \[1, 1\]/,
    ],
    [
      "a mean over images",
      () => saliency(mouse, images, ({ outputs }) => ops.mean(outputs["logits"]!, [0])),
      "E_INPUT",
      /images along its first axis/,
    ],
    ["wrong images", () => saliency(mouse, float32([2, 3], new Float32Array(6)), seven), "E_INPUT", /images must be/],
    ["no image", () => saliency(mouse, float32([0, 1, 28, 28], []), seven), "E_INPUT", /at least one image/],
    ["a size", () => saliency(mouse, noise([1, 1, 14, 14]), seven), "E_INPUT", /pixel_values.*28/],
    ["steps", () => integratedGradients(mouse, images, seven, { steps: 0 }), "E_INPUT", /steps must be a whole number/],
    [
      "a baseline",
      () => integratedGradients(mouse, images, seven, { baseline: noise([1, 7, 7]) }),
      "E_INPUT",
      /baseline.*28/,
    ],
    ["noise", () => smoothGrad(mouse, images, seven, { noise: NaN }), "E_INPUT", /noise.*NaN/],
    ["a seed", () => smoothGrad(mouse, images, seven, { seed: -1 }), "E_INPUT", /seed must be/],
    ["a window", () => occlusion(mouse, images, seven, { window: 29 }), "E_INPUT", /window must be.*1 to 28, got 29/],
    ["gaps", () => occlusion(mouse, images, seven, { window: 7, stride: 8 }), "E_INPUT", /stride.*1 to 7, got 8/],
    ["a batch", () => occlusion(mouse, images, seven, { batch: 0.5 }), "E_INPUT", /batch must be/],
    ["a layer", () => attentionGradient(mouse, images, seven, { layers: [4] }), "E_HOOK", /layer 4.*0 to 3/],
    [
      "a pattern that reaches no pixels",
      () => mouse.gradients(images, "logits[:, 7]", { at: "pixel*" }),
      "E_HOOK",
      /no hook matches/,
    ],
  ]
  it.each(cases)("%s", async (_, work, code, said) => {
    const error = await thrown(work())
    expect([error.code, error.message]).toEqual([code, expect.stringMatching(said)])
  })

  it("and a model without class logits says what it has", async () => {
    const clip = await loadPretrained(reference("hf-clip-vision-base"), { threads: 1 })
    expect(() => classMetric(clip, 0)).toThrow(/no class logits; it gives/)
    expect(() => similarityMetric(mouse, float32([2], [1, 0]))).toThrow(/no image_embeds/)
  })
})
