/** @file The dataset that a config's data section means. */
import type { GlobalConfig } from "../configs/index.ts"
import type { Splits } from "../datasets/dataset.ts"
import { DATASET_NAMES, openDataset, type DatasetName, type DatasetSpec } from "../datasets/open.ts"
import { fail } from "../errors.ts"
import { quote } from "../tensor/quote.ts"

/** What is done to pixels is the objective's and the loader's business, not the dataset's. */
const NOT_OPTIONS = new Set(["name", "mean", "std", "augment"])
const SYNTHETIC = new Set(["induction", "polygenic-induction", "circle", "dsprites"])

/** Open it. Errors: E_CONFIG for a dataset that is not known or needs a path; those of the dataset. */
export async function openData({ data, variant, image }: GlobalConfig): Promise<Splits> {
  const { name } = data
  if (!DATASET_NAMES.includes(name as DatasetName)) {
    fail("E_CONFIG", `data.name must be one of ${DATASET_NAMES.join(", ")}, got ${quote(name)}`)
  }
  const given = Object.entries(data).filter(([key, value]) => !NOT_OPTIONS.has(key) && value !== undefined)
  const isDrawn = SYNTHETIC.has(name)
  const options = Object.fromEntries(isDrawn ? given : given.filter(([key]) => key !== "seed"))
  const fit = { size: image.image_size, ...(image.n_channels === 1 && { channels: 1 }) }
  return openDataset({
    name,
    ...((name === "folder" || name === "parquet") && fit),
    ...(isDrawn && data.path === undefined && { variant }),
    ...options,
  } as unknown as DatasetSpec)
}
