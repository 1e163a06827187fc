/** @file PyTorch checkpoints (.pth, .pt, .bin) read without PyTorch, weights left where they lie in the file
 * (https://github.com/pytorch/pytorch/blob/main/torch/serialization.py, `_save`). */
import { realpath } from "node:fs/promises"
import { type ErrorCode, fail, PrismaError } from "../errors.ts"
import { RESAVE } from "../tensor/pickle.ts"
import type { View } from "../tensor/pickle-value.ts"
import { quote } from "../tensor/quote.ts"
import { readStateDict } from "../tensor/state-dict.ts"
import { ARRAYS, DTYPES, size, type StoredTensor, type Tensor, tensor } from "../tensor/tensor.ts"
import { readFully, withFile } from "./read.ts"
import { readError } from "./system-errors.ts"
import { checkMember, readMember, withZip, type Zip } from "./zip.ts"
import type { ZipMember } from "./zip-directory.ts"

// Bytes of a pickle. 3000 tensors with two moments each take 2 MB.
const MAX_PICKLE = 64 << 20
// Bytes of memory beyond what a file of transposed or deflated tensors takes: expanded ones are small, as position ids.
const MEMORY_SLACK = 64 << 20

/** The tensors of a checkpoint that torch.save wrote (a state dict, or a dict with one under the key state_dict,
 * model_state_dict or model), by name and in its order. A contiguous tensor stays in the file; a transposed, expanded
 * or otherwise strided one is copied out. All bytes that tensors come from pass their CRC check.
 * Throws E_PICKLE_*, E_STORAGE_*, E_ZIP, E_NOT_A_FILE, E_LFS_POINTER, E_IO, E_CHANGED_DURING_READ, E_MEMORY_BUDGET. */
export async function openTorchFile(path: string): Promise<Map<string, StoredTensor | Tensor>> {
  const file = await realpath(path).catch((error: unknown) => readError(error, path))
  return withZip(file, async (zip) => {
    const root = findRoot(zip)
    await checkByteOrder(zip, root)
    return readTensors(zip, root, readStateDict(await readPickle(zip, root), file))
  }).catch((error: unknown) => refuseFormat(error, file))
}

/** What else is called .bin or .pth: bytes at an offset, what they say, and what to do. */
const FORMATS: readonly (readonly [number, string, ErrorCode, string, string])[] = [
  [
    0,
    "\x80\x02\x8a\x0a\x6c\xfc\x9c\x46\xf9\x20\x6a\xa8\x50\x19",
    "E_PICKLE_LEGACY",
    "stacked pickle (PyTorch < 1.6)",
    RESAVE,
  ],
  [257, "ustar", "E_PICKLE_LEGACY", "tar archive (PyTorch < 0.2)", RESAVE],
  [0, "7z\xbc\xaf\x27\x1c", "E_PICKLE_LEGACY", "7z archive", "unpack it first"],
  [0, "\x1f\x8b", "E_PICKLE_LEGACY", "gzip file", "unpack it first"],
  [0, "version https://git-lfs", "E_LFS_POINTER", "Git LFS pointer", "run git lfs pull"],
]

