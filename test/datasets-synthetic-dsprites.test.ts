/** @file The drawn dSprites against the original's images, against other ways to draw, and its splits. */
import { createHash } from "node:crypto"
import { existsSync, readFileSync } from "node:fs"
import { resolve } from "node:path"
import { describe, expect, it } from "vitest"
import { dSprites } from "../src/datasets/dsprites.ts"
import { renderSprite } from "../src/datasets/dsprites-render.ts"
import type { DrawnDataset } from "../src/datasets/synthetic.ts"
import { Random } from "../src/tensor/random.ts"

const FRAMES = resolve(import.meta.dirname, "../../shared/data/dsprites/gif_frames_320x64x64_uint8.npy")

type Classes = [shape: number, scale: number, orientation: number, x: number, y: number]

/** The classes of the original's 320 published frames: the heart, which also goes round the corners, the ellipse, the
 * square; each grows, shrinks, grows, turns and shrinks. */
function frames(): Classes[] {
  const up = [0, 1, 2, 3, 4, 5]
  const down = up.toReversed()
  const along = Array.from({ length: 32 }, (_, i) => i)
  const round = [
    ...along.map((i) => [0, i] as const),
    ...along.map((i) => [i, 31] as const),
    ...along.map((i) => [31, 31 - i] as const),
    ...along.map((i) => [31 - i, 0] as const),
  ]
  return [2, 1, 0].flatMap((shape): Classes[] => [
    ...[...up, ...down, ...up].map((scale): Classes => [shape, scale, 0, 0, 0]),
    ...Array.from({ length: 40 }, (_, turn): Classes => [shape, 5, turn, 0, 0]),
    ...(shape === 2 ? round : []).map(([x, y]): Classes => [shape, 5, 0, x, y]),
    ...down.map((scale): Classes => [shape, scale, 0, 0, 0]),
  ])
}

function drawn(classes: Classes): Uint8Array {
  const out = new Uint8Array(64 * 64)
  renderSprite(...classes, out)
  return out
}

const hash = (bytes: Uint8Array): string => createHash("sha256").update(bytes).digest("base64")
const codeOf = ([shape, scale, turn, x, y]: Classes): number => (((shape * 6 + scale) * 40 + turn) * 32 + x) * 32 + y

describe("the sprites", () => {
  it("are the 320 frames that the original's authors published", () => {
    const all = createHash("sha256")
    for (const classes of frames()) all.update(drawn(classes))
    // The hash of those frames, 0 and 255, one after the other.
    expect(all.digest("hex")).toBe("4df7a45fd0f462d9c652ca4e8521b58f26683bb519614775c97a9b91e60006da")
  })

  it.skipIf(!existsSync(FRAMES))("are so pixel for pixel (skipped where ../shared is absent)", () => {
    const pixels = readFileSync(FRAMES).subarray(128)
    const wrong = frames().map((classes, i) => {
      const image = drawn(classes)
      return image.filter((v, p) => v !== pixels[i * 4096 + p]).length
    })
    expect(wrong).toEqual(Array.from({ length: 320 }, () => 0))
    expect(new Set(frames().map((c) => hash(drawn(c)))).size).toBe(254)
  })

  it("are what a test of every pixel draws", () => {
    const random = new Random(0, "sprites")
    const outlines = [
      [0, 1, 2, 3].map((k) => [9.598 * (k === 1 || k === 2 ? 1 : -1), 9.598 * (k > 1 ? 1 : -1)]),
      turns().map((t) => [12.7667 * Math.cos(t), 7.2141 * Math.sin(t)]),
      turns().map((t) => [
        9.59876 * Math.sin(t) ** 3,
        -1.43798 - 0.662177 * (13 * Math.cos(t) - 5 * Math.cos(2 * t) - 2 * Math.cos(3 * t) - Math.cos(4 * t)),
      ]),
    ]
    for (let n = 0; n < 90; n++) {
      const classes: Classes = [
        n % 3,
        ...([6, 40, 32, 32].map((k) => random.below(k)) as [number, number, number, number]),
      ]
      const [shape, scale, turn, x, y] = classes
      const angle = (turn * 2 * Math.PI) / 39
      const image = new Uint8Array(4096)
      for (let p = 0; p < 4096; p++) {
        // The pixel's centre, taken back into the upright sprite.
        const dx = ((p % 64) + 0.5 - (16 + (32 * x) / 31)) / (0.5 + scale / 10)
        const dy = (Math.floor(p / 64) + 0.5 - (16 + (32 * y) / 31)) / (0.5 + scale / 10)
        const u = dx * Math.cos(angle) - dy * Math.sin(angle)
        const v = dx * Math.sin(angle) + dy * Math.cos(angle)
        if (Math.hypot(u, v) < 16 && windings(outlines[shape]!, u, v) !== 0) image[p] = 255
      }
      expect(hash(drawn(classes)), classes.join()).toBe(hash(image))
    }
  })
})

const turns = (): number[] => Array.from({ length: 180 }, (_, i) => (i * Math.PI) / 90)

