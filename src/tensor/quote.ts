/** @file Foreign text made fit for one line of a message. */

/** Characters of a foreign name shown before it is cut; real weight names are shorter. */
const SHOWN = 120

/** `text` in double quotes on one line: controls, line separators and invisible characters escaped, cut if long. */
export function quote(text: string): string {
  const cut = text.length > SHOWN ? `${text.slice(0, SHOWN)}...` : text
  const safe = cut.replace(/[\p{C}\p{Zl}\p{Zp}"\\]/gu, (c) =>
    c === '"' || c === "\\" ? `\\${c}` : `\\u{${c.codePointAt(0)!.toString(16)}}`,
  )
  return `"${safe}"`
}
