/** @file What SIGINT and SIGTERM do to work that can be stopped. */
import { PrismaError } from "../errors.ts"

/** Milliseconds in which a signal is the same one: npx sends on the terminal's, so that each comes twice. */
const ECHO = 100

const CODES = { SIGINT: 130, SIGTERM: 143 } as const
export type Stop = keyof typeof CODES
const SIGNALS = Object.keys(CODES) as readonly Stop[]

interface Stopping {
  readonly signal: AbortSignal
  /** Of the signal that came. */
  exitCode(): number | undefined
  release(): void
}

/** The first of these signals aborts `signal`, for the reason that `first` gives; one more ends the process at once. */
export function stopOnSignals(first: (name: Stop) => unknown): Stopping {
  const stop = new AbortController()
  let seen: { readonly code: number; readonly at: number } | undefined
  const on = (name: Stop) => {
    const [code, at] = [CODES[name], performance.now()]
    if (!seen) {
      seen = { code, at }
      stop.abort(first(name))
    } else if (at - seen.at > ECHO) process.exit(code)
  }
  for (const name of SIGNALS) process.on(name, on)
  return {
    signal: stop.signal,
    exitCode: () => seen?.code,
    release: () => {
      for (const name of SIGNALS) process.removeListener(name, on)
    },
  }
}

/** Work that ends with E_INTERRUPTED and what was stopped; the command then ends with the signal's exit code. */
export async function stoppable<T>(
  stopped: (name: Stop) => string,
  work: (signal: AbortSignal) => Promise<T>,
): Promise<T> {
  const stop = stopOnSignals((name) => new PrismaError("E_INTERRUPTED", stopped(name)))
  try {
    const result = await work(stop.signal)
    stop.signal.throwIfAborted() // what cannot be stopped midway came to its end
    return result
  } catch (error) {
    // The command knows how to go on, which the work does not.
    if (error instanceof PrismaError && error.code === "E_INTERRUPTED") stop.signal.throwIfAborted()
    throw error
  } finally {
    process.exitCode = stop.exitCode() ?? process.exitCode
    stop.release()
  }
}
