/** @file What a Hub says of a repo: the commit behind a revision, and the files at a commit with their sizes and hashes. */
import { checkListing } from "../files/paths.ts"
import { quote } from "../tensor/quote.ts"
import { fieldsOf } from "../tensor/record.ts"
import { protocol } from "./api.ts"
import { isContentHash } from "./hash.ts"
import { hubUrl, segments, type HubHttp, type HubInit } from "./http.ts"
import { plainUrl } from "./redirects.ts"

/** A file of a repo. */
export interface RepoFile {
  readonly path: string
  readonly size: number
  /** The hash that its blob is called by: sha256 where it is stored apart (LFS, Xet), else git's. */
  readonly etag: string
  /** As huggingface_hub keeps them in trees/<commit>.json. */
  readonly blobId: string
  readonly xetHash?: string
}

const COMMIT = /^[0-9a-f]{40}$/
/** The largest repos have some hundred thousand, in pages of a thousand. */
const MAX_FILES = 500_000
/** Pages one after the other that list nothing and name a next one. */
const MAX_EMPTY = 3

/** The commit that a branch, tag or short commit means now. Errors: those of the Hub; E_HUB_PROTOCOL. */
export async function commitOf(http: HubHttp, repo: string, revision: string, init: HubInit = {}): Promise<string> {
  const url = hubUrl(http.endpoint, "api", "models", ...segments(repo), "revision", revision)
  const { sha, siblings } = fieldsOf(await http.json(url, { ...init, repo }))
  if (typeof sha !== "string" || !COMMIT.test(sha))
    protocol(url, repo, `the answer has no commit, got sha ${quote(JSON.stringify(sha) ?? "undefined")}`)
  const names = Array.isArray(siblings) ? siblings.map((s) => fieldsOf(s)["rfilename"]) : []
  checkListing(names.filter((name) => typeof name === "string"), plainUrl(url)) // prettier-ignore
  return sha
}

/** All files of a repo at a commit. Errors: E_UNSAFE_PATH, E_NAME_COLLISION, E_HUB_PROTOCOL; those of the Hub. */
export async function filesAt(http: HubHttp, repo: string, commit: string): Promise<readonly RepoFile[]> {
  const first = hubUrl(http.endpoint, "api", "models", ...segments(repo), "tree", commit)
  const files: RepoFile[] = []
  const folders = new Set<string>()
  const seen = new Set<string>()
  let empty = 0
  let url: string | undefined = `${first}?recursive=true&expand=false`
  while (url !== undefined) {
    if (seen.has(url)) protocol(first, repo, "the list of files goes in a circle")
    if (files.length + folders.size > MAX_FILES) protocol(first, repo, `lists more than ${MAX_FILES} files`)
    seen.add(url)
    const response: Response = await http.request(url, { repo, maxBytes: 16 * 2 ** 20, whole: true })
    const entries: unknown = await response.json().catch(() => undefined)
    if (!Array.isArray(entries)) protocol(first, repo, "the list of files is no JSON array")
    for (const entry of entries) {
      const { type, path } = fieldsOf(entry)
      if (type !== "directory") files.push(fileOf(fieldsOf(entry), first, repo))
      else if (typeof path === "string") folders.add(path)
    }
    const next = nextLink(response.headers.get("link"))
    empty = entries.length ? 0 : empty + 1
    if (next !== undefined && empty > MAX_EMPTY) protocol(first, repo, "the list of files goes on without any")
    const wrong = "the list of files goes on at no valid address"
    url = next === undefined ? undefined : (pageAt(next, url, http.endpoint) ?? protocol(first, repo, wrong))
  }
  checkListing(files.map((f) => f.path), plainUrl(first), folders) // prettier-ignore
  return files
}

function fileOf(entry: Readonly<Record<string, unknown>>, url: string, repo: string): RepoFile {
  const { path, size, oid, lfs, xetHash } = entry
  if (typeof path !== "string") return protocol(url, repo, "lists a file without a path")
  const { oid: large, size: largeSize } = fieldsOf(lfs)
  const [etag, bytes] = typeof large === "string" ? [large, largeSize ?? size] : [oid, size]
  const isHash = typeof etag === "string" && isContentHash(etag) && typeof oid === "string"
  if (!isHash) return protocol(url, repo, `lists ${quote(path)} without a hash`)
  if (typeof bytes !== "number" || !Number.isSafeInteger(bytes) || bytes < 0)
    return protocol(url, repo, `lists ${quote(path)} without its size`)
  return { path, size: bytes, etag, blobId: oid, ...(typeof xetHash === "string" && { xetHash }) }
}

/** Where `Link: <url>; rel="next"` leads to. */
function nextLink(link: string | null): string | undefined {
  const links = (link ?? "").matchAll(/<([^>]*)>((?:\s*;\s*[\w*-]+\s*=\s*(?:"[^"]*"|[^\s",;]*))*)/g)
  const [, target] = [...links].find(([, , about]) => /;\s*rel\s*=\s*(next\b|"([^"]* )?next[" ])/i.test(about!)) ?? []
  return target
}

/** The page that a link from `base` means, inside the Hub; undefined where it can mean none. */
function pageAt(target: string, base: string, endpoint: string): string | undefined {
  if (!URL.canParse(target, base)) return undefined
  const { protocol, pathname, search } = new URL(target, base)
  if (!/^https?:$/.test(protocol)) return undefined
  // A Hub behind another address names its own.
  const page = new URL(endpoint)
  page.pathname = pathname
  page.search = search
  return page.href
}
