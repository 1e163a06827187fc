/** @file What the datasets on disk share: listing folders in byte order, reading small files, hashing. */
import { createHash } from "node:crypto"
import { readdir } from "node:fs/promises"
import { join } from "node:path"
import { fail } from "../errors.ts"
import { piecesOf, readFully, withFile } from "../files/read.ts"
import { readError } from "../files/system-errors.ts"

/** Up to here the bytes of all files are hashed (1 GiB takes about 1 s), beyond it their names and sizes alone. */
const HASHED = 2 ** 30

/** Names by their UTF-8 bytes, as `LC_ALL=C ls` gives them; JavaScript's own order differs beyond U+FFFF. */
export const byBytes = (a: string, b: string): number => Buffer.compare(Buffer.from(a), Buffer.from(b))

/** The names in `folder` that are not hidden, in byte order. Errors: E_NOT_A_FILE, E_IO. */
export async function namesIn(folder: string): Promise<string[]> {
  const names = await readdir(folder).catch((error: unknown) => readError(error, folder))
  return names.filter((name) => !name.startsWith(".")).sort(byBytes)
}

/** All bytes of a file of at most `limit`. Errors: E_NOT_A_FILE, E_IO, E_CHANGED_DURING_READ; E_MEMORY_BUDGET. */
export const readWhole = (file: string, limit = 2 ** 30): Promise<Uint8Array> =>
  withFile(file, async (handle, size) => {
    if (size > limit) fail("E_MEMORY_BUDGET", `${file}: has ${size} bytes, at most ${limit} are read`, { file })
    const bytes = new Uint8Array(size)
    if ((await readFully(handle, file, bytes, 0)) === size) return bytes
    return fail("E_CHANGED_DURING_READ", `${file}: became shorter while it was read; try again`, { file })
  })

/** Hexadecimal sha256 over `parts`, each with its length before it. */
export function sha256(...parts: readonly (string | Uint8Array)[]): string {
  const hash = createHash("sha256")
  for (const part of parts) hash.update(`${Buffer.byteLength(part)}:`).update(part)
  return hash.digest("hex")
}

/**
 * sha256 over `kind`, and of each file (a path below `root`) its name, size and, where all together have at most 1 GiB,
 * bytes. Errors: E_NOT_A_FILE, E_IO.
 */
export async function filesFingerprint(
  kind: string,
  root: string,
  files: readonly { readonly name: string; readonly size: number }[],
): Promise<string> {
  const hash = createHash("sha256").update(`${kind}\n`)
  const whole = files.reduce((sum, { size }) => sum + size, 0) <= HASHED
  for (const { name, size } of files) {
    hash.update(`${Buffer.byteLength(name)}:${name}:${size}\n`)
    if (!whole) continue
    await withFile(join(root, name), async (handle, bytes) => {
      for await (const piece of piecesOf(handle, name, bytes)) hash.update(piece)
    })
  }
  return hash.digest("hex")
}
