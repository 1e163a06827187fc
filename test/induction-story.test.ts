/** @file docs/induction.md holds: one head of the mouse does the work, found by taking it away and by putting it back; its weights
 * taken out of the file say the same. */
import { cpSync, readFileSync, writeFileSync } from "node:fs"
import { join } from "node:path"
import { afterAll, describe, expect, it } from "vitest"
import { ablate, denoise, measure, metrics, ops, sitesOf, type GraphView, type SweepRow } from "../src/core.ts"
import { induction, loadPretrained } from "../src/index.ts"
import { tensor, type Tensor } from "../src/tensor/tensor.ts"
import { scratch } from "./helpers/variants.ts"

const MOUSE = join(import.meta.dirname, "../model-cards/induction-head")
const model = await loadPretrained(MOUSE, { threads: 1 })
afterAll(() => model.release())

const { train, test } = induction({ seed: 0 })
const upTo = (n: number) => Array.from({ length: n }, (_, i) => i)
const pixels = (dataset: typeof train, samples: readonly number[]): Tensor<"float32"> =>
  tensor("float32", [samples.length, 1, 32, 32], Float32Array.from(samples.flatMap((i) => Array.from(dataset.at(i).image.data, (x) => x / 255)))) // prettier-ignore
const images = pixels(test, upTo(test.length))
const predicted = ({ outputs: { logits } }: GraphView) => ops.cast(ops.argMax(logits!), "float32")
const right = (classes: readonly number[]) => classes.filter((c, i) => c === test.at(i).label).length / test.length
const sites = sitesOf(model, "blocks.*.attn.hook_z", ["head"])
const rows = async (all: AsyncGenerator<SweepRow>): Promise<SweepRow[]> => {
  const got: SweepRow[] = []
  for await (const row of all) got.push(row)
  return got
}

describe("the mouse of induction", () => {
  it("is right where its card says so", async () => {
    const { test: said } = JSON.parse(readFileSync(join(MOUSE, "result.json"), "utf8")) as {
      test: { accuracy: number }
    }
    expect(right(await measure(model, images, predicted))).toBeCloseTo(said.accuracy, 6)
    expect(said.accuracy).toBeGreaterThanOrEqual(0.99)
  })

  it("has one head without which it guesses; each other can be taken away", async () => {
    const others = pixels(train, upTo(512))
    for (const by of [{ zero: true }, { mean: others }, { resample: others, seed: 0 }] as const) {
      const [work, ...rest] = (await rows(ablate(model, { images, by, sites, metric: predicted, batch: 128 }))).map(
        ({ values }) => right(values),
      )
      expect(work).toBeLessThan(0.3)
      expect(rest.length).toBeGreaterThan(0)
      for (const other of rest) expect(other).toBeGreaterThan(0.99)
    }
  })

  it("says the same with that head's weights zero in the file, read again by plain hands", async () => {
    const accuracies: number[] = []
    for (const layer of upTo(model.config.vision.nLayers)) {
      const folder = join(scratch(), `without ${layer}`)
      cpSync(MOUSE, folder, { recursive: true })
      const file = join(folder, "model.safetensors")
      const bytes = readFileSync(file)
      const length = Number(bytes.readBigUInt64LE(0))
      const header = JSON.parse(bytes.toString("utf8", 8, 8 + length)) as Record<
        string,
        { data_offsets: [number, number] }
      >
      const [from, to] = header[`vit.encoder.layer.${layer}.attention.output.dense.weight`]!.data_offsets
      bytes.fill(0, 8 + length + from, 8 + length + to)
      writeFileSync(file, bytes)
      const without = await loadPretrained(folder, { threads: 1 })
      accuracies.push(right(await measure(without, images, predicted)))
      await without.release()
    }
    const zero = await rows(ablate(model, { images, by: { zero: true }, sites, metric: predicted, batch: 128 }))
    expect(accuracies).toEqual(zero.map(({ values }) => right(values)))
  })

  it("has the same head bring most back, where two images differ in the second shape alone", async () => {
    const key = (i: number) => {
      const { row, column, orientation, a } = train.latents(i)
      return [row, column, orientation, a].join()
    }
    const same = new Map(upTo(train.length).flatMap((i) => (train.at(i).label === 0 ? [[key(i), i] as const] : [])))
    const pairs = upTo(train.length).flatMap((i) => {
      const twin = same.get(key(i))
      return train.at(i).label === 1 && twin !== undefined ? [[twin, i] as const] : []
    })
    const some = pairs.slice(0, 64)
    const [clean, corrupt] = [pixels(train, some.map(([a]) => a)), pixels(train, some.map(([, b]) => b))] // prettier-ignore
    const metric = metrics.logitDifference(model, "vertical-same", "vertical-not-same")
    const mean = (xs: readonly number[]) => xs.reduce((a, b) => a + b, 0) / xs.length
    const [high, low] = [mean(await measure(model, clean, metric)), mean(await measure(model, corrupt, metric))]
    const [work, ...rest] = (await rows(denoise(model, { clean, corrupt, sites, metric, batch: 64 }))).map((row) => (row.mean - low) / (high - low)) // prettier-ignore
    expect(work).toBeGreaterThan(0.9)
    for (const other of rest) expect(other).toBeLessThan(0.1)
  })
})
