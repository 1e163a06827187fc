/** @file What decides how a run goes on, by name: fields of its config, its data, threads and this package's version. */
import type { GlobalConfig } from "../configs/index.ts"
import type { NamedDataset, Splits } from "../datasets/dataset.ts"
import { version } from "../version.ts"
import type { TrainingState } from "./checkpoint.ts"

/** Where it is written to, how long it runs and how it is shown do not change what a run does next. */
const FREE = new Set(["saving", "logging"])
const LENGTH = new Set(["num_epochs", "max_steps", "test_samples", "device"])

export function fingerprintsOf(
  config: GlobalConfig,
  data: Splits,
  threads: number | undefined,
): TrainingState["fingerprints"] {
  const fields = Object.entries(config).flatMap(([section, value]) => {
    if (FREE.has(section)) return []
    if (typeof value !== "object") return [[section, JSON.stringify(value)] as const]
    const kept = Object.entries(value).filter(([field]) => !LENGTH.has(field))
    return kept.map(([field, v]) => [`${section}.${field}`, JSON.stringify(v)] as const)
  })
  return { ...Object.fromEntries(fields), ...dataFingerprints(data), threads: threads ?? null, version }
}

/** sha256 by "data.train", "data.test", ... */
export const dataFingerprints = (data: Splits): Record<string, string> =>
  Object.fromEntries(
    (Object.entries(data) as [string, NamedDataset][]).map(([part, set]) => [`data.${part}`, set.fingerprint]),
  )
