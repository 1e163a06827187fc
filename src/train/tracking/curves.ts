/** @file curves.svg: loss, accuracy and learning rate of a run over its steps; the only import of Observable Plot
 * (https://observablehq.com/plot) and of linkedom, whose document it draws in. */
import { join } from "node:path"
import type * as PlotModule from "@observablehq/plot"
import { writeFileAtomic } from "../../files/atomic.ts"
import { METRICS, readMetrics } from "./metrics.ts"
import { metricName, type Series } from "./names.ts"

/** Panels from top to bottom, each shown where the log has its metric. Our accuracies are fractions. */
const PANELS = [
  { metrics: ["loss"], label: "loss", factor: 1 },
  { metrics: ["accuracy"], label: "accuracy (%)", factor: 100 },
  { metrics: ["lr", "learning_rate"], label: "learning rate", factor: 1 },
]

type Curve = Series | "run"

/** Blue and orange are told apart by all eyes. */
const COLOURS: { readonly [C in Curve]: string } = {
  train: "#4269d0",
  test: "#e8590c",
  val: "#2b8a3e",
  run: "#495057",
}

/** Sizes in CSS pixels. */
const WIDTH = 760
const HEIGHT = 260
const MARGINS = { marginLeft: 64, marginRight: 24, marginTop: 36, marginBottom: 44 }

/** What Plot sets on its own svg element, whose content is used without it and without its style sheet. */
const TEXT = 'font-family="system-ui, sans-serif" font-size="12" text-anchor="middle" fill="black" color="black"'
const STYLE = /<style>.*?<\/style>/s

/** From the lowest curve to the topmost. */
const ORDER: readonly Curve[] = ["run", "train", "val", "test"]

/** Points drawn of one curve; a screen has no room for more. */
const POINTS = 600

/** A curve of more points than this is noisy: it is drawn pale, and over it the mean of a fortieth of it. */
const NOISY = 120
const MEANS = 40

/** Nothing beyond is drawn, nor NaN: the width of a scale must be a number too. */
const GREATEST = 1e100

interface Point {
  readonly step: number
  readonly value: number
}

type Panel = Map<Curve, Point[]>

/** The curves of a metrics.jsonl as one SVG; the same log gives the same bytes. Errors: E_NOT_A_FILE, E_IO. */
export async function curves(path: string): Promise<string> {
  const { panels, first, last } = await readPanels(path)
  const shown = PANELS.flatMap(({ label }, i) => (panels[i]!.size ? [{ label, panel: panels[i]! }] : []))
  return draw(shown, [first, last], "no loss, accuracy or learning rate has been logged")
}

/** Any numbers over a run's steps as one SVG, a panel for each name, in the order in which they come. Numbers that are not finite are left out. */
export function drawCurves(
  rows: readonly { readonly step: number; readonly values: Readonly<Record<string, number>> }[],
): Promise<string> {
  const panels = new Map<string, Point[]>()
  for (const { step, values } of rows) {
    for (const [name, value] of Object.entries(values)) {
      if (Math.abs(value) < GREATEST) panels.set(name, [...(panels.get(name) ?? []), { step, value }])
    }
  }
  const steps = rows.map(({ step }) => step)
  const last = Math.max(1, ...steps)
  const shown = [...panels].map(([label, points]) => ({ label, panel: new Map([["run", points] as const]) }))
  return draw(shown, [Math.min(last - 1, ...steps), last], "nothing was measured")
}

