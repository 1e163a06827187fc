/**
 * @file Causal scrubbing by resampling (https://www.alignmentforum.org/posts/JvZhhzycHu2Yd57RN): values are replaced by
 * those of other images that a hypothesis takes for equivalent; how much of the metric stays says how good it is.
 *
 * Of one level: what is put in place comes from unchanged runs on the drawn images.
 */
import { fail } from "../../errors.ts"
import { add, mul, scalar, sub } from "../../graph/ops.ts"
import { Random } from "../../tensor/random.ts"
import { float32, size, type Tensor } from "../../tensor/tensor.ts"
import { Moments } from "../estimate.ts"
import { inputValues } from "../feeds.ts"
import { scalarMetric, type Metric } from "../gradients.ts"
import type { HookedViT } from "../hooked-vit.ts"
import type { Edit } from "../interventions.ts"
import { meanOf } from "./faithfulness.ts"
import { checkSite, siteName, writeSite, type Site } from "./sites.ts"
import { valuesAt, type Rows } from "./sources.ts"
import { measure } from "./sweep.ts"

/** Sites whose values may be those of other images, all of one drawn image together. */
export interface ScrubGroup {
  readonly sites: readonly Site[]
  /** Which images (by their place) may stand for image `i`. Left out, all: these sites are said not to matter. */
  readonly allowed?: (i: number) => readonly number[]
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
  /** The images that were drawn: for each draw and group, one for each image. */
  readonly drawn: readonly (readonly (readonly number[])[])[]
}

/** Replace values as a hypothesis allows. Errors: E_HOOK, E_INPUT, E_INTERRUPTED. */
export async function resample(model: HookedViT, images: Tensor, options: ScrubOptions): Promise<Scrubbed> {
  const { groups, metric, draws = 8, seed = 0, signal, onProgress } = options
  const pixels = inputValues(model.config, images)["pixel_values"]!
  const n = pixels.shape[0]!
  checkGroups(model, groups)
  if (!Number.isInteger(draws) || draws < 1) fail("E_INPUT", `draws must be a whole number from 1 on, got ${draws}`)
  const allowed = groups.map((group, g) => Array.from({ length: n }, (_, i) => candidates(group, g, i, n)))
  const own = await valuesAt(model, pixels, hooksOf(groups))
  const clean = meanOf(await measure(model, pixels, metric))
  const run = async (drawn: readonly (readonly number[])[]) =>
    meanOf(await replaced(model, pixels, groups, drawn, own, metric))

  const everyone = Array.from({ length: n }, (_, i) => i)
  const [random, whole] = [new Random(seed, "scrub"), new Random(seed, "scrub anything")]
  const pick = (from: Random, some: readonly number[]) => some[from.below(some.length)]!
  const drawn: number[][][] = []
  const values: number[] = []
  const others: number[] = []
  for (let k = 0; k < draws; k++) {
    if (signal?.aborted) fail("E_INTERRUPTED", `resampling was stopped after ${k} of ${draws} draws`)
    const some = allowed.map((byImage) => byImage.map((list) => pick(random, list)))
    drawn.push(some)
    values.push(await run(some))
    others.push(await run(groups.map(() => everyone.map(() => pick(whole, everyone)))))
    onProgress?.(k + 1, draws)
  }
  const [scrubbed, chance] = [meanOf(values), meanOf(others)]
  const moments = new Moments(1)
  for (const x of values) moments.add(0, x)
  const { interval } = moments.estimate(0, 0.95)
  const recovered = clean === chance ? NaN : (scrubbed - chance) / (clean - chance)
  return { clean, scrubbed, random: chance, recovered, values, drawn, ...(interval && { interval }) }
}

const hooksOf = (groups: readonly ScrubGroup[]): string[] => [
  ...new Set(groups.flatMap(({ sites }) => sites.map((s) => s.hook))),
]

function checkGroups(model: HookedViT, groups: readonly ScrubGroup[]): void {
  if (!groups.some(({ sites }) => sites.length)) fail("E_INPUT", "a hypothesis names at least one site")
  for (const { sites } of groups) for (const site of sites) checkSite(model, site)
  const flat = hooksOf(groups).find((hook) => model.hooks.get(hook)!.shape[0] !== "batch")
  if (flat !== undefined) fail("E_INPUT", `"${flat}" is the same for all images: there is nothing to resample`)
}

function candidates({ sites, allowed }: ScrubGroup, g: number, i: number, n: number): readonly number[] {
  const some = allowed ? allowed(i) : Array.from({ length: n }, (_, k) => k)
  const wrong = some.find((k) => !Number.isInteger(k) || k < 0 || k >= n)
  const what = `group ${g} (${sites[0] ? siteName(sites[0]) : "no site"}), image ${i}`
  if (wrong !== undefined) fail("E_INPUT", `${what}: image ${wrong} is allowed, there are images 0 to ${n - 1}`)
  return some.length ? some : fail("E_INPUT", `${what}: no image is allowed; allow ${i} itself to leave it as it is`)
}

/**
 * One run with all groups replaced. Inputs of the graph say where (1) and by what, so that all draws share a session, and
 * what is not named goes on as this run has it, changes from before included.
 */
async function replaced(
  model: HookedViT,
  pixels: Tensor,
  groups: readonly ScrubGroup[],
  drawn: readonly (readonly number[])[],
  own: Rows,
  metric: Metric,
): Promise<number[]> {
  const inputs: Record<string, Tensor> = {}
  const edit: Record<string, Edit> = {}
  for (const hook of hooksOf(groups)) {
    const { shape, data } = own.get(hook)!
    const row = size(shape.slice(1))
    const [where, values] = [new Float32Array(data.length), new Float32Array(data.length)]
    const ones = new Float32Array(row).fill(1)
    for (const [g, { sites }] of groups.entries())
      for (const site of sites.filter((s) => s.hook === hook))
        for (const [i, other] of drawn[g]!.entries()) {
          writeSite(model, site, where.subarray(i * row, (i + 1) * row), ones)
          writeSite(model, site, values.subarray(i * row, (i + 1) * row), data.subarray(other * row, (other + 1) * row))
        }
    inputs[`where ${hook}`] = float32(shape, where)
    inputs[`put ${hook}`] = float32(shape, values)
    edit[hook] = (value, _, at) => add(mul(value, sub(scalar(1), at(`where ${hook}`))), at(`put ${hook}`))
  }
  const { value } = await model.run(pixels, {
    edit,
    inputs,
    outputs: (view) => ({ value: scalarMetric(metric, view) }),
  })
  return Array.from(value!.data as Float32Array)
}
