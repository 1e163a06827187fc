/** @file What of a folder may go up: ordinary files with names that every system can have; nothing that is secret or that
 * belongs to a tool, and no link that leads out of the folder. */
import { createReadStream } from "node:fs"
import { readdir, realpath, stat } from "node:fs/promises"
import { dirname, join } from "node:path"
import { Readable } from "node:stream"
import { secretIn } from "../cards/text-rules.ts"
import { fail, withoutSecrets } from "../errors.ts"
import { isWithin, safeRelPath } from "../files/paths.ts"
import { readFully, withFile } from "../files/read.ts"
import { readError } from "../files/system-errors.ts"
import { quote } from "../tensor/quote.ts"
import { LazyBlob } from "./lazy-blob.ts"

interface LocalFile {
  /** In the folder, with "/" between its parts. */
  readonly path: string
  /** On the disk. */
  readonly file: string
  readonly size: number
  /** What is another when the file was changed. */
  readonly stamp: string
}

/** What goes up under a path: a file's bytes, or others. */
export interface Content {
  /** In the repo. */
  readonly path: string
  readonly size: number
  /** Its bytes from `start` up to `end`, by default all. */
  readonly blob: (start?: number, end?: number) => Blob
  /** Error: E_CHANGED_DURING_READ where they are not those that were listed. */
  readonly check: () => Promise<void>
}

/** Bytes of a file that are read at once. */
const READ = 1 << 18

/** A file of a folder, as it goes up under `path`. */
export const fileContent = (local: LocalFile, path: string): Content => ({
  path,
  size: local.size,
  blob: (start = 0, end = local.size) =>
    new LazyBlob(end - start, () => {
      // An empty range is none that a stream can have.
      const bytes = end > start ? createReadStream(local.file, { start, end: end - 1, highWaterMark: READ }) : Readable.from([]) // prettier-ignore
      return Readable.toWeb(bytes)
    }),
  check: () => checkUnchanged(local),
})

/** A text that goes up under `path`. */
export function textContent(text: string, path: string): Content {
  const blob = new Blob([text])
  return { path, size: blob.size, blob: (start, end) => blob.slice(start, end), check: async () => {} }
}

/** What stays here. */
export interface Skipped {
  readonly path: string
  readonly why: string
}

/** Characters that HFS+ takes no notice of in a name. */
const UNSEEN = "[\\u200c-\\u200f\\u202a-\\u202e\\u206a-\\u206f\\ufeff]*"
/** .git as HFS+ and NTFS may spell it: what git refuses by core.protectHFS and core.protectNTFS. */
const DOT_GIT = new RegExp(`^${UNSEEN}${["\\.", "g", "i", "t", "$"].join(UNSEEN)}|^(\\.git|git~1)[ .]*(:|$)`, "i")

/** Names of files and folders that stay here, and why. */
const STAY: readonly (readonly [RegExp, string])[] = [
  [DOT_GIT, "belongs to git"],
  [/^\.(cache|huggingface|ipynb_checkpoints|vscode|idea|DS_Store)$|^(node_modules|__pycache__|Thumbs\.db)$/i, "belongs to a tool"], // prettier-ignore
  [/^\..*\.tmp-\d+-\w+$/, "is half written"],
  [/\.(incomplete|partial|part)$/, "is half written"],
  [/^(\.env(\..*)?|\.netrc|_netrc|\.npmrc|\.pypirc|\.ssh|\.aws|\.gnupg|\.kube|\.docker)$/i, "may hold secrets"],
  [/^(token|stored_tokens|hf_token|credentials(\.json)?|id_(rsa|dsa|ecdsa|ed25519))$/i, "may hold secrets"],
  [/\.(pem|key|p12|pfx|keystore|jks|kdbx)$/i, "may hold secrets"],
]

/** Files that a repo may have at most, and folders inside one another. */
const [MAX_FILES, MAX_DEPTH] = [100_000, 32]

/**
 * The files of a folder by path, and what of it stays here. Errors: E_INPUT (no such folder, nothing in it), E_UNSAFE_PATH
 * for a name that another system could take for a path elsewhere, E_IO.
 */
