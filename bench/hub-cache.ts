/** @file Figures of docs/hub.md about the cache: `node dist/bench/hub-cache.js NAME`, after `npm run build` and
 * `npx tsc -p bench/tsconfig.json`; `python` wants the path of a python with huggingface_hub as its argument. */
import { execFile, fork } from "node:child_process"
import { randomBytes } from "node:crypto"
import { readdirSync, renameSync, rmSync, writeFileSync } from "node:fs"
import { join } from "node:path"
import { promisify } from "node:util"
import { convertModel } from "../src/export/convert.ts"
import { downloadModel } from "../src/hub/download.ts"
import { float32, loadPretrained } from "../src/index.ts"
import { fakeHub, repoOf, sha256, type FakeHub } from "../test/helpers/download-hub.ts"
import { badBlobs, ID, REFERENCE, say, scratch, seconds } from "./hub-parts.ts"

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

const [what, first, second, third] = process.argv.slice(2)
if (what === "stress") await stress(Number(first ?? 200), Number(second ?? 8), third !== "no-locks")
else if (what === "worker") await worker(first!, second !== "no-locks")
else if (what === "python") await python(first ?? "python3")
else if (what === "offline") await offline()
else if (what === "mapped") await mapped(Number(first ?? 100))
else say("stress [rounds] [processes] [no-locks], python [program], offline, mapped [n]")
if (what !== "worker") process.exit()
