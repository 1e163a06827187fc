/** @file Light and dark as a reader sees them: the pixels of the page in a real browser. */
import { existsSync, mkdtempSync, rmSync } from "node:fs"
import { tmpdir } from "node:os"
import { join } from "node:path"
import type { Browser, Page } from "playwright-core"
import { afterAll, beforeAll, describe, expect, it } from "vitest"
import { decodeImage } from "../src/data/image.ts"
import { encodeView } from "../src/viewer/encode.ts"
import { viewHtml } from "../src/viewer/page.ts"
import { CHROMIUM, launched, opened, settled } from "./helpers/browser.ts"
import { madeUp } from "./helpers/views.ts"

/** Where a title, what is read out, numbers and explanations stand. */
const TEXTS = ["h1", ".reading", "#layer-name", "#heads-caption", "#pattern-caption"]
/** So much of the heads' canvas, from its top, has their numbers and no map. */
const NUMBERS = 17

interface Box {
  readonly x: number
  readonly y: number
  readonly width: number
  readonly height: number
}

describe.skipIf(!existsSync(CHROMIUM))(`the page's pixels in Chromium (${CHROMIUM})`, () => {
  const scratch = mkdtempSync(join(tmpdir(), "vit-prisma-looks-"))
  let browser: Browser
  let page: Page
  beforeAll(async () => {
    browser = await launched()
    const html = await viewHtml(await encodeView(madeUp({ grid: [6, 6], layers: 3, heads: 4 })))
    page = (await opened(browser, html, join(scratch, "page.html"))).page
  }, 60_000)
  afterAll(async () => {
    await browser?.close()
    rmSync(scratch, { recursive: true })
  })
  const boxOf = async (selector: string): Promise<Box> => (await page.locator(selector).first().boundingBox())!

  /** The page as it is now: of a box the darkest and lightest pixel, 0 to 255, and the number of colours. */
  async function seen() {
    await settled(page)
    const { width, data } = await decodeImage(await page.screenshot({ fullPage: true }))
    return (box: Box) => {
      const colours = new Set<number>()
      for (let y = Math.ceil(box.y); y < box.y + box.height; y++)
        for (let x = Math.ceil(box.x); x < box.x + box.width; x++) {
          const [r, g, b] = data.subarray((y * width + x) * 3, (y * width + x) * 3 + 3)
          colours.add(r! * 65_536 + g! * 256 + b!)
        }
      const greys = Array.from(colours, (c) => (Math.floor(c / 65_536) + (Math.floor(c / 256) % 256) + (c % 256)) / 3)
      return { darkest: Math.min(...greys), lightest: Math.max(...greys), colours: colours.size }
    }
  }

  // Back to the first: what is drawn in a canvas must be drawn again.
  it.each(["light", "dark", "light"] as const)("are those of a page that is %s, its images drawn", async (scheme) => {
    await page.emulateMedia({ colorScheme: scheme })
    const within = await seen()
    const dark = scheme === "dark"
    const edge = within({ x: 0, y: 0, width: 8, height: 900 })
    expect(dark ? edge.lightest < 30 : edge.darkest > 240).toBe(true)
    const texts = await Promise.all(TEXTS.map(boxOf))
    for (const box of [...texts, { ...(await boxOf("#heads")), height: NUMBERS }]) {
      const { darkest, lightest } = within(box)
      // The ground, and what stands out from it.
      expect(dark ? darkest < 50 : lightest > 240).toBe(true)
      expect(dark ? lightest > 130 : darkest < 130).toBe(true)
    }
    for (const canvas of ["canvas.picture", "#heads", "#pattern", "#charts canvas"])
      expect(within(await boxOf(canvas)).colours).toBeGreaterThan(50)
  })
})
