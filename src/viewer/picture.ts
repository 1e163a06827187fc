/** @file A view as one static picture for papers and cards: images, maps over them, all heads, bars and matrices. */
import { decodeImage, renderSvg } from "../data/image.ts"
import { colourOf, inkOn, rangeOf } from "./colour.ts"
import type { Matrix, Overlay, Table, View, ViewImage } from "./data.ts"
import { numbersOf, patternsOf } from "./decode.ts"
import { withLetters } from "./letters.ts"
import {
  digits,
  fitted,
  flowed,
  heatUri,
  picture,
  pngUri,
  rect,
  scaleBar,
  stacked,
  text,
  widthOf,
  type Block,
} from "./svg.ts"

/** Points: a page with margins is about as wide, at 96 to the inch. */
const [WIDTH, MARGIN, GAP] = [820, 20, 18]
const FONTS = "system-ui, 'Helvetica Neue', Arial, 'DejaVu Sans', 'Liberation Sans', sans-serif"

/** Longest sides in points: of an image, of a map over it, of a head's map. */
const SIDES = { image: 200, map: 150, head: 64, leastHead: 36 } as const
/** Opacity of a map over its image. */
const OVER = 0.75
/** Patches from this many points on hold a glyph. */
const GLYPH = 15
const [ROWS, BAR] = [20, 150]

/** The picture. The same view gives the same text. Errors: E_IMAGE_DECODE, E_INPUT for packed numbers that are none. */
export async function viewSvg(view: View): Promise<string> {
  const blocks: Block[] = [heading(view)]
  for (const [i, image] of view.images.entries()) {
    const beside = [await imageBlock(view, image)]
    const below: Block[] = []
    if (image.attention?.layers.length) beside.push(await headsBlock(view, i, WIDTH - beside[0]!.width - GAP))
    for (const overlay of image.overlays ?? []) {
      const block = await overlayBlock(view, image, overlay)
      ;(overlay.layers ? below : beside).push(block)
    }
    blocks.push(flowed(beside, WIDTH, GAP), ...below)
  }
  const charts: Block[] = []
  for (const matrix of view.matrices ?? []) charts.push(await matrixBlock(matrix))
  charts.push(...(view.tables ?? []).map(tableBlock))
  if (charts.length) blocks.push(flowed(charts, WIDTH, GAP))
  const all = stacked(blocks, GAP)
  const width = Math.ceil(Math.max(all.width, 240) + 2 * MARGIN)
  const height = Math.ceil(all.height + 2 * MARGIN)
  return (
    `<svg xmlns="http://www.w3.org/2000/svg" width="${width}" height="${height}" viewBox="0 0 ${width} ${height}" font-family="${FONTS}">` +
    `<rect width="${width}" height="${height}" fill="#fff"/><g transform="translate(${MARGIN},${MARGIN})">${all.svg}</g></svg>\n`
  )
}

/** The picture as a PNG, `scale` pixels to a point; letters are drawn of dots where the machine has no font. Errors: those of viewSvg. */
export async function viewPng(view: View, scale = 2): Promise<Uint8Array> {
  const svg = await viewSvg(view)
  return renderSvg((await hasFont()) ? svg : withLetters(svg), scale)
}

/** Does this machine have a font? Without one every letter is drawn as the same box, or as nothing. */
export async function hasFont(): Promise<boolean> {
  const drawn = async (letter: string) => {
    const svg = `<svg xmlns="http://www.w3.org/2000/svg" width="20" height="20" font-family="${FONTS}"><rect width="20" height="20" fill="#fff"/>${text(2, 16, letter, { size: 16 })}</svg>`
    return Buffer.from((await decodeImage(await renderSvg(svg, 1))).data)
  }
  return !(await drawn("M")).equals(await drawn("i"))
}

function heading({ title, model, notes = [] }: View): Block {
  const lines = notes.map((n, i) =>
    text(0, (model === undefined ? 32 : 46) + 13 * i, fitted(n, WIDTH, 9), { size: 9, soft: true }),
  )
  const svg = [text(0, 14, fitted(title, WIDTH, 16), { size: 16, bold: true })]
  if (model !== undefined) svg.push(text(0, 28, fitted(model, WIDTH), { soft: true, size: 10 }))
  return {
    width: Math.min(WIDTH, widthOf(title, 16)),
    height: (model === undefined ? 18 : 32) + 13 * lines.length + (lines.length ? 2 : 0),
    svg: [...svg, ...lines].join(""),
  }
}

/** Width and height within `side`, of the image's own proportions, such that a patch is a whole number of half points. */
function fit({ grid: [rows, columns] }: View, side: number): { pixels: number; width: number; height: number } {
  const pixels = Math.max(1, Math.floor((2 * side) / Math.max(rows, columns)))
  return { pixels, width: (columns * pixels) / 2, height: (rows * pixels) / 2 }
}

