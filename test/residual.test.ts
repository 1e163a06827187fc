/** @file The residual stream taken apart: what was written sums to the stream, heads and neurons to what their layer wrote. */
import { describe, expect, it } from "vitest"
import { float32, loadPretrained, type HookedViT, type ResidualStack, type Tensor } from "../src/index.ts"
import { reference } from "./helpers/cli.ts"
import { FAMILIES, noise, withFamily } from "./helpers/families.ts"

/** The sum over the rows of a stack. */
function summed({ stack }: ResidualStack): Float64Array {
  const n = stack.data.length / stack.shape[0]!
  const out = new Float64Array(n)
  for (const [i, x] of stack.data.entries()) out[i % n]! += x
  return out
}

function expectClose(got: ArrayLike<number>, want: Tensor, shift: (i: number) => number = () => 0): void {
  const data = want.data as Float32Array
  expect(got.length).toBe(data.length)
  let [worst, scale] = [0, 1]
  for (let i = 0; i < data.length; i++) {
    worst = Math.max(worst, Math.abs(got[i]! + shift(i) - data[i]!))
    scale = Math.max(scale, Math.abs(data[i]!))
  }
  expect(worst / scale).toBeLessThan(1e-5)
}

const NORMED = FAMILIES.filter((f) => !/^base-vit-(global|post)/.test(f.name))

describe("accounting", () => {
  it.each(NORMED)("$name", (family) =>
    withFamily(family, async (model, { pixel_values }) => {
      const { cache } = await model.runWithCache({ pixel_values })
      const { vision } = model.config
      for (const layer of [0, 1, -1, undefined]) {
        const want = layer === undefined ? cache.residPost(-1) : cache.residPre(layer)
        expectClose(summed(cache.decomposeResidual(layer)), want)
      }
      if (vision.lnFinal) {
        const read = await cache.applyFinalNorm(cache.decomposeResidual())
        expect(read.labels.at(-1)).toBe("ln_final_bias")
        expectClose(summed(read), cache.lnFinal())
      }
      const heads = await cache.headResults()
      expect(heads.stack.shape).toEqual([vision.nLayers * vision.nHeads, ...cache.residPre(0).shape])
      const d = vision.dModel
      const gamma = (which: string) => (vision.layerScale ? model.weight(`blocks.0.${which}.gamma`) : undefined)
      const bias = async (at: string, which: string) => {
        const b = model.weights.has(`blocks.0.${at}.out.bias`)
          ? await model.weight(`blocks.0.${at}.out.bias`)
          : undefined
        const g = await gamma(which)
        return (i: number) => (b ? b.data[i % d]! * (g ? g.data[i % d]! : 1) : 0)
      }
      const first = { labels: heads.labels, stack: part(heads.stack, vision.nHeads) }
      expectClose(summed(first), cache.attnOut(0), await bias("attn", "ls1"))
      if (vision.attnOnly) return
      expectClose(summed(await cache.neuronResults(0)), cache.mlpOut(0), await bias("mlp", "ls2"))
    }),
  )

  const part = ({ shape, data }: Tensor<"float32">, n: number): Tensor<"float32"> =>
    float32([n, ...shape.slice(1)], data.slice(0, (data.length / shape[0]!) * n))

  it("is of the text tower too", async () => {
    const family = FAMILIES.find((f) => f.name === "hf-clip-eos-2")!
    await withFamily(family, async (model, { input_ids }) => {
      const { cache } = await model.runWithCache({ input_ids: input_ids! })
      const all = cache.text.decomposeResidual()
      expect(all.labels).toEqual(["embed", "pos_embed", "0_attn_out", "0_mlp_out", "1_attn_out", "1_mlp_out"])
      expectClose(summed(all), cache.text.residPost(1))
      expectClose(summed(await cache.text.applyFinalNorm(all)), cache.text.lnFinal())
    })
  })
})

/** Each row of a stack by its label. */
const rowsOf = ({ labels, stack }: ResidualStack): [string, Float32Array][] => {
  const n = stack.data.length / labels.length
  return labels.map((label, i) => [label, stack.data.subarray(i * n, (i + 1) * n)])
}

/** What some of the values made [.., width] add to the stream through their columns of a weight [d, width], scaled. */
function written(made: Tensor, { shape, data }: Tensor, gamma: Tensor | undefined, columns: readonly number[]): Tensor {
  const [d, width] = shape as [number, number]
  const rows = made.data.length / width
  return float32(
    [rows, d],
    Float32Array.from({ length: rows * d }, (_, i) => {
      const [row, j] = [Math.floor(i / d), i % d]
      const sum = columns.reduce((s, k) => s + Number(made.data[row * width + k]) * Number(data[j * width + k]), 0)
      return sum * Number(gamma?.data[j] ?? 1)
    }),
  )
}

