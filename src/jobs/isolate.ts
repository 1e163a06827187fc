/** @file Processes that do one job after another, so that what kills one costs the job it was at (https://nodejs.org/api/child_process.html). */
import { fork } from "node:child_process"
import { extname } from "node:path"
import { type ErrorCode, PrismaError } from "../errors.ts"
import type { Answer } from "./child.ts"

export interface ProcessLimits {
  /** Heap of the process in MiB; node's own limit by default. */
  readonly maxOldSpaceMb?: number
}

export interface AskOptions {
  /** Milliseconds until the process is stopped, begun anew when a reservation is granted; no limit by default. */
  readonly timeoutMs?: number
  /** Called when the job asks for memory, in bytes; it goes on when this resolves. */
  readonly reserve?: (bytes: number) => Promise<void>
  readonly onProgress?: (progress: Progress) => void
}

/** How far a job is: `done` of `total` of a step. */
export interface Progress {
  readonly step: string
  readonly done: number
  readonly total: number
}

/** A process that loads one module and calls its default export, a function, for one job at a time. */
export interface Isolated {
  readonly pid: number
  /** Can it be asked? Not after a crash. */
  readonly alive: boolean
  /** Jobs that it was given. */
  readonly jobs: number
  /**
   * Have one job done; `args` and its result cross as JSON. Errors: the PrismaError that the job threw; E_WORKER_CRASH
   * naming what else it threw, the exit code or signal that ended the process, the full heap, or the time limit.
   */
  ask<T>(args: unknown, options?: AskOptions): Promise<T>
  /** Kill it; the job that it is at fails with `reason`. */
  kill(reason: PrismaError): void
  /** Let an idle one end. */
  end(): Promise<void>
}

const CHILD = new URL(`./child${extname(import.meta.url)}`, import.meta.url)

/** Bytes of the end of stderr that are kept: V8 says there that the heap is full. */
const TAIL = 1 << 16

/** Milliseconds that an idle process may take to end. */
const END_TIME = 1000

interface Asked {
  readonly resolve: (value: unknown) => void
  readonly reject: (error: PrismaError) => void
  readonly options: AskOptions
  timer?: NodeJS.Timeout
}

/** Start a process for jobs of `module`. What they print is dropped. */
export function isolated(module: URL, { maxOldSpaceMb }: ProcessLimits = {}): Isolated {
  const child = fork(CHILD, [module.href, String(process.pid)], {
    execArgv: maxOldSpaceMb === undefined ? [] : [`--max-old-space-size=${maxOldSpaceMb}`],
    stdio: ["ignore", "ignore", "pipe", "ipc"],
  })
  let asked: Asked | undefined
  let [alive, jobs, tail] = [true, 0, ""]
  let why: PrismaError | undefined
  const crash = (what: string, retryable = true) => new PrismaError("E_WORKER_CRASH", `the ${what}`, { retryable })
  const stop = (reason?: PrismaError) => {
    why ??= reason
    alive = false
    child.kill("SIGKILL")
    child.stderr!.destroy() // a process that the job began may hold it open
  }
  const settle = (end: (job: Asked) => void) => {
    if (asked === undefined) return
    const job = asked
    asked = undefined
    clearTimeout(job.timer)
    end(job)
  }
  const startClock = (job: Asked) => {
    const { timeoutMs } = job.options
    clearTimeout(job.timer)
    if (timeoutMs === undefined) return
    // Another attempt would most likely take as long.
    const late = crash(`job did not end within ${timeoutMs / 1000} s and was stopped`, false)
    job.timer = setTimeout(() => stop(late), timeoutMs)
  }
  const send = (message: string) => child.send(message, (error) => error && stop())
  const grant = async (job: Asked, bytes: number) => {
    clearTimeout(job.timer)
    const refused = await job.options.reserve?.(bytes).then(
      () => undefined,
      (error: unknown) => (error instanceof PrismaError ? error : crash(`job's request failed: ${String(error)}`)),
    )
    if (asked !== job) return
    startClock(job)
    send(JSON.stringify(refused === undefined ? { granted: true } : { refused: described(refused) }))
  }
  const kill = () => stop()
  process.once("exit", kill)
  child.stderr!.setEncoding("utf8").on("data", (text: string) => (tail = (tail + text).slice(-TAIL)))
  child.on("message", (message) => {
    const said = message as Answer
    if ("reserve" in said) void (asked && grant(asked, said.reserve))
    else if ("progress" in said) asked?.options.onProgress?.(said.progress)
    else if ("error" in said) {
      const { code, message: text, ...place } = said.error
      if (code === undefined) settle(({ reject }) => reject(crash(`job threw ${text}`, false)))
      else settle(({ reject }) => reject(new PrismaError(code as ErrorCode, text, place)))
    } else settle(({ resolve }) => resolve(said.value))
  })
  const ended = new Promise<void>((done) => {
    child.once("error", (error) => {
      why ??= crash(`job could not begin: ${error.message}`)
      stop()
      settle(({ reject }) => reject(why!))
      if (child.pid === undefined) done()
    })
    child.once("close", (code, signal) => {
      alive = false
      process.removeListener("exit", kill)
      const full = tail.includes("heap out of memory")
      const limit = maxOldSpaceMb === undefined ? "" : ` (the heap is limited to ${maxOldSpaceMb} MiB)`
      const how = signal === null ? `ended with exit code ${code}` : `was ended by ${signal}`
      settle(({ reject }) => reject(why ?? crash(full ? `job ran out of memory${limit}` : `job's process ${how}`)))
      done()
    })
  })
  return {
    get pid() {
      return child.pid ?? -1
    },
    get alive() {
      return alive
    },
    get jobs() {
      return jobs
    },
    ask: <T>(args: unknown, options: AskOptions = {}) =>
      new Promise<T>((resolve, reject) => {
        if (!alive || asked) throw crash(`process ${asked ? "has a job already" : "is no more"}`)
        asked = { resolve: resolve as Asked["resolve"], reject, options }
        ;[jobs, tail] = [jobs + 1, ""]
        startClock(asked)
        send(JSON.stringify({ args: args ?? null }))
      }),
    kill: stop,
    end: async () => {
      alive = false
      // Not disconnect(): after that Node 20 tells of no "close".
      if (child.connected) send(JSON.stringify({ end: true }))
      const late = setTimeout(() => stop(), END_TIME)
      await ended
      clearTimeout(late)
    },
  }
}

/** An error as it crosses between processes. */
export const described = (error: PrismaError): Record<string, unknown> => ({
  ...error.toJSON(),
  message: error.message,
})

/** Run one job in a process of its own. Errors: as of `Isolated.ask`. */
export async function inChild<T>(
  module: URL,
  args: unknown,
  { timeoutMs, ...limits }: ProcessLimits & { readonly timeoutMs?: number } = {},
): Promise<T> {
  const own = isolated(module, limits)
  try {
    return await own.ask<T>(args, timeoutMs === undefined ? {} : { timeoutMs })
  } finally {
    await own.end()
  }
}
