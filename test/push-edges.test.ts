/** @file Uploads at their edges: runs of other layouts or not ended, interruptions before the first byte, what stands in a card's place. */
import { createHash, type Hash } from "node:crypto"
import {
  cpSync,
  mkdirSync,
  readdirSync,
  readFileSync,
  readlinkSync,
  rmSync,
  symlinkSync,
  truncateSync,
  writeFileSync,
} from "node:fs"
import { join } from "node:path"
import { afterAll, afterEach, beforeAll, describe, expect, it, vi } from "vitest"
import type { PrismaError } from "../src/errors.ts"
import { hubHttp } from "../src/hub/http.ts"
import { listCheckpoints, loadPretrained, pushFolder, type PushOptions } from "../src/index.ts"
import { cli } from "./helpers/cli.ts"
import { startHub, type TestHub } from "./helpers/hub/index.ts"
import { thrown } from "./helpers/thrown.ts"
import * as v from "./helpers/variants.ts"

const MOUSE = join(import.meta.dirname, "../model-cards/mnist")
const ID = "owner/mouse"
const root = v.scratch()
let count = 0
const fresh = (): string => v.folderAt(root, `folder ${count++}`)

let hub: TestHub
beforeAll(async () => void (hub = await startHub({ root: fresh() })))
afterAll(() => hub.close())
afterEach(() => {
  hub.reset()
  for (const id of hub.store.ids()) hub.store.removeRepo(id)
})

const push = (folder: string, options: PushOptions = {}) =>
  pushFolder(folder, ID, { endpoint: hub.url, token: "hf_write", ...options })
const from = () => ({ endpoint: hub.url, token: "hf_read", cacheDir: fresh() })
function mouse(): string {
  const folder = fresh()
  cpSync(MOUSE, folder, { recursive: true })
  return folder
}
const STATE = ["optimizer.safetensors", "state.json", "manifest.json"]
/** A run whose checkpoints of steps 100 and 200 lie in `under`. */
function run(under = "checkpoints"): string {
  const folder = mouse()
  for (const step of [100, 200]) {
    const at = join(folder, under, `step-${String(step).padStart(8, "0")}`)
    cpSync(MOUSE, at, { recursive: true })
    rmSync(join(at, "README.md"))
    for (const name of STATE) writeFileSync(join(at, name), "{}")
  }
  return folder
}

describe("a run", () => {
  it.each(["checkpoints", "ckpts", "checkpoints/run-7"])(
    "with checkpoints in %s keeps its states at home",
    async (at) => {
      const { skipped } = await push(run(at), { checkpoints: "folders" })
      const there = [...hub.files(ID).keys()]
      expect(there).toContain(`${at}/step-00000200/model.safetensors`)
      expect(there.filter((path) => STATE.some((name) => path.endsWith(name)))).toEqual([])
      expect(skipped).toHaveLength(6)
    },
  )

  it("that has not ended is read by a path that could be a repo's name", async () => {
    const folder = run()
    for (const name of readdirSync(folder)) if (name !== "checkpoints") rmSync(join(folder, name))
    rmSync(join(folder, "checkpoints/step-00000100/manifest.json"))
    const here = process.cwd()
    const runs = fresh()
    cpSync(folder, join(runs, "runs/mouse"), { recursive: true })
    process.chdir(runs)
    try {
      const model = await loadPretrained("runs/mouse", { checkpoint: 100, offline: true })
      expect(await model.checkpoints()).toEqual([100, 200])
      await model.release()
    } finally {
      process.chdir(here)
    }
  })

  it("in a folder of the repo is listed and loaded by that folder", async () => {
    await push(run(), { checkpoints: "folders", path: "sub" })
    const options = { ...from(), subfolder: "sub" }
    expect([...(await listCheckpoints(ID, options)).keys()]).toEqual([100, 200])
    expect([...(await listCheckpoints(ID, from())).keys()]).toEqual([])
    for (const offline of [false, true]) {
      const model = await loadPretrained(ID, { ...options, offline, checkpoint: 200 })
      expect(model.source.folder).toMatch(/sub.checkpoints.step-00000200$/)
      expect(await model.checkpoints()).toEqual([100, 200])
      await model.release()
    }
  })

  it("in the cache, in a folder of the repo, is not read through a link out of it", async () => {
    await push(run(), { checkpoints: "folders" })
    const options = { ...from(), checkpoint: 200 }
    const { source, release } = await loadPretrained(ID, options).then((m) => ({ source: m.source, release: () => m.release() })) // prettier-ignore
    await release()
    for (const name of ["config.json", "model.safetensors"]) {
      const link = join(source.folder, name)
      const to = readlinkSync(link)
      rmSync(link)
      symlinkSync(join(MOUSE, name), link)
      expect((await thrown(loadPretrained(ID, { ...options, offline: true }))).code, name).toBe("E_CACHE_CORRUPT")
      rmSync(link)
      symlinkSync(to, link)
    }
    await (await loadPretrained(ID, { ...options, offline: true })).release()
  })

  it("is not put on the branch of its own revisions", async () => {
    expect((await thrown(push(run(), { branch: "checkpoints" }))).code).toBe("E_USAGE")
    expect(hub.store.ids()).toEqual([])
    expect((await push(run(), { branch: "checkpoints", checkpoints: "folders" })).committed).toBe(true)
  })

  it("with half a checkpoint says that this stays here", async () => {
    const folder = run()
    rmSync(join(folder, "checkpoints/step-00000200/config.json"))
    const { checkpoints, skipped } = await push(folder, { dryRun: true })
    expect(checkpoints.map(({ step }) => step)).toEqual([100])
    expect(skipped).toContainEqual({
      path: "checkpoints/step-00000200/model.safetensors",
      why: "is of a checkpoint without a config",
    })
  })
})

