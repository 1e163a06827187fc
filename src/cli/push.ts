/** @file vit-prisma push: a folder to a repo of the Hub. */
import { type Change, pushFolder, type PushOptions, type Pushed } from "../hub/push.ts"
import { bytes, counted, plain, print, printJson, style, warn } from "./output.ts"
import { downloadProgress } from "./progress.ts"
import { stoppable } from "./stopping.ts"

export interface PushCommandOptions {
  readonly private?: boolean
  readonly branch: string
  readonly message?: string
  readonly path?: string
  readonly checkpoints?: NonNullable<PushOptions["checkpoints"]>
  readonly dryRun?: boolean
  readonly wait?: number
  readonly format: "human" | "json"
}

export async function push(folder: string, repo: string, { format, ...options }: PushCommandOptions): Promise<void> {
  const bar = downloadProgress({ json: format === "json" })
  const onWait = (text: string) => warn(text, { format })
  const pushed = await stoppable(
    (name) => `${repo}: stopped by ${name}; what is sent stays sent, the same command goes on`,
    (signal) => pushFolder(folder, repo, { ...options, signal, onProgress: bar.update, onWait }).finally(bar.stop),
  )
  if (format === "json") printJson({ dryRun: options.dryRun ?? false, ...pushed })
  else for (const line of shown(pushed, options.dryRun ?? false)) print(line)
}

const changed = ({ is, path, size }: Change): string => `${is === "added" ? "A" : "M"}  ${plain(path)}  ${bytes(size)}`

function* shown(pushed: Pushed, dryRun: boolean): Generator<string> {
  const {
    repo,
    branch,
    url,
    created,
    changes,
    unchanged,
    skipped,
    checkpoints,
    left,
    leftUntil,
    commit,
    committed,
    sent,
  } = pushed
  if (dryRun && created) yield `the repo ${repo} would be made`
  for (const change of changes) yield changed(change)
  for (const step of checkpoints) {
    if (!step.changes.length) continue
    const size = step.changes.reduce((n, change) => n + change.size, 0)
    const at = step.commit === undefined ? "" : `  ${step.commit.slice(0, 12)}`
    yield `A  ${step.tag}${at}  ${counted(step.changes.length, "file")}, ${bytes(size)}`
  }
  for (const why of new Set(skipped.map((one) => one.why))) {
    const [first, ...more] = skipped.filter((one) => one.why === why)
    yield `-  ${plain(first!.path)}${more.length ? ` and ${more.length} more` : ""}: ${why}`
  }
  if (left.length)
    yield `${counted(left.length, "checkpoint")} from step ${left[0]} on: push again after ${leftUntil}, or --checkpoints folders`
  const steps = checkpoints.filter((c) => c.changes.length).length
  const rest = unchanged ? `, ${unchanged} as they are there` : ""
  const what = `${counted(changes.length, "file")}${steps ? ` and ${counted(steps, "checkpoint")}` : ""}${rest}`
  if (dryRun) yield style("bold", `${repo}@${branch}: ${what}; nothing was sent (--dry-run)`)
  else if (!committed && !steps)
    yield style("bold", `${repo}@${branch}: nothing to push, it has all ${counted(unchanged, "file")}`) // prettier-ignore
  else yield style("bold", `${url} ${commit?.slice(0, 12) ?? ""}: ${what}, ${bytes(sent)} sent apart`)
}