/** How often a polygon goes round a point: the angles under which its edges are seen, added up. */
function windings(polygon: readonly number[][], u: number, v: number): number {
  let sum = 0
  polygon.forEach(([x0, y0], i) => {
    const [x1, y1] = polygon[(i + 1) % polygon.length]!
    const [a, b, c, d] = [x0! - u, y0! - v, x1! - u, y1! - v]
    sum += Math.atan2(a * d - b * c, a * c + b * d)
  })
  return Math.round(sum / (2 * Math.PI))
}

/** The codes of a split, from the smallest to the largest. */
const codes = (of: DrawnDataset<{ readonly index: number }>): Uint32Array =>
  Uint32Array.from({ length: of.length }, (_, i) => of.latents(i).index)

describe("dSprites", () => {
  const splits = dSprites()
  const exact = dSprites({ variant: "seed-exact" })
  const tested = codes(splits.test)
  const testedExactly = codes(exact.test)
  const marked = (of: Uint32Array): Uint8Array => {
    const marks = new Uint8Array(737_280)
    for (const code of of) marks[code]!++
    return marks
  }

  it.each([
    ["corrected", splits, tested],
    ["seed-exact", exact, testedExactly],
  ])("%s: 552,960 and 184,320 images, each code once", (_, { train, test }, of) => {
    expect([train.length, test.length, test.shape]).toEqual([552_960, 184_320, [1, 64, 64]])
    const marks = marked(of)
    for (const code of codes(train)) marks[code]!++
    expect(marks.every((n) => n === 1)).toBe(true)
    expect(of.every((code, i) => i === 0 || code > of[i - 1]!)).toBe(true)
  })

  it("holds out, in the seed's variant, the first quarter of a permutation", () => {
    const quarter = new Random(0, "dsprites:split").permutation(737_280).slice(0, 184_320)
    expect(quarter.sort().every((code, i) => code === testedExactly[i])).toBe(true)
  })

  it("keeps equal images on one side", () => {
    const [side, sideExactly] = [marked(tested), marked(testedExactly)]
    let [copies, split] = [0, 0]
    for (const [shape, scale] of [
      [0, 0],
      [1, 0],
    ] as const) {
      const first = new Map<string, number>()
      for (let code = codeOf([shape, scale, 0, 0, 0]); code < codeOf([shape, scale, 40, 0, 0]); code++) {
        const key = hash(drawn([shape, scale, Math.floor(code / 1024) % 40, Math.floor(code / 32) % 32, code % 32]))
        const twin = first.get(key)
        if (twin === undefined) {
          first.set(key, code)
          continue
        }
        copies++
        if (sideExactly[twin] !== sideExactly[code]) split++
        expect(side[twin]).toBe(side[code])
      }
    }
    expect(copies).toBe(1896 + 1464)
    expect(split).toBeGreaterThan(1000)
  })

  it("has the last turn's images with the first's, all over", () => {
    const side = marked(tested)
    const apart = side.filter((of, code) => Math.floor(code / 1024) % 40 === 0 && side[code + 39 * 1024] !== of)
    expect(apart).toHaveLength(0)
  })

  it.each(["shape", "scale", "position", "orientation"] as const)("labels the %s", (target) => {
    const { test } = dSprites({ target, variant: "seed-exact" })
    for (let i = 0; i < test.length; i += 911) {
      const { index, ...latents } = test.latents(i)
      const at: Classes = [0, 0, 0, 0, 0]
      let rest = index
      for (const [k, n] of [32, 32, 40, 6, 3].entries()) {
        at[4 - k] = rest % n
        rest = Math.floor(rest / n)
      }
      const [shape, scale, turn, x, y] = at
      const { label, image } = test.at(i)
      expect([image.dtype, hash(Uint8Array.from(image.data))]).toEqual(["uint8", hash(drawn(at))])
      const position = [x / 31, y / 31]
      expect(label).toEqual({ shape, scale, position, orientation: turn === 39 ? 0 : turn }[target])
      if (target !== "position") expect(test.classes[Number(label)]).toBeDefined()
      expect(latents.shape).toBe(shape)
      expect(latents.scale).toBeCloseTo(0.5 + 0.1 * scale, 12)
      expect(latents.orientation).toBeCloseTo((turn / 39) * 2 * Math.PI, 12)
      expect([latents.x, latents.y]).toEqual(position)
    }
    expect(test.classes).toHaveLength({ shape: 3, scale: 6, position: 0, orientation: 39 }[target])
  })

  it("is known by seed, target and variant", () => {
    const all = [splits.train, splits.test, exact.test, dSprites({ variant: "seed-exact", target: "scale" }).test]
    expect(new Set(all.map((d) => d.fingerprint)).size).toBe(4)
    expect(dSprites().test.fingerprint).toBe(splits.test.fingerprint)
  })

  it("refuses what it cannot do", () => {
    const wrong = (value: unknown): never => value as never
    for (const options of [{ target: wrong("colour") }, { testSplit: 0 }, { seed: 0.5 }, { variant: wrong(1) }]) {
      expect(() => dSprites(options)).toThrow(expect.objectContaining({ code: "E_CONFIG" }))
    }
  })
})
