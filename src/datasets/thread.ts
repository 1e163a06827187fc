/** @file A worker thread that answers requests in order and can be ended at any moment; both of its sides
 * (https://nodejs.org/api/worker_threads.html). */
import {
  MessageChannel,
  type MessagePort,
  receiveMessageOnPort,
  type Transferable,
  Worker,
  workerData,
} from "node:worker_threads"
import { fail, PrismaError } from "../errors.ts"

export interface Thread {
  /** What the thread's handler makes of `request`. Errors: the handler's own; what `lost` makes of a thread that died. */
  ask<T>(request: unknown): Promise<T>
  /** End the thread; what it was asked is never answered. */
  end(): void
}

interface ThreadOptions {
  /** Milliseconds for one request, counted from the answer before it; no limit by default. */
  readonly limitMs?: number
  /** Heap of the thread in MiB, without the bytes of arrays; node's own limit by default. */
  readonly heapMiB?: number
  /** The error of a request during which the thread ended, or took longer than `limitMs`. */
  readonly lost?: (request: unknown, late: boolean, what: string) => PrismaError
}

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
 * A thread that runs `module`, which calls `serve`. It starts with the first request; one that ends by itself, or is
 * ended for being late, fails the request it was at and starts again for the others. It keeps no process alive.
 */
export function startThread(module: URL, { limitMs, heapMiB, lost = crashed }: ThreadOptions = {}): Thread {
  const waiting: Waiting[] = []
  let worker: Worker | undefined
  let port: MessagePort | undefined
  let timer: NodeJS.Timeout | undefined
  let last = ""

  const arm = () => {
    clearTimeout(timer)
    const busy = waiting.length > 0
    if (limitMs !== undefined && busy) timer = setTimeout(late, limitMs)
    if (busy) worker?.ref()
    else worker?.unref()
  }
  const answer = (reply: Reply) => {
    const { resolve, reject } = waiting.shift()!
    if ("error" in reply) reject(thrown(reply.error))
    else resolve(reply.value as never)
    arm()
  }
  /** Take the answers that came while this thread was busy with other things. */
  const drain = (from: MessagePort | undefined): boolean => {
    const before = waiting.length
    for (let m = from && receiveMessageOnPort(from); m && waiting.length > 0; m = receiveMessageOnPort(from!)) {
      answer(m.message as Reply)
    }
    return waiting.length < before
  }
  const late = () => {
    if (!drain(port)) gone(true, `took longer than ${limitMs} ms`)
  }
  const gone = (isLate: boolean, what: string) => {
    drain(port)
    stop()
    const first = waiting.shift()
    first?.reject(lost(first.request, isLate, what))
    if (waiting.length > 0) start()
    arm()
  }
  const stop = () => {
    port?.close()
    void worker?.terminate()
    worker = port = undefined
  }
  const start = () => {
    const channel = new MessageChannel()
    const options = {
      workerData: { port: channel.port2 },
      transferList: [channel.port2],
      execArgv: [],
      ...(heapMiB === undefined ? {} : { resourceLimits: { maxOldGenerationSizeMb: heapMiB } }),
    }
    const mine = (worker = new Worker(module, options))
    port = channel.port1
    last = ""
    port.on("message", answer)
    port.unref()
    mine.on("error", (error) => (last = error.message))
    mine.on("exit", (code) => mine === worker && gone(false, last || `ended with exit code ${code}`))
    for (const { request } of waiting) port.postMessage(request)
  }

  return {
    ask: <T>(request: unknown) =>
      new Promise<T>((resolve, reject) => {
        waiting.push({ request, resolve, reject })
        if (worker === undefined) start()
        else port!.postMessage(request, [])
        if (waiting.length === 1) arm()
      }),
    end() {
      waiting.length = 0
      stop()
      arm()
    },
  }
}

/** The thread's side: answer requests one after the other with what `handle` gives, a value and what of it is handed
 * over instead of copied. Error: E_USAGE outside a thread that `startThread` made. */
export function serve(handle: (request: unknown) => Promise<readonly [value: unknown, moved: Transferable[]]>): void {
  const { port } = (workerData ?? {}) as { port?: MessagePort }
  if (port === undefined) return fail("E_USAGE", "this module runs in a thread of the dataset loader, not by itself")
  let before: Promise<unknown> = Promise.resolve()
  port.on("message", (request: unknown) => {
    before = before.then(async () => {
      try {
        const [value, moved] = await handle(request)
        port.postMessage({ value }, moved)
      } catch (error) {
        const known = error instanceof PrismaError ? error.toJSON() : {}
        const message = error instanceof PrismaError ? error.message : String(error)
        port.postMessage({ error: { ...known, message } })
      }
    })
  })
}
