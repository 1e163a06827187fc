/** @file How the rows of a dataset are divided among files, what each file's content depends on, and the index of them all. */
import { sha256 } from "../datasets/whole.ts"
import { DTYPES } from "../tensor/tensor.ts"
import { version } from "../version.ts"
import type { ActivationsJob, JobValue } from "./job.ts"
import type { RowTensor } from "./shard-file.ts"

/** What the files of a run will hold. */
export interface ActivationsPlan {
  readonly rows: number
  /** The hooks that the patterns mean. */
  readonly hooks: readonly string[]
  /** Each tensor as it is for one row. */
  readonly tensors: Readonly<Record<string, RowTensor>>
  readonly rowBytes: number
  readonly dataset: { readonly name: string; readonly fingerprint: string; readonly classes: readonly string[] }
  /** The model by its content. */
  readonly source: string
  readonly warnings: readonly string[]
}

export const INDEX = "activations.safetensors.index.json"

/** "activations-00002-of-00012.safetensors" */
const shardName = (i: number, count: number): string =>
  `activations-${String(i + 1).padStart(5, "0")}-of-${String(count).padStart(5, "0")}.safetensors`

/** A job for each file: as many whole batches as fit into `shardBytes`, at least one. */
export function shardJobs(
  { rows, rowBytes }: ActivationsPlan,
  job: Omit<ActivationsJob, "rows" | "slug">,
  shardBytes: number,
): ActivationsJob[] {
  const { batch } = job
  const each = Math.max(1, Math.floor(shardBytes / rowBytes / batch)) * batch
  const count = Math.ceil(rows / each)
  return Array.from({ length: count }, (_, i) => ({
    ...job,
    slug: shardName(i, count),
    rows: [i * each, Math.min((i + 1) * each, rows)],
  }))
}

/** The key of a file's content. */
export function activationsKey(
  { rows, batch, positions, imageSize }: ActivationsJob,
  { hooks, source, dataset }: Pick<ActivationsPlan, "hooks" | "source"> & { dataset: { fingerprint: string } },
): string {
  const about = { hooks, positions, batch, rows, imageSize }
  return sha256("activations", version, source, dataset.fingerprint, JSON.stringify(about))
}

/** Where everything is, as JSON: the files with their rows in order, and every tensor with its dtype and shape. */
export function activationsIndex(
  plan: ActivationsPlan,
  shards: readonly { readonly job: ActivationsJob; readonly value: Pick<JobValue, "bytes" | "sha256"> }[],
): string {
  const [first] = shards
  const { batch, positions, split, name, revision } = first!.job
  const files = shards.map(({ job }) => job.slug)
  const names = Object.keys(plan.tensors)
  const index = {
    metadata: {
      total_size: shards.reduce((n, { value }) => n + value.bytes, 0),
      rows: plan.rows,
      model: name,
      ...(revision !== undefined && { revision }),
      source: plan.source,
      dataset: { name: plan.dataset.name, split, fingerprint: plan.dataset.fingerprint },
      hooks: plan.hooks,
      ...(positions !== undefined && { positions }),
      batch,
      tool: { name: "vit-prisma", version },
    },
    // Every file holds every tensor, for its own rows.
    weight_map: Object.fromEntries(names.map((tensor) => [tensor, files])),
    tensors: Object.fromEntries(
      Object.entries(plan.tensors).map(([tensor, { dtype, shape }]) => [
        tensor,
        { dtype: DTYPES[dtype].safetensors, shape: [plan.rows, ...shape] },
      ]),
    ),
    shards: shards.map(({ job: { slug, rows }, value: { bytes, sha256: hash } }) => ({
      file: slug,
      rows,
      bytes,
      sha256: hash,
    })),
    classes: plan.dataset.classes,
  }
  return `${JSON.stringify(index, undefined, 2)}\n`
}
