/** @file What goes wrong while a folder goes up: each time it is tried again or refused in words, and committed once. */
import { spawn } from "node:child_process"
import { randomBytes } from "node:crypto"
import { appendFileSync, readFileSync, rmSync, writeFileSync } from "node:fs"
import { join } from "node:path"
import { afterAll, afterEach, beforeAll, describe, expect, it } from "vitest"
import type { Clock } from "../src/hub/clock.ts"
import { hubHttp } from "../src/hub/http.ts"
import { pushFolder, type PushOptions } from "../src/index.ts"
import { MAIN } from "./helpers/cli.ts"
import { fakeClock } from "./helpers/fake-clock.ts"
import { sha256, startHub, type Effect, type TestHub } from "./helpers/hub/index.ts"
import { thrown } from "./helpers/thrown.ts"
import * as v from "./helpers/variants.ts"

const ID = "owner/faulty"
const TOKEN = "hf_write"
const PART = 100_000
const root = v.scratch()
let count = 0

let hub: TestHub
beforeAll(async () => {
  hub = await startHub({ root: v.folderAt(root, "hub"), multipart: { above: PART, part: PART } })
})
afterAll(() => hub.close())
afterEach(() => {
  hub.reset()
  for (const id of hub.store.ids()) hub.store.removeRepo(id)
})

/** Small, large, and larger than a part; new bytes each time, as the store keeps what it has seen. */
function folder(large = 250_000): string {
  const path = v.folderAt(root, `folder ${count++}`)
  writeFileSync(join(path, "notes.txt"), "a text\n")
  writeFileSync(join(path, "small.safetensors"), Buffer.concat([Buffer.alloc(8), randomBytes(2000)]))
  writeFileSync(join(path, "large.safetensors"), Buffer.concat([Buffer.alloc(8), randomBytes(large)]))
  return path
}

/** Waits cost nothing; a request that stands still is noticed after half a second. */
const quick = (): Clock & { readonly slept: number[] } => ({
  ...fakeClock(),
  after(_, call) {
    const timer = setTimeout(call, 500)
    return () => clearTimeout(timer)
  },
})
/** Push without real waits. */
function push(path: string, { clock, ...options }: PushOptions & { clock?: Clock } = {}) {
  const http = hubHttp({ endpoint: hub.url, token: TOKEN, clock: clock ?? fakeClock() })
  return pushFolder(path, ID, { endpoint: hub.url, token: TOKEN, http, ...options })
}
/** Our commits, without that of the repo's making. */
const commits = () => hub.commits(ID).length - 1
const names = () => [...hub.files(ID).keys()].sort()
const ALL = [".gitattributes", "large.safetensors", "notes.txt", "small.safetensors"]
const puts = () => hub.requests.filter(({ method, status }) => method === "PUT" && status === 200).length

const CALLS = {
  account: /^GET \/api\/whoami/,
  create: /^POST \/api\/repos\/create/,
  refs: /^GET .*\/refs/,
  tree: /^GET .*\/tree\//,
  preupload: /^POST .*\/preupload\//,
  batch: /^POST .*\/objects\/batch/,
  whole: /^cdn PUT \/upload\/[^?]*\?(?!.*partNumber)/,
  part: /^cdn PUT .*partNumber=2/,
  complete: /^cdn POST \/complete/,
  commit: /^POST .*\/commit\//,
} as const
const CALL_NAMES = Object.keys(CALLS) as (keyof typeof CALLS)[]

