/** @file Edges: scores against finite differences of explicit patches of each reader's input, circuits against explicit re-runs. */
import { afterAll, describe, expect, it } from "vitest"
import { edgeAttribution, findEdges, runEdges } from "../src/interp/causal/edge-attribution.ts"
import { edgeName, type Edge } from "../src/interp/causal/edges.ts"
import { pathPatch } from "../src/interp/causal/path.ts"
import { measure } from "../src/interp/causal/sweep.ts"
import type { HookedViT } from "../src/interp/hooked-vit.ts"
import { loadPretrained } from "../src/index.ts"
import { Random } from "../src/tensor/random.ts"
import { float32, size, type Tensor } from "../src/tensor/tensor.ts"
import { noiseImages as images } from "./helpers/noise-images.ts"
import { thrown } from "./helpers/thrown.ts"

const reference = (name: string) => loadPretrained(`test/fixtures/reference/${name}`)
const mouse = await loadPretrained("model-cards/mnist")
const dino = await reference("hf-dinov2-classifier")
const clip = await reference("hf-clip-vision-base")
const gap = await reference("prisma-gaap-no-norm")
const postNorm = await reference("base-vit-post-norm-qknorm")
const only = await reference("base-vit-attention-only")
afterAll(async () => {
  for (const model of [mouse, dino, clip, gap, postNorm, only]) await model.release()
})

const one = (t: Tensor<"float32">, i: number): Tensor<"float32"> => {
  const n = size(t.shape.slice(1))
  return float32([1, ...t.shape.slice(1)], t.data.slice(i * n, (i + 1) * n))
}
const readerHook = (model: HookedViT, { receiver: r }: Edge): string =>
  r.input === "end"
    ? `blocks.${model.config.vision.nLayers - 1}.hook_resid_post`
    : `blocks.${r.layer}.hook_${r.input}${r.input === "mlp" ? "_in" : "_input"}`

/** What each sender writes in a run on one image, by its name; [T, d]. W_O, LayerScale and all by plain loops. */
async function writes(model: HookedViT, image: Tensor): Promise<Map<string, Float64Array>> {
  const { nLayers } = model.config.vision
  const { cache } = await model.runWithCache(image)
  const out = new Map([["embed", Float64Array.from(cache.get("blocks.0.hook_resid_pre").data as Float32Array)]])
  for (let l = 0; l < nLayers; l++) {
    for (const [name, row] of await headWrites(model, l, cache.get(`blocks.${l}.attn.hook_z`))) out.set(name, row)
    if (model.hooks.has(`blocks.${l}.hook_mlp_out`)) {
      out.set(`${l}.mlp`, Float64Array.from(cache.get(`blocks.${l}.hook_mlp_out`).data as Float32Array))
    }
  }
  return out
}
async function headWrites(model: HookedViT, l: number, z: Tensor): Promise<Map<string, Float64Array<ArrayBuffer>>> {
  const { nHeads: h, dHead: e, dModel: d, layerScale } = model.config.vision
  const w = await model.weight(`blocks.${l}.attn.out.weight`) // [d, h * e]
  const gamma = layerScale ? (await model.weight(`blocks.${l}.ls1.gamma`)).data : undefined
  const T = z.shape[1]!
  const out = new Map<string, Float64Array<ArrayBuffer>>()
  for (let head = 0; head < h; head++) {
    const row = new Float64Array(T * d)
    for (let t = 0; t < T; t++)
      for (let i = 0; i < d; i++)
        for (let k = 0; k < e; k++)
          row[t * d + i]! +=
            Number(z.data[(t * h + head) * e + k]) * w.data[i * h * e + head * e + k]! * (gamma?.[i] ?? 1)
    out.set(`${l}.${head}`, row)
  }
  return out
}
const senderOf = (edge: Edge): string => edgeName(edge).split(" -> ")[0]!

