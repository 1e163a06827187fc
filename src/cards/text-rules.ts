/** @file Rules of a card's text: what it links to is there, and nothing of the writer's machine is in it. */
import { quote } from "../tensor/quote.ts"

/** What is wrong in a line, counted from 1, and what to do about it. */
export type ReportLine = (line: number, rule: string, what: string, todo: string) => void

/** Which files there are in the card's folder, by paths with / between. */
export interface CardFiles {
  has(path: string): boolean
}

/** Programs' own forms of access tokens. */
const SECRETS: readonly (readonly [RegExp, string])[] = [
  [/(?<![A-Za-z0-9])hf_[A-Za-z0-9]{16,}/, "a Hugging Face token"],
  [/\b(?:ghp|gho|ghs|ghu)_[A-Za-z0-9]{30,}|\bgithub_pat_\w{40,}/, "a GitHub token"],
  [/\bAKIA[0-9A-Z]{16}\b/, "an AWS key"],
  [/\bsk-[A-Za-z0-9_-]{20,}/, "an API key"],
  [/-----BEGIN [A-Z ]*PRIVATE KEY-----/, "a private key"],
  [/\bhttps?:\/\/[^\s/:@]{1,200}:[^\s/@]{1,200}@/, "a password in a URL"],
  [/[?&](?:X-Amz-Signature|Signature|token|access_token)=[^\s&]{8,}/, "a signed URL"],
]

/** What is secret in a text, in words; also where it is written as base64, in lines or one, or in a URL's escapes, once or twice. */
export function secretIn(text: string): string | undefined {
  const forms = [text]
  for (let times = 0, form = text; times < 2 && /%[0-9a-f]{2}/i.test(form); times++) {
    form = form.replace(/%([0-9a-f]{2})/gi, (_, hex: string) => String.fromCharCode(Number.parseInt(hex, 16)))
    forms.push(form)
  }
  const inOneLine = text.replace(/(?<=[A-Za-z0-9+/_-]{20})\r?\n[ \t]*(?=[A-Za-z0-9+/_-])/g, "")
  for (const run of inOneLine.match(/[A-Za-z0-9+/_-]{20,}/g) ?? []) {
    // Where it begins in a longer text, a token may stand at any of three places.
    for (const skip of [0, 1, 2, 3]) forms.push(Buffer.from(run.slice(skip), "base64").toString("latin1"))
  }
  return SECRETS.find(([pattern]) => forms.some((form) => pattern.test(form)))?.[1]
}

/** Paths that mean something on one machine alone: of a root folder that machines have, of a home, of a drive. */
const PRIVATE =
  /(?:^|[\s"'`(=<>:,[])(?:(\/(?:home|root|Users|mnt|tmp|var|opt|srv|media|Volumes|private|scratch|workspace|work|network|content|kaggle|gpfs|lustre|nfs|data)\/[^\s"'`)<>\]]*)|(~\/[^\s"'`)<>\]]+)|([A-Za-z]:\\[^\s"'`)<>\]]+)|(\\\\[\w.-]+\\[^\s"'`)<>\]]+)|(file:\/\/[^\s"'`)<>\]]+))/

export const privatePathIn = (text: string): string | undefined =>
  PRIVATE.exec(text)
    ?.slice(1)
    .find((found) => found !== undefined)

/** HTML that the Hub's pages take out, or that runs. */
const ACTIVE =
  /<\s{0,9}\/?\s{0,9}(?:script|iframe|object|embed|form|style|link|meta|base)\b|<[a-z][^>]{0,500}\son[a-z]{1,20}\s{0,9}=|\]\(\s{0,9}(?:javascript|vbscript|data):/i

/** Words that templates leave for a person to replace. */
const LEFT = /\{\{[^}]{0,80}\}\}|\[More Information Needed\]|\{(?:lang_0|license|model_id|dataset_type|metric_value)\}/

/** All that is wrong with the text; `firstLine` lines stand before it. */
export function checkText(body: string, firstLine: number, files: CardFiles, report: ReportLine): void {
  const lines = body.split(/\r\n|\r|\n/)
  let fence: string | undefined
  lines.forEach((line, i) => {
    const at = firstLine + i + 1
    const mark = /^ {0,3}(`{3,}|~{3,})/.exec(line)?.[1]
    if (mark !== undefined && (fence === undefined || (mark.startsWith(fence) && line.trim() === mark))) {
      fence = fence === undefined ? mark : undefined
      return
    }
    const path = privatePathIn(line)
    if (path !== undefined)
      report(at, "private-path", `${quote(path)} is a path of one machine`, "name the file from this folder, or a URL")
    if (fence !== undefined) return
    const prose = line.replace(/(`+)[^`]*\1/g, "")
    if (ACTIVE.test(prose))
      report(at, "html", "holds HTML that runs or that the Hub takes out", "write it as text or as code")
    const left = LEFT.exec(prose)?.[0]
    if (left !== undefined)
      report(at, "placeholder", `${quote(left)} was left to be filled in`, "fill it in, or take the line out")
    for (const target of targets(prose)) checkTarget(target, at, files, report)
  })
  if (!body.trim()) report(firstLine + 1, "text", "the card has no text", "say what the model is")
}

/** What a line of Markdown links to or shows. */
const targets = (line: string): string[] =>
  [
    /\]\(\s{0,9}<([^<>]{1,2000})>/g,
    /\]\(\s{0,9}((?:[^\s()<>]|\([^\s()]{0,200}\)){1,2000})/g,
    /^ {0,3}\[[^\]]{1,200}\]:\s{0,9}<?([^\s<>]{1,2000})/g,
    /<(?:img|a|source|video)\b[^>]{0,500}?\s(?:src|href)\s{0,9}=\s{0,9}["']?([^\s"'>]{1,2000})/gi,
  ].flatMap((pattern) => [...line.matchAll(pattern)].map((m) => m[1]!))

function checkTarget(target: string, line: number, files: CardFiles, report: ReportLine): void {
  const said = quote(target)
  if (/^[a-z][a-z0-9+.-]*:/i.test(target) || target.startsWith("//") || target.startsWith("#")) return
  const path = decoded(target.replace(/[?#].*$/, ""))
  if (path === undefined) return report(line, "link", `${said} has escapes that stand for nothing`, "write % as %25")
  if (path.startsWith("/"))
    return report(line, "link", `${said} begins at the root of a website`, "write it from this folder on")
  const parts: string[] = []
  for (const part of path.split("/")) {
    if (part === "..") {
      if (!parts.pop()) return report(line, "link", `${said} leaves the repository`, "link to its URL")
    } else if (part !== "." && part !== "") parts.push(part)
  }
  const inside = parts.join("/")
  if (inside !== "" && !files.has(inside))
    report(line, "link", `${said} is not there`, "add the file, or take the link out")
}

function decoded(text: string): string | undefined {
  try {
    return decodeURIComponent(text)
  } catch {
    return undefined
  }
}
