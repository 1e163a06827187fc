/** @file The part of Python's pickle that PyTorch writes: a stack machine that calls only what its table of globals
 * allows, and nothing by name (https://github.com/python/cpython/blob/main/Lib/pickletools.py). */
import { type ErrorCode, fail } from "../errors.ts"
import {
  type Callable,
  emptyDict,
  isKind,
  kindOf,
  type Pickled,
  type Sequence,
  type StorageClass,
  type Tree,
} from "./pickle-value.ts"
import { quote } from "./quote.ts"

/** What a pickle may name: globals by their dotted name, and objects that lie outside of it. */
export interface Allowed {
  readonly globals: ReadonlyMap<string, StorageClass | Callable>
  readonly persistent: (m: Machine, id: Pickled) => Pickled
}

export interface Machine {
  readonly file: string
  readonly allowed: Allowed
  readonly bytes: DataView
  at: number
  readonly stack: Pickled[]
  readonly marks: number[]
  readonly memo: Map<number, Pickled>
}

// A tensor takes 45 opcodes and 5 memo entries; 3000 tensors with two moments each make 400,000 and 45,000.
const MAX_OPCODES = 2_000_000
const MAX_MEMO = 1_000_000
const MAX_STACK = 100_000 // PyTorch sets items in batches of 1000
const MAX_DEPTH = 100
const MAX_PARTS = MAX_OPCODES // a value has no more parts than opcodes made it, unless it shares them
const MAX_LINE = 1000 // bytes of a module or a name

/** What to do with a file that holds more than weights. */
export const RESAVE =
  "save the weights alone, in Python: torch.save(model.state_dict(), path), " +
  "or better safetensors.torch.save_file(model.state_dict(), path)"

/** The value that the pickle `bytes` holds; `file` is for messages.
 * Throws E_PICKLE_GLOBAL, E_PICKLE_OPCODE, E_PICKLE_LIMIT, E_PICKLE_TRUNCATED, and what `allowed` throws. */
export function unpickle(bytes: Uint8Array, file: string, allowed: Allowed): Pickled {
  const view = new DataView(bytes.buffer, bytes.byteOffset, bytes.byteLength)
  const m: Machine = { file, allowed, bytes: view, at: 0, stack: [], marks: [], memo: new Map() }
  for (let count = 0; count < MAX_OPCODES; count++) {
    const code = u8(m)
    if (code === STOP) return finish(m)
    const run = OPCODES[code] ?? refuse(m, `opcode ${opcodeName(code)} is not allowed in a state dict`)
    run(m)
    if (m.stack.length > MAX_STACK) limit(m, `more than ${MAX_STACK} values on the stack`)
  }
  return limit(m, `more than ${MAX_OPCODES} opcodes`)
}

function finish(m: Machine): Pickled {
  const rest = m.bytes.byteLength - m.at
  if (rest > 0) refuse(m, `${rest} bytes after the end of the pickle`)
  if (m.marks.length > 0 || m.stack.length !== 1) {
    refuse(m, `ends with ${m.stack.length} values and ${m.marks.length} marks, expected 1 and 0`)
  }
  return pop(m)
}

/** Fail, saying where in the pickle and what to do. */
export function failAt(m: Machine, code: ErrorCode, message: string, advice = RESAVE): never {
  fail(code, `${m.file}: pickle, byte ${m.at}: ${message}; ${advice}`, { file: m.file })
}

export function refuse(m: Machine, message: string): never {
  failAt(m, "E_PICKLE_OPCODE", message)
}

function limit(m: Machine, message: string): never {
  failAt(m, "E_PICKLE_LIMIT", message)
}

// Reading

function take(m: Machine, n: number): number {
  const from = m.at
  const left = m.bytes.byteLength - from
  if (n > left) {
    const text = `ends before its STOP: ${left} bytes left, expected ${n}`
    failAt(m, "E_PICKLE_TRUNCATED", text, "it is incomplete: download it again")
  }
  m.at += n
  return from
}

const u8 = (m: Machine): number => m.bytes.getUint8(take(m, 1))
const u32 = (m: Machine): number => m.bytes.getUint32(take(m, 4), true)

const utf8 = new TextDecoder("utf-8", { fatal: true, ignoreBOM: true })

function text(m: Machine, n: number): string {
  const from = take(m, n)
  try {
    return utf8.decode(new Uint8Array(m.bytes.buffer, m.bytes.byteOffset + from, n))
  } catch {
    return refuse(m, `string of ${n} bytes is not UTF-8`)
  }
}

