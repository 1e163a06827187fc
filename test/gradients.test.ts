/** @file Gradients at hooks and weights: against transformers' own and against differences of the metric. */
import { existsSync, mkdtempSync, rmSync, writeFileSync } from "node:fs"
import { tmpdir } from "node:os"
import { join, resolve } from "node:path"
import { afterAll, describe, expect, it } from "vitest"
import {
  float32,
  HookedViT,
  int64,
  loadPretrained,
  ops,
  type GraphView,
  type Tensor,
  type Weight,
} from "../src/index.ts"
import { mulberry32 } from "./helpers/causality.ts"
import { cli, reference } from "./helpers/cli.ts"
import { floats, readSafetensors } from "./helpers/read-safetensors.ts"

const shared = resolve(import.meta.dirname, "../../shared/reference/hf-vit-classifier")
const scratch = mkdtempSync(join(tmpdir(), "gradients-"))
afterAll(() => rmSync(scratch, { recursive: true }))

describe.skipIf(!existsSync(shared))("transformers' gradients of logits[:, 1]", () => {
  it("are ours, at every hook and weight, through the command line", async () => {
    const { tensors } = readSafetensors(join(shared, "expected.safetensors"))
    const names = [...tensors.keys()].filter((n) => n.startsWith("grad.") && !n.startsWith("grad.param."))
    const input = join(scratch, "in.safetensors")
    writeInput(input, tensors.get("input.pixel_values")!)
    const out = join(scratch, "out.safetensors")
    const hooks = names.map((n) => n.slice(5)).join(",")
    const asked = ["--grad", "logits[:,1]", "--grad-params", "--hooks", hooks]
    const { code, stderr } = await cli(["activations", shared, "--input", input, "--out", out, ...asked])
    expect([code, stderr]).toEqual([0, expect.any(String)])
    const got = readSafetensors(out).tensors
    let compared = 0
    for (const [name, want] of tensors) {
      if (!name.startsWith("grad.")) continue
      const [a, b] = [floats(got.get(name)!), floats(want)]
      expect(got.get(name)!.shape).toEqual(want.shape)
      const largest = b.reduce((m, x) => Math.max(m, Math.abs(x)), 0)
      const worst = b.reduce((m, x, i) => Math.max(m, Math.abs(x - a[i]!)), 0)
      // Keys' biases have no effect on a softmax: their gradient is 0, and rounding is all there is to compare.
      const scale = name.endsWith("key.bias") ? 1e-2 : largest
      if (name.endsWith("key.bias")) expect(largest).toBeLessThan(1e-12)
      expect(worst, name).toBeLessThanOrEqual(1e-4 * scale)
      compared++
    }
    expect(compared).toBe(50)
  })
})

