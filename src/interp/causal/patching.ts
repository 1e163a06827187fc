/** @file Named experiments: which run is changed, and what is put there. */
import type { Tensor } from "../../tensor/tensor.ts"
import type { HookedViT } from "../hooked-vit.ts"
import { sweep, type Experiment, type SweepRow } from "./sweep.ts"

type Rest = Omit<Experiment, "base" | "source">

/** Clean and corrupted images, pairwise. */
export interface Pair {
  readonly clean: Tensor
  readonly corrupt: Tensor
}

/** Denoising: the corrupted run with one value of the clean one. What restores the metric is sufficient. */
export const denoise = (model: HookedViT, { clean, corrupt, ...rest }: Pair & Rest): AsyncGenerator<SweepRow> =>
  sweep(model, { ...rest, base: corrupt, source: { run: clean } })

/** Noising: the clean run with one value of the corrupted one. What breaks the metric is necessary. */
export const noise = (model: HookedViT, { clean, corrupt, ...rest }: Pair & Rest): AsyncGenerator<SweepRow> =>
  sweep(model, { ...rest, base: clean, source: { run: corrupt } })

/** How a value is taken away. */
export type Ablation = Exclude<Experiment["source"], { readonly run: Tensor }>

/** A run with values taken away: zero, the mean over images, or those of an image drawn for each. */
export const ablate = (
  model: HookedViT,
  { images, by, ...rest }: { readonly images: Tensor; readonly by: Ablation } & Rest,
): AsyncGenerator<SweepRow> => sweep(model, { ...rest, base: images, source: by })
