/** @file vit-prisma activations in real processes: the library's values, hooks by name and glob, patches, interruption. */
import { copyFileSync, cpSync, existsSync, linkSync, mkdtempSync, readdirSync, readFileSync, rmSync } from "node:fs"
import { tmpdir } from "node:os"
import { join } from "node:path"
import { afterAll, describe, expect, it } from "vitest"
import { float32, loadPretrained } from "../src/index.ts"
import { cli, demoModel, reference, seven, twoAtATime, type Written, writeTensors } from "./helpers/cli.ts"
import { floats, readSafetensors, type Stored } from "./helpers/read-safetensors.ts"

const scratch = mkdtempSync(join(tmpdir(), "vit-prisma-activations-"))
afterAll(() => rmSync(scratch, { recursive: true }))
const at = (name: string): string => join(scratch, name)

const VISION = "hf-vit-names-v5"
const DUAL = "hf-clip-eos-2"
const expectedOf = (name: string): Map<string, Stored> =>
  readSafetensors(join(reference(name), "expected.safetensors")).tensors
const written = (t: Stored): Written => ({ shape: t.shape, data: floats(t) })

/** A file with the inputs of a case; ids in the given array. */
function inputFile(name: string, ids: (values: Float32Array) => Written["data"] = (v) => v): string {
  const tensors = expectedOf(name)
  const [pixels, tokens] = [tensors.get("input.pixel_values")!, tensors.get("input.input_ids")]
  return writeTensors(at(`in${readdirSync(scratch).length}.safetensors`), {
    pixel_values: written(pixels),
    ...(tokens && { input_ids: { shape: tokens.shape, data: ids(floats(tokens)) } }),
  })
}

/** Run, expect success, read what was written. */
async function activations(model: string, args: readonly string[], out = at(`out${readdirSync(scratch).length}`)) {
  const ran = await cli(["activations", model, ...args, "--out", out])
  expect(ran.stderr, args.join(" ")).toMatch(/^wrote \d+ tensors? to /)
  expect(ran.code).toBe(0)
  return readSafetensors(out).tensors
}

/** Largest |a - b| / max(1, max |b|). */
function error(a: Stored, b: Stored): number {
  expect([a.dtype, a.shape]).toEqual([b.dtype, b.shape])
  const [x, y] = [floats(a), floats(b)]
  return Math.max(...x.map((v, i) => Math.abs(v - y[i]!))) / Math.max(1, ...y.map(Math.abs))
}

it("a device that is missing is one object on stderr, and nothing of onnxruntime's own", async () => {
  const out = at("no-device.safetensors")
  const asked = ["--input", inputFile(VISION), "--out", out, "--device", "cuda", "--json"]
  const { code, stderr } = await cli(["activations", reference(VISION), ...asked])
  if (code === 0) return // there is one
  expect([
    code,
    stderr
      .trim()
      .split("\n")
      .map((line) => (JSON.parse(line) as { code: string }).code),
  ]).toEqual([2, ["E_DEVICE"]])
  expect(existsSync(out)).toBe(false)
})

