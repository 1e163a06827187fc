/** @file The one error class of the project and its codes; exit codes are those the command line ends with. */

/** Every code an error can carry, with the exit code of the command line: 1 bad input, 2 usage, 3 refused for
 * integrity or security, 4 Hub or network, 5 resources, 6 conflict. */
const EXIT = {
  // safetensors files
  E_ST_TRUNCATED: 1,
  E_ST_HEADER_LENGTH: 1,
  E_ST_HEADER_TOO_LARGE: 1,
  E_ST_HEADER_UTF8: 1,
  E_ST_HEADER_JSON: 1,
  E_ST_DUPLICATE_KEY: 1,
  E_ST_INT_RANGE: 1,
  E_ST_OFFSETS: 1,
  E_ST_OVERLAP: 1,
  E_ST_HOLE: 1,
  E_ST_TRAILING: 1,
  E_ST_SHAPE: 1,
  E_ST_DTYPE: 1,
  E_ST_METADATA: 1,
  E_UNSUPPORTED_DTYPE: 1,
  E_NOT_SAFETENSORS: 1,
  E_LFS_POINTER: 1,
  E_NOT_A_FILE: 1,
  E_CHANGED_DURING_READ: 1,
  // shards and names
  E_INDEX: 1,
  E_SHARD_MISSING: 1,
  E_INDEX_MISMATCH: 1,
  E_DUPLICATE_TENSOR: 1,
  E_NAME_COLLISION: 1,
  E_UNSAFE_PATH: 3,
  E_UNSAFE_FORMAT: 3,
  // configs and conversion
  E_CONFIG: 1,
  E_CONFIG_LIMIT: 1,
  E_UNSUPPORTED_ARCH: 1,
  E_UNSUPPORTED_QUANT: 1,
  E_UNSUPPORTED_ACTIVATION: 1,
  E_SHAPE_MISMATCH: 1,
  E_MISSING_TENSORS: 1,
  E_UNEXPECTED_TENSORS: 1,
  E_AMBIGUOUS_PREFIX: 1,
  E_PREPROC: 1,
  E_REPO_ID: 1,
  E_REVISION: 1,
  // pickles and archives
  E_PICKLE_GLOBAL: 3,
  E_PICKLE_OPCODE: 3,
  E_PICKLE_LIMIT: 3,
  E_PICKLE_TRUNCATED: 1,
  E_PICKLE_LEGACY: 1,
  E_PICKLE_STATE_DICT: 1,
  E_STORAGE_BOUNDS: 1,
  E_STORAGE_MISSING: 1,
  E_ZIP: 1,
  // images and data
  E_IMAGE_DECODE: 1,
  E_IMAGE_TOO_LARGE: 1,
  E_DATASET_GONE: 1,
  E_DATASET_EMPTY: 1,
  E_DATASET_SCHEMA: 1,
  E_LABEL_RANGE: 1,
  E_IDX: 1,
  E_GZIP: 1,
  E_NPY_HEADER: 1,
  E_NPY_OBJECT: 1,
  E_PARQUET: 1,
  E_PARQUET_TIMEOUT: 1,
  // hub and cache
  E_HUB_NOT_FOUND: 4,
  E_HUB_AUTH: 4,
  E_HUB_GATED: 4,
  E_HUB_RATE_LIMIT: 4,
  E_HUB_UNAVAILABLE: 4,
  E_HUB_TIMEOUT: 4,
  E_HUB_PROTOCOL: 4,
  E_HUB_CONFLICT: 6,
  E_NETWORK: 4,
  E_OFFLINE: 4,
  E_CACHE_READONLY: 5,
  E_INTEGRITY: 3,
  E_CACHE_CORRUPT: 3,
  // running
  E_USAGE: 2,
  E_HOOK: 2,
  E_INPUT: 1,
  E_DEVICE: 2,
  E_RUNTIME: 5,
  E_MEMORY_BUDGET: 5,
  E_WORKER_CRASH: 5,
  E_JOB_INVALID: 1,
  E_QUEUE: 4,
  // training
  E_CHECKPOINT_CORRUPT: 3,
  E_CHECKPOINT_MISMATCH: 1,
  E_TRAIN_DIVERGED: 1,
  // output
  E_DISK_FULL: 5,
  E_IO: 5,
  E_OUTPUT: 6,
  E_LOCKED: 6,
  E_CARD: 1,
  E_SECRET_FOUND: 3,
  E_ONNX_EXTERNAL: 3,
  E_ONNX_FORMAT: 1,
  E_PARITY: 3,
  E_INTERRUPTED: 130,
} as const

export type ErrorCode = keyof typeof EXIT

/** Where an error happened; a URL is given without its query. */
export interface ErrorPlace {
  readonly file?: string
  readonly tensor?: string
  readonly repo?: string
  readonly url?: string
  readonly retryable?: boolean
  readonly cause?: unknown
}