describe("every row by loops", () => {
  const count = (n: number) => [...Array(n).keys()]
  const cases: [string, string, "" | "text."][] = [
    ["the digits' mouse", "model-cards/mnist", ""],
    ["LayerScale and registers", reference("timm-dinov2-registers"), ""],
    ["a norm before the blocks", reference("hf-clip-eos-2"), ""],
    ["a text tower", reference("hf-clip-eos-2"), "text."],
    ["LayerScale in a text tower", reference("open-clip-layerscale-bias"), "text."],
  ]
  const opened = async (folder: string, tower: "" | "text.") => {
    const model: HookedViT = await loadPretrained(folder, { threads: 1 })
    const { vision, text } = model.config
    const images = noise([2, vision.nChannels, ...vision.imageSize], 4)
    const ids = { dtype: "int32", shape: [2, 4], data: Int32Array.of(0, 5, 6, 2, 0, 7, 3, 2) } as const
    const { cache } = await model.runWithCache(tower ? { input_ids: ids } : images)
    return { model, cfg: tower ? text! : vision, cache: tower ? cache.text : cache }
  }

  it.each(cases)("%s", async (_, folder, tower) => {
    const { model, cfg, cache } = await opened(folder, tower)
    const { nHeads: h, dHead: e, dModel: d, dMlp: m } = cfg
    const gamma = async (i: number, which: string) =>
      cfg.layerScale ? model.weight(`${tower}blocks.${i}.${which}.gamma`) : undefined

    const all = cache.decomposeResidual()
    const parts = new Map(rowsOf(all))
    const heads = rowsOf(await cache.headResults())
    expect(heads.map(([label]) => label)).toEqual(
      count(cfg.nLayers).flatMap((i) => count(h).map((head) => `L${i}H${head}`)),
    )
    for (const i of count(cfg.nLayers)) {
      expect(parts.get(`${i}_attn_out`)).toEqual(cache.attnOut(i).data)
      expect(parts.get(`${i}_mlp_out`)).toEqual(cache.mlpOut(i).data)
      const wo = await model.weight(`${tower}blocks.${i}.attn.out.weight`)
      for (const head of count(h)) {
        const columns = count(e).map((k) => head * e + k)
        expectClose(heads[i * h + head]![1], written(cache.z(i), wo, await gamma(i, "ls1"), columns))
      }
      const neurons = rowsOf(await cache.neuronResults(i))
      expect(neurons.map(([label]) => label)).toEqual(count(m).map((n) => `L${i}N${n}`))
      const out = await model.weight(`${tower}blocks.${i}.mlp.out.weight`)
      for (const n of [0, 1, m - 1]) {
        expectClose(neurons[n]![1], written(cache.mlpPost(i), out, await gamma(i, "ls2"), [n]))
      }
    }

    const scale = cache.lnFinalScale().data as Float32Array
    const [w, b] = await Promise.all(["weight", "bias"].map((kind) => model.weight(`${tower}ln_final.${kind}`)))
    const read = rowsOf(await cache.applyFinalNorm(all))
    expect(read.map(([label]) => label)).toEqual([...all.labels, "ln_final_bias"])
    const token = (i: number) => Math.floor(i / d)
    for (const [label, got] of read.slice(0, -1)) {
      const x = parts.get(label)!
      const means = count(x.length / d).map((t) => x.subarray(t * d, (t + 1) * d).reduce((s, v) => s + v, 0) / d)
      const want = x.map((v, i) => ((v - means[token(i)]!) / scale[token(i)]!) * w!.data[i % d]!)
      expectClose(got, float32([want.length], want))
    }
    expect(read.at(-1)![1]).toEqual(read[0]![1].map((_, i) => b!.data[i % d]!))
    await model.release()
  })

  it("of the embeddings is what stands at its tokens", async () => {
    const { model, cfg, cache } = await opened("model-cards/mnist", "")
    const d = cfg.dModel
    const rows = new Map(rowsOf(cache.decomposeResidual(0)))
    const [embed, pos, cls] = [cache.embed().data, cache.posEmbed().data, (await model.weight("embed.cls")).data]
    const n = rows.get("embed")!.length
    expect(n).toBe(2 * 17 * d)
    const at = (value: (image: number, t: number, j: number) => number) =>
      float32(
        [n],
        Float32Array.from({ length: n }, (_, i) => value(Math.floor(i / d / 17), Math.floor(i / d) % 17, i % d)),
      )
    expectClose(
      rows.get("embed")!,
      at((b, t, j) => (t ? Number(embed[(b * 16 + t - 1) * d + j]) : 0)),
    )
    expectClose(
      rows.get("cls_token")!,
      at((_, t, j) => (t ? 0 : cls[j]!)),
    )
    expectClose(
      rows.get("pos_embed")!,
      at((_, t, j) => Number(pos[t * d + j])),
    )
    await model.release()
  })
})

