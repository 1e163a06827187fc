/** @file The Hub that tests push to and download from, held against @huggingface/hub, a client that knows nothing of it. */
import { mkdtempSync, readFileSync, readdirSync, rmSync } from "node:fs"
import { tmpdir } from "node:os"
import { join } from "node:path"
import {
  checkRepoAccess,
  commit,
  createBranch,
  createRepo,
  deleteBranch,
  deleteRepo,
  downloadFile,
  fileDownloadInfo,
  fileExists,
  listCommits,
  listFiles,
  modelInfo,
  pathsInfo,
  snapshotDownload,
  whoAmI,
} from "@huggingface/hub"
import { afterAll, beforeAll, beforeEach, describe, expect, it, vi } from "vitest"
import { gitSha1, sha256, startHub, type Effect, type TestHub } from "./helpers/hub/index.ts"

const root = mkdtempSync(join(tmpdir(), "hub-server-"))
let hub: TestHub
beforeAll(async () => {
  hub = await startHub({ root, pageSize: 3, multipart: { above: 100_000, part: 30_000 } })
})
beforeEach(() => hub.reset())
afterAll(async () => {
  await hub.close()
  rmSync(root, { recursive: true })
})

const as = (accessToken?: string) => ({ hubUrl: hub.url, ...(accessToken && { accessToken }) })
const bytes = (n: number, seed = 1) =>
  Uint8Array.from({ length: n }, (_, i) => (i * i * 31 + seed * 7 + (i >> 8)) & 255)
const text = async (path: string, init?: RequestInit) => (await fetch(hub.url + path, init)).text()
const statusOf = (work: Promise<unknown>) =>
  work.then(
    () => 200,
    (e: { statusCode?: number }) => e.statusCode,
  )

