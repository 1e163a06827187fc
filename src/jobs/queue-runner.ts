/** @file Jobs handed to a queue and followed to their end; the queue may be restarted, or lose all it holds, meanwhile. */
import { setTimeout as wait } from "node:timers/promises"
import { sha256 } from "../datasets/whole.ts"
import type { ErrorCode } from "../errors.ts"
import type { BullJob, Bullmq, Payload } from "./bullmq.ts"
import type { Job, JobEvents, JobResult, JobRunner, JobValue, Until } from "./job.ts"
import { openQueue } from "./queue-open.ts"
import { reach, serverAt } from "./server.ts"

export interface QueueOptions {
  /** redis://..., rediss://... or postgres://... */
  readonly url: string
  /** Queues of one server are told apart by their names. */
  readonly name?: string
  /** How often a job is begun again after a failure that may pass. */
  readonly retries?: number
  /** Told what goes wrong with the connection while it is tried again. */
  readonly onError?: (error: Error) => void
}

export const QUEUE_NAME = "vit-prisma"

/** Jobs in one order to the server. */
const PAGE = 200

/** Milliseconds between two looks at a page of jobs that no event has told of: events are lost where a server restarts. */
const LOOK = 2000

/** Milliseconds until what failed for the connection is tried again. */
const AGAIN = 1000

/** Milliseconds before the second attempt of a job; doubled each time. */
const BACKOFF = 1000

/** Seconds for which the queue remembers what has ended. */
const REMEMBERED = 7 * 24 * 3600

/** The same job has the same id: what waits in the queue already is not put there again. */
export const idOf = (job: Job): string => `${job.slug}-${sha256(JSON.stringify(job)).slice(0, 16)}`

export interface QueueRunner extends JobRunner {
  /** Take these jobs out of the queue; those that run are ended by their workers, within seconds. */
  cancel(jobs: readonly Job[]): Promise<void>
}

/** Errors: E_USAGE for the URL and missing packages, E_QUEUE where the server does not answer. */
export async function queueRunner({
  url,
  name = QUEUE_NAME,
  retries = 1,
  onError,
}: QueueOptions): Promise<QueueRunner> {
  const server = await serverAt(url)
  await reach(server)
  const bull = await openQueue(server, name, onError ?? (() => {}))
  return {
    run: (jobs, on, until) => follow(bull, jobs, retries, on, until),
    cancel: (jobs) => cancel(bull, jobs),
    close: () => bull.close(),
  }
}

async function follow(bull: Bullmq, jobs: readonly Job[], retries: number, on: JobEvents, until: Until): Promise<void> {
  const pending = new Map(jobs.map((job) => [idOf(job), job]))
  const attempts = new Map<string, number>()
  /** The server that each was at when it was last looked at: one that comes back empty is another. */
  const seen = new Map<string, string>()
  const put = async (some: readonly Job[]) => {
    const server = await bull.server()
    await submit(bull, some, retries)
    for (const job of some) seen.set(idOf(job), server)
  }
  const ended = (result: JobResult, id: string) => pending.delete(id) && on.ended(result)
  /** What an event or a look tells of may have ended, or be gone: lost by the server, or taken out. Is it gone? */
  const check = async (id: string, server?: string): Promise<boolean> => {
    const job = pending.get(id)
    if (!job) return false
    const last = seen.get(id)
    const found = await bull.queue.getJob(id)
    const result = found && (await resultOf(job, found))
    if (result) ended(result, id)
    else if (found && server !== undefined) seen.set(id, server)
    if (found || !pending.has(id)) return false
    if (last !== (await bull.server())) await put([job])
    else ended({ job, state: "cancelled", seconds: 0, attempts: attempts.get(id) ?? 0 }, id)
    return true
  }
  const again = (work: () => Promise<unknown>) => persist(work, until.stop)
  const events = bull.events()
  events.on("active", ({ jobId }) => {
    const job = pending.get(jobId)
    if (!job) return
    attempts.set(jobId, (attempts.get(jobId) ?? 0) + 1)
    on.started?.(job, attempts.get(jobId)!)
  })
  events.on("completed", ({ jobId }) => void again(() => check(jobId)))
  events.on("failed", ({ jobId }) => void again(() => check(jobId)))
  // The worker that found it does this too, and may be the next to be killed, or lose its connection.
  const next = async (id: string) => {
    if (pending.has(id) && (await bull.queue.getJobState(id)) === "waiting") await bull.first(id)
  }
  events.on("stalled", ({ jobId }) => void again(() => next(jobId)))
  await again(() => events.waitUntilReady())
  for (let i = 0; i < jobs.length; i += PAGE) await again(() => put(jobs.slice(i, i + PAGE)))
  let [at, more] = [0, false]
  while (pending.size && !until.stop.aborted) {
    // Where one was gone, others are.
    if (!more) await wait(LOOK, undefined, { signal: until.stop }).catch(() => {})
    const ids = [...pending.keys()]
    if (at >= ids.length) at = 0
    const page = ids.slice(at, at + PAGE)
    at += PAGE
    await again(async () => {
      const server = await bull.server()
      more = (await Promise.all(page.map((id) => check(id, server)))).includes(true)
    })
  }
  // Not waited for: while the server is away it would take for ever. The queue's own end cuts that short.
  void events.close().catch(() => {})
  for (const [id, job] of pending) ended({ job, state: "left", seconds: 0, attempts: 0 }, id)
}

