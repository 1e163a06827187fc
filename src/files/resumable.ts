/** @file Files that grow over several processes: one that was interrupted leaves what it has, and the next goes on with it. */
import { open, rename, rm, stat } from "node:fs/promises"
import { dirname, resolve } from "node:path"
import { leftovers, makeFolder, syncFolder, tempName } from "./atomic.ts"
import { piecesOf } from "./read.ts"
import { writeError } from "./system-errors.ts"

/** A file in the making, under a temporary name beside its target. */
export interface Resumable {
  /** Bytes that are there. */
  readonly size: number
  append(bytes: Uint8Array): Promise<void>
  /** Forget all bytes. */
  restart(): Promise<void>
  /** Show all bytes, in order. */
  read(see: (bytes: Uint8Array) => void): Promise<void>
  /** Put it at its target, complete and synced. */
  publish(): Promise<void>
  /** Close it and leave it for another time, or remove it where it is empty. Nothing after `publish`. */
  close(): Promise<void>
  discard(): Promise<void>
}

const PIECE = 1 << 20

/** Those that this process has open; the others under its id were left by an earlier call. */
const held = new Set<string>()

/** What interrupted processes have left for `target`, the largest first. */
async function left(target: string): Promise<string[]> {
  const mine = (await leftovers(dirname(target))).filter((l) => l.target === target && !l.aside && isFree(l))
  const sized = await Promise.all(
    mine.map(async ({ path }) => [path, await stat(path).then((s) => (s.isFile() ? s.size : -1), () => -1)] as const),
  ) // prettier-ignore
  return sized
    .filter(([, size]) => size >= 0)
    .sort((a, b) => b[1] - a[1])
    .map(([path]) => path)
}

const isFree = ({ path, dead, pid }: { path: string; dead: boolean; pid: number }): boolean =>
  dead || (pid === process.pid && !held.has(path))

/** Bytes that an interrupted process has of `path`. */
export async function resumableBytes(path: string): Promise<number> {
  const [largest] = await left(resolve(path)).catch(() => [])
  return largest === undefined ? 0 : await stat(largest).then((s) => s.size, () => 0) // prettier-ignore
}

/** Begin `path`, or go on with what an interrupted process has of it. Errors: E_OUTPUT, E_DISK_FULL, E_IO. */
export async function openResumable(path: string): Promise<Resumable> {
  const target = resolve(path)
  await makeFolder(dirname(target))
  const temp = tempName(target)
  held.add(temp)
  try {
    const [largest, ...others] = await left(target)
    // Whoever renames it has it.
    const adopted = largest !== undefined && (await rename(largest, temp).then(() => true, () => false)) // prettier-ignore
    for (const other of others) await rm(other, { force: true })
    return await resumable(temp, target, adopted)
  } catch (error) {
    held.delete(temp)
    return writeError(error, target)
  }
}

async function resumable(temp: string, target: string, adopted: boolean): Promise<Resumable> {
  const file = await open(temp, adopted ? "r+" : "wx+")
  let size = (await file.stat()).size
  let isOpen = true
  const writing = (work: Promise<void>) => work.catch((e: unknown) => writeError(e, target))
  const close = async () => {
    if (isOpen) await file.close()
    isOpen = false
  }
  const discard = async () => {
    await close()
    await rm(temp, { force: true })
    held.delete(temp)
  }
  return {
    get size() {
      return size
    },
    append: (bytes) =>
      writing(
        (async () => {
          for (let at = 0; at < bytes.length;) {
            const { bytesWritten } = await file.write(bytes, at, Math.min(PIECE, bytes.length - at), size)
            at += bytesWritten
            size += bytesWritten
          }
        })(),
      ),
    restart: () => writing(file.truncate(0).then(() => void (size = 0))),
    async read(see) {
      for await (const piece of piecesOf(file, temp, size)) see(piece)
    },
    publish: () =>
      writing(
        (async () => {
          await file.sync()
          await close()
          await rename(temp, target)
          held.delete(temp)
          await syncFolder(dirname(target))
        })(),
      ),
    async close() {
      if (size === 0) return discard()
      await close()
      held.delete(temp)
    },
    discard,
  }
}
