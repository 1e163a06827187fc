/** @file Batches under fire: workers killed at random, a server restarted, killers among the models; what came of all of it. */
import { spawn } from "node:child_process"
import { createHash } from "node:crypto"
import { existsSync, mkdtempSync, readdirSync, readFileSync, rmSync } from "node:fs"
import { tmpdir } from "node:os"
import { join } from "node:path"
import { parseArgs } from "node:util"
import { checkManifest } from "../src/files/manifest.ts"
import { killing, MAIN, makeModels, readReport } from "../test/helpers/batch.ts"
import { SERVERS, type TestServer } from "../test/helpers/servers.ts"
import { drawn, fleet, startWorker } from "../test/helpers/workers.ts"

const { values } = parseArgs({
  options: {
    /** Redis, PostgreSQL, or "none": the processes of one command on this machine. */
    server: { type: "string", default: "Redis" },
    models: { type: "string", default: "1000" },
    /** Share of the models at which a worker, or without a server a job's process, is killed. */
    kills: { type: "string", default: "0.2" },
    /** Times that the server is killed and started again. */
    restarts: { type: "string", default: "3" },
    workers: { type: "string", default: "2" },
    lock: { type: "string", default: "5" },
    seed: { type: "string", default: "1" },
  },
})
const [count, share] = [Number(values.models), Number(values.kills)]
const random = drawn(Number(values.seed))
const scratch = mkdtempSync(join(tmpdir(), "vit-prisma-chaos-"))
const killers = killing(scratch)
const env = { ...process.env, ...killers }
const out = join(scratch, "out")
makeModels(join(scratch, "models"), count)
const common = ["convert", "--from", join(scratch, "models", "list.txt"), "--out", out, "--json"]

const found = SERVERS.find(({ name, here }) => name === values.server && here)
if (!found && values.server !== "none")
  throw new Error(`${values.server} is not installed (${SERVERS.map((s) => s.install).join(", ")})`)
const server: TestServer | undefined = await found?.open()
const restarts = server ? Number(values.restarts) : 0
const crew =
  server &&
  fleet({ size: Number(values.workers), jobs: count, kills: Math.round(share * count), random }, (onBegin) => {
    const args = ["--queue", server.url, "--root", scratch, "--jobs", "1", "--lock", values.lock]
    return startWorker(args, killers, onBegin)
  })

const began = performance.now()
const how = server ? ["--queue", server.url] : ["--jobs", values.workers, "--retries", "9"]
const producer = spawn(process.execPath, [MAIN, ...common, ...how], { env, stdio: ["ignore", "ignore", "pipe"] })
let [ended, killed, restarted] = [0, 0, 0]
let busy = Promise.resolve()

/** Kill one of the producer's own processes, whatever it is at. */
function killProcess(): void {
  if (producer.exitCode !== null) return
  const list = `/proc/${producer.pid}/task/${producer.pid}/children`
  const children = readFileSync(list, "utf8").trim().split(" ").filter(Boolean)
  if (!children.length) return
  process.kill(Number(children[Math.floor(random() * children.length)]), "SIGKILL")
  killed++
}

producer.stderr.setEncoding("utf8").on("data", (text: string) => {
  for (const _ of text.matchAll(/^\{"job":/gm)) {
    ended++
    if (!server && random() < share) setTimeout(killProcess, random() * 400)
    if (ended < ((restarted + 1) * count) / (restarts + 1) || restarted === restarts) continue
    restarted++
    busy = busy.then(async () => {
      await server?.kill()
      await new Promise((done) => setTimeout(done, 1000))
      await server?.start()
    })
  }
  if (ended % 10 === 0)
    process.stderr.write(`\r${ended} of ${count} ended, ${crew?.killed ?? killed} kills, ${restarted} restarts `)
})
const code = await new Promise((done) => producer.once("close", done))
const seconds = (performance.now() - began) / 1000
crew?.calm()
for (const { child } of crew?.running ?? []) child.kill("SIGKILL")
await busy
await server?.remove()

const { counts, models } = readReport(out)
const outputs = readdirSync(out).filter((name) => !name.startsWith(".") && !name.startsWith("report"))
let whole = 0
for (const name of outputs) if (await checkManifest(join(out, name)).catch(() => false)) whole++
const weights = outputs.map((name) => readFileSync(join(out, name, "model.safetensors")))
const contents = new Set(weights.map((bytes) => createHash("sha256").update(bytes).digest("hex")))
const log = existsSync(killers.PUBLISHED) ? readFileSync(killers.PUBLISHED, "utf8").trim().split("\n") : []
const published = log.filter((name) => /^m\d+$/.test(name))
const leftovers = readdirSync(out).filter((name) => name.includes(".tmp-"))
const waits = (crew?.recoveries ?? []).map((ms) => Math.round(ms / 100) / 10).sort((a, b) => a - b)
console.log(
  `\n${JSON.stringify({
    server: values.server,
    models: count,
    exit: code,
    seconds: Math.round(seconds),
    kills: crew?.killed ?? killed,
    restarts: restarted,
    counts,
    outputs: outputs.length,
    whole,
    different: contents.size,
    publishedAgain: published.length - new Set(published).size,
    leftovers: leftovers.length,
    recoveries: crew && {
      of: waits.length,
      medianSeconds: waits[Math.floor(waits.length / 2)],
      worstSeconds: waits.at(-1),
    },
    mostAttempts: Math.max(...models.map((m) => m.attempts)),
    failed: models.filter((m) => m.state === "failed").map((m) => `${m.output} ${m.attempts} ${m.code} ${m.message}`),
  })}`,
)
rmSync(scratch, { recursive: true })
