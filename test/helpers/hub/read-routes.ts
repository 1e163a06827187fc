/** @file Endpoints of the test Hub that only tell: lists, infos and files. */
import { fileAnswer, json, refusal, type Answer } from "./answer.ts"
import { allowed, noRevision, parsed, type Call, type Hub, type Match } from "./access.ts"
import type { StoredCommit } from "./store.ts"

export function refs(hub: Hub, call: Call, match: Match): Answer {
  const denied = allowed(hub, call, match, "read")
  if (denied) return denied
  const all = hub.store.refs(match["id"]!)
  const isPr = (name: string) => name.startsWith("refs/pr/")
  const list = (of: Readonly<Record<string, string>>, kind: string) =>
    Object.entries(of).map(([name, targetCommit]) => ({ name, ref: isPr(name) ? name : `refs/${kind}/${name}`, targetCommit })) // prettier-ignore
  const branches = list(all.branches, "heads")
  return json({
    branches: branches.filter((b) => !isPr(b.name)),
    converts: [],
    tags: list(all.tags, "tags"),
    pullRequests: branches.filter((b) => isPr(b.name)),
  })
}

/** A page of a list, and where the next one is. */
function paged(hub: Hub, { url }: Call, all: readonly unknown[], size: number): Answer {
  const at = Number(url.searchParams.get("cursor") ?? 0)
  const next = new URL(url.pathname + url.search, hub.origins.hub)
  next.searchParams.set("cursor", String(at + size))
  return json(all.slice(at, at + size), 200, at + size < all.length ? { link: `<${next.href}>; rel="next"` } : {})
}

export function commits(hub: Hub, call: Call, match: Match): Answer {
  const denied = allowed(hub, call, match, "read")
  if (denied) return denied
  const all = hub.store.log(match["id"]!, match["rev"]!)
  if (!all.length) return noRevision(match["rev"]!)
  const shown = all.map((c) => ({ id: c.id, title: c.title, message: c.description, authors: [{ user: c.author }], date: c.date })) // prettier-ignore
  return paged(hub, call, shown, Number(call.url.searchParams.get("limit") ?? 50))
}

const TREE_ID = "d".repeat(40)

function entryOf(hub: Hub, id: string, at: StoredCommit, path: string, expand: boolean): object | undefined {
  const found = at.tree[path]
  const isFolder = Object.keys(at.tree).some((name) => name.startsWith(`${path}/`))
  if (!found && !isFolder) return undefined
  const last = expand ? lastChange(hub, id, at, path) : undefined
  const lastCommit = last && { id: last.id, title: last.title, date: last.date }
  return found
    ? { type: "file", path, ...found, ...(lastCommit && { lastCommit, securityFileStatus: { status: "unscanned" } }) }
    : { type: "directory", path, oid: TREE_ID, size: 0, ...(lastCommit && { lastCommit }) }
}

/** The newest commit that changed a file or folder. */
function lastChange(hub: Hub, id: string, at: StoredCommit, path: string): StoredCommit {
  const of = (c: StoredCommit) =>
    JSON.stringify(Object.entries(c.tree).filter(([name]) => name === path || name.startsWith(`${path}/`)))
  const all = hub.store.log(id, at.id)
  return all.find((c, i) => all[i + 1] === undefined || of(c) !== of(all[i + 1]!))!
}

export function tree(hub: Hub, call: Call, match: Match): Answer {
  const denied = allowed(hub, call, match, "read")
  if (denied) return denied
  const at = hub.store.resolve(match["id"]!, match["rev"]!)
  if (!at) return noRevision(match["rev"]!)
  const { searchParams } = call.url
  const [recursive, expand] = ["recursive", "expand"].map((name) => /^(true|1)$/.test(searchParams.get(name) ?? ""))
  const under = match["path"] ? `${match["path"].replace(/\/$/, "")}/` : ""
  const names = new Set<string>()
  for (const name of Object.keys(at.tree)) {
    if (!name.startsWith(under)) continue
    const parts = name.slice(under.length).split("/")
    for (let n = 1; n <= (recursive ? parts.length : 1); n++) names.add(under + parts.slice(0, n).join("/"))
  }
  if (under && !names.size) return refusal(404, `${match["path"]} does not exist on "${match["rev"]}"`, "EntryNotFound")
  const entries = [...names].sort().map((name) => entryOf(hub, match["id"]!, at, name, expand!))
  return paged(hub, call, entries, Number(searchParams.get("limit") ?? hub.pageSize))
}

export function pathsInfo(hub: Hub, call: Call, match: Match): Answer {
  const denied = allowed(hub, call, match, "read")
  if (denied) return denied
  const at = hub.store.resolve(match["id"]!, match["rev"]!)
  if (!at) return noRevision(match["rev"]!)
  const isForm = call.request.headers["content-type"]?.includes("urlencoded")
  const form = new URLSearchParams(isForm ? call.body.toString() : "")
  const asked = isForm ? { paths: form.getAll("paths"), expand: form.get("expand") === "true" } : parsed(call.body)
  const paths = asked["paths"] as string[]
  const entries = paths.flatMap((path) => entryOf(hub, match["id"]!, at, path, Boolean(asked["expand"])) ?? [])
  return json(entries)
}

export function info(hub: Hub, call: Call, match: Match): Answer {
  const denied = allowed(hub, call, match, "read")
  if (denied) return denied
  const rev = match["rev"] ?? "HEAD"
  const at = hub.store.resolve(match["id"]!, rev)
  if (!at) return noRevision(rev)
  const meta = hub.store.meta(match["id"]!)!
  const blobs = call.url.searchParams.get("blobs") === "true"
  const siblings = Object.entries(at.tree).map(([rfilename, f]) => ({
    rfilename,
    ...(blobs && { size: f.size, blobId: f.oid, ...(f.lfs && { lfs: { sha256: f.lfs.oid, size: f.lfs.size, pointerSize: f.lfs.pointerSize } }) }), // prettier-ignore
  }))
  return json({
    _id: "0".repeat(24),
    id: meta.id,
    modelId: meta.id,
    author: meta.id.split("/")[0],
    sha: at.id,
    private: meta.private,
    gated: meta.gated ? "auto" : false,
    disabled: false,
    downloads: 0,
    likes: 0,
    tags: [],
    createdAt: meta.createdAt,
    lastModified: at.date,
    siblings,
  })
}

export function file(hub: Hub, call: Call, match: Match): Answer {
  const denied = allowed(hub, call, match, "content")
  if (denied) return denied
  const { request } = call
  const at = hub.store.resolve(match["id"]!, match["rev"]!)
  if (!at) return noRevision(match["rev"]!)
  const commitHeader = { "x-repo-commit": at.id }
  const found = at.tree[match["path"]!]
  if (!found) {
    const none = refusal(404, "Entry not found", "EntryNotFound")
    return { ...none, headers: { ...none.headers, ...commitHeader } }
  }
  const about = { ...commitHeader, etag: `"${found.oid}"`, vary: "Origin" }
  if (match["kind"] === "raw") return fileAnswer(hub.store.pointerPath(found), request, about)
  if (!found.lfs) return fileAnswer(hub.store.contentPath(found), request, about)
  const { oid, size } = found.lfs
  return {
    status: 302,
    headers: {
      ...commitHeader,
      location: hub.signatures.download(oid, match["path"]!),
      "x-linked-size": String(size),
      "x-linked-etag": `"${oid}"`,
      etag: `"${found.oid}"`,
    },
  }
}
