/** @file Attention patterns as bytes: all of them where they fit, else what a reader misses least, and what was left out in words. */
import { deflateSync } from "node:zlib"
import { fail } from "../errors.ts"
import { show, type Tensor } from "../tensor/tensor.ts"
import { tokensOf, type Attention, type LayerPattern, type View } from "./data.ts"
import type { PatternsInput } from "./encode.ts"
import { planes, toByte, toWord, type PatternShape } from "./pattern.ts"

/** How much of each layer's pattern is kept. */
export interface Detail {
  readonly notes: readonly string[]
}

type Frame = Pick<View, "grid" | "special">

/** Patches kept of each row, from most to least; 0 is all. */
const KEEP = [0, 48, 32, 24, 16, 12] as const
const LEAST = KEEP.at(-1)!

/** No pattern seen deflates to less than this share of its bytes in base64, so that what is much too large is not made. */
const DEFLATED = 0.15

/**
 * The most detail whose base64 takes at most `budget` bytes: all values of all layers; the largest 48 to 12 of each row,
 * with the mean of the others; those of fewer layers, evenly spaced and with the last, the others having the special
 * tokens' queries only. The last step is taken even if it does not fit. Errors: E_INPUT.
 */
export function attentionWithin(
  { layers, row = 0, heads: wanted }: PatternsInput,
  frame: Frame,
  budget: number,
  name: string,
): { attention: Attention; detail: Detail } {
  const sorted = [...layers].sort(([a], [b]) => a - b)
  const read = sorted.map(([layer, tensor]) => patternOf(tensor, layer, row, frame, name))
  const nHeads = read[0]?.heads ?? fail("E_INPUT", `image "${name}": attention of no layer was given`)
  const heads = wanted ?? [...Array(nHeads).keys()]
  const odd = heads.find((h) => !(Number.isInteger(h) && h >= 0 && h < nHeads))
  if (odd !== undefined)
    fail("E_INPUT", `image "${name}": there is no head ${odd}; the model has heads 0 to ${nHeads - 1}`)
  const p = frame.grid[0] * frame.grid[1]
  const encode = (i: number, keep: number, queries: "all" | "special") =>
    encodeLayer(read[i]!, sorted[i]![0], heads, frame, keep < p ? keep : 0, queries)
  const size = (encoded: readonly Encoded[]) => encoded.reduce((n, e) => n + e.pattern.data.length, 0)

  const indices = [...read.keys()]
  const raw = indices.length * heads.length * tokensOf(frame) * p
  for (const keep of KEEP) {
    if (keep >= p || (!keep && raw * DEFLATED > budget)) continue
    // One layer tells what the others will take.
    const first = encode(indices.length - 1, keep, "all")
    if (size([first]) * indices.length > 1.5 * budget) continue
    const encoded = indices.map((i) => (i === indices.length - 1 ? first : encode(i, keep, "all")))
    if (size(encoded) <= budget) return result(encoded, heads, frame)
  }
  const brief = indices.map((i) => encode(i, 0, "special"))
  const whole = size([encode(indices.length - 1, LEAST, "all")])
  const room = Math.floor((budget - size(brief)) / whole)
  const full = spread(indices.length, Math.max(frame.special.length ? 0 : 1, room))
  const encoded = indices.map((i) => (full.has(i) ? encode(i, LEAST, "all") : brief[i]!))
  return result(encoded, heads, frame)
}

/** `n` of `of` numbers, evenly spaced, the last among them. */
const spread = (of: number, n: number): ReadonlySet<number> =>
  new Set(Array.from({ length: Math.min(n, of) }, (_, i) => of - 1 - Math.floor((i * of) / n)))

interface Pattern {
  readonly heads: number
  /** [heads, T, T] of one image. */
  readonly data: Float32Array
}

interface Encoded {
  readonly pattern: LayerPattern
  /** Mean over rows of what is kept of a row's attention. */
  readonly kept: number
}

function patternOf({ shape, data, dtype }: Tensor, layer: number, row: number, frame: Frame, name: string): Pattern {
  const t = tokensOf(frame)
  const [b, h, queries, keys] = shape.length === 3 ? [1, ...shape] : shape
  const fits = (shape.length === 3 || shape.length === 4) && queries === t && keys === t && row < b! && h! > 0
  if (!fits || !(data instanceof Float32Array)) {
    const wanted = `[${row + 1} or more images, heads, ${t}, ${t}] in float32`
    fail("E_INPUT", `image "${name}": the pattern of layer ${layer} must be ${wanted}, got ${show(shape)} in ${dtype}`)
  }
  const values = data.subarray(row * h! * t * t, (row + 1) * h! * t * t)
  const bad = values.find((v) => !(v >= 0 && v < Infinity))
  if (bad !== undefined) {
    fail("E_INPUT", `image "${name}": the pattern of layer ${layer} holds ${bad}; attention is at least 0 and finite`)
  }
  return { heads: h!, data: values }
}

