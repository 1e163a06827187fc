/** @file How far a batch is: a table that lives where a person looks, else a line for each job that ends. */
import type { JobEvents, JobResult } from "../jobs/job.ts"
import { note, plain } from "./output.ts"
import { manyBars } from "./progress.ts"

export interface Display extends JobEvents {
  stop(): void
}

/** `what` is counted: "models". With `json` one JSON object a line. All of it goes to stderr. */
export async function batchDisplay(what: string, total: number, json: boolean): Promise<Display> {
  let [done, failed] = [0, 0]
  const count = ({ state }: JobResult) => {
    if (state === "left") return
    done++
    if (state === "failed") failed++
  }
  if (json) {
    return {
      ended(result) {
        count(result)
        const { job, state, seconds, attempts, error } = result
        note(JSON.stringify({ job: { model: job.name, output: job.slug, state, seconds, attempts, ...error } }))
      },
      stop() {},
    }
  }
  const line = ({ job, state, seconds, error }: JobResult) =>
    `${state} ${plain(job.slug)} ${seconds.toFixed(1)} s${error ? `: ${plain(error.message)} [${error.code}]` : ""}`
  if (!process.stderr.isTTY) {
    return {
      retried: (job, error) => note(`again ${plain(job.slug)}: ${plain(error.message)} [${error.code}]`),
      ended(result) {
        count(result)
        if (result.state !== "left") note(`[${done}/${total}] ${line(result)}`)
      },
      stop() {},
    }
  }
  const bars = await manyBars(what, total, process.stderr)
  return {
    started: (job, attempt) => bars.line(plain(job.slug), attempt > 1 ? `attempt ${attempt}` : "begins"),
    progress: (job, text) => bars.line(plain(job.slug), text),
    ended(result) {
      count(result)
      bars.line(plain(result.job.slug), undefined)
      bars.update(done, failed ? `${failed} failed` : "")
      if (result.state === "failed") bars.log(line(result))
    },
    stop: () => bars.stop(),
  }
}
