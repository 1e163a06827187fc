/** @file Paths of the machine that a model was made on, in the JSON files beside its card: they are found, and taken out. */
import { readdir } from "node:fs/promises"
import { join, posix, win32 } from "node:path"
import { fail } from "../errors.ts"
import { writeFileAtomic } from "../files/atomic.ts"
import { readJson } from "../files/json.ts"
import { quote } from "../tensor/quote.ts"
import { readError } from "../files/system-errors.ts"
import type { Finding } from "./validate.ts"
import { isRecord } from "../tensor/record.ts"

/** Fields that hold paths, by file; a run goes on and is repeated without them. */
const CONFIG = ["data.path", "saving.parent_dir", "saving.save_dir", "logging.log_dir"] as const
const FIELDS: ReadonlyMap<string, readonly string[]> = new Map<string, readonly string[]>([
  ["training.json", CONFIG],
  ["config.json", CONFIG],
  ["evaluation.json", ["model"]],
])

const RULES = { limit: 16 * 2 ** 20, malformed: "E_CONFIG", tooLarge: "E_CONFIG_LIMIT" } as const

const isPrivate = (value: unknown): value is string =>
  typeof value === "string" && (posix.isAbsolute(value) || win32.isAbsolute(value) || value.startsWith("~"))

/** The value without the absolute paths in its fields; the others stay, and so does what is no such file. */
export function withoutPrivatePaths(file: string, json: unknown): unknown {
  return (FIELDS.get(file) ?? []).reduce(
    (whole, path) => (isPrivate(valueAt(whole, path)) ? without(whole, path.split(".")) : whole),
    json,
  )
}

const valueAt = (json: unknown, path: string): unknown =>
  path.split(".").reduce((value, key) => (isRecord(value) && Object.hasOwn(value, key) ? value[key] : undefined), json)

function without(json: unknown, [key, ...rest]: readonly string[]): unknown {
  if (!isRecord(json) || key === undefined) return json
  const kept = Object.entries(json).flatMap(([k, v]) =>
    k !== key ? [[k, v]] : rest.length ? [[k, without(v, rest)]] : [],
  )
  return Object.fromEntries(kept)
}

async function filesWithFields(folder: string): Promise<readonly (readonly [name: string, json: unknown])[]> {
  const names = await readdir(folder).catch((e: unknown) => readError(e, folder))
  const read = [...FIELDS.keys()].filter((name) => names.includes(name))
  return Promise.all(read.map(async (name) => [name, await readJson(join(folder, name), RULES)] as const))
}

/** A finding for each absolute path in the folder's JSON files. Errors: those of reading them. */
export async function privateFields(folder: string): Promise<readonly (Finding & { readonly file: string })[]> {
  return (await filesWithFields(folder)).flatMap(([file, json]) =>
    FIELDS.get(file)!.flatMap((key) => {
      const value = valueAt(json, key)
      if (!isPrivate(value)) return []
      const todo = "take it out: vit-prisma card DIR --strip-paths"
      return [{ file, line: 1, rule: "private-path", key, what: `${quote(value)} is a path of one machine`, todo }]
    }),
  )
}

/**
 * Take the absolute paths out of the folder's JSON files; true where there were any. Errors: E_OUTPUT for a folder whose
 * manifest holds the hashes of its files, and those of reading and writing.
 */
export async function stripPrivatePaths(folder: string): Promise<boolean> {
  const changed = (await filesWithFields(folder)).filter(([name, json]) => withoutPrivatePaths(name, json) !== json)
  if (!changed.length) return false
  if ((await readdir(folder)).includes("manifest.json")) {
    const what = `its manifest.json holds the hash of ${changed[0]![0]}, which cannot change`
    fail("E_OUTPUT", `${folder}: ${what}; train or convert again from a relative path`, { file: folder })
  }
  for (const [name, json] of changed) {
    const text = `${JSON.stringify(withoutPrivatePaths(name, json), undefined, 2)}\n`
    await writeFileAtomic(join(folder, name), text)
  }
  return true
}
