/** @file Some processes that take jobs, within a budget of memory: each is kept until it crashes, has grown, or is told to end. */
import { extname } from "node:path"
import { fail, PrismaError } from "../errors.ts"
import { isolated, type Isolated, type Progress } from "./isolate.ts"
import { memoryBudget, mib, privateBytes, PROCESS_BYTES } from "./memory.ts"

export interface PoolOptions {
  /** Processes at a time. */
  readonly workers: number
  /** Bytes that all of them together may hold; "auto" is 80 % of what is available now. */
  readonly memory?: number | "auto"
  /** Milliseconds that one job may take. */
  readonly timeoutMs?: number
  /** The module whose default export is called with each job's arguments; by default that of models and activations. */
  readonly module?: URL
}

export interface TaskOptions {
  /** Take a process that has had no job before, so that what another job left in it cannot matter. */
  readonly fresh?: boolean
  /** Ends the job by ending its process. */
  readonly signal?: AbortSignal
  readonly onProgress?: (progress: Progress) => void
}

export interface Pool {
  readonly workers: number
  /**
   * Have one job done. Errors: what the job throws; E_WORKER_CRASH for what ends its process, E_MEMORY_BUDGET where it
   * needs or uses more than it may, E_INTERRUPTED by the signal.
   */
  run<T>(args: unknown, options?: TaskOptions): Promise<T>
  /** End all processes. */
  close(): Promise<void>
}

const WORK = new URL(`./work${extname(import.meta.url)}`, import.meta.url)

/** Milliseconds between two looks at what the processes hold: one that fills memory gains 0.1 to 0.3 GiB meanwhile. */
const WATCH = 100

/** A process that holds more than this share of what it may after a job is not given another. */
const KEPT_SHARE = 0.5

/** Jobs after which a process ends, whatever it holds. */
const KEPT_JOBS = 500

/** What a process is at, and how many bytes it may hold. */
interface Watched {
  readonly own: Isolated
  limit: number
}

/** Errors: E_USAGE for `workers` and a memory that cannot be. */
export function openPool({ workers, memory = "auto", timeoutMs, module = WORK }: PoolOptions): Pool {
  if (!Number.isInteger(workers) || workers < 1) fail("E_USAGE", `workers must be 1 or more, got ${workers}`)
  const budget = memoryBudget(memory, workers)
  const limits = { maxOldSpaceMb: mib(PROCESS_BYTES + budget.share) }
  const idle: Isolated[] = []
  const busy = new Set<Watched>()
  let watching: NodeJS.Timeout | undefined

  const look = async () => {
    for (const { own, limit } of busy) {
      const held = await privateBytes(own.pid)
      if (held !== undefined && held > limit) own.kill(tooMuch(held, limit, own.jobs > 1))
    }
    watching = busy.size ? setTimeout(() => void look(), WATCH) : undefined
  }
  const take = (fresh: boolean): Isolated => {
    const warm = fresh ? undefined : idle.pop()
    // One that stands idle makes room for a fresh one.
    if (fresh && idle.length + busy.size >= workers) void idle.shift()?.end()
    return warm?.alive ? warm : isolated(module, limits)
  }
  const putBack = async (own: Isolated) => {
    const most = Math.max(2 * PROCESS_BYTES, KEPT_SHARE * (PROCESS_BYTES + budget.share))
    const grown = own.jobs >= KEPT_JOBS || ((await privateBytes(own.pid)) ?? 0) > most
    if (own.alive && !grown) idle.push(own)
    else void own.end()
  }

  return {
    workers,
    async run<T>(args: unknown, { fresh = false, signal, onProgress }: TaskOptions = {}): Promise<T> {
      if (signal?.aborted) throw interrupted()
      const own = take(fresh)
      const watched: Watched = { own, limit: PROCESS_BYTES + budget.share }
      let giveBack: (() => void) | undefined
      const reserve = async (bytes: number) => {
        giveBack?.()
        const back = await budget.take(bytes)
        if (!own.alive) return back()
        giveBack = back
        watched.limit = PROCESS_BYTES + Math.max(bytes, budget.share)
      }
      const abort = () => own.kill(interrupted())
      signal?.addEventListener("abort", abort, { once: true })
      busy.add(watched)
      watching ??= setTimeout(() => void look(), WATCH)
      try {
        const options = { reserve, ...(timeoutMs !== undefined && { timeoutMs }), ...(onProgress && { onProgress }) }
        return await own.ask<T>(args, options)
      } finally {
        signal?.removeEventListener("abort", abort)
        giveBack?.()
        busy.delete(watched)
        await putBack(own)
      }
    },
    async close() {
      for (const { own } of busy) own.kill(interrupted())
      await Promise.all(idle.splice(0).map((own) => own.end()))
      clearTimeout(watching)
    },
  }
}

const interrupted = (): PrismaError => new PrismaError("E_INTERRUPTED", "the job was stopped")

/** Where other jobs were in the process before, what they left may be at fault. */
const tooMuch = (held: number, limit: number, retryable: boolean): PrismaError =>
  new PrismaError(
    "E_MEMORY_BUDGET",
    `the job held ${mib(held)} MiB of memory, it may hold ${mib(limit)}, and was stopped; give more --memory or fewer --jobs`,
    { retryable },
  )
