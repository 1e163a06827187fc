/** @file The bytes of one layer's attention pattern, and its rows and columns read from them; for Node and for the page. */
import type { LayerPattern } from "./data.ts"

/**
 * Sizes of the planes, which lie one after another, each row-major. `k` is `keep`; where it is 0 every query is whole,
 * else the S special tokens' queries are whole (W of them) and the others (Q = queries - W) keep k patches each.
 *
 *     special  uint16 [heads, queries, S]   what each query gives each special token
 *     scale    uint16 [heads, queries]      its largest value on a patch
 *     rest     uint16 [heads, Q]            the mean of its patches that are not kept
 *     index    uint16 [heads, Q, k]         which patches are kept, rising
 *     whole    uint8  [heads, W, P]
 *     kept     uint8  [heads, Q, k]
 *
 * A uint16 u of the first three stands for unit * (u / 65535)^2, a uint8 v for scale * (v / 255)^2: squares, since a
 * query gives most tokens hundredths of what it gives one. A patch's value is off by at most scale * 0.0041.
 */
export interface PatternShape {
  readonly heads: number
  readonly queries: number
  /** S: special tokens. */
  readonly special: number
  /** P */
  readonly patches: number
  /** Patches kept of a row; 0: all. */
  readonly keep: number
}

const U16 = 65535
const U8 = 255

/** How many queries of a head are whole, byte offsets of the planes, and all of it. */
export function planes({ heads, queries, special, patches, keep }: PatternShape) {
  const whole = keep ? Math.min(special, queries) : queries
  const sparse = queries - whole
  const scale = heads * queries * special * 2
  const rest = scale + heads * queries * 2
  const index = rest + heads * sparse * 2
  const dense = index + heads * sparse * keep * 2
  const kept = dense + heads * whole * patches
  return { whole, sparse, scale, rest, index, dense, kept, bytes: kept + heads * sparse * keep }
}

/** Rows and columns of one layer's pattern. Values go into `out` [T], special tokens first. */
export interface PatternReader {
  readonly layer: number
  /** Queries that have a row: all T, or the S special ones. */
  readonly queries: number
  /** What `query` gives each token; NaN everywhere where that row is not here. */
  readonly row: (head: number, query: number, out: Float32Array) => void
  /** What each query gives `key`; NaN where the row is not here. */
  readonly column: (head: number, key: number, out: Float32Array) => void
}

/** `bytes` must be as long as `planes` says; `head` counts the heads that are here. */
export function patternReader(
  { layer, unit }: Pick<LayerPattern, "layer" | "unit">,
  shape: PatternShape,
  bytes: Uint8Array,
): PatternReader {
  const { queries, special: s, patches, keep } = shape
  const at = planes(shape)
  const { whole, sparse } = at
  const words = new Uint16Array(bytes.buffer, bytes.byteOffset, at.dense >> 1)
  const dense = bytes.subarray(at.dense, at.kept)
  const kept = bytes.subarray(at.kept)
  const [scales, rests, indices] = [at.scale >> 1, at.rest >> 1, at.index >> 1]
  const word = (i: number) => unit * (words[i]! / U16) ** 2
  const t = s + patches

  const row = (head: number, query: number, out: Float32Array) => {
    if (query >= queries) {
      out.fill(NaN)
      return
    }
    const r = head * queries + query
    for (let i = 0; i < s; i++) out[i] = word(r * s + i)
    const scale = word(scales + r) / (U8 * U8)
    if (query < whole) {
      const from = (head * whole + query) * patches
      for (let p = 0; p < patches; p++) out[s + p] = scale * dense[from + p]! ** 2
      return
    }
    const q = head * sparse + query - whole
    out.fill(word(rests + q), s, t)
    for (let j = q * keep; j < (q + 1) * keep; j++) out[s + words[indices + j]!] = scale * kept[j]! ** 2
  }

  const column = (head: number, key: number, out: Float32Array) => {
    out.fill(NaN, queries, t)
    const p = key - s
    for (let query = 0; query < queries; query++) {
      const r = head * queries + query
      const scale = word(scales + r) / (U8 * U8)
      if (p < 0) out[query] = word(r * s + key)
      else if (query < whole) out[query] = scale * dense[(head * whole + query) * patches + p]! ** 2
      else {
        const q = head * sparse + query - whole
        const found = find(words, indices + q * keep, indices + (q + 1) * keep, p)
        out[query] = found < 0 ? word(rests + q) : scale * kept[found - indices]! ** 2
      }
    }
  }
  return { layer, queries, row, column }
}

/** Where `wanted` stands among the rising numbers of [from, to), or -1. */
function find(sorted: Uint16Array, from: number, to: number, wanted: number): number {
  let [low, high] = [from, to]
  while (low < high) {
    const middle = (low + high) >> 1
    if (sorted[middle]! < wanted) low = middle + 1
    else high = middle
  }
  return low < to && sorted[low] === wanted ? low : -1
}

/** The uint16 of a value in [0, unit]; `up` rounds so that what it stands for is not less. */
export const toWord = (value: number, unit: number, up = false): number =>
  (up ? Math.ceil : Math.round)(Math.min(1, Math.sqrt(value / unit)) * U16)

/** The uint8 of a patch's value, given its row's scale as a uint16. */
export const toByte = (value: number, unit: number, scale: number): number =>
  scale ? Math.round(Math.min(1, Math.sqrt(value / unit) / (scale / U16)) * U8) : 0
