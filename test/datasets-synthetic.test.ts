/** @file Induction, polygenic and circle data: read back from the pixels, counted, pinned, and searched for leaks. */
import { describe, expect, it } from "vitest"
import { circle } from "../src/datasets/circle.ts"
import { contentHash } from "../src/datasets/fingerprint.ts"
import { induction, polygenicInduction } from "../src/datasets/induction.ts"
import { duplicates, leaks } from "../src/datasets/split.ts"
import type { DrawnDataset, DrawnSplits } from "../src/datasets/synthetic.ts"

const VARIANTS = ["corrected", "seed-exact"] as const

/** Rows and columns of the pixels with value `of`. */
function ink(dataset: DrawnDataset<unknown>, i: number, of = 255): [number, number][] {
  const edge = dataset.shape[2]
  const { data } = dataset.at(i).image
  const found: [number, number][] = []
  data.forEach((v, p) => v === of && found.push([Math.floor(p / edge), p % edge]))
  return found
}

/** What an image of shapes 7 apart shows: how it lies, and its cells of 5 x 5, each as text. Two shapes side by side
 * are 8 pixels long at least and 5 wide at most, so the longer edge of the ink says the direction. */
function seen(dataset: DrawnDataset<unknown>, i: number, shapes: number): { vertical: boolean; cells: string[] } {
  const pixels = ink(dataset, i)
  const span = (xs: number[]) => Math.max(...xs) - Math.min(...xs)
  const vertical = span(pixels.map(([r]) => r)) > span(pixels.map(([, c]) => c))
  const places = vertical ? pixels : pixels.map(([r, c]): [number, number] => [c, r])
  const top = Math.min(...places.map(([a]) => a))
  // Any raster of cells that holds all ink shows which cells are equal.
  const covers = (start: number) => places.every(([a]) => a >= start && (a - start) % 7 < 5 && a < start + 7 * shapes)
  const start = [top, top - 1, top - 2].find(covers)
  expect(start).toBeDefined()
  const cells = Array.from({ length: shapes }, (_, k) =>
    places
      .filter(([a]) => Math.floor((a - start!) / 7) === k)
      .map(([a, across]) => `${a - start! - 7 * k},${across}`)
      .toSorted()
      .join(" "),
  )
  return { vertical, cells }
}

/** "AABB": the cells by which are equal. */
const letters = (cells: readonly string[]): string => cells.map((c) => "AB"[cells[0] === c ? 0 : 1]).join("")

function counts(dataset: DrawnDataset<unknown>): number[] {
  const found = dataset.classes.map(() => 0)
  for (let i = 0; i < dataset.length; i++) found[Number(dataset.at(i).label)]!++
  return found
}

const same = <T>(n: number, value: T): T[] => Array.from({ length: n }, () => value)

/** A shape as people draw it. */
const ART = {
  circle: ["..#..", ".###.", "#####", ".###.", "..#.."],
  line: ["..#..", "..#..", "..#..", "..#..", "..#.."],
  x: ["#...#", ".#.#.", "..#..", ".#.#.", "#...#"],
  diagonal: ["#....", ".#...", "..#..", "...#.", "....#"],
} as const
const LYING = [".....", ".....", "#####", ".....", "....."]

