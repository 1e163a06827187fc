/** @file The header of a safetensors file, read strictly (https://github.com/huggingface/safetensors#format): every byte of
 * data belongs to exactly one tensor, every key is there once, and what is refused is refused by name. */
import { type ErrorCode, fail } from "../errors.ts"
import { JsonCursor } from "./json-cursor.ts"
import { quote } from "./quote.ts"
import { DTYPES, type DType, show } from "./tensor.ts"

/** The reference's own limit, in bytes. */
export const MAX_HEADER = 100_000_000
/** What PyTorch can hold; a bound on memory for shapes that are lists of a million ones. */
const MAX_RANK = 64
/** Two strings a pair: keeps a 25 MB header of nothing but metadata under 256 MiB. */
const MAX_METADATA = 100_000

/** One tensor as the header declares it; `dtype` is undefined for formats this project cannot compute with (8-bit floats,
 * complex), `begin` and `end` are byte offsets from the end of the header. */
export interface TensorEntry {
  readonly name: string
  readonly rawDtype: string
  readonly dtype: DType | undefined
  readonly shape: readonly number[]
  readonly begin: number
  readonly end: number
}

export interface Header {
  readonly entries: ReadonlyMap<string, TensorEntry>
  readonly metadata: ReadonlyMap<string, string> | undefined
  readonly warnings: readonly string[]
}

interface Format {
  readonly name: string
  readonly bits: number
  readonly dtype: DType | undefined
}

/** Every format of the reference, in its order of rising alignment, which is also the order a writer sorts by. */
export const FORMATS: ReadonlyMap<string, Format> = new Map(
  (
    [
      ["BOOL", 8],
      ["F4", 4],
      ["F6_E2M3", 6],
      ["F6_E3M2", 6],
      ["U8", 8],
      ["I8", 8],
      ["F8_E5M2", 8],
      ["F8_E4M3", 8],
      ["F8_E8M0", 8],
      ["F8_E4M3FNUZ", 8],
      ["F8_E5M2FNUZ", 8],
      ["I16", 16],
      ["U16", 16],
      ["F16", 16],
      ["BF16", 16],
      ["I32", 32],
      ["U32", 32],
      ["F32", 32],
      ["C64", 64],
      ["F64", 64],
      ["I64", 64],
      ["U64", 64],
    ] as const
  ).map(([name, bits]) => [name, { name, bits, dtype: dtypeOf(name) }]),
)

function dtypeOf(name: string): DType | undefined {
  return (Object.keys(DTYPES) as DType[]).find((d) => DTYPES[d].safetensors === name)
}

/** Pickle protocols 2 to 5. */
const PICKLE_STARTS = ["\x80\x02", "\x80\x03", "\x80\x04", "\x80\x05"]

/** What else turns up under a `.safetensors` name, by its first bytes; each would declare a header of terabytes. */
const LOOKALIKES: readonly (readonly [starts: readonly string[], ErrorCode, what: string])[] = [
  [["version "], "E_LFS_POINTER", "is a Git LFS pointer, not the file it stands for; run git lfs pull"],
  [
    ["<!doctyp", "<html", "<?xml", "<head", "<!--"],
    "E_NOT_SAFETENSORS",
    "looks like a web page; download the file itself",
  ],
  [["PK\x03\x04"], "E_NOT_SAFETENSORS", "looks like a zip archive (a PyTorch .pth or .bin); name it so"],
  [PICKLE_STARTS, "E_NOT_SAFETENSORS", "looks like a pickle (a PyTorch .pth or .bin); convert it to safetensors"],
  [["GGUF"], "E_NOT_SAFETENSORS", "looks like a GGUF file; use the safetensors of the same model"],
  [["\x89HDF"], "E_NOT_SAFETENSORS", "looks like an HDF5 file (Keras); use the safetensors of the same model"],
  [["\x1f\x8b"], "E_NOT_SAFETENSORS", "looks like a gzip archive; unpack it first"],
  [["{", "["], "E_NOT_SAFETENSORS", "looks like JSON text, perhaps an error saved as a file; download it again"],
]

/** The length of the header JSON in bytes, from the file's first 8 bytes (fewer if the file has fewer). */
export function headerLength(first8: Uint8Array, fileLength: number, file: string): number {
  if (fileLength < 8 || first8.length < 8) {
    fail("E_ST_TRUNCATED", `${file}: ${fileLength} bytes; a safetensors file has at least 8; download it again`, {
      file,
    })
  }
  const length = new DataView(first8.buffer, first8.byteOffset, 8).getBigUint64(0, true)
  if (length > BigInt(MAX_HEADER)) {
    refuseLookalike(first8, file)
    const what = `header length ${length} is above the limit of ${MAX_HEADER} bytes; is this a safetensors file?`
    fail("E_ST_HEADER_TOO_LARGE", `${file}: ${what}`, { file })
  }
  if (Number(length) > fileLength - 8) {
    const what = `header length ${length} is more than the ${fileLength - 8} bytes that follow; download it again`
    fail("E_ST_HEADER_LENGTH", `${file}: ${what}`, { file })
  }
  return Number(length)
}

