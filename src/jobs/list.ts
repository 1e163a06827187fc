/** @file Lists of models: one repo id or folder a line, `@revision` behind it, `#` before what is not read. */
import { createHash } from "node:crypto"
import { existsSync } from "node:fs"
import { basename, resolve } from "node:path"
import { readWhole } from "../datasets/whole.ts"
import { fail } from "../errors.ts"
import { quote } from "../tensor/quote.ts"
import { repoNameOf } from "./job.ts"

/** One line of a list. */
export interface Listed {
  /** As written, without its revision. */
  readonly model: string
  readonly revision?: string
  /** Name of its output: of a repo `owner--name`, of a folder its own name; unique in the list, as its repo's is. */
  readonly slug: string
}

export interface ModelList {
  readonly models: readonly Listed[]
  /** What is odd about the list: lines that name a model again. */
  readonly warnings: readonly string[]
}

/** Bytes of a list; 100,000 lines of ordinary ids have 4 MB. */
const MAX_LIST = 64 * 2 ** 20

/** Errors: E_NOT_A_FILE, E_IO; E_INPUT for a list that is not text or names nothing; E_NAME_COLLISION. */
export async function readList(path: string): Promise<ModelList> {
  const bytes = await readWhole(path, MAX_LIST)
  let text: string
  try {
    text = new TextDecoder("utf-8", { fatal: true }).decode(bytes)
  } catch {
    return fail("E_INPUT", `${path}: is not UTF-8 text; expected one repo id or folder a line`, { file: path })
  }
  const list = parseList(text, path)
  if (!list.models.length)
    fail("E_INPUT", `${path}: names no model; expected one repo id or folder a line`, { file: path })
  return list
}

/** `name` stands in warnings. Errors: E_INPUT for a line with a control character; E_NAME_COLLISION. */
export function parseList(text: string, name: string): ModelList {
  const first = new Map<string, number>()
  const named: Omit<Listed, "slug">[] = []
  const warnings: string[] = []
  for (const [i, raw] of text.split(/\r\n|\r|\n/).entries()) {
    const line = unremarked(raw)
    if (line === "") continue
    if (/\p{Cc}/u.test(line))
      fail("E_INPUT", `${name}:${i + 1}: ${quote(line)} holds a control character`, { file: name })
    // Folders may have an @ in their names, revisions no slash of a path before them.
    const [, model = line, revision] = PATH.test(line) ? [] : (/^([^@]+)@([^@]+)$/.exec(line) ?? [])
    const key = JSON.stringify([PATH.test(model) ? resolve(model) : model, revision])
    const before = first.get(key)
    if (before === undefined) {
      first.set(key, i + 1)
      named.push({ model, ...(revision !== undefined && { revision }) })
    } else warnings.push(`${name}:${i + 1}: ${quote(line)} stands in line ${before} already and is done once`)
  }
  return { models: withSlugs(named, name), warnings }
}

/** A line without what stands behind a `#`, but for one in the name of a folder that is there. */
function unremarked(line: string): string {
  const ends = [...line.matchAll(/(?<=^|\s)#/g)].map(({ index }) => index)
  const [shortest, ...longer] = [...ends, line.length].map((end) => line.slice(0, end).trim())
  return longer.findLast((text) => existsSync(text)) ?? shortest!
}

/** What can be no repo id. */
const PATH = /^(\.{0,2}[/\\]|~|[a-zA-Z]:)|[/\\]$|^\.{1,2}$|[/\\].*[/\\]/

/** Names that reports have. */
const TAKEN = /^report(-\d+-of-\d+)?\.(json|md)$/i

/** What may not be the same of two: neither the Hub nor all file systems tell A from a, and the Hub has no "--". */
const keyOf = (slug: string): string => repoNameOf(slug).toLowerCase()

function withSlugs(named: readonly Omit<Listed, "slug">[], name: string): Listed[] {
  const slugs = named.map(slugOf)
  const count = new Map<string, number>()
  for (const slug of slugs) count.set(keyOf(slug), (count.get(keyOf(slug)) ?? 0) + 1)
  const models = named.map((one, i) => {
    const slug = slugs[i]!
    const isFree = count.get(keyOf(slug)) === 1 && !TAKEN.test(slug)
    return { ...one, slug: isFree ? slug : `${slug.slice(0, 180)}-${mark(one)}` }
  })
  const owner = new Map<string, string>()
  for (const { model, slug } of models) {
    const other = owner.get(keyOf(slug))
    if (other !== undefined) {
      const what = `${quote(other)} and ${quote(model)} would both be written to ${quote(slug)}`
      fail("E_NAME_COLLISION", `${name}: ${what}; put them into two lists`, { file: name })
    }
    owner.set(keyOf(slug), model)
  }
  return models
}

function slugOf({ model, revision }: Omit<Listed, "slug">): string {
  const name = PATH.test(model) ? basename(resolve(model)) : model.replaceAll("/", "--")
  const whole = revision === undefined ? name : `${name}--${revision}`
  const plain = whole.replace(/[^A-Za-z0-9._-]+/g, "-").replace(/^[^A-Za-z0-9_]+/, "")
  return plain.slice(0, 190) || "model"
}

/** The same for the same line, whatever else the list holds. */
const mark = ({ model, revision }: Omit<Listed, "slug">): string =>
  createHash("sha256")
    .update(JSON.stringify([PATH.test(model) ? resolve(model) : model, revision]))
    .digest("hex")
    .slice(0, 8)

/** Those of the list that fall to part `index` (from 0) of `count`: every count-th. */
export const shardOf = <T>(all: readonly T[], { index, count }: Shard): T[] => all.filter((_, i) => i % count === index)

export interface Shard {
  readonly index: number
  readonly count: number
}

/** "3/8" as the fourth of eight parts. Error: E_USAGE. */
export function parseShard(text: string): Shard {
  const [, i, n] = /^(\d{1,9})\/(\d{1,9})$/.exec(text) ?? []
  const [index, count] = [Number(i), Number(n)]
  if (n !== undefined && count >= 1 && index < count) return { index, count }
  return fail("E_USAGE", `--shard wants I/N, I from 0 to N - 1, as 0/8; got ${quote(text)}`)
}