describe("a passing fault (G7)", () => {
  const FAULTS: Readonly<Record<string, Effect>> = {
    ...Object.fromEntries([408, 429, 500, 502, 503, 504].map((status) => [status, { status }])),
    reset: { reset: true },
    "a cut body": { cut: 1 },
  }
  it.each(CALL_NAMES)("of %s, up to four times, costs time only", async (call) => {
    for (const [name, effect] of Object.entries(FAULTS)) {
      // What a store answers to an upload is not read.
      hub.fault({ on: CALLS[call], times: 4, do: effect })
      await push(folder())
      expect([name, commits(), names()]).toEqual([name, 1, ALL])
      hub.reset()
      hub.store.removeRepo(ID)
    }
  })

  it("such as silence is noticed and tried again", async () => {
    for (const call of CALL_NAMES) {
      hub.fault({ on: CALLS[call], do: { stall: "head" } })
      await push(folder(), { clock: quick() })
      expect([call, commits(), names()]).toEqual([call, 1, ALL])
      hub.reset()
      hub.store.removeRepo(ID)
    }
  }, 30_000)

  it("that is none is not tried again: 400, 401, 403, 404", async () => {
    for (const call of CALL_NAMES.filter((name) => name !== "whole" && name !== "part" && name !== "complete")) {
      for (const status of [400, 401, 403, 404]) {
        hub.fault({ on: CALLS[call], times: 9, do: { status } })
        const error = await thrown(push(folder()))
        expect([call, status, error.code]).toEqual([call, status, expect.stringMatching(/^E_HUB_(AUTH|PROTOCOL|NOT_FOUND)$/)]) // prettier-ignore
        expect(hub.requests.filter((r) => r.status === status && CALLS[call].test(`${r.method} ${r.path}`))).toHaveLength(1) // prettier-ignore
        if (hub.store.ids().length) expect(commits()).toBe(0)
        hub.reset()
        for (const id of hub.store.ids()) hub.store.removeRepo(id)
      }
    }
  })
})

