/** @file A worker: takes jobs from a queue and has them done by processes of this machine. */
import { realpath } from "node:fs/promises"
import { basename, dirname, join, resolve } from "node:path"
import { setTimeout as wait } from "node:timers/promises"
import { fail, PrismaError } from "../errors.ts"
import { makeFolder } from "../files/atomic.ts"
import { isWithin } from "../files/paths.ts"
import type { BullJob, Bullmq, Payload } from "./bullmq.ts"
import { type Job, jobFrom, type JobValue, type Until } from "./job.ts"
import { attemptJob } from "./local.ts"
import { openPool, type Pool, type PoolOptions } from "./pool.ts"
import { openQueue } from "./queue-open.ts"
import { coded, QUEUE_NAME, unlessStopped } from "./queue-runner.ts"
import { type NamedServer, reach, serverAt } from "./server.ts"

export interface WorkerOptions extends PoolOptions {
  readonly url: string
  readonly name?: string
  /** Jobs may write below this folder and nowhere else. */
  readonly root: string
  /** Seconds after which a job whose worker shows no sign of life is given to another. */
  readonly lockSeconds?: number
  /** End when nothing is left in the queue. */
  readonly drain?: boolean
  /** Told what this worker does. */
  readonly log?: (text: string) => void
}

/** Milliseconds between two tries to reach a server that is down. */
const AGAIN = 2000

/** Milliseconds until an order to the server that failed for the connection is given again; BullMQ's 15 s are lost work. */
const RETRY = 1000

/** Milliseconds between two looks at whether a job was called off, and whether the queue is empty. */
const LOOK = 2000

/** Milliseconds between two looks at whether all that ran has ended. */
const ENDED = 50

/** How often a job may lose its worker: one that takes the machine down with it does not go on for ever. */
const STALLS = 8

/**
 * Work until `until.stop`; jobs that run then may finish, and at `until.kill` are given back to the queue. A server that is
 * down is waited for. Errors: E_USAGE.
 */
export async function runWorker(options: WorkerOptions, until: Until): Promise<void> {
  const { url, name = QUEUE_NAME, lockSeconds = 30, drain = false, log = () => {}, root } = options
  const server = await serverAt(url)
  await makeFolder(root)
  const home = await realpath(root)
  const pool = openPool(options)
  try {
    if (!(await reachable(server, log, until.stop))) return
    const bull = await openQueue(server, name, saidOnce(log))
    const states = new Map<string, Ending>()
    const worker = bull.worker(
      async (job, token, signal) => {
        // It came while this worker began to end.
        if (worker.closing) throw await givenBack(bull, job, token, log)
        return processed(bull, pool, job, { token, signal, home, states, until, log })
      },
      {
        concurrency: pool.workers,
        lockDuration: lockSeconds * 1000,
        stalledInterval: lockSeconds * 500,
        maxStalledCount: STALLS,
        runRetryDelay: RETRY,
      },
    )
    const end = (id: string, why: Ending) => {
      if (!states.has(id)) return // it has just ended
      states.set(id, why)
      worker.cancelJob(id, why)
    }
    worker.on("lockRenewalFailed", (ids) => ids.forEach((id) => end(id, "lost")))
    worker.on("stalled", (id) => {
      log(`${id}: its worker shows no sign of life; it is done again`)
      // It has waited once; over PostgreSQL it would stand behind all that waits.
      void bull.first(id).catch(() => {})
    })
    log(`works for ${server.name}, ${pool.workers} at a time`)
    await watched(bull, states, end, drain, until.stop)
    void worker.close()
    while (states.size) await wait(ENDED)
    await bull.close()
  } finally {
    await pool.close()
  }
}

/** Why a job that runs is ended: it was called off, or another worker has it. */
type Ending = "running" | "cancelled" | "lost"

async function reachable(server: NamedServer, log: (text: string) => void, stop: AbortSignal): Promise<boolean> {
  for (let said = false; !stop.aborted; said = true) {
    try {
      await reach(server)
      return true
    } catch (error) {
      if (!(error instanceof PrismaError) || error.code !== "E_QUEUE") throw error
      if (!said) log(`${error.message}; waits for it`)
      await wait(AGAIN, undefined, { signal: stop }).catch(() => {})
    }
  }
  return false
}

