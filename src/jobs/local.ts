/** @file Jobs in processes of this machine. */
import { availableParallelism } from "node:os"
import { setTimeout as wait } from "node:timers/promises"
import { PrismaError } from "../errors.ts"
import { withLock } from "../files/lock-file.ts"
import type { Progress } from "./isolate.ts"
import {
  clearLeftovers,
  type Job,
  type JobEvents,
  type JobResult,
  type JobRunner,
  type JobValue,
  keptIn,
} from "./job.ts"
import type { Until } from "./job.ts"
import { openPool, type Pool, type PoolOptions } from "./pool.ts"

export interface LocalOptions extends PoolOptions {
  /** How often a job is begun again after a failure that may pass: a crash, a time limit, the network. */
  readonly retries?: number
}

/** Milliseconds before the second attempt at what failed for the network; doubled each time. A crash is repeated at once. */
const BACKOFF = 1000

/** Errors: E_USAGE for options that cannot be. */
export function localRunner({ retries = 1, ...options }: LocalOptions): JobRunner {
  const pool = openPool(options)
  return {
    async run(jobs, on, until) {
      let next = 0
      const lane = async () => {
        for (let i = next++; i < jobs.length; i = next++) {
          const job = jobs[i]!
          on.ended(until.stop.aborted ? left(job) : await attempts(pool, job, retries, on, until))
        }
      }
      await Promise.all(Array.from({ length: Math.min(pool.workers, jobs.length) }, lane))
    },
    close: () => pool.close(),
  }
}

const left = (job: Job): JobResult => ({ job, state: "left", seconds: 0, attempts: 0 })

async function attempts(pool: Pool, job: Job, retries: number, on: JobEvents, until: Until): Promise<JobResult> {
  const began = performance.now()
  const result = (attempt: number, rest: Omit<JobResult, "job" | "seconds" | "attempts">): JobResult => ({
    job,
    seconds: (performance.now() - began) / 1000,
    attempts: attempt,
    ...rest,
  })
  for (let attempt = 1; ; attempt++) {
    on.started?.(job, attempt)
    try {
      const onProgress = (p: Progress) => on.progress?.(job, `${p.step} ${p.done}/${p.total}`)
      const value = await attemptJob(pool, job, { fresh: attempt > 1, signal: until.kill, onProgress })
      return result(attempt, { state: value.already ? "already" : "done", value })
    } catch (error) {
      if (!(error instanceof PrismaError)) throw error
      if (error.code === "E_INTERRUPTED") return result(attempt, { state: "left" })
      if (!error.retryable || attempt > retries || until.stop.aborted) {
        const { code, message } = error
        return result(attempt, { state: "failed", error: { code, message } })
      }
      on.retried?.(job, error)
      const pause = CRASHES.includes(error.code) ? 0 : BACKOFF * 2 ** (attempt - 1)
      await wait(pause, undefined, { signal: until.stop }).catch(() => {})
    }
  }
}

const CRASHES: readonly string[] = ["E_WORKER_CRASH", "E_MEMORY_BUDGET"]

/**
 * One attempt, while no other process anywhere on this disk is at the same output. Whatever an attempt leaves half done is
 * removed, after it and before it.
 */
export const attemptJob = (
  pool: Pool,
  job: Job,
  options: { readonly fresh?: boolean; readonly signal: AbortSignal; readonly onProgress?: (p: Progress) => void },
): Promise<JobValue> =>
  withLock(
    keptIn(job.out, `${job.slug}.lock`),
    async () => {
      await clearLeftovers(job)
      try {
        // Processes share the cores, unless the job says otherwise.
        const threads = Math.max(1, Math.floor(availableParallelism() / pool.workers))
        return await pool.run<JobValue>({ threads, ...job }, options)
      } catch (error) {
        await clearLeftovers(job)
        throw error
      }
    },
    { signal: options.signal },
  )