export async function listFolder(folder: string): Promise<{ files: LocalFile[]; skipped: Skipped[] }> {
  const there = await stat(folder).catch(() => undefined)
  if (!there?.isDirectory()) {
    const what = there ? "is no folder; give the folder that the file is in" : "no such folder"
    fail("E_INPUT", `${folder}: ${what}`, { file: folder })
  }
  const root = await realpath(folder)
  const files: LocalFile[] = []
  const skipped: Skipped[] = []
  const walk = async (under: string, depth: number): Promise<void> => {
    const entries = await readdir(join(root, under), { withFileTypes: true }).catch((e: unknown) =>
      readError(e, join(root, under)),
    )
    for (const entry of entries.sort((a, b) => (a.name < b.name ? -1 : 1))) {
      const path = under ? `${under}/${entry.name}` : entry.name
      const skip = (why: string) => void skipped.push({ path, why })
      const stays = STAY.find(([rule]) => rule.test(entry.name))
      if (stays) skip(stays[1])
      else if (entry.isDirectory()) {
        if (depth === MAX_DEPTH) fail("E_INPUT", `${join(root, path)}: more than ${MAX_DEPTH} folders in one another`)
        await walk(path, depth + 1)
      } else if (entry.isSymbolicLink()) await follow(path, skip)
      else if (entry.isFile()) await add(path, join(root, path))
      else skip("is a pipe or device")
    }
  }
  const follow = async (path: string, skip: (why: string) => void): Promise<void> => {
    const real = await realpath(join(root, path)).catch(() => undefined)
    if (real === undefined) return skip("is a link to nothing")
    if (!isWithin(root, real)) return skip("is a link out of the folder")
    const isFile = (await stat(real)).isFile()
    // What it leads to may be one that stays here.
    const stays = real.slice(root.length + 1).split(/[\\/]/).some((part) => STAY.some(([rule]) => rule.test(part))) // prettier-ignore
    if (!isFile || stays) return skip(isFile ? "is a link to what stays here" : "is a link to a folder")
    await add(path, real)
  }
  const add = async (path: string, file: string): Promise<void> => {
    if (path.includes("\uFFFD")) fail("E_UNSAFE_PATH", `${folder}: the name of ${quote(path)} is not UTF-8; rename the file`, { file: folder }) // prettier-ignore
    if (files.length === MAX_FILES) fail("E_INPUT", `${folder}: has more than ${MAX_FILES} files`, { file: folder })
    files.push({ path: safeRelPath(path, folder), file, ...(await stampOf(file)) })
  }
  await walk("", 0)
  if (!files.length) {
    const why = skipped.length ? `; what is there stays here: ${skipped[0]!.path} ${skipped[0]!.why}` : ""
    fail("E_INPUT", `${folder}: has no file to push${why}`, { file: folder })
  }
  return { files, skipped }
}

async function stampOf(file: string): Promise<{ size: number; stamp: string }> {
  const { size, ino, dev, mtimeNs } = await stat(file, { bigint: true }).catch((e: unknown) => readError(e, file))
  return { size: Number(size), stamp: [dev, ino, size, mtimeNs].join(":") }
}

/** Error: E_CHANGED_DURING_READ where the file is not what it was when it was listed. */
async function checkUnchanged({ file, stamp }: LocalFile): Promise<void> {
  if ((await stampOf(file)).stamp === stamp) return
  fail("E_CHANGED_DURING_READ", `${file}: was changed while it was pushed; push again when nothing writes it`, { file })
}

/** Where in the repo the folder's content goes. Errors: E_UNSAFE_PATH. */
export function pathInRepo(path: string): string {
  const clean = safeRelPath(path.replace(/\/$/, ""), "the path in the repo")
  if (!clean.split("/").some((part) => DOT_GIT.test(part))) return `${clean}/`
  return fail(
    "E_UNSAFE_PATH",
    `the path in the repo: ${quote(path)} lies in .git, or in what some file systems take for it; choose another folder`,
  )
}

/** Bytes that are looked at together, and how many of them again with the next. */
const [WINDOW, OVERLAP] = [1 << 20, 1 << 13]

/** Bytes by which a text is told from numbers, among which are zeros: a safetensors file has them in its first eight. */
const SNIFF = 4096

/** Error: E_SECRET_FOUND where a text holds a token or key, in plain, base64 or a URL's escapes. `where` says whose text it is. */
export function refuseSecret(text: string, where: string, about: { readonly file?: string } = {}): void {
  const found = isOwn(text) || isOwn(text.replace(/\s+/g, "")) ? "your token" : secretIn(text)
  if (found === undefined) return
  fail("E_SECRET_FOUND", `${where} holds ${found}; take it out and revoke it, nothing was pushed`, about)
}

/** Error: E_SECRET_FOUND for a file in whose name or text a token or key is found. */
export async function refuseSecrets({ path, file, size }: LocalFile, goOn: () => void): Promise<void> {
  refuseSecret(path, `a file's name in ${dirname(file)}`)
  await withFile(file, async (handle) => {
    const bytes = Buffer.alloc(Math.min(WINDOW, size))
    const start = bytes.subarray(0, await readFully(handle, file, bytes.subarray(0, SNIFF), 0))
    const wide = UTF16.find(([mark]) => start.indexOf(mark) === 0)?.[1]
    if (!wide && start.includes(0)) return
    for (let at = 0; at < size; at += WINDOW - OVERLAP) {
      goOn()
      const n = await readFully(handle, file, bytes.subarray(0, Math.min(WINDOW, size - at)), at)
      refuseSecret(wide ? new TextDecoder(wide).decode(bytes.subarray(0, n)) : bytes.toString("latin1", 0, n), path, { file }) // prettier-ignore
    }
  })
}

/** Does a text hold the own token, in whatever form a secret may be given back? */
const isOwn = (text: string): boolean => withoutSecrets(text) !== text

/** Texts whose characters have zeros, by what they begin with. */
const UTF16 = [
  [Buffer.from([0xff, 0xfe]), "utf-16le"],
  [Buffer.from([0xfe, 0xff]), "utf-16be"],
] as const
