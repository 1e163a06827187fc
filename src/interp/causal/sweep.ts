/**
 * @file The one causal experiment: at each of many sites a value is put in place of the run's own, and a metric is read.
 *
 * Activation patching (arXiv:2202.05262, arXiv:2309.16042) and ablation are choices of what is put there.
 */
import { fail } from "../../errors.ts"
import { float32, size, type Tensor } from "../../tensor/tensor.ts"
import { Moments } from "../estimate.ts"
import { inputValues, type ModelInput } from "../feeds.ts"
import { imageMetric, type Metric } from "../gradients.ts"
import type { HookedViT } from "../hooked-vit.ts"
import { whole } from "../inputs/batches.ts"
import { checkSite, siteName, writeSite, type Site } from "./sites.ts"
import { imagesIn, imagesOf, sourceRows, valuesAt, type Rows, type Source, type SourceRows } from "./sources.ts"

export interface Experiment {
  /** Images [n, c, H, W]; of a dual encoder also `input_ids`, which all runs get. */
  readonly base: ModelInput
  readonly source: Source
  readonly sites: readonly Site[]
  /** One number for each image. */
  readonly metric: Metric
  /** Images that run at once, whatever site they are of: 8. */
  readonly batch?: number
  /** Rows of an experiment that was stopped: they are given again, and not computed. */
  readonly done?: readonly SweepRow[]
  readonly signal?: AbortSignal
  readonly onProgress?: (done: number, total: number) => void
}

/** A site and the metric with the value put there. */
export interface SweepRow {
  readonly site: Site
  /** Of each image. */
  readonly values: readonly number[]
  readonly mean: number
  /** Student's 95 % interval of the mean over images; absent for one image. */
  readonly interval?: readonly [low: number, high: number]
}

const CONFIDENCE = 0.95
/** Bytes of cached values that are held at once. */
const HELD = 256 * 2 ** 20
/** Sites for which the values of all images may be computed again: two passes are 1/8 of these sites' own runs, or less. */
const WORTH = 32

/** The metric of each image, without any intervention. Errors: E_INPUT, E_HOOK. */
export async function measure(model: HookedViT, given: ModelInput, metric: Metric): Promise<number[]> {
  const { value } = await model.run(given, { outputs: (view) => ({ value: imageMetric(metric, view) }) })
  return Array.from(value!.data as Float32Array)
}

/**
 * One row for each site, in their order by hook, as they are computed.
 *
 * What lies below a site's block is not computed: the run starts from that block's cached input, so a patch at layer l of
 * L costs about (L - l) / L of a run. All sites of a hook share one session; what is held does not grow with their number.
 * Rows come one by one where the values of all images fit into memory together, else some sites at a time.
 * Errors: E_HOOK and E_INPUT for sites, sources and metrics that cannot be, before anything runs, and for `done` whose first
 * row is not what this experiment gives; E_INTERRUPTED once `signal` is aborted, after the last whole row.
 */
