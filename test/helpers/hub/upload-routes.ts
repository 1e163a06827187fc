/** @file Endpoints of the test Hub by which files go up: preupload, the batch of git-lfs, commit. */
import { json, refusal, type Answer } from "./answer.ts"
import { allowed, noRevision, type Call, type Hub, type Match } from "./access.ts"
import { globMatches, isLfsByAttributes, type StoredCommit, type TreeFile } from "./store.ts"

interface Preuploaded {
  readonly gitAttributes?: string
  readonly gitIgnore?: string
  readonly files: readonly { readonly path: string; readonly size: number; readonly sample: string }[]
}

export function preupload(hub: Hub, call: Call, match: Match): Answer {
  const denied = allowed(hub, call, match, "write")
  if (denied) return denied
  const at = hub.store.resolve(match["id"]!, match["rev"]!)
  if (!at) return noRevision(match["rev"]!)
  const { gitAttributes, gitIgnore, files } = JSON.parse(call.body.toString()) as Preuploaded
  if (files.length > 256) return refusal(400, "Too many files in one request")
  const attributes = gitAttributes ?? textAt(hub, at, ".gitattributes")
  const ignored = (gitIgnore ?? textAt(hub, at, ".gitignore")).split("\n").filter(Boolean)
  return json({
    commitOid: at.id,
    files: files.map(({ path, size }) => ({
      path,
      uploadMode: isLfsByAttributes(attributes, path) || size > hub.lfsAbove ? "lfs" : "regular",
      shouldIgnore: ignored.some((pattern) => globMatches(pattern, path)),
      oid: at.tree[path]?.oid ?? null,
    })),
  })
}

function textAt({ store }: Hub, at: StoredCommit, path: string): string {
  const found = at.tree[path]
  return found ? store.readText(found) : ""
}

interface Batch {
  readonly operation: "upload" | "download"
  readonly transfers?: readonly string[]
  readonly objects: readonly { readonly oid: string; readonly size: number }[]
}

export function batch(hub: Hub, call: Call, match: Match): Answer {
  const denied = allowed(hub, call, match, "write")
  if (denied) return denied
  const { operation, transfers = ["basic"], objects } = JSON.parse(call.body.toString()) as Batch
  if (objects.length > 100) return refusal(413, "Too many objects")
  const many = transfers.includes("multipart") && objects.some(({ size }) => size > hub.multipart.above)
  const answer = objects.map(({ oid, size }) => {
    if (!/^[0-9a-f]{64}$/.test(oid)) return { oid, size, error: { code: 422, message: "Invalid object id" } }
    if (hub.store.hasLfs(oid, size)) return { oid, size }
    if (operation === "download") return { oid, size, error: { code: 404, message: "Object does not exist" } }
    return { oid, size, actions: { upload: hub.signatures.upload(oid, size, many ? hub.multipart : undefined) } }
  })
  return json({ transfer: many ? "multipart" : "basic", objects: answer }, 200, { "content-type": "application/vnd.git-lfs+json" }) // prettier-ignore
}

interface Line {
  readonly key: string
  readonly value: Readonly<Record<string, unknown>>
}

export function commit(hub: Hub, call: Call, match: Match): Answer {
  const denied = allowed(hub, call, match, "write")
  if (denied) return denied
  const { store } = hub
  const [id, rev] = [match["id"]!, match["rev"]!]
  const at = store.resolve(id, rev)
  if (!at) return noRevision(rev)
  const lines = call.body.toString().split("\n").filter(Boolean).map((line) => JSON.parse(line) as Line) // prettier-ignore
  const { summary, description, parentCommit } = lines[0]!.value
  if (lines[0]!.key !== "header" || typeof summary !== "string" || !summary)
    return refusal(400, "The first line must be a header with a summary")
  const isPr = call.url.searchParams.get("create_pr") === "1"
  if (!isPr && typeof parentCommit === "string" && parentCommit !== at.id)
    return refusal(412, "A commit has happened since. Please refresh and try again.")
  const changes: ((tree: Record<string, TreeFile>) => void)[] = []
  for (const { key, value } of lines.slice(1)) {
    const path = String(value["path"])
    if (/(^|\/)(\.git|\.\.|\.)(\/|$)|^\/|\/\/|\/$|^$/.test(path)) return refusal(400, `Invalid path: ${path}`)
    if (key === "file") {
      const content = Buffer.from(String(value["content"]), "base64")
      if (content.length > hub.lfsAbove) return refusal(400, `${path} is too large; it must be stored with LFS`)
      changes.push((tree) => (tree[path] = store.putGit(content)))
    } else if (key === "lfsFile") {
      const [oid, size] = [String(value["oid"]), Number(value["size"])]
      if (!store.hasLfs(oid, size)) return refusal(400, `LFS pointer pointed to a file that does not exist: ${path}`)
      changes.push((tree) => (tree[path] = store.lfsEntry(oid, size)))
    } else if (key === "deletedFile") {
      if (!at.tree[path]) return refusal(400, `A file with the name "${path}" does not exist`)
      changes.push((tree) => delete tree[path])
    } else if (key === "deletedFolder") {
      changes.push((tree) => {
        for (const name of Object.keys(tree)) if (name.startsWith(`${path.replace(/\/$/, "")}/`)) delete tree[name]
      })
    } else return refusal(400, `Unknown key ${key}`)
  }
  const number = Object.keys(store.refs(id).branches).filter((b) => b.startsWith("refs/pr/")).length + 1
  const branch = isPr ? `refs/pr/${number}` : rev
  if (!isPr && store.refs(id).branches[branch] === undefined) return refusal(400, `${branch} is no branch`)
  const made = store.addCommit(id, branch, (tree) => changes.forEach((change) => change(tree)), {
    title: summary,
    description: typeof description === "string" ? description : "",
    author: call.user!.name,
    ...(isPr && { parent: at.id }),
  })
  return json({
    success: true,
    commitOid: made.id,
    commitUrl: `${hub.origins.hub}/${id}/commit/${made.id}`,
    hookOutput: "",
    ...(isPr && { pullRequestUrl: `${hub.origins.hub}/${id}/discussions/${number}` }),
  })
}
