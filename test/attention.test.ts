/** @file Analyses of attention: against slow loops and brute force, and detectors on heads made to do one thing. */
import { describe, expect, it } from "vitest"
import {
  attentionDistance,
  attentionEntropy,
  attentionFlow,
  DETECTORS,
  float32,
  headReport,
  loadPretrained,
  patterns,
  readout,
  rollout,
  studentT,
  tokenLayout,
  type Tensor,
} from "../src/index.ts"
import { Moments } from "../src/interp/estimate.ts"
import { flowNetwork, type Edge } from "../src/interp/attention/max-flow.ts"
import { mixedBySorting, near, square, times } from "./helpers/attention.ts"
import { mulberry32 } from "./helpers/causality.ts"
import { reference, root } from "./helpers/cli.ts"
import { thrown } from "./helpers/thrown.ts"

const random = mulberry32(7)
const drawn = (n: number): number[] => Array.from({ length: n }, () => random())

/** Rows of sum 1, some of whose entries are 0. */
function pattern(b: number, h: number, t: number): Tensor<"float32"> {
  const rows = Array.from({ length: b * h * t }, () => {
    const row = drawn(t).map((x) => (x < 0.1 ? 0 : x ** 3))
    const sum = row.reduce((a, x) => a + x, 1e-9)
    return row.map((x) => x / sum)
  })
  return float32([b, h, t, t], rows.flat())
}

describe("rollout", () => {
  const layers = [pattern(2, 3, 6), pattern(2, 3, 6), pattern(2, 3, 6)]

  it.each([
    ["mean", 0, 0.5],
    ["max", 0, 0.5],
    ["min", 0.3, 0.5],
    ["max", 0.9, 0.2],
    ["mean", 0.55, 0],
  ] as const)(
    "by %s without the lowest %f and with residual %f is the product of explicit matrices",
    (fusion, ratio, w) => {
      const got = rollout(layers, { headFusion: fusion, discardRatio: ratio, residual: w })
      const from = drawn(6)
      const rows = rollout(layers, { headFusion: fusion, discardRatio: ratio, residual: w, from })
      for (const image of [0, 1]) {
        const [first, second, third] = layers.map((l) => mixedBySorting(l, image, fusion, ratio, w))
        const want = times(times(third!, second!), first!)
        near(got.data.subarray(image * 36, (image + 1) * 36), want.flat())
        near(rows.data.subarray(image * 6, (image + 1) * 6), times([from], want)[0]!)
      }
    },
  )

  it("of equal entries drops the first", () => {
    const even = float32([1, 1, 2, 2], [0.5, 0.5, 0.5, 0.5])
    near(rollout([even], { discardRatio: 0.5, residual: 0 }).data, [0, 0, 0.5, 0.5])
  })

  it("starts where a model reads its answer", async () => {
    const weights = async (name: string) => [...readout((await loadPretrained(reference(name))).config.vision)]
    const p = 16
    expect((await weights("hf-deit")).slice(0, 3)).toEqual([1, 0, 0])
    expect((await weights("timm-deit-distilled")).slice(0, 3)).toEqual([0.5, 0.5, 0])
    expect(await weights("timm-gap")).toEqual(Array(p).fill(1 / p))
    const both = await weights("hf-dinov2-classifier")
    expect([both[0], both[1]]).toEqual([0.5, 0.5 / (both.length - 1)])
  })
})

