/** @file The Hub cache among several: many processes, processes that are killed, damage and repair. */
import { spawn } from "node:child_process"
import { appendFileSync, copyFileSync, existsSync, linkSync, lstatSync, mkdirSync, readdirSync, readFileSync, readlinkSync, renameSync, statSync, symlinkSync, truncateSync, utimesSync, writeFileSync } from "node:fs" // prettier-ignore
import { hostname } from "node:os"
import { join } from "node:path"
import { createHash } from "node:crypto"
import { afterAll, afterEach, beforeAll, describe, expect, it } from "vitest"
import { lockHolder, withLock } from "../src/files/lock-file.ts"
import { repoPlace } from "../src/hub/cache.ts"
import { cachedRepos, findDamage } from "../src/hub/damage.ts"
import { downloadModel } from "../src/hub/download.ts"
import { heal } from "../src/hub/heal.ts"
import { hubHttp } from "../src/hub/http.ts"
import { runTs } from "./helpers/child.ts"
import { twoAtATime } from "./helpers/cli.ts"
import { etagOf, fakeHub, gitSha1, repoOf, sha256, type FakeHub, type FakeRepo } from "./helpers/download-hub.ts"
import { FAULTS } from "./helpers/faults.ts"
import { layoutProblems } from "./helpers/python-cache.ts"
import { thrown } from "./helpers/thrown.ts"
import * as v from "./helpers/variants.ts"

const CASE = "hf-vit-grey-relu"
const COMMIT = "a".repeat(40)
const root = v.scratch()
let count = 0
const fresh = (): string => v.folderAt(root, `cache ${count++}`)

let hub: FakeHub
beforeAll(async () => void (hub = await fakeHub()))
afterAll(() => hub.close())
afterEach(() => {
  hub.fault = undefined
  hub.asked.length = 0
  hub.repos.clear()
})
const online = (cacheDir: string) => ({ endpoint: hub.url, token: false as const, cacheDir })
const serve = (folder = v.caseFolder(CASE), id = "owner/model"): FakeRepo => {
  const repo = repoOf(folder)
  hub.repos.set(id, repo)
  return repo
}
const repoIn = (cache: string, id = "owner/model"): string => join(cache, `models--${id.replace("/", "--")}`)

/** A process that downloads, told by its arguments what. */
const CHILD = `
import { downloadModel } from "../src/hub/download.ts"
const [endpoint, cacheDir, ...ids] = process.argv.slice(2)
await Promise.all(ids.map((id) => downloadModel(id, { endpoint, cacheDir, token: false })))
`
/** All locks are had at once, as on a file system whose locks do nothing. */
const NO_LOCKS = `
import fs from "node:fs/promises"
import { syncBuiltinESMExports } from "node:module"
const { link } = fs
fs.link = (from, to) => to.endsWith(".pid") ? Promise.resolve() : link(from, to)
syncBuiltinESMExports()
`

const namesIn = (cache: string): string[] => readdirSync(cache, { recursive: true, encoding: "utf8" }).sort()
const leftIn = (cache: string) => namesIn(cache).filter((n) => /\.tmp-|\.pid$|incomplete/.test(n))
function checkBlobs(cache: string): void {
  for (const repo of readdirSync(cache).filter((n) => n.startsWith("models--"))) {
    const blobs = join(cache, repo, "blobs")
    if (!existsSync(blobs)) continue
    for (const name of readdirSync(blobs).filter((n) => !n.startsWith("."))) {
      const bytes = readFileSync(join(blobs, name))
      expect(name.length === 64 ? sha256(bytes) : gitSha1(bytes)).toBe(name)
    }
  }
}

/** No file of a cache is damaged, left over, or other than Python's rules have it. */
async function checkWhole(cache: string): Promise<void> {
  checkBlobs(cache)
  const { damages } = await findDamage(repoPlace(cache, "owner/model"))
  expect([damages, layoutProblems(repoIn(cache)), leftIn(cache)]).toEqual([[], [], []])
}

