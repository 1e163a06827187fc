/** @file Parquet files with the faults that Apache's parquet-testing keeps examples of (bad_data/README.md there). */
import { mkdtempSync, rmSync, writeFileSync } from "node:fs"
import { tmpdir } from "node:os"
import { join } from "node:path"
import { pathToFileURL } from "node:url"
import sharp from "sharp"
import { afterAll, describe, expect, it } from "vitest"
import type * as Parquet from "../src/datasets/parquet.ts"
import { root } from "./helpers/cli.ts"
import {
  BYTE_ARRAY,
  byteArrays,
  type Column,
  type Element,
  INT32,
  int32s,
  type Page,
  parquet,
} from "./helpers/parquet.ts"

// A process of its own runs JavaScript: the built module.
const module = pathToFileURL(join(root, "dist/src/datasets/parquet.js")).href
const { parquetDataset } = (await import(module)) as typeof Parquet

const scratch = mkdtempSync(join(tmpdir(), "vit-prisma-parquet-faults-"))
afterAll(() => rmSync(scratch, { recursive: true }))

const red = { width: 2, height: 2, channels: 3, background: "red" } as const
const png = await sharp({ create: red }).png().toBuffer()

const IMAGE: Element = { name: "image", type: BYTE_ARRAY, repetition: 0 }
const LABEL: Element = { name: "label", type: INT32, repetition: 0 }
const schema = (...columns: readonly Element[]): Element[] => [{ name: "schema", children: 2 }, ...columns]
const plain = (bytes: Uint8Array, values = 4): Page[] => [{ bytes, values }]

const images: Column = { path: ["image"], type: BYTE_ARRAY, values: 4, pages: plain(byteArrays(png, png, png, png)) }
const labels = (pages: readonly Page[], more: Partial<Column> = {}): Column => ({
  path: ["label"],
  type: INT32,
  values: 4,
  pages,
  ...more,
})
const four = plain(int32s(0, 1, 0, 1))
const texts = byteArrays(Buffer.from("a"), Buffer.from("b"), Buffer.from("c"))
const dictionary = (values: number): Page => ({ bytes: texts, values, dictionary: true })
/** Indexes 0, 1, 2, 1 of two bits, in one run. */
const indexes: Page = { bytes: Uint8Array.of(2, 3, 0b01100100, 0), values: 4, indexes: true }
/** Definition levels, a run of so many ones. */
const levels = (n: number) => Uint8Array.of(2, 0, 0, 0, 2 * n, 1)
const TEXT: Element = { ...LABEL, type: BYTE_ARRAY }
const text = (...pages: readonly Page[]): Column => labels(pages, { type: BYTE_ARRAY })

let made = 0
/** Images' first values and labels of a file's rows. */
async function rows(bytes: Buffer): Promise<[number, number][]> {
  const file = join(scratch, `${made++}.parquet`)
  writeFileSync(file, bytes)
  const data = await parquetDataset([file])
  const found: [number, number][] = []
  for (let i = 0; i < data.length; i++) {
    const { image, label } = await data.at(i)
    found.push([image.data[0]!, label as number])
  }
  return found
}

const OPTIONAL: Element = { ...LABEL, repetition: 1 }
const optional = (n: number): Page => ({ bytes: Buffer.concat([levels(n), int32s(0, 1, 0, 1)]), values: 4 })

describe("parquet files put together here", () => {
  it.each<[string, number[], Buffer]>([
    ["with nothing wrong", [0, 1, 0, 1], parquet(schema(IMAGE, LABEL), 4, [images, labels(four)])],
    ["with a dictionary", [0, 1, 2, 1], parquet(schema(IMAGE, TEXT), 4, [images, text(dictionary(3), indexes)])],
    ["with levels", [0, 1, 0, 1], parquet(schema(IMAGE, OPTIONAL), 4, [images, labels([optional(4)])])],
  ])("are read: %s", async (_, want, bytes) => {
    expect(await rows(bytes)).toEqual(want.map((label) => [255, label]))
  })
})

