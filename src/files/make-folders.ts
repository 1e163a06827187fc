/** @file Folders made with those above them. Node's own (`recursive`) never ends where a folder can hold no other, as in /proc. */
import { mkdir, stat } from "node:fs/promises"
import { dirname } from "node:path"
import { systemCode } from "./system-errors.ts"

/** Make a folder and those above it; several processes may make the same ones at once. Errors: the system's. */
export async function makeFolders(path: string): Promise<void> {
  const above = dirname(path)
  const error = await make(path)
  if (error === undefined) return
  // One retry, whoever made what is above: in /proc it fails again, and that ends it.
  if (systemCode(error) !== "ENOENT" || above === path) throw error
  await makeFolders(above)
  const again = await make(path)
  if (again !== undefined) throw again
}

/** The system's error, if it is not that the folder is there; of the root, systems say different things. */
const make = (path: string): Promise<unknown> =>
  mkdir(path).then(
    () => undefined,
    async (error: unknown) => {
      const there = systemCode(error) === "EEXIST" || dirname(path) === path
      return there && (await isFolder(path)) ? undefined : error
    },
  )

const isFolder = (path: string): Promise<boolean> =>
  stat(path).then(
    (s) => s.isDirectory(),
    () => false,
  )
