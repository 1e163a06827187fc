/** @file A folder up to the loopback Hub and down again: identical, once, as the dry run said; a run's checkpoints, both ways. */
import { cpSync, existsSync, mkdirSync, readdirSync, readFileSync, rmSync, symlinkSync, writeFileSync } from "node:fs"
import { join } from "node:path"
import { listFiles, snapshotDownload } from "@huggingface/hub"
import { afterAll, afterEach, beforeAll, describe, expect, it } from "vitest"
import { loadPretrained, type Pushed, pushFolder, type PushOptions } from "../src/index.ts"
import { cli } from "./helpers/cli.ts"
import { sha256, startHub, type TestHub } from "./helpers/hub/index.ts"
import { thrown } from "./helpers/thrown.ts"
import * as v from "./helpers/variants.ts"

const MOUSE = join(import.meta.dirname, "../model-cards/mnist")
const ID = "owner/mouse"
const root = v.scratch()
let count = 0
const fresh = (): string => v.folderAt(root, `folder ${count++}`)

let hub: TestHub
beforeAll(async () => void (hub = await startHub({ root: fresh(), pageSize: 4 })))
afterAll(() => hub.close())
afterEach(() => {
  hub.reset()
  for (const id of hub.store.ids()) hub.store.removeRepo(id)
})

const push = (folder: string, options: PushOptions = {}, repo = ID) =>
  pushFolder(folder, repo, { endpoint: hub.url, token: "hf_write", ...options })
const from = (cacheDir = fresh()) => ({ endpoint: hub.url, token: "hf_read", cacheDir })
/** A copy of a mouse that may be changed. */
function mouse(change: Record<string, string> = {}): string {
  const folder = fresh()
  cpSync(MOUSE, folder, { recursive: true })
  for (const [path, text] of Object.entries(change)) {
    mkdirSync(join(folder, path, ".."), { recursive: true })
    writeFileSync(join(folder, path), text)
  }
  return folder
}
const contents = (folder: string) =>
  new Map(readdirSync(folder).sort().map((name) => [name, sha256(readFileSync(join(folder, name)))] as const)) // prettier-ignore
const stored = (branch = "main") =>
  new Map([...hub.files(ID, branch)].filter(([n]) => n !== ".gitattributes").map(([n, b]) => [n, sha256(b)] as const).sort(([a], [b]) => (a < b ? -1 : 1))) // prettier-ignore
const writes = () =>
  hub.requests.filter(({ host, method, path }) => method !== "GET" && (host === "cdn" || !/preupload/.test(path)))

/** A run of two checkpoints, with what a run leaves behind. */
function run(steps: readonly number[] = [100, 2000]): string {
  const folder = mouse({ "metrics.jsonl": "{}\n" })
  for (const [i, step] of steps.entries()) {
    const at = join(folder, "checkpoints", `step-${String(step).padStart(8, "0")}`)
    cpSync(MOUSE, at, { recursive: true })
    rmSync(join(at, "README.md"))
    const weights = readFileSync(join(at, "model.safetensors"))
    weights[weights.length - 3 - i]! ^= 1
    writeFileSync(join(at, "model.safetensors"), weights)
    for (const name of ["optimizer.safetensors", "state.json", "manifest.json"]) writeFileSync(join(at, name), "{}")
  }
  return folder
}

