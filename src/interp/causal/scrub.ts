/**
 * @file Causal scrubbing by resampling (https://www.alignmentforum.org/posts/JvZhhzycHu2Yd57RN): values are replaced by
 * those of other images that a hypothesis takes for equivalent; how much of the metric stays says how good it is.
 *
 * A hypothesis is a tree: what is put in place comes from a run on the drawn images in which the values that it is made of
 * (`from`) are replaced in the same way.
 */
import { fail } from "../../errors.ts"
import { add, mul, scalar, sub } from "../../graph/ops.ts"
import { Random } from "../../tensor/random.ts"
import { float32, size, type Tensor } from "../../tensor/tensor.ts"
import { Moments } from "../estimate.ts"
import { imageMetric, type Metric } from "../gradients.ts"
import type { GraphView, HookedViT } from "../hooked-vit.ts"
import { whole } from "../inputs/batches.ts"
import type { Edit, Interventions } from "../interventions.ts"
import { meanOf } from "./faithfulness.ts"
import { checkSite, siteName, writeSite, type Site } from "./sites.ts"
import { gathered, imagesIn, valuesAt, type Rows } from "./sources.ts"
import { measure } from "./sweep.ts"

/** Sites whose values may be those of other images, all of one drawn image together. */
export interface ScrubGroup {
  readonly sites: readonly Site[]
  /** Which images (by their place) may stand for image `i`. Left out, all: these sites are said not to matter. */
  readonly allowed?: (i: number) => readonly number[]
  /**
   * What these sites are made of: upstream of them, in the run on the image that was drawn, and drawn anew for that image.
   * Left out, their values are those of an unchanged run.
   */
  readonly from?: readonly ScrubGroup[]
}

export interface ScrubOptions {
  readonly groups: readonly ScrubGroup[]
  /** One number for each image. */
  readonly metric: Metric
  /** How often images are drawn: 8. */
  readonly draws?: number
  readonly seed?: number
  readonly signal?: AbortSignal
  readonly onProgress?: (done: number, total: number) => void
}

/** Means over images (and draws) of the metric. */
export interface Scrubbed {
  /** Of the run as it is. */
  readonly clean: number
  /** With each group's values replaced by those of an image that the hypothesis allows. */
  readonly scrubbed: number
  /** With each group's values replaced by those of any image. */
  readonly random: number
  /** (scrubbed - random) / (clean - random): 1 where the hypothesis loses nothing; NaN where random loses nothing. */
  readonly recovered: number
  /** `scrubbed` of each draw, and Student's 95 % interval of their mean; absent for one draw. */
  readonly values: readonly number[]
  readonly interval?: readonly [low: number, high: number]
  /** The images that were drawn: for each draw and group (each before those of its `from`), one for each image. */
  readonly drawn: readonly (readonly (readonly number[])[])[]
}

/** Replace values as a hypothesis allows. Errors: E_HOOK, E_INPUT, E_INTERRUPTED. */
export async function resample(model: HookedViT, images: Tensor, options: ScrubOptions): Promise<Scrubbed> {
  const { groups, metric, draws = 8, seed = 0, signal, onProgress } = options
  const pixels = imagesIn(model, images)
  const n = pixels.shape[0]!
  const everyone = Array.from({ length: n }, (_, i) => i)
  const nodes = prepared(model, groups, n)
  const sampler = { random: new Random(seed, "scrub"), whole: new Random(seed, "scrub anything") }
  whole("draws", draws, 65_536)
  const own = await valuesAt(model, pixels, hooksOf(flat(groups)))
  const clean = meanOf(await measure(model, pixels, metric))
  const value = async (chosen: readonly Chosen[]) => {
    const outputs = (view: GraphView) => ({ value: imageMetric(metric, view) })
    const got = await model.run(pixels, { ...replacing(model, own, chosen), outputs })
    return meanOf(Array.from(got["value"]!.data as Float32Array))
  }
  const drawn: number[][][] = []
  const values: number[] = []
  const others: number[] = []
  for (let k = 0; k < draws; k++) {
    if (signal?.aborted) fail("E_INTERRUPTED", `resampling was stopped after ${k} of ${draws} draws`)
    const some: number[][] = []
    values.push(
      await value(await chosenOf({ model, pixels, own, random: sampler.random, drawn: some }, nodes, everyone)),
    )
    drawn.push(some)
    const anyone = nodes.map(({ sites }) => ({
      sites,
      rows: rowsOf(
        own,
        sites,
        everyone.map(() => sampler.whole.below(n)),
      ),
    }))
    others.push(await value(anyone))
    onProgress?.(k + 1, draws)
  }
  const [scrubbed, chance] = [meanOf(values), meanOf(others)]
  const moments = new Moments(1)
  for (const x of values) moments.add(0, x)
  const { interval } = moments.estimate(0, 0.95)
  const recovered = clean === chance ? NaN : (scrubbed - chance) / (clean - chance)
  return { clean, scrubbed, random: chance, recovered, values, drawn, ...(interval && { interval }) }
}

/** A group whose candidates for each image are known. */
interface Node {
  readonly sites: readonly Site[]
  readonly allowed: readonly (readonly number[])[]
  readonly from: readonly Node[]
}

