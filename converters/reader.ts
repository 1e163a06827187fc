/** @file Typed reading of a config.json: every wrong value is an error that names key, file, expected and got. */
import { fail, nearest } from "../src/errors.ts"
import type { Activation } from "../src/model/config.ts"
import { quote } from "../src/tensor/quote.ts"
import { isRecord } from "../src/tensor/record.ts"

/**
 * Far above any published model, far below what would exhaust memory: a config is untrusted. `context` and `tokens` are
 * sides of tables that the graph itself holds (the causal mask; zeros for tokens without a position).
 */
const LIMIT = {
  width: 2 ** 16,
  count: 2 ** 10,
  pixels: 2 ** 13,
  rows: 10_000_000,
  classes: 2 ** 20,
  context: 2 ** 11,
  tokens: 2 ** 8,
} as const
type Limit = keyof typeof LIMIT

// SigLIP so400m (google/siglip-so400m-patch14-384, timm's vit_so400m_patch14_siglip_384): 27 patches, 6 pixels unread.
const REMAINDERS = new Set(["384/14"])

/** Absent keys give `fallback`; without one the key is required. */
interface Options<T> {
  readonly fallback?: T | undefined
  readonly limit?: Limit
}

export class ConfigReader {
  readonly file: string
  readonly #json: Readonly<Record<string, unknown>>
  readonly #path: string

  constructor(json: unknown, file: string, path = "") {
    this.file = file
    this.#path = path
    this.#json = isRecord(json) ? json : this.#wrong("", "an object", json)
  }

  has(key: string): boolean {
    return this.#json[key] !== undefined && this.#json[key] !== null
  }

  /** A positive integer within a limit. */
  int(key: string, { fallback, limit = "width" }: Options<number> = {}): number {
    const value = this.#get(key, fallback)
    const valid = typeof value === "number" && Number.isInteger(value) && value >= 1
    return valid ? this.#limited(key, value, limit) : this.#wrong(key, "an integer of at least 1", value)
  }

  /** A non-negative integer. */
  count(key: string, { fallback, limit = "count" }: Options<number> = {}): number {
    const value = this.#get(key, fallback)
    const valid = typeof value === "number" && Number.isInteger(value) && value >= 0
    return valid ? this.#limited(key, value, limit) : this.#wrong(key, "an integer of at least 0", value)
  }

  number(key: string, { fallback }: Options<number> = {}): number {
    const value = this.#get(key, fallback)
    return typeof value === "number" && Number.isFinite(value) ? value : this.#wrong(key, "a number", value)
  }

  positive(key: string, options: Options<number> = {}): number {
    const value = this.number(key, options)
    return value > 0 ? value : this.#wrong(key, "a number above 0", value)
  }

  /** `width` times the ratio that this key gives, cut to an integer of at least 1. */
  scaled(key: string, fallback: number, width: number): number {
    const ratio = this.positive(key, { fallback })
    const product = Math.trunc(width * ratio)
    return product >= 1 ? this.#limited(key, product, "width") : this.#wrong(key, `at least 1 / ${width}`, ratio)
  }

  bool(key: string, fallback: boolean): boolean {
    const value = this.#get(key, fallback)
    return typeof value === "boolean" ? value : this.#wrong(key, "true or false", value)
  }

  string(key: string, fallback?: string): string {
    const value = this.#get(key, fallback)
    return typeof value === "string" ? value : this.#wrong(key, "a string", value)
  }

  /** The value that `table` has for this key's name. */
  choice<T>(key: string, fallback: string, table: Readonly<Record<string, T>>): T {
    const name = this.string(key, fallback)
    if (Object.hasOwn(table, name)) return table[name]!
    const known = Object.keys(table).map((k) => `"${k}"`)
    return this.#wrong(key, known.length > 1 ? `one of ${known.join(", ")}` : known[0]!, name)
  }

  /** [height, width] from one integer or two. */
  pair(key: string, { fallback }: Options<readonly [number, number]> = {}): [number, number] {
    const value = this.#get(key, fallback)
    const both = Array.isArray(value) ? (value as unknown[]) : [value, value]
    const valid = both.length === 2 && both.every((v) => typeof v === "number" && Number.isInteger(v) && v >= 1)
    if (!valid) return this.#wrong(key, "an integer of at least 1, or two", value)
    for (const v of both) this.#limited(key, v as number, "pixels")
    return both as [number, number]
  }

  /** Three integers, as timm's input_size [channels, height, width]. */
  sizes(key: string, fallback: readonly [number, number, number]): readonly [number, number, number] {
    const value = this.#get(key, fallback)
    const valid = Array.isArray(value) && value.length === 3 && value.every((v) => Number.isInteger(v) && v >= 1)
    if (!valid) return this.#wrong(key, "three integers of at least 1", value)
    for (const v of value as number[]) this.#limited(key, v, "pixels")
    return value as [number, number, number]
  }

