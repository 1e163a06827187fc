/** @file Zip archives read where they lie (https://pkware.cachefly.net/webdocs/casestudies/APPNOTE.TXT): members are
 * found and checked, never extracted. */
import type { FileHandle } from "node:fs/promises"
import { promisify } from "node:util"
import { crc32, inflateRaw } from "node:zlib"
import { type Entry, fromRandomAccessReader, parseExtraFields, RandomAccessReader, type ZipFile } from "yauzl"
import { fail, PrismaError } from "../errors.ts"
import { quote } from "../tensor/quote.ts"
import { readFully, withFile } from "./read.ts"
import { readError, systemCode } from "./system-errors.ts"

/** `length` bytes at `start` of the file hold the member: as it is (`stored`), or deflated. */
export interface ZipMember {
  readonly name: string
  readonly stored: boolean
  readonly start: number
  readonly length: number
  readonly size: number
  readonly crc: number
}

/** An open archive whose directory has been checked. */
export interface Zip {
  readonly file: string
  readonly size: number
  readonly members: ReadonlyMap<string, ZipMember>
  readonly handle: FileHandle
}

// A ViT-g with its optimizer state has about 4000 storages, one member each.
const MAX_ENTRIES = 20_000
// Weights deflate to 0.9 of their size, pickles to 0.1, dSprites' images to 0.009; 1032 is what deflate can reach at most.
const MAX_RATIO = 100
const RATIO_FLOOR = 65_536 // bytes; a small member may be all zeros
const WINDOW = 4096 // bytes read at once while listing: 60 directory records
const CHUNK = 1 << 20
const MAX_IN_MEMORY = 2 ** 31 // bytes of one member; what Node 20 reads and inflates in one piece

const LATER_SIZES = 0x8 // CRC and sizes follow the data, the local header has zeros
const KNOWN_FLAGS = 0x80e // effort of deflate, LATER_SIZES, UTF-8 names; the others encrypt or patch
const IN_ZIP64 = 0xffff_ffff

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
    const members = await list(handle, file, size, maxRatio).catch((error: unknown) => refuse(error, file))
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

/** Throw what a failed read means: the system's errors are E_IO or E_NOT_A_FILE, yauzl's are E_ZIP. */
function refuse(error: unknown, file: string): never {
  if (error instanceof PrismaError || systemCode(error) !== undefined) return readError(error, file)
  return fail("E_ZIP", `${file}: zip: ${error instanceof Error ? error.message : ""}; ${ADVICE}`, {
    file,
    cause: error,
  })
}

/** yauzl's view of the file. Its own reader lets an offset of 2^64 - 1 throw inside a callback, which ends the process;
 * here such a read is an error like others. */
class Reader extends RandomAccessReader {
  readonly #handle: FileHandle
  readonly #size: number
  #window = Buffer.alloc(0)
  #start = 0

  constructor(handle: FileHandle, size: number) {
    super()
    this.#handle = handle
    this.#size = size
  }

  override read(into: Buffer, at: number, length: number, position: number, done: (e: Error | null) => void): void {
    this.#copy(into, at, length, position).then(() => done(null), done)
  }

