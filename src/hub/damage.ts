/** @file What is wrong with a Hub cache: blobs that are not what their names say, links and refs that lead astray, and what dead
 * processes left behind. Nothing is changed here. */
import { lstat, readdir, readFile, readlink, realpath, stat } from "node:fs/promises"
import { basename, dirname, join, resolve } from "node:path"
import { leftovers } from "../files/atomic.ts"
import { blobFolders } from "../files/blob-folders.ts"
import { LOCK_TIMES, lockHolder } from "../files/lock-file.ts"
import { isWithin } from "../files/paths.ts"
import { isCommit, isFile, isFolder, repoPlace, type RepoPlace } from "./cache.ts"
import { holds, isContentHash } from "./hash.ts"
import type { RepoFile } from "./listing.ts"
import { readTree } from "./tree.ts"

/** What would repair it: to fetch a file of a commit again, or to take something away. */
export type Repair =
  | { readonly by: "fetch"; readonly commit: string; readonly name: string }
  | { readonly by: "removal" }

export interface Damage {
  readonly repo: string
  /** What is damaged. */
  readonly path: string
  readonly what: string
  readonly repair: Repair
}

export interface Checked {
  readonly repo: string
  /** Blobs whose content was read, and their bytes. */
  readonly blobs: number
  readonly bytes: number
  readonly damages: readonly Damage[]
}

/** Milliseconds after which a huggingface_hub download that has not ended counts as left. */
const LEFT_AFTER = 24 * 3600 * 1000

/** The repos that a cache has. */
export async function cachedRepos(cache: string): Promise<readonly RepoPlace[]> {
  const names: string[] = await readdir(cache).catch(() => [])
  return names.sort().flatMap((name) => {
    const id = /^models--(.+)$/.exec(name)?.[1]?.replace("--", "/")
    try {
      return id === undefined ? [] : [repoPlace(cache, id)]
    } catch {
      return [] // a folder that no repo can have
    }
  })
}

interface Pointer {
  readonly commit: string
  readonly name: string
  readonly path: string
}

/** Check one repo; `content`: read every blob, which takes a second for each GB. */
export async function findDamage(place: RepoPlace, { content = true } = {}): Promise<Checked> {
  const { repo, folder } = place
  const damages: Damage[] = []
  const add = (path: string, what: string, repair: Repair) => void damages.push({ repo, path, what, repair })
  const pointers: Pointer[] = []
  const trees = new Map<string, ReadonlyMap<string, RepoFile>>()
  for (const commit of await readdir(join(folder, "snapshots")).catch(() => [])) {
    const at = place.snapshot(commit)
    if ((await lstat(at)).isSymbolicLink()) add(at, "is a link in place of a snapshot", { by: "removal" })
    else if (isCommit(commit)) for (const name of await namesIn(at)) pointers.push({ commit, name, path: join(at, ...name.split("/")) }) // prettier-ignore
    await leftIn(at, add)
    const tree = await readTree(place, commit)
    if (tree) trees.set(commit, tree)
    else if (await isFile(place.tree(commit))) add(place.tree(commit), "cannot be read", { by: "removal" })
  }
  const bad = await badBlobs(place, content, trees)
  for (const [commit, tree] of trees) {
    const wrong = [...tree.values()].find(({ etag, size }) => (bad.proven.get(etag) ?? size) !== size)
    if (wrong) add(place.tree(commit), `lists another size of ${wrong.path} than it has`, { by: "removal" })
  }
  const repairOf = new Map<string, Repair>()
  for (const pointer of pointers) {
    const what = await wrongPointer(place, pointer, trees.get(pointer.commit), bad.damaged)
    if (what === undefined) continue
    const { commit, name, path } = pointer
    const known = trees.get(commit)
    const repair: Repair = known && !known.has(name) ? { by: "removal" } : { by: "fetch", commit, name }
    if (what.blob === undefined) add(path, what.text, repair)
    else repairOf.set(what.blob, repair)
  }
  for (const [path, what] of bad.damaged) add(path, what, repairOf.get(path) ?? { by: "removal" })
  await wrongRefs(place, add)
  await leftIn(join(folder, "blobs"), add)
  await oldPartials(join(folder, "blobs"), add)
  await staleLocks(place, add)
  return { repo, blobs: bad.checked, bytes: bad.bytes, damages }
}

type Add = (path: string, what: string, repair: Repair) => void

/** Paths of a snapshot's files, with "/" between segments; leftovers apart. */
async function namesIn(folder: string, above = ""): Promise<string[]> {
  const names: string[] = []
  for (const entry of await readdir(folder, { withFileTypes: true })) {
    const name = above + entry.name
    if (entry.isDirectory()) names.push(...(await namesIn(join(folder, entry.name), `${name}/`)))
    else if (!/^\..+\.tmp-\d+-[0-9a-z]+$/s.test(entry.name)) names.push(name)
  }
  return names.sort()
}

