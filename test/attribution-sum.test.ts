/** @file Direct logit attribution sums to the output, for every output of every family; each share by its own formula. */
import { describe, expect, it } from "vitest"
import {
  decomposeLogit,
  float32,
  fold,
  loadPretrained,
  ops,
  sharesBy,
  tokenShares,
  type HookedViT,
  type LogitAttribution,
  type Tensor,
} from "../src/index.ts"
import { FAMILIES, noise, targetsOf, withFamily } from "./helpers/families.ts"
import { reference } from "./helpers/cli.ts"

/** Of what the plain run gives; the checks of the calls themselves are at 1e-4. */
const TOLERANCE = 1e-5
const near = (got: number, want: number) =>
  expect(Math.abs(got - want)).toBeLessThan(TOLERANCE * Math.max(1, Math.abs(want)))

function holds(got: readonly LogitAttribution[], want: readonly number[]): void {
  expect(got.map((a) => a.image)).toEqual(want.map((_, i) => i))
  for (const [i, a] of got.entries()) {
    near(a.value, want[i]!)
    const sum = a.components.reduce((s, c) => s + c.value, 0)
    near(sum, want[i]!)
    expect(a.error).toBe(Math.abs(a.sum - a.value))
    expect(new Set(a.components.map((c) => c.name)).size).toBe(a.components.length)
    for (const by of ["component", "head", "layer", "token"] as const) {
      near(
        sharesBy(a, by).reduce((s, r) => s + r.value, 0),
        want[i]!,
      )
    }
  }
}

describe("the sum check", () => {
  it("has families to hold for", () => expect(FAMILIES.length).toBeGreaterThanOrEqual(48))

  it.each(FAMILIES)("$name", (family) =>
    withFamily(family, async (model, { pixel_values, input_ids }) => {
      const plain = await model.run({ pixel_values, ...(input_ids && { input_ids }) })
      const targets = targetsOf(model)
      for (const { target, read } of targets) holds(await decomposeLogit(model, { pixel_values }, target), read(plain))
      if (model.outputNames.includes("image_embeds")) {
        const embeds = input_ids ? plain.text_embeds : noise([1, plain.image_embeds.shape[1]!])
        const got = await decomposeLogit(model, { pixel_values }, { embeds })
        const want = input_ids ? plain.logits_per_image : cosines(plain.image_embeds, embeds)
        expect(got).toHaveLength(want.data.length)
        for (const [i, a] of got.entries()) near(a.value, (want.data as Float32Array)[i]!)
      } else if (!targets.length) throw new Error("nothing was attributed")

      // The same numbers by way of other weights.
      const folded = await fold(model, {
        norms: model.config.vision.norm !== "post",
        layerScale: true,
        valueBiases: canFold(model),
      })
      for (const { target, read } of targets.slice(0, 1)) {
        holds(await decomposeLogit(folded.model, { pixel_values }, target), read(plain))
      }
    }),
  )

  it.each(FAMILIES.filter((f) => /^(hf|open)-clip(?!-vision)|^hf-siglip$/.test(f.name)))(
    "text tower of $name",
    (family) =>
      withFamily(family, async (model, { pixel_values, input_ids }) => {
        const { image_embeds, logits_per_text } = await model.run({ pixel_values, input_ids: input_ids! })
        const got = await decomposeLogit(model, { input_ids: input_ids! }, { embeds: image_embeds })
        expect(got).toHaveLength(logits_per_text.data.length)
        for (const [i, a] of got.entries()) near(a.value, (logits_per_text.data as Float32Array)[i]!)
      }),
  )
})

const canFold = (model: HookedViT): boolean => !model.config.vision.attnOutIdentity

function cosines(a: Tensor, b: Tensor): Tensor {
  const p = a.shape[1]!
  const [x, y] = [a.data as Float32Array, b.data as Float32Array]
  return float32(
    [a.shape[0]!, 1],
    Array.from({ length: a.shape[0]! }, (_, i) => {
      let [xy, xx, yy] = [0, 0, 0]
      for (let j = 0; j < p; j++) {
        xy += x[i * p + j]! * y[j]!
        xx += x[i * p + j]! ** 2
        yy += y[j]! ** 2
      }
      return xy / Math.sqrt(xx * yy)
    }),
  )
}

/**
 * The same by plain loops in float64 on cached values: what the class reads at a token through the final norm as it was,
 * times what each part wrote there. `weigh` is how much of each token the pooling takes.
 */
