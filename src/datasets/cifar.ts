/** @file CIFAR-10 (https://www.cs.toronto.edu/~kriz/cifar.html) from its binary batches, the Hub's parquet files, or PNG sheets
 * with one image a row. */
import { join } from "node:path"
import { decodeImage } from "../data/image.ts"
import { fail, listed } from "../errors.ts"
import type { NamedDataset, Splits } from "./dataset.ts"
import { planar } from "./encoded.ts"
import { checkLabels, checkVariety, held } from "./held.ts"
import { parquetSplits } from "./parquet.ts"
import { splitsFound } from "./roles.ts"
import { namesIn, readWhole, sha256 } from "./whole.ts"

const CLASSES = "airplane,automobile,bird,cat,deer,dog,frog,horse,ship,truck".split(",")
const SPLITS = ["train", "test"] as const
const EDGE = 32
const PIXELS = 3 * EDGE * EDGE

/** Bytes of a batch file, ten times those of the original's. */
const MAX_BATCH = 300 * 2 ** 20

interface Layout {
  readonly files: string
  readonly matches: (names: readonly string[]) => boolean
  readonly read: (folder: string, names: readonly string[]) => Promise<Splits>
}

const LAYOUTS: readonly Layout[] = [
  {
    files: "data_batch_1.bin and test_batch.bin",
    matches: (names) => names.some((name) => /^(data_batch_\d+|test_batch)\.bin$/.test(name)),
    read: readBinary,
  },
  {
    files: "cifar10_batch_0.png and cifar10_labels.js",
    matches: (names) => names.includes("cifar10_labels.js"),
    read: readSheets,
  },
  {
    files: "plain_text/train-00000-of-00001.parquet",
    matches: () => true,
    read: (folder) => readParquet(folder),
  },
]

/**
 * CIFAR-10, images [3, 32, 32], from a folder in one of three layouts: the binary batches, the Hub's parquet files
 * (columns img and label), or PNG sheets with their labels, of which the last sheet is the test split. Parquet images are
 * decoded when asked for, the others are held (154 MB of the sheets' 51,000 images).
 * Errors: E_DATASET_EMPTY for a missing split, E_DATASET_SCHEMA for files that do not fit together, E_LABEL_RANGE,
 * E_IMAGE_DECODE, E_NOT_A_FILE, E_IO, and those of `parquetSplits`.
 */
export async function cifar10(folder: string): Promise<Splits> {
  const names = await namesIn(folder)
  return LAYOUTS.find(({ matches }) => matches(names))!.read(folder, names)
}

const schema = (file: string, what: string): never => fail("E_DATASET_SCHEMA", `${file}: ${what}`, { file })

function split(role: string, images: Uint8Array, labels: Uint8Array, file: string): NamedDataset {
  if (labels.length === 0) fail("E_DATASET_EMPTY", `${file}: has no images; ${splitsFound(SPLITS)}`, { file })
  checkLabels(labels, CLASSES.length, file)
  if (role === "train") checkVariety(labels, CLASSES, file, SPLITS)
  const fingerprint = sha256("cifar10", images, labels)
  return held({ name: `cifar10/${role}`, images, labels, shape: [3, EDGE, EDGE], classes: CLASSES, fingerprint })
}

async function readBinary(folder: string, names: readonly string[]): Promise<Splits> {
  const batches = names.filter((name) => /^data_batch_\d+\.bin$/.test(name))
  const found = { train: batches.length > 0, test: names.includes("test_batch.bin") }
  if (!found.train || !found.test) {
    const text = found.train
      ? "no test split (test_batch.bin); splits found: train"
      : "no train split (data_batch_1.bin); splits found: test"
    fail("E_DATASET_EMPTY", `${folder}: ${text}`, { file: folder })
  }
  const read = async (role: string, files: readonly string[]) => {
    const parts: Uint8Array[] = []
    for (const name of files) parts.push(await readBatch(join(folder, name)))
    const rows = parts.reduce((sum, { length }) => sum + length, 0) / (1 + PIXELS)
    const images = new Uint8Array(rows * PIXELS)
    const labels = new Uint8Array(rows)
    let row = 0
    for (const part of parts) {
      for (let at = 0; at < part.length; at += 1 + PIXELS, row++) {
        labels[row] = part[at]!
        images.set(part.subarray(at + 1, at + 1 + PIXELS), row * PIXELS)
      }
    }
    return split(role, images, labels, join(folder, files[0]!))
  }
  return { train: await read("train", batches), test: await read("test", ["test_batch.bin"]) }
}

