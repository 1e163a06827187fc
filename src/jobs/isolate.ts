/** @file Jobs in processes of their own, so that what kills a process fails one job (https://nodejs.org/api/child_process.html). */
import { fork } from "node:child_process"
import { extname } from "node:path"
import { type ErrorCode, fail, PrismaError } from "../errors.ts"
import type { Answer } from "./child.ts"

export interface ChildLimits {
  /** Milliseconds until the process is stopped; no limit by default. */
  readonly timeoutMs?: number
  /** Heap of the process in MiB; node's own limit by default. */
  readonly maxOldSpaceMb?: number
}

/** The default export of `module`, a function, is called with `args`; both `args` and its result cross as JSON. */
export interface Job {
  readonly module: URL
  readonly args: unknown
}

/** What came of a job: its value or its last error, and how many processes it took down. */
export interface Outcome<T> {
  readonly value?: T
  readonly error?: PrismaError
  readonly crashes: number
}

const CHILD = new URL(`./child${extname(import.meta.url)}`, import.meta.url)

/** Bytes of the end of stderr that are kept: V8 says there that the heap is full. */
const TAIL = 1 << 16

/**
 * Run one job in a process of its own. What it prints is dropped.
 * Errors: the PrismaError that the job threw; E_WORKER_CRASH naming what else it threw, the exit code or signal that
 * ended its process, the full heap, or the time limit.
 */
export async function inChild<T>(module: URL, args: unknown, limits: ChildLimits = {}): Promise<T> {
  const { timeoutMs, maxOldSpaceMb } = limits
  const sent = JSON.stringify(args ?? null)
  const child = fork(CHILD, [module.href], {
    execArgv: maxOldSpaceMb === undefined ? [] : [`--max-old-space-size=${maxOldSpaceMb}`],
    stdio: ["ignore", "ignore", "pipe", "ipc"],
  })
  const stop = () => {
    child.kill("SIGKILL")
    child.stderr!.destroy() // a process that the job began may hold it open
  }
  process.once("exit", stop)
  let [said, tail, late] = [undefined as Answer | undefined, "", false]
  child.stderr!.setEncoding("utf8").on("data", (text: string) => (tail = (tail + text).slice(-TAIL)))
  child.once("message", (message) => (said = message as Answer))
  const timer = timeoutMs === undefined ? undefined : setTimeout(() => ((late = true), stop()), timeoutMs)
  return new Promise<T>((resolve, reject) => {
    const crash = (what: string, retryable = true) =>
      reject(new PrismaError("E_WORKER_CRASH", `job ${module.pathname}: ${what}`, { file: module.pathname, retryable }))
    child.once("error", (error) => crash(`its process could not be started: ${error.message}`))
    child.send(sent, (error) => error && stop())
    child.once("close", (code, signal) => {
      clearTimeout(timer)
      process.removeListener("exit", stop)
      if (said && "error" in said) {
        const { code, message, ...place } = said.error
        if (code === undefined) crash(`threw ${message}`, false)
        else reject(new PrismaError(code as ErrorCode, message, place))
      } else if (said) resolve(said.value as T)
      else if (late) crash(`did not end within ${timeoutMs} ms and was stopped`)
      else if (tail.includes("heap out of memory"))
        crash(`ran out of memory${maxOldSpaceMb === undefined ? "" : ` (its heap is limited to ${maxOldSpaceMb} MiB)`}`)
      else crash(signal === null ? `ended with exit code ${code} and no result` : `was ended by ${signal}`)
    })
  })
}

/**
 * Run jobs in `workers` processes at a time. A job whose process crashes is begun again at once, until it has crashed
 * `maxCrashes` times; other jobs go on meanwhile. Outcomes come in the order of the jobs. Error: E_USAGE for `workers`.
 */
export async function pool<T>(
  jobs: readonly Job[],
  { workers, maxCrashes = 3, ...limits }: ChildLimits & { readonly workers: number; readonly maxCrashes?: number },
): Promise<Outcome<T>[]> {
  if (!Number.isInteger(workers) || workers < 1) fail("E_USAGE", `workers must be 1 or more, got ${workers}`)
  const outcomes: Outcome<T>[] = []
  let next = 0
  const work = async () => {
    for (let i = next++; i < jobs.length; i = next++) outcomes[i] = await attempted<T>(jobs[i]!, maxCrashes, limits)
  }
  await Promise.all(Array.from({ length: Math.min(workers, jobs.length) }, work))
  return outcomes
}

async function attempted<T>({ module, args }: Job, maxCrashes: number, limits: ChildLimits): Promise<Outcome<T>> {
  for (let crashes = 0; ;) {
    try {
      return { value: await inChild<T>(module, args, limits), crashes }
    } catch (error) {
      if (!(error instanceof PrismaError)) throw error
      if (error.code !== "E_WORKER_CRASH" || !error.retryable) return { error, crashes }
      if (++crashes >= maxCrashes) return { error, crashes }
    }
  }
}
