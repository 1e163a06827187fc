/** @file The viewer's data: what packing keeps, what a budget leaves out and says, what is refused, and the page around it. */
import { createHash } from "node:crypto"
import { existsSync, mkdtempSync, readFileSync, rmSync, writeFileSync } from "node:fs"
import { tmpdir } from "node:os"
import { join } from "node:path"
import { deflateSync } from "node:zlib"
import { afterAll, describe, expect, it } from "vitest"
import { decodeImage, renderSvg } from "../src/data/image.ts"
import { loadPretrained } from "../src/hub/load-pretrained.ts"
import { SCALES } from "../src/viewer/colour.ts"
import { checkView } from "../src/viewer/check.ts"
import type { View } from "../src/viewer/data.ts"
import { numbersOf, patternsOf } from "../src/viewer/decode.ts"
import { encodeView, type ViewInput } from "../src/viewer/encode.ts"
import { viewHtml } from "../src/viewer/page.ts"
import { withLetters } from "../src/viewer/letters.ts"
import { hasFont, viewPng, viewSvg } from "../src/viewer/picture.ts"
import { cli, demoModel, seven } from "./helpers/cli.ts"
import { thrown } from "./helpers/thrown.ts"
import { madeUp, patterns } from "./helpers/views.ts"

const scratch = mkdtempSync(join(tmpdir(), "vit-prisma-viewer-"))
afterAll(() => rmSync(scratch, { recursive: true }))

const small = { grid: [4, 6], special: ["CLS", "REG"], layers: 2, heads: 3, side: 8 } as const

/** The same view with attention alone. */
const attentionOnly = (input: ViewInput): ViewInput => ({
  ...input,
  tables: [],
  matrices: [],
  images: input.images.map(({ name, pixels, patterns }) => ({ name, pixels, ...(patterns && { patterns }) })),
})