describe("the client's own calls", () => {
  const repo = "owner/first"

  it("make a repo, once, for who may", async () => {
    expect((await whoAmI(as("hf_write"))).name).toBe("owner")
    const { repoUrl } = await createRepo({ repo, visibility: "private", ...as("hf_write"), accessToken: "hf_write" })
    expect(repoUrl).toBe(`${hub.url}/${repo}`)
    expect(await statusOf(createRepo({ repo, hubUrl: hub.url, accessToken: "hf_write" }))).toBe(409)
    expect(await statusOf(createRepo({ repo: "owner/b", hubUrl: hub.url, accessToken: "hf_read" }))).toBe(403)
    expect(await statusOf(createRepo({ repo: "owner/b", hubUrl: hub.url, accessToken: "hf_other" }))).toBe(403)
    expect(await statusOf(checkRepoAccess({ repo, ...as() }))).toBe(401)
    expect(await statusOf(checkRepoAccess({ repo, ...as("hf_other") }))).toBe(404)
    expect(await statusOf(checkRepoAccess({ repo, ...as("hf_read") }))).toBe(200)
    expect(await statusOf(whoAmI(as("hf_unknown")))).toBe(401)
  })

  const small = bytes(1000)
  const large = bytes(200_000, 2)
  const put = (path: string, content: Uint8Array<ArrayBuffer>) =>
    ({ operation: "addOrUpdate", path, content: new Blob([content]) }) as const

  it("commit text, a small large file in one piece and a large one in parts", async () => {
    const done = await commit({
      repo,
      title: "weights",
      operations: [put("config.json", Buffer.from("{}")), put("a/small.onnx", small), put("model.safetensors", large)],
      ...as("hf_write"),
    })
    const [newest] = hub.commits(repo)
    expect(newest).toMatchObject({ id: done!.commit.oid, title: "weights", author: "owner" })
    expect(newest!.tree["config.json"]).toEqual({ oid: gitSha1(Buffer.from("{}")), size: 2 })
    expect(newest!.tree["model.safetensors"]!.lfs).toMatchObject({ oid: sha256(large), size: 200_000 })
    const puts = hub.requests.filter((r) => r.method === "PUT")
    expect(puts.map((r) => r.received).sort((a, b) => a - b)).toEqual([1000, 20_000, ...Array<number>(6).fill(30_000)])
    expect(puts.every((r) => r.host === "cdn" && r.headers.authorization === undefined)).toBe(true)
    expect(hub.files(repo).get("model.safetensors")!.equals(large)).toBe(true)
  })

  it("send what is there already no second time", async () => {
    await commit({ repo, title: "copy", operations: [put("again.onnx", small)], ...as("hf_write") })
    expect(hub.requests.filter((r) => r.method === "PUT")).toEqual([])
    await commit({ repo, title: "gone", operations: [{ operation: "delete", path: "again.onnx" }], ...as("hf_write") })
    expect([...hub.files(repo).keys()].sort()).toEqual([".gitattributes", "a/small.onnx", "config.json", "model.safetensors"]) // prettier-ignore
    const titles = []
    for await (const c of listCommits({ repo, ...as("hf_write") })) titles.push(c.title)
    expect(titles).toEqual(["gone", "copy", "weights", "initial commit"])
  })

  it("refuse a commit on another parent", async () => {
    const stale = { repo, title: "stale", parentCommit: hub.commits(repo)[1]!.id, ...as("hf_write") }
    expect(await statusOf(commit({ ...stale, operations: [put("x", small)] }))).toBe(412)
  })

  it("list, in pages", async () => {
    const found = []
    for await (const f of listFiles({ repo, recursive: true, expand: true, ...as("hf_write") })) found.push(f)
    expect(found.map((f) => [f.type, f.path, f.size])).toEqual([
      ["file", ".gitattributes", hub.files(repo).get(".gitattributes")!.length],
      ["directory", "a", 0],
      ["file", "a/small.onnx", 1000],
      ["file", "config.json", 2],
      ["file", "model.safetensors", 200_000],
    ])
    expect(found[3]!.lastCommit!.title).toBe("weights")
    expect(hub.requests.filter((r) => r.path.includes("/tree/"))).toHaveLength(2)
    const [one] = await pathsInfo({ repo, paths: ["a/small.onnx", "none"], ...as("hf_write") })
    expect(one!.lfs!.oid).toBe(sha256(small))
    const info = await modelInfo({ name: repo, additionalFields: ["sha"], ...as("hf_write") })
    expect(info).toMatchObject({ private: true, sha: hub.commits(repo)[0]!.id })
  })

  it("download whole files, ranges and snapshots", async () => {
    const blob = await downloadFile({ repo, path: "model.safetensors", xet: false, ...as("hf_write") })
    expect(Buffer.from(await blob!.arrayBuffer()).equals(large)).toBe(true)
    expect(new Uint8Array(await blob!.slice(10, 20).arrayBuffer())).toEqual(large.slice(10, 20))
    expect(await fileDownloadInfo({ repo, path: "a/small.onnx", ...as("hf_write") })).toMatchObject({ size: 1000 })
    expect(await fileDownloadInfo({ repo, path: "none", ...as("hf_write") })).toBeNull()
    expect(await fileExists({ repo, path: "config.json", ...as("hf_write") })).toBe(true)
    expect(await fileExists({ repo, path: "none", ...as("hf_write") })).toBe(false)
    // The client tells of each file on stdout.
    vi.spyOn(console, "debug").mockImplementation(() => {})
    const cacheDir = mkdtempSync(join(root, "cache-"))
    const folder = await snapshotDownload({ repo, cacheDir, ...as("hf_write") })
    expect(readFileSync(join(folder, "model.safetensors")).equals(large)).toBe(true)
    expect(readdirSync(folder).sort()).toEqual([".gitattributes", "a", "config.json", "model.safetensors"])
  })

  it("make branches and take them and the repo away", async () => {
    await createBranch({ repo, branch: "step-1", ...as("hf_write") })
    expect(await statusOf(createBranch({ repo, branch: "step-1", ...as("hf_write") }))).toBe(409)
    expect(hub.commits(repo, "step-1")).toEqual(hub.commits(repo))
    await deleteBranch({ repo, branch: "step-1", ...as("hf_write") })
    expect(Object.keys(hub.refs(repo).branches)).toEqual(["main"])
    await deleteRepo({ repo, hubUrl: hub.url, accessToken: "hf_write" })
    expect(await statusOf(checkRepoAccess({ repo, ...as("hf_write") }))).toBe(404)
  })
})

