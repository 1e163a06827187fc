/** @file Sweeps over more images than run at once: rows as they are made, an end and a going on, rows of another experiment. */
import { afterAll, describe, expect, it } from "vitest"
import { ablate, denoise } from "../src/interp/causal/patching.ts"
import { sitesOf } from "../src/interp/causal/sites.ts"
import { measure, sweep, type SweepRow } from "../src/interp/causal/sweep.ts"
import { loadPretrained, ops, type GraphView } from "../src/index.ts"
import { float32, size, type Tensor } from "../src/tensor/tensor.ts"
import { noiseImages as images } from "./helpers/noise-images.ts"
import { thrown } from "./helpers/thrown.ts"

const mouse = await loadPretrained("model-cards/mnist", { threads: 1 })
afterAll(() => mouse.release())
const metric = "logits[:, 4]"
const [clean, corrupt] = [images(mouse, 21, 1), images(mouse, 21, 2)]
const sites = [
  ...sitesOf(mouse, "blocks.{0,2}.hook_resid_pre", ["token"]),
  ...sitesOf(mouse, "blocks.1.attn.hook_z", ["head"]),
]

const collect = async (rows: AsyncGenerator<SweepRow>): Promise<SweepRow[]> => {
  const out: SweepRow[] = []
  for await (const row of rows) out.push(row)
  return out
}
const image = (t: Tensor, i: number): Tensor => {
  const n = size(t.shape.slice(1))
  return float32([1, ...t.shape.slice(1)], (t.data as Float32Array).slice(i * n, (i + 1) * n))
}

describe("a sweep over more images than run at once", () => {
  it("gives each image what it gets alone", async () => {
    const rows = await collect(denoise(mouse, { clean, corrupt, sites, metric, batch: 4 }))
    expect(rows.map((r) => r.site)).toEqual(sites)
    for (const i of [0, 3, 4, 20]) {
      const alone = await collect(denoise(mouse, { clean: image(clean, i), corrupt: image(corrupt, i), sites, metric }))
      for (const [s, { values }] of rows.entries()) expect(values[i]).toBeCloseTo(alone[s]!.values[0]!, 4)
    }
  })

  it("gives its first rows before the last are computed, and ends between rows; the rest follows from `done`", async () => {
    const whole = await collect(denoise(mouse, { clean, corrupt, sites, metric, batch: 4 }))
    const stop = new AbortController()
    const seen: SweepRow[] = []
    let told = 0
    const onProgress = (n: number) => void (told = n)
    const ended = (async () => {
      const work = { clean, corrupt, sites, metric, batch: 4, signal: stop.signal, onProgress }
      for await (const row of denoise(mouse, work)) if (seen.push(row) === 5) stop.abort()
    })()
    expect((await thrown(ended)).code).toBe("E_INTERRUPTED")
    expect([seen.length, told]).toEqual([5, 5])
    expect(seen).toEqual(whole.slice(0, 5))
    const rest = await collect(denoise(mouse, { clean, corrupt, sites, metric, batch: 4, done: seen }))
    expect(rest.map((r) => r.site)).toEqual(sites)
    for (const [s, { values }] of rest.entries())
      for (const [i, x] of values.entries()) expect(x).toBeCloseTo(whole[s]!.values[i]!, 5)
  })

  it("refuses rows of another metric, of other images and of other values put there", async () => {
    const done = await collect(denoise(mouse, { clean, corrupt, sites: sites.slice(0, 3), metric }))
    const others = [
      denoise(mouse, { clean, corrupt, sites, metric: "logits[:, 5]", done }),
      denoise(mouse, { clean, corrupt: images(mouse, 21, 3), sites, metric, done }),
      ablate(mouse, { images: corrupt, by: { zero: true }, sites, metric, done }),
    ]
    for (const other of others) {
      const error = await thrown(collect(other))
      expect([error.code, error.message]).toEqual([
        "E_INPUT",
        expect.stringMatching(/^done: .* these rows are of another$/),
      ])
    }
  })

  it("may ask for what lies before the patch: that does not change", async () => {
    const early = ({ hook }: GraphView) => ops.sum(hook("blocks.0.hook_attn_out"), [1, 2])
    const [row] = await collect(
      denoise(mouse, { clean, corrupt, sites: [{ hook: "blocks.2.hook_mlp_out" }], metric: early }),
    )
    for (const [i, x] of (await measure(mouse, corrupt, early)).entries()) expect(row!.values[i]).toBeCloseTo(x, 3)
  })

  it("needs sites", async () => {
    const none = collect(sweep(mouse, { base: corrupt, source: { zero: true }, sites: [], metric }))
    expect((await thrown(none)).message).toMatch(/^no site was named; sitesOf/)
  })
})
