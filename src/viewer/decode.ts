/** @file The packed numbers of a view, unpacked in Node; page/load.ts does it in the page. */
import { inflateSync } from "node:zlib"
import { fail } from "../errors.ts"
import { tokensOf, type Numbers, type View } from "./data.ts"
import { patternReader, planes, type PatternReader } from "./pattern.ts"

/** Row-major, NaN where a number is null. Error: E_INPUT, which begins with `at`. */
export function numbersOf({ shape, data }: Numbers, at = "numbers"): Float32Array {
  const n = shape.reduce((a, b) => a * b, 1)
  if (typeof data !== "string") {
    if (data.length !== n)
      fail("E_INPUT", `${at} of shape [${shape.join(", ")}] needs ${n} numbers, got ${data.length}`)
    return Float32Array.from(data, (v) => v ?? NaN)
  }
  const bytes = inflated(data, 4 * n, at)
  return new Float32Array(bytes.buffer, bytes.byteOffset, n)
}

/** Base64 of a zlib stream of so many bytes, in a buffer of their own. Error: E_INPUT, which begins with `at`. */
export function inflated(base64: string, length: number, at: string): Uint8Array {
  const bytes = new Uint8Array(length)
  let unpacked: Buffer
  try {
    unpacked = inflateSync(Buffer.from(base64, "base64"), { maxOutputLength: Math.max(1, length) })
  } catch (cause) {
    return fail("E_INPUT", `${at} must unpack (zlib) to ${length} bytes: it is longer or damaged`, { cause })
  }
  if (unpacked.length !== length) fail("E_INPUT", `${at} must unpack to ${length} bytes, got ${unpacked.length}`)
  bytes.set(unpacked)
  return bytes
}

/** A reader of each layer's pattern of an image. */
export function patternsOf(view: View, image: number): PatternReader[] {
  const [special, patches] = [view.special.length, view.grid[0] * view.grid[1]]
  const { heads = [], layers = [] } = view.images[image]!.attention ?? {}
  return layers.map((stored) => {
    const queries = stored.queries === "all" ? tokensOf(view) : special
    const shape = { heads: heads.length, queries, special, patches, keep: stored.keep }
    return patternReader(stored, shape, inflated(stored.data, planes(shape).bytes, `layer ${stored.layer}`))
  })
}
