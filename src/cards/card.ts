/** @file A card made from the facts of a folder, beside what its author wrote (docs/model-cards.md). */
import { existsSync } from "node:fs"
import { realpath } from "node:fs/promises"
import { join } from "node:path"
import { fileURLToPath } from "node:url"
import { fail } from "../errors.ts"
import { writeFileAtomic } from "../files/atomic.ts"
import { readFully, withFile } from "../files/read.ts"
import { repoId, safeRelPath } from "../files/paths.ts"
import { readFacts, type CardFacts } from "./facts.ts"
import { mergedYaml, readYaml, splitCard } from "./front-matter.ts"
import { JOINED, metadataOf } from "./metadata.ts"
import { fill, type Texts } from "./template.ts"
import { modelTexts, preprocessingTexts } from "./text-model.ts"
import type { CardFiles } from "./text-rules.ts"
import { dataTexts, resultTexts, trainingTexts } from "./text-training.ts"
import { useTexts, type UseOptions } from "./text-use.ts"
import { type Finding, validateCard } from "./validate.ts"

export const CARD_FILE = "README.md"

export interface CardOptions {
  /** What the card calls the model; by default what it is called in the card that is there, then the folder's name. */
  readonly name?: string
  /** The repo that the model is or will be in, "owner/name": what the examples load. */
  readonly repo?: string
  /** The licence's identifier, where the card that is there does not say it. */
  readonly license?: string
  /** A template's file, in place of this package's model-cards/template.md. */
  readonly template?: string
  /** Replace a text that was written by hand. Its metadata stays. */
  readonly force?: boolean
  /** Told what is passed over. */
  readonly warn?: (message: string) => void
}

const BEGIN =
  '<!-- vit-prisma: begin. Up to the end mark this text is made by "vit-prisma card --write"; your own words go above or below. -->'
const END = "<!-- vit-prisma: end -->"
const MARKS = /<!-- vit-prisma: (begin|end)\b[^]*?-->/g

/** Bytes of a card or template that is read. */
const LIMIT = 2 ** 22

/**
 * The card of a model's folder, as `writeCard` writes it. Errors: E_OUTPUT for a text that was written by hand, E_REPO_ID, E_CONFIG
 * for metadata that cannot be read and for a template with unknown facts, and those of `readFacts`.
 */
export async function makeCard(folder: string, options: CardOptions = {}): Promise<string> {
  const { template, force = false, warn } = options
  const repo = options.repo === undefined ? undefined : repoId(options.repo)
  const file = join(folder, CARD_FILE)
  const old = existsSync(file) ? await readText(file) : ""
  const { yaml, body } = splitCard(old)
  const { above, below } = force ? { above: "", below: "" } : around(body, file)
  const before = yaml === undefined ? {} : authored(yaml, file)
  const name = options.name ?? before.name
  const facts = await readFacts(folder, { ...(name !== undefined && { name }), ...(warn && { warn }) })
  const values = { ...metadataOf(facts), license: options.license }
  const metadata = mergedYaml(yaml, values, JOINED) ?? unreadable(file)
  const license = options.license ?? before.license
  const source = template ?? ownTemplate()
  const text = fill(await readText(source), factTexts(facts, { repo, license }), source)
  return `---\n${metadata}\n---\n${above || "\n"}${BEGIN}\n\n${text}\n${END}\n${below}`
}

/** Every fact that a template may name, as Markdown; undefined is what is not known. */
export const factTexts = (facts: CardFacts, use: UseOptions = {}): Texts => ({
  ...useTexts(facts, use),
  ...resultTexts(facts),
  ...modelTexts(facts),
  ...NO_PREPROCESSING,
  ...preprocessingTexts(facts.preprocessing),
  ...NO_DATA,
  ...dataTexts(facts),
  ...NO_TRAINING,
  ...trainingTexts(facts),
})

/** Facts that are known by name also where a model has none of them. */
const absent = (names: string): Texts => Object.fromEntries(names.split(" ").map((name) => [name, undefined]))
const NO_PREPROCESSING = absent("channels resize crop values")
const NO_DATA = absent(
  "dataset target trainImages validationImages augmentation trainFingerprint testFingerprint order orderHash",
)
const NO_TRAINING = absent(
  "loss optimizer schedule batch length clipping dropout ema init seed time hardware software day command curves logs checkpoints",
)

export interface WrittenCard {
  readonly file: string
  /** False where it was so already. */
  readonly changed: boolean
  readonly findings: readonly Finding[]
}

/**
 * Make the card and write it into the folder. Errors: those of `makeCard`; E_SECRET_FOUND, where it would hold a token;
 * E_OUTPUT, E_DISK_FULL, E_IO. After an error the old card is there.
 */
