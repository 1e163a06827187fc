/** @file metrics.jsonl, the log every run has: one JSON object a line, `{"step":20,"time":1760000000.123,"train/loss":2.3}`. */
import { stat } from "node:fs/promises"
import { join } from "node:path"
import { fail } from "../../errors.ts"
import { writeFileAtomic } from "../../files/atomic.ts"
import { readFully, withFile } from "../../files/read.ts"
import { type Appender, openAppender } from "./append.ts"
import { summary } from "./summary.ts"
import { isTime, now, type OpenTracker, type RunInfo, type Tracker } from "./tracker.ts"

export const METRICS = "metrics.jsonl"
const SUMMARY = "summary.csv"

/** Bytes read at once, and the most that one line may have; ours have some hundred. */
const PIECE = 1 << 20

export interface Row {
  readonly step: number
  /** Seconds since 1970. */
  readonly time: number
  /** What JSON has no number for is NaN. */
  readonly values: ReadonlyMap<string, number>
}

/** Visit the rows of a log with their lines, newline included. Lines that are torn, not ours, or not of a step above the one
 * before are passed over. Errors: E_NOT_A_FILE, E_IO. */
export async function readMetrics(
  path: string,
  visit: (row: Row, line: Uint8Array) => void | Promise<void>,
): Promise<void> {
  let last = -1
  const see = async (line: Uint8Array) => {
    const row = parsed(line)
    if (row === undefined || row.step <= last) return
    last = row.step
    await visit(row, line)
  }
  await withFile(path, async (file) => {
    const buffer = Buffer.allocUnsafe(2 * PIECE)
    // Bytes of an unfinished line at the buffer's start; NaN while the rest of one that is too long is passed over.
    let kept = 0
    for (let at = 0; ;) {
      const from = kept || 0
      const n = await readFully(file, path, buffer.subarray(from, from + PIECE), at)
      if (n === 0) return
      at += n
      let start = 0
      for (let end; (end = buffer.subarray(0, from + n).indexOf(10, start) + 1) > 0; start = end) {
        if (kept >= 0) await see(buffer.subarray(start, end))
        kept = 0
      }
      const rest = from + n - start
      buffer.copyWithin(0, start, from + n)
      kept = kept >= 0 && rest <= PIECE ? rest : NaN
    }
  })
}

function parsed(line: Uint8Array): Row | undefined {
  let value: unknown
  try {
    value = JSON.parse(new TextDecoder("utf-8", { fatal: true }).decode(line))
  } catch {
    return undefined
  }
  if (typeof value !== "object" || value === null) return undefined
  const entries = new Map<string, unknown>(Object.entries(value))
  const [step, time] = [entries.get("step"), entries.get("time")]
  if (typeof step !== "number" || !Number.isSafeInteger(step) || !isTime(time)) return undefined
  const values = new Map<string, number>()
  for (const [name, x] of entries) {
    if (name === "step" || name === "time") continue
    if (typeof x === "number" || x === null) values.set(name, x ?? NaN)
  }
  return { step, time, values }
}

/** The log and, beside it, summary.csv. A new run needs a folder without a log, so that none is lost. Errors: E_OUTPUT,
 * E_DISK_FULL, E_IO. */
export const openMetrics: OpenTracker = async ({ run }) => {
  const add = summary()
  const path = join(run.dir, METRICS)
  const csvPath = join(run.dir, SUMMARY)
  await begin(run, path, csvPath, add)
  const log = await openAppender(path)
  const csv = await openAppender(csvPath).catch(async (error: unknown) => {
    await log.close()
    throw error
  })
  return metricsTracker(log, csv, add)
}

function metricsTracker(log: Appender, csv: Appender, add: ReturnType<typeof summary>): Tracker {
  return {
    log(step, values) {
      log.append(Buffer.from(`${JSON.stringify({ step, time: now(), ...values })}\n`))
      const rows = add(step, Object.entries(values))
      if (rows !== undefined) csv.append(Buffer.from(rows))
    },
    async flush() {
      await Promise.all([log.flush(), csv.flush()])
    },
    async close() {
      try {
        await log.close()
      } finally {
        await csv.close()
      }
    },
  }
}

/** Both files as they were at the step that the run goes on from. */
async function begin(run: RunInfo, path: string, csvPath: string, add: ReturnType<typeof summary>): Promise<void> {
  const { resumedAt } = run
  const size = await sizeOf(path)
  if (resumedAt === undefined && size) {
    fail("E_OUTPUT", `${path}: holds the log of an earlier run; resume that one or choose another folder`, {
      file: path,
    })
  }
  const rows: string[] = []
  await writeFileAtomic(path, async (file) => {
    if (resumedAt === undefined || !size) return
    let [held, bytes]: [Uint8Array[], number] = [[], 0]
    await readMetrics(path, async ({ step, values }, line) => {
      if (step > resumedAt) return
      rows.push(add(step, values) ?? "")
      held.push(Uint8Array.from(line))
      bytes += line.length
      if (bytes < PIECE) return
      await file.write(Buffer.concat(held))
      ;[held, bytes] = [[], 0]
    })
    await file.write(Buffer.concat(held))
  })
  await writeFileAtomic(csvPath, rows.join(""))
}

/** 0 also for a file that does not exist. */
const sizeOf = (path: string): Promise<number> =>
  stat(path).then(
    ({ size }) => size,
    () => 0,
  )
