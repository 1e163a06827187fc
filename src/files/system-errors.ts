/** @file What the operating system refuses, as the project's errors (https://nodejs.org/api/errors.html#common-system-errors). */
import { type ErrorCode, fail, PrismaError } from "../errors.ts"

type Meaning = readonly [ErrorCode, string]

const FULL: Meaning = ["E_DISK_FULL", "no room to write it; free some space, then try again"]
const DENIED: Meaning = ["E_OUTPUT", "cannot be written; check that its folder is a folder and may be written to"]
const UNWRITTEN: Meaning = ["E_IO", "writing it failed; check the disk, then try again"]

const WRITING = new Map<string, Meaning>([
  ["ENOSPC", FULL],
  ["EDQUOT", FULL],
  ["EFBIG", FULL],
  ["EACCES", DENIED],
  ["EPERM", DENIED],
  ["EROFS", DENIED],
  ["ENOENT", DENIED],
  ["EEXIST", DENIED],
  ["EISDIR", DENIED],
  ["ENOTDIR", DENIED],
  ["ENOTEMPTY", DENIED],
  ["EBUSY", DENIED],
  ["ELOOP", DENIED],
  ["ENAMETOOLONG", DENIED],
  ["ERR_INVALID_ARG_VALUE", DENIED],
])

const ABSENT: Meaning = ["E_NOT_A_FILE", "does not exist; check the path"]
const UNREAD: Meaning = ["E_IO", "reading it failed; check its rights and the disk, then try again"]

const READING = new Map<string, Meaning>([
  ["ENOENT", ABSENT],
  ["ENOTDIR", ABSENT],
  ["ENAMETOOLONG", ABSENT],
  ["ERR_INVALID_ARG_VALUE", ABSENT],
  ["EISDIR", ["E_NOT_A_FILE", "is a folder; give a file"]],
  ["ELOOP", ["E_NOT_A_FILE", "is a symbolic link that leads to itself; repair it"]],
])

/** The code of an error that Node or the system made, such as ENOENT. */
export function systemCode(error: unknown): string | undefined {
  const code = error instanceof Error && "code" in error ? error.code : undefined
  return typeof code === "string" && !(error instanceof PrismaError) ? code : undefined
}

/** Throw what a failed write of `file` means; errors that are not the system's pass as they are. */
export const writeError = (error: unknown, file: string): never => translate(error, file, WRITING, UNWRITTEN)

/** Throw what a failed read of `file` means; errors that are not the system's pass as they are. */
export const readError = (error: unknown, file: string): never => translate(error, file, READING, UNREAD)

function translate(error: unknown, file: string, table: ReadonlyMap<string, Meaning>, otherwise: Meaning): never {
  const system = systemCode(error)
  if (system === undefined) throw error
  const [code, what] = table.get(system) ?? otherwise
  return fail(code, `${file}: ${what} (${system})`, { file, cause: error })
}
