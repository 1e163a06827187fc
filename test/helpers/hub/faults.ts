/** @file What the test Hub does wrong on command: rules by request and number of times, each with one effect. */
import { once } from "node:events"
import type { ServerResponse } from "node:http"
import { setTimeout as wait } from "node:timers/promises"
import { gzipSync } from "node:zlib"
import type { Answer } from "./answer.ts"

export type Effect =
  /** Answer this instead; `landed`: after the request was carried out. */
  | {
      readonly status: number
      readonly headers?: Answer["headers"]
      readonly body?: string | Uint8Array
      readonly landed?: boolean
    }
  /** Close the connection without an answer; `landed`: after the request was carried out; `after`: bytes of its body. */
  | { readonly reset: true; readonly landed?: boolean; readonly after?: number }
  /** Never send the rest: "head" sends nothing at all, a number that many bytes of the body. */
  | { readonly stall: "head" | number }
  /** So many bytes of the body every so many milliseconds. */
  | { readonly slow: readonly [bytes: number, ms: number] }
  /** The body ends after so many bytes; `clean`: without Content-Length, as if that were all. */
  | { readonly cut: number; readonly clean?: boolean }
  /** One bit of the body is another at this byte. */
  | { readonly flip: number }
  /** Other headers; null takes one away. */
  | { readonly change: Readonly<Record<string, string | null>> }
  /** Sent on to an address; "loop" to itself; `code`: 302. */
  | { readonly redirect: string; readonly code?: number }
  /** 200 and the whole body, whatever range was asked for. */
  | { readonly ignoreRange: true }
  /** Compressed although nobody asked for it. */
  | { readonly gzip: true }
  /** A body without end. */
  | { readonly endless: true }
  /** A JSON array of so many bytes. */
  | { readonly bigJson: number }
  /** A page in place of what was asked for. */
  | { readonly html: true }
  /** The signature of this upload's address counts no more. */
  | { readonly expire: true }
  /** Everything is right, after so many milliseconds. */
  | { readonly delay: number }

export interface Fault {
  /** Matched with `METHOD /path?query`, before which stands `cdn ` for requests to the store. */
  readonly on: RegExp
  /** How often; 1. */
  readonly times?: number
  /** How many requests that match go well before. */
  readonly skip?: number
  readonly do: Effect
}

export function faultBook() {
  let rules: { fault: Fault; seen: number }[] = []
  return {
    add: (fault: Fault) => void rules.push({ fault, seen: 0 }),
    clear: () => void (rules = []),
    /** The effect for this request, which is counted. */
    next(line: string): Effect | undefined {
      let found: Effect | undefined
      for (const rule of rules) {
        const { on, times = 1, skip = 0, do: effect } = rule.fault
        if (found || !on.test(line)) continue
        rule.seen++
        if (rule.seen > skip && rule.seen <= skip + times) found = effect
      }
      return found
    },
  }
}

const PAGE = "<!doctype html><html><head><title>Sign in</title></head><body>Please sign in</body></html>"

/** The answer as a fault changes it, where that is a change of the answer. */
export function changed(answer: Answer, effect: Effect | undefined, url: string): Answer {
  if (!effect) return answer
  if ("status" in effect)
    return { status: effect.status, headers: { "content-type": "application/json", ...effect.headers }, body: Buffer.from(effect.body ?? JSON.stringify({ error: `fault ${effect.status}` })) } // prettier-ignore
  if ("redirect" in effect)
    return { status: effect.code ?? 302, headers: { location: effect.redirect === "loop" ? url : effect.redirect } }
  if ("html" in effect) return { status: 200, headers: { "content-type": "text/html" }, body: Buffer.from(PAGE) }
  if ("bigJson" in effect)
    return { status: 200, headers: { "content-type": "application/json" }, body: Buffer.from(`[${"0,".repeat(effect.bigJson / 2)}0]`) } // prettier-ignore
  if ("change" in effect) {
    const headers = { ...answer.headers }
    for (const [name, value] of Object.entries(effect.change)) {
      if (value === null) delete headers[name.toLowerCase()]
      else headers[name.toLowerCase()] = value
    }
    return { ...answer, headers }
  }
  if ("gzip" in effect && answer.body && !("path" in answer.body)) {
    const body = gzipSync(answer.body)
    return { ...answer, headers: { ...answer.headers, "content-encoding": "gzip", "content-length": String(body.length) }, body } // prettier-ignore
  }
  return answer
}

/** Pieces of a body as a fault sends them. */
export async function sendSpoiled(
  response: ServerResponse,
  pieces: AsyncIterable<Buffer>,
  effect: Effect,
  count: (n: number) => void,
): Promise<void> {
  let at = 0
  const put = async (piece: Buffer) => {
    count(piece.length)
    if (response.write(piece) || response.destroyed) return
    const over = new AbortController()
    const { signal } = over
    await Promise.race([once(response, "drain", { signal }), once(response, "close", { signal })])
    over.abort()
  }
  if ("endless" in effect) {
    const piece = Buffer.alloc(1 << 16, 32)
    while (!response.destroyed) await put(piece)
    return
  }
  const most = "cut" in effect ? effect.cut : "stall" in effect && typeof effect.stall === "number" ? effect.stall : Infinity // prettier-ignore
  for await (const whole of pieces) {
    if (response.destroyed) return
    const piece = Buffer.from(whole.subarray(0, Math.max(0, Math.min(whole.length, most - at))))
    if ("flip" in effect && effect.flip >= at && effect.flip < at + piece.length) piece[effect.flip - at]! ^= 1
    if ("slow" in effect) {
      const [bytes, ms] = effect.slow
      for (let k = 0; k < piece.length && !response.destroyed; k += bytes) {
        await put(piece.subarray(k, k + bytes))
        await wait(ms)
      }
    } else if (piece.length) await put(piece)
    at += whole.length
    if (at >= most) break
  }
  if ("stall" in effect) return
  if ("cut" in effect && !effect.clean) return void response.destroy()
  response.end()
}
