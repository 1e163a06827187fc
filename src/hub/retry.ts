/** @file What is tried again and after how long (https://www.rfc-editor.org/rfc/rfc9110#section-10.2.3,
 * https://datatracker.ietf.org/doc/draft-ietf-httpapi-ratelimit-headers/). */

/** Five more than the first, as huggingface_hub has it. */
export const MAX_TRIES = 6
/** Milliseconds that one request may wait in all. */
export const MAX_WAIT = 120_000

const RETRIED = new Set([408, 429, 500, 502, 503, 504])
export const isRetried = (status: number): boolean => RETRIED.has(status)

/** 1, 2, 4, 8, 8 s, and up to a quarter more so that many clients do not come back at once. */
export const backoff = (tries: number, random: number): number =>
  Math.min(8000, 1000 * 2 ** (tries - 1)) * (1 + random / 4)

/** Milliseconds that the server wishes to be left alone, if it says: Retry-After in seconds or as a date, RateLimit. */
export function wished(headers: Headers, now: number): number | undefined {
  const after = headers.get("retry-after")?.trim()
  const date = after === undefined || /^\d+$/.test(after) ? NaN : Date.parse(after)
  const limit = /"[^"]*"\s*;\s*r\s*=\s*0\s*;\s*t\s*=\s*(\d+)/.exec(headers.get("ratelimit") ?? "")
  const all = [
    ...(after !== undefined && /^\d+$/.test(after) ? [1000 * Number(after)] : []),
    ...(Number.isNaN(date) ? [] : [Math.max(0, date - now)]),
    ...(limit ? [1000 * Number(limit[1])] : []),
  ]
  return all.length ? Math.max(...all) : undefined
}
