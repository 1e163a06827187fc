/** @file Folders made with those above them. Node's own (`recursive`) never ends where a folder can hold no other, as in /proc. */
import { mkdir, stat } from "node:fs/promises"
import { dirname } from "node:path"
import { systemCode } from "./system-errors.ts"

/** Make a folder and those above it. Errors: the system's. */
export async function makeFolders(path: string): Promise<void> {
  try {
    await mkdir(path)
  } catch (error) {
    const above = dirname(path)
    if (systemCode(error) === "ENOENT" && above !== path && !(await isFolder(above))) {
      await makeFolders(above)
      return makeFolders(path)
    }
    // Of the root, systems say different things.
    if ((systemCode(error) !== "EEXIST" && above !== path) || !(await isFolder(path))) throw error
  }
}

const isFolder = (path: string): Promise<boolean> =>
  stat(path).then(
    (s) => s.isDirectory(),
    () => false,
  )
