/** @file Safetensors files on disk: the header is read when the file is opened, data when a tensor is asked for. */
import { type FileHandle, realpath } from "node:fs/promises"
import { fail } from "../errors.ts"
import { quote } from "../tensor/quote.ts"
import { dataOf, encodeHeader, type Metadata, type PiecedTensor } from "../tensor/safetensors.ts"
import { type Header, headerLength, parseHeader } from "../tensor/safetensors-header.ts"
import { byteLength, show, type StoredTensor, type Tensor, tensorOver } from "../tensor/tensor.ts"
import { writeFileAtomic } from "./atomic.ts"
import type { Output } from "./output.ts"
import { readFully, withFile } from "./read.ts"
import { readError } from "./system-errors.ts"

/** A file whose header was read and found whole. */
export interface SafetensorsFile extends Header {
  /** Absolute, without symbolic links: onnxruntime refuses weights behind a link that leaves the model's folder. */
  readonly path: string
  /** Where a tensor lies. Errors: E_UNSUPPORTED_DTYPE for formats without a dtype, E_MISSING_TENSORS. */
  readonly stored: (name: string) => StoredTensor
}

/** A stored tensor that knows which state of the file it belongs to; copies of it (views of its rows) know it too. */
interface Stamped extends StoredTensor {
  readonly stamp?: string
}

/** Read a file's header. Errors: E_NOT_A_FILE, E_IO, and those of the header (E_ST_*, E_NOT_SAFETENSORS, E_LFS_POINTER). */
export async function openSafetensors(path: string): Promise<SafetensorsFile> {
  const real = await realpath(path).catch((e: unknown) => readError(e, path))
  return withFile(real, async (file, size) => {
    const stamp = await stampOf(file, path)
    const first8 = new Uint8Array(8)
    const start = first8.subarray(0, await readFully(file, path, first8, 0))
    const length = headerLength(start, size, path)
    const json = new Uint8Array(length)
    if ((await readFully(file, path, json, 8)) < length || (await stampOf(file, path)) !== stamp) changed(path)
    const header = parseHeader(json, size - 8 - length, path)
    const stored = (name: string): Stamped => {
      const where = { file: path, tensor: name }
      const entry =
        header.entries.get(name) ?? fail("E_MISSING_TENSORS", `${path}: has no tensor ${quote(name)}`, where)
      const { rawDtype, dtype, shape, begin, end } = entry
      if (dtype === undefined) {
        const what = `is stored as ${rawDtype}, which cannot be computed with; use float32 or float16 weights`
        return fail("E_UNSUPPORTED_DTYPE", `${path}: tensor ${quote(name)} ${what}`, where)
      }
      return { dtype, shape, file: real, offset: 8 + length + begin, length: end - begin, stamp }
    }
    return { path: real, ...header, stored }
  })
}

/** Read a stored tensor, allocating no more than its bytes. Errors: E_CHANGED_DURING_READ if the file is not as it was when
 * opened, E_MEMORY_BUDGET, E_NOT_A_FILE, E_IO. */
export async function readTensor(stored: StoredTensor): Promise<Tensor> {
  const { dtype, shape, file: path, offset, length } = stored
  if (length !== byteLength(stored)) {
    const what = `${dtype} ${show(shape)} needs ${byteLength(stored)} bytes, ${length} are stored`
    fail("E_ST_SHAPE", `${path}: ${what}`, { file: path })
  }
  return unchanged(stored, async (file) => {
    const bytes = allocate(length, path)
    if ((await readFully(file, path, bytes, offset)) < length) changed(path)
    return tensorOver(dtype, shape, bytes)
  })
}

/** Write a file with tensors in memory and tensors that lie in other files, which are copied piece by piece. The same tensors
 * give the same bytes. Errors: those of writeFileAtomic and readTensor, E_INPUT for names a header cannot hold. */
export async function writeSafetensors(
  path: string,
  tensors: ReadonlyMap<string, Tensor | StoredTensor | PiecedTensor>,
  metadata?: Metadata,
): Promise<void> {
  const { head, names } = encodeHeader(tensors, metadata)
  await writeFileAtomic(path, async (out) => {
    await out.write(head)
    for (const name of names) {
      const t = tensors.get(name)!
      if ("file" in t) await copyStored(t, out)
      else for (const bytes of dataOf(name, t)) await out.write(bytes)
    }
  })
}

/** Bytes held while one file's tensor is copied to another. */
const COPY = 1 << 22

async function copyStored(stored: StoredTensor, out: Output): Promise<void> {
  const { file: path, offset, length } = stored
  await unchanged(stored, async (file) => {
    const piece = new Uint8Array(Math.min(COPY, length))
    for (let done = 0; done < length; done += piece.length) {
      const part = piece.subarray(0, Math.min(piece.length, length - done))
      if ((await readFully(file, path, part, offset + done)) < part.length) changed(path)
      await out.write(part)
    }
  })
}

/** `work` on the tensor's file, which must be in the state it was opened in, before and after. */
function unchanged<T>(stored: Stamped, work: (file: FileHandle) => Promise<T>): Promise<T> {
  return withFile(stored.file, async (file) => {
    const check = async () => {
      if (stored.stamp !== undefined && stored.stamp !== (await stampOf(file, stored.file))) changed(stored.file)
    }
    await check()
    const result = await work(file)
    await check()
    return result
  })
}

async function stampOf(file: FileHandle, path: string): Promise<string> {
  const { ino, size, mtimeNs } = await file.stat({ bigint: true }).catch((e: unknown) => readError(e, path))
  return `${ino}:${size}:${mtimeNs}`
}

const changed = (path: string): never =>
  fail("E_CHANGED_DURING_READ", `${path}: changed while it was read; wait until it is written, then open it again`, {
    file: path,
    retryable: true,
  })

function allocate(length: number, path: string): Uint8Array {
  try {
    return new Uint8Array(length)
  } catch {
    return fail("E_MEMORY_BUDGET", `${path}: no memory for a tensor of ${length} bytes`, { file: path })
  }
}
