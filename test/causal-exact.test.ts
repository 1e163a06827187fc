/**
 * @file Attribution patching place by place, paths and circuits of nodes: registers and LayerScale, heads that share a hook.
 * All against explicit runs and plain loops.
 */
import { afterAll, describe, expect, it } from "vitest"
import { attributionPatching } from "../src/interp/causal/attribution.ts"
import { findCircuit } from "../src/interp/causal/circuit.ts"
import { pathPatch, type Receiver, type Sender } from "../src/interp/causal/path.ts"
import type { HookedViT } from "../src/interp/hooked-vit.ts"
import { loadPretrained } from "../src/index.ts"
import { float32, size, type Tensor } from "../src/tensor/tensor.ts"
import { noiseImages } from "./helpers/noise-images.ts"

const reference = (name: string) => loadPretrained(`test/fixtures/reference/${name}`)
const mouse = await loadPretrained("model-cards/mnist")
const registers = await reference("timm-dinov2-registers")
const gap = await reference("prisma-gaap-no-norm")
afterAll(async () => {
  for (const model of [mouse, registers, gap]) await model.release()
})

const one = (t: Tensor, i: number): Tensor<"float32"> => {
  const n = size(t.shape.slice(1))
  return float32([1, ...t.shape.slice(1)], (t.data as Float32Array).slice(i * n, (i + 1) * n))
}
function repeated(t: Tensor, times: number): Tensor<"float32"> {
  const data = new Float32Array(times * t.data.length)
  for (let i = 0; i < times; i++) data.set(t.data as Float32Array, i * t.data.length)
  return float32([times, ...t.shape.slice(1)], data)
}
const between = (a: Tensor, b: Tensor, way: number): Tensor<"float32"> =>
  float32(
    a.shape,
    (a.data as Float32Array).map((x, i) => x + way * (Number(b.data[i]) - x)),
  )
const metricOf = (model: HookedViT) => (model.outputNames.includes("logits") ? "logits" : "pooler_output")
/** Unit 1 of the output, which all metrics here are. */
const unit1 = ({ shape, data }: Tensor): number[] =>
  Array.from({ length: shape[0]! }, (_, i) => Number(data[i * shape[1]! + 1]))
const near = (a: number, b: number, scale = 1) =>
  expect(Math.abs(a - b)).toBeLessThan(5e-4 * Math.max(scale, Math.abs(b)))

async function valueOf(model: HookedViT, image: Tensor, hook: string): Promise<Tensor<"float32">> {
  const { cache } = await model.runWithCache(image, { names: [hook] })
  return float32(cache.get(hook).shape, Float32Array.from(cache.get(hook).data as Float32Array))
}

/** The metric with each row along the last axis of a hook moved by these steps of its change, one step of one row a run. */
async function moved(model: HookedViT, image: Tensor, hook: string, change: Tensor, steps: readonly number[]) {
  const own = await valueOf(model, image, hook)
  const last = own.shape.at(-1)!
  const rows = own.data.length / last
  const patch = repeated(own, steps.length * rows)
  for (const [s, step] of steps.entries())
    for (let r = 0; r < rows; r++)
      for (let j = r * last; j < (r + 1) * last; j++)
        patch.data[(s * rows + r) * own.data.length + j]! += step * Number(change.data[j])
  const output = metricOf(model)
  const got = await model.run(repeated(image, steps.length * rows), { patch: { [hook]: patch }, outputs: [output] })
  const metric = unit1(got[output])
  return steps.map((_, s) => metric.slice(s * rows, (s + 1) * rows))
}

/** The derivative of each of these at no step, by differences without their errors of second and third order. */
async function slopes(model: HookedViT, image: Tensor, hook: string, change: Tensor): Promise<number[]> {
  const h = 0.02
  const [a, b, c, d] = await moved(model, image, hook, change, [-2 * h, -h, h, 2 * h])
  return a!.map((x, i) => (x - 8 * b![i]! + 8 * c![i]! - d![i]!) / (12 * h))
}

/** Of one image the attribution at a hook: the mean of the slopes at the middles of the steps from base to source. */
async function firstOrder(model: HookedViT, hook: string, base: Tensor, source: Tensor, steps: number) {
  const [ours, theirs] = [await valueOf(model, base, hook), await valueOf(model, source, hook)]
  const change = float32(
    ours.shape,
    theirs.data.map((x, i) => x - ours.data[i]!),
  )
  const points =
    steps === 1 ? [base] : Array.from({ length: steps }, (_, k) => between(base, source, (k + 0.5) / steps))
  const all = await Promise.all(points.map((point) => slopes(model, point, hook, change)))
  return all[0]!.map((_, i) => all.reduce((sum, some) => sum + some[i]! / steps, 0))
}

