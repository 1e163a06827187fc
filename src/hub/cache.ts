/** @file The standard Hub cache, as huggingface_hub lays it out: models--ns--name/{refs,blobs,snapshots}. */
import { readFile, stat } from "node:fs/promises"
import { join } from "node:path"
import { fail } from "../errors.ts"
import { repoFolderName, repoId } from "../files/paths.ts"

const COMMIT = /^[0-9a-f]{40}$/
// What git allows of a branch or tag, less what would leave the refs folder.
const REVISION = /^(?!.*(?:\.\.|\/\/|\.lock$|@\{))[\w./-]{1,255}$/

/** Where the cache lies: HF_HUB_CACHE, HUGGINGFACE_HUB_CACHE, HF_HOME/hub, XDG_CACHE_HOME/huggingface/hub, ~/.cache/... */
async function cacheFolder(): Promise<string> {
  const { getHFHubCachePath } = await import("@huggingface/hub")
  return getHFHubCachePath()
}

/**
 * The folder of a repo's snapshot that lies in the cache already. `revision` is a branch, tag or commit.
 * Errors: E_REPO_ID, E_REVISION, E_HUB_NOT_FOUND naming the folder that was looked for.
 */
export async function cachedSnapshot(id: string, revision = "main", cache?: string): Promise<string> {
  const repo = repoId(id)
  if (!REVISION.test(revision)) fail("E_REVISION", `"${revision}" is not a branch, tag or commit`, { repo })
  const folder = join(cache ?? (await cacheFolder()), repoFolderName(repo))
  const commit = COMMIT.test(revision) ? revision : await commitOf(folder, revision)
  const snapshot = commit && join(folder, "snapshots", commit)
  if (snapshot && (await isFolder(snapshot))) return snapshot
  return fail(
    "E_HUB_NOT_FOUND",
    `${repo} at revision ${revision} is neither a folder here nor in the Hub cache (looked for ${folder}); fetch it first, for example with "hf download ${repo}"`,
    { repo },
  )
}

async function commitOf(folder: string, revision: string): Promise<string | undefined> {
  const text = await readFile(join(folder, "refs", revision), "utf8").catch(() => undefined)
  const commit = text?.trim()
  if (commit === undefined || COMMIT.test(commit)) return commit
  return fail(
    "E_CACHE_CORRUPT",
    `${join(folder, "refs", revision)} holds no commit; remove it and fetch the repo again`,
  )
}

export const isFolder = (path: string): Promise<boolean> =>
  stat(path).then(
    (s) => s.isDirectory(),
    () => false,
  )
