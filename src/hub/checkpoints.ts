/** @file The checkpoints of a training run: folders here, tags or folders on the Hub. */
import { readdir } from "node:fs/promises"
import { join } from "node:path"
import { fail, listed, PrismaError } from "../errors.ts"
import { safeRelPath } from "../files/paths.ts"
import { refsOf } from "./api.ts"
import { cachedCommit, isFolder, repoPlace } from "./cache.ts"
import type { DownloadOptions } from "./download.ts"
import { hubHttp } from "./http.ts"
import { commitOf, filesAt } from "./listing.ts"
import { hubSettings } from "./settings.ts"
import { readTree } from "./tree.ts"

/** The folder of a run that holds them. */
export const CHECKPOINTS = "checkpoints"
const FOLDER = /^(checkpoints\/step-0*(\d+))\//
const TAG = /^step-?0*(\d{1,15})$/

/** The tag of a checkpoint on the Hub. */
export const tagOf = (step: number): string => `step-${step}`

export function stepOfTag(tag: string): number | undefined {
  const step = TAG.exec(tag)?.[1]
  return step === undefined ? undefined : Number(step)
}

/** The step, and its folder, that a path of a run belongs to. */
export function stepOf(path: string): { readonly step: number; readonly folder: string } | undefined {
  const [, folder, step] = FOLDER.exec(path) ?? []
  return folder === undefined ? undefined : { step: Number(step), folder }
}

/** Where a checkpoint is: a revision of the repo, or a folder in it. */
export type CheckpointPlace = { readonly revision: string } | { readonly subfolder: string }

/**
 * The checkpoints of a run's folder or of a repo, by step, ascending. Offline, and where the Hub cannot be reached, those that
 * the cache knows of. Errors: those of the Hub.
 */
export async function listCheckpoints(
  name: string,
  options: DownloadOptions = {},
): Promise<ReadonlyMap<number, CheckpointPlace>> {
  const { subfolder } = options
  const prefix = subfolder ? `${safeRelPath(subfolder, "subfolder")}/` : ""
  const found = (await isFolder(name)) ? await inFolder(name, prefix) : await inRepo(name, prefix, options)
  return new Map([...found].sort(([a], [b]) => a - b))
}

/** Where the checkpoint of a step is. Error: E_INPUT that names those there are. */
export async function checkpointAt(name: string, step: number, options: DownloadOptions): Promise<CheckpointPlace> {
  const all = await listCheckpoints(name, options)
  const place = all.get(step)
  if (place) return place
  const there = all.size ? `it has ${listed([...all.keys()].map(String), 12)}` : "it has none"
  return fail("E_INPUT", `${name}: has no checkpoint of step ${step}; ${there}`)
}

type Places = Map<number, CheckpointPlace>

async function inFolder(folder: string, prefix: string): Promise<Places> {
  const names = await readdir(join(folder, prefix, CHECKPOINTS)).catch(() => [])
  return places([], names.map((name) => `${prefix}${CHECKPOINTS}/${name}/`), prefix) // prettier-ignore
}

/** A tag, which is of the run at the repo's root, goes before a folder. */
function places(tags: Iterable<string>, paths: Iterable<string>, prefix: string): Places {
  const found: Places = new Map()
  for (const path of paths) {
    const at = path.startsWith(prefix) ? stepOf(path.slice(prefix.length)) : undefined
    if (at) found.set(at.step, { subfolder: `${prefix}${at.folder}` })
  }
  for (const tag of prefix ? [] : tags) {
    const step = stepOfTag(tag)
    if (step !== undefined) found.set(step, { revision: tag })
  }
  return found
}

async function inRepo(name: string, prefix: string, options: DownloadOptions): Promise<Places> {
  const { revision = "main", signal } = options
  const settings = await hubSettings(options)
  const place = repoPlace(settings.cacheDir, name)
  const cached = async (): Promise<Places> => {
    const commit = await cachedCommit(place, revision)
    const tree = commit === undefined ? undefined : await readTree(place, commit)
    return places(await readdir(place.ref("")).catch(() => []), tree?.keys() ?? [], prefix)
  }
  if (settings.offline) return cached()
  const http = options.http ?? hubHttp({ ...settings, ...(options.onWait && { onWait: options.onWait }) })
  try {
    const { tags } = await refsOf(http, place.repo, signal)
    const commit = await commitOf(http, place.repo, revision, { ...(signal && { signal }) })
    return places(tags.keys(), (await filesAt(http, place.repo, commit)).map(({ path }) => path), prefix) // prettier-ignore
  } catch (error) {
    const there = error instanceof PrismaError && error.retryable ? await cached() : undefined
    if (there?.size) return there
    throw error
  }
}
