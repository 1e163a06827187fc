/** @file vit-prisma lens: what the model's own head makes of the stream at each layer, pooled and at each token. */
import { decodeImage, type Image } from "../data/image.ts"
import { fail } from "../errors.ts"
import type { LoadedViT } from "../hub/load-pretrained.ts"
import { emojiGrid, emojiOf } from "../interp/residual/emoji.ts"
import { logitLens, type Lens, type LensOptions } from "../interp/residual/lens.ts"
import { grid } from "../model/config.ts"
import type { OverlayInput } from "../viewer/encode.ts"
import { loadModel, plain, print, style, table, type ModelOptions } from "./output.ts"
import {
  checkPictures,
  pictureBase,
  present,
  specialTokens,
  wantsPictures,
  writePictures,
  type PictureOptions,
} from "./pictures.ts"
import { textsOf, type TextOptions } from "./text-embeds.ts"

export interface LensCommand extends ModelOptions, PictureOptions, TextOptions {
  readonly class?: readonly string[]
  readonly layers?: readonly number[]
  readonly mid?: boolean
  readonly top: number
  readonly emoji?: boolean
}

export async function lens(name: string, paths: readonly string[], options: LensCommand): Promise<void> {
  const sources = [name, ...paths, ...(options.textEmbeds === undefined ? [] : [options.textEmbeds])]
  await checkPictures(options, sources)
  const model = await loadModel(name, options)
  const texts = await textsOf(model, options)
  if (!texts && !model.outputNames.includes("logits")) {
    const outputs = model.outputNames.join(", ")
    const instead = model.outputNames.includes("image_embeds") ? "give --text or --text-embeds" : "no lens reads these"
    fail("E_USAGE", `${model.source.name} has no class logits; it gives ${outputs}: ${instead}`)
  }
  const how: LensOptions = {
    ...texts,
    top: options.top,
    classes: options.class ?? [],
    ...(options.layers && { layers: options.layers }),
    ...(options.mid && { mid: true }),
  }
  const found: Found[] = []
  for (const path of paths) {
    const image = await decodeImage(path)
    const pixels = await model.images(image)
    const [pooled, tokens] = [
      await logitLens(model, pixels, { ...how, at: "pooled" }),
      await logitLens(model, pixels, { ...how, at: "tokens" }),
    ]
    found.push({ path, image, pooled, tokens })
  }
  const results = found.map((f) => asJson(model, f))
  await present(results, options, () => found.forEach((f) => asText(model, f, options)))
  if (wantsPictures(options)) await draw(model, found, options, sources)
}

interface Found {
  readonly path: string
  readonly image: Image
  readonly pooled: Lens
  readonly tokens: Lens
}

const percent = (p: number): string => `${(100 * p).toFixed(2).padStart(6)} %`

function asText({ config }: LoadedViT, { path, pooled, tokens }: Found, { emoji, layers }: LensCommand): void {
  const k = pooled.top.index.shape[3]!
  const c = pooled.wanted.length
  print(style("bold", plain(path)))
  const head = ["  stream", ...pooled.wanted.map((i) => `${pooled.classes[i]} (rank)`), "largest"]
  const rows = pooled.labels.map((label, s) => [
    `  ${label}`,
    ...pooled.wanted.map((_, j) => `${percent(pooled.probability.data[s * c + j]!)} (${pooled.rank.data[s * c + j]})`),
    Array.from({ length: k }, (_, j) => {
      const at = s * k + j
      return `${percent(pooled.top.probability.data[at]!).trim()} ${pooled.classes[pooled.top.index.data[at]!]}`
    }).join("; "),
  ])
  print(table([head, ...rows]))
  if (!emoji || k < 1) return
  // All layers only where layers were asked for: a screen has room for one picture.
  const shown = layers ? tokens.labels.map((_, s) => s) : [tokens.labels.length - 1]
  for (const stream of shown) {
    print(`  ${tokens.labels[stream]}`)
    for (const row of emojiGrid(tokens, grid(config.vision), { stream })) print(`  ${row.join("")}`)
  }
}

interface Reading {
  readonly top: readonly { label: string; index: number; logit: number; probability: number }[]
  readonly classes: readonly { label: string; index: number; logit: number; probability: number; rank: number }[]
}