describe("packed attention", () => {
  const value = (data: Float32Array, t: number, head: number, query: number, key: number) =>
    data[(head * t + query) * t + key]!

  it("is off by at most 0.41 % of its row's largest patch, special tokens by less, in rows and columns alike", async () => {
    const input = madeUp(small)
    const view = await encodeView(input)
    const [t, s] = [26, 2]
    const [readers, raw] = [patternsOf(view, 0), input.images[0]!.patterns!.layers]
    const [row, column] = [new Float32Array(t), new Float32Array(t)]
    expect(readers.map((r) => [r.layer, r.queries])).toEqual([
      [0, t],
      [1, t],
    ])
    for (const reader of readers) {
      const data = raw.get(reader.layer)!.data as Float32Array
      for (let head = 0; head < 3; head++) {
        for (let query = 0; query < t; query++) {
          reader.row(head, query, row)
          const largest = Math.max(...Array.from({ length: t - s }, (_, p) => value(data, t, head, query, s + p)))
          row.forEach((v, key) => {
            const off = Math.abs(v - value(data, t, head, query, key))
            expect(off).toBeLessThanOrEqual(key < s ? 1e-4 : 0.0041 * largest)
            reader.column(head, key, column)
            expect(column[query]).toBe(v)
          })
        }
      }
    }
  })

  it("keeps the largest of each row where the budget is small, and the others' mean; special tokens' rows stay whole", async () => {
    const [grid, special, heads] = [[8, 8] as const, ["CLS"], 4]
    const input = madeUp({ grid, special, layers: 3, heads, side: 4 })
    const whole = (await encodeView(input)).images[0]!.attention!
    const bytes = whole.layers.reduce((n, l) => n + l.data.length, 0)
    const view = await encodeView(attentionOnly(input), { attentionBytes: Math.round(bytes * 0.9) })
    const { layers } = view.images[0]!.attention!
    const keep = layers[0]!.keep
    expect(layers.map((l) => [l.queries, l.keep])).toEqual(layers.map(() => ["all", keep]))
    expect(keep).toBeGreaterThan(0)
    expect(layers.reduce((n, l) => n + l.data.length, 0)).toBeLessThanOrEqual(bytes * 0.9)
    const t = 65
    const row = new Float32Array(t)
    let [kept, all] = [0, 0]
    for (const reader of patternsOf(view, 0)) {
      const data = input.images[0]!.patterns!.layers.get(reader.layer)!.data as Float32Array
      for (let head = 0; head < heads; head++) {
        for (let query = 0; query < t; query++) {
          reader.row(head, query, row)
          const patches = Array.from({ length: 64 }, (_, p) => value(data, t, head, query, 1 + p))
          const order = patches.map((v, p) => [v, p] as const).sort(([a], [b]) => b - a)
          const held = query === 0 ? order : order.slice(0, keep)
          for (const [v, p] of held) expect(Math.abs(row[1 + p]! - v)).toBeLessThanOrEqual(0.0041 * order[0]![0])
          const rest = order.slice(held.length)
          const mean = rest.reduce((n, [v]) => n + v, 0) / rest.length
          for (const [, p] of rest) expect(row[1 + p]).toBeCloseTo(mean, 5)
          if (query === 0) continue
          kept += held.reduce((n, [v]) => n + v, 0) / patches.reduce((n, v) => n + v, 0)
          all++
        }
      }
    }
    expect(view.notes!.join()).toContain(
      `its ${keep} largest of 64 patches, which hold ${((100 * kept) / all).toFixed(0)} %`,
    )
  })

  it("of the layers that do not fit keeps the special tokens' queries, and says which", async () => {
    const input = attentionOnly(madeUp({ grid: [12, 12], layers: 6, heads: 4, side: 2 }))
    const view = await encodeView(input, { attentionBytes: 100_000 })
    const { layers } = view.images[0]!.attention!
    const brief = layers.filter((l) => l.queries === "special").map((l) => l.layer)
    expect(layers.map((l) => l.layer)).toEqual([0, 1, 2, 3, 4, 5])
    expect(layers.at(-1)!.queries).toBe("all")
    expect(brief.length).toBeGreaterThan(0)
    expect(view.notes).toContain(`To keep the file small, layers ${brief.join(", ")} have the queries of CLS only.`)
    const row = new Float32Array(145)
    const reader = patternsOf(view, 0)[brief[0]!]!
    reader.row(0, 0, row)
    expect(row.reduce((a, b) => a + b)).toBeCloseTo(1, 2)
    reader.row(0, 9, row)
    expect(row.every(Number.isNaN)).toBe(true)
    reader.column(0, 3, row)
    expect(Array.from(row, (v) => Number.isNaN(v))).toEqual(Array.from({ length: 145 }, (_, q) => q > 0))
  })

  it("leaves whole layers out where there is no special token", async () => {
    const input = attentionOnly(madeUp({ grid: [12, 12], special: [], layers: 6, heads: 4, side: 2 }))
    const view = await encodeView(input, { attentionBytes: 60_000 })
    const shown = view.images[0]!.attention!.layers.map((l) => l.layer)
    expect(shown.at(-1)).toBe(5)
    const out = [0, 1, 2, 3, 4, 5].filter((l) => !shown.includes(l))
    expect(out.length).toBeGreaterThan(0)
    expect(view.notes!.join()).toMatch(new RegExp(`layers? ${out.join(", ")} (is|are) left out`))
  })

  it("shares the budget among images, and takes only the heads that are asked for", async () => {
    const one = madeUp({ grid: [12, 12], layers: 4, heads: 4, side: 2 }).images[0]!
    const input = { ...madeUp({ grid: [12, 12] }), images: [one, { ...one, name: "b" }] }
    const view = await encodeView(attentionOnly(input), { attentionBytes: 200_000 })
    const total = view.images.flatMap((i) => i.attention!.layers).reduce((n, l) => n + l.data.length, 0)
    expect(total).toBeLessThanOrEqual(200_000)
    const some = await encodeView(
      attentionOnly({ ...input, images: [{ ...one, patterns: { ...one.patterns!, heads: [3, 1] } }] }),
    )
    expect(some.images[0]!.attention!.heads).toEqual([3, 1])
    const [row, all] = [new Float32Array(145), new Float32Array(145)]
    patternsOf(some, 0)[2]!.row(1, 5, row)
    patternsOf(await encodeView(attentionOnly({ ...input, images: [one] })), 0)[2]!.row(1, 5, all)
    expect(row).toEqual(all)
  })

  it("edited to hold more than 1 keeps its scale", async () => {
    const edited = patterns([4, 6], 2, 1, 1)
    ;(edited.get(0)!.data as Float32Array).forEach((v, i, all) => (all[i] = 40 * v))
    const one = madeUp({ ...small, layers: 1, heads: 1 }).images[0]!
    const view = await encodeView({ ...madeUp(small), images: [{ ...one, patterns: { layers: edited } }] })
    const row = new Float32Array(26)
    patternsOf(view, 0)[0]!.row(0, 7, row)
    expect(row.reduce((a, b) => a + b)).toBeCloseTo(40, 0)
  })
})

