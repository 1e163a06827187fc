/** @file The page in a real browser, for tests and the bench: opened from a file, and timed frame by frame. */
import { writeFileSync } from "node:fs"
import { pathToFileURL } from "node:url"
import { chromium, type Browser, type Page } from "playwright-core"

export const CHROMIUM = "/usr/bin/chromium"
const FLAGS =
  "--no-sandbox --disable-gpu --disable-quic --no-first-run --disable-background-networking --disable-component-update --disable-sync"

export const launched = (): Promise<Browser> => chromium.launch({ executablePath: CHROMIUM, args: FLAGS.split(" ") })

// What runs in the page is text: callers are checked without a browser's types.
const TWO_FRAMES = "new Promise((done) => requestAnimationFrame(() => requestAnimationFrame(done)))"
const RECORD = `(() => {
  const times = (window.frameTimes = [])
  let last = performance.now()
  const next = (now) => {
    if (window.frameTimes !== times) return
    times.push(now - last)
    last = now
    requestAnimationFrame(next)
  }
  requestAnimationFrame(next)
})()`

/** Two frames: one in which a change is drawn, and one after it. */
export const settled = (page: Page): Promise<unknown> => page.evaluate(TWO_FRAMES)

export interface Opened {
  readonly page: Page
  /** What it asked of the network. */
  readonly asked: readonly string[]
  /** What it said in error. */
  readonly said: readonly string[]
}

/** Open this HTML, written to a file of this name. */
export async function opened(browser: Browser, html: string, file: string, dark = false): Promise<Opened> {
  writeFileSync(file, html)
  const page = await browser.newPage({
    viewport: { width: 1400, height: 1000 },
    colorScheme: dark ? "dark" : "light",
    reducedMotion: "reduce",
  })
  const asked: string[] = []
  const said: string[] = []
  page.on("request", (r) => asked.push(r.url()))
  // These callers read canvases, which a reader's page does not.
  page.on("console", (m) => m.text().includes("willReadFrequently") || said.push(m.text()))
  page.on("pageerror", (e) => said.push(e.message))
  await page.goto(pathToFileURL(file).href)
  await page.waitForSelector("#main:not([hidden]), #fatal:not([hidden])")
  await settled(page)
  return { page, asked, said }
}

type Grid = readonly [rows: number, columns: number]

/** Where patches of the first image have their middles, in the window. */
async function places(page: Page, [rows, columns]: Grid) {
  const box = (await page.locator("canvas.picture").first().boundingBox())!
  return (patch: number): readonly [x: number, y: number] => [
    box.x + (((patch % columns) + 0.5) * box.width) / columns,
    box.y + ((Math.floor(patch / columns) + 0.5) * box.height) / rows,
  ]
}

export const middle = async (page: Page, grid: Grid, patch: number): Promise<readonly [x: number, y: number]> =>
  (await places(page, grid))(patch)

/** Milliseconds between the frames that the page makes while this is done to it. */
export async function frames(page: Page, work: () => Promise<unknown>): Promise<number[]> {
  await page.evaluate(RECORD)
  await work()
  await settled(page)
  // The first is what lies between the call and the frame after it.
  const times = await page.evaluate<number[]>("window.frameTimes.slice(1)")
  await page.evaluate("window.frameTimes = undefined")
  return times
}

/** The pointer over so many patches, evenly over the image, in the order of the rows; gives the last. */
export async function hover(page: Page, grid: Grid, moves: number): Promise<number> {
  const at = await places(page, grid)
  const patch = (i: number) => Math.floor((i * grid[0] * grid[1]) / moves)
  for (let i = 0; i < moves; i++) await page.mouse.move(...at(patch(i)))
  return patch(moves - 1)
}

export interface FrameFigures {
  readonly count: number
  readonly median: number
  readonly p95: number
  readonly worst: number
}

export function frameFigures(times: readonly number[]): FrameFigures {
  const sorted = [...times].sort((a, b) => a - b)
  const at = (share: number) => sorted[Math.min(sorted.length - 1, Math.floor(share * sorted.length))] ?? Number.NaN
  return { count: sorted.length, median: at(0.5), p95: at(0.95), worst: at(1) }
}

export const frameText = ({ count, median, p95, worst }: FrameFigures): string =>
  `${count} frames: median ${median.toFixed(1)} ms, 95 % within ${p95.toFixed(1)}, worst ${worst.toFixed(0)}`
