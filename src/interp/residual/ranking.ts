/** @file Rows of logits kept as what is asked of them: the largest, and some classes' logits, probabilities and ranks. */
import { fail } from "../../errors.ts"
import { float32, size, tensor, type Tensor } from "../../tensor/tensor.ts"

export interface Ranked {
  /** The k largest, largest first: [n, b, T, k]. */
  readonly top: {
    readonly index: Tensor<"int32">
    readonly logit: Tensor<"float32">
    readonly probability: Tensor<"float32">
  }
  /** The classes asked for: [n, b, T, classes asked for]. Rank 1 is the largest. */
  readonly logit: Tensor<"float32">
  readonly probability: Tensor<"float32">
  readonly rank: Tensor<"int32">
}

/** Fills the result block by block, so that no more than one block of all logits is there at once. */
export class Ranking {
  readonly #shape: readonly number[]
  readonly #k: number
  readonly #wanted: readonly number[]
  readonly #independent: boolean
  readonly #top
  readonly #of

  /** `shape` [n, b, T]; a block is the T rows of one stream of one image. */
  constructor(shape: readonly number[], classes: number, top: number, wanted: readonly number[], independent: boolean) {
    if (!Number.isInteger(top) || top < 0) fail("E_INPUT", `top must be a whole number of at least 0, got ${top}`)
    this.#shape = shape
    this.#k = Math.min(top, classes)
    this.#wanted = wanted
    this.#independent = independent
    const rows = (n: number) => ({
      index: new Int32Array(size(shape) * n),
      logit: new Float32Array(size(shape) * n),
      probability: new Float32Array(size(shape) * n),
    })
    this.#top = rows(this.#k)
    this.#of = rows(wanted.length)
  }

  /** The logits [T, classes] of a block. */
  put(block: number, { shape, data }: Tensor<"float32">): void {
    const [t, n] = shape as [number, number]
    for (let i = 0; i < t; i++) {
      const row = data.subarray(i * n, (i + 1) * n)
      const probability = this.#independent ? (x: number) => 1 / (1 + Math.exp(-x)) : softmax(row)
      for (const [j, c] of largest(row, this.#k).entries()) {
        const at = (block * t + i) * this.#k + j
        this.#top.index[at] = c
        this.#top.logit[at] = row[c]!
        this.#top.probability[at] = probability(row[c]!)
      }
      for (const [j, c] of this.#wanted.entries()) {
        const at = (block * t + i) * this.#wanted.length + j
        this.#of.index[at] = rankOf(row, c)
        this.#of.logit[at] = row[c]!
        this.#of.probability[at] = probability(row[c]!)
      }
    }
  }

  get result(): Ranked {
    const [top, of] = [
      [...this.#shape, this.#k],
      [...this.#shape, this.#wanted.length],
    ]
    return {
      top: {
        index: tensor("int32", top, this.#top.index),
        logit: float32(top, this.#top.logit),
        probability: float32(top, this.#top.probability),
      },
      logit: float32(of, this.#of.logit),
      probability: float32(of, this.#of.probability),
      rank: tensor("int32", of, this.#of.index),
    }
  }
}

function softmax(row: Float32Array): (x: number) => number {
  let [most, total] = [-Infinity, 0]
  for (const x of row) most = Math.max(most, x)
  for (const x of row) total += Math.exp(x - most)
  return (x) => Math.exp(x - most) / total
}

/** Indices of the k largest, largest first, of equal ones the first. */
function largest(row: Float32Array, k: number): number[] {
  const best: number[] = []
  for (let i = 0; i < row.length; i++) {
    if (best.length === k && !(row[i]! > row[best[k - 1]!]!)) continue
    let at = best.length
    while (at > 0 && row[i]! > row[best[at - 1]!]!) at--
    best.splice(at, 0, i)
    if (best.length > k) best.pop()
  }
  return best
}

/** 1 and how many come before: larger ones, and equal ones of a smaller index. */
function rankOf(row: Float32Array, c: number): number {
  const own = row[c]!
  return row.reduce((rank, x, i) => (x > own || (i < c && x === own) ? rank + 1 : rank), 1)
}
