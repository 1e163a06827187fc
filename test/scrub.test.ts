/** @file Resampling by hypothesis, dropped tokens and named metrics, each against explicit runs or plain loops. */
import { afterAll, describe, expect, it } from "vitest"
import { dropTokens, withoutTokens } from "../src/interp/causal/drop.ts"
import * as metrics from "../src/interp/causal/metrics.ts"
import { resample, type ScrubGroup } from "../src/interp/causal/scrub.ts"
import { measure } from "../src/interp/causal/sweep.ts"
import { loadPretrained } from "../src/index.ts"
import { float32, size, type Tensor } from "../src/tensor/tensor.ts"
import { noiseImages as images } from "./helpers/noise-images.ts"
import { thrown } from "./helpers/thrown.ts"

const reference = (name: string) => loadPretrained(`test/fixtures/reference/${name}`)
const mouse = await loadPretrained("model-cards/mnist")
const gap = await reference("timm-gap")
const map = await reference("timm-map-registers-classifier")
const clip = await reference("hf-clip-vision-base")
const turned = await reference("hf-dinov3")
afterAll(async () => {
  for (const model of [mouse, gap, map, clip, turned]) await model.release()
})
const metric = "logits[:, 1]"

const row = (t: Tensor, i: number): Float32Array => {
  const n = size(t.shape.slice(1))
  return (t.data as Float32Array).slice(i * n, (i + 1) * n)
}
const mean = (v: readonly number[]) => v.reduce((a, b) => a + b) / v.length

describe("resampling", () => {
  const four = images(mouse, 4, 1)
  const z = "blocks.1.attn.hook_z"
  const m = "blocks.2.hook_mlp_out"
  const halves: ScrubGroup[] = [
    { sites: [{ hook: z, head: 2 }], allowed: (i) => (i < 2 ? [0, 1] : [2, 3]) },
    { sites: [{ hook: m, tokens: [0, 3] }], allowed: (i) => (i % 2 ? [1, 3] : [0, 2]) },
  ]

  it("is a run with the drawn images' values, image by image", async () => {
    const got = await resample(mouse, four, { groups: halves, metric, draws: 3, seed: 5 })
    expect(got.values).toHaveLength(3)
    expect(new Set(got.drawn.map(String)).size).toBeGreaterThan(1)
    const { cache } = await mouse.runWithCache(four)
    const hand: number[] = []
    for (const [heads, mlps] of got.drawn) {
      for (const [i, j] of heads!.entries()) expect(Math.floor(j / 2)).toBe(Math.floor(i / 2))
      for (const [i, j] of mlps!.entries()) expect(j % 2).toBe(i % 2)
      const each: number[] = []
      for (let i = 0; i < 4; i++) {
        const [, T, h, e] = cache.get(z).shape as readonly [number, number, number, number]
        const value = row(cache.get(z), i)
        const other = row(cache.get(z), heads![i]!)
        for (let t = 0; t < T; t++) for (let k = 0; k < e; k++) value[(t * h + 2) * e + k] = other[(t * h + 2) * e + k]!
        const one = float32([1, 1, 28, 28], row(four, i))
        const patch = { [z]: float32([1, T, h, e], value) }
        // What is not named at the later hook is that of the run with the earlier change.
        const later = (await mouse.runWithCache(one, { names: [m], patch })).cache.get(m)
        const d = later.shape[2]!
        const mixed = row(later, 0)
        const theirs = row(cache.get(m), mlps![i]!)
        for (const t of [0, 3]) for (let k = 0; k < d; k++) mixed[t * d + k] = theirs[t * d + k]!
        const { logits } = await mouse.run(one, { patch: { ...patch, [m]: float32(later.shape, mixed) } })
        each.push(Number(logits.data[1]))
      }
      hand.push(mean(each))
    }
    for (const [k, x] of got.values.entries()) expect(x).toBeCloseTo(hand[k]!, 4)
    expect(got.clean).toBeCloseTo(mean(await measure(mouse, four, metric)), 5)
    expect(got.recovered).toBeCloseTo((mean(hand) - got.random) / (got.clean - got.random), 3)
    expect(got.interval![0]).toBeLessThan(got.scrubbed)
  })

  it("goes down a tree: what a value is made of is drawn anew for the image that was drawn", async () => {
    const groups: ScrubGroup[] = [
      {
        sites: [{ hook: m }],
        allowed: (i) => (i < 2 ? [0, 1] : [2, 3]),
        from: [
          { sites: [{ hook: z }], allowed: (i) => [i ^ 1], from: [{ sites: [{ hook: "blocks.0.hook_mlp_out" }] }] },
          { sites: [{ hook: "blocks.0.attn.hook_z", head: 1 }] },
        ],
      },
      { sites: [{ hook: "blocks.3.attn.hook_z" }], allowed: (i) => [3 - i] },
    ]
    const got = await resample(mouse, four, { groups, metric, draws: 2, seed: 8 })
    const one = (i: number) => float32([1, 1, 28, 28], row(four, i))
    const at = async (i: number, hook: string, patch: Record<string, Tensor>) =>
      (await mouse.run(one(i), { patch, outputs: [hook] }))[hook] as Tensor<"float32">
    for (const [k, drawn] of got.drawn.entries()) {
      expect(drawn).toHaveLength(5)
      const [mlps, heads, deepest, beside, last] = drawn as [number[], number[], number[], number[], number[]]
      const each: number[] = []
      for (let i = 0; i < 4; i++) {
        expect([Math.floor(mlps[i]! / 2), heads[i], last[i]]).toEqual([Math.floor(i / 2), mlps[i]! ^ 1, 3 - i])
        const low = "blocks.0.hook_mlp_out"
        const zOfHeads = await at(heads[i]!, z, { [low]: await at(deepest[i]!, low, {}) })
        const [own, other] = await Promise.all([mlps[i]!, beside[i]!].map((j) => at(j, "blocks.0.attn.hook_z", {})))
        const first = own!.data.map((x, j) => (Math.floor(j / 32) % 4 === 1 ? other!.data[j]! : x))
        const put = await at(mlps[i]!, m, { [z]: zOfHeads, "blocks.0.attn.hook_z": float32(own!.shape, first) })
        const end = await at(last[i]!, "blocks.3.attn.hook_z", {})
        const { logits } = await mouse.run(one(i), { patch: { [m]: put, "blocks.3.attn.hook_z": end } })
        each.push(Number(logits.data[1]))
      }
      expect(got.values[k]).toBeCloseTo(mean(each), 4)
    }
  })

  it("recovers all where an image stands only for itself, and nothing is claimed of values that do not matter", async () => {
    const sites = [{ hook: m }]
    const self = await resample(mouse, four, { groups: [{ sites, allowed: (i) => [i] }], metric, draws: 2 })
    expect(self.recovered).toBeCloseTo(1, 4)
    // The class token's own logit reads no patch after the last layer.
    const rest = { hook: "blocks.3.hook_resid_post", tokens: [1, 2] }
    const none = await resample(mouse, four, { groups: [{ sites: [rest] }], metric, draws: 2 })
    expect(none.scrubbed).toBeCloseTo(none.clean, 5)
    const same = await resample(mouse, four, { groups: halves, metric, draws: 2, seed: 3 })
    expect(await resample(mouse, four, { groups: halves, metric, draws: 2, seed: 3 })).toEqual(same)
  })

  it.each<[ScrubGroup[], RegExp]>([
    [[], /at least one site/],
    [[{ sites: [{ hook: m }], allowed: () => [] }], /group 0 \(blocks.2.hook_mlp_out\), image 0: no image/],
    [[{ sites: [{ hook: m }], allowed: () => [4] }], /images 0 to 3/],
    [[{ sites: [{ hook: z, head: 4 }] }], /heads 0 to 3/],
    [[{ sites: [{ hook: "hook_pos_embed" }] }], /the same for all images/],
    [
      [{ sites: [{ hook: z }], from: [{ sites: [{ hook: m }] }] }],
      /is not made of "blocks.2.hook_mlp_out", which comes/,
    ],
    [
      [{ sites: [{ hook: m }], from: [{ sites: [{ hook: z }], allowed: () => [7] }] }],
      /group 1 \(blocks.1.attn.hook_z\), image 0: image 7 is allowed, there are images 0 to 3/,
    ],
  ])("refuses %#", async (groups, message) => {
    expect((await thrown(resample(mouse, four, { groups, metric }))).message).toMatch(message)
  })
})