/** Until it succeeds or all is stopped: connections break, and are made again. */
async function persist(work: () => Promise<unknown>, stop: AbortSignal): Promise<void> {
  while (!stop.aborted) {
    try {
      return void (await unlessStopped(work(), stop))
    } catch {
      await wait(AGAIN, undefined, { signal: stop }).catch(() => {})
    }
  }
}

/** What waits for a server that is down would wait for ever. */
export const unlessStopped = <T>(work: Promise<T>, stop: AbortSignal): Promise<T | undefined> =>
  new Promise((resolve, reject) => {
    const stopped = () => resolve(undefined)
    if (stop.aborted) stopped()
    stop.addEventListener("abort", stopped, { once: true })
    work.then(resolve, reject).finally(() => stop.removeEventListener("abort", stopped))
  })

/** Put jobs into the queue. Those that are there and have not ended stay; those that have are done again. */
async function submit({ queue }: Bullmq, jobs: readonly Job[], retries: number): Promise<void> {
  const one = async (job: Job) => {
    const found = await queue.getJob(idOf(job))
    if (found && (await isFinished(found))) await found.remove()
  }
  await Promise.all(jobs.map(one))
  const opts = {
    attempts: retries + 1,
    backoff: { type: "exponential", delay: BACKOFF },
    removeOnComplete: { age: REMEMBERED },
    removeOnFail: { age: REMEMBERED },
    stackTraceLimit: 1,
  }
  await queue.addBulk(jobs.map((job) => ({ name: job.slug, data: { job }, opts: { ...opts, jobId: idOf(job) } })))
}

const isFinished = async (job: BullJob<Payload>): Promise<boolean> =>
  ["completed", "failed"].includes(await job.getState())

/** How a worker's error is written into the queue, and read from it. */
const CODED = /^\[(E_[A-Z_]+)\] ([^]*)$/
export const coded = ({ code, message }: { readonly code: string; readonly message: string }): string =>
  `[${code}] ${message}`

/** BullMQ's reason for a job whose workers were lost more often than may be. */
const STALLED = "job stalled more than allowable limit"

const diedAt = (times: number): string =>
  `${times} workers, one after the other, died at this job or showed no sign of life, and it is given to no more; see what ended them (the machine's memory, a scheduler, a disk that hangs), do it alone without --queue, or take it out of the list; the same command tries it again`

async function resultOf(job: Job, found: BullJob<Payload>): Promise<JobResult | undefined> {
  if (!(await isFinished(found))) return undefined
  const { processedOn, finishedOn, attemptsStarted, failedReason } = found
  const about = {
    job,
    seconds: ((finishedOn ?? 0) - (processedOn ?? finishedOn ?? 0)) / 1000,
    attempts: attemptsStarted,
  }
  if (failedReason === undefined || failedReason === null) {
    const value = found.returnvalue as JobValue
    return { ...about, state: value.already ? "already" : "done", value }
  }
  const why = failedReason === STALLED ? diedAt(found.stalledCounter) : failedReason
  const [, code = "E_WORKER_CRASH", message = why] = CODED.exec(why) ?? []
  if (code === "E_INTERRUPTED") return { ...about, state: "cancelled" }
  return { ...about, state: "failed", error: { code: code as ErrorCode, message } }
}

async function cancel({ queue }: Bullmq, jobs: readonly Job[]): Promise<void> {
  const one = async (id: string) => {
    const state = await queue.getJobState(id)
    if (["completed", "failed", "unknown"].includes(state)) return
    // One that runs is locked by its worker, which looks at this.
    if (await queue.remove(id, { removeChildren: false })) return
    const found = await queue.getJob(id)
    await found?.updateData({ ...found.data, cancelled: true })
  }
  // From the end: workers take from the front meanwhile.
  for (let i = jobs.length; i > 0; i -= PAGE) {
    await Promise.all(jobs.slice(Math.max(0, i - PAGE), i).map((job) => one(idOf(job))))
  }
}
