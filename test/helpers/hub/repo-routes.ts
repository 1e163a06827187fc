/** @file Endpoints of the test Hub that make and take away repos, branches and tags. */
import { randomBytes } from "node:crypto"
import { json, refusal, type Answer } from "./answer.ts"
import { allowed, mayWrite, noRevision, parsed, type Call, type Hub, type Match } from "./access.ts"
import type { TreeFile } from "./store.ts"

export function whoami(_: Hub, { user }: Call): Answer {
  if (!user) return refusal(401, "Invalid credentials in Authorization header")
  const { name, role, orgs = [] } = user
  return json({
    type: "user",
    id: `id-${name}`,
    name,
    fullname: name,
    email: `${name}@example.org`,
    emailVerified: true,
    canPay: false,
    isPro: false,
    orgs: orgs.map((org) => ({ type: "org", name: org, fullname: org, id: `id-${org}`, roleInOrg: "write" })),
    auth: { type: "access_token", accessToken: { displayName: "test", role, createdAt: "2026-01-01T00:00:00.000Z" } },
  })
}

export function create(hub: Hub, { user, body }: Call): Answer {
  const { name, organization, type = "model", visibility, private: isPrivate, files } = parsed(body)
  if (!user) return refusal(401, "Invalid username or password.")
  const id = `${typeof organization === "string" ? organization : user.name}/${String(name)}`
  if (!mayWrite(user, id) || user.role !== "write")
    return refusal(
      403,
      `You don't have the rights to create a ${String(type)} under the namespace "${id.split("/")[0]}"`,
    )
  const url = `${hub.origins.hub}/${type === "model" ? "" : `${String(type)}s/`}${id}`
  if (hub.store.meta(id)) return json({ error: `You already created this ${hub.store.meta(id)!.type} repo`, url }, 409)
  hub.store.createRepo(id, { type: type as "model", private: visibility === "private" || isPrivate === true })
  const given = (files ?? []) as { path: string; content: string }[]
  if (given.length) {
    const put = (tree: Record<string, TreeFile>) => {
      for (const f of given) tree[f.path] = hub.store.putGit(Buffer.from(f.content, "base64"))
    }
    hub.store.addCommit(id, "main", put, { title: "initial files" })
  }
  return json({ url, name: id, id: randomBytes(12).toString("hex") })
}

export function remove(hub: Hub, call: Call): Answer {
  const { name, organization, type = "model" } = parsed(call.body)
  const id = [organization ?? call.user?.name, name].join("/")
  const denied = allowed(hub, call, { id, type: `${String(type)}s` }, "write")
  if (denied) return denied
  hub.store.removeRepo(id)
  return { status: 200, headers: {} }
}

export function makeBranch(hub: Hub, call: Call, match: Match): Answer {
  const denied = allowed(hub, call, match, "write")
  if (denied) return denied
  const [id, name] = [match["id"]!, match["name"]!]
  const { startingPoint = "main", emptyBranch, overwrite } = parsed(call.body)
  const all = hub.store.refs(id)
  if (all.branches[name] !== undefined && !overwrite)
    return refusal(409, `Reference already exists: refs/heads/${name}`)
  const from = hub.store.resolve(id, String(startingPoint))
  if (!from) return noRevision(String(startingPoint))
  if (emptyBranch) {
    hub.store.setRefs(id, { ...all, branches: Object.fromEntries(Object.entries(all.branches).filter(([k]) => k !== name)) }) // prettier-ignore
    hub.store.addCommit(id, name, () => {}, { title: "initial commit" })
  } else hub.store.setRefs(id, { ...all, branches: { ...all.branches, [name]: from.id } })
  return { status: 201, headers: {} }
}

const without = (all: Readonly<Record<string, string>>, name: string) =>
  Object.fromEntries(Object.entries(all).filter(([key]) => key !== name))

export function dropBranch(hub: Hub, call: Call, match: Match): Answer {
  const denied = allowed(hub, call, match, "write")
  if (denied) return denied
  const all = hub.store.refs(match["id"]!)
  if (all.branches[match["name"]!] === undefined) return noRevision(match["name"]!)
  hub.store.setRefs(match["id"]!, { ...all, branches: without(all.branches, match["name"]!) })
  return { status: 200, headers: {} }
}

export function makeTag(hub: Hub, call: Call, match: Match): Answer {
  const denied = allowed(hub, call, match, "write")
  if (denied) return denied
  const all = hub.store.refs(match["id"]!)
  const tag = String(parsed(call.body)["tag"])
  if (all.tags[tag] !== undefined) return refusal(409, `Tag reference exists already: ${tag}`)
  const from = hub.store.resolve(match["id"]!, match["rev"]!)
  if (!from) return noRevision(match["rev"]!)
  hub.store.setRefs(match["id"]!, { ...all, tags: { ...all.tags, [tag]: from.id } })
  return { status: 200, headers: {} }
}

export function dropTag(hub: Hub, call: Call, match: Match): Answer {
  const denied = allowed(hub, call, match, "write")
  if (denied) return denied
  const all = hub.store.refs(match["id"]!)
  if (all.tags[match["name"]!] === undefined) return noRevision(match["name"]!)
  hub.store.setRefs(match["id"]!, { ...all, tags: without(all.tags, match["name"]!) })
  return { status: 200, headers: {} }
}