  async #copy(into: Buffer, at: number, length: number, position: number): Promise<void> {
    if (position + length > this.#size) throw new Error(`points at byte ${position} of ${this.#size}`)
    if (position < this.#start || position + length > this.#start + this.#window.length) {
      const window = Buffer.alloc(Math.min(Math.max(length, WINDOW), this.#size - position))
      const { bytesRead } = await this.#handle.read(window, 0, window.length, position)
      if (bytesRead < length) throw new Error(`ends at byte ${position + bytesRead} of ${this.#size}`)
      this.#window = window.subarray(0, bytesRead)
      this.#start = position
    }
    this.#window.copy(into, at, position - this.#start, position - this.#start + length)
  }
}

/** Names stay the bytes they are, decoded as UTF-8: nothing becomes a path, so `../x` is a name like others. */
const openDirectory = (reader: Reader, size: number): Promise<ZipFile> =>
  new Promise((resolve, reject) => {
    const options = { autoClose: false, lazyEntries: true, decodeStrings: false }
    fromRandomAccessReader(reader, size, options, (error, zip) => (error ? reject(error) : resolve(zip)))
  })

async function list(handle: FileHandle, file: string, size: number, maxRatio: number): Promise<Map<string, ZipMember>> {
  const bad = (message: string): never => fail("E_ZIP", `${file}: ${message}; ${ADVICE}`, { file })
  const zip = await openDirectory(new Reader(handle, size), size)
  if (zip.entryCount > MAX_ENTRIES) bad(`zip of ${zip.entryCount} members, at most ${MAX_ENTRIES} are read`)
  const directory = zip.readEntryCursor as unknown as number // @types/yauzl calls it a boolean
  const entries: Entry[] = []
  for await (const entry of zip.eachEntry()) entries.push(entry)
  const tail = size - (zip.readEntryCursor as unknown as number) - zip.comment.length
  // What follows the directory: its end record (22 bytes), with zip64 two more (56 and 20).
  if (tail !== 22 && tail !== 98) bad(`zip directory of ${zip.entryCount} members is followed by ${tail} bytes`)

  const members = new Map<string, ZipMember>()
  let end = 0
  for (const entry of entries.sort((a, b) => a.relativeOffsetOfLocalHeader - b.relativeOffsetOfLocalHeader)) {
    const name = entry.fileNameRaw.toString("utf8")
    const shown = quote(name)
    const { relativeOffsetOfLocalHeader: header, compressedSize, uncompressedSize } = entry
    if (members.has(name)) bad(`zip has two members ${shown}`)
    const flags = entry.generalPurposeBitFlag & ~KNOWN_FLAGS
    if (flags !== 0) bad(`zip member ${shown} has flags 0x${flags.toString(16)}: it is encrypted or patched`)
    if (entry.compressionMethod !== 0 && entry.compressionMethod !== 8) {
      bad(`zip member ${shown} has compression method ${entry.compressionMethod}, expected 0 or 8`)
    }
    if (uncompressedSize > RATIO_FLOOR && uncompressedSize > maxRatio * compressedSize) {
      bad(`zip member ${shown} grows from ${compressedSize} to ${uncompressedSize} bytes, more than ${maxRatio} times`)
    }
    if (members.size === 0 && header !== 0) bad(`${header} bytes lie before the first zip member`)
    if (header < end) bad(`zip member ${shown} at byte ${header} overlaps the one before, which ends at ${end}`)
    const start = await localStart(zip, entry, shown, bad)
    end = start + compressedSize
    if (end > directory) bad(`zip member ${shown} ends at byte ${end}, inside the directory at ${directory}`)
    members.set(name, {
      name,
      stored: entry.compressionMethod === 0,
      start,
      length: compressedSize,
      size: uncompressedSize,
      crc: entry.crc32,
    })
  }
  return members
}

/** Where the data starts, after a check that the local header says what the directory says: readers differ in which
 * of the two they believe. */
async function localStart(zip: ZipFile, entry: Entry, shown: string, bad: (m: string) => never): Promise<number> {
  const local = await zip.readLocalFileHeaderPromise(entry)
  const later = (local.generalPurposeBitFlag & LATER_SIZES) !== 0
  const extra = () => parseExtraFields(local.extraField).find((field) => field.id === 1)?.data ?? Buffer.alloc(0)
  const sizes = [local.uncompressedSize, local.compressedSize]
  if (sizes.includes(IN_ZIP64)) {
    const wide = extra()
    if (wide.length < 16) bad(`zip member ${shown} has no zip64 sizes in its local header`)
    sizes[0] = Number(wide.readBigUInt64LE(0))
    sizes[1] = Number(wide.readBigUInt64LE(8))
  }
  const expected = [entry.uncompressedSize, entry.compressedSize, entry.crc32]
  const got = [...sizes, local.crc32]
  const agree = got.every((value, i) => value === expected[i] || (later && value === 0))
  if (!agree)
    bad(`zip member ${shown} has sizes and CRC ${expected.join()} in the directory, ${got.join()} in its local header`)
  if (!local.fileName.equals(entry.fileNameRaw)) bad(`zip member ${shown} has another name in its local header`)
  if (local.compressionMethod !== entry.compressionMethod || local.generalPurposeBitFlag & ~KNOWN_FLAGS) {
    bad(`zip member ${shown} is stored in another way by its local header`)
  }
  return local.fileDataStart
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
