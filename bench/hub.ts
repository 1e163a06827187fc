/** @file Figures of docs/hub.md: `node dist/bench/hub.js NAME`, after `npm run build` and `npx tsc -p bench/tsconfig.json`; without
 * a name it lists what there is. `python` wants the path of a python with huggingface_hub as its argument. */
import { execFile, fork } from "node:child_process"
import { randomBytes } from "node:crypto"
import { mkdtempSync, readdirSync, readFileSync, renameSync, rmSync, writeFileSync } from "node:fs"
import { open } from "node:fs/promises"
import { tmpdir } from "node:os"
import { join, resolve } from "node:path"
import { fileURLToPath } from "node:url"
import { promisify } from "node:util"
import { PrismaError } from "../src/errors.ts"
import { convertModel } from "../src/export/convert.ts"
import { downloadModel } from "../src/hub/download.ts"
import { hubHttp } from "../src/hub/http.ts"
import { float32, loadPretrained } from "../src/index.ts"
import { fakeHub, gitSha1, repoOf, sha256, type FakeHub } from "../test/helpers/download-hub.ts"
import { fakeClock } from "../test/helpers/fake-clock.ts"
import { startHub, type Effect } from "../test/helpers/hub/index.ts"

const REFERENCE = "test/fixtures/reference"
const DEMO = "test/fixtures/mnist-demo"
const ID = "owner/model"
const say = (text: string): void => void process.stdout.write(`${text}\n`)
const made: string[] = []
process.once("exit", () => made.forEach((folder) => rmSync(folder, { recursive: true, force: true })))
function scratch(): string {
  const folder = mkdtempSync(join(tmpdir(), "hub-bench-"))
  made.push(folder)
  return folder
}
const seconds = (from: number): string => `${((performance.now() - from) / 1000).toFixed(1)} s`

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

