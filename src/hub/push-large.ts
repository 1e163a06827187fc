/** @file Large files to the store behind a Hub, whole or in parts, by git-lfs' batch
 * (https://github.com/git-lfs/git-lfs/blob/main/docs/api/batch.md); what the store has is not sent again. */
import { type ErrorCode, fail, PrismaError } from "../errors.ts"
import { parallel } from "../files/parallel.ts"
import { quote } from "../tensor/quote.ts"
import { fieldsOf } from "../tensor/record.ts"
import { posted, protocol } from "./api.ts"
import { hubUrl, segments, type HubHttp } from "./http.ts"
import { counted } from "./lazy-blob.ts"
import type { Content } from "./push-folder.ts"
import { plainUrl, redirectTarget } from "./redirects.ts"

/** A file by its sha256. */
export interface Large extends Content {
  readonly oid: string
}

interface Target {
  readonly href: string
  readonly headers: Readonly<Record<string, string>>
}

/** Where an object goes: whole, or in `parts` of `size` bytes that `done` then puts together. */
interface Upload {
  readonly whole: Target
  readonly parts?: { readonly size: number; readonly urls: readonly string[] }
  readonly verify?: Target
}

/** Objects that are asked about in one request, and how many go up at once. */
const [OBJECTS, WIDTH] = [100, 3]
/** New addresses that are asked for where one is too old. */
const FRESH = 2
/** What a store says of an address that is too old, most often, and of an upload that is over. */
const ASKED_AGAIN: ReadonlySet<ErrorCode> = new Set([
  "E_HUB_AUTH",
  "E_HUB_PROTOCOL",
  "E_HUB_NOT_FOUND",
  "E_HUB_CONFLICT",
])
const LFS = "application/vnd.git-lfs+json"

export interface Sending {
  readonly signal?: AbortSignal | undefined
  /** Told how many bytes of a file are sent. */
  readonly onBytes?: (file: Large, sent: number) => void
}

/** Have the store hold all of `files`. Gives the bytes that it had not. Errors: those of the Hub; E_CHANGED_DURING_READ. */
export async function uploadLarge(
  http: HubHttp,
  repo: string,
  files: readonly Large[],
  sending: Sending,
): Promise<number> {
  // The same bytes under two names are one object.
  const objects = [...new Map(files.map((file) => [file.oid, file])).values()]
  let sent = 0
  for (let at = 0; at < objects.length; at += OBJECTS) {
    const some = objects.slice(at, at + OBJECTS)
    const uploads = await batch(http, repo, some, sending)
    await parallel(some, WIDTH, async (file, failed) => {
      const upload = uploads.get(file.oid)
      if (!upload) return sending.onBytes?.(file, file.size)
      const signal = sending.signal ? AbortSignal.any([sending.signal, failed]) : failed
      await send(http, repo, file, upload, { ...sending, signal })
      await file.check()
      sent += file.size
    })
  }
  return sent
}

/** Where each object goes that the store has not. */
async function batch(
  http: HubHttp,
  repo: string,
  files: readonly Large[],
  { signal }: Sending,
): Promise<Map<string, Upload>> {
  const url = hubUrl(http.endpoint, ...segments(`${repo}.git`), "info", "lfs", "objects", "batch")
  const objects = files.map(({ oid, size }) => ({ oid, size }))
  const asked = posted({
    operation: "upload",
    transfers: ["basic", "multipart"],
    hash_algo: "sha_256",
    objects,
  })
  const headers = { accept: LFS, "content-type": LFS }
  const answer = fieldsOf(await http.json(url, { ...asked, headers, repo, ...(signal && { signal }) }))
  const listed = answer["objects"]
  if (!Array.isArray(listed)) return protocol(url, repo, "names no objects")
  const uploads = new Map<string, Upload>()
  for (const file of files) {
    const found = listed.map(fieldsOf).find(({ oid }) => oid === file.oid)
    if (!found) return protocol(url, repo, `does not say where ${quote(file.path)} goes`)
    const error = found["error"] ?? undefined
    const { message } = fieldsOf(error)
    const why = typeof message === "string" ? quote(message) : "without a reason"
    if (error !== undefined) return protocol(url, repo, `refuses ${quote(file.path)}: ${why}`)
    const { upload, verify } = fieldsOf(found["actions"])
    if (upload === undefined) continue
    const whole = target(repo, url, upload)
    uploads.set(file.oid, {
      whole,
      ...partsOf(repo, url, whole, file),
      ...(verify !== undefined && { verify: target(repo, url, verify) }),
    })
  }
  return uploads
}

