/** @file Reads an ONNX model back by the protobuf wire format alone (https://protobuf.dev/programming-guides/encoding,
 * https://github.com/onnx/onnx/blob/main/onnx/onnx.proto3); shares no code with src/onnx. */

/** A varint (wire type 0) as bigint; bytes of a length-delimited (2) or fixed (1, 5) field. */
export interface Field {
  readonly number: number
  readonly wire: number
  readonly value: bigint | Uint8Array
}

export function fields(bytes: Uint8Array): Field[] {
  const found: Field[] = []
  let place = 0
  const varint = (): bigint => {
    let value = 0n
    for (let shift = 0n; ; shift += 7n) {
      const byte = bytes[place++]!
      value |= BigInt(byte & 0x7f) << shift
      if (byte < 0x80) return BigInt.asIntN(64, value)
    }
  }
  while (place < bytes.length) {
    const tag = Number(varint())
    const wire = tag & 7
    if (wire === 0) found.push({ number: tag >>> 3, wire, value: varint() })
    else {
      const length = wire === 2 ? Number(varint()) : wire === 5 ? 4 : wire === 1 ? 8 : NaN
      if (!(place + length <= bytes.length)) throw new Error(`field ${tag >>> 3} of wire type ${wire} at ${place}`)
      found.push({ number: tag >>> 3, wire, value: bytes.subarray(place, place + length) })
      place += length
    }
  }
  return found
}

const all = (message: Uint8Array, number: number): Field["value"][] =>
  fields(message)
    .filter((f) => f.number === number)
    .map((f) => f.value)
const messages = (message: Uint8Array, number: number) => all(message, number) as Uint8Array[]
const text = (value: Field["value"] | undefined) => new TextDecoder().decode(value as Uint8Array)
const texts = (message: Uint8Array, number: number) => messages(message, number).map(text)
const int = (message: Uint8Array, number: number) => Number(all(message, number)[0] ?? 0)

export interface ReadNode {
  readonly op: string
  readonly domain: string
  readonly name: string
  readonly inputs: string[]
  readonly outputs: string[]
  readonly attrs: Map<string, unknown>
}

export interface ReadTensor {
  readonly dims: number[]
  readonly type: number
  readonly raw: Uint8Array
  /** Of external data: location, offset, length. */
  readonly external: Record<string, string> | undefined
}

const tensorOf = (m: Uint8Array): ReadTensor => ({
  dims: all(m, 1).map(Number),
  type: int(m, 2),
  raw: messages(m, 9)[0] ?? new Uint8Array(),
  external: int(m, 14) ? Object.fromEntries(messages(m, 13).map((e) => [texts(e, 1)[0], texts(e, 2)[0]])) : undefined,
})

function attribute(m: Uint8Array): unknown {
  switch (int(m, 20)) {
    case 1: {
      const four = messages(m, 2)[0]!
      return new DataView(four.buffer, four.byteOffset).getFloat32(0, true)
    }
    case 2:
      return int(m, 3)
    case 3:
      return texts(m, 4)[0]
    case 5:
      return graphOf(messages(m, 6)[0]!)
    case 7:
      return all(m, 8).map(Number)
    default:
      throw new Error(`attribute of type ${int(m, 20)}`)
  }
}

const nodeOf = (m: Uint8Array): ReadNode => ({
  op: text(messages(m, 4)[0]),
  domain: texts(m, 7)[0] ?? "",
  name: text(messages(m, 3)[0]),
  inputs: texts(m, 1),
  outputs: texts(m, 2),
  attrs: new Map(messages(m, 5).map((a) => [texts(a, 1)[0]!, attribute(a)])),
})

/** `[element type, dimensions]` by name. */
function port(m: Uint8Array): [string, [number, (number | string)[]]] {
  const type = messages(messages(m, 2)[0]!, 1)[0]!
  const dims = messages(messages(type, 2)[0]!, 1).map((d) => texts(d, 2)[0] ?? int(d, 1))
  return [texts(m, 1)[0]!, [int(type, 1), dims]]
}

const graphOf = (m: Uint8Array) => ({
  nodes: messages(m, 1).map(nodeOf),
  initializers: new Map(messages(m, 5).map((t) => [texts(t, 8)[0]!, tensorOf(t)])),
  inputs: new Map(messages(m, 11).map(port)),
  outputs: new Map(messages(m, 12).map(port)),
})

export function readModel(bytes: Uint8Array) {
  return {
    ir: int(bytes, 1),
    producer: texts(bytes, 2)[0],
    opsets: new Map(messages(bytes, 8).map((o) => [texts(o, 1)[0] ?? "", int(o, 2)])),
    metadata: new Map(messages(bytes, 14).map((e) => [texts(e, 1)[0]!, texts(e, 2)[0]!])),
    ...graphOf(messages(bytes, 7)[0]!),
  }
}
