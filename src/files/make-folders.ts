/** @file Folders and those above them. */
import { mkdir, stat } from "node:fs/promises"
import { dirname } from "node:path"
import { fail } from "../errors.ts"
import { systemCode } from "./system-errors.ts"

/**
 * Make a folder and those above it; one that is there is none to make. Node's recursive mkdir does not end where the
 * system knows no new ones, as below /proc. Errors: the system's; E_OUTPUT where there can be none.
 */
export async function makeFolders(path: string): Promise<void> {
  if (await isMade(path)) return
  await makeFolders(dirname(path))
  if (!(await isMade(path)))
    fail("E_OUTPUT", `${path}: no folder can be made there; choose another place`, { file: path })
}

/** False where what should be above it does not exist. */
async function isMade(path: string): Promise<boolean> {
  try {
    await mkdir(path)
  } catch (error) {
    const code = systemCode(error)
    if (code === "ENOENT") return false
    const isThere = (code === "EEXIST" || code === "EISDIR") && (await stat(path).catch(() => undefined))?.isDirectory()
    if (!isThere) throw error
  }
  return true
}
