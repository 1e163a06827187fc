/** @file What commands over many jobs share: their options, who does them, signals, and the end. */
import { setMaxListeners } from "node:events"
import { availableParallelism } from "node:os"
import { fail } from "../errors.ts"
import { makeFolder } from "../files/atomic.ts"
import type { Job, JobResult, JobRunner, Until } from "../jobs/job.ts"
import { localRunner } from "../jobs/local.ts"
import { PROCESS_BYTES } from "../jobs/memory.ts"
import type { PoolOptions } from "../jobs/pool.ts"
import { queueRunner } from "../jobs/queue-runner.ts"
import { quote } from "../tensor/quote.ts"
import { batchDisplay } from "./batch-display.ts"
import { type BatchOptions, GRACE } from "./batch-options.ts"
import { tell, warn } from "./output.ts"

/** Bytes of what a process needs to do anything useful. */
const LEAST = PROCESS_BYTES + 64 * 2 ** 20

const UNITS: Readonly<Record<string, number>> = { "": 1, K: 2 ** 10, M: 2 ** 20, G: 2 ** 30, T: 2 ** 40 }

/** "8G", "512M" or "1000000000", K being 1024. Error: E_USAGE. */
export function bytesOption(option: string, text: string): number {
  const [, n, unit] = /^(\d+(?:\.\d+)?)([KMGT]?)(?:i?B)?$/i.exec(text) ?? []
  const bytes = Math.floor(Number(n) * (UNITS[unit?.toUpperCase() ?? ""] ?? NaN))
  return bytes > 0 ? bytes : fail("E_USAGE", `${option} wants bytes, as 8G or 512M; got ${quote(text)}`)
}

/** Errors: E_USAGE. */
export function poolOptions({ jobs, memory = "auto", timeout = 1800 }: BatchOptions): PoolOptions {
  const bytes = memory === "auto" ? memory : bytesOption("--memory", memory)
  const room = bytes === "auto" ? process.availableMemory() * 0.8 : bytes
  const workers = jobs ?? Math.max(1, Math.min(availableParallelism(), Math.floor(room / LEAST)))
  return { workers, memory: bytes, timeoutMs: timeout * 1000 }
}

interface Signalled {
  readonly until: Until
  readonly caught: () => NodeJS.Signals | undefined
}

/** Ctrl-C or SIGTERM: no new jobs; after `grace` seconds, or at the second, those that run are ended. */
export function untilSignal(options: Pick<BatchOptions, "grace"> & Partial<Pick<BatchOptions, "format">>): Signalled {
  const { grace = GRACE } = options
  const [stop, kill] = [new AbortController(), new AbortController()]
  // Everything that runs or waits listens to them.
  setMaxListeners(0, stop.signal, kill.signal)
  let first: NodeJS.Signals | undefined
  const on = (signal: NodeJS.Signals) => {
    if (first) return kill.abort()
    first = signal
    tell(`${signal}: what runs may finish, for at most ${grace} s; once more ends it now`, options)
    stop.abort()
    setTimeout(() => kill.abort(), grace * 1000).unref()
  }
  for (const signal of ["SIGINT", "SIGTERM"] as const) process.on(signal, on)
  return { until: { stop: stop.signal, kill: kill.signal }, caught: () => first }
}

export interface Ran {
  readonly results: ReadonlyMap<Job, JobResult>
  readonly began: Date
  /** What the process should end with: 0, 1 where some failed or were left, 130 or 143 after a signal. */
  readonly exitCode: number
}

/** Have `jobs` done as the options say, into `out`, and tell on stderr how it goes. Errors: E_USAGE, E_QUEUE, E_OUTPUT. */
export async function runJobs(what: string, jobs: readonly Job[], out: string, options: BatchOptions): Promise<Ran> {
  const began = new Date()
  const { until, caught } = untilSignal(options)
  const results = new Map<Job, JobResult>()
  const runner = await runnerOf(options)
  const display = await batchDisplay(what, jobs.length, options.format === "json")
  try {
    await makeFolder(out)
    const ended = (result: JobResult) => {
      results.set(result.job, result)
      display.ended(result)
    }
    await runner.run(jobs, { ...display, ended }, until)
  } finally {
    display.stop()
    await runner.close()
  }
  const bad = [...results.values()].some(({ state }) => state !== "done" && state !== "already")
  const signal = caught()
  return { results, began, exitCode: signal ? (signal === "SIGINT" ? 130 : 143) : bad ? 1 : 0 }
}

async function runnerOf(options: BatchOptions): Promise<JobRunner> {
  const { queue, retries = 1 } = options
  if (queue === undefined) {
    return localRunner({ ...poolOptions(options), retries })
  }
  return queueRunner({ url: queue, retries, onError: oncePerText((text) => warn(`the queue: ${text}`, options)) })
}

function oncePerText(say: (text: string) => void): (error: Error) => void {
  let last = ""
  return ({ message }) => {
    const text = message.split("\n")[0]!
    if (text && text !== last) say(text)
    last = text
  }
}

/** Take jobs out of the queue. Errors: E_USAGE, E_QUEUE. */
export async function cancelJobs(jobs: readonly Job[], { queue }: BatchOptions): Promise<void> {
  if (queue === undefined) return fail("E_USAGE", "--cancel wants --queue URL: jobs of this machine end with Ctrl-C")
  const runner = await queueRunner({ url: queue })
  try {
    await runner.cancel(jobs)
  } finally {
    await runner.close()
  }
}