/** Rows of one byte of label and 3072 of pixels, [3, 32, 32]. */
async function readBatch(file: string): Promise<Uint8Array> {
  const bytes = await readWhole(file, MAX_BATCH)
  if (bytes.length % (1 + PIXELS)) {
    schema(file, `has ${bytes.length} bytes, expected a multiple of ${1 + PIXELS} (label and pixels); get it again`)
  }
  return bytes
}

async function readSheets(folder: string, names: readonly string[]): Promise<Splits> {
  const count = names.filter((name) => /^cifar10_batch_\d+\.png$/.test(name)).length
  const sheets = Array.from({ length: count }, (_, i) => `cifar10_batch_${i}.png`)
  const gaps = sheets.filter((name) => !names.includes(name))
  if (gaps.length > 0) schema(folder, `${count} PNG sheets, but no ${listed(gaps)}; get the whole set`)
  if (count < 2) {
    const text = `no test split: it is the last of two or more PNG sheets, got ${count}; splits found: ${count ? "train" : "none"}`
    fail("E_DATASET_EMPTY", `${folder}: ${text}`, { file: folder })
  }
  const file = join(folder, "cifar10_labels.js")
  const labels = await readLabels(file)
  const parts: Uint8Array[] = []
  for (const name of sheets) parts.push(await readSheet(join(folder, name)))
  const rows = parts.map(({ length }) => length / PIXELS)
  const total = rows.reduce((a, b) => a + b, 0)
  if (total !== labels.length)
    schema(file, `${total} labels expected, one for each row of the sheets, got ${labels.length}`)
  checkLabels(labels, CLASSES.length, file)
  const train = new Uint8Array((total - rows.at(-1)!) * PIXELS)
  let at = 0
  for (const part of parts.slice(0, -1)) {
    train.set(part, at)
    at += part.length
  }
  const cut = train.length / PIXELS
  return {
    train: split("train", train, Uint8Array.from(labels.slice(0, cut)), file),
    test: split("test", parts.at(-1)!, Uint8Array.from(labels.slice(cut)), file),
  }
}

/** The numbers in `var labels=[6, 9, ...];`, read as text. */
async function readLabels(file: string): Promise<number[]> {
  const text = Buffer.from(await readWhole(file, 2 ** 20)).toString("latin1")
  const list = /^\s*var\s+labels\s*=\s*\[([\d,\s]*)\]\s*;?\s*$/.exec(text)?.[1]
  if (list === undefined) return schema(file, "expected `var labels=[6, 9, ...];` and nothing else")
  return list.trim() === "" ? [] : list.split(",").map((part) => (part.trim() === "" ? NaN : Number(part)))
}

/** Every row of pixels of the sheet is an image, [32, 32, 3], which becomes [3, 32, 32]. */
async function readSheet(file: string): Promise<Uint8Array> {
  const { width, height, data } = await decodeImage(file)
  if (width * 3 !== PIXELS) schema(file, `is ${width} pixels wide, expected ${PIXELS / 3}, one image a row`)
  const out = new Uint8Array(data.length)
  for (let row = 0; row < height; row++) {
    out.set(planar(data.subarray(row * PIXELS, (row + 1) * PIXELS), 3, EDGE, EDGE).data, row * PIXELS)
  }
  return out
}

async function readParquet(folder: string): Promise<Splits> {
  const splits = await parquetSplits(folder, { name: "cifar10", image: "img", classes: CLASSES }).catch(
    (error: unknown) => {
      const { code, message } = error as { code?: unknown; message: string }
      if (code !== "E_DATASET_EMPTY") throw error
      return fail("E_DATASET_EMPTY", `${message}; CIFAR-10 is ${LAYOUTS.map(({ files }) => files).join(", or ")}`, {
        file: folder,
      })
    },
  )
  return splits
}