describe("several processes", () => {
  it.each([
    ["with locks", undefined, 4],
    ["with locks that do nothing (stubbed)", NO_LOCKS, 16],
  ])("%s fill one cache together (HD-25, G11)", async (_, preload, most) => {
    const { files } = serve(v.caseFolder("hf-vit-sharded"))
    const large = [...files].filter(([name]) => name.endsWith(".safetensors"))
    for (let round = 0; round < 2; round++) {
      const cache = fresh()
      hub.asked.length = 0
      const ended = await Promise.all(Array.from({ length: 4 }, () => runTs(CHILD, { args: [hub.url, cache, "owner/model"], ...(preload && { preload }) })))
      expect(ended.map((e) => [e.code, e.stderr])).toEqual(Array.from({ length: 4 }, () => [0, ""]))
      checkBlobs(cache)
      expect(leftIn(cache)).toEqual([])
      expect(hub.asked.filter((a) => a.host === "store").length).toBeLessThanOrEqual(preload ? most * large.length : large.length)
    }
  }) // prettier-ignore

  it("of which one is killed while bytes come (HD-29, G9): the next goes on where it was", async () => {
    const size = 2_000_000
    const { files } = serve()
    files.set("model.safetensors", Buffer.alloc(size, 7))
    const cache = fresh()
    let reached: () => void
    const half = new Promise<void>((done) => (reached = done))
    let first = true
    hub.fault = ({ host }, response) => {
      if (host !== "store" || !first) return false
      first = false
      response.writeHead(200, { "content-length": String(size) })
      response.write(Buffer.alloc(size / 2, 7), () => setTimeout(reached, 300))
      return true
    }
    const run = runTs(CHILD, { args: [hub.url, cache, "owner/model"], preload: `import { writeFileSync } from "node:fs"; writeFileSync(${JSON.stringify(join(root, "pid"))}, String(process.pid))` }) // prettier-ignore
    await half
    process.kill(Number(readFileSync(join(root, "pid"), "utf8")), "SIGKILL")
    expect((await run).signal).toBe("SIGKILL")
    const left = leftIn(cache)
    expect(left.filter((n) => /blobs\/\.[0-9a-f]{64}\.tmp-\d+-/.test(n))).toHaveLength(1)
    const had = statSync(
      join(
        cache,
        left.find((n) => n.includes("blobs"))!,
      ),
    ).size
    expect(had).toBeGreaterThan(0)
    hub.asked.length = 0
    await downloadModel("owner/model", online(cache))
    expect(hub.asked.filter((a) => a.host === "store").map((a) => a.headers.range)).toEqual([`bytes=${had}-`])
    expect(hub.asked.find((a) => a.host === "store")!.sent).toBe(size - had)
    checkBlobs(cache)
    expect(leftIn(cache)).toEqual([])
  })

  const [PART, BLOB, LINK] = [/blobs\/\.\w{64}\.tmp-/, /blobs\/\w{64}$/, /snapshots\/\w+\/\.?model\.safetensors/]
  type Blob = "begun" | "whole" | "named"
  it.each<[string, string, RegExp, Blob, boolean]>([
    ["in the midst of a write of the weights", "write", PART, "begun", false],
    ["before the weights have their name", "rename", BLOB, "whole", false],
    ["when they have it, before the snapshot has a link", "symlink", LINK, "named", false],
    ["when the snapshot has a link, before it is called by its name", "rename", LINK, "named", false],
    ["when the snapshot is whole, before the branch is known to mean it", "rename", /refs\/main$/, "named", true],
  ])("of which one is killed %s (HD-29): the next fetches no byte twice, and nothing is left", async (_, call, where, blob, isLinked) => {
    const { files } = serve()
    const weights = files.get("model.safetensors")!
    const cache = fresh()
    const preload = `${FAULTS}\nObject.assign(faults, { only: ["${call}"], where: ${String(where)}, at: 1 })`
    expect((await runTs(CHILD, { args: [hub.url, cache, "owner/model"], preload })).signal).toBe("SIGKILL")
    const blobs = join(repoIn(cache), "blobs")
    const there = readdirSync(blobs).filter((name) => name.includes(sha256(weights)))
    expect(there).toEqual([blob === "named" ? sha256(weights) : expect.stringMatching(/^\.\w{64}\.tmp-/)])
    const had = statSync(join(blobs, there[0]!)).size
    expect([had > 0, had === weights.length]).toEqual([true, blob !== "begun"])
    const snapshot = join(repoIn(cache), "snapshots", COMMIT)
    expect(readdirSync(snapshot).includes("model.safetensors")).toBe(isLinked)
    expect(existsSync(join(repoIn(cache), "refs", "main"))).toBe(false)
    checkBlobs(cache)
    hub.asked.length = 0
    await downloadModel("owner/model", online(cache))
    const asked = hub.asked.filter((a) => a.host === "store")
    expect(asked.map((a) => a.headers.range)).toEqual(blob === "begun" ? [`bytes=${had}-`] : [])
    expect(readFileSync(join(snapshot, "model.safetensors")).equals(weights)).toBe(true)
    await checkWhole(cache)
  }) // prettier-ignore

  it("of which one is killed at every call that changes the cache (HD-29): the next ends well, and nothing is left", { timeout: 300_000 }, async () => {
    serve()
    const only = ["mkdir", "rename", "link", "unlink", "rm", "symlink", "copyFile", "writeFile", "truncate", "write", "sync"]
    const preload = `${FAULTS}\nfaults.only = ${JSON.stringify(only)}\nprocess.on("exit", () => console.log(faults.calls.join(" ")))`
    /** Killed at its `at`th call, or else the calls of one that ended. */
    const killed = async (at: number, cache: string): Promise<true | string[]> => {
      const ended = await runTs(CHILD, { args: [hub.url, cache, "owner/model"], preload, env: { FAULT_AT: String(at) } })
      if (ended.signal === "SIGKILL") return true
      expect([ended.code, ended.stderr]).toEqual([0, ""])
      return ended.stdout.trim().split(" ")
    }
    const clean = fresh()
    const calls = (await killed(0, clean)) as string[]
    for (const name of ["mkdir", "write", "sync", "rename", "symlink", "link", "rm"]) expect(calls).toContain(name)
    const ends = await twoAtATime(Array.from(calls, (__, i) => i + 1), async (at) => {
      const cache = fresh()
      const end = await killed(at, cache)
      // In how many pieces a body comes is the network's choice.
      if (end !== true) expect(end.length).toBeLessThan(at)
      checkBlobs(cache)
      await downloadModel("owner/model", online(cache))
      expect(namesIn(cache), `call ${at}, ${calls[at - 1]}`).toEqual(namesIn(clean))
      await checkWhole(cache)
      return end
    })
    expect(ends.filter((end) => end === true).length).toBeGreaterThan(calls.length - 5)
  }) // prettier-ignore
})

