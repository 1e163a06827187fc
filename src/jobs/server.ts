/** @file The server behind a queue: which it is, by its URL, and whether it answers. */
import { fail, PrismaError } from "../errors.ts"
import { quote } from "../tensor/quote.ts"

/** A database that BullMQ keeps a queue in. */
export interface QueueServer {
  /** The package that speaks to it, with its version. */
  readonly driver: string
  /** BullMQ's factory for it; none for Redis. */
  readonly backend?: unknown
  /** Connect once, and make ready what the queue needs. */
  probe(): Promise<void>
  /** A connection that is made again whenever it breaks. */
  connect(onError: (error: Error) => void): Connected
}

export interface Connected {
  readonly connection: unknown
  /** Of the server as it is now: another when it comes back empty. */
  readonly id: () => Promise<string>
  /** Nothing can be told to it now. */
  readonly isAway: () => boolean
  readonly close: () => Promise<void>
  /** End without a word, and all that waits for an answer with an error. */
  readonly cut: () => void
}

const SERVERS: Readonly<Record<string, (url: string) => Promise<QueueServer>>> = {
  "redis:": async (url) => (await import("./redis.ts")).redisServer(url),
  "rediss:": async (url) => (await import("./redis.ts")).redisServer(url),
  "postgres:": async (url) => (await import("./postgres.ts")).postgresServer(url),
  "postgresql:": async (url) => (await import("./postgres.ts")).postgresServer(url),
}

export interface NamedServer extends QueueServer {
  /** Its address without user and password. */
  readonly name: string
}

/** Errors: E_USAGE for a URL of another kind, and where a package is not installed. */
export async function serverAt(url: string): Promise<NamedServer> {
  const parsed = URL.canParse(url) ? new URL(url) : undefined
  const open = parsed && Object.hasOwn(SERVERS, parsed.protocol) ? SERVERS[parsed.protocol] : undefined
  if (!parsed || !open) {
    // What is no URL may still hold a password.
    const got = parsed ? parsed.protocol : "no URL"
    return fail("E_USAGE", `--queue wants redis://host:6379 or postgres://user@host/database, got ${quote(got)}`)
  }
  return { ...(await open(url)), name: `${parsed.protocol}//${parsed.host}${parsed.pathname.replace(/^\/$/, "")}` }
}

/** Does the server answer? Error: E_QUEUE saying why not. */
export async function reach(server: NamedServer): Promise<void> {
  try {
    await server.probe()
  } catch (error) {
    throw unreachable(server, error)
  }
}

function unreachable({ name }: NamedServer, cause: unknown): PrismaError {
  if (cause instanceof PrismaError) return cause
  const { code, message, errors } = cause as { code?: string; message?: string; errors?: readonly { code?: string }[] }
  const why = code ?? errors?.[0]?.code ?? message?.split("\n")[0] ?? String(cause)
  const text = `the queue's server ${name} cannot be used (${why}); start it, or check its address and password`
  return new PrismaError("E_QUEUE", text, { url: name, retryable: true, cause })
}
