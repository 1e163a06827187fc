/** @file What processes that are no more left in a repo's cache is taken away before work begins, but for downloads that can
 * still be gone on with. */
import { readdir, readFile, stat } from "node:fs/promises"
import { dirname, join } from "node:path"
import { leftovers, removeWhole, sweep } from "../files/atomic.ts"
import { lockHolder } from "../files/lock-file.ts"
import { isFile, type RepoPlace } from "./cache.ts"

/** Milliseconds that a part of a blob is kept for the blob to be asked for again. */
const KEPT = 7 * 24 * 3600 * 1000

/** Best effort: where nothing can be taken away, what is there does no harm. */
export async function sweepRepo(place: RepoPlace, commit: string): Promise<void> {
  const locks = dirname(place.lock(""))
  for (const folder of [place.snapshot(commit), locks]) await sweep(folder).catch(() => {})
  for (const name of await readdir(locks).catch(() => [])) {
    const path = join(locks, name)
    const text = name.endsWith(".pid") ? await readFile(path, "utf8").catch(() => "") : ""
    if (lockHolder(text)?.dead) await removeWhole(path).catch(() => {})
  }
  for (const { path, target, dead } of await leftovers(join(place.folder, "blobs")).catch(() => [])) {
    if (dead && ((await isFile(target)) || (await isOld(path)))) await removeWhole(path).catch(() => {})
  }
}

const isOld = (path: string): Promise<boolean> =>
  stat(path).then(
    (s) => Date.now() - s.mtimeMs > KEPT,
    () => false,
  )
