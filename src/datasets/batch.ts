/** @file Samples put together into one batch, without waiting where none has to be waited for. */
import { fail } from "../errors.ts"
import { show, size, type Tensor } from "../tensor/tensor.ts"
import { type Augmentation, augmented } from "./augment.ts"
import type { Sample } from "./dataset.ts"

export interface Batch {
  /** [b, c, H, W]; uint8 0..255 stands for 0..1, float32 for itself. */
  readonly images: Tensor<"uint8"> | Tensor<"float32">
  /** Class indexes [b], or numbers to be regressed [b, k]. */
  readonly labels: Tensor<"int64"> | Tensor<"float32">
  /** The samples' numbers in the dataset. */
  readonly indices: Uint32Array
}

/** What is done to the samples of a batch. */
export interface Changes {
  readonly seed: number
  readonly epoch: number
  readonly augment: readonly Augmentation[]
}

/** Samples that are decoded at once: enough for the four threads that sharp has, few enough to hold. */
const LANES = 8

/**
 * The batch of the samples `at(0)` to `at(n - 1)`, whose numbers in the dataset are `indices`; a promise only where one
 * of them is. Errors: E_DATASET_SCHEMA where two samples differ in shape or kind, E_LABEL_RANGE for a class that is no
 * whole number, and those of `at`, always of the first sample that fails.
 */
export function assemble(
  indices: Uint32Array,
  at: (slot: number) => Sample | Promise<Sample>,
  changes: Changes,
): Batch | Promise<Batch> {
  const n = indices.length
  let images: Batch["images"] | undefined
  let labels: Batch["labels"]
  const put = (slot: number, sample: Sample) => {
    const index = indices[slot]!
    const { augment } = changes
    const image = augment.length > 0 ? augmented(sample.image, augment, { ...changes, index }) : sample.image
    if (!images) {
      images = emptyImages(n, image)
      labels = emptyLabels(n, sample.label)
    }
    putImage(images, image, slot, index)
    putLabel(labels, sample.label, slot, index)
  }

  const failed: { readonly slot: number; readonly error: unknown }[] = []
  const one = async (slot: number, sample: () => Sample | Promise<Sample>) => {
    try {
      put(slot, await sample())
    } catch (error) {
      failed.push({ slot, error })
    }
  }
  let next = 0
  /** Slots are taken in order and all that were taken are waited for, so the failure of the lowest is among them. */
  const lane = async () => {
    while (next < n && failed.length === 0) {
      const slot = next++
      await one(slot, () => at(slot))
    }
  }
  const rest = async (slot: number, sample: Promise<Sample>): Promise<Batch> => {
    await Promise.all([one(slot, () => sample), ...Array.from({ length: LANES }, lane)])
    if (failed.length > 0) throw failed.sort((a, b) => a.slot - b.slot)[0]!.error
    return { images: images!, labels, indices }
  }
  while (next < n) {
    const slot = next++
    const sample = at(slot)
    if (sample instanceof Promise) return rest(slot, sample)
    put(slot, sample)
  }
  return { images: images!, labels: labels!, indices }
}

function emptyImages(n: number, { dtype, shape }: Sample["image"]): Batch["images"] {
  const all = [n, ...shape]
  return dtype === "uint8"
    ? { dtype, shape: all, data: new Uint8Array(size(all)) }
    : { dtype, shape: all, data: new Float32Array(size(all)) }
}

const emptyLabels = (n: number, label: Sample["label"]): Batch["labels"] =>
  typeof label === "number"
    ? { dtype: "int64", shape: [n], data: new BigInt64Array(n) }
    : { dtype: "float32", shape: [n, label.length], data: new Float32Array(n * label.length) }

function putImage(images: Batch["images"], image: Sample["image"], slot: number, index: number): void {
  const each = images.data.length / images.shape[0]!
  const { shape } = image
  const alike = shape.length === 3 && shape.every((d, axis) => d === images.shape[axis + 1])
  if (!alike || image.dtype !== images.dtype || image.data.length !== each) {
    const expected = `${images.dtype} ${show(images.shape.slice(1))} as the batch's first`
    const text = `image is ${image.dtype} ${show(shape)}, expected ${expected}; give the dataset a size`
    fail("E_DATASET_SCHEMA", `sample ${index}: ${text}`)
  }
  images.data.set(image.data, slot * each)
}

function putLabel({ dtype, shape, data }: Batch["labels"], label: Sample["label"], slot: number, index: number): void {
  const numbers = typeof label === "number" ? undefined : label.length
  if (numbers !== shape[1]) {
    const kind = (k: number | undefined) => (k === undefined ? "a class" : `${k} numbers`)
    fail(
      "E_DATASET_SCHEMA",
      `sample ${index}: label is ${kind(numbers)}, expected ${kind(shape[1])} as the batch's first`,
    )
  }
  if (dtype === "float32") data.set(label as readonly number[], slot * shape[1]!)
  else if (Number.isSafeInteger(label)) data[slot] = BigInt(label as number)
  else fail("E_LABEL_RANGE", `sample ${index}: label is ${String(label)}, expected a whole number`)
}
