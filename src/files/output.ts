/** @file A file in the making, whose digest comes of writing it. */
import { createHash } from "node:crypto"
import type { FileHandle } from "node:fs/promises"
import type { Digest } from "./digest.ts"

/** What a new file holds: its bytes, its text, or a function that writes them. */
export type Content = Uint8Array | string | ((file: Output) => Promise<void>)

/** A file in the making. */
export interface Output {
  /** After what was written before. */
  write(bytes: Uint8Array): Promise<void>
  /** Anywhere; of such a file the digest is not known before it is read. */
  writeAt(bytes: Uint8Array, position: number): Promise<void>
}

/** Bytes in one write call; Node refuses 2 GiB and more. */
const PIECE = 1 << 24

/** Write all of `bytes` at the file's position, or at the one given. */
export async function writeAll(file: FileHandle, bytes: Uint8Array, position?: number): Promise<void> {
  for (let at = 0; at < bytes.length;) {
    const where = position === undefined ? null : position + at
    at += (await file.write(bytes, at, Math.min(PIECE, bytes.length - at), where)).bytesWritten
  }
}

/** The digest of what is written comes of it: one thread hashes a piece while another writes it. */
export function hashing(file: FileHandle): Output & { digest(): Digest | undefined } {
  const hash = createHash("sha256")
  let [bytes, inOrder] = [0, true]
  return {
    async write(all) {
      for (let at = 0; at < all.length; at += PIECE) {
        const piece = all.subarray(at, at + PIECE)
        const written = writeAll(file, piece)
        hash.update(piece)
        await written
      }
      bytes += all.length
    },
    async writeAt(piece, position) {
      inOrder = false
      await writeAll(file, piece, position)
    },
    digest: () => (inOrder ? { bytes, sha256: hash.digest("hex") } : undefined),
  }
}

export async function writeContent(file: Output, content: Content): Promise<void> {
  if (typeof content === "function") await content(file)
  else await file.write(typeof content === "string" ? Buffer.from(content) : content)
}