function encodeLayer(
  { data }: Pattern,
  layer: number,
  heads: readonly number[],
  frame: Frame,
  keep: number,
  which: "all" | "special",
): Encoded {
  const [s, t] = [frame.special.length, tokensOf(frame)]
  const queries = which === "all" ? t : s
  const shape: PatternShape = { heads: heads.length, queries, special: s, patches: t - s, keep }
  const at = planes(shape)
  const bytes = new Uint8Array(at.bytes)
  const words = new Uint16Array(bytes.buffer, 0, at.dense >> 1)
  const unit = Math.max(1, largest(data))
  let kept = 0
  heads.forEach((head, i) => {
    for (let query = 0; query < queries; query++) {
      const r = i * queries + query
      const row = data.subarray((head * t + query) * t, (head * t + query + 1) * t)
      for (let j = 0; j < s; j++) words[r * s + j] = toWord(row[j]!, unit)
      const patches = row.subarray(s)
      const scale = toWord(largest(patches), unit, true)
      words[(at.scale >> 1) + r] = scale
      if (query < at.whole) {
        const from = at.dense + (i * at.whole + query) * patches.length
        for (let p = 0; p < patches.length; p++) bytes[from + p] = toByte(patches[p]!, unit, scale)
        continue
      }
      const q = i * at.sparse + query - at.whole
      let held = 0
      top(patches, keep).forEach((p, j) => {
        words[(at.index >> 1) + q * keep + j] = p
        bytes[at.kept + q * keep + j] = toByte(patches[p]!, unit, scale)
        held += patches[p]!
      })
      const all = sum(patches)
      words[(at.rest >> 1) + q] = toWord(Math.max(0, all - held) / (patches.length - keep), unit)
      kept += all > 0 ? held / all : 1
    }
  })
  const packed = deflateSync(bytes, { level: 6 }).toString("base64")
  const rows = heads.length * at.sparse
  return { pattern: { layer, queries: which, keep, unit, data: packed }, kept: rows ? kept / rows : 1 }
}

const largest = (values: Float32Array): number => values.reduce((m, v) => Math.max(m, v), 0)
const sum = (values: Float32Array): number => values.reduce((n, v) => n + v, 0)

/** Positions of the `n` largest, rising; of equals the first. */
function top(values: Float32Array, n: number): number[] {
  const places: number[] = []
  let held = 0
  for (let i = 0; i < values.length; i++) {
    const v = values[i]!
    if (held === n && v <= values[places[n - 1]!]!) continue
    let at = held < n ? held++ : n - 1
    for (; at > 0 && values[places[at - 1]!]! < v; at--) places[at] = places[at - 1]!
    places[at] = i
  }
  return places.sort((a, b) => a - b)
}

function result(encoded: readonly Encoded[], heads: readonly number[], { special, grid }: Frame) {
  const patterns = encoded.map((e) => e.pattern)
  const notes: string[] = []
  const partial = encoded.filter((e) => e.pattern.keep > 0)
  if (partial.length) {
    const { keep } = partial[0]!.pattern
    const share = partial.reduce((n, e) => n + e.kept, 0) / partial.length
    notes.push(
      `To keep the file small, each ${special.length ? "patch's query" : "query"} keeps its ${keep} largest of ${grid[0] * grid[1]} patches, which hold ` +
        `${(100 * share).toFixed(0)} % of what it gives to patches; the others are shown as their mean.`,
    )
  }
  const brief = patterns.filter((l) => l.queries === "special").map((l) => l.layer)
  if (brief.length) {
    notes.push(
      special.length
        ? `To keep the file small, ${layersOf(brief)} the queries of ${special.join(", ")} only.`
        : `To keep the file small, ${layersOf(brief, true)} left out.`,
    )
  }
  // Without special tokens a layer of their queries alone holds nothing.
  const shown = special.length ? patterns : patterns.filter((l) => l.queries === "all")
  return { attention: { heads, layers: shown }, detail: { notes } }
}

const layersOf = (layers: readonly number[], out = false): string => {
  const [has, is] = layers.length === 1 ? ["has", "is"] : ["have", "are"]
  return `layer${layers.length === 1 ? "" : "s"} ${layers.join(", ")} ${out ? is : has}`
}
