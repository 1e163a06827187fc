/** @file vit-prisma patch and ablate: a value put in another's place at each of many sites, and what becomes of the metric. */
import { createReadStream } from "node:fs"
import { stat } from "node:fs/promises"
import { createInterface } from "node:readline"
import { decodeImage, type Image } from "../data/image.ts"
import { fail } from "../errors.ts"
import type { LoadedViT } from "../hub/load-pretrained.ts"
import { ablate as ablated, denoise, noise, type Ablation } from "../interp/causal/patching.ts"
import { chosenLayers } from "../interp/attention/patterns.ts"
import { regionTokens, siteName, sitesOf, type Cut, type Site } from "../interp/causal/sites.ts"
import { measure, type SweepRow } from "../interp/causal/sweep.ts"
import { actName } from "../interp/cache.ts"
import type { Metric } from "../interp/gradients.ts"
import { quote } from "../tensor/quote.ts"
import type { Tensor } from "../tensor/tensor.ts"
import { openAppender } from "../train/tracking/append.ts"
import { changes } from "./causal-pictures.ts"
import { metrics, type MetricOptions } from "./metric.ts"
import { loadModel, note, plain, print, table, type ModelOptions } from "./output.ts"
import { progress } from "./progress.ts"
import { stoppable } from "./stopping.ts"
import { checkPictures, pictureBase, present, wantsPictures, writePictures, type PictureOptions } from "./pictures.ts"
import type { ViewInput } from "../viewer/encode.ts"

interface CausalOptions extends ModelOptions, PictureOptions, MetricOptions {
  readonly hook: string
  readonly by: readonly Cut[]
  readonly layers?: readonly number[]
  /** Only these; they are told apart. */
  readonly heads?: readonly number[]
  readonly tokens?: readonly number[]
  /** Patches as one site: first row and column, then how many rows and columns. */
  readonly region?: readonly number[]
  readonly batch: number
  /** A file of rows, one a line: written as they are computed, and read again to go on. */
  readonly rows?: string
}

export interface PatchOptions extends CausalOptions {
  readonly noise?: boolean
}

export interface AblateOptions extends CausalOptions {
  readonly mode: "zero" | "mean" | "resample"
  readonly seed: number
}

/** CLEAN and CORRUPT, one image each: the corrupt run is given the clean one's values; with --noise the other way round. */
export async function patch(name: string, paths: readonly [string, string], options: PatchOptions): Promise<void> {
  await checkPictures(options, [name, ...paths])
  const model = await loadModel(name, options)
  const [a, b] = [await decodeImage(paths[0]), await decodeImage(paths[1])]
  const [clean, corrupt] = [await model.images(a), await model.images(b)]
  const metric = await metricOf(model, clean, options)
  const ends = {
    clean: (await measure(model, clean, metric.metric))[0]!,
    corrupt: (await measure(model, corrupt, metric.metric))[0]!,
  }
  const work = (rest: Rest) => (options.noise ? noise : denoise)(model, { clean, corrupt, ...rest })
  const experiment = {
    command: "patch",
    ...modelOf(name, options),
    images: paths,
    metric: metric.name,
    noise: options.noise ?? false,
  }
  const rows = await collected(model, metric.metric, experiment, options, work)
  const plainly = options.noise ? ends.clean : ends.corrupt
  const said = { metric: metric.name, ends, plainly }
  await report(model, rows, options, said, [{ name: paths[0], image: a }], [name, ...paths])
}

