/** @file Each share of direct logit attribution by its own formula: parts, and within them tokens, neurons and what heads read. */
import { describe, expect, it } from "vitest"
import {
  decomposeLogit,
  float32,
  loadPretrained,
  type HookedViT,
  type LogitAttribution,
  type Tensor,
} from "../src/index.ts"
import { noise } from "./helpers/families.ts"
import { reference } from "./helpers/cli.ts"

/** A share, and how it is made up. */
interface Share {
  readonly value: number
  readonly tokens?: readonly number[]
  readonly sources?: readonly number[]
  readonly neurons?: readonly number[]
}

/**
 * By plain loops in float64 on cached values: what the class reads at a token through the final norm as it was,
 * times what each part wrote there. `weigh` is how much of each token the pooling takes.
 */
async function byLoops(model: HookedViT, pixels: Tensor, c: number): Promise<Map<string, Share>> {
  const { vision } = model.config
  const { cache } = await model.runWithCache(pixels)
  const [T, d, h, e, m] = [cache.residPre(0).shape[1]!, vision.dModel, vision.nHeads, vision.dHead, vision.dMlp]
  const prefix = T - cache.embed().shape[1]!
  const f64 = (t: { data: ArrayLike<number | bigint> }) => Float64Array.from(t.data as Float32Array)
  const weight = async (name: string) => f64(await model.weight(name))
  const normName = vision.lnPooled ? "ln_pooled" : "ln_final"
  const [gain, shift, head, headBias] = [
    await weight(`${normName}.weight`),
    await weight(`${normName}.bias`),
    await weight("head.weight"),
    await weight("head.bias"),
  ]
  const scale = f64(cache.get(`${normName}.hook_scale`))
  const weigh = (t: number) => (vision.pool === "cls" ? Number(t === 0) : t < prefix ? 0 : 1 / (T - prefix))
  const scaleAt = (t: number) => (vision.lnPooled ? scale[0]! : scale[t]!)
  /** Through the norm and the head: the mean comes off, the scale is what it was. */
  const read = (x: ArrayLike<number>, t: number): number => {
    if (!weigh(t)) return 0
    let mean = 0
    for (let j = 0; j < d; j++) mean += x[j]! / d
    let y = 0
    for (let j = 0; j < d; j++) y += ((x[j]! - mean) / scaleAt(t)) * gain[j]! * head[c * d + j]!
    return weigh(t) * y
  }
  const range = (n: number) => [...Array(n).keys()]
  const total = (x: readonly number[]) => x.reduce((s, v) => s + v, 0)
  const overTokens = (value: (t: number) => ArrayLike<number>) => {
    const tokens = range(T).map((t) => read(value(t), t))
    return { value: total(tokens), tokens }
  }
  const out = new Map<string, Share>()
  const embed = f64(cache.embed())
  const [embedBias, pos, cls] = [
    await weight("embed.proj.bias"),
    f64(cache.posEmbed()),
    prefix ? await weight("embed.cls") : [],
  ]
  const zeros = new Float64Array(d)
  const unplaced = T - pos.length / d
  const patch = (t: number) => embed.subarray((t - prefix) * d, (t - prefix + 1) * d)
  const place = (t: number) => pos.subarray((t - unplaced) * d, (t - unplaced + 1) * d)
  const patches = overTokens((t) => (t < prefix ? zeros : patch(t).map((x, j) => x - embedBias[j]!)))
  out.set("embed", patches)
  out.set(
    "embed_bias",
    overTokens((t) => (t < prefix ? zeros : embedBias)),
  )
  if (prefix)
    out.set(
      "cls_token",
      overTokens((t) => (t === 0 ? cls : zeros)),
    )
  out.set(
    "pos_embed",
    overTokens((t) => (t < unplaced ? zeros : place(t))),
  )
  for (let i = 0; i < vision.nLayers; i++) {
    const [z, v, pattern, post] = [f64(cache.z(i)), f64(cache.v(i)), f64(cache.pattern(i)), f64(cache.mlpPost(i))]
    const [wo, bo, wOut, bOut] = [
      await weight(`blocks.${i}.attn.out.weight`), // [d, h * e]
      await weight(`blocks.${i}.attn.out.bias`),
      await weight(`blocks.${i}.mlp.out.weight`), // [d, m]
      await weight(`blocks.${i}.mlp.out.bias`),
    ]
    const [g1, g2] = vision.layerScale
      ? [await weight(`blocks.${i}.ls1.gamma`), await weight(`blocks.${i}.ls2.gamma`)]
      : [zeros.map(() => 1), zeros.map(() => 1)]
    for (let a = 0; a < h; a++) {
      const through = (x: Float64Array, t: number) =>
        Float64Array.from({ length: d }, (_, j) => {
          let y = 0
          for (let k = 0; k < e; k++) y += x[(t * h + a) * e + k]! * wo[j * h * e + a * e + k]!
          return y * g1[j]!
        })
      const values = range(T).map((t) => through(v, t))
      const looked = (q: number, s: number) => pattern[(a * T + q) * T + s]!
      const sources = values.map((x, s) => total(range(T).map((q) => looked(q, s) * read(x, q))))
      out.set(`L${i}H${a}`, { ...overTokens((t) => through(z, t)), sources })
    }
    out.set(
      `${i}_attn_bias`,
      overTokens(() => bo.map((x, j) => x * g1[j]!)),
    )
    const rows = range(m).map((n) => Float64Array.from({ length: d }, (_, j) => wOut[j * m + n]! * g2[j]!))
    const neurons = rows.map((row, n) => total(range(T).map((t) => post[t * m + n]! * read(row, t))))
    const made = (t: number) => {
      const sum = new Float64Array(d)
      for (const [n, row] of rows.entries()) for (let j = 0; j < d; j++) sum[j]! += post[t * m + n]! * row[j]!
      return sum
    }
    out.set(`${i}_mlp_out`, { ...overTokens(made), neurons })
    out.set(
      `${i}_mlp_bias`,
      overTokens(() => bOut.map((x, j) => x * g2[j]!)),
    )
  }
  const readBias = shift.reduce((s, x, j) => s + x * head[c * d + j]!, 0)
  // The norm of what is pooled stands behind the tokens.
  const behind = vision.lnPooled ? {} : { tokens: range(T).map((t) => weigh(t) * readBias) }
  out.set(`${normName}_bias`, { value: readBias, ...behind })
  out.set("head_bias", { value: headBias[c]! })
  return out
}

