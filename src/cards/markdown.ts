/** @file Foreign text as Markdown that shows it and does nothing else (https://spec.commonmark.org/0.31.2/), and numbers
 * as cards have them. */

/** Characters of a foreign name that are shown; real class and repository names are shorter. */
const SHOWN = 120

/** What no Markdown or HTML parser reads as anything but itself, inside a code span. */
const PLAIN = /^[\w .,:;/@+%=()[\]{}*'"!?#-]+$/

const escaped = (text: string): string =>
  text.replace(/[^\p{L}\p{N} ]/gu, (c) =>
    /[\p{C}\p{Z}]/u.test(c) ? `\\u{${c.codePointAt(0)!.toString(16)}}` : `&#${c.codePointAt(0)!};`,
  )

const cut = (text: string): string => {
  const points = Array.from(text.slice(0, 2 * SHOWN + 1))
  return points.length > SHOWN ? `${points.slice(0, SHOWN).join("")}...` : text
}

/** Foreign text in a line of prose: everything but letters, digits and spaces as character references, controls as \u{..}. */
export function prose(text: string): string {
  const shown = cut(text)
  return /^[\p{L}\p{N} ,-]*$/u.test(shown) && !/^[\s\d-]|\s$/.test(shown) ? shown : escaped(shown)
}

/** Foreign text as code, also in a table's cell. */
export function code(text: string): string {
  const shown = cut(text)
  return PLAIN.test(shown) && shown.trim() === shown ? `\`${shown}\`` : `<code>${escaped(shown)}</code>`
}

/** "1,234,567" */
export const count = (n: number): string => n.toLocaleString("en")

/** "1 image", "2 images" */
export const counted = (n: number, what: string): string => `${count(n)} ${what}${n === 1 ? "" : "s"}`

/** A measured number to so many digits, without noise behind them. */
export const figure = (x: number, digits = 4): string => {
  const rounded = Number(x.toPrecision(digits))
  return Math.abs(rounded) >= 1e4 ? count(rounded) : String(rounded)
}

export const percent = (share: number): string => `${(100 * share).toFixed(2)} %`

/** "15 min 11 s" */
export function duration(seconds: number): string {
  if (seconds < 10) return `${figure(seconds, 2)} s`
  const s = Math.round(seconds)
  const parts = [
    [Math.floor(s / 3600), "h"],
    [Math.floor(s / 60) % 60, "min"],
    [s % 60, "s"],
  ] as const
  const from = parts.findIndex(([n]) => n > 0)
  return (from < 0 ? parts.slice(2) : parts.slice(from, from + 2)).map(([n, unit]) => `${n} ${unit}`).join(" ")
}

export function bytes(n: number): string {
  const units = ["B", "kB", "MB", "GB"]
  const power = n < 1000 ? 0 : Math.min(3, Math.floor(Math.log10(n) / 3))
  return `${power ? (n / 1000 ** power).toPrecision(3) : n} ${units[power]}`
}

/** Foreign names side by side, at most `limit` of them. */
export const names = (all: readonly string[], limit = 20): string =>
  all.slice(0, limit).map(code).join(", ") + (all.length > limit ? ` and ${count(all.length - limit)} more` : "")

/** Cells are Markdown of one line. */
export const table = (head: readonly string[], rows: readonly (readonly string[])[]): string =>
  [head, head.map(() => "---"), ...rows].map((cells) => `| ${cells.join(" | ")} |`).join("\n")

/** Lines of a program or a drawing; none of them may be a fence, which those made here are not. */
export const block = (language: string, ...lines: readonly string[]): string =>
  ["```" + language, ...lines, "```"].join("\n")