/** What is put at sites, a row for each image. */
interface Chosen {
  readonly sites: readonly Site[]
  readonly rows: Rows
}

interface Sampling {
  readonly model: HookedViT
  readonly pixels: Tensor
  /** Values of the unchanged runs on all images. */
  readonly own: Rows
  readonly random: Random
  /** What was drawn, in the order of the tree. */
  readonly drawn: number[][]
}

/** Draw for each group an image for each of `images`, and make its values of runs whose inputs are drawn in turn. */
async function chosenOf(sampling: Sampling, nodes: readonly Node[], images: readonly number[]): Promise<Chosen[]> {
  const { model, pixels, own, random, drawn } = sampling
  const chosen: Chosen[] = []
  for (const { sites, allowed, from } of nodes) {
    const picked = images.map((i) => allowed[i]![random.below(allowed[i]!.length)]!)
    drawn.push(picked)
    if (!from.length) {
      chosen.push({ sites, rows: rowsOf(own, sites, picked) })
      continue
    }
    const inputs = replacing(model, own, await chosenOf(sampling, from, picked))
    const outputs = [...new Set(sites.map((s) => s.hook))]
    const got = await model.run(gathered(pixels, picked), { ...inputs, outputs })
    chosen.push({ sites, rows: new Map(outputs.map((hook) => [hook, got[hook] as Tensor<"float32">])) })
  }
  return chosen
}

/** The rows of these images at the sites' hooks. */
const rowsOf = (own: Rows, sites: readonly Site[], images: readonly number[]): Rows =>
  new Map(sites.map(({ hook }) => [hook, gathered(own.get(hook)!, images) as Tensor<"float32">]))

const flat = (groups: readonly ScrubGroup[]): ScrubGroup[] => groups.flatMap((g) => [g, ...flat(g.from ?? [])])

const hooksOf = (groups: readonly { readonly sites: readonly Site[] }[]): string[] => [
  ...new Set(groups.flatMap(({ sites }) => sites.map((s) => s.hook))),
]

/** Errors: E_HOOK, E_INPUT. */
function prepared(model: HookedViT, groups: readonly ScrubGroup[], n: number): Node[] {
  if (!groups.some(({ sites }) => sites.length)) fail("E_INPUT", "a hypothesis names at least one site")
  const all = flat(groups)
  for (const { sites } of all) for (const site of sites) checkSite(model, site)
  const alike = hooksOf(all).find((hook) => model.hooks.get(hook)!.shape[0] !== "batch")
  if (alike !== undefined) fail("E_INPUT", `"${alike}" is the same for all images: there is nothing to resample`)
  const order = [...model.hooks.keys()]
  const node = (group: ScrubGroup): Node => {
    const { sites, from = [] } = group
    const last = Math.max(...sites.map((s) => order.indexOf(s.hook)))
    const late = hooksOf(from).find((hook) => order.indexOf(hook) >= last)
    if (late !== undefined)
      fail("E_INPUT", `"${order[last] ?? "no site"}" is not made of "${late}", which comes after it`)
    const allowed = Array.from({ length: n }, (_, i) => candidates(group, all.indexOf(group), i, n))
    return { sites, allowed, from: from.map(node) }
  }
  return groups.map(node)
}

function candidates({ sites, allowed }: ScrubGroup, g: number, i: number, n: number): readonly number[] {
  const some = allowed ? allowed(i) : Array.from({ length: n }, (_, k) => k)
  const wrong = some.find((k) => !Number.isInteger(k) || k < 0 || k >= n)
  const what = `group ${g} (${sites[0] ? siteName(sites[0]) : "no site"}), image ${i}`
  if (wrong !== undefined) fail("E_INPUT", `${what}: image ${wrong} is allowed, there are images 0 to ${n - 1}`)
  return some.length ? some : fail("E_INPUT", `${what}: no image is allowed; allow ${i} itself to leave it as it is`)
}

/**
 * A run with all groups replaced. Inputs of the graph say where (1) and by what, so that all draws share a session, and
 * what is not named goes on as this run has it, changes from before included.
 */
function replacing(model: HookedViT, own: Rows, chosen: readonly Chosen[]): Pick<Interventions, "edit" | "inputs"> {
  const inputs: Record<string, Tensor> = {}
  const edit: Record<string, Edit> = {}
  for (const hook of hooksOf(chosen)) {
    const { shape } = own.get(hook)!
    const row = size(shape.slice(1))
    const n = shape[0]!
    const [where, values] = [new Float32Array(n * row), new Float32Array(n * row)]
    const ones = new Float32Array(row).fill(1)
    for (const { sites, rows } of chosen)
      for (const site of sites.filter((s) => s.hook === hook))
        for (let at = 0; at < n * row; at += row) {
          writeSite(model, site, where.subarray(at, at + row), ones)
          writeSite(model, site, values.subarray(at, at + row), rows.get(hook)!.data.subarray(at, at + row))
        }
    inputs[`where ${hook}`] = float32(shape, where)
    inputs[`put ${hook}`] = float32(shape, values)
    edit[hook] = (value, _, at) => add(mul(value, sub(scalar(1), at(`where ${hook}`))), at(`put ${hook}`))
  }
  return { edit, inputs }
}
