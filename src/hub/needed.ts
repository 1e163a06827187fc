/** @file Which files of a repo a model needs: its configs, its preprocessing, one set of weights; never the whole repo. */
import { fail } from "../errors.ts"
import { chooseWeights } from "../files/checkpoint.ts"

const CONFIGS = ["config.json", "open_clip_config.json"] as const

/** Small files that say what a model is and what is done to its images; training.json says what a mouse was trained on. */
export const SMALL = [...CONFIGS, "preprocessor_config.json", "processor_config.json", "training.json"] as const

/** Bytes that a small file may have; its readers refuse more than 16 MiB. */
export const MAX_SMALL = 16 * 2 ** 20

export interface Needed {
  /** The one that says what the weights are. */
  readonly config: string
  /** The small files that there are. */
  readonly small: readonly string[]
  /** The file of weights, or the index of its shards. */
  readonly weights: string
  /** Small files that this repo has not. */
  readonly absent: readonly string[]
}

/** open_clip's weights go with open_clip's config; otherwise config.json goes before it. Error: E_CONFIG where neither is there. */
export function configFor(
  names: readonly string[],
  weights: string,
  where: string,
  about: { readonly file?: string } = {},
): string {
  const order = weights.startsWith("open_clip") ? CONFIGS.toReversed() : CONFIGS
  const found = order.find((name) => names.includes(name))
  if (found !== undefined) return found
  return fail("E_CONFIG", `${where}: holds weights but no ${CONFIGS.join(" or ")}, which says what they are`, about)
}

/** Errors: E_CONFIG (no config), E_HUB_NOT_FOUND (no weights), E_UNSAFE_FORMAT (pickles alone, and not allowed). */
export function needed(names: readonly string[], repo: string, allowPickle: boolean): Needed {
  const weights = chooseWeights(repo, names, allowPickle).source
  return {
    config: configFor(names, weights, repo),
    small: SMALL.filter((name) => names.includes(name)),
    weights,
    absent: SMALL.filter((name) => !names.includes(name)),
  }
}