describe("what is written", () => {
  it.each([
    [VISION, "float32", undefined],
    [DUAL, "float32", undefined],
    [DUAL, "int32", (v: Float32Array) => Int32Array.from(v)],
    [DUAL, "int64", (v: Float32Array) => BigInt64Array.from(Array.from(v, BigInt))],
    [DUAL, "float64", (v: Float32Array) => Float64Array.from(v)],
  ])("is what transformers computes: %s, ids as %s", async (name, _, ids) => {
    const expected = expectedOf(name)
    const model = await loadPretrained(reference(name))
    const hooks = [...expected.keys()].filter((key) => model.hooks.has(key))
    const got = await activations(reference(name), ["--input", inputFile(name, ids), "--hooks", hooks.join(",")])
    const wanted = [...expected.keys()].filter((key) => !/^(input|grad)\./.test(key))
    expect(wanted.length).toBeGreaterThan(30)
    expect([...got.keys()].sort()).toEqual([...new Set([...hooks, ...model.outputNames])].sort())
    for (const key of wanted) expect(error(got.get(key)!, expected.get(key)!), key).toBeLessThan(1e-5)
  })

  it("holds the hooks that are named, and all outputs", async () => {
    const cases: [string[], string[]][] = [
      [[], []],
      [["--hooks", "hook_embed"], ["hook_embed"]],
      [["--hooks", "ln_final.*"], ["ln_final.hook_normalized", "ln_final.hook_scale"]],
      [["--hooks", "blocks.{0,2}.hook_resid_{pre,mid},hook_embed"], ["blocks.0.hook_resid_mid", "blocks.0.hook_resid_pre", "blocks.2.hook_resid_mid", "blocks.2.hook_resid_pre", "hook_embed"]],
      [["--hooks", "hook_embed", "--hooks", "blocks.[12].attn.hook_?"], ["blocks.1.attn.hook_k", "blocks.1.attn.hook_q", "blocks.1.attn.hook_v", "blocks.1.attn.hook_z", "blocks.2.attn.hook_k", "blocks.2.attn.hook_q", "blocks.2.attn.hook_v", "blocks.2.attn.hook_z", "hook_embed"]],
      [["--hooks", "*.hook_result,blocks.1.hook_mlp_in"], ["blocks.0.attn.hook_result", "blocks.1.attn.hook_result", "blocks.1.hook_mlp_in", "blocks.2.attn.hook_result"]],
    ] // prettier-ignore
    const got = await twoAtATime([...cases.entries()], ([i, [args]]) =>
      activations(demoModel, [seven, seven, ...args], at(`hooks ${i}`)),
    )
    for (const [i, [, hooks]] of cases.entries()) {
      expect([...got[i]!.keys()].sort()).toEqual([...hooks, "logits"].sort())
      expect(got[i]!.get("logits")!.shape).toEqual([2, 10])
    }
    expect(got[5]!.get("blocks.0.attn.hook_result")!.shape).toEqual([2, 50, 4, 64])
  })

  it("is told, and lies where it was asked for, in a new folder too", async () => {
    const out = at("new/folder/out.safetensors")
    const ran = await cli(["activations", demoModel, seven, "--out", out, "--hooks", "hook_embed", "--json"])
    expect(ran.stderr).toBe("")
    const tensors = [
      { name: "logits", shape: [1, 10], bytes: 40 },
      { name: "hook_embed", shape: [1, 49, 64], bytes: 12_544 },
    ]
    expect(JSON.parse(ran.stdout)).toEqual({ file: out, tensors })
    expect(readdirSync(at("new/folder"))).toEqual(["out.safetensors"])
  })
})