describe("a lock", () => {
  const TIMES = { beat: 20, stale: 200, poll: 5 }
  const machine = createHash("sha256").update(hostname()).digest("hex").slice(0, 6)
  const held = (pid: number, on = machine) => `${pid} ${on} ${Date.now()} ${"0".repeat(16)}\n`

  it("lets one in at a time, and is gone afterwards", async () => {
    const path = join(fresh(), ".locks", "x.pid")
    let [inside, most] = [0, 0]
    const work = async () => {
      most = Math.max(most, ++inside)
      await new Promise((done) => setTimeout(done, 3))
      inside--
    }
    await Promise.all(Array.from({ length: 8 }, () => withLock(path, work, TIMES)))
    expect([most, inside, existsSync(path)]).toEqual([1, 0, false])
    await thrown(withLock(path, () => downloadModel("../x"), TIMES))
    expect(existsSync(path)).toBe(false)
  })

  it("of a process that is no more is taken at once, of one that is silent after a while, of one that beats never", async () => {
    const path = join(fresh(), "x.pid")
    const dead = spawn(process.execPath, ["-e", ""])
    await new Promise((done) => dead.on("exit", done))
    const timed = async (text: string) => {
      writeFileSync(path, text)
      const began = performance.now()
      await withLock(path, async () => {}, TIMES)
      return performance.now() - began
    }
    // The least of three: a busy machine may take its time.
    const taken = [await timed(held(dead.pid!)), await timed(held(dead.pid!)), await timed(held(dead.pid!))]
    expect(Math.min(...taken)).toBeLessThan(150)
    expect(await timed(held(1, "ffffff"))).toBeGreaterThanOrEqual(190)
    expect(await timed("not ours")).toBeGreaterThanOrEqual(190)
    writeFileSync(path, held(1, "ffffff"))
    const beat = setInterval(() => utimesSync(path, new Date(), new Date()), 20)
    let had = false
    const waiting = withLock(path, async () => void (had = true), TIMES)
    await new Promise((done) => setTimeout(done, 450))
    expect(had).toBe(false)
    clearInterval(beat)
    v.remove(path)
    await waiting
    expect(had).toBe(true)
  })

  it("is not needed where none can be made", async () => {
    const file = join(fresh(), "file")
    writeFileSync(file, "")
    expect(await withLock(join(file, "x.pid"), async () => 5, TIMES)).toBe(5)
    expect(lockHolder("")).toBe(undefined)
    expect(lockHolder(held(process.pid))).toMatchObject({ pid: process.pid, dead: false })
  })
})