function refuseLookalike(first8: Uint8Array, file: string): void {
  const start = String.fromCharCode(...first8)
  const text = start.trimStart().toLowerCase()
  for (const [starts, code, what] of LOOKALIKES) {
    if (starts.some((magic) => start.startsWith(magic) || text.startsWith(magic)))
      fail(code, `${file} ${what}`, { file })
  }
}

/** Read the header JSON of a file with `dataLength` bytes behind it. Errors: the E_ST_* codes, naming file and tensor. */
export function parseHeader(bytes: Uint8Array, dataLength: number, file: string): Header {
  if (bytes.length === 0) fail("E_ST_HEADER_JSON", `${file}: empty header; a header is at least {}`, { file })
  const cursor = new JsonCursor(decode(bytes, file), (what, at) =>
    fail("E_ST_HEADER_JSON", `${file}: header is not valid JSON: ${what} at character ${at}`, { file }),
  )
  const entries = new Map<string, TensorEntry>()
  const unknown: Unknown = { count: 0, first: "" }
  let metadata: Map<string, string> | undefined
  let sawMetadata = false
  if (!cursor.isObject()) {
    cursor.skip()
    fail("E_ST_HEADER_JSON", `${file}: header must be an object, a list of tensors by name`, { file })
  }
  cursor.members((name) => {
    if (name === "__metadata__" ? sawMetadata : entries.has(name)) {
      fail("E_ST_DUPLICATE_KEY", `${file}: ${quote(name)} is in the header twice`, { file, tensor: name })
    }
    if (name === "__metadata__") {
      sawMetadata = true
      metadata = readMetadata(cursor, file)
    } else entries.set(name, readEntry(cursor, name, file, unknown))
  })
  cursor.end()
  checkTiling(entries, dataLength, file)
  const { count, first } = unknown
  const warnings =
    count === 0 ? [] : [`${file}: ${first} is not known and was ignored (${count} unknown members in all)`]
  return { entries, metadata, warnings }
}

function decode(bytes: Uint8Array, file: string): string {
  try {
    return new TextDecoder("utf-8", { fatal: true, ignoreBOM: true }).decode(bytes)
  } catch {
    return fail("E_ST_HEADER_UTF8", `${file}: header is not UTF-8; download it again`, { file })
  }
}

function readMetadata(cursor: JsonCursor, file: string): Map<string, string> | undefined {
  const bad = (what: string): never => fail("E_ST_METADATA", `${file}: __metadata__ ${what}`, { file })
  // The reference reads null as if the key were absent.
  if (cursor.isNull()) return undefined
  if (!cursor.isObject()) {
    cursor.skip()
    bad("must be an object of strings")
  }
  const metadata = new Map<string, string>()
  cursor.members((key) => {
    if (metadata.has(key)) fail("E_ST_DUPLICATE_KEY", `${file}: __metadata__ has ${quote(key)} twice`, { file })
    if (!cursor.isString()) {
      cursor.skip()
      bad(`must be an object of strings; ${quote(key)} is not a string`)
    }
    if (metadata.size === MAX_METADATA) bad(`has more than ${MAX_METADATA} keys`)
    metadata.set(key, cursor.string())
  })
  return metadata
}

/** Members of entries that are not dtype, shape or data_offsets: counted, and the first remembered for one warning. */
interface Unknown {
  count: number
  first: string
}

function readEntry(cursor: JsonCursor, name: string, file: string, unknown: Unknown): TensorEntry {
  const bad = (code: ErrorCode, what: string): never =>
    fail(code, `${file}: tensor ${quote(name)}: ${what}`, { file, tensor: name })
  if (!cursor.isObject()) {
    cursor.skip()
    bad("E_ST_HEADER_JSON", "must be an object with dtype, shape and data_offsets")
  }
  let format: Format | undefined
  let shape: number[] | undefined
  let offsets: number[] | undefined
  cursor.members((key) => {
    if (key === "dtype") {
      if (format !== undefined) bad("E_ST_DUPLICATE_KEY", "dtype is given twice")
      format = readFormat(cursor, bad)
    } else if (key === "shape") {
      if (shape !== undefined) bad("E_ST_DUPLICATE_KEY", "shape is given twice")
      shape = readCounts(cursor, "E_ST_SHAPE", "shape", MAX_RANK, bad)
    } else if (key === "data_offsets") {
      if (offsets !== undefined) bad("E_ST_DUPLICATE_KEY", "data_offsets is given twice")
      offsets = readCounts(cursor, "E_ST_OFFSETS", "data_offsets", 2, bad)
    } else {
      if (unknown.count++ === 0) unknown.first = `tensor ${quote(name)}: member ${quote(key)}`
      cursor.skip()
    }
  })
  if (format === undefined) return bad("E_ST_DTYPE", "dtype is missing")
  if (shape === undefined) return bad("E_ST_SHAPE", "shape is missing")
  if (offsets === undefined) return bad("E_ST_OFFSETS", "data_offsets is missing")
  const [begin, end] = offsets
  if (begin === undefined || end === undefined) return bad("E_ST_OFFSETS", "data_offsets must be [begin, end]")
  if (begin > end) bad("E_ST_OFFSETS", `data_offsets begin at ${begin}, after their end ${end}`)
  checkSpan(format, shape, end - begin, bad)
  return { name, rawDtype: format.name, dtype: format.dtype, shape, begin, end }
}

