/** @file Patching sweeps against one explicit run for each site. */
import { afterAll, describe, expect, it } from "vitest"
import { ablate, denoise, noise } from "../src/interp/causal/patching.ts"
import { regionTokens, siteName, sitesOf, type Site } from "../src/interp/causal/sites.ts"
import { measure, sweep, type Experiment, type SweepRow } from "../src/interp/causal/sweep.ts"
import { HookedViT, loadPretrained, type LoadedViT } from "../src/index.ts"
import { Random } from "../src/tensor/random.ts"
import { float32, size, type Tensor } from "../src/tensor/tensor.ts"
import { noiseImages } from "./helpers/noise-images.ts"
import { thrown } from "./helpers/thrown.ts"

const mouse = await loadPretrained("model-cards/mnist")
const clip = await loadPretrained("test/fixtures/reference/hf-clip-eos-2")
const registers = await loadPretrained("test/fixtures/reference/timm-dinov2-registers")
afterAll(async () => {
  for (const model of [mouse, clip, registers]) await model.release()
})

const rows = async (sweep: AsyncGenerator<SweepRow>): Promise<SweepRow[]> => {
  const out: SweepRow[] = []
  for await (const row of sweep) out.push(row)
  return out
}

/** By hand, image by image: the hook's value of one run, a part of it from the other, by index arithmetic on [.., T, ..]. */
async function byHand(
  model: LoadedViT,
  base: Tensor,
  other: Tensor | "zero",
  site: Site,
  metric: string,
  texts?: Tensor,
) {
  const one = (t: Tensor, i: number): Tensor => {
    const n = size(t.shape.slice(1))
    return float32([1, ...t.shape.slice(1)], (t.data as Float32Array).slice(i * n, (i + 1) * n))
  }
  const given = (t: Tensor) => (texts ? { pixel_values: t, input_ids: texts } : t)
  const values: number[] = []
  for (let i = 0; i < base.shape[0]!; i++) {
    const ours = (await model.runWithCache(given(one(base, i)), { names: [site.hook] })).cache.get(site.hook)
    const data = Float32Array.from(ours.data as Float32Array)
    const theirs =
      other === "zero"
        ? new Float32Array(data.length)
        : ((await model.runWithCache(given(one(other, i)), { names: [site.hook] })).cache.get(site.hook)
            .data as Float32Array)
    const heads = /hook_(pattern|attn_scores)$/.test(site.hook)
    const [, a = 1, b = 1, c = 1] = ours.shape
    for (let x = 0; x < a; x++)
      for (let y = 0; y < b; y++)
        for (let z = 0; z < c; z++) {
          const token = heads ? y : x
          const head = heads ? x : ours.shape.length === 4 ? y : 0
          if (site.tokens && !site.tokens.includes(token)) continue
          if (site.head !== undefined && site.head !== head) continue
          const at = (x * b + y) * c + z
          data[at] = theirs[at]!
        }
    const got = await model.run(given(one(base, i)), { patch: { [site.hook]: float32(ours.shape, data) } })
    const [name, index] = [metric.split("[")[0]!, Number(/(\d+)\]/.exec(metric)![1])]
    values.push(Number(got[name]!.data[index]))
  }
  return values
}

const close = (a: readonly number[], b: readonly number[]) => {
  expect(a.length).toBe(b.length)
  for (const [i, x] of a.entries()) expect(Math.abs(x - b[i]!)).toBeLessThan(2e-4 * Math.max(1, Math.abs(b[i]!)))
}