describe("dropped tokens", () => {
  it.each([
    ["class token", mouse, [1, 5, 16]],
    ["a norm before the blocks", clip, [2, 3]],
    ["rotary positions", turned, [6, 9, 19]],
  ])("are as if no query saw them: %s", async (_, model, tokens) => {
    const two = images(model, 2, 2)
    const { model: shorter, patch } = await withoutTokens(model, two, tokens)
    const output = model.outputNames.includes("logits") ? "logits" : "pooler_output"
    const got = (await shorter.run({}, { patch }))[output]
    // The other way: every token stays, and each query's scores of the dropped keys are minus infinity.
    const want = (
      await model.run(two, {
        hooks: {
          "blocks.*.attn.hook_attn_scores": (scores) => {
            const T = scores.shape.at(-1)!
            const data = (scores.data as Float32Array).map((x, i) => (tokens.includes(i % T) ? -Infinity : x))
            return float32(scores.shape, data)
          },
        },
      })
    )[output]
    expect(got.shape).toEqual(want.shape)
    for (const [i, x] of (want.data as Float32Array).entries()) expect(got.data[i]).toBeCloseTo(x, 4)
    const plain = (await model.run(two))[output]
    expect(Math.max(...(plain.data as Float32Array).map((x, i) => Math.abs(x - Number(got.data[i]))))).toBeGreaterThan(
      1e-4,
    )
  })

  it.each([
    ["the mean", gap],
    ["a pooling head", map],
  ])("are not pooled: %s goes over what stays", async (_, model) => {
    const two = images(model, 2, 3)
    const T = model.hooks.get("blocks.0.hook_resid_pre")!.shape[1] as number
    const gone = [T - 1, T - 3]
    const { model: shorter, patch } = await withoutTokens(model, two, gone)
    const { logits } = await shorter.run({}, { patch })
    const hidden = (scores: Tensor) => {
      const keys = scores.shape.at(-1)!
      // A pooling head may read patches alone: its keys are the last of the tokens.
      const data = (scores.data as Float32Array).map((x, i) => (gone.includes((i % keys) + T - keys) ? -Infinity : x))
      return float32(scores.shape, data)
    }
    // Rows that are gone become the mean of those that stay, so that the mean of all is theirs.
    const last = model.hooks.has("ln_final.hook_normalized") ? "ln_final.hook_normalized" : "blocks.1.hook_resid_post"
    const prefix = model.config.vision.poolsPrefix ? 0 : model.config.vision.prefix.reduce((n, p) => n + p.count, 0)
    const averaged = (x: Tensor) => {
      const data = Float32Array.from(x.data as Float32Array)
      const d = x.shape[2]!
      for (let at = 0; at < data.length; at += T * d)
        for (let k = 0; k < d; k++) {
          const kept = Array.from({ length: T - prefix }, (_, t) => t + prefix).filter((t) => !gone.includes(t))
          const value = mean(kept.map((t) => data[at + t * d + k]!))
          for (const t of gone) data[at + t * d + k] = value
        }
      return float32(x.shape, data)
    }
    const hooks = { "*hook_attn_scores": hidden, ...(model === gap && { [last]: averaged }) }
    const want = await model.run(two, { hooks })
    for (const [i, x] of (want.logits.data as Float32Array).entries()) expect(logits.data[i]).toBeCloseTo(x, 4)
    const plain = (await model.run(two)).logits
    expect(
      Math.max(...(logits.data as Float32Array).map((x, i) => Math.abs(x - Number(plain.data[i])))),
    ).toBeGreaterThan(1e-4)
  })

  it("come as rows, one for each group", async () => {
    const two = images(mouse, 2, 5)
    const rows = []
    for await (const r of dropTokens(mouse, { images: two, groups: [[1], [2, 3]], metric, batch: 1 })) rows.push(r)
    expect(rows.map((r) => r.site.tokens)).toEqual([[1], [2, 3]])
    const { model: shorter, patch } = await withoutTokens(mouse, two, [2, 3])
    const { logits } = await shorter.run({}, { patch })
    for (const i of [0, 1]) expect(rows[1]!.values[i]).toBeCloseTo(Number(logits.data[10 * i + 1]), 4)
    expect(rows[1]!.mean).toBeCloseTo(mean(rows[1]!.values), 10)
  })

  it("must be patches, and not all of them", async () => {
    const none = dropTokens(mouse, { images: images(mouse, 1, 1), groups: [[1]], metric, batch: 0 }).next()
    expect((await thrown(none)).message).toMatch(/batch must be a whole number from 1/)
    expect((await thrown(withoutTokens(mouse, images(mouse, 1, 1), [0]))).message).toMatch(/patches are tokens 1 to 16/)
    const all = Array.from({ length: 16 }, (_, i) => i + 1)
    expect((await thrown(withoutTokens(mouse, images(mouse, 1, 1), all))).message).toMatch(/keep at least one/)
  })
})