function target(repo: string, url: string, action: unknown): Target {
  const { href, header } = fieldsOf(action)
  const headers = Object.entries(fieldsOf(header)).filter(
    (entry): entry is [string, string] => typeof entry[1] === "string",
  )
  return { href: address(repo, url, href), headers: Object.fromEntries(headers) }
}

/** An address that bytes may be sent to: one that a redirect might lead to. */
function address(repo: string, url: string, href: unknown): string {
  const to = typeof href === "string" ? href : protocol(url, repo, "gives no address to send to")
  return redirectTarget(new URL(url), to, new Set(), repo).href
}

/** The Hub writes addresses of parts among the headers, by their numbers. */
function partsOf(repo: string, url: string, { headers }: Target, file: Large): Pick<Upload, "parts"> {
  const { chunk_size: chunk } = headers
  if (chunk === undefined) return {}
  const size = Number(chunk)
  const numbered = Object.entries(headers).filter(([name]) => /^\d+$/.test(name))
  const urls = numbered.sort(([a], [b]) => Number(a) - Number(b)).map(([, href]) => address(repo, url, href))
  const isRight = Number.isSafeInteger(size) && size > 0 && urls.length === Math.ceil(file.size / size)
  if (!isRight)
    return protocol(
      url,
      repo,
      `${urls.length} parts of ${quote(chunk)} bytes are not the ${file.size} of ${quote(file.path)}`,
    )
  return { parts: { size, urls } }
}

async function send(
  http: HubHttp,
  repo: string,
  file: Large,
  upload: Upload,
  sending: Sending,
  fresh = 0,
): Promise<void> {
  try {
    await (upload.parts ? sendParts(http, repo, file, upload, sending) : sendWhole(http, repo, file, upload, sending))
    if (!upload.verify) return
    const { href, headers } = upload.verify
    const asked = posted({ oid: file.oid, size: file.size })
    await http.request(href, { ...asked, headers: { ...headers, "content-type": LFS }, ...init(repo, sending) })
  } catch (error) {
    if (!(error instanceof PrismaError && ASKED_AGAIN.has(error.code))) throw error
    const again = (await batch(http, repo, [file], sending)).get(file.oid)
    // Nowhere to send it to: the answer that said so was lost.
    if (!again) return
    // S3 says that an address is too old by 403, or by 400 and in words.
    const isTooOld = error.code === "E_HUB_AUTH" || /expired/i.test(error.message)
    if (!isTooOld || fresh === FRESH) throw error
    await send(http, repo, file, again, sending, fresh + 1)
  }
}

const init = (repo: string, { signal }: Sending) => ({ repo, ...(signal && { signal }) })

async function sendWhole(http: HubHttp, repo: string, file: Large, { whole }: Upload, sending: Sending): Promise<void> {
  const body = counted(file.blob(), (n) => sending.onBytes?.(file, n))
  await http.request(whole.href, { method: "PUT", headers: whole.headers, body, ...init(repo, sending) })
}

async function sendParts(
  http: HubHttp,
  repo: string,
  file: Large,
  { whole, parts }: Upload,
  sending: Sending,
): Promise<void> {
  const { size, urls } = parts!
  const made: { partNumber: number; etag: string }[] = []
  for (const [i, url] of urls.entries()) {
    const [start, end] = [i * size, Math.min(file.size, (i + 1) * size)]
    const body = counted(file.blob(start, end), (n) => sending.onBytes?.(file, start + n))
    const { headers } = await http.request(url, { method: "PUT", body, ...init(repo, sending) })
    const etag = headers.get("etag")
    if (!etag) fail("E_HUB_PROTOCOL", `${plainUrl(url)}: took part ${i + 1} of ${file.path} without an ETag`, { repo })
    made.push({ partNumber: i + 1, etag })
  }
  await http.request(whole.href, { ...posted({ oid: file.oid, parts: made }), ...init(repo, sending) })
}
