/** @file Exports gone wrong: kills and failing disks at every call, folders in the way, damage, wrong weights, odd names. */
import {
  cpSync,
  existsSync,
  linkSync,
  mkdirSync,
  mkdtempSync,
  readdirSync,
  readFileSync,
  realpathSync,
  rmSync,
  writeFileSync,
} from "node:fs"
import { tmpdir } from "node:os"
import { basename, join } from "node:path"
import { afterAll, describe, expect, it } from "vitest"
import { PrismaError } from "../src/errors.ts"
import { convertModel } from "../src/export/convert.ts"
import { checkManifest } from "../src/files/manifest.ts"
import { emit, type Values } from "../src/graph/emit.ts"
import { add, input, param } from "../src/graph/ops.ts"
import { LoadedViT, loadPretrained } from "../src/hub/load-pretrained.ts"
import { nodeRuntime } from "../src/runtime/node.ts"
import { readTensor } from "../src/files/safetensors-file.ts"
import { float32 } from "../src/tensor/tensor.ts"
import { runTs } from "./helpers/child.ts"
import { cli, demoModel, reference, seven, twoAtATime } from "./helpers/cli.ts"
import { FAULTS } from "./helpers/faults.ts"
import { floats, readSafetensors, type Stored } from "./helpers/read-safetensors.ts"

const scratch = realpathSync(mkdtempSync(join(tmpdir(), "vit-prisma-convert-faults-")))
afterAll(() => rmSync(scratch, { recursive: true }))
const at = (...names: string[]): string => join(scratch, ...names)

async function thrown(work: Promise<unknown>): Promise<PrismaError> {
  const error: unknown = await work.then(
    () => undefined,
    (e: unknown) => e,
  )
  if (!(error instanceof PrismaError)) throw error ?? new Error("nothing was thrown")
  expect(error.message).not.toContain("\n")
  return error
}

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

describe("CV-05: large weights", () => {
  it("lie outside the graph, at offsets and lengths beyond 2 and 4 GiB", () => {
    const stored = (name: string, rows: number, offset: number) =>
      param(name, [rows, 1024], { dtype: "float32", shape: [rows, 1024], file: "/w", offset, length: rows * 4096 })
    const [big, far] = [stored("big", 1 << 20, 8), stored("far", 1, 2 ** 42)] // 4 GiB in one tensor
    const x = input("x", [1, 1024])
    const values = { a: add(add(x, far), input("y", [1 << 20, 1024])), b: add(big, x) }
    const inputs: Values = { x, y: values.a.inputs[1]! }
    const { bytes } = emit(inputs, values, { locate: () => "model.onnx_data", named: true })
    const text = Buffer.from(bytes).toString("latin1")
    for (const number of [2 ** 32, 2 ** 42]) expect(text).toContain(String(number))
    expect(bytes.length).toBeLessThan(2000)
  })
})

