/** @file The standard Hub cache, as huggingface_hub lays it out: models--ns--name/{refs,blobs,snapshots}. */
import { readdir, realpath, stat } from "node:fs/promises"
import { homedir } from "node:os"
import { join, sep } from "node:path"
import { fail, listed } from "../errors.ts"
import { repoFolderName, repoId } from "../files/paths.ts"
import { readFully, withFile } from "../files/read.ts"
import { quote } from "../tensor/quote.ts"

const COMMIT = /^[0-9a-f]{40}$/
// What git check-ref-format allows of a branch or tag; none of it leaves the refs folder.
const REVISION = /^(?![/-])(?!.*(?:\.\.|\/\/|@\{|\.lock(?:\/|$)|(?:^|\/)\.))[^\p{C}\s~^:?*[\\]{1,255}(?<![/.])$/u

/**
 * Where the cache lies: HF_HUB_CACHE, HUGGINGFACE_HUB_CACHE, HF_HOME/hub, XDG_CACHE_HOME/huggingface/hub, ~/.cache/...;
 * a leading ~ is the home folder, as for huggingface_hub.
 */
async function cacheFolder(): Promise<string> {
  const { getHFHubCachePath } = await import("@huggingface/hub")
  return getHFHubCachePath().replace(/^~(?=$|[/\\])/, () => homedir())
}

/**
 * The real path of a repo's snapshot that lies in the cache already. `revision` is a branch, tag or commit.
 * Errors: E_REPO_ID, E_REVISION, E_HUB_NOT_FOUND naming the folder that was looked for, E_CACHE_CORRUPT.
 */
export async function cachedSnapshot(id: string, revision = "main", cache?: string): Promise<string> {
  const repo = repoId(id)
  if (!REVISION.test(revision)) {
    fail("E_REVISION", `revision ${quote(revision)} of ${repo} must be a branch, a tag or a commit`, { repo })
  }
  const folder = join(cache ?? (await cacheFolder()), repoFolderName(repo))
  const commit = COMMIT.test(revision) ? revision : await commitOf(folder, revision)
  const snapshot = commit && join(folder, "snapshots", commit)
  if (snapshot && (await isFolder(snapshot))) {
    const real = await realpath(snapshot)
    if (real === join(await realpath(folder), "snapshots", commit)) return real
    corrupt(snapshot, "is a link to another folder")
  }
  const others = await readdir(join(folder, "snapshots")).catch(() => [])
  const there = others.length ? `; of this repo it holds the commits ${listed(others, 3)}` : ""
  return fail(
    "E_HUB_NOT_FOUND",
    `${repo} at revision ${revision} is neither a model's folder here nor in the Hub cache (looked for ${folder})${there}; fetch it first, for example with "hf download ${repo}"`,
    { repo },
  )
}

const corrupt = (path: string, what: string): never =>
  fail("E_CACHE_CORRUPT", `${path}: ${what}; remove it and fetch the repo again`, { file: path })

async function commitOf(folder: string, revision: string): Promise<string | undefined> {
  const path = join(folder, "refs", revision)
  const text = await withFile(path, async (file, size) => {
    const bytes = new Uint8Array(Math.min(size, 100))
    return new TextDecoder().decode(bytes.subarray(0, await readFully(file, path, bytes, 0)))
  }).catch(() => undefined)
  const commit = text?.trim()
  return commit === undefined || COMMIT.test(commit) ? commit : corrupt(path, "holds no commit")
}

const SNAPSHOT = /^(.*[\\/]models--[^\\/]+)[\\/]snapshots[\\/][^\\/]+$/

/**
 * The path of a file in a folder, given as a real path. A file of a snapshot lies in it or in its repo's blobs.
 * Error: E_CACHE_CORRUPT where it does not.
 */
export async function fileIn(folder: string, name: string): Promise<string> {
  const path = join(folder, name)
  const repo = SNAPSHOT.exec(folder)?.[1]
  if (repo === undefined) return path
  const real = await realpath(path).catch(() => corrupt(path, "points to a blob that is not there"))
  const blobs = await realpath(join(repo, "blobs")).catch(() => folder)
  const inside = [folder, blobs].some((home) => real.startsWith(home + sep))
  return inside ? path : corrupt(path, "points outside the cache's blobs")
}

export const isFolder = (path: string): Promise<boolean> =>
  stat(path).then(
    (s) => s.isDirectory(),
    () => false,
  )
