/** @file What a dataset is known by: a hash of what makes it, or of all its samples. */
import { createHash, type Hash } from "node:crypto"
import { show } from "../tensor/tensor.ts"
import type { Dataset, Sample } from "./dataset.ts"
import { sha256 } from "./whole.ts"

/** sha256 of a generator's name, version and options (keys in any order); the version changes whenever its samples do. */
export function generatorFingerprint(
  name: string,
  version: number,
  options: Readonly<Record<string, string | number>>,
): string {
  const entries = Object.entries(options).sort(([a], [b]) => (a < b ? -1 : 1))
  return sha256("generator", name, `${version}`, ...entries.map(([key, value]) => `${key}=${value}`))
}

function addImage(hash: Hash, { image: { dtype, shape, data } }: Sample): Hash {
  return hash.update(`${dtype} ${show(shape)}\n`).update(new Uint8Array(data.buffer, data.byteOffset, data.byteLength))
}

/** sha256 of one image: dtype, shape and pixels, not its label. */
export const imageHash = (sample: Sample): string => addImage(createHash("sha256"), sample).digest("hex")

/** sha256 of all samples in order, labels included: two datasets with one content hash are the same to a model. */
export async function contentHash(dataset: Dataset): Promise<string> {
  const hash = createHash("sha256").update(`${dataset.length} samples\n`)
  for (let i = 0; i < dataset.length; i++) {
    const sample = await dataset.at(i)
    addImage(hash, sample).update(`${JSON.stringify(sample.label)}\n`)
  }
  return hash.digest("hex")
}
