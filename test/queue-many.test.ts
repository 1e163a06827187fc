/** @file Long queues over Redis and over PostgreSQL, real servers: what producer and worker hold while one is filled and worked
 * at, how many jobs run at once, and what becomes of it when it is called off. */
import type { ChildProcess } from "node:child_process"
import { mkdirSync, readFileSync, statSync, writeFileSync } from "node:fs"
import { setTimeout as wait } from "node:timers/promises"
import { beforeAll, describe, expect, it } from "vitest"
import { openBullmq } from "../src/jobs/bullmq.ts"
import { privateBytes } from "../src/jobs/memory.ts"
import { QUEUE_NAME } from "../src/jobs/queue-runner.ts"
import { reach, serverAt } from "../src/jobs/server.ts"
import { makeModel, type Ran, readReport, vitPrisma } from "./helpers/batch.ts"
import { queueScene } from "./helpers/queue-scene.ts"
import { SERVERS } from "./helpers/servers.ts"
import { startWorker } from "./helpers/workers.ts"

const { scratch, at, open, children, watched } = queueScene()

/** Jobs in the long queue, those of them that are done before the rest is called off, and those in a short queue. */
const [COUNT, DONE, FEW] = [10_000, 1200, 100]

/** The first are models; the others are folders without one and refused in a millisecond: what is measured is the queue. */
const MODELS = 12

/** More processes than the budget lets convert at once: converting one of these models asks for 64 MiB and little more. */
const [PROCESSES, AT_ONCE] = [5, 3]
const BUDGET = ["--jobs", String(PROCESSES), "--memory", `${PROCESSES * 160 + AT_ONCE * 65}M`]

/** Bytes that a process may hold more for each job that waits (300 measured), and for each that is done (2000). */
const [WAITS, ENDS] = [2000, 8000]

/** Milliseconds in which what runs ends when it is called off. */
const CALLED_OFF = 5000

/** Only Linux tells what a process holds. */
const WATCHED = process.platform === "linux"
for (const { name, here, install } of WATCHED ? SERVERS : []) {
  if (!here) console.warn(`long queues over ${name} are not tested: it is not on this machine (${install})`)
}
if (!WATCHED) console.warn("long queues are not tested: only Linux tells what a process holds")

/**
 * For `--import`: SIGUSR2 collects garbage and writes a byte to a file when that is done. A model is "+" in MADE when its
 * output is begun, "-" when it is published, and there is a while between them.
 */
const PRELOAD = `
import { appendFileSync } from "node:fs"
import promises from "node:fs/promises"
import { syncBuiltinESMExports } from "node:module"
import { setFlagsFromString } from "node:v8"
import { runInNewContext } from "node:vm"
setFlagsFromString("--expose-gc")
const gc = runInNewContext("gc")
process.on("SIGUSR2", () => {
  gc()
  appendFileSync(process.env.COLLECTED + process.pid, ".")
})
const { open, rename } = promises
let begun
promises.open = async (path, ...rest) => {
  const [, slug] = /[/][.](model\\d+)[.]tmp-/.exec(String(path)) ?? []
  if (slug && slug !== begun) {
    begun = slug
    appendFileSync(process.env.MADE, "+")
    await new Promise((done) => setTimeout(done, 250))
  }
  return open(path, ...rest)
}
promises.rename = async (from, to) => {
  if (/[/][.]model\\d+[.]tmp-[^/]*$/.test(String(from))) appendFileSync(process.env.MADE, "-")
  return rename(from, to)
}
syncBuiltinESMExports()
`
const env = {
  // Young objects have little room: what is held is what is kept.
  NODE_OPTIONS: `--max-semi-space-size=1 --import ${at("preload.mjs")}`,
  COLLECTED: at("collected-"),
  MADE: at("made"),
}

const until = async (holds: () => boolean | Promise<boolean>): Promise<void> => {
  while (!(await holds())) await wait(20)
}

/** Bytes that a process holds alone without garbage, the least of some looks: memory is given back a while after. */
async function held({ pid }: ChildProcess): Promise<number> {
  const size = () => statSync(env.COLLECTED + pid, { throwIfNoEntry: false })?.size ?? 0
  const looks: number[] = []
  while (looks.length < 3) {
    const before = size()
    process.kill(pid!, "SIGUSR2")
    await until(() => size() > before)
    await wait(100)
    looks.push((await privateBytes(pid!))!)
  }
  return Math.min(...looks)
}