/** What no error says: each token with a pattern of the forms that servers and paths may give it back in. */
const secrets = new Map<string, RegExp>()
/** Shorter ones are words that may stand anywhere. */
const SHORTEST = 8

/** From now on no error says this token, whoever has put it into a name, a header or an answer. */
export function keepSecret(token: string): void {
  if (token.length < SHORTEST || secrets.has(token)) return
  // In a longer text, as that of "Basic base64(user:token)", base64 has three forms of it; these are without its neighbours' bits.
  const inBase64 = [0, 1, 2].map((before) =>
    btoa(" ".repeat(before) + token).slice(Math.ceil((before * 4) / 3), Math.floor(((before + token.length) * 4) / 3)),
  )
  const forms = [Array.from(token, (c) => written(c)), ...inBase64.map((text) => Array.from(text, base64))]
  secrets.set(token, new RegExp(forms.map(orItsStart).join("|"), "g"))
}

/** A character, as it is, behind backslashes, or in a URL's escapes, escaped once or more. */
function written(c: string, also = ""): string {
  if (/[A-Za-z0-9_]/.test(c)) return c
  const hex = c.charCodeAt(0).toString(16).padStart(2, "0")
  const escape = hex.replace(/[a-f]/g, (digit) => `[${digit}${digit.toUpperCase()}]`)
  return `(?:\\\\*\\x${hex}|%(?:25)*${escape}${also})`
}

/** A URL's own base64 has - and _ for + and /. */
const base64 = (c: string): string => (c === "+" ? written(c, "|-") : c === "/" ? written(c, "|_") : c)

/** The characters one after another; also the first of them, where `quote` has cut off the others. What the first 120 are of
 * goes on as far as it may; an engine's stack holds no pattern of some thousand. */
function orItsStart(all: readonly string[]): string {
  const [start, rest] = [all.slice(0, SHORTEST), all.slice(SHORTEST, 120)]
  const some = rest.reduceRight((more, c) => `(?:${c}${more})?`, "")
  const more = all.length > 120 ? `[^\\s"]*` : ""
  return `${start.join("")}(?:${rest.join("")}${more}|${some}\\\\*(?:%\\w*)?(?=\\.{3}))`
}

/** A text in which *** stands for each secret. */
export const withoutSecrets = (text: string): string =>
  [...secrets.values()].reduce((t, secret) => t.replaceAll(secret, "***"), text)

/** Every failure a caller can meet: one line of `message` that says what, where, expected, got and what to do. */
export class PrismaError extends Error {
  override readonly name = "PrismaError"
  readonly code: ErrorCode
  readonly retryable: boolean
  readonly file?: string
  readonly tensor?: string
  readonly repo?: string
  readonly url?: string

  constructor(code: ErrorCode, message: string, place: ErrorPlace = {}) {
    super(withoutSecrets(message), place.cause === undefined ? undefined : { cause: place.cause })
    this.code = code
    this.retryable = place.retryable ?? false
    if (place.file !== undefined) this.file = withoutSecrets(place.file)
    if (place.tensor !== undefined) this.tensor = withoutSecrets(place.tensor)
    if (place.repo !== undefined) this.repo = withoutSecrets(place.repo)
    if (place.url !== undefined) this.url = withoutSecrets(place.url)
  }

  /** What the process ends with when this error reaches the command line. */
  get exitCode(): number {
    return EXIT[this.code]
  }

  toJSON(): Record<string, unknown> {
    const { code, message, retryable, file, tensor, repo, url } = this
    return { code, message, retryable, file, tensor, repo, url }
  }
}

/** Throw a PrismaError; an expression, so that it fits behind `??` and in arrow functions. */
export function fail(code: ErrorCode, message: string, place?: ErrorPlace): never {
  throw new PrismaError(code, message, place)
}

/** Up to `limit` names and how many more there are: `a, b, c and 4 more`. */
export function listed(names: readonly string[], limit = 20): string {
  const shown = names.slice(0, limit).join(", ")
  return names.length > limit ? `${shown} and ${names.length - limit} more` : shown
}

/** The `n` candidates nearest to `name` by edit distance (Levenshtein 1966), nearest first. */
export function nearest(name: string, candidates: readonly string[], n = 3): string[] {
  const scored = candidates.map((c) => [distance(name, c), c] as const)
  return scored
    .sort((a, b) => a[0] - b[0])
    .slice(0, n)
    .map(([, c]) => c)
}

function distance(a: string, b: string): number {
  let row = Array.from({ length: b.length + 1 }, (_, j) => j)
  for (let i = 1; i <= a.length; i++) {
    const next = [i]
    for (let j = 1; j <= b.length; j++) {
      next.push(Math.min(row[j]! + 1, next[j - 1]! + 1, row[j - 1]! + (a[i - 1] === b[j - 1] ? 0 : 1)))
    }
    row = next
  }
  return row[b.length]!
}