/** What is wrong with raw results, and how it is named. */
const RAW: readonly [string, (v: ViewInput) => ViewInput, RegExp][] = [
  [
    "an overlay of another size",
    (v) => withOverlay(v, { values: [1, 2, 3] }),
    /overlay "attribution .* needs 1 x 24 .* or 1 x 26 .* got 3/,
  ],
  [
    "labels of another size",
    (v) => withOverlay(v, { labels: { names: ["a"], index: [0] } }),
    /overlay .* 1 labels for 24 values/,
  ],
  [
    "a matrix of another size",
    (v) => ({ ...v, matrices: [{ ...v.matrices![0]!, values: [1] }] }),
    /matrix "Patching.* 2 x 3 names has 1 values/,
  ],
  [
    "a bar of no length",
    (v) => ({ ...v, tables: [{ name: "t", rows: [{ name: "x", value: NaN }] }] }),
    /table "t": "x" is NaN/,
  ],
  [
    "a pattern of another model",
    (v) => withPatterns(v, patterns([3, 3], 1, 1, 1)),
    /image "landscape.png": the pattern of layer 0 .* 26, 26\].* got \[1, 10, 10\]/,
  ],
  ["attention that is NaN", (v) => withPatterns(v, poisoned(NaN)), /layer 0 holds NaN/],
  ["attention below 0", (v) => withPatterns(v, poisoned(-0.5)), /layer 0 holds -0.5/],
  ["a head that is not there", (v) => withPatterns(v, patterns([4, 6], 2, 1, 3), [3]), /no head 3; .* heads 0 to 2/],
  ["no layer", (v) => withPatterns(v, new Map()), /attention of no layer/],
]
const withOverlay = (v: ViewInput, change: object): ViewInput => ({
  ...v,
  images: [{ ...v.images[0]!, overlays: [{ ...v.images[0]!.overlays![0]!, ...change }] }],
})
const withPatterns = (v: ViewInput, layers: ReturnType<typeof patterns>, heads?: number[]): ViewInput => ({
  ...v,
  images: [{ ...v.images[0]!, patterns: { layers, ...(heads && { heads }) } }],
})
const poisoned = (with_: number) => {
  const layers = patterns([4, 6], 2, 1, 1)
  ;(layers.get(0)!.data as Float32Array)[100] = with_
  return layers
}

describe("raw results", () => {
  it.each(RAW)("with %s are refused", async (_, change, message) => {
    const error = await thrown(encodeView(change(madeUp(small))))
    expect(error).toMatchObject({ code: "E_INPUT" })
    expect(error.message).toMatch(message)
  })
})

