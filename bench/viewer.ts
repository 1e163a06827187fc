/**
 * @file `node dist/bench/viewer.js`: pages of 14 x 14 and 37 x 37 patches, driven in headless Chromium, light and dark: sizes,
 * seconds to write, milliseconds between frames.
 *
 * `--shots FOLDER` keeps a screenshot of each; `--moves 200` is the number of patches that the pointer passes.
 */
import { mkdirSync, mkdtempSync, rmSync } from "node:fs"
import { tmpdir } from "node:os"
import { join } from "node:path"
import { parseArgs } from "node:util"
import type { Page } from "playwright-core"
import type * as Library from "../src/index.ts"
import { frameFigures, frames, hover, launched, middle, opened } from "../test/helpers/browser.ts"
import { madeUp } from "../test/helpers/views.ts"

// The page's script lies beside what ships; this file is dist/bench/viewer.js.
const library = (await import(new URL("../lib/index.js", import.meta.url).href)) as typeof Library
const { encodeView, viewHtml } = library

const { values: options } = parseArgs({
  options: { shots: { type: "string" }, moves: { type: "string", default: "200" } },
})
const moves = Number(options.moves)

const LARGE = { grid: [37, 37], special: ["CLS", "R1", "R2", "R3", "R4"], layers: 3, heads: 12 } as const
const PAGES = [
  { name: "14x14", sizes: { grid: [14, 14], special: ["CLS"], layers: 12, heads: 12 } as const },
  { name: "37x37", sizes: LARGE },
  { name: "37x37-all", sizes: LARGE, bytes: 200_000_000 },
]

/** What a reader does; each key is seen in a frame of its own. */
const WAYS: Readonly<Record<string, (page: Page, sizes: (typeof PAGES)[number]["sizes"]) => Promise<unknown>>> = {
  pointer: (page, { grid }) => hover(page, grid, moves),
  slider: async (page, { layers }) => {
    await page.locator("#layer").focus()
    for (let step = 0; step < 48; step++)
      await pressed(page, Math.floor(step / (layers - 1)) % 2 ? "ArrowRight" : "ArrowLeft")
    await page.locator("#layer").blur()
  },
  keys: async (page, { grid }) => {
    await page.mouse.click(...(await middle(page, grid, 0)))
    for (const key of ["ArrowRight", "ArrowDown"]) for (let i = 1; i < grid[0]; i++) await pressed(page, key)
    for (const key of "[]llhhddss") await pressed(page, key)
    await pressed(page, "Escape")
  },
}
async function pressed(page: Page, key: string): Promise<void> {
  await page.keyboard.press(key)
  await page.evaluate("new Promise(requestAnimationFrame)")
}

const scratch = mkdtempSync(join(tmpdir(), "vit-prisma-bench-"))
if (options.shots) mkdirSync(options.shots, { recursive: true })
const browser = await launched()
try {
  console.log(`Chromium ${browser.version()}, 1400 x 1000 pixels\n`)
  console.log("| page | MB | seconds to write | of a core | colours | by | frames | median ms | 95 % within | worst |")
  console.log("|---|---|---|---|---|---|---|---|---|---|")
  for (const { name, sizes, bytes } of PAGES) {
    const made = madeUp(sizes)
    const [start, busy] = [performance.now(), process.cpuUsage()]
    const html = await viewHtml(await encodeView(made, bytes ? { attentionBytes: bytes } : {}))
    const seconds = (performance.now() - start) / 1000
    const { user, system } = process.cpuUsage(busy)
    for (const dark of [false, true]) {
      const colours = dark ? "dark" : "light"
      const { page, said } = await opened(browser, html, join(scratch, `${name}.html`), dark)
      await page.locator("#show").selectOption("attention of a head")
      for (const [way, drive] of Object.entries(WAYS)) {
        const { count, median, p95, worst } = frameFigures(await frames(page, () => drive(page, sizes)))
        const cells = [
          `${name}, ${sizes.layers} x ${sizes.heads}`,
          (html.length / 1e6).toFixed(2),
          seconds.toFixed(1),
          ((user + system) / 1e6).toFixed(1),
          colours,
          way,
          count,
          median.toFixed(1),
          p95.toFixed(1),
          worst.toFixed(0),
        ]
        console.log(`| ${cells.join(" | ")} |`)
      }
      await page.mouse.move(...(await middle(page, sizes.grid, Math.floor(sizes.grid[0] * sizes.grid[1] * 0.4))))
      if (options.shots) await page.screenshot({ path: join(options.shots, `${name}-${colours}.png`), fullPage: true })
      if (said.length) throw new Error(`${name} said ${said.join(", ")}`)
      await page.close()
    }
  }
} finally {
  await browser.close()
  rmSync(scratch, { recursive: true })
}