describe("a folder", () => {
  it("goes up in one commit, and comes down the same; again: no commit and no byte", async () => {
    const first = await push(MOUSE)
    expect(first).toMatchObject({ repo: ID, created: true, committed: true, unchanged: 0, skipped: [] })
    expect(stored()).toEqual(contents(MOUSE))
    expect(hub.commits(ID)).toHaveLength(2)
    const model = await loadPretrained(ID, from())
    expect(model.source.commit).toBe(first.commit)
    expect(sha256(readFileSync(join(model.source.folder, "model.safetensors")))).toBe(contents(MOUSE).get("model.safetensors")) // prettier-ignore
    await model.release()
    hub.requests.length = 0
    const again = await push(MOUSE)
    expect(again).toMatchObject({ commit: first.commit, created: false, committed: false, changes: [], sent: 0 })
    expect(writes()).toEqual([])
  })

  it("that was changed sends what was changed", async () => {
    const folder = mouse()
    await push(folder)
    writeFileSync(join(folder, "curves.svg"), `${readFileSync(join(folder, "curves.svg"), "utf8")}\n`)
    hub.requests.length = 0
    const second = await push(folder, { message: "Other curves" })
    expect(second.changes.map(({ path, is }) => [path, is])).toEqual([["curves.svg", "modified"]])
    expect(hub.requests.filter(({ host }) => host === "cdn")).toEqual([])
    expect(hub.commits(ID)[0]).toMatchObject({ title: "Other curves" })
    expect(stored()).toEqual(contents(folder))
  })

  it("is read by the Hub's own client as it is", async () => {
    await push(MOUSE)
    const given = { repo: ID, hubUrl: hub.url, accessToken: "hf_write" }
    const names: string[] = []
    for await (const file of listFiles({ ...given, recursive: true })) names.push(file.path)
    expect(names.sort()).toEqual([".gitattributes", ...readdirSync(MOUSE)].sort())
    const down = await snapshotDownload({ ...given, cacheDir: fresh() })
    for (const [name, hash] of contents(MOUSE)) expect(sha256(readFileSync(join(down, name)))).toBe(hash)
  })

  it("goes to a private repo, a branch, a folder of the repo, the account's own name", async () => {
    await push(MOUSE, { private: true, branch: "trial", path: "sub/mouse" }, "mouse")
    expect(hub.store.meta(ID)?.private).toBe(true)
    expect([...hub.files(ID).keys()]).toEqual([".gitattributes"])
    const model = await loadPretrained(ID, { ...from(), revision: "trial", subfolder: "sub/mouse" })
    expect(model.nParameters).toBe(803_338)
    await model.release()
    expect((await thrown(push(MOUSE, { path: "a/../../x" }))).code).toBe("E_UNSAFE_PATH")
    expect((await thrown(push(MOUSE, { branch: "0".repeat(40) }))).code).toBe("E_REVISION")
  })

  // As git's verify_path does where it protects NTFS and HFS+.
  it.each(["../x", "/x", ".git/x", ".GIT", "a/.git/hooks", ".git /x", ".git./x", ".git . ./x", ".git::$INDEX_ALLOCATION/x", "git~1/x", "GIT~1 ", ".g\u200cit/x", "\ufeff.gi\u206ft"])(
    "does not go to %j (HU-10): E_UNSAFE_PATH",
    async (path) => {
      const { code, message } = await thrown(push(MOUSE, { path, dryRun: true }))
      expect([code, message]).toEqual(["E_UNSAFE_PATH", expect.stringContaining("the path in the repo")])
    },
  ) // prettier-ignore
  it.each([".github/x", "x.git/y", ".gitx", ".git~1", "git~2", "git~10", "git", ".git-x", "a.git "])(
    "goes to %j",
    async (path) => {
      const { changes } = await push(MOUSE, { path, dryRun: true })
      expect(changes.map((change) => change.path)).toContain(`${path}/config.json`)
    },
  )

  it("leaves at home what is secret, half written, of a tool, or a link out of it; a text with a token is refused", async () => {
    const folder = mouse({
      ".git/config": "x",
      "git~1/config": "x",
      "a/.git./config": "x",
      ".env": "x",
      "a.partial": "x",
      "node_modules/x/y.js": "x",
      token: "x",
    })
    symlinkSync("/etc/hostname", join(folder, "link.txt"))
    symlinkSync("curves.svg", join(folder, "same.svg"))
    const { skipped, changes } = await push(folder)
    expect(skipped.map(({ path }) => path).sort()).toEqual([".env", ".git", "a.partial", "a/.git.", "git~1", "link.txt", "node_modules", "token"]) // prettier-ignore
    expect(changes.map(({ path }) => path)).toContain("same.svg")
    const secret = `hf_${"a1B2".repeat(9)}`
    for (const text of [secret, Buffer.from(` ${secret}`).toString("base64"), "token: hf_write"]) {
      hub.requests.length = 0
      const error = await thrown(push(mouse({ "notes.txt": `see\n${text}\n` })))
      expect(error.code).toBe("E_SECRET_FOUND")
      expect(error.message).not.toContain(secret)
      expect(writes()).toEqual([])
    }
  })

  it("without a card gets one, and one with a wrong card is refused before anything is sent", async () => {
    const folder = mouse()
    rmSync(join(folder, "README.md"))
    const { changes } = await push(folder)
    expect(changes.map(({ path }) => path)).toContain("README.md")
    expect(hub.files(ID).get("README.md")!.toString()).toMatch(/^---\n[^]*library_name: vit-prisma[^]*owner\/mouse/)
    expect(existsSync(join(folder, "README.md"))).toBe(false)
    expect((await push(folder)).committed).toBe(false)
    hub.requests.length = 0
    const bad = mouse({ "README.md": "---\nlicense: MIT\n---\n# x\n" })
    expect(await thrown(push(bad))).toMatchObject({
      code: "E_CARD",
      message: expect.stringMatching(/README\.md:2: license/),
    })
    expect(writes()).toEqual([])
  })

  it("goes up without the paths of this machine", async () => {
    const training = JSON.parse(readFileSync(join(MOUSE, "training.json"), "utf8")) as { data: object }
    const text = JSON.stringify({ ...training, data: { ...training.data, path: "/home/me/data" } })
    await push(mouse({ "training.json": text }))
    expect(hub.files(ID).get("training.json")!.toString()).not.toContain("/home/me")
  })

  it("that a repo's .gitignore names is not sent", async () => {
    hub.addRepo(ID, { ".gitignore": "*.svg\n" })
    const { changes } = await push(MOUSE)
    expect(changes.map(({ path }) => path)).not.toContain("curves.svg")
    expect([...hub.files(ID).keys()]).not.toContain("curves.svg")
  })
})

