/** @file What a person sees of a run: curves.svg, read back by its own axes, and the progress of training. */
import { mkdirSync, mkdtempSync, readdirSync, readFileSync, rmSync, writeFileSync } from "node:fs"
import { tmpdir } from "node:os"
import { join } from "node:path"
import { Writable } from "node:stream"
import sharp from "sharp"
import { afterAll, afterEach, describe, expect, it, vi } from "vitest"
import { cpuMs } from "./helpers/cpu.ts"
import { trainingProgress } from "../src/cli/progress.ts"
import { curves, writeCurves } from "../src/train/tracking/curves.ts"
import { thrown } from "./helpers/thrown.ts"

const scratch = mkdtempSync(join(tmpdir(), "vit-prisma-curves-"))
afterAll(() => rmSync(scratch, { recursive: true }))

type Row = Record<string, number | null>
let logs = 0
function log(rows: readonly Row[]): string {
  const path = join(scratch, `${logs++}.jsonl`)
  writeFileSync(path, rows.map((row, i) => `${JSON.stringify({ step: i * 10, time: 1, ...row })}\n`).join(""))
  return path
}

const [BLUE, ORANGE, GREY] = ["#4269d0", "#e8590c", "#495057"] as const

/** The panels of a picture: their labels, and their curves by colour as [step, value], read off by the labels of the ticks. */
function panels(svg: string) {
  return svg
    .split(/<g transform="translate\(0,\d+\)"><g /)
    .slice(1)
    .map((body) => {
      const scale = (axis: "x" | "y") => {
        const group = new RegExp(`aria-label="${axis}-axis tick label">(.*?)</g>`).exec(body)![1]!
        const ticks = [...group.matchAll(/translate\(([\d.]+),([\d.]+)\)"[^>]*>([^<]+)</g)].map(
          ([, x, y, text]) => [Number(axis === "x" ? x : y), Number(text!.replaceAll(",", ""))] as const,
        )
        expect(ticks.length).toBeGreaterThan(2)
        const [[p0, v0], [p1, v1]] = [ticks[0]!, ticks.at(-1)!]
        return (p: number) => v0 + ((p - p0) * (v1 - v0)) / (p1 - p0)
      }
      const [x, y] = [scale("x"), scale("y")]
      const points = (text: string) =>
        text
          .slice(1)
          .split("L")
          .map((p) => p.split(",").map(Number))
      const lines = [...body.matchAll(/<g ([^>]*aria-label="line")><path d="([^"]+)"/g)].map(([, attributes, d]) => ({
        colour: /stroke="([^"]+)"/.exec(attributes!)![1]!,
        pale: attributes!.includes("stroke-opacity"),
        points: points(d!).map(([px, py]) => [x(px!), y(py!)] as const),
      }))
      return {
        label: /y-axis label"><text[^>]*>(?:↑ )?([^<]+)</.exec(body)![1],
        legend: [...body.matchAll(/>━ (\w+)</g)].map(([, name]) => name),
        lines,
        dots: [...body.matchAll(/<circle/g)].length,
      }
    })
}

