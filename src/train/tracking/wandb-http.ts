/** @file Requests to a W&B server: the key goes to this server alone, and is in no message. */
import { fail } from "../../errors.ts"
import { quote } from "../../tensor/quote.ts"
import type { Failure } from "./queue.ts"
import type { Opening } from "./tracker.ts"

const DEFAULT_URL = "https://api.wandb.ai"

/** Bytes of an answer that are read; those asked for have some hundred. */
const ANSWER_LIMIT = 1 << 20

/** A Retry-After beyond this is not believed, in ms. */
const LONGEST_WAIT = 300_000

export interface WandbHttp {
  /** For messages: the server's host and port. */
  readonly host: string
  /** A GraphQL query's answer. */
  graphql(query: string, variables: object, signal: AbortSignal): Promise<{ readonly data: unknown } | Failure>
  post(path: string, body: object, signal: AbortSignal): Promise<Failure | undefined>
}

/** Errors: E_USAGE where WANDB_API_KEY is missing or WANDB_BASE_URL is no address. */
export function openWandbHttp(env: Opening["env"]): WandbHttp {
  const key = env["WANDB_API_KEY"]?.trim()
  if (!key) fail("E_USAGE", "WANDB_API_KEY is not set; set it to your W&B key, or WANDB_MODE to offline or disabled")
  const { origin, host } = baseUrl(env["WANDB_BASE_URL"] || DEFAULT_URL)
  const base64 = (text: string) => Buffer.from(text).toString("base64")
  const authorization = `Basic ${base64(`api:${key}`)}`
  /** A server may repeat what it was sent. */
  const secrets = [key, encodeURIComponent(key), base64(key), base64(`api:${key}`)]
  const hidden = (text: string) => secrets.reduce((rest, secret) => rest.replaceAll(secret, "***"), text)

  /** The text of a good answer. */
  const request = async (path: string, body: object, signal: AbortSignal): Promise<string | Failure> => {
    try {
      const answer = await fetch(`${origin}${path}`, {
        method: "POST",
        // A redirect could lead the key elsewhere.
        redirect: "manual",
        headers: { authorization, "content-type": "application/json" },
        body: JSON.stringify(body),
        signal,
      })
      const text = await bounded(answer)
      return answer.ok ? text : refusal(host, answer)
    } catch (error) {
      const why = signal.aborted ? "did not answer in time" : `cannot be reached (${codeOf(error)})`
      return { why: `${host} ${why}`, again: true }
    }
  }
  return {
    host,
    async graphql(query, variables, signal) {
      const text = await request("/graphql", { query, variables }, signal)
      if (typeof text !== "string") return text
      const { data, errors } = parsed(text)
      if (!Array.isArray(errors) || !errors.length) return { data }
      const message = at(errors[0], "message")
      const said = typeof message === "string" ? `: ${quote(hidden(message))}` : ""
      return { why: `${host} refused the run${said}`, again: false }
    },
    async post(path, body, signal) {
      const text = await request(path, body, signal)
      return typeof text === "string" ? undefined : text
    },
  }
}

function baseUrl(text: string): URL {
  const url = URL.canParse(text) ? new URL(text) : undefined
  // The address itself may hold a password, so it is not shown.
  if (!url || !/^https?:$/.test(url.protocol) || url.username || url.password)
    return fail("E_USAGE", "WANDB_BASE_URL is not the address of a server; expected one like https://api.wandb.ai")
  return url
}

/** Statuses that stay: the request, the key or the run is wrong. All else may pass. */
const FINAL = new Set([400, 401, 403, 404, 409, 410])

function refusal(host: string, { status, headers }: Response): Failure {
  if (status === 401 || status === 403)
    return { why: `${host} does not accept WANDB_API_KEY for this run (HTTP ${status})`, again: false }
  const seconds = Number(headers.get("retry-after") ?? NaN)
  const after = seconds >= 0 ? Math.min(seconds * 1000, LONGEST_WAIT) : 0
  return { why: `${host} answered HTTP ${status}`, again: status >= 400 && !FINAL.has(status), after }
}

async function bounded(answer: Response): Promise<string> {
  const pieces: Uint8Array[] = []
  let size = 0
  for await (const piece of answer.body ?? []) {
    pieces.push(piece)
    size += piece.length
    if (size > ANSWER_LIMIT) break
  }
  return Buffer.concat(pieces).toString()
}

/** What lies at a path of an answer, if it is there. */
export function at(value: unknown, ...path: readonly string[]): unknown {
  for (const key of path) {
    if (typeof value !== "object" || value === null || !Object.hasOwn(value, key)) return undefined
    value = (value as Readonly<Record<string, unknown>>)[key]
  }
  return value
}

function parsed(text: string): { readonly data?: unknown; readonly errors?: unknown } {
  try {
    return (JSON.parse(text) as object | null) ?? {}
  } catch {
    return {}
  }
}

/** undici hides the system's code in the cause. */
function codeOf(error: unknown): string {
  const cause: unknown = error instanceof Error ? (error.cause ?? error) : error
  const code = cause instanceof Error && "code" in cause ? cause.code : undefined
  return typeof code === "string" ? code : "no connection"
}
