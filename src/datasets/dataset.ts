/** @file What a dataset is: anything with a length and a sample at each index. */
import type { Tensor } from "../tensor/tensor.ts"

/** One image and what is to be learned of it. */
export interface Sample {
  /** [c, H, W]; uint8 0..255 stands for 0..1, float32 for itself. */
  readonly image: Tensor<"uint8"> | Tensor<"float32">
  /** A class index, or numbers to be regressed. */
  readonly label: number | readonly number[]
}

export interface Dataset {
  readonly length: number
  /** Sample number i, 0 <= i < length; the same each time. */
  at(i: number): Sample | Promise<Sample>
}

/** A dataset that is known: where it came from, and what its labels mean. */
export interface NamedDataset extends Dataset {
  /** "mnist/train" */
  readonly name: string
  /** sha256 of all that decides its samples: the files' bytes, or generator, version and seed. */
  readonly fingerprint: string
  /** Names of the classes; empty where labels are numbers. */
  readonly classes: readonly string[]
  /** [c, H, W] of every image, where they are all alike. */
  readonly shape?: readonly [number, number, number]
}

/** The parts of one dataset by name; "train" and "test" are always there. */
export interface Splits {
  readonly train: NamedDataset
  readonly test: NamedDataset
  readonly val?: NamedDataset
}