describe("induction", () => {
  describe.each(VARIANTS)("%s", (variant) => {
    const { train, test } = induction({ variant })

    it("has 5,872 and 656 images, the four classes alike", () => {
      expect([train.length, test.length]).toEqual([5872, 656])
      expect(counts(train)).toEqual(same(4, 1468))
      expect(counts(test)).toEqual(same(4, 164))
      expect(train.classes).toEqual(["vertical-same", "vertical-not-same", "horizontal-same", "horizontal-not-same"])
    })

    it("labels what its pixels show", () => {
      for (const dataset of [train, test]) {
        for (let i = 0; i < dataset.length; i += 3) {
          const { vertical, cells } = seen(dataset, i, 2)
          const name = `${vertical ? "vertical" : "horizontal"}-${cells[0] === cells[1] ? "same" : "not-same"}`
          expect(dataset.classes[Number(dataset.at(i).label)]).toBe(name)
        }
      }
    })

    it("draws its latents as people would", () => {
      for (let i = 0; i < 200; i++) {
        const { a, b, row, column, orientation } = train.latents(i)
        const paper = Array.from({ length: 32 }, () => ".".repeat(32))
        const down = orientation === "vertical"
        const put = (art: readonly string[], r: number, c: number) =>
          art.forEach((line, k) => {
            const old = paper[r - 2 + k]!
            paper[r - 2 + k] = old.slice(0, c - 2) + line + old.slice(c + 3)
          })
        const artOf = (shape: keyof typeof ART) =>
          shape === "line" && down && variant === "seed-exact" ? LYING : ART[shape]
        put(artOf(a), row, column)
        put(artOf(b), down ? row + 7 : row, down ? column : column + 7)
        const drawn = Array.from(train.at(i).image.data, (v) => (v === 255 ? "#" : v === 0 ? "." : "?")).join("")
        expect(drawn).toBe(paper.join(""))
      }
    })

    it("shows no image twice, in one split or in both", async () => {
      expect(await leaks(train, test)).toEqual([])
      expect(await duplicates(train)).toEqual([])
      expect(await duplicates(test)).toEqual([])
    })

    it("tells the orientation by the line alone only in the seed's variant", () => {
      const lying = { vertical: 0, horizontal: 0 }
      for (let i = 0; i < test.length; i++) {
        const pixels = ink(test, i)
        const inRow = (row: number) => pixels.filter(([r]) => r === row).map(([, c]) => c)
        const rows = [...new Set(pixels.map(([r]) => r))]
        // Five in a row with none above it, which tells it from the circle's middle.
        const bars = rows.filter(
          (r) => inRow(r).length === 5 && inRow(r)[4] === inRow(r)[0]! + 4 && !inRow(r - 1).length,
        )
        if (bars.length > 0) lying[test.latents(i).orientation]++
      }
      expect(lying.horizontal).toBe(0)
      expect(lying.vertical > 50).toBe(variant === "seed-exact")
    })
  })

  it("is decided by its seed", async () => {
    const { train, test } = induction()
    expect(await contentHash(train)).toBe("68f18e6b7a810d36a25d0df7046ea952b8b0f34b7e02fcb821bac96deb7ccd5b")
    expect(await contentHash(test)).toBe("bf0886634abfa610bae1684d8375be506f1a273eafeb64028a29c9e89b9d5a6e")
    expect(await contentHash(induction({ seed: 1 }).test)).not.toBe(await contentHash(test))
    expect(induction().train.fingerprint).toBe(train.fingerprint)
    const prints = [train, test, induction({ seed: 1 }).train, induction({ variant: "seed-exact" }).train]
    expect(new Set(prints.map((d) => d.fingerprint)).size).toBe(4)
  })
})

describe("polygenic induction", () => {
  it.each([
    ["corrected", 2649, 295],
    ["seed-exact", 7948, 884],
  ] as const)("%s: %i and %i of each of twelve classes", (variant, each, tested) => {
    const { train, test } = polygenicInduction({ variant })
    expect(counts(train)).toEqual(same(12, each))
    expect(counts(test)).toEqual(same(12, tested))
    expect([train.shape, train.length + test.length]).toEqual([[1, 64, 64], 12 * (each + tested)])
  })

  it.each(VARIANTS)("%s: labels what its pixels show", (variant) => {
    const { test } = polygenicInduction({ variant })
    for (let i = 0; i < test.length; i += 7) {
      const { vertical, cells } = seen(test, i, 4)
      const name = `${vertical ? "vertical" : "horizontal"}-${letters(cells)}`
      expect(test.classes[Number(test.at(i).label)]).toBe(name)
    }
  })

  it("shows no image twice", async () => {
    const { train, test } = polygenicInduction()
    expect(await leaks(train, test)).toEqual([])
    expect(await duplicates(train)).toEqual([])
  })

  it("leaks AAAA, and nothing else, in the seed's variant", async () => {
    const { train, test } = polygenicInduction({ variant: "seed-exact" })
    const found = await leaks(train, test)
    expect(found.every((twin) => twin.sameLabel)).toBe(true)
    expect(new Set(found.map(({ b }) => test.at(b).label))).toEqual(new Set([0, 6]))
    // 8,832 of 11,776 drawn, 90 % of them for training: a test image's three copies are all absent with (1 - 0.675)^3.
    expect(found.length / (2 * 884)).toBeCloseTo(1 - 0.325 ** 3, 1)
  })
})

