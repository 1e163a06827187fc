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
