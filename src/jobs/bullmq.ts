/** @file Queues of BullMQ over Redis or PostgreSQL (https://docs.bullmq.io). */
import type * as BullMq from "bullmq"
import type { Job as BullJob, Queue, QueueEvents, Worker, WorkerOptions } from "bullmq"
import { optional } from "./optional.ts"
import type { NamedServer } from "./server.ts"

export type { BullJob }

/** What is said in a queue: a job as `jobFrom` reads it, and whether it was called off. */
export interface Payload {
  readonly job: unknown
  readonly cancelled?: boolean
}

export interface Bullmq {
  readonly queue: Queue<Payload>
  events(): QueueEvents
  worker(
    process: (job: BullJob<Payload>, token: string, signal: AbortSignal) => Promise<unknown>,
    options: Omit<WorkerOptions, "connection">,
  ): Worker<Payload>
  /** The server's id, another when it comes back empty. */
  server(): Promise<string>
  /** Let this job be the next. */
  first(id: string): Promise<void>
  /** Give the job that this token holds back to the queue; what is to be thrown then. */
  giveBack(job: BullJob<Payload>, token: string): Promise<Error>
  /** An error after which no attempt is made. */
  final(message: string): Error
  close(): Promise<void>
}

/** Error: E_USAGE where it, or `driver`, which it needs, is not installed. */
export const loadBullmq = (driver: string): Promise<typeof BullMq> =>
  optional(() => import("bullmq"), "--queue", `bullmq@6 ${driver}`)

/** One connection for orders, and one each for whoever waits. Errors: E_USAGE without bullmq. */
export async function openBullmq(server: NamedServer, name: string, onError: (error: Error) => void): Promise<Bullmq> {
  const bull = await loadBullmq(server.driver)
  const { connection, close, id } = server.connect(onError)
  const open: { close(): Promise<void> }[] = []
  // The classes take Redis' types only; the factory says what the connection is.
  const at = { connection: connection as never }
  const backend = server.backend as undefined
  const kept = <T extends { close(): Promise<void>; on(event: "error", listener: (e: Error) => void): unknown }>(
    one: T,
  ): T => {
    one.on("error", onError)
    open.push(one)
    return one
  }
  const queue = kept(new bull.Queue<Payload>(name, at, backend))
  return {
    queue,
    events: () => kept(new bull.QueueEvents(name, at, backend)),
    worker: (process, options) =>
      kept(
        new bull.Worker<Payload>(
          name,
          // BullMQ makes a signal only for functions of three parameters.
          (job, token, signal) => process(job, token!, signal!),
          { ...at, ...options },
          backend,
        ),
      ),
    server: id,
    first: async (id) => (await queue.getJob(id))?.changePriority({ lifo: true }),
    async giveBack(job, token) {
      await job.moveToWait(token)
      return new bull.WaitingError()
    },
    final: (message) => new bull.UnrecoverableError(message),
    async close() {
      await Promise.all(open.map((one) => one.close().catch(onError)))
      await close()
    },
  }
}