async function byLoops(model: HookedViT, pixels: Tensor, c: number): Promise<Map<string, number>> {
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
    let mean = 0
    for (let j = 0; j < d; j++) mean += x[j]! / d
    let y = 0
    for (let j = 0; j < d; j++) y += ((x[j]! - mean) / scaleAt(t)) * gain[j]! * head[c * d + j]!
    return weigh(t) * y
  }
  const overTokens = (value: (t: number) => ArrayLike<number>) =>
    [...Array(T).keys()].reduce((s, t) => s + read(value(t), t), 0)
  const out = new Map<string, number>()
  const embed = f64(cache.embed())
  const [embedBias, pos, cls] = [
    await weight("embed.proj.bias"),
    f64(cache.posEmbed()),
    prefix ? await weight("embed.cls") : [],
  ]
  const zeros = new Float64Array(d)
  const unplaced = T - pos.length / d
  out.set(
    "embed",
    overTokens((t) =>
      t < prefix ? zeros : embed.subarray((t - prefix) * d, (t - prefix + 1) * d).map((x, j) => x - embedBias[j]!),
    ),
  )
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
    overTokens((t) => (t < unplaced ? zeros : pos.subarray((t - unplaced) * d, (t - unplaced + 1) * d))),
  )
  for (let i = 0; i < vision.nLayers; i++) {
    const [z, post] = [f64(cache.z(i)), f64(cache.mlpPost(i))]
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
      const wrote = (t: number) =>
        Float64Array.from({ length: d }, (_, j) => {
          let y = 0
          for (let k = 0; k < e; k++) y += z[(t * h + a) * e + k]! * wo[j * h * e + a * e + k]!
          return y * g1[j]!
        })
      out.set(`L${i}H${a}`, overTokens(wrote))
    }
    out.set(
      `${i}_attn_bias`,
      overTokens(() => bo.map((x, j) => x * g1[j]!)),
    )
    const made = (t: number) =>
      Float64Array.from({ length: d }, (_, j) => {
        let y = 0
        for (let k = 0; k < m; k++) y += post[t * m + k]! * wOut[j * m + k]!
        return y * g2[j]!
      })
    out.set(`${i}_mlp_out`, overTokens(made))
    out.set(
      `${i}_mlp_bias`,
      overTokens(() => bOut.map((x, j) => x * g2[j]!)),
    )
  }
  const readBias = shift.reduce((s, x, j) => s + x * head[c * d + j]!, 0)
  out.set(`${normName}_bias`, readBias)
  out.set("head_bias", headBias[c]!)
  return out
}

describe("each share", () => {
  const cases: [string, string][] = [
    ["the digits' mouse", "model-cards/mnist"],
    ["a class token under a final norm", reference("hf-vit-names-v5")],
    ["the mean of the patches under a norm of its own", reference("timm-fc-norm")],
    ["LayerScale", reference("timm-deit3")],
  ]
  it.each(cases)("is that of plain loops: %s", async (_, folder) => {
    const model = await loadPretrained(folder, { threads: 1 })
    const [h, w] = model.config.vision.imageSize
    const pixels = noise([1, model.config.vision.nChannels, h, w], 3)
    const [got] = await decomposeLogit(model, pixels, { classes: 1 })
    const want = await byLoops(model, pixels, 1)
    const named = new Map(got!.components.map((c) => [c.name, c.value]))
    expect([...named.keys()].sort()).toEqual([...want.keys()].sort())
    for (const [name, value] of want) expect(named.get(name), name).toBeCloseTo(value, 5)
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
      near(share(a!, last), a!.value - (without.logits.data as Float32Array)[0]!)
      await model.release()
    }
  })
})