async function imageBlock(view: View, { name, source, predictions = [] }: ViewImage): Promise<Block> {
  const { width, height } = fit(view, SIDES.image)
  const svg = [
    text(0, 11, fitted(name, width + 40), { bold: true }),
    picture(0, 20, width, height, source),
    gridLines(view, 0, 20, width, height),
  ]
  predictions.slice(0, 3).forEach(({ label, score }, i) => {
    const y = height + 36 + 15 * i
    svg.push(
      text(0, y, fitted(label, width - 46)),
      text(width, y, `${(100 * score).toFixed(1)} %`, { anchor: "end", soft: true }),
    )
  })
  return { width: Math.max(width, 120), height: height + 24 + 15 * Math.min(3, predictions.length), svg: svg.join("") }
}

function gridLines({ grid: [rows, columns] }: View, x: number, y: number, width: number, height: number): string {
  if (width / columns < 4 || height / rows < 4) return ""
  const down = Array.from({ length: columns - 1 }, (_, i) => `M${x + ((i + 1) * width) / columns},${y}v${height}`)
  const across = Array.from({ length: rows - 1 }, (_, i) => `M${x},${y + ((i + 1) * height) / rows}h${width}`)
  return `<path d="${[...down, ...across].join("")}" stroke="#808080" stroke-opacity="0.4" stroke-width="0.5" fill="none"/>`
}

/** Layers down and heads across: where each looks from the class token, or the mean of all queries where there is none. */
async function headsBlock(view: View, index: number, room: number): Promise<Block> {
  const { special, grid } = view
  const { heads } = view.images[index]!.attention!
  const readers = patternsOf(view, index)
  // Beside the image if that leaves them large enough.
  const [here, below] = [room, WIDTH].map((w) => Math.min(SIDES.head, (w - 26) / heads.length - 4)) as [number, number]
  const side = here >= SIDES.leastHead ? here : below
  const { pixels, width, height } = fit(view, side)
  const [left, top, gap] = [22, 36, 4]
  const t = special.length + grid[0] * grid[1]
  const values = new Float32Array(t)
  const token = special.length ? `from ${special[0]!}` : "mean over queries"
  const svg = [text(0, 11, `Attention ${token}`, { bold: true })]
  for (const [l, reader] of readers.entries()) {
    const y = top + l * (height + gap)
    svg.push(text(left - 7, y + height / 2 + 3, String(reader.layer), { size: 9, soft: true, anchor: "end" }))
    for (const [h, head] of heads.entries()) {
      if (special.length) reader.row(h, 0, values)
      else meanRow(reader, h, values)
      const patches = values.subarray(special.length)
      const x = left + h * (width + gap)
      svg.push(
        picture(
          x,
          y,
          width,
          height,
          await heatUri(patches, grid[1], "sequential", rangeOf(patches, "sequential"), pixels),
        ),
      )
      if (l === 0) svg.push(text(x + width / 2, top - 5, String(head), { size: 9, soft: true, anchor: "middle" }))
    }
  }
  const bottom = top + readers.length * (height + gap)
  const bar = await scaleBar("sequential", [0, 1], "of each map's largest value on a patch", 80)
  svg.push(`<g transform="translate(${left},${bottom + 4})">${bar.svg}</g>`)
  return {
    width: Math.max(left + heads.length * (width + gap), left + bar.width),
    height: bottom + 24,
    svg: svg.join(""),
  }
}

function meanRow(reader: ReturnType<typeof patternsOf>[number], head: number, out: Float32Array): void {
  const one = new Float32Array(out.length)
  out.fill(0)
  for (let query = 0; query < out.length; query++) {
    reader.row(head, query, one)
    for (let i = 0; i < out.length; i++) out[i]! += one[i]! / out.length
  }
}

/** One map over the image for each layer of the overlay. */
async function overlayBlock(view: View, image: ViewImage, overlay: Overlay): Promise<Block> {
  const { special, grid } = view
  const values = numbersOf(overlay.values)
  const labels = overlay.labels && numbersOf(overlay.labels.index)
  const range = overlay.range ?? rangeOf(values, overlay.kind)
  const layers = overlay.layers ?? [undefined]
  const { pixels, width, height } = fit(view, layers.length > 1 ? SIDES.map : SIDES.image)
  const grey = await greyUri(image)
  const tokens = overlay.values.shape[1]!
  const first = tokens - grid[0] * grid[1]
  const maps: Block[] = []
  for (const [row, layer] of layers.entries()) {
    const patches = values.subarray(row * tokens + first, (row + 1) * tokens)
    const uri = await heatUri(patches, grid[1], overlay.kind, range, pixels)
    const top = layer === undefined ? 0 : 14
    const svg = [picture(0, top, width, height, grey), picture(0, top, width, height, uri, OVER)]
    if (layer !== undefined) {
      const onSpecial = first ? `   ${special[0]!} ${digits(values[row * tokens]!)}` : ""
      svg.push(
        text(0, 10, fitted((layer < 0 ? "embedding" : `layer ${layer}`) + onSpecial, width + 8, 10), { size: 10 }),
      )
    }
    const side = Math.min(width / grid[1], height / grid[0])
    if (labels && side >= GLYPH) {
      patches.forEach((value, p) => {
        const n = labels[row * tokens + first + p]!
        const said = overlay.labels!.glyphs?.[n] ?? overlay.labels!.names[n]?.slice(0, 5)
        if (said === undefined) return
        const x = ((p % grid[1]) + 0.5) * (width / grid[1])
        const y = top + (Math.floor(p / grid[1]) + 0.5) * (height / grid[0])
        const size = side * (overlay.labels!.glyphs?.[n] === undefined ? 0.3 : 0.55)
        svg.push(text(x, y + size * 0.35, said, { size, anchor: "middle", fill: inkOn(overlay.kind, value, ...range) }))
      })
    }
    maps.push({ width, height: height + top, svg: svg.join("") })
  }
  const title: Block = { width: 0, height: 12, svg: text(0, 11, fitted(overlay.name, WIDTH), { bold: true }) }
  return stacked([title, flowed(maps, WIDTH, 10), await scaleBar(overlay.kind, range, overlay.units ?? "")], 7)
}