/** Images, each of whose values are taken away in turn. */
export async function ablate(name: string, paths: readonly string[], options: AblateOptions): Promise<void> {
  await checkPictures(options, [name, ...paths])
  const model = await loadModel(name, options)
  const decoded: Image[] = []
  for (const path of paths) decoded.push(await decodeImage(path))
  const images = await model.images(...decoded)
  const { mode, seed } = options
  if (mode !== "zero" && paths.length < 2) {
    fail(
      "E_USAGE",
      `--mode ${mode} needs at least two images: it puts ${mode === "mean" ? "their mean" : "another's value"} there`,
    )
  }
  const by: Ablation =
    mode === "zero" ? { zero: true } : mode === "mean" ? { mean: images } : { resample: images, seed }
  const metric = await metricOf(model, images, options)
  const plainValues = await measure(model, images, metric.metric)
  const ends = { intact: plainValues.reduce((x, y) => x + y, 0) / plainValues.length }
  const experiment = { command: "ablate", ...modelOf(name, options), images: paths, metric: metric.name, mode, seed }
  const rows = await collected(model, metric.metric, experiment, options, (rest) =>
    ablated(model, { images, by, ...rest }),
  )
  await report(
    model,
    rows,
    options,
    { metric: metric.name, ends, plainly: ends.intact },
    [{ name: paths[0]!, image: decoded[0]! }],
    [name, ...paths],
  )
}

const modelOf = (model: string, { revision = "", imageSize }: CausalOptions) => ({
  model,
  revision,
  imageSize: String(imageSize ?? ""),
})

interface Called {
  readonly metric: Metric
  readonly name: string
}

interface Rest {
  readonly sites: readonly Site[]
  readonly metric: Metric
  readonly batch: number
  readonly done: readonly SweepRow[]
  readonly signal: AbortSignal
  readonly onProgress: (done: number) => void
}

/** The metric, and what it is called. */
async function metricOf(model: LoadedViT, images: Tensor, options: CausalOptions): Promise<Called> {
  const { of, what, metric } = await (await metrics(model, options))(images)
  return { metric, name: what === "metric" ? of : what === "logit" ? `logit of ${of}` : `similarity to ${of}` }
}

