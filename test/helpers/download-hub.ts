/** @file A Hub and a store of large files on loopback, for downloads: each answer may be spoilt, each request is written down. */
import { createHash } from "node:crypto"
import { readdirSync, readFileSync } from "node:fs"
import { createServer, type IncomingMessage, type Server, type ServerResponse } from "node:http"
import type { AddressInfo } from "node:net"
import { join } from "node:path"

const known = new WeakMap<Uint8Array, string>()
/** Of arrays that are not changed afterwards. */
export function sha256(bytes: Uint8Array): string {
  const hash = known.get(bytes) ?? createHash("sha256").update(bytes).digest("hex")
  known.set(bytes, hash)
  return hash
}
export const gitSha1 = (bytes: Uint8Array): string =>
  createHash("sha1").update(`blob ${bytes.length}\0`).update(bytes).digest("hex")

export interface FakeRepo {
  commit: string
  refs: Record<string, string>
  files: Map<string, Uint8Array>
}

export interface Asked {
  readonly host: "hub" | "store"
  readonly method: string
  /** Path and query. */
  readonly path: string
  readonly headers: IncomingMessage["headers"]
  /** Bytes of the body that were handed to the socket. */
  sent: number
}

/** Spoils an answer: true where it has answered itself. `send` answers as usual, with other headers or another body. */
export type Fault = (asked: Asked, response: ServerResponse, send: Send) => boolean
export type Send = (over?: {
  status?: number
  headers?: Record<string, string | undefined>
  body?: Uint8Array
  /** Bytes after which the connection is cut. */
  cut?: number
}) => void

export interface FakeHub {
  readonly url: string
  readonly storeUrl: string
  readonly asked: Asked[]
  readonly repos: Map<string, FakeRepo>
  fault: Fault | undefined
  /** Requests whose path matches. */
  count(rule: RegExp): number
  close(): Promise<void>
}

/** The files of a folder as a repo. */
export function repoOf(folder: string, commit = "a".repeat(40)): FakeRepo {
  const names = readdirSync(folder, { recursive: true, withFileTypes: true })
    .filter((e) => e.isFile() && e.name !== "expected.safetensors")
    .map((e) => join(e.parentPath, e.name).slice(folder.length + 1))
  return {
    commit,
    refs: { main: commit },
    files: new Map(names.map((n) => [n, readFileSync(join(folder, n))])),
  }
}

const isLarge = (path: string): boolean => /\.(safetensors|bin|pth|pt)$/.test(path)
export const etagOf = (path: string, bytes: Uint8Array): string => (isLarge(path) ? sha256(bytes) : gitSha1(bytes))

