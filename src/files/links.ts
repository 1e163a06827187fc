/** @file Relative links, put in place at once; copies where a file system has no links. */
import { copyFile, link, rename, rm, symlink } from "node:fs/promises"
import { dirname, relative, resolve } from "node:path"
import { makeFolder, tempName } from "./atomic.ts"
import { writeError } from "./system-errors.ts"

/** Make `path` a relative link to the file `to`, whatever was at `path`; with `copy` another name of it or a copy.
 * Errors: E_OUTPUT, E_DISK_FULL, E_IO. */
export async function writeLink(path: string, to: string, { copy = false } = {}): Promise<void> {
  const target = resolve(path)
  await makeFolder(dirname(target))
  const temp = tempName(target)
  const asCopy = () => link(to, temp).catch(() => copyFile(to, temp))
  try {
    // Separators of other systems would make the link a name.
    const way = relative(dirname(target), resolve(to)).replaceAll("\\", "/")
    if (copy) await asCopy()
    else await symlink(way, temp).catch(asCopy)
    await rename(temp, target)
  } catch (error) {
    writeError(error, target)
  } finally {
    // Of two names of one file a rename leaves both.
    await rm(temp, { force: true }).catch(() => {})
  }
}
