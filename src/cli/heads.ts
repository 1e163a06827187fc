/** @file vit-prisma heads: how wide and how far each attention head looks, and which ones do something simple. */
import { decodeImage, type Image } from "../data/image.ts"
import { headReport, type HeadReport, type HeadScore } from "../interp/attention/heads.ts"
import type { Estimate } from "../interp/estimate.ts"
import type { ImageInput } from "../viewer/encode.ts"
import { counted, loadModel, print, style, table, type ModelOptions } from "./output.ts"
import { checkPictures, pictureBase, present, wantsPictures, writePictures, type PictureOptions } from "./pictures.ts"

export interface HeadsCommand extends ModelOptions, PictureOptions {
  readonly layers?: readonly number[]
  readonly level: number
  readonly unit: "pixels" | "patches"
}

export async function heads(name: string, paths: readonly string[], options: HeadsCommand): Promise<void> {
  const files = [name, ...paths]
  await checkPictures(options, files)
  const model = await loadModel(name, options)
  const images: Image[] = []
  for (const path of paths) images.push(await decodeImage(path))
  const { layers, level, unit } = options
  const report = await headReport(model, await model.images(...images), { level, unit, ...(layers && { layers }) })
  await present(asJson(report, options), options, () => asText(report, options))
  if (!wantsPictures(options)) return
  const base = pictureBase(
    model,
    paths.map((path, i) => ({ name: path, image: images[i]! })),
    { title: `Attention heads on ${counted(paths.length, "image")}` },
  )
  const measured = report.heads.map((h) => h.layer)
  const withPatterns: ImageInput[] = []
  // One image at a time: all patterns of a ViT-B/14 at 518 pixels are 1.1 GB.
  for (const [i, image] of base.images.entries()) {
    const pixels = await model.images(images[i]!)
    const { cache } = await model.runWithCache(pixels, { names: "blocks.*.attn.hook_pattern", layers: measured })
    withPatterns.push({ ...image, patterns: { layers: new Map(measured.map((l) => [l, cache.pattern(l)])) } })
  }
  await writePictures({ ...base, images: withPatterns, matrices: matrices(report, unit) }, options, files)
}

const shown = ({ mean, interval }: Estimate, digits = 2): string => {
  if (Number.isNaN(mean)) return "-"
  return mean.toFixed(digits) + (interval ? ` ± ${((interval[1] - interval[0]) / 2).toFixed(digits)}` : "")
}

function asText({ images, heads: all, detectors }: HeadReport, { unit }: HeadsCommand): void {
  const asked = detectors.filter((d) => !Number.isNaN(d.threshold))
  print(style("bold", `Heads on ${counted(images, "image")}: entropy in nats, mean distance in ${unit}, best score`))
  const rows = all.map((h) => {
    const best = above(h, asked)
    return [`  ${h.layer}.${h.head}`, shown(h.entropy), shown(h.distance, 1), best]
  })
  print(table([["  head", "entropy", "distance", "looks at"], ...rows]))
  print(style("bold", "\nDetectors: share of attention, by chance, from where on heads are named"))
  const found = asked.map(({ name, what, chance, threshold, heads: named }) => [
    `  ${name}`,
    what,
    chance.toFixed(2),
    threshold.toFixed(2),
    named.map(({ layer, head, score }) => `${layer}.${head} (${shown(score)})`).join(", ") || "none",
  ])
  print(table([["  detector", "looks at", "chance", "from", "heads"], ...found]))
}

/** What a head is named for, most telling first. */
function above(h: HeadScore, detectors: HeadReport["detectors"]): string {
  const named = detectors.filter(({ name, threshold }) => h.scores.get(name)!.mean >= threshold)
  const excess = ({ name, chance }: (typeof named)[number]) => (h.scores.get(name)!.mean - chance) / (1 - chance)
  return named
    .sort((a, b) => excess(b) - excess(a))
    .map(({ name }) => {
      const where = name === "positional" ? ` (${h.offset.join(", ")})` : ""
      return `${name}${where} ${h.scores.get(name)!.mean.toFixed(2)}`
    })
    .join(", ")
}

const asJson = ({ images, heads: all, detectors }: HeadReport, { unit }: HeadsCommand): unknown => ({
  images,
  unit,
  heads: all.map(({ scores, ...head }) => ({ ...head, scores: Object.fromEntries(scores) })),
  detectors,
})

/** Layers down, heads across. */
function matrices({ heads: all, detectors }: HeadReport, unit: string) {
  const layers = [...new Set(all.map((h) => h.layer))]
  const columns = Math.max(...all.map((h) => h.head)) + 1
  const of = (name: string, units: string, value: (h: HeadScore) => number) => ({
    name,
    kind: "sequential" as const,
    units,
    rows: layers.map((l) => `L${l}`),
    columns: Array.from({ length: columns }, (_, h) => `H${h}`),
    rowAxis: "layer" as const,
    columnAxis: "head" as const,
    rowNumbers: layers,
    values: all.map(value),
  })
  return [
    of("entropy", "nats", (h) => h.entropy.mean),
    of("mean distance", unit, (h) => h.distance.mean),
    ...detectors
      .filter((d) => !Number.isNaN(d.threshold))
      .map(({ name }) => of(name, "share", (h) => h.scores.get(name)!.mean)),
  ]
}