describe("curves.svg", () => {
  it("shows loss, accuracy and learning rate, train and test in one panel", async () => {
    const rows: Row[] = Array.from({ length: 30 }, (_, i) => ({
      "train/loss": 3 / (1 + i),
      train_acc: i / 40,
      lr: 1e-3 * (1 - i / 30),
      "grad/norm": 1,
      ...(i % 10 === 9 && { "test/loss": 3.5 / (1 + i), "test/accuracy": i / 50 }),
    }))
    const [loss, accuracy, rate, ...rest] = panels(await curves(log(rows)))
    expect(rest).toEqual([])
    const near = (got: readonly (readonly [number, number])[], name: string, factor = 1) => {
      const want = rows.flatMap((row, i) => (name in row ? [[i * 10, row[name]! * factor] as const] : []))
      expect(got.map(([step]) => Math.round(step))).toEqual(want.map(([step]) => step))
      for (const [i, [, value]] of want.entries()) expect(got[i]![1]).toBeCloseTo(value, 4)
    }
    expect([loss!.label, loss!.legend, loss!.lines.map((l) => l.colour)]).toEqual([
      "loss",
      ["train", "test"],
      [BLUE, ORANGE],
    ])
    near(loss!.lines[0]!.points, "train/loss")
    near(loss!.lines[1]!.points, "test/loss")
    expect([accuracy!.label, accuracy!.legend]).toEqual(["accuracy (%)", ["train", "test"]])
    near(accuracy!.lines[0]!.points, "train_acc", 100)
    near(accuracy!.lines[1]!.points, "test/accuracy", 100)
    expect([rate!.label, rate!.legend, rate!.lines.map((l) => l.colour)]).toEqual(["learning rate", [], [GREY]])
    near(rate!.lines[0]!.points, "lr")
  })

  it("draws noise pale and its mean on top, in few points", async () => {
    const rows = Array.from({ length: 20_000 }, (_, i) => ({ "train/loss": 2 + (i % 2 ? 0.5 : -0.5) + (i % 97) / 97 }))
    const svg = await curves(log(rows))
    const [{ lines }] = panels(svg) as [ReturnType<typeof panels>[number]]
    expect(lines.map(({ colour, pale }) => [colour, pale])).toEqual([
      [BLUE, true],
      [BLUE, false],
    ])
    expect(lines[0]!.points.length).toBeLessThanOrEqual(600)
    expect(lines[1]!.points.length).toBeLessThanOrEqual(600)
    for (const [, value] of lines[1]!.points.slice(20, -20)) expect(Math.abs(value - 2.5)).toBeLessThan(0.1)
    expect(svg.length).toBeLessThan(50_000)
  })

  it("is a picture with both colours in it, and the same bytes each time", async () => {
    const dir = join(scratch, "run")
    mkdirSync(dir)
    const rows = Array.from({ length: 50 }, (_, i) => ({
      "train/loss": 1 / (i + 1),
      "test/loss": 2 / (i + 1),
      lr: 0.1,
    }))
    writeFileSync(join(dir, "metrics.jsonl"), readFileSync(log(rows)))
    await writeCurves(dir)
    const svg = readFileSync(join(dir, "curves.svg"))
    await writeCurves(dir)
    expect(readFileSync(join(dir, "curves.svg")).equals(svg)).toBe(true)
    expect(readdirSync(dir).sort()).toEqual(["curves.svg", "metrics.jsonl"])
    const { data, info } = await sharp(svg).removeAlpha().raw().toBuffer({ resolveWithObject: true })
    const count = (colour: string) => {
      const [r, g, b] = [1, 3, 5].map((i) => parseInt(colour.slice(i, i + 2), 16))
      let n = 0
      for (let i = 0; i < data.length; i += 3) n += Number(data[i] === r && data[i + 1] === g && data[i + 2] === b)
      return n
    }
    expect([info.width, info.height]).toEqual([760, 520])
    for (const colour of [BLUE, ORANGE, GREY]) expect(count(colour)).toBeGreaterThan(200)
  })

  it.each<[string, readonly Row[], number]>([
    ["nothing", [], 0],
    ["other numbers only", [{ x: 1 }], 0],
    ["what is no number only", [{ "train/loss": null }], 0],
    ["one point", [{ "train/loss": 2 }], 1],
    ["the same each time", [{ lr: 1e-7 }, { lr: 1e-7 }], 1],
    ["zeros", [{ loss: 0 }, { loss: 0 }], 1],
    ["the largest numbers", [{ loss: 1e308 }, { loss: -1e308 }], 0],
    ["huge numbers", [{ loss: 9e99 }, { loss: -9e99 }], 1],
  ])("of a log with %s is a picture", async (_, rows, n) => {
    const svg = await curves(log(rows))
    expect(panels(svg)).toHaveLength(n)
    expect(svg).not.toMatch(/NaN|Infinity|undefined/)
    expect((await sharp(Buffer.from(svg)).metadata()).height).toBe(260)
  })

  it("needs a log", async () => {
    expect(await thrown(writeCurves(join(scratch, "absent")))).toMatchObject({ code: "E_NOT_A_FILE" })
  })
})

