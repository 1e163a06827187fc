/** @file Packages that only some need: loaded when they are, with the command that installs them where they are missing. */
import { fail } from "../errors.ts"

/** What `load` imports. Error: E_USAGE naming `packages` where one of them is not installed. */
export async function optional<T>(load: () => Promise<T>, what: string, packages: string): Promise<T> {
  try {
    return await load()
  } catch (cause) {
    const code = cause instanceof Error && "code" in cause ? cause.code : undefined
    if (code !== "ERR_MODULE_NOT_FOUND" && code !== "MODULE_NOT_FOUND") throw cause
    return fail("E_USAGE", `${what} needs packages that are not installed; install them: npm install ${packages}`, {
      cause,
    })
  }
}
