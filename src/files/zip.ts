/** @file Zip archives read where they lie (https://pkware.cachefly.net/webdocs/casestudies/APPNOTE.TXT): members are
 * found and checked, never extracted. */
import type { FileHandle } from "node:fs/promises"
import { promisify } from "node:util"
import { crc32, inflateRaw } from "node:zlib"
import { fail, PrismaError } from "../errors.ts"
import { quote } from "../tensor/quote.ts"
import { readFully, withFile } from "./read.ts"
import { readError, systemCode } from "./system-errors.ts"
import type { ZipMember } from "./zip-directory.ts"

/** An open archive whose directory has been checked. */
export interface Zip {
  readonly file: string
  readonly size: number
  readonly members: ReadonlyMap<string, ZipMember>
  readonly handle: FileHandle
}

// Weights deflate to 0.9 of their size, pickles to 0.1, dSprites' images to 0.009; 1032 is what deflate can reach at most.
const MAX_RATIO = 100
const CHUNK = 1 << 20
const MAX_IN_MEMORY = 2 ** 31 // bytes of one member; what Node 20 reads and inflates in one piece

const ADVICE = "the file is damaged or forged: download it again"

/** Call `work` with the archive `file`, after a check of its whole directory: every member lies in the file, overlaps
 * no other, says the same in both of its headers and is neither encrypted nor a deflate bomb.
 * A larger `maxRatio` is for who reads members in pieces and knows their sizes.
 * Throws E_NOT_A_FILE, E_IO, E_ZIP, and what `work` throws. */
export const withZip = <T>(
  file: string,
  work: (zip: Zip) => Promise<T>,
  { maxRatio = MAX_RATIO }: { readonly maxRatio?: number } = {},
): Promise<T> =>
  withFile(file, async (handle, size) => {
    const { listMembers } = await import("./zip-directory.ts")
    const members = await listMembers(handle, size, maxRatio, bad(file)).catch((error: unknown) => refuse(error, file))
    return work({ file, size, members, handle })
  })

/** The member's contents, its CRC checked. Throws E_ZIP, E_IO, E_CHANGED_DURING_READ, E_MEMORY_BUDGET. */
export async function readMember(zip: Zip, member: ZipMember): Promise<Uint8Array> {
  if (Math.max(member.length, member.size) >= MAX_IN_MEMORY) {
    const text = `zip member ${quote(member.name)} of ${member.size} bytes, at most ${MAX_IN_MEMORY} are read`
    fail("E_MEMORY_BUDGET", `${zip.file}: ${text}`, { file: zip.file })
  }
  const raw = new Uint8Array(member.length)
  await read(zip, member, raw, 0)
  const data = member.stored ? raw : await inflate(zip, member, raw)
  checkCrc(zip, member, crc32(data))
  return data
}

/** Stream a stored member and check its CRC. Throws as `readMember`. */
export async function checkMember(zip: Zip, member: ZipMember): Promise<void> {
  const buffer = new Uint8Array(CHUNK)
  let crc = 0
  for (let at = 0; at < member.length; at += CHUNK) {
    const chunk = buffer.subarray(0, member.length - at)
    await read(zip, member, chunk, at)
    crc = crc32(chunk, crc)
  }
  checkCrc(zip, member, crc)
}

const bad =
  (file: string) =>
  (message: string): never =>
    fail("E_ZIP", `${file}: ${message}; ${ADVICE}`, { file })

/** Throw what a failed read means: the system's errors are E_IO or E_NOT_A_FILE, yauzl's are E_ZIP. */
function refuse(error: unknown, file: string): never {
  if (error instanceof PrismaError || systemCode(error) !== undefined) return readError(error, file)
  return fail("E_ZIP", `${file}: zip: ${error instanceof Error ? error.message : ""}; ${ADVICE}`, {
    file,
    cause: error,
  })
}

/** Fill `into` with the member's bytes from `at` on. */
async function read(zip: Zip, member: ZipMember, into: Uint8Array, at: number): Promise<void> {
  if ((await readFully(zip.handle, zip.file, into, member.start + at)) === into.length) return
  fail("E_CHANGED_DURING_READ", `${zip.file}: became shorter while it was read; try again`, { file: zip.file })
}

async function inflate(zip: Zip, member: ZipMember, raw: Uint8Array): Promise<Uint8Array> {
  const place = { file: zip.file }
  const data = await promisify(inflateRaw)(raw, { maxOutputLength: Math.max(member.size, 1) }).catch((cause: unknown) =>
    fail("E_ZIP", `${zip.file}: zip member ${quote(member.name)} does not inflate to ${member.size} bytes; ${ADVICE}`, {
      ...place,
      cause,
    }),
  )
  if (data.length !== member.size) {
    const got = `inflates to ${data.length} bytes, expected ${member.size}`
    fail("E_ZIP", `${zip.file}: zip member ${quote(member.name)} ${got}; ${ADVICE}`, place)
  }
  // A copy of its own, so that wider views are aligned.
  return data.byteOffset === 0 && data.byteLength === data.buffer.byteLength ? data : new Uint8Array(data)
}

function checkCrc(zip: Zip, member: ZipMember, got: number): void {
  if (got === member.crc) return
  const hex = (n: number): string => n.toString(16).padStart(8, "0")
  const text = `CRC ${hex(got)}, expected ${hex(member.crc)}; ${ADVICE}`
  fail("E_ZIP", `${zip.file}: zip member ${quote(member.name)} has ${text}`, { file: zip.file })
}
