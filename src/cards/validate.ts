/** @file A card held against the Hub's rules, as far as they can be checked without it (docs/model-cards.md). */
import { quote } from "../tensor/quote.ts"
import { type Path, readYaml, splitCard } from "./front-matter.ts"
import { checkMetadata } from "./metadata-rules.ts"
import { type CardFiles, checkText, secretIn } from "./text-rules.ts"

/** Something to be put right. */
export interface Finding {
  /** In the card, counted from 1. */
  readonly line: number
  /** Which rule: "metadata", "yaml", "link", "private-path", "secret", "html", "placeholder", "size", "text". */
  readonly rule: string
  /** The key of the metadata, as model-index[0].name; empty in the text. */
  readonly key: string
  readonly what: string
  readonly todo: string
}

/** Bytes of a card and of its metadata that are looked at: the longest cards of the Hub, with thousands of results, have less. */
const CARD = 2 ** 20
const METADATA = 2 ** 19

/** More of one card nobody reads. */
const FINDINGS = 200

/** Everything that is wrong with a card, by line; `files` says what is beside it. Never throws. */
export function validateCard(text: string, files: CardFiles): readonly Finding[] {
  const found: Finding[] = []
  const report = (line: number, rule: string, what: string, todo: string, key = "") => {
    if (found.length < FINDINGS) found.push({ line, rule, key, what, todo })
  }
  if (Buffer.byteLength(text) > CARD) {
    report(
      1,
      "size",
      `has ${Buffer.byteLength(text)} bytes, more than ${CARD}`,
      "move long parts to files of their own",
    )
    return found
  }
  text.split(/\r\n|\r|\n/).forEach((line, i) => {
    const secret = secretIn(line)
    if (secret !== undefined)
      report(i + 1, "secret", `holds ${secret}`, "take it out and revoke it: whoever has it can act as you")
  })
  if (text.startsWith("\uFEFF"))
    report(
      1,
      "yaml",
      "begins with a byte order mark, behind which Python finds no metadata",
      "save it as UTF-8 without one",
    )
  const { yaml, yamlLine, body, bodyLine } = splitCard(text)
  if (yaml === undefined) {
    const opened = /^\s*---\s*$/m.test(text.split("\n", 1)[0]!)
    report(
      1,
      "yaml",
      opened ? "the metadata block has no closing ---" : "has no metadata block",
      opened
        ? "close it with a line of three dashes"
        : "begin it with license, library_name, ... between two lines of three dashes",
    )
  } else if (Buffer.byteLength(yaml) > METADATA) {
    report(yamlLine + 1, "size", `the metadata has more than ${METADATA} bytes`, "keep fewer results")
  } else {
    const read = readYaml(yaml)
    for (const { line, what } of read.problems)
      report(yamlLine + line, "yaml", quote(what).slice(1, -1), "correct the YAML")
    const place = (path: Path, what: string, todo: string) =>
      report(yamlLine + read.lineOf(path), "metadata", what, todo, keyOf(path))
    if (!read.problems.length) checkMetadata(read, place)
    if (!read.problems.length) checkLicenseFile(read.value, files, place)
  }
  checkText(body, bodyLine, files, report)
  return found.sort((a, b) => a.line - b.line)
}

const keyOf = (path: Path): string =>
  path.map((part, i) => (typeof part === "number" ? `[${part}]` : `${i ? "." : ""}${part}`)).join("")

function checkLicenseFile(value: unknown, files: CardFiles, report: (path: Path, what: string, todo: string) => void) {
  const link = (value as { license_link?: unknown } | null)?.license_link
  if (typeof link !== "string" || !link.startsWith("LICENSE") || files.has(link)) return
  report(["license_link"], `${quote(link)} is not there`, "add the file")
}
