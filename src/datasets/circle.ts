/** @file Modular addition on a clock face (Prisma's CircleDataset): two of the hours are marked, the label is their sum. */
import { fail } from "../errors.ts"
import { quote } from "../tensor/quote.ts"
import { checkSeed, splitIndices } from "./split.ts"
import { checkVariant, drawnSplits, type DrawnSplits, inRandomOrder, type Variant } from "./synthetic.ts"

export interface CircleOptions {
  /** Decides which pairs are for testing, and the order. */
  readonly seed?: number
  readonly variant?: Variant
  /** Hours on the clock, 3 or more and not so many that two fall on one pixel. */
  readonly modulus?: number
  /** Pixels along an edge. */
  readonly imageSize?: number
  /** The part that is for testing, by default half. */
  readonly testSplit?: number
}

const WHITE = 255
const BLACK = 0
const MARK = 128

/** Pixels; a larger clock is refused before anything is computed. */
const MAX_EDGE = 1024

/**
 * Clocks, uint8 [1, imageSize, imageSize]: white with a black pixel at each hour and gray ones at two hours a < b; the label
 * is (a + b) mod modulus. By default 1,770 pairs, half of them for testing. Errors: E_CONFIG, E_DATASET_EMPTY.
 */
export function circle(options: CircleOptions = {}): DrawnSplits<{ readonly a: number; readonly b: number }> {
  const { seed = 0, variant = "corrected", modulus = 60, imageSize = 32, testSplit = 0.5 } = options
  checkSeed(seed, "circle: seed")
  checkVariant(variant, "circle")
  const hours = clock(whole(modulus, "modulus", 3), whole(imageSize, "imageSize", 4), variant)
  const codes: number[] = []
  for (let a = 0; a < modulus; a++) for (let b = a + 1; b < modulus; b++) codes.push(a * modulus + b)
  const latents = (code: number) => ({ a: Math.floor(code / modulus), b: code % modulus })
  const label = (code: number) => (latents(code).a + latents(code).b) % modulus
  const face = new Uint8Array(imageSize ** 2).fill(WHITE)
  for (const pixel of hours) face[pixel] = BLACK
  const draw = (code: number, out: Uint8Array) => {
    out.set(face)
    out[hours[latents(code).a]!] = MARK
    out[hours[latents(code).b]!] = MARK
  }
  const classes = Array.from({ length: modulus }, (_, i) => `${i}`)
  const parts = splitIndices(codes.length, { seed, name: "circle", test: testSplit })
  const all = { seed, variant, modulus, imageSize, testSplit }
  return drawnSplits(
    { name: "circle", version: 1, options: all, classes, shape: [1, imageSize, imageSize], draw, label, latents },
    inRandomOrder(codes, parts, seed, "circle"),
  )
}

const whole = (n: number, what: string, least: number): number =>
  Number.isInteger(n) && n >= least && n <= MAX_EDGE
    ? n
    : fail("E_CONFIG", `circle: ${what} must be a whole number from ${least} to ${MAX_EDGE}, got ${quote(String(n))}`)

/** The pixel of each hour, from three o'clock on in steps of 360/modulus degrees, clockwise. Error: E_CONFIG. */
function clock(modulus: number, edge: number, variant: Variant): number[] {
  // The cosine of 270 degrees is -1.8e-16 in floating point, which truncation makes a whole pixel.
  const tolerance = variant === "corrected" ? 1e-9 : 0
  const coordinate = (c: number) => Math.trunc(edge / 2 + (edge / 2 - 0.5) * c + tolerance)
  const hours = Array.from({ length: modulus }, (_, k) => {
    const angle = (k * 2 * Math.PI) / modulus
    return coordinate(Math.sin(angle)) * edge + coordinate(Math.cos(angle))
  })
  if (new Set(hours).size < modulus) {
    const text = `two of ${modulus} hours fall on one pixel of ${edge} x ${edge}`
    fail("E_CONFIG", `circle: ${text}; give a smaller modulus or a larger imageSize`)
  }
  return hours
}
