/** @file The parts of a foreign ONNX model that hold tensors and names, found without building them
 * (https://github.com/onnx/onnx/blob/main/onnx/onnx.proto3, https://protobuf.dev/programming-guides/encoding). */
import { fail } from "../errors.ts"

/** The messages on the way to a tensor. */
export type Kind = "model" | "training" | "graph" | "function" | "node" | "attribute" | "sparse" | "tensor"

/** Field number -> its name and the message it holds. A field that occurs twice is merged by readers of protobuf, so
 * every occurrence counts. */
const FIELDS: { [K in Kind]: Readonly<Record<number, readonly [name: string, kind: Kind]>> } = {
  model: { 7: ["graph", "graph"], 20: ["training_info", "training"], 25: ["functions", "function"] },
  training: { 1: ["initialization", "graph"], 2: ["algorithm", "graph"] },
  graph: { 1: ["node", "node"], 5: ["initializer", "tensor"], 15: ["sparse_initializer", "sparse"] },
  function: { 7: ["node", "node"], 11: ["attribute_proto", "attribute"] },
  node: { 5: ["attribute", "attribute"] },
  attribute: {
    5: ["t", "tensor"],
    6: ["g", "graph"],
    10: ["tensors", "tensor"],
    11: ["graphs", "graph"],
    22: ["sparse_tensor", "sparse"],
    23: ["sparse_tensors", "sparse"],
  },
  sparse: { 1: ["values", "tensor"], 2: ["indices", "tensor"] },
  tensor: {},
}

const MAX_DEPTH = 100 // what protobuf's own readers allow
// A graph of 10^5 nodes has about 3 * 10^6 fields.
const MAX_FIELDS = 10_000_000

/** One pass over a model: the file for messages, and how many fields may still be read. */
export interface Scan {
  readonly file: string
  fields: number
}

/** A field's number, and its value: the bytes of a string or message, or the low 32 bits of an integer. Fields of
 * fixed width (floats) are passed over. */
type Field = (number: number, value: Uint8Array | number) => void

/** Call `visit` for the model `bytes` and for every message in it that can hold a tensor or is one, with where it lies
 * (`graph[0].node[3].attribute[0].t[0]`). `file` is for messages. Throws E_ONNX_FORMAT, and what `visit` throws. */
export function walkModel(
  bytes: Uint8Array,
  file: string,
  visit: (scan: Scan, kind: Kind, bytes: Uint8Array, where: () => string) => void,
): void {
  const scan: Scan = { file, fields: MAX_FIELDS }
  let graphs = 0
  const walk = (kind: Kind, message: Uint8Array, depth: number, where: () => string): void => {
    if (depth > MAX_DEPTH) bad(scan, `nested deeper than ${MAX_DEPTH}`)
    if (kind === "graph") graphs++
    visit(scan, kind, message, where)
    const known = FIELDS[kind]
    const counts = new Map<number, number>()
    readFields(scan, message, (number, value) => {
      const [name, child] = known[number] ?? []
      if (name === undefined || child === undefined || typeof value === "number") return
      const index = counts.get(number) ?? 0
      counts.set(number, index + 1)
      walk(child, value, depth + 1, () => `${where()}${kind === "model" ? "" : "."}${name}[${index}]`)
    })
  }
  walk("model", bytes, 0, () => "")
  if (graphs === 0) bad(scan, "holds no graph")
}

/** Call `use` for each field of a message, in order. Throws E_ONNX_FORMAT. */
export function readFields(scan: Scan, message: Uint8Array, use: Field): void {
  let at = 0

  const byte = (): number => message[at++] ?? bad(scan, "ends inside a field")

  // Seven bits a byte, lowest first; of at most ten bytes the low 32 bits are kept, as for an int32.
  const varint = (): number => {
    let low = 0
    for (let shift = 0; shift < 70; shift += 7) {
      const next = byte()
      if (shift < 32) low |= (next & 0x7f) << shift
      if (next < 0x80) return low >>> 0
    }
    return bad(scan, "integer of more than ten bytes")
  }

  const skip = (n: number): void => {
    if (n > message.length - at) bad(scan, `field of ${n} bytes where ${message.length - at} are left`)
    at += n
  }

  while (at < message.length) {
    if (scan.fields-- === 0) bad(scan, `more than ${MAX_FIELDS} fields`)
    const tag = varint()
    const number = tag >>> 3
    if (number === 0) bad(scan, "field of number 0")
    switch (tag & 7) {
      case 0:
        use(number, varint())
        break
      case 1:
        skip(8)
        break
      case 2: {
        const length = varint()
        const from = at
        skip(length)
        use(number, message.subarray(from, at))
        break
      }
      case 5:
        skip(4)
        break
      default:
        bad(scan, `field of wire type ${tag & 7}`)
    }
  }
}

const utf8 = new TextDecoder("utf-8", { fatal: true, ignoreBOM: true })

/** A field's value as a string. Throws E_ONNX_FORMAT. */
export function textOf(scan: Scan, value: Uint8Array | number): string {
  if (typeof value === "number") return bad(scan, "number where a string should be")
  try {
    return utf8.decode(value)
  } catch {
    return bad(scan, `string of ${value.length} bytes is not UTF-8`)
  }
}

function bad(scan: Scan, message: string): never {
  const text = `is no ONNX model: ${message}; it is damaged or something else: download it again`
  fail("E_ONNX_FORMAT", `${scan.file}: ${text}`, { file: scan.file })
}