describe("metrics", () => {
  it("are the outputs' formulas, by loops", async () => {
    const three = images(mouse, 3, 6)
    const { logits } = await mouse.run(three)
    const rows = [0, 1, 2].map((i) => Array.from(row(logits, i)))
    const p = rows.map((r) => Math.exp(r[4]!) / r.reduce((a, x) => a + Math.exp(x), 0))
    const check = async (made: Parameters<typeof measure>[2], want: readonly number[]) => {
      for (const [i, x] of (await measure(mouse, three, made)).entries()) expect(x).toBeCloseTo(want[i]!, 4)
    }
    await check(
      metrics.logit(mouse, 4),
      rows.map((r) => r[4]!),
    )
    await check(
      metrics.logitDifference(mouse, "4", 9),
      rows.map((r) => r[4]! - r[9]!),
    )
    await check(metrics.probability(mouse, 4), p)
    await check(metrics.logProbability(mouse, 4), p.map(Math.log))
    await check(
      metrics.loss(mouse, 4),
      p.map((x) => -Math.log(x)),
    )
    expect(() => metrics.loss(mouse, 10)).toThrow(/classes 0 to 9/)
    expect(() => metrics.probability(clip, 1)).toThrow(/no class logits/)
  })

  it("that are not one number of each image are refused", async () => {
    const one = images(mouse, 1, 1)
    const error = await thrown(measure(mouse, one, "logits"))
    expect([error.code, error.message]).toEqual([
      "E_INPUT",
      'the metric "logits" must be one number of each image, got [batch, 10]: index it, as "logits[:, 1]", or sum it',
    ])
    expect((await thrown(measure(mouse, one, ({ outputs }) => outputs["logits"]!))).message).toMatch(/\[batch, 10\]/)
  })
})
