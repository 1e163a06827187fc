/** @file One blob from the Hub to the disk: bounded memory, hashed while it comes, resumed where it was cut, and put in place
 * only when its size and hash are those that name it. */
import { dirname } from "node:path"
import { fail, PrismaError, type ErrorCode } from "../errors.ts"
import { openResumable, type Resumable } from "../files/resumable.ts"
import { quote } from "../tensor/quote.ts"
import { protocol } from "./api.ts"
import { blobHash, type BlobHash } from "./hash.ts"
import { BODY_LATEST, SLOWEST, timeout, TOO_SLOW } from "./http-body.ts"
import { discard, hubUrl, segments, type HubHttp } from "./http.ts"
import type { RepoFile } from "./listing.ts"
import { plainUrl } from "./redirects.ts"
import { backoff, MAX_TRIES, MAX_WAIT } from "./retry.ts"
import { freeBytes, gigabytes } from "./space.ts"

export interface Transfer {
  readonly http: HubHttp
  readonly repo: string
  readonly commit: string
  readonly file: RepoFile
  /** Where the blob is to lie. */
  readonly target: string
  readonly signal?: AbortSignal | undefined
  /** Bytes of the file that are there; it may fall, where what came was wrong. */
  readonly onBytes?: (done: number) => void
}

/** A try that brings less than this share of the file, or so many bytes, counts as fruitless. */
const [SHARE, BYTES] = [0.01, 1 << 20]
/** Downloads from the first byte, where the last had a wrong size or hash. */
const CLEAN = 2

/** What bodies brought since all went well, and milliseconds: that they took, and those with the waits between. */
interface Pace {
  bytes: number
  ms: number
  all: number
}

/** Something came that is not the file: once may be an accident, so it is fetched again from the start. */
class WrongContent extends Error {}

/** The body ended before its time, without a sign of it: more may be had. */
class EndedEarly extends Error {}

/** No body came, after all the tries of http.ts. */
class NoBody extends Error {}

/**
 * Download a blob to `target`, going on with what an interrupted download left. Errors: E_INTEGRITY (another size or hash,
 * twice), E_HUB_PROTOCOL, E_HUB_TIMEOUT, E_NETWORK and others of the Hub; E_DISK_FULL, E_IO, E_OUTPUT.
 */
export async function transfer(t: Transfer): Promise<void> {
  const part = await openResumable(t.target)
  try {
    await complete(t, part)
    await part.publish()
  } catch (cause) {
    const error = await withFigures(cause, t, part.size)
    // What is wrong as a whole, or has no room, is of no use to the next.
    if (error instanceof PrismaError && USELESS.has(error.code)) await part.discard()
    throw error
  } finally {
    await part.close()
  }
}

/** A full disk with what is needed and what there is, while the part is still on it. */
async function withFigures(error: unknown, { file, repo, target }: Transfer, done: number): Promise<unknown> {
  if (!(error instanceof PrismaError && error.code === "E_DISK_FULL")) return error
  const free = await freeBytes(dirname(target))
  const has = free === undefined ? "" : `, the disk has ${gigabytes(free)}`
  const what = `${file.path} of ${repo}: needs ${gigabytes(file.size - done)} more${has}`
  return new PrismaError(error.code, `${what}: ${error.message}`, { repo, file: target, cause: error })
}

const USELESS: ReadonlySet<ErrorCode> = new Set(["E_INTEGRITY", "E_DISK_FULL", "E_IO"])

async function complete(t: Transfer, part: Resumable): Promise<void> {
  const { clock } = t.http
  let [fruitless, wrong] = [0, 0]
  let pace: Pace = { bytes: 0, ms: 0, all: 0 }
  for (;;) {
    const before = part.size
    try {
      return await bring(t, part, pace)
    } catch (error) {
      if (error instanceof NoBody) throw error.cause
      const gained = part.size - before >= Math.min(BYTES, Math.max(1, SHARE * t.file.size))
      if (error instanceof WrongContent || (error instanceof EndedEarly && !gained)) {
        await part.restart()
        t.onBytes?.(0)
        if (++wrong === CLEAN) integrity(t, error.message)
        continue
      }
      const isTyped = error instanceof PrismaError
      if (!(error instanceof EndedEarly) && !(isTyped && error.retryable)) throw error
      fruitless = gained ? 0 : fruitless + 1
      if (fruitless === MAX_TRIES) throw error
      const isTimeout = isTyped && error.code === "E_HUB_TIMEOUT"
      // Some bytes of a small file are a share of it too, however slowly they drip.
      if (!isSlow(pace) && (gained || !isTimeout)) pace = { bytes: 0, ms: 0, all: 0 }
      const ms = backoff(fruitless + 1, clock.random())
      if (pace.all + ms + BODY_LATEST > MAX_WAIT) {
        const asked = { url: urlOf(t), repo: t.repo, authorized: t.http.authorized }
        throw isTimeout ? error : timeout(asked, pace.all, TOO_SLOW, error)
      }
      pace.all += ms
      // An end of the wait by the signal is told by the next request.
      await clock.sleep(ms, t.signal).catch(() => {})
    }
  }
}

const isSlow = ({ bytes, ms }: Pace): boolean => bytes * 1000 < SLOWEST * ms

const urlOf = ({ http, repo, commit, file }: Transfer): string =>
  hubUrl(http.endpoint, ...segments(repo), "resolve", commit, ...segments(file.path))

function integrity({ repo, file }: Transfer, what: string): never {
  const how = "the Hub or something on the way changes it; try another network, or later"
  return fail("E_INTEGRITY", `${file.path} of ${repo}: ${what}, also when fetched anew; nothing was kept; ${how}`, {
    repo,
    file: file.path,
  })
}

