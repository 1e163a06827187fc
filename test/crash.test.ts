/** @file Writing while the process is killed or the disk fails, at every single call: the old state or the new one, whole. */
import { execFileSync } from "node:child_process"
import {
  existsSync,
  lstatSync,
  mkdirSync,
  mkdtempSync,
  readdirSync,
  readFileSync,
  rmSync,
  writeFileSync,
} from "node:fs"
import { tmpdir } from "node:os"
import { join } from "node:path"
import { afterAll, describe, expect, it } from "vitest"
import { publishFolder, writeFileAtomic } from "../src/files/atomic.ts"
import { runTs } from "./helpers/child.ts"
import { FAULTS } from "./helpers/faults.ts"

const scratch = mkdtempSync(join(tmpdir(), "vit-prisma-crash-"))
afterAll(() => rmSync(scratch, { recursive: true }))

/** The four ways to write, as a program: `way(name)(target)`; the old state is written by the test. */
const WAYS = `
import { mkdirSync, writeFileSync } from "node:fs"
import { join } from "node:path"
import { publishFolder, writeFileAtomic } from "../src/files/atomic.ts"
import { writeSafetensors } from "../src/files/safetensors-file.ts"
import { float32 } from "../src/tensor/tensor.ts"

const folder = (force: boolean) => (target: string) =>
  publishFolder(target, async (dir) => {
    mkdirSync(join(dir, "sub"))
    writeFileSync(join(dir, "sub", "weights.bin"), new Uint8Array(1000).fill(7))
    await writeFileAtomic(join(dir, "manifest.json"), "new")
  }, { force })
const file = (target: string) => writeSafetensors(target, new Map([["a", float32([250], new Float32Array(250).fill(2))]]))
export const ways: Record<string, (target: string) => Promise<void>> = {
  "new file": file,
  "file over file": file,
  "new folder": folder(false),
  "folder over folder": folder(true),
}
`
const KILLED = `${WAYS}
await ways[process.argv[2]!]!(process.argv[3]!)
console.log((globalThis as unknown as { faults: { calls: string[] } }).faults.calls.join(" "))
`

const OVER = new Set(["file over file", "folder over folder"])
const isFolder = (way: string): boolean => way.includes("folder")

/** Put what is to be replaced where it is to be, in a folder of its own. */
function prepare(way: string, name: string): string {
  const parent = join(scratch, name)
  const target = join(parent, "out")
  mkdirSync(parent)
  if (!OVER.has(way)) return target
  if (isFolder(way)) {
    mkdirSync(target)
    writeFileSync(join(target, "manifest.json"), "old")
  } else writeFileSync(target, "old")
  return target
}

/** What stands at the target: "absent", "old", "new"; anything else is a failure of the test. */
function state(way: string, target: string): string {
  if (!existsSync(target)) return "absent"
  if (!isFolder(way)) {
    const bytes = readFileSync(target)
    return bytes.toString() === "old"
      ? "old"
      : bytes.length > 1000 && bytes.readFloatLE(bytes.length - 4) === 2
        ? "new"
        : "torn"
  }
  const manifest = join(target, "manifest.json")
  if (!existsSync(manifest)) return "torn"
  if (readFileSync(manifest, "utf8") === "old") return "old"
  const weights = join(target, "sub", "weights.bin")
  const whole = existsSync(weights) && readFileSync(weights).equals(Buffer.alloc(1000, 7))
  return whole && readFileSync(manifest, "utf8") === "new" ? "new" : "torn"
}

const beside = (target: string): string[] => readdirSync(join(target, "..")).filter((name) => name !== "out")

