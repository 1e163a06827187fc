/** @file Prisma's induction data: two small shapes side by side or one above the other, equal or not; and its polygenic
 * kind, four shapes in six patterns. */
import { checkSeed, splitIndices } from "./split.ts"
import { balanced, checkVariant, drawnSplits, type DrawnSplits, inRandomOrder, type Variant } from "./synthetic.ts"

export interface InductionOptions {
  /** Decides which samples are taken, which are for testing, and their order. */
  readonly seed?: number
  readonly variant?: Variant
  /** The part of each class that is for testing, by default a tenth. */
  readonly testSplit?: number
}

/** What an image shows: shapes by name, the first one's centre, and how they lie. */
export interface Arrangement {
  readonly a: Glyph
  readonly b: Glyph
  readonly row: number
  readonly column: number
  readonly orientation: "vertical" | "horizontal"
  /** Which shape stands where, from the first: "AB", "ABBA". */
  readonly pattern: string
}

const GLYPHS = ["circle", "line", "x", "diagonal"] as const
export type Glyph = (typeof GLYPHS)[number]

const REACH = [-2, -1, 0, 1, 2]
type Pixels = readonly (readonly [dy: number, dx: number])[]

/** The pixels of each shape around its centre. Transposed, the line lies; the others stay as they are. */
const PIXELS: { readonly [G in Glyph]: Pixels } = {
  circle: REACH.flatMap((y) => REACH.flatMap((x) => (x * x + y * y <= 4 ? [[y, x] as const] : []))),
  line: REACH.map((y) => [y, 0]),
  x: REACH.flatMap((y) => REACH.flatMap((x) => (x === y || x === -y ? [[y, x] as const] : []))),
  diagonal: REACH.map((y) => [y, y]),
}

/** Pixels from one shape's centre to the next one's. */
const STEP = 7

/** How one kind of image is laid out. `along` and `across` are where the first shape may stand, [from, to). */
interface Layout {
  readonly name: string
  readonly edge: number
  readonly patterns: readonly string[]
  readonly along: readonly [number, number]
  readonly across: readonly [number, number]
  readonly classes: readonly string[]
  label(of: Arrangement): number
  /** The orientation in which the seed draws; for the other it transposes the image, shapes included. */
  readonly drawn: Arrangement["orientation"]
  /** Is (pattern, a, b) drawn? */
  takes(pattern: string, a: Glyph, b: Glyph, variant: Variant): boolean
}

const INDUCTION: Layout = {
  name: "induction",
  edge: 32,
  patterns: ["AB"],
  along: [4, 21],
  across: [4, 28],
  classes: ["vertical-same", "vertical-not-same", "horizontal-same", "horizontal-not-same"],
  label: ({ a, b, orientation }) => (orientation === "vertical" ? 0 : 2) + (a === b ? 0 : 1),
  drawn: "horizontal",
  takes: () => true,
}

const PATTERNS = ["AAAA", "ABAB", "ABBA", "AABB", "ABBB", "AAAB"]

const POLYGENIC: Layout = {
  name: "polygenic-induction",
  edge: 64,
  patterns: PATTERNS,
  along: [9, 25],
  across: [9, 55],
  classes: ["horizontal", "vertical"].flatMap((o) => PATTERNS.map((p) => `${o}-${p}`)),
  label: ({ pattern, orientation }) => PATTERNS.indexOf(pattern) + (orientation === "vertical" ? 6 : 0),
  drawn: "vertical",
  // The seed draws AAAA once for every B, which is not in the image: four times the same.
  takes: (pattern, a, b, variant) => (pattern === "AAAA" ? a === b || variant === "seed-exact" : a !== b),
}

/**
 * Two shapes, uint8 [1, 32, 32] of 0 and 255: 5,872 images for training, 656 for testing, a quarter of each class.
 * Errors: E_CONFIG; E_DATASET_EMPTY where a split would be empty.
 */
export const induction = (options: InductionOptions = {}): DrawnSplits<Arrangement> => arranged(INDUCTION, options)

/**
 * Four shapes, uint8 [1, 64, 64] of 0 and 255, twelve classes: 31,788 images for training and 3,540 for testing
 * ("seed-exact": 95,376 and 10,608, among them images that are in both). Errors: E_CONFIG; E_DATASET_EMPTY.
 */
export const polygenicInduction = (options: InductionOptions = {}): DrawnSplits<Arrangement> =>
  arranged(POLYGENIC, options)

function arranged(layout: Layout, options: InductionOptions): DrawnSplits<Arrangement> {
  const { seed = 0, variant = "corrected", testSplit = 0.1 } = options
  const { name, edge, classes } = layout
  checkSeed(seed, `${name}: seed`)
  checkVariant(variant, name)
  const latents = decoder(layout)
  const label = (code: number) => layout.label(latents(code))
  const all = Array.from({ length: count(layout) }, (_, code) => code).filter((code) => {
    const { pattern, a, b } = latents(code)
    return layout.takes(pattern, a, b, variant)
  })
  const codes = balanced(all, label, seed, name)
  const parts = splitIndices(codes.length, { seed, name, test: testSplit, labels: codes.map(label) })
  const draw = (code: number, out: Uint8Array) => {
    const { a, b, row, column, orientation, pattern } = latents(code)
    const [down, right] = orientation === "vertical" ? [STEP, 0] : [0, STEP]
    const turned = variant === "seed-exact" && orientation !== layout.drawn
    for (let k = 0; k < pattern.length; k++) {
      for (const [y, x] of PIXELS[pattern[k] === "A" ? a : b]) {
        const [dy, dx] = turned ? [x, y] : [y, x]
        out[(row + k * down + dy) * edge + column + k * right + dx] = 255
      }
    }
  }
  return drawnSplits(
    { name, version: 1, options: { seed, variant, testSplit }, classes, shape: [1, edge, edge], draw, label, latents },
    inRandomOrder(codes, parts, seed, name),
  )
}

/** The number of all codes: orientation, pattern, A, B, and the first shape's place, the last varying fastest. */
const count = ({ patterns, along, across }: Layout): number =>
  2 * patterns.length * GLYPHS.length ** 2 * (along[1] - along[0]) * (across[1] - across[0])

function decoder({ patterns, along, across }: Layout): (code: number) => Arrangement {
  return (code) => {
    let rest = code
    const digit = (n: number): number => {
      const d = rest % n
      rest = (rest - d) / n
      return d
    }
    const wide = across[0] + digit(across[1] - across[0])
    const long = along[0] + digit(along[1] - along[0])
    const b = GLYPHS[digit(GLYPHS.length)]!
    const a = GLYPHS[digit(GLYPHS.length)]!
    const pattern = patterns[digit(patterns.length)]!
    return rest === 0
      ? { a, b, row: long, column: wide, orientation: "vertical", pattern }
      : { a, b, row: wide, column: long, orientation: "horizontal", pattern }
  }
}