/** `large`: weights are redirected to the store, as the Hub does, with a signature in the query. */
export async function fakeHub({ large = true, token = undefined as string | undefined } = {}): Promise<FakeHub> {
  const asked: Asked[] = []
  const repos = new Map<string, FakeRepo>()
  const hub: { fault: Fault | undefined } = { fault: undefined }
  const answer = (host: Asked["host"]) => (request: IncomingMessage, response: ServerResponse) => {
    const entry: Asked = { host, method: request.method!, path: request.url!, headers: request.headers, sent: 0 }
    asked.push(entry)
    request.resume()
    const usual = host === "hub" ? fromHub(entry) : fromStore(entry)
    const send: Send = ({ status = usual.status, headers = {}, body = usual.body, cut } = {}) => {
      const all = { "content-length": String(body.length), ...usual.headers, ...headers }
      for (const [name, value] of Object.entries(all)) if (value !== undefined) response.setHeader(name, value)
      response.writeHead(status)
      if (entry.method === "HEAD") {
        response.end()
        return
      }
      const part = cut === undefined ? body : body.subarray(0, cut)
      entry.sent = part.length
      if (cut === undefined) response.end(part)
      else response.write(part, () => setTimeout(() => response.destroy(), 5))
    }
    if (!hub.fault?.(entry, response, send)) send()
  }
  const text = (status: number, value: unknown, headers: Record<string, string> = {}) => ({
    status,
    headers: { "content-type": "application/json", ...headers },
    body: Buffer.from(JSON.stringify(value)),
  })
  const missing = (code: string, status = 404) => text(status, { error: code }, { "x-error-code": code })

  function fromHub({ path, headers }: Asked) {
    const url = new URL(path, "http://hub")
    if (token !== undefined && headers.authorization !== `Bearer ${token}`)
      return text(401, { error: "Invalid credentials" })
    const api = /^\/api\/models\/([^/]+\/[^/]+|[^/]+)\/(revision|tree)\/([^/]+)$/.exec(url.pathname)
    const file = /^\/([^/]+\/[^/]+|[^/]+)\/resolve\/([^/]+)\/(.+)$/.exec(url.pathname)
    const repo = repos.get((api ?? file)?.[1] ?? "")
    if (!repo) return missing("RepoNotFound", token === undefined ? 401 : 404)
    const revision = decodeURIComponent((api?.[3] ?? file?.[2])!)
    const commit = repo.refs[revision] ?? (revision === repo.commit ? revision : undefined)
    if (commit === undefined) return missing("RevisionNotFound")
    if (api?.[2] === "revision") {
      return text(200, { sha: commit, siblings: [...repo.files.keys()].map((rfilename) => ({ rfilename })) })
    }
    if (api) {
      const tree = [...repo.files].map(([name, bytes]) => ({
        type: "file",
        path: name,
        size: bytes.length,
        oid: isLarge(name) ? gitSha1(Buffer.from("pointer")) : gitSha1(bytes),
        ...(isLarge(name) && { lfs: { oid: sha256(bytes), size: bytes.length, pointerSize: 130 } }),
      }))
      return text(200, tree)
    }
    const name = decodeURIComponent(file![3]!)
    const bytes = repo.files.get(name)
    if (!bytes) {
      return text(404, { error: "Entry not found" }, { "x-error-code": "EntryNotFound", "x-repo-commit": commit })
    }
    const about = { "x-repo-commit": commit, etag: `"${etagOf(name, bytes)}"` }
    if (!isLarge(name) || !large) return ranged(bytes, headers.range, about)
    return {
      status: 302,
      headers: {
        ...about,
        etag: '"other"',
        "x-linked-etag": `"${sha256(bytes)}"`,
        "x-linked-size": String(bytes.length),
        location: `${storeUrl}/${sha256(bytes)}?X-Amz-Signature=secret-signature`,
      },
      body: Buffer.alloc(0),
    }
  }

  function fromStore({ path, headers }: Asked) {
    const hash = new URL(path, "http://store").pathname.slice(1)
    for (const { files } of repos.values()) {
      for (const bytes of files.values())
        if (sha256(bytes) === hash) return ranged(bytes, headers.range, { etag: '"md5-like"' })
    }
    return text(404, {})
  }

  function ranged(bytes: Uint8Array, range: string | undefined, headers: Record<string, string>) {
    const [, first] = /^bytes=(\d+)-$/.exec(range ?? "") ?? []
    const type = { "content-type": "application/octet-stream", "accept-ranges": "bytes", ...headers }
    if (first === undefined) return { status: 200, headers: type, body: bytes }
    const at = Number(first)
    if (at >= bytes.length)
      return { status: 416, headers: { "content-range": `bytes */${bytes.length}` }, body: Buffer.alloc(0) }
    const part = bytes.subarray(at)
    return {
      status: 206,
      headers: { ...type, "content-range": `bytes ${at}-${bytes.length - 1}/${bytes.length}` },
      body: part,
    }
  }

  const servers: Server[] = []
  const listen = async (host: Asked["host"]) => {
    const server = createServer(answer(host))
    servers.push(server)
    await new Promise<void>((done) => server.listen(0, "127.0.0.1", done))
    return `http://127.0.0.1:${(server.address() as AddressInfo).port}`
  }
  const [url, storeUrl] = [await listen("hub"), await listen("store")]
  return {
    url,
    storeUrl,
    asked,
    repos,
    get fault() {
      return hub.fault
    },
    set fault(fault) {
      hub.fault = fault
    },
    count: (rule) => asked.filter(({ path }) => rule.test(path)).length,
    close: async () => {
      for (const server of servers) {
        server.closeAllConnections()
        await new Promise((done) => server.close(done))
      }
    },
  }
}