async function collected(
  model: LoadedViT,
  metric: Metric,
  experiment: Experiment,
  options: CausalOptions,
  work: (rest: Rest) => AsyncGenerator<SweepRow>,
): Promise<SweepRow[]> {
  const { nLayers } = model.config.vision
  const layers = options.layers && chosenLayers(nLayers, options.layers)
  const full = /[.*{]/.test(options.hook) || model.hooks.has(options.hook)
  const wanted = full ? options.hook : actName(options.hook, 0).replace("blocks.0.", "blocks.*.")
  const within = ({ hook }: Site) => !layers || layers.includes(Number(/^blocks\.(\d+)\./.exec(hook)?.[1] ?? -1))
  const sites = sitesOf(model, wanted, options.by, tokensOf(model, options), options.heads).filter(within)
  if (!sites.length) fail("E_USAGE", `no site is left of ${wanted}: it is not of a layer`)
  const { done, cut } = options.rows === undefined ? { done: [], cut: false } : await rowsOf(options.rows, experiment)
  const file = options.rows === undefined ? undefined : await openAppender(options.rows)
  const bar = await progress("sites", sites.length, { stoppable: true })
  // After a row that was cut short the next begins on a line of its own.
  if (cut) file?.append(Buffer.from("\n"))
  const rows: SweepRow[] = []
  const known = new Set(done.map((r) => siteName(r.site)))
  const kept = options.rows === undefined ? "" : `; the same command goes on from ${options.rows}`
  const stopped = (name: string) => `stopped by ${name} after ${rows.length} of ${sites.length} sites${kept}`
  try {
    await stoppable(stopped, async (signal) => {
      for await (const row of work({
        sites,
        metric,
        batch: options.batch,
        done,
        signal,
        onProgress: (n) => bar.update(n),
      })) {
        rows.push(row)
        if (!known.has(siteName(row.site))) file?.append(Buffer.from(`${JSON.stringify({ ...row, experiment })}\n`))
      }
    })
  } finally {
    bar.stop()
    await file?.close()
  }
  return rows
}

/** Each of --tokens alone, or --region as one. Errors: E_USAGE for both, E_INPUT for patches outside the grid. */
function tokensOf(model: LoadedViT, { tokens, region }: CausalOptions): readonly (readonly number[])[] | undefined {
  if (!region) return tokens?.map((t) => [t])
  if (tokens) fail("E_USAGE", "give --tokens or --region: each says which tokens make a site")
  const [top, left, height = 1, width = 1, ...more] = region
  if (left === undefined || more.length) {
    return fail("E_USAGE", `--region ${region.join(",")}: expected row,column or row,column,rows,columns`)
  }
  return [regionTokens(model, [top!, left], [height, width])]
}

/** What a file of rows is of. */
type Experiment = Readonly<Record<string, string | number | boolean | readonly string[]>>

/**
 * Rows of an earlier run; one that a kill has cut short does not count. Error: E_USAGE where they are of another
 * experiment.
 */
async function rowsOf(path: string, experiment: Experiment): Promise<{ done: SweepRow[]; cut: boolean }> {
  const done: SweepRow[] = []
  let cut = false
  if (!(await stat(path).catch(() => undefined))) return { done, cut }
  for await (const line of createInterface({ input: createReadStream(path) })) {
    const found = rowIn(line)
    cut = !found
    if (!found) {
      if (!line.startsWith('{"site"')) return noRows(path)
      note(`${path}: a row that was cut short is passed over`)
      continue
    }
    const { experiment: other = experiment, ...row } = found
    const differs = Object.keys(experiment).find((key) => String(other[key]) !== String(experiment[key]))
    if (differs !== undefined) {
      const was = `${differs} ${quote(String(other[differs]))}, here ${quote(String(experiment[differs]))}`
      fail("E_USAGE", `${path} has rows of another experiment: ${was}; name another file`, { file: path })
    }
    done.push(row)
  }
  return { done, cut }
}

function rowIn(line: string): (SweepRow & { readonly experiment?: Experiment }) | undefined {
  try {
    const row = JSON.parse(line) as SweepRow
    return typeof row?.site?.hook === "string" && Array.isArray(row.values) ? row : undefined
  } catch {
    return undefined
  }
}

const noRows = (path: string): never =>
  fail("E_USAGE", `${path} is no file of rows that this command wrote; name another or a new one`, { file: path })

interface Said {
  readonly metric: string
  /** The metric without a replaced value, of each run. */
  readonly ends: Readonly<Record<string, number>>
  /** That of the run in which values are replaced. */
  readonly plainly: number
}

async function report(
  model: LoadedViT,
  rows: readonly SweepRow[],
  options: CausalOptions,
  { metric, ends, plainly }: Said,
  images: readonly { readonly name: string; readonly image: Image }[],
  sources: readonly string[],
): Promise<void> {
  await present({ metric, ...ends, rows }, options, () => {
    print(
      Object.entries(ends)
        .map(([name, x]) => `${name} ${x.toFixed(4)}`)
        .join(", "),
    )
    const shown = rows.toSorted((a, b) => Math.abs(b.mean - plainly) - Math.abs(a.mean - plainly)).slice(0, 20)
    const interval = (r: SweepRow) => (r.interval ? `${r.interval[0].toFixed(4)} to ${r.interval[1].toFixed(4)}` : "")
    print(table(shown.map((r) => [plain(siteName(r.site)), r.mean.toFixed(4), interval(r)])))
    if (rows.length > shown.length)
      note(`the 20 of ${rows.length} sites that change "${metric}" most; --format json gives all`)
  })
  if (!wantsPictures(options)) return
  const base = pictureBase(model, images, { title: `${metric} with one value replaced` })
  const { overlays, matrices } = changes(rows, { vision: model.config.vision, metric, plainly })
  const view: ViewInput = {
    ...base,
    images: base.images.map((image) => ({ ...image, ...(overlays.length && { overlays }) })),
    matrices,
  }
  await writePictures(view, options, sources)
}
