/** @file Which files of a repo a model needs: its configs, its preprocessing, one set of weights; never the whole repo. */
import { chooseWeights } from "../files/checkpoint.ts"

/** Small files that say what a model is and what is done to its images; training.json says what a mouse was trained on. */
export const SMALL = [
  "config.json",
  "open_clip_config.json",
  "preprocessor_config.json",
  "processor_config.json",
  "training.json",
] as const

/** Bytes that a small file may have; its readers refuse more than 16 MiB. */
export const MAX_SMALL = 16 * 2 ** 20

export interface Needed {
  /** The small files that there are. */
  readonly small: readonly string[]
  /** The file of weights, or the index of its shards. */
  readonly weights: string
  /** Small files that this repo has not. */
  readonly absent: readonly string[]
}

/** Errors: E_HUB_NOT_FOUND (no weights), E_UNSAFE_FORMAT (pickles alone, and not allowed). */
export function needed(names: readonly string[], repo: string, allowPickle: boolean): Needed {
  const weights = chooseWeights(repo, names, allowPickle).source
  return {
    small: SMALL.filter((name) => names.includes(name)),
    weights,
    absent: SMALL.filter((name) => !names.includes(name)),
  }
}
