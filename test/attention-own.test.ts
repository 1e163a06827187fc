/** @file Measures of attention on models' own patterns, and on a grid and patches that are not square, by loops. */
import { describe, expect, it } from "vitest"
import {
  attentionDistance,
  attentionEntropy,
  attentionFlow,
  emojiGrid,
  emojiOf,
  float32,
  headReport,
  HookedViT,
  initialise,
  loadPretrained,
  logitLens,
  readout,
  rollout,
  tokenLayout,
  type Tensor,
} from "../src/index.ts"
import { mixedBySorting, near, slowFlow, square, times } from "./helpers/attention.ts"
import { seven } from "./helpers/cli.ts"
import { FAMILIES, noise } from "./helpers/families.ts"
import { readCase } from "./helpers/parity.ts"

const range = (n: number) => [...Array(n).keys()]
const mean = (x: readonly number[]) => x.reduce((s, v) => s + v, 0) / x.length

interface Opened {
  readonly model: HookedViT
  readonly images: Tensor
}

async function digits(): Promise<Opened> {
  const model = await loadPretrained("model-cards/mnist", { threads: 1 })
  const { data } = await model.images(seven)
  return { model, images: float32([2, 1, 28, 28], [...data, ...noise([784], 8).data]) }
}

async function ofReference(): Promise<Opened> {
  const family = FAMILIES.find((f) => f.name === "timm-class-and-registers")!
  return { model: await loadPretrained(family.folder, { threads: 1 }), images: readCase(family).inputs.pixel_values }
}

/** 3 x 4 patches of 7 x 5 pixels, its weights as before training. */
async function oblong(): Promise<Opened> {
  const mouse = await loadPretrained("model-cards/mnist", { threads: 1 })
  const vision = { ...mouse.config.vision, imageSize: [21, 20], patchSize: [7, 5], positionGrid: [3, 4] } as const
  const config = { ...mouse.config, vision }
  const weights = new Map(
    [...initialise(config, { seed: 5 })].map(([name, t]) => [name, { tensor: t, shape: t.shape }]),
  )
  return { model: new HookedViT({ config, weights, runtime: mouse.runtime }), images: noise([2, 1, 21, 20], 6) }
}

const OPENED: [string, () => Promise<Opened>][] = [
  ["the digits' mouse", digits],
  ["class token and registers", ofReference],
  ["oblong patches", oblong],
]

/** Each layer's pattern, and where the patches lie. */
async function own({ model, images }: Opened) {
  const { vision } = model.config
  const { cache } = await model.runWithCache(images, { names: "*hook_pattern" })
  const layers = range(vision.nLayers).map((i) => cache.pattern(i))
  const prefix = vision.prefix.flatMap(({ name, count }) => Array<string>(count).fill(name))
  const [rows, columns] = [0, 1].map((axis) => vision.imageSize[axis]! / vision.patchSize[axis]!) as [number, number]
  const patches = range(rows).flatMap((y) => range(columns).map((x) => ({ y, x })))
  return { layers, prefix, patches, rows, columns, vision, b: images.shape[0]! }
}

const entropyOf = (row: readonly number[]) => -row.reduce((s, x) => s + (x ? x * Math.log(x) : 0), 0)

/** The mean distance of a head's patches from what they look at, by [T][T]. */
function distanceOf(
  a: number[][],
  p: number,
  patches: readonly { y: number; x: number }[],
  [down, across]: readonly number[],
) {
  const each = patches.map((q, i) => {
    const looked = patches.map((_, k) => a[p + i]![p + k]!)
    const far = patches.map((k) => Math.hypot(down! * (q.y - k.y), across! * (q.x - k.x)))
    return looked.reduce((s, x, k) => s + x * far[k]!, 0) / looked.reduce((s, x) => s + x, 0)
  })
  return mean(each)
}