const corrupt = (bytes: Buffer, what: string, code = "E_PARQUET") =>
  expect(rows(bytes)).rejects.toMatchObject({ name: "PrismaError", code, message: expect.stringContaining(what) })

describe("a fault of parquet-testing's bad_data is E_PARQUET:", () => {
  it("PARQUET-1481, a corrupt value in the schema", async () => {
    const made = (label: Partial<Element>) => parquet(schema(IMAGE, { ...LABEL, ...label }), 4, [images, labels(four)])
    await corrupt(made({ type: 97 }), 'column "label" has no type that there is')
    await corrupt(made({ repetition: 9 }), "parquet: ")
    await corrupt(parquet([{ name: "schema", children: 1e9 }, IMAGE, LABEL], 4, [images, labels(four)]), "parquet: ")
    await corrupt(parquet(schema(IMAGE, LABEL), 4, [images, labels(four, { type: 97 })]), "parquet: ")
  })

  it("ARROW-RS-GH-6229-DICTHEADER, a dictionary of less than no values", async () => {
    for (const count of [-1, -3, -(2 ** 31)])
      await corrupt(parquet(schema(IMAGE, TEXT), 4, [images, text(dictionary(count), indexes)]), "parquet: ")
  })

  it("ARROW-GH-41321, fewer levels than the page has values", async () => {
    for (const page of [optional(2), { bytes: levels(2), values: 4 }])
      await corrupt(parquet(schema(IMAGE, OPTIONAL), 4, [images, labels([page])]), "parquet: ")
  })

  it("ARROW-GH-41317, columns of different sizes", async () => {
    const three = plain(int32s(0, 1, 0), 3)
    const said = 'column "label" has 3 values for 4 rows'
    await corrupt(parquet(schema(IMAGE, LABEL), 4, [images, labels(three, { values: 3 })]), said)
    // The footer says otherwise.
    await corrupt(parquet(schema(IMAGE, LABEL), 4, [images, labels(three)]), '3 values of "label" in rows 0 to 3')
    const short = { ...images, pages: plain(byteArrays(png, png, png), 3) }
    await corrupt(parquet(schema(IMAGE, LABEL), 4, [short, labels(four)]), '3 values of "image" in rows 0 to 3')
  })
})

describe("of parquet-testing's bad_data", () => {
  it.each<[string, Uint8Array]>([
    ["ARROW-RS-GH-6229-LEVELS, too few repetition levels", Uint8Array.of(2, 0, 0, 0, 2, 0)],
    ["ARROW-GH-45185, repetition levels that begin with 1", Uint8Array.of(2, 0, 0, 0, 8, 1)],
  ])("%s: lists are refused before they are read, and not read where they are not asked for", async (_, repetition) => {
    const pages = plain(Buffer.concat([repetition, levels(4), int32s(0, 1, 0, 1)]))
    const listed = { ...LABEL, repetition: 2 }
    await corrupt(
      parquet(schema(IMAGE, listed), 4, [images, labels(pages)]),
      "must hold one number",
      "E_DATASET_SCHEMA",
    )
    const columns = [images, labels(four), labels(pages, { path: ["boxes"] })]
    const elements = [{ name: "schema", children: 3 }, IMAGE, LABEL, { ...listed, name: "boxes" }]
    expect(await rows(parquet(elements, 4, columns))).toEqual([0, 1, 0, 1].map((label) => [255, label]))
  })

  it("ARROW-GH-43605, indexes of no bits, is read as the format means it: all are the first of the dictionary", async () => {
    const none = { ...indexes, bytes: Uint8Array.of(0, 8) }
    const bytes = parquet(schema(IMAGE, TEXT), 4, [images, text(dictionary(3), none)])
    expect(await rows(bytes)).toEqual([0, 0, 0, 0].map((label) => [255, label]))
  })
})
