/** @file What the endpoints of the test Hub share, and who may ask them what. */
import type { IncomingMessage } from "node:http"
import { refusal, type Answer } from "./answer.ts"
import type { Signatures } from "./storage.ts"
import type { Store } from "./store.ts"

export interface User {
  readonly name: string
  /** "fineGrained": a token that lacks the right to write. */
  readonly role: "read" | "write" | "fineGrained"
  readonly orgs?: readonly string[]
}

/** What an endpoint is given. */
export interface Call {
  readonly request: IncomingMessage
  readonly url: URL
  readonly body: Buffer
  readonly user: User | undefined
}

export interface Hub {
  readonly store: Store
  readonly signatures: Signatures
  readonly origins: { readonly hub: string; readonly cdn: string }
  readonly pageSize: number
  /** Bytes from which on an upload goes in parts, and of each. */
  readonly multipart: { readonly above: number; readonly part: number }
  /** Bytes from which on a file is stored apart whatever its name. */
  readonly lfsAbove: number
  readonly renamed: Map<string, string>
  /** Accounts that gated repos are open to. */
  readonly granted: Set<string>
}

/** The named parts of a path, decoded. */
export type Match = Readonly<Record<string, string>>

const TYPES = { models: "model", datasets: "dataset", spaces: "space" } as const

/** A repo that this caller may read (or write), or why not. */
export function allowed(
  hub: Hub,
  { user, url }: Call,
  { id = "", type = "models" }: Match,
  how: "read" | "content" | "write",
): Answer | undefined {
  const to = hub.renamed.get(id)
  if (to !== undefined) {
    return { status: 307, headers: { location: url.pathname.replace(id, to) + url.search } }
  }
  const meta = hub.store.meta(id)
  const isType = meta?.type === TYPES[(type || "models") as keyof typeof TYPES]
  const hidden = meta?.private && !mayWrite(user, id)
  if (!meta || !isType || hidden) {
    return user
      ? refusal(404, "Repository not found", "RepoNotFound")
      : refusal(401, "Invalid username or password.", "RepoNotFound")
  }
  if (how === "write") {
    if (!user) return refusal(401, "Invalid username or password.")
    if (!mayWrite(user, id) || user.role !== "write")
      return refusal(403, "Forbidden: this token must have write rights")
  }
  if (how === "content" && meta.gated && !(user && (hub.granted.has(user.name) || mayWrite(user, id)))) {
    const what = `Access to model ${id} is restricted and you are not in the authorized list. Visit ${hub.origins.hub}/${id} to ask for access.` // prettier-ignore
    return refusal(user ? 403 : 401, what, "GatedRepo")
  }
  return undefined
}

export const mayWrite = (user: User | undefined, id: string): boolean =>
  user !== undefined && [user.name, ...(user.orgs ?? [])].includes(id.split("/")[0]!)

export const noRevision = (rev: string) => refusal(404, `Invalid rev id: ${rev}`, "RevisionNotFound")

export const parsed = (body: Buffer): Record<string, unknown> =>
  JSON.parse(body.toString() || "{}") as Record<string, unknown>
