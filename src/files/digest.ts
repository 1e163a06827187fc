/** @file sha256 of files. One that this process has written or hashed is not read again as long as nothing touched it. */
import { createHash } from "node:crypto"
import type { BigIntStats } from "node:fs"
import { stat } from "node:fs/promises"
import { piecesOf, withFile } from "./read.ts"

export interface Digest {
  readonly bytes: number
  /** Hexadecimal. */
  readonly sha256: string
}

/** By inode. */
const known = new Map<string, { readonly stats: BigIntStats; readonly digest: Digest }>()

const inode = ({ dev, ino }: BigIntStats): string => `${dev}:${ino}`
const sameContent = (a: BigIntStats, b: BigIntStats): boolean => a.size === b.size && a.mtimeNs === b.mtimeNs

/** Of an ordinary file. Errors: E_NOT_A_FILE, E_IO. */
export function digestOf(path: string): Promise<Digest> {
  return withFile(path, async (file, size) => {
    const stats = await file.stat({ bigint: true })
    const before = known.get(inode(stats))
    // The time of its last change cannot be set back, as that of its last writing can.
    if (before && sameContent(before.stats, stats) && before.stats.ctimeNs === stats.ctimeNs) return before.digest
    const hash = createHash("sha256")
    let bytes = 0
    for await (const piece of piecesOf(file, path, size)) {
      hash.update(piece)
      bytes += piece.length
    }
    const digest = { bytes, sha256: hash.digest("hex") }
    if (sameContent(stats, await file.stat({ bigint: true }))) known.set(inode(stats), { stats, digest })
    return digest
  })
}

/** A file was written whole, when it was as `made`, and moved to `path`: if it is what is there now, this is its digest. */
export async function remember(path: string, made: BigIntStats, digest: Digest): Promise<void> {
  const stats = await stat(path, { bigint: true }).catch(() => undefined)
  if (stats && inode(stats) === inode(made) && sameContent(stats, made)) known.set(inode(stats), { stats, digest })
}