/** Blobs that are not what they are called, each with what is wrong. */
async function badBlobs(place: RepoPlace, content: boolean, trees: ReadonlyMap<string, ReadonlyMap<string, RepoFile>>) {
  const sizes = new Map<string, number>()
  for (const tree of trees.values()) for (const { etag, size } of tree.values()) sizes.set(etag, size)
  const damaged = new Map<string, string>()
  const proven = new Map<string, number>()
  let [checked, bytes] = [0, 0]
  const names: string[] = await readdir(join(place.folder, "blobs")).catch(() => [])
  for (const name of names.sort()) {
    if (!isContentHash(name)) continue
    const path = place.blob(name)
    const found = await stat(path).catch(() => undefined)
    const size = sizes.get(name)
    if (!found) damaged.set(path, "is a link to nothing")
    else if (!found.isFile()) damaged.set(path, "is not a file")
    else if (size !== undefined && found.size !== size) {
      // A blob that is what it is called proves the list wrong.
      if (await holds(path, name)) proven.set(name, found.size)
      else damaged.set(path, `has ${found.size} bytes, the Hub listed ${size}`)
    } else if (content) {
      checked++
      bytes += found.size
      if (!(await holds(path, name))) damaged.set(path, "holds other bytes than its name says")
    }
  }
  return { damaged, proven, checked, bytes }
}

/** What is wrong with a file of a snapshot; `blob` where it is right and the blob it leads to is not. */
async function wrongPointer(
  place: RepoPlace,
  { name, path }: Pointer,
  tree: ReadonlyMap<string, RepoFile> | undefined,
  damaged: ReadonlyMap<string, string>,
): Promise<{ readonly text: string; readonly blob?: string } | undefined> {
  const listed = tree?.get(name)
  const isLink = (await lstat(path)).isSymbolicLink()
  if (!isLink) {
    if (!listed || (await holds(path, listed.etag))) return undefined
    return { text: "is a copy with other bytes than the Hub listed" }
  }
  const direct = resolve(dirname(path), await readlink(path))
  if (damaged.has(direct)) return { text: "leads to a damaged blob", blob: direct }
  const real = await realpath(path).catch(() => undefined)
  if (real === undefined) return { text: "leads to a blob that is not there" }
  const homes = await blobFolders(place.folder)
  if (!homes.some((home) => isWithin(home, real))) return { text: "leads outside the cache's blobs" }
  if (listed && basename(direct) !== listed.etag) return { text: "leads to another file's blob" }
  return undefined
}

async function wrongRefs(place: RepoPlace, add: Add): Promise<void> {
  const refs = join(place.folder, "refs")
  for (const entry of await readdir(refs, { recursive: true, withFileTypes: true }).catch(() => [])) {
    const path = join(entry.parentPath, entry.name)
    if (entry.isDirectory()) await leftIn(path, add)
    if (!entry.isFile() || /^\..+\.tmp-\d+-/.test(entry.name)) continue
    const text = (await stat(path)).size > 100 ? "" : (await readFile(path, "utf8")).trim()
    if (!isCommit(text)) add(path, "holds no commit", { by: "removal" })
    else if (!(await isFolder(place.snapshot(text)))) {
      // huggingface_hub writes the ref first, and one of a file that is not there alone.
      const noted = await isFolder(join(place.folder, ".no_exist", text))
      if (!noted) add(path, `names the commit ${text}, of which there is no snapshot`, { by: "removal" })
    }
  }
  await leftIn(refs, add)
}

/** What processes that are no more left in a folder. */
async function leftIn(folder: string, add: Add): Promise<void> {
  for (const { path, dead } of await leftovers(folder).catch(() => [])) {
    if (dead) add(path, "was left by a process that is no more", { by: "removal" })
  }
}

/** huggingface_hub's own unfinished downloads, which it never takes up again. */
async function oldPartials(blobs: string, add: Add): Promise<void> {
  for (const name of await readdir(blobs).catch(() => [])) {
    if (!name.endsWith(".incomplete")) continue
    const found = await stat(join(blobs, name)).catch(() => undefined)
    if (found && Date.now() - found.mtimeMs > LEFT_AFTER)
      add(join(blobs, name), "is a download that has not gone on for a day", { by: "removal" })
  }
}

async function staleLocks(place: RepoPlace, add: Add): Promise<void> {
  const folder = dirname(place.lock("x"))
  for (const name of await readdir(folder).catch(() => [])) {
    if (!name.endsWith(".pid")) continue
    const path = join(folder, name)
    const text = await readFile(path, "utf8").catch(() => undefined)
    const found = await stat(path).catch(() => undefined)
    if (text === undefined || !found) continue
    const silent = Date.now() - found.mtimeMs > 2 * LOCK_TIMES.stale
    const holder = lockHolder(text)
    if (holder?.dead || silent)
      add(path, `is a lock of process ${holder?.pid ?? "?"}, which is no more`, { by: "removal" })
  }
  await leftIn(folder, add)
}
