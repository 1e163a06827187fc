/** @file The child process of one job: gets the job's arguments, runs the default export of its module, sends what came of it. */
import { PrismaError } from "../errors.ts"

/** What a job's process answers, as JSON. */
export type Answer =
  | { readonly value?: unknown }
  | { readonly error: { readonly code?: string; readonly message: string; readonly [place: string]: unknown } }

async function answer(args: string): Promise<Answer> {
  try {
    const module = (await import(process.argv[2]!)) as { default?: unknown }
    if (typeof module.default !== "function") throw new Error("the job's module has no function as default export")
    // Sent as text, so that what JSON cannot hold fails here, in the job.
    return { value: JSON.parse(JSON.stringify((await module.default(JSON.parse(args))) ?? null)) }
  } catch (error) {
    if (error instanceof PrismaError) return { error: { ...error.toJSON(), message: error.message, code: error.code } }
    return { error: { message: error instanceof Error ? `${error.name}: ${error.message}` : String(error) } }
  }
}

process.once("disconnect", () => process.exit(1)) // nobody waits for the answer any more
process.once("message", (args: string) => {
  void answer(args).then((said) => process.send!(said, () => process.exit(0)))
})
