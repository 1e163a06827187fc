/** @file vit-prisma saliency: where in an image a class, a text or any output comes from. */
import { decodeImage, type Image } from "../data/image.ts"
import { writeSafetensors } from "../files/safetensors-file.ts"
import type { LoadedViT } from "../hub/load-pretrained.ts"
import { readout, tokenLayout } from "../interp/attention/tokens.ts"
import { fuseHeads, rollout, type HeadFusion } from "../interp/attention/rollout.ts"
import { patterns } from "../interp/attention/patterns.ts"
import type { Metric } from "../interp/gradients.ts"
import { measured } from "../interp/inputs/batches.ts"
import { integratedGradients, saliency as gradient, smoothGrad, type Attribution } from "../interp/inputs/gradient.ts"
import { heatmap, patchMap } from "../interp/inputs/heatmap.ts"
import { occlusion } from "../interp/inputs/occlusion.ts"
import { attentionGradient } from "../interp/inputs/relevance.ts"
import { float32, type Tensor } from "../tensor/tensor.ts"
import { metrics, type MetricOptions } from "./metric.ts"
import { loadModel, note, plain, print, refuseOverwriting, style, table, type ModelOptions } from "./output.ts"
import { checkPictures, pictureBase, present, wantsPictures, writePictures, type PictureOptions } from "./pictures.ts"

export interface SaliencyCommand extends ModelOptions, PictureOptions, MetricOptions {
  readonly method: Method
  readonly steps: number
  readonly samples: number
  readonly seed: number
  readonly window?: number
  readonly stride?: number
  readonly headFusion: HeadFusion
  readonly discardRatio: number
  readonly batch: number
  readonly top: number
  readonly out?: string
}

/** What a method found of one image. */
interface Map {
  /** [1, rows, columns] */
  readonly patches: Tensor<"float32">
  /** As the method gives it: pixels [1, c, H, W] or [1, H, W], or tokens [1, T]. */
  readonly values: Tensor<"float32">
  readonly metric: number
  readonly signed: boolean
  /** Of integrated gradients: what is missing in the sum. */
  readonly error?: number
}

type Rule = (model: LoadedViT, images: Tensor, metric: Metric, options: SaliencyCommand) => Promise<Map>

/** Strength of a gradient, and shares of the metric, which keep their sign. */
const strength: (model: LoadedViT, found: Attribution) => Map = (model, { values, metric }) => ({
  patches: patchMap(heatmap(values, "max"), tokenLayout(model.config.vision)),
  values,
  metric: metric.data[0]!,
  signed: false,
})

const METHODS = {
  gradient: async (model, images, metric, { batch }) =>
    strength(model, await gradient(model, images, metric, { batch })),
  integrated: async (model, images, metric, { batch, steps }) => {
    const found = await integratedGradients(model, images, metric, { batch, steps })
    const patches = patchMap(heatmap(found.values, "sum"), tokenLayout(model.config.vision), "sum")
    return { patches, values: found.values, metric: found.metric.data[0]!, signed: true, error: found.error.data[0]! }
  },
  smooth: async (model, images, metric, { batch, samples, seed }) =>
    strength(model, await smoothGrad(model, images, metric, { batch, samples, seed })),
  occlusion: async (model, images, metric, { batch, window, stride }) => {
    const given = { batch, ...(window !== undefined && { window }), ...(stride !== undefined && { stride }) }
    const { values, metric: value } = await occlusion(model, images, metric, given)
    return { patches: patchMap(values, tokenLayout(model.config.vision)), values, metric: value.data[0]!, signed: true }
  },
  "attention-gradient": async (model, images, metric, { batch }) => {
    const { tokens, metric: value } = await attentionGradient(model, images, metric, { batch })
    const patches = patchMap(tokens, tokenLayout(model.config.vision))
    return { patches, values: tokens, metric: value.data[0]!, signed: false }
  },
  rollout: async (model, images, metric, { headFusion, discardRatio, batch }) => {
    const { vision } = model.config
    const layers: Tensor[] = []
    for await (const { pattern } of patterns(model, images)) layers.push(fuseHeads(pattern, headFusion))
    const tokens = rollout(layers, { headFusion, discardRatio, from: readout(vision) })
    const value = await measured(model, images, metric, { batch })
    return { patches: patchMap(tokens, tokenLayout(vision)), values: tokens, metric: value.data[0]!, signed: false }
  },
} as const satisfies Readonly<Record<string, Rule>>

