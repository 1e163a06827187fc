/** @file The one place where foreign names become paths: file names in repositories and shard indexes, and repository ids
 * (https://huggingface.co/docs/huggingface_hub/package_reference/utilities#huggingface_hub.utils.validate_repo_id). */
import { isAbsolute, relative } from "node:path"
import { fail } from "../errors.ts"
import { quote } from "../tensor/quote.ts"

/** Limits of Linux and macOS file systems: bytes in one segment, bytes in a path (with room for the folder before it). */
const MAX_SEGMENT = 255
const MAX_PATH = 3000

/** What no segment of a path may be; the first rule that matches gives the reason. */
const UNSAFE_SEGMENTS: readonly (readonly [RegExp, string])[] = [
  [/^$/, "has an empty part"],
  [/^[. ]+$/, "has a part of dots and spaces only"],
  [/\\/, "has a backslash, a separator on Windows"],
  [/^[A-Za-z]:/, "names a Windows drive"],
  [/\p{Cc}/u, "has a control character"],
  [/\p{Surrogate}/u, "has half a surrogate pair, which no file name can hold"],
]

const utf8 = new TextEncoder()

/** `name` if it stays below whatever folder it is joined to, on every system; it is a path of segments with `/` between.
 * `file` says where the name was found. Errors: E_UNSAFE_PATH. */
export function safeRelPath(name: string, file: string): string {
  if (typeof name !== "string") fail("E_UNSAFE_PATH", `${file}: a path must be text, got ${typeof name}`, { file })
  const refuse = (what: string): never =>
    fail(
      "E_UNSAFE_PATH",
      `${file}: file name ${quote(name)} ${what}; names that could leave their folder are refused`,
      {
        file,
      },
    )
  if (name.length > MAX_PATH || utf8.encode(name).length > MAX_PATH) refuse(`is longer than ${MAX_PATH} bytes`)
  for (const segment of name.split("/")) {
    for (const [rule, what] of UNSAFE_SEGMENTS) if (rule.test(segment)) refuse(what)
    if (utf8.encode(segment).length > MAX_SEGMENT) refuse(`has a part longer than ${MAX_SEGMENT} bytes`)
  }
  return name
}

/** Whether `path` is `folder` or lies below it; both are real paths. */
export function isWithin(folder: string, path: string): boolean {
  const way = relative(folder, path)
  return !isAbsolute(way) && !/^\.\.(?:[\\/]|$)/.test(way)
}

/** The names of a whole listing, all safe and able to exist side by side, else none. `source` says whose listing it is,
 * `folders` are those it lists as such. Errors: E_UNSAFE_PATH; E_NAME_COLLISION for `a` beside `a`, `a/b` or a folder `a`. */
export function checkListing(
  names: Iterable<string>,
  source: string,
  folders: Iterable<string> = [],
): readonly string[] {
  const files = new Set<string>()
  for (const name of names) {
    if (files.has(safeRelPath(name, source))) {
      fail("E_NAME_COLLISION", `${source}: file name ${quote(name)} is listed twice`, { file: source })
    }
    files.add(name)
  }
  for (const folder of folders) {
    if (!files.has(safeRelPath(folder, source))) continue
    fail("E_NAME_COLLISION", `${source}: ${quote(folder)} is listed as a file and as a folder`, { file: source })
  }
  for (const name of files) {
    for (let slash = name.indexOf("/"); slash >= 0; slash = name.indexOf("/", slash + 1)) {
      const folder = name.slice(0, slash)
      if (!files.has(folder)) continue
      const what = `${quote(folder)} is listed as a file and, by ${quote(name)}, as a folder`
      fail("E_NAME_COLLISION", `${source}: ${what}`, { file: source })
    }
  }
  return [...files]
}

/** The Hub's limit, in characters, on the name; the same is asked of the owner. */
const MAX_ID_PART = 96

/** What an id may not be; the first rule that matches gives the reason. */
const BAD_IDS: readonly (readonly [RegExp, string])[] = [
  [/^[a-z]+:\/\//, "is a URL; give owner/name alone"],
  [/\/.*\//, "has more than one slash; give owner/name, and the type of repository by its own option"],
  [/[^A-Za-z0-9_./-]/, "has characters other than letters, digits, - _ ."],
  [/^$|^\/|\/$/, "has an empty part"],
  [/^[.-]|[.-]$|[.-]\/|\/[.-]/, "has a part that begins or ends with - or ."],
  [/--|\.\./, "has -- or .."],
  [/\.git$/, "ends with .git"],
  [new RegExp(`[^/]{${MAX_ID_PART + 1}}`), `has a part of more than ${MAX_ID_PART} characters`],
]

/** `text` if it is a repository id, `name` or `owner/name`. Errors: E_REPO_ID. */
export function repoId(text: string): string {
  if (typeof text !== "string") fail("E_REPO_ID", `a repository id must be text as owner/name, got ${typeof text}`)
  for (const [rule, what] of BAD_IDS) {
    if (rule.test(text)) fail("E_REPO_ID", `repository id ${quote(text)} ${what}; expected a form like owner/name`)
  }
  return text
}

/** The folder of a model repository in the Hub cache, `models--owner--name`. Ids never hold `--` nor begin or end a part
 * with `-`, so two ids never share a folder. Errors: E_REPO_ID. */
export const repoFolderName = (id: string): string => `models--${repoId(id).replace("/", "--")}`