/** What a JSON file may get wrong: a path, and what is put there. */
const WRONG: readonly [string, (string | number)[], unknown, RegExp][] = [
  ["another format", ["format"], "x", /v\.format must be "vit-prisma-view", got "x"/],
  ["a later version", ["version"], 2, /v\.version must be 1, got 2/],
  ["no title", ["title"], undefined, /v\.title is missing/],
  ["an unknown field", ["colour"], "red", /v has "colour", which is no field/],
  ["a prototype", ["__proto__x"], {}, /v has "__proto__x", which/],
  ["a grid of one number", ["grid"], [4], /v\.grid must be a list of 2 to 2/],
  ["a grid of nothing", ["grid", 0], 0, /v\.grid\[0\] must be a whole number from 1/],
  ["a grid of too much", ["grid"], [60_000, 60_000], /v\.grid must be of at most 65536 tokens/],
  ["no images", ["images"], [], /v\.images must be a list of 1/],
  ["an image from elsewhere", ["images", 0, "source"], "https://example.com/a.png", /source must be a data URI/],
  ["an SVG", ["images", 0, "source"], "data:image/svg+xml;base64,AAAA", /source must be a data URI of a PNG/],
  ["base64 that is none", ["images", 0, "source"], "data:image/png;base64,<>", /must be base64/],
  [
    "a label that is a number",
    ["images", 0, "predictions", 0, "label"],
    7,
    /predictions\[0\]\.label must be a string, got 7/,
  ],
  [
    "a score that is infinite",
    ["images", 0, "predictions", 0, "score"],
    null,
    /score must be a finite number, got null/,
  ],
  [
    "attention cut short",
    ["images", 0, "attention", "layers", 0, "data"],
    deflateSync(Buffer.alloc(7)).toString("base64"),
    /layers\[0\]\.data must unpack to 2340 bytes, got 7/,
  ],
  ["attention that is no zlib", ["images", 0, "attention", "layers", 0, "data"], "AAAA", /must unpack \(zlib\)/],
  ["layers out of order", ["images", 0, "attention", "layers", 1, "layer"], 0, /layers\[1\]\.layer must be above/],
  ["more kept than there is", ["images", 0, "attention", "layers", 0, "keep"], 25, /keep must be at most 24/],
  [
    "an overlay of other layers",
    ["images", 0, "overlays", 1, "layers"],
    [0],
    /overlays\[1\]\.values\.shape must be \[1, 26\], got \[3, 26\]/,
  ],
  ["layers that fall", ["images", 0, "overlays", 1, "layers"], [2, 1, 0], /layers must be a rising list/],
  ["numbers that lack some", ["images", 0, "overlays", 0, "values", "data"], [1], /needs 24 numbers, got 1/],
  ["a table of an image that is not there", ["tables", 0, "image"], 1, /tables\[0\]\.image must be below 1/],
  ["an axis of a third kind", ["matrices", 0, "rowAxis"], "neuron", /rowAxis must be "layer" or "head" or "token"/],
  ["a matrix with a name too few", ["matrices", 0, "rows"], ["a"], /matrices\[0\]\.values\.shape must be \[1, 3\]/],
  ["a range upside down", ["matrices", 0, "range"], [1, 0], /range must be \[low, high\]/],
]

const checked = async (json: unknown) => checkView(json, "v")

describe("JSON", () => {
  const made = encodeView(madeUp(small)).then((v) => JSON.stringify(v))

  it("that was written is read", async () => {
    const json = JSON.parse(await made) as View
    expect(checkView(json)).toBe(json)
    expect(numbersOf(json.matrices![0]!.values)).toEqual(Float32Array.from(madeUp(small).matrices![0]!.values))
  })

  it.each(WRONG)("with %s is refused", async (_, path, value, message) => {
    const json = JSON.parse(await made) as Record<string | number, unknown>
    const last = path.at(-1)!
    const into = path.slice(0, -1).reduce((o, key) => o[key] as typeof json, json)
    if (value === undefined) delete into[last]
    else into[last] = value
    const error = await thrown(checked(json))
    expect(error).toMatchObject({ code: "E_INPUT" })
    expect(error.message).toMatch(message)
  })

  it.each([null, 3, "view", [], {}].map((v) => [JSON.stringify(v), v]))("%s is no view", async (_, json) => {
    expect(await thrown(checked(json))).toMatchObject({ code: "E_INPUT" })
  })

  it("does not unpack more than it says", async () => {
    const json = JSON.parse(await made) as View
    Object.assign(json.images[0]!.overlays![1]!.values, {
      data: deflateSync(Buffer.alloc(64 << 20)).toString("base64"),
    })
    expect((await thrown(checked(json))).message).toMatch(/must unpack \(zlib\) to 312 bytes: it is longer/)
  })
})

const HOSTILE = `</script><script>window.pwned=1</script><img src=x onerror="window.pwned=1">'"&\u2028`