/** The image's luminance, over which a map's colours are read. */
async function greyUri({ source }: ViewImage): Promise<string> {
  const { data, width, height } = await decodeImage(Buffer.from(source.slice(source.indexOf(",") + 1), "base64"))
  const grey = Uint8Array.from({ length: width * height }, (_, i) =>
    Math.round(0.299 * data[i * 3]! + 0.587 * data[i * 3 + 1]! + 0.114 * data[i * 3 + 2]!),
  )
  return pngUri(grey, width, height, 1)
}

async function matrixBlock({ name, kind, units = "", rows, columns, ...matrix }: Matrix): Promise<Block> {
  const values = numbersOf(matrix.values)
  const range = matrix.range ?? rangeOf(values, kind)
  const left = Math.min(110, Math.max(...rows.map((r) => widthOf(r, 9))) + 6)
  const pixels = Math.max(2, Math.min(44, Math.floor((2 * (WIDTH - left)) / columns.length)))
  const cell = pixels / 2
  const uri = await heatUri(values, columns.length, kind, range, pixels)
  const top = 34
  const svg = [
    text(0, 11, fitted(name, WIDTH), { bold: true }),
    picture(left, top, columns.length * cell, rows.length * cell, uri),
  ]
  const everyRow = Math.ceil(10 / cell)
  rows.forEach((row, r) => {
    if (r % everyRow) return
    svg.push(
      text(left - 5, top + (r + 0.5) * cell + 3, fitted(row, left - 5, 9), { size: 9, soft: true, anchor: "end" }),
    )
  })
  const widest = Math.min(60, Math.max(...columns.map((c) => widthOf(c, 9))) + 4)
  const everyColumn = Math.ceil(widest / cell)
  columns.forEach((column, c) => {
    if (c % everyColumn) return
    svg.push(
      text(left + (c + 0.5) * cell, top - 5, fitted(column, everyColumn * cell, 9), {
        size: 9,
        soft: true,
        anchor: "middle",
      }),
    )
  })
  const bottom = top + rows.length * cell + 8
  const bar = await scaleBar(kind, range, units)
  svg.push(`<g transform="translate(${left},${bottom})">${bar.svg}</g>`)
  return {
    width: Math.max(left + columns.length * cell, left + bar.width),
    height: bottom + bar.height,
    svg: svg.join(""),
  }
}

/** The largest rows as bars from 0. */
function tableBlock({ name, units = "", rows }: Table): Block {
  const shown = rows.slice(0, ROWS)
  const values = shown.map((r) => r.value)
  const low = Math.min(0, ...values)
  const span = Math.max(0, ...values) - low || 1
  const left = Math.min(190, Math.max(40, ...shown.map((r) => widthOf(r.name))) + 8)
  const svg = [text(0, 11, fitted(units ? `${name} (${units})` : name, left + BAR + 50), { bold: true })]
  shown.forEach(({ name, value }, i) => {
    const y = 20 + 16 * i
    const x = left + (BAR * (Math.min(0, value) - low)) / span
    // As in the page: with both signs what is above 0 is orange, else all is blue.
    const fill = colourOf("diverging", low < 0 && value >= 0 ? 0.8 : -0.8, -1, 1)
    svg.push(
      text(left - 6, y + 10, fitted(name, left - 6), { anchor: "end" }),
      rect(x, y + 2, Math.max(0.5, (BAR * Math.abs(value)) / span), 10, `fill="${fill}"`),
      text(left + BAR + 6, y + 10, digits(value), { soft: true }),
    )
  })
  const rest = rows.length - shown.length
  if (rest > 0) svg.push(text(left, 32 + 16 * shown.length, `and ${rest} more`, { soft: true }))
  return { width: left + BAR + 56, height: 24 + 16 * (shown.length + (rest > 0 ? 1 : 0)), svg: svg.join("") }
}
