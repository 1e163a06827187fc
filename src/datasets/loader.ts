/** @file Batches of a dataset in an order that depends on seed and epoch alone, so that training can go on at any batch. */
import { extname } from "node:path"
import { fail } from "../errors.ts"
import { Random } from "../tensor/random.ts"
import { type Augmentation, checkAugmentations } from "./augment.ts"
import { assemble, type Batch, type Changes } from "./batch.ts"
import type { Dataset } from "./dataset.ts"
import type { Encoded } from "./encoded.ts"
import { startThread, type Thread } from "./thread.ts"

export type { Augmentation, Batch }

export interface BatchOptions {
  readonly batchSize: number
  /** Together with `epoch` it decides the order and the augmentations. */
  readonly seed: number
  readonly epoch: number
  /** The batch to begin with; what lies before is not read. */
  readonly startBatch?: number
  readonly shuffle?: boolean
  /** Leave out a last batch of fewer samples. */
  readonly dropLast?: boolean
  /** Threads that decode images; for datasets whose images lie decoded in memory they are not started. */
  readonly workers?: number
  /** Batches that are made ready while one is used. */
  readonly prefetch?: number
  readonly augment?: readonly Augmentation[]
}

/** Rows [start, end) that are read together, which takes `bytes` of memory. */
export interface RowGroup {
  readonly start: number
  readonly end: number
  readonly bytes: number
}

/** What a dataset may offer besides its samples. */
export interface Source extends Dataset {
  readonly groups?: readonly RowGroup[]
  encoded?(i: number): Encoded
}

/** What a decoding thread is asked. */
export interface BatchRequest extends Changes {
  readonly indices: Uint32Array
  readonly samples: readonly Encoded[]
}

const DECODER = new URL(`./loader-thread${extname(import.meta.url)}`, import.meta.url)

/** Rows are shuffled among groups of together so many bytes; what is decoded and kept has room for somewhat more. */
const WINDOW = 2 ** 27

/**
 * The order of one epoch: a permutation of 0 .. length - 1. Where rows are stored in groups, the groups are shuffled and
 * then the rows among each 128 MiB of neighbouring groups, so that a group is read once.
 */
export function order(
  { length, groups }: { readonly length: number; readonly groups?: readonly RowGroup[] },
  { seed, epoch, shuffle = true }: { readonly seed: number; readonly epoch: number; readonly shuffle?: boolean },
): Uint32Array {
  if (!shuffle) return Uint32Array.from({ length }, (_, i) => i)
  const random = new Random(seed, `order:${epoch}`)
  if (!groups) return random.permutation(length)
  const out = new Uint32Array(length)
  let at = 0
  let rows: number[] = []
  let bytes = 0
  const flush = () => {
    for (const i of random.permutation(rows.length)) out[at++] = rows[i]!
    rows = []
    bytes = 0
  }
  for (const g of random.permutation(groups.length)) {
    const { start, end, bytes: more } = groups[g]!
    if (bytes > 0 && bytes + more > WINDOW) flush()
    for (let row = start; row < end; row++) rows.push(row)
    bytes += more
  }
  flush()
  return out
}

const COUNTS = ["batchSize", "seed", "epoch", "startBatch", "workers", "prefetch"] as const

/**
 * The batches of one epoch, from `startBatch` on. With `workers` the images are decoded in threads; samples and order
 * are the same. Samples that a dataset gives without a promise are given on without one, batch by batch.
 * Errors: E_CONFIG for options that cannot be; those of the dataset and `assemble` at the batch they concern.
 */
export function batches(dataset: Dataset, options: BatchOptions): AsyncGenerator<Batch, void, undefined> {
  const { batchSize, seed, epoch, startBatch = 0, shuffle = true, dropLast = true, workers = 0, prefetch = 2 } = options
  const { augment = [] } = options
  const given = { batchSize, seed, epoch, startBatch, workers, prefetch }
  for (const key of COUNTS) {
    const least = key === "batchSize" ? 1 : 0
    if (Number.isSafeInteger(given[key]) && given[key] >= least) continue
    fail("E_CONFIG", `batches: ${key} must be a whole number of ${least} or more, got ${String(given[key])}`)
  }
  checkAugmentations(augment)
  const count = dropLast ? Math.floor(dataset.length / batchSize) : Math.ceil(dataset.length / batchSize)
  if (count === 0) {
    const text = `${dataset.length} samples give no batch of ${batchSize}; take a smaller batchSize or dropLast: false`
    fail("E_CONFIG", `batches: ${text}`)
  }
  if (startBatch > count) fail("E_CONFIG", `batches: startBatch ${startBatch} lies behind the last of ${count} batches`)
  const changes = { seed, epoch, augment }
  return generate(dataset, { batchSize, startBatch, count, shuffle, workers, prefetch, changes })
}

interface Plan {
  readonly batchSize: number
  readonly startBatch: number
  readonly count: number
  readonly shuffle: boolean
  readonly workers: number
  readonly prefetch: number
  readonly changes: Changes
}

async function* generate(dataset: Source, plan: Plan): AsyncGenerator<Batch, void, undefined> {
  const { batchSize, startBatch, count, shuffle, changes } = plan
  const rows = order(dataset, { ...changes, shuffle })
  const threads = dataset.encoded ? Array.from({ length: plan.workers }, () => startThread(DECODER)) : []
  const prefetch = Math.max(plan.prefetch, threads.length)
  const make = (k: number) =>
    makeBatch(dataset, rows.slice(k * batchSize, (k + 1) * batchSize), changes, threads[k % threads.length])
  const ahead: Promise<Batch>[] = []
  let next = startBatch
  try {
    for (;;) {
      const made = ahead.shift() ?? (next < count ? make(next++) : undefined)
      if (made === undefined) return
      const some = made instanceof Promise ? prefetch : 0
      while (ahead.length < some && next < count) {
        const k = next++
        const later = new Promise<Batch>((resolve) => resolve(make(k)))
        later.catch(() => {}) // it is thrown when its turn comes, which may be never
        ahead.push(later)
      }
      yield made instanceof Promise ? await made : made
    }
  } finally {
    for (const thread of threads) thread.end()
  }
}

function makeBatch(dataset: Source, indices: Uint32Array, changes: Changes, thread?: Thread): Batch | Promise<Batch> {
  if (!thread) return assemble(indices, (slot) => dataset.at(indices[slot]!), changes)
  const samples = Array.from(indices, (i) => dataset.encoded!(i))
  return thread.ask<Batch>({ ...changes, indices, samples } satisfies BatchRequest)
}
