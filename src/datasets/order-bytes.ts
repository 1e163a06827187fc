/** @file Bytes of either order as the typed array of a dtype. */
import { ARRAYS, type Arrays, type DType, DTYPES } from "../tensor/tensor.ts"

const SWAP = new Map<number, (bytes: Buffer) => Buffer>([
  [2, (bytes) => bytes.swap16()],
  [4, (bytes) => bytes.swap32()],
  [8, (bytes) => bytes.swap64()],
])

/** The values that `bytes` hold in the order given: a view of bytes for types of one byte, else a copy. The length is a
 * multiple of the dtype's. */
export function ordered<D extends DType>(bytes: Uint8Array, dtype: D, order: "little" | "big"): Arrays[D] {
  const width = DTYPES[dtype].bytes
  if (width === 1) return new ARRAYS[dtype](bytes.buffer, bytes.byteOffset, bytes.length)
  const copy = bytes.slice()
  if (order === "big") SWAP.get(width)!(Buffer.from(copy.buffer, copy.byteOffset, copy.byteLength))
  return new ARRAYS[dtype](copy.buffer, copy.byteOffset, copy.length / width)
}
