/** @file Exports of large weights, odd names and wrong weights, and exports that were damaged later (CV-05, 09, 10, 11). */
import {
  cpSync,
  existsSync,
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
import { cpuMs } from "./helpers/cpu.ts"
import { convertModel } from "../src/export/convert.ts"
import { checkManifest } from "../src/files/manifest.ts"
import { readTensor } from "../src/files/safetensors-file.ts"
import { emit, type Values } from "../src/graph/emit.ts"
import { add, input, param } from "../src/graph/ops.ts"
import { LoadedViT, loadPretrained } from "../src/hub/load-pretrained.ts"
import { nodeRuntime } from "../src/runtime/node.ts"
import { float32 } from "../src/tensor/tensor.ts"
import { cli, demoModel } from "./helpers/cli.ts"
import { floats, readSafetensors, type Stored } from "./helpers/read-safetensors.ts"
import { thrown } from "./helpers/thrown.ts"

const scratch = realpathSync(mkdtempSync(join(tmpdir(), "vit-prisma-convert-limits-")))
afterAll(() => rmSync(scratch, { recursive: true }))
const at = (...names: string[]): string => join(scratch, ...names)

const demo = (): Promise<LoadedViT> => loadPretrained(demoModel)
const leftovers = (folder: string): string[] => readdirSync(folder).filter((name) => name.startsWith("."))

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
    const begun = cpuMs()
    const { bytes, outputs: ports } = emit({ x }, outputs, { named: true })
    expect(cpuMs() - begun).toBeLessThan(5000)
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
