/** @file Repair of a Hub cache: only what is damaged is replaced or taken away, and nothing is taken away that cannot be had again. */
import { join } from "node:path"
import { PrismaError } from "../errors.ts"
import { removeWhole } from "../files/atomic.ts"
import { writeLink } from "../files/links.ts"
import { isFile, type RepoPlace } from "./cache.ts"
import type { Damage } from "./damage.ts"
import { holds } from "./hash.ts"
import type { HubHttp } from "./http.ts"
import { filesAt, type RepoFile } from "./listing.ts"
import { transfer } from "./transfer.ts"
import { readTree, writeTree } from "./tree.ts"

export interface Healed {
  readonly damage: Damage
  /** Why it could not be repaired. */
  readonly error?: PrismaError
}

/** Repair what was found in one repo, as far as that can be; offline what must be fetched stays as it is. */
export async function heal(place: RepoPlace, http: HubHttp, damages: readonly Damage[]): Promise<readonly Healed[]> {
  const trees = new Map<string, Promise<ReadonlyMap<string, RepoFile>>>()
  const filesOf = (commit: string) => {
    const known = trees.get(commit) ?? listing(place, http, commit)
    trees.set(commit, known)
    return known
  }
  const healed: Healed[] = []
  // What only lies about goes first: it may be what keeps the rest from its place.
  const order = [...damages].sort((a, b) => Number(a.repair.by === "fetch") - Number(b.repair.by === "fetch"))
  for (const damage of order) {
    const { repair, path } = damage
    try {
      if (repair.by === "removal") await removeWhole(path)
      else await fetchAgain(place, http, repair.commit, repair.name, await filesOf(repair.commit), path)
      healed.push({ damage })
    } catch (error) {
      if (!(error instanceof PrismaError)) throw error
      healed.push({ damage, error })
    }
  }
  return healed
}

async function listing(place: RepoPlace, http: HubHttp, commit: string): Promise<ReadonlyMap<string, RepoFile>> {
  const known = await readTree(place, commit)
  // What is kept of it may be damaged too; where the Hub does not answer, it is believed.
  const files = await filesAt(http, place.repo, commit).catch((error: unknown) => {
    if (known === undefined) throw error
    return [...known.values()]
  })
  const listed = new Map(files.map((file) => [file.path, file]))
  const isSame = ([path, { etag, size }]: [string, RepoFile]) => {
    const is = known?.get(path)
    return is?.etag === etag && is.size === size
  }
  if (known?.size !== listed.size || ![...listed].every(isSame)) await writeTree(place, commit, files)
  return listed
}

/** A file of a commit in its place again. One that the commit does not have is taken away. */
async function fetchAgain(
  place: RepoPlace,
  http: HubHttp,
  commit: string,
  name: string,
  files: ReadonlyMap<string, RepoFile>,
  damaged: string,
): Promise<void> {
  const file = files.get(name)
  if (!file) return removeWhole(damaged)
  const target = place.blob(file.etag)
  const isWhole = (await isFile(target)) && (await holds(target, file.etag).catch(() => false))
  if (!isWhole) {
    // A folder at its name would stop the rename; a file is replaced in one step.
    if (damaged === target && !(await isFile(target))) await removeWhole(target)
    await transfer({ http, repo: place.repo, commit, file, target })
  }
  await writeLink(join(place.snapshot(commit), ...name.split("/")), target)
}
