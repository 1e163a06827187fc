/** @file A clock for the Hub's code on which sleeping costs nothing and is written down. */
import type { Clock } from "../../src/hub/clock.ts"

export interface FakeClock extends Clock {
  /** Milliseconds of each sleep. */
  readonly slept: number[]
  /** Let time pass: timers that are due are called. */
  pass(ms: number): void
}

/** `random` is what jitter is made of. Timers run when time passes, by sleeping or by `pass`. */
export function fakeClock(random = 0, start = 1_800_000_000_000): FakeClock {
  let now = start
  const slept: number[] = []
  const timers = new Set<{ at: number; call: () => void }>()
  const pass = (ms: number) => {
    now += ms
    for (const timer of [...timers].sort((a, b) => a.at - b.at)) {
      if (timer.at > now || !timers.delete(timer)) continue
      timer.call()
    }
  }
  return {
    slept,
    pass,
    now: () => now,
    random: () => random,
    async sleep(ms) {
      slept.push(ms)
      pass(ms)
    },
    after(ms, call) {
      const timer = { at: now + ms, call }
      timers.add(timer)
      return () => void timers.delete(timer)
    },
  }
}