/** Blobs that do not hold what their names say. */
function badBlobs(cache: string): number {
  const names = readdirSync(cache, { recursive: true, encoding: "utf8" }).filter((n) => /\/blobs\/[0-9a-f]+$/.test(n))
  return names.filter((n) => {
    const bytes = readFileSync(join(cache, n))
    const name = n.split("/").at(-1)!
    return name !== (name.length === 64 ? sha256(bytes) : gitSha1(bytes))
  }).length
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

/** G11: rounds of processes that fill one cold cache together. */
async function stress(rounds: number, processes: number, locks: boolean): Promise<void> {
  const hub = await fakeHub()
  hub.repos.set(ID, repoOf(join(REFERENCE, "hf-vit-sharded")))
  const began = performance.now()
  let [failures, wrong, left] = [0, 0, 0]
  const workers = Array.from({ length: processes }, () =>
    fork(import.meta.filename, ["worker", hub.url, ...(locks ? [] : ["no-locks"])]),
  )
  const ready = workers.map((w) => new Promise((done) => w.once("message", done)))
  await Promise.all(ready)
  for (let round = 0; round < rounds; round++) {
    const cache = scratch()
    const said = await Promise.all(
      workers.map(
        (w) => new Promise<string>((done) => void (w.once("message", (m) => done(m as string)), w.send(cache))),
      ),
    )
    failures += said.filter((text) => text !== "fine").length
    for (const text of new Set(said)) if (text !== "fine") say(text)
    wrong += badBlobs(cache)
    left += readdirSync(cache, { recursive: true, encoding: "utf8" }).filter((n) => /\.tmp-|\.pid$/.test(n)).length
    rmSync(cache, { recursive: true })
  }
  for (const w of workers) w.kill()
  const files = hub.repos.get(ID)!.files.size
  say(
    `${rounds} rounds of ${processes} processes x ${files} files, locks ${locks ? "real" : "stubbed"}: ${failures} errors, ${wrong} bad blobs, ${left} leftovers, ${hub.asked.filter((a) => a.host === "store").length} large transfers, ${seconds(began)}`,
  )
  await hub.close()
}

async function worker(endpoint: string, locks: boolean): Promise<void> {
  if (!locks) {
    const { default: fs } = await import("node:fs/promises")
    const { syncBuiltinESMExports } = await import("node:module")
    const { link } = fs
    fs.link = (from, to) => (String(to).endsWith(".pid") ? Promise.resolve() : link(from, to))
    syncBuiltinESMExports()
  }
  process.on("message", (cacheDir: string) => {
    downloadModel(ID, { endpoint, cacheDir, token: false }).then(
      () => process.send!("fine"),
      (e: unknown) => process.send!(e instanceof Error ? e.message : String(e)),
    )
  })
  process.send!("ready")
}

const PYTHON = `
import json, os, sys
from huggingface_hub import hf_hub_download, snapshot_download, try_to_load_from_cache, _CACHED_NO_EXIST, scan_cache_dir
mode, cache, repo, names, revisions = sys.argv[1], sys.argv[2], sys.argv[3], json.loads(sys.argv[4]), json.loads(sys.argv[5])
found = []
for revision in revisions:
    for name in names:
        if mode == "read":
            path = hf_hub_download(repo, name, revision=revision, cache_dir=cache, local_files_only=True)
            found.append(os.path.isfile(path) and os.path.islink(path))
        else:
            hf_hub_download(repo, name, revision=revision, cache_dir=cache)
            found.append(True)
    if mode == "read":
        found.append(try_to_load_from_cache(repo, "preprocessor_config.json", cache_dir=cache, revision=revision) is _CACHED_NO_EXIST)
    else:
        try:
            hf_hub_download(repo, "preprocessor_config.json", revision=revision, cache_dir=cache)
        except Exception as e:
            found.append(type(e).__name__ in ("EntryNotFoundError", "RemoteEntryNotFoundError"))
scan = scan_cache_dir(cache)
print(json.dumps({"found": found, "repos": len(scan.repos), "warnings": [str(w) for w in scan.warnings]}))
`

/** G12: the real huggingface_hub reads what we wrote, offline, and we read what it wrote, with no byte fetched. */
async function python(program: string): Promise<void> {
  const hub = await fakeHub({ large: false })
  const repo = repoOf(join(REFERENCE, "hf-vit-grey-relu"))
  const revisions = ["main", "v1.0", "feature/a", "refs/pr/1", repo.commit]
  repo.refs = Object.fromEntries(revisions.map((r) => [r, repo.commit]))
  hub.repos.set(ID, repo)
  const ask = async (mode: string, cache: string) => {
    const args = ["-c", PYTHON, mode, cache, ID, JSON.stringify([...repo.files.keys()]), JSON.stringify(revisions)]
    const env = { ...process.env, HF_ENDPOINT: hub.url, HF_HUB_DISABLE_TELEMETRY: "1", HF_HOME: scratch() }
    const { stdout } = await promisify(execFile)(program, args, { env })
    return JSON.parse(stdout.trim().split("\n").at(-1)!) as { found: boolean[]; repos: number; warnings: string[] }
  }
  const ours = scratch()
  for (const revision of revisions)
    await downloadModel(ID, { endpoint: hub.url, cacheDir: ours, token: false, revision })
  hub.asked.length = 0
  const read = await ask("read", ours)
  say(
    `huggingface_hub on our cache: ${read.found.filter(Boolean).length} of ${read.found.length} hits, ${hub.asked.length} requests, scan: ${read.repos} repo, ${read.warnings.length} warnings`,
  )
  const theirs = scratch()
  const wrote = await ask("write", theirs)
  hub.asked.length = 0
  for (const revision of revisions)
    await downloadModel(ID, { endpoint: hub.url, cacheDir: theirs, token: false, revision, offline: true })
  say(
    `we on its cache, offline: ${revisions.length} of ${revisions.length} revisions (${wrote.found.every(Boolean)}), ${hub.asked.length} requests`,
  )
  for (const revision of revisions)
    await downloadModel(ID, { endpoint: hub.url, cacheDir: theirs, token: false, revision })
  say(`we on its cache, online: ${hub.count(/resolve|tree/)} of ${hub.asked.length} requests ask for files`)
  await hub.close()
}

/** G13: a warm, offline load with every way to a socket counted. */
async function offline(): Promise<void> {
  const hub = await fakeHub()
  hub.repos.set(ID, repoOf(join(REFERENCE, "hf-vit-grey-relu")))
  const cacheDir = scratch()
  await downloadModel(ID, { endpoint: hub.url, cacheDir, token: false })
  await hub.close()
  const { default: net } = await import("node:net")
  const { default: dns } = await import("node:dns")
  const { syncBuiltinESMExports } = await import("node:module")
  let [sockets, lookups] = [0, 0]
  const socket = net.Socket.prototype as { connect: Function }
  socket.connect = new Proxy(socket.connect, {
    apply: (real, self, args) => (sockets++, Reflect.apply(real, self, args) as unknown),
  })
  dns.lookup = new Proxy(dns.lookup, { apply: (real, self, args) => (lookups++, Reflect.apply(real, self, args)) })
  syncBuiltinESMExports()
  const model = await loadPretrained(ID, { cacheDir, offline: true })
  await model.release()
  say(`warm and offline: ${sockets} sockets, ${lookups} look-ups`)
}

/** G25: a mapped model whose blob is replaced, and one whose folder is converted anew, again and again under it. */
async function mapped(rounds: number): Promise<void> {
  const hub: FakeHub = await fakeHub()
  const repo = repoOf(join(REFERENCE, "hf-vit-grey-relu"))
  hub.repos.set(ID, repo)
  const cacheDir = scratch()
  const model = await loadPretrained(ID, { endpoint: hub.url, cacheDir, token: false })
  const { nChannels, imageSize } = model.config.vision
  const pixels = float32(
    [1, nChannels, ...imageSize],
    new Float32Array(nChannels * imageSize[0] * imageSize[1]).fill(0.5),
  )
  const logits = async () => {
    const { logits } = await model.run(pixels)
    return logits.data.join()
  }
  const first = await logits()
  let same = 0
  const weights = join(cacheDir, "models--owner--model", "blobs", sha256(repo.files.get("model.safetensors")!))
  for (let i = 0; i < rounds; i++) {
    // Another file at the name, as a download puts it there; the old one stays mapped.
    writeFileSync(`${weights}.new`, randomBytes(100))
    renameSync(`${weights}.new`, weights)
    same += Number((await logits()) === first)
  }
  say(`a blob replaced under a loaded model ${rounds} times: ${same} equal outputs, no crash`)
  const out = join(scratch(), "converted")
  const source = await loadPretrained(join(REFERENCE, "hf-vit-grey-relu"))
  await convertModel(source, out)
  const loaded = await loadPretrained(out)
  const stop = new AbortController()
  let [runs, equal] = [0, 0]
  const load = (async () => {
    while (!stop.signal.aborted) {
      const again = await loaded.run(pixels)
      runs++
      equal += Number(again.logits.data.join() === first)
    }
  })()
  for (let i = 0; i < rounds; i++) await convertModel(source, out, { force: true })
  stop.abort()
  await load
  say(`a folder converted anew under a loaded model ${rounds} times: ${equal} of ${runs} outputs equal, no crash`)
  await Promise.all([source.release(), loaded.release()])
  await model.release()
  await hub.close()
}

const CANARY = "hf_Canary7Zq4WmX9"
const MAIN = fileURLToPath(new URL("../src/cli/main.js", import.meta.url))

/** G21: every command that reads a model, and those about the cache, with a Hub that says the token back in each refusal. */
async function tokens(): Promise<void> {
  const hub = await fakeHub({ token: CANARY })
  hub.repos.set(ID, repoOf(DEMO))
  const seven = join(DEMO, "seven.png")
  const echo = JSON.stringify({ error: `Bad ${CANARY} at https://s.test/?X-Amz-Signature=${CANARY}` })
  const refusals: readonly (readonly [string, FakeHub["fault"]])[] = [
    ["ok", undefined],
    ...(
      [
        [401, {}],
        [403, { "x-error-code": "GatedRepo" }],
        [404, {}],
        [429, { "retry-after": "999" }],
        [503, { "retry-after": "999" }],
        [400, {}],
        [302, { location: `https://10.0.0.1/?t=${CANARY}` }],
      ] as const
    ).map(
      ([code, headers]) =>
        [String(code), (_, r) => Boolean(r.writeHead(code, headers).end(echo))] as const satisfies readonly [
          string,
          FakeHub["fault"],
        ],
    ),
    ["integrity", ({ host }, _, send) => host === "store" && (send({ body: Buffer.from(CANARY) }), true)],
  ]
  const commands = (home: string): readonly string[][] => [
    ["info", ID], ["run", ID, seven], ["activations", ID, seven, "--out", join(home, "a.safetensors")], ["convert", ID, "--out", join(home, "out")],
    ["evaluate", ID, "--data", home], ["patch", ID, seven, seven], ["ablate", ID, seven], ["view", ID, seven, "--html", join(home, "v.html")], ["lens", ID, seven], ["attribute", ID, seven],
    ["saliency", ID, seven, "--html", join(home, "s.html")], ["heads", ID, seven], ["cache", "ls"], ["cache", "verify"], ["cache", "heal"], ["doctor"], ["demo"],
  ] // prettier-ignore
  const forms = [CANARY, Buffer.from(CANARY).toString("base64").replace(/=+$/, ""), encodeURIComponent(CANARY)]
  let [runs, hits] = [0, 0]
  const codes = new Map<string, number>()
  for (const [, fault] of refusals) {
    for (const debug of [false, true]) {
      hub.fault = fault
      const home = scratch()
      const env = { ...process.env, HF_ENDPOINT: hub.url, HF_HUB_CACHE: join(home, "hub"), HF_TOKEN: CANARY, ...(debug && { NODE_DEBUG: "fetch,undici,http,net", HF_DEBUG: "1" }) } // prettier-ignore
      for (const args of commands(home)) {
        // Each finds an empty cache but where all is well.
        if (fault) rmSync(join(home, "hub"), { recursive: true, force: true })
        const said = await promisify(execFile)(process.execPath, [MAIN, ...args], { env, maxBuffer: 2 ** 28 }).catch((e: unknown) => e as { stdout: string; stderr: string; code: number }) // prettier-ignore
        const code = "code" in said ? String(said.code) : "0"
        codes.set(code, (codes.get(code) ?? 0) + 1)
        runs++
        const texts = [
          Buffer.from(said.stdout),
          Buffer.from(said.stderr),
          ...filesBelow(home).map((f) => readFileSync(f)),
        ]
        hits += texts.filter((text) => forms.some((form) => text.includes(form))).length
      }
    }
  }
  const foreign = hub.asked.filter((r) => r.host === "store" && JSON.stringify(r.headers).includes(CANARY)).length
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

const [what, first, second, third] = process.argv.slice(2)
process.chdir(resolve(import.meta.dirname, "../.."))
if (what === "integrity") await integrity(Number(first ?? 1000))
else if (what === "speed") await speed(Number(first ?? 256))
else if (what === "stress") await stress(Number(first ?? 200), Number(second ?? 8), third !== "no-locks")
else if (what === "server") await serve(Number(first))
else if (what === "worker") await worker(first!, second !== "no-locks")
else if (what === "python") await python(first ?? "python3")
else if (what === "weather") await weather()
else if (what === "stall") await stall()
else if (what === "tokens") await tokens()
else if (what === "offline") await offline()
else if (what === "mapped") await mapped(Number(first ?? 100))
else
  say(
    "integrity [n], speed [MiB], stress [rounds] [processes] [no-locks], python [program], weather, stall, tokens, offline, mapped [n]",
  )
if (what !== "worker" && what !== "server") process.exit()
