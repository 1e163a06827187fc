/** @file The two colour scales, even in lightness and told apart by all eyes, made in OKLab (https://bottosson.github.io/posts/oklab/). */
import type { ScaleKind } from "./data.ts"

/** Lightness 0..1, chroma, hue in degrees. */
type Lch = readonly [lightness: number, chroma: number, hue: number]

/** Indigo over teal to yellow: lightness rises evenly, so that order is seen without hue. */
const SEQUENTIAL: readonly Lch[] = [
  [0.2, 0.075, 285],
  [0.345, 0.11, 268],
  [0.49, 0.1, 238],
  [0.635, 0.105, 190],
  [0.78, 0.145, 145],
  [0.925, 0.16, 105],
]

/** Blue below, orange above, equally dark at both ends. */
const DIVERGING: readonly Lch[] = [
  [0.48, 0.15, 258],
  [0.72, 0.095, 248],
  [0.965, 0.003, 90],
  [0.72, 0.125, 58],
  [0.48, 0.125, 42],
]

const STOPS: { readonly [K in ScaleKind]: readonly Lch[] } = { sequential: SEQUENTIAL, diverging: DIVERGING }

/** Steps of a table: finer than a screen's 8 bits show. */
export const STEPS = 256

/** [STEPS * 3] sRGB bytes from low to high. */
export const SCALES: { readonly [K in ScaleKind]: Uint8Array } = {
  sequential: table(STOPS.sequential),
  diverging: table(STOPS.diverging),
}

/** Where `value` lies among the steps of a scale from `low` to `high`; ends are held. */
export function step(value: number, low: number, high: number): number {
  const at = high > low ? (value - low) / (high - low) : 0
  return Math.max(0, Math.min(STEPS - 1, Math.round(at * (STEPS - 1))))
}

/** The colour of a value, as CSS and SVG write it. */
export function colourOf(kind: ScaleKind, value: number, low: number, high: number): string {
  const at = step(value, low, high) * 3
  const [r, g, b] = SCALES[kind].subarray(at, at + 3)
  return `rgb(${r!},${g!},${b!})`
}

/** Black or white: whichever is read on that colour. */
export function inkOn(kind: ScaleKind, value: number, low: number, high: number): "#000" | "#fff" {
  const at = step(value, low, high) * 3
  const [r, g, b] = SCALES[kind].subarray(at, at + 3)
  return 0.299 * r! + 0.587 * g! + 0.114 * b! > 140 ? "#000" : "#fff"
}

/** RGBA bytes of values; what is not finite is transparent. */
export function paint(
  values: ArrayLike<number>,
  kind: ScaleKind,
  low: number,
  high: number,
  out: Uint8Array | Uint8ClampedArray,
): void {
  const scale = SCALES[kind]
  for (let i = 0; i < values.length; i++) {
    const v = values[i]!
    const at = step(v, low, high) * 3
    const known = Number.isFinite(v)
    out[i * 4] = known ? scale[at]! : 0
    out[i * 4 + 1] = known ? scale[at + 1]! : 0
    out[i * 4 + 2] = known ? scale[at + 2]! : 0
    out[i * 4 + 3] = known ? 255 : 0
  }
}

/** Ends of a scale that holds all finite values: 0 to the largest or smallest to largest, and about 0 where it is diverging. */
export function rangeOf(values: ArrayLike<number>, kind: ScaleKind): readonly [number, number] {
  let [least, most] = [Infinity, -Infinity]
  for (let i = 0; i < values.length; i++) {
    const v = values[i]!
    if (!Number.isFinite(v)) continue
    if (v < least) least = v
    if (v > most) most = v
  }
  if (!(least <= most)) return kind === "diverging" ? [-1, 1] : [0, 1]
  if (kind === "diverging") {
    const end = Math.max(Math.abs(least), Math.abs(most)) || 1
    return [-end, end]
  }
  const low = least >= 0 ? 0 : least
  return [low, most > low ? most : low + 1]
}

function table(stops: readonly Lch[]): Uint8Array {
  const out = new Uint8Array(STEPS * 3)
  const labs = stops.map(([l, c, h]) => [l, c * Math.cos((h * Math.PI) / 180), c * Math.sin((h * Math.PI) / 180)])
  for (let i = 0; i < STEPS; i++) {
    const x = (i / (STEPS - 1)) * (stops.length - 1)
    const k = Math.min(stops.length - 2, Math.floor(x))
    const [l, a, b] = labs[k]!.map((v, j) => v + (labs[k + 1]![j]! - v) * (x - k))
    out.set(srgb(l!, a!, b!), i * 3)
  }
  return out
}

/** OKLab to sRGB bytes; what no screen shows is held to its edge. */
function srgb(l: number, a: number, b: number): number[] {
  const [x, y, z] = [
    (l + 0.3963377774 * a + 0.2158037573 * b) ** 3,
    (l - 0.1055613458 * a - 0.0638541728 * b) ** 3,
    (l - 0.0894841775 * a - 1.291485548 * b) ** 3,
  ]
  const linear = [
    4.0767416621 * x - 3.3077115913 * y + 0.2309699292 * z,
    -1.2684380046 * x + 2.6097574011 * y - 0.3413193965 * z,
    -0.0041960863 * x - 0.7034186147 * y + 1.707614701 * z,
  ]
  return linear.map((v) => {
    const c = Math.max(0, Math.min(1, v))
    return Math.round(255 * (c <= 0.0031308 ? 12.92 * c : 1.055 * c ** (1 / 2.4) - 0.055))
  })
}