describe("the progress of training", () => {
  afterEach(() => void vi.restoreAllMocks())

  const stream = (isTTY: boolean) => {
    let text = ""
    const writable = new Writable({ write: (chunk, _, done) => done(void (text += String(chunk))) })
    return { stream: Object.assign(writable, { isTTY, columns: 120 }), text: () => text }
  }
  /** The clock, in seconds. */
  const clock = () => {
    let seconds = 100
    vi.spyOn(performance, "now").mockImplementation(() => seconds * 1000)
    return (at: number) => void (seconds = 100 + at)
  }

  it("is a line now and then where nobody looks", async () => {
    const at = clock()
    const { stream: out, text } = stream(false)
    const progress = await trainingProgress({ total: 1000, done: 100, batch: 64, stream: out, every: 30 })
    for (let step = 101; step <= 400; step++) {
      at((step - 100) / 4)
      progress.update(step, 3 - step / 400)
    }
    progress.stop()
    progress.stop()
    expect(text().split("\n")).toEqual([
      "step 220/1000: loss 2.45, 256 images/s, 3m15s left",
      "step 340/1000: loss 2.15, 256 images/s, 2m45s left",
      "step 400/1000: loss 2, 256 images/s",
      "",
    ])
  })

  it("is JSON where that is asked for, also in a terminal", async () => {
    const at = clock()
    const { stream: out, text } = stream(true)
    const progress = await trainingProgress({ total: 10, batch: 8, json: true, stream: out, every: 1 })
    at(2)
    progress.update(5, NaN)
    progress.stop()
    const state = { step: 5, total: 10, loss: null, imagesPerSecond: 20, secondsLeft: 2 }
    expect(text()).toBe(`${JSON.stringify({ progress: state })}\n`.repeat(2))
  })

  it("is a bar in a terminal, which has its cursor back after it", async () => {
    const { stream: out, text } = stream(true)
    const listeners = process.listenerCount("exit")
    const progress = await trainingProgress({ total: 20, done: 4, batch: 8, stream: out })
    for (let step = 5; step <= 20; step++) {
      await new Promise((r) => setTimeout(r, 15))
      progress.update(step, 1 / 3)
    }
    progress.stop()
    expect(text()).toContain("4/20  loss -")
    expect(text()).toMatch(/20\/20 {2}loss 0\.3333 {2}[\d.]+ images\/s/)
    expect(text()).toMatch(/\d+s left/)
    const [hidden, shown] = ["\x1b[?25l", "\x1b[?25h"].map((code) => text().lastIndexOf(code))
    expect(hidden).toBeGreaterThanOrEqual(0)
    expect(shown).toBeGreaterThan(hidden!)
    expect(process.listenerCount("exit")).toBe(listeners)
  })

  it("costs a step next to nothing", async () => {
    const { stream: out } = stream(true)
    const progress = await trainingProgress({ total: 100_000, batch: 8, stream: out })
    const begun = cpuMs()
    for (let step = 1; step <= 100_000; step++) progress.update(step, 1)
    expect((cpuMs() - begun) / 100_000).toBeLessThan(0.02)
    progress.stop()
  })

  it.each([[-1], [2.5], [NaN], [3]])("of %f steps, 4 of them done, is refused", async (total) => {
    expect(await thrown(trainingProgress({ total, done: 4, batch: 1 }))).toMatchObject({ code: "E_INPUT" })
  })
})
