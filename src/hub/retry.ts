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
  const after = headers.get("retry-after")?.trim() ?? ""
  // Date.parse takes "2, 3" and "-5" for days too; asctime's form names no zone and means GMT.
  const date = /^[A-Z][a-z]{2}/.test(after) ? Date.parse(/\d{4}$/.test(after) ? `${after} GMT` : after) : NaN
  const all = [
    ...(/^\d+(\.\d+)?$/.test(after) ? [1000 * Number(after)] : []),
    ...(Number.isNaN(date) ? [] : [Math.max(0, date - now)]),
    ...usedUp(headers.get("ratelimit") ?? "").map((seconds) => 1000 * seconds),
  ]
  return all.length ? Math.max(...all) : undefined
}

/** Seconds of those limits of `"name";r=left;t=seconds, ...` that have nothing left; parameters come in any order. */
const usedUp = (limits: string): number[] =>
  limits.split(",").flatMap((limit) => {
    const seconds = /;\s*r\s*=\s*0\s*(?:;|$)/.test(limit) ? /;\s*t\s*=\s*(\d+)/.exec(limit)?.[1] : undefined
    return seconds === undefined ? [] : [Number(seconds)]
  })
