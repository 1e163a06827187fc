/** @file A Hub for tests: two servers on the loopback, one the Hub and one the store beside it, that keep real bytes and real
 * commits in a folder, tell what they were asked, and do on command what servers and networks do wrong. */
import { mkdtempSync, readdirSync, readFileSync, statSync } from "node:fs"
import { createServer, type IncomingMessage, type Server, type ServerResponse } from "node:http"
import type { AddressInfo } from "node:net"
import { tmpdir } from "node:os"
import { join } from "node:path"
import { setTimeout as wait } from "node:timers/promises"
import { lengthOf, piecesOf, refusal, type Answer } from "./answer.ts"
import { changed, faultBook, sendSpoiled, type Effect, type Fault } from "./faults.ts"
import type { Hub, User } from "./access.ts"
import { route } from "./routes.ts"
import { storage } from "./storage.ts"
import { isLfsByAttributes, openStore, type Meta, type StoredCommit, type TreeFile } from "./store.ts"

export type { Effect, Fault } from "./faults.ts"
export type { User } from "./access.ts"
export { gitSha1, sha256 } from "./store.ts"

/** A request that was answered, or not. */
export interface Asked {
  readonly host: "hub" | "cdn"
  readonly method: string
  /** Without the query. */
  readonly path: string
  readonly query: string
  readonly headers: IncomingMessage["headers"]
  /** Bytes of its body. */
  received: number
  /** Bytes of the answer's body. */
  sent: number
  /** Of the answer; 0 where there was none. */
  status: number
  /** By when it was answered, ms since 1970. */
  readonly at: number
}

export interface HubOptions {
  /** Where it keeps things; a new folder. What lies there from another time counts. */
  readonly root?: string
  /** Accounts by their tokens; by default `hf_write` of "owner", `hf_read` and `hf_fine` of the same, which may not write. */
  readonly tokens?: Readonly<Record<string, User>>
  /** Entries of a listing in one page; 1000. */
  readonly pageSize?: number
  /** Objects above so many bytes go up in parts of so many. */
  readonly multipart?: { readonly above: number; readonly part: number }
  /** Files above so many bytes are stored apart whatever their name; 10 MB. */
  readonly lfsAbove?: number
}

export interface RepoOptions {
  readonly type?: Meta["type"]
  readonly private?: boolean
  readonly gated?: boolean
  /** The branch that the files are committed to; made from "main" if it is not there. */
  readonly revision?: string
  readonly title?: string
}

const TOKENS: Readonly<Record<string, User>> = {
  hf_write: { name: "owner", role: "write", orgs: ["org"] },
  hf_read: { name: "owner", role: "read", orgs: ["org"] },
  hf_fine: { name: "owner", role: "fineGrained", orgs: ["org"] },
  hf_other: { name: "other", role: "write" },
}

export type TestHub = Awaited<ReturnType<typeof startHub>>

