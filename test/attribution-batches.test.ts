/** @file Attribution over more images than run at once: each image has what it has alone, whatever the source. */
import { afterAll, describe, expect, it } from "vitest"
import { attributionPatching, loadPretrained } from "../src/index.ts"
import type { Source } from "../src/interp/causal/sources.ts"
import { float32, size, type Tensor } from "../src/tensor/tensor.ts"
import { noiseImages as images } from "./helpers/noise-images.ts"
import { thrown } from "./helpers/thrown.ts"

const mouse = await loadPretrained("model-cards/mnist", { threads: 1 })
afterAll(() => mouse.release())
const hooks = ["blocks.*.hook_resid_post", "blocks.1.attn.hook_pattern"]
const metric = "logits[:, 4]"
const [base, other] = [images(mouse, 5, 1), images(mouse, 5, 2)]
const image = (t: Tensor, i: number): Tensor => {
  const n = size(t.shape.slice(1))
  return float32([1, ...t.shape.slice(1)], (t.data as Float32Array).slice(i * n, (i + 1) * n))
}

describe("attribution in batches", () => {
  it.each([
    ["another run", () => ({ run: other }), (i: number) => ({ run: image(other, i) }), 1],
    ["the line to another run", () => ({ run: other }), (i: number) => ({ run: image(other, i) }), 3],
    ["zero", () => ({ zero: true }), () => ({ zero: true }), 1],
    ["a mean", () => ({ mean: other }), () => ({ mean: other }), 1],
    [
      "a cache",
      async () => ({ cache: (await mouse.runWithCache(other, { names: hooks })).cache }),
      async (i: number) => ({ cache: (await mouse.runWithCache(image(other, i), { names: hooks })).cache }),
      1,
    ],
  ] as [string, () => Source | Promise<Source>, (i: number) => Source | Promise<Source>, number][])(
    "against %s",
    async (_, all, one, steps) => {
      const got = await attributionPatching(mouse, { base, source: await all(), hooks, metric, steps, batch: 2 })
      for (const i of [0, 1, 2, 4]) {
        const source = await one(i)
        const alone = await attributionPatching(mouse, { base: image(base, i), source, hooks, metric, steps })
        expect([...got.keys()]).toEqual([...alone.keys()])
        for (const [name, { shape, data }] of alone) {
          const all = got.get(name)!
          expect(all.shape).toEqual([5, ...shape.slice(1)])
          for (const [k, x] of data.entries()) expect(all.data[i * data.length + k]).toBeCloseTo(x, 5)
        }
      }
    },
  )

  it("sums, at what all images share, what it is to each", async () => {
    const options = { base, source: { zero: true }, hooks: ["hook_pos_embed", hooks[0]!], metric } as const
    const [got, whole] = [
      await attributionPatching(mouse, { ...options, batch: 2 }),
      await attributionPatching(mouse, { ...options, batch: 5 }),
    ]
    expect([...got].map(([name, t]) => [name, t.shape])).toEqual([...whole].map(([name, t]) => [name, t.shape]))
    const one = got.get("hook_pos_embed")!
    expect(one.shape[0]).toBe(1)
    for (const [k, x] of whole.get("hook_pos_embed")!.data.entries()) expect(one.data[k]).toBeCloseTo(x, 4)
  })

  it("has a batch of at least 1", async () => {
    const none = attributionPatching(mouse, { base, source: { zero: true }, hooks, metric, batch: 0 })
    expect((await thrown(none)).message).toMatch(/batch must be a whole number from 1/)
  })
})
