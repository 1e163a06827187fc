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
import { classIndex, className } from "../interp/residual/classes.ts"
import { actName } from "../interp/cache.ts"
import type { Tensor } from "../tensor/tensor.ts"
import { openAppender } from "../train/tracking/append.ts"
import { loadModel, note, plain, print, table, type ModelOptions } from "./output.ts"
import {
  checkPictures,
  pictureBase,
  present,
  specialTokens,
  wantsPictures,
  writePictures,
  type PictureOptions,
} from "./pictures.ts"
import type { MatrixInput, ViewInput } from "../viewer/encode.ts"

interface CausalOptions extends ModelOptions, PictureOptions {
  readonly hook: string
  readonly by: readonly Cut[]
  readonly layers?: readonly number[]
  /** Only these; they are told apart. */
  readonly heads?: readonly number[]
  readonly tokens?: readonly number[]
  /** Patches as one site: first row and column, then how many rows and columns. */
  readonly region?: readonly number[]
  readonly metric?: string
  readonly class?: string
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
    clean: (await measure(model, clean, metric.text))[0]!,
    corrupt: (await measure(model, corrupt, metric.text))[0]!,
  }
  const work = (rest: Rest) => (options.noise ? noise : denoise)(model, { clean, corrupt, ...rest })
  const rows = await collected(model, metric.text, options, work)
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
  const plainValues = await measure(model, images, metric.text)
  const ends = { intact: plainValues.reduce((x, y) => x + y, 0) / plainValues.length }
  const rows = await collected(model, metric.text, options, (rest) => ablated(model, { images, by, ...rest }))
  await report(
    model,
    rows,
    options,
    { metric: metric.name, ends, plainly: ends.intact },
    [{ name: paths[0]!, image: decoded[0]! }],
    [name, ...paths],
  )
}

interface Rest {
  readonly sites: readonly Site[]
  readonly metric: string
  readonly batch: number
  readonly done: readonly SweepRow[]
  readonly signal: AbortSignal
  readonly onProgress: (done: number, total: number) => void
}

/** The metric as text and as it is called: --metric, or the logit of --class, or that of what the first image is taken for. */
async function metricOf(
  model: LoadedViT,
  images: Tensor,
  options: CausalOptions,
): Promise<{ text: string; name: string }> {
  if (options.metric !== undefined) return { text: options.metric, name: options.metric }
  if (!model.outputNames.includes("logits")) {
    return fail(
      "E_USAGE",
      `${options.class ?? "the model"} has no class logits; give --metric, as "pooler_output[:, 0]"`,
    )
  }
  const { logits } = await model.run(images)
  const n = logits.shape[1]!
  const first = Array.from(logits.data.slice(0, n) as Float32Array)
  const index =
    options.class === undefined ? first.indexOf(Math.max(...first)) : classIndex(model.config, options.class)
  return { text: `logits[:, ${index}]`, name: `logit of ${className(model.config, index)}` }
}

async function collected(
  model: LoadedViT,
  metric: string,
  options: CausalOptions,
  work: (rest: Rest) => AsyncGenerator<SweepRow>,
): Promise<SweepRow[]> {
  const { nLayers } = model.config.vision
  const layers = options.layers && chosenLayers(nLayers, options.layers)
  const wanted = /[.*]/.test(options.hook) ? options.hook : actName(options.hook, 0).replace("blocks.0.", "blocks.*.")
  const within = ({ hook }: Site) => !layers || layers.includes(Number(/^blocks\.(\d+)\./.exec(hook)?.[1] ?? -1))
  const sites = sitesOf(model, wanted, options.by, tokensOf(model, options), options.heads).filter(within)
  if (!sites.length) fail("E_USAGE", `no site is left of ${wanted}: it is not of a layer`)
  const done = options.rows === undefined ? [] : await rowsOf(options.rows)
  const stop = new AbortController()
  const interrupted = () => stop.abort()
  process.once("SIGINT", interrupted)
  const onProgress = (n: number, total: number) => {
    if (process.stderr.isTTY) process.stderr.write(n < total ? `\r${n} of ${total} sites` : "\r\u001B[K")
  }
  const file = options.rows === undefined ? undefined : await openAppender(options.rows)
  const rows: SweepRow[] = []
  const known = new Set(done.map((r) => siteName(r.site)))
  try {
    for await (const row of work({ sites, metric, batch: options.batch, done, signal: stop.signal, onProgress })) {
      rows.push(row)
      if (!known.has(siteName(row.site))) file?.append(Buffer.from(`${JSON.stringify({ ...row, metric })}\n`))
    }
  } finally {
    process.off("SIGINT", interrupted)
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

/** Rows of an earlier run; a last line that a kill has cut short does not count. */
async function rowsOf(path: string): Promise<SweepRow[]> {
  if (!(await stat(path).catch(() => undefined))) return []
  const rows: SweepRow[] = []
  for await (const line of createInterface({ input: createReadStream(path) })) {
    try {
      const row = JSON.parse(line) as SweepRow
      if (typeof row.site?.hook === "string" && Array.isArray(row.values)) rows.push(row)
    } catch {
      note(`${path}: a line that is no JSON is passed over`)
    }
  }
  return rows
}

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
  const view: ViewInput = { ...base, matrices: matricesOf(model, rows, { metric, plainly }) }
  await writePictures(view, options, sources)
}

/** What each value changes: a row for each hook, a column for each site that it has. */
function matricesOf(
  model: LoadedViT,
  rows: readonly SweepRow[],
  { metric, plainly }: Pick<Said, "metric" | "plainly">,
): MatrixInput[] {
  const hooks = [...new Set(rows.map((r) => r.site.hook))]
  const sites = rows.map((r) => r.site).filter((site) => site.hook === hooks[0])
  const heads = sites[0]?.head !== undefined
  const tokens = sites[0]?.tokens?.length === 1
  // Heads and tokens are two axes, for which the page has no table.
  if (heads && tokens && sites.length > 1) return []
  const special = specialTokens(model.config.vision.prefix)
  const tokenName = (t: number) => special[t] ?? `patch ${t - special.length}`
  const nameOf = ({ head, tokens: group }: Site) =>
    heads ? `head ${head}` : tokens ? tokenName(group![0]!) : group ? `${group.length} patches` : "all"
  return [
    {
      name: heads ? "layers by heads" : tokens ? "layers by tokens" : "layers",
      kind: "diverging",
      units: `change of ${metric}`,
      rows: hooks,
      columns: sites.map(nameOf),
      values: rows.map((r) => r.mean - plainly),
      rowAxis: "layer",
      ...((heads || tokens) && { columnAxis: heads ? "head" : "token" }),
    },
  ]
}
