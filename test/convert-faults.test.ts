/** @file Exports that are interrupted, meet a failing disk, another process or what is in the way (CV-01, 02, 03, 14). */
import {
  cpSync,
  existsSync,
  mkdirSync,
  mkdtempSync,
  readdirSync,
  readFileSync,
  realpathSync,
  rmSync,
  writeFileSync,
} from "node:fs"
import { tmpdir } from "node:os"
import { join } from "node:path"
import { afterAll, describe, expect, it } from "vitest"
import { convertModel } from "../src/export/convert.ts"
import { checkManifest } from "../src/files/manifest.ts"
import { type LoadedViT, loadPretrained } from "../src/hub/load-pretrained.ts"
import { runTs } from "./helpers/child.ts"
import { cli, demoModel, reference, seven, twoAtATime } from "./helpers/cli.ts"
import { FAULTS } from "./helpers/faults.ts"
import { thrown } from "./helpers/thrown.ts"
import * as v from "./helpers/variants.ts"

const scratch = realpathSync(mkdtempSync(join(tmpdir(), "vit-prisma-convert-faults-")))
afterAll(() => rmSync(scratch, { recursive: true }))
const at = (...names: string[]): string => join(scratch, ...names)

const small = reference("hf-vit-names-v5")
const demo = (): Promise<LoadedViT> => loadPretrained(demoModel)
const leftovers = (folder: string): string[] => readdirSync(folder).filter((name) => name.startsWith("."))

/** A conversion over and over in one process, each time with another call that goes wrong; what came of each, as JSON. */
const PROGRAM = `
import { cpSync, existsSync, mkdirSync, readdirSync, readFileSync } from "node:fs"
import { dirname, join } from "node:path"
import { convertModel } from "../src/export/convert.ts"
import { checkManifest } from "../src/files/manifest.ts"
import { loadPretrained } from "../src/hub/load-pretrained.ts"
const { faults } = globalThis as unknown as { faults: { calls: string[]; at: number; only?: string[]; code: string } }
const [model, old, scratch, given] = process.argv.slice(2) as [string, string, string, string]
const source = await loadPretrained(model)

// Instead of dying, a killed conversion stands still for ever, which leaves the same on the disk.
let die: (how: string) => void
const kill = process.kill.bind(process)
process.kill = ((pid: number, signal: string | number) => {
  if (signal !== "SIGKILL") return kill(pid, signal)
  die("killed")
  return true
}) as typeof process.kill

/** "old", "new" (all its files are what its manifest says), "absent", "torn". */
async function state(target: string): Promise<string> {
  if (!existsSync(target)) return "absent"
  const manifest = join(target, "manifest.json")
  if (!existsSync(manifest)) return "torn"
  const whole = await checkManifest(target).catch(() => false)
  if (!whole || !existsSync(join(target, "onnx", "model.onnx_data"))) return "torn"
  return readFileSync(manifest, "utf8") === readFileSync(join(old, "manifest.json"), "utf8") ? "old" : "new"
}

const results = []
async function convert(code: string, force: boolean, at: number) {
  const target = join(scratch, [code, force, at].join("-"), "out")
  mkdirSync(dirname(target), { recursive: true })
  if (force) cpSync(old, target, { recursive: true })
  Object.assign(faults, { calls: [], at, code })
  const dead = new Promise<string>((done) => (die = done))
  const converted = convertModel(source, target, { hooks: "*.hook_z", force }).then(
    () => "done",
    (e: { name: string; code: string; message: string }) => e.message.includes("\\n") ? "bad message" : e.name + " " + e.code,
  )
  const got = await Promise.race([converted, dead])
  const calls = [...faults.calls]
  faults.at = 0
  const beside = readdirSync(dirname(target)).filter((name) => name !== "out")
  results.push({ code, force, at, call: calls[at - 1], got, state: await state(target), beside })
  return calls
}

for (const force of [false, true]) {
  const calls = await convert("none", force, 0)
  // For each tensor its file is opened and it is written: of these the first and the last.
  const same = (i: number) => [-2, -1, 0, 1, 2].every((by) => ["open", "write"].includes(calls[i + by]!))
  const chosen = calls.flatMap((call, i) => (same(i) ? [] : [{ call, at: i + 1 }]))
  for (const [code, only] of JSON.parse(given) as [string, string[]][]) {
    for (const { call, at } of chosen) if (only.length === 0 || only.includes(call)) await convert(code, force, at)
  }
}
console.log(JSON.stringify(results))
process.exit()
`

interface Result {
  readonly code: string
  readonly force: boolean
  readonly at: number
  readonly call?: string
  readonly got: string
  readonly state: string
  readonly beside: string[]
}

