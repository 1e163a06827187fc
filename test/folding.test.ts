/** @file Other weights, the same model: against the unfolded outputs for every family, and against the definitions by loops. */
import { describe, expect, it } from "vitest"
import { float32, fold, loadPretrained, type FoldOptions, type HookedViT } from "../src/index.ts"
import { reference } from "./helpers/cli.ts"
import { FAMILIES, noise, withFamily } from "./helpers/families.ts"

const ALL = { norms: true, layerScale: true, centerWriting: true, valueBiases: true, refactorAttention: true } as const

/** What is refused, by its kind of model. */
const REFUSED: readonly [RegExp, keyof typeof ALL, RegExp][] = [
  [/^base-vit-(global|post)/, "norms", /norms of base-vit models cannot be folded: post-norm/],
  [/^base-vit-(global|post)/, "centerWriting", /post-norm blocks read the mean/],
  [/^base-vit-(attention|no-norm)|^prisma-gaap/, "centerWriting", /norm-free blocks read the mean/],
  [/^base-vit-global/, "refactorAttention", /attention has no output projection/],
  [/^hf-dinov3/, "refactorAttention", /the turn of rotary positions stands between/],
  [/^base-vit-post|qk-norm/, "refactorAttention", /a norm on q and k stands between/],
  [
    /^hf-clip-vision|^timm-(fc-norm|avgpool-class-token|no-final-norm|vit-avgpool|vit-registers)/,
    "centerWriting",
    /last_hidden_state is the stream itself|no norm stands/,
  ],
]

describe("a folded model gives what it gave", () => {
  it.each(FAMILIES)("$name", (family) =>
    withFamily(family, async (model, inputs) => {
      const wanted: Record<string, boolean> = { ...ALL }
      for (const [names, step, why] of REFUSED) {
        if (!names.test(family.name)) continue
        await expect(fold(model, { layerScale: true, [step]: true })).rejects.toMatchObject({
          code: "E_INPUT",
          message: expect.stringMatching(why),
        })
        delete wanted[step]
      }
      const { model: folded, steps } = await fold(model, { ...(wanted as FoldOptions), inputs })
      expect(steps.map((s) => s.step)).toEqual(Object.keys(wanted))
      for (const { error } of steps) for (const by of Object.values(error!)) expect(by).toBeLessThan(2e-5)
      expect([...folded.hooks.keys()]).toEqual([...model.hooks.keys()])
      const [a, b] = [await model.run(inputs), await folded.run(inputs)]
      expect(Object.keys(b)).toEqual(Object.keys(a))
      for (const [name, { data }] of Object.entries(a)) {
        const largest = (data as Float32Array).reduce((m, x) => Math.max(m, Math.abs(x)), 1)
        const worst = (data as Float32Array).reduce(
          (m, x, i) => Math.max(m, Math.abs(x - (b[name]!.data as Float32Array)[i]!)),
          0,
        )
        expect(worst / largest, name).toBeLessThan(2e-5)
      }
    }),
  )
})

const get = async (model: HookedViT, name: string) => (await model.weight(name)).data

