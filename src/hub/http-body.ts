/** @file Bodies on their way, watched: one that stands still, or grows beyond what was agreed, ends as an error. */
import { PrismaError } from "../errors.ts"
import type { Clock } from "./clock.ts"
import { interrupted, networkError, type Asked } from "./http-errors.ts"
import { plainUrl } from "./redirects.ts"

/** Bytes a second that a transfer must have; less for the stall time, by windows of half of it, is a dead one. */
export const SLOWEST = 1000
export const TOO_SLOW = `less than ${SLOWEST} bytes a second came`
/** Stall times after which a slow one is dead at the latest, wherever its windows end: three tries take less than two minutes. */
const LATEST = 1.15
/** Milliseconds without a byte after which a body that is not part of a try is dead, and after which a slow one is at the latest. */
export const BODY_STALL = 30_000
export const BODY_LATEST = LATEST * BODY_STALL

export interface Watch {
  readonly asked: Asked
  readonly clock: Clock
  /** Milliseconds without a byte. */
  readonly stall: number
  readonly maxBytes: number
  /** Ends the body too. Node's fetch forgets to where the Response itself is no longer held (nodejs/undici, WeakRef in fetch). */
  readonly signal?: AbortSignal | null | undefined
}

export const timeout = ({ url, repo }: Asked, ms: number, what: string, cause?: unknown): PrismaError =>
  new PrismaError("E_HUB_TIMEOUT", `${plainUrl(url)}: ${what} for ${Math.round(ms / 1000)} s; try again later`, {
    url: plainUrl(url),
    ...(repo && { repo }),
    retryable: true,
    cause,
  })

/** The response with a body that throws E_HUB_TIMEOUT where it stalls, E_HUB_PROTOCOL above `maxBytes`, E_NETWORK where it breaks. */
export function watched(response: Response, watch: Watch): Response {
  const { body } = response
  if (!body) return response
  const { headers, status, statusText } = response
  const made = new Response(watchedStream(body, watch), { headers, status, statusText })
  Object.defineProperty(made, "url", { value: response.url })
  return made
}

function watchedStream(body: ReadableStream<Uint8Array>, watch: Watch): ReadableStream<Uint8Array> {
  const { asked, clock, stall, maxBytes, signal } = watch
  const reader = body.getReader()
  let total = 0
  // Only time spent waiting for the server counts: a slow disk is not its fault.
  let window = { waited: 0, bytes: 0 }
  let slowFor = 0
  const isSlow = () => window.bytes * 1000 < SLOWEST * window.waited
  const rate = (ms: number, n: number) => {
    window = { waited: window.waited + ms, bytes: window.bytes + n }
    if (window.waited < stall / 2) return
    slowFor = isSlow() ? slowFor + window.waited : 0
    window = { waited: 0, bytes: 0 }
  }
  /** Milliseconds that the next byte may take. */
  const patience = () => Math.min(stall, LATEST * stall - slowFor - (isSlow() ? window.waited : 0))
  return new ReadableStream<Uint8Array>(
    {
      async pull(controller) {
        const end = (error: PrismaError) => {
          controller.error(error)
          reader.cancel(error).catch(() => {})
        }
        const began = clock.now()
        let over = false
        const stop = (error: PrismaError) => {
          over = true
          end(error)
        }
        const onAbort = () => stop(interrupted(signal!, asked))
        if (signal?.aborted) return onAbort()
        const ms = patience()
        const what = ms < stall ? TOO_SLOW : "no byte came"
        const cancel = clock.after(ms, () => stop(timeout(asked, stall, what)))
        signal?.addEventListener("abort", onAbort)
        try {
          const { done, value } = await reader.read()
          if (over) return
          if (done) return controller.close()
          total += value.length
          rate(clock.now() - began, value.length)
          if (total > maxBytes) {
            const { url, repo } = asked
            const what = `answers more than ${maxBytes} bytes; check that HF_ENDPOINT is a Hub`
            return end(
              new PrismaError("E_HUB_PROTOCOL", `${plainUrl(url)}: ${what}`, {
                url: plainUrl(url),
                ...(repo && { repo }),
              }),
            )
          }
          if (slowFor >= stall) return end(timeout(asked, stall, TOO_SLOW))
          controller.enqueue(value)
        } catch (error) {
          if (!over) controller.error(networkError(error, asked))
        } finally {
          cancel()
          signal?.removeEventListener("abort", onAbort)
        }
      },
      cancel: (reason) => reader.cancel(reason),
    },
    { highWaterMark: 0 },
  )
}

/** A Blob that tells how much of it is read while it is sent; undici streams it and asks for its size only. */
export class WatchedBlob extends Blob {
  readonly #inner: Blob
  readonly #onBytes: (n: number) => void

  constructor(inner: Blob, onBytes: (n: number) => void) {
    super([], { type: inner.type })
    this.#inner = inner
    this.#onBytes = onBytes
    Object.defineProperty(this, "size", { value: inner.size })
  }

  override stream(): ReturnType<Blob["stream"]> {
    const count = new TransformStream<Uint8Array<ArrayBuffer>, Uint8Array<ArrayBuffer>>({
      transform: (chunk, controller) => {
        this.#onBytes(chunk.length)
        controller.enqueue(chunk)
      },
    })
    return this.#inner.stream().pipeThrough(count)
  }
}
