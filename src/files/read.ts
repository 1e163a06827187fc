/** @file Reading ordinary files and nothing else: no folders, pipes or devices. */
import { constants } from "node:fs"
import { type FileHandle, open } from "node:fs/promises"
import { fail } from "../errors.ts"
import { readError } from "./system-errors.ts"

/** Bytes in one read call; Node refuses 2 GiB and more. */
const PIECE = 1 << 26

/** Call `work` with the open file and its size in bytes. Errors: E_NOT_A_FILE, E_IO, and those of `work`. */
export async function withFile<T>(path: string, work: (file: FileHandle, size: number) => Promise<T>): Promise<T> {
  // Without O_NONBLOCK (absent on Windows) opening a pipe would wait for its writer.
  const flags = constants.O_RDONLY | (constants.O_NONBLOCK ?? 0)
  const file = await open(path, flags).catch((e: unknown) => readError(e, path))
  try {
    const stats = await file.stat().catch((e: unknown) => readError(e, path))
    if (!stats.isFile()) {
      const kind = stats.isDirectory() ? "a folder" : "a pipe or device"
      fail("E_NOT_A_FILE", `${path}: is ${kind}, not an ordinary file; give the file itself`, { file: path })
    }
    return await work(file, stats.size)
  } finally {
    await file.close()
  }
}

/** Bytes that are held while a file is gone through. */
const HELD = 1 << 22

/** The first `size` bytes of a file, or all it has, piece after piece in the same memory. Errors: E_IO. */
export async function* piecesOf(file: FileHandle, path: string, size: number): AsyncGenerator<Uint8Array> {
  const piece = new Uint8Array(Math.min(HELD, size))
  for (let at = 0; at < size;) {
    const n = await readFully(file, path, piece.subarray(0, Math.min(piece.length, size - at)), at)
    if (!n) return
    yield piece.subarray(0, n)
    at += n
  }
}

/** Fill `bytes` from `position` of `path` on; the number read is smaller where the file ends before. Errors: E_IO. */
export async function readFully(file: FileHandle, path: string, bytes: Uint8Array, position: number): Promise<number> {
  let at = 0
  while (at < bytes.length) {
    const wanted = Math.min(PIECE, bytes.length - at)
    const { bytesRead } = await file.read(bytes, at, wanted, position + at).catch((e: unknown) => readError(e, path))
    if (bytesRead === 0) break
    at += bytesRead
  }
  return at
}