export async function* sweep(model: HookedViT, experiment: Experiment): AsyncGenerator<SweepRow, void, void> {
  const { base, source, sites, batch = 8, done = [], signal, onProgress } = experiment
  const images = imagesIn(model, base)
  const { pixel_values: _, ...rest } = inputValues(model.config, base)
  whole("batch", batch, 4096)
  if (!sites.length) fail("E_INPUT", "no site was named; sitesOf(model, hook, by) lists those of a hook")
  for (const site of sites) checkSite(model, site)
  const n = images.shape[0]!
  const from = sourceRows(model, source, n, batch)
  const other = done.find((row) => row.values.length !== n)
  if (other) {
    const got = `${siteName(other.site)} has ${other.values.length} values`
    fail("E_INPUT", `done: ${got}, the experiment has ${n} images: these rows are of another`)
  }
  const known = new Map(done.map((row) => [siteName(row.site), row]))
  const step = Math.min(n, batch)

  const shared = { ...experiment, images, rest, from, step, perRun: Math.max(1, Math.floor(batch / step)) }
  const again = sites.find((s) => known.has(siteName(s)))
  if (again)
    for await (const row of rowsOf(model, { ...shared, sites: [again] })) expectSame(known.get(siteName(again))!, row)

  let finished = 0
  for (const hooks of held(model, sites, n, step)) {
    const own = sites.filter((s) => hooks.includes(s.hook))
    const fresh = own.filter((s) => !known.has(siteName(s)))
    const old = own.flatMap((s) => known.get(siteName(s)) ?? [])
    onProgress?.((finished += old.length), sites.length)
    yield* old
    const onPart = (part: number) => onProgress?.(finished + Math.floor(part * fresh.length), sites.length)
    for await (const row of rowsOf(model, { ...shared, sites: fresh, onPart })) {
      onProgress?.((finished += 1), sites.length)
      yield row
      if (signal?.aborted) fail("E_INTERRUPTED", `the sweep was stopped after ${finished} of ${sites.length} sites`)
    }
  }
}

interface Work extends Experiment {
  readonly images: Tensor
  /** Inputs beside the images. */
  readonly rest: Readonly<Record<string, Tensor>>
  readonly from: SourceRows
  /** Images, and sites, that run at once. */
  readonly step: number
  readonly perRun: number
  /** Told what part of the work is done, where rows do not come one by one. */
  readonly onPart?: (part: number) => void
}

/** Rows that were computed on another number of threads differ in their last digits. */
function expectSame(was: SweepRow, is: SweepRow): void {
  const at = is.values.findIndex((x, i) => !(Math.abs(x - was.values[i]!) <= 1e-3 * Math.max(1, Math.abs(x))))
  if (at < 0) return
  const [got, here] = [was.values[at], is.values[at]]
  fail(
    "E_INPUT",
    `done: ${siteName(is.site)} has ${got} for image ${at}, this experiment gives ${here}: these rows are of another`,
  )
}

/** The rows of sites whose hooks' values fit into memory together. */
async function* rowsOf(model: HookedViT, { images, sites, metric, from, step, perRun, rest, signal, onPart }: Work) {
  if (!sites.length) return
  const n = images.shape[0]!
  const hooks = [...new Set(sites.map((s) => s.hook))]
  const needed = [...new Set(hooks.flatMap((hook) => [hook, ...entryOf(model, hook)]))]
  const runs = hooks.flatMap((hook) => {
    const here = sites.filter((s) => s.hook === hook)
    return Array.from({ length: Math.ceil(here.length / perRun) }, (_, i) => here.slice(i * perRun, (i + 1) * perRun))
  })
  const values = new Map(sites.map((site) => [site, new Float64Array(n)]))
  const partOf = async (first: number) => {
    const end = Math.min(n, first + step)
    const pixels = imagesOf(images, first, end)
    const ours = await valuesAt(model, { ...rest, pixel_values: pixels }, needed)
    return { first, pixels, rest, ours, theirs: await from(hooks, first, end) }
  }
  const run = async ({ first, ...part }: Awaited<ReturnType<typeof partOf>>, some: readonly Site[]) => {
    if (signal?.aborted) fail("E_INTERRUPTED", "the sweep was stopped")
    const got = await patched(model, metric, { ...part, sites: some })
    const m = got.length / some.length
    for (const [j, site] of some.entries()) values.get(site)!.set(got.subarray(j * m, (j + 1) * m), first)
  }
  const firsts = Array.from({ length: Math.ceil(n / step) }, (_, i) => i * step)
  if (fits(model, hooks, n)) {
    const parts = []
    for (const first of firsts) parts.push(await partOf(first))
    for (const some of runs) {
      for (const part of parts) await run(part, some)
      for (const site of some) yield rowOf(site, values.get(site)!)
    }
    return
  }
  for (const first of firsts) {
    const part = await partOf(first)
    for (const [i, some] of runs.entries()) {
      await run(part, some)
      onPart?.((first / step + (i + 1) / runs.length) / firsts.length)
    }
  }
  for (const site of sites) yield rowOf(site, values.get(site)!)
}

