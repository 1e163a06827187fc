/** @file vit-prisma attribute: which parts of a model wrote a logit. */
import { decodeImage, type Image } from "../data/image.ts"
import { fail } from "../errors.ts"
import type { LoadedViT } from "../hub/load-pretrained.ts"
import { decomposeLogit, type LogitAttribution } from "../interp/residual/attribution.ts"
import { sharesBy, tokenShares, type Grouping, type Share } from "../interp/residual/groups.ts"
import type { Target } from "../interp/residual/targets.ts"
import type { Tensor } from "../tensor/tensor.ts"
import type { OverlayInput } from "../viewer/encode.ts"
import { tokenNames } from "./lens.ts"
import { noLogits } from "./metric.ts"
import { loadModel, plain, print, style, table, type ModelOptions } from "./output.ts"
import { checkPictures, pictureBase, present, wantsPictures, writePictures, type PictureOptions } from "./pictures.ts"
import { predictions } from "./run.ts"
import { textsOf, type TextOptions, type Texts } from "./text-embeds.ts"

export interface AttributeCommand extends ModelOptions, PictureOptions, TextOptions {
  readonly class?: readonly string[]
  readonly against?: string
  readonly metric?: string
  readonly by: Grouping
  readonly top: number
}

interface Found {
  readonly path: string
  readonly image: Image
  readonly attributions: readonly LogitAttribution[]
}

export async function attribute(name: string, paths: readonly string[], options: AttributeCommand): Promise<void> {
  const files = [name, ...paths, ...(options.textEmbeds === undefined ? [] : [options.textEmbeds])]
  await checkPictures(options, files)
  const model = await loadModel(name, options)
  const texts = await textsOf(model, compared(options))
  const sources = options.by === "source" || wantsPictures(options)
  const found: Found[] = []
  for (const path of paths) {
    const image = await decodeImage(path)
    const pixels = await model.images(image)
    const target = await targetOf(model, pixels, options, texts)
    found.push({ path, image, attributions: await decomposeLogit(model, pixels, target, { sources }) })
  }
  const results = found.map((f) => asJson(model, f, options))
  await present(results, options, () => found.forEach((f) => asText(model, f, options)))
  if (wantsPictures(options)) await draw(model, found, options, files)
}

/** With --against, two texts. Error: E_USAGE. */
function compared(options: AttributeCommand): TextOptions {
  const { text, textEmbeds, against } = options
  if (against === undefined || (!text && textEmbeds === undefined)) return options
  const [first, ...more] = text ?? []
  if (first === undefined || more.length) {
    return fail("E_USAGE", "--against wants one --class or one --text: the difference of two logits")
  }
  return { text: [first, against] }
}

/** What the options name; without any, the class that the model finds most probable. Errors: E_USAGE. */
async function targetOf(
  model: LoadedViT,
  pixels: Tensor,
  options: AttributeCommand,
  texts: Texts | undefined,
): Promise<Target> {
  const { class: classes, against, metric } = options
  if ([classes, metric, texts].filter((x) => x !== undefined).length > 1) {
    fail("E_USAGE", "give one of --class, --metric and texts: each names another output")
  }
  if (metric !== undefined) return { metric }
  if (texts) return { ...texts, ...(against !== undefined && { difference: true as const }) }
  if (classes === undefined && against === undefined) {
    if (!model.outputNames.includes("logits")) noLogits(model)
    const { logits } = await model.run(pixels, { outputs: "logits" })
    return { classes: predictions(model, logits, 0, 1)[0]!.index }
  }
  if (against === undefined) return { classes: classes! }
  const [first, ...more] = classes ?? []
  if (first === undefined || more.length) {
    return fail("E_USAGE", "--against wants one --class or one --text: the difference of two logits")
  }
  return { difference: [first, against] }
}

function shares({ config }: LoadedViT, attribution: LogitAttribution, by: Grouping): Share[] {
  const rows = sharesBy(attribution, by)
  const names = tokenNames(config.vision)
  return by === "token" || by === "source"
    ? rows.map(({ name, value }, t) => ({ name: names[t] ?? name, value }))
    : rows
}

const bySize = (rows: readonly Share[]): Share[] => rows.toSorted((a, b) => Math.abs(b.value) - Math.abs(a.value))

function asText(model: LoadedViT, { path, attributions }: Found, { by, top }: AttributeCommand): void {
  print(style("bold", plain(path)))
  for (const a of attributions) {
    const rows = bySize(shares(model, a, by))
    const rest = rows.slice(top).reduce((sum, r) => sum + r.value, 0)
    print(
      `  ${plain(a.target)}: ${a.value.toFixed(4)}, the sum of ${rows.length} shares to ${a.error.toExponential(1)}`,
    )
    const shown = rows.slice(0, top).map(({ name, value }) => [name, value])
    const more = rows.length > top ? [[`${rows.length - top} others`, rest]] : []
    print(
      table(
        [...shown, ...more].map(([name, value]) => [`  ${(value as number).toFixed(4).padStart(9)}`, name as string]),
      ),
    )
  }
}

function asJson(model: LoadedViT, { path, attributions }: Found, { by }: AttributeCommand): unknown {
  return {
    image: path,
    targets: attributions.map((a) => ({
      target: a.target,
      value: a.value,
      sum: a.sum,
      error: a.error,
      by,
      shares: shares(model, a, by),
    })),
  }
}

/** Which tokens each output was read from, bars of its largest shares, and the heads as layers x heads. */
async function draw(
  model: LoadedViT,
  found: readonly Found[],
  options: AttributeCommand,
  sources: readonly string[],
): Promise<void> {
  const { vision } = model.config
  const title = "Direct logit attribution"
  const base = pictureBase(
    model,
    found.map(({ path, image }) => ({ name: path, image })),
    { title },
  )
  const images = base.images.map((image, i) => ({
    ...image,
    overlays: found[i]!.attributions.flatMap((a) => overlays(model, a)),
  }))
  const all = found.flatMap(({ attributions }, image) => attributions.map((a) => ({ a, image })))
  const tables = all.map(({ a, image }) => ({
    name: `${a.target}: ${a.value.toFixed(3)}`,
    units: "logits",
    image,
    rows: bySize(shares(model, a, options.by)).slice(0, options.top),
  }))
  const numbered = (n: number, prefix: string): string[] => Array.from({ length: n }, (_, i) => `${prefix}${i}`)
  const matrices = all.map(({ a, image }) => ({
    name: `heads: ${a.target}`,
    kind: "diverging" as const,
    units: "logits",
    image,
    rows: numbered(vision.nLayers, "L"),
    columns: numbered(vision.nHeads, "H"),
    values: a.components.filter((c) => c.part === "head").map((c) => c.value),
    rowAxis: "layer" as const,
    columnAxis: "head" as const,
  }))
  await writePictures({ ...base, images, tables, matrices }, options, sources)
}

/** What heads read from each token; where more tokens than the prefix are pooled, also what was written at each. */
function overlays({ config: { vision } }: LoadedViT, a: LogitAttribution): OverlayInput[] {
  const one = { kind: "diverging", units: "logits" } as const
  const written = { ...one, name: `written for ${a.target}`, values: tokenShares(a) }
  const read = { ...one, name: `read by heads for ${a.target}`, values: tokenShares(a, "sources") }
  return vision.pool === "cls" || vision.pool === "distilled" ? [read] : [read, written]
}
