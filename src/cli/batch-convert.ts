/** @file vit-prisma convert --from: every model of a list, each in a process of its own. */
import { stat } from "node:fs/promises"
import { join, resolve } from "node:path"
import { fail } from "../errors.ts"
import type { ConvertJob } from "../jobs/job.ts"
import { type Listed, parseShard, readList, shardOf } from "../jobs/list.ts"
import { reportName, reportOf, writeReport } from "../jobs/report.ts"
import type { BatchOptions } from "./batch-options.ts"
import { cancelJobs, runJobs } from "./batch.ts"
import type { ConvertOptions } from "./convert.ts"
import { note, print, printJson, warn } from "./output.ts"

export interface ListOptions extends BatchOptions {
  readonly from?: string
  readonly push?: string
  readonly private?: boolean
  readonly shard?: string
}

/** Errors: E_USAGE; E_INPUT, E_NOT_A_FILE for the list; E_QUEUE. What is wrong with a model stands in the report. */
export async function convertList(options: ConvertOptions & ListOptions & { readonly from: string }): Promise<void> {
  const { from, push, format } = options
  if (options.revision !== undefined)
    fail("E_USAGE", "--revision is for one model; in a list write owner/name@revision")
  if (push !== undefined && !OWNER.test(push)) fail("E_USAGE", `--push wants a user or organisation, got "${push}"`)
  if (options.out === "") fail("E_USAGE", "--out wants a folder, got none")
  if (options.private && push === undefined) fail("E_USAGE", "--private is of the repos that --push makes")
  const shard = options.shard === undefined ? undefined : parseShard(options.shard)
  const { models, warnings } = await readList(from)
  for (const warning of warnings) warn(warning, options)
  const out = resolve(options.out)
  const jobs = await jobsOf(shard ? shardOf(models, shard) : models, out, options)
  if (options.cancel) return cancelJobs(jobs, options)
  const name = await reportName(out, shard)
  const { results, began, exitCode } = await runJobs("models", jobs, out, options)
  const report = reportOf("models", jobs, results, began)
  await writeReport(out, name, report)
  if (format === "json") printJson(report)
  else {
    const { counts } = report
    print(join(out, `${name}.md`))
    const said = Object.entries(counts).filter(([, n]) => n).map(([state, n]) => `${n} ${state}`) // prettier-ignore
    note(`${jobs.length} models: ${said.join(", ")}`)
  }
  process.exitCode = exitCode
}

/** The Hub's names of users and organisations. */
const OWNER = /^[A-Za-z0-9][A-Za-z0-9_.-]{0,95}$/

/** A folder is named by its whole path, as workers elsewhere have another working folder. */
async function jobsOf(
  models: readonly Listed[],
  out: string,
  options: ConvertOptions & ListOptions,
): Promise<ConvertJob[]> {
  const { hooks, inputs, certify, tolerance, force, push, private: isPrivate } = options
  const { cacheDir, offline, allowPickle, imageSize, device, threads } = options
  const how = { cacheDir, offline, allowPickle, imageSize, device, threads }
  const given = { hooks, inputs, certify, tolerance, force, push, private: isPrivate, ...how }
  const common = Object.fromEntries(Object.entries(given).filter(([, value]) => value !== undefined))
  const jobs: ConvertJob[] = []
  for (const { model, revision, slug } of models) {
    const isFolder = await stat(model).then(
      (s) => s.isDirectory(),
      () => false,
    )
    const place = { name: model, model: isFolder ? resolve(model) : model, out, slug }
    jobs.push({ kind: "convert", ...place, ...(revision !== undefined && { revision }), ...common })
  }
  return jobs
}