describe("a cache", async () => {
  const model = await loadPretrained("model-cards/mnist", { threads: 1 })
  const images = noise([2, 1, 28, 28])

  it("gives the stream before each layer, and after attention where asked", async () => {
    const { cache } = await model.runWithCache(images)
    const all = cache.accumulatedResidual()
    expect(all.labels).toEqual(["0_pre", "1_pre", "2_pre", "3_pre", "final_post"])
    const n = all.stack.data.length / 5
    expect(all.stack.data.subarray(2 * n, 3 * n)).toEqual(cache.residPre(2).data)
    expect(all.stack.data.subarray(4 * n)).toEqual(cache.residPost(3).data)
    const some = cache.accumulatedResidual(-2, { mid: true })
    expect(some.labels).toEqual(["0_pre", "0_mid", "1_pre", "1_mid", "2_pre"])
    expect(some.stack.data.subarray(3 * n, 4 * n)).toEqual(cache.residMid(1).data)
    expect(cache.decomposeResidual(1).labels).toEqual(["embed", "cls_token", "pos_embed", "0_attn_out", "0_mlp_out"])
  })

  it("makes heads' results of z where hook_result was not cached, and the same", async () => {
    const [plain, asked] = [
      await model.runWithCache(images),
      await model.runWithCache(images, { names: "blocks.*.attn.hook_result" }),
    ]
    const [a, b] = [await plain.cache.headResults(), await asked.cache.headResults()]
    expect(a.labels).toEqual(b.labels)
    expectClose(a.stack.data, b.stack)
  })

  it("gives single neurons", async () => {
    const { cache } = await model.runWithCache(images, { positions: 0 })
    const { labels, stack } = await cache.neuronResults(-1, { neurons: [5, 300] })
    expect([labels, stack.shape]).toEqual([
      ["L3N5", "L3N300"],
      [2, 2, 1, 128],
    ])
    const out = await model.weight("blocks.3.mlp.W_out")
    const post = cache.mlpPost(3).data as Float32Array
    expect(stack.data[(1 * 2 + 1) * 128 + 7]).toBeCloseTo(post[512 + 300]! * out.data[300 * 128 + 7]!, 6)
  })

  it("tells what it cannot take apart", async () => {
    const { cache } = await model.runWithCache(images, { names: ["*resid_pre", "blocks.1.mlp.hook_post"] })
    expect(() => cache.decomposeResidual()).toThrow(/"hook_full_embed" was not cached; name it in runWithCache/)
    expect(() => cache.decomposeResidual(5)).toThrow(
      /layer 5 does not exist; the model has layers 0 to 3, and 4 is the end/,
    )
    expect(() => cache.accumulatedResidual(1.5)).toThrow(/layer 1.5 does not exist/)
    await expect(cache.neuronResults(1, { neurons: [512] })).rejects.toMatchObject({
      message: "there is no neuron 512; layer 1 has neurons 0 to 511",
    })
    await expect(cache.neuronResults(1, { maxBytes: 1e6 })).rejects.toMatchObject({ code: "E_MEMORY_BUDGET" })
    await expect(cache.headResults()).rejects.toMatchObject({ code: "E_HOOK" })
    await expect(
      cache.applyFinalNorm({ labels: ["x"], stack: float32([1, 1, 1, 128], new Float32Array(128)) }),
    ).rejects.toMatchObject({ code: "E_HOOK" })
  })

  it("of a post-norm model says that its stream is no sum", async () => {
    const post = await loadPretrained(reference("base-vit-global-pool"), { threads: 1 })
    const { vision } = post.config
    const { cache } = await post.runWithCache(noise([1, vision.nChannels, ...vision.imageSize]))
    expect(() => cache.decomposeResidual()).toThrow(/post-norm.*decomposeLogit/)
    await expect(cache.applyFinalNorm(cache.accumulatedResidual())).rejects.toMatchObject({
      message: expect.stringMatching(/no ln_final/),
    })
    await post.release()
  })
})