/** The opcodes that pickles begin with: PROTO, GLOBAL, MARK. */
const BARE_PICKLE = /[\x80c(]/

/** Say what a file that is no sound zip is instead. */
async function refuseFormat(error: unknown, file: string): Promise<never> {
  if (!(error instanceof PrismaError && error.code === "E_ZIP")) throw error
  return withFile(file, async (handle, size) => {
    const head = Buffer.alloc(512)
    await readFully(handle, file, head, 0)
    for (const [offset, magic, code, what, advice] of FORMATS) {
      if (head.toString("latin1", offset, offset + magic.length) !== magic) continue
      fail(code, `${file}: is a ${what}, expected a zip from torch.save; ${advice}`, { file })
    }
    // A pickle alone: what it names is refused first, so that an attack is called one.
    if (BARE_PICKLE.test(head.toString("latin1", 0, 1))) {
      if (size > MAX_PICKLE) limit(file, size)
      const bytes = new Uint8Array(size)
      await readFully(handle, file, bytes, 0)
      readStateDict(bytes, file)
      fail("E_PICKLE_LEGACY", `${file}: is a bare pickle, expected a zip from torch.save; ${RESAVE}`, { file })
    }
    throw error
  })
}

const limit = (file: string, size: number): never =>
  fail("E_PICKLE_LIMIT", `${file}: pickle of ${size} bytes, at most ${MAX_PICKLE} are read; ${RESAVE}`, { file })

/** The folder inside the archive that all names begin with. */
function findRoot({ file, members }: Zip): string {
  const roots = [...members.keys()].flatMap((name) => /^([^/]+)\/data\.pkl$/.exec(name)?.[1] ?? [])
  const [root, ...more] = roots
  if (root === undefined || more.length > 0) {
    return fail("E_ZIP", `${file}: zip has ${roots.length} members named <folder>/data.pkl, expected 1; ${RESAVE}`, {
      file,
    })
  }
  if (members.has(`${root}/constants.pkl`)) {
    fail("E_PICKLE_LEGACY", `${file}: is a TorchScript archive, a program; ${RESAVE}`, { file })
  }
  return root
}

async function checkByteOrder(zip: Zip, root: string): Promise<void> {
  const member = zip.members.get(`${root}/byteorder`)
  const little = member?.size === 6 && Buffer.from(await readMember(zip, member)).toString() === "little"
  if (member === undefined || little) return
  const text = "is not of little-endian byte order; save it again on a little-endian machine"
  fail("E_PICKLE_LEGACY", `${zip.file}: ${text}`, { file: zip.file })
}

async function readPickle(zip: Zip, root: string): Promise<Uint8Array> {
  const member = zip.members.get(`${root}/data.pkl`) ?? fail("E_ZIP", `${zip.file}: no data.pkl`, { file: zip.file })
  if (member.size > MAX_PICKLE) limit(zip.file, member.size)
  return readMember(zip, member)
}

/** Each storage is read once, whatever number of tensors lie in it. */
async function readTensors(
  zip: Zip,
  root: string,
  views: ReadonlyMap<string, View>,
): Promise<Map<string, StoredTensor | Tensor>> {
  const tensors = new Map<string, StoredTensor | Tensor>()
  const byStorage = new Map<ZipMember, string[]>()
  let memory = 0
  let largest = 0
  for (const [name, view] of views) {
    const member = storageMember(zip, root, name, view)
    const bytes = DTYPES[view.storage.dtype].bytes
    const tenants = byStorage.get(member) ?? []
    tenants.push(name)
    byStorage.set(member, tenants)
    // Placed now, so that the order is the state dict's; a copied tensor takes its place below.
    tensors.set(name, {
      dtype: view.storage.dtype,
      shape: view.shape,
      file: zip.file,
      offset: member.start + view.offset * bytes,
      length: size(view.shape) * bytes,
    })
    if (staysInFile(member, view)) continue
    memory += size(view.shape) * bytes
    largest = Math.max(largest, member.size)
  }
  const allowed = 2 * zip.size + MEMORY_SLACK
  if (memory + largest > allowed) {
    const text = `tensors to copy take ${memory + largest} bytes, at most ${allowed} for this file; ${RESAVE}`
    fail("E_PICKLE_LIMIT", `${zip.file}: ${text}`, { file: zip.file })
  }
  for (const [member, names] of byStorage) {
    const moved = names.flatMap((name) => {
      const view = views.get(name)
      return view === undefined || staysInFile(member, view) ? [] : [{ name, view }]
    })
    if (moved.length === 0) {
      await checkMember(zip, member)
      continue
    }
    const bytes = await readMember(zip, member)
    for (const { name, view } of moved) tensors.set(name, gather(bytes, view))
  }
  return tensors
}

function storageMember(zip: Zip, root: string, name: string, { storage }: View): ZipMember {
  const member = zip.members.get(`${root}/data/${storage.key}`)
  const place = { file: zip.file, tensor: name }
  const what = `${zip.file}: tensor ${quote(name)} lies in storage ${quote(storage.key)}`
  if (member === undefined) {
    return fail("E_STORAGE_MISSING", `${what}, which the zip does not have; download it again`, place)
  }
  const needed = storage.length * DTYPES[storage.dtype].bytes
  if (needed > member.size) {
    fail("E_STORAGE_BOUNDS", `${what} of ${needed} bytes, the zip has ${member.size}; download it again`, place)
  }
  return member
}

const staysInFile = (member: ZipMember, view: View): boolean => member.stored && isContiguous(view)

/** Row-major without gaps; strides of axes of length 1 do not matter. */
function isContiguous({ shape, strides }: View): boolean {
  if (size(shape) === 0) return true
  let expected = 1
  for (let axis = shape.length - 1; axis >= 0; axis--) {
    const n = shape[axis] ?? 1
    if (n !== 1 && strides[axis] !== expected) return false
    expected *= n
  }
  return true
}

/** The view's elements in row-major order, byte for byte. */
function gather(source: Uint8Array, { storage: { dtype }, offset, shape, strides }: View): Tensor {
  const { bytes } = DTYPES[dtype]
  const out = new Uint8Array(size(shape) * bytes)
  const index = shape.map(() => 0)
  let from = offset * bytes
  for (let to = 0; to < out.length; to += bytes) {
    for (let i = 0; i < bytes; i++) out[to + i] = source[from + i] ?? 0
    // Count up like an odometer, the last axis fastest.
    for (let axis = shape.length - 1; axis >= 0; axis--) {
      const stride = (strides[axis] ?? 0) * bytes
      const next = (index[axis] ?? 0) + 1
      from += stride
      index[axis] = next
      if (next < (shape[axis] ?? 0)) break
      from -= stride * next
      index[axis] = 0
    }
  }
  return tensor(dtype, shape, new ARRAYS[dtype](out.buffer))
}