describe("gradients", () => {
  const random = mulberry32(5)
  const pixels = (shape: number[]) =>
    float32(
      shape,
      Array.from({ length: shape.reduce((a, b) => a * b, 1) }, () => 2 * random() - 1),
    )

  it.each(["timm-wide", "hf-dinov2", "base-vit-post-norm-qknorm"])(
    "at any hook of %s are those of differences",
    async (name) => {
      const model = await loadPretrained(reference(name), { threads: 1 })
      const { nChannels, imageSize } = model.config.vision
      const x = pixels([2, nChannels, ...imageSize])
      const at = [
        "blocks.0.attn.hook_k",
        "blocks.1.attn.hook_pattern",
        "blocks.0.hook_resid_post",
        "blocks.1.ln1.hook_scale",
      ]
      const hooks = at.filter((hook) => model.hooks.has(hook))
      const metric =
        (o: string) =>
        ({ outputs }: GraphView) =>
          ops.sum(outputs[o]!, [1])
      const output = model.outputNames.includes("logits") ? "logits" : "pooler_output"
      const { hooks: slopes, value } = await model.gradients(x, metric(output), { at: hooks })
      const sum = async (patch = {}) => {
        const t = (await model.run(x, { patch, outputs: [output] }))[output]
        return (t.data as Float32Array).reduce((a, b) => a + b, 0)
      }
      expect(Math.abs(value - (await sum()))).toBeLessThan(1e-4 * Math.max(1, Math.abs(value)))
      const { cache } = await model.runWithCache(x, { names: hooks })
      for (const hook of hooks) {
        const clean = cache.get(hook) as Tensor<"float32">
        // Along one random direction: d metric = <gradient, direction>
        const direction = clean.data.map(() => random() - 0.5)
        const moved = (h: number) =>
          float32(
            clean.shape,
            clean.data.map((v, i) => v + h * direction[i]!),
          )
        const h = 1e-2 * Math.max(...clean.data.map(Math.abs))
        const want = ((await sum({ [hook]: moved(h) })) - (await sum({ [hook]: moved(-h) }))) / (2 * h)
        const got = slopes.get(hook)!.data.reduce((a, g, i) => a + g * direction[i]!, 0)
        expect(Math.abs(got - want), hook).toBeLessThan(0.02 * Math.max(Math.abs(want), 0.02))
      }
      await model.release()
    },
  )

  // Weights that lie transposed, as parts of one tensor, and as one matrix a head.
  it.each(["open-clip-custom-text", "prisma-hooked-vit"])(
    "at every weight of %s are those of differences",
    async (name) => {
      const model = await loadPretrained(reference(name), { threads: 1 })
      const { config, runtime } = model
      const { nChannels, imageSize } = config.vision
      const x = {
        pixel_values: pixels([1, nChannels, ...imageSize]),
        ...(config.text && { input_ids: int64([1, 4], [97, 5, 8, 98]) }),
      }
      const output = config.text ? "logits_per_image" : "logits"
      const metric = `${output}[:, ${config.text ? 0 : 1}]`
      const { params } = await model.gradients(x, metric, { params: true })
      const entries = await Promise.all(
        [...model.weights.keys()].map(async (weight) => [weight, await model.weight(weight)] as const),
      )
      const own = new Map<string, Weight>(entries.map(([weight, tensor]) => [weight, { tensor, shape: tensor.shape }]))
      expect(new Set(params.keys())).toEqual(new Set(own.keys()))
      const at = async (weight: string, data: Float32Array) => {
        const tensor = float32(own.get(weight)!.shape, data)
        const changed = new HookedViT({
          config,
          runtime,
          weights: new Map(own).set(weight, { tensor, shape: tensor.shape }),
        })
        const { data: values } = (await changed.run(x, { outputs: [output] }))[output]
        return values[config.text ? 0 : 1] as number
      }
      for (const [weight, { data, shape }] of entries) {
        if (weight.includes("blocks.1.")) continue // as blocks.0
        const slope = params.get(weight)!
        expect(slope.shape, weight).toEqual(shape)
        // Along the gradient's own signs: d metric = sum |gradient|
        const h = 1e-3 * Math.max(...data.map(Math.abs))
        const moved = (by: number) =>
          at(
            weight,
            data.map((v, i) => v + by * Math.sign(slope.data[i]!)),
          )
        const want = ((await moved(h)) - (await moved(-h))) / (2 * h)
        const got = slope.data.reduce((a, g) => a + Math.abs(g), 0)
        expect(Math.abs(got - want), weight).toBeLessThan(0.02 * Math.max(Math.abs(want), 0.2))
      }
      await model.release()
    },
  )

  it("see patches and edits", async () => {
    const model = await loadPretrained(reference("timm-wide"), { threads: 1 })
    const { nChannels, imageSize } = model.config.vision
    const x = pixels([1, nChannels, ...imageSize])
    const at = "blocks.0.hook_resid_pre"
    const zero = {
      edit: { "blocks.*.hook_resid_post": (v: ReturnType<typeof ops.scalar>) => ops.mul(v, ops.scalar(0)) },
    }
    const cut = await model.gradients(x, "logits[0, 1]", { at, ...zero })
    expect(cut.hooks.get(at)!.data.every((g) => g === 0)).toBe(true)
    const whole = await model.gradients(x, "logits[0, 1]", { at })
    expect(whole.hooks.get(at)!.data.some((g) => g !== 0)).toBe(true)
    await model.release()
  })

  it("are of the images that the metric names, from the end too", async () => {
    const model = await loadPretrained(reference("timm-wide"), { threads: 1 })
    const { nChannels, imageSize } = model.config.vision
    const x = pixels([3, nChannels, ...imageSize])
    const { logits } = await model.run(x, { outputs: "logits" })
    const at = (i: number) => logits.data[i * logits.shape[1]! + 1] as number
    for (const [metric, of] of [["logits[-1, 1]", [2]], ["logits[1:, 1]", [1, 2]], ["logits[0:-1, 1]", [0, 1]]] as const) {
      const { value, hooks } = await model.gradients(x, metric, { at: "hook_embed" })
      expect(value).toBeCloseTo(of.map(at).reduce((a, b) => a + b), 4)
      const { data } = hooks.get("hook_embed")!
      const some = (i: number) => data.subarray((i * data.length) / 3, ((i + 1) * data.length) / 3).some((g) => g !== 0)
      expect([0, 1, 2].filter(some)).toEqual(of)
    }
    await model.release()
  }) // prettier-ignore

  it.each([
    ["logits[", /is no metric; write an output or hook with an index for each axis/],
    ["logits[:,99]", /is outside \[1, /],
    ["logits[1,0]", /is outside \[1, /],
    ["logits[-2,0]", /is outside \[1, /],
    ["logits[1:,0]", /is outside \[1, /],
    ["logits[0,0,0]", /has 3 indices, logits is \[batch, /],
    ["logit", /^no output or hook "logit"; the nearest are "logits"/],
  ])("refuse the metric %s", async (metric, message) => {
    const model = await loadPretrained(reference("timm-wide"), { threads: 1 })
    const { nChannels, imageSize } = model.config.vision
    await expect(model.gradients(pixels([1, nChannels, ...imageSize]), metric)).rejects.toThrow(message)
    await model.release()
  })
})

/** One F32 tensor, `pixel_values`, as the format says. */
function writeInput(path: string, { shape, bytes }: { shape: readonly number[]; bytes: Uint8Array }): void {
  const header = Buffer.from(JSON.stringify({ pixel_values: { dtype: "F32", shape, data_offsets: [0, bytes.length] } }))
  const length = Buffer.alloc(8)
  length.writeBigUInt64LE(BigInt(header.length))
  writeFileSync(path, Buffer.concat([length, header, bytes]))
}