function line(m: Machine): string {
  let n = 0
  while (n <= MAX_LINE && m.at + n < m.bytes.byteLength && m.bytes.getUint8(m.at + n) !== 0x0a) n++
  if (n > MAX_LINE) limit(m, `line of more than ${MAX_LINE} bytes`)
  const found = text(m, n)
  take(m, 1)
  return found
}

/** LONG1: little-endian two's complement of at most 255 bytes. */
function long(m: Machine): number | bigint {
  const n = u8(m)
  const from = take(m, n)
  let bits = 0n
  for (let i = n - 1; i >= 0; i--) bits = (bits << 8n) | BigInt(m.bytes.getUint8(from + i))
  const value = BigInt.asIntN(8 * n, bits)
  return Number.isSafeInteger(Number(value)) ? Number(value) : value
}

function memoIndex(m: Machine): number {
  const digits = line(m)
  return /^\d{1,9}$/.test(digits) ? Number(digits) : refuse(m, "memo index is not a number")
}

// Stack and memo

function pop(m: Machine): Pickled {
  const value = m.stack.length > (m.marks.at(-1) ?? 0) ? m.stack.pop() : undefined
  return value === undefined ? refuse(m, "takes a value where there is none") : value
}

function popMark(m: Machine): Pickled[] {
  return m.stack.splice(m.marks.pop() ?? refuse(m, "takes values to a mark that was not set"))
}

function mark(m: Machine): void {
  m.marks.push(m.stack.length)
  if (m.marks.length > MAX_DEPTH) limit(m, `nested deeper than ${MAX_DEPTH}`)
}

function dup(m: Machine): void {
  const value = pop(m)
  m.stack.push(value, value)
}

/** The dict or list on top of the stack, which stays there. */
function top<K extends "dict" | "list">(m: Machine, kind: K): Extract<Pickled, { kind: K }> {
  const value = pop(m)
  m.stack.push(value)
  return isKind(value, kind) ? value : refuse(m, `adds an item to ${kindOf(value)}, expected a ${kind}`)
}

function put(m: Machine, index: number): void {
  const value = pop(m)
  m.stack.push(value)
  m.memo.set(index, value)
  if (m.memo.size > MAX_MEMO) limit(m, `more than ${MAX_MEMO} memo entries`)
}

function get(m: Machine, index: number): void {
  const value = m.memo.get(index)
  m.stack.push(value === undefined ? refuse(m, `memo ${index} is read before it is set`) : value)
}

// Containers

/** Count `value` into `owner`, which takes it. */
function own(m: Machine, owner: Tree, value: Pickled): void {
  const tree = typeof value === "object" && value !== null && "parts" in value ? value : { depth: 0, parts: 1 }
  owner.depth = Math.max(owner.depth, tree.depth + 1)
  owner.parts += tree.parts
  if (owner.depth > MAX_DEPTH) limit(m, `nested deeper than ${MAX_DEPTH}`)
  if (owner.parts > MAX_PARTS) limit(m, `shared parts make more than ${MAX_PARTS} values`)
}

function sequence<K extends "list" | "tuple">(m: Machine, kind: K, items: Pickled[]): Sequence<K> {
  const made = { kind, items, depth: 1, parts: 1 }
  for (const item of items) own(m, made, item)
  return made
}

function tuple(m: Machine, n: number): Sequence<"tuple"> {
  const items = Array.from({ length: n }, () => pop(m))
  return sequence(m, "tuple", items.reverse())
}

function append(m: Machine, items: readonly Pickled[]): void {
  const list = top(m, "list")
  for (const item of items) {
    own(m, list, item)
    list.items.push(item)
  }
}

function setItems(m: Machine, items: readonly Pickled[]): void {
  const target = top(m, "dict")
  if (items.length % 2 !== 0) refuse(m, `sets ${items.length} keys and values, expected pairs`)
  for (let i = 0; i < items.length; i += 2) {
    const [key = null, value = null] = items.slice(i, i + 2)
    if (typeof key === "object" && key !== null) refuse(m, `dict key is ${kindOf(key)}, expected a string or number`)
    if (target.entries.has(key)) refuse(m, `dict key ${quote(String(key))} is set twice`)
    own(m, target, value)
    target.entries.set(key, value)
  }
}

// Globals

