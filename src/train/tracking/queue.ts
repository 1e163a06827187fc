/** @file A bounded queue that is emptied in the background, so that what is slow or broken there never holds up a run. */

/** Times in ms. */
export interface Pace {
  /** Items that wait at most; then the oldest make room. */
  readonly limit: number
  /** Items sent together at most. */
  readonly batch: number
  /** Between two sends. */
  readonly every: number
  /** Before the first new try; it doubles from try to try, up to the longest. */
  readonly first: number
  readonly longest: number
  /** Until a send is given up. */
  readonly timeout: number
  /** Between signs of life, which are empty batches; Infinity for none. */
  readonly heartbeat: number
  /** For what is left when the queue is closed. */
  readonly close: number
}

/** Of a send that failed: why, as part of a sentence, whether it may work later, and not before how many ms. */
export interface Failure {
  readonly why: string
  readonly again: boolean
  readonly after?: number
}

/** Sends a batch; after a failure the same batch comes again. `last`: the queue is closed and nothing comes after it. */
export type Send<T> = (batch: readonly T[], last: boolean, signal: AbortSignal) => Promise<"sent" | Failure>

export interface Queue<T> {
  push(item: T): void
  /** Send what is left, as long as the pace allows. Never throws. */
  close(): Promise<void>
}

/** `what` begins the warnings: one at the first failure, one at the first loss, one for what was not sent in the end. */
export function openQueue<T>(what: string, send: Send<T>, pace: Pace, warn: (message: string) => void): Queue<T> {
  const waiting: T[] = []
  let batch: readonly T[] = []
  let lost = 0
  let failed = false
  let closing = false
  let over = false
  let wake = () => {}
  let current: AbortController | undefined

  const pause = (ms: number) =>
    new Promise<void>((resolve) => {
      // Neither a pause nor a send keeps a process alive that is done; `close` does.
      const timer = setTimeout(resolve, ms).unref()
      wake = () => {
        clearTimeout(timer)
        resolve()
      }
    })

  const attempt = async (last: boolean) => {
    const controller = new AbortController()
    current = controller
    const timer = setTimeout(() => controller.abort(), pace.timeout).unref()
    try {
      return await send(batch, last, controller.signal)
    } finally {
      clearTimeout(timer)
    }
  }

  const report = ({ why, again }: Failure) => {
    if (again && failed) return
    failed = true
    const then = again ? "it is tried again while training goes on" : "nothing more is sent, and training goes on"
    warn(`${what}: ${why}; ${then} (metrics.jsonl has all lines)`)
  }

  const work = async () => {
    let tries = 0
    // The first sign of life shows at once whether all is well there.
    let wait = pace.heartbeat === Infinity ? pace.every : 0
    let sentAt = -Infinity
    for (;;) {
      if (!closing || tries) await pause(wait)
      if (over) return
      if (!batch.length) batch = waiting.splice(0, pace.batch)
      const last = closing && !waiting.length
      wait = pace.every
      if (!batch.length && !last && performance.now() - sentAt < pace.heartbeat) continue
      const outcome = await attempt(last)
      // What comes of a send that was broken off is of no interest.
      if (over) return
      if (outcome === "sent") {
        batch = []
        tries = 0
        sentAt = performance.now()
        if (last) return
      } else {
        report(outcome)
        if (!outcome.again) return
        wait = Math.max(outcome.after ?? 0, Math.min(pace.longest, pace.first * 2 ** tries++))
      }
    }
  }
  const done = work()
    .catch((error: unknown) => report({ why: error instanceof Error ? error.message : String(error), again: false }))
    .finally(() => (over = true))

  return {
    push(item) {
      if (over) {
        lost++
        return
      }
      if (waiting.length >= pace.limit) {
        waiting.shift()
        if (!lost++)
          warn(`${what}: more than ${pace.limit} lines wait; the oldest are dropped (metrics.jsonl has all lines)`)
      }
      waiting.push(item)
    },
    async close() {
      closing = true
      wake()
      let timer: NodeJS.Timeout | undefined
      const late = new Promise<void>((resolve) => (timer = setTimeout(resolve, pace.close)))
      await Promise.race([done, late])
      clearTimeout(timer)
      over = true
      current?.abort()
      wake()
      const left = lost + batch.length + waiting.length
      const lines = left === 1 ? "1 line was" : `${left} lines were`
      if (left) warn(`${what}: ${lines} not sent (metrics.jsonl has all lines)`)
    },
  }
}