/** Central differences of real runs: the edge's reader meets its own input plus and minus t times the sender's change. */
async function differences(
  model: HookedViT,
  edges: readonly Edge[],
  base: Tensor,
  source: Tensor,
  metric: string,
  t: number,
) {
  const [ours, theirs] = [await writes(model, base), await writes(model, source)]
  const out = new Map<string, number>()
  for (const hook of new Set(edges.map((edge) => readerHook(model, edge)))) {
    const own = (await model.runWithCache(base, { names: [hook] })).cache.get(hook)
    const here = edges.filter((edge) => readerHook(model, edge) === hook)
    const row = size(own.shape)
    const d = own.shape.at(-1)!
    const heads = own.shape.length === 4 ? own.shape[2]! : 1
    const patch = new Float32Array(2 * here.length * row)
    for (const [i, edge] of here.entries()) {
      const [a, b] = [ours.get(senderOf(edge))!, theirs.get(senderOf(edge))!]
      const head = "head" in edge.receiver ? edge.receiver.head : 0
      for (const sign of [0, 1]) {
        const into = patch.subarray((2 * i + sign) * row, (2 * i + sign + 1) * row)
        into.set(own.data as Float32Array)
        for (let j = 0; j < a.length; j++)
          into[(Math.floor(j / d) * heads + head) * d + (j % d)]! += (sign ? -t : t) * (b[j]! - a[j]!)
      }
    }
    const many = float32(
      [2 * here.length, ...base.shape.slice(1)],
      Float32Array.from({ length: 2 * here.length * base.data.length }, (_, i) =>
        Number(base.data[i % base.data.length]),
      ),
    )
    const value = float32([2 * here.length, ...own.shape.slice(1)], patch)
    const [output, index] = [metric.split("[")[0]!, Number(/(\d+)\]/.exec(metric)![1])]
    const got = (await model.run(many, { patch: { [hook]: value } }))[output]!
    const at = (i: number) => Number(got.data[i * got.shape[1]! + index])
    for (const [i, edge] of here.entries()) out.set(edgeName(edge), (at(2 * i) - at(2 * i + 1)) / (2 * t))
  }
  return out
}

describe("edge attribution", () => {
  it.each([
    ["mnist: pre-norm", mouse],
    ["dinov2: LayerScale", dino],
    ["clip: a norm before the blocks", clip],
    ["attention only", only],
  ])("is what a small step along each edge does to the metric: %s", async (_, model) => {
    const metric = model.outputNames.includes("logits") ? "logits[:, 1]" : "pooler_output[:, 1]"
    const [base, source] = [images(model, 2, 1), images(model, 2, 2)]
    const scores = await edgeAttribution(model, { base, source: { run: source }, metric })
    const { nLayers, nHeads } = model.config.vision
    const mlp = model.hooks.has("blocks.0.hook_mlp_out") ? 1 : 0
    let count = 1 + nLayers * (nHeads + mlp)
    for (let l = 0; l < nLayers; l++) {
      const before = 1 + l * (nHeads + mlp)
      count += 3 * nHeads * before + mlp * (before + nHeads)
    }
    expect(scores).toHaveLength(count)
    expect(new Set(scores.map(edgeName)).size).toBe(count)
    // Richardson's extrapolation: steps that are large beside float32's noise, without their error of second order.
    const [far, close] = [
      await differences(model, scores, one(base, 1), one(source, 1), metric, 0.04),
      await differences(model, scores, one(base, 1), one(source, 1), metric, 0.02),
    ]
    const wanted = new Map([...close].map(([name, x]) => [name, (4 * x - far.get(name)!) / 3]))
    const largest = Math.max(...wanted.values())
    expect(largest).toBeGreaterThan(1e-3)
    for (const score of scores) {
      const want = wanted.get(edgeName(score))!
      expect(Math.abs(score.values[1]! - want), edgeName(score)).toBeLessThan(0.01 * Math.abs(want) + 2e-3 * largest)
    }
  })
})