describe("a dry run", () => {
  it("says what a push then does, and writes nothing, with a repo and without", async () => {
    for (const there of [false, true]) {
      if (there) hub.addRepo(ID, { "config.json": "{}", "other.txt": "stays" })
      hub.requests.length = 0
      const said = await push(run(), { dryRun: true })
      expect(writes()).toEqual([])
      expect(hub.store.ids()).toEqual(there ? [ID] : [])
      if (!there) {
        expect(said).toMatchObject({ created: true, committed: false })
        continue
      }
      const done = await push(run())
      expect(done.changes).toEqual(said.changes)
      expect(done.checkpoints.map(({ step, changes }) => [step, changes])).toEqual(
        said.checkpoints.map(({ step, changes }) => [step, changes]),
      )
      expect(hub.files(ID).get("other.txt")!.toString()).toBe("stays")
    }
  })
})

describe("a run's checkpoints", () => {
  const last = (step: number, folder: string) =>
    sha256(readFileSync(join(folder, "checkpoints", `step-${String(step).padStart(8, "0")}`, "model.safetensors")))
  async function readBack(folder: string): Promise<void> {
    const options = from()
    const main = await loadPretrained(ID, options)
    expect(await main.checkpoints()).toEqual([100, 2000])
    await main.release()
    for (const offline of [false, true]) {
      for (const step of [2000, 100]) {
        const model = await loadPretrained(ID, { ...options, checkpoint: step, offline })
        expect(sha256(readFileSync(join(model.source.folder, "model.safetensors")))).toBe(last(step, folder))
        expect(await model.checkpoints()).toEqual([100, 2000])
        await model.release()
      }
    }
    const error = await thrown(loadPretrained(ID, { ...options, checkpoint: 300 }))
    expect(error).toMatchObject({ code: "E_INPUT", message: expect.stringContaining("100, 2000") })
  }

  it("have the tags that they should, or the push says so", async () => {
    const folder = run()
    const tag = /^POST .*\/tag\//
    // Its answer was lost, and the tag is there when it is asked for again.
    hub.fault({ on: tag, do: { status: 500, landed: true } })
    const { checkpoints } = await push(folder)
    expect(hub.requests.filter(({ status, path }) => status === 409 && path.includes("/tag/"))).toHaveLength(1)
    expect(hub.refs(ID).tags).toEqual(Object.fromEntries(checkpoints.map(({ tag: name, commit }) => [name, commit])))
    // Another has put it elsewhere meanwhile.
    hub.store.setRefs(ID, { ...hub.refs(ID), tags: {} })
    hub.fault({ on: tag, do: { status: 409, body: '{"error":"Tag reference exists already"}' } })
    const error = await thrown(push(folder))
    expect(error).toMatchObject({ code: "E_HUB_CONFLICT", message: expect.stringContaining("step-100 means nothing") })
  })

  it("are revisions by default: listed, loaded, offline too; again: no commit", async () => {
    const folder = run()
    const { checkpoints, left } = await push(folder)
    expect(left).toEqual([])
    expect(hub.refs(ID).tags).toEqual(Object.fromEntries(checkpoints.map(({ tag, commit }) => [tag, commit])))
    expect(Object.keys(hub.refs(ID).tags)).toEqual(["step-100", "step-2000"])
    expect([...hub.files(ID).keys()].some((name) => /optimizer|state\.json|checkpoints/.test(name))).toBe(false)
    await readBack(folder)
    hub.requests.length = 0
    await push(folder)
    expect(writes()).toEqual([])
  })

  it("are folders of the one commit when asked, and stay here when asked", async () => {
    const folder = run()
    expect(
      (await push(folder, { checkpoints: "none" })).changes.some(({ path }) => path.startsWith("checkpoints")),
    ).toBe(false)
    await push(folder, { checkpoints: "folders" })
    expect(hub.commits(ID)).toHaveLength(3)
    expect(hub.refs(ID).tags).toEqual({})
    await readBack(folder)
  })

  const upTo = (n: number) => Array.from({ length: n }, (_, i) => 10 * (i + 1))
  const commits = () => hub.requests.filter(({ path }) => /\/commit\//.test(path)).length
  /** Let the repo's commits be so many minutes older. */
  function wait(minutes: number): void {
    const folder = join(hub.root, "repos", ID.replace("/", "--"), "commits")
    for (const name of readdirSync(folder)) {
      const commit = JSON.parse(readFileSync(join(folder, name), "utf8")) as { date: string }
      const date = new Date(Date.parse(commit.date) - minutes * 60_000).toISOString()
      writeFileSync(join(folder, name), JSON.stringify({ ...commit, date }))
    }
  }
  /** Minutes until the rest can go up. */
  const minutes = ({ leftUntil }: Pushed) => Math.round((Date.parse(leftUntil!) - Date.now()) / 60_000)

  it("of more steps than a repo takes commits an hour (G29) are folders, or wait for the next hour's push", async () => {
    const folder = run(upTo(25))
    hub.requests.length = 0
    await push(folder)
    expect([commits(), Object.keys(hub.refs(ID).tags).length]).toEqual([1, 0])
    hub.store.removeRepo(ID)
    hub.requests.length = 0
    const dry = await push(folder, { checkpoints: "revisions", dryRun: true })
    const first = await push(folder, { checkpoints: "revisions" })
    expect([dry.left, first.left]).toEqual([upTo(25).slice(18), upTo(25).slice(18)])
    expect([commits(), minutes(first), minutes(dry)]).toEqual([19, 60, 60])
    // It goes on as it began.
    wait(61)
    expect(await push(folder)).toMatchObject({ committed: false, left: [] })
    expect([...hub.files(ID).keys()].some((name) => name.startsWith("checkpoints/"))).toBe(false)
    expect(Object.keys(hub.refs(ID).tags)).toHaveLength(25)
  })

  it("that come while the hour lasts wait, in all pushes together and on all branches (G29)", async () => {
    await push(run(upTo(18)))
    const more = run(upTo(38))
    hub.requests.length = 0
    const second = await push(more)
    expect([commits(), second.committed, second.left]).toEqual([0, false, upTo(38).slice(18)])
    expect(minutes(second)).toBe(60)
    wait(40)
    // The commit of the files alone is made whatever the hour has.
    writeFileSync(join(more, "extra.txt"), "more\n")
    const third = await push(more)
    expect([commits(), third.committed, third.left.length, minutes(third)]).toEqual([1, true, 20, 20])
    wait(21)
    writeFileSync(join(more, "extra.txt"), "still more\n")
    const fourth = await push(more, { branch: "trial" })
    // Of this hour are that of main, and one of trial.
    expect([commits(), fourth.left.length, minutes(fourth)]).toEqual([1 + 19, 2, 60])
    wait(61)
    expect((await push(more)).left).toEqual([])
    expect(Object.keys(hub.refs(ID).tags)).toHaveLength(38)
  })

  it("are not sent where the Hub's list of commits is none", async () => {
    const list = /\/commits\//
    for (const body of ["{}", '[{"id":"x","date":"soon"}]', '[{"date":"2026-01-01T00:00:00.000Z"}]']) {
      hub.fault({ on: list, do: { status: 200, body } })
      expect((await thrown(push(run()))).code).toBe("E_HUB_PROTOCOL")
      expect(hub.refs(ID).tags).toEqual({})
    }
    // A passing fault costs time only.
    hub.fault({ on: list, do: { reset: true } })
    expect((await push(run())).checkpoints).toHaveLength(2)
  })

  it("that the Hub takes no more of an hour (429) wait: a second push makes only the rest", async () => {
    const folder = run([100, 200, 300, 400, 500])
    const body = JSON.stringify({ error: "You have exceeded the rate limit for repository commits (128 per hour)" })
    const commit = /^POST .*\/commit\/checkpoints/
    hub.fault({ on: commit, skip: 3, times: 9, do: { status: 429, body, headers: { "retry-after": "3000" } } })
    const error = await thrown(push(folder))
    expect([error.code, error.message]).toEqual(["E_HUB_RATE_LIMIT", expect.stringMatching(/128 per hour/)])
    const tags = hub.refs(ID).tags
    expect(Object.keys(tags)).toEqual(["step-100", "step-200", "step-300"])
    hub.reset()
    const { committed, checkpoints, left } = await push(folder)
    expect([committed, left]).toEqual([false, []])
    expect(checkpoints.filter(({ changes }) => changes.length).map(({ step }) => step)).toEqual([400, 500])
    expect(hub.requests.filter(({ method, path }) => commit.test(`${method} ${path}`))).toHaveLength(2)
    expect(hub.refs(ID).tags).toMatchObject(tags)
    expect(Object.keys(hub.refs(ID).tags)).toHaveLength(5)
    const titles = hub.commits(ID, "checkpoints").map(({ title }) => title)
    expect(titles.slice(0, 5)).toEqual([500, 400, 300, 200, 100].map((step) => `Step ${step}`))
    expect(titles).toHaveLength(7)
  })

  it("of a folder here are listed and loaded", async () => {
    const folder = run()
    for (const step of [100, 2000]) {
      rmSync(join(folder, "checkpoints", `step-${String(step).padStart(8, "0")}`, "manifest.json"))
      const model = await loadPretrained(folder, { checkpoint: step })
      expect(sha256(readFileSync(join(model.source.folder, "model.safetensors")))).toBe(last(step, folder))
      expect(await model.checkpoints()).toEqual([100, 2000])
      await model.release()
    }
    expect((await thrown(loadPretrained(folder, { checkpoint: 7 }))).message).toMatch(/step 7; it has 100, 2000/)
    expect((await thrown(loadPretrained(MOUSE, { checkpoint: 7 }))).message).toMatch(/step 7; it has none/)
  })
})

describe("vit-prisma push", () => {
  const env = (token = "hf_write") => ({
    HF_ENDPOINT: hub.url,
    HF_TOKEN: token,
    HF_HUB_OFFLINE: "",
    HF_HUB_CACHE: fresh(),
  })

  it("shows what it would do, does it, and then has nothing to do", async () => {
    const folder = run([100])
    const dry = await cli(["push", folder, ID, "--dry-run"], { env: env() })
    expect([dry.code, dry.stderr]).toEqual([0, ""])
    expect(dry.stdout).toMatch(/^the repo owner\/mouse would be made\nA {2}README\.md {2}\d/)
    expect(dry.stdout).toMatch(
      /A {2}step-100 {2}7 files, 3\.\d+ MB\n- {2}checkpoints\/step-00000100\/manifest\.json and 2 more: is what a run/,
    )
    expect(dry.stdout).toMatch(/nothing was sent \(--dry-run\)\n$/)
    const done = await cli(["push", folder, ID], { env: env() })
    expect([done.code, done.stderr]).toEqual([0, ""])
    expect(done.stdout).toMatch(/owner\/mouse [0-9a-f]{12}: 9 files and 1 checkpoint, [\d.]+ M?B sent apart\n$/)
    const commits = ["main", "checkpoints"].map((branch) => hub.commits(ID, branch).length)
    const [again, machine] = [
      await cli(["push", folder, ID], { env: env() }),
      await cli(["push", folder, ID, "--json"], { env: env() }),
    ]
    expect(again).toMatchObject({
      code: 0,
      stderr: "",
      stdout: expect.stringMatching(/nothing to push, it has all 9 files\n$/),
    })
    expect([machine.code, machine.stderr]).toEqual([0, ""])
    expect(JSON.parse(machine.stdout)).toMatchObject({ repo: ID, committed: false, changes: [] })
    expect(["main", "checkpoints"].map((branch) => hub.commits(ID, branch).length)).toEqual(commits)
  })

  it("refuses in one line: no token, one that only reads, no folder", async () => {
    const line = async (args: string[], token: string) => {
      const { code, stdout, stderr } = await cli(["push", ...args], { env: env(token) })
      expect([stdout, stderr.split("\n").length]).toEqual(["", 2])
      return `${code} ${stderr}`
    }
    expect(await line([MOUSE, ID], "")).toMatch(/^4 .*HF_TOKEN.*E_HUB_AUTH/)
    expect(await line([MOUSE, ID], "hf_read")).toMatch(/^4 .*may only read.*E_HUB_AUTH/)
    expect(await line([join(root, "none"), ID], "hf_write")).toMatch(/^1 .*no such folder.*E_INPUT/)
    expect(await line([MOUSE, "a/b/c"], "hf_write")).toMatch(/^\d .*E_REPO_ID/)
    expect(hub.store.ids()).toEqual([])
  })

  it("is what convert --from --push does with each model", async () => {
    const list = join(fresh(), "list.txt")
    writeFileSync(list, `${MOUSE}\n`)
    const out = fresh()
    const args = ["convert", "--from", list, "--out", out, "--push", "org", "--jobs", "1", "--json"]
    for (const state of ["done", "already"]) {
      const { code, stdout } = await cli(args, { env: env() })
      const { counts, models } = JSON.parse(stdout) as { counts: Record<string, number>; models: { pushed: string }[] }
      expect([code, counts[state]]).toEqual([0, 1])
      expect(models[0]!.pushed).toBe(hub.commits("org/mnist")[0]!.id)
      expect(hub.commits("org/mnist")).toHaveLength(2)
    }
    const model = await loadPretrained("org/mnist", from())
    expect(model.nParameters).toBe(803_338)
    await model.release()
    expect(hub.store.meta("org/mnist")?.private).toBe(false)
  })

  it("makes private repos of a list where that is asked for, and none of a name that no repo may have", async () => {
    const folder = fresh()
    cpSync(MOUSE, join(folder, "mnist"), { recursive: true })
    cpSync(MOUSE, join(folder, "n".repeat(100)), { recursive: true })
    writeFileSync(join(folder, "list.txt"), `${join(folder, "mnist")}\n${join(folder, "n".repeat(100))}\n`)
    const out = join(folder, "out")
    const args = ["convert", "--from", join(folder, "list.txt"), "--out", out, "--push", "org", "--private"]
    const { code, stdout } = await cli([...args, "--jobs", "1", "--json"], { env: env() })
    const { models } = JSON.parse(stdout) as { models: { state: string; code?: string }[] }
    expect([code, models[0]!.state, models[1]!.code]).toEqual([1, "done", "E_REPO_ID"])
    expect(hub.store.ids()).toEqual(["org/mnist"])
    expect(hub.store.meta("org/mnist")?.private).toBe(true)
    expect(existsSync(join(out, "n".repeat(100)))).toBe(false)
  })
})
