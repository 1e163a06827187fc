/** @file Lines for trackio (https://github.com/gradio-app/trackio): JSONL fragments in its local inbox, which its dashboard
 * imports when it starts and while it runs (https://github.com/gradio-app/trackio/blob/main/trackio/fragments.py). */
import { createHash, randomBytes } from "node:crypto"
import { homedir } from "node:os"
import { join } from "node:path"
import { PrismaError } from "../../errors.ts"
import { makeFolder, writeFileAtomic } from "../../files/atomic.ts"
import { backlog } from "./backlog.ts"
import { openQueue, type Pace } from "./queue.ts"
import { now, type Opening, type OpenTracker } from "./tracker.ts"

/** A fragment each half minute: a run of a day leaves 2,880 small files if no dashboard collects them. */
const PACE: Pace = {
  limit: 10_000,
  batch: 10_000,
  every: 30_000,
  first: 5_000,
  longest: 300_000,
  timeout: 10_000,
  heartbeat: Infinity,
  close: 10_000,
}

/** Of one fragment, in a row; trackio's own writer makes as many. */
const TRIES = 3

/** Where trackio keeps its data. */
function home(env: Opening["env"]): string {
  if (env["TRACKIO_DIR"]) return env["TRACKIO_DIR"]
  const cache = env["XDG_CACHE_HOME"] || join(homedir(), ".cache")
  return join(env["HF_HOME"] || join(cache, "huggingface"), "trackio")
}

/** One line of a fragment; `log_id` tells the dashboard what it has already, also after a resume. */
function record(
  { run, id, started }: Opening,
  first: boolean,
  step: number,
  time: number,
  values: Iterable<[string, number]>,
) {
  const created = new Date(started * 1000).toISOString()
  return JSON.stringify({
    v: 1,
    kind: "metric",
    project: run.project,
    run: run.name,
    run_id: id,
    metrics: Object.fromEntries([...values].map(([name, x]) => [name, Number.isFinite(x) ? x : String(x)])),
    step,
    timestamp: new Date(time * 1000).toISOString(),
    config: first ? { ...run.config, _Created: created } : null,
    log_id: createHash("sha256").update(`${id}:${step}`).digest("hex").slice(0, 32),
  })
}

/** Errors: E_OUTPUT, E_DISK_FULL, E_IO where the inbox cannot be made; what goes wrong later is a warning. */
export async function openTrackio(opening: Opening, pace = PACE): ReturnType<OpenTracker> {
  const { run, env, warn } = opening
  // Each process writes into a folder of its own.
  const folder = join(home(env), "inbox", randomBytes(8).toString("hex"))
  await makeFolder(folder)
  let files = 0
  const queue = openQueue<string>(
    "trackio",
    async (lines) => {
      if (!lines.length) return "sent"
      const path = join(folder, `${String(files).padStart(8, "0")}.jsonl`)
      for (let tries = 1; ; tries++) {
        try {
          await writeFileAtomic(path, lines.map((line) => `${line}\n`).join(""))
          break
        } catch (error) {
          if (!(error instanceof PrismaError)) throw error
          // The dashboard removes folders that it has emptied, perhaps this one just now.
          if (tries === TRIES) return { why: error.message, again: true }
        }
      }
      files++
      return "sent"
    },
    pace,
    warn,
  )
  let first = true
  const push = (step: number, time: number, values: Iterable<[string, number]>) => {
    queue.push(record(opening, first, step, time, values))
    first = false
  }
  for (const { step, time, values } of await backlog(run, pace.limit)) push(step, time, values)
  return {
    log: (step, values) => push(step, now(), Object.entries(values)),
    flush: async () => {},
    close: () => queue.close(),
  }
}