describe("circle", () => {
  const HOUR = (2 * Math.PI) / 60
  const both = (s: DrawnSplits<unknown>) => [s.train, s.test]

  it.each(VARIANTS)("%s: two gray hours of 60, whose sum is the label", (variant) => {
    const splits = circle({ variant })
    const pairs: string[] = []
    for (const dataset of both(splits)) {
      expect([dataset.length, dataset.classes.length, dataset.shape]).toEqual([885, 60, [1, 32, 32]])
      for (let i = 0; i < dataset.length; i++) {
        // A truncated coordinate lies half a pixel before its point on the average.
        const hours = ink(dataset, i, 128).map(([r, c]) => Math.round(Math.atan2(r - 15.5, c - 15.5) / HOUR + 60) % 60)
        expect(hours).toHaveLength(2)
        expect(ink(dataset, i, 0)).toHaveLength(58)
        expect(ink(dataset, i)).toHaveLength(32 * 32 - 60)
        const [a, b] = hours.toSorted((x, y) => x - y) as [number, number]
        expect(dataset.latents(i)).toEqual({ a, b })
        expect(dataset.at(i).label).toBe((a + b) % 60)
        pairs.push(`${a},${b}`)
      }
    }
    expect(new Set(pairs).size).toBe((60 * 59) / 2)
  })

  it("has each hour's pixel, truncated", () => {
    const points = new Set(
      Array.from({ length: 60 }, (_, k) =>
        // Decimal text does away with the last bits, 270 degrees' among them.
        [Math.sin(k * HOUR), Math.cos(k * HOUR)].map((c) => (16 + 15.5 * c).toFixed(9).split(".")[0]).join(),
      ),
    )
    const { train } = circle()
    const black = [...ink(train, 0, 0), ...ink(train, 0, 128)].map((p) => p.join())
    expect(new Set(black)).toEqual(points)
    const exact = circle({ variant: "seed-exact" }).train
    const other = [...ink(exact, 0, 0), ...ink(exact, 0, 128)].map((p) => p.join())
    expect(other.filter((p) => !points.has(p))).toEqual(["0,15"])
  })

  it("shows no image twice, and is decided by its seed", async () => {
    const { train, test } = circle()
    expect(await leaks(train, test)).toEqual([])
    expect([...(await duplicates(train)), ...(await duplicates(test))]).toEqual([])
    expect(await contentHash(train)).toBe("90ac07da67991e9131d139adc89a3b32bd0faf1f6077419d8880369ec9e3de9f")
    expect(await contentHash(test)).toBe("8b7bd1f0794da7d13a5bb8533cca1d2e51640f892e058b122c902f85035c52f7")
    expect(await contentHash(circle({ seed: 7 }).test)).not.toBe(await contentHash(test))
  })

  it("has other clocks", () => {
    const { train, test } = circle({ modulus: 12, imageSize: 17, testSplit: 0.25 })
    expect([train.length, test.length, train.shape]).toEqual([49, 17, [1, 17, 17]])
    for (let i = 0; i < test.length; i++) {
      const { a, b } = test.latents(i)
      expect(test.at(i).label).toBe((a + b) % 12)
    }
  })
})

describe("what cannot be drawn is refused", () => {
  const wrong = (value: unknown): never => value as never
  it.each([
    [
      "a negative seed",
      () => induction({ seed: -1 }),
      "induction: seed must be a whole number from 0 to 2^53 - 1, got",
    ],
    ["a seed in text", () => induction({ seed: wrong("0") }), "induction: seed must be a whole number"],
    [
      "an unknown variant",
      () => induction({ variant: wrong("exact") }),
      "induction: variant must be one of corrected, seed-exact, got",
    ],
    ["all for testing", () => induction({ testSplit: 1 }), "induction: the parts must be fractions"],
    ["a fraction in text", () => induction({ testSplit: wrong("0.1") }), "induction: the parts must be fractions"],
    [
      "no number",
      () => polygenicInduction({ testSplit: Number.NaN }),
      "polygenic-induction: the parts must be fractions",
    ],
    ["null for a variant", () => polygenicInduction({ variant: wrong(null) }), "polygenic-induction: variant must be"],
    ["two hours", () => circle({ modulus: 2 }), "circle: modulus must be a whole number from 3 to 1024"],
    ["a billion hours", () => circle({ modulus: 1e9 }), "circle: modulus must be a whole number from 3 to 1024"],
    ["hours on one pixel", () => circle({ modulus: 100 }), "circle: two of 100 hours fall on one pixel of 32 x 32"],
    ["half a pixel", () => circle({ imageSize: 32.5 }), "circle: imageSize must be a whole number from 4 to 1024"],
  ])("%s", (_, make, message) => {
    expect(make).toThrow(expect.objectContaining({ code: "E_CONFIG", message: expect.stringContaining(message) }))
  })

  it("an empty split", () => {
    expect(() => circle({ modulus: 3, testSplit: 0.99 })).toThrow(
      expect.objectContaining({ code: "E_DATASET_EMPTY", exitCode: 1 }),
    )
  })

  it("a sample that is not there", () => {
    const { test } = circle()
    for (const i of [-1, 885, 0.5, Number.NaN]) {
      expect(() => test.at(i)).toThrow(expect.objectContaining({ code: "E_INPUT" }))
      expect(() => test.latents(i)).toThrow(expect.objectContaining({ code: "E_INPUT" }))
    }
  })
})
