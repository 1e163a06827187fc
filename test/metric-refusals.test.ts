/** @file What is refused in one line everywhere: a metric of several numbers, empty lists, seeds and shares that are none. */
import { afterAll, describe, expect, it } from "vitest"
import {
  attentionFlow,
  attentionGradient,
  attributionPatching,
  decomposeLogit,
  emojiGrid,
  float32,
  headReport,
  integratedGradients,
  loadPretrained,
  logitLens,
  occlusion,
  ops,
  Random,
  rollout,
  saliency,
  sharesBy,
  smoothGrad,
  visualise,
  type GraphView,
} from "../src/index.ts"
import { measure } from "../src/interp/causal/sweep.ts"
import { cli, demoModel, reference, seven } from "./helpers/cli.ts"
import { noiseImages as images } from "./helpers/noise-images.ts"
import { thrown } from "./helpers/thrown.ts"

const mouse = await loadPretrained("model-cards/mnist", { threads: 1 })
const clip = await loadPretrained(reference("open-clip-quickgelu"), { threads: 1 })
afterAll(() => Promise.all([mouse.release(), clip.release()]))
const two = images(mouse, 2, 1)
const source = { zero: true } as const

describe("a metric of several numbers of an image", () => {
  const several = [
    "logits",
    "logits[:, 2:5]",
    "blocks.1.attn.hook_pattern",
    ({ outputs }: GraphView) => outputs["logits"]!,
  ] as const

  it.each([
    ["gradients", (m) => mouse.gradients(two, m)],
    ["decomposeLogit", (m) => decomposeLogit(mouse, two, { metric: m })],
    ["saliency", (m) => saliency(mouse, two, m)],
    ["integratedGradients", (m) => integratedGradients(mouse, two, m)],
    ["smoothGrad", (m) => smoothGrad(mouse, two, m)],
    ["occlusion", (m) => occlusion(mouse, two, m)],
    ["attentionGradient", (m) => attentionGradient(mouse, two, m)],
    ["attributionPatching", (m) => attributionPatching(mouse, { base: two, source, hooks: "hook_embed", metric: m })],
    ["measure", (m) => measure(mouse, two, m)],
  ] as [string, (m: (typeof several)[number]) => Promise<unknown>][])(
    "is refused by %s, with what to do",
    async (_, run) => {
      for (const metric of several) {
        const error = await thrown(run(metric))
        expect(error.code).toBe("E_INPUT")
        expect(error.message).toMatch(
          /must be one number of each image, got \[.*\]: index it, as "logits\[:, 1\]", or sum it$/,
        )
      }
    },
  )

  it("is refused on the command line", async () => {
    for (const command of ["attribute", "saliency"]) {
      const { code, stdout, stderr } = await cli([command, demoModel, seven, "--metric", "logits"])
      expect([code, stdout]).toEqual([1, ""])
      expect(stderr).toMatch(/the metric "logits" must be one number of each image/)
    }
  })

  it("is what feature visualisation sums: a channel at all tokens", async () => {
    const { objective } = await visualise(mouse, "blocks.1.hook_resid_post[:, :, 3]", { steps: 2 })
    expect(objective.data.every(Number.isFinite)).toBe(true)
  })
})

describe("what belongs to both towers", () => {
  it("is not of one image, and says what is", async () => {
    const error = await thrown(decomposeLogit(clip, images(clip, 1, 1), { metric: "logits_per_image[:, 0]" }))
    expect([error.code, error.message]).toEqual([
      "E_INPUT",
      expect.stringMatching(/of both towers: attribute \{ embeds \}/),
    ])
  })
})

describe("what is no number, name or list", () => {
  const pattern = float32([1, 1, 2, 2], [0.5, 0.5, 0, 1])
  it.each([
    ["a pattern of NaN", () => attentionFlow([float32([1, 1, 2, 2], [NaN, 0, 0, 1])]), /finite numbers, got NaN at 0/],
    ["rollout from NaN", () => rollout([pattern], { from: [NaN, 1] }), /finite numbers, got NaN at 0/],
    ["half a stream", async () => emojiGrid(await logitLens(mouse, two), [4, 4], { stream: 1.5 }), /streams 0 to \d+/],
    ["no stream", () => logitLens(mouse, two, { layers: [] }), /no stream was named; there are 0 to 4/],
    [
      "no neuron",
      async () => (await mouse.runWithCache(two)).cache.neuronResults(0, { neurons: [] }),
      /no neuron was named; layer 0 has neurons 0 to/,
    ],
    [
      "no hook",
      () => attributionPatching(mouse, { base: two, source, hooks: [], metric: "logits[:, 1]" }),
      /no hook was named/,
    ],
    [
      "shares by nothing known",
      async () => sharesBy((await decomposeLogit(mouse, two, { classes: 1 }))[0]!, "x" as never),
      /by token, source, .*, got "x"/,
    ],
    ["miles", () => headReport(mouse, two, { unit: "miles" as never }), /unit must be pixels or patches, got miles/],
    ["a seed of NaN", () => new Random(NaN), /a seed is an integer from 0 on, got NaN/],
    ["a seed below 0", () => new Random(-1), /a seed is an integer from 0 on, got -1/],
  ] as [string, () => unknown, RegExp][])("%s", async (_, run, message) => {
    expect((await thrown(Promise.resolve().then(run))).message).toMatch(message)
  })

  it.each([
    [
      ["ablate", demoModel, seven, seven, "--mode", "resample", "--hook", "mlp_out", "--seed", "abc"],
      /whole number from 0/,
    ],
    [
      ["ablate", demoModel, seven, seven, "--mode", "resample", "--hook", "mlp_out", "--seed=-1"],
      /whole number from 0/,
    ],
    [["saliency", demoModel, seven, "--discard-ratio", ""], /number from 0 to below 1/],
  ])("%j", async (args, message) => {
    const { code, stderr } = await cli(args)
    expect([code, stderr]).toEqual([2, expect.stringMatching(message)])
  })
})

it("the sum of a metric is one", async () => {
  const summed = ({ outputs }: GraphView) => ops.sum(outputs["logits"]!, [1])
  const { logits } = await mouse.run(two)
  const want = [0, 1].map((i) => (logits.data as Float32Array).slice(10 * i, 10 * i + 10).reduce((a, b) => a + b, 0))
  for (const [i, x] of (await measure(mouse, two, summed)).entries()) expect(x).toBeCloseTo(want[i]!, 4)
})
