/** @file Cards from a template: {{fact}} is put in its place, and what speaks of a fact that is not known vanishes. */
import { fail, nearest } from "../errors.ts"
import { quote } from "../tensor/quote.ts"

export type Texts = Readonly<Record<string, string | undefined>>

const PLACE = /\{\{\s*(\w*)\s*\}\}/g
const FENCE = /^(```|~~~)/
const HEADING = /^(#{1,6}) /

/**
 * A template is Markdown. A row of a table and an item of a list vanish where a fact they name is not known, other
 * paragraphs and blocks of code as a whole; then tables without rows, and headings with nothing below them. Comments
 * at the beginning of a line are for its reader. Error: E_CONFIG for a fact that there is none of, with the nearest names.
 */
export function fill(template: string, texts: Texts, file: string): string {
  // Their lines stay, empty: places in errors are those of the file.
  const text = template.replace(/\r\n?/g, "\n").replace(/^<!--[^]*?-->/gm, (comment) => comment.replace(/[^\n]/g, ""))
  checkNames(text, texts, file)
  const kept = blocksOf(text)
    .map((block) => filled(block, texts))
    .filter((block) => block !== "")
  return `${kept.filter((block, i) => !isEmptySection(block, kept.slice(i + 1))).join("\n\n")}\n`
}

function checkNames(template: string, texts: Texts, file: string): void {
  for (const [place, name] of template.matchAll(PLACE)) {
    if (Object.hasOwn(texts, name!)) continue
    const near = nearest(name!.slice(0, 100), Object.keys(texts)).map(quote).join(", ")
    const line = template.slice(0, template.indexOf(place)).split("\n").length
    fail("E_CONFIG", `${file}:${line}: there is no fact ${quote(name!)}; the nearest are ${near}`, { file })
  }
}

/** Parts with empty lines between them; a block of code is one. */
function blocksOf(text: string): string[][] {
  const blocks: string[][] = [[]]
  let fence: string | undefined
  for (const line of text.split("\n")) {
    const mark = FENCE.exec(line)?.[1]
    const alone = fence === undefined && HEADING.test(line)
    if (fence === undefined && (line.trim() === "" || mark !== undefined || alone)) blocks.push([])
    if (line.trim() !== "" || fence !== undefined) blocks.at(-1)!.push(line)
    if (fence !== undefined && mark === fence) {
      blocks.push([])
      fence = undefined
    } else fence ??= mark
    if (alone) blocks.push([])
  }
  return blocks.filter((block) => block.length)
}

const isKnown = (line: string, texts: Texts): boolean =>
  [...line.matchAll(PLACE)].every(([, name]) => texts[name!] !== undefined)

const put = (line: string, texts: Texts): string => line.replace(PLACE, (_, name: string) => texts[name]!)

function filled(block: readonly string[], texts: Texts): string {
  const isTable = block.length > 2 && block.every((line) => line.startsWith("|"))
  if (isTable || block.every((line) => /^[-*] /.test(line))) {
    const head = isTable ? 2 : 0
    const kept = block.filter((line, i) => i < head || isKnown(line, texts))
    return kept.length > head ? kept.map((line) => put(line, texts)).join("\n") : ""
  }
  return block.every((line) => isKnown(line, texts))
    ? block
        .map((line) => put(line, texts))
        .join("\n")
        .trimEnd()
    : ""
}

const levelOf = (block: string): number | undefined => HEADING.exec(block)?.[1]!.length

/** Is it a heading below the title, and the next thing one that does not belong to it? */
function isEmptySection(block: string, rest: readonly string[]): boolean {
  const level = levelOf(block)
  if (level === undefined || level === 1) return false
  for (const other of rest) {
    const below = levelOf(other)
    if (below === undefined) return false
    if (below <= level) return true
  }
  return true
}
