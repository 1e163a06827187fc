/** @file What a Hub cache has: repos, their revisions, bytes on the disk. */
import { lstat, readdir } from "node:fs/promises"
import { join } from "node:path"
import { cachedCommit, isCommit, type RepoPlace } from "./cache.ts"
import { cachedRepos } from "./damage.ts"

export interface CachedRepo {
  readonly repo: string
  readonly folder: string
  /** Bytes of its blobs, each once. */
  readonly bytes: number
  readonly commits: readonly { readonly commit: string; readonly refs: readonly string[]; readonly files: number }[]
}

/** All model repos in a cache, by name. */
export async function inventory(cache: string): Promise<readonly CachedRepo[]> {
  return Promise.all((await cachedRepos(cache)).map(inventoryOf))
}

async function inventoryOf(place: RepoPlace): Promise<CachedRepo> {
  const { repo, folder } = place
  const refs = await refsOf(place)
  const commits = (await readdir(join(folder, "snapshots")).catch(() => [])).filter(isCommit).sort()
  return {
    repo,
    folder,
    bytes: await bytesIn(join(folder, "blobs")),
    commits: await Promise.all(
      commits.map(async (commit) => ({
        commit,
        refs: refs.filter(([, of]) => of === commit).map(([name]) => name),
        files: (await entriesIn(place.snapshot(commit))).length,
      })),
    ),
  }
}

const entriesIn = async (folder: string) => {
  const entries = await readdir(folder, { recursive: true, withFileTypes: true }).catch(() => [])
  return entries.filter((entry) => !entry.isDirectory()).map((entry) => join(entry.parentPath, entry.name))
}

async function bytesIn(folder: string): Promise<number> {
  const sizes = await Promise.all((await entriesIn(folder)).map((path) => lstat(path).then((s) => s.size, () => 0))) // prettier-ignore
  return sizes.reduce((a, b) => a + b, 0)
}

async function refsOf(place: RepoPlace): Promise<readonly (readonly [name: string, commit: string | undefined])[]> {
  const refs = join(place.folder, "refs")
  const names = (await entriesIn(refs)).map((path) => path.slice(refs.length + 1).replaceAll("\\", "/"))
  return Promise.all(names.map(async (name) => [name, await cachedCommit(place, name).catch(() => undefined)] as const))
}
