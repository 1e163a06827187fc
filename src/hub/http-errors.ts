/** @file What a Hub's refusals and a broken network mean, as the project's errors
 * (https://huggingface.co/docs/huggingface_hub/package_reference/utilities#http-errors). */
import { type ErrorCode, type ErrorPlace, fail, PrismaError } from "../errors.ts"
import { quote } from "../tensor/quote.ts"
import { plainUrl } from "./redirects.ts"
import { isRetried, MAX_WAIT, wished } from "./retry.ts"

/** What was asked, for messages. */
export interface Asked {
  readonly url: string
  readonly repo?: string
  /** The token was sent along. */
  readonly authorized: boolean
  /** Another server than the Hub: a store that it sends on to. */
  readonly foreign?: boolean
  /** The token, which no message may carry, whatever the server answers. */
  readonly token?: string
}

type Meaning = readonly [code: ErrorCode, what: string]

/** Bytes of an answer that are read for its words. */
const WORDS = 64 * 1024

/** Throw what an answer that is no success means. */
export async function statusError(response: Response, asked: Asked): Promise<never> {
  const { headers, status } = response
  const said = await words(response, asked)
  const [code, what] = meaning(status, headers.get("x-error-code") ?? "", said, asked)
  const url = plainUrl(asked.url)
  const wish = wished(headers, Date.now())
  const seconds = Math.ceil((wish ?? 0) / 1000)
  const asks =
    wish === undefined ? "" : `; it asks to wait ${seconds} s${wish > MAX_WAIT ? ` (--wait ${seconds} does)` : ""}`
  const inWords = said ? `; it says ${quote(said)}` : ""
  return fail(
    code,
    `${url}: ${what} (HTTP ${status})${asks}${inWords}`,
    placeOf(asked, status >= 500 || isRetried(status)),
  )
}

const placeOf = ({ url, repo }: Asked, retryable = false): ErrorPlace => ({
  url: plainUrl(url),
  ...(repo && { repo }),
  retryable,
})

const LOG_IN = 'give a token by HF_TOKEN or "hf auth login"'

const MISSING: Readonly<Record<string, string>> = {
  RepoNotFound: "there is no such repo, or it is private and needs a token; check its name",
  RevisionNotFound: "the repo has no such revision; check the branch, tag or commit",
  EntryNotFound: "the repo has no such file at this revision",
}

/** It is asked without a token, with an address that is good for a while. */
const refused =
  "the store that the Hub sends on to refuses access: its address may be too old, or a network between refuses it; try again"

function meaning(status: number, error: string, said: string, { url, repo, authorized, foreign }: Asked): Meaning {
  if (error === "GatedRepo" && (status === 401 || status === 403)) {
    const page = `${new URL(url).origin}/${repo ?? ""}`
    const how = authorized ? "with the account of this token" : `and ${LOG_IN}`
    return ["E_HUB_GATED", `the repo is gated; ask for access at ${page} ${how}`]
  }
  if (foreign && (status === 401 || status === 403)) return ["E_HUB_AUTH", refused]
  if (status === 401) {
    // The Hub answers 401 where an anonymous asks for what is not there, so as not to tell what is private.
    const anonymous = !authorized && repo !== undefined && !/invalid credentials/i.test(said)
    if (anonymous || error === "RepoNotFound") return ["E_HUB_NOT_FOUND", `${MISSING["RepoNotFound"]}: ${LOG_IN}`]
    return ["E_HUB_AUTH", authorized ? `the token was refused; ${LOG_IN}` : `it wants a token; ${LOG_IN}`]
  }
  if (status === 403)
    return [
      "E_HUB_AUTH",
      authorized ? "the token has no right to this; give one that has" : `access is refused without a token; ${LOG_IN}`,
    ]
  if (status === 404)
    return ["E_HUB_NOT_FOUND", MISSING[error] ?? "there is nothing at this address; check the repo's name and revision"]
  return BY_STATUS.get(status) ?? otherwise(status)
}

const BY_STATUS = new Map<number, Meaning>([
  [409, ["E_HUB_CONFLICT", "it is in conflict with what is there; look at the repo, then try again"]],
  [412, ["E_HUB_CONFLICT", "the repo has changed meanwhile; look at it, then try again"]],
  [429, ["E_HUB_RATE_LIMIT", "too many requests; wait, or give a token, which raises the limit"]],
  [408, ["E_HUB_UNAVAILABLE", "the server gave up waiting; try again later"]],
])

const otherwise = (status: number): Meaning =>
  status >= 500
    ? ["E_HUB_UNAVAILABLE", "the server is out of order; try again later"]
    : ["E_HUB_PROTOCOL", "the server refuses the request; check that HF_ENDPOINT is a Hub"]

async function words(response: Response, { token }: Asked): Promise<string> {
  const header = response.headers.get("x-error-message")
  const text = header ?? (await bodyStart(response))
  const inside = header === null ? (jsonError(text) ?? storeError(text)) : undefined
  const isPage = inside === undefined && /^\s*</.test(text)
  return isPage
    ? ""
    : cleaned(inside ?? text, token)
        .replace(/\s+/g, " ")
        .trim()
}

