/** @file The one module that speaks HTTP to a Hub: tries again what may be tried again, follows redirects by its own rules,
 * sends the token to its own host only, notices what stands still, and throws typed errors. */
import { fail, keepSecret, PrismaError, withoutSecrets } from "../errors.ts"
import { quote } from "../tensor/quote.ts"
import { version } from "../version.ts"
import { clock as realClock, type Clock } from "./clock.ts"
import { BODY_STALL, timeout, watched, WatchedBlob } from "./http-body.ts"
import { cleaned, interrupted, isUnknownHost, networkError, statusError, type Asked } from "./http-errors.ts"
import { isRedirect, plainUrl, redirectTarget } from "./redirects.ts"
import { backoff, isRetried, MAX_TRIES, MAX_WAIT, wished } from "./retry.ts"

export interface HubHttpOptions {
  /** A URL without a slash at its end. */
  readonly endpoint: string
  readonly token?: string | undefined
  /** Throw E_OFFLINE before a socket is made. */
  readonly offline?: boolean
  readonly clock?: Clock
  /** In place of the global fetch. */
  readonly send?: typeof fetch
  /** Told in one line why a request waits. */
  readonly onWait?: (text: string) => void
  /** Milliseconds that the pauses of one request may take together; 120,000. */
  readonly wait?: number | undefined
}

export interface HubInit extends RequestInit {
  /** The repo that is asked about, for errors. */
  readonly repo?: string
  /** Tries of this request; 6, and 1 where the body is a stream. */
  readonly tries?: number
  /** Bytes that the answer may have. */
  readonly maxBytes?: number
  /** Statuses that `request` gives back although they are no success. */
  readonly accept?: readonly number[]
  /** Which redirects are followed: "all" that the rules allow, those inside the endpoint's "own" origin, or "none". */
  readonly follow?: "all" | "own" | "none"
  /** Milliseconds without progress until a try is given up: 20,000 for the head of an answer and a body that is part of the
   * try, 30,000 for another body. */
  readonly stall?: number
  /** The body is part of the try: one that is cut or stands still is asked for again. For answers that are held in memory. */
  readonly whole?: boolean
  /** Sees the head of every answer on the way to the last, redirects included; what it throws is thrown. */
  readonly onHead?: (url: URL, response: Response) => void
}

export interface HubHttp {
  readonly endpoint: string
  readonly authorized: boolean
  readonly clock: Clock
  /** As the global fetch. Answers of 408, 429 and 5xx are tried again, at last thrown; others are given back, whatever their status. */
  fetch(url: string | URL | Request, init?: HubInit): Promise<Response>
  /** `fetch`, which throws for what is no success. */
  request(url: string | URL, init?: HubInit): Promise<Response>
  /** The JSON that is answered; to a GET as a `whole`. Error: E_HUB_PROTOCOL for anything else, or more than `maxBytes` (16 MiB). */
  json(url: string | URL, init?: HubInit): Promise<unknown>
}

/** Five times the first and the waits between are less than the two minutes after which a request has failed. */
const STALL = 20_000
const MAX_JSON = 16 * 2 ** 20
/** Tries of a name that nobody knows: more often the network is off than the name comes back in a moment. */
const TRIES_OF_NAME = 3
const USER_AGENT = `vit-prisma/${version}; node/${process.versions.node}`

/** `endpoint` and path segments: each is encoded, "owner/name" as two, a revision with slashes as one. */
export const hubUrl = (endpoint: string, ...segments: readonly string[]): string =>
  [endpoint, ...segments.map((s) => encodeURIComponent(s))].join("/")

/** A repo id or path inside a repo, of several segments. */
export const segments = (path: string): string[] => path.split("/")