describe("the page", () => {
  it("holds its style, script and data, lets nothing else run, and loads nothing", async () => {
    const html = await viewHtml(await encodeView(madeUp(small)))
    const [, policy] = /http-equiv="Content-Security-Policy" content="([^"]*)"/.exec(html)!
    expect(policy).toMatch(/^default-src 'none'; script-src 'sha256-[^']+'; style-src 'sha256-[^']+'; img-src data:; /)
    expect(policy).not.toContain("unsafe")
    for (const [tag, directive] of [
      ["script", "script-src"],
      ["style", "style-src"],
    ] as const) {
      const [, text] = new RegExp(`<${tag}>([^]*?)</${tag}>`).exec(html)!
      const hash = createHash("sha256").update(text!).digest("base64")
      expect(policy).toContain(`${directive} 'sha256-${hash}'`)
    }
    const outside = html.replace(/<(script|style)\b[^]*?<\/\1>/g, "")
    expect(outside).toContain("<canvas")
    expect(html).not.toMatch(/https?:\/\/|@import|url\(/i)
    expect(outside).not.toMatch(/(?:src|href)\s*=\s*["']?(?!data:)[a-z/]/i)
    expect(outside).not.toMatch(/ on[a-z]+=| style=/)
    expect(html.length).toBeLessThan(130_000)
  })

  it("has no tag that a name wrote", async () => {
    const input = madeUp(small)
    const plain = await viewHtml(await encodeView(input))
    const hostile = await viewHtml(await encodeView({ ...input, title: HOSTILE, model: HOSTILE, notes: [HOSTILE] }))
    const tags = (html: string) => html.match(/<[a-z/!]/gi)!.length
    expect(tags(hostile)).toBe(tags(plain))
    const [, data] = /<script type="application\/json" id="view">([^]*?)<\/script>/.exec(hostile)!
    expect(JSON.parse(data!)).toMatchObject({ title: HOSTILE, notes: [HOSTILE] })
  })

  it("is the same for the same view", async () => {
    const view = await encodeView(madeUp(small))
    expect(await viewHtml(view)).toBe(await viewHtml(view))
  })
})

/** CIE L* of sRGB bytes (IEC 61966-2-1, CIE 15). */
function lightness(rgb: readonly number[]): number {
  const [r, g, b] = rgb.map((v) => (v / 255 <= 0.04045 ? v / 255 / 12.92 : ((v / 255 + 0.055) / 1.055) ** 2.4))
  const y = 0.2126 * r! + 0.7152 * g! + 0.0722 * b!
  return y > 0.008856 ? 116 * Math.cbrt(y) - 16 : 903.3 * y
}

/** What a person without M cones sees, in linear light (Machado, Oliveira and Fernandes 2009, severity 1). */
function deuteranope(rgb: readonly number[]): number[] {
  const [r, g, b] = rgb.map((v) => (v / 255) ** 2.2)
  return [
    [0.367322, 0.860646, -0.227968],
    [0.280085, 0.672501, 0.047413],
    [-0.01182, 0.04294, 0.968881],
  ].map(([x, y, z]) => 255 * Math.max(0, x! * r! + y! * g! + z! * b!) ** (1 / 2.2))
}

describe("the colours", () => {
  const at = (kind: keyof typeof SCALES, i: number) => [...SCALES[kind].subarray(i * 3, i * 3 + 3)]
  const all = (kind: keyof typeof SCALES) => Array.from({ length: 256 }, (_, i) => at(kind, i))

  it("of one direction grow lighter by even steps", () => {
    const l = all("sequential").map(lightness)
    const steps = Array.from({ length: 15 }, (_, i) => l[(i + 1) * 17]! - l[i * 17]!)
    expect(l[0]).toBeLessThan(12)
    expect(l[255]).toBeGreaterThan(90)
    for (const step of steps) expect(Math.abs(step / ((l[255]! - l[0]!) / 15) - 1)).toBeLessThan(0.35)
  })

  it("of two directions are lightest in the middle, equally dark at both ends, and two also to red-green blind eyes", () => {
    const l = all("diverging").map(lightness)
    expect(Math.max(l[127]!, l[128]!)).toBe(Math.max(...l))
    expect(Math.abs(l[0]! - l[255]!)).toBeLessThan(6)
    const [low, high] = [deuteranope(at("diverging", 30)), deuteranope(at("diverging", 225))]
    expect(Math.abs(low[2]! - high[2]!)).toBeGreaterThan(80)
  })
})

describe("the picture", () => {
  it("shows each head's map in the scale's colours, twice as many pixels as points", async () => {
    const input = attentionOnly(madeUp(small))
    const view = await encodeView(input)
    const svg = await viewSvg(view)
    expect(await viewSvg(view)).toBe(svg)
    const [, width, height] = /width="(\d+)" height="(\d+)"/.exec(svg)!
    const image = await decodeImage(await renderSvg(svg, 2))
    expect([image.width, image.height]).toEqual([2 * Number(width), 2 * Number(height)])
    const pixel = (x: number, y: number) => [
      ...image.data.subarray((y * image.width + x) * 3, (y * image.width + x) * 3 + 3),
    ]
    expect(pixel(3, 3)).toEqual([255, 255, 255])
    // The largest patch that the class token looks at is the one that has the scale's last colour, in every head.
    const brightest = at255()
    const found = new Set<string>()
    for (let y = 0; y < image.height; y++) {
      for (let x = 0; x < image.width; x++) if (pixel(x, y).join() === brightest) found.add(`${x},${y}`)
    }
    const maps = [...svg.matchAll(/<g transform="translate\(([\d.]+),([\d.]+)\)">/g)]
    expect(maps.length).toBeGreaterThan(0)
    const wanted = [...input.images[0]!.patterns!.layers.values()].flatMap(({ data }) =>
      [0, 1, 2].map((head) => {
        const row = Array.from((data as Float32Array).subarray(head * 26 * 26 + 2, head * 26 * 26 + 26))
        return row.indexOf(Math.max(...row))
      }),
    )
    // Heads beside each other, layers below: in each map's rectangle the brightest patch stands where it should.
    const images = [...svg.matchAll(/<image x="([\d.]+)" y="([\d.]+)" width="([\d.]+)" height="([\d.]+)"/g)].map((m) =>
      m.slice(1).map(Number),
    )
    const side = images.filter(([, , w, h]) => Math.abs(w! / h! - 6 / 4) < 0.01).slice(1)
    expect(side).toHaveLength(6)
    const [dx, dy] = offsetOf(svg, side[0]!)
    const seen = side.map(([x, y, w, h]) => {
      const lit = [...Array(24).keys()].filter((p) => {
        const px = Math.round(2 * (dx + x! + ((p % 6) + 0.5) * (w! / 6)))
        const py = Math.round(2 * (dy + y! + (Math.floor(p / 6) + 0.5) * (h! / 4)))
        return found.has(`${px},${py}`)
      })
      return lit.join()
    })
    expect(seen).toEqual(wanted.map(String))
  })

  it("has letters of dots where no font is installed", { timeout: 30_000 }, async () => {
    const view = await encodeView({ ...madeUp(small), title: "L <&> " })
    const out = [join(scratch, "view.json"), join(scratch, "view.png"), join(scratch, "fonts.conf")] as const
    writeFileSync(out[0], JSON.stringify(view))
    writeFileSync(out[2], '<?xml version="1.0"?><!DOCTYPE fontconfig SYSTEM "fonts.dtd"><fontconfig></fontconfig>')
    const env = { FONTCONFIG_FILE: out[2], XDG_CACHE_HOME: scratch }
    const { code, stderr } = await cli(["view", out[0], "--png", out[1]], { env })
    expect([code, stderr]).toEqual([0, expect.stringContaining("no font is installed")])
    const image = await decodeImage(out[1])
    // The title begins with an L of 16 points: a stem of 7 dots of 1.6 points, 5 wide at its foot, 2 pixels to a point.
    const dark = (x: number, y: number) => image.data[(Math.round(y) * image.width + Math.round(x)) * 3]! < 100
    const dot = 3.2
    const at = (column: number, row: number) => dark(40 + (column + 0.5) * dot, 40 + 28 - (7 - row - 0.5) * dot)
    const drawn = Array.from({ length: 7 }, (_, row) =>
      Array.from({ length: 5 }, (_, c) => (at(c, row) ? "#" : ".")).join(""),
    )
    expect(drawn).toEqual(["#....", "#....", "#....", "#....", "#....", "#....", "#####"])
    const lettered = withLetters(await viewSvg(view))
    expect(lettered).not.toContain("<text")
    expect(Buffer.from((await decodeImage(await renderSvg(lettered, 2))).data).equals(image.data)).toBe(true)
    expect(await hasFont()).toBe((await viewPng(view)).length !== readFileSync(out[1]).length)
  })
})

const at255 = () => [...SCALES.sequential.subarray(255 * 3)].join()

/** The sum of the translations around the element that begins with these coordinates. */
function offsetOf(svg: string, [x, y]: readonly number[]): [number, number] {
  const end = svg.indexOf(`<image x="${x}" y="${y}"`)
  const open: [number, number][] = []
  for (const [tag, , dx, dy] of svg
    .slice(0, end)
    .matchAll(/<(\/?)g(?: transform="translate\(([\d.]+),([\d.]+)\)")?>/g)) {
    if (tag.startsWith("</")) open.pop()
    else open.push([Number(dx ?? 0), Number(dy ?? 0)])
  }
  return open.reduce(([a, b], [c, d]) => [a + c, b + d], [0, 0])
}

describe("vit-prisma view", { timeout: 60_000 }, () => {
  const at = (name: string) => join(scratch, name)

  it("writes a page, pictures and their numbers, and the same page from the numbers", async () => {
    const files = ["--html", at("a.html"), "--png", at("a.png"), "--svg", at("a.svg"), "--view-json", at("a.json")]
    const first = await cli(["view", demoModel, seven, seven, "--layers", "0,-1", "--heads", "2,0", ...files])
    expect([first.code, first.stdout]).toEqual([0, ""])
    const view = checkView(JSON.parse(readFileSync(at("a.json"), "utf8")))
    expect(view).toMatchObject({ title: "Attention on 2 images", model: "mnist-demo", grid: [7, 7], special: ["CLS"] })
    expect(
      view.images.map(({ name, attention }) => [name, attention!.heads, attention!.layers.map((l) => l.layer)]),
    ).toEqual([
      ["seven.png", [2, 0], [0, 2]],
      ["seven.png", [2, 0], [0, 2]],
    ])
    expect(view.images[0]!.predictions![0]).toMatchObject({ label: "7" })
    // What the page says of a head is what the model computes.
    const model = await loadPretrained(demoModel)
    const { cache } = await model.runWithCache(await model.images(seven), { names: "*pattern" })
    const row = new Float32Array(50)
    patternsOf(view, 0)[1]!.row(0, 5, row)
    const computed = (cache.pattern(2).data as Float32Array).subarray((2 * 50 + 5) * 50, (2 * 50 + 6) * 50)
    row.forEach((v, key) => expect(v).toBeCloseTo(computed[key]!, 2))
    const again = await cli(["view", at("a.json"), "--html", at("b.html"), "--svg", at("b.svg")])
    expect([again.code, again.stderr]).toEqual([0, ""])
    expect(readFileSync(at("b.html")).equals(readFileSync(at("a.html")))).toBe(true)
    expect(readFileSync(at("b.svg")).equals(readFileSync(at("a.svg")))).toBe(true)
  })

  it.each([
    ["nothing to write", [demoModel, seven], 2, /nothing to write: give --html/],
    ["no image", [demoModel, "--html", "x.html"], 2, /needs images/],
    [
      "one name twice",
      [demoModel, seven, "--html", "x.html", "--svg", "./x.html"],
      2,
      /--html and --svg name the same file/,
    ],
    ["the image's own name", [demoModel, seven, "--png", seven], 6, /seven\.png, which is read here/],
    ["a layer that is not there", [demoModel, seven, "--layers", "7", "--html", "x.html"], 2, /layer 7 does not exist/],
    ["a head that is not there", [demoModel, seven, "--heads", "9", "--html", "x.html"], 1, /there is no head 9/],
    ["a list that is none", [demoModel, seven, "--layers", "a", "--html", "x.html"], 2, /whole numbers with commas/],
    ["a view with images", ["v.json", seven, "--html", "x.html"], 2, /give it no others/],
    ["JSON that is no view", [join(demoModel, "config.json"), "--html", "x.html"], 1, /which is no field of a view/],
  ])("refuses %s, and writes nothing", async (_, args, code, message) => {
    const ran = await cli(["view", ...args], { cwd: scratch })
    expect([ran.code, ran.stderr]).toEqual([code, expect.stringMatching(message)])
    expect(ran.stderr.trim().split("\n")).toHaveLength(1)
    expect(existsSync(at("x.html"))).toBe(false)
  })
})
