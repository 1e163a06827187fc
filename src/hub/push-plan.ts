/** @file What of a folder goes up as what: files, a card where there is none, a run's checkpoints; and that all of it is right. */
import { existsSync } from "node:fs"
import { readFile } from "node:fs/promises"
import { basename, join } from "node:path"
import { CARD_FILE, filesOf, makeCard } from "../cards/card.ts"
import { withoutPrivatePaths } from "../cards/private-paths.ts"
import { validateCard } from "../cards/validate.ts"
import { fail, PrismaError } from "../errors.ts"
import { readError } from "../files/system-errors.ts"
import { CHECKPOINTS, stepOf, tagOf } from "./checkpoints.ts"
import { type Content, fileContent, listFolder, refuseSecrets, type Skipped, textContent } from "./push-folder.ts"

/** Commits of checkpoints in one push: with those of the repo's making and of the branch 20 (`HOURLY`). */
export const MAX_STEPS = 18
/** Bytes of a card that is read; the validator refuses less. */
const MAX_CARD = 2 ** 22
/** Files of a checkpoint that a run goes on from, wherever its config (saving.save_dir) put it; a model is made of the others. */
const RUN_STATE = /(^|\/)step-\d{8,}\/(optimizer\.safetensors|state\.json|manifest\.json)$/

export interface Plan {
  readonly contents: readonly Content[]
  /** Checkpoints that become revisions, ascending. */
  readonly steps: readonly { readonly step: number; readonly contents: readonly Content[] }[]
  readonly skipped: readonly Skipped[]
}

interface Planned {
  /** What becomes of checkpoints; by default revisions, and folders where there are too many. */
  readonly how: "revisions" | "folders" | "none" | undefined
  /** Has the repo checkpoints as revisions? Asked where there are too many: a run that has grown goes on as it began. */
  readonly hasSteps: () => Promise<boolean>
  /** Throws where the push is to end. */
  readonly goOn: () => void
}

/** What goes up, where it is right. Errors: E_INPUT, E_UNSAFE_PATH, E_SECRET_FOUND, E_CARD, E_IO. */
export async function planOf(folder: string, repo: string, { how: asked, hasSteps, goOn }: Planned): Promise<Plan> {
  const { files, skipped } = await listFolder(folder)
  const steps = new Map<number, Content[]>()
  const contents: Content[] = []
  for (const local of files) {
    await refuseSecrets(local, goOn)
    const inStep = stepOf(local.path)
    if (RUN_STATE.test(local.path)) {
      skipped.push({ path: local.path, why: "is what a run goes on from" })
      continue
    }
    const content = await publicContent(folder, local)
    if (!inStep) contents.push(content)
    else steps.set(inStep.step, [...(steps.get(inStep.step) ?? []), content])
  }
  const isWhole = (some: readonly Content[]) => some.some(({ path }) => path.endsWith("/config.json"))
  const whole = [...steps].filter(([, some]) => isWhole(some)).sort(([a], [b]) => a - b)
  for (const some of steps.values()) {
    if (!isWhole(some)) skipped.push(...some.map(({ path }) => ({ path, why: "is of a checkpoint without a config" })))
  }
  const how = asked ?? (whole.length > MAX_STEPS && !(await hasSteps()) ? "folders" : "revisions")
  const card = await cardOf(
    folder,
    repo,
    files.find(({ path }) => path === CARD_FILE),
  )
  if (card) contents.push(card)
  if (how === "folders") contents.push(...whole.flatMap(([, some]) => some))
  if (how === "none") for (const [step] of whole) skipped.push({ path: `${CHECKPOINTS}/${tagOf(step)}`, why: "checkpoints stay here" }) // prettier-ignore
  const atRoot = (some: readonly Content[]) => some.map((c) => ({ ...c, path: c.path.slice(stepOf(c.path)!.folder.length + 1) })) // prettier-ignore
  return {
    contents,
    steps: how === "revisions" ? whole.map(([step, some]) => ({ step, contents: atRoot(some) })) : [],
    skipped,
  }
}

/** A file as it goes up: of the JSON files that name paths of one machine, without these. */
async function publicContent(folder: string, local: Parameters<typeof fileContent>[0]): Promise<Content> {
  const name = basename(local.path)
  if (!/^(training|config|evaluation)\.json$/.test(name) || local.size > 2 ** 24) return fileContent(local, local.path)
  const text = await readFile(local.file, "utf8")
  try {
    const json = JSON.parse(text) as unknown
    const clean = withoutPrivatePaths(name, json)
    if (JSON.stringify(clean) === JSON.stringify(json)) return fileContent(local, local.path)
    // Other bytes than those whose hash stands beside them.
    if (existsSync(join(folder, "manifest.json"))) {
      const how = "take them out with: vit-prisma card DIR --strip-paths"
      return fail("E_CARD", `${local.path}: names paths of this machine; ${how}`, { file: local.file })
    }
    return textContent(`${JSON.stringify(clean, undefined, 2)}\n`, local.path)
  } catch (error) {
    if (error instanceof SyntaxError) return fileContent(local, local.path)
    throw error
  }
}

/** The card that a model's folder lacks. Error: E_CARD for one that is there and wrong. */
async function cardOf(
  folder: string,
  repo: string,
  own: Parameters<typeof fileContent>[0] | undefined,
): Promise<Content | undefined> {
  const file = join(folder, CARD_FILE)
  if (own) {
    if (own.size > MAX_CARD)
      fail("E_CARD", `${file}: ${own.size} bytes, above the limit of ${MAX_CARD} for a card`, { file })
    const text = await readFile(own.file, "utf8").catch((e: unknown) => readError(e, file))
    const [first, ...more] = validateCard(text, filesOf(folder))
    if (!first) return undefined
    const rest = more.length ? ` and ${more.length} more (vit-prisma card DIR)` : ""
    const { line, key, what, todo } = first
    return fail("E_CARD", `${file}:${line}: ${key ? `${key} ` : ""}${what}; ${todo}${rest}`, { file })
  }
  // A folder of that name, or a link out of this one, stands in a card's place.
  if (existsSync(file) || !existsSync(join(folder, "config.json"))) return undefined
  const name = repo.slice(repo.indexOf("/") + 1)
  const text = await makeCard(folder, { repo, name }).catch((error: unknown) => {
    if (error instanceof PrismaError) return undefined
    throw error
  })
  return text === undefined ? undefined : textContent(text, CARD_FILE)
}
