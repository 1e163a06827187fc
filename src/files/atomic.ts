/** @file The one module that creates, replaces and renames files: what stands at a final path is complete and synced, and what
 * a crash leaves behind is called `.<name>.tmp-<pid>-<nonce>` and is swept when the next process writes into that folder. */
import { createHash, randomBytes } from "node:crypto"
import type { BigIntStats } from "node:fs"
import { link, lstat, mkdir, open, readdir, realpath, rename, rm, unlink } from "node:fs/promises"
import { homedir, hostname } from "node:os"
import { basename, dirname, join, resolve } from "node:path"
import { setTimeout as wait } from "node:timers/promises"
import { fail, PrismaError } from "../errors.ts"
import { remember } from "./digest.ts"
import { makeFolders } from "./make-folders.ts"
import { type Content, hashing, writeContent } from "./output.ts"
import { isWithin } from "./paths.ts"
import { systemCode, writeError } from "./system-errors.ts"

/** Create the file `path`, or replace it if `force`: at every moment it is absent, the old or the new one. Missing folders are
 * made. Errors: E_OUTPUT, E_DISK_FULL, E_IO, after which what was there is there still. */
export async function writeFileAtomic(path: string, content: Content, { force = true } = {}): Promise<void> {
  await replacing(path, force, async (target, existing) => {
    if (existing === "folder")
      fail("E_OUTPUT", `${target}: is a folder, not a file; choose another name`, { file: target })
    const temp = tempName(target)
    try {
      const file = await open(temp, "wx")
      const output = hashing(file)
      let made: BigIntStats
      try {
        await writeContent(output, content)
        await file.sync()
        made = await file.stat({ bigint: true })
      } finally {
        await file.close()
      }
      await replaceFile(temp, target, existing !== undefined)
      const digest = output.digest()
      if (digest) await remember(target, made, digest)
    } finally {
      await remove(temp)
    }
  })
}

/** Make the folder `path` whole: `fill` writes into an empty folder beside it, which is synced and renamed when `fill` is done.
 * What exists is refused unless `force`; then it stays until the new one is complete. Result: `fill`'s. Errors: E_OUTPUT,
 * E_LOCKED (another process writes it), E_DISK_FULL, E_IO, after which what was there is there still. */
export async function publishFolder<T>(
  path: string,
  fill: (folder: string) => Promise<T>,
  { force = false } = {},
): Promise<T> {
  return replacing(path, force, async (target, existing) => {
    if (existing === "folder") await refuseToReplaceOwnFolder(target)
    const temp = tempName(target)
    try {
      await mkdir(temp)
      await refuseOlderClaim(target, temp)
      const result = await fill(temp).catch((e: unknown) => renamed(e, temp, target))
      await syncTree(temp)
      await replaceFolder(temp, target, existing !== undefined)
      return result
    } finally {
      await remove(temp)
    }
  })
}

/** Make a folder and those above it. Errors: E_OUTPUT, E_DISK_FULL, E_IO. */
export async function makeFolder(path: string): Promise<void> {
  await makeFolders(path).catch((e: unknown) => writeError(e, path))
}

/** Take away a file or a folder, which is there whole until it is not there at all. Errors: E_OUTPUT, E_IO. */
export async function removeWhole(path: string): Promise<void> {
  const target = resolve(path)
  const temp = tempName(target)
  try {
    if (await moveIfThere(target, temp)) await remove(temp)
  } catch (error) {
    writeError(error, target)
  }
}

/** Times that a claim is tried, each after a random wait of at most so many ms: of two that meet at once both step back. */
const [CLAIMS, CLAIM_WAIT] = [4, 100]

/**
 * Keep the name `path` for this process until what is given back is called, or the process is no more; nothing comes to
 * stand there, but its folder is made. Errors: E_LOCKED where a living process has it; E_OUTPUT, E_DISK_FULL, E_IO.
 */
