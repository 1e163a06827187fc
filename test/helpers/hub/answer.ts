/** @file Answers of the test Hub, and ranges of files (https://www.rfc-editor.org/rfc/rfc9110#section-14). */
import { createReadStream, statSync } from "node:fs"
import type { IncomingMessage } from "node:http"

export interface Answer {
  readonly status: number
  /** Names in lower case. */
  readonly headers: Readonly<Record<string, string>> & object
  readonly body?: Buffer | Part
}

/** Bytes of a file, from `start` up to but without `end`. */
export interface Part {
  readonly path: string
  readonly start: number
  readonly end: number
}

export const json = (value: unknown, status = 200, headers: Answer["headers"] = {}): Answer => ({
  status,
  headers: { "content-type": "application/json; charset=utf-8", ...headers },
  body: Buffer.from(JSON.stringify(value)),
})

/** An error as the Hub tells it. */
export const refusal = (status: number, error: string, code?: string): Answer =>
  json({ error }, status, { "x-error-message": error, ...(code && { "x-error-code": code }) })

export const lengthOf = ({ body }: Answer): number =>
  body === undefined ? 0 : "path" in body ? body.end - body.start : body.length

export async function* piecesOf({ body }: Answer): AsyncIterable<Buffer> {
  if (body === undefined) return
  if (!("path" in body)) {
    for (let at = 0; at < body.length; at += 1 << 16) yield body.subarray(at, at + (1 << 16))
  } else if (body.end > body.start) {
    yield* createReadStream(body.path, { start: body.start, end: body.end - 1 }) as AsyncIterable<Buffer>
  }
}

/** A file as an answer: 200, 206 or 416. */
export function fileAnswer(path: string, request: IncomingMessage, headers: Answer["headers"], whole = false): Answer {
  const { size } = statSync(path)
  const about = { "content-type": "application/octet-stream", "accept-ranges": "bytes", ...headers }
  const [, first, last] = /^bytes=(\d*)-(\d*)$/.exec(request.headers.range ?? "") ?? []
  const stale =
    request.headers["if-range"] !== undefined && request.headers["if-range"] !== about["etag" as keyof object]
  if (first === undefined || last === undefined || (!first && !last) || whole || stale)
    return { status: 200, headers: about, body: { path, start: 0, end: size } }
  const start = first ? Number(first) : Math.max(0, size - Number(last))
  const end = first && last ? Math.min(size, Number(last) + 1) : size
  if (start >= size || end <= start) return { status: 416, headers: { ...about, "content-range": `bytes */${size}` } }
  const range = `bytes ${start}-${end - 1}/${size}`
  return { status: 206, headers: { ...about, "content-range": range }, body: { path, start, end } }
}