function global(m: Machine): void {
  const name = `${line(m)}.${line(m)}`
  const found = m.allowed.globals.get(name)
  m.stack.push(found ?? failAt(m, "E_PICKLE_GLOBAL", `global ${shown(name)} is not allowed in a state dict`))
}

/** A name as it is, one with unusual characters quoted so that the message stays one line. Protocol 2 calls the
 * module builtins by its Python 2 name. */
function shown(name: string): string {
  if (!/^[\w.<>-]+$/.test(name)) return quote(name)
  return name.startsWith("__builtin__.") ? `${name} (${name.replace("__builtin__", "builtins")})` : name
}

function reduce(m: Machine): void {
  const args = pop(m)
  const callee = pop(m)
  if (!isKind(callee, "function")) refuse(m, `calls ${kindOf(callee)}, expected a function`)
  if (!isKind(args, "tuple")) refuse(m, `calls a function with ${kindOf(args)}, expected a tuple`)
  m.stack.push(callee.call(m, args.items))
}

/** A state dict's `_metadata` (the versions of its modules) and a parameter's attributes: checked and dropped. */
function build(m: Machine): void {
  const state = pop(m)
  const owner = pop(m)
  const allowed = isKind(owner, "view") || (isKind(owner, "dict") && owner.ordered)
  if (!allowed || !isKind(state, "dict")) {
    refuse(m, `opcode BUILD sets ${kindOf(state)} on ${kindOf(owner)}, expected a dict on an OrderedDict`)
  }
  m.stack.push(owner)
}

// Opcodes

const STOP = 0x2e

const push =
  (make: (m: Machine) => Pickled) =>
  (m: Machine): void =>
    void m.stack.push(make(m))

/** All that PyTorch writes at protocol 2, and older ways to say the same. */
const RULES: Record<string, (m: Machine) => void> = {
  "\x80": (m) => {
    const version = u8(m)
    if (version > 3) refuse(m, `pickle protocol ${version}, expected 2, which torch.save writes`)
  },
  "(": mark,
  "0": pop,
  "1": popMark,
  "2": dup,
  N: push(() => null),
  "\x88": push(() => true),
  "\x89": push(() => false),
  J: push((m) => m.bytes.getInt32(take(m, 4), true)),
  K: push(u8),
  M: push((m) => m.bytes.getUint16(take(m, 2), true)),
  "\x8a": push(long),
  G: push((m) => m.bytes.getFloat64(take(m, 8))),
  X: push((m) => text(m, u32(m))),
  ")": push((m) => tuple(m, 0)),
  "\x85": push((m) => tuple(m, 1)),
  "\x86": push((m) => tuple(m, 2)),
  "\x87": push((m) => tuple(m, 3)),
  t: push((m) => sequence(m, "tuple", popMark(m))),
  l: push((m) => sequence(m, "list", popMark(m))),
  "]": push((m) => sequence(m, "list", [])),
  "}": push(() => emptyDict(false)),
  a: (m) => append(m, [pop(m)]),
  e: (m) => append(m, popMark(m)),
  s: (m) => setItems(m, tuple(m, 2).items),
  u: (m) => setItems(m, popMark(m)),
  p: (m) => put(m, memoIndex(m)),
  q: (m) => put(m, u8(m)),
  r: (m) => put(m, u32(m)),
  g: (m) => get(m, memoIndex(m)),
  h: (m) => get(m, u8(m)),
  j: (m) => get(m, u32(m)),
  c: global,
  R: reduce,
  b: build,
  Q: push((m) => m.allowed.persistent(m, pop(m))),
}

const OPCODES = Array.from({ length: 256 }, (_, code) => new Map(Object.entries(RULES)).get(String.fromCharCode(code)))

/** Opcodes that name what runs, or hide it, and their likes. */
const REFUSED: ReadonlyMap<number, string> = new Map([
  [0x50, "PERSID"],
  [0x69, "INST"],
  [0x6f, "OBJ"],
  [0x81, "NEWOBJ"],
  [0x82, "EXT1"],
  [0x83, "EXT2"],
  [0x84, "EXT4"],
  [0x92, "NEWOBJ_EX"],
  [0x93, "STACK_GLOBAL"],
  [0x94, "MEMOIZE"],
  [0x95, "FRAME"],
])

const opcodeName = (code: number): string => `${REFUSED.get(code) ?? "of code"} 0x${code.toString(16).padStart(2, "0")}`
