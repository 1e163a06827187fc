/** @file The data that the page carries, unpacked. */
import { rangeOf } from "../colour.ts"
import type { Matrix, Numbers, Overlay, View, ViewImage } from "../data.ts"
import { patternReader, type PatternReader } from "../pattern.ts"

export interface LoadedOverlay {
  readonly overlay: Overlay
  /** [layers, tokens] */
  readonly values: Float32Array
  readonly tokens: number
  readonly range: readonly [number, number]
  /** Index into the names of labels, or NaN. */
  readonly labels: Float32Array | undefined
}

export interface LoadedImage {
  readonly about: ViewImage
  readonly picture: HTMLCanvasElement
  /** The same without colour: a map lies over it. */
  readonly grey: HTMLCanvasElement
  readonly heads: readonly number[]
  readonly patterns: ReadonlyMap<number, PatternReader>
  readonly overlays: readonly LoadedOverlay[]
}

export interface LoadedMatrix {
  readonly matrix: Matrix
  readonly values: Float32Array
  readonly range: readonly [number, number]
}

export interface Loaded {
  readonly view: View
  readonly images: readonly LoadedImage[]
  readonly matrices: readonly LoadedMatrix[]
  /** Every layer that something is about, rising; -1 is the embedding. */
  readonly layers: readonly number[]
}

export async function load(view: View): Promise<Loaded> {
  const images = await Promise.all(view.images.map((image) => loadImage(image, view)))
  const matrices = await Promise.all(
    (view.matrices ?? []).map(async (matrix) => {
      const values = await numbers(matrix.values)
      return { matrix, values, range: matrix.range ?? rangeOf(values, matrix.kind) }
    }),
  )
  const layers = new Set(
    images.flatMap(({ patterns, overlays }) => [
      ...patterns.keys(),
      ...overlays.flatMap((o) => o.overlay.layers ?? []),
    ]),
  )
  return { view, images, matrices, layers: [...layers].sort((a, b) => a - b) }
}

async function loadImage(about: ViewImage, view: View): Promise<LoadedImage> {
  const { attention, overlays = [] } = about
  const [special, patches] = [view.special.length, view.grid[0] * view.grid[1]]
  const patterns = new Map<number, PatternReader>()
  for (const stored of attention?.layers ?? []) {
    const queries = stored.queries === "all" ? special + patches : special
    const shape = { heads: attention!.heads.length, queries, special, patches, keep: stored.keep }
    patterns.set(stored.layer, patternReader(stored, shape, await inflated(stored.data)))
  }
  const loaded = overlays.map(async (overlay): Promise<LoadedOverlay> => {
    const values = await numbers(overlay.values)
    const labels = overlay.labels && (await numbers(overlay.labels.index))
    return {
      overlay,
      values,
      tokens: overlay.values.shape[1]!,
      range: overlay.range ?? rangeOf(values, overlay.kind),
      labels,
    }
  })
  const [picture, grey] = await decoded(about)
  return { about, picture, grey, heads: attention?.heads ?? [], patterns, overlays: await Promise.all(loaded) }
}

/** The image's pixels, and their luminance. */
async function decoded({ source, width, height }: ViewImage): Promise<[HTMLCanvasElement, HTMLCanvasElement]> {
  const image = new Image()
  image.src = source
  await image.decode()
  const [colour, grey] = [document.createElement("canvas"), document.createElement("canvas")]
  for (const canvas of [colour, grey]) Object.assign(canvas, { width, height })
  const context = colour.getContext("2d", { willReadFrequently: true })!
  context.drawImage(image, 0, 0, width, height)
  const pixels = context.getImageData(0, 0, width, height)
  for (let i = 0; i < pixels.data.length; i += 4) {
    const [r, g, b] = pixels.data.subarray(i, i + 3)
    pixels.data.fill(0.299 * r! + 0.587 * g! + 0.114 * b!, i, i + 3)
  }
  grey.getContext("2d")!.putImageData(pixels, 0, 0)
  return [colour, grey]
}

async function numbers({ data }: Numbers): Promise<Float32Array> {
  if (typeof data !== "string") return Float32Array.from(data, (v) => v ?? NaN)
  const bytes = await inflated(data)
  return new Float32Array(bytes.buffer)
}

/** Base64 of a zlib stream, as bytes in a buffer of their own. */
async function inflated(base64: string): Promise<Uint8Array<ArrayBuffer>> {
  const packed = Uint8Array.from(atob(base64), (c) => c.charCodeAt(0))
  const stream = new Blob([packed]).stream().pipeThrough(new DecompressionStream("deflate"))
  return new Uint8Array(await new Response(stream).arrayBuffer())
}