export async function claim(path: string): Promise<() => Promise<void>> {
  const target = resolve(path)
  const folder = dirname(target)
  try {
    await makeFolders(folder)
    for (let left = CLAIMS; ; left--) {
      const temp = tempName(target)
      await mkdir(temp)
      // Each looks after it has made its own, so of two the later one sees the other.
      const other = (await leftovers(folder)).find((c) => c.target === target && !c.dead && c.path !== temp)
      if (other === undefined) return () => remove(temp).then(() => {})
      await remove(temp)
      if (left > 1) await wait(CLAIM_WAIT * Math.random())
      else {
        const how = `wait for that one, or remove ${other.path} if it is no more`
        fail("E_LOCKED", `${folder}: another process works in it; ${how}`, busy(folder))
      }
    }
  } catch (error) {
    return writeError(error, target)
  }
}

type Existing = "file" | "folder" | undefined

const swept = new Set<string>()

async function replacing<T>(
  path: string,
  force: boolean,
  work: (target: string, existing: Existing) => Promise<T>,
): Promise<T> {
  const target = resolve(path)
  const folder = dirname(target)
  try {
    await makeFolders(folder)
    if (!swept.has(folder)) await sweep(folder)
    swept.add(folder)
    const existing = await kindOf(target)
    if (existing !== undefined && !force) {
      fail("E_OUTPUT", `${target}: exists already; choose another name, remove it or force its replacement`, {
        file: target,
      })
    }
    return await work(target, existing)
  } catch (error) {
    return writeError(error, target)
  }
}

async function kindOf(path: string): Promise<Existing> {
  try {
    return (await lstat(path)).isDirectory() ? "folder" : "file"
  } catch (error) {
    if (systemCode(error) === "ENOENT") return undefined
    throw error
  }
}

async function refuseToReplaceOwnFolder(target: string): Promise<void> {
  const real = await realpath(target)
  if (![process.cwd(), homedir()].some((own) => isWithin(real, own))) return
  fail("E_OUTPUT", `${target}: holds the working or home folder and is never replaced; choose another`, {
    file: target,
  })
}

/** An error that speaks of the folder in the making, whose name nobody knows, speaks of the target instead. */
function renamed(error: unknown, temp: string, target: string): never {
  if (!(error instanceof PrismaError) || !error.message.includes(temp)) throw error
  const file = error.file?.replace(temp, target) ?? target
  return fail(error.code, error.message.replaceAll(temp, target), { file, retryable: error.retryable, cause: error })
}

/** The oldest folder in the making goes on, so that of several that begin together one does. */
async function refuseOlderClaim(target: string, temp: string): Promise<void> {
  const claims = (await leftovers(dirname(target))).filter((c) => c.target === target && !c.dead && !c.aside)
  const own = claims.find((c) => c.path === temp)
  if (own === undefined || claims.every((c) => c.nonce >= own.nonce)) return
  fail("E_LOCKED", `${target}: another process is writing it; wait for that one, then try again`, busy(target))
}

const busy = (file: string) => ({ file, retryable: true })

/** Rename over `target`; if that cannot be made durable, put back what was there. */
async function replaceFile(temp: string, target: string, existed: boolean): Promise<void> {
  const old = tempName(target, "old")
  // A file system without hard links keeps nothing to put back; a failed sync then leaves the new file.
  const kept = existed && (await succeeds(link(target, old)))
  try {
    await rename(temp, target)
    try {
      await syncFolder(dirname(target))
    } catch (error) {
      if (kept) await rename(old, target)
      else if (!existed) await unlink(target)
      throw error
    }
  } finally {
    if (kept) await remove(old)
  }
}

/** Rename to `target`, moving what is there aside first, and back if that fails or cannot be made durable. What came to be
 * there meanwhile makes the rename fail. */
async function replaceFolder(temp: string, target: string, existed: boolean): Promise<void> {
  const old = tempName(target, "old")
  const moved = existed && (await moveIfThere(target, old))
  let placed = false
  try {
    await rename(temp, target)
    placed = true
    await syncFolder(dirname(target))
  } catch (error) {
    if (placed) await rename(target, temp)
    else if ((await kindOf(target)) !== undefined) {
      if (moved) await remove(old)
      fail("E_LOCKED", `${target}: another process has just written it; look at that, then try again`, busy(target))
    }
    if (moved) await rename(old, target)
    throw error
  }
  if (moved) await remove(old)
}