async function draw(
  shown: readonly { readonly label: string; readonly panel: Panel }[],
  domain: readonly [first: number, last: number],
  otherwise: string,
): Promise<string> {
  const [Plot, { parseHTML }] = await Promise.all([import("@observablehq/plot"), import("linkedom")])
  const { document } = parseHTML("<html></html>")
  const bodies = shown.map(({ label, panel }, i) => {
    const svg = Plot.plot({
      document,
      className: "curves",
      style: { fontSize: "12px" },
      width: WIDTH,
      height: HEIGHT,
      ...MARGINS,
      x: { label: i === shown.length - 1 ? "step" : null, domain, ticks: 8 },
      y: { label, domain: extent(panel), nice: true, grid: true, ticks: 5 },
      marks: [...marks(Plot, panel), ...legend(Plot, panel)],
    })
    return `<g transform="translate(0,${i * HEIGHT})">${svg.innerHTML.replace(STYLE, "")}</g>`
  })
  if (!bodies.length) {
    bodies.push(`<text x="${WIDTH / 2}" y="${HEIGHT / 2}">${otherwise}</text>`)
  }
  const height = HEIGHT * bodies.length
  const size = `width="${WIDTH}" height="${height}"`
  return `<svg xmlns="http://www.w3.org/2000/svg" ${size} viewBox="0 0 ${WIDTH} ${height}" ${TEXT}><rect ${size} fill="white"/>${bodies.join("")}</svg>\n`
}

/** Draw curves.svg beside the log of the run in `dir`. Errors: those of `curves`, E_OUTPUT, E_DISK_FULL. */
export async function writeCurves(dir: string): Promise<void> {
  await writeFileAtomic(join(dir, "curves.svg"), await curves(join(dir, METRICS)))
}

async function readPanels(path: string) {
  const panels = PANELS.map((): Panel => new Map())
  let [first, last] = [Infinity, 1]
  await readMetrics(path, ({ step, values }) => {
    for (const [name, x] of values) {
      const { series = "run", metric } = metricName(name)
      const i = PANELS.findIndex(({ metrics }) => metrics.includes(metric))
      if (i < 0 || !(Math.abs(x) < GREATEST)) continue
      const points = panels[i]!.get(series) ?? []
      points.push({ step, value: x * PANELS[i]!.factor })
      panels[i]!.set(series, points)
      first = Math.min(first, step)
      last = Math.max(last, step)
    }
  })
  return { panels, first: Math.min(first, last - 1), last }
}

/** The values of a panel from least to greatest; where all are alike, from nothing to a little more. */
function extent(panel: Panel): readonly [number, number] {
  let [least, greatest] = [Infinity, -Infinity]
  for (const { value } of [...panel.values()].flat()) {
    least = Math.min(least, value)
    greatest = Math.max(greatest, value)
  }
  if (least < greatest) return [least, greatest]
  const beyond = least * 1.25 || 1
  return [Math.min(0, beyond), Math.max(0, beyond)]
}

const marks = (Plot: typeof PlotModule, panel: Panel) =>
  ORDER.flatMap((curve) => {
    const points = thinned(panel.get(curve) ?? [], POINTS)
    if (!points.length) return []
    const channels = { x: "step", y: "value", stroke: COLOURS[curve] } as const
    if (points.length === 1) return [Plot.dot(points, { ...channels, fill: COLOURS[curve] })]
    if (points.length <= NOISY || curve === "run") return [Plot.lineY(points, { ...channels, strokeWidth: 2 })]
    const k = Math.ceil(points.length / MEANS)
    return [
      Plot.lineY(points, { ...channels, strokeWidth: 1, strokeOpacity: 0.3 }),
      Plot.lineY(points, Plot.windowY({ k, reduce: "mean" }, { ...channels, strokeWidth: 2 })),
    ]
  })

/** Plot draws its own legends on a canvas, which Node has not. */
const legend = (Plot: typeof PlotModule, panel: Panel) =>
  ORDER.filter((curve) => curve !== "run" && panel.has(curve)).map((curve, i, all) =>
    Plot.text([`\u2501 ${curve}`], {
      frameAnchor: "top-right",
      textAnchor: "end",
      fontWeight: "bold",
      fill: COLOURS[curve],
      dx: (i - all.length + 1) * 60,
      dy: -18,
    }),
  )

/** Means of as many neighbours as make at most `limit` points of them. */
function thinned(points: readonly Point[], limit: number): readonly Point[] {
  const k = Math.ceil(points.length / limit)
  if (k <= 1) return points
  return Array.from({ length: Math.ceil(points.length / k) }, (_, i) => {
    const some = points.slice(i * k, i * k + k)
    const value = some.reduce((sum, p) => sum + p.value, 0) / some.length
    return { step: some[some.length >> 1]!.step, value }
  })
}
