/** @file The store beside the test Hub, at another origin: signed addresses, whole uploads and parts, downloads by range. */
import { createHash, randomBytes } from "node:crypto"
import { createWriteStream, existsSync, renameSync, rmSync, statSync } from "node:fs"
import { open } from "node:fs/promises"
import type { IncomingMessage } from "node:http"
import { pipeline } from "node:stream/promises"
import { fileAnswer, json, refusal, type Answer } from "./answer.ts"
import type { Store } from "./store.ts"

interface Upload {
  readonly oid: string
  readonly size: number
  /** Bytes of a part; undefined where the object comes in one. */
  readonly part?: number
  readonly etags: Map<number, string>
  /** Where it is gathered. */
  readonly path: string
}

interface Action {
  readonly href: string
  readonly header?: Readonly<Record<string, string>>
}

export type Signatures = ReturnType<typeof storage>["signatures"]

export function storage(store: Store, origins: { readonly cdn: string }) {
  const uploads = new Map<string, Upload>()
  const expired = new Set<string>()
  const address = (path: string, sign: string, more = "") => `${origins.cdn}${path}?X-Amz-Signature=${sign}${more}`

  const signatures = {
    upload(oid: string, size: number, parts?: { readonly part: number; readonly above: number }): Action {
      const sign = randomBytes(16).toString("hex")
      const inParts = parts !== undefined && size > parts.above
      uploads.set(sign, { oid, size, etags: new Map(), path: store.incoming(), ...(inParts && { part: parts.part }) })
      if (!inParts) return { href: address(`/upload/${oid}`, sign) }
      const urls = Array.from({ length: Math.ceil(size / parts.part) }, (_, i) => {
        const number = String(i + 1).padStart(5, "0")
        return [number, address(`/upload/${oid}`, sign, `&partNumber=${i + 1}`)] as const
      })
      const header = { chunk_size: String(parts.part), ...Object.fromEntries(urls) }
      return { href: address(`/complete/${oid}`, sign), header }
    },
    download: (oid: string, name: string) =>
      address(`/blobs/${oid}`, randomBytes(16).toString("hex"), `&filename=${encodeURIComponent(name)}`),
  }

  /** A request to the store; its body is not read yet. */
  async function answer(request: IncomingMessage, url: URL, count: (n: number) => void): Promise<Answer> {
    const [, kind, oid = ""] = url.pathname.split("/")
    const sign = url.searchParams.get("X-Amz-Signature") ?? ""
    if (kind === "blobs") {
      if (!existsSync(store.lfsPath(oid))) return refusal(404, "NoSuchKey")
      return fileAnswer(store.lfsPath(oid), request, { etag: `"${oid}"` })
    }
    const upload = uploads.get(sign)
    if (!upload || upload.oid !== oid || expired.has(sign)) {
      for await (const piece of request) count((piece as Buffer).length)
      return { status: 403, headers: { "content-type": "application/xml" }, body: Buffer.from("<Error><Code>AccessDenied</Code><Message>Request has expired</Message></Error>") } // prettier-ignore
    }
    if (kind === "complete") return complete(upload, JSON.parse((await textOf(request)) || "{}") as Completed)
    return receive(request, upload, Number(url.searchParams.get("partNumber") ?? 0), count)
  }

  async function receive(
    request: IncomingMessage,
    upload: Upload,
    part: number,
    count: (n: number) => void,
  ): Promise<Answer> {
    const { part: size = 0, path, oid } = upload
    const hash = createHash("md5")
    const whole = createHash("sha256")
    const target = size ? path : store.incoming()
    // Parts come in any order, each to its place.
    if (size && !existsSync(target)) await (await open(target, "a")).close()
    const start = size ? (part - 1) * size : 0
    const expected = size ? Math.min(size, upload.size - start) : upload.size
    let n = 0
    const counted = async function* (pieces: AsyncIterable<Buffer>) {
      for await (const piece of pieces) {
        count(piece.length)
        n += piece.length
        hash.update(piece)
        if (!size) whole.update(piece)
        yield piece
      }
    }
    await pipeline(request, counted, createWriteStream(target, size ? { flags: "r+", start } : {}))
    if (n !== expected) return refusal(400, `IncompleteBody: expected ${expected} bytes, got ${n}`)
    if (!size) {
      if (whole.digest("hex") !== oid) {
        rmSync(target)
        return refusal(400, "BadDigest")
      }
      renameSync(target, store.lfsPath(oid))
    }
    const etag = `"${hash.digest("hex")}"`
    if (size) upload.etags.set(part, etag)
    return { status: 200, headers: { etag } }
  }

  async function complete({ oid, size, etags, path }: Upload, { parts }: Completed): Promise<Answer> {
    const wrong = parts?.find(({ partNumber, etag }) => etags.get(partNumber) !== etag)
    if (!parts || wrong || parts.length !== etags.size || !existsSync(path) || statSync(path).size !== size)
      return refusal(400, "InvalidPart")
    const hash = createHash("sha256")
    const file = await open(path)
    for await (const piece of file.createReadStream()) hash.update(piece as Buffer)
    if (hash.digest("hex") !== oid) return refusal(400, "BadDigest")
    renameSync(path, store.lfsPath(oid))
    return json({ success: true })
  }

  /** From now on nothing is taken at this address, nor at those of the same upload. */
  const expire = (url: URL) => void expired.add(url.searchParams.get("X-Amz-Signature") ?? "")

  return { signatures, answer, expire }
}

interface Completed {
  readonly parts?: readonly { readonly partNumber: number; readonly etag: string }[]
}

async function textOf(request: IncomingMessage): Promise<string> {
  const pieces: Buffer[] = []
  for await (const piece of request) pieces.push(piece as Buffer)
  return Buffer.concat(pieces).toString()
}
