/** @file NumPy's archives: a zip of npy files (https://numpy.org/doc/stable/reference/generated/numpy.savez.html). */
import { pipeline } from "node:stream/promises"
import { crc32, createInflateRaw } from "node:zlib"
import { fail, listed, PrismaError } from "../errors.ts"
import { readFully } from "../files/read.ts"
import { readMember, withZip, type Zip } from "../files/zip.ts"
import type { ZipMember } from "../files/zip-directory.ts"
import { quote } from "../tensor/quote.ts"
import type { Tensor } from "../tensor/tensor.ts"
import { readNpy } from "./npy.ts"

const PIECE = 1 << 20

/** The member `NAME.npy`. Error: E_DATASET_SCHEMA listing the arrays that are there. */
export function npzMember(zip: Zip, name: string): ZipMember {
  const found = zip.members.get(`${name}.npy`)
  if (found) return found
  const names = listed([...zip.members.keys()].map((member) => quote(member.replace(/\.npy$/, ""))))
  return fail("E_DATASET_SCHEMA", `${zip.file}: npz has no array ${quote(name)}, it has ${names || "none"}`, {
    file: zip.file,
  })
}

/** The array `name` of an open npz. Errors: E_DATASET_SCHEMA, E_ZIP, E_NPY_HEADER, E_NPY_OBJECT, E_UNSUPPORTED_DTYPE. */
export const npzArray = async (zip: Zip, name: string): Promise<Tensor> =>
  readNpy(await readMember(zip, npzMember(zip, name)), `${zip.file} ${quote(name)}`)

/** The named arrays of an npz file, each read whole. Errors: those of `npzArray`, E_NOT_A_FILE, E_IO. */
export const readNpz = (file: string, names: readonly string[]): Promise<Map<string, Tensor>> =>
  withZip(file, async (zip) => {
    const arrays = new Map<string, Tensor>()
    for (const name of names) arrays.set(name, await npzArray(zip, name))
    return arrays
  })

/** Call `use` with the member's bytes from first to last, some MB at a time, then check size and CRC. What `use` gets is
 * valid until it returns. Errors: E_ZIP, E_IO, E_CHANGED_DURING_READ, and those of `use`. */
export async function streamMember(zip: Zip, member: ZipMember, use: (bytes: Uint8Array) => void): Promise<void> {
  const bad = (what: string, cause?: unknown): never =>
    fail("E_ZIP", `${zip.file}: zip member ${quote(member.name)} ${what}; download it again`, { file: zip.file, cause })
  let crc = 0
  let got = 0
  const take = (bytes: Uint8Array) => {
    got += bytes.length
    if (got > member.size) bad(`inflates to more than ${member.size} bytes`)
    crc = crc32(bytes, crc)
    use(bytes)
  }
  const source = stored(zip, member)
  if (member.stored) for await (const bytes of source) take(bytes)
  else {
    const sink = async (chunks: AsyncIterable<Uint8Array>) => {
      for await (const bytes of chunks) take(bytes)
    }
    await pipeline(source, createInflateRaw({ chunkSize: PIECE }), sink).catch((error: unknown) => {
      if (error instanceof PrismaError) throw error
      return bad(`does not inflate: ${(error as Error).message}`, error)
    })
  }
  if (got !== member.size) bad(`has ${got} bytes, expected ${member.size}`)
  if (crc !== member.crc) bad(`has CRC ${crc.toString(16)}, expected ${member.crc.toString(16)}`)
}

/** The member as it is stored, in pieces. */
async function* stored(zip: Zip, { start, length }: ZipMember): AsyncGenerator<Uint8Array> {
  for (let at = 0; at < length; at += PIECE) {
    const piece = new Uint8Array(Math.min(PIECE, length - at))
    if ((await readFully(zip.handle, zip.file, piece, start + at)) < piece.length) {
      fail("E_CHANGED_DURING_READ", `${zip.file}: became shorter while it was read; try again`, { file: zip.file })
    }
    yield piece
  }
}