describe("decomposeLogit", async () => {
  const model = await loadPretrained("model-cards/mnist", { threads: 1 })
  const images = await model.images("model-cards/mnist/seven.png")

  it("gives heads by the tokens they read, and MLPs by neuron", async () => {
    const [a] = await decomposeLogit(model, images, { classes: "7" }, { neurons: true, sources: true })
    const sum = (x: Float32Array | undefined) => x!.reduce((s, v) => s + v, 0)
    for (const c of a!.components) {
      if (c.part === "head") expect(sum(c.sources)).toBeCloseTo(c.value, 4)
      if (c.part === "mlp") expect([c.neurons!.length, sum(c.neurons).toFixed(4)]).toEqual([512, c.value.toFixed(4)])
      if (c.tokens) expect(sum(c.tokens)).toBeCloseTo(c.value, 4)
    }
    // One head by loops: pattern times value, through the head's columns of W_O, along what the class reads.
    const { cache } = await model.runWithCache(images)
    const head = a!.components.find((c) => c.name === "L2H1")!
    const [v, pattern] = [cache.v(2).data as Float32Array, cache.pattern(2).data as Float32Array]
    const z = cache.z(2).data as Float32Array
    for (let k = 0; k < 32; k++) {
      let value = 0
      for (let s = 0; s < 17; s++) value += pattern[(1 * 17 + 0) * 17 + s]! * v[(s * 4 + 1) * 32 + k]!
      expect(value).toBeCloseTo(z[32 + k]!, 5)
    }
    expect(tokenShares(a!, "sources").reduce((s, x) => s + x, 0)).toBeCloseTo(
      a!.components.filter((c) => c.part === "head").reduce((s, c) => s + c.value, 0),
      4,
    )
    expect(head.sources).toHaveLength(17)
    const [unasked] = await decomposeLogit(model, images, { classes: "7" })
    expect(() => tokenShares(unasked!, "sources")).toThrow(/sources: true/)
  })

  it("takes a direction, and names and indices of classes", async () => {
    const direction = noise([128], 2)
    const base = await loadPretrained(reference("hf-dinov2"), { threads: 1 })
    const d = base.config.vision.dModel
    const along = noise([d], 2)
    const pixels = noise([1, 3, ...base.config.vision.imageSize], 9)
    const [a] = await decomposeLogit(base, pixels, { direction: along })
    const { pooler_output } = await base.run(pixels)
    near(
      a!.value,
      (pooler_output.data as Float32Array).reduce((s, x, i) => s + x * along.data[i]!, 0),
    )
    await base.release()
    const named = await decomposeLogit(model, images, { classes: ["7", 7, 1] })
    expect(named[0]!.value).toBe(named[1]!.value)
    const [apart] = await decomposeLogit(model, images, { difference: [7, "1"] })
    near(apart!.value, named[0]!.value - named[2]!.value)
    expect(apart!.target).toBe("7 - 1")
    await expect(decomposeLogit(model, images, { direction, output: "nothing" })).rejects.toMatchObject({
      code: "E_INPUT",
    })
  })

  it("is of the run as interventions leave it", async () => {
    const zeroed = { "blocks.2.attn.hook_z": (v: Parameters<typeof ops.neg>[0]) => ops.mul(v, ops.scalar(0)) }
    const [a] = await decomposeLogit(model, images, { classes: 7 }, { edit: zeroed })
    const { logits } = await model.run(images, { edit: zeroed })
    near(a!.value, (logits.data as Float32Array)[7]!)
    expect(a!.components.filter((c) => c.layer === 2 && c.part === "head").map((c) => c.value)).toEqual([0, 0, 0, 0])
    const bent = { "blocks.2.hook_attn_out": (v: Parameters<typeof ops.neg>[0]) => ops.mul(v, v) }
    await expect(decomposeLogit(model, images, { classes: 7 }, { edit: bent })).rejects.toMatchObject({
      code: "E_PARITY",
    })
  })

  it("refuses what is not linear in the outputs, since its shares would not sum to it", async () => {
    const squared = {
      metric: ({ outputs }: { outputs: Readonly<Record<string, Parameters<typeof ops.neg>[0]>> }) =>
        ops.mul(outputs["logits"]!, outputs["logits"]!),
    }
    await expect(decomposeLogit(model, images, squared)).rejects.toMatchObject({
      code: "E_PARITY",
      message: expect.stringMatching(/^the \d+ components of "metric" sum to .*must be linear/),
    })
  })

  it.each([
    [{ classes: 10 }, /there is no class 10; the model has classes 0 to 9/],
    [{ classes: "eight" }, /there is no class "eight"; the nearest of 10 are "\d"/],
    [{ classes: [] }, /no class was named/],
    [{ difference: [0, -1] as const }, /there is no class -1/],
    [{ metric: "logits[:, 10]" }, /outside/],
    [{ metric: "logit" }, /no output or hook "logit"; the nearest/],
    [{ embeds: float32([1, 4], [1, 2, 3, 4]) }, /no image_embeds/],
    [{ direction: float32([3], [1, 2, 3]), output: "logits" }, /the direction must be \[10\]/],
    [{} as { classes: 0 }, /a target is one of/],
  ])("refuses the target %o", async (target, message) => {
    await expect(decomposeLogit(model, images, target)).rejects.toMatchObject({
      message: expect.stringMatching(message),
    })
  })

  it("refuses embeddings of another width or of no length, and targets that a text tower lacks", async () => {
    const clip = await loadPretrained(reference("hf-clip-eos-2"), { threads: 1 })
    const pixels = noise([1, 3, 32, 32])
    const wrong = (embeds: Tensor) => decomposeLogit(clip, pixels, { embeds })
    await expect(wrong(noise([1, 5]))).rejects.toMatchObject({ message: "embeds must be [n, 16], got [1, 5]" })
    await expect(wrong(float32([1, 16], new Float32Array(16)))).rejects.toMatchObject({
      message: expect.stringMatching(/row 0 has length 0/),
    })
    await expect(decomposeLogit(clip, pixels, { classes: 1 })).rejects.toMatchObject({
      message: expect.stringMatching(/no class logits; it gives image_embeds/),
    })
    const ids = { dtype: "int64", shape: [1, 3], data: BigInt64Array.of(0n, 5n, 2n) } as const
    await expect(decomposeLogit(clip, { input_ids: ids }, { classes: 1 })).rejects.toMatchObject({ code: "E_INPUT" })
    const [both, first, second] = await Promise.all([
      decomposeLogit(clip, pixels, { embeds: noise([2, 16]), difference: true }),
      ...[0, 1].map((i) =>
        decomposeLogit(clip, pixels, { embeds: float32([1, 16], noise([2, 16]).data.slice(16 * i, 16 * i + 16)) }),
      ),
    ])
    near(both[0]!.value, first![0]!.value - second![0]!.value)
    await clip.release()
  })
})