beforeAll(() => {
  writeFileSync(at("preload.mjs"), PRELOAD)
  const list = (name: string, paths: readonly string[]) => writeFileSync(at(`${name}.txt`), paths.join("\n"))
  const models = Array.from({ length: MODELS }, (_, i) => makeModel(at("models", `model${i}`), i))
  const empty = Array.from({ length: COUNT - MODELS }, (_, i) => at("models", `empty${i}`))
  for (const folder of empty) mkdirSync(folder)
  list("few", empty.slice(0, FEW))
  list("many", [...models, ...empty])
})

describe.each(SERVERS)("through $name", ({ name, here, open: begin }) => {
  it.skipIf(!here || !WATCHED)(
    `${COUNT} jobs wait: neither their number nor that of those done is seen in what a producer and a worker hold, no more run at once than the memory budget lets, and called off they are gone (QU-12)`,
    { timeout: 180_000 },
    async () => {
      const server = await begin()
      open.push(server)
      const named = await serverAt(server.url)
      await reach(named)
      const bull = await openBullmq(named, QUEUE_NAME, () => {})
      open.push({ remove: () => bull.close() })
      const ended = () => bull.queue.getJobCountByTypes("completed", "failed")
      const left = () => bull.queue.getJobCountByTypes("wait", "active", "delayed", "prioritized")
      const produce = (list: string, more: readonly string[] = [], how: Readonly<Record<string, string>> = env) => {
        const args = ["convert", "--from", at(`${list}.txt`), "--out", at(`${list}-${name}`), "--queue", server.url]
        let child: ChildProcess | undefined
        const started = (begun: ChildProcess) => children.add((child = begun))
        const done: Promise<Ran> = vitPrisma([...args, "--json", ...more], { env: how, started })
        return { child: child!, done }
      }
      writeFileSync(env.MADE, "")
      const worker = watched(startWorker(["--queue", server.url, "--root", scratch, ...BUDGET], env))

      // A short queue first, to compare with; then the worker stands still until the long one is full.
      expect((await produce("few", [], {}).done).code).toBe(1)
      const short = await held(worker.child)
      worker.child.kill("SIGSTOP")
      const { child: producer, done } = produce("many")
      await until(async () => (await left()) > 0)
      const first = await held(producer)
      await until(async () => (await left()) === COUNT)
      const full = await held(producer)
      worker.child.kill("SIGCONT")

      const looks: { readonly ended: number; readonly bytes: readonly number[] }[] = []
      for (const part of [1, 2, 3]) {
        await until(async () => (await ended()) >= (part / 3) * DONE)
        looks.push({ ended: await ended(), bytes: await Promise.all([worker.child, producer].map(held)) })
      }
      const made = readFileSync(env.MADE, "utf8")
      const [since, last] = [looks[0]!, looks.at(-1)!]
      const said = JSON.stringify({ short, first, full, looks })
      expect(full - first, `the producer, filling: ${said}`).toBeLessThan(WAITS * COUNT)
      expect(since.bytes[0]! - short, `the worker, by what waits: ${said}`).toBeLessThan(WAITS * COUNT)
      for (const [i, of] of ["worker", "producer"].entries()) {
        const more = last.bytes[i]! - since.bytes[i]!
        expect(more, `the ${of}, by what is done: ${said}`).toBeLessThan(ENDS * (last.ended - since.ended))
      }

      let [now, most] = [0, 0]
      for (const sign of made.split("")) most = Math.max(most, (now += sign === "+" ? 1 : -1))
      expect([made.length, now, most]).toEqual([2 * MODELS, 0, AT_ONCE])

      const cancelled = await produce("many", ["--cancel"], {}).done
      expect(cancelled.code, cancelled.stderr).toBe(0)
      const began = performance.now()
      await until(async () => (await left()) === 0)
      expect(performance.now() - began).toBeLessThan(CALLED_OFF)
      const { code, stderr } = await done
      expect(code, stderr).toBe(1)
      const { counts } = readReport(at(`many-${name}`))
      expect(counts).toMatchObject({ done: MODELS, left: 0 })
      expect(counts["failed"]! + counts["cancelled"]!).toBe(COUNT - MODELS)
      // While it was called off, the worker went on.
      expect(counts["cancelled"]).toBeGreaterThan(COUNT / 2)
      expect(await left()).toBe(0)
      worker.child.kill("SIGTERM")
      expect(await worker.ended).toBe(143)
    },
  )
})
