/** @file Batches under fire: workers killed at random, a server restarted, killers among the models; what came of all of it. */
import { type ChildProcess, spawn } from "node:child_process"
import { createHash } from "node:crypto"
import { existsSync, mkdtempSync, readdirSync, readFileSync, rmSync } from "node:fs"
import { tmpdir } from "node:os"
import { join } from "node:path"
import { fileURLToPath } from "node:url"
import { parseArgs } from "node:util"
import { checkManifest } from "../src/files/manifest.ts"
import { killing, makeModels, readReport } from "../test/helpers/batch.ts"
import { SERVERS, type TestServer } from "../test/helpers/servers.ts"

const MAIN = fileURLToPath(new URL("../src/cli/main.js", import.meta.url))

const { values } = parseArgs({
  options: {
    server: { type: "string", default: "Redis" },
    models: { type: "string", default: "1000" },
    /** Share of the models at whose end a worker is killed. */
    kills: { type: "string", default: "0.2" },
    /** Times that the server is killed and started again. */
    restarts: { type: "string", default: "3" },
    workers: { type: "string", default: "2" },
    lock: { type: "string", default: "5" },
  },
})
const [count, share, restarts] = [Number(values.models), Number(values.kills), Number(values.restarts)]

/** The same kills each time (https://en.wikipedia.org/wiki/Linear_congruential_generator). */
let state = 1
const random = (): number => (state = (state * 1664525 + 1013904223) % 2 ** 32) / 2 ** 32

const scratch = mkdtempSync(join(tmpdir(), "vit-prisma-chaos-"))
const env = { ...process.env, ...killing(scratch) }
const out = join(scratch, "out")
makeModels(join(scratch, "models"), count)

const found = SERVERS.find(({ name, here }) => name === values.server && here)
if (!found) throw new Error(`${values.server} is not installed; there are ${SERVERS.map((s) => s.name).join(", ")}`)
const server: TestServer = await found.open()

const workers: ChildProcess[] = []
let ending = false
function work(slot: number): void {
  const args = [MAIN, "worker", "--queue", server.url, "--root", scratch, "--jobs", "1", "--lock", values.lock]
  const child = spawn(process.execPath, args, { env, stdio: "ignore" })
  workers[slot] = child
  child.once("close", () => !ending && work(slot))
}
for (let i = 0; i < Number(values.workers); i++) work(i)

const began = performance.now()
const args = ["convert", "--from", join(scratch, "models", "list.txt"), "--out", out, "--queue", server.url, "--json"]
const producer = spawn(process.execPath, [MAIN, ...args], { env, stdio: ["ignore", "ignore", "pipe"] })
let [ended, killed, restarted] = [0, 0, 0]
let busy = Promise.resolve()
producer.stderr.setEncoding("utf8").on("data", (text: string) => {
  for (const _ of text.matchAll(/^\{"job":/gm)) {
    ended++
    if (random() < share && workers[Math.floor(random() * workers.length)]!.kill("SIGKILL")) killed++
    if (ended < ((restarted + 1) * count) / (restarts + 1) || restarted === restarts) continue
    restarted++
    busy = busy.then(async () => {
      await server.kill()
      await new Promise((done) => setTimeout(done, 1000))
      await server.start()
    })
  }
  process.stderr.write(`\r${ended} of ${count} ended, ${killed} kills, ${restarted} restarts `)
})
const code = await new Promise((done) => producer.once("close", done))
const seconds = (performance.now() - began) / 1000
ending = true
for (const worker of workers) worker.kill("SIGKILL")
await busy
await server.remove()

const { counts, models } = readReport(out)
const outputs = readdirSync(out).filter((name) => !name.startsWith(".") && !name.startsWith("report"))
let whole = 0
for (const name of outputs) if (await checkManifest(join(out, name)).catch(() => false)) whole++
const weights = outputs.map((name) => readFileSync(join(out, name, "model.safetensors")))
const contents = new Set(weights.map((bytes) => createHash("sha256").update(bytes).digest("hex")))
const log = existsSync(env["PUBLISHED"]) ? readFileSync(env["PUBLISHED"], "utf8").trim().split("\n") : []
const published = log.filter((name) => /^m\d+$/.test(name))
const leftovers = readdirSync(out).filter((name) => name.includes(".tmp-"))
console.log(
  `\n${JSON.stringify({
    server: values.server,
    models: count,
    exit: code,
    seconds: Math.round(seconds),
    kills: killed,
    restarts: restarted,
    counts,
    outputs: outputs.length,
    whole,
    different: contents.size,
    publishedAgain: published.length - new Set(published).size,
    leftovers: leftovers.length,
    mostAttempts: Math.max(...models.map((m) => m.attempts)),
    failed: models.filter((m) => m.state === "failed").map((m) => `${m.output} ${m.attempts} ${m.code} ${m.message}`),
  })}`,
)
rmSync(scratch, { recursive: true })
