/** @file Seeded mutations of valid safetensors files, each judged by the reader under test and by a plain second opinion that
 * follows the reference's rules (JSON.parse, a sort, a walk) and shares no code with it. */
import { type ErrorCode, PrismaError } from "../../src/errors.ts"
import { entry, file } from "./safetensors-corpus.ts"

export interface FuzzResult {
  readonly accepted: number
  /** How often each code was given. */
  readonly codes: ReadonlyMap<ErrorCode, number>
  /** What was thrown and is not a PrismaError. */
  readonly untyped: readonly string[]
  /** Inputs on which the two verdicts differ. */
  readonly differences: readonly string[]
  /** The longest time for one input, in ms. */
  readonly slowest: number
}

/** Give `count` mutated files to `read`, which throws to refuse. The same seed gives the same files. */
export function fuzz(read: (bytes: Uint8Array) => unknown, count: number, seed: number): FuzzResult {
  const random = mulberry32(seed)
  const codes = new Map<ErrorCode, number>()
  const untyped: string[] = []
  const differences: string[] = []
  let accepted = 0
  let slowest = 0
  for (let i = 0; i < count; i++) {
    const bytes = mutate(random)
    let code: ErrorCode | undefined
    const start = performance.now()
    try {
      read(bytes)
      accepted++
    } catch (error) {
      if (error instanceof PrismaError) code = error.code
      else untyped.push(`${String(error)} on ${show(bytes)}`)
      if (code !== undefined) codes.set(code, (codes.get(code) ?? 0) + 1)
    }
    slowest = Math.max(slowest, performance.now() - start)
    // What we refuse and the reference reads: keys that are there twice, and sizes no file has.
    if (code === "E_ST_DUPLICATE_KEY" || code === "E_ST_INT_RANGE") continue
    const other = verdict(bytes)
    if (other !== undefined && other !== (code === undefined)) differences.push(`${code ?? "accepted"}: ${show(bytes)}`)
  }
  return { accepted, codes, untyped, differences, slowest }
}

const show = (bytes: Uint8Array): string => JSON.stringify(Buffer.from(bytes).toString("latin1"))

/** https://github.com/bryc/code/blob/master/jshash/PRNGs.md#mulberry32 */
function mulberry32(seed: number): (below: number) => number {
  let state = seed
  return (below) => {
    state = (state + 0x6d2b79f5) | 0
    let t = Math.imul(state ^ (state >>> 15), 1 | state)
    t = (t + Math.imul(t ^ (t >>> 7), 61 | t)) ^ t
    return Math.floor((((t ^ (t >>> 14)) >>> 0) / 2 ** 32) * below)
  }
}

const a = entry("a", "F32", "[2,3]", 0, 24)
const SEEDS: readonly Uint8Array[] = [
  file(`{${a}}`, 24),
  file(`{"__metadata__":{"format":"pt","x":"1"},${a},${entry("b.c", "F16", "[4]", 24, 32)}}   `, 32),
  file(`{${entry("s", "I64", "[]", 0, 8)},${entry("e", "U8", "[2,0]", 8, 8)},${entry("t", "BOOL", "[3]", 8, 11)}}`, 11),
  file(`{${entry("z", "F4", "[3,2]", 3, 6)},${entry("y", "F8_E4M3", "[3]", 0, 3)}}`, 6),
  file(`{"n\\u006f\u00e9":{"x":[{"y":null},true],"shape":[1],"data_offsets":[0,2],"dtype":"BF16"}}`, 2),
  file("{}"),
]
const TOKENS = [
  ...Array.from('{}[]",:\\ 0123456789-.eEut\n\0\xff'),
  "null",
  "true",
  "[]",
  "{}",
  '"a"',
  '"dtype"',
  '"__metadata__"',
]
const NUMBERS = ["0", "1", "2", "3", "4", "6", "8", "24", "-1", "1.0", "02", "2147483648", "9007199254740992"]
NUMBERS.push("9007199254740991", "18446744073709551615", "18446744073709551616", "1e3")