export async function writeCard(folder: string, options: CardOptions = {}): Promise<WrittenCard> {
  const file = join(folder, CARD_FILE)
  if (/[/\\]snapshots[/\\][0-9a-f]{40}$/.test(await realpath(folder).catch(() => folder))) {
    fail("E_OUTPUT", `${folder}: is a snapshot of the Hub cache, which holds what the Hub has; copy it first`, {
      file: folder,
    })
  }
  const text = await makeCard(folder, options)
  const findings = validateCard(text, filesOf(folder))
  const secret = findings.find(({ rule }) => rule === "secret")
  if (secret)
    fail(
      "E_SECRET_FOUND",
      `${file}: line ${secret.line} would hold ${secret.what.replace(/^holds /, "")}; ${secret.todo}`,
      { file },
    )
  const changed = !existsSync(file) || (await readText(file)) !== text
  if (changed) await writeFileAtomic(file, text)
  return { file, changed, findings }
}

/** The findings of a folder's card, also that there is none. Errors: E_INPUT (no such folder), those of reading it. */
export async function checkCard(folder: string): Promise<readonly Finding[]> {
  const file = join(folder, CARD_FILE)
  if (!existsSync(folder)) fail("E_INPUT", `${folder}: no such folder`, { file: folder })
  if (existsSync(file)) return validateCard(await readText(file), filesOf(folder))
  return [{ line: 1, rule: "text", key: "", what: "there is no card", todo: "make one: vit-prisma card DIR --write" }]
}

/** Is a folder's card what `writeCard` would write? Errors: those of `makeCard`. */
export async function isCurrent(folder: string, options: CardOptions = {}): Promise<boolean> {
  const file = join(folder, CARD_FILE)
  return existsSync(file) && (await readText(file)) === (await makeCard(folder, options))
}

/** What is in a folder, at any depth. */
export const filesOf = (folder: string): CardFiles => ({
  has(path) {
    try {
      return existsSync(join(folder, safeRelPath(path, CARD_FILE)))
    } catch {
      return false
    }
  },
})

function authored(yaml: string, file: string): { name?: string; license?: string } {
  const { value, problems } = readYaml(yaml)
  if (problems.length) unreadable(file, problems[0]!.line + 1, problems[0]!.what)
  const { license, license_name, "model-index": index } = (value ?? {}) as Readonly<Record<string, unknown>>
  const name = (Array.isArray(index) ? (index[0] as { name?: unknown } | null)?.name : undefined) ?? undefined
  const stated = license === "other" && typeof license_name === "string" ? license_name : license
  return { ...(typeof name === "string" && { name }), ...(typeof stated === "string" && { license: stated }) }
}

function unreadable(file: string, line = 2, what = "must be keys with values"): never {
  return fail("E_CONFIG", `${file}:${line}: the metadata cannot be read: ${what}; correct it, or take the block out`, {
    file,
  })
}

/** What stands before and behind the marks. */
function around(body: string, file: string): { above: string; below: string } {
  const marks = [...body.matchAll(MARKS)]
  if (!marks.length && !body.trim()) return { above: "", below: "" }
  const [begin, end] = marks
  if (marks.length !== 2 || begin![1] !== "begin" || end![1] !== "end") {
    const what = marks.length ? "must have one begin mark and one end mark after it" : "was written by hand and is kept"
    return fail(
      "E_OUTPUT",
      `${file}: ${what}; put the two lines "<!-- vit-prisma: begin -->" and "<!-- vit-prisma: end -->" where the made text is to stand, or replace all of the text with --force`,
      { file },
    )
  }
  const below = body.slice(end!.index + end![0].length).replace(/^\r?\n/, "")
  return { above: body.slice(0, begin!.index), below }
}

/** The template lies beside the cards, above src and above dist/src alike. */
function ownTemplate(): string {
  const places = ["../../model-cards/template.md", "../../../model-cards/template.md"]
  const found = places.map((path) => fileURLToPath(new URL(path, import.meta.url))).find((path) => existsSync(path))
  return found ?? fail("E_INPUT", "model-cards/template.md is not in the package; give a template")
}

async function readText(file: string): Promise<string> {
  const bytes = await withFile(file, async (handle, size) => {
    if (size > LIMIT)
      fail("E_CONFIG_LIMIT", `${file}: ${size} bytes, above the limit of ${LIMIT} for such a file`, { file })
    const all = new Uint8Array(size)
    return all.subarray(0, await readFully(handle, file, all, 0))
  })
  try {
    // A byte order mark is something to be found.
    return new TextDecoder("utf-8", { fatal: true, ignoreBOM: true }).decode(bytes)
  } catch {
    return fail("E_CONFIG", `${file}: is not UTF-8 text`, { file })
  }
}