describe("the definitions of TransformerLens", async () => {
  const model = await loadPretrained(reference("hf-vit-names-v5"), { threads: 1 })
  const { vision } = model.config
  const [d, h, e] = [vision.dModel, vision.nHeads, vision.dHead]
  const pixels = noise([1, vision.nChannels, ...vision.imageSize])
  const worst = (a: ArrayLike<number>, b: ArrayLike<number>) => {
    expect(a.length).toBe(b.length)
    return Array.from(a, (x, i) => Math.abs(x - b[i]!)).reduce((m, x) => Math.max(m, x), 0)
  }

  it("fold_ln: b += W b_ln, W *= w_ln, then W less its mean over d; the norm is left with 1 and 0", async () => {
    const { model: folded, steps } = await fold(model, { norms: true })
    for (const [norm, dense] of [
      ["blocks.1.ln1", "blocks.1.attn.q"],
      ["blocks.0.ln2", "blocks.0.mlp.in"],
      ["ln_final", "head"],
    ] as const) {
      const [w, b, W, bias] = await Promise.all(
        [`${norm}.weight`, `${norm}.bias`, `${dense}.weight`, `${dense}.bias`].map((n) => get(model, n)),
      )
      const want = W!.slice()
      const wantBias = bias!.slice()
      for (let o = 0; o < bias!.length; o++) {
        const row = Array.from({ length: d }, (_, j) => W![o * d + j]! * w![j]!)
        const mean = row.reduce((s, x) => s + x, 0) / d
        for (let j = 0; j < d; j++) want[o * d + j] = row[j]! - mean
        wantBias[o] = bias![o]! + b!.reduce((s, x, j) => s + x * W![o * d + j]!, 0)
      }
      expect(worst(await get(folded, `${dense}.weight`), want)).toBeLessThan(1e-6)
      expect(worst(await get(folded, `${dense}.bias`), wantBias)).toBeLessThan(1e-5)
      expect([new Set(await get(folded, `${norm}.weight`)), new Set(await get(folded, `${norm}.bias`))]).toEqual([
        new Set([1]),
        new Set([0]),
      ])
    }
    // The trap: the same hook, another tensor. The result says so.
    const name = "blocks.1.ln1.hook_normalized"
    const [before, after] = [
      (await model.runWithCache(pixels, { names: name })).cache,
      (await folded.runWithCache(pixels, { names: name })).cache,
    ]
    expect(worst(before.get(name).data as Float32Array, after.get(name).data as Float32Array)).toBeGreaterThan(0.01)
    const [w, b] = [await get(model, "blocks.1.ln1.weight"), await get(model, "blocks.1.ln1.bias")]
    const affine = (after.get(name).data as Float32Array).map((x, i) => x * w[i % d]! + b[i % d]!)
    expect(worst(affine, before.get(name).data as Float32Array)).toBeLessThan(1e-5)
    expect(steps[0]!.notes).toContain("blocks.*.ln1.hook_normalized is now (x - mean) / scale, without weight and bias")
  })

  it("center_writing_weights: the stream has no mean, and differs by it alone", async () => {
    const { model: folded } = await fold(model, { centerWriting: true })
    const [a, b] = [(await model.runWithCache(pixels)).cache, (await folded.runWithCache(pixels)).cache]
    for (const hook of [
      "hook_full_embed",
      "blocks.0.hook_attn_out",
      "blocks.1.hook_mlp_out",
      "blocks.1.hook_resid_post",
    ]) {
      const [x, y] = [a.get(hook).data as Float32Array, b.get(hook).data as Float32Array]
      const mean = (v: Float32Array, i: number) =>
        v.subarray(i - (i % d), i - (i % d) + d).reduce((s, u) => s + u, 0) / d
      expect(Math.max(...x.map((_, i) => Math.abs(mean(y, i))))).toBeLessThan(1e-6)
      expect(
        worst(
          y,
          x.map((v, i) => v - mean(x, i)),
        ),
      ).toBeLessThan(1e-5)
    }
  })

  it("fold_value_biases: b_O += sum over heads of b_V W_O, b_V = 0", async () => {
    const { model: folded } = await fold(model, { valueBiases: true })
    const [bV, wO, bO] = [
      await get(model, "blocks.0.attn.b_V"),
      await get(model, "blocks.0.attn.W_O"),
      await get(model, "blocks.0.attn.b_O"),
    ]
    const want = bO.map(
      (x, j) => x + Array.from({ length: h * e }, (_, k) => bV[k]! * wO[k * d + j]!).reduce((s, v) => s + v, 0),
    )
    expect(worst(await get(folded, "blocks.0.attn.b_O"), want)).toBeLessThan(1e-6)
    expect(new Set(await get(folded, "blocks.0.attn.b_V"))).toEqual(new Set([0]))
  })

  it("refactor_factored_attn_matrices: the same products, W_O's rows orthonormal, W_V's columns as long as singular values", async () => {
    const { model: folded } = await fold(model, { refactorAttention: true })
    const product = async (m: HookedViT, left: string, right: string, head: number) => {
      const [a, b] = [await get(m, `blocks.1.attn.${left}`), await get(m, `blocks.1.attn.${right}`)]
      const [out, outer] = [new Float64Array(d * d), head * d * e]
      const second = (k: number, j: number) => (right === "W_O" ? b[outer + k * d + j]! : b[outer + j * e + k]!)
      for (let i = 0; i < d; i++)
        for (let j = 0; j < d; j++) for (let k = 0; k < e; k++) out[i * d + j]! += a[outer + i * e + k]! * second(k, j)
      return out
    }
    for (const [left, right] of [
      ["W_Q", "W_K"],
      ["W_V", "W_O"],
    ] as const) {
      expect(worst(await product(folded, left, right, 1), await product(model, left, right, 1))).toBeLessThan(1e-5)
    }
    const [wO, wV] = [await get(folded, "blocks.1.attn.W_O"), await get(folded, "blocks.1.attn.W_V")]
    const row = (k: number) => wO.subarray((e + k) * d, (e + k + 1) * d)
    const along = (a: Float32Array, b: Float32Array) => a.reduce((s, x, j) => s + x * b[j]!, 0)
    for (let i = 0; i < e; i++)
      for (let j = 0; j < e; j++) expect(along(row(i), row(j))).toBeCloseTo(Number(i === j), 5)
    const lengths = Array.from({ length: e }, (_, k) =>
      Math.hypot(...Array.from({ length: d }, (__, i) => wV[d * e + i * e + k]!)),
    )
    expect(lengths).toEqual(lengths.toSorted((a, b) => b - a))
  })
})

