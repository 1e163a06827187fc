/** @file The metadata of a card, a YAML block before the text (https://huggingface.co/docs/hub/model-cards); the only import
 * of yaml. What is written reads the same by YAML 1.2, as the Hub's pages do, and by 1.1, as Python does. */
import { createRequire } from "node:module"
import type * as Yaml from "yaml"
import type { Document, Pair, Scalar, ScalarTag, Tags } from "yaml"

let loaded: typeof Yaml | undefined
/** At first use: it takes 4 MiB. */
const library = (): typeof Yaml => (loaded ??= createRequire(import.meta.url)("yaml") as typeof Yaml)

/** As the Hub finds the block. */
const BLOCK = /^(\s*---(?:\r\n|\r|\n))([\S\s]*?)((?:\r\n|\r|\n)---[ \t]*(?:\r\n|\n|$))/

export interface Parts {
  /** What stands between the two lines of dashes; undefined where there is no block. */
  readonly yaml: string | undefined
  /** Lines before it and before the text. */
  readonly yamlLine: number
  readonly body: string
  readonly bodyLine: number
}

const lines = (text: string): number => text.split("\n").length - 1

export function splitCard(text: string): Parts {
  const found = BLOCK.exec(text)
  if (!found) return { yaml: undefined, yamlLine: 0, body: text, bodyLine: 0 }
  const [whole, opening, yaml] = found
  return { yaml: yaml!, yamlLine: lines(opening!), body: text.slice(whole.length), bodyLine: lines(whole) }
}

export type Path = readonly (string | number)[]

export interface Block {
  readonly value: unknown
  /** The same by YAML 1.1, where `no` is false and `1:30` is 90. */
  readonly python: unknown
  /** Why it cannot be read, with the line, counted from 1. */
  readonly problems: readonly { readonly line: number; readonly what: string }[]
  /** The line where the value at `path` begins, or the nearest thing above it that is there. */
  lineOf(path: Path): number
}

/** An anchor may be used so often in one block; a bomb needs more. */
const ALIASES = 100

/** Read a block; never throws. */
export function readYaml(text: string): Block {
  const { LineCounter, parseDocument } = library()
  const counter = new LineCounter()
  const lineAt = (offset: number) => counter.linePos(offset).line
  try {
    const doc = parseDocument(text, { lineCounter: counter, prettyErrors: false })
    const problems = doc.errors.map(({ pos, message }) => ({ line: lineAt(pos[0]), what: message.split("\n")[0]! }))
    if (problems.length) return { value: undefined, python: undefined, problems, lineOf: () => 1 }
    const value: unknown = doc.toJS({ maxAliasCount: ALIASES })
    JSON.stringify(value) // what JSON cannot say, the Hub cannot either
    const python: unknown = pythonic(parseDocument(text, { version: "1.1", prettyErrors: false })).toJS()
    const lineOf = (path: Path): number => {
      for (let n = path.length; n > 0; n--) {
        const line = keyLine(doc.getIn(path.slice(0, n - 1), true) ?? doc.contents, path[n - 1]!, lineAt)
        if (line !== undefined) return line
      }
      return 1
    }
    return { value, python, problems: [], lineOf }
  } catch (error) {
    const what = WHY.find(([kind]) => error instanceof kind)?.[1] ?? "it cannot be parsed"
    return { value: undefined, python: undefined, problems: [{ line: 1, what }], lineOf: () => 1 }
  }
}

/** What the parser throws where it does not report. */
const WHY = [
  [ReferenceError, "aliases stand for too much"],
  [RangeError, "it is nested too deeply"],
  [TypeError, "an alias stands for what it is in"],
] as const

/** PyYAML departs from YAML 1.1: y and n are texts, and so is a number with an exponent but no point or no sign. */
function pythonic(doc: Document): Document {
  library().visit(doc, {
    Scalar(_, node) {
      const { source, type } = node
      if (type === "PLAIN" && source !== undefined && (/^[yn]$/i.test(source) || TEXT_TO_PYTHON.test(source)))
        node.value = source
    },
  })
  return doc
}

const TEXT_TO_PYTHON = /^[-+]?(?:[\d_]+e[-+]?\d+|[\d_]*\.[\d_]*e\d+)$/i

/** Numbers as both versions read them: 1e-7 is a text to Python, 1.0e-7 is not. */
const numbers = (tags: Tags): Tags =>
  tags.map((tag) =>
    typeof tag === "object" && tag.tag === "tag:yaml.org,2002:float"
      ? ({
          ...tag,
          stringify: ({ value }: Scalar) =>
            String(value)
              .replace(/^(-?\d+)e/, "$1.0e")
              .replace("Infinity", ".inf"),
        } as ScalarTag)
      : tag,
  )

/** Where the entry `key` of a map or list begins. */
function keyLine(parent: unknown, key: string | number, lineAt: (offset: number) => number): number | undefined {
  const { isCollection, isMap, isScalar } = library()
  if (!isCollection(parent)) return undefined
  const item = isMap(parent)
    ? parent.items.find((pair: Pair) => isScalar(pair.key) && pair.key.value === key)?.key
    : parent.items[key as number]
  const range = (item as { range?: readonly number[] | null } | undefined)?.range
  return range ? lineAt(range[0]!) : undefined
}

/**
 * The block with these values: what is undefined, and every other key, stays as its author wrote it. Lists in `joined` are
 * joined with the author's. Undefined where the block there cannot be read.
 */
export function mergedYaml(
  yaml: string | undefined,
  values: Readonly<Record<string, unknown>>,
  joined: ReadonlySet<string>,
): string | undefined {
  const { isMap, isScalar, parseDocument } = library()
  const doc = parseDocument(yaml ?? "", { prettyErrors: false, compat: "yaml-1.1", customTags: numbers })
  if (doc.errors.length || (doc.contents !== null && !isMap(doc.contents))) return undefined
  const before = (doc.toJS({ maxAliasCount: ALIASES }) ?? {}) as Readonly<Record<string, unknown>>
  for (const [key, value] of Object.entries(values)) {
    if (value === undefined) continue
    const theirs = joined.has(key) ? listOf(before[key]) : []
    const all = Array.isArray(value) && theirs.length ? [...new Set([...(value as unknown[]), ...theirs])] : value
    if (JSON.stringify(all) !== JSON.stringify(before[key]))
      doc.set(key, doc.createNode(all, { aliasDuplicateObjects: false }))
  }
  const rank = (pair: Pair) => {
    const at = ORDER.indexOf(String(isScalar(pair.key) ? pair.key.value : pair.key))
    return at < 0 ? ORDER.length - 1.5 : at
  }
  if (isMap(doc.contents)) doc.contents.items.sort((a, b) => rank(a) - rank(b))
  return doc.toString({ lineWidth: 0 }).trimEnd()
}

const listOf = (value: unknown): readonly unknown[] =>
  Array.isArray(value) ? value : value === undefined || value === null ? [] : [value]

/** The order in which cards have them; others go before the last, which is long. */
const ORDER = [
  "language",
  "license",
  "license_name",
  "license_link",
  "library_name",
  "pipeline_tag",
  "tags",
  "base_model",
  "base_model_relation",
  "datasets",
  "metrics",
  "model-index",
]
