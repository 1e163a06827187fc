/** @file vit-prisma activations --data: hooks over a whole dataset, as safetensors files and an index of them. */
import { statfs } from "node:fs/promises"
import { basename, join, resolve } from "node:path"
import { fail } from "../errors.ts"
import { writeFileAtomic } from "../files/atomic.ts"
import { isFolder } from "../hub/cache.ts"
import type { Positions } from "../interp/positions.ts"
import { activationsIndex, activationsKey, type ActivationsPlan, INDEX, shardJobs } from "../jobs/activations-index.ts"
import type { ActivationsJob, JobResult, JobValue, PlanJob } from "../jobs/job.ts"
import { parseShard, shardOf } from "../jobs/list.ts"
import { openPool } from "../jobs/pool.ts"
import { doneBefore } from "../jobs/record.ts"
import { reportName, reportOf, writeReport } from "../jobs/report.ts"
import type { Work } from "../jobs/work.ts"
import { quote } from "../tensor/quote.ts"
import type { ActivationsOptions } from "./activations.ts"
import type { BatchOptions } from "./batch-options.ts"
import { bytesOption, cancelJobs, poolOptions, runJobs } from "./batch.ts"
import { bytes, counted, note, print, printJson, tell, warn } from "./output.ts"

export interface DatasetOptions extends BatchOptions {
  readonly data?: string
  readonly path?: string
  readonly split: "train" | "test" | "val"
  readonly positions?: string
  readonly batch: number
  readonly shardSize: string
  readonly shard?: string
}

/** What --data cannot be together with: they concern images of the command line. */
const ALONE = ["input", "patch", "grad", "gradParams"] as const

/** Errors: E_USAGE, E_QUEUE; those of the model and the dataset. What is wrong with a file's rows stands in the report. */
export async function datasetActivations(
  name: string,
  options: ActivationsOptions & DatasetOptions & { readonly data: string },
): Promise<void> {
  for (const key of ALONE) {
    if (options[key] !== undefined) fail("E_USAGE", `--data goes without --${key.replace("gradParams", "grad-params")}`)
  }
  const shard = options.shard === undefined ? undefined : parseShard(options.shard)
  const shardBytes = bytesOption("--shard-size", options.shardSize)
  const out = resolve(options.out)
  const plain = await planJob(name, options)
  const plan = await planned(plain, options)
  for (const warning of plan.warnings) warn(warning, options)
  const all = shardJobs(plan, { kind: "activations", name, out, ...plain }, shardBytes)
  await tellSize(plan, all, out, options)
  const jobs = shard ? shardOf(all, shard) : all
  if (options.cancel) return cancelJobs(jobs, options)
  const report = await reportName(out, shard)
  const { results, began, exitCode } = await runJobs("files", jobs, out, options)
  await writeReport(out, report, reportOf("files", jobs, results, began))
  process.exitCode = exitCode
  const files = await wholeFiles(all, plan, results)
  if (files.length === all.length) await writeFileAtomic(join(out, INDEX), activationsIndex(plan, files))
  else
    tell(
      `${files.length} of ${counted(all.length, "file")} are done; the index is written by the run that finds all`,
      options,
    )
  const index = files.length === all.length ? join(out, INDEX) : null
  if (options.format === "json") printJson({ index, files: files.length, of: all.length, rows: plan.rows })
  else if (index !== null) print(index)
}

async function planJob(name: string, options: ActivationsOptions & DatasetOptions): Promise<PlanJob> {
  const { data, path, split, batch, hooks = [], positions } = options
  const { revision, cacheDir, offline, allowPickle, imageSize, device, threads } = options
  const how = { revision, cacheDir, offline, allowPickle, imageSize, device, threads, path }
  // Workers elsewhere have another working folder.
  const model = (await isFolder(name)) ? resolve(name) : name
  return {
    ...Object.fromEntries(Object.entries(how).filter(([, value]) => value !== undefined)),
    model,
    data: DATASET_PATH.test(data!) ? resolve(data!) : data!,
    split,
    batch,
    hooks,
    ...(positions !== undefined && { positions: positionsOf(positions) }),
  }
}

/** What is no dataset's name. */
const DATASET_PATH = /[/\\.]/

/** "0", "-1", "1:197" */
function positionsOf(text: string): Positions {
  const [, start, end] = /^(-?\d{1,6})(?::(-?\d{1,6}))?$/.exec(text) ?? []
  if (start === undefined)
    return fail("E_USAGE", `--positions wants one token, as 0, or some, as 1:197; got ${quote(text)}`)
  return end === undefined ? Number(start) : [Number(start), Number(end)]
}

/** In a process of its own, as the model may be any. */
async function planned(plan: PlanJob, options: BatchOptions): Promise<ActivationsPlan> {
  const pool = openPool({ ...poolOptions(options), workers: 1 })
  try {
    return await pool.run<ActivationsPlan>({ kind: "plan", plan } satisfies Work)
  } finally {
    await pool.close()
  }
}

async function tellSize(
  { rows, rowBytes, tensors, dataset }: ActivationsPlan,
  jobs: readonly ActivationsJob[],
  out: string,
  options: BatchOptions,
): Promise<void> {
  const total = rows * rowBytes
  const free = await statfs(out)
    .catch(() => statfs(resolve(out, "..")))
    .then(
      ({ bavail, bsize }) => bavail * bsize,
      () => undefined,
    )
  const estimate = { rows, rowBytes, bytes: total, files: jobs.length, free: free ?? null }
  if (options.format === "json") note(JSON.stringify({ estimate }))
  else {
    const about = `${counted(rows, "row")} of ${dataset.name}, ${counted(Object.keys(tensors).length, "tensor")}`
    note(`${about}: ${bytes(rowBytes)} a row, ${bytes(total)} in ${counted(jobs.length, "file")} in ${basename(out)}`)
  }
  if (free !== undefined && free < total) warn(`the disk of ${out} has ${bytes(free)} free`, options)
}

/** All files that are there and hold what they should. */
async function wholeFiles(
  jobs: readonly ActivationsJob[],
  plan: ActivationsPlan,
  results: ReadonlyMap<unknown, JobResult>,
) {
  const found: { readonly job: ActivationsJob; readonly value: Pick<JobValue, "bytes" | "sha256"> }[] = []
  for (const job of jobs) {
    const value = results.get(job)?.value ?? (await doneBefore(job, activationsKey(job, plan)))
    if (value) found.push({ job, value })
  }
  return found
}