it("what the repo's .gitignore names is told as what stays here", async () => {
  hub.addRepo(ID, { ".gitignore": "*.svg\n" })
  const { skipped, unchanged } = await push(mouse(), { dryRun: true })
  expect(skipped).toEqual([{ path: "curves.svg", why: "is named by the repo's .gitignore" }])
  expect(unchanged).toBe(0)
})

it("the .gitignore that comes with a push counts for it", async () => {
  const folder = mouse()
  writeFileSync(join(folder, ".gitignore"), "*.svg\n")
  expect((await push(folder)).skipped).toContainEqual({ path: "curves.svg", why: "is named by the repo's .gitignore" })
  expect([...hub.files(ID).keys()]).not.toContain("curves.svg")
  expect((await push(folder)).committed).toBe(false)
})

it.each<[string, PushOptions, string, RegExp]>([
  ["a path into .git (HU-10)", { path: ".git/x" }, "E_UNSAFE_PATH", /lies in \.git/],
  ["a path that leads out (HU-10)", { path: "../x" }, "E_UNSAFE_PATH", /\.\.\/x/],
  ["a token as the message", { message: "by hf_0123456789abcdefXY" }, "E_SECRET_FOUND", /the message holds a Hugging/],
  ["a token as the branch", { branch: "hf_0123456789abcdefXY" }, "E_SECRET_FOUND", /the branch holds a Hugging/],
  [
    "the own token as the path",
    { path: "t/s3cret-Token", token: "s3cret-Token" },
    "E_SECRET_FOUND",
    /the path holds your/,
  ],
])("%s is refused before anything is asked, and no repo is made", async (_, options, code, what) => {
  const error = await thrown(push(mouse(), options))
  expect([error.code, error.message]).toEqual([code, expect.stringMatching(what)])
  expect(hub.requests).toEqual([])
})

it("a folder that is no text, and a name that is not UTF-8, are refused in words", async () => {
  expect((await thrown(push(5 as never))).code).toBe("E_INPUT")
  const folder = mouse()
  try {
    writeFileSync(Buffer.concat([Buffer.from(`${folder}/a`), Buffer.from([0xff, 0x62])]), "x")
  } catch {
    return // a file system that has only names in UTF-8
  }
  const error = await thrown(push(folder))
  expect([error.code, error.message]).toEqual(["E_UNSAFE_PATH", expect.stringMatching(/is not UTF-8; rename/)])
})

describe("a token in a folder (I5)", () => {
  const token = "canary/Token+9876-xyz"
  const base64 = (text: string) => Buffer.from(text).toString("base64")
  const utf16 = Buffer.from(`\ufefftoken: ${token}`, "utf16le")
  it.each<[string, Record<string, string | Uint8Array>]>([
    ["in base64", { "a.txt": base64(token) }],
    ["in base64 of a longer text", { "a.txt": base64(`user:${token}@`) }],
    ["in lines of base64", { "a.txt": base64(`${"x".repeat(40)}${token}`).replace(/.{64}/g, "$&\n") }],
    ["escaped for a URL", { "a.txt": `?t=${encodeURIComponent(token)}` }],
    ["in UTF-16", { "a.txt": utf16 }],
    ["in UTF-16 of the other order", { "a.txt": Buffer.from(utf16).swap16() }],
    ["over the border of what is read at once", { "a.txt": `${"x ".repeat(2 ** 19 - 5)}${token}` }],
    ["in a file's name", { [encodeURIComponent(token)]: "x" }],
  ])("%s is found, and nothing is sent", async (_, files) => {
    const [folder, own] = [mouse(), await startHub({ tokens: { [token]: { name: "owner", role: "write" } } })]
    for (const [name, text] of Object.entries(files)) writeFileSync(join(folder, name), text)
    try {
      const error = await thrown(pushFolder(folder, ID, { endpoint: own.url, token }))
      expect([error.code, error.message]).toEqual(["E_SECRET_FOUND", expect.stringMatching(/ holds your token/)])
      expect(error.message).not.toContain(encodeURIComponent(token))
      expect(own.requests.filter(({ method }) => method !== "GET")).toEqual([])
    } finally {
      await own.close()
    }
  })
})