function relist(repo: string, change: (text: string) => string): void {
  const path = join(repo, "trees", `${COMMIT}.json`)
  const before = readFileSync(path, "utf8")
  writeFileSync(path, change(before))
  expect(readFileSync(path, "utf8")).not.toBe(before)
}

/** Each damages a whole cache in its own way. */
const DAMAGES: readonly (readonly [string, (at: { cache: string; repo: string; snapshot: string; blob: (name: string) => string }) => void])[] = [
  ["a flipped bit in weights", ({ blob }) => { const b = readFileSync(blob("model.safetensors")); b[999]! ^= 4; writeFileSync(blob("model.safetensors"), b) }],
  ["a flipped bit in a config", ({ blob }) => { const b = readFileSync(blob("config.json")); b[9]! ^= 1; writeFileSync(blob("config.json"), b) }],
  ["a truncated blob", ({ blob }) => truncateSync(blob("model.safetensors"), 1000)],
  ["an empty blob", ({ blob }) => truncateSync(blob("config.json"), 0)],
  ["bytes after a blob", ({ blob }) => appendFileSync(blob("model.safetensors"), "x")],
  ["a blob that is gone", ({ blob }) => v.remove(blob("model.safetensors"))],
  ["a folder in place of a blob", ({ blob }) => { v.remove(blob("config.json")); mkdirSync(blob("config.json")); writeFileSync(join(blob("config.json"), "x"), "") }],
  ["a blob that is a link to nothing", ({ blob }) => { v.remove(blob("config.json")); symlinkSync("nowhere", blob("config.json")) }],
  ["a file that leads outside (PA-09)", ({ snapshot }) => { v.remove(join(snapshot, "config.json")); symlinkSync("/etc/hostname", join(snapshot, "config.json")) }],
  ["a file that leads to another's blob", ({ snapshot, blob }) => { v.remove(join(snapshot, "config.json")); symlinkSync(join("../../blobs", blob("model.safetensors").split("/").at(-1)!), join(snapshot, "config.json")) }],
  ["a file that leads to itself", ({ snapshot }) => { v.remove(join(snapshot, "config.json")); symlinkSync("config.json", join(snapshot, "config.json")) }],
  ["a copy with other bytes", ({ snapshot }) => { v.remove(join(snapshot, "config.json")); writeFileSync(join(snapshot, "config.json"), "{}") }],
  ["a ref of no commit", ({ repo }) => writeFileSync(join(repo, "refs", "main"), "garbage")],
  ["a ref of a commit that is not there", ({ repo }) => writeFileSync(join(repo, "refs", "v2"), "c".repeat(40))],
  ["a list of files that is cut", ({ repo }) => truncateSync(join(repo, "trees", `${COMMIT}.json`), 30)],
  ["a list with another size", ({ repo }) => relist(repo, (text) => text.replace(/"lfs_size": \d+/, '"lfs_size": 5'))],
  ["a list with another hash", ({ repo }) => relist(repo, (text) => text.replace(/"lfs_sha256": "\w{64}/, `"lfs_sha256": "${"7".repeat(64)}`))],
  ["a partial download of a dead process", ({ repo }) => writeFileSync(join(repo, "blobs", `.${"d".repeat(64)}.tmp-999999999-x`), "part")],
  ["huggingface_hub's, a week old", ({ repo }) => { const p = join(repo, "blobs", `${"d".repeat(64)}.0123abcd.incomplete`); writeFileSync(p, "x"); utimesSync(p, 1, 1) }],
  ["a lock of a dead process", ({ cache }) => { const p = join(cache, ".locks", "models--owner--model", `${"d".repeat(64)}.pid`); writeFileSync(p, `999999999 ${createHash("sha256").update(hostname()).digest("hex").slice(0, 6)} 1 ${"0".repeat(16)}\n`) }],
  ["a half made link", ({ snapshot }) => symlinkSync("x", join(snapshot, ".config.json.tmp-999999999-x"))],
  ["a link in place of a snapshot", ({ snapshot, repo }) => { renameSync(snapshot, join(repo, "moved")); symlinkSync("../moved", snapshot) }],
] // prettier-ignore

describe("damage (HD-30, G37)", () => {
  /** Everything below a folder: what it is, its bytes, and when it was changed. */
  const listing = (folder: string): Map<string, string> =>
    new Map(
      readdirSync(folder, { recursive: true, encoding: "utf8" }).map((name) => {
        const at = join(folder, name)
        const s = lstatSync(at, { bigint: true })
        if (s.isSymbolicLink()) return [name, `link ${readlinkSync(at)}`]
        return [name, s.isFile() ? `${s.ino} ${s.mtimeNs} ${sha256(readFileSync(at))}` : "folder"]
      }),
    )

  it.each(DAMAGES)("%s is found and repaired, and no good file is touched", async (name, damage) => {
    const { files } = serve()
    serve(v.caseFolder("hf-vit-sharded"), "owner/other")
    const cache = fresh()
    const { folder: snapshot } = await downloadModel("owner/model", online(cache))
    await downloadModel("owner/other", online(cache))
    const before = listing(cache)
    const place = repoPlace(cache, "owner/model")
    const repo = repoIn(cache)
    const blob = (file: string) => join(repo, "blobs", etagOf(file, files.get(file)!))
    mkdirSync(join(cache, ".locks", "models--owner--model"), { recursive: true })
    damage({ cache, repo, snapshot, blob })
    if (name.startsWith("a link in place")) v.remove(join(repo, "trees"))
    const damaged = listing(cache)

    const { damages } = await findDamage(place)
    expect(damages.length).toBeGreaterThan(0)
    expect(listing(cache)).toEqual(damaged)
    const offline = await heal(place, hubHttp({ endpoint: hub.url, offline: true }), damages)
    for (const { error } of offline) if (error) expect(error.code).toBe("E_OFFLINE")
    const healed = await heal(place, hubHttp({ endpoint: hub.url }), (await findDamage(place)).damages)
    expect(healed.filter((h) => h.error)).toEqual([])
    expect((await findDamage(place)).damages).toEqual([])

    const model = await downloadModel("owner/model", online(cache))
    for (const [file, bytes] of files) expect(readFileSync(join(model.folder, file)).equals(bytes), file).toBe(true)
    const after = listing(cache)
    const bad = new Set([...damages.map((d) => d.path), ...(name.includes("link in place") ? [join(repo, "moved"), join(repo, "trees")] : [])])
    for (const [path, state] of before) {
      const touched = [...bad].some((b) => join(cache, path).startsWith(b))
      // The damage itself, its target, and the list that is written anew may differ.
      if (state !== "folder" && damaged.get(path) === state && !touched) expect(after.get(path), path).toBe(state)
    }
  }) // prettier-ignore

  it("that is none is not found: what living processes, Python and copies leave", async () => {
    const { files } = serve()
    const cache = fresh()
    await downloadModel("owner/model", online(cache))
    const repo = repoIn(cache)
    writeFileSync(join(repo, "blobs", `${"d".repeat(64)}.0123abcd.incomplete`), "new")
    writeFileSync(join(cache, ".locks", "models--owner--model", `${"d".repeat(64)}.lock`), "")
    writeFileSync(join(cache, ".locks", "models--owner--model", `${"e".repeat(64)}.pid`), `${process.pid} ${createHash("sha256").update(hostname()).digest("hex").slice(0, 6)} ${Date.now()} ${"0".repeat(16)}\n`)
    writeFileSync(join(repo, "refs", "other"), "e".repeat(40))
    mkdirSync(join(repo, ".no_exist", "e".repeat(40)))
    const config = join(repo, "snapshots", COMMIT, "config.json")
    v.remove(config)
    linkSync(join(repo, "blobs", etagOf("config.json", files.get("config.json")!)), config)
    mkdirSync(join(cache, "datasets--owner--data", "blobs"), { recursive: true })
    writeFileSync(join(cache, "datasets--owner--data", "blobs", "d".repeat(64)), "another kind of repo")
    copyFileSync(join(repo, "refs", "main"), join(cache, "version.txt"))
    expect(await cachedRepos(cache)).toHaveLength(1)
    expect((await findDamage(repoPlace(cache, "owner/model"))).damages).toEqual([])
  }) // prettier-ignore
})
