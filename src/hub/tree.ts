/** @file trees/<commit>.json: the files at a commit with their sizes and hashes, in huggingface_hub's own form; a commit never
 * changes, so that what was listed once is known offline too. */
import { writeFileAtomic } from "../files/atomic.ts"
import { readJson } from "../files/json.ts"
import { fieldsOf } from "../tensor/record.ts"
import type { RepoPlace } from "./cache.ts"
import { isContentHash } from "./hash.ts"
import type { RepoFile } from "./listing.ts"

const RULES = { limit: 64 * 2 ** 20, malformed: "E_CACHE_CORRUPT", tooLarge: "E_CACHE_CORRUPT" } as const
const VERSION = 1

export async function writeTree(place: RepoPlace, commit: string, files: readonly RepoFile[]): Promise<void> {
  const entries = [...files]
    .sort((a, b) => (a.path < b.path ? -1 : 1))
    .map(({ path, size, etag, blobId, xetHash }) => {
      const large = etag === blobId ? {} : { lfs_sha256: etag, lfs_size: size }
      const xet = xetHash !== undefined && /^[0-9a-f]{64}$/.test(xetHash) ? { xet_hash: xetHash } : {}
      return [path, { size, blob_id: blobId, ...large, ...xet }]
    })
  const text = JSON.stringify({ format_version: VERSION, files: Object.fromEntries(entries) }, undefined, 1)
  await writeFileAtomic(place.tree(commit), text)
}

/** The files of a commit by their paths; undefined where they are not known, or what is kept of them is of no use. */
export async function readTree(place: RepoPlace, commit: string): Promise<ReadonlyMap<string, RepoFile> | undefined> {
  const json = await readJson(place.tree(commit), RULES).catch(() => undefined)
  const { format_version: version, files } = (json ?? {}) as { format_version?: unknown; files?: unknown }
  if (version !== VERSION || typeof files !== "object" || files === null) return undefined
  const known = new Map<string, RepoFile>()
  for (const [path, entry] of Object.entries(files)) {
    const { size, blob_id: blobId, lfs_sha256: large, lfs_size: bytes } = fieldsOf(entry)
    const [etag, length] = typeof large === "string" ? [large, bytes ?? size] : [blobId, size]
    if (typeof etag !== "string" || !isContentHash(etag) || typeof length !== "number") return undefined
    known.set(path, { path, size: length, etag, blobId: String(blobId) })
  }
  return known
}
