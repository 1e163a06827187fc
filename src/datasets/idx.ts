/** @file The idx format of MNIST and its relatives, plain or gzipped (http://yann.lecun.com/exdb/mnist/): 00 00 type rank,
 * `rank` sizes of 32 bits, the values; all big-endian. */
import { join } from "node:path"
import { createGunzip } from "node:zlib"
import { fail, listed } from "../errors.ts"
import { type Arrays, DTYPES, show, size, type Tensor } from "../tensor/tensor.ts"
import type { Splits } from "./dataset.ts"
import { checkLabels, checkVariety, held } from "./held.ts"
import { ordered } from "./order-bytes.ts"
import { splitsFound } from "./roles.ts"
import { namesIn, readWhole, sha256 } from "./whole.ts"

type IdxType = Exclude<keyof Arrays, "float16" | "bfloat16" | "int64" | "uint64" | "uint32" | "uint16" | "bool">

const TYPES: ReadonlyMap<number, IdxType> = new Map([
  [0x08, "uint8"],
  [0x09, "int8"],
  [0x0b, "int16"],
  [0x0c, "int32"],
  [0x0d, "float32"],
  [0x0e, "float64"],
])

/** A gzip that claims to grow more is a bomb; MNIST grows 5 times, and 1032 is what deflate can reach. */
const MAX_RATIO = 100
const RATIO_FLOOR = 65_536 // bytes; a small file may be all zeros
const MAX_BYTES = 2 ** 30
const CHUNK = 1 << 20

interface Header {
  readonly dtype: IdxType
  readonly shape: readonly number[]
  /** Where the values begin, and the bytes of the whole file. */
  readonly start: number
  readonly end: number
}

const bad = (file: string, what: string): never =>
  fail("E_IDX", `${file}: ${what}; the file is damaged or not idx: get it again`, { file })

function readHeader(bytes: Uint8Array, file: string): Header {
  const hex = Buffer.from(bytes.subarray(0, 4)).toString("hex")
  const dtype = TYPES.get(bytes[2] ?? -1)
  const rank = bytes[3] ?? 0
  const start = 4 + 4 * rank
  if (bytes.length < 4 || bytes[0] !== 0 || bytes[1] !== 0) bad(file, `idx begins with 0000, got ${hex || "nothing"}`)
  if (dtype === undefined) return bad(file, `idx type 08, 09, 0b, 0c, 0d or 0e expected, got ${hex.slice(4, 6)}`)
  if (rank === 0) bad(file, "idx of rank 1 or more expected, got 0")
  if (bytes.length < start) bad(file, `idx header of ${start} bytes expected, got ${bytes.length}`)
  const view = new DataView(bytes.buffer, bytes.byteOffset)
  const shape = Array.from({ length: rank }, (_, axis) => view.getUint32(4 + 4 * axis))
  const end = start + size(shape) * DTYPES[dtype].bytes
  return { dtype, shape, start, end }
}

const wrongSize = (file: string, { dtype, shape, end }: Header, got: string): never =>
  bad(file, `idx of ${dtype} ${show(shape)} has ${end} bytes, got ${got}`)

/** The array of an idx file that is not compressed; `file` names it in errors. Error: E_IDX. */
export function readIdx(bytes: Uint8Array, file = "idx"): Tensor {
  const header = readHeader(bytes, file)
  if (bytes.length !== header.end) wrongSize(file, header, String(bytes.length))
  return { dtype: header.dtype, shape: header.shape, data: ordered(bytes.subarray(header.start), header.dtype, "big") }
}

const gzipped = (bytes: Uint8Array): boolean => bytes[0] === 0x1f && bytes[1] === 0x8b

/** The idx file within a gzip file; no more is inflated than what its header says. Errors: E_GZIP, E_IDX. */
async function gunzipIdx(packed: Uint8Array, file: string): Promise<Uint8Array> {
  const refuse = (what: string, cause?: unknown): never => fail("E_GZIP", `${file}: ${what}`, { file, cause })
  if (!gzipped(packed)) refuse("named .gz, but it does not begin as gzip does (1f8b); rename it or get it again")
  const stream = createGunzip({ chunkSize: CHUNK })
  stream.end(packed)
  let bytes = new Uint8Array(0)
  let header: Header | undefined
  let at = 0
  try {
    for await (const chunk of stream as AsyncIterable<Uint8Array>) {
      if (!header) {
        if (gzipped(chunk)) refuse("is gzip inside gzip; unpack it once")
        header = readHeader(chunk, file)
        const limit = Math.min(MAX_BYTES, Math.max(RATIO_FLOOR, MAX_RATIO * packed.length))
        if (header.end > limit) {
          refuse(`${packed.length} bytes that grow to ${header.end}, at most ${limit} are inflated; unpack it yourself`)
        }
        bytes = new Uint8Array(header.end)
      }
      if (at + chunk.length > bytes.length) wrongSize(file, header, "more")
      bytes.set(chunk, at)
      at += chunk.length
    }
  } catch (error) {
    const { code, message } = error as { code?: unknown; message: string }
    if (typeof code === "string" && code.startsWith("Z_")) refuse(`gzip: ${message}; get the file again`, error)
    throw error
  }
  if (!header) return bad(file, "idx begins with 0000, got nothing")
  if (at !== bytes.length) wrongSize(file, header, String(at))
  return bytes
}

