/** @file Where the tensors of a foreign ONNX model lie outside of it, and which places are refused before any other
 * reader sees them (https://github.com/onnx/onnx/blob/main/docs/ExternalData.md). */
import { fail } from "../errors.ts"
import { quote } from "../tensor/quote.ts"
import { readFields, type Scan, textOf, walkModel } from "./read.ts"

/** A tensor that says it lies in another file, in the model's own words; `where` is its place in the model. */
export interface ExternalTensor {
  readonly name: string
  readonly location: string | undefined
  readonly offset: string | undefined
  readonly length: string | undefined
  readonly where: string
}

/** A checked one: `length` bytes (all the rest without it) at `offset` of the file `location` beside the model. */
export interface ExternalRange {
  readonly name: string
  readonly location: string
  readonly offset: number
  readonly length: number | undefined
  readonly where: string
}

const EXTERNAL = 1 // TensorProto.DataLocation

/** Every tensor with external data: initializers, dense and sparse (values and indices), and attributes that are
 * tensors or lists of them, in the graph, its subgraphs, training graphs and local functions. Also those that name a
 * file without being marked external, since readers differ. `file` is for messages. Throws E_ONNX_FORMAT, and
 * E_ONNX_EXTERNAL for a place that is given twice. */
export function externalData(bytes: Uint8Array, file: string): ExternalTensor[] {
  const found: ExternalTensor[] = []
  walkModel(bytes, file, (scan, kind, message, where) => {
    if (kind !== "tensor") return
    let name = ""
    let location = 0
    const entries = new Map<string, string>()
    readFields(scan, message, (number, value) => {
      if (number === 8) name = textOf(scan, value)
      if (number === 14 && typeof value === "number") location = value
      if (number !== 13 || typeof value === "number") return
      const [key, text] = readEntry(scan, value)
      if (entries.has(key)) refuse(file, { name, where: where() }, `gives its ${quote(key)} twice`)
      entries.set(key, text)
    })
    if (location !== EXTERNAL && entries.size === 0) return
    found.push({
      name,
      location: entries.get("location"),
      offset: entries.get("offset"),
      length: entries.get("length"),
      where: where(),
    })
  })
  return found
}

/** StringStringEntryProto */
function readEntry(scan: Scan, message: Uint8Array): [key: string, value: string] {
  const entry: [string, string] = ["", ""]
  readFields(scan, message, (number, value) => {
    if (number === 1 || number === 2) entry[number - 1] = textOf(scan, value)
  })
  return entry
}

/** What a location may not be: anything but a path that stays in the model's folder on every system. `*` is the mark of
 * onnxruntime for data in memory, where the offset is an address. */
const REFUSED: readonly (readonly [RegExp, string])[] = [
  [/^$/, "is empty"],
  [/^[^]{1001}/, "is longer than 1000 characters"],
  [/\p{Cc}/u, "has a control character"],
  [/\\/, "has a backslash, a separator on Windows"],
  [/^\//, "is absolute"],
  [/:/, "has a colon, which makes a drive, a URL or a stream"],
  [/[*?"<>|]/, "has a character that no file name may have on Windows"],
]

/** The external tensors of a model, none of which leads out of its folder by name; links are for `checkOnnxFile`.
 * `file` is for messages. Throws E_ONNX_FORMAT, E_ONNX_EXTERNAL. */
export function checkExternal(bytes: Uint8Array, file: string): ExternalRange[] {
  return externalData(bytes, file).map((tensor) => {
    const { name, location, where } = tensor
    if (location === undefined) return refuse(file, tensor, "names no file")
    const what = problem(location)
    if (what !== undefined) refuse(file, tensor, `is in ${quote(location)}, which ${what}`)
    const offset = tensor.offset === undefined ? 0 : integer(file, tensor, "offset", tensor.offset)
    const length = tensor.length === undefined ? undefined : integer(file, tensor, "length", tensor.length)
    const end = offset + (length ?? 0)
    if (!Number.isSafeInteger(end)) refuse(file, tensor, `ends at byte ${end}, beyond 2^53`)
    return { name, location, offset, length, where }
  })
}

/** What is wrong with a location. Each rule takes time in proportion to its length. */
function problem(location: string): string | undefined {
  const parts = location.split("/")
  const [, what] = REFUSED.find(([rule]) => rule.test(location)) ?? []
  if (what !== undefined) return what
  // Windows drops dots and spaces at the end of a part.
  if (parts.some((part) => part !== "." && /^[. ]+$/.test(part))) return "leaves the folder of the model"
  return ["", "."].includes(parts.at(-1) ?? "") ? "names a folder" : undefined
}

function integer(file: string, tensor: ExternalTensor, what: string, digits: string): number {
  const value = /^\d{1,20}$/.test(digits) ? Number(digits) : Number.NaN
  if (Number.isSafeInteger(value)) return value
  return refuse(file, tensor, `has ${what} ${quote(digits)}, expected a number of bytes`)
}

/** Fail, naming the tensor and its place. */
export function refuse(file: string, { name, where }: { name: string; where: string }, what: string): never {
  const advice = "external data must lie in a file beside the model, so this model is not loaded"
  fail("E_ONNX_EXTERNAL", `${file}: tensor ${quote(name)} (${where}) ${what}; ${advice}`, { file, tensor: name })
}
