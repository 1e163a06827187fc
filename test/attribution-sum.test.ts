/** @file Direct logit attribution sums to the output, for every output of every family, also with other weights. */
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
  type ModelInput,
  type Tensor,
} from "../src/index.ts"
import { FAMILIES, noise, targetsOf, withFamily } from "./helpers/families.ts"
import { reference } from "./helpers/cli.ts"

/** Of what the plain run gives; the checks of the calls themselves are at 1e-4. */
const TOLERANCE = 1e-5
const near = (got: number, want: number) =>
  expect(Math.abs(got - want)).toBeLessThan(TOLERANCE * Math.max(1, Math.abs(want)))

function isSum(a: LogitAttribution, want: number): void {
  near(a.value, want)
  const sum = a.components.reduce((s, c) => s + c.value, 0)
  near(sum, want)
  expect(a.error).toBe(Math.abs(a.sum - a.value))
  expect(new Set(a.components.map((c) => c.name)).size).toBe(a.components.length)
  for (const by of ["component", "head", "layer", "token"] as const) {
    near(
      sharesBy(a, by).reduce((s, r) => s + r.value, 0),
      want,
    )
  }
}

function holds(got: readonly LogitAttribution[], want: readonly number[]): void {
  expect(got.map((a) => a.image)).toEqual(want.map((_, i) => i))
  for (const [i, a] of got.entries()) isSum(a, want[i]!)
}

const STEPS = ["norms", "layerScale", "centerWriting", "valueBiases", "refactorAttention"] as const

/** Folded by every step that the model does not refuse; that it refuses no other is for folding.test.ts. */
async function folded(model: HookedViT): Promise<HookedViT> {
  const wanted: Record<string, boolean> = {}
  for (const step of STEPS) {
    try {
      await fold(model, { layerScale: true, [step]: true })
      wanted[step] = true
    } catch (error) {
      expect(error).toMatchObject({ code: "E_INPUT", message: expect.stringMatching(/cannot be/) })
    }
  }
  const { model: other, steps } = await fold(model, wanted)
  expect(steps.map((s) => s.step)).toEqual(Object.keys(wanted))
  return other
}

describe("the sum check", () => {
  it("has families to hold for", () => expect(FAMILIES.length).toBeGreaterThanOrEqual(48))

  it.each(FAMILIES)("$name", (family) =>
    withFamily(family, async (model, { pixel_values, input_ids }) => {
      const plain = await model.run({ pixel_values, ...(input_ids && { input_ids }) })
      const targets = targetsOf(model)
      const values = async (of: HookedViT, given: ModelInput, embeds: Tensor, want: Tensor) => {
        const got = await decomposeLogit(of, given, { embeds }, { sources: true })
        expect(got).toHaveLength(want.data.length)
        for (const [i, a] of got.entries()) isSum(a, (want.data as Float32Array)[i]!)
        return got.length
      }
      /** How many outputs were taken apart. */
      const checked = async (of: HookedViT, some: typeof targets) => {
        let n = 0
        for (const { target, read } of some) {
          holds(await decomposeLogit(of, { pixel_values }, target), read(plain))
          n++
        }
        if (!model.outputNames.includes("image_embeds")) return n
        const embeds = input_ids ? plain.text_embeds : noise([1, plain.image_embeds.shape[1]!])
        const want = input_ids ? plain.logits_per_image : cosines(plain.image_embeds, embeds)
        n += await values(of, { pixel_values }, embeds, want)
        return model.config.text
          ? n + (await values(of, { input_ids: input_ids! }, plain.image_embeds, plain.logits_per_text))
          : n
      }
      expect(await checked(model, targets)).toBeGreaterThan(0)
      // The same numbers by way of other weights.
      expect(await checked(await folded(model), targets.slice(0, 1))).toBeGreaterThan(0)
    }),
  )
})

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
    expect(tokenShares(a!, "sources").reduce((s, x) => s + x, 0)).toBeCloseTo(
      a!.components.filter((c) => c.part === "head").reduce((s, c) => s + c.value, 0),
      4,
    )
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
        ops.sum(ops.mul(outputs["logits"]!, outputs["logits"]!), [1]),
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