/** The bytes of an idx file, unpacked. */
async function readIdxBytes(file: string): Promise<Uint8Array> {
  const bytes = await readWhole(file, MAX_BYTES)
  return gzipped(bytes) || file.endsWith(".gz") ? gunzipIdx(bytes, file) : bytes
}

/** The array of an idx file, plain or gzipped. Errors: E_IDX, E_GZIP, E_NOT_A_FILE, E_IO, E_MEMORY_BUDGET. */
export const readIdxFile = async (file: string): Promise<Tensor> => readIdx(await readIdxBytes(file), file)

/** What the files of each split begin with. */
const SPLITS = { train: "train", test: "t10k" } as const

/** `train-images-idx3-ubyte`, with a dot as some mirrors have it, and either gzipped. */
const variants = (prefix: string, kind: string, rank: number): string[] =>
  ["-", "."].flatMap((mark) => ["", ".gz"].map((gz) => `${prefix}-${kind}${mark}idx${rank}-ubyte${gz}`))

const FILES = [
  ["images", 3],
  ["labels", 1],
] as const

async function fourFiles(folder: string, name: string, classes: readonly string[]): Promise<Splits> {
  const names = new Set(await namesIn(folder))
  const found = (split: keyof typeof SPLITS) =>
    FILES.map(([kind, rank]) => variants(SPLITS[split], kind, rank).find((file) => names.has(file)))
  const missing = (["train", "test"] as const).filter((split) => found(split).includes(undefined))
  if (missing.length > 0) {
    const has = (["train", "test"] as const).filter((split) => !missing.includes(split))
    const wanted = missing.flatMap((split) => FILES.map(([kind, rank]) => variants(SPLITS[split], kind, rank)[0]!))
    const text = `${splitsFound(has)}; ${listed(wanted)} (or .gz) must be there`
    fail("E_DATASET_EMPTY", `${folder}: no ${missing.join(" and no ")} split of ${name}; ${text}`, { file: folder })
  }
  const open = async (split: keyof typeof SPLITS) => {
    const [images, labels] = found(split).map((file) => join(folder, file!))
    return oneSplit(`${name}/${split}`, images!, labels!, classes)
  }
  const [train, test] = [await open("train"), await open("test")]
  if (show(train.shape!) !== show(test.shape!)) {
    const text = `images are ${show(train.shape!)} in train, ${show(test.shape!)} in test; they must be alike`
    fail("E_DATASET_SCHEMA", `${folder}: ${text}`, { file: folder })
  }
  return { train, test }
}

async function oneSplit(name: string, imageFile: string, labelFile: string, classes: readonly string[]) {
  const raw = [await readIdxBytes(imageFile), await readIdxBytes(labelFile)] as const
  const [images, labels] = [readIdx(raw[0], imageFile), readIdx(raw[1], labelFile)]
  expectKind(images, 3, imageFile)
  expectKind(labels, 1, labelFile)
  const [n, height, width] = images.shape as [number, number, number]
  if (labels.shape[0] !== n) bad(labelFile, `${n} labels expected, one for each image, got ${labels.shape[0]}`)
  if (n * height * width === 0) {
    const text = `has ${n} images of ${height} x ${width}; ${splitsFound(Object.keys(SPLITS))}`
    fail("E_DATASET_EMPTY", `${imageFile}: ${text}`, { file: imageFile })
  }
  const data = labels.data as Uint8Array
  checkLabels(data, classes.length, labelFile)
  if (name.endsWith("train")) checkVariety(data, classes, labelFile, Object.keys(SPLITS))
  const fingerprint = sha256("idx", ...raw)
  const shape = [1, height, width] as const
  return held({ name, images: images.data as Uint8Array, labels: data, shape, classes, fingerprint })
}

function expectKind({ dtype, shape }: Tensor, rank: number, file: string): void {
  if (dtype !== "uint8" || shape.length !== rank) {
    bad(file, `uint8 of rank ${rank} expected, got ${dtype} ${show(shape)}`)
  }
}

const DIGITS = Array.from("0123456789")

/** https://github.com/zalandoresearch/fashion-mnist#labels */
const CLOTHES = "T-shirt/top,Trouser,Pullover,Dress,Coat,Sandal,Shirt,Sneaker,Bag,Ankle boot".split(",")

/**
 * MNIST from the folder of its four idx files, as distributed or unpacked: 60,000 and 10,000 images [1, 28, 28].
 * Errors: E_DATASET_EMPTY for a missing split, E_IDX, E_GZIP, E_LABEL_RANGE, E_DATASET_SCHEMA, E_NOT_A_FILE, E_IO.
 */
export const mnist = (folder: string): Promise<Splits> => fourFiles(folder, "mnist", DIGITS)

/** Fashion-MNIST, whose files have the names of MNIST's. Errors: those of `mnist`. */
export const fashionMnist = (folder: string): Promise<Splits> => fourFiles(folder, "fashion-mnist", CLOTHES)
