/** @file manifest.json: what a written folder holds, with a hash of every file; written last, checked by readers. */
import { readdir } from "node:fs/promises"
import { join } from "node:path"
import { fail } from "../errors.ts"
import { quote } from "../tensor/quote.ts"
import { fieldsOf } from "../tensor/record.ts"
import { writeFileAtomic } from "./atomic.ts"
import { digestOf, type Digest } from "./digest.ts"
import { readJson } from "./json.ts"
import { safeRelPath } from "./paths.ts"
import { readError } from "./system-errors.ts"

const NAME = "manifest.json"
const FORMAT = "vit-prisma folder 1"
const RULES = { limit: 16 * 2 ** 20, malformed: "E_INTEGRITY", tooLarge: "E_INTEGRITY" } as const

/** Describe every file of `folder`, then `about` it; call when all else is written. */
export async function writeManifest(folder: string, about: Readonly<Record<string, unknown>>): Promise<void> {
  const names = (await readdir(folder, { recursive: true, withFileTypes: true }))
    .filter((entry) => entry.isFile())
    .map((entry) =>
      join(entry.parentPath, entry.name)
        .slice(folder.length + 1)
        .replaceAll("\\", "/"),
    )
    .sort()
  const files: Record<string, Digest> = {}
  for (const name of names) files[name] = await digestOf(join(folder, name))
  await writeFileAtomic(join(folder, NAME), `${JSON.stringify({ format: FORMAT, ...about, files }, undefined, 2)}\n`)
}

function entryOf(entry: unknown, name: string, file: string): Digest {
  const { bytes, sha256 } = fieldsOf(entry)
  if (typeof bytes === "number" && typeof sha256 === "string") return { bytes, sha256 }
  const got = quote(JSON.stringify(entry))
  return fail("E_INTEGRITY", `${file}: ${quote(name)} must have bytes and sha256, got ${got}`, { file })
}

/**
 * Check the files that the folder's manifest names, if it has one of ours: all of them, or those that `needed` says.
 * A file that this process has written or checked and nobody has touched since is not read again.
 * Errors: E_INTEGRITY naming the file, its expected and its found size or hash; E_UNSAFE_PATH.
 */
export async function checkManifest(folder: string, needed: (name: string) => boolean = () => true): Promise<boolean> {
  if (!(await readdir(folder).catch((e: unknown) => readError(e, folder))).includes(NAME)) return false
  const path = join(folder, NAME)
  const json = (await readJson(path, RULES)) as { format?: unknown; files?: unknown } | null
  if (json?.format !== FORMAT) return false
  if (typeof json.files !== "object" || json.files === null)
    fail("E_INTEGRITY", `${path}: "files" must be an object`, { file: path })
  for (const [name, entry] of Object.entries(json.files)) {
    if (needed(safeRelPath(name, path))) await checkFile(join(folder, name), entryOf(entry, name, path))
  }
  return true
}

async function checkFile(path: string, expected: Digest): Promise<void> {
  const got = await digestOf(path).catch((cause: unknown) =>
    fail("E_INTEGRITY", `${path}: the manifest names it and it cannot be read; convert the model again`, {
      file: path,
      cause,
    }),
  )
  if (got.bytes === expected.bytes && got.sha256 === expected.sha256) return
  const text = ({ bytes, sha256 }: Digest) => `${bytes} bytes with sha256 ${quote(sha256.slice(0, 12))}`
  const what = `expected ${text(expected)}, got ${text(got)}`
  fail("E_INTEGRITY", `${path}: ${what}; it was changed, convert the model again`, { file: path })
}
