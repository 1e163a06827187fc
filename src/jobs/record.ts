/** @file What is kept of an output beside it: by which key it was begun and done, and how its files were, so that a rerun, or
 * whoever takes over from a process that died, can leave it as it is. */
import { readdir, stat } from "node:fs/promises"
import { join, relative, sep } from "node:path"
import { writeFileAtomic } from "../files/atomic.ts"
import { readJson } from "../files/json.ts"
import { digestOf } from "../files/digest.ts"
import { checkManifest } from "../files/manifest.ts"
import { fileStamp, type Identity } from "./identity.ts"
import { type Job, type JobValue, keptIn } from "./job.ts"

/** What decides an output: `key` is a sha256 over the source's content, the options and the version of this package. */
export interface Keyed {
  readonly key: string
  readonly source: Identity
}

type Value = Omit<JobValue, "already">

interface Kept extends Keyed {
  readonly format: typeof FORMAT
  /** Absent while the output is made. */
  readonly done?: {
    readonly value: Value
    /** sha256 of the output file, or of the manifest of an output folder. */
    readonly seal: string
    /** Stamp of each file of the output, by its path below `out`. */
    readonly files: Readonly<Record<string, string>>
  }
}

const FORMAT = "vit-prisma batch 1"
const RULES = { limit: 2 ** 20, malformed: "E_INTEGRITY", tooLarge: "E_INTEGRITY" } as const

const pathOf = ({ out, slug }: Job): string => keptIn(out, `${slug}.json`)

/** The file whose hash stands for the output. */
const sealed = ({ kind, out, slug }: Job): string => join(out, slug, kind === "convert" ? "manifest.json" : "")

async function read(job: Job): Promise<Kept | undefined> {
  const found = (await readJson(pathOf(job), RULES).catch(() => undefined)) as Partial<Kept> | undefined
  const { format, key, source, done } = found ?? {}
  if (format !== FORMAT || typeof key !== "string" || typeof source?.digest !== "string") return undefined
  const whole = !done || (typeof done.seal === "string" && done.value && done.files)
  return whole ? (found as Kept) : undefined
}

const write = (job: Job, kept: Omit<Kept, "format">): Promise<void> =>
  writeFileAtomic(pathOf(job), `${JSON.stringify({ format: FORMAT, ...kept })}\n`)

/** What the source was known as, if anything was kept; its stamp may save reading it. */
export const knownSource = async (job: Job): Promise<Identity | undefined> => (await read(job))?.source

/**
 * What the output of this key is worth, if it is done and whole. Files whose size and time are as they were are not read;
 * others are held against their hashes. `measure` says it of an output that was published by a process that then died.
 */
export async function doneBefore(job: Job, key: string, measure?: () => Promise<Value>): Promise<Value | undefined> {
  const kept = await read(job)
  if (kept?.key !== key) return undefined
  if (kept.done) return (await isWhole(job, kept.done)) ? kept.done.value : undefined
  if (!measure || !(await isNewer(sealed(job), pathOf(job))) || !(await holds(job))) return undefined
  const value = await measure()
  await recordDone(job, kept, value)
  return value
}

/** Say that the output of this key is now made: what is published later than this is of this key. */
export const recordBegun = (job: Job, { key, source }: Keyed): Promise<void> => write(job, { key, source })

/** Keep that the output is done. Errors: those of digestOf and writeFileAtomic. */
export async function recordDone(job: Job, { key, source }: Keyed, value: Value): Promise<void> {
  const done = { value, seal: (await digestOf(sealed(job))).sha256, files: Object.fromEntries(await stamps(job)) }
  await write(job, { key, source, done })
}

async function isWhole(job: Job, { files, seal }: NonNullable<Kept["done"]>): Promise<boolean> {
  const found = await stamps(job)
  const same = found.size === Object.keys(files).length && [...found].every(([name, stamp]) => files[name] === stamp)
  if (same) return found.size > 0
  return (await digestOf(sealed(job)).catch(() => undefined))?.sha256 === seal && holds(job)
}

/** Does a folder hold what its manifest says? A file appears whole or not at all. */
const holds = async (job: Job): Promise<boolean> =>
  job.kind === "activations" || checkManifest(join(job.out, job.slug)).catch(() => false)

async function isNewer(path: string, than: string): Promise<boolean> {
  const time = (of: string) =>
    stat(of, { bigint: true }).then(
      ({ mtimeNs }) => mtimeNs,
      () => undefined,
    )
  const [a, b] = [await time(path), await time(than)]
  return a !== undefined && b !== undefined && a > b
}

/** Bytes of an output on the disk; one file under two names counts once. */
export async function outputBytes(job: Job): Promise<number> {
  const sizes = new Map([...(await stamps(job)).values()].map((s) => s.split(":") as [ino: string, size: string]))
  return [...sizes.values()].reduce((n, size) => n + Number(size), 0)
}

/** All files of an output, which is a folder or a file. */
async function stamps({ out, slug }: Job): Promise<Map<string, string>> {
  const path = join(out, slug)
  const own = await fileStamp(path)
  if (own !== undefined) return new Map([[slug, own]])
  const entries = await readdir(path, { recursive: true, withFileTypes: true }).catch(() => [])
  const found = new Map<string, string>()
  for (const entry of entries) {
    const file = join(entry.parentPath, entry.name)
    const stamp = entry.isFile() ? await fileStamp(file) : undefined
    if (stamp !== undefined) found.set(relative(out, file).replaceAll(sep, "/"), stamp)
  }
  return found
}
