/** @file What came of a batch: report.json for programs, report.md for people, the failed first. */
import { stat } from "node:fs/promises"
import { join } from "node:path"
import { fail, withoutSecrets } from "../errors.ts"
import { writeFileAtomic } from "../files/atomic.ts"
import { version } from "../version.ts"
import type { Job, JobResult, JobState } from "./job.ts"
import type { Shard } from "./list.ts"

/** One line of a report. */
export interface ReportRow {
  readonly model: string
  readonly revision?: string
  /** Its output in the folder of the report. */
  readonly output: string
  readonly state: JobState
  readonly code?: string
  readonly message?: string
  readonly seconds: number
  readonly attempts: number
  readonly bytes?: number
  /** Largest difference from float64, where it was certified. */
  readonly worst?: number
  readonly pushed?: string
  readonly warnings?: readonly string[]
}

export interface Report {
  readonly tool: { readonly name: "vit-prisma"; readonly version: string }
  /** When it began, in UTC. */
  readonly began: string
  readonly seconds: number
  readonly counts: Readonly<Record<JobState, number>>
  /** Of a list of models. */
  readonly models?: readonly ReportRow[]
  /** Of activations over a dataset. */
  readonly files?: readonly ReportRow[]
}

/** Rows come in the order of `jobs`; a job without a result was left. */
export function reportOf(
  what: "models" | "files",
  jobs: readonly Job[],
  results: ReadonlyMap<Job, JobResult>,
  began: Date,
): Report {
  const rows = jobs.map((job) => rowOf(job, results.get(job)))
  const count = (state: JobState) => rows.filter((row) => row.state === state).length
  return {
    tool: { name: "vit-prisma", version },
    began: began.toISOString(),
    seconds: rounded((Date.now() - began.getTime()) / 1000),
    counts: {
      done: count("done"),
      already: count("already"),
      failed: count("failed"),
      cancelled: count("cancelled"),
      left: count("left"),
    },
    [what]: rows,
  }
}

function rowOf({ name, revision, slug }: Job, result: JobResult | undefined): ReportRow {
  const { state = "left", seconds = 0, attempts = 0, error, value } = result ?? {}
  const { bytes, worst, pushed, warnings } = value ?? {}
  return {
    model: withoutSecrets(name),
    ...(revision !== undefined && { revision: withoutSecrets(revision) }),
    output: withoutSecrets(slug),
    state,
    ...(error && { code: error.code, message: error.message }),
    seconds: rounded(seconds),
    attempts,
    ...(bytes !== undefined && { bytes }),
    ...(worst !== undefined && { worst }),
    ...(pushed !== undefined && { pushed }),
    ...(warnings && { warnings }),
  }
}

const rounded = (seconds: number): number => Math.round(seconds * 1000) / 1000

/** What the report of a list, or of a part of it, is called. Error: E_OUTPUT, before anything is done, where a folder is called so. */
export async function reportName(out: string, shard: Shard | undefined): Promise<string> {
  const name = shard ? `report-${shard.index}-of-${shard.count}` : "report"
  for (const file of [join(out, `${name}.json`), join(out, `${name}.md`)]) {
    const found = await stat(file).catch(() => undefined)
    if (found?.isDirectory())
      fail("E_OUTPUT", `${file}: is a folder, and the report's name; move it or choose another --out`, { file })
  }
  return name
}

/** Write `out/name.json` and `out/name.md`. Errors: those of writeFileAtomic. */
export async function writeReport(out: string, name: string, report: Report): Promise<void> {
  await writeFileAtomic(join(out, `${name}.json`), `${JSON.stringify(report, undefined, 2)}\n`)
  await writeFileAtomic(join(out, `${name}.md`), markdown(report))
}

const ORDER: readonly JobState[] = ["failed", "cancelled", "left", "done", "already"]

function markdown({ began, seconds, counts, models, files, tool }: Report): string {
  const all = models ?? files ?? []
  const what = models ? "models" : "files"
  const said = ORDER.filter((state) => counts[state]).map((state) => `${counts[state]} ${state}`)
  const head = `# ${all.length} ${what}: ${said.join(", ") || "nothing to do"}`
  const about = `Begun ${began}, ${seconds} s, ${tool.name} ${tool.version}.`
  const failed = all.filter((row) => row.state === "failed")
  const why = table(["output", "code", "why"], failed.map((row) => [row.output, row.code!, row.message!])) // prettier-ignore
  const cells = (row: ReportRow) => [
    named(row),
    row.output,
    row.state,
    String(row.seconds),
    row.bytes === undefined ? "" : String(row.bytes),
    String(row.attempts),
    row.worst?.toExponential(2) ?? "",
  ]
  const rows = ORDER.flatMap((state) => all.filter((row) => row.state === state)).map(cells)
  const whole = table(["model", "output", "state", "seconds", "bytes", "attempts", "worst error"], rows)
  return `${[head, about, ...(failed.length ? [why] : []), whole].join("\n\n")}\n`
}

const named = ({ model, revision }: ReportRow): string => (revision === undefined ? model : `${model}@${revision}`)

const table = (head: readonly string[], rows: readonly (readonly string[])[]): string =>
  [head, head.map(() => "---"), ...rows].map((cells) => `| ${cells.map(cell).join(" | ")} |`).join("\n")

/** Names and messages come from outside: no bar, line or markup of theirs changes the table. */
const cell = (text: string): string => text.replace(/[\p{C}\s]+/gu, " ").replace(/[|\\`<>[\]*]/g, "\\$&")
