/** @file A job as plain data, as it crosses to a child process or through a queue, and what came of it. */
import { join } from "node:path"
import { type ErrorCode, fail, type PrismaError } from "../errors.ts"
import { leftovers, removeWhole } from "../files/atomic.ts"
import type { Positions } from "../interp/positions.ts"
import type { Device } from "../runtime/devices.ts"
import { quote } from "../tensor/quote.ts"

/** How a job loads its model; the Hub's address and token come from the environment of whoever does it. */
export interface JobModel {
  /** Repo id or folder. */
  readonly model: string
  readonly revision?: string
  readonly cacheDir?: string
  readonly offline?: boolean
  readonly allowPickle?: boolean
  readonly imageSize?: number
  readonly device?: Device
  readonly threads?: number
}

interface Common extends JobModel {
  /** The model as the user wrote it. */
  readonly name: string
  /** Folder of all outputs, an absolute path. */
  readonly out: string
  /** The name of this one's output in it. */
  readonly slug: string
}

/** One model becomes the folder `out/slug`, and where `push` says so a repo of that owner, called as the slug is. */
export interface ConvertJob extends Common {
  readonly kind: "convert"
  readonly hooks?: readonly string[]
  readonly inputs?: readonly string[]
  readonly certify?: boolean
  readonly tolerance?: number
  /** Replace a folder that this package did not write. */
  readonly force?: boolean
  /** The user or organisation on the Hub. */
  readonly push?: string
  /** A repo that is made for it is private. */
  readonly private?: boolean
}

/** What a repo is called as the output `slug` is: ids of repos hold no "--". */
export const repoNameOf = (slug: string): string => slug.replaceAll(/-{2,}/g, "-")

/** A dataset, as a job finds it. */
export interface JobData {
  /** A name, or a path. */
  readonly data: string
  /** Where the dataset of that name lies. */
  readonly path?: string
  readonly split: "train" | "test" | "val"
}

/** What all files of a run have in common. */
export interface PlanJob extends JobModel, JobData {
  readonly hooks: readonly string[]
  readonly positions?: Positions
  /** Images at once. */
  readonly batch: number
}

/** Rows `rows[0]` up to `rows[1]` of a dataset become the file `out/slug`. */
export interface ActivationsJob extends Common, PlanJob {
  readonly kind: "activations"
  readonly rows: readonly [start: number, end: number]
}

export type Job = ConvertJob | ActivationsJob

/** What a job gives back. */
export interface JobValue {
  /** It was done before and is still whole. */
  readonly already: boolean
  /** Bytes of the output. */
  readonly bytes: number
  readonly warnings?: readonly string[]
  /** Largest difference from float64 of anything put out, where it was certified. */
  readonly worst?: number
  /** The commit on the Hub. */
  readonly pushed?: string
  /** sha256 of the output file. */
  readonly sha256?: string
}

export type JobState = "done" | "already" | "failed" | "cancelled" | "left"

/** What came of a job; `left` were not begun or given back when the run was stopped. */
export interface JobResult {
  readonly job: Job
  readonly state: JobState
  readonly seconds: number
  readonly attempts: number
  readonly value?: JobValue
  readonly error?: { readonly code: ErrorCode | "E_INTERNAL"; readonly message: string }
}

/** Whatever does jobs: processes here, or workers that listen at a queue. */
export interface JobRunner {
  /**
   * Have the jobs done, telling `on` what becomes of each; resolves when all have ended. After `stop` none is begun and
   * those that run may finish; after `kill` they are ended. Errors: E_QUEUE.
   */
  run(jobs: readonly Job[], on: JobEvents, until: Until): Promise<void>
  close(): Promise<void>
}

export interface JobEvents {
  started?(job: Job, attempt: number): void
  /** How far a job is; not every runner tells. */
  progress?(job: Job, text: string): void
  /** An attempt failed and another will be made. */
  retried?(job: Job, error: PrismaError): void
  ended(result: JobResult): void
}

export interface Until {
  readonly stop: AbortSignal
  readonly kill: AbortSignal
}

/** What this package keeps beside the outputs: what is done, and who is at what. */
export const keptIn = (out: string, name: string): string => join(out, ".batch", name)

/** A file name of one part that stays below its folder; not hidden. */
const SLUG = /^[A-Za-z0-9_][A-Za-z0-9._-]{0,199}$/

/** Is this a job? Its output must lie below `root`. Error: E_JOB_INVALID, E_UNSAFE_PATH. */
export function jobFrom(given: unknown): Job {
  const job = (typeof given === "object" && given !== null ? given : {}) as Partial<Omit<ActivationsJob, "kind">> & {
    kind?: unknown
  }
  const wrong = (what: string): never => fail("E_JOB_INVALID", `job ${quote(String(job.slug))}: ${what}`)
  if (job.kind !== "convert" && job.kind !== "activations") wrong(`its kind ${quote(String(job.kind))} is not known`)
  for (const key of ["name", "model", "out", "slug"] as const) {
    if (typeof job[key] !== "string" || job[key] === "") wrong(`${key} must be text, got ${typeof job[key]}`)
  }
  if (!SLUG.test(job.slug!)) wrong("its slug must be a file name of letters, digits, . _ -")
  if (job.kind !== "activations") return job as ConvertJob
  const { rows, batch, hooks, data, split } = job
  if (!Array.isArray(rows) || !rows.every((n) => Number.isSafeInteger(n) && n >= 0)) wrong("rows must be two numbers")
  if (!Number.isSafeInteger(batch) || batch! < 1) wrong(`batch must be 1 or more, got ${String(batch)}`)
  if (!Array.isArray(hooks) || !hooks.every((h) => typeof h === "string")) wrong("hooks must be names")
  if (typeof data !== "string" || !["train", "test", "val"].includes(split!))
    wrong("data and split must say which data")
  return job as ActivationsJob
}

/** Remove what attempts at this output that are no more have left beside it; call while its lock is held. */
export async function clearLeftovers({ out, slug }: Job): Promise<void> {
  const target = join(out, slug)
  const left = await leftovers(out).catch(() => [])
  for (const { path, target: of, aside } of left) {
    if (of === target && !aside) await removeWhole(path).catch(() => {})
  }
}
