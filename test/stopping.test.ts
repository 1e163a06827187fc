/** @file What SIGINT and SIGTERM stop: waiting for a lock, a download, the pause before a commit is tried again. */
import { mkdirSync, readdirSync, readFileSync, utimesSync, writeFileSync } from "node:fs"
import { hostname } from "node:os"
import { createHash } from "node:crypto"
import { join, resolve } from "node:path"
import { afterAll, afterEach, beforeAll, describe, expect, it } from "vitest"
import { repoPlace } from "../src/hub/cache.ts"
import { downloadModel } from "../src/hub/download.ts"
import { withLock } from "../src/files/lock-file.ts"
import { cli, type Ran } from "./helpers/cli.ts"
import { sha256, startHub, type TestHub } from "./helpers/hub/index.ts"
import { thrown } from "./helpers/thrown.ts"
import { folderAt, scratch } from "./helpers/variants.ts"

const MODEL = resolve(import.meta.dirname, "fixtures/reference/hf-vit-names-v5")
const ID = "owner/model"
const root = scratch()
let count = 0
const fresh = (): string => folderAt(root, String(count++))

let hub: TestHub
beforeAll(async () => {
  hub = await startHub({ root: fresh() })
  const names = readdirSync(MODEL).filter((n) => n !== "expected.safetensors")
  hub.addRepo(ID, Object.fromEntries(names.map((n) => [n, readFileSync(join(MODEL, n))])))
})
afterAll(() => hub.close())
afterEach(() => hub.reset())

/** A lock of a process that lives: this one, which keeps it fresh until what is given back is called. */
function hold(path: string): () => void {
  mkdirSync(resolve(path, ".."), { recursive: true })
  const machine = createHash("sha256").update(hostname()).digest("hex").slice(0, 6)
  writeFileSync(path, `${process.pid} ${machine} ${Date.now()} ${"0".repeat(16)}\n`)
  const beat = setInterval(() => utimesSync(path, new Date(), new Date()), 500)
  return () => clearInterval(beat)
}

const asked = async (rule: RegExp): Promise<void> => {
  while (!hub.requests.some(({ host, method, path }) => rule.test(`${host} ${method} ${path}`)))
    await new Promise((done) => setTimeout(done, 20))
}

/** The command, signalled once this has happened; and the milliseconds that it took to end. */
async function signalled(args: readonly string[], home: string, signal: NodeJS.Signals, when: () => Promise<unknown>) {
  let at = 0
  const env = { HF_ENDPOINT: hub.url, HF_HUB_CACHE: join(home, "hub"), HF_TOKEN: "hf_write", HF_HUB_OFFLINE: "" }
  const ran: Ran = await cli(args, {
    env,
    started: (child) =>
      void when().then(() => {
        at = performance.now()
        child.kill(signal)
      }),
  })
  return { ...ran, ms: performance.now() - at }
}

describe.each([
  ["SIGINT", 130],
  ["SIGTERM", 143],
] as const)("%s", (signal, exit) => {
  it(`ends a download with ${exit}, what was stopped and no lock left; the same command goes on`, async () => {
    const home = fresh()
    hub.fault({ on: /^cdn GET/, times: 9, do: { stall: 1000 } })
    const { code, stderr, stdout, ms } = await signalled(["info", ID, "--json"], home, signal, () => asked(/^cdn GET/))
    expect([code, stdout]).toEqual([exit, ""])
    expect(JSON.parse(stderr)).toMatchObject({
      code: "E_INTERRUPTED",
      message: expect.stringContaining(`stopped by ${signal}`),
    })
    expect(ms).toBeLessThan(5000)
    expect(readdirSync(home, { recursive: true, encoding: "utf8" }).filter((n) => n.endsWith(".pid"))).toEqual([])
    hub.reset()
    expect(
      (await cli(["info", ID], { env: { HF_ENDPOINT: hub.url, HF_HUB_CACHE: join(home, "hub"), HF_HUB_OFFLINE: "" } }))
        .code,
    ).toBe(0)
  })

  it("ends the wait for a file that another process downloads", async () => {
    const home = fresh()
    const etag = sha256(readFileSync(join(MODEL, "model.safetensors")))
    const release = hold(repoPlace(join(home, "hub"), ID).lock(etag))
    const { code, ms } = await signalled(["info", ID], home, signal, async () => {
      await asked(/GET .*config\.json/)
      await new Promise((done) => setTimeout(done, 1000))
    })
    release()
    expect(code).toBe(exit)
    expect(ms).toBeLessThan(5000)
  })

  it("ends the wait for an output that another process makes, in a batch", async () => {
    const home = fresh()
    const out = join(home, "out")
    const release = hold(join(out, ".batch", "hf-vit-names-v5.lock"))
    writeFileSync(join(home, "list.txt"), MODEL)
    const list = ["convert", "--from", join(home, "list.txt"), "--out", out, "--jobs", "1", "--grace", "1"]
    const { code, ms } = await signalled(list, home, signal, () => new Promise((done) => setTimeout(done, 4000)))
    release()
    expect(code).toBe(exit)
    expect(ms).toBeLessThan(10_000)
  })

  it("ends the pause before a commit is tried again, and says how to go on", async () => {
    const [home, folder] = [fresh(), fresh()]
    writeFileSync(join(folder, "a.txt"), "x\n")
    hub.fault({
      on: /^POST .*\/commit\//,
      times: 99,
      do: { status: 409, body: '{"error":"another commit is in progress"}' },
    })
    const { code, stderr, ms } = await signalled(
      ["push", folder, `owner/${signal.toLowerCase()}`],
      home,
      signal,
      async () => {
        await asked(/POST .*\/commit\//)
        await new Promise((done) => setTimeout(done, 2000))
      },
    )
    expect([code, stderr]).toEqual([
      exit,
      expect.stringMatching(new RegExp(`${signal}.*the same command goes on \\[E_INTERRUPTED\\]\\n$`)),
    ])
    expect(ms).toBeLessThan(5000)
  })
})

it("a lock is waited for no longer once the signal is there", async () => {
  const path = join(fresh(), "x.pid")
  const release = hold(path)
  const stop = new AbortController()
  setTimeout(() => stop.abort(), 100)
  const began = performance.now()
  const error = await thrown(withLock(path, () => downloadModel("../x"), { signal: stop.signal }))
  release()
  expect(error.code).toBe("E_INTERRUPTED")
  expect(performance.now() - began).toBeLessThan(5000)
})
