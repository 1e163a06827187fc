/** @file Figures of docs/hub.md about downloads: `node dist/bench/hub.js NAME`, after `npm run build` and
 * `npx tsc -p bench/tsconfig.json`. */
import { execFile, fork } from "node:child_process"
import { randomBytes } from "node:crypto"
import { cpSync, readdirSync, readFileSync, rmSync, writeFileSync } from "node:fs"
import { open } from "node:fs/promises"
import { join } from "node:path"
import { fileURLToPath } from "node:url"
import { promisify } from "node:util"
import { PrismaError } from "../src/errors.ts"
import { downloadModel } from "../src/hub/download.ts"
import { hubHttp } from "../src/hub/http.ts"
import { fakeHub, repoOf, sha256 } from "../test/helpers/download-hub.ts"
import { fakeClock } from "../test/helpers/fake-clock.ts"
import { startHub, type Effect, type Fault } from "../test/helpers/hub/index.ts"
import { secretForms } from "../test/helpers/secret-forms.ts"
import { badBlobs, DEMO, ID, REFERENCE, say, scratch, seconds } from "./hub-parts.ts"

/** G5: as many flipped bits, and early ends, of one download each. */
async function integrity(count: number): Promise<void> {
  const hub = await fakeHub()
  const repo = repoOf(join(REFERENCE, "hf-vit-grey-relu"))
  hub.repos.set(ID, repo)
  const began = performance.now()
  for (const kind of ["flip", "end"] as const) {
    let [refused, wrong] = [0, 0]
    const codes = new Map<string, number>()
    for (let i = 0; i < count; i++) {
      // Half of all on the large file, half on the small one, whose hash is another.
      const name = i % 2 ? "model.safetensors" : "config.json"
      const bytes = repo.files.get(name)!
      const at = Math.floor((i / count) * bytes.length * 8)
      const body = kind === "flip" ? Uint8Array.from(bytes) : bytes.subarray(0, at >> 3)
      if (kind === "flip") body[at >> 3]! ^= 1 << (at & 7)
      // An end is early with its own length, with the full length, or with none.
      const length = [String(body.length), undefined, String(bytes.length)][i % 3]
      hub.fault = (asked, _, send) => {
        const isIt = asked.host === "store" ? i % 2 === 1 : asked.path.endsWith("config.json") && i % 2 === 0
        if (!isIt) return false
        if (kind === "end" && i % 3 === 2) send({ status: 200, cut: body.length, body: bytes })
        else send({ status: 200, body, headers: { "content-length": length } })
        return true
      }
      const cacheDir = scratch()
      const http = hubHttp({ endpoint: hub.url, clock: fakeClock() })
      const error: unknown = await downloadModel(ID, { endpoint: hub.url, cacheDir, token: false, http }).catch(
        (e: unknown) => e,
      )
      if (error instanceof PrismaError) {
        refused++
        codes.set(error.code, (codes.get(error.code) ?? 0) + 1)
      }
      wrong += badBlobs(cacheDir)
      rmSync(cacheDir, { recursive: true })
    }
    say(
      `${kind}: ${refused} of ${count} refused (${[...codes].map(([c, n]) => `${c} ${n}`).join(", ")}), ${wrong} bad blobs`,
    )
  }
  say(seconds(began))
  await hub.close()
}

/** G6: the same bytes at a pace of 1 Gbit/s by plain fetch to a file, and by the downloader with its hash and its watch. */
async function speed(megabytes: number): Promise<void> {
  const server = fork(import.meta.filename, ["server", String(megabytes)])
  const [url, storeUrl, hash] = await new Promise<string[]>((done) =>
    server.once("message", (m) => done(m as string[])),
  )
  const size = megabytes * 2 ** 20
  const copy = async () => {
    const handle = await open(join(scratch(), "x"), "w")
    for await (const piece of (await fetch(`${storeUrl}/${hash}`)).body!) await handle.write(piece)
    await handle.sync()
    await handle.close()
  }
  const download = () => downloadModel(ID, { endpoint: url!, cacheDir: scratch(), token: false })
  const timed = async (work: () => Promise<unknown>): Promise<number> => {
    const began = performance.now()
    await work()
    return performance.now() - began
  }
  for (const pace of [1, 0]) {
    server.send(pace)
    const [plain, ours]: number[][] = [[], []]
    for (let i = 0; i < 5; i++) {
      plain!.push(await timed(copy))
      ours!.push(await timed(download))
    }
    const [a, b] = [median(plain!), median(ours!)]
    const rate = (ms: number): string => `${((size * 8) / ms / 1e6).toFixed(2)} Gbit/s`
    say(
      `${megabytes} MiB ${pace ? "at 1 Gbit/s" : "unbounded"}: plain copy ${a.toFixed(0)} ms (${rate(a)}), download ${b.toFixed(0)} ms (${rate(b)}), ${((100 * (b - a)) / a).toFixed(1)} % more`,
    )
  }
  say(`peak memory ${(process.resourceUsage().maxRSS / 1024).toFixed(0)} MiB`)
  server.kill()
}