export function hubHttp(options: HubHttpOptions): HubHttp {
  const { endpoint, token, offline = false, clock = realClock, send, onWait } = options
  const { origin } = new URL(endpoint)
  if (token !== undefined) keepSecret(token)

  /** The headers for `url`: the token to the endpoint alone, and nowhere what holds it. */
  const headersFor = (url: URL, given: RequestInit["headers"], first: boolean): Headers => {
    const headers = new Headers(given)
    if (!headers.has("user-agent")) headers.set("user-agent", USER_AGENT)
    if (!headers.has("accept-encoding")) headers.set("accept-encoding", "identity")
    if (url.origin === origin) {
      if (token !== undefined && !headers.has("authorization")) headers.set("authorization", `Bearer ${token}`)
      return headers
    }
    const isSecret = (value: string) =>
      (token !== undefined && value.includes(token)) || withoutSecrets(value) !== value
    const foreign = [...headers].filter(([name, value]) => {
      const carriedOver = !first && (name === "authorization" || name === "cookie")
      return carriedOver || isSecret(value)
    })
    for (const [name] of foreign) headers.delete(name)
    return headers
  }

  const askedOf = (url: string | URL, repo: string | undefined): Asked => ({
    url: String(url),
    ...(repo !== undefined && { repo }),
    ...(token !== undefined && { token }),
    authorized: token !== undefined && new URL(url).origin === origin,
    foreign: new URL(url).origin !== origin,
  })

  /** One request and its answer's head. */
  async function hop(url: URL, init: HubInit, first: boolean): Promise<Response> {
    const { body, signal, stall = STALL, maxBytes = Infinity, whole = false } = init
    const asked = askedOf(url, init.repo)
    const controller = new AbortController()
    // It goes on to stop the body when the head has come.
    const either = signal ? AbortSignal.any([signal, controller.signal]) : controller.signal
    let late: PrismaError | undefined
    const arm = () =>
      clock.after(stall, () => {
        late = timeout(asked, stall, "no answer came")
        controller.abort(late)
      })
    let disarm = arm()
    const rearm = () => {
      disarm()
      disarm = arm()
    }
    // Of a Blob undici keeps no copy only where no redirect can want it again (nodejs/undici#4058).
    const sent =
      body instanceof Blob
        ? { body: new WatchedBlob(body, rearm), window: null, redirect: "error" as const }
        : { redirect: "manual" as const }
    try {
      const headers = headersFor(url, init.headers, first)
      const response = await (send ?? fetch)(url, { ...init, ...sent, headers, signal: either })
      return watched(response, { asked, clock, signal, stall: init.stall ?? (whole ? STALL : BODY_STALL), maxBytes })
    } catch (error) {
      if (late) throw late
      if (signal?.aborted) throw interrupted(signal, asked)
      throw networkError(error, asked)
    } finally {
      disarm()
    }
  }

  /** One try: the request, and the redirects that it is sent on by. */
  async function attempt(start: URL, init: HubInit): Promise<Response> {
    const { follow = "all", method = "GET", repo } = init
    const seen = new Set([start.href])
    for (let url = start; ;) {
      const response = await hop(url, init, url === start)
      init.onHead?.(url, response)
      if (!isRedirect(response.status) || follow === "none") return response
      const to = redirectTarget(url, response.headers.get("location"), seen, repo)
      if (follow === "own" && to.origin !== origin) return response
      discard(response)
      const kept = method === "GET" || method === "HEAD" || response.status >= 307
      if (!kept) {
        const place = { url: plainUrl(url), ...(repo && { repo }) }
        fail("E_HUB_PROTOCOL", `${plainUrl(url)}: answers a ${method} with a redirect (HTTP ${response.status})`, place)
      }
      seen.add(to.href)
      url = to
    }
  }

  async function fetchHub(input: string | URL | Request, given: HubInit = {}): Promise<Response> {
    const init = input instanceof Request ? { ...ofRequest(input), ...given } : given
    const url = new URL(input instanceof Request ? input.url : input)
    const asked = askedOf(url, init.repo)
    if (offline) refuseOffline(asked)
    const { tries = init.body instanceof ReadableStream ? 1 : MAX_TRIES } = init
    const began = clock.now()
    let waited = 0
    for (let done = 1; ; done++) {
      const got = await attempt(url, init)
        .then((response) => (init.whole && response.ok ? read(response) : response))
        .catch((error: unknown) => networkError(error, asked))
      const failed = got instanceof PrismaError
      if (!failed && !isRetried(got.status)) return got
      const most = failed && isUnknownHost(got) ? Math.min(tries, TRIES_OF_NAME) : tries
      const again = done < most && (!failed || got.retryable)
      const wish = failed ? undefined : wished(got.headers, clock.now())
      const ms = wish === undefined ? backoff(done, clock.random()) : wish + 1000 * clock.random()
      // What stood still may do so again.
      const next = failed && got.code === "E_HUB_TIMEOUT" ? (init.stall ?? STALL) : 0
      const late = failed && clock.now() - began + ms + next > MAX_WAIT
      if (!again || late || waited + ms > (options.wait ?? MAX_WAIT))
        throw failed ? got : await statusThrown(got, asked)
      if (!failed) discard(got)
      waited += ms
      const why = failed ? got.code : `HTTP ${got.status}`
      onWait?.(`${plainUrl(url)}: ${why}; trying again in ${Math.ceil(ms / 1000)} s (${done + 1} of ${tries})`)
      await clock.sleep(ms, init.signal ?? undefined).catch(() => {
        throw interrupted(init.signal!, asked)
      })
    }
  }

  async function request(url: string | URL, init: HubInit = {}): Promise<Response> {
    let last = new URL(url)
    const onHead = (at: URL, response: Response) => {
      last = at
      init.onHead?.(at, response)
    }
    const response = await fetchHub(url, { ...init, onHead })
    return response.ok || init.accept?.includes(response.status)
      ? response
      : statusError(response, askedOf(last, init.repo))
  }

  async function json(url: string | URL, init: HubInit = {}): Promise<unknown> {
    const response = await request(url, { maxBytes: MAX_JSON, whole: (init.method ?? "GET") === "GET", ...init })
    const text = await response.text()
    try {
      return JSON.parse(text) as unknown
    } catch {
      const asked = askedOf(url, init.repo)
      const got = `${cleaned(response.headers.get("content-type") ?? "nothing", token)}, ${quote(withoutSecrets(cleaned(text.slice(0, 65_536), token)).slice(0, 40))}`
      return fail("E_HUB_PROTOCOL", `${plainUrl(url)}: expected JSON, got ${got}; check the network and HF_ENDPOINT`, {
        url: plainUrl(asked.url),
        ...(asked.repo && { repo: asked.repo }),
      })
    }
  }

  return { endpoint, authorized: token !== undefined, clock, fetch: fetchHub, request, json }
}

/** Nobody waits for the end of a body that nobody reads. */
export const discard = ({ body }: Response): void => void body?.cancel().catch(() => {})

/** The response where it is a success, else its typed error. */
export const okOr = async (response: Response, asked: Asked): Promise<Response> =>
  response.ok ? response : statusError(response, asked)

/** The response with its body in memory. */
async function read(response: Response): Promise<Response> {
  const { status, headers, url } = response
  const bytes = await response.arrayBuffer()
  const made = new Response(bytes.byteLength ? bytes : null, { status, headers })
  Object.defineProperty(made, "url", { value: url })
  return made
}

const statusThrown = (response: Response, asked: Asked): Promise<unknown> =>
  statusError(response, asked).catch((error: unknown) => error)

const ofRequest = ({ method, headers, body, signal }: Request): HubInit => ({ method, headers, body, signal })

function refuseOffline({ url, repo }: Asked): never {
  const what = "is not asked, for offline is set; unset HF_HUB_OFFLINE, or leave --offline out"
  return fail("E_OFFLINE", `${plainUrl(url)}: ${what}`, { url: plainUrl(url), ...(repo && { repo }) })
}
