/** @file vit-prisma card: make model cards from the files beside them, or hold them against the Hub's rules. */
import { CARD_FILE, checkCard, isCurrent, writeCard, type CardOptions } from "../cards/card.ts"
import { privateFields, stripPrivatePaths } from "../cards/private-paths.ts"
import type { Finding } from "../cards/validate.ts"
import { fail } from "../errors.ts"
import { counted, plain, print, printJson, warn } from "./output.ts"

export interface CardCommandOptions {
  readonly write?: boolean
  readonly check?: boolean
  readonly force?: boolean
  readonly stripPaths?: boolean
  readonly name?: string
  readonly repo?: string
  readonly license?: string
  readonly template?: string
  readonly format: "human" | "json"
}

interface Report {
  readonly card: string
  readonly written: boolean
  readonly findings: readonly (Finding & { readonly file: string })[]
}

/** Error: E_CARD where anything was found, after all folders have been looked at. */
export async function card(folders: readonly string[], options: CardCommandOptions): Promise<void> {
  if (options.name !== undefined && folders.length > 1) fail("E_USAGE", "--name is of one model; give one folder")
  if (options.repo !== undefined && folders.length > 1) fail("E_USAGE", "--repo is of one model; give one folder")
  if (options.write && options.check)
    fail("E_USAGE", "--write makes the card, --check only looks at it; give one of them")
  const reports: Report[] = []
  for (const folder of folders) reports.push(await one(folder, options))
  const n = reports.reduce((sum, { findings }) => sum + findings.length, 0)
  if (options.format === "json") printJson(reports)
  else for (const report of reports) print(shown(report))
  if (n) fail("E_CARD", `${counted(n, "finding")} in ${counted(reports.length, "card")}; what to do stands with each`)
}

async function one(folder: string, options: CardCommandOptions): Promise<Report> {
  const { write, check, stripPaths, name, repo, license, template, force } = options
  const wanted: CardOptions = {
    warn: (message) => warn(`${folder}: ${message}`, options),
    ...(name !== undefined && { name }),
    ...(repo !== undefined && { repo }),
    ...(license !== undefined && { license }),
    ...(template !== undefined && { template }),
    ...(force !== undefined && { force }),
  }
  const file = `${folder.replace(/[/\\]+$/, "")}/${CARD_FILE}`
  if (stripPaths) await stripPrivatePaths(folder)
  const written = write ? await writeCard(folder, wanted) : undefined
  const found = [...(written?.findings ?? (await checkCard(folder)))]
  if (check && !(await isCurrent(folder, wanted))) {
    const todo = "make it again: vit-prisma card DIR --write"
    found.push({ line: 1, rule: "stale", key: "", what: "is not what the files beside it say", todo })
  }
  const inFiles = await privateFields(folder)
  return {
    card: file,
    written: written?.changed ?? false,
    findings: [...found.map((f) => ({ ...f, file: CARD_FILE })), ...inFiles],
  }
}

function shown({ card, written, findings }: Report): string {
  const head = `${card}: ${written ? "written, " : ""}${findings.length ? counted(findings.length, "finding") : "nothing to put right"}`
  const lines = findings.map(
    ({ file, line, key, what, todo }) => `  ${file}:${line}: ${key ? `${key} ` : ""}${what}; ${todo}`,
  )
  return [head, ...lines].map(plain).join("\n")
}