type Bad = (code: ErrorCode, what: string) => never

function readFormat(cursor: JsonCursor, bad: Bad): Format {
  if (!cursor.isString()) {
    cursor.skip()
    bad("E_ST_DTYPE", "dtype must be a string")
  }
  const name = cursor.string()
  return FORMATS.get(name) ?? bad("E_ST_DTYPE", `dtype ${quote(name)} is not one of ${[...FORMATS.keys()].join(", ")}`)
}

const scratch = Array.from({ length: MAX_RANK }, () => 0)

function readCounts(cursor: JsonCursor, code: ErrorCode, what: string, most: number, bad: Bad): number[] {
  if (!cursor.isList()) {
    cursor.skip()
    bad(code, `${what} must be a list`)
  }
  let n = 0
  cursor.items(() => {
    const value = cursor.count()
    if (Number.isNaN(value)) bad(code, `${what} must hold integers from 0`)
    if (value === Infinity) bad("E_ST_INT_RANGE", `${what} holds a number above 2^53 - 1`)
    if (n === most) bad(code, `${what} has more than ${most} numbers`)
    scratch[n++] = value
  })
  // A list grown by push reserves 17 places; a million tensors notice.
  return scratch.slice(0, n)
}

function checkSpan({ name, bits }: Format, shape: readonly number[], span: number, bad: Bad): void {
  let count = 1
  for (const dim of shape) {
    count *= dim
    if (count > Number.MAX_SAFE_INTEGER) break
  }
  const bytes = (count * bits) / 8
  if (Math.max(count, bytes) > Number.MAX_SAFE_INTEGER) {
    bad("E_ST_INT_RANGE", `the size of ${name} ${show(shape)} is above 2^53 - 1`)
  }
  if (!Number.isInteger(bytes)) bad("E_ST_SHAPE", `${name} ${show(shape)} is ${count * bits} bits, not whole bytes`)
  if (bytes !== span) bad("E_ST_SHAPE", `${name} ${show(shape)} needs ${bytes} bytes, data_offsets span ${span}`)
}

/** The tensors must follow each other from the first byte of data to the last. */
function checkTiling(entries: ReadonlyMap<string, TensorEntry>, dataLength: number, file: string): void {
  let last: TensorEntry | undefined
  let at = 0
  for (const entry of inOrder(entries)) {
    if (entry.begin < at) {
      const what = `${quote(entry.name)} begins at ${entry.begin}, inside ${quote(last!.name)}, which ends at ${at}`
      fail("E_ST_OVERLAP", `${file}: tensor ${what}; tensors may not share bytes`, { file, tensor: entry.name })
    }
    if (entry.begin > at) {
      const what = `bytes ${at} to ${entry.begin}, before tensor ${quote(entry.name)}, belong to no tensor`
      fail("E_ST_HOLE", `${file}: ${what}`, { file, tensor: entry.name })
    }
    at = entry.end
    last = entry
  }
  if (at > dataLength) {
    const what = `${dataLength} bytes of data, the header describes ${at}; download it again`
    fail("E_ST_TRUNCATED", `${file}: ${what}`, { file })
  }
  if (at < dataLength) {
    const what = `${dataLength - at} bytes not described by the header; polyglot files are refused`
    fail("E_ST_TRAILING", `${file}: ${what}`, { file })
  }
}

/** By place in the file. Files are usually written so; sorting a million entries costs more than reading them. */
function inOrder(entries: ReadonlyMap<string, TensorEntry>): Iterable<TensorEntry> {
  let last: TensorEntry | undefined
  for (const entry of entries.values()) {
    if (last !== undefined && compare(last, entry) > 0) return [...entries.values()].sort(compare)
    last = entry
  }
  return entries.values()
}

const compare = (a: TensorEntry, b: TensorEntry): number => a.begin - b.begin || a.end - b.end