describe("attribution patching, token by token and head by head", () => {
  it.each([
    ["mnist", mouse, 1, ["hook_resid_pre"]],
    ["registers and LayerScale", registers, 1, ["hook_resid_pre", "attn.hook_z", "attn.hook_pattern", "hook_mlp_out"]],
    ["registers and LayerScale, in steps from base to source", registers, 3, ["hook_resid_pre"]],
  ])("is the slope of real patches: %s", async (_, model, steps, inBlock) => {
    const [base, source] = [noiseImages(model, 2, 1), noiseImages(model, 2, 2)]
    const hooks = inBlock.map((name) => `blocks.1.${name}`)
    const metric = `${metricOf(model)}[:, 1]`
    const got = await attributionPatching(model, { base, source: { run: source }, hooks, metric, steps })
    for (const hook of hooks)
      for (const i of [0, 1]) {
        const want = await firstOrder(model, hook, one(base, i), one(source, i), steps)
        const largest = Math.max(...want.map(Math.abs))
        const here = one(got.get(hook)!, i)
        expect(here.data).toHaveLength(want.length)
        for (const [row, x] of want.entries())
          expect(Math.abs(here.data[row]! - x), `${hook}, ${row}`).toBeLessThan(0.01 * Math.abs(x) + 3e-3 * largest)
      }
  })

  it("is the whole effect of a real patch where the metric is linear in the hook", async () => {
    const [base, source] = [noiseImages(gap, 1, 3), noiseImages(gap, 1, 4)]
    const hook = "blocks.1.hook_resid_post"
    const options = { base, source: { run: source }, hooks: hook, metric: "pooler_output[:, 1]" }
    const got = (await attributionPatching(gap, options)).get(hook)!
    const [ours, theirs] = [await valueOf(gap, base, hook), await valueOf(gap, source, hook)]
    const change = float32(
      ours.shape,
      theirs.data.map((x, i) => x - ours.data[i]!),
    )
    const [plain, patched] = await moved(gap, base, hook, change, [0, 1])
    expect(got.data).toHaveLength(16)
    for (const [token, x] of patched!.entries()) near(got.data[token]!, x - plain![token]!, 0.01)
  })
})

describe("a path, by what the sender's change adds to the stream", () => {
  const [base, source] = [noiseImages(registers, 2, 5), noiseImages(registers, 2, 6)]
  const { nHeads: h, dHead: e, dModel: d } = registers.config.vision

  /** source - base of what a sender adds to the stream: W_O and LayerScale by a loop. */
  async function written(sender: Sender): Promise<Float64Array> {
    const at = async (hook: string) => {
      const [a, b] = [await valueOf(registers, base, hook), await valueOf(registers, source, hook)]
      return Float64Array.from(a.data, (x, i) => b.data[i]! - x)
    }
    if ("embed" in sender) return at("blocks.0.hook_resid_pre")
    if ("mlp" in sender) return at(`blocks.${sender.layer}.hook_mlp_out`)
    const z = await at(`blocks.${sender.layer}.attn.hook_z`)
    const w = (await registers.weight(`blocks.${sender.layer}.attn.out.weight`)).data // [d, h * e]
    const gamma = (await registers.weight(`blocks.${sender.layer}.ls1.gamma`)).data
    const out = new Float64Array(z.length)
    for (let row = 0; row < z.length / d; row++)
      for (let i = 0; i < d; i++)
        for (let k = 0; k < e; k++)
          out[row * d + i]! += gamma[i]! * z[row * d + sender.head * e + k]! * w[i * h * e + sender.head * e + k]!
    return out
  }

  it.each<[string, Sender, readonly Exclude<Receiver, { input: "end" }>[]]>([
    ["the embeddings to the first MLP", { embed: true }, [{ layer: 0, input: "mlp" }]],
    ["the embeddings to a head's values", { embed: true }, [{ layer: 1, head: 3, input: "v" }]],
    ["the embeddings to keys of the first block", { embed: true }, [{ layer: 0, head: 2, input: "k" }]],
    ["a head to the MLP after it", { layer: 0, head: 2 }, [{ layer: 0, input: "mlp" }]],
    [
      "a head to two heads' queries, and the keys of one",
      { layer: 0, head: 1 },
      [
        { layer: 1, head: 0, input: "q" },
        { layer: 1, head: 2, input: "q" },
        { layer: 1, head: 2, input: "k" },
      ],
    ],
    [
      "an MLP to three heads' values",
      { layer: 0, mlp: true },
      [1, 3, 0].map((head) => ({ layer: 1, head, input: "v" }) as const),
    ],
  ])("from %s", async (_, sender, receivers) => {
    const change = await written(sender)
    const patch: Record<string, Tensor<"float32">> = {}
    for (const r of receivers) {
      const hook = `blocks.${r.layer}.hook_${r.input === "mlp" ? "mlp_in" : `${r.input}_input`}`
      const value = (patch[hook] ??= await valueOf(registers, base, hook))
      const [heads, head] = "head" in r ? [h, r.head] : [1, 0]
      for (const [i, x] of change.entries()) value.data[(Math.floor(i / d) * heads + head) * d + (i % d)]! += x
    }
    const want = unit1((await registers.run(base, { patch })).pooler_output)
    const plain = unit1((await registers.run(base)).pooler_output)
    const got = await pathPatch(registers, { base, source, sender, receivers, metric: "pooler_output[:, 1]" })
    for (const [i, x] of want.entries()) {
      expect(Math.abs(x - plain[i]!)).toBeGreaterThan(1e-3)
      expect(Math.abs(got[i]! - x)).toBeLessThan(2e-4 * Math.max(0.5, Math.abs(x)))
    }
  })
})