describe("fold", () => {
  it("adds biases where there were none, folds pooling's own norms, and keeps what others read", async () => {
    const bare = await loadPretrained(reference("timm-no-qkv-bias"), { threads: 1 })
    const folded = await fold(bare, { norms: true, outputs: ["logits"] })
    expect([bare.config.vision.qkvBias, folded.model.config.vision.qkvBias]).toEqual([false, true])
    expect(folded.steps[0]!.notes.join()).not.toContain("not folded")
    expect(folded.model.outputNames).toEqual(["logits"])
    expect((await fold(bare, { norms: true })).steps[0]!.notes).toContain(
      "not folded: ln_final: last_hidden_state is what it gives",
    )
    await bare.release()
    const map = await loadPretrained(reference("timm-map-registers-classifier"), { threads: 1 })
    const pool = await fold(map, {
      norms: true,
      outputs: ["logits"],
      inputs: noise([1, 3, ...map.config.vision.imageSize]),
    })
    expect(new Set(await get(pool.model, "ln_final.weight"))).toEqual(new Set([1]))
    expect(pool.steps[0]!.error!["logits"]).toBeLessThan(1e-5)
    await map.release()
  })

  it("measures each step alone: a weight spoilt in between shows", async () => {
    const model = await loadPretrained("model-cards/mnist", { threads: 1 })
    const inputs = noise([1, 1, 28, 28])
    const { model: folded, steps } = await fold(model, { norms: true, valueBiases: true, inputs })
    expect(steps.map((s) => Object.keys(s.error!))).toEqual([["logits"], ["logits"]])
    const weights = new Map(folded.weights)
    const bias = await folded.weight("blocks.0.attn.out.bias")
    weights.set("blocks.0.attn.out.bias", {
      tensor: float32(
        bias.shape,
        bias.data.map((x) => x + 0.1 * Math.sin(x * 1e4)),
      ),
      shape: bias.shape,
    })
    Object.assign(folded, { weights })
    const again = await fold(folded, { centerWriting: true, inputs })
    const plain = (await model.run(inputs)).logits.data as Float32Array
    const spoilt = (await again.model.run(inputs)).logits.data as Float32Array
    expect(again.steps[0]!.error!["logits"]).toBeLessThan(1e-4)
    expect(Math.max(...plain.map((x, i) => Math.abs(x - spoilt[i]!)))).toBeGreaterThan(1e-3)
    await model.release()
  })

  it("names what there is", async () => {
    const model = await loadPretrained("model-cards/mnist", { threads: 1 })
    await expect(fold(model, { norm: true } as FoldOptions)).rejects.toMatchObject({
      message: "no folding is called norm; there are norms, layerScale, centerWriting, valueBiases, refactorAttention",
    })
    await expect(fold(model, { outputs: ["pooler_output"] })).rejects.toMatchObject({
      message: "the model has no output pooler_output; it has logits",
    })
    const dino = await loadPretrained(reference("hf-dinov2"), { threads: 1 })
    await expect(fold(dino, { centerWriting: true })).rejects.toMatchObject({
      message: expect.stringMatching(/LayerScale stands behind them; fold it first/),
    })
    await model.release()
    await dino.release()
  })
})