it("a folder or a link out where the card should be is no card, and no other is made", async () => {
  const [folder, linked] = [mouse(), mouse()]
  for (const at of [folder, linked]) rmSync(join(at, "README.md"))
  mkdirSync(join(folder, "README.md"))
  writeFileSync(join(folder, "README.md/notes.txt"), "x")
  symlinkSync(join(MOUSE, "README.md"), join(linked, "README.md"))
  expect((await push(folder)).changes.map(({ path }) => path)).toContain("README.md/notes.txt")
  expect((await push(linked, { dryRun: true })).skipped).toEqual([
    { path: "README.md", why: "is a link out of the folder" },
  ])
})

describe("nothing is hashed of a folder that is refused", () => {
  /** The error of a push, which must come before a byte of the folder is hashed. */
  async function refusedUnhashed(options: PushOptions): Promise<PrismaError> {
    const hashed = vi.spyOn(Object.getPrototypeOf(createHash("sha256")) as Hash, "update")
    try {
      const error = await thrown(push(MOUSE, options))
      expect(hashed.mock.calls.length).toBe(0)
      return error
    } finally {
      hashed.mockRestore()
    }
  }

  // The repo has files of the same sizes, which only hashes could tell from those of the folder.
  it.each([
    ["may only read", "hf_read", /may only read/],
    ["was given no right to write", "hf_fine", /the token has no right to this/],
    ["may write, but not to this repo", "hf_other", /the token has no right to this/],
  ])("by a token that %s", async (_, token, rule) => {
    const weights = readFileSync(join(MOUSE, "model.safetensors"))
    weights[weights.length - 1]! ^= 1
    hub.addRepo(ID, MOUSE)
    const { id } = hub.addRepo(ID, { "model.safetensors": weights })
    for (const dryRun of [false, true]) {
      const { code, message } = await refusedUnhashed({ token, dryRun })
      expect([code, message]).toEqual(["E_HUB_AUTH", expect.stringMatching(rule)])
    }
    expect(hub.commits(ID)[0]!.id).toBe(id)
  })

  it("for a name that a dataset has", async () => {
    hub.addRepo(ID, { "config.json": "{}" }, { type: "dataset" })
    const { code, message } = await refusedUnhashed({})
    expect([code, message]).toEqual(["E_HUB_CONFLICT", expect.stringMatching(/taken by a dataset or space/)])
  })
})

describe("an interruption", () => {
  it("is seen while a large file is hashed", async () => {
    const folder = fresh()
    const size = 2 ** 28
    writeFileSync(join(folder, "big.bin"), "")
    truncateSync(join(folder, "big.bin"), size)
    const stop = new AbortController()
    let read = 0
    // Preupload is the last request before hashing.
    const send: typeof fetch = async (url, init) => {
      const answer = await fetch(url, init)
      if (hub.requests.some(({ path }) => /preupload/.test(path))) setImmediate(() => stop.abort())
      return answer
    }
    const hashed = vi.spyOn(Object.getPrototypeOf(createHash("sha256")) as Hash, "update")
    try {
      const http = hubHttp({ endpoint: hub.url, token: "hf_write", send })
      expect((await thrown(push(folder, { signal: stop.signal, http }))).code).toBe("E_INTERRUPTED")
      read = hashed.mock.calls.reduce((n, [bytes]) => n + bytes.length, 0)
    } finally {
      hashed.mockRestore()
    }
    expect(read).toBeLessThan(size / 16)
    expect(hub.requests.some(({ path }) => /objects\/batch|commit/.test(path))).toBe(false)
  })

  it.each([
    ["SIGINT", 130],
    ["SIGTERM", 143],
  ] as const)("by %s ends with %i", async (signal, code) => {
    hub.fault({ on: /whoami/, do: { stall: "head" } })
    const env = { HF_ENDPOINT: hub.url, HF_TOKEN: "hf_write", HF_HUB_OFFLINE: "" }
    const ended = cli(["push", MOUSE, ID], {
      env,
      started: (child) => {
        const asked = setInterval(() => {
          if (!hub.requests.length) return
          clearInterval(asked)
          child.kill(signal)
        }, 20)
      },
    })
    expect(await ended).toMatchObject({ code, stderr: expect.stringContaining("the same command goes on") })
  })
})