describe("a circuit of nodes", () => {
  const [base, source] = [noiseImages(registers, 2, 7), noiseImages(registers, 2, 8)]
  const { nLayers, nHeads, dHead } = registers.config.vision
  const mean = (values: readonly number[]) => values.reduce((a, b) => a + b, 0) / values.length
  const name = ({ layer, head }: { layer: number; head?: number }) => `${layer}.${head ?? "mlp"}`

  const written = registers.runWithCache(source).then(({ cache }) => cache)
  /** The mean of the metric where these nodes are the model's own: layer by layer, each in a run on what is known below. */
  async function byHand(kept: ReadonlySet<string>): Promise<number> {
    const patch: Record<string, Tensor> = {}
    for (let l = 0; l < nLayers; l++) {
      const [z, mlp] = [`blocks.${l}.attn.hook_z`, `blocks.${l}.hook_mlp_out`]
      const now = (await registers.run(base, { patch, outputs: [z] }))[z]!
      const theirs = (await written).get(z)
      const own = (i: number) => kept.has(`${l}.${Math.floor(i / dHead) % nHeads}`)
      patch[z] = float32(
        theirs.shape,
        (theirs.data as Float32Array).map((x, i) => (own(i) ? Number(now.data[i]) : x)),
      )
      if (!kept.has(`${l}.mlp`)) patch[mlp] = (await written).get(mlp)
    }
    return mean(unit1((await registers.run(base, { patch })).pooler_output))
  }

  it("is ranked by slopes of real patches on the way, and at every size as faithful as explicit runs say", async () => {
    const options = { base, source: { run: source }, metric: "pooler_output[:, 1]", steps: 2 }
    const { ranking, curve } = await findCircuit(registers, options)
    expect(ranking.map((r) => name(r.node)).toSorted()).toEqual(
      [0, 1].flatMap((l) => [...[0, 1, 2, 3].map((head) => `${l}.${head}`), `${l}.mlp`]).toSorted(),
    )
    const effects = new Map<string, number>()
    for (const l of [0, 1])
      for (const hook of [`blocks.${l}.attn.hook_z`, `blocks.${l}.hook_mlp_out`])
        for (const i of [0, 1])
          for (const [row, x] of (await firstOrder(registers, hook, one(base, i), one(source, i), 2)).entries()) {
            const node = hook.endsWith("z") ? `${l}.${row % nHeads}` : `${l}.mlp`
            effects.set(node, (effects.get(node) ?? 0) + x / 2)
          }
    const largest = Math.max(...[...effects.values()].map(Math.abs))
    for (const { node, effect } of ranking)
      expect(Math.abs(effect - effects.get(name(node))!), name(node)).toBeLessThan(5e-3 * largest)

    const [whole, none] = [mean(unit1((await registers.run(base)).pooler_output)), await byHand(new Set())]
    expect(curve.map((point) => point.kept)).toEqual([...Array(11).keys()])
    for (const { kept, mean: got, faithfulness } of curve) {
      const want = await byHand(new Set(ranking.slice(0, kept).map((r) => name(r.node))))
      near(got, want, 0.5)
      expect(faithfulness).toBeCloseTo((want - none) / (whole - none), 3)
    }
  })
})
