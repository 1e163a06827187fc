/** @file What the reader has chosen, and the values that follow from it. */
import type { ScaleKind } from "../data.ts"
import type { Loaded, LoadedImage, LoadedOverlay } from "./load.ts"

/** One picture: an image under one head of one layer. */
export interface Panel {
  image: number
  /** The model's number of the layer. */
  layer: number
  /** Which of the heads that are here; -1 is their mean. */
  head: number
}

export interface State {
  /** One, or two to compare. */
  panels: [Panel, ...Panel[]]
  /** The panel that the controls speak of. */
  active: number
  token: number
  locked: boolean
  /** The token under the pointer. */
  pointed: number | undefined
  direction: "from" | "to"
  scale: "each" | "shared"
  /** "attention", or the name of an overlay. */
  show: string
  opacity: number
}

/** A map over the tokens: values [T], NaN where nothing is known, and how it is coloured. */
export interface TokenMap {
  readonly values: Float32Array
  readonly kind: ScaleKind
  readonly range: readonly [number, number]
  readonly units: string
  /** Set where the map is of an overlay. */
  readonly overlay?: LoadedOverlay
  /** Its row. */
  readonly row?: number
  /** Why there is nothing to see. */
  readonly missing?: string
}

export const MEAN = -1

export const tokens = ({ view }: Loaded): number => view.special.length + view.grid[0] * view.grid[1]

/** What to show first: the class token if there is one, else the patch in the middle; the last layer. */
export function restingToken({ view: { special, grid } }: Loaded): number {
  return special.length ? 0 : Math.floor(grid[0] / 2) * grid[1] + Math.floor(grid[1] / 2)
}

export function initialState(loaded: Loaded): State {
  const attention = loaded.images.some((i) => i.patterns.size)
  const overlays = loaded.images.flatMap((i) => i.overlays.map((o) => o.overlay.name))
  const [first] = loaded.images
  const last = [...(first?.patterns.keys() ?? [])].at(-1) ?? loaded.layers.at(-1) ?? 0
  return {
    panels: [{ image: 0, layer: last, head: 0 }],
    active: 0,
    token: restingToken(loaded),
    locked: false,
    pointed: undefined,
    direction: "from",
    scale: "each",
    show: overlays[0] ?? (attention ? "attention" : "nothing"),
    opacity: 0.65,
  }
}

/** What a head gives or is given: values [T] of the current token. `out` is filled and given back. */
export function attentionOf(
  image: LoadedImage,
  { layer, head }: Pick<Panel, "layer" | "head">,
  { token, direction }: Pick<State, "token" | "direction">,
  out: Float32Array,
): Float32Array {
  const reader = image.patterns.get(layer)
  if (!reader) return out.fill(NaN)
  const read = direction === "from" ? reader.row : reader.column
  if (head !== MEAN) {
    read(head, token, out)
    return out
  }
  const one = new Float32Array(out.length)
  out.fill(0)
  for (let h = 0; h < image.heads.length; h++) {
    read(h, token, one)
    for (let i = 0; i < out.length; i++) out[i]! += one[i]! / image.heads.length
  }
  return out
}

/** The largest value on a patch, special tokens left out: one of them often has most of the attention. */
export function largestPatch(values: Float32Array, special: number): number {
  let most = 0
  for (let i = special; i < values.length; i++) if (values[i]! > most) most = values[i]!
  return most
}

/** The largest on a patch over all heads of all layers of an image. */
export function sharedLargest(loaded: Loaded, image: LoadedImage, state: State): number {
  const out = new Float32Array(tokens(loaded))
  let most = 0
  for (const layer of image.patterns.keys()) {
    for (let head = 0; head < image.heads.length; head++) {
      attentionOf(image, { layer, head }, state, out)
      most = Math.max(most, largestPatch(out, loaded.view.special.length))
    }
  }
  return most
}

/** The row of an overlay that is about a layer: that of the nearest layer not above it. */
export function overlayRow({ overlay }: LoadedOverlay, layer: number): number {
  const at = overlay.layers?.findLastIndex((l) => l <= layer) ?? 0
  return Math.max(0, at)
}

/** What a panel shows. */
export function mapOf(loaded: Loaded, state: State, panel: Panel): TokenMap {
  const image = loaded.images[panel.image]!
  const special = loaded.view.special.length
  const values = new Float32Array(tokens(loaded)).fill(NaN)
  const found = image.overlays.find((o) => o.overlay.name === state.show)
  if (found) {
    const row = overlayRow(found, panel.layer)
    values.set(found.values.subarray(row * found.tokens, (row + 1) * found.tokens), values.length - found.tokens)
    const range = found.range
    return { values, kind: found.overlay.kind, range, units: found.overlay.units ?? "", overlay: found, row }
  }
  const empty = { values, kind: "sequential", range: [0, 1], units: "" } as const
  if (state.show !== "attention") return { ...empty, missing: "" }
  attentionOf(image, panel, state, values)
  const known = values.some((v) => v >= 0)
  const missing = image.patterns.has(panel.layer)
    ? "this layer has the special tokens' queries only"
    : "this layer's attention is not in the file"
  if (!known) return { ...empty, missing }
  const most = state.scale === "shared" ? sharedLargest(loaded, image, state) : largestPatch(values, special)
  return { values, kind: "sequential", range: [0, most || 1], units: "attention" }
}

/** "CLS", or "patch (3, 5)": row and column from 0. */
export function tokenName({ view: { special, grid } }: Loaded, token: number): string {
  if (token < special.length) return special[token]!
  const p = token - special.length
  return `patch (${Math.floor(p / grid[1])}, ${p % grid[1]})`
}

export const layerName = (layer: number): string => (layer < 0 ? "embedding" : String(layer))
export const headName = ({ heads }: LoadedImage, head: number): string =>
  head === MEAN ? "mean of heads" : `head ${heads[head]!}`