describe.each(["new file", "file over file", "new folder", "folder over folder"])("%s", (way) => {
  it("survives SIGKILL at every call, and the next write sweeps", async () => {
    const clean = await runTs(KILLED, { args: [way, prepare(way, `${way} clean`)], preload: FAULTS })
    expect(clean.stderr).toBe("")
    const calls = clean.stdout.trim().split(" ")
    // What was written is synced, then renamed, and then the folder is synced.
    const renamed = calls.lastIndexOf("rename")
    expect(calls.slice(calls.lastIndexOf("write"), renamed)).toContain("sync")
    expect(calls.slice(renamed)).toContain("sync")
    // Of a folder: the two files, the two folders, the one above, and the manifest and its folder when it was written.
    expect(calls.filter((name) => name === "sync").length).toBe(isFolder(way) ? 7 : 2)
    const states = new Map<string, number>()
    const kill = async (at: number): Promise<void> => {
      const target = prepare(way, `${way} ${at}`)
      const { signal } = await runTs(KILLED, { args: [way, target], preload: FAULTS, env: { FAULT_AT: String(at) } })
      expect(signal).toBe("SIGKILL")
      const left = state(way, target)
      states.set(left, (states.get(left) ?? 0) + 1)
      for (const name of beside(target)) expect(name).toMatch(/^\.out\.tmp-\d+-[0-9a-z]+$/)
      // The restart: first something else beside it, which sweeps, then the same again.
      await writeFileAtomic(join(target, "..", "other"), "x")
      expect(beside(target)).toEqual(["other"])
      expect(state(way, target)).toBe(left === "absent" && OVER.has(way) ? "old" : left)
      if (isFolder(way))
        await publishFolder(target, async (dir) => writeFileAtomic(join(dir, "manifest.json"), "old"), { force: true })
      else await writeFileAtomic(target, "old")
      expect(state(way, target)).toBe("old")
      expect(beside(target)).toEqual(["other"])
    }
    // Two at a time: the machine that runs this may have two cores.
    for (let at = 1; at <= calls.length; at += 2) {
      await Promise.all([kill(at), ...(at < calls.length ? [kill(at + 1)] : [])])
    }
    expect(states.get("torn")).toBeUndefined()
    expect(states.get("new")).toBeGreaterThan(0)
    expect(states.get(OVER.has(way) ? "old" : "absent")).toBeGreaterThan(2)
    // A folder cannot be replaced in one call: it is absent between two renames, and put back by the sweep.
    expect(states.get("absent") ?? 0).toBeLessThanOrEqual(OVER.has(way) ? (isFolder(way) ? 1 : 0) : Infinity)
  })
})

describe("a failing disk", () => {
  const PROGRAM = `${WAYS}
import { cpSync } from "node:fs"
const { faults } = globalThis as unknown as { faults: { calls: string[]; at: number; only?: string[]; code: string } }
const results = []
for (const [code, only] of JSON.parse(process.argv[3]!) as [string, string[]][]) {
  for (const way of Object.keys(ways)) {
    for (let at = 1; ; at++) {
      const parent = join(process.argv[2]!, [code, only[0], way, at].join(" "))
      cpSync(join(process.argv[2]!, "template " + way), parent, { recursive: true })
      Object.assign(faults, { calls: [], at, only, code })
      let got = "done"
      try {
        await ways[way]!(join(parent, "out"))
      } catch (error) {
        const e = error as { name: string; code: string; message: string }
        got = e.name + " " + e.code
        if (/[\\n]/.test(e.message) || !e.message.includes(join(parent, "out"))) got += " bad message " + e.message
      }
      faults.at = 0
      if (got === "done" && faults.calls.length < at) break
      results.push({ code, only: only[0], way, at, got, parent })
    }
  }
}
console.log(JSON.stringify(results))
`
  it("leaves what was there, typed, for ENOSPC, EIO and EROFS at each call", async () => {
    const ways = ["new file", "file over file", "new folder", "folder over folder"]
    for (const way of ways) prepare(way, `template ${way}`)
    const faults = [
      ["ENOSPC", ["write"]],
      ["EDQUOT", ["write"]],
      ["EIO", ["sync"]],
      ["EIO", ["write"]],
      ["ENOSPC", ["open"]],
      ["EROFS", ["mkdir"]],
      ["EIO", ["rename"]],
      ["EPERM", ["link"]],
    ]
    const { stdout, stderr } = await runTs(PROGRAM, { args: [scratch, JSON.stringify(faults)], preload: FAULTS })
    expect(stderr).toBe("")
    const results = JSON.parse(stdout) as { code: string; only: string; way: string; got: string; parent: string }[]
    const codes: Record<string, string> = {
      ENOSPC: "E_DISK_FULL",
      EDQUOT: "E_DISK_FULL",
      EIO: "E_IO",
      EROFS: "E_OUTPUT",
    }
    for (const { code, only, way, got, parent } of results) {
      const what = `${code} at ${only}, ${way}`
      if (only === "link") {
        // Hard links are a comfort that not every file system offers.
        expect([got, state(way, join(parent, "out"))], what).toEqual(["done", "new"])
        continue
      }
      expect(got, what).toBe(`PrismaError ${codes[code]}`)
      expect(state(way, join(parent, "out")), what).toBe(OVER.has(way) ? "old" : "absent")
      expect(beside(join(parent, "out")), what).toEqual([])
    }
    expect(results.length).toBeGreaterThan(40)
    for (const way of ways)
      expect(new Set(results.filter((r) => r.way === way).map((r) => r.code)).size).toBeGreaterThanOrEqual(4)
  })
})

