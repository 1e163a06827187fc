/** @file What a resumed run has logged already. */
import { join } from "node:path"
import { METRICS, readMetrics, type Row } from "./metrics.ts"
import type { RunInfo } from "./tracker.ts"

/** The last `limit` rows of the log that a run goes on from: what was logged but not sent when it stopped is sent now. */
export async function backlog({ dir, resumedAt = -1 }: RunInfo, limit: number): Promise<Row[]> {
  const rows: Row[] = []
  if (resumedAt < 0) return rows
  await readMetrics(join(dir, METRICS), (row) => {
    if (row.step > resumedAt) return
    rows.push(row)
    if (rows.length > limit) rows.shift()
  })
  return rows
}
