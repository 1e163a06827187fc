/** @file The logit lens on every stream, by the readout's formula in loops: text prompts, mean pooling, tokens and whole streams. */
import { describe, expect, it } from "vitest"
import { float32, logitLens, type HookedViT, type Tensor } from "../src/index.ts"
import { FAMILIES, withFamily } from "./helpers/families.ts"

type Read = (tokens: readonly Float64Array[]) => number[]

const sum = (x: ArrayLike<number>) => Array.from(x).reduce((s, v) => s + v, 0)
const dot = (a: ArrayLike<number>, b: ArrayLike<number>) => Array.from(a).reduce((s, x, j) => s + x * b[j]!, 0)

/** What the model makes of the tokens at its end, in float64: logits of its classes, or of texts. */
async function readoutOf(model: HookedViT, texts: Tensor | undefined): Promise<Read> {
  const { vision, dual } = model.config
  const weight = async (name: string) => Float64Array.from((await model.weight(name)).data)
  const norm = async (name: string) => {
    const [w, b] = [await weight(`${name}.weight`), await weight(`${name}.bias`)]
    return (x: Float64Array) => {
      const mean = sum(x) / x.length
      const scale = Math.sqrt(sum(x.map((v) => (v - mean) ** 2)) / x.length + vision.eps)
      return x.map((v, j) => ((v - mean) / scale) * w[j]! + b[j]!)
    }
  }
  const same = (x: Float64Array) => x
  const [final, after] = [
    vision.lnFinal ? await norm("ln_final") : same,
    vision.lnPooled ? await norm("ln_pooled") : same,
  ]
  const prefix = vision.prefix.reduce((n, { count }) => n + count, 0)
  const pooled = (tokens: readonly Float64Array[]) => {
    const from = tokens.slice(prefix)
    return vision.pool === "cls" ? tokens[0]! : tokens[0]!.map((_, j) => sum(from.map((x) => x[j]!)) / from.length)
  }
  const rowsOf = (data: ArrayLike<number>, n: number) =>
    Array.from({ length: data.length / n }, (_, i) => Array.from(data).slice(i * n, (i + 1) * n))
  const through = rowsOf(await weight(texts ? "projection.weight" : "head.weight"), vision.dModel)
  const linear = (x: Float64Array) => through.map((row) => dot(row, x))
  const read = (tokens: readonly Float64Array[]) => linear(after(pooled(tokens.map(final))))
  if (!texts) {
    const bias = await weight("head.bias")
    return (tokens) => read(tokens).map((y, c) => y + bias[c]!)
  }
  const scale = Math.exp((await weight("logit_scale"))[0]!)
  const shift = dual!.logitBias ? (await weight("logit_bias"))[0]! : 0
  return (tokens) => {
    const image = read(tokens)
    const length = (x: ArrayLike<number>) => Math.sqrt(dot(x, x))
    return rowsOf(texts.data as Float32Array, image.length).map(
      (text) => (scale * dot(image, text)) / length(image) / length(text) + shift,
    )
  }
}

const CASES = [
  ["texts, the class token", "hf-clip-eos-2"],
  ["texts, each a question of its own (a bias as SigLIP has it)", "open-clip-layerscale-bias"],
  ["texts, the mean of the patches", "open-clip-avg-no-ln-pre"],
  ["classes, the mean of the patches", "timm-gap"],
  ["classes, the mean of the patches under a norm of its own", "timm-avgpool-class-token"],
] as const

describe.each(CASES)("the lens of %s", (_, name) => {
  const family = FAMILIES.find((f) => f.name === name)!

  it.each(["tokens", "pooled"] as const)("at %s is the readout of every stream", (at) =>
    withFamily(family, async (model, { pixel_values, input_ids }) => {
      const run = await model.runWithCache({ pixel_values, ...(input_ids && { input_ids }) })
      // Of another length: the lens brings them to length 1.
      const tripled = ({ shape, data }: Tensor) =>
        float32(
          shape,
          (data as Float32Array).map((x) => 3 * x),
        )
      const embeds = input_ids && tripled(run.text_embeds)
      const { vision, dual } = model.config
      const lens = await logitLens(
        model,
        { pixel_values },
        { at, mid: true, classes: [1, 0], top: 1, ...(embeds && { embeds }) },
      )
      const { labels, stack } = run.cache.accumulatedResidual(undefined, { mid: true })
      expect(lens.labels).toEqual(labels)
      const [n, b, t, d] = stack.shape as [number, number, number, number]
      const rows = at === "pooled" ? 1 : t
      expect(lens.logit.shape).toEqual([n, b, rows, 2])
      const read = await readoutOf(model, embeds)
      for (let block = 0; block < n * b; block++) {
        const tokens = Array.from({ length: t }, (__, i) =>
          Float64Array.from(stack.data.subarray((block * t + i) * d, (block * t + i + 1) * d)),
        )
        for (let row = 0; row < rows; row++) {
          const logits = read(at === "pooled" ? tokens : tokens.map(() => tokens[row]!))
          const all = sum(logits.map(Math.exp))
          for (const [k, c] of [1, 0].entries()) {
            const place = (block * rows + row) * 2 + k
            expect(lens.logit.data[place]).toBeCloseTo(logits[c]!, 4)
            const probability = dual?.logitBias ? 1 / (1 + Math.exp(-logits[c]!)) : Math.exp(logits[c]!) / all
            expect(lens.probability.data[place]).toBeCloseTo(probability, 5)
            expect(lens.rank.data[place]).toBe(1 + logits.filter((x) => x > logits[c]!).length)
          }
          expect(lens.top.index.data[block * rows + row]).toBe(logits.indexOf(Math.max(...logits)))
        }
      }
      expect(vision.nLayers * 2 + 1).toBe(n)
    }),
  )
})