/** What a store says in XML (https://docs.aws.amazon.com/AmazonS3/latest/API/ErrorResponses.html). */
const storeError = (text: string): string | undefined => {
  const said = ["Code", "Message"].map((name) => new RegExp(`<${name}>([^<]{1,500})</${name}>`).exec(text)?.[1])
  return said.filter((part) => part !== undefined).join(": ") || undefined
}

/** Foreign text without our token and without the queries of URLs, whole or not, and who they are for. */
export function cleaned(text: string, token?: string): string {
  const forms = token ? [token, encodeURIComponent(token), btoa(token)] : []
  const hidden = forms.reduce((t, form) => t.replaceAll(form, "***"), text)
  return hidden
    .replace(/(https?:\/\/[^\s?"'<>]*)\?[^\s"'<>]*/g, "$1")
    .replace(/\?[\w.%-]+=[^\s"'<>]*/g, "")
    .replace(/(\/\/)[^\s/@"'<>]{1,500}@/g, "$1")
}

async function bodyStart(response: Response): Promise<string> {
  const reader = response.body?.getReader()
  if (!reader) return ""
  const decoder = new TextDecoder()
  let text = ""
  try {
    for (let n = 0; n < WORDS;) {
      const { done, value } = await reader.read()
      if (done) break
      text += decoder.decode(value, { stream: true })
      n += value.length
    }
    void reader.cancel().catch(() => {})
  } catch {
    // What it said is lost; what it answered is known.
  }
  return text
}

function jsonError(text: string): string | undefined {
  try {
    const { error, message } = JSON.parse(text) as { error?: unknown; message?: unknown }
    return [error, message].find((said) => typeof said === "string")
  } catch {
    return undefined
  }
}

const DNS = /^(ENOTFOUND|EAI_)/
// What is wrong with a certificate: https://nodejs.org/api/tls.html#x509-certificate-error-codes.
const TLS =
  /^(CERT_|CRL_|ERROR_IN_|ERR_TLS_|ERR_SSL_|EPROTO|UNABLE_TO_|DEPTH_ZERO|SELF_SIGNED|HOSTNAME_MISMATCH|INVALID_(CA|PURPOSE)|PATH_LENGTH_EXCEEDED|UNSPECIFIED)/
const SLOW = /^(ETIMEDOUT|UND_ERR_(CONNECT|HEADERS|BODY)_TIMEOUT)$/

/** A name that no server knows may be one that is known again in a moment; more often it is a network that is off. */
export const isUnknownHost = ({ cause }: PrismaError): boolean =>
  cause instanceof Error && "code" in cause && cause.code === "ENOTFOUND"

/** What `fetch` or the reading of a body threw, as one of the project's errors. */
export function networkError(error: unknown, asked: Asked): PrismaError {
  if (error instanceof PrismaError) return error
  const cause: unknown = error instanceof Error && error.cause !== undefined ? error.cause : error
  const system = cause instanceof Error && "code" in cause && typeof cause.code === "string" ? cause.code : ""
  const text = cleaned(cause instanceof Error ? cause.message : String(cause), asked.token)
  // OpenSSL begins with the number of the thread.
  const said = text.replace(/^[0-9A-F]+:error:/, "")
  const url = plainUrl(asked.url)
  const { host } = new URL(asked.url)
  const made = (code: ErrorCode, what: string, retryable = true) =>
    new PrismaError(code, `${url}: ${what}${system ? ` (${system})` : ""}`, { ...placeOf(asked, retryable), cause })
  if (/unexpected redirect/.test(said)) return made("E_HUB_PROTOCOL", "redirects an upload; refused", false)
  // Of a request that was never sent.
  if (system === "UND_ERR_INVALID_ARG" || said.startsWith("Headers.append: "))
    return made("E_HUB_PROTOCOL", `what it is to be sent with is no HTTP: ${quote(said)}`, false)
  if (DNS.test(system))
    return made("E_NETWORK", `the name ${host} is not known here; check the network and HF_ENDPOINT`)
  if (TLS.test(system)) {
    const what = `no secure connection to ${host}: ${quote(said)}; check the clock, the proxy and the certificates`
    return made("E_NETWORK", what, false)
  }
  if (SLOW.test(system)) return made("E_HUB_TIMEOUT", `${host} does not answer in time; try again later`)
  // A RangeError is that of a status that HTTP has not.
  if (/^HPE_|^UND_ERR_HEADERS_OVERFLOW/.test(system) || cause instanceof RangeError)
    return made("E_HUB_PROTOCOL", `what ${host} answers is no HTTP`)
  if (system === "ECONNREFUSED") return made("E_NETWORK", `${host} refuses the connection; check HF_ENDPOINT`)
  return made("E_NETWORK", `the connection to ${host} broke: ${quote(said)}; try again`)
}

/** What an aborted request throws: the reason, where that is an error of ours. */
export function interrupted(signal: AbortSignal, { url, repo }: Asked): PrismaError {
  const { reason } = signal as { reason: unknown }
  if (reason instanceof PrismaError) return reason
  return new PrismaError("E_INTERRUPTED", `${plainUrl(url)}: stopped`, { url: plainUrl(url), ...(repo && { repo }) })
}
