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
