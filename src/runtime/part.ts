/** @file A part of a graph as the model that a session is made of, and the key by which equal ones are told. */
import { emit, type Emitted, type Values } from "../graph/emit.ts"
import { UNREAD } from "./in-place.ts"

/** A model whose weights may lie in files. */
export interface Part extends Emitted {
  /** The folder, with a trailing slash, that all of them lie in; "" for none. */
  readonly folder: string
  /** Its first output is UNREAD. */
  readonly stops: boolean
  /** The same for equal models. */
  readonly key: string
}

/** The part between `inputs` and `outputs`, its weights found from the one folder that holds all their files. */
export function located(inputs: Values, outputs: Values, { stops, fused }: { stops: boolean; fused: boolean }): Part {
  const folders = new Set<string>()
  const how = { fused, ...(stops && { sequence: UNREAD }) }
  const emitted = emit(inputs, outputs, {
    ...how,
    locate: (file) => {
      const name = file.lastIndexOf("/") + 1
      folders.add(file.slice(0, name))
      return file.slice(name)
    },
  })
  const [first = "", ...rest] = folders
  const folder = shared(first, rest)
  const part = rest.length ? emit(inputs, outputs, { ...how, locate: (file) => file.slice(folder.length) }) : emitted
  return { ...part, folder, stops, key: `${hash(part.bytes)}:${folder}` }
}

/** The folder that holds all of these. */
function shared(first: string, rest: readonly string[]): string {
  let parts = first.split("/")
  for (const folder of rest) {
    const other = folder.split("/")
    const differs = parts.findIndex((part, i) => part !== other[i])
    if (differs >= 0) parts = [...parts.slice(0, differs), ""]
  }
  return parts.join("/")
}

/** FNV-1a in steps of 32 bits, mixed after each: only a key, equal bytes are compared besides. */
function hash(bytes: Uint8Array): string {
  let h = 0x811c9dc5
  const whole = words(bytes)
  for (let i = 0; i < whole.length; i++) {
    h = Math.imul(h ^ whole[i]!, 0x01000193)
    h ^= h >>> 15
  }
  for (let i = whole.length * 4; i < bytes.length; i++) h = Math.imul(h ^ bytes[i]!, 0x01000193)
  return `${(h >>> 0).toString(16)}:${bytes.length}`
}

export function sameBytes(a: Uint8Array, b: Uint8Array): boolean {
  if (a === b) return true
  if (a.length !== b.length) return false
  const [x, y] = [words(a), words(b)]
  for (let i = 0; i < x.length; i++) if (x[i] !== y[i]) return false
  for (let i = x.length * 4; i < a.length; i++) if (a[i] !== b[i]) return false
  return true
}

/** All whole words: four times as fast to walk as bytes. An emitted model starts where its buffer starts. */
const words = (bytes: Uint8Array): Uint32Array => new Uint32Array(bytes.buffer, bytes.byteOffset, bytes.length >> 2)
