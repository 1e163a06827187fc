/** @file Where the files of a Hub cache's snapshot may really lie: in its repo's blobs, or in those that repos share. */
import { realpath, stat } from "node:fs/promises"
import { dirname, join } from "node:path"

/** huggingface_hub marks so that it keeps equal files of several repos once, and makes links of a repo's blobs to them. */
const SHARED = ".huggingface-shared-blobs"

/** The real paths of those folders that exist, of the folder models--ns--name. */
export async function blobFolders(repoFolder: string): Promise<readonly string[]> {
  const shared = join(dirname(repoFolder), "blobs")
  const isShared = await stat(join(shared, SHARED)).then(
    (s) => s.isFile(),
    () => false,
  )
  const folders = [join(repoFolder, "blobs"), ...(isShared ? [shared] : [])]
  const real = await Promise.all(folders.map((at) => realpath(at).catch(() => undefined)))
  return real.filter((at) => at !== undefined)
}
