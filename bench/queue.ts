/** @file A long queue: what a producer and a worker hold of memory while 10,000 jobs go through, and how long it takes. */
import { type ChildProcess, spawn } from "node:child_process"
import { mkdirSync, mkdtempSync, rmSync, writeFileSync } from "node:fs"
import { tmpdir } from "node:os"
import { join } from "node:path"
import { parseArgs } from "node:util"
import { privateBytes } from "../src/jobs/memory.ts"
import { MAIN, readReport } from "../test/helpers/batch.ts"
import { SERVERS } from "../test/helpers/servers.ts"

const { values } = parseArgs({
  options: {
    server: { type: "string", default: "Redis" },
    jobs: { type: "string", default: "10000" },
    workers: { type: "string", default: "2" },
  },
})
const count = Number(values.jobs)
const found = SERVERS.find(({ name, here }) => name === values.server && here)
if (!found) throw new Error(`${values.server} is not installed (${SERVERS.map((s) => s.install).join(", ")})`)
const server = await found.open()
const scratch = mkdtempSync(join(tmpdir(), "vit-prisma-queue-"))
// Folders without a model are refused in a millisecond: what is measured is the queue.
const models = Array.from({ length: count }, (_, i) => join(scratch, "models", `m${i}`))
for (const folder of models) mkdirSync(folder, { recursive: true })
writeFileSync(join(scratch, "list.txt"), models.join("\n"))

const run = (...args: string[]): ChildProcess => spawn(process.execPath, [MAIN, ...args], { stdio: "ignore" })
const began = performance.now()
const worker = run("worker", "--queue", server.url, "--root", scratch, "--jobs", values.workers)
const out = join(scratch, "out")
const producer = run("convert", "--from", join(scratch, "list.txt"), "--out", out, "--queue", server.url, "--json")
const held: Record<"producer" | "worker", number[]> = { producer: [], worker: [] }
const watch = setInterval(() => {
  for (const [name, { pid }] of Object.entries({ producer, worker })) {
    void privateBytes(pid!).then((bytes) => bytes && held[name as keyof typeof held].push(bytes))
  }
}, 250)
const code = await new Promise((done) => producer.once("close", done))
clearInterval(watch)
const seconds = (performance.now() - began) / 1000
const ended = new Promise((done) => worker.once("close", done))
worker.kill("SIGTERM")
await ended
const { counts } = readReport(out)
await server.remove()
rmSync(scratch, { recursive: true })

const mb = (bytes: number): number => Math.round(bytes / 1e6)
/** The most that was held in each tenth of the time. */
const tenths = (all: readonly number[]): number[] =>
  Array.from({ length: 10 }, (_, i) =>
    mb(Math.max(0, ...all.slice((i * all.length) / 10, ((i + 1) * all.length) / 10))),
  )
console.log(
  JSON.stringify({
    server: values.server,
    jobs: count,
    exit: code,
    seconds: Math.round(seconds),
    counts,
    producerMB: tenths(held.producer),
    workerMB: tenths(held.worker),
  }),
)
