/** @file Every head of a model measured on images: how wide and how far it looks, and what it looks at. */
import { fail } from "../../errors.ts"
import { float32, show, type Tensor } from "../../tensor/tensor.ts"
import type { HookedViT } from "../hooked-vit.ts"
import { DETECTORS, relationScore, sameness, template, type Detector, type Template } from "./detectors.ts"
import { distanceOf, entropyOf, patchDistances, type DistanceOptions } from "./entropy.ts"
import { Moments, type Estimate } from "../estimate.ts"
import { asImages, chosenLayers, patterns, type PatternOptions } from "./patterns.ts"
import { tokenLayout, type TokenLayout } from "./tokens.ts"

export interface HeadOptions extends PatternOptions, DistanceOptions {
  /** Further detectors, or others in place of those of DETECTORS with the same names. */
  readonly detectors?: Readonly<Record<string, Detector>>
  /** How far from chance (0) to all of a head's attention (1) a score must be for the head to be named; 0.3. */
  readonly level?: number
  /** Of the intervals; 0.95. */
  readonly confidence?: number
  /** Two patches look the same if their pixels differ by so many standard deviations of the image's; 0.1. */
  readonly tolerance?: number
}

export interface HeadScore {
  readonly layer: number
  readonly head: number
  /** In nats, the mean over all queries. */
  readonly entropy: Estimate
  /** In pixels or patches; n is 0 where no patch looks at patches. */
  readonly distance: Estimate
  /** By detector; n is 0 where no image has what it looks for. */
  readonly scores: ReadonlyMap<string, Estimate>
  /** Where the detector "positional" looks from each patch: steps down and across. */
  readonly offset: readonly [down: number, across: number]
}

export interface DetectorResult {
  readonly name: string
  readonly what: string
  /** Mean score of a head that looks everywhere alike. */
  readonly chance: number
  /** chance + level (1 - chance) */
  readonly threshold: number
  /** Those whose mean score is at least the threshold, highest first. */
  readonly heads: readonly { readonly layer: number; readonly head: number; readonly score: Estimate }[]
}

export interface HeadReport {
  readonly images: number
  /** Layer by layer. */
  readonly heads: readonly HeadScore[]
  readonly detectors: readonly DetectorResult[]
}

/** Of the one detector that is no relation known beforehand. */
const POSITIONAL = "positional"

/**
 * Entropy, mean attention distance and detector scores of every head, means over images [b, c, H, W] with intervals.
 *
 * Besides the relations of DETECTORS there is "positional": the largest, over offsets that at least half of the patches
 * have, of the mean over images and patches q of A[q, q + offset]. It is the largest of many, so of heads that
 * look at nothing in particular it is a little above chance. Errors: E_INPUT, E_HOOK.
 */