export async function startHub(options: HubOptions = {}) {
  const root = options.root ?? mkdtempSync(join(tmpdir(), "test-hub-"))
  const store = openStore(root)
  const origins = { hub: "", cdn: "" }
  const stored = storage(store, origins)
  const faults = faultBook()
  const requests: Asked[] = []
  const tokens = options.tokens ?? TOKENS
  const hub: Hub = {
    store,
    signatures: stored.signatures,
    origins,
    pageSize: options.pageSize ?? 1000,
    multipart: options.multipart ?? { above: Infinity, part: 1 << 24 },
    lfsAbove: options.lfsAbove ?? 10_000_000,
    renamed: new Map(),
    granted: new Set(),
  }

  /** What an endpoint of the Hub answers. */
  async function atHub(request: IncomingMessage, url: URL, asked: Asked): Promise<Answer> {
    const pieces: Buffer[] = []
    for await (const piece of request) {
      asked.received += (piece as Buffer).length
      pieces.push(piece as Buffer)
    }
    const [, token] = /^Bearer (.*)$/.exec(request.headers.authorization ?? "") ?? []
    const user = token === undefined ? undefined : tokens[token]
    if (token !== undefined && !user) return refusal(401, "Invalid credentials in Authorization header")
    return route(hub, { request, url, body: Buffer.concat(pieces), user })
  }

  async function serve(host: Asked["host"], request: IncomingMessage, response: ServerResponse): Promise<void> {
    const url = new URL(request.url ?? "/", origins[host])
    const method = request.method ?? "GET"
    const asked: Asked = { host, method, path: url.pathname, query: url.search, headers: request.headers, received: 0, sent: 0, status: 0, at: Date.now() } // prettier-ignore
    requests.push(asked)
    const effect = faults.next(`${host === "cdn" ? "cdn " : ""}${method} ${url.pathname}${url.search}`)
    const count = (n: number) => void (asked.received += n)
    const make = () => (host === "hub" ? atHub(request, url, asked) : stored.answer(request, url, count))
    if (await before(effect, request, url, count)) return void request.socket.destroy()
    const isAnswered = effect === undefined || !("status" in effect || "reset" in effect) || effect.landed
    const answer = isAnswered ? await make() : await drained(request, count)
    if (effect && "reset" in effect) return void request.socket.destroy()
    if (effect && "stall" in effect && effect.stall === "head") return
    const ranged = effect && "ignoreRange" in effect ? await unranged(answer) : answer
    await reply(response, changed(ranged, effect, url.href), effect, asked, method)
  }

  /** What goes wrong before an endpoint is asked; true where the connection is to be closed. */
  async function before(effect: Effect | undefined, request: IncomingMessage, url: URL, count: (n: number) => void) {
    if (!effect) return false
    if ("delay" in effect) await wait(effect.delay)
    if ("expire" in effect) stored.expire(url)
    if (!("reset" in effect) || effect.landed) return false
    let n = 0
    if (effect.after !== undefined)
      for await (const piece of request) {
        count((piece as Buffer).length)
        if ((n += (piece as Buffer).length) >= effect.after) break
      }
    return true
  }

  async function reply(
    response: ServerResponse,
    answer: Answer,
    effect: Effect | undefined,
    asked: Asked,
    method: string,
  ) {
    asked.status = answer.status
    const isSpoiled = effect && ["stall", "slow", "cut", "flip", "endless"].some((key) => key in effect)
    const hasLength = !(effect && ("endless" in effect || ("cut" in effect && effect.clean)))
    const length = hasLength ? { "content-length": String(lengthOf(answer)) } : { connection: "close" }
    response.writeHead(answer.status, {
      "x-request-id": `request-${requests.length}`,
      ratelimit: '"api";r=1000;t=300',
      "ratelimit-policy": '"fixed window";"api";q=1000;w=300',
      ...length,
      ...answer.headers,
    })
    const countSent = (n: number) => void (asked.sent += n)
    if (method === "HEAD") return void response.end()
    if (isSpoiled) {
      response.flushHeaders()
      return sendSpoiled(response, piecesOf(answer), effect, countSent)
    }
    await sendSpoiled(response, piecesOf(answer), { delay: 0 }, countSent)
  }

  const listen = async (host: Asked["host"]): Promise<Server> => {
    const server = createServer((request, response) => {
      request.on("error", () => {})
      response.on("error", () => {})
      serve(host, request, response).catch((error: unknown) => {
        if (request.destroyed || response.destroyed) return
        if (!response.headersSent) response.writeHead(500)
        response.end(String(error))
      })
    })
    await new Promise<void>((done) => server.listen(0, "127.0.0.1", done))
    origins[host] = `http://127.0.0.1:${(server.address() as AddressInfo).port}`
    return server
  }
  const servers = [await listen("hub"), await listen("cdn")]

  /** Make a repo, or commit to one that is there; files from a table or a folder. */
  function addRepo(
    id: string,
    files: string | Readonly<Record<string, string | Uint8Array>> = {},
    about: RepoOptions = {},
  ): StoredCommit {
    const { revision = "main", title = "Upload files", ...meta } = about
    if (!store.meta(id)) store.createRepo(id, meta)
    const all = store.refs(id)
    if (all.branches[revision] === undefined)
      store.setRefs(id, { ...all, branches: { ...all.branches, [revision]: all.branches["main"]! } })
    const given = typeof files === "string" ? filesOf(files) : files
    const attributes = readFileSync(store.contentPath(store.resolve(id, revision)!.tree[".gitattributes"]!), "utf8")
    const put = (tree: Record<string, TreeFile>) => {
      for (const [path, content] of Object.entries(given)) {
        const bytes = typeof content === "string" ? Buffer.from(content) : content
        const apart = isLfsByAttributes(attributes, path) || bytes.length > hub.lfsAbove
        tree[path] = apart ? store.putLfs(bytes) : store.putGit(bytes)
      }
    }
    return store.addCommit(id, revision, put, { title })
  }

  return {
    url: origins.hub,
    cdn: origins.cdn,
    root,
    store,
    requests,
    addRepo,
    /** The commits of a branch, the newest first, that of the repo's making included. */
    commits: (id: string, revision = "main") => store.log(id, revision),
    refs: (id: string) => store.refs(id),
    /** Contents of the files at a revision. */
    files(id: string, revision = "main"): Map<string, Buffer> {
      const { tree } = store.resolve(id, revision)!
      return new Map(Object.entries(tree).map(([path, f]) => [path, readFileSync(store.contentPath(f))]))
    },
    fault: (fault: Fault) => faults.add(fault),
    /** No faults, nothing asked. */
    reset() {
      faults.clear()
      requests.length = 0
    },
    grant: (account: string) => void hub.granted.add(account),
    rename(from: string, to: string) {
      store.rename(from, to)
      hub.renamed.set(from, to)
    },
    async close() {
      for (const server of servers) server.closeAllConnections()
      await Promise.all(servers.map((server) => new Promise((done) => server.close(done))))
    },
  }
}

async function drained(request: IncomingMessage, count: (n: number) => void): Promise<Answer> {
  for await (const piece of request) count((piece as Buffer).length)
  return { status: 200, headers: {} }
}

/** The whole file in place of a part of it. */
async function unranged(answer: Answer): Promise<Answer> {
  const { body } = answer
  if (answer.status !== 206 || body === undefined || !("path" in body)) return answer
  const { "content-range": _, ...headers } = answer.headers as Record<string, string>
  return { status: 200, headers, body: { path: body.path, start: 0, end: statSync(body.path).size } }
}

const filesOf = (folder: string): Record<string, Uint8Array> =>
  Object.fromEntries(
    readdirSync(folder, { recursive: true, withFileTypes: true })
      .filter((entry) => entry.isFile())
      .map((entry) => join(entry.parentPath, entry.name))
      .map((path) => [path.slice(folder.length + 1).replaceAll("\\", "/"), readFileSync(path)]),
  )