/** The metric where only edges of these names are the model's own, reader by reader, each in a run of its own. */
async function byHand(model: HookedViT, keep: ReadonlySet<string>, base: Tensor, source: Tensor): Promise<number> {
  const { nLayers, nHeads, dModel: d } = model.config.vision
  const [ours, theirs] = [await writes(model, base), await writes(model, source)]
  const now = new Map([["embed", ours.get("embed")!]])
  const { cache } = await model.runWithCache(base)
  const T = ours.get("embed")!.length / d
  /** The reader's stream: what is constant in it, and each sender's present or other value. */
  const met = (stream: string, reader: string): Float64Array => {
    const sum = Float64Array.from(cache.get(stream).data as Float32Array)
    for (const [name, present] of now) {
      const value = keep.has(`${name} -> ${reader}`) ? present : theirs.get(name)!
      for (let i = 0; i < sum.length; i++) sum[i]! += value[i]! - ours.get(name)![i]!
    }
    return sum
  }
  const as = (x: Float64Array): Tensor => float32([1, T, d], Float32Array.from(x))
  for (let l = 0; l < nLayers; l++) {
    const at = `blocks.${l}`
    const patch: Record<string, Tensor> = {}
    for (const which of ["q", "k", "v"]) {
      const split = new Float32Array(T * nHeads * d)
      for (let head = 0; head < nHeads; head++)
        for (const [i, x] of met(`${at}.hook_resid_pre`, `${l}.${head}.${which}`).entries())
          split[(Math.floor(i / d) * nHeads + head) * d + (i % d)] = x
      patch[`${at}.hook_${which}_input`] = float32([1, T, nHeads, d], split)
    }
    const z = (await model.run(base, { patch, outputs: [`${at}.attn.hook_z`] }))[`${at}.attn.hook_z`]!
    for (const [name, row] of await headWrites(model, l, z)) now.set(name, row)
    if (!model.hooks.has(`${at}.hook_mlp_out`)) continue
    const mlp = await model.run(base, {
      patch: { [`${at}.hook_mlp_in`]: as(met(`${at}.hook_resid_mid`, `${l}.mlp`)) },
      outputs: [`${at}.hook_mlp_out`],
    })
    now.set(`${l}.mlp`, Float64Array.from(mlp[`${at}.hook_mlp_out`]!.data as Float32Array))
  }
  const last = `blocks.${nLayers - 1}.hook_resid_post`
  const { logits } = await model.run(base, { patch: { [last]: as(met(last, "end")) } })
  return Number(logits.data[1])
}

const metric = "logits[:, 1]"
const near = (a: number, b: number) => expect(Math.abs(a - b)).toBeLessThan(5e-4 * Math.max(1, Math.abs(b)))

describe("a circuit of edges", () => {
  it.each([
    ["mnist", mouse],
    ["dinov2", dino],
  ])("is what explicit re-runs give, reader by reader: %s", async (_, model) => {
    const [base, source] = [images(model, 1, 3), images(model, 1, 4)]
    const options = { base, source: { run: source }, metric }
    const scores = await edgeAttribution(model, options)
    const random = new Random(5, "edges")
    for (const share of [0.3, 0.8]) {
      const keep = scores.filter(() => random.uniform() < share)
      const [got] = await runEdges(model, { ...options, keep })
      near(got!, await byHand(model, new Set(keep.map(edgeName)), base, source))
    }
  })

  it("of all edges is the model, of none the other run; the curve is that of the ranking", async () => {
    const [base, source] = [images(mouse, 2, 6), images(mouse, 2, 7)]
    const options = { base, source: { run: source }, metric }
    const steps: number[] = []
    const { ranking, curve } = await findEdges(mouse, {
      ...options,
      sizes: [0, 30, 200, 479],
      onProgress: (n) => steps.push(n),
    })
    expect(curve.map((c) => c.kept)).toEqual([0, 30, 200, 479])
    expect(steps).toEqual([1, 2, 3, 4])
    const mean = (v: readonly number[]) => (v[0]! + v[1]!) / 2
    const [whole, none] = [mean(await measure(mouse, base, metric)), mean(await measure(mouse, source, metric))]
    near(curve[0]!.mean, none)
    near(curve[3]!.mean, whole)
    const magnitudes = ranking.map((r) => Math.abs(r.mean))
    expect(magnitudes).toEqual(magnitudes.toSorted((a, b) => b - a))
    for (const { kept, faithfulness } of curve.slice(1, 3)) {
      const keep = new Set(ranking.slice(0, kept).map(edgeName))
      const hand = mean([
        await byHand(mouse, keep, one(base, 0), one(source, 0)),
        await byHand(mouse, keep, one(base, 1), one(source, 1)),
      ])
      near(faithfulness, (hand - none) / (whole - none))
    }
  })

  it("goes down to the budget at powers of two, and stops when told", async () => {
    const options = { base: images(mouse, 1, 8), source: { zero: true } as const, metric, budget: 5 }
    const { curve } = await findEdges(mouse, options)
    expect(curve.map((c) => c.kept)).toEqual([0, 1, 2, 4, 5])
    const stop = new AbortController()
    const stopped = findEdges(mouse, { ...options, signal: stop.signal, onProgress: () => stop.abort() })
    expect((await thrown(stopped)).code).toBe("E_INTERRUPTED")
  })
})