describe("what the client has no call for", () => {
  const repo = "owner/second"
  beforeAll(() => void hub.addRepo(repo, { "config.json": "{}", "w.safetensors": bytes(500) }))
  const authorization = "Bearer hf_write"

  it("tags and refs", async () => {
    const tag = () =>
      fetch(`${hub.url}/api/models/${repo}/tag/main`, {
        method: "POST",
        headers: { authorization },
        body: '{"tag":"v1"}',
      })
    expect([(await tag()).status, (await tag()).status]).toEqual([200, 409])
    hub.addRepo(repo, { "config.json": "{1}" })
    const refs = JSON.parse(await text(`/api/models/${repo}/refs`)) as { tags: object[]; branches: object[] }
    expect(refs.tags).toEqual([{ name: "v1", ref: "refs/tags/v1", targetCommit: hub.commits(repo)[1]!.id }])
    expect(await text(`/${repo}/resolve/v1/config.json`)).toBe("{}")
    expect(await text(`/${repo}/resolve/refs%2Fheads%2Fmain/config.json`)).toBe("{1}")
  })

  it("heads of files as huggingface_hub reads them", async () => {
    const url = `${hub.url}/${repo}/resolve/main/w.safetensors`
    const head = await fetch(url, { method: "HEAD", redirect: "manual" })
    expect(head.status).toBe(302)
    const { headers } = head
    expect(headers.get("x-repo-commit")).toBe(hub.commits(repo)[0]!.id)
    expect([headers.get("x-linked-size"), headers.get("x-linked-etag")]).toEqual(["500", `"${sha256(bytes(500))}"`])
    expect(new URL(headers.get("location")!).origin).toBe(hub.cdn)
    const range = await fetch(url, { headers: { range: "bytes=100-199" } })
    expect([range.status, range.headers.get("content-range")]).toEqual([206, "bytes 100-199/500"])
    expect(new Uint8Array(await range.arrayBuffer())).toEqual(bytes(500).slice(100, 200))
    expect((await fetch(url, { headers: { range: "bytes=500-" } })).status).toBe(416)
    expect(await text(`/${repo}/raw/main/w.safetensors`)).toContain(`oid sha256:${sha256(bytes(500))}`)
  })

  it("gated and renamed repos, and errors by their codes", async () => {
    hub.addRepo("owner/gated", { "config.json": "{}" }, { gated: true })
    const code = async (path: string, token?: string) => {
      const r = await fetch(hub.url + path, { headers: token ? { authorization: `Bearer ${token}` } : {} })
      return [r.status, r.headers.get("x-error-code")]
    }
    const path = "/owner/gated/resolve/main/config.json"
    expect(await code(path)).toEqual([401, "GatedRepo"])
    expect(await code(path, "hf_other")).toEqual([403, "GatedRepo"])
    hub.grant("other")
    expect(await code(path, "hf_other")).toEqual([200, null])
    expect(await code("/owner/none/resolve/main/x")).toEqual([401, "RepoNotFound"])
    expect(await code("/owner/none/resolve/main/x", "hf_write")).toEqual([404, "RepoNotFound"])
    expect(await code(`/${repo}/resolve/none/x`)).toEqual([404, "RevisionNotFound"])
    expect(await code(`/${repo}/resolve/main/x`)).toEqual([404, "EntryNotFound"])
    hub.addRepo("owner/old", { "config.json": "old" })
    hub.rename("owner/old", "owner/new")
    expect(await text("/owner/old/resolve/main/config.json")).toBe("old")
  })

  it("what it keeps is there for another server", async () => {
    const other = await startHub({ root })
    expect(other.commits(repo)).toEqual(hub.commits(repo))
    await other.close()
  })
})