describe("a sweep", () => {
  const [clean, corrupt] = [noiseImages(mouse, 3, 1), noiseImages(mouse, 3, 2)]
  const metric = "logits[:, 7]"
  const cases: readonly [string, readonly Site[]][] = [
    [
      "tokens of the stream",
      sitesOf(mouse, ["blocks.0.hook_resid_pre", "blocks.3.hook_resid_pre"], ["token"]).slice(12, 22),
    ],
    ["heads' outputs", sitesOf(mouse, "blocks.2.attn.hook_z", ["head"])],
    ["one head at one token", sitesOf(mouse, "blocks.1.attn.hook_q", ["head", "token"]).slice(0, 3)],
    ["patterns of heads", sitesOf(mouse, "blocks.1.attn.hook_pattern", ["head"])],
    ["scores of one query", [{ hook: "blocks.0.attn.hook_attn_scores", head: 1, tokens: [0] }]],
    ["the whole of an MLP", sitesOf(mouse, ["blocks.1.hook_mlp_out", "blocks.3.mlp.hook_post"])],
    ["a region of patches", sitesOf(mouse, "hook_embed", [], undefined).map((s) => ({ ...s, tokens: [0, 1, 4, 5] }))],
    ["inputs of queries", sitesOf(mouse, "blocks.2.hook_q_input", ["head"])],
    ["the final norm", [{ hook: "ln_final.hook_normalized", tokens: [0] }]],
  ]
  it.each(cases)("of %s is one run by hand for each site", async (_, sites) => {
    const got = await rows(denoise(mouse, { clean, corrupt, sites, metric, batch: 4 }))
    expect(got.map((r) => siteName(r.site))).toEqual(sites.map(siteName))
    for (const { site, values } of got) close(values, await byHand(mouse, corrupt, clean, site, metric))
  })

  it.each<[string, readonly Site[]]>([
    ["the class token, the registers and patches", sitesOf(registers, "blocks.1.hook_resid_pre", ["token"])],
    ["heads before LayerScale", sitesOf(registers, "blocks.0.attn.hook_z", ["head"])],
    ["patterns of a register's query", [{ hook: "blocks.0.attn.hook_pattern", head: 2, tokens: [3] }]],
    ["a register's queries of each head", sitesOf(registers, "blocks.0.hook_q_input", ["head"], [[2]])],
    ["an MLP after LayerScale", [{ hook: "blocks.0.hook_mlp_out", tokens: [0, 4, 20] }]],
    ["a region of patches", [{ hook: "hook_full_embed", tokens: regionTokens(registers, [1, 2], [2, 2]) }]],
  ])("with registers and LayerScale, of %s, is one run by hand for each site", async (_, sites) => {
    const [a, b, pooled] = [noiseImages(registers, 2, 8), noiseImages(registers, 2, 9), "pooler_output[:, 3]"]
    const got = await rows(denoise(registers, { clean: b, corrupt: a, sites, metric: pooled, batch: 3 }))
    expect(got.map((r) => siteName(r.site))).toEqual(sites.map(siteName))
    for (const { site, values } of got) close(values, await byHand(registers, a, b, site, pooled))
  })

  it("the other way round, and with zeros", async () => {
    const sites = sitesOf(mouse, "blocks.*.attn.hook_z", ["head"]).slice(3, 6)
    for (const { site, values } of await rows(noise(mouse, { clean, corrupt, sites, metric })))
      close(values, await byHand(mouse, clean, corrupt, site, metric))
    for (const { site, values } of await rows(ablate(mouse, { images: clean, by: { zero: true }, sites, metric })))
      close(values, await byHand(mouse, clean, "zero", site, metric))
  })

  it("with the mean of reference images", async () => {
    const site = { hook: "blocks.2.hook_mlp_out" }
    const { cache } = await mouse.runWithCache(corrupt, { names: [site.hook] })
    const value = cache.get(site.hook)
    const at = (i: number) => Number(value.data[i])
    const n = size(value.shape.slice(1))
    const mean = Float32Array.from({ length: n }, (_, i) => (at(i) + at(n + i) + at(2 * n + i)) / 3)
    const got = await rows(ablate(mouse, { images: clean, by: { mean: corrupt }, sites: [site], metric, batch: 2 }))
    const { logits } = await mouse.run(clean, { patch: { [site.hook]: float32([1, ...value.shape.slice(1)], mean) } })
    close(got[0]!.values, [logits.data[7], logits.data[17], logits.data[27]].map(Number))
  })

  it("with other images, those that its seed draws of all", async () => {
    const pool = noiseImages(mouse, 4, 3)
    const site = { hook: "blocks.1.hook_attn_out" }
    const n = size(pool.shape.slice(1))
    const all = await Promise.all(
      [0, 1, 2, 3].map((i) => {
        const other = float32(
          [3, ...pool.shape.slice(1)],
          Float32Array.from({ length: 3 * n }, (_, k) => pool.data[i * n + (k % n)]!),
        )
        return byHand(mouse, clean, other, site, metric)
      }),
    )
    const ever = new Set<number>()
    for (const seed of [0, 1, 2, 3, 4]) {
      const random = new Random(seed, "resample")
      const drawn = [0, 1, 2].map(() => random.below(4))
      for (const i of drawn) ever.add(i)
      const by = { resample: pool, seed }
      const [row] = await rows(ablate(mouse, { images: clean, by, sites: [site], metric, batch: 2 }))
      close(
        row!.values,
        drawn.map((from, i) => all[from]![i]!),
      )
    }
    expect(ever).toEqual(new Set([0, 1, 2, 3]))
  })

  it("of a dual encoder measures similarity to texts", async () => {
    const [a, b] = [noiseImages(clip, 2, 4), noiseImages(clip, 2, 5)]
    const input_ids = {
      dtype: "int64",
      shape: [2, 4],
      data: BigInt64Array.from([0n, 5n, 7n, 2n, 0n, 3n, 4n, 2n]),
    } as Tensor
    const sites = sitesOf(clip, "blocks.*.hook_resid_pre", ["token"]).slice(0, 3)
    const got = await rows(
      sweep(clip, {
        base: { pixel_values: a, input_ids },
        source: { run: b },
        sites,
        metric: "logits_per_image[:, 1]",
      }),
    )
    for (const { site, values } of got)
      close(values, await byHand(clip, a, b, site, "logits_per_image[:, 1]", input_ids))
  })

  it("makes one session for all sites of a hook, whatever their number", async () => {
    const made = () => mouse.runtime.sessions.made
    const fresh = await loadPretrained("model-cards/mnist")
    const count = async (sites: readonly Site[]) => {
      const before = fresh.runtime.sessions.made
      await rows(denoise(fresh, { clean, corrupt, sites, metric: "logits[:, 1]" }))
      return fresh.runtime.sessions.made - before
    }
    const few = await count(sitesOf(fresh, "blocks.1.hook_resid_pre", ["token"]).slice(0, 1))
    // The cached run, and the run from the hook.
    expect(few).toBe(2)
    expect(await count(sitesOf(fresh, "blocks.1.hook_resid_pre", ["token"]))).toBe(0)
    expect(made()).toBeGreaterThan(0)
    await fresh.release()
  })

  it("can be stopped, and goes on with the rows that it has", async () => {
    const sites = sitesOf(mouse, "blocks.*.hook_resid_pre", ["token"])
    const whole = await rows(denoise(mouse, { clean, corrupt, sites, metric }))
    const stop = new AbortController()
    const some: SweepRow[] = []
    const seen: number[] = []
    const error = await thrown(
      (async () => {
        for await (const row of denoise(mouse, {
          clean,
          corrupt,
          sites,
          metric,
          signal: stop.signal,
          onProgress: (d) => seen.push(d),
        })) {
          if (some.push(row) === 10) stop.abort()
        }
      })(),
    )
    expect(error.code).toBe("E_INTERRUPTED")
    expect(some.length).toBeGreaterThanOrEqual(10)
    expect(some.length).toBeLessThan(sites.length)
    expect(await rows(denoise(mouse, { clean, corrupt, sites, metric, done: some }))).toEqual(whole)
    expect(seen).toEqual(seen.toSorted((a, b) => a - b))
  })

  it("gives Student's interval over images", async () => {
    const [row] = await rows(denoise(mouse, { clean, corrupt, sites: [{ hook: "blocks.1.hook_mlp_out" }], metric }))
    const { values, mean, interval } = row!
    const m = values.reduce((a, b) => a + b) / 3
    const sd = Math.sqrt(values.reduce((a, b) => a + (b - m) ** 2, 0) / 2)
    expect(mean).toBeCloseTo(m, 6)
    // t of 2 degrees of freedom: 4.3027
    expect(interval![1] - m).toBeCloseTo((4.302653 * sd) / Math.sqrt(3), 4)
  })

  it("of nothing changed is the run itself", async () => {
    const sites = sitesOf(mouse, ["blocks.*.hook_resid_pre", "blocks.*.attn.hook_z", "hook_embed"])
    const plain = await measure(mouse, clean, metric)
    for (const { values } of await rows(sweep(mouse, { base: clean, source: { run: clean }, sites, metric })))
      close(values, plain)
  })

  it.each([
    [{ hook: "blocks.9.hook_resid_pre" }, "E_HOOK", /the nearest are/],
    [{ hook: "blocks.1.hook_resid_pre", head: 0 }, "E_INPUT", /no axis of heads/],
    [{ hook: "blocks.1.attn.hook_z", head: 4 }, "E_INPUT", /heads 0 to 3/],
    [{ hook: "blocks.1.hook_resid_pre", tokens: [17] }, "E_INPUT", /tokens 0 to 16/],
    [{ hook: "blocks.1.hook_resid_pre", tokens: [] }, "E_INPUT", /names no token/],
  ] as const)("refuses %o", async (site, code, message) => {
    const error = await thrown(rows(denoise(mouse, { clean, corrupt, sites: [site], metric })))
    expect(error.code).toBe(code)
    expect(error.message).toMatch(message)
  })

  it("refuses a metric that is not one number for each image, and another number of images", async () => {
    const sites = [{ hook: "blocks.1.hook_resid_pre" }]
    const wrong = await thrown(
      rows(denoise(mouse, { clean, corrupt, sites, metric: ({ outputs }) => outputs["logits"]!.inputs.at(-1)! })),
    )
    expect(wrong.code).toBe("E_INPUT")
    expect(
      (await thrown(rows(denoise(mouse, { clean: noiseImages(mouse, 2, 1), corrupt, sites, metric })))).message,
    ).toMatch(/2 images/)
  })
})