/** Without and with force, at every call of the names in `only` (at every call if there are none). */
async function faulty(faults: readonly (readonly [code: string, only: readonly string[]])[]): Promise<Result[]> {
  if (!existsSync(at("old"))) await convertModel(await loadPretrained(small), at("old"))
  const args = [small, at("old"), mkdtempSync(at("faulty-")), JSON.stringify(faults)]
  const ran = await runTs(PROGRAM, { args, preload: FAULTS, node: ["--no-warnings"], timeout: 60_000 })
  expect(ran.stderr).toBe("")
  const results = JSON.parse(ran.stdout) as Result[]
  for (const r of results.filter(({ code }) => code === "none")) {
    expect(r).toMatchObject({ got: "done", state: "new", beside: [] })
  }
  return results.filter(({ code }) => code !== "none")
}

describe("CV-01, CV-02: at every call that changes the disk", () => {
  it("a kill leaves nothing, the old folder, or a whole new one", async () => {
    const results = await faulty([["SIGKILL", []]])
    for (const { call, got, beside } of results) {
      expect(got, call).toBe("killed")
      for (const name of beside) expect(name).toMatch(/^\.out\.tmp-\d+-[0-9a-z]+$/)
    }
    const [fresh, forced] = [results.filter((r) => !r.force), results.filter((r) => r.force)]
    for (const runs of [fresh, forced]) {
      const calls = new Set(runs.map((r) => r.call))
      for (const call of ["mkdir", "open", "write", "sync", "link", "rename"]) expect(calls).toContain(call)
      expect(runs.length).toBeGreaterThan(30)
      // Five files and two folders are synced after the last write and before the folder is renamed.
      const last = runs.map((r) => r.call).join(" ").split(" write ").at(-1)! // prettier-ignore
      const placed = last.slice(0, last.lastIndexOf("rename"))
      expect(placed.split(" ").filter((call) => call === "sync").length).toBeGreaterThanOrEqual(2 + 7)
    }
    expect(new Set(fresh.map((r) => r.state))).toEqual(new Set(["absent", "new"]))
    expect(new Set(forced.map((r) => r.state))).toEqual(new Set(["old", "absent", "new"]))
    // Between two renames the old folder stands aside, from where the next run puts it back.
    const between = forced.filter((r) => r.state === "absent")
    expect(between.map((r) => [r.call, r.beside.length])).toEqual([["rename", 2]])
  })

  it("a failing disk is a typed error, and what was there is there still", async () => {
    const faults = [
      ["ENOSPC", ["write", "mkdir"], "E_DISK_FULL"],
      ["EIO", ["sync", "rename"], "E_IO"],
      ["EMFILE", ["open"], "E_IO"],
      ["EROFS", ["mkdir"], "E_OUTPUT"],
    ] as const
    const results = await faulty(faults.map(([code, only]) => [code, only] as const))
    for (const [code, only, want] of faults) {
      const runs = results.filter((r) => r.code === code)
      expect(new Set(runs.map((r) => r.call)), code).toEqual(new Set(only))
      for (const { got, state, beside, force, call, at } of runs) {
        const what = `${code} at call ${at}, ${call}${force ? ", over a folder" : ""}`
        expect([got, state, beside], what).toEqual([`PrismaError ${want}`, force ? "old" : "absent", []])
      }
    }
  })

  it("links are not needed", async () => {
    const results = await faulty([["EPERM", ["link"]]])
    expect(results.map((r) => [r.got, r.state])).toEqual([["done", "new"], ["done", "new"]]) // prettier-ignore
  })

  it("real processes that are killed leave what the next one sweeps", async () => {
    // At the first write, at the link that makes the data file, at the first sync of the whole folder.
    const preload = (call: string) => `${FAULTS}; Object.assign(globalThis.faults, { only: ["${call}"], at: 2 })`
    const hang = `${FAULTS}
      const stop = process.kill.bind(process)
      process.kill = (pid, signal) => signal === "SIGKILL" ? process.stderr.write("here") : stop(pid, signal)
      Object.assign(globalThis.faults, { only: ["sync"], at: 2 })`
    const ways = ["write", "sync", "rename", "SIGINT", "SIGTERM"]
    await twoAtATime(ways, async (way) => {
      const target = at("killed", way, "out")
      const args = ["convert", demoModel, "--out", target]
      const signal = way.startsWith("SIG") ? (way as NodeJS.Signals) : undefined
      const ran = await cli(args, {
        preload: signal ? hang : preload(way),
        ...(signal && { started: (child) => child.stderr!.once("data", () => child.kill(signal)) }),
      })
      expect(ran.signal ?? { 130: "SIGINT", 143: "SIGTERM" }[ran.code!], way).toBe(signal ?? "SIGKILL")
      expect([ran.stdout, existsSync(target)]).toEqual(["", false])
      expect(leftovers(at("killed", way)), way).toHaveLength(1)
      expect((await cli(args)).code).toBe(0)
      expect(readdirSync(at("killed", way)), way).toEqual(["out"])
      expect(await checkManifest(target)).toBe(true)
    })
  })
})