function mutate(random: (below: number) => number): Uint8Array {
  const seed = SEEDS[random(SEEDS.length)]!
  const length = Number(new DataView(seed.buffer).getBigUint64(0, true))
  let json = Buffer.from(seed.subarray(8, 8 + length)).toString("latin1")
  let data = seed.subarray(8 + length)
  for (let n = random(4); n >= 0; n--) {
    const at = random(json.length + 1)
    const size = random(6)
    const token = TOKENS[random(TOKENS.length)]!
    const number = NUMBERS[random(NUMBERS.length)]!
    const kind = random(8)
    if (kind === 0) json = json.slice(0, at) + token + json.slice(at)
    else if (kind === 1) json = json.slice(0, at) + json.slice(at + size)
    else if (kind === 2) json = json.slice(0, at) + token + json.slice(at + token.length)
    else if (kind === 3) json = json.slice(0, at) + json.slice(random(json.length + 1), at + size * 8) + json.slice(at)
    else if (kind === 4) data = new Uint8Array(Math.max(0, data.length + size - 3))
    else if (kind === 5) json = json.slice(0, at) + String.fromCharCode(random(256)) + json.slice(at + 1)
    else json = json.slice(0, at) + json.slice(at).replace(/\d+/, number)
  }
  const bytes = file(Buffer.from(json, "latin1"), data)
  const place = random(8)
  // One file in eight has a wrong length or is cut.
  if (place > 0) return bytes
  if (random(2) === 0) return bytes.slice(0, random(bytes.length))
  bytes[random(Math.min(8, bytes.length))] = random(256)
  return bytes
}

const BITS: Record<string, number> = { BOOL: 8, U8: 8, I8: 8, I16: 16, U16: 16, F16: 16, BF16: 16, I32: 32, U32: 32 }
Object.assign(BITS, { F32: 32, F64: 64, I64: 64, U64: 64, C64: 64, F4: 4, F6_E2M3: 6, F6_E3M2: 6, F8_E5M2: 8 })
Object.assign(BITS, { F8_E4M3: 8, F8_E8M0: 8, F8_E4M3FNUZ: 8, F8_E5M2FNUZ: 8 })

/** Would the reference read it? Undefined where JSON.parse cannot tell: it hides how a number was written, and keys that are
 * there twice. */
function verdict(bytes: Uint8Array): boolean | undefined {
  if (bytes.length < 8) return false
  const length = Buffer.from(bytes).readBigUInt64LE(0)
  if (length > 100_000_000n || Number(length) + 8 > bytes.length) return false
  let text: string
  let root: unknown
  try {
    text = new TextDecoder("utf-8", { fatal: true, ignoreBOM: true }).decode(bytes.subarray(8, 8 + Number(length)))
    root = JSON.parse(text)
  } catch {
    return false
  }
  const bare = text.replace(/"(?:[^"\\]|\\.)*"/g, "")
  if (/\\u[dD][89a-fA-F]/.test(text) || /\d[.eE]|-/.test(bare) || countKeys(root) < bare.split(":").length - 1) {
    return undefined
  }
  if (!isObject(root)) return false
  const { __metadata__: metadata, ...entries } = root
  if (metadata !== undefined && metadata !== null) {
    if (!isObject(metadata) || !Object.values(metadata).every((v) => typeof v === "string")) return false
  }
  const spans: [number, number][] = []
  for (const e of Object.values(entries)) {
    if (!isObject(e) || typeof e.dtype !== "string" || !Object.hasOwn(BITS, e.dtype)) return false
    if (!isCounts(e.shape) || !isCounts(e.data_offsets) || e.data_offsets.length !== 2) return false
    const [begin, end] = e.data_offsets as [number, number]
    const bits = e.shape.reduce((n, dim) => n * BigInt(dim), 1n) * BigInt(BITS[e.dtype]!)
    if (bits !== BigInt(end - begin) * 8n) return false
    spans.push([begin, end])
  }
  spans.sort((x, y) => x[0] - y[0] || x[1] - y[1])
  let at = 0
  for (const [begin, end] of spans) {
    if (begin !== at || end < begin) return false
    at = end
  }
  return at + 8 + Number(length) === bytes.length
}

const countKeys = (x: unknown): number =>
  typeof x === "object" && x !== null
    ? Object.values(x).reduce<number>((n, value) => n + (Array.isArray(x) ? 0 : 1) + countKeys(value), 0)
    : 0

const isObject = (x: unknown): x is Record<string, unknown> => typeof x === "object" && x !== null && !Array.isArray(x)

const isCounts = (x: unknown): x is number[] => Array.isArray(x) && x.every((n) => Number.isInteger(n) && n >= 0)