describe("an experiment refuses", () => {
  const [clean, corrupt, metric] = [noiseImages(mouse, 1, 1), noiseImages(mouse, 1, 2), "logits[:, 1]"]
  const sites = [{ hook: "blocks.1.hook_resid_pre" }]
  const none = float32([0, 1, 28, 28], [])
  it.each([
    [{ source: {} }, /a source is one of \{ run \}, \{ cache \}, \{ zero: true \}, \{ mean \} and \{ resample \}/],
    [{ source: { resample: none } }, /resampling needs pixel_values .* of at least one image/],
    [{ source: { mean: none } }, /a mean needs pixel_values/],
    [{ base: none }, /the experiment needs pixel_values/],
    [{ batch: 0 }, /batch must be a whole number from 1/],
    [{ done: [{ site: sites[0]!, values: [1, 2], mean: 1 }] }, /has 2 values, the experiment has 1 images/],
  ])("%#", async (changed, message) => {
    const given = { base: corrupt, source: { run: clean }, sites, metric, ...changed } as Experiment
    const error = await thrown(rows(sweep(mouse, given)))
    expect([error.code, error.message]).toEqual(["E_INPUT", expect.stringMatching(message)])
  })

  it("sites along what is no axis, and hooks of a text tower, which has no images", async () => {
    expect(() => sitesOf(mouse, "blocks.0.hook_resid_pre", ["tokens" as "token"])).toThrow(
      /along "token", "head" or both/,
    )
    const text = "text.blocks.0.hook_resid_pre"
    expect(() => sitesOf(clip, text)).toThrow(/is of the text tower: an experiment is over images/)
    expect(sitesOf(clip, "*hook_resid_pre").map((s) => s.hook)).toEqual([0, 1].map((l) => `blocks.${l}.hook_resid_pre`))
    const given = { base: noiseImages(clip, 1, 1), source: { zero: true } as const, sites: [{ hook: text }], metric }
    expect((await thrown(rows(sweep(clip, given)))).message).toMatch(/is of the text tower/)
  })
})

