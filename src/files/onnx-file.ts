/** @file A foreign ONNX model and the files it points to, checked before onnxruntime opens them. */
import { realpath } from "node:fs/promises"
import { dirname, join, sep } from "node:path"
import { fail } from "../errors.ts"
import { checkExternal, type ExternalRange, refuse } from "../onnx/external.ts"
import { checkNames } from "../onnx/names.ts"
import { quote } from "../tensor/quote.ts"
import { readFully, withFile } from "./read.ts"
import { readError } from "./system-errors.ts"

const MAX_MODEL = 2 ** 31 - 1 // bytes; protobuf's own limit for one message

/** A range of a file that was found: its real path. */
export interface ExternalFile extends ExternalRange {
  readonly file: string
}

/** The external tensors of the model `path`, once all of them are known to lie inside existing files of its folder, links
 * followed. In the Hub's cache, where model and data are links, that is the folder the model's link leads to.
 * Throws E_ONNX_FORMAT, E_ONNX_EXTERNAL, E_NAME_COLLISION, E_NOT_A_FILE, E_IO. */
export async function checkOnnxFile(path: string): Promise<ExternalFile[]> {
  const bytes = await withFile(path, async (handle, size) => {
    if (size > MAX_MODEL) {
      fail("E_ONNX_FORMAT", `${path}: has ${size} bytes, an ONNX model at most ${MAX_MODEL}`, { file: path })
    }
    const bytes = new Uint8Array(size)
    return bytes.subarray(0, await readFully(handle, path, bytes, 0))
  })
  const ranges = checkExternal(bytes, path)
  checkNames(bytes, path)
  const folders = await Promise.all([real(dirname(path)), real(path).then(dirname)])
  const sizes = new Map<string, { file: string; size: number }>()
  const files: ExternalFile[] = []
  for (const range of ranges) {
    const found = sizes.get(range.location) ?? (await resolve(path, folders, range))
    sizes.set(range.location, found)
    const end = range.offset + (range.length ?? 0)
    if (end > found.size)
      refuse(path, range, `ends at byte ${end} of ${quote(range.location)}, which has ${found.size}`)
    files.push({ ...range, file: found.file })
  }
  return files
}

const real = (path: string): Promise<string> => realpath(path).catch((error: unknown) => readError(error, path))

async function resolve(
  path: string,
  folders: readonly string[],
  range: ExternalRange,
): Promise<{ file: string; size: number }> {
  const file = await real(join(dirname(path), range.location))
  if (!folders.some((folder) => file.startsWith(folder.endsWith(sep) ? folder : folder + sep))) {
    refuse(path, range, `is in ${quote(range.location)}, a link that leaves the folder of the model`)
  }
  return { file, size: await withFile(file, (_, size) => Promise.resolve(size)) }
}