describe("one commit (G28)", () => {
  const LANDED: readonly (readonly [string, Effect])[] = [
    ["500, but landed", { status: 500, landed: true }],
    ["broken off, but landed", { reset: true, landed: true }],
    ["landed, its answer cut", { cut: 5 }],
  ]
  it.each(LANDED)("where the answer is %s", async (_, effect) => {
    hub.fault({ on: CALLS.commit, do: effect })
    const { commit, committed } = await push(folder())
    expect([commits(), committed, commit]).toEqual([1, true, hub.commits(ID)[0]!.id])
  })

  it("where another commit is in progress, twice (HU-01) and three times", async () => {
    const busy = { status: 409, body: JSON.stringify({ error: "Another commit operation is in progress" }) }
    for (const times of [2, 3]) {
      const clock = fakeClock()
      hub.fault({ on: CALLS.commit, times, do: busy })
      await push(folder(), { clock })
      expect([commits(), clock.slept.length]).toEqual([1, times])
      hub.store.removeRepo(ID)
    }
    const clock = fakeClock()
    hub.fault({ on: CALLS.commit, do: { ...busy, headers: { "retry-after": "30" } } })
    await push(folder(), { clock })
    expect(clock.slept).toEqual([30_000])
    hub.store.removeRepo(ID)
    for (const more of [{}, { headers: { "retry-after": "3000" } }]) {
      hub.reset()
      hub.fault({ on: CALLS.commit, times: 99, do: { ...busy, ...more } })
      const waits = fakeClock()
      expect((await thrown(push(folder(), { clock: waits }))).code).toBe("E_HUB_CONFLICT")
      expect(waits.slept).toHaveLength("headers" in more ? 0 : 5)
    }
    hub.reset()
    hub.fault({ on: CALLS.commit, times: 99, do: busy })
    expect((await thrown(push(folder()))).code).toBe("E_HUB_CONFLICT")
    expect(commits()).toBe(0)
  })

  it("on another's commit of other files (HU-02); of the same files it is refused", async () => {
    const during = (files: Record<string, string>) => {
      let once = false
      return () => {
        if (!once) hub.addRepo(ID, files, { title: "another's" })
        once = true
      }
    }
    await push(folder(), { onProgress: during({ "other.txt": "x" }) })
    expect(names()).toEqual([...ALL, "other.txt"].sort())
    expect(hub.commits(ID).map(({ title }) => title).slice(0, 2)).toEqual([expect.stringMatching(/^Upload/), "another's"]) // prettier-ignore
    hub.store.removeRepo(ID)
    const error = await thrown(push(folder(), { onProgress: during({ "notes.txt": "theirs" }) }))
    expect([error.code, error.message]).toEqual(["E_HUB_CONFLICT", expect.stringContaining("notes.txt")])
    expect(hub.files(ID).get("notes.txt")!.toString()).toBe("theirs")
  })

  it("after 128 an hour (HU-04): E_HUB_RATE_LIMIT at once; what is sent stays sent", async () => {
    const path = folder()
    const body = JSON.stringify({ error: "You have exceeded the rate limit for repository commits (128 per hour)" })
    hub.fault({ on: CALLS.commit, times: 9, do: { status: 429, body, headers: { "retry-after": "3000" } } })
    const error = await thrown(push(path))
    expect([error.code, error.message]).toEqual(["E_HUB_RATE_LIMIT", expect.stringMatching(/128 per hour/)])
    hub.reset()
    await push(path)
    expect([commits(), puts()]).toEqual([1, 0])
  })

  /** The command as a process, until a request is seen. */
  async function killed(path: string, signal: NodeJS.Signals, seen: RegExp) {
    const env = { ...process.env, NODE_OPTIONS: "", HF_ENDPOINT: hub.url, HF_TOKEN: TOKEN, HF_HUB_OFFLINE: "" }
    const child = spawn(process.execPath, [MAIN, "push", path, ID], { env, stdio: ["ignore", "ignore", "pipe"] }) // prettier-ignore
    let stderr = ""
    child.stderr.setEncoding("utf8").on("data", (text: string) => (stderr += text))
    const ended = new Promise<number | null>((done) => child.on("close", (code) => done(code)))
    while (!hub.requests.some((r) => seen.test(`${r.host === "cdn" ? "cdn " : ""}${r.method} ${r.path}${r.query}`)))
      await new Promise((done) => setTimeout(done, 10))
    // What the server does with it is done.
    await new Promise((done) => setTimeout(done, 200))
    const began = Date.now()
    child.kill(signal)
    return { code: await ended, stderr, ms: Date.now() - began }
  }

  it("where the process is killed before it (HU-05), or after it: the next sends nothing again", async () => {
    for (const [call, before] of [
      ["complete", 0],
      ["commit", 1],
    ] as const) {
      const path = folder()
      hub.fault({ on: CALLS[call], do: { stall: "head" } })
      await killed(path, "SIGKILL", CALLS[call])
      expect([call, commits()]).toEqual([call, before])
      hub.reset()
      await push(path)
      expect([call, commits(), names(), puts()]).toEqual([call, 1, ALL, 0])
      hub.reset()
      hub.store.removeRepo(ID)
    }
  })

  it("after Ctrl-C during an upload (HU-15): ended within 5 s, 130, and how to go on is said", async () => {
    const path = folder()
    hub.fault({ on: CALLS.whole, times: 9, do: { stall: "head" } })
    const { code, stderr, ms } = await killed(path, "SIGINT", CALLS.whole)
    expect([code, stderr]).toEqual([130, expect.stringMatching(/SIGINT.*the same command goes on.*\n$/)])
    expect(ms).toBeLessThan(5000)
    hub.reset()
    await push(path)
    expect(commits()).toBe(1)
  })
})

