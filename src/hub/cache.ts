/** @file The standard Hub cache, as huggingface_hub lays it out: models--ns--name/{refs,blobs,snapshots,.no_exist,trees}
 * (https://huggingface.co/docs/huggingface_hub/guides/manage-cache). */
import { readdir, realpath, stat } from "node:fs/promises"
import { join } from "node:path"
import { fail, listed } from "../errors.ts"
import { blobFolders } from "../files/blob-folders.ts"
import { isWithin, repoFolderName, repoId } from "../files/paths.ts"
import { readFully, withFile } from "../files/read.ts"
import { quote } from "../tensor/quote.ts"

const COMMIT = /^[0-9a-f]{40}$/
// What git check-ref-format allows of a branch or tag; none of it leaves the refs folder.
const REVISION = /^(?![/-])(?!.*(?:\.\.|\/\/|@\{|\.lock(?:\/|$)|(?:^|\/)\.))[^\p{C}\s~^:?*[\\]{1,255}(?<![/.])$/u

export const isCommit = (revision: string): boolean => COMMIT.test(revision)

/** Where a repo's things lie in a cache. */
export interface RepoPlace {
  readonly repo: string
  readonly cache: string
  readonly folder: string
  readonly blob: (etag: string) => string
  readonly ref: (revision: string) => string
  readonly snapshot: (commit: string) => string
  readonly absent: (commit: string, name: string) => string
  readonly tree: (commit: string) => string
  readonly lock: (name: string) => string
}

/** Errors: E_REPO_ID. */
export function repoPlace(cache: string, id: string): RepoPlace {
  const repo = repoId(id)
  const name = repoFolderName(repo)
  const folder = join(cache, name)
  return {
    repo,
    cache,
    folder,
    blob: (etag) => join(folder, "blobs", etag),
    ref: (revision) => join(folder, "refs", revision),
    snapshot: (commit) => join(folder, "snapshots", commit),
    absent: (commit, file) => join(folder, ".no_exist", commit, file),
    tree: (commit) => join(folder, "trees", `${commit}.json`),
    // huggingface_hub's <etag>.lock lies there for ever, so ours has another name.
    lock: (etag) => join(cache, ".locks", name, `${etag}.pid`),
  }
}

/** `revision` if it can be a branch, a tag or a commit. Error: E_REVISION. */
export function checkRevision(repo: string, revision: string): string {
  // Callers without types.
  if (typeof revision !== "string")
    return fail("E_REVISION", `the revision of ${repo} must be text, got ${typeof revision}`, { repo })
  if (REVISION.test(revision)) return revision
  return fail("E_REVISION", `revision ${quote(revision)} of ${repo} must be a branch, a tag or a commit`, { repo })
}

/** The commit that the cache has for a branch or tag. Error: E_CACHE_CORRUPT for a ref that holds none. */
export async function cachedCommit(place: RepoPlace, revision: string): Promise<string | undefined> {
  if (isCommit(revision)) return revision
  const path = place.ref(revision)
  const text = await withFile(path, async (file, size) => {
    const bytes = new Uint8Array(Math.min(size, 100))
    return new TextDecoder().decode(bytes.subarray(0, await readFully(file, path, bytes, 0)))
  }).catch(() => undefined)
  const commit = text?.trim()
  return commit === undefined || isCommit(commit) ? commit : corrupt(place.repo, path, "holds no commit")
}

/** The real path of a commit's snapshot, if the cache has it. Error: E_CACHE_CORRUPT for one that is a link elsewhere. */
export async function cachedSnapshot(place: RepoPlace, commit: string): Promise<string | undefined> {
  const snapshot = place.snapshot(commit)
  if (!(await isFolder(snapshot))) return undefined
  const real = await realpath(snapshot)
  if (real === join(await realpath(place.folder), "snapshots", commit)) return real
  return corrupt(place.repo, snapshot, "is a link to another folder")
}

/** What is said of a repo that the cache has not, or not at this revision. */
export async function notCached({ repo, folder }: RepoPlace, revision: string): Promise<string> {
  const others = await readdir(join(folder, "snapshots")).catch(() => [])
  const there = others.length ? `; of this repo it holds the commits ${listed(others, 3)}` : ""
  return `${repo} at revision ${revision} is neither a model's folder here nor in the Hub cache (looked for ${folder})${there}`
}

export const corrupt = (repo: string, path: string, what: string): never =>
  fail("E_CACHE_CORRUPT", `${path}: ${what}; repair it with "vit-prisma cache heal ${repo}"`, { file: path, repo })

const SNAPSHOT = /^(.*[\\/]models--[^\\/]+)[\\/]snapshots[\\/].+$/

/**
 * The path of a file in a folder, given as a real path. A file of a snapshot lies in it, in its repo's blobs, or in the
 * blobs that repos share. Error: E_CACHE_CORRUPT where it does not.
 */
export async function fileIn(folder: string, name: string): Promise<string> {
  const path = join(folder, name)
  const home = SNAPSHOT.exec(folder)?.[1]
  if (home === undefined) return path
  const repo = home.replace(/^.*[\\/]models--/, "").replace("--", "/")
  const real = await realpath(path).catch(() => corrupt(repo, path, "points to a blob that is not there"))
  const homes = [folder, ...(await blobFolders(home))]
  return homes.some((at) => isWithin(at, real)) ? path : corrupt(repo, path, "points outside the cache's blobs")
}

export const isFolder = (path: string): Promise<boolean> =>
  stat(path).then(
    (s) => s.isDirectory(),
    () => false,
  )

export const isFile = (path: string): Promise<boolean> =>
  stat(path).then(
    (s) => s.isFile(),
    () => false,
  )