async function moveIfThere(from: string, to: string): Promise<boolean> {
  try {
    await rename(from, to)
    return true
  } catch (error) {
    if (systemCode(error) === "ENOENT") return false
    throw error
  }
}

async function syncTree(folder: string): Promise<void> {
  for (const entry of await readdir(folder, { withFileTypes: true })) {
    const path = join(folder, entry.name)
    if (entry.isDirectory()) await syncTree(path)
    else if (entry.isFile()) await sync(path, process.platform === "win32" ? "r+" : "r")
  }
  await syncFolder(folder)
}

export async function syncFolder(folder: string): Promise<void> {
  // Windows opens no folders; its renames are journaled.
  if (process.platform !== "win32") await sync(folder, "r")
}

async function sync(path: string, mode: string): Promise<void> {
  const file = await open(path, mode)
  try {
    await file.sync()
  } finally {
    await file.close()
  }
}

/** Best effort: what cannot be removed now is swept later, and must not hide the error that led here. */
const remove = (path: string): Promise<boolean> => succeeds(rm(path, { recursive: true, force: true }))

const succeeds = (work: Promise<void>): Promise<boolean> =>
  work.then(
    () => true,
    () => false,
  )

const TEMP = /^\.(.+)\.tmp-(\d+)-([0-9a-z]+)$/s
/** Our nonces: `old` on what was moved aside, the time in base 36, a mark of the machine, a random number. */
const NONCE = /^(old)?([0-9a-z]{9})([0-9a-f]{6})[0-9a-f]{8}$/
export const MACHINE = createHash("sha256").update(hostname()).digest("hex").slice(0, 6)

/** A process id says nothing about another machine on a shared disk, so what it left is dead after this time, in ms. */
const FOREIGN_AGE = 24 * 3600 * 1000

export function tempName(target: string, aside: "" | "old" = ""): string {
  const time = Date.now().toString(36).padStart(9, "0")
  const nonce = `${aside}${time}${MACHINE}${randomBytes(4).toString("hex")}`
  return join(dirname(target), `.${basename(target)}.tmp-${process.pid}-${nonce}`)
}

export interface Leftover {
  readonly path: string
  readonly target: string
  readonly nonce: string
  readonly aside: boolean
  readonly pid: number
  readonly dead: boolean
}

export async function leftovers(folder: string): Promise<Leftover[]> {
  return (await readdir(folder)).flatMap((entry) => {
    const [, name, pid, nonce] = TEMP.exec(entry) ?? []
    if (name === undefined || pid === undefined || nonce === undefined) return []
    const [, old, time, machine] = NONCE.exec(nonce) ?? []
    const dead = !isAlive(Number(pid), parseInt(time ?? "0", 36), machine ?? MACHINE)
    return [
      {
        path: join(folder, entry),
        target: join(folder, name),
        nonce,
        aside: old !== undefined,
        pid: Number(pid),
        dead,
      },
    ]
  })
}

export function isAlive(pid: number, time: number, machine: string): boolean {
  if (machine !== MACHINE) return Date.now() - time < FOREIGN_AGE
  // In a container each run may get the same process id: what is older than this process is not its own.
  if (pid === process.pid) return time > Date.now() - process.uptime() * 1000 - 1000
  try {
    return pid > 0 && process.kill(pid, 0)
  } catch (error) {
    return systemCode(error) === "EPERM"
  }
}

/** Remove what dead processes left; what one had moved aside goes back if nothing took its place. */
export async function sweep(folder: string): Promise<void> {
  for (const { path, target, aside, dead } of await leftovers(folder)) {
    if (!dead) continue
    // A file's old content is still in place, a folder's may not be.
    if (aside && (await kindOf(target)) === undefined) await succeeds(rename(path, target))
    else await remove(path)
  }
}