describe("uploads", () => {
  it("in parts send a failed part again, alone (HU-12)", async () => {
    hub.fault({ on: CALLS.part, times: 2, do: { status: 500 } })
    await push(folder())
    const parts = hub.requests.filter(({ method, query }) => method === "PUT" && /partNumber/.test(query))
    expect(parts.map(({ query }) => /partNumber=(\d)/.exec(query)![1])).toEqual(["1", "2", "2", "2", "3"])
  })

  it("ask for a new address where theirs is too old (HU-12)", async () => {
    for (const call of ["whole", "part"] as const) {
      hub.requests.length = 0
      hub.fault({ on: CALLS[call], do: { expire: true } })
      await push(folder())
      expect(commits()).toBe(1)
      expect(hub.requests.filter(({ path }) => /objects\/batch/.test(path))).toHaveLength(2)
      hub.store.removeRepo(ID)
    }
    const body =
      "<?xml version='1.0'?><Error><Code>ExpiredToken</Code><Message>The token has expired.</Message></Error>"
    hub.fault({ on: CALLS.part, do: { status: 400, body } })
    await push(folder())
    expect(commits()).toBe(1)
    hub.store.removeRepo(ID)
    hub.fault({ on: CALLS.whole, times: 99, do: { expire: true } })
    const error = await thrown(push(folder()))
    expect([error.code, error.message]).toEqual(["E_HUB_AUTH", expect.stringMatching(/^[^ ]*: the store .* too old/)])
  })

  it("send the same bytes once, whatever they are called, and none that the store has", async () => {
    const path = folder(50_000)
    writeFileSync(join(path, "again.safetensors"), "")
    rmSync(join(path, "small.safetensors"))
    await push(path)
    expect(puts()).toBe(2)
    expect(hub.files(ID).get("again.safetensors")!.length).toBe(0)
  })

  it("do not send the token to the store", async () => {
    await push(folder())
    for (const { host, headers } of hub.requests)
      if (host === "cdn") expect(JSON.stringify(headers)).not.toContain(TOKEN)
  })

  it("of a file that is changed meanwhile end without a commit", async () => {
    const path = folder()
    const onProgress = () => appendFileSync(join(path, "large.safetensors"), "more")
    expect((await thrown(push(path, { onProgress }))).code).toBe("E_CHANGED_DURING_READ")
    expect(commits()).toBe(0)
  })

  it("to a name that a dataset has (HU-07) are refused before a byte is sent", async () => {
    hub.addRepo(ID, {}, { type: "dataset" })
    const error = await thrown(push(folder()))
    expect([error.code, error.message]).toEqual([
      "E_HUB_CONFLICT",
      expect.stringMatching(/taken by a dataset or space/),
    ])
    expect(puts()).toBe(0)
  })

  it("go to no address that a redirect might not lead to, nor is what a store says of the token passed on", async () => {
    const answers: readonly (readonly [object, RegExp])[] = [
      [{ actions: { upload: { href: "http://169.254.169.254/x" } } }, /169\.254\.169\.254/],
      [{ actions: { upload: { href: "file:///etc/passwd" } } }, /not https/],
      [{ actions: { upload: {} } }, /no address/],
      [{ error: { code: 507, message: `no room for ${TOKEN}` } }, /no room for \*\*\*/],
      [{ error: { code: 507 } }, /refuses "large\.safetensors": without a reason/],
    ]
    for (const [what, rule] of answers) {
      const path = folder()
      const oid = sha256(readFileSync(join(path, "large.safetensors")))
      hub.fault({ on: CALLS.batch, do: { status: 200, body: JSON.stringify({ objects: [{ oid, ...what }] }) } })
      const error = await thrown(push(path))
      expect([error.code, error.message]).toEqual(["E_HUB_PROTOCOL", expect.stringMatching(rule)])
      expect(hub.requests.some(({ host }) => host === "cdn")).toBe(false)
      hub.reset()
    }
  })

  it("of answers that are no Hub's end as E_HUB_PROTOCOL", async () => {
    const answers: readonly (readonly [keyof typeof CALLS, Effect])[] = [
      ["account", { html: true }],
      ["refs", { html: true }],
      ["preupload", { html: true }],
      ["batch", { html: true }],
      ["refs", { bigJson: 100 }],
      ["preupload", { bigJson: 100 }],
      ["batch", { bigJson: 100 }],
      ["commit", { status: 200, body: '{"success":true,"commitOid":"../x"}' }],
    ]
    for (const [call, effect] of answers) {
      hub.fault({ on: CALLS[call], times: 99, do: effect })
      const error = await thrown(push(folder()))
      expect([call, error.code]).toEqual([call, "E_HUB_PROTOCOL"])
      hub.reset()
    }
  })
})