/** Do these hooks' values, the sources' and those that their blocks start from fit into memory for so many images? */
const fits = (model: HookedViT, hooks: readonly string[], images: number): boolean =>
  model.cacheBytes({ names: hooks.flatMap((h) => [h, ...entryOf(model, h)]), batch: images }) * 2 <= HELD

/** Hooks that are held together: for all images, or for those that run at once while their sites are few. */
function held(model: HookedViT, sites: readonly Site[], images: number, step: number): string[][] {
  const groups: string[][] = []
  for (const hook of new Set(sites.map((s) => s.hook))) {
    const last = groups.at(-1)
    const isFew = last !== undefined && sites.filter((s) => last.includes(s.hook)).length < WORTH
    if (last && fits(model, [...last, hook], isFew ? step : images)) last.push(hook)
    else groups.push([hook])
  }
  return groups
}

interface Part {
  readonly pixels: Tensor
  readonly rest: Readonly<Record<string, Tensor>>
  readonly ours: Rows
  readonly theirs: Rows
  readonly sites: readonly Site[]
}

/** The metric of some sites of one hook, each for all images: [sites x images]. */
async function patched(model: HookedViT, metric: Metric, { pixels, rest, ours, theirs, sites }: Part) {
  const n = pixels.shape[0]!
  const { hook } = sites[0]!
  const [entry] = entryOf(model, hook)
  const patch: Record<string, Tensor> = { [hook]: repeated(ours.get(hook)!, n, sites.length) }
  const row = size(patch[hook]!.shape.slice(1))
  const [into, other] = [patch[hook]!.data as Float32Array, theirs.get(hook)!]
  for (let i = 0; i < sites.length * n; i++) {
    const k = (i % n) % other.shape[0]!
    writeSite(
      model,
      sites[Math.floor(i / n)]!,
      into.subarray(i * row, (i + 1) * row),
      other.data.subarray(k * row, (k + 1) * row),
    )
  }
  if (entry) patch[entry] = repeated(ours.get(entry)!, n, sites.length)
  // Not read where an entry is given and the metric lies behind it.
  const given = { ...rest, pixel_values: repeated(pixels, n, sites.length) }
  const { value } = await model.run(given, { patch, outputs: (view) => ({ value: imageMetric(metric, view) }) })
  return value!.data as Float32Array
}

/** Rows for `n` images, `times` over. */
function repeated(t: Tensor, n: number, times: number): Tensor<"float32"> {
  const row = size(t.shape.slice(1))
  const out = new Float32Array(n * times * row)
  for (let i = 0; i < n * times; i++) {
    const k = (i % n) % t.shape[0]!
    out.set((t.data as Float32Array).subarray(k * row, (k + 1) * row), i * row)
  }
  return float32([n * times, ...t.shape.slice(1)], out)
}

/** Is this all that flows on? */
const isWhole = (hook: string): boolean => /hook_resid_(pre|mid|post)$|hook_full_embed$|^hook_ln_pre$/.test(hook)

/** The hook that a run may start from instead of at the images: the input of the hook's block, or nothing. */
function entryOf(model: HookedViT, hook: string): string[] {
  if (isWhole(hook)) return []
  const layer = /^blocks\.(\d+)\./.exec(hook)?.[1]
  if (layer !== undefined) return [`blocks.${layer}.hook_resid_pre`]
  return hook.startsWith("ln_final.") ? [`blocks.${model.config.vision.nLayers - 1}.hook_resid_post`] : []
}

function rowOf(site: Site, all: Float64Array): SweepRow {
  const moments = new Moments(1)
  for (const x of all) moments.add(0, x)
  const { mean, interval } = moments.estimate(0, CONFIDENCE)
  return { site, values: Array.from(all), mean, ...(interval && { interval }) }
}
