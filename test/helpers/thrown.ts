/** @file What a piece of work throws, which must be one of the project's errors in one line. */
import { expect } from "vitest"
import { PrismaError } from "../../src/errors.ts"

export async function thrown(work: Promise<unknown>): Promise<PrismaError> {
  const error: unknown = await work.then(
    () => undefined,
    (e: unknown) => e,
  )
  if (!(error instanceof PrismaError)) throw error ?? new Error("nothing was thrown")
  expect(error.message).not.toContain("\n")
  return error
}
