/** @file The page in a real browser: what lights up under the pointer and the keys is what the pattern says, cell by cell. */
import { existsSync, mkdtempSync, rmSync } from "node:fs"
import { tmpdir } from "node:os"
import { join } from "node:path"
import type { Browser, Page } from "playwright-core"
import { afterAll, beforeAll, describe, expect, it } from "vitest"
import { float32 } from "../src/tensor/tensor.ts"
import { SCALES } from "../src/viewer/colour.ts"
import { encodeView, type ViewInput } from "../src/viewer/encode.ts"
import { viewHtml } from "../src/viewer/page.ts"
import {
  CHROMIUM,
  frameFigures,
  frames,
  frameText,
  hover,
  launched,
  middle,
  opened,
  settled,
  type Opened,
} from "./helpers/browser.ts"
import { landscape, madeUp } from "./helpers/views.ts"

const scratch = mkdtempSync(join(tmpdir(), "vit-prisma-page-"))
afterAll(() => rmSync(scratch, { recursive: true }))

/** Which key a query looks at, wholly, in a head of a layer. */
const looksAt = (t: number, layer: number, head: number, query: number): number =>
  (query * 5 + head * 3 + layer * 7 + 2) % t

/** What runs in the page, as text: these tests are checked without a browser's types. */
const LIT = `([rows, columns, nth, r, g, b]) => {
  const canvas = document.querySelectorAll("canvas.picture")[nth]
  const { data } = canvas.getContext("2d").getImageData(0, 0, canvas.width, canvas.height)
  return [...Array(rows * columns).keys()].filter((p) => {
    const x = Math.floor((((p % columns) + 0.5) * canvas.width) / columns)
    const y = Math.floor(((Math.floor(p / columns) + 0.5) * canvas.height) / rows)
    const at = (y * canvas.width + x) * 4
    return data[at] === r && data[at + 1] === g && data[at + 2] === b
  })
}`

interface Known {
  readonly grid: readonly [number, number]
  readonly special: readonly string[]
  readonly layers: number
  readonly heads: number
}

/** A view whose every row is one token. */
function known({ grid, special, layers, heads }: Known, names = ["one", "two"]): ViewInput {
  const t = grid[0] * grid[1] + special.length
  const layer = (l: number) => {
    const data = new Float32Array(heads * t * t)
    for (let h = 0; h < heads; h++) for (let q = 0; q < t; q++) data[(h * t + q) * t + looksAt(t, l, h, q)] = 1
    return float32([heads, t, t], data)
  }
  const patterns = { layers: new Map(Array.from({ length: layers }, (_, l) => [l, layer(l)])) }
  const pixels = landscape(grid, 8)
  return {
    title: "Known",
    grid,
    special,
    images: names.map((name) => ({ name, pixels, patterns })),
  }
}

