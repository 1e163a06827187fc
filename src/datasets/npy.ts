/** @file NumPy's array files (https://numpy.org/doc/stable/reference/generated/numpy.lib.format.html), versions 1 to 3; arrays of
 * objects are pickles and are not read. */
import { fail } from "../errors.ts"
import { quote } from "../tensor/quote.ts"
import { type DType, DTYPES, show, size, type Tensor } from "../tensor/tensor.ts"
import { ordered } from "./order-bytes.ts"

export interface NpyHeader {
  readonly dtype: DType
  readonly shape: readonly number[]
  readonly order: "little" | "big"
  /** Where the values begin, and the bytes of the whole file. */
  readonly start: number
  readonly end: number
}

/** Characters of a header; numpy's own limit, np.lib.format's max_header_size. */
const MAX_HEADER = 10_000

/** Bytes from the file's beginning in which a header that is read lies. */
export const NPY_HEAD = 12 + MAX_HEADER

/** numpy's limit. */
const MAX_RANK = 64

const TYPES: ReadonlyMap<string, DType> = new Map([
  ["b1", "bool"],
  ["i1", "int8"],
  ["i2", "int16"],
  ["i4", "int32"],
  ["i8", "int64"],
  ["u1", "uint8"],
  ["u2", "uint16"],
  ["u4", "uint32"],
  ["u8", "uint64"],
  ["f2", "float16"],
  ["f4", "float32"],
  ["f8", "float64"],
])

/** One entry of the header's dict; a shape's parentheses hold nothing that has to be matched. */
const ENTRY = /\s*'(descr|fortran_order|shape)'\s*:\s*('[^'\\]*'|True|False|\([\d,\sL]*\))\s*(?:,|$)/y

const MAGIC = "\x93NUMPY"

/** What the header says. `bytes` are the first of the file's `total`; NPY_HEAD of them are enough.
 * Errors: E_NPY_HEADER, E_NPY_OBJECT, E_UNSUPPORTED_DTYPE. */
export function readNpyHeader(bytes: Uint8Array, total: number, file = "npy"): NpyHeader {
  const bad = (what: string): never =>
    fail("E_NPY_HEADER", `${file}: npy: ${what}; the file is damaged or not npy: get it again`, { file })
  const head = Buffer.from(bytes.buffer, bytes.byteOffset, bytes.byteLength)
  if (bytes.length < 10 || head.toString("latin1", 0, 6) !== MAGIC) {
    bad(`begins with 934e554d5059, got ${head.toString("hex", 0, 6) || "nothing"}`)
  }
  const version = bytes[6]!
  if (version < 1 || version > 3 || bytes[7] !== 0) bad(`version 1.0, 2.0 or 3.0 expected, got ${version}.${bytes[7]}`)
  const start = version === 1 ? 10 : 12
  if (total < start) bad(`ends within its first ${start} bytes`)
  const length = version === 1 ? head.readUInt16LE(8) : head.readUInt32LE(8)
  if (length > MAX_HEADER) bad(`header of ${length} bytes, at most ${MAX_HEADER} are read`)
  if (start + length > total) bad(`header of ${length} bytes in a file of ${total}`)
  const text = head.toString(version === 3 ? "utf8" : "latin1", start, start + length).trim()

  if (/'[|<>=]?O\d*'/.test(text)) {
    fail("E_NPY_OBJECT", `${file}: npy of Python objects; pickled arrays are not read: save it with a numeric dtype`, {
      file,
    })
  }
  if (!text.startsWith("{") || !text.endsWith("}")) bad(`header is a Python dict, got ${quote(text)}`)
  const { descr, fortran, shape } = readEntries(text.slice(1, -1), bad)
  if (fortran && shape.length > 1) bad("order of Fortran, which is not read; save np.ascontiguousarray of it")
  const order = descr.startsWith(">") ? "big" : "little"
  const dtype = TYPES.get(descr.replace(/^[|<>=]/, ""))
  if (dtype === undefined) {
    return fail(
      "E_UNSUPPORTED_DTYPE",
      `${file}: npy of dtype ${quote(descr)}; ${[...TYPES.keys()].join(", ")} are read`,
      { file },
    )
  }
  const end = start + length + size(shape) * DTYPES[dtype].bytes
  if (end !== total) bad(`${dtype} ${show(shape)} makes a file of ${end} bytes, got ${total}`)
  return { dtype, shape, order, start: start + length, end }
}

function readEntries(body: string, bad: (what: string) => never) {
  const entries = new Map<string, string>()
  ENTRY.lastIndex = 0
  for (let at = 0; body.slice(at).trim() !== ""; at = ENTRY.lastIndex) {
    const [, key, value] = ENTRY.exec(body) ?? bad(`header entry expected at ${quote(body.slice(at, at + 40))}`)
    if (entries.has(key!)) bad(`header has two entries ${key}`)
    entries.set(key!, value!)
  }
  const [descr, fortran, shape] = ["descr", "fortran_order", "shape"].map(
    (key) => entries.get(key) ?? bad(`header has no entry ${key}`),
  ) as [string, string, string]
  if (!descr.startsWith("'")) bad(`descr is a type in quotes, got ${quote(descr)}`)
  if (fortran !== "True" && fortran !== "False") bad(`fortran_order is True or False, got ${quote(fortran)}`)
  return { descr: descr.slice(1, -1), fortran: fortran === "True", shape: readShape(shape, bad) }
}

/** The sizes in `(60000, 28, 28)`, `(3,)` or `()`; Python 2 wrote `3L`. */
function readShape(text: string, bad: (what: string) => never): number[] {
  const parts = text.startsWith("(")
    ? text
        .slice(1, -1)
        .split(",")
        .map((part) => part.trim())
    : ["?"]
  const last = parts.at(-1) === "" ? parts.pop() : undefined
  const shape = parts.map((part) => (/^\d{1,16}L?$/.test(part) ? parseInt(part, 10) : NaN))
  const tuple = shape.length !== 1 || last === ""
  if (!tuple || shape.length > MAX_RANK || !shape.every((d) => Number.isSafeInteger(d)))
    bad(`shape is a tuple of sizes, got ${quote(text)}`)
  return shape
}

/** The array of an npy file; `file` names it in errors. Errors: those of `readNpyHeader`. */
export function readNpy(bytes: Uint8Array, file = "npy"): Tensor {
  const { dtype, shape, order, start } = readNpyHeader(bytes, bytes.length, file)
  return { dtype, shape, data: ordered(bytes.subarray(start), dtype, order) }
}
