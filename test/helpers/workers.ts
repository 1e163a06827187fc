/** @file Workers of a queue as processes, and a hand that kills them at moments drawn by lot. */
import { type ChildProcess, spawn } from "node:child_process"
import { MAIN } from "./batch.ts"

export interface Worker {
  readonly child: ChildProcess
  readonly ended: Promise<number | null>
  /** The job that it is at, if it takes one at a time. */
  readonly at: string | undefined
  /** Resolves when it has said this. */
  says(text: string): Promise<void>
}

/** `vit-prisma worker ...args`; `onBegin` is told when it begins a job. */
export function startWorker(
  args: readonly string[],
  env: Readonly<Record<string, string>>,
  onBegin: (slug: string) => void = () => {},
): Worker {
  const child = spawn(process.execPath, [MAIN, "worker", ...args], {
    env: { ...process.env, ...env },
    stdio: ["ignore", "ignore", "pipe"],
  })
  let [said, rest] = ["", ""]
  let at: string | undefined
  child.stderr.setEncoding("utf8").on("data", (text: string) => {
    said += text
    const lines = (rest + text).split("\n")
    rest = lines.pop()!
    for (const line of lines) {
      const [, what, slug] = /^(begins|done|already|failed|cancelled|given back) (\S+)/.exec(line) ?? []
      if (what) at = what === "begins" ? slug : undefined
      if (what === "begins") onBegin(slug!)
    }
  })
  const ended = new Promise<number | null>((done) => child.once("close", done))
  const says = async (text: string) => {
    while (!said.includes(text)) {
      if (child.exitCode !== null) throw new Error(`the worker ended and had said: ${said}`)
      await new Promise((done) => setTimeout(done, 20))
    }
  }
  return {
    child,
    ended,
    get at() {
      return at
    },
    says,
  }
}

/** Numbers in [0, 1), the same for the same seed (https://en.wikipedia.org/wiki/Linear_congruential_generator). */
export function drawn(seed: number): () => number {
  let state = seed
  const next = () => (state = (state * 1664525 + 1013904223) % 2 ** 32) / 2 ** 32
  next() // seeds that are near to each other begin alike
  return next
}

/** Milliseconds after a job's begin in which a worker is killed; a job takes 50, or 500 in a process that begins. */
const LATEST = 400

export interface Fleet {
  /** The workers that are there now. */
  readonly running: readonly Worker[]
  readonly killed: number
  /** Milliseconds from the kill of a worker until another began the job that it was at, of each that was at one. */
  readonly recoveries: readonly number[]
  /** Kill no more. */
  calm(): void
}

/**
 * `size` workers, each replaced when it is killed. `kills` of the first `jobs` begins of a job are drawn; a while after
 * each, drawn too, one of the workers, also drawn, is killed, whatever it is at.
 */
export function fleet(
  { size, jobs, kills, random }: { size: number; jobs: number; kills: number; random: () => number },
  start: (onBegin: (slug: string) => void) => Worker,
): Fleet {
  const left = Array.from({ length: jobs }, (_, i) => i + 1)
  const at = new Set(Array.from({ length: kills }, () => left.splice(Math.floor(random() * left.length), 1)[0]))
  const timers = new Set<NodeJS.Timeout>()
  const lost = new Map<string, number>()
  const recoveries: number[] = []
  let [begun, killed] = [0, 0]
  const kill = () => {
    const k = Math.floor(random() * size)
    const slug = running[k]!.at
    if (slug !== undefined) lost.set(slug, performance.now())
    running[k]!.child.kill("SIGKILL")
    running[k] = start(onBegin)
    killed++
  }
  const onBegin = (slug: string) => {
    const since = lost.get(slug)
    if (since !== undefined && lost.delete(slug)) recoveries.push(performance.now() - since)
    if (at.has(++begun)) timers.add(setTimeout(kill, random() * LATEST))
  }
  const running = Array.from({ length: size }, () => start(onBegin))
  return {
    running,
    get killed() {
      return killed
    },
    recoveries,
    calm: () => timers.forEach(clearTimeout),
  }
}