  /** A reader of the same place that holds nothing. */
  empty(): ConfigReader {
    return new ConfigReader({}, this.file, this.#path)
  }

  /** A list of strings; undefined where the key is absent. */
  strings(key: string): string[] | undefined {
    if (!this.has(key)) return undefined
    const value = this.#json[key]
    if (!Array.isArray(value) || !value.every((v) => typeof v === "string"))
      return this.#wrong(key, "a list of strings", value)
    return value
  }

  object(key: string, { fallback }: Options<object> = {}): ConfigReader {
    return new ConfigReader(this.#get(key, fallback), this.file, `${this.#path}${key}.`)
  }

  /** The value of a key as it is. */
  raw(key: string): unknown {
    return this.#json[key]
  }

  /** The whole object as it is. */
  get json(): Readonly<Record<string, unknown>> {
    return this.#json
  }

  /** The activation function of this key, under any of the names that transformers and timm give it. */
  activation(key: string, fallback: Activation): Activation {
    const name = this.string(key, fallback)
    const known = ACTIVATIONS.get(name)
    if (known) return known
    const names = [...ACTIVATIONS.keys()]
    return fail(
      "E_UNSUPPORTED_ACTIVATION",
      `${this.file}: ${this.#path}${key} must be one of ${names.join(", ")}, got ${quote(name)} (nearest: ${nearestTo(name, names)})`,
      { file: this.file },
    )
  }

  /** The value `a` of one key must be a multiple of the value `b` of another; the quotient. */
  divide(key: string, a: number, by: string, b: number): number {
    if (a % b === 0) return a / b
    return this.invalid(`${this.#path}${key} must be a multiple of ${this.#path}${by}: ${a} not divisible by ${b}`)
  }

  /**
   * Patches down and across. The image must be a multiple of the patch, but for those published models whose library
   * leaves the last pixels out.
   */
  patches(key: string, image: readonly [number, number], patch: readonly [number, number]): [number, number] {
    const along = (i: 0 | 1) =>
      REMAINDERS.has(`${image[i]}/${patch[i]}`)
        ? Math.floor(image[i] / patch[i])
        : this.divide(key, image[i], "patch_size", patch[i])
    return [along(0), along(1)]
  }

  /** Refuse what this key asks for, which the library can compute and we cannot. */
  unsupported(key: string): never {
    return this.invalid(
      `${this.#path}${key} must be absent or false (nothing else is supported), got ${brief(this.raw(key))}`,
    )
  }

  invalid(message: string): never {
    return fail("E_CONFIG", `${this.file}: ${message}`, { file: this.file })
  }

  #get(key: string, fallback: unknown): unknown {
    const value = this.#json[key]
    return value === undefined ? fallback : value
  }

  #limited(key: string, value: number, limit: Limit): number {
    const most = LIMIT[limit]
    if (value <= most) return value
    return fail("E_CONFIG_LIMIT", `${this.file}: ${this.#path}${key} is ${value}, the limit is ${most}`, {
      file: this.file,
    })
  }

  #wrong(key: string, expected: string, got: unknown): never {
    const name = key ? `${this.#path}${key}` : this.#path.slice(0, -1) || "the file"
    if (got === undefined) this.invalid(`the key "${name}" is required and missing; it must be ${expected}`)
    return this.invalid(`${name} must be ${expected}, got ${brief(got)}`)
  }
}

/** A foreign value on one line, cut if it is long. */
export function brief(value: unknown): string {
  if (typeof value === "string") return quote(value)
  // JSON has no word for what 1e999 becomes.
  const text = typeof value === "number" ? String(value) : JSON.stringify(value)
  return (text.length > 60 ? `${text.slice(0, 60)}...` : text).replace(/[\p{C}\p{Zl}\p{Zp}]/gu, "?")
}

/** The candidate nearest to a foreign name, which may be of any length. */
export const nearestTo = (name: string, candidates: readonly string[]): string =>
  nearest(name.slice(0, 100), candidates, 1)[0]!

// transformers' ACT2FN and timm's names; gelu_new, gelu_fast and gelu_pytorch_tanh are one formula.
const ACTIVATIONS = new Map<string, Activation>([
  ["gelu", "gelu"],
  ["gelu_python", "gelu"],
  ["gelu_new", "gelu_tanh"],
  ["gelu_fast", "gelu_tanh"],
  ["gelu_pytorch_tanh", "gelu_tanh"],
  ["gelu_tanh", "gelu_tanh"],
  ["quick_gelu", "quick_gelu"],
  ["relu", "relu"],
  ["leaky_relu", "leaky_relu"],
  ["silu", "silu"],
  ["swish", "silu"],
  ["tanh", "tanh"],
  ["linear", "linear"],
])