type Method = keyof typeof METHODS

interface Found extends Map {
  readonly path: string
  readonly image: Image
  readonly of: string
}

export async function saliency(name: string, paths: readonly string[], options: SaliencyCommand): Promise<void> {
  const files = [name, ...paths, ...(options.textEmbeds === undefined ? [] : [options.textEmbeds])]
  await checkPictures(options, files)
  const model = await loadModel(name, options)
  if (options.out !== undefined) await refuseOverwriting(options.out, [...paths, ...model.source.checkpoint.files])
  const metricOf = await metrics(model, options)
  const found: Found[] = []
  for (const path of paths) {
    const image = await decodeImage(path)
    const pixels = await model.images(image)
    const { of, metric } = await metricOf(pixels)
    found.push({ path, image, of, ...(await METHODS[options.method](model, pixels, metric, options)) })
  }
  const results = found.map((f) => asJson(f, options))
  await present(results, options, () => found.forEach((f) => asText(f, options)))
  if (options.out !== undefined) await write(found, options.out)
  if (wantsPictures(options)) await draw(model, found, options, files)
}

const strongest = ({ patches }: Found, top: number) => {
  const columns = patches.shape[2]!
  return Array.from(patches.data, (value, i) => ({ row: Math.floor(i / columns), column: i % columns, value }))
    .sort((a, b) => Math.abs(b.value) - Math.abs(a.value))
    .slice(0, top)
}

function asText(found: Found, { method, top }: SaliencyCommand): void {
  const { path, of, metric, patches, error } = found
  print(style("bold", plain(path)))
  print(`  ${plain(of)}: ${metric.toFixed(4)}, by ${method} over ${patches.shape[1]} x ${patches.shape[2]} patches`)
  if (error !== undefined) print(`  the sum of all pixels misses what it should be by ${error.toExponential(1)}`)
  const rows = strongest(found, top)
  print(table(rows.map((p) => [`  ${p.value.toPrecision(4).padStart(11)}`, `row ${p.row}, column ${p.column}`])))
}

const asJson = ({ path, of, metric, patches, error }: Found, { method }: SaliencyCommand): unknown => {
  const [, rows, columns] = patches.shape as [number, number, number]
  return {
    image: path,
    method,
    of,
    metric,
    ...(error !== undefined && { error }),
    patches: Array.from({ length: rows }, (_, r) => [...patches.data.subarray(r * columns, (r + 1) * columns)]),
  }
}

/** What the method gave of all images, joined along the first axis. */
async function write(found: readonly Found[], out: string): Promise<void> {
  const joined = (of: (f: Found) => Tensor<"float32">): Tensor<"float32"> => {
    const all = found.map(of)
    const one = all[0]!.data.length
    const data = new Float32Array(all.length * one)
    for (const [i, t] of all.entries()) data.set(t.data, i * one)
    return float32([all.length, ...all[0]!.shape.slice(1)], data)
  }
  await writeSafetensors(
    out,
    new Map([
      ["values", joined((f) => f.values)],
      ["patches", joined((f) => f.patches)],
      ["metric", joined((f) => float32([1], [f.metric]))],
    ]),
  )
  note(`wrote values, patches and metric of ${found.length} to ${out}`)
}

async function draw(
  model: LoadedViT,
  found: readonly Found[],
  options: SaliencyCommand,
  sources: readonly string[],
): Promise<void> {
  const base = pictureBase(
    model,
    found.map(({ path, image }) => ({ name: path, image })),
    { title: `Saliency by ${options.method}` },
  )
  const images = base.images.map((image, i) => {
    const { of, patches, signed } = found[i]!
    const kind = signed ? ("diverging" as const) : ("sequential" as const)
    return { ...image, overlays: [{ name: `${options.method}: ${of}`, kind, values: patches.data }] }
  })
  await writePictures({ ...base, images }, options, sources)
}
