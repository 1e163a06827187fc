/** @file Samples that are still encoded images, described by plain data, so that any thread can decode them. */
import { decodeImage } from "../data/image.ts"
import { type Preprocessing, preprocessUint8 } from "../data/preprocess.ts"
import { fail, PrismaError } from "../errors.ts"
import type { Tensor } from "../tensor/tensor.ts"
import type { NamedDataset, Sample } from "./dataset.ts"
import { type ParquetRow, rowBytes } from "./parquet-rows.ts"

/** What every image becomes. */
export interface Fit {
  /** Height and width in pixels (one number: both), by Pillow's bilinear resize; by default as stored. */
  readonly size?: number | readonly [height: number, width: number]
  /** 3 (default), or 1: grey by ITU-R 601-2 luma. */
  readonly channels?: 1 | 3
}

/** Where the image lies: a file, or a row of a parquet file. */
type Place = { readonly kind: "file"; readonly path: string } | ({ readonly kind: "row" } & ParquetRow)

export type Encoded = Place & {
  readonly fit: Fit
  readonly label: number
  /** The sample's number in its dataset, for messages. */
  readonly index: number
}

/** A dataset whose images are decoded as they are asked for, which another thread can do. */
export interface EncodedDataset extends NamedDataset {
  /** What makes sample i. */
  encoded(i: number): Encoded
  at(i: number): Promise<Sample>
}

/** The largest edge that an image can be resized to, in pixels. */
const MAX_EDGE = 4096

const BYTES: { readonly [K in Place["kind"]]: (place: Place & { kind: K }) => Promise<[string | Uint8Array, string]> } =
  {
    file: async ({ path }) => [path, path],
    row: async (row) => [await rowBytes(row), `${row.file}: row ${row.row}`],
  }

/** `fit` if it can be done. Error: E_CONFIG. */
export function checkFit(fit: Fit): Fit {
  const { size, channels = 3 } = fit
  const sizes: readonly unknown[] = size === undefined ? [1, 1] : Array.isArray(size) ? size : [size, size]
  if (!sizes.every((s) => Number.isInteger(s) && Number(s) >= 1 && Number(s) <= MAX_EDGE) || sizes.length !== 2) {
    fail("E_CONFIG", `size must be one or two whole numbers from 1 to ${MAX_EDGE}, got ${JSON.stringify(size)}`)
  }
  if (channels !== 1 && channels !== 3) fail("E_CONFIG", `channels must be 1 or 3, got ${JSON.stringify(channels)}`)
  return fit
}

/** [c, H, W] of what `fit` makes, where that does not depend on the image. */
export function fitShape({ size, channels = 3 }: Fit): { shape?: readonly [number, number, number] } {
  if (size === undefined) return {}
  const [height, width] = typeof size === "number" ? [size, size] : size
  return { shape: [channels, height, width] }
}

/** The sample: uint8 [c, H, W] and its label. Errors: those of `decodeImage` and `rowBytes`, with the sample's number. */
export async function decodeSample(encoded: Encoded): Promise<Sample> {
  try {
    return await decoded(encoded)
  } catch (error) {
    if (!(error instanceof PrismaError)) throw error
    throw new PrismaError(error.code, `sample ${encoded.index}: ${error.message}`, error)
  }
}

async function decoded(encoded: Encoded): Promise<Sample> {
  const { fit, label } = encoded
  const [source, name] = await (BYTES[encoded.kind] as (place: Place) => ReturnType<(typeof BYTES)["file"]>)(encoded)
  const image = await decodeImage(source, { name })
  const pixels = preprocessUint8(image, pipeline(fit))
  return { image: planar(pixels.data, pixels.channels, pixels.height, pixels.width), label }
}

function pipeline(fit: Fit): Preprocessing {
  const { shape } = fitShape(fit)
  const resize = shape && { to: "exact" as const, height: shape[1], width: shape[2], resample: "bilinear" as const }
  return { channels: fit.channels ?? 3, resize: resize ?? null, crop: null, rescale: 1, mean: [], std: [] }
}

/** Interleaved pixels, [H, W, c], as [c, H, W]. */
export function planar(data: Uint8Array, c: number, height: number, width: number): Tensor<"uint8"> {
  const n = height * width
  const out = new Uint8Array(data.length)
  for (let channel = 0; channel < c; channel++) {
    for (let i = 0; i < n; i++) out[channel * n + i] = data[i * c + channel]!
  }
  return { dtype: "uint8", shape: [c, height, width], data: out }
}
