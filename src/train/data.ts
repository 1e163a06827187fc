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
  const options = Object.fromEntries(SYNTHETIC.has(name) ? given : given.filter(([key]) => key !== "seed"))
  const fitted = name === "folder" || name === "parquet" ? { size: image.image_size, ...options } : options
  const synthetic = SYNTHETIC.has(name) && name.includes("induction") ? { variant } : {}
  return openDataset({ name, ...fitted, ...synthetic } as unknown as DatasetSpec)
}
