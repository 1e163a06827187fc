/** @file The hashes that name blobs: sha256 of large files, git's sha1 of a blob (https://git-scm.com/book/en/v2/Git-Internals-Git-Objects). */
import { createHash } from "node:crypto"
import { piecesOf, withFile } from "../files/read.ts"

export interface BlobHash {
  update(bytes: Uint8Array): void
  hex(): string
}

const ETAG = /^(?:[0-9a-f]{64}|[0-9a-f]{40})$/

/** Whether an ETag is a hash of the content, which it must be for what it names to be checked. */
export const isContentHash = (etag: string): boolean => ETAG.test(etag)

/** The hash that an ETag of this length is, of a file of `size` bytes. */
export function blobHash(etag: string, size: number): BlobHash {
  const isGit = etag.length === 40
  const hash = createHash(isGit ? "sha1" : "sha256")
  if (isGit) hash.update(`blob ${size}\0`)
  return { update: (bytes) => void hash.update(bytes), hex: () => hash.digest("hex") }
}

/** Whether the file holds what its name says. Errors: E_NOT_A_FILE, E_IO. */
export function holds(path: string, etag: string): Promise<boolean> {
  return withFile(path, async (file, size) => {
    const hash = blobHash(etag, size)
    for await (const piece of piecesOf(file, path, size)) hash.update(piece)
    return hash.hex() === etag
  })
}
