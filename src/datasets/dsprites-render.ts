/**
 * @file The images of dSprites (https://github.com/google-deepmind/dsprites-dataset), drawn: which pixel centres lie in
 * a polygon. The original was drawn with LÖVE (issue #2 there), its program is not public; the outlines below are fitted
 * to 320 of its images, all of which they give pixel for pixel.
 */

/** Pixels along an edge. */
export const EDGE = 64

/** How many values each latent has, in the original's order; the last varies fastest. */
export const LATENTS = { shape: 3, scale: 6, orientation: 40, x: 32, y: 32 } as const

/** The values themselves, by latent and class: scales 0.5 to 1, angles 0 to 2 pi (both ends, so the last image is the
 * first again), positions 0 to 1. */
export const VALUES = {
  scale: Array.from({ length: LATENTS.scale }, (_, i) => (5 + i) / 10),
  orientation: Array.from({ length: LATENTS.orientation }, (_, i) => (2 * Math.PI * i) / (LATENTS.orientation - 1)),
  x: Array.from({ length: LATENTS.x }, (_, i) => i / (LATENTS.x - 1)),
  y: Array.from({ length: LATENTS.y }, (_, i) => i / (LATENTS.y - 1)),
} as const

/** Corners of the polygon that stands for a curve. */
const CORNERS = 180

type Point = readonly [x: number, y: number]

const curve = (at: (t: number) => Point): Point[] =>
  Array.from({ length: CORNERS }, (_, i) => at((2 * Math.PI * i) / CORNERS))

/** Half of the square's side in pixels; any from 9.5970 to 9.5998 gives the same images. */
const HALF = 9.598

/** The outlines at scale 1, in pixels around the centre of rotation, y down. */
const OUTLINES: readonly (readonly Point[])[] = [
  [
    [-HALF, -HALF],
    [HALF, -HALF],
    [HALF, HALF],
    [-HALF, HALF],
  ],
  curve((t) => [12.7667 * Math.cos(t), 7.2141 * Math.sin(t)]),
  // The heart curve, 0.6 wide and 0.662 high (https://mathworld.wolfram.com/HeartCurve.html, equation 6).
  curve((t) => [
    9.59876 * Math.sin(t) ** 3,
    -1.43798 - 0.662177 * (13 * Math.cos(t) - 5 * Math.cos(2 * t) - 2 * Math.cos(3 * t) - Math.cos(4 * t)),
  ]),
]

const outlines = new Map<number, Float64Array>()

/** x and y of each corner of a sprite around its centre, the first corner again at the end. */
function outline(shape: number, scale: number, orientation: number): Float64Array {
  const key = (shape * LATENTS.scale + scale) * LATENTS.orientation + orientation
  const known = outlines.get(key)
  if (known) return known
  const points = OUTLINES[shape]!
  const size = VALUES.scale[scale]!
  // The last angle is the first, to the bit. The sprite turns counter-clockwise on the screen.
  const angle = VALUES.orientation[orientation % (LATENTS.orientation - 1)]!
  const [c, s] = [size * Math.cos(angle), size * Math.sin(angle)]
  const corners = new Float64Array(2 * (points.length + 1))
  for (let i = 0; i <= points.length; i++) {
    const [x, y] = points[i % points.length]!
    corners[2 * i] = c * x + s * y
    corners[2 * i + 1] = c * y - s * x
  }
  outlines.set(key, corners)
  return corners
}

/** A row's crossings with an outline, from the sprite's centre: the heart has at most four. */
const CROSSINGS = 4
const crossings = new Float64Array(EDGE * CROSSINGS)
const counts = new Uint8Array(EDGE)

/**
 * Positions 0 to 1 are the middle half of the image: 31 steps over 32 pixels, so each has a fraction of its own. A pixel's
 * centre lies at its number + 0.5.
 */
const centre = (position: number): number => EDGE / 4 + (EDGE / 2) * position - 0.5

type Classes = readonly [shape: number, scale: number, orientation: number, x: number, y: number]

/** Draw a sprite, given the class of each latent, with 255 into `out` of 64 x 64 zeros. */
export function renderSprite(...[shape, scale, orientation, x, y, out]: [...Classes, out: Uint8Array]): void {
  cross(shape, scale, orientation, y)
  const left = centre(VALUES.x[x]!)
  for (let row = 0; row < EDGE; row++) {
    for (let k = row * CROSSINGS; k < row * CROSSINGS + counts[row]!; k += 2) {
      out.fill(255, row * EDGE + Math.ceil(crossings[k]! + left), row * EDGE + Math.ceil(crossings[k + 1]! + left))
    }
  }
}

/** For each x, in turn, a number of 53 bits that equal images share, and others by chance alone. */
export function spriteKeys(shape: number, scale: number, orientation: number, y: number): Float64Array {
  cross(shape, scale, orientation, y)
  return Float64Array.from(VALUES.x, (x) => spansKey(centre(x)))
}

function spansKey(left: number): number {
  let [high, low] = [0, 0]
  for (let row = 0; row < EDGE; row++) {
    for (let k = row * CROSSINGS; k < row * CROSSINGS + counts[row]!; k += 2) {
      const [from, to] = [Math.ceil(crossings[k]! + left), Math.ceil(crossings[k + 1]! + left)]
      if (from === to) continue
      const span = (row * EDGE + from) * EDGE + to
      high = Math.imul(high ^ span, 0x01000193) + (high >>> 15)
      low = Math.imul(low ^ span, 0x85ebca6b) + (low >>> 13)
    }
  }
  return (high & 0x1fffff) * 2 ** 32 + (low >>> 0)
}

/** Find where each row's pixel centres cross the outline. */
function cross(shape: number, scale: number, orientation: number, y: number): void {
  const corners = outline(shape, scale, orientation)
  const top = centre(VALUES.y[y]!)
  counts.fill(0)
  for (let i = 0; i + 2 < corners.length; i += 2) {
    const [y0, y1] = [corners[i + 1]! + top, corners[i + 3]! + top]
    const [first, last] = y0 < y1 ? [Math.ceil(y0), Math.ceil(y1)] : [Math.ceil(y1), Math.ceil(y0)]
    if (first === last) continue
    const slope = (corners[i + 2]! - corners[i]!) / (y1 - y0)
    for (let row = first; row < last; row++) add(row, corners[i]! + (row - y0) * slope)
  }
}

/** Insert a crossing in ascending order. */
function add(row: number, x: number): void {
  const start = row * CROSSINGS
  let at = start + counts[row]!++
  for (; at > start && crossings[at - 1]! > x; at--) crossings[at] = crossings[at - 1]!
  crossings[at] = x
}
