/** @file Where a request may be sent on to: never off https, never to an address of a private network, never in a circle. */
import { isIP } from "node:net"
import { fail } from "../errors.ts"

/** As browsers (https://fetch.spec.whatwg.org/#http-redirect-fetch). */
const MAX_HOPS = 20
const STATUSES = new Set([301, 302, 303, 307, 308])

export const isRedirect = (status: number): boolean => STATUSES.has(status)

/** A URL for messages: signatures and passwords stand in queries and before the host. */
export function plainUrl(url: string | URL): string {
  try {
    const { origin, protocol, host, pathname } = new URL(url)
    return `${origin === "null" ? `${protocol}//${host}` : origin}${pathname}`
  } catch {
    return "(no URL)"
  }
}

const isLoopback = ({ hostname }: URL): boolean =>
  hostname === "localhost" || hostname === "[::1]" || /^127(\.\d+){3}$/.test(hostname)

/** Addresses that no public host has (RFC 6890); the URL parser has made all spellings of IPv4 one. */
const PRIVATE = [
  /^(0|10|127)\./,
  /^100\.(6[4-9]|[7-9]\d|1[01]\d|12[0-7])\./,
  /^169\.254\./,
  /^172\.(1[6-9]|2\d|3[01])\./,
  /^192\.(0\.0|168)\./,
  /^198\.1[89]\./,
  /^(22[4-9]|2[34]\d|25[0-5])\./,
  // Those that begin with zeros, 6to4 and Teredo: with an IPv4 address in them, which may be any of these.
  /^::/,
  /^64:ff9b:/,
  /^2002:/,
  /^2001:0?:/,
  /^f[cdef]/,
]

function isPrivate({ hostname }: URL): boolean {
  const address = hostname.replace(/^\[|\]$/g, "")
  if (!isIP(address)) return /(^|\.)(localhost|local|internal)\.?$/.test(hostname)
  return PRIVATE.some((rule) => rule.test(address))
}

/**
 * The URL that a redirect from `from` leads to; `seen` are those of this request before. Error: E_HUB_PROTOCOL for a
 * missing or broken address, another protocol than https (http inside one loopback or one http host excepted), a
 * private address, a circle, more than 20 hops.
 */
export function redirectTarget(from: URL, location: string | null, seen: ReadonlySet<string>, repo?: string): URL {
  const refuse = (what: string): never => {
    const url = plainUrl(from)
    return fail("E_HUB_PROTOCOL", `${url}: sends on ${what}; refused`, { url, ...(repo && { repo }) })
  }
  if (!location || !URL.canParse(location, from.href)) return refuse("to no valid address")
  const to = new URL(location, from)
  const shown = plainUrl(to)
  const local = isLoopback(from) && isLoopback(to)
  const samePlain = from.protocol === "http:" && to.origin === from.origin
  if (to.protocol !== "https:" && !(to.protocol === "http:" && (local || samePlain)))
    refuse(`to ${shown}, which is not https`)
  if (to.username || to.password) refuse(`to ${shown} with a user name in it`)
  if (!local && to.origin !== from.origin && isPrivate(to)) refuse(`to ${shown}, an address of a private network`)
  if (seen.has(to.href)) refuse(`in a circle, back to ${shown}`)
  if (seen.size > MAX_HOPS) refuse(`more than ${MAX_HOPS} times, now to ${shown}`)
  return to
}
