/** @file Fields of JSON files, which anybody may have written: each is of its kind, absent, or refused by name. */
import { type ErrorCode, fail } from "../errors.ts"
import { quote } from "../tensor/quote.ts"

export interface Fields {
  /** A finite number; absent where it is null. */
  number(name: string, least?: number, most?: number): number | undefined
  /** A whole number of at least 0. */
  whole(name: string): number | undefined
  text(name: string): string | undefined
  /** What is below `name`; empty where there is nothing. */
  at(name: string): Fields
  list(name: string): readonly Fields[]
  /** A list of texts and numbers. */
  values(name: string): readonly (string | number)[]
  /** The names of all fields. */
  names(): readonly string[]
  /** Names with values that are texts or numbers; others are passed over. */
  entries(): readonly (readonly [name: string, value: string | number])[]
  has(name: string): boolean
}

/** Error: E_CONFIG, with the field's path, what it must be and what it is. */
export function fieldsOf(json: unknown, file: string, path = "", code: ErrorCode = "E_CONFIG"): Fields {
  const refuse = (name: string, must: string, got: unknown): never => {
    const where = [path, name].filter(Boolean).join(".") || "the file"
    return fail(code, `${file}: ${where} must be ${must}, got ${quote(JSON.stringify(got) ?? "nothing")}`, { file })
  }
  if (json !== undefined && (typeof json !== "object" || json === null || Array.isArray(json))) {
    return refuse("", "an object", json)
  }
  const values = new Map(Object.entries(json ?? {}).filter(([, v]) => v !== null))
  const below = (name: string) => [path, name].filter(Boolean).join(".")
  return {
    number(name, least = -Infinity, most = Infinity) {
      const v = values.get(name)
      if (v === undefined) return undefined
      if (typeof v === "number" && Number.isFinite(v) && v >= least && v <= most) return v
      const bounds =
        least === -Infinity ? "" : most === Infinity ? ` of at least ${least}` : ` from ${least} to ${most}`
      return refuse(name, `a number${bounds}`, v)
    },
    whole(name) {
      const v = values.get(name)
      if (v === undefined || (Number.isSafeInteger(v) && (v as number) >= 0)) return v as number | undefined
      return refuse(name, "a whole number of at least 0", v)
    },
    text(name) {
      const v = values.get(name)
      return v === undefined || typeof v === "string" ? v : refuse(name, "a text", v)
    },
    at: (name) => fieldsOf(values.get(name), file, below(name), code),
    list(name) {
      const v = values.get(name)
      if (v === undefined) return []
      if (!Array.isArray(v)) return refuse(name, "a list", v)
      return v.map((item: unknown, i) => fieldsOf(item, file, `${below(name)}[${i}]`, code))
    },
    values(name) {
      const v = values.get(name) ?? []
      const plain = (x: unknown): x is string | number => typeof x === "string" || typeof x === "number"
      return Array.isArray(v) && v.every(plain) ? v : refuse(name, "a list of texts and numbers", v)
    },
    names: () => [...values.keys()],
    entries: () =>
      [...values].flatMap(([name, v]) => (typeof v === "string" || typeof v === "number" ? [[name, v] as const] : [])),
    has: (name) => values.has(name),
  }
}
