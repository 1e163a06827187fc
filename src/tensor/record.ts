/** @file Values of which no more is known than that they were read. */

export type Fields = Readonly<Record<string, unknown>>

/** An object with keys: no list, not null. */
export const isRecord = (value: unknown): value is Fields =>
  typeof value === "object" && value !== null && !Array.isArray(value)

/** The value's fields where it is an object, else none. */
export const fieldsOf = (value: unknown): Fields =>
  typeof value === "object" && value !== null ? (value as Fields) : {}
