/** @file One commit of many files, once: an answer that was lost is looked for, another's commit between is allowed for. */
import { fail, listed, PrismaError } from "../errors.ts"
import { apiUrl, protocol, refsOf } from "./api.ts"
import { isCommit } from "./cache.ts"
import { discard, okOr, type HubHttp } from "./http.ts"
import { interrupted } from "./http-errors.ts"
import { filesAt, type RepoFile } from "./listing.ts"
import { LazyBlob } from "./lazy-blob.ts"
import type { Content } from "./push-folder.ts"
import { backoff, MAX_TRIES, MAX_WAIT, wished } from "./retry.ts"
import { fieldsOf } from "../tensor/record.ts"

/** A file with the hash that the repo will know it by: a sha256 where it lies in the store, else git's, and it is sent along. */
export interface Committed extends Content {
  readonly etag: string
}

export interface Commit {
  readonly repo: string
  readonly branch: string
  readonly message: string
  /** What the branch meant when the files were compared with it, and what it held. */
  readonly parent: string
  readonly before: ReadonlyMap<string, RepoFile>
  readonly files: readonly Committed[]
  readonly signal?: AbortSignal | undefined
}

/**
 * Commit, and give the commit's id. Errors: E_HUB_CONFLICT where another commit changed one of the same files; those of the
 * Hub, after which nothing was committed or its id is found by pushing again.
 */
export async function commitFiles(http: HubHttp, commit: Commit): Promise<string> {
  const { repo, branch, signal } = commit
  const url = apiUrl(http, repo, "commit", branch)
  let { parent } = commit
  for (let done = 1; ; done++) {
    const last = done >= MAX_TRIES
    const body = bodyOf({ ...commit, parent })
    const headers = { "content-type": "application/x-ndjson" }
    const init = { method: "POST", body, headers, repo, accept: [409, 412], ...(signal && { signal }) }
    const answer = await http.request(url, init).catch((error: unknown) => {
      if (error instanceof PrismaError && error.retryable) return error
      throw error
    })
    if (!(answer instanceof PrismaError) && answer.ok) {
      const { commitOid } = fieldsOf(await answer.json().catch(() => undefined))
      if (typeof commitOid === "string" && isCommit(commitOid)) return commitOid
      const found = await landed(http, commit)
      return found?.isThere ? found.head : protocol(url, repo, "answers a commit without its id, and has not made it")
    }
    // It may have been made although its answer says otherwise, or did not come.
    const found = await landed(http, commit)
    if (found === undefined) return protocol(url, repo, `has no branch ${branch} any more`)
    if (found.isThere) {
      if (!(answer instanceof PrismaError)) discard(answer)
      return found.head
    }
    if (answer instanceof PrismaError) throw answer
    const wish = wished(answer.headers, http.clock.now()) ?? 0
    if (last || wish > MAX_WAIT) await okOr(answer, { url, repo, authorized: true })
    discard(answer)
    refuseChanged(commit, found.files)
    parent = found.head
    await http.clock.sleep(Math.max(wish, backoff(done, http.clock.random())), signal).catch(() => {
      throw interrupted(signal!, { url, repo, authorized: true })
    })
  }
}

/** What the branch means now, and whether all files are there. */
async function landed(http: HubHttp, { repo, branch, files }: Commit) {
  const head = (await refsOf(http, repo)).branches.get(branch)
  if (head === undefined) return undefined
  const now = new Map((await filesAt(http, repo, head)).map((file) => [file.path, file]))
  return { head, files: now, isThere: files.every(({ path, etag }) => now.get(path)?.etag === etag) }
}

function refuseChanged({ repo, branch, files, before }: Commit, now: ReadonlyMap<string, RepoFile>): void {
  const changed = files.filter(({ path, etag }) => {
    const is = now.get(path)?.etag
    return is !== before.get(path)?.etag && is !== etag
  })
  if (!changed.length) return
  const names = listed(changed.map(({ path }) => path)) // prettier-ignore
  const what = `another commit changed ${names} meanwhile; look at it, then push again`
  fail("E_HUB_CONFLICT", `${repo}@${branch}: ${what}`, { repo })
}

/** Lines of JSON (https://huggingface.co/docs/hub/api), made while they are sent: small files are read then, one at a time. */
function bodyOf({ message, parent, files }: Commit): Blob {
  const encoder = new TextEncoder()
  const line = (key: string, value: unknown) => encoder.encode(`${JSON.stringify({ key, value })}\n`)
  const header = line("header", { summary: message, description: "", parentCommit: parent })
  const isLarge = ({ etag }: Committed) => etag.length === 64
  const largeLine = ({ path, etag, size }: Committed) => line("lfsFile", { path, algo: "sha256", oid: etag, size })
  const smallLine = (path: string, content: string) => line("file", { path, content, encoding: "base64" })
  const length = (file: Committed) =>
    isLarge(file) ? largeLine(file).length : smallLine(file.path, "").length + 4 * Math.ceil(file.size / 3)
  async function* lines(): AsyncGenerator<Uint8Array> {
    yield header
    for (const file of files) {
      if (isLarge(file)) yield largeLine(file)
      else {
        const bytes = Buffer.from(await new Response(file.blob().stream()).arrayBuffer())
        await file.check()
        yield smallLine(file.path, bytes.toString("base64"))
      }
    }
  }
  const size = header.length + files.reduce((n, file) => n + length(file), 0)
  return new LazyBlob(size, () => ReadableStream.from(lines()) as ReturnType<Blob["stream"]>)
}
