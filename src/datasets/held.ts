/** @file Datasets held in memory: the images of a split in one array, its labels beside them. */
import { fail } from "../errors.ts"
import { show, size } from "../tensor/tensor.ts"
import type { NamedDataset, Sample } from "./dataset.ts"
import { splitsFound } from "./roles.ts"

interface Held {
  readonly name: string
  /** uint8, [n, c, H, W] */
  readonly images: Uint8Array
  readonly labels: ArrayLike<number>
  readonly shape: readonly [number, number, number]
  readonly classes: readonly string[]
  readonly fingerprint: string
}

/** `i` if it is the number of one of the dataset's samples. Error: E_INPUT. */
export function checkIndex(i: number, { name, length }: { readonly name: string; readonly length: number }): number {
  return Number.isInteger(i) && i >= 0 && i < length ? i : fail("E_INPUT", `${name}: no sample ${i}, it has ${length}`)
}

/** Every label is a whole number in [0, classes). Error: E_LABEL_RANGE naming the first row of `where` that is not. */
export function checkLabels(labels: ArrayLike<number>, classes: number, where: string, what = "label"): void {
  for (let i = 0; i < labels.length; i++) {
    const label = labels[i]!
    if (Number.isInteger(label) && label >= 0 && label < classes) continue
    const text = `row ${i} has ${what} ${label}, expected a whole number from 0 to ${classes - 1}`
    const none = label === -1 ? `, or where -1 stands for none take another split (test: "val")` : ""
    fail("E_LABEL_RANGE", `${where}: ${text}; correct or remove the row${none}`, { file: where })
  }
}

/** The training split, one of `splits`, has samples of two classes or more. Error: E_DATASET_EMPTY. */
export function checkVariety(
  labels: ArrayLike<number>,
  classes: readonly string[],
  where: string,
  splits: Iterable<string>,
): void {
  const first = labels[0]
  for (let i = 1; i < labels.length; i++) if (labels[i] !== first) return
  const got = first === undefined ? "no samples" : `samples of class "${classes[first] ?? first}" alone`
  const text = `has ${got}; a classifier learns from two classes or more; ${splitsFound(splits)}`
  fail("E_DATASET_EMPTY", `${where}: ${text}`, { file: where })
}

/** The dataset over `images`; its samples are views, made without waiting. Error: E_INPUT where the sizes do not fit. */
export function held({ images, labels, shape, ...about }: Held): NamedDataset {
  const each = size(shape)
  if (images.length !== labels.length * each) {
    fail("E_INPUT", `${about.name}: ${labels.length} images of ${show(shape)} are not ${images.length} bytes`)
  }
  const dataset = {
    ...about,
    shape,
    length: labels.length,
    at(i: number): Sample {
      const start = checkIndex(i, dataset) * each
      const data = images.subarray(start, start + each)
      return { image: { dtype: "uint8", shape, data }, label: labels[i]! }
    },
  }
  return dataset
}
