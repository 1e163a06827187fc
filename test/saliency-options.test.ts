/** @file What options of attributions change: baselines, the input as a factor, some layers; against explicit gradients and loops. */
import { describe, expect, it } from "vitest"
import {
  attentionGradient,
  float32,
  heatmap,
  integratedGradients,
  loadPretrained,
  Random,
  readout,
  smoothGrad,
  type Tensor,
} from "../src/index.ts"
import { reference, root } from "./helpers/cli.ts"
import { noiseImages } from "./helpers/noise-images.ts"

const mouse = await loadPretrained(`${root}/model-cards/mnist`, { threads: 1 })
const seven = "logits[:, 7]"
const images = noiseImages(mouse, 2, 1)
const like = ({ shape }: Tensor, at: (i: number) => number): Tensor<"float32"> => {
  const data = Float32Array.from({ length: shape.reduce((a, b) => a * b) }, (_, i) => at(i))
  return float32(shape, data)
}
const gradient = async (x: Tensor) =>
  (await mouse.gradients(x, seven, { at: "pixel_values" })).hooks.get("pixel_values")!
const sevens = async (x: Tensor) => {
  const { data } = (await mouse.run(x)).logits
  return Array.from({ length: data.length / 10 }, (_, i) => Number(data[10 * i + 7]))
}
const close = (got: Tensor, want: Tensor, share = 1e-4) => {
  expect(got.shape).toEqual(want.shape)
  const scale = Math.max(...Array.from(want.data as Float32Array, Math.abs))
  for (const [i, x] of (want.data as Float32Array).entries())
    expect(Math.abs(Number(got.data[i]) - x)).toBeLessThan(share * scale)
}

describe("integrated gradients from a baseline", () => {
  const picture = noiseImages(mouse, 1, 2)
  const one = float32([1, 28, 28], picture.data)
  it.each<[string, number | Tensor, Tensor<"float32">]>([
    ["that is a number", -0.4, like(picture, () => -0.4)],
    ["that is an image", one, picture],
  ])(
    "%s are its distance times the gradients on the way, and add up to the change since it",
    async (_, baseline, x0) => {
      const at = (i: number) => x0.data[i % 784]!
      // Gauss and Legendre's two points.
      const points = [0.5 - Math.sqrt(3) / 6, 0.5 + Math.sqrt(3) / 6]
      const [a, b] = await Promise.all(
        points.map((way) => gradient(like(images, (i) => at(i) + way * (images.data[i]! - at(i))))),
      )
      const want = like(images, (i) => ((images.data[i]! - at(i)) * (Number(a!.data[i]) + Number(b!.data[i]))) / 2)
      const few = await integratedGradients(mouse, images, seven, { baseline, steps: 2 })
      close(few.values, want)
      const many = await integratedGradients(mouse, images, seven, { baseline, steps: 48 })
      const [[from], to] = [await sevens(x0), await sevens(images)]
      for (const i of [0, 1]) {
        const total = many.values.data.slice(784 * i, 784 * (i + 1)).reduce((x, y) => x + y, 0)
        expect(many.baselineMetric.data[i]).toBeCloseTo(from!, 4)
        expect(total).toBeCloseTo(to[i]! - from!, 2)
      }
    },
  )
})

describe("SmoothGrad times the input", () => {
  it("is the mean over the copies of each's gradient times that copy", async () => {
    const [samples, share, seed] = [3, 0.3, 4]
    const { values } = await smoothGrad(mouse, images, seven, {
      samples,
      noise: share,
      seed,
      timesInput: true,
      batch: 2,
    })
    const want = like(images, () => 0)
    for (const i of [0, 1]) {
      const image = float32([1, 1, 28, 28], images.data.slice(784 * i, 784 * (i + 1)))
      const sigma = share * (Math.max(...image.data) - Math.min(...image.data))
      for (let k = 0; k < samples; k++) {
        const draw = new Random(seed, `smoothgrad:${k}`)
        const noisy = like(image, (j) => image.data[j]! + sigma * draw.normal())
        for (const [j, g] of (await gradient(noisy)).data.entries())
          want.data[784 * i + j]! += (g * noisy.data[j]!) / samples
      }
    }
    close(values, want)
  })
})

describe("attention and its gradient of some layers", () => {
  it.each<[string, number | readonly number[], readonly number[]]>([
    ["timm-dinov2-registers", 0, [0]],
    ["timm-dinov2-registers", [-1], [1]],
    ["hf-dinov2-classifier", [1], [1]],
    ["mnist", [0, 2], [0, 2]],
  ])("is R over these alone: %s, %o", async (name, layers, chosen) => {
    const model = name === "mnist" ? mouse : await loadPretrained(reference(name), { threads: 1 })
    const { vision } = model.config
    const x = noiseImages(model, 1, 3)
    const metric = `${model.outputNames.at(name === "timm-dinov2-registers" ? 1 : 0)}[:, 1]`
    const hooks = chosen.map((l) => `blocks.${l}.attn.hook_pattern`)
    const slopes = (await model.gradients(x, metric, { at: hooks })).hooks
    const { cache } = await model.runWithCache(x, { names: hooks })
    const { tokens } = await attentionGradient(model, x, metric, { layers })
    const t = tokens.shape[1]!
    let rows = Array.from({ length: t }, (_, q) => Array.from({ length: t }, (__, k): number => (q === k ? 1 : 0)))
    for (const hook of hooks) {
      const [a, g] = [cache.get(hook).data, slopes.get(hook)!.data]
      const c = (q: number, k: number) => {
        let sum = 0
        for (let i = q * t + k; i < a.length; i += t * t) sum += Math.max(0, Number(a[i]) * Number(g[i]))
        return sum / vision.nHeads
      }
      rows = rows.map((row, q) => row.map((own, j) => rows.reduce((s, from, k) => s + c(q, k) * from[j]!, own)))
    }
    const weights = readout(vision)
    const want = rows[0]!.map((_, j) => rows.reduce((s, row, q) => s + weights[q]! * row[j]!, 0))
    close(tokens, float32([1, t], want))
    const all = await attentionGradient(model, x, metric)
    expect(want.some((v, j) => Math.abs(all.tokens.data[j]! - v) > 1e-3 * Math.max(...want))).toBe(true)
    if (model !== mouse) await model.release()
  })
})

describe("a heat map", () => {
  it("is of a pixel's strongest channel unless another is asked for", () => {
    const t = float32([1, 2, 1, 2], [1, -2, -4, 1])
    expect([...heatmap(t).data]).toEqual([4, 2])
  })
})