describe("integrated gradients of edges", () => {
  it("are complete where the metric is linear in the stream: edges to the end sum to the whole change", async () => {
    const [base, source] = [images(gap, 2, 9), images(gap, 2, 10)]
    const pooled = "pooler_output[:, 1]"
    const scores = await edgeAttribution(gap, { base, source: { run: source }, metric: pooled, steps: 3 })
    const [from, to] = [await measure(gap, base, pooled), await measure(gap, source, pooled)]
    for (const i of [0, 1]) {
      const sum = scores.reduce((total, s) => total + (s.receiver.input === "end" ? s.values[i]! : 0), 0)
      near(sum, to[i]! - from[i]!)
    }
  })

  it("are the mean of the slopes at the images between", async () => {
    const [base, source] = [images(mouse, 1, 11), images(mouse, 1, 12)]
    const scores = await edgeAttribution(mouse, { base, source: { run: source }, metric, steps: 2 })
    // By gradients at the reader's own input, and what the senders wrote by loops.
    const [ours, theirs] = [await writes(mouse, base), await writes(mouse, source)]
    for (const [hook, reader] of [
      ["blocks.2.hook_v_input", { layer: 2, head: 1, input: "v" }],
      ["blocks.1.hook_mlp_in", { layer: 1, input: "mlp" }],
    ] as const) {
      const slopes: Tensor[] = []
      for (const way of [0.25, 0.75]) {
        const between = float32(
          base.shape,
          base.data.map((x, i) => x + way * (source.data[i]! - x)),
        )
        slopes.push((await mouse.gradients(between, metric, { at: hook })).hooks.get(hook)!)
      }
      const d = slopes[0]!.shape.at(-1)!
      for (const s of scores.filter((x) => JSON.stringify(x.receiver) === JSON.stringify(reader))) {
        const [a, b] = [ours.get(senderOf(s))!, theirs.get(senderOf(s))!]
        const place = (i: number) => ("head" in reader ? (Math.floor(i / d) * 4 + reader.head) * d + (i % d) : i)
        const want = a.reduce((sum, x, i) => {
          const slope = (Number(slopes[0]!.data[place(i)]) + Number(slopes[1]!.data[place(i)])) / 2
          return sum + (b[i]! - x) * slope
        }, 0)
        expect(Math.abs(s.mean - want), edgeName(s)).toBeLessThan(1e-4 * Math.max(1, Math.abs(want)))
      }
    }
  })
})