describe("maximum flow", () => {
  /** The least capacity of all cuts, each tried. */
  function leastCut(n: number, edges: readonly Edge[], source: number, sink: number): number {
    let least = Infinity
    for (let side = 0; side < 2 ** n; side++) {
      const has = (node: number) => (side >> node) % 2 === 1
      if (!has(source) || has(sink)) continue
      least = Math.min(
        least,
        edges.reduce((sum, e) => sum + (has(e.from) && !has(e.to) ? e.capacity : 0), 0),
      )
    }
    return least
  }

  it("is the least cut, in networks with cycles, parallel edges and none", () => {
    for (let i = 0; i < 60; i++) {
      const n = 2 + Math.floor(random() * 6)
      const node = () => Math.floor(random() * n)
      const edges = Array.from({ length: Math.floor(random() * 25) }, () => ({
        from: node(),
        to: node(),
        capacity: random() < 0.2 ? 0 : random(),
      }))
      const flow = flowNetwork(n, edges)
      expect(flow(0, n - 1)).toBeCloseTo(leastCut(n, edges, 0, n - 1), 10)
      expect(flow(n - 1, 0)).toBeCloseTo(leastCut(n, edges, n - 1, 0), 10)
    }
  })

  it("through attention is that of the network of its layers", () => {
    const layers = [pattern(2, 2, 3), pattern(2, 2, 3), pattern(2, 2, 3)]
    const got = attentionFlow(layers, { queries: [0, 2], residual: 0.3 })
    expect(got.shape).toEqual([2, 2, 3])
    for (const image of [0, 1]) {
      const edges = layers.flatMap((layer, l) =>
        mixedBySorting(layer, image, "mean", 0, 0.3).flatMap((row, q) =>
          row.map((capacity, k) => ({ from: (l + 1) * 3 + q, to: l * 3 + k, capacity })),
        ),
      )
      for (const [i, q] of [0, 2].entries()) {
        const want = [0, 1, 2].map((k) => leastCut(12, edges, 9 + q, k))
        near(got.data.subarray((image * 2 + i) * 3, (image * 2 + i + 1) * 3), want)
      }
    }
  })
})

describe("entropy and distance", async () => {
  const layout = tokenLayout((await loadPretrained(reference("hf-deit"))).config.vision)

  it("of a pattern are what slow sums say", () => {
    const a = pattern(2, 3, layout.nTokens)
    const entropy = attentionEntropy(a)
    const [near0, raw] = [
      attentionDistance(a, layout),
      attentionDistance(a, layout, { renormalise: false, unit: "patches" }),
    ]
    const [p, [, columns]] = [layout.nPrefix, layout.grid]
    for (const image of [0, 1]) {
      for (const head of [0, 1, 2]) {
        const rows = square(a, image, head)
        const at = image * 3 + head
        near(
          entropy.data.subarray(at * rows.length, (at + 1) * rows.length),
          rows.map((row) => -row.reduce((s, x) => s + (x ? x * Math.log(x) : 0), 0)),
        )
        const place = (i: number) => [Math.floor((i - p) / columns), (i - p) % columns] as const
        const far = (q: number, k: number) =>
          Math.sqrt((place(q)[0] - place(k)[0]) ** 2 + (place(q)[1] - place(k)[1]) ** 2)
        const patches = rows.map((_, i) => i).slice(p)
        const sums = patches.map((q) => patches.reduce((s, k) => s + rows[q]![k]! * far(q, k), 0))
        const masses = patches.map((q) => patches.reduce((s, k) => s + rows[q]![k]!, 0))
        const mean = (x: number[]) => x.reduce((s, v) => s + v, 0) / x.length
        expect(near0.data[at]).toBeCloseTo(mean(sums.map((s, i) => (8 * s) / masses[i]!)), 4)
        expect(raw.data[at]).toBeCloseTo(mean(sums), 4)
      }
    }
  })

  it("are known of one token, of all alike, and of a head that looks at no patch", () => {
    const t = layout.nTokens
    const to = (key: (q: number) => number) =>
      float32(
        [1, 1, t, t],
        Array.from({ length: t * t }, (_, i) => (i % t === key(Math.floor(i / t)) ? 1 : 0)),
      )
    expect(new Set(attentionEntropy(to((q) => q)).data)).toEqual(new Set([0]))
    const even = float32([1, 1, t, t], Array<number>(t * t).fill(1 / t))
    near(attentionEntropy(even).data, Array<number>(t).fill(Math.log(t)))
    expect(
      attentionDistance(
        to((q) => q),
        layout,
      ).data[0],
    ).toBe(0)
    expect(
      attentionDistance(
        to(() => 0),
        layout,
      ).data[0],
    ).toBeNaN()
  })
})