describe.skipIf(!existsSync(CHROMIUM))(`the page in Chromium (${CHROMIUM})`, () => {
  let browser: Browser
  beforeAll(async () => {
    browser = await launched()
  })
  afterAll(() => browser?.close())

  const open = (html: string, dark = false) => opened(browser, html, join(scratch, `${Math.random()}.html`), dark)
  const openView = async (view: ViewInput, dark = false, bytes = 100_000_000) =>
    open(await viewHtml(await encodeView(view, { attentionBytes: bytes })), dark)

  /** Which patches of the nth image are drawn in the last colour of the scale; the map must be opaque. */
  async function lit(page: Page, [rows, columns]: readonly [number, number], nth = 0): Promise<number[]> {
    await settled(page)
    const last = [...SCALES.sequential.subarray(255 * 3)]
    return page.evaluate<number[]>(`(${LIT})(${JSON.stringify([rows, columns, nth, ...last])})`)
  }

  const opaque = async (page: Page) => {
    await page.locator("#opacity").fill("1")
    await page.locator("#opacity").blur()
  }
  const reading = async (page: Page) => {
    await settled(page)
    return page.locator(".reading").first().textContent()
  }

  describe.each([
    ["14 x 14 patches and a class token", { grid: [14, 14], special: ["CLS"], layers: 3, heads: 4 }],
    ["9 x 16 patches and no special token", { grid: [9, 16], special: [], layers: 2, heads: 3 }],
    ["37 x 37 patches and five", { grid: [37, 37], special: ["CLS", "R1", "R2", "R3", "R4"], layers: 2, heads: 6 }],
  ] as const)("with %s", (_, sizes) => {
    const { grid, special, layers, heads } = sizes
    const [s, t] = [special.length, grid[0] * grid[1] + special.length]
    let page: Page
    let shown: Opened
    beforeAll(async () => {
      shown = await openView(known(sizes, ["one"]))
      page = shown.page
      await opaque(page)
    }, 60_000)
    afterAll(() => page.close())
    /** The patch that a query looks at, if it is one. */
    const wanted = (layer: number, head: number, query: number) =>
      [looksAt(t, layer, head, query) - s].filter((p) => p >= 0)

    it("lights the patch that the query under the pointer looks at", async () => {
      for (const patch of [0, 1, grid[1], grid[0] * grid[1] - 1, Math.floor(t / 2)]) {
        await page.mouse.move(...(await middle(page, grid, patch)))
        expect(await lit(page, grid)).toEqual(wanted(layers - 1, 0, s + patch))
        expect(await reading(page)).toContain(`From patch (${Math.floor(patch / grid[1])}, ${patch % grid[1]})`)
      }
    })

    it("and the patches that look at it", async () => {
      const patch = Math.floor(t / 3)
      await page.mouse.move(...(await middle(page, grid, patch)))
      await page.keyboard.press("d")
      const from = Array.from({ length: t }, (_, q) => q).filter((q) => looksAt(t, layers - 1, 0, q) === s + patch)
      expect(await lit(page, grid)).toEqual(from.filter((q) => q >= s).map((q) => q - s))
      await page.keyboard.press("d")
      expect(await lit(page, grid)).toEqual(wanted(layers - 1, 0, s + patch))
    })

    it("holds a token that is clicked, reads others meanwhile, and lets it go", async () => {
      const [held, other] = [grid[1] + 2, 2 * grid[1] + 3]
      await page.mouse.click(...(await middle(page, grid, held)))
      await page.mouse.move(...(await middle(page, grid, other)))
      expect(await lit(page, grid)).toEqual(wanted(layers - 1, 0, s + held))
      expect(await reading(page)).toMatch(/^From patch \(1, 2\) \(held\) · patch \(2, 3\): 0$/)
      await page.keyboard.press("Escape")
      await page.mouse.move(...(await middle(page, grid, other)))
      await page.mouse.move(...(await middle(page, grid, other + 1)))
      expect(await lit(page, grid)).toEqual(wanted(layers - 1, 0, s + other + 1))
    })

    it("follows the keys: arrows, layers, heads", async () => {
      await page.mouse.move(5, 5)
      await page.mouse.click(...(await middle(page, grid, grid[1] + 1)))
      await page.mouse.move(5, 5)
      for (const key of ["ArrowDown", "ArrowRight", "ArrowRight"]) await page.keyboard.press(key)
      expect(await lit(page, grid)).toEqual(wanted(layers - 1, 0, s + 2 * grid[1] + 3))
      await page.keyboard.press("l")
      expect(await lit(page, grid)).toEqual(wanted(layers - 1, 1, s + 2 * grid[1] + 3))
      await page.keyboard.press("[")
      expect(await lit(page, grid)).toEqual(wanted(layers - 2, 1, s + 2 * grid[1] + 3))
      await page.keyboard.press("]")
      await page.keyboard.press("h")
      for (let up = 0; up < 4; up++) await page.keyboard.press("ArrowUp")
      expect(await reading(page)).toBe(s ? `From ${special[Math.min(3, s - 1)]!} (held)` : "From patch (0, 3) (held)")
      await page.keyboard.press("Escape")
    })

    it("chooses a head of the small maps, and follows the pattern's rows", async () => {
      const maps = (await page.locator("#heads").boundingBox())!
      // The last column of the first row of maps.
      await page.mouse.click(maps.x + maps.width - 20, maps.y + 20 + (s ? 9 : 0) + 10)
      await page.mouse.move(...(await middle(page, grid, 7)))
      expect(await lit(page, grid)).toEqual(wanted(0, heads - 1, s + 7))
      const pattern = (await page.locator("#pattern").boundingBox())!
      const query = Math.floor(t * 0.4)
      const side = pattern.width - 20
      await page.mouse.move(pattern.x + 18 + side * 0.7, pattern.y + 18 + ((query + 0.5) / t) * side)
      expect(await lit(page, grid)).toEqual(wanted(0, heads - 1, query))
      expect(await page.locator("#pattern-caption").textContent()).toContain("\u2192")
    })

    it("draws while the pointer moves and the slider and keys change the layer", async () => {
      const times = await frames(page, async () => {
        const last = await hover(page, grid, 50)
        for (let l = 0; l < layers; l++) {
          await page.locator("#layer").fill(String(l))
          expect(await lit(page, grid)).toEqual(wanted(l, heads - 1, s + last))
        }
        await page.locator("#layer").blur()
        for (const key of ["[", "[", "]", "]", "ArrowRight", "ArrowDown", "Escape"]) await page.keyboard.press(key)
      })
      const figures = frameFigures(times)
      console.info(`${layers} x ${heads} heads at ${grid.join(" x ")} patches, ${frameText(figures)}`)
      expect(figures.median).toBeLessThan(100)
    })

    it("asks nothing of the network and says nothing in error", () => {
      expect(shown.asked.filter((url) => !/^(file|data):/.test(url))).toEqual([])
      expect(shown.said).toEqual([])
    })
  })

  describe("with layers and heads", () => {
    const sizes = { grid: [4, 4], special: ["CLS"], layers: 3, heads: 2 } as const
    const wanted = (layer: number, head: number) => [looksAt(17, layer, head, 0) - 1].filter((p) => p >= 0)

    it("moves with the slider, plays over the layers and stops", async () => {
      const { page } = await openView(known(sizes))
      await opaque(page)
      expect(await lit(page, [4, 4])).toEqual(wanted(2, 0))
      await page.locator("#layer").fill("1")
      expect(await lit(page, [4, 4])).toEqual(wanted(1, 0))
      expect(await page.locator("#layer-name").textContent()).toBe("1")
      await page.locator("#layer").blur()
      await page.keyboard.press(" ")
      await page.locator("#layer-name", { hasText: /^2$/ }).waitFor()
      await page.locator("#layer-name", { hasText: /^0$/ }).waitFor()
      await page.keyboard.press("Escape")
      await settled(page)
      expect(await page.locator("#play").getAttribute("aria-pressed")).toBe("false")
      await page.close()
    })

    it("compares two images, or two heads of one", async () => {
      const { page } = await openView(known(sizes))
      await opaque(page)
      await page.keyboard.press("c")
      await settled(page)
      expect(await page.locator("canvas.picture").count()).toBe(2)
      await page.locator("select[aria-label=Head]").nth(1).selectOption("head 1")
      expect([await lit(page, [4, 4], 0), await lit(page, [4, 4], 1)]).toEqual([wanted(2, 0), wanted(2, 1)])
      expect(await page.locator("select[aria-label=Image]").nth(1).inputValue()).toBe("1")
      await page.keyboard.press("x")
      await page.keyboard.press("[")
      expect([await lit(page, [4, 4], 0), await lit(page, [4, 4], 1)]).toEqual([wanted(1, 0), wanted(2, 1)])
      await page.keyboard.press("c")
      await settled(page)
      expect(await page.locator("canvas.picture").count()).toBe(1)
      await page.close()
    })

    it("shares a scale among maps, or gives each its own", async () => {
      const halved = known(sizes)
      // The class token of head 1 gives its patch half: with a shared scale that is not the last colour.
      for (const { data } of halved.images[0]!.patterns!.layers.values()) {
        ;(data as Float32Array).subarray(17 * 17).forEach((v, i, head) => (head[i] = v / 2))
      }
      const { page } = await openView(halved)
      await opaque(page)
      await page.keyboard.press("l")
      expect(await lit(page, [4, 4])).toEqual(wanted(2, 1))
      await page.keyboard.press("s")
      expect(await lit(page, [4, 4])).toEqual([])
      expect(await page.locator(".panel .legend span").allTextContents()).toEqual(["0", "0.500", "1.00"])
      await page.close()
    })

    it("is light or dark as the system, or as the reader wants", async () => {
      const { page } = await openView(known(sizes), true)
      const ground = () => page.evaluate<string>("getComputedStyle(document.body).backgroundColor")
      expect(await ground()).toBe("rgb(19, 20, 24)")
      await page.keyboard.press("t")
      expect(await ground()).toBe("rgb(246, 246, 244)")
      await page.keyboard.press("?")
      expect(await page.locator("dialog").isVisible()).toBe(true)
      await page.keyboard.press("Escape")
      expect(await page.locator("dialog").isVisible()).toBe(false)
      await page.close()
    })

    it("fits a narrow window without scrolling sideways", async () => {
      const { page } = await openView(madeUp({ layers: 2, heads: 4 }))
      await page.setViewportSize({ width: 390, height: 800 })
      await settled(page)
      expect(await page.evaluate<number>("document.documentElement.scrollWidth")).toBeLessThanOrEqual(390)
      await page.close()
    })
  })

  it("shows overlays of each layer with their labels, bars, and cells that choose a head", async () => {
    const { page, said } = await openView(madeUp({ grid: [6, 6], layers: 3, heads: 4, side: 8 }))
    await page.locator("#show").selectOption("logit lens")
    await page.locator("#layer").fill("0")
    await settled(page)
    expect(await page.locator("#layer-name").textContent()).toBe("embedding")
    await page.mouse.move(...(await middle(page, [6, 6], 8)))
    await settled(page)
    expect(await reading(page)).toMatch(/^patch \(1, 2\): valley, vale, [\d.]+ probability$/)
    expect(await page.locator("#charts .bars > div").count()).toBe(12)
    const position = { x: 84 + 2.5 * 30, y: 34 + 1.5 * 30 }
    await page.locator("#charts canvas").first().click({ position })
    await settled(page)
    expect(await page.locator("select[aria-label=Head]").inputValue()).toBe("3")
    expect(await page.locator("select[aria-label=Layer] option:checked").textContent()).toBe("layer 1")
    expect(said).toEqual([])
    await page.close()
  })

  describe("of names that are HTML", () => {
    const bad = `</script><script>window.pwned=1</script><img src=x onerror="window.pwned=1">`
    const made = madeUp({ grid: [4, 4], layers: 1, heads: 1, special: [bad] })
    const one = made.images[0]!
    const hostile: ViewInput = {
      ...made,
      title: bad,
      model: bad,
      notes: [bad],
      images: [
        {
          ...one,
          name: bad,
          predictions: [{ label: bad, score: 1 }],
          overlays: one.overlays!.map((o) => ({ ...o, name: bad, units: bad })),
        },
      ],
      tables: [{ name: bad, units: bad, rows: [{ name: bad, value: 1, note: bad }] }],
      matrices: [{ ...made.matrices![0]!, name: bad, units: bad, rows: [bad] }],
    }

    it("shows them as text", async () => {
      const { page, said } = await openView(hostile)
      expect(await page.locator("h1").textContent()).toBe(bad)
      expect(await page.locator(".predictions span").textContent()).toBe(bad)
      expect(await page.locator("img, script").count()).toBe(2)
      expect(await page.evaluate("'pwned' in window")).toBe(false)
      expect(said).toEqual([])
      await page.close()
    })

    it("and would run nothing that came to stand in the page all the same", async () => {
      const html = await viewHtml(await encodeView(hostile))
      const planted = `<script>window.pwned=1</script><img src="data:," onerror="window.pwned=1"><p style="color:red">`
      const { page, said } = await open(html.replace("<main", `${planted}<main`))
      expect(await page.evaluate("'pwned' in window")).toBe(false)
      expect(said.filter((text) => text.includes("Content Security Policy")).length).toBeGreaterThanOrEqual(3)
      await page.close()
    })
  })

  it("says that it cannot be shown where its data are damaged", async () => {
    const view = await encodeView(madeUp({ grid: [4, 4], layers: 1, heads: 1 }))
    const [layer] = view.images[0]!.attention!.layers
    Object.assign(layer!, { data: `AAAA${layer!.data.slice(4)}` })
    const { page } = await open(await viewHtml(view))
    expect(await page.locator("#fatal").textContent()).toMatch(/^This page cannot be shown: /)
    await page.close()
  })
})
