/** @file JSON files from outside, bounded in bytes and nesting before they are parsed. */
import { type ErrorCode, fail } from "../errors.ts"
import { quote } from "../tensor/quote.ts"
import { readFully, withFile } from "./read.ts"

/** What a reader of some kind of JSON file allows (bytes, containers open at once), and the codes of its refusals. */
export interface JsonRules {
  readonly limit: number
  readonly depth?: number
  readonly malformed: ErrorCode
  readonly tooLarge: ErrorCode
}

/** The value of a JSON file. Errors: the rules' codes; E_NOT_A_FILE and E_IO where it cannot be read. */
export async function readJson(path: string, rules: JsonRules): Promise<unknown> {
  const bytes = await readBounded(path, rules)
  let text: string
  try {
    text = new TextDecoder("utf-8", { fatal: true }).decode(bytes)
  } catch {
    return fail(rules.malformed, `${path}: is not UTF-8 text; expected JSON`, { file: path })
  }
  const { depth = 100 } = rules
  if (nestsDeeper(text, depth)) {
    fail(rules.tooLarge, `${path}: nesting deeper than ${depth}; expected an ordinary JSON file`, { file: path })
  }
  try {
    return JSON.parse(text) as unknown
  } catch (error) {
    const why = error instanceof Error ? error.message : ""
    return fail(rules.malformed, `${path}: is not valid JSON: ${quote(why)}`, { file: path })
  }
}

function readBounded(path: string, { limit, tooLarge }: JsonRules): Promise<Uint8Array> {
  return withFile(path, async (file, size) => {
    if (size > limit)
      fail(tooLarge, `${path}: ${size} bytes, above the limit of ${limit} for such a file`, { file: path })
    const bytes = new Uint8Array(size)
    return bytes.subarray(0, await readFully(file, path, bytes, 0))
  })
}

function nestsDeeper(text: string, depth: number): boolean {
  let open = 0
  for (let i = 0; i < text.length; i++) {
    const c = text[i]
    if (c === '"') {
      while (++i < text.length && text[i] !== '"') if (text[i] === "\\") i++
    } else if (c === "{" || c === "[") {
      if (++open > depth) return true
    } else if (c === "}" || c === "]") open--
  }
  return false
}

/** A string or a number of JSON. */
const TOKEN = /"(?:[^"\\]|\\.)*"|-?\d+(?:\.\d+)?(?:[eE][+-]?\d+)?/g
/** A number on its way through strings: a character that no config has, and how it was written. */
const MARK = "\u0001"

/**
 * JSON of `value` in which a number that `source`, a JSON text, has at the same place is written as there: JavaScript has no
 * 1.0, and a config of transformers 5 takes no 1 where it wants a float.
 */
export function jsonLike(value: unknown, source: string): string {
  const plain = source.replace(/^\uFEFF/, "")
  const literals = JSON.parse(plain.replaceAll(TOKEN, (t) => (t.startsWith('"') ? t : `"\\u0001${t}"`))) as unknown
  const marked = JSON.stringify(asWritten(value, literals), undefined, 2)
  return `${marked.replaceAll(/"\\u0001([-+.\deE]+)"/g, "$1")}\n`
}

function asWritten(value: unknown, literals: unknown): unknown {
  if (typeof value === "number")
    return typeof literals === "string" && literals.startsWith(MARK) && Number(literals.slice(1)) === value
      ? literals
      : value
  if (typeof value !== "object" || value === null) return value
  const there = Object(literals) as Readonly<Record<string, unknown>>
  if (Array.isArray(value)) return value.map((x, i) => asWritten(x, there[i]))
  return Object.fromEntries(
    Object.entries(value).map(([key, x]) => [key, asWritten(x, Object.hasOwn(there, key) ? there[key] : undefined)]),
  )
}