/** A break is told once, not with each try to mend it. */
function saidOnce(log: (text: string) => void): (error: Error) => void {
  let last = ""
  return (error) => {
    const text = error.message.split("\n")[0]!
    if (text !== last && text) log(`the queue: ${text}`)
    last = text
  }
}

/** Until it is stopped, or drained: which of the jobs that run have been called off? */
async function watched(
  { queue }: Bullmq,
  states: ReadonlyMap<string, Ending>,
  end: (id: string, why: Ending) => void,
  drain: boolean,
  stop: AbortSignal,
): Promise<void> {
  const isEmpty = async (): Promise<boolean> => {
    for (const [id, state] of states) {
      if (state === "running" && (await queue.getJob(id))?.data.cancelled) end(id, "cancelled")
    }
    if (!drain) return false
    const counts = await queue.getJobCounts("wait", "active", "delayed", "prioritized")
    return Object.values(counts).every((n) => n === 0)
  }
  // Twice, as a job may be between two states.
  for (let times = 0; times < 2 && !stop.aborted;) {
    await wait(LOOK, undefined, { signal: stop }).catch(() => {})
    // What fails for the connection says nothing; it is made again.
    times = (await unlessStopped(isEmpty(), stop).catch(() => false)) ? times + 1 : 0
  }
}

interface Delivery {
  readonly token: string
  readonly signal: AbortSignal
  readonly home: string
  readonly states: Map<string, Ending>
  readonly until: Until
  readonly log: (text: string) => void
}

async function processed(bull: Bullmq, pool: Pool, given: BullJob<Payload>, delivery: Delivery): Promise<JobValue> {
  const { token, signal, home, states, until, log } = delivery
  const id = given.id!
  states.set(id, "running")
  const began = performance.now()
  const seconds = () => `${((performance.now() - began) / 1000).toFixed(1)} s`
  try {
    const job = await allowed(given.data.job, home)
    log(`begins ${job.slug}`)
    const both = AbortSignal.any([signal, until.kill])
    const value = await attemptJob(pool, job, { fresh: given.attemptsStarted > 1, signal: both })
    log(`${value.already ? "already" : "done"} ${job.slug} ${seconds()}`)
    return value
  } catch (error) {
    if (!(error instanceof PrismaError)) throw error
    const state = states.get(id)
    if (error.code === "E_INTERRUPTED" && state === "running") {
      states.delete(id)
      throw await givenBack(bull, given, token, log)
    }
    log(`${state === "running" ? "failed" : state} ${id} ${seconds()}: ${error.message} [${error.code}]`)
    throw error.retryable && state === "running" ? new Error(coded(error)) : bull.final(coded(error))
  } finally {
    states.delete(id)
  }
}

/** Give a job back to the queue; what is to be thrown then. */
async function givenBack(
  bull: Bullmq,
  job: BullJob<Payload>,
  token: string,
  log: (text: string) => void,
): Promise<Error> {
  try {
    const waits = await bull.giveBack(job, token)
    log(`given back ${job.id}`)
    return waits
  } catch (error) {
    const { message } = error as Error
    log(`cannot give back ${job.id} (${message.split("\n")[0]}); another worker has it when its lock has run out`)
    // By this name BullMQ leaves a job as it is; with another it would have failed.
    return Object.assign(error as Error, { name: "WaitingError" })
  }
}

/** The job, if it writes where it may. Errors: E_JOB_INVALID, E_UNSAFE_PATH. */
async function allowed(given: unknown, home: string): Promise<Job> {
  const job = jobFrom(given)
  const out = resolve(job.out)
  if (!isWithin(home, await realPlace(out))) {
    const text = `its output ${out} does not lie in ${home}, below which this worker may write`
    fail("E_UNSAFE_PATH", `the job was refused: ${text}; start the worker with another --root`, { file: out })
  }
  return { ...job, out }
}

/** Where a path leads, also one that is not there yet. */
const realPlace = (path: string): Promise<string> =>
  realpath(path).catch(async () =>
    dirname(path) === path ? path : join(await realPlace(dirname(path)), basename(path)),
  )