export async function headReport(model: HookedViT, images: Tensor, options: HeadOptions = {}): Promise<HeadReport> {
  const { level = 0.3, confidence = 0.95, tolerance = 0.1, unit, renormalise } = options
  share("level", level)
  share("confidence", confidence)
  if (!(tolerance >= 0)) fail("E_INPUT", `tolerance must be a number of at least 0, got ${String(tolerance)}`)
  const { vision } = model.config
  const layout = tokenLayout(vision)
  const all = asImages(images)
  if (String(all.shape.slice(1)) !== String([vision.nChannels, ...vision.imageSize])) {
    const wanted = show(["b", vision.nChannels, ...vision.imageSize])
    fail("E_INPUT", `images must be ${wanted}, got ${show(all.shape)}`)
  }
  const detectors = Object.entries<Detector>({ ...DETECTORS, ...options.detectors })
  const layers = chosenLayers(vision.nLayers, options.layers)
  const { nHeads } = vision
  const distances = patchDistances(layout, unit)
  const offsets = commonOffsets(layout)

  const of = new Map(layers.map((layer, i) => [layer, i * nHeads]))
  const n = layers.length * nHeads
  const [entropy, distance] = [new Moments(n), new Moments(n)]
  const scores = detectors.map(() => new Moments(n))
  const chances = new Moments(detectors.length)
  const positional = new Moments(n * offsets.list.length)

  const templatesOf = templates(detectors, all, layout, tolerance)
  for await (const { layer, first, pattern } of patterns(model, all, options)) {
    const t = layout.nTokens
    for (let i = 0; i < pattern.shape[0]!; i++) {
      const wanted = templatesOf(first + i, first)
      if (layer === layers[0]) for (const [d, { chance }] of wanted.entries()) chances.add(d, chance)
      for (let head = 0; head < nHeads; head++) {
        const at = of.get(layer)! + head
        const from = (i * nHeads + head) * t * t
        const a = pattern.data.subarray(from, from + t * t)
        entropy.add(at, meanEntropy(a, t))
        distance.add(at, distanceOf(a, layout, distances, renormalise))
        for (const [d, keys] of wanted.entries()) scores[d]!.add(at, relationScore(a, keys, layout))
        for (const [o, x] of offsets.scores(a).entries()) positional.add(at * offsets.list.length + o, x)
      }
    }
  }

  const heads = Array.from({ length: n }, (_, at): HeadScore => {
    const best = offsets.list.reduce((b, __, o) => {
      const mean = (which: number) => positional.mean(at * offsets.list.length + which)
      return mean(o) > mean(b) ? o : b
    }, 0)
    return {
      layer: layers[Math.floor(at / nHeads)]!,
      head: at % nHeads,
      entropy: entropy.estimate(at, confidence),
      distance: distance.estimate(at, confidence),
      scores: new Map([
        [POSITIONAL, positional.estimate(at * offsets.list.length + best, confidence)],
        ...detectors.map(([name], d) => [name, scores[d]!.estimate(at, confidence)] as const),
      ]),
      offset: offsets.list[best]!,
    }
  })
  const found = (name: string, what: string, chance: number): DetectorResult => {
    const threshold = chance + level * (1 - chance)
    const named = heads.map(({ layer, head, scores: by }) => ({ layer, head, score: by.get(name)! }))
    const above = named.filter(({ score }) => score.mean >= threshold)
    return { name, what, chance, threshold, heads: above.sort((x, y) => y.score.mean - x.score.mean) }
  }
  return {
    images: all.shape[0]!,
    heads,
    detectors: [
      found(POSITIONAL, "the same offset from every patch", 1 / layout.nTokens),
      ...detectors.map(([name, { what }], d) => found(name, what, chances.mean(d))),
    ],
  }
}

function share(name: string, x: number): void {
  if (!(x > 0 && x < 1)) fail("E_INPUT", `${name} must be between 0 and 1, got ${String(x)}`)
}

/** Each image's templates, held until images from `first` on are asked for; what no content changes is made once. */
function templates(
  detectors: readonly (readonly [string, Detector])[],
  { shape, data }: Tensor<"float32">,
  layout: TokenLayout,
  tolerance: number,
): (image: number, first: number) => readonly Template[] {
  const one = shape[1]! * shape[2]! * shape[3]!
  const always = new Map<string, Template>()
  const held = new Map<number, readonly Template[]>()
  return (image, first) => {
    const before = held.get(image)
    if (before) return before
    for (const done of held.keys()) if (done < first) held.delete(done)
    const pixels = float32(shape.slice(1), data.subarray(image * one, (image + 1) * one))
    const about = { layout, same: sameness(pixels, layout, tolerance) }
    const made = detectors.map(([name, detector]) => {
      const known = always.get(name)
      if (known) return known
      const fresh = template(name, detector, about)
      if (!detector.ofContent) always.set(name, fresh)
      return fresh
    })
    held.set(image, made)
    return made
  }
}

function meanEntropy(a: Float32Array, t: number): number {
  let sum = 0
  for (let q = 0; q < t; q++) sum += entropyOf(a.subarray(q * t, (q + 1) * t))
  return sum / t
}

/** The offsets that at least half of the patches have, and the mean of A[q, q + offset] over those that have it. */
function commonOffsets({ grid: [rows, columns], nTokens, nPrefix }: TokenLayout) {
  const range = (n: number) => Array.from({ length: 2 * n - 1 }, (_, i) => i - n + 1)
  const count = ([dy, dx]: readonly [number, number]) => (rows - Math.abs(dy)) * (columns - Math.abs(dx))
  const list = range(rows)
    .flatMap((dy) => range(columns).map((dx) => [dy, dx] as const))
    .filter((o) => 2 * count(o) >= rows * columns)
  const scores = (a: ArrayLike<number>): number[] =>
    list.map(([dy, dx]) => {
      let sum = 0
      for (let y = Math.max(0, -dy); y < Math.min(rows, rows - dy); y++) {
        for (let x = Math.max(0, -dx); x < Math.min(columns, columns - dx); x++) {
          sum += a[(nPrefix + y * columns + x) * nTokens + nPrefix + (y + dy) * columns + x + dx]!
        }
      }
      return sum / count([dy, dx])
    })
  return { list, scores }
}
