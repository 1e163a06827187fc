/** @file Locks between processes, also of several machines on one disk: a file that its holder keeps fresh; one that is not
 * kept fresh, or whose process is no more, is taken over. */
import { randomBytes } from "node:crypto"
import { link, readFile, rename, rm, stat, utimes, writeFile } from "node:fs/promises"
import { dirname } from "node:path"
import { setTimeout as wait } from "node:timers/promises"
import { PrismaError } from "../errors.ts"
import { isAlive, MACHINE, tempName } from "./atomic.ts"
import { makeFolders } from "./make-folders.ts"
import { systemCode } from "./system-errors.ts"

export interface LockTimes {
  /** Milliseconds between two signs of life. */
  readonly beat: number
  /** Milliseconds without one, as seen by who waits, after which a lock counts as left. */
  readonly stale: number
  /** Milliseconds between two looks. */
  readonly poll: number
}

export const LOCK_TIMES: LockTimes = { beat: 5000, stale: 30_000, poll: 100 }

/** What a lock's file says of its holder. */
export interface LockHolder {
  readonly pid: number
  readonly machine: string
  /** Milliseconds since 1970. */
  readonly since: number
  /** Its process is certainly no more. */
  readonly dead: boolean
}

/** Errors of folders that cannot be written to: there the lock cannot be had, and what it guards cannot be done. */
const NOWHERE = ["EACCES", "EPERM", "EROFS", "ENOENT", "ENOTDIR", "ENOSPC", "EDQUOT"]

/**
 * Do `work` while this process alone has the lock at `path`. It saves double work and is no guard of what is written: where
 * no lock can be made, `work` is done without. Error: E_INTERRUPTED once `signal` is aborted while another has the lock.
 */
export async function withLock<T>(
  path: string,
  work: () => Promise<T>,
  { signal, ...given }: Partial<LockTimes> & { readonly signal?: AbortSignal } = {},
): Promise<T> {
  const times = { ...LOCK_TIMES, ...given }
  const mine = await acquire(path, times, signal)
  if (mine === undefined) return work()
  const beat = setInterval(() => {
    const now = new Date()
    utimes(path, now, now).catch(() => {})
  }, times.beat)
  beat.unref()
  try {
    return await work()
  } finally {
    clearInterval(beat)
    if ((await textOf(path)) === mine) await rm(path, { force: true }).catch(() => {})
  }
}

const stopped = (path: string, { reason }: AbortSignal): PrismaError =>
  reason instanceof PrismaError
    ? reason
    : new PrismaError("E_INTERRUPTED", `${path}: stopped while another process had this lock`)

async function acquire(path: string, times: LockTimes, signal: AbortSignal | undefined): Promise<string | undefined> {
  const mine = `${process.pid} ${MACHINE} ${Date.now()} ${randomBytes(8).toString("hex")}\n`
  let seen = { sign: "", since: performance.now() }
  const isFolder = await makeFolders(dirname(path)).then(
    () => true,
    () => false,
  )
  if (!isFolder) return undefined
  try {
    while (!(await made(path, mine))) {
      const sign = await signOf(path)
      if (sign !== seen.sign) seen = { sign, since: performance.now() }
      const isStale = performance.now() - seen.since > times.stale || lockHolder(sign.split("|")[0]!)?.dead
      if (sign && isStale) await takeAway(path, sign.split("|")[0]!)
      else await wait(times.poll * (0.5 + Math.random()), undefined, signal && { signal })
    }
    return mine
  } catch (error) {
    if (NOWHERE.includes(systemCode(error) ?? "")) return undefined
    if (signal?.aborted) throw stopped(path, signal)
    throw error
  }
}

/** Make the file with its text at once, so that nobody sees it empty. */
async function made(path: string, text: string): Promise<boolean> {
  const temp = tempName(path)
  try {
    await writeNew(temp, text)
    await link(temp, path)
    return true
  } catch (error) {
    if (systemCode(error) === "EEXIST") return false
    // Some file systems have no hard links.
    if (!["EPERM", "ENOTSUP", "ENOSYS", "EMLINK"].includes(systemCode(error) ?? "")) throw error
    return await writeNew(path, text).then(
      () => true,
      () => false,
    )
  } finally {
    await rm(temp, { force: true }).catch(() => {})
  }
}

const writeNew = (path: string, text: string): Promise<void> => writeFile(path, text, { flag: "wx" })

const textOf = (path: string): Promise<string> => readFile(path, "utf8").catch(() => "")

/** The text and the last sign of life; empty where there is no lock. */
const signOf = async (path: string): Promise<string> =>
  stat(path).then(
    async ({ mtimeMs }) => `${await textOf(path)}|${mtimeMs}`,
    () => "",
  )

/** Remove the lock that says `text`. One that came to stand there meanwhile is put back. */
async function takeAway(path: string, text: string): Promise<void> {
  const temp = tempName(path)
  const moved = await rename(path, temp).then(
    () => true,
    () => false,
  )
  if (moved && (await textOf(temp)) !== text) await link(temp, path).catch(() => {})
  await rm(temp, { force: true }).catch(() => {})
}

/** Who holds a lock, by its text; undefined for a text that is none of ours. */
export function lockHolder(text: string): LockHolder | undefined {
  const [, pid, machine, since] = /^(\d{1,10}) ([0-9a-f]{6}) (\d{1,15}) [0-9a-f]{16}\n$/.exec(text) ?? []
  if (pid === undefined || machine === undefined) return undefined
  const known = machine === MACHINE
  return {
    pid: Number(pid),
    machine,
    since: Number(since),
    dead: known && !isAlive(Number(pid), Number(since), machine),
  }
}
