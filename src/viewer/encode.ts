/** @file From raw numbers to the JSON document of a view: checked, packed, attention within a budget. */
import { deflateSync } from "node:zlib"
import { encodeJpeg, encodePng, type Image } from "../data/image.ts"
import { fail } from "../errors.ts"
import type { Tensor } from "../tensor/tensor.ts"
import { checkView } from "./check.ts"
import { attentionWithin, type Detail } from "./budget.ts"
import {
  tokensOf,
  VIEW_FORMAT,
  VIEW_VERSION,
  type Labels,
  type Matrix,
  type Numbers,
  type Overlay,
  type Prediction,
  type Table,
  type View,
  type ViewImage,
} from "./data.ts"

/** A `View` with plain numbers and pixels. */
export interface ViewInput extends Pick<View, "title" | "model" | "notes" | "grid" | "special" | "tables"> {
  readonly images: readonly ImageInput[]
  readonly tables?: readonly Table[]
  readonly matrices?: readonly MatrixInput[]
}

export interface ImageInput {
  readonly name: string
  /** What the model saw, resized and cropped. */
  readonly pixels: Pick<Image, "width" | "height" | "channels" | "data">
  readonly predictions?: readonly Prediction[]
  readonly patterns?: PatternsInput
  readonly overlays?: readonly OverlayInput[]
}

export interface PatternsInput {
  /** `blocks.{layer}.attn.hook_pattern` [b, h, T, T] or [h, T, T] of each layer. */
  readonly layers: ReadonlyMap<number, Tensor>
  /** Which image of the batch; 0. */
  readonly row?: number
  /** Only these heads; all. */
  readonly heads?: readonly number[]
}

export interface OverlayInput extends Omit<Overlay, "values" | "labels"> {
  /** [layers, P] or [layers, T]; NaN is not measured. */
  readonly values: ArrayLike<number>
  readonly labels?: Omit<Labels, "index"> & { readonly index: ArrayLike<number> }
}

export interface MatrixInput extends Omit<Matrix, "values"> {
  /** [rows, columns]; NaN is not measured. */
  readonly values: ArrayLike<number>
}

export interface EncodeOptions {
  /** Bytes that attention may take in the document; 1,000,000. What does not fit is left out, and `notes` say so. */
  readonly attentionBytes?: number
}

/** Attention in the page: at most so many bytes of base64. */
const ATTENTION_BYTES = 1_000_000

/** A picture whose PNG is larger than this is put in as JPEG, as photographs are. */
const PNG_BYTES = 60_000

/** Numbers fewer than this stay readable. */
const PLAIN = 64

/** The document of a view. Error: E_INPUT, naming what has the wrong shape. */
export async function encodeView(input: ViewInput, options: EncodeOptions = {}): Promise<View> {
  const { attentionBytes = ATTENTION_BYTES } = options
  const { title, model, grid, special, tables } = input
  for (const { name, rows } of tables ?? [])
    checkFinite(
      `table "${name}"`,
      rows.map((r) => [r.name, r.value]),
    )
  const images: ViewImage[] = []
  const details: Detail[] = []
  for (const image of input.images) {
    const { name, pixels, predictions, patterns, overlays } = image
    checkFinite(
      `image "${name}"`,
      (predictions ?? []).map((p) => [p.label, p.score]),
    )
    const attention = patterns && attentionWithin(patterns, input, attentionBytes / sharing(input), name)
    if (attention) details.push(attention.detail)
    images.push({
      name,
      source: await dataUri(pixels),
      width: pixels.width,
      height: pixels.height,
      ...(predictions && { predictions: predictions.map(prediction) }),
      ...(attention && { attention: attention.attention }),
      ...(overlays && { overlays: overlays.map((o) => overlay(o, tokensOf(input), grid[0] * grid[1])) }),
    })
  }
  const notes = [...(input.notes ?? []), ...new Set(details.flatMap((d) => d.notes))]
  const view: View = {
    format: VIEW_FORMAT,
    version: VIEW_VERSION,
    title,
    ...(model !== undefined && { model }),
    ...(notes.length && { notes }),
    grid,
    special,
    images,
    ...(tables && { tables }),
    ...(input.matrices && { matrices: input.matrices.map(matrix) }),
  }
  return checkView(view)
}

/** Without what else a caller knows of it. */
const prediction = ({ label, score, logit }: Prediction): Prediction => ({
  label,
  score,
  ...(logit !== undefined && { logit }),
})

function checkFinite(of: string, values: readonly (readonly [name: string, value: number])[]): void {
  const odd = values.find(([, value]) => !Number.isFinite(value))
  if (odd) fail("E_INPUT", `${of}: "${odd[0]}" is ${odd[1]}; only finite numbers can be shown`)
}

const sharing = ({ images }: ViewInput): number => Math.max(1, images.filter((i) => i.patterns).length)

function overlay({ values, labels, ...rest }: OverlayInput, t: number, p: number): Overlay {
  const rows = rest.layers?.length ?? 1
  const columns = [t, p].find((n) => values.length === rows * n)
  if (columns === undefined) {
    const wanted = `${rows} x ${p} (patches) or ${rows} x ${t} (tokens)`
    fail("E_INPUT", `overlay "${rest.name}" needs ${wanted} values, got ${values.length}`)
  }
  if (labels && labels.index.length !== values.length) {
    const got = `${labels.index.length} labels for ${values.length} values`
    fail("E_INPUT", `overlay "${rest.name}" has ${got}; give NaN where there is none`)
  }
  const shape = [rows, columns]
  return {
    ...rest,
    values: pack(values, shape),
    ...(labels && { labels: { ...labels, index: pack(labels.index, shape) } }),
  }
}

function matrix({ values, ...rest }: MatrixInput): Matrix {
  const shape = [rest.rows.length, rest.columns.length] as const
  if (values.length !== shape[0] * shape[1]) {
    fail("E_INPUT", `matrix "${rest.name}" of ${shape[0]} x ${shape[1]} names has ${values.length} values`)
  }
  return { ...rest, values: pack(values, shape) }
}

/** As an array where it is short, else as deflated float32. */
function pack(values: ArrayLike<number>, shape: readonly number[]): Numbers {
  if (values.length <= PLAIN) {
    return { shape, data: Array.from(values, (v) => (Number.isFinite(v) ? Math.fround(v) : null)) }
  }
  const data = new DataView(new ArrayBuffer(values.length * 4))
  for (let i = 0; i < values.length; i++) data.setFloat32(i * 4, Number.isFinite(values[i]!) ? values[i]! : NaN, true)
  return { shape, data: deflateSync(new Uint8Array(data.buffer), { level: 9 }).toString("base64") }
}

/** Lossless where that is small. */
async function dataUri({ data, width, height, channels }: ImageInput["pixels"]): Promise<string> {
  const png = await encodePng(data, width, height, channels)
  if (png.length <= PNG_BYTES) return `data:image/png;base64,${Buffer.from(png).toString("base64")}`
  const jpeg = await encodeJpeg(data, width, height, channels)
  return `data:image/jpeg;base64,${Buffer.from(jpeg).toString("base64")}`
}