/** Row `at` of a lens of one image. */
function reading({ top, classes, wanted, logit, probability, rank }: Lens, at: number): Reading {
  const k = top.index.shape[3]!
  return {
    top: Array.from({ length: k }, (_, j) => {
      const [i, index] = [at * k + j, top.index.data[at * k + j]!]
      return { label: classes[index]!, index, logit: top.logit.data[i]!, probability: top.probability.data[i]! }
    }),
    classes: wanted.map((index, j) => {
      const i = at * wanted.length + j
      return {
        label: classes[index]!,
        index,
        logit: logit.data[i]!,
        probability: probability.data[i]!,
        rank: rank.data[i]!,
      }
    }),
  }
}

function asJson({ config }: LoadedViT, { path, pooled, tokens }: Found): unknown {
  const names = tokenNames(config.vision)
  return {
    image: path,
    streams: pooled.labels.map((stream, s) => ({
      stream,
      layer: pooled.layers[s],
      pooled: reading(pooled, s),
      tokens: names.map((token, t) => ({ token, ...reading(tokens, s * names.length + t) })),
    })),
  }
}

/** "CLS", ..., then the patches as "row,column". */
export function tokenNames(vision: LoadedViT["config"]["vision"]): string[] {
  const [rows, columns] = grid(vision)
  const patches = Array.from({ length: rows * columns }, (_, i) => `${Math.floor(i / columns)},${i % columns}`)
  return [...specialTokens(vision.prefix), ...patches]
}

/** A probability picture for each class asked for, and the largest class of each patch, over the layers. */
async function draw(
  model: LoadedViT,
  found: readonly Found[],
  options: LensCommand,
  sources: readonly string[],
): Promise<void> {
  const base = pictureBase(
    model,
    found.map(({ path, image }) => ({ name: path, image })),
    { title: "Logit lens" },
  )
  const images = base.images.map((image, i) => ({ ...image, overlays: overlays(found[i]!.tokens) }))
  const tables = found.flatMap(({ pooled }, image) => pooledTables(pooled, image))
  await writePictures({ ...base, images, tables }, options, sources)
}

function overlays(lens: Lens): OverlayInput[] {
  // A layer has one row here: the stream between attention and MLP is left to the text.
  const rows = lens.labels.flatMap((label, s) => (label.endsWith("_mid") ? [] : [s]))
  const [, , t, k] = lens.top.index.shape as [number, number, number, number]
  const of = (pick: (s: number, token: number) => number): number[] =>
    rows.flatMap((s) => Array.from({ length: t }, (_, token) => pick(s, token)))
  const layers = rows.map((s) => lens.layers[s]!)
  const c = lens.wanted.length
  const largest: OverlayInput[] = k
    ? [
        {
          name: "largest class",
          kind: "sequential",
          range: [0, 1],
          units: "probability",
          layers,
          values: of((s, token) => lens.top.probability.data[(s * t + token) * k]!),
          labels: named(
            lens,
            of((s, token) => lens.top.index.data[(s * t + token) * k]!),
          ),
        },
      ]
    : []
  return [
    ...lens.wanted.map((index, j): OverlayInput => ({
      name: `probability of ${lens.classes[index]}`,
      kind: "sequential",
      range: [0, 1],
      units: "probability",
      layers,
      values: of((s, token) => lens.probability.data[(s * t + token) * c + j]!),
    })),
    ...largest,
  ]
}

/** Labels of the classes that occur, numbered anew: a page has no use for the others of 21,000. */
function named({ classes }: Lens, index: readonly number[]): NonNullable<OverlayInput["labels"]> {
  const used = [...new Set(index)].sort((a, b) => a - b)
  const at = new Map(used.map((c, i) => [c, i]))
  const names = used.map((c) => classes[c]!)
  return { names, glyphs: names.map(emojiOf), index: index.map((c) => at.get(c)!) }
}

function pooledTables(lens: Lens, image: number) {
  const c = lens.wanted.length
  return lens.wanted.map((index, j) => ({
    name: `${lens.classes[index]}, whole image`,
    units: "probability",
    image,
    rows: lens.labels.map((name, s) => ({
      name,
      value: lens.probability.data[s * c + j]!,
      note: `rank ${lens.rank.data[s * c + j]!}`,
    })),
  }))
}
