/** @file How many commits a repo may still take this hour, by those it lists. */
import { fieldsOf } from "../tensor/record.ts"
import { apiUrl, protocol } from "./api.ts"
import type { HubHttp } from "./http.ts"

/** Commits of a repo in an hour, whoever makes them; the Hub takes 128 of an account. */
export const HOURLY = 20
const HOUR = 3_600_000

/**
 * How long ago, in milliseconds, the commits of the last hour on these branches were made, the oldest first: all, or 20 of
 * each branch. Errors: E_HUB_PROTOCOL, those of the Hub.
 */
export async function recentCommits(
  http: HubHttp,
  repo: string,
  branches: Iterable<string>,
  signal?: AbortSignal,
): Promise<readonly number[]> {
  const ages = new Map<string, number>()
  for (const branch of branches) {
    const url = apiUrl(http, repo, "commits", branch)
    const init = { repo, maxBytes: 16 * 2 ** 20, whole: true, ...(signal && { signal }) }
    const response = await http.request(`${url}?limit=${HOURLY}`, init)
    const all: unknown = await response.json().catch(() => undefined)
    if (!Array.isArray(all)) return protocol(url, repo, "the list of commits is no JSON array")
    // Both of the Hub's clock, where it tells the time.
    const now = Date.parse(response.headers.get("date") ?? "") || http.clock.now()
    for (const { id, date } of all.map(fieldsOf)) {
      const age = now - Date.parse(String(date))
      if (typeof id !== "string" || Number.isNaN(age)) return protocol(url, repo, "lists a commit without id and date")
      if (age < HOUR) ages.set(id, Math.max(0, age))
    }
  }
  return [...ages.values()].sort((a, b) => b - a)
}

/** Milliseconds until `wanted` more commits are within the hour's, where commits were made so long ago. */
export function waitFor(wanted: number, ages: readonly number[]): number {
  const last = ages[ages.length + wanted - HOURLY - 1]
  return last === undefined ? 0 : HOUR - last
}