describe("a region", () => {
  it("is its patches' tokens, after the class token and registers", () => {
    expect(regionTokens(mouse, [1, 2], [2, 2])).toEqual([1 + 6, 1 + 7, 1 + 10, 1 + 11])
    expect(regionTokens(registers, [1, 2], [2, 2])).toEqual([5 + 6, 5 + 7, 5 + 10, 5 + 11])
    // Pixels that fill no patch are not read.
    const config = { ...mouse.config, vision: { ...mouse.config.vision, imageSize: [30, 34] as const } }
    const wider = new HookedViT({ config, weights: mouse.weights, runtime: mouse.runtime })
    expect(regionTokens(wider, [3, 3])).toEqual([16])
    const oblong = { ...mouse.config, vision: { ...mouse.config.vision, imageSize: [28, 49] as const } }
    const wide = new HookedViT({ config: oblong, weights: mouse.weights, runtime: mouse.runtime })
    expect(regionTokens(wide, [1, 2], [2, 2])).toEqual([1 + 9, 1 + 10, 1 + 16, 1 + 17])
    expect(() => regionTokens(wider, [4, 0])).toThrow(/outside the 4x4 patches/)
    for (const row of [0.5, NaN]) expect(() => regionTokens(mouse, [row, 0])).toThrow(/outside the 4x4 patches/)
  })
})