describe("CV-03: what is in the way", () => {
  it("is refused without force, and replaced whole with it", async () => {
    const model = await demo()
    mkdirSync(at("folder"))
    writeFileSync(at("folder", "precious"), "x")
    writeFileSync(at("file"), "x")
    for (const name of ["folder", "file"]) {
      const error = await thrown(convertModel(model, at(name)))
      expect([error.code, error.exitCode, error.file]).toEqual(["E_OUTPUT", 6, at(name)])
    }
    expect(readFileSync(at("folder", "precious"), "utf8")).toBe("x")
    for (const name of ["folder", "file"]) {
      await convertModel(model, at(name), { force: true })
      expect(await checkManifest(at(name))).toBe(true)
      expect(existsSync(at(name, "precious"))).toBe(false)
    }
    expect((await thrown(convertModel(model, at("file/manifest.json/deeper")))).code).toBe("E_OUTPUT")
    expect(leftovers(scratch)).toEqual([])
  })

  it("is never the checkpoint that is converted, under any name, nor a folder above it", async () => {
    const source = at("above", "source")
    cpSync(demoModel, source, { recursive: true })
    const before = readdirSync(source)
    const model = await loadPretrained(source)
    for (const out of [source, `${source}/`, join(source, "..", "source"), at("above")]) {
      const error = await thrown(convertModel(model, out, { force: true }))
      expect([error.code, error.message.includes("never replaced")], out).toEqual(["E_OUTPUT", true])
    }
    expect(readdirSync(source)).toEqual(before)
    await convertModel(model, join(source, "export"))
    await convertModel(model, at("above", "sourcery"))
    expect(await checkManifest(join(source, "export"))).toBe(true)
  })
})

describe("a source that cannot be converted", () => {
  const refused = async (source: string): Promise<object> => {
    const beside = mkdtempSync(at("refused-"))
    const { code, stdout, stderr } = await cli(["convert", source, "--out", join(beside, "out"), "--json"])
    expect([code, stdout, readdirSync(beside)]).toEqual([1, "", []])
    return JSON.parse(stderr) as object
  }

  it("as shards are missing: all of them are listed, and nothing is left", async () => {
    const source = v.copyCase("hf-vit-sharded", scratch)
    for (const i of [1, 3]) rmSync(join(source, `model-0000${i}-of-00003.safetensors`))
    expect(await refused(source)).toMatchObject({
      code: "E_SHARD_MISSING",
      message: expect.stringContaining(
        "2 of 3 shards are missing: model-00001-of-00003.safetensors, model-00003-of-00003.safetensors;",
      ),
    })
  })

  it.each([
    ["F4", 0.5],
    ["F8_E4M3", 1],
    ["C64", 8],
  ])("as a tensor is %s: it is listed, and the refusal names it", async (dtype, bytes) => {
    const source = v.copyCase("hf-deit", scratch)
    const bias = { dtype, shape: [32], bytes: new Uint8Array(32 * bytes) }
    v.editTensors(source, (all) => all.set("deit.layernorm.bias", bias))
    expect(await refused(source)).toMatchObject({
      code: "E_UNSUPPORTED_DTYPE",
      message: expect.stringContaining(`tensor "deit.layernorm.bias" is ${dtype}`),
    })
    const { stdout } = await cli(["info", join(source, "model.safetensors"), "--json"])
    const { tensors } = JSON.parse(stdout) as { tensors: object[] }
    expect(tensors).toContainEqual({ name: "deit.layernorm.bias", dtype, shape: [32], bytes: 32 * bytes })
  })
})

describe("CV-14: two processes and one folder", () => {
  it.each([[[]], [["--force"]]])(
    "one wins, the other is told or waits its turn, the result is whole %j",
    async (force) => {
      const out = at(`raced${force.join("")}`, "out")
      const cases = [reference("hf-vit-names-v5"), demoModel]
      const ran = await twoAtATime(cases, (model) =>
        cli(["convert", model, "--out", out, "--json", "--certify", ...force]),
      )
      const codes = ran.map((r) => r.code)
      expect(codes).toContain(0)
      for (const { code, stderr } of ran.filter((r) => r.code !== 0)) {
        expect(code).toBe(6)
        expect(["E_LOCKED", "E_OUTPUT"]).toContain((JSON.parse(stderr) as { code: string }).code)
      }
      expect(await checkManifest(out)).toBe(true)
      const model = await loadPretrained(out)
      expect([24_036, 105_546]).toContain(model.nParameters)
      expect(readdirSync(at(`raced${force.join("")}`))).toEqual(["out"])
      if (model.nParameters === 105_546)
        expect((await model.run(await model.images(seven))).logits.shape).toEqual([1, 10])
    },
  )
})
