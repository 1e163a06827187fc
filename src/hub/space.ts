/** @file Room on the disk. */
import { statfs } from "node:fs/promises"
import { dirname } from "node:path"
import { fail } from "../errors.ts"

/** Bytes that may be written below `folder`, which need not exist; undefined where the system does not say. */
export async function freeBytes(folder: string): Promise<number | undefined> {
  const found = await statfs(folder).catch(() => undefined)
  if (found) return found.bavail * found.bsize
  const above = dirname(folder)
  return above === folder ? undefined : freeBytes(above)
}

export const gigabytes = (n: number): string => (n < 1e9 ? `${(n / 1e6).toFixed(1)} MB` : `${(n / 1e9).toFixed(2)} GB`)

/** Error: E_DISK_FULL where `needed` bytes do not fit below `folder`. */
export async function checkSpace(folder: string, needed: number): Promise<void> {
  const free = await freeBytes(folder)
  if (free === undefined || needed <= free) return
  const what = `the download needs ${gigabytes(needed)}, the disk has ${gigabytes(free)}; free some space, or set HF_HOME to another disk`
  fail("E_DISK_FULL", `${folder}: ${what}`, { file: folder })
}