describe("means over images", () => {
  it("come with Student's interval", () => {
    // Two-sided quantiles as in the printed tables.
    const table: [number, number, number][] = [
      [0.95, 1, 12.7062],
      [0.95, 4, 2.7764],
      [0.99, 7, 3.4995],
      [0.9, 30, 1.6973],
      [0.95, 1000, 1.9623],
    ]
    for (const [probability, df, t] of table) expect(studentT(probability, df)).toBeCloseTo(t, 4)
    const moments = new Moments(2)
    for (const x of [3, NaN, 7, 1, 5]) moments.add(1, x)
    // Mean 4, variance 20/3, standard error sqrt(20/3/4), t of 3 degrees.
    const half = 3.182446 * Math.sqrt(20 / 3 / 4)
    const { mean, n, interval } = moments.estimate(1, 0.95)
    expect([mean, n]).toEqual([4, 4])
    near(interval!, [4 - half, 4 + half], 4)
    expect(moments.estimate(0, 0.95)).toEqual({ mean: NaN, n: 0 })
    moments.add(0, 2)
    expect(moments.estimate(0, 0.95)).toEqual({ mean: 2, n: 1 })
  })
})

describe("detectors", async () => {
  // 2 layers, 4 heads, class token, 16 patches of 7 x 7 pixels, and one with two prefix tokens.
  const model = await loadPretrained(reference("hf-vit-grey-relu"), { threads: 1 })
  const layout = tokenLayout(model.config.vision)
  const t = layout.nTokens

  /** What patches show, by letter; "." is nothing. Two images, so that intervals are there. */
  const shows = ["ABCDEFGHFCHADGBE", "..AB....CA.B...."]
  const images = float32(
    [2, 1, 28, 28],
    shows.flatMap((letters) =>
      Array.from({ length: 784 }, (_, i) => {
        const [y, x] = [Math.floor(i / 28), i % 28]
        const letter = letters[Math.floor(y / 7) * 4 + Math.floor(x / 7)]!
        if (letter === ".") return 0
        const draw = mulberry32(letter.charCodeAt(0) * 1000 + (y % 7) * 7 + (x % 7))
        return 2 * draw() - 1 + 0.001 * random()
      }),
    ),
  )

  /** A head that gives `mass` to what `keys` says of a patch, evenly, and the rest to all. */
  const made = (keys: (q: number, image: number) => number[], mass = 0.9) =>
    [0, 1].map((image) =>
      Array.from({ length: t }, (_, query) => {
        const looked = query < layout.nPrefix ? [] : keys(query - layout.nPrefix, image)
        const share = looked.length ? mass : 0
        return Array.from({ length: t }, (__, k) => (1 - share) / t + (looked.includes(k) ? share / looked.length : 0))
      }),
    )
  const patch = (k: number) => layout.nPrefix + k
  const all = [...Array(16).keys()]
  const same = (image: number, a: number, b: number) =>
    shows[image]![a] !== "." && shows[image]![a] === shows[image]![b]
  const HEADS: readonly [string, (q: number, image: number) => number[]][] = [
    ["previous", (q) => (q ? [patch(q - 1)] : [])],
    ["next", (q) => (q < 15 ? [patch(q + 1)] : [])],
    ["class", () => [0]],
    ["corner", () => [0, 3, 12, 15].map(patch)],
    ["content", (q, image) => all.filter((k) => k !== q && same(image, q, k)).map(patch)],
    ["induction", (q, image) => all.filter((k) => k > 0 && k !== q && k - 1 !== q && same(image, q, k - 1)).map(patch)],
    ["down two", (q) => (q < 8 ? [patch(q + 8)] : [])],
    ["nothing", () => []],
  ]
  const layers = [0, 1].map((layer) => {
    const heads = HEADS.slice(layer * 4, layer * 4 + 4).map(([, keys]) => made(keys))
    return float32(
      [2, 4, t, t],
      [0, 1].flatMap((image) => heads.flatMap((of) => of[image]!.flat())),
    )
  })
  const given = { "blocks.0.attn.hook_pattern": layers[0]!, "blocks.1.attn.hook_pattern": layers[1]! }
  const report = await headReport(model, images, { patch: given })
  const names = (detector: string) =>
    report.detectors.find((d) => d.name === detector)!.heads.map(({ layer, head }) => HEADS[layer * 4 + head]![0])

  it("name the head that was made so, and no other", () => {
    for (const name of ["previous", "next", "class", "corner", "content", "induction"]) {
      expect([name, names(name)]).toEqual([name, [name]])
    }
    // At an offset of a step across, a quarter of the patches have no such neighbour: the ends of the rows go on.
    expect(new Set(names("positional"))).toEqual(new Set(["previous", "next", "down two"]))
    const offsets = ["previous", "next", "down two"].map(
      (name) => report.heads[HEADS.findIndex(([other]) => other === name)]!.offset,
    )
    expect(offsets).toEqual([
      [0, -1],
      [0, 1],
      [2, 0],
    ])
    expect(names("self")).toEqual([])
    expect(names("register")).toEqual([])
    expect(report.detectors.find((d) => d.name === "register")!.threshold).toBeNaN()
  })

  it("score what slow sums over the same patterns give, by chance too", () => {
    for (const [name] of HEADS.slice(0, 6)) {
      const keys = HEADS.find(([other]) => other === name)![1]
      const { chance, threshold } = report.detectors.find((d) => d.name === name)!
      const chances = [0, 1].map((image) => {
        const sizes = all.map((q) => keys(q, image).length).filter(Boolean)
        return sizes.reduce((a, b) => a + b, 0) / sizes.length / t
      })
      expect(chance).toBeCloseTo((chances[0]! + chances[1]!) / 2, 10)
      expect(threshold).toBeCloseTo(chance + 0.3 * (1 - chance), 10)
      for (const { layer, head, scores } of report.heads) {
        const each = [0, 1].map((image) => {
          const a = square(layers[layer]!, image, head)
          const sums = all
            .filter((q) => keys(q, image).length)
            .map((q) => keys(q, image).reduce((s, k) => s + a[patch(q)]![k]!, 0))
          return sums.reduce((x, y) => x + y, 0) / sums.length
        })
        const { mean, n, interval } = scores.get(name)!
        expect([mean, n]).toEqual([expect.closeTo((each[0]! + each[1]!) / 2, 6), 2])
        const half = (12.7062 * Math.abs(each[0]! - each[1]!)) / 2
        near(interval!, [mean - half, mean + half], 4)
      }
    }
  })

  it("are the same whatever fits into memory at once, and of some layers", async () => {
    const small = await headReport(model, images, {
      patch: { "blocks.1.attn.hook_pattern": one(layers[1]!) },
      maxBytes: 1,
    })
    const large = await headReport(model, images, { patch: { "blocks.1.attn.hook_pattern": one(layers[1]!) } })
    expect(small).toEqual(large)
    const last = await headReport(model, images, { patch: given, layers: [-1] })
    expect(last.heads).toEqual(report.heads.slice(4))
    const seen: string[] = []
    for await (const { layer, first, pattern: found } of patterns(model, images, { maxBytes: 4 * 4 * t * t })) {
      seen.push(`${layer} of ${first}: ${found.shape.join(" x ")}`)
    }
    expect(seen).toEqual([0, 1].flatMap((first) => [0, 1].map((layer) => `${layer} of ${first}: 1 x 4 x ${t} x ${t}`)))
  })

  it("may be one's own", async () => {
    const mirrored = { what: "the patch across the middle", keys: (q: number) => [patch(15 - q)] }
    const made0 = float32(
      [2, 4, t, t],
      [0, 1].flatMap((i) =>
        Array(4)
          .fill(made((q) => [patch(15 - q)])[i]!.flat())
          .flat(),
      ),
    )
    const found = await headReport(model, images, {
      patch: { "blocks.1.attn.hook_pattern": made0 },
      detectors: { mirrored },
    })
    expect(found.detectors.find((d) => d.name === "mirrored")!.heads.map((h) => [h.layer, h.head])).toEqual([
      [1, 0],
      [1, 1],
      [1, 2],
      [1, 3],
    ])
  })

  it("look at every token there is of their kind", async () => {
    const registers = await loadPretrained(reference("timm-class-and-registers"))
    const there = tokenLayout(registers.config.vision)
    expect([there.classTokens, there.registers.length]).toEqual([[0], there.nPrefix - 1])
    const about = { layout: there, same: () => false }
    expect(DETECTORS.register.keys(0, about)).toEqual(there.registers)
    const [rows, columns] = there.grid
    const border = 2 * (rows + columns) - 4
    expect(DETECTORS.border.keys(0, about)).toHaveLength(border)
    expect(DETECTORS.local.keys(0, about)).toHaveLength(4)
    expect(DETECTORS.local.keys(columns + 1, about)).toHaveLength(9)
    expect(DETECTORS.row.keys(columns, about)).toEqual(
      Array.from({ length: columns }, (_, i) => there.nPrefix + columns + i),
    )
    expect(DETECTORS.column.keys(1, about)).toEqual(
      Array.from({ length: rows }, (_, i) => there.nPrefix + 1 + i * columns),
    )
  })

  it("refuse what cannot be, in one line", async () => {
    const cases: [() => Promise<unknown>, string, RegExp][] = [
      [() => headReport(model, images, { level: 1 }), "E_INPUT", /level must be between 0 and 1, got 1/],
      [() => headReport(model, images, { tolerance: -1 }), "E_INPUT", /tolerance/],
      [() => headReport(model, images, { layers: [2] }), "E_HOOK", /layer 2 does not exist.*0 to 1/],
      [
        () => headReport(model, float32([1, 3, 8, 8], new Float32Array(192))),
        "E_INPUT",
        /images must be \[b, 1, 28, 28\]/,
      ],
      [
        () => headReport(model, images, { detectors: { far: { what: "", keys: () => [t] } } }),
        "E_INPUT",
        new RegExp(`"far" names token ${t}; tokens are 0 to ${t - 1}`),
      ],
      [later(() => rollout([])), "E_INPUT", /no layer/],
      [later(() => rollout([pattern(1, 1, 3), pattern(1, 2, 3)])), "E_INPUT", /must be alike/],
      [later(() => rollout([pattern(1, 1, 3)], { from: [1] })), "E_INPUT", /3 weights.*got 1/],
      [later(() => rollout([pattern(1, 1, 3)], { discardRatio: 1 })), "E_INPUT", /discardRatio must be in \[0, 1\)/],
      [later(() => rollout([pattern(1, 1, 3)], { headFusion: "sum" as never })), "E_INPUT", /mean, max, min, got sum/],
      [
        later(() => rollout([float32([1, 2, 3, 4], new Float32Array(24))])),
        "E_INPUT",
        /\[b, h, T, T\], got \[1, 2, 3, 4\]/,
      ],
      [later(() => attentionFlow([pattern(1, 1, 3)], { queries: [3] })), "E_INPUT", /no token 3/],
      [later(() => attentionFlow(Array(12).fill(pattern(1, 1, 80)))), "E_INPUT", /76800 edges, the limit is 60000/],
    ]
    for (const [work, code, said] of cases) {
      const error = await thrown(work())
      expect([error.code, error.message]).toEqual([code, expect.stringMatching(said)])
    }
  })
})

const later =
  <T>(work: () => T) =>
  (): Promise<T> =>
    Promise.resolve().then(work)
const one = ({ shape, data }: Tensor<"float32">): Tensor<"float32"> =>
  float32([1, ...shape.slice(1)], data.subarray(0, data.length / shape[0]!))

it("the package's mouse has heads that measures can be taken of", async () => {
  const mouse = await loadPretrained(`${root}/model-cards/mnist`, { threads: 1 })
  const { heads, images } = await headReport(mouse, await mouse.images(`${root}/model-cards/mnist/seven.png`))
  expect([images, heads.length]).toEqual([1, 16])
  for (const h of heads) {
    expect(h.entropy.mean).toBeGreaterThan(0)
    expect(h.entropy.mean).toBeLessThan(Math.log(17))
    expect(h.distance.mean).toBeLessThan(Math.hypot(21, 21))
  }
})
