/** @file Pieces of an SVG picture: text, lines, images, and rasters whose pixels fall on pixels at twice the size. */
import { encodePng } from "../data/image.ts"
import { paint, SCALES, STEPS } from "./colour.ts"
import type { ScaleKind } from "./data.ts"

/** A part of the picture and the room it takes, in points. */
export interface Block {
  readonly width: number
  readonly height: number
  readonly svg: string
}

const INK = "#1d1f23"
const SOFT = "#5d626b"

const ENTITIES: Readonly<Record<string, string>> = { "&": "&amp;", "<": "&lt;", ">": "&gt;", '"': "&quot;" }
/** As XML holds it: without the control characters and lone surrogates that it refuses. */
const xml = (text: string): string =>
  text
    .replace(/[\u0000-\u0008\u000b\u000c\u000e-\u001f\ufffe\uffff]|\p{Cs}/gu, "\ufffd")
    .replace(/[&<>"]/g, (c) => ENTITIES[c]!)

export interface TextStyle {
  readonly size?: number
  readonly anchor?: "start" | "middle" | "end"
  readonly bold?: boolean
  readonly soft?: boolean
  readonly fill?: string
}

/** Text whose baseline begins, is centred or ends at x, y. */
export function text(
  x: number,
  y: number,
  said: string,
  { size = 11, anchor = "start", bold = false, soft = false, fill = soft ? SOFT : INK }: TextStyle = {},
): string {
  const weight = bold ? ' font-weight="600"' : ""
  return `<text x="${point(x)}" y="${point(y)}" font-size="${size}" text-anchor="${anchor}" fill="${fill}"${weight}>${xml(said)}</text>`
}

/** A width that no usual font exceeds, in points, for `said` at `size`. */
export const widthOf = (said: string, size = 11): number => said.length * size * 0.62

/** `said`, cut to what fits in `width`. */
export function fitted(said: string, width: number, size = 11): string {
  const n = Math.floor(width / (size * 0.56))
  return said.length <= n ? said : `${said.slice(0, Math.max(1, n - 1))}\u2026`
}

export const rect = (x: number, y: number, width: number, height: number, attributes: string): string =>
  `<rect x="${point(x)}" y="${point(y)}" width="${point(width)}" height="${point(height)}" ${attributes}/>`

export const picture = (x: number, y: number, width: number, height: number, uri: string, opacity = 1): string =>
  `<image x="${point(x)}" y="${point(y)}" width="${point(width)}" height="${point(height)}" preserveAspectRatio="none"` +
  ` style="image-rendering:pixelated"${opacity < 1 ? ` opacity="${opacity}"` : ""} href="${uri}"/>`

export const moved = (x: number, y: number, svg: string): string =>
  x || y ? `<g transform="translate(${point(x)},${point(y)})">${svg}</g>` : svg

/** Blocks side by side, in new rows where `width` is full. */
export function flowed(blocks: readonly Block[], width: number, gap: number): Block {
  let [x, y, row, right] = [0, 0, 0, 0]
  const parts = blocks.map((block) => {
    if (x > 0 && x + block.width > width) [x, y, row] = [0, y + row + gap, 0]
    const part = moved(x, y, block.svg)
    right = Math.max(right, x + block.width)
    x += block.width + gap
    row = Math.max(row, block.height)
    return part
  })
  return { width: right, height: y + row, svg: parts.join("") }
}

/** Blocks below each other. */
export function stacked(blocks: readonly Block[], gap: number): Block {
  let y = 0
  const parts = blocks.map((block) => {
    const part = moved(0, y, block.svg)
    y += block.height + gap
    return part
  })
  return { width: Math.max(0, ...blocks.map((b) => b.width)), height: Math.max(0, y - gap), svg: parts.join("") }
}

/** A PNG of values [rows, columns], `pixels` to the side of a cell. */
export async function heatUri(
  values: ArrayLike<number>,
  columns: number,
  kind: ScaleKind,
  [low, high]: readonly [number, number],
  pixels: number,
): Promise<string> {
  const rows = values.length / columns
  const small = new Uint8Array(values.length * 4)
  paint(values, kind, low, high, small)
  const [width, height] = [columns * pixels, rows * pixels]
  const large = new Uint8Array(width * height * 4)
  for (let y = 0; y < height; y++) {
    for (let x = 0; x < width; x++) {
      const from = (Math.floor(y / pixels) * columns + Math.floor(x / pixels)) * 4
      for (let c = 0; c < 4; c++) large[(y * width + x) * 4 + c] = small[from + c]!
    }
  }
  return pngUri(large, width, height, 4)
}

export async function pngUri(data: Uint8Array, width: number, height: number, channels: 1 | 3 | 4): Promise<string> {
  return `data:image/png;base64,${Buffer.from(await encodePng(data, width, height, channels)).toString("base64")}`
}

/** A colour bar with its ends and what they are. */
export async function scaleBar(
  kind: ScaleKind,
  [low, high]: readonly [number, number],
  units: string,
  width = 120,
): Promise<Block> {
  const uri = await pngUri(SCALES[kind], STEPS, 1, 3)
  const svg = [
    picture(0, 0, width, 7, uri),
    text(0, 17, digits(low), { size: 9, soft: true }),
    text(width, 17, digits(high), { size: 9, soft: true, anchor: "end" }),
    text(width + 8, 7.5, units, { size: 9, soft: true }),
  ]
  return { width: width + 8 + widthOf(units, 9), height: 19, svg: svg.join("") }
}

/** A number in 3 digits. */
export function digits(value: number): string {
  const size = Math.abs(value)
  const short =
    size !== 0 && (size < 0.001 || size >= 100_000) ? value.toExponential(1) : String(Number(value.toPrecision(3)))
  return short.replace("-", "\u2212")
}

const point = (v: number): string => String(Math.round(v * 100) / 100)
