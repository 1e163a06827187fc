/** @file A measurement over checkpoints is that of each loaded by hand; it goes on, ends, and is drawn. */
import { cpSync, readFileSync, writeFileSync } from "node:fs"
import { join } from "node:path"
import { expect, it } from "vitest"
import { drawCurves, type LoadedViT, loadPretrained, type Measured, overTraining, type OverTrainingOptions } from "../src/index.ts" // prettier-ignore
import { thrown } from "./helpers/thrown.ts"
import { folderAt, scratch } from "./helpers/variants.ts"

const MOUSE = join(import.meta.dirname, "../model-cards/induction-head")
const STEPS = [0, 200, 1000]
const run = folderAt(scratch(), "run")
const at = (step: number) => join(run, "checkpoints", `step-${String(step).padStart(8, "0")}`)
for (const [i, step] of STEPS.entries()) {
  cpSync(MOUSE, at(step), { recursive: true })
  const file = join(at(step), "model.safetensors")
  const bytes = readFileSync(file)
  // The last weights, other ones in each.
  new Float32Array(bytes.buffer, bytes.byteOffset + bytes.length - 4 * 128, 128).fill(i + 1)
  writeFileSync(file, bytes)
}

const measure = async (model: LoadedViT) => {
  const { logits } = await model.run(await model.images({ width: 32, height: 32, channels: 1, data: new Uint8Array(1024).fill(90), notes: [] })) // prettier-ignore
  return { first: Number(logits.data[0]), second: Number(logits.data[1]) }
}
async function all(options: OverTrainingOptions = {}, how = measure): Promise<Measured[]> {
  const rows: Measured[] = []
  for await (const row of overTraining(run, how, { threads: 1, ...options })) rows.push(row)
  return rows
}

it("is what each checkpoint gives, by step", async () => {
  const byHand: Measured[] = []
  for (const step of STEPS) {
    const model = await loadPretrained(at(step), { threads: 1 })
    byHand.push({ step, values: await measure(model) })
    await model.release()
  }
  expect(new Set(byHand.map(({ values }) => values.first)).size).toBe(3)
  expect(await all()).toEqual(byHand)
  expect(await all({ steps: [1000, 0] })).toEqual([byHand[0], byHand[2]])
})

it("goes on from rows that are there, and measures only what is missing", async () => {
  const [first] = await all({ steps: [0] })
  const marked = { ...first!, values: { first: 7 } }
  let count = 0
  const rows = await all({ done: [marked] }, async (model) => {
    count++
    return measure(model)
  })
  expect([rows[0], count, rows.length]).toEqual([marked, 2, 3])
})

it("ends after a whole row, and names what is there", async () => {
  const stop = new AbortController()
  const rows: Measured[] = []
  const error = await thrown(
    (async () => {
      for await (const row of overTraining(run, measure, { threads: 1, signal: stop.signal })) {
        rows.push(row)
        stop.abort()
      }
    })(),
  )
  expect([error.code, rows.length]).toEqual(["E_INTERRUPTED", 1])
  expect((await thrown(all({ steps: [5] }))).message).toMatch(/step 5; it has 0, 200, 1000/)
  expect((await thrown(overTraining(MOUSE, measure).next())).code).toBe("E_INPUT")
})

it("is drawn: a panel for each name, a point for each step", async () => {
  const svg = await drawCurves([
    { step: 0, values: { "accuracy (%)": 25, odd: NaN } },
    { step: 100, values: { "accuracy (%)": 50 } },
    { step: 200, values: { "accuracy (%)": 100 } },
  ])
  expect(svg).toContain("accuracy (%)")
  expect(svg).not.toMatch(/NaN|odd/)
  const [d] = [...svg.matchAll(/ d="(M[\d.]+,[\d.]+(?:L[\d.]+,[\d.]+){2})"/g)].map((m) => m[1])
  const points = d!.slice(1).split("L").map((p) => p.split(",").map(Number)) // prettier-ignore
  expect(points).toHaveLength(3)
  const [[x0, y0], [x1, y1], [x2, y2]] = points as [[number, number], [number, number], [number, number]]
  expect((x2 - x1) / (x1 - x0)).toBeCloseTo(1, 5)
  expect((y1 - y2) / (y0 - y1)).toBeCloseTo(2, 5)
  expect(await drawCurves([])).toContain("nothing was measured")
})