describe("CV-09: one flipped bit", () => {
  it("is found, wherever it is", async () => {
    await convertModel(await demo(), at("whole"), { certify: true })
    const files = Object.keys(
      (JSON.parse(readFileSync(at("whole", "manifest.json"), "utf8")) as { files: object }).files,
    )
    expect(files).toHaveLength(6)
    for (const file of files) {
      const folder = at(`flipped ${basename(file)}`)
      cpSync(at("whole"), folder, { recursive: true })
      const bytes = readFileSync(join(folder, file))
      bytes[bytes.length >> 1]! ^= 0x10
      writeFileSync(join(folder, file), bytes)
      const error = await thrown(checkManifest(folder))
      expect([error.code, error.exitCode, error.file]).toEqual(["E_INTEGRITY", 3, join(folder, file)])
      // Loading reads no graph and hashes none.
      if (file.startsWith("onnx/")) expect((await loadPretrained(folder)).hooks.size).toBeGreaterThan(10)
      else expect((await thrown(loadPretrained(folder))).code).toBe("E_INTEGRITY")
    }
  })

  it("is found by the process that has checked the file before", async () => {
    cpSync(at("whole"), at("later"), { recursive: true })
    await loadPretrained(at("later"))
    const path = at("later", "model.safetensors")
    const bytes = readFileSync(path)
    bytes[bytes.length - 1]! ^= 1
    writeFileSync(path, bytes)
    expect((await thrown(loadPretrained(at("later")))).code).toBe("E_INTEGRITY")
    linkSync(path, at("unused"))
  })

  it("is found in the manifest too, which is never trusted", async () => {
    const manifest = readFileSync(at("whole", "manifest.json"), "utf8")
    const files = (value: unknown) => JSON.stringify({ ...(JSON.parse(manifest) as object), files: value })
    const cases: [string, string, string][] = [
      ["cut", manifest.slice(0, -20), "E_INTEGRITY"],
      ["no files", files(null), "E_INTEGRITY"],
      ["null entry", files({ "config.json": null }), "E_INTEGRITY"],
      ["text entry", files({ "config.json": "x\u0000".repeat(10_000) }), "E_INTEGRITY"],
      ["no hash", files({ "config.json": { bytes: 3 } }), "E_INTEGRITY"],
      ["gone", files({ "gone.json": { bytes: 3, sha256: "0".repeat(64) } }), "E_INTEGRITY"],
      ["a folder", files({ onnx: { bytes: 3, sha256: "0".repeat(64) } }), "E_INTEGRITY"],
      ["upwards", files({ "../x": { bytes: 3, sha256: "0".repeat(64) } }), "E_UNSAFE_PATH"],
      ["absolute", files({ "/etc/passwd": { bytes: 3, sha256: "0".repeat(64) } }), "E_UNSAFE_PATH"],
      ["proto", files(JSON.parse('{"__proto__": 3}')), "E_INTEGRITY"],
      ["deep", "[".repeat(1000), "E_INTEGRITY"],
    ]
    const folder = at("manifests")
    cpSync(at("whole"), folder, { recursive: true })
    for (const [what, text, code] of cases) {
      writeFileSync(join(folder, "manifest.json"), text)
      const error = await thrown(loadPretrained(folder))
      expect([error.code, error.message.length < 1000], what).toEqual([code, true])
    }
    for (const foreign of ['{"name":"app","icons":[]}', "null", '"x"']) {
      writeFileSync(join(folder, "manifest.json"), foreign)
      expect(await checkManifest(folder)).toBe(false)
    }
  })
})

describe("CV-10: names", () => {
  it("of outputs, inputs, weights and 100,000 hooks never meet", () => {
    const x = input("x", [2])
    const w = param("w", [2], float32([2], [1, 2]))
    const sum = add(x, w)
    const many = Object.fromEntries(Array.from({ length: 100_000 }, (_, i) => [`hook.${i}`, i % 2 ? sum : add(sum, x)]))
    const outputs: Values = { w: sum, sum: w, x: add(sum, w), add_2: x, ...many }
    const begun = performance.now()
    const { bytes, outputs: ports } = emit({ x }, outputs, { named: true })
    expect(performance.now() - begun).toBeLessThan(5000)
    expect(ports.size).toBe(100_004)
    expect(new Set([...ports.values()].map((p) => p.port)).size).toBe(100_004)
    expect(bytes.length).toBeLessThan(2 ** 25)
  })

  it("of an output that is a weight's or an input's get another port, with the right values", async () => {
    const x = input("x", [2])
    const w = param("w", [2], float32([2], [1, 2]))
    const { bytes, outputs } = emit({ x }, { w: add(x, w), x: w, add_2: x, same: x }, { named: true })
    const ort = await import("onnxruntime-node")
    const session = await ort.InferenceSession.create(bytes, { logSeverityLevel: 3 })
    const got = await session.run({ x: new ort.Tensor("float32", [10, 20], [2]) })
    const of = (name: string) => [...(got[outputs.get(name)!.port]!.data as Float32Array)]
    expect(["w", "x", "add_2", "same"].map(of)).toEqual([[11, 22], [1, 2], [10, 20], [10, 20]]) // prettier-ignore
  })

  it("of hooks that shadow each other are refused", async () => {
    const both = convertModel(await demo(), at("shadowed"), { inputs: ["blocks.0.ln1.*", "blocks.0.hook_q_input"] })
    expect(await thrown(both)).toMatchObject({
      code: "E_HOOK",
      message: expect.stringContaining("blocks.0.ln1.hook_scale"),
    })
    const apart = await convertModel(await demo(), at("apart"), {
      inputs: ["blocks.1.ln1.*", "blocks.0.hook_q_input"],
      hooks: ["*.hook_q_input", "*.hook_result", "*.hook_mlp_in"],
      certify: true,
    })
    expect(apart.certificate!.values).toHaveLength(10)
  })
})

