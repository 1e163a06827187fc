/** @file Rows of a dataset as what a model takes, prepared as the model's own repo says, with their labels. */
import { DATASET_NAMES, openDataset, type DatasetSpec } from "../datasets/open.ts"
import { datasetAt, openOneSplit, splitOf } from "../datasets/recognise.ts"
import type { Image } from "../data/image.ts"
import { preprocess } from "../data/preprocess.ts"
import type { NamedDataset, Sample } from "../datasets/dataset.ts"
import { fail } from "../errors.ts"
import type { LoadedViT } from "../hub/load-pretrained.ts"
import { float32, int64, show, size, type Tensor } from "../tensor/tensor.ts"
import type { JobData } from "./job.ts"

/** The split that a job names. Errors: E_USAGE, E_CONFIG, E_DATASET_EMPTY; those of the dataset. */
export async function openSplit({ data, path, split }: JobData): Promise<NamedDataset> {
  if (!(DATASET_NAMES as readonly string[]).includes(data)) {
    if (path !== undefined) fail("E_USAGE", `--path says where a dataset of a name lies; ${data} is a path itself`)
    return (await datasetAt(data, split)).data
  }
  if ((data === "folder" || data === "parquet") && path !== undefined) return openOneSplit[data](path, split)
  const spec = { name: data, ...(path !== undefined && { path }) } as DatasetSpec
  return splitOf(await openDataset(spec), split, data)
}

export interface Rows {
  /** [n, c, H, W] */
  readonly pixels: Tensor<"float32">
  /** Class numbers [n], or numbers to be regressed [n, k]. */
  readonly labels: Tensor<"int64"> | Tensor<"float32">
}

/** Images that are decoded and prepared at once: more than sharp's four threads would only be held. */
const LANES = 8

/** Rows `start` up to `end`. Errors: E_PREPROC, E_INPUT for samples that are no images; those of the dataset. */
export async function rowsOf(model: LoadedViT, data: NamedDataset, start: number, end: number): Promise<Rows> {
  const { nChannels, imageSize } = model.config.vision
  const shape = [nChannels, ...imageSize]
  const n = end - start
  const pixels = new Float32Array(n * size(shape))
  const labels: (number | readonly number[])[] = []
  for (let first = 0; first < n; first += LANES) {
    const slots = Array.from({ length: Math.min(LANES, n - first) }, (_, k) => first + k)
    const put = async (slot: number) => {
      const sample = await data.at(start + slot)
      pixels.set(preparedOf(model, sample, data, start + slot), slot * size(shape))
      labels[slot] = sample.label
    }
    await Promise.all(slots.map(put))
  }
  return { pixels: float32([n, ...shape], pixels), labels: labelsOf(labels) }
}

/** 8-bit images as the model's preprocessing makes them; float32 samples of the model's own shape as they are. */
function preparedOf(model: LoadedViT, { image }: Sample, { name }: NamedDataset, i: number): Float32Array {
  const { nChannels, imageSize } = model.config.vision
  const wanted = [nChannels, ...imageSize]
  if (image.dtype === "float32" && String(image.shape) === String(wanted)) return image.data
  const [channels, height, width] = image.shape as [number, number, number]
  if (image.dtype !== "uint8" || (channels !== 1 && channels !== 3)) {
    const text = `sample ${i} is ${image.dtype} ${show(image.shape)}`
    return fail("E_INPUT", `${name}: ${text}, expected uint8 of 1 or 3 channels or float32 ${show(wanted)}`)
  }
  const about = { width, height, notes: [] } as const
  const planar = image.data
  if (channels === 1) return preprocess({ ...about, channels, data: planar }, model.preprocessing).data
  const plane = height * width
  const data = new Uint8Array(planar.length)
  for (let c = 0; c < channels; c++) for (let k = 0; k < plane; k++) data[k * channels + c] = planar[c * plane + k]!
  const interleaved: Image = { ...about, channels, data }
  return preprocess(interleaved, model.preprocessing).data
}

function labelsOf(labels: readonly (number | readonly number[])[]): Rows["labels"] {
  const [first] = labels
  if (typeof first === "number") return int64([labels.length], labels as readonly number[])
  return float32([labels.length, first?.length ?? 0], labels.flat())
}
