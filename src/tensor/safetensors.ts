/** @file Safetensors bytes to tensors and back (https://github.com/huggingface/safetensors#format). */
import { fail } from "../errors.ts"
import { quote } from "./quote.ts"
import { FORMATS, headerLength, type Header, MAX_HEADER, parseHeader, type TensorEntry } from "./safetensors-header.ts"
import { byteLength, DTYPES, type DType, show, type Tensor, tensorOver } from "./tensor.ts"

/** Header strings, such as `{ format: "pt" }`. */
export type Metadata = ReadonlyMap<string, string> | Readonly<Record<string, string>>

export interface Safetensors extends Omit<Header, "entries"> {
  readonly tensors: ReadonlyMap<string, Tensor>
  /** Tensors of formats that have no dtype here, such as F8_E4M3. */
  readonly opaque: ReadonlyMap<string, TensorEntry>
}

/** A tensor whose data lies in several arrays, which follow each other. */
export interface PiecedTensor {
  readonly dtype: "float32"
  readonly shape: readonly number[]
  readonly pieces: readonly Float32Array[]
}

/** Read a whole file held in memory; the tensors are views of `bytes`. Errors: the E_ST_* codes, E_NOT_SAFETENSORS and
 * E_LFS_POINTER; `file` is the name they use. */
export function readSafetensors(bytes: Uint8Array, file = "safetensors bytes"): Safetensors {
  const length = headerLength(bytes.subarray(0, 8), bytes.length, file)
  const data = bytes.subarray(8 + length)
  const { entries, metadata, warnings } = parseHeader(bytes.subarray(8, 8 + length), data.length, file)
  const tensors = new Map<string, Tensor>()
  const opaque = new Map<string, TensorEntry>()
  for (const [name, entry] of entries) {
    if (entry.dtype === undefined) opaque.set(name, entry)
    else tensors.set(name, tensorOver(entry.dtype, entry.shape, data.subarray(entry.begin, entry.end)))
  }
  return { tensors, opaque, metadata, warnings }
}

/** The first bytes of a file (length, JSON, spaces to a multiple of 8), and the names in the order their data follows: by
 * the reference's dtype order, widest first, then by name. Errors: E_INPUT for names no header can hold. */
export function encodeHeader(
  tensors: ReadonlyMap<string, { readonly dtype: DType; readonly shape: readonly number[] }>,
  metadata?: Metadata,
): { head: Uint8Array; names: readonly string[] } {
  const names = [...tensors.keys()].sort((a, b) => rank(tensors, b) - rank(tensors, a) || compareCodePoints(a, b))
  const members: string[] = []
  if (metadata !== undefined) members.push(`"__metadata__":${encodeMetadata(metadata)}`)
  let at = 0
  for (const name of names) {
    if (name === "__metadata__")
      fail("E_INPUT", `a tensor may not be called "__metadata__"; rename it`, { tensor: name })
    const t = tensors.get(name)!
    const end = at + byteLength(t)
    const span = `"shape":[${t.shape.join(",")}],"data_offsets":[${at},${end}]`
    members.push(`${jsonString(name)}:{"dtype":"${DTYPES[t.dtype].safetensors}",${span}}`)
    at = end
  }
  const json = new TextEncoder().encode(`{${members.join(",")}}`)
  const padded = Math.ceil(json.length / 8) * 8
  if (padded > MAX_HEADER) {
    fail(
      "E_ST_HEADER_TOO_LARGE",
      `a header of ${padded} bytes is above the limit of ${MAX_HEADER}; write several files`,
    )
  }
  const head = new Uint8Array(8 + padded).fill(0x20)
  new DataView(head.buffer).setBigUint64(0, BigInt(padded), true)
  head.set(json, 8)
  return { head, names }
}

/** A whole file in memory. The same tensors give the same bytes, and those of the reference library. */
export function encodeSafetensors(
  tensors: ReadonlyMap<string, Tensor> | Readonly<Record<string, Tensor>>,
  metadata?: Metadata,
): Uint8Array {
  const map: ReadonlyMap<string, Tensor> = tensors instanceof Map ? tensors : new Map(Object.entries(tensors))
  const { head, names } = encodeHeader(map, metadata)
  const parts = [head, ...names.flatMap((name) => dataOf(name, map.get(name)!))]
  const bytes = new Uint8Array(parts.reduce((n, part) => n + part.length, 0))
  let at = 0
  for (const part of parts) {
    bytes.set(part, at)
    at += part.length
  }
  return bytes
}

/** A tensor's bytes, whose number must be what its shape says. */
export function dataOf(name: string, t: Tensor | PiecedTensor): readonly Uint8Array[] {
  const arrays = "pieces" in t ? t.pieces : [t.data]
  const length = arrays.reduce((n, data) => n + data.byteLength, 0)
  if (length !== byteLength(t)) {
    const what = `${t.dtype} ${show(t.shape)} needs ${byteLength(t)} bytes, its data has ${length}`
    fail("E_INPUT", `tensor ${quote(name)}: ${what}`, { tensor: name })
  }
  return arrays.map((data) => new Uint8Array(data.buffer, data.byteOffset, data.byteLength))
}

const ORDER = [...FORMATS.keys()]

const rank = (tensors: ReadonlyMap<string, { readonly dtype: DType }>, name: string): number =>
  ORDER.indexOf(DTYPES[tensors.get(name)!.dtype].safetensors)

/** The order of UTF-8 bytes; that of JavaScript's `<` differs for characters beyond U+FFFF. */
function compareCodePoints(a: string, b: string): number {
  let i = 0
  while (i < a.length && i < b.length && a[i] === b[i]) i++
  // Inside a surrogate pair the first halves were equal, so the second halves decide, and both are compared alike.
  return (a.codePointAt(i) ?? -1) - (b.codePointAt(i) ?? -1)
}

function encodeMetadata(metadata: Metadata): string {
  const pairs: Iterable<[string, string]> =
    metadata instanceof Map ? (metadata as ReadonlyMap<string, string>) : Object.entries(metadata)
  return `{${Array.from(pairs, ([key, value]) => `${jsonString(key)}:${jsonString(value)}`).join(",")}}`
}

function jsonString(text: string): string {
  if (/\p{Surrogate}/u.test(text))
    fail("E_INPUT", `${quote(text)} holds half a surrogate pair, which UTF-8 cannot hold`)
  return JSON.stringify(text)
}