describe("two processes at one folder", () => {
  const PROGRAM = `
import { setTimeout as wait } from "node:timers/promises"
import { join } from "node:path"
import { publishFolder, writeFileAtomic } from "../src/files/atomic.ts"
const [target, force] = process.argv.slice(2) as [string, string]
try {
  await publishFolder(target, async (dir) => {
    for (const name of ["a", "b", "c"]) {
      await writeFileAtomic(join(dir, name), String(process.pid))
      await wait(100)
    }
  }, { force: force === "force" })
  console.log("done " + process.pid)
} catch (error) {
  console.log((error as { code: string }).code)
}
`
  it.each(["", "force"])("one wins, the others are told, the result is whole %s", async (force) => {
    const target = join(scratch, `raced${force}`, "out")
    const runs = await Promise.all([1, 2, 3].map(() => runTs(PROGRAM, { args: [target, force] })))
    const said = runs.map((r) => r.stdout.trim())
    const winners = said.filter((s) => s.startsWith("done"))
    expect(winners.length).toBeGreaterThanOrEqual(1)
    // A process that began after the first had ended finds the folder there, which without force is no race.
    for (const s of said.filter((s) => !s.startsWith("done"))) expect(["E_LOCKED", "E_OUTPUT"]).toContain(s)
    if (force === "") expect(winners.length).toBe(1)
    const contents = ["a", "b", "c"].map((name) => readFileSync(join(target, name), "utf8"))
    expect(new Set(contents).size).toBe(1)
    expect(winners).toContain(`done ${contents[0]}`)
    expect(beside(target)).toEqual([])
  })

  it("within one process, exactly one of eight wins and the rest are E_LOCKED", async () => {
    const target = join(scratch, "eight", "out")
    const results = await Promise.allSettled(
      Array.from({ length: 8 }, (_, i) =>
        publishFolder(target, async (dir) => {
          await writeFileAtomic(join(dir, "x"), String(i))
          await new Promise((done) => setTimeout(done, 50))
        }),
      ),
    )
    const refused = results.flatMap((r) => (r.status === "rejected" ? [(r.reason as { code: string }).code] : []))
    expect(refused).toEqual(Array.from({ length: 7 }, () => "E_LOCKED"))
    expect(readdirSync(target)).toEqual(["x"])
    expect(beside(target)).toEqual([])
  })
})

it("two folders beside each other are written at the same time", async () => {
  const publish = (name: string) =>
    publishFolder(join(scratch, "both", name), async (dir) => {
      await writeFileAtomic(join(dir, "x"), name)
      await new Promise((done) => setTimeout(done, 50))
    })
  await Promise.all([publish("a"), publish("b"), publish("a.b"), publish("c")])
  expect(readdirSync(join(scratch, "both"))).toEqual(["a", "a.b", "b", "c"])
})

describe("leftovers", () => {
  /** A process id that is free: that of a process which has ended. */
  const dead = Number(execFileSync(process.execPath, ["-p", "process.pid"], { encoding: "utf8" }))

  it("of dead processes go, others stay", async () => {
    const parent = join(scratch, "leftovers")
    mkdirSync(join(parent, `.model.tmp-${dead}-x1`, "deep"), { recursive: true })
    writeFileSync(join(parent, `.a.tmp-${dead}-0`), "")
    writeFileSync(join(parent, `.a.tmp-${process.pid}-0old`), "")
    writeFileSync(join(parent, `.b.tmp-${process.ppid}-0`), "")
    writeFileSync(join(parent, ".a.tmp-0-1"), "")
    // A name as ours, of another machine: one from now, one from two days ago.
    const foreign = (ago: number): string =>
      `.c.tmp-${dead}-${(Date.now() - ago).toString(36).padStart(9, "0")}ffffff01234567`
    writeFileSync(join(parent, foreign(2 * 24 * 3600 * 1000)), "")
    const others = [foreign(0), ".a.tmp", ".tmp-1-2", `a.tmp-${dead}-0`, `.a.tmp-${dead}-X`, `.a.tmp-${dead}-0.txt`]
    for (const name of others) writeFileSync(join(parent, name), "")
    await writeFileAtomic(join(parent, "z"), "")
    expect(readdirSync(parent).sort()).toEqual([...others, `.b.tmp-${process.ppid}-0`, "z"].sort())
  })

  it("are never followed out of the folder", async () => {
    const parent = join(scratch, "links")
    const outside = join(scratch, "outside")
    mkdirSync(parent)
    mkdirSync(outside)
    writeFileSync(join(outside, "keep"), "")
    execFileSync("ln", ["-s", outside, join(parent, `.a.tmp-${dead}-1`)])
    await writeFileAtomic(join(parent, "z"), "")
    expect(readdirSync(parent)).toEqual(["z"])
    expect(lstatSync(join(outside, "keep")).isFile()).toBe(true)
  })
})