describe("a patch", () => {
  const HOOK = "blocks.1.hook_resid_mid"

  it("with the hook's own value changes nothing, with another what the API's patch changes", async () => {
    const input = ["--input", inputFile(VISION)]
    const plain = await activations(reference(VISION), [...input, "--hooks", `${HOOK},ln_final.*`])
    const own = writeTensors(at("own"), { [HOOK]: written(plain.get(HOOK)!) })
    const twice = floats(plain.get(HOOK)!).map((v) => 2 * v)
    const { shape } = plain.get(HOOK)!
    const zeros = { shape: [1, ...shape.slice(1)], data: new Float64Array(shape.slice(1).reduce((a, b) => a * b)) }
    const other = writeTensors(at("other"), {
      other: zeros,
      [HOOK]: { shape, data: twice },
      "blocks.0.hook_mlp_out": zeros,
    })
    const hooks = ["--hooks", `${HOOK},blocks.0.hook_mlp_out,ln_final.*`]
    const [same, changed] = await Promise.all([
      activations(reference(VISION), [...input, "--hooks", `${HOOK},ln_final.*`, "--patch", `${HOOK}=${own}`], at("same")),
      activations(reference(VISION), [...input, ...hooks, "--patch", `${HOOK}=${other}`, "--patch", `blocks.0.hook_mlp_out=${other}`], at("changed")),
    ]) // prettier-ignore
    for (const [name, t] of plain) expect(error(same.get(name)!, t), name).toBeLessThan(1e-6)
    expect(floats(changed.get(HOOK)!)).toEqual(twice)
    expect(error(changed.get("logits")!, plain.get("logits")!)).toBeGreaterThan(1e-2)

    const model = await loadPretrained(reference(VISION))
    const pixels = expectedOf(VISION).get("input.pixel_values")!
    const patch = {
      [HOOK]: float32(shape, twice),
      "blocks.0.hook_mlp_out": float32(zeros.shape, Float32Array.from(zeros.data)),
    }
    const { logits } = await model.run(float32(pixels.shape, floats(pixels)), { patch })
    const theirs = floats(changed.get("logits")!)
    const worst = Math.max(...theirs.map((v, i) => Math.abs(v - Number(logits.data[i]))))
    expect(worst).toBeLessThan(1e-6)
  })

  it("that does not fit is refused before anything is written", async () => {
    const wrong = writeTensors(at("wrong"), { [HOOK]: { shape: [2], data: Float32Array.of(1, 2) } })
    const cases: [string[], string, number, RegExp][] = [
      [[HOOK], "E_USAGE", 2, /--patch wants HOOK=FILE.safetensors, got "blocks/],
      [[`=${wrong}`], "E_USAGE", 2, /--patch wants/],
      [[`${HOOK}=`], "E_USAGE", 2, /--patch wants/],
      [[`${HOOK}=${wrong}`, "--patch", `${HOOK}=${wrong}`], "E_USAGE", 2, /names the hook "blocks.1.hook_resid_mid" twice/],
      [[`blocks.1.hook_resid=${wrong}`], "E_HOOK", 2, /the nearest are "blocks.1.hook_resid_/],
      [[`blocks.*.hook_resid_mid=${wrong}`], "E_HOOK", 2, /no hook "blocks.\*.hook_resid_mid"/],
      [[`hook_embed=${wrong}`], "E_INPUT", 1, /wrong: holds no "hook_embed"; it has "blocks.1.hook_resid_mid"/],
      [[`${HOOK}=${at("gone")}`], "E_NOT_A_FILE", 1, /gone: does not exist/],
      [[`${HOOK}=${wrong}`], "E_INPUT", 1, /"blocks.1.hook_resid_mid" wants shape \[.*\], got \[2\]/],
    ] // prettier-ignore
    const out = at("refused")
    const ran = await twoAtATime(cases, ([patch]) =>
      cli(["activations", demoModel, seven, "--out", out, "--json", "--patch", ...patch]),
    )
    for (const [i, [args, code, exit, message]] of cases.entries()) {
      expect(ran[i]!.code, args.join(" ")).toBe(exit)
      expect(JSON.parse(ran[i]!.stderr), args.join(" ")).toMatchObject({
        code,
        message: expect.stringMatching(message),
      })
    }
    expect(existsSync(out)).toBe(false)
  })
})

describe("an input file", () => {
  it("of the wrong kind is refused by name", async () => {
    const pixels = { shape: [1, 1, 28, 28], data: new Float32Array(784) }
    const files: [string, string, Record<string, Written>, RegExp][] = [
      [demoModel, "other names", { pixels }, /holds no "pixel_values"; it has "pixels"/],
      [demoModel, "no tensor", {}, /holds no "pixel_values"; it has no tensor/],
      [demoModel, "wrong shape", { pixel_values: { ...pixels, shape: [1, 28, 1, 28] } }, /"pixel_values" wants shape \[batch, 1, 28, 28\], got \[1, 28, 1, 28\]/],
      [reference(DUAL), "ids out of range", { input_ids: { shape: [1, 2], data: Int32Array.of(1, -1) } }, /input_ids hold -1/],
      [reference(DUAL), "ids between", { input_ids: { shape: [1, 2], data: Float32Array.of(1, 0.5) } }, /input_ids hold 0.5/],
      [reference(DUAL), "ids not a table", { input_ids: { shape: [2], data: Int32Array.of(1, 2) } }, /must be \[texts, tokens\], got \[2\]/],
    ] // prettier-ignore
    const ran = await twoAtATime(files, ([model, name, tensors]) =>
      cli(["activations", model, "--input", writeTensors(at(name), tensors), "--out", at("none"), "--json"]),
    )
    for (const [i, [, name, , message]] of files.entries()) {
      expect(JSON.parse(ran[i]!.stderr), name).toMatchObject({
        code: "E_INPUT",
        message: expect.stringMatching(message),
      })
    }
    expect(existsSync(at("none"))).toBe(false)
  })

  it("with one tower's input gives that tower's outputs; tensors of no concern are not read", async () => {
    const ids = { shape: [2, 3], data: Int32Array.of(1, 2, 3, 4, 5, 2) }
    const file = writeTensors(at("ids only"), {
      input_ids: ids,
      note: { shape: [4], data: Float32Array.of(1), dtype: "F8_E4M3" },
    })
    const got = await activations(reference(DUAL), ["--input", file, "--hooks", "text.blocks.0.hook_resid_post"])
    expect([...got.keys()].sort()).toEqual(["text.blocks.0.hook_resid_post", "text_embeds"])
  })
})

describe("the file to write", () => {
  it("replaces an old one, but none that is read", async () => {
    const model = at("model")
    cpSync(demoModel, model, { recursive: true })
    const weights = join(model, "model.safetensors")
    const before = readFileSync(weights)
    linkSync(weights, at("second name"))
    copyFileSync(seven, at("seven.png"))
    const patch = writeTensors(at("embed"), { hook_embed: { shape: [1, 49, 64], data: new Float32Array(49 * 64) } })
    const outs = [weights, at("second name"), at("seven.png"), patch]
    const ran = await twoAtATime(outs, (out) =>
      cli(["activations", model, at("seven.png"), "--patch", `hook_embed=${patch}`, "--out", out]),
    )
    for (const { code, stderr } of ran) {
      expect(stderr).toMatch(/^vit-prisma: .*: is .*, which is read here; choose another name \[E_OUTPUT\]\n$/)
      expect(code).toBe(6)
    }
    expect(readFileSync(weights)).toEqual(before)
    for (let i = 0; i < 2; i++) expect([...(await activations(model, [seven], at("again"))).keys()]).toEqual(["logits"])
  })

  it.each(["SIGINT", "SIGTERM", "SIGKILL"] as const)(
    "is not there after %s, and what is left is swept by the next run",
    async (signal) => {
      // The process stands still when the temporary file is to be synced.
      const hang = `
      import { open } from "node:fs/promises"
      const handle = await open(process.execPath)
      Object.getPrototypeOf(handle).sync = () => new Promise(() => { setInterval(() => {}, 1000); process.stderr.write("here") })
      await handle.close()`
      const folder = at(signal)
      const args = ["activations", demoModel, seven, "--out", join(folder, "out")]
      const ran = await cli(args, {
        preload: hang,
        started: (child) => child.stderr!.once("data", () => child.kill(signal)),
      })
      expect([ran.stderr, ran.stdout]).toEqual(["here", ""])
      expect(ran.signal ?? { 130: "SIGINT", 143: "SIGTERM" }[ran.code!]).toBe(signal)
      expect(readdirSync(folder)).toEqual([expect.stringMatching(/^\.out\.tmp-\d+-[0-9a-z]+$/)])
      expect((await cli(args)).code).toBe(0)
      expect(readdirSync(folder)).toEqual(["out"])
    },
  )
})
