/** @file A thread or process that answers requests in order and can be ended at any moment; both of its sides. */
import { PrismaError } from "../errors.ts"
import { carried, type Carrier, type Carry, inThread, type Transferable } from "./carrier.ts"

export interface Thread {
  /** What the thread's handler makes of `request`. Errors: the handler's own; what `lost` makes of a thread that died. */
  ask<T>(request: unknown): Promise<T>
  /** End the thread; what it was asked is never answered. */
  end(): void
}

interface ThreadOptions {
  /** A thread by default, or a process. */
  readonly carry?: Carry
  /** Milliseconds for one request, counted from the answer before it; no limit by default. */
  readonly limitMs?: number
  /** Heap of the thread in MiB, without the bytes of arrays; node's own limit by default. */
  readonly heapMiB?: number
  /** The error of a request during which the thread ended, or took longer than `limitMs`. */
  readonly lost?: (request: unknown, late: boolean, what: string) => PrismaError
}

/** Milliseconds in which an answer that came while this thread was busy with other things is taken. */
const GRACE = 250

type Reply = { readonly value: unknown } | { readonly error: Partial<PrismaError> & { readonly message: string } }

interface Waiting {
  readonly request: unknown
  readonly resolve: (value: never) => void
  readonly reject: (error: Error) => void
}

const crashed = (_: unknown, late: boolean, what: string): PrismaError =>
  new PrismaError("E_WORKER_CRASH", `dataset thread: ${late ? "took too long" : what}`, { retryable: true })

/** An error's own code and place, or one that says what else was thrown. */
function thrown({ code, message, ...place }: Partial<PrismaError> & { readonly message: string }): PrismaError {
  if (code === undefined) return new PrismaError("E_WORKER_CRASH", `dataset thread: threw ${message}`)
  return new PrismaError(code, message, place)
}

/**
 * A thread, or process, that runs `module`, which calls `serve`. It starts with the first request; one that ends by itself,
 * or is ended for being late, fails the request it was at and starts again for the others. It keeps no process alive.
 */
export function startThread(
  module: URL,
  { carry = inThread, limitMs, heapMiB, lost = crashed }: ThreadOptions = {},
): Thread {
  const waiting: Waiting[] = []
  let carrier: Carrier | undefined
  let timer: NodeJS.Timeout | undefined

  const arm = () => {
    clearTimeout(timer)
    const busy = waiting.length > 0
    if (limitMs !== undefined && busy) timer = setTimeout(() => (timer = setTimeout(late, GRACE)), limitMs)
    carrier?.hold(busy)
  }
  const answer = (said: unknown) => {
    const reply = said as Reply
    const { resolve, reject } = waiting.shift()!
    if ("error" in reply) reject(thrown(reply.error))
    else resolve(reply.value as never)
    arm()
  }
  const late = () => {
    carrier?.end()
    gone(true, `took longer than ${limitMs} ms`)
  }
  const gone = (isLate: boolean, what: string) => {
    carrier = undefined
    const first = waiting.shift()
    first?.reject(lost(first.request, isLate, what))
    if (waiting.length > 0) start()
    arm()
  }
  const start = () => {
    carrier = carry(module, heapMiB, { answer, gone: (what) => gone(false, what) })
    for (const { request } of waiting) carrier.post(request)
  }

  return {
    ask: <T>(request: unknown) =>
      new Promise<T>((resolve, reject) => {
        waiting.push({ request, resolve, reject })
        if (carrier === undefined) start()
        else carrier.post(request)
        if (waiting.length === 1) arm()
      }),
    end() {
      waiting.length = 0
      carrier?.end()
      carrier = undefined
      arm()
    },
  }
}

/** The other side: answer requests one after the other with what `handle` gives, a value and what of it a thread hands over
 * instead of copying. Error: E_USAGE where `startThread` did not start this module. */
export function serve(handle: (request: unknown) => Promise<readonly [value: unknown, moved: Transferable[]]>): void {
  const { onRequest, reply } = carried()
  let before: Promise<unknown> = Promise.resolve()
  onRequest((request) => {
    before = before.then(async () => {
      try {
        const [value, moved] = await handle(request)
        reply({ value }, moved)
      } catch (error) {
        const known = error instanceof PrismaError ? error.toJSON() : {}
        const message = error instanceof PrismaError ? error.message : String(error)
        reply({ error: { ...known, message } }, [])
      }
    })
  })
}
