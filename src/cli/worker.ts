/** @file vit-prisma worker: the jobs of a queue, done on this machine. */
import { resolve } from "node:path"
import { runWorker } from "../jobs/queue-worker.ts"
import type { BatchOptions } from "./batch-options.ts"
import { poolOptions, untilSignal } from "./batch.ts"
import { note, plain } from "./output.ts"

export interface WorkerCommandOptions extends BatchOptions {
  readonly queue: string
  readonly root: string
  readonly lock: number
  readonly drain?: boolean
}

/** Errors: E_USAGE. A server that is down is waited for. */
export async function worker(options: WorkerCommandOptions): Promise<void> {
  const { queue, root, lock, drain = false, format } = options
  const { until, caught } = untilSignal(options)
  const log = (text: string) => note(format === "json" ? JSON.stringify({ worker: text }) : plain(text))
  const about = { url: queue, root: resolve(root), lockSeconds: lock, drain, log }
  await runWorker({ ...poolOptions(options), ...about }, until)
  const signal = caught()
  if (signal) process.exitCode = signal === "SIGINT" ? 130 : 143
}