describe("each share", () => {
  const cases: [string, string][] = [
    ["the digits' mouse", "model-cards/mnist"],
    ["a class token under a final norm", reference("hf-vit-names-v5")],
    ["a class token under a norm of its own", reference("timm-fc-norm")],
    ["the mean of the patches", reference("timm-gap")],
    ["the mean of the patches under a norm of its own", reference("timm-avgpool-class-token")],
    ["LayerScale", reference("timm-deit3")],
  ]
  it.each(cases)("is that of plain loops, as are its tokens, sources and neurons: %s", async (_, folder) => {
    const model = await loadPretrained(folder, { threads: 1 })
    const [h, w] = model.config.vision.imageSize
    const pixels = noise([1, model.config.vision.nChannels, h, w], 3)
    const [got] = await decomposeLogit(model, pixels, { classes: 1 }, { sources: true, neurons: true })
    const want = await byLoops(model, pixels, 1)
    const named = new Map(got!.components.map((c) => [c.name, c]))
    expect([...named.keys()].sort()).toEqual([...want.keys()].sort())
    for (const [name, share] of want) {
      const component = named.get(name)!
      expect(component.value, name).toBeCloseTo(share.value, 5)
      for (const kind of ["tokens", "sources", "neurons"] as const) {
        expect(component[kind]?.length, `${kind} of ${name}`).toBe(share[kind]?.length)
        for (const [i, x] of (share[kind] ?? []).entries()) {
          expect(component[kind]![i], `${kind} of ${name}: ${i}`).toBeCloseTo(x, 5)
        }
      }
    }
    await model.release()
  })

  it("is what the logit loses where nothing lies behind: heads and MLP of a last layer without norms", async () => {
    for (const [name, hook, share] of [
      [
        "base-vit-attention-only",
        "attn.hook_z",
        (a: LogitAttribution, i: number) => a.components.find((c) => c.name === `L${i}H1`)!.value,
      ],
      [
        "base-vit-no-norm",
        "mlp.hook_post",
        (a: LogitAttribution, i: number) => a.components.find((c) => c.name === `${i}_mlp_out`)!.value,
      ],
    ] as const) {
      const model = await loadPretrained(reference(name), { threads: 1 })
      const { vision } = model.config
      const last = vision.nLayers - 1
      const pixels = noise([1, vision.nChannels, ...vision.imageSize], 5)
      const [a] = await decomposeLogit(model, pixels, { classes: 0 })
      const without = await model.run(pixels, {
        hooks: {
          [`blocks.${last}.${hook}`]: ({ shape, data }) => {
            const out = Float32Array.from(data as Float32Array)
            const [, , heads, e] = shape as [number, number, number, number]
            for (let i = 0; i < out.length; i++)
              if (hook === "mlp.hook_post" || Math.floor(i / e) % heads === 1) out[i] = 0
            return float32(shape, out)
          },
        },
      })
      expect(share(a!, last)).toBeCloseTo(a!.value - (without.logits.data as Float32Array)[0]!, 5)
      await model.release()
    }
  })
})
