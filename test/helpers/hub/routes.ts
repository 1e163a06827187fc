/** @file The endpoints of a Hub that @huggingface/hub and huggingface_hub use (https://huggingface.co/docs/hub/api). */
import { json, refusal, type Answer } from "./answer.ts"
import type { Call, Hub, Match } from "./access.ts"
import { commits, file, info, pathsInfo, refs, tree } from "./read-routes.ts"
import { create, dropBranch, dropTag, makeBranch, makeTag, remove, whoami } from "./repo-routes.ts"
import { batch, commit, preupload } from "./upload-routes.ts"

type Handler = (hub: Hub, call: Call, match: Match) => Answer

const API = "^/api/(?<type>models|datasets|spaces)/(?<id>[^/]+(?:/[^/]+)?)"
const FILE = "^(?:/(?<type>datasets|spaces))?/(?<id>[^/]+(?:/[^/]+)?)"

const TABLE: readonly (readonly [methods: string, path: RegExp, handler: Handler])[] = [
  ["GET", /^\/api\/whoami-v2$/, whoami],
  ["POST", /^\/api\/repos\/create$/, create],
  ["DELETE", /^\/api\/repos\/delete$/, remove],
  ["POST", /^\/api\/validate-yaml$/, () => json({ errors: [], warnings: [] })],
  ["POST", new RegExp(`${API}/preupload/(?<rev>[^/]+)$`), preupload],
  ["POST", new RegExp(`${FILE}\\.git/info/lfs/objects/batch$`), batch],
  ["POST", new RegExp(`${API}/commit/(?<rev>[^/]+)$`), commit],
  ["POST", new RegExp(`${API}/branch/(?<name>[^/]+)$`), makeBranch],
  ["DELETE", new RegExp(`${API}/branch/(?<name>[^/]+)$`), dropBranch],
  ["POST", new RegExp(`${API}/tag/(?<rev>[^/]+)$`), makeTag],
  ["DELETE", new RegExp(`${API}/tag/(?<name>[^/]+)$`), dropTag],
  ["GET", new RegExp(`${API}/refs$`), refs],
  ["GET", new RegExp(`${API}/commits/(?<rev>[^/]+)$`), commits],
  ["GET", new RegExp(`${API}/tree/(?<rev>[^/]+)(?:/(?<path>.*))?$`), tree],
  ["POST", new RegExp(`${API}/paths-info/(?<rev>[^/]+)$`), pathsInfo],
  ["GET", new RegExp(`${API}/revision/(?<rev>[^/]+)$`), info],
  ["GET HEAD", new RegExp(`${FILE}/(?<kind>resolve|raw)/(?<rev>[^/]+)/(?<path>.+)$`), file],
  ["GET", new RegExp(`${API}$`), info],
]

/** The answer to a request; its path is still encoded. */
export function route(hub: Hub, call: Call): Answer {
  const method = call.request.method ?? "GET"
  for (const [methods, path, handler] of TABLE) {
    const found = methods.split(" ").includes(method) && path.exec(call.url.pathname)
    if (!found) continue
    const named = Object.entries(found.groups ?? {}).filter(([, text]) => text !== undefined)
    return handler(hub, call, Object.fromEntries(named.map(([name, text]) => [name, decodeURIComponent(text)])))
  }
  return refusal(404, "Sorry, we can't find the page you are looking for.")
}