describe("faults", () => {
  const repo = "owner/faulty"
  const content = bytes(300_000, 5)
  beforeAll(() => void hub.addRepo(repo, { "config.json": "{}", "w.safetensors": content }))
  const get = (path = `/${repo}/resolve/main/w.safetensors`, init?: RequestInit) => fetch(hub.url + path, init)
  const body = async (r: Response) => Buffer.from(await r.arrayBuffer())
  const fault = (effect: Effect, on = /^cdn GET/) => hub.fault({ on, do: effect })

  it("are over after their number of times, and begin after some", async () => {
    hub.fault({ on: /^GET .*config/, times: 2, skip: 1, do: { status: 503, headers: { "retry-after": "7" } } })
    const got = []
    for (let i = 0; i < 4; i++) got.push(await get(`/${repo}/resolve/main/config.json`))
    expect(got.map((r) => r.status)).toEqual([200, 503, 503, 200])
    expect(got[1]!.headers.get("retry-after")).toBe("7")
  })

  it("spoil bodies", async () => {
    fault({ flip: 200_000 })
    const flipped = await body(await get())
    expect([...flipped.keys()].filter((i) => flipped[i] !== content[i])).toEqual([200_000])
    fault({ cut: 100_000 })
    await expect(get().then(body)).rejects.toThrow()
    fault({ cut: 100_000, clean: true })
    expect(await body(await get())).toHaveLength(100_000)
    fault({ stall: 1000 })
    await expect(get(undefined, { signal: AbortSignal.timeout(200) }).then(body)).rejects.toThrow(/timeout/)
    fault({ stall: "head" })
    await expect(get(undefined, { signal: AbortSignal.timeout(200) })).rejects.toThrow(/timeout/)
    fault({ reset: true })
    await expect(get()).rejects.toThrow("fetch failed")
    fault({ endless: true })
    const reader = (await get()).body!.getReader()
    for (let n = 0; n < 5_000_000;) n += (await reader.read()).value!.length
    await reader.cancel()
    expect((await body(await get())).equals(content)).toBe(true)
  })

  it("spoil heads and answers", async () => {
    fault({ change: { etag: '"0"', "x-more": "1", "accept-ranges": null } })
    const { headers } = await get()
    expect([headers.get("etag"), headers.get("x-more"), headers.get("accept-ranges")]).toEqual(['"0"', "1", null])
    fault({ ignoreRange: true })
    const whole = await get(undefined, { headers: { range: "bytes=5-9" } })
    expect([whole.status, (await body(whole)).length]).toEqual([200, 300_000])
    fault({ html: true }, /tree/)
    expect(await text(`/api/models/${repo}/tree/main`)).toMatch(/^<!doctype/)
    fault({ bigJson: 1_000_000 }, /tree/)
    expect((await text(`/api/models/${repo}/tree/main`)).length).toBeGreaterThan(1_000_000)
    fault({ gzip: true }, /tree/)
    const zipped = await get(`/api/models/${repo}/tree/main`)
    expect([zipped.headers.get("content-encoding"), Array.isArray(await zipped.json())]).toEqual(["gzip", true])
    fault({ redirect: "http://elsewhere.example/x" }, /config/)
    expect((await get(`/${repo}/resolve/main/config.json`, { redirect: "manual" })).headers.get("location")).toBe("http://elsewhere.example/x") // prettier-ignore
    fault({ redirect: "loop" }, /config/)
    const loop = await get(`/${repo}/resolve/main/config.json`, { redirect: "manual" })
    expect(loop.headers.get("location")).toBe(`${hub.url}/${repo}/resolve/main/config.json`)
  })

  it("lose an answer after the deed", async () => {
    const line = (key: string, value: object) => JSON.stringify({ key, value })
    const post = (title: string) =>
      get(`/api/models/${repo}/commit/main`, {
        method: "POST",
        headers: { authorization: "Bearer hf_write" },
        body: [line("header", { summary: title }), line("file", { path: "t", content: "", encoding: "base64" })].join(
          "\n",
        ),
      })
    fault({ status: 500, landed: true }, /commit/)
    expect((await post("one")).status).toBe(500)
    fault({ reset: true, landed: true }, /commit/)
    await expect(post("two")).rejects.toThrow("fetch failed")
    fault({ status: 500 }, /commit/)
    expect((await post("three")).status).toBe(500)
    expect(hub.commits(repo).map((c) => c.title).slice(0, 2)).toEqual(["two", "one"]) // prettier-ignore
  })
})
