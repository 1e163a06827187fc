/** @file The directory of a zip archive, listed by yauzl and checked (zip.ts loads this when first needed: it takes 2 MiB). */
import type { FileHandle } from "node:fs/promises"
import { type Entry, fromRandomAccessReader, parseExtraFields, RandomAccessReader, type ZipFile } from "yauzl"
import { quote } from "../tensor/quote.ts"

/** `length` bytes at `start` of the file hold the member: as it is (`stored`), or deflated. */
export interface ZipMember {
  readonly name: string
  readonly stored: boolean
  readonly start: number
  readonly length: number
  readonly size: number
  readonly crc: number
}

// A ViT-g with its optimizer state has about 4000 storages, one member each.
const MAX_ENTRIES = 20_000
const RATIO_FLOOR = 65_536 // bytes; a small member may be all zeros
const WINDOW = 4096 // bytes read at once while listing: 60 directory records

const LATER_SIZES = 0x8 // CRC and sizes follow the data, the local header has zeros
const KNOWN_FLAGS = 0x80e // effort of deflate, LATER_SIZES, UTF-8 names; the others encrypt or patch
const IN_ZIP64 = 0xffff_ffff

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

/** The members, by name, each checked; `bad` says what is wrong with one. Errors: those of `bad`, yauzl's and the system's. */
export async function listMembers(
  handle: FileHandle,
  size: number,
  maxRatio: number,
  bad: (message: string) => never,
): Promise<Map<string, ZipMember>> {
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