describe("CV-11: parity", () => {
  /** The model with one value of one weight changed, as if it had been read wrongly. */
  function withFault(model: LoadedViT, name: string, change: (values: Float32Array) => void): LoadedViT {
    const { tensor, ...view } = model.weights.get(name)!
    if (!("file" in tensor)) throw new Error("expected a stored weight")
    const bytes = readFileSync(tensor.file).subarray(tensor.offset, tensor.offset + tensor.length)
    const values = new Float32Array(Uint8Array.from(bytes).buffer)
    change(values)
    const weights = new Map(model.weights).set(name, { ...view, tensor: float32(tensor.shape, values) })
    return new LoadedViT(
      { config: model.config, weights, runtime: nodeRuntime(), read: readTensor },
      model.source,
      undefined,
    )
  }

  it("that fails publishes nothing, keeps what was there, and leaves the report beside", async () => {
    const wrong = withFault(await demo(), "blocks.1.attn.v.weight", (values) => (values[5]! += 1e-2))
    const error = await thrown(convertModel(wrong, at("wrong"), { hooks: "*", certify: true }))
    expect([error.code, error.exitCode, error.file]).toEqual(["E_PARITY", 3, at("wrong.certificate.json")])
    expect(existsSync(at("wrong"))).toBe(false)
    interface Report {
      tolerance: number
      values: { name: string; error: number; cosine: number }[]
    }
    const report = JSON.parse(readFileSync(at("wrong.certificate.json"), "utf8")) as Report
    const above = report.values.filter((v) => v.error > 1e-4).map((v) => v.name)
    // What lies before the wrong weight agrees.
    expect(above).toContain("logits")
    expect(above).toContain("blocks.1.attn.hook_v")
    expect(above.filter((name) => /^hook|^blocks\.0|^blocks\.1\.(ln1|hook_resid_pre)/.test(name))).toEqual([])
    const worst = report.values.reduce((a, b) => (b.error > a.error ? b : a))
    expect(error.message).toContain(`the worst "${worst.name}" by ${worst.error}`)

    await convertModel(await demo(), at("stays"))
    const before = readFileSync(at("stays", "manifest.json"))
    expect((await thrown(convertModel(wrong, at("stays/"), { certify: true, force: true }))).code).toBe("E_PARITY")
    expect(readFileSync(at("stays", "manifest.json"))).toEqual(before)
    expect(existsSync(at("stays.certificate.json"))).toBe(true)
    expect(leftovers(scratch)).toEqual([])
  })

  it("of weights that are no numbers fails; without it they are told by tensor and count", async () => {
    const source = at("nan")
    cpSync(demoModel, source, { recursive: true })
    const path = join(source, "model.safetensors")
    const bytes = readFileSync(path)
    const header = Number(bytes.readBigUInt64LE())
    const { "classifier.bias": bias } = JSON.parse(bytes.subarray(8, 8 + header).toString()) as Record<
      string,
      { data_offsets: [number, number] }
    >
    bytes.writeFloatLE(NaN, 8 + header + bias!.data_offsets[0])
    bytes.writeFloatLE(-Infinity, 8 + header + bias!.data_offsets[0] + 8)
    writeFileSync(path, bytes)
    expect(readSafetensors(path).tensors.get("classifier.bias")).toSatisfy((t: Stored) => Number.isNaN(floats(t)[0]))
    const model = await loadPretrained(source)
    const { warnings } = await convertModel(model, at("nan out"))
    expect(warnings).toEqual(['the tensor "classifier.bias" holds 2 values that are NaN or infinite'])
    const error = await thrown(convertModel(model, at("nan certified"), { certify: true }))
    expect([error.code, existsSync(at("nan certified"))]).toEqual(["E_PARITY", false])
    expect(error.message).toContain('the worst "logits" which holds values that are no numbers')
    const report = JSON.parse(readFileSync(at("nan certified.certificate.json"), "utf8")) as { values: object[] }
    expect(report.values).toEqual([{ name: "logits", shape: [1, 10], error: "Infinity", cosine: 0 }])
    const warned = await cli(["convert", source, "--out", at("nan cli"), "--json"])
    expect(JSON.parse(warned.stderr)).toEqual({ warning: warnings[0] })
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
