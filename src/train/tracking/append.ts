/** @file Files that only grow: bytes are kept in order, written in the background, and are on the disk after `flush`. */
import { type FileHandle, open } from "node:fs/promises"
import { writeAll } from "../../files/output.ts"
import { writeError } from "../../files/system-errors.ts"

export interface Appender {
  /** Takes microseconds; what an earlier write met is thrown here: E_DISK_FULL, E_IO, E_OUTPUT. */
  append(bytes: Uint8Array): void
  /** All that was appended is on the disk. Errors as of `append`. */
  flush(): Promise<void>
  close(): Promise<void>
}

/** Open `path` to write at its end; it is made if absent, and must be absent if `fresh`. Errors: E_OUTPUT, E_DISK_FULL, E_IO. */
export async function openAppender(path: string, { fresh = false } = {}): Promise<Appender> {
  const file = await open(path, fresh ? "ax" : "a").catch((e: unknown) => writeError(e, path))
  return appender(file, path)
}

function appender(file: FileHandle, path: string): Appender {
  let waiting: Uint8Array[] = []
  let failure: { readonly error: unknown } | undefined
  let writing: Promise<void> | undefined

  const drain = async () => {
    // One write for all that came meanwhile, begun after the caller has gone on.
    await Promise.resolve()
    while (waiting.length) {
      const bytes = Buffer.concat(waiting)
      waiting = []
      await writeAll(file, bytes).catch((error: unknown) => void (failure ??= { error }))
    }
    writing = undefined
  }
  const rethrow = () => {
    if (failure) writeError(failure.error, path)
  }
  const flush = async () => {
    // It goes on until nothing waits, so what was appended before now is in it.
    await writing
    rethrow()
    await file.sync().catch((e: unknown) => writeError(e, path))
  }
  return {
    append(bytes) {
      rethrow()
      waiting.push(bytes)
      writing ??= drain()
    },
    flush,
    async close() {
      try {
        await flush()
      } finally {
        await file.close()
      }
    },
  }
}