describe("a path through the norms of a post-norm model", () => {
  const [base, source] = [images(postNorm, 1, 1), images(postNorm, 1, 2)]
  const logits1 = "logits[:, 1]"

  it.each([{ input: "end" }, { layer: 1, input: "mlp" }] as const)(
    "from a head to %o is that of plain loops",
    async (receiver) => {
      const get = async (from: Tensor) => {
        const { cache } = await postNorm.runWithCache(from)
        return (name: string) => Float64Array.from(cache.get(name).data as Float32Array)
      }
      const weight = async (name: string) => (await postNorm.weight(name)).data
      const { dModel: d, nHeads: h, eps } = postNorm.config.vision
      const [ours, theirs] = [await get(base), await get(source)]
      const out = await weight("blocks.0.attn.out.weight") // [d, h * e]
      const e = d / h
      const [z, other] = [ours("blocks.0.attn.hook_z"), theirs("blocks.0.attn.hook_z")]
      const moved = ours("blocks.0.hook_attn_out").map((x, i) => {
        const from = Math.floor(i / d) * d + e
        for (let k = 0; k < e; k++) x += (other[from + k]! - z[from + k]!) * out[(i % d) * d + e + k]!
        return x
      })
      const plus = (a: Float64Array, b: Float64Array) => a.map((x, i) => x + b[i]!)
      const norm = async (at: string, x: Float64Array) => {
        const [w, b] = [await weight(`${at}.weight`), await weight(`${at}.bias`)]
        return x.map((_, i) => {
          const row = x.subarray(i - (i % d), i - (i % d) + d)
          const mean = row.reduce((s, v) => s + v, 0) / d
          const spread = Math.sqrt(row.reduce((s, v) => s + (v - mean) ** 2, 0) / d + eps)
          return ((x[i]! - mean) / spread) * w[i % d]! + b[i % d]!
        })
      }
      let stream = ours("blocks.0.hook_resid_pre")
      for (const [layer, attention] of [moved, ours("blocks.1.hook_attn_out")].entries()) {
        stream = await norm(`blocks.${layer}.ln1`, plus(stream, attention))
        if (layer === 1 && receiver.input === "mlp") break
        stream = await norm(`blocks.${layer}.ln2`, plus(stream, ours(`blocks.${layer}.hook_mlp_out`)))
      }
      const hook = `blocks.1.${receiver.input === "mlp" ? "hook_mlp_in" : "hook_resid_post"}`
      const put = (x: Tensor) => float32(x.shape, Float32Array.from(stream))
      const { logits } = await postNorm.run(base, { hooks: { [hook]: put } })
      const path = { base, source, sender: { layer: 0, head: 1 }, receivers: [receiver], metric: logits1 }
      const [got] = await pathPatch(postNorm, path)
      expect(got).toBeCloseTo(Number(logits.data[1]), 4)
      expect(Math.abs(got! - (await measure(postNorm, base, logits1))[0]!)).toBeGreaterThan(1e-3)
    },
  )
})

describe("edges refuse", () => {
  const [base, source] = [images(mouse, 1, 1), images(mouse, 1, 2)]
  const options = { base, source: { run: source }, metric }
  it("a post-norm model, whose stream is no sum", async () => {
    const [a, b] = [images(postNorm, 1, 1), images(postNorm, 1, 2)]
    const given = { base: a, source: { run: b }, metric: "logits[:, 0]" }
    expect((await thrown(edgeAttribution(postNorm, given))).message).toMatch(/post-norm/)
  })
  it("numbers of images at once that are none, before anything runs", async () => {
    for (const batch of [0, 1.5, NaN])
      expect((await thrown(edgeAttribution(mouse, { ...options, batch }))).message).toMatch(/^batch must be a whole/)
  })
  it.each<[Edge, RegExp]>([
    [{ sender: { embed: true }, receiver: { layer: 9, input: "mlp" } }, /layers 0 to 3/],
    [{ sender: { layer: 1, head: 7 }, receiver: { input: "end" } }, /heads 0 to 3/],
    [{ sender: { layer: 2, head: 1 }, receiver: { layer: 2, head: 0, input: "k" } }, /writes after it/],
  ])("to keep %o", async (edge, message) => {
    const error = await thrown(runEdges(mouse, { ...options, keep: [edge] }))
    expect([error.code, message.test(error.message)]).toEqual(["E_INPUT", true])
  })
  it("sizes that are none, and an input with a name of the model", async () => {
    expect((await thrown(findEdges(mouse, { ...options, sizes: [480] }))).message).toMatch(/from 0 to 479/)
    expect((await thrown(mouse.run(base, { inputs: { hook_embed: base } }))).message).toMatch(/name of the model/)
  })
})