/** Fetch what is missing, and check the whole. */
async function bring(t: Transfer, part: Resumable, pace: Pace): Promise<void> {
  const { size, etag } = t.file
  if (part.size > size) await part.restart()
  let hash = await hashed(part, etag, size)
  t.onBytes?.(part.size)
  if (part.size < size || size === 0) hash = await fetchRest(t, part, hash, pace)
  const got = hash.hex()
  if (got !== etag) throw new WrongContent(`expected ${nameOf(etag)} ${etag}, got ${got}`)
}

const nameOf = (etag: string): string => (etag.length === 64 ? "sha256" : "git-sha1")

async function hashed(part: Resumable, etag: string, size: number): Promise<BlobHash> {
  const hash = blobHash(etag, size)
  await part.read((bytes) => hash.update(bytes))
  return hash
}

async function fetchRest(t: Transfer, part: Resumable, begun: BlobHash, pace: Pace): Promise<BlobHash> {
  const { http, repo, file, signal } = t
  const head = headCheck(t)
  const response = await http
    .request(urlOf(t), {
      repo,
      // No If-Range: a store behind a redirect calls the file by another ETag. The hash of the whole is what counts.
      headers: part.size ? { range: `bytes=${part.size}-` } : {},
      ...(signal && { signal }),
      ...(part.size && { accept: [416] }),
      onHead: head.see,
    })
    .catch((cause: unknown) => {
      throw new NoBody("no body", { cause })
    })
  if (response.status === 416) {
    discard(response)
    await part.restart()
    return fetchRest(t, part, blobHash(file.etag, file.size), pace)
  }
  if (!head.isSeen()) {
    discard(response)
    protocol(urlOf(t), repo, `sends on to a store and says no X-Repo-Commit, expected ${t.commit}`, file.path)
  }
  const hash = await agree(t, part, response, begun)
  const start = part.size
  let length = start
  const began = http.clock.now()
  try {
    for await (const bytes of response.body ?? []) {
      length += bytes.length
      if (length > file.size) {
        discard(response)
        throw new WrongContent(`expected ${file.size} bytes, got more`)
      }
      hash.update(bytes)
      await part.append(bytes)
      t.onBytes?.(part.size)
    }
  } finally {
    const bytes = length - start
    // No server is slow for longer; a machine that slept may have been away.
    const ms = Math.min(http.clock.now() - began, (bytes / SLOWEST) * 1000 + BODY_LATEST)
    pace.bytes += bytes
    pace.ms += ms
    pace.all += ms
  }
  if (length < file.size) throw new EndedEarly(`expected ${file.size} bytes, got ${length}`)
  return hash
}

/** Does the answer go on where the part ends? Otherwise the part begins anew with it. */
async function agree(t: Transfer, part: Resumable, response: Response, hash: BlobHash): Promise<BlobHash> {
  const { file, repo } = t
  const { headers, status } = response
  const url = plainUrl(response.url)
  const protocol = (what: string): never => fail("E_HUB_PROTOCOL", `${url}: ${what}`, { url, repo, file: file.path })
  const type = headers.get("content-type") ?? ""
  if (/^text\/html\b/i.test(type) && !/\.html?$/i.test(file.path)) {
    protocol(`answers ${file.path} with a page (${quote(type)}); check the network, a login page may stand before it`)
  }
  let rest = hash
  let end = file.size
  if (status === 206) {
    const [, first, last, total] = /^bytes (\d+)-(\d+)\/(\d+|\*)$/i.exec(headers.get("content-range") ?? "") ?? []
    if (Number(first) !== part.size)
      protocol(`gives another range than asked: ${quote(headers.get("content-range") ?? "none")}`)
    if (total !== "*" && Number(total) !== file.size)
      throw new WrongContent(`expected ${file.size} bytes, got ${total}`)
    // It may be less than was asked for; the next request asks for the rest.
    end = Number(last) + 1
  } else if (part.size) {
    await part.restart()
    rest = blobHash(file.etag, file.size)
  }
  const length = headers.get("content-length")
  if (length !== null && !headers.has("content-encoding") && Number(length) !== end - part.size) {
    discard(response)
    throw new WrongContent(`expected ${end - part.size} bytes, got a Content-Length of ${quote(length)}`)
  }
  return rest
}

const unquoted = (etag: string | null): string | undefined => etag?.replace(/^W\//, "").replaceAll('"', "")

/** What the Hub's own answer, before any redirect to a store, must say of the file. */
function headCheck({ http, repo, commit, file }: Transfer) {
  let checked = false
  const see = (at: URL, { headers, status }: Response): void => {
    if (checked || at.origin !== new URL(http.endpoint).origin || status >= 400) return
    const [said, linked] = [headers.get("x-repo-commit"), headers.get("x-linked-etag")]
    // A repo that has another name now is redirected first, without a word on the file.
    if (said === null && linked === null && headers.has("location")) return
    checked = true
    const etag = unquoted(linked ?? headers.get("etag"))
    const size = headers.get("x-linked-size")
    const differs = (what: string, got: string | null | undefined) =>
      protocol(at, repo, `expected ${what}, got ${got === null || got === undefined ? "none" : quote(got)}`, file.path)
    if (said !== commit) differs(`X-Repo-Commit ${commit}`, said)
    if (etag !== file.etag) differs(`the ETag ${file.etag}`, etag)
    if (size !== null && Number(size) !== file.size) differs(`X-Linked-Size ${file.size}`, size)
  }
  return { see, isSeen: () => checked }
}