const median = (values: readonly number[]): number => [...values].sort((a, b) => a - b)[values.length >> 1]!

/** The other side of `speed`, in a process of its own. */
async function serve(megabytes: number): Promise<void> {
  const hub = await fakeHub()
  const repo = repoOf(join(REFERENCE, "hf-vit-grey-relu"))
  const bytes = randomBytes(megabytes * 2 ** 20)
  repo.files.set("model.safetensors", bytes)
  hub.repos.set(ID, repo)
  let gigabits = 0
  process.on("message", (pace: number) => void (gigabits = pace))
  hub.fault = ({ host }, response) => {
    if (host !== "store" || !gigabits) return false
    response.writeHead(200, { "content-length": String(bytes.length) })
    const began = performance.now()
    let at = 0
    const timer = setInterval(() => {
      const due = Math.min(bytes.length, Math.floor(((performance.now() - began) * gigabits * 1e6) / 8))
      response.write(bytes.subarray(at, due))
      at = due
      if (at < bytes.length) return
      clearInterval(timer)
      response.end()
    }, 5)
    return true
  }
  process.send!([hub.url, hub.storeUrl, sha256(bytes)])
}

const CANARY = "hf_Can~~~ary+7Zq=4WmX9"
const MAIN = fileURLToPath(new URL("../lib/cli/main.js", import.meta.url))

/** G21: every command, with a Hub that says the token back in each refusal, plain and in each form of Basic. */
async function tokens(): Promise<void> {
  const account = { name: "owner", role: "write", orgs: ["org"] } as const
  const hub = await startHub({ root: scratch(), tokens: { [CANARY]: account } })
  hub.addRepo(ID, DEMO)
  const seven = join(DEMO, "seven.png")
  const basic = ["user", "use", "us"].map((name) => Buffer.from(`${name}:${CANARY}`).toString("base64"))
  const texts = [
    `Bad ${CANARY} at https://s.test/?X-Amz-Signature=${CANARY}`,
    ...basic.map((text) => `Bad Basic ${text}`),
  ]
  const refused = (status: number, headers: Record<string, string> = {}): Fault[] =>
    texts.map((error) => ({ on: /./, times: Infinity, do: { status, headers, body: JSON.stringify({ error }) } }))
  const refusals: readonly (readonly Fault[])[] = [
    [],
    refused(401),
    refused(403, { "x-error-code": "GatedRepo" }),
    refused(404),
    refused(429, { "retry-after": "999" }),
    refused(503, { "retry-after": "999" }),
    refused(400),
    refused(302, { location: `https://10.0.0.1/?t=${CANARY}` }),
    [{ on: /^cdn GET/, times: Infinity, do: { status: 200, body: CANARY } }],
  ]
  const commands = (home: string, name: string): readonly string[][] => [
    ["info", ID], ["run", ID, seven], ["activations", ID, seven, "--out", join(home, "a.safetensors")], ["convert", ID, "--out", join(home, "out")],
    ["evaluate", ID, "--data", join(home, "data")], ["patch", ID, seven, seven], ["ablate", ID, seven], ["view", ID, seven, "--html", join(home, "v.html")], ["lens", ID, seven], ["attribute", ID, seven],
    ["saliency", ID, seven, "--html", join(home, "s.html")], ["heads", ID, seven], ["cache", "ls"], ["cache", "verify"], ["cache", "heal"], ["doctor"], ["demo"],
    ["convert", "--from", join(home, "list.txt"), "--out", join(home, "all"), "--push", "org", "--jobs", "1"],
    ["train", "induction", "--out", join(home, "run"), "--threads", "1", ...["training.max_steps=2", "training.test_samples=10", "transformer.hidden_dim=16", "transformer.num_heads=2"].flatMap((set) => ["--set", set])],
    ["card", join(home, "run"), "--write"], ["push", join(home, "run"), `owner/${name}`], ["worker", "--queue", "redis://127.0.0.1:9", "--root", home],
  ] // prettier-ignore
  const forms = secretForms(CANARY)
  const isSaid = (text: string | Buffer): boolean => forms.some((form) => text.includes(form))
  let [runs, hits, foreign] = [0, 0, 0]
  const codes = new Map<string, number>()
  for (const [i, faults] of refusals.entries()) {
    for (const debug of [false, true]) {
      const home = scratch()
      for (let label = 0; label < 10; label++) cpSync(seven, join(home, "data/test", String(label), "seven.png"))
      writeFileSync(join(home, "list.txt"), `${ID}\n`)
      const env = { ...process.env, HF_ENDPOINT: hub.url, HF_HUB_CACHE: join(home, "hub"), HF_TOKEN: CANARY, ...(debug && { NODE_DEBUG: "fetch,undici,http,net", HF_DEBUG: "1" }) } // prettier-ignore
      for (const args of commands(home, `run-${i}-${Number(debug)}`)) {
        // Each finds an empty cache but where all is well.
        if (faults.length) rmSync(join(home, "hub"), { recursive: true, force: true })
        hub.reset()
        if (faults.length) hub.fault(faults[(runs + i) % faults.length]!)
        // A worker waits for its server until it is told to end.
        const options = { env, maxBuffer: 2 ** 28, timeout: args[0] === "worker" ? 4000 : 0 }
        const said = await promisify(execFile)(process.execPath, [MAIN, ...args], options).catch((e: unknown) => e as { stdout: string; stderr: string; code: number }) // prettier-ignore
        const code = "code" in said ? String(said.code) : "0"
        codes.set(code, (codes.get(code) ?? 0) + 1)
        runs++
        hits += [said.stdout, said.stderr, ...filesBelow(home).map((f) => readFileSync(f))].filter(isSaid).length
        foreign += hub.requests.filter((r) => r.host === "cdn" && isSaid(JSON.stringify(r.headers))).length
      }
    }
  }
  const exits = [...codes].map(([code, n]) => `${n} with ${code}`).join(", ")
  say(`${runs} commands (exit: ${exits}): the token in ${hits} outputs and files, in ${foreign} requests to the store`)
  await hub.close()
}

