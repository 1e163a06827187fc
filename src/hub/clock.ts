/** @file Time as the Hub's code sees it; tests give one that does not wait. */
import { setTimeout as wait } from "node:timers/promises"

export interface Clock {
  /** Milliseconds since 1970. */
  now(): number
  /** From 0 up to 1. */
  random(): number
  sleep(ms: number, signal?: AbortSignal): Promise<void>
  /** Call later, unless what is given back is called before. */
  after(ms: number, call: () => void): () => void
}

export const clock: Clock = {
  now: Date.now,
  random: Math.random,
  sleep: (ms, signal) => wait(ms, undefined, signal && { signal }),
  after(ms, call) {
    const timer = setTimeout(call, ms)
    return () => clearTimeout(timer)
  },
}
