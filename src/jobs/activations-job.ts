/** @file Hooks of a model over rows of a dataset into one safetensors file, and the plan of many such files. */
import { join } from "node:path"
import type { NamedDataset } from "../datasets/dataset.ts"
import { fail } from "../errors.ts"
import { digestOf } from "../files/digest.ts"
import { openSafetensors } from "../files/safetensors-file.ts"
import { type LoadedViT, loadPretrained } from "../hub/load-pretrained.ts"
import { matchHooks } from "../model/hooks.ts"
import { byteLength, int64, type Tensor } from "../tensor/tensor.ts"
import { activationsKey, type ActivationsPlan } from "./activations-index.ts"
import type { JobContext } from "./child.ts"
import { type Identity, sourceIdentity } from "./identity.ts"
import type { ActivationsJob, JobValue, PlanJob } from "./job.ts"
import { openSplit, rowsOf } from "./pixels.ts"
import { doneBefore, recordBegun, recordDone } from "./record.ts"
import { type RowTensor, type RowValues, writeRows } from "./shard-file.ts"

/** What the jobs of one process share: the model and the data, opened once. */
interface Opened {
  readonly model: LoadedViT
  readonly data: NamedDataset
  readonly source: Identity
}

let last: { readonly key: string; readonly opened: Promise<Opened> } | undefined

async function opened(job: PlanJob): Promise<Opened> {
  const { model, revision, cacheDir, allowPickle, imageSize, device, threads, data, path, split } = job
  const key = JSON.stringify([model, revision, cacheDir, allowPickle, imageSize, device, threads, data, path, split])
  if (last?.key !== key) {
    await last?.opened.then((o) => o.model.release()).catch(() => {})
    last = { key, opened: open(job) }
  }
  try {
    return await last.opened
  } catch (error) {
    last = undefined
    throw error
  }
}

async function open(job: PlanJob): Promise<Opened> {
  const model = await loadPretrained(job.model, job)
  return { model, data: await openSplit(job), source: await sourceIdentity(model) }
}

/** Look at one row. Errors: E_HOOK, E_INPUT; those of the model and the dataset. */
export async function planActivations(job: PlanJob): Promise<ActivationsPlan> {
  const { model, data, source } = await opened(job)
  if (!data.length) fail("E_DATASET_EMPTY", `${data.name}: has no images`)
  const tensors = Object.fromEntries(await rowTensors(model, data, job))
  const { name, fingerprint, classes } = data
  return {
    rows: data.length,
    hooks: hooksOf(model, job),
    tensors,
    rowBytes: Object.values(tensors).reduce((n, t) => n + byteLength(t), 0),
    dataset: { name, fingerprint, classes },
    source: source.digest,
    warnings: model.warnings,
  }
}

const hooksOf = (model: LoadedViT, { hooks }: PlanJob): string[] => (hooks.length ? matchHooks(model.hooks, hooks) : [])

async function rowTensors(model: LoadedViT, data: NamedDataset, job: PlanJob): Promise<Map<string, RowTensor>> {
  const one = await valuesOf(model, data, job, 0, 1)
  return new Map([...one].map(([name, { dtype, shape }]) => [name, { dtype, shape: shape.slice(1) }]))
}

/** Names that no hook and no output has. */
const [LABELS, IDS] = ["labels", "image_ids"]

/** The hooks, every output that is one vector an image, labels, and the rows' numbers in the dataset. */
async function valuesOf(model: LoadedViT, data: NamedDataset, job: PlanJob, start: number, end: number) {
  const { pixels, labels } = await rowsOf(model, data, start, end)
  const { hooks: names, positions } = job
  const { cache, ...outputs } = await model.runWithCache(
    { pixel_values: pixels },
    { names: names.length ? names : () => false, ...(positions !== undefined && { positions }) },
  )
  const n = end - start
  const vectors = Object.entries(outputs).filter(([, t]) => t.shape.length === 2 && t.shape[0] === n)
  const ids = int64(
    [n],
    Array.from({ length: n }, (_, i) => start + i),
  )
  const all = new Map<string, Tensor>([...cache, ...vectors, [LABELS, labels], [IDS, ids]])
  for (const [name, t] of all) {
    // What is the same for all images, such as positions, has a first axis of 1.
    if (t.shape[0] !== n) all.set(name, repeated(t, n))
  }
  return all
}

function repeated(t: Tensor, n: number): Tensor {
  const data = new Float32Array(t.data.length * n)
  for (let i = 0; i < n; i++) data.set(t.data as Float32Array, i * t.data.length)
  return { dtype: "float32", shape: [n, ...t.shape.slice(1)], data }
}

/** Errors: those of planning; E_DISK_FULL, E_IO, E_OUTPUT. */
export async function activationsJob(job: ActivationsJob, { reserve, progress }: JobContext): Promise<JobValue> {
  const { model, data, source } = await opened(job)
  const [start, end] = job.rows
  if (start >= end || end > data.length)
    fail("E_JOB_INVALID", `rows ${start} to ${end} are not among the ${data.length} of ${data.name}`)
  const { batch } = job
  const key = activationsKey(job, { hooks: hooksOf(model, job), source: source.digest, dataset: data })
  const path = join(job.out, job.slug)
  const measured = async () => {
    const { entries } = await openSafetensors(path)
    const bytes = [...entries.values()].reduce((n, e) => n + e.end - e.begin, 0)
    return { bytes, sha256: (await digestOf(path)).sha256 }
  }
  const before = await doneBefore(job, key, measured)
  if (before) return { already: true, ...before }
  await reserve(neededBytes(model, job))
  async function* batches(): AsyncGenerator<RowValues> {
    for (let at = start; at < end; at += batch) {
      const values = await valuesOf(model, data, job, at, Math.min(at + batch, end))
      yield values
      model.runtime.giveBack(values.values())
      progress("rows", Math.min(at + batch, end) - start, end - start)
    }
  }
  const tensors = await rowTensors(model, data, job)
  await recordBegun(job, { key, source })
  const metadata = { format: "pt", rows: `${start}:${end}`, dataset: data.name, model: model.source.name }
  await writeRows(path, end - start, tensors, batches(), metadata)
  const value = await measured()
  await recordDone(job, { key, source }, value)
  return { already: false, ...value }
}

const MIB = 2 ** 20

/**
 * Bytes held at the peak: what onnxruntime has of a few layers at a time, and three batches of what is asked for, as what
 * was written goes back to the system late. Of all hooks of a ViT-B/16, batches of 4 (740 MB), 2.2 GiB were measured.
 */
function neededBytes(model: LoadedViT, { hooks, batch }: ActivationsJob): number {
  const { nLayers, imageSize, nChannels } = model.config.vision
  const living = (4 * model.cacheBytes({ batch })) / nLayers
  const asked = hooks.length ? model.cacheBytes({ batch, names: hooks }) : 0
  return 128 * MIB + living + 3 * asked + 8 * batch * nChannels * imageSize[0] * imageSize[1]
}