const filesBelow = (folder: string): string[] =>
  readdirSync(folder, { recursive: true, withFileTypes: true })
    .filter((e) => e.isFile())
    .map((e) => join(e.parentPath, e.name))

/** G8, G9: waits as long as asked, in real time, and what is sent twice where a body is cut three times. */
async function weather(): Promise<void> {
  const hub = await startHub({ root: scratch() })
  const weights = randomBytes(50_000_000)
  const config = readFileSync(join(REFERENCE, "hf-vit-grey-relu/config.json"))
  hub.addRepo(ID, { "config.json": config, "model.safetensors": weights })
  const get = () => downloadModel(ID, { endpoint: hub.url, cacheDir: scratch(), token: false, onWait: () => {} })
  for (const headers of [{ "retry-after": "2" }, { ratelimit: '"api";r=0;t=3' }]) {
    hub.reset()
    hub.fault({ on: /revision/, do: { status: 429, headers } })
    await get()
    const [refused, again] = hub.requests.filter((r) => r.path.includes("revision"))
    say(`429 with ${JSON.stringify(headers)}: asked again after ${((again!.at - refused!.at) / 1000).toFixed(2)} s`)
  }
  hub.reset()
  hub.fault({ on: /^cdn/, times: 3, do: { cut: 12_000_000 } })
  await get()
  const bodies = hub.requests.filter((r) => r.host === "cdn")
  const sent = bodies.reduce((n, r) => n + r.sent, 0)
  say(`${bodies.length - 1} cuts of ${weights.length} bytes: ${sent} sent, ${(sent / weights.length).toFixed(4)} times`)
  await hub.close()
}

/** G10: in real time, how long until a dead transfer is noticed, and until it is given up. */
async function stall(): Promise<void> {
  const hub = await startHub({ root: scratch() })
  const config = readFileSync(join(REFERENCE, "hf-vit-grey-relu/config.json"))
  hub.addRepo(ID, { "config.json": config, "model.safetensors": randomBytes(1_000_000) })
  const cases: readonly (readonly [string, RegExp, Effect])[] = [
    ["no answer to the first question", /revision/, { stall: "head" }],
    ["no answer of the store", /^cdn/, { stall: "head" }],
    ["a body that stands still", /^cdn/, { stall: 1000 }],
    ["a byte every 5 s", /^cdn/, { slow: [1, 5000] }],
  ]
  // Each with a server of its own, so that all can wait at once.
  const rows = cases.map(async ([name, on, effect]) => {
    const own = await startHub({ root: hub.root })
    own.fault({ on, times: Infinity, do: effect })
    const began = performance.now()
    const error: unknown = await downloadModel(ID, { endpoint: own.url, cacheDir: scratch(), token: false }).catch(
      (e: unknown) => e,
    )
    const times = own.requests.filter((r) => on.test(`${r.host === "cdn" ? "cdn " : ""}${r.path}`)).map((r) => r.at)
    const noticed = times.slice(1).map((at, i) => (at - times[i]!) / 1000)
    const code = error instanceof PrismaError ? error.code : String(error)
    say(`${name}: noticed and waited ${noticed.map((s) => s.toFixed(1)).join(", ")} s; ${code} after ${seconds(began)}`)
    await own.close()
  })
  await Promise.all(rows)
  await hub.close()
}

const [what, first] = process.argv.slice(2)
if (what === "integrity") await integrity(Number(first ?? 1000))
else if (what === "speed") await speed(Number(first ?? 256))
else if (what === "server") await serve(Number(first))
else if (what === "weather") await weather()
else if (what === "stall") await stall()
else if (what === "tokens") await tokens()
else say("integrity [n], speed [MiB], weather, stall, tokens")
if (what !== "server") process.exit()
