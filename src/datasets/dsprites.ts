/** @file dSprites, drawn (https://github.com/google-deepmind/dsprites-dataset): 737,280 images, none of them stored. */
import { EDGE, LATENTS, renderSprite, spriteKeys, VALUES } from "./dsprites-render.ts"
import { checkFractions, checkSome, indicesOf, type Parts, share, splitIndices, splitOrder } from "./split.ts"
import { checkVariant, type Drawing, drawnSplits, type DrawnSplits, oneOf, type Variant } from "./synthetic.ts"

export interface DSpritesOptions {
  /** Decides which images are for testing. */
  readonly seed?: number
  /** What is to be learned: a class, or of the position [x, y] in 0..1. */
  readonly target?: SpriteTarget
  /** The part that is for testing, by default a quarter. */
  readonly testSplit?: number
  readonly variant?: Variant
}

/** What an image shows. */
export interface Sprite {
  /** Its number in the original file. */
  readonly index: number
  /** 0 square, 1 ellipse, 2 heart. */
  readonly shape: number
  /** 0.5 to 1. */
  readonly scale: number
  /** Radians, 0 to 2 pi, counter-clockwise. */
  readonly orientation: number
  /** 0 (left) to 1. */
  readonly x: number
  /** 0 (top) to 1. */
  readonly y: number
}

const { shape: SHAPES, scale: SCALES, orientation: TURNS, x: XS, y: YS } = LATENTS
const NAME = "dsprites"
const LENGTH = SHAPES * SCALES * TURNS * XS * YS

/** Classes of an image's latents, as renderSprite takes them and the original's file lists them after the colour. */
export type SpriteClasses = readonly [shape: number, scale: number, turn: number, x: number, y: number]

const classesOf = (code: number): SpriteClasses => [shapeOf(code), scaleOf(code), turnOf(code), xOf(code), yOf(code)]

const shapeOf = (code: number) => Math.floor(code / (SCALES * TURNS * XS * YS))
const scaleOf = (code: number) => Math.floor(code / (TURNS * XS * YS)) % SCALES
const turnOf = (code: number) => Math.floor(code / (XS * YS)) % TURNS
const xOf = (code: number) => Math.floor(code / YS) % XS
const yOf = (code: number) => code % YS

interface Target {
  readonly classes: readonly string[]
  readonly label: (of: SpriteClasses) => number | readonly number[]
}

const TARGETS = {
  shape: { classes: ["square", "ellipse", "heart"], label: ([shape]) => shape },
  scale: { classes: VALUES.scale.map((s) => `${s}`), label: ([, scale]) => scale },
  position: { classes: [], label: ([, , , x, y]) => [VALUES.x[x]!, VALUES.y[y]!] },
  // The last of the 40 turns is a whole one, whose images are those of the first.
  orientation: {
    classes: Array.from({ length: TURNS - 1 }, (_, i) => `${i}/${TURNS - 1} turn`),
    label: ([, , turn]) => turn % (TURNS - 1),
  },
} satisfies { readonly [name: string]: Target }

export type SpriteTarget = keyof typeof TARGETS

/** What of a sprite is to be learned. Error: E_CONFIG. */
export const spriteTarget = (target: unknown): Target =>
  TARGETS[oneOf(target, Object.keys(TARGETS) as SpriteTarget[], `${NAME}: target`)]

/**
 * All images, uint8 [1, 64, 64] of 0 and 255, a quarter of them for testing. An image that occurs more than once
 * is on one side only; "seed-exact" splits them as they come. Errors: E_CONFIG, E_DATASET_EMPTY.
 */
export function dSprites(options: DSpritesOptions = {}): DrawnSplits<Sprite> {
  const { seed = 0, target = "shape", testSplit = 0.25, variant = "corrected" } = options
  const split = { seed, name: NAME, test: testSplit }
  checkFractions(split)
  checkSome(LENGTH, split)
  checkVariant(variant, NAME)
  const { classes, label } = spriteTarget(target)
  const drawing: Drawing<Sprite> = {
    name: NAME,
    version: 1,
    options: { seed, target, testSplit, variant },
    classes,
    shape: [1, EDGE, EDGE],
    draw: (code, out) => renderSprite(...classesOf(code), out),
    label: (code) => label(classesOf(code)),
    latents: (code) => ({
      index: code,
      shape: shapeOf(code),
      scale: VALUES.scale[scaleOf(code)]!,
      orientation: VALUES.orientation[turnOf(code)]!,
      x: VALUES.x[xOf(code)]!,
      y: VALUES.y[yOf(code)]!,
    }),
  }
  return drawnSplits(
    drawing,
    variant === "seed-exact" ? splitIndices(LENGTH, split) : keepTogether(seed, share(LENGTH, testSplit)),
  )
}

let known: ReadonlyMap<number, readonly number[]> | undefined

/** Of each image that occurs more than once, all its codes: the first and the last turn, and some squares and small ellipses
 * that come to lie on the same pixels. They differ in orientation alone; 715,760 images are distinct. */
function equalImages(): ReadonlyMap<number, readonly number[]> {
  if (known) return known
  const groups = new Map<number, readonly number[]>()
  const places = XS * YS
  for (let start = 0; start < LENGTH; start += TURNS * places) {
    for (let y = 0; y < YS; y++) {
      const keys = Array.from({ length: TURNS }, (_, turn) => spriteKeys(shapeOf(start), scaleOf(start), turn, y))
      for (let x = 0; x < XS; x++) {
        const seen = new Map<number, number[]>()
        for (const [turn, { [x]: key }] of keys.entries()) {
          const code = start + turn * places + x * YS + y
          const equal = seen.get(key!)
          if (equal) equal.push(code)
          else seen.set(key!, [code])
        }
        for (const codes of seen.values()) if (codes.length > 1) for (const code of codes) groups.set(code, codes)
      }
    }
  }
  return (known = groups)
}

/** `count` images for testing, in the order of the plain split as far as equal images allow. */
function keepTogether(seed: number, count: number): Parts {
  const groups = equalImages()
  const side = new Uint8Array(LENGTH) // 1 test, 2 train
  let left = count
  for (const code of splitOrder(LENGTH, seed, NAME)) {
    if (side[code]) continue
    const codes = groups.get(code) ?? [code]
    const tested = codes.length <= left
    if (tested) left -= codes.length
    for (const one of codes) side[one] = tested ? 1 : 2
  }
  return { train: indicesOf(side, 2), test: indicesOf(side, 1) }
}