describe.each(OPENED)("the patterns of %s", async (_, open) => {
  const opened = await open()
  const { layers, prefix, patches, rows, columns, vision, b } = await own(opened)
  const layout = tokenLayout(vision)
  const [p, t] = [prefix.length, prefix.length + patches.length]
  const heads = range(vision.nLayers).flatMap((layer) => range(vision.nHeads).map((head) => ({ layer, head })))
  const of = ({ layer, head }: { layer: number; head: number }, image: number) => square(layers[layer]!, image, head)

  it("roll out to the product of explicit matrices, read where the model reads", () => {
    const from = [...readout(vision)]
    for (const [fusion, ratio] of [
      ["mean", 0],
      ["max", 0.9],
    ] as const) {
      const options = { headFusion: fusion, discardRatio: ratio }
      const [whole, read] = [rollout(layers, options), rollout(layers, { ...options, from })]
      for (const image of range(b)) {
        const mixed = layers.map((layer) => mixedBySorting(layer, image, fusion, ratio, 0.5))
        const want = mixed.slice(1).reduce((below, layer) => times(layer, below), mixed[0]!)
        near(whole.data.subarray(image * t * t, (image + 1) * t * t), want.flat())
        near(read.data.subarray(image * t, (image + 1) * t), times([from], want)[0]!)
      }
    }
  })

  it("let through what the network of their layers does", () => {
    const got = attentionFlow(layers, { queries: [0, t - 1] })
    expect(got.shape).toEqual([b, 2, t])
    const n = (layers.length + 1) * t
    const mixed = layers.map((layer) => mixedBySorting(layer, b - 1, "mean", 0, 0.5))
    const capacities = range(n).map((from) =>
      range(n).map((to) => {
        const layer = Math.floor(from / t) - 1
        return layer >= 0 && Math.floor(to / t) === layer ? mixed[layer]![from % t]![to % t]! : 0
      }),
    )
    for (const [i, q] of [0, t - 1].entries()) {
      for (const token of [0, p, t - 1]) {
        expect(got.data[((b - 1) * 2 + i) * t + token]).toBeCloseTo(slowFlow(capacities, n - t + q, token), 6)
      }
    }
  })

  it("are as wide and as far as loops say", () => {
    for (const { layer, head } of heads) {
      const [entropy, pixels] = [attentionEntropy(layers[layer]!), attentionDistance(layers[layer]!, layout)]
      const steps = attentionDistance(layers[layer]!, layout, { unit: "patches" })
      for (const image of range(b)) {
        const [a, at] = [of({ layer, head }, image), image * vision.nHeads + head]
        near(entropy.data.subarray(at * t, (at + 1) * t), a.map(entropyOf))
        expect(pixels.data[at]).toBeCloseTo(distanceOf(a, p, patches, vision.patchSize), 4)
        expect(steps.data[at]).toBeCloseTo(distanceOf(a, p, patches, [1, 1]), 5)
      }
    }
  })

  type Place = { y: number; x: number }
  const inBorder = ({ y, x }: Place) => [y === 0 || y === rows - 1, x === 0 || x === columns - 1]
  /** Is patch k what a detector would look at from patch q? */
  const RELATIONS: Record<string, (q: Place, k: Place) => boolean> = {
    self: (q, k) => q.y === k.y && q.x === k.x,
    previous: (q, k) => (k.x < columns - 1 ? q.y === k.y && q.x === k.x + 1 : q.y === k.y + 1 && q.x === 0),
    next: (q, k) => (k.x > 0 ? q.y === k.y && q.x === k.x - 1 : q.y === k.y - 1 && q.x === columns - 1),
    local: (q, k) => Math.abs(q.y - k.y) <= 1 && Math.abs(q.x - k.x) <= 1,
    row: (q, k) => q.y === k.y,
    column: (q, k) => q.x === k.x,
    corner: (__, k) => inBorder(k).every(Boolean),
    border: (__, k) => inBorder(k).some(Boolean),
  }
  const PREFIX: Record<string, string[]> = { class: ["cls", "dist"], register: ["reg"] }

  it("score in the report of heads as loops say", async () => {
    const report = await headReport(opened.model, opened.images)
    expect(report.heads.map(({ layer, head }) => ({ layer, head }))).toEqual(heads)
    for (const [i, { entropy, distance, scores, offset }] of report.heads.entries()) {
      const each = range(b).map((image) => of(heads[i]!, image))
      expect(entropy.mean).toBeCloseTo(mean(each.flatMap((a) => a.map(entropyOf))), 5)
      expect(distance.mean).toBeCloseTo(mean(each.map((a) => distanceOf(a, p, patches, vision.patchSize))), 4)
      const score = (keys: (q: Place) => number[]) => {
        const asked = patches.map((q, at) => [at, keys(q)] as const).filter(([, found]) => found.length)
        return mean(each.flatMap((a) => asked.map(([at, found]) => found.reduce((s, k) => s + a[p + at]![k]!, 0))))
      }
      for (const [name, related] of Object.entries(RELATIONS)) {
        const want = score((q) => patches.flatMap((k, at) => (related(q, k) ? [p + at] : [])))
        expect(scores.get(name)!.mean, name).toBeCloseTo(want, 6)
      }
      for (const [name, kinds] of Object.entries(PREFIX)) {
        const keys = prefix.flatMap((kind, at) => (kinds.includes(kind) ? [at] : []))
        if (keys.length)
          expect(scores.get(name)!.mean, name).toBeCloseTo(
            score(() => keys),
            6,
          )
        else expect(scores.get(name)).toEqual({ mean: NaN, n: 0 })
      }
      const shifted = range(2 * rows - 1).flatMap((dy) =>
        range(2 * columns - 1).map((dx) => [dy - rows + 1, dx - columns + 1] as const),
      )
      const common = shifted.filter(
        ([dy, dx]) => (rows - Math.abs(dy)) * (columns - Math.abs(dx)) * 2 >= patches.length,
      )
      const byOffset = common.map(([dy, dx]) =>
        score((q) => patches.flatMap((k, at) => (k.y === q.y + dy && k.x === q.x + dx ? [p + at] : []))),
      )
      const best = Math.max(...byOffset)
      expect(scores.get("positional")!.mean).toBeCloseTo(best, 6)
      expect(offset).toEqual(common[byOffset.indexOf(best)])
    }
  })
})

it("emoji of a grid that is not square are shown row by row", async () => {
  const { model, images } = await oblong()
  const lens = await logitLens(model, images, { top: 1 })
  const got = emojiGrid(lens, [3, 4], { stream: 1, image: 1 })
  const first = (1 * 2 + 1) * 13 + 1
  const want = [...lens.top.index.data.subarray(first, first + 12)].map((c) => emojiOf(lens.classes[c]!))
  expect(got).toEqual([want.slice(0, 4), want.slice(4, 8), want.slice(8)])
  expect(new Set(want).size).toBeGreaterThan(2)
})
