/** @file Typed reading of a config.json: every wrong value is an error that names key, file, expected and got. */
import { fail, nearest } from "../src/errors.ts"
import type { Activation } from "../src/model/config.ts"

// Far above any published model, far below what would exhaust memory: a config is untrusted.
const LIMIT = { width: 2 ** 16, count: 2 ** 12, pixels: 2 ** 14, rows: 10_000_000 } as const
type Limit = keyof typeof LIMIT

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
    this.#json = isObject(json) ? json : this.#wrong("", "an object", json)
  }

  has(key: string): boolean {
    return this.#json[key] !== undefined && this.#json[key] !== null
  }

  /** A positive integer within a limit. */
  int(key: string, { fallback, limit = "width" }: Options<number> = {}): number {
    const value = this.#get(key, fallback)
    if (typeof value !== "number" || !Number.isInteger(value) || value < 1)
      this.#wrong(key, "an integer of at least 1", value)
    return this.#limited(key, value, limit)
  }

  /** A non-negative integer. */
  count(key: string, { fallback, limit = "count" }: Options<number> = {}): number {
    const value = this.#get(key, fallback)
    if (typeof value !== "number" || !Number.isInteger(value) || value < 0)
      this.#wrong(key, "an integer of at least 0", value)
    return this.#limited(key, value, limit)
  }

  number(key: string, { fallback }: Options<number> = {}): number {
    const value = this.#get(key, fallback)
    return typeof value === "number" && Number.isFinite(value) ? value : this.#wrong(key, "a number", value)
  }

  positive(key: string, options: Options<number> = {}): number {
    const value = this.number(key, options)
    return value > 0 ? value : this.#wrong(key, "a number above 0", value)
  }

  bool(key: string, fallback: boolean): boolean {
    const value = this.#get(key, fallback)
    return typeof value === "boolean" ? value : this.#wrong(key, "true or false", value)
  }

  string(key: string, fallback?: string): string {
    const value = this.#get(key, fallback)
    return typeof value === "string" ? value : this.#wrong(key, "a string", value)
  }

  /** [height, width] from one integer or two. */
  pair(key: string, { fallback }: Options<readonly [number, number]> = {}): [number, number] {
    const value = this.#get(key, fallback)
    const both = Array.isArray(value) ? (value as unknown[]) : [value, value]
    const valid = both.length === 2 && both.every((v) => typeof v === "number" && Number.isInteger(v) && v >= 1)
    if (!valid) this.#wrong(key, "an integer of at least 1, or two", value)
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

  raw(key: string): unknown {
    return this.#json[key]
  }

  /** The activation function of this key, under any of the names that transformers and timm give it. */
  activation(key: string, fallback: Activation): Activation {
    const name = this.string(key, fallback)
    const known = ACTIVATIONS.get(name)
    if (known) return known
    const names = [...ACTIVATIONS.keys()]
    return fail(
      "E_UNSUPPORTED_ACTIVATION",
      `${this.file}: ${this.#path}${key} is "${name}"; supported are ${names.join(", ")} (nearest: ${nearest(name, names, 1)[0]})`,
      { file: this.file },
    )
  }

  /** `a` must be a multiple of `b`; the quotient. */
  divide(what: string, a: number, b: number): number {
    return a % b ? this.invalid(`${what}: ${a} is not divisible by ${b}`) : a / b
  }

  invalid(message: string): never {
    return fail("E_CONFIG", `${this.file}: ${message}`, { file: this.file })
  }

  #get(key: string, fallback: unknown): unknown {
    const value = this.#json[key]
    if (value !== undefined) return value
    if (fallback !== undefined) return fallback
    return fail("E_CONFIG", `${this.file}: the key "${this.#path}${key}" is required and missing`, { file: this.file })
  }

  #limited(key: string, value: number, limit: Limit): number {
    const most = LIMIT[limit]
    if (value <= most) return value
    return fail("E_CONFIG_LIMIT", `${this.file}: ${this.#path}${key} is ${value}, the limit is ${most}`, {
      file: this.file,
    })
  }

  #wrong(key: string, expected: string, got: unknown): never {
    const shown = got === undefined ? "nothing" : (JSON.stringify(got) ?? typeof got).slice(0, 60)
    return this.invalid(
      `${key ? `${this.#path}${key}` : this.#path.slice(0, -1) || "the file"} must be ${expected}, got ${shown}`,
    )
  }
}

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
  ["silu", "silu"],
  ["swish", "silu"],
  ["tanh", "tanh"],
])

const isObject = (value: unknown): value is Record<string, unknown> =>
  typeof value === "object" && value !== null && !Array.isArray(value)
