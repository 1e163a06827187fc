/** @file The oracle against what transformers, timm and open_clip computed in float64, and what must hold of it alone. */
import { existsSync, readdirSync, readFileSync } from "node:fs"
import { describe, expect, it } from "vitest"
import { convertCheckpoint } from "../converters/index.ts"
import { oracle, type Feeds } from "../src/export/oracle.ts"
import type { ModelConfig } from "../src/model/config.ts"
import { build } from "../src/model/model.ts"
import type { Weight } from "../src/model/scope.ts"
import { toFloat64 } from "../src/tensor/numbers.ts"
import { readSafetensors } from "../src/tensor/safetensors.ts"
import { show, type Tensor } from "../src/tensor/tensor.ts"
import { floats, readSafetensors as readExpected, type Stored } from "./helpers/read-safetensors.ts"

const FIXTURES = new URL("fixtures/reference/", import.meta.url)
const SHARED = new URL("../../shared/reference/", import.meta.url)

/** Folders with a checkpoint and the activations its library computed for it. */
const casesIn = (root: URL): string[] =>
  readdirSync(root).filter(
    (name) => configOf(new URL(`${name}/`, root)) && existsSync(new URL(`${name}/expected.safetensors`, root)),
  )

// training-adamw records weights and losses, not activations.
const configOf = (folder: URL): string | undefined =>
  existsSync(new URL("case.json", folder))
    ? undefined
    : ["config.json", "open_clip_config.json"].find((file) => existsSync(new URL(file, folder)))

interface Case {
  readonly config: ModelConfig
  readonly weights: ReadonlyMap<string, { readonly shape: readonly number[]; readonly data: Float64Array }>
  readonly expected: ReadonlyMap<string, Stored>
  readonly feeds: Feeds
}

function load(root: URL, name: string): Case {
  const folder = new URL(`${name}/`, root)
  const file = configOf(folder)!
  const source = new Map<string, Tensor>()
  for (const f of readdirSync(folder)) {
    if (!f.endsWith(".safetensors") || f === "expected.safetensors") continue
    for (const [n, t] of readSafetensors(readFileSync(new URL(f, folder))).tensors) source.set(n, t)
  }
  const json: unknown = JSON.parse(readFileSync(new URL(file, folder), "utf8"))
  const { config, weights } = convertCheckpoint(json, source, file)
  const { tensors: expected } = readExpected(new URL("expected.safetensors", folder))
  const given = (input: string) => {
    const stored = expected.get(`input.${input}`)
    return stored && { shape: stored.shape, data: integersOr(stored) }
  }
  const input_ids = given("input_ids")
  const feeds = { pixel_values: given("pixel_values")!, ...(input_ids && { input_ids }) }
  return { config, weights: new Map([...weights].map(([n, w]) => [n, inOurLayout(w)])), expected, feeds }
}

const integersOr = (t: Stored): ArrayLike<number> =>
  t.dtype === "I64" ? Array.from(new BigInt64Array(t.bytes.buffer), Number) : floats(t)

function inOurLayout({ tensor, shape, perm, from }: Weight): { shape: readonly number[]; data: Float64Array } {
  const stored = toFloat64(tensor as Tensor)
  if (!perm) return { shape, data: stored }
  // A matrix, or a matrix for each head.
  const [columns, rows] = from?.slice(1) ?? [...shape].reverse()
  const size = rows! * columns!
  const at = (i: number) => Math.floor(i / size) * size + (i % columns!) * rows! + Math.floor((i % size) / columns!)
  return { shape, data: stored.map((_, i) => stored[at(i)]!) }
}

const run = ({ config, weights, feeds }: Case, want?: (name: string) => boolean) =>
  oracle(config, (name) => weights.get(name)!, feeds, want && { want })

/**
 * References were computed in float64 and stored as float32: half a unit of its last place, and what two orders of
 * summation in float64 can differ by. All 2.7 million values of the cases are in fact equal once rounded to float32, but
 * for rotary positions: transformers takes their angles in float32 whatever the model's type.
 */
const misfit = (got: number, wanted: number, largest: number, isRotary: boolean): boolean =>
  !(Math.abs(got - wanted) <= 2 ** -24 * Math.abs(wanted) + (isRotary ? 1e-6 : 1e-13) * largest)

function compare(root: URL, name: string): void {
  const one = load(root, name)
  const got = run(one)
  const compared = [...one.expected].filter(([n]) => !/^(input|grad)\./.test(n))
  expect(compared.length).toBeGreaterThan(8)
  const wrong = compared.flatMap(([n, stored]) => {
    const value = got.get(n)
    if (!value) return [`${n} is missing`]
    if (String(value.shape) !== String(stored.shape))
      return [`${n} is ${show(value.shape)}, expected ${show(stored.shape)}`]
    const wanted = floats(stored)
    const largest = wanted.reduce((most, x) => Math.max(most, Math.abs(x)), 0)
    const at = wanted.findIndex((x, i) => misfit(value.data[i]!, x, largest, one.config.vision.rotary !== undefined))
    return at < 0 ? [] : [`${n}[${at}] is ${value.data[at]}, expected ${wanted[at]}`]
  })
  expect(wrong).toEqual([])
}

describe("every value that its library computed", () => {
  it.each(casesIn(FIXTURES))("%s", (name) => compare(FIXTURES, name))
})

describe.skipIf(!existsSync(SHARED))("every value of the shared references (absent in a fresh clone)", () => {
  it.each(existsSync(SHARED) ? casesIn(SHARED) : [])("%s", (name) => compare(SHARED, name))
})

/** Between them: two towers, registers, gate, rotary positions, q/k norm, LayerScale, attention pooling, distillation, a wide image. */
const VARIED = [
  "hf-clip-eos-2",
  "hf-dinov2-swiglu",
  "hf-dinov2-registers-base",
  "hf-dinov3-gated-key-bias",
  "hf-siglip-vision",
  "hf-vit-pooler-wide",
  "open-clip-layerscale-bias",
  "timm-deit-distilled",
  "timm-map-registers-classifier",
  "timm-no-embed-class",
  "timm-no-pos-embed",
  "timm-qk-norm",
  "timm-fc-norm",
]

describe.each(VARIED)("%s", (name) => {
  const one = load(FIXTURES, name)
  const all = run(one)

  it("has the names and shapes of the graph, also of what the graph makes on request only", () => {
    const { scope, outputs } = build(one.config, undefined, {
      reads: () => true,
      writes: () => false,
      write: (_, value) => value,
    })
    const [texts = 0, tokens = 0] = one.feeds.input_ids?.shape ?? []
    const sizes = new Map(Object.entries({ batch: one.feeds.pixel_values.shape[0]!, texts, tokens }))
    const values = [...[...scope.hooks].map(([n, { value }]) => [n, value] as const), ...Object.entries(outputs)]
    const wanted = values.map(([n, { shape }]) => `${n} ${show(shape.map((d) => sizes.get(`${d}`) ?? d))}`)
    const got = [...all].map(([n, { shape }]) => `${n} ${show(shape)}`)
    expect(got.sort()).toEqual(wanted.sort())
    for (const { shape, data } of all.values()) expect(data.length).toBe(shape.reduce((a, b) => a * b))
  })

  it("changes where any one weight changes, and reads no other", () => {
    const asked = new Set<string>()
    for (const [changed, weight] of one.weights) {
      // A gain common to all values of a row may vanish in a norm, and the sum of a softmax hides a common shift.
      const other = { ...weight, data: weight.data.map((x, i) => x + 0.1 * (1 + (i % 3))) }
      const got = oracle(
        one.config,
        (n) => {
          asked.add(n)
          return n === changed ? other : one.weights.get(n)!
        },
        one.feeds,
      )
      const moved = [...got].some(([n, { data }]) => data.some((x, i) => Math.abs(x - all.get(n)!.data[i]!) > 1e-6))
      expect([changed, moved]).toEqual([changed, true])
    }
    expect([...asked].sort()).toEqual([...one.weights.keys()].sort())
  })
})

describe("what is kept", () => {
  const one = load(FIXTURES, "open-clip-layerscale-bias")
  const all = run(one)

  it("is what is wanted, with the same values", () => {
    const wanted = [
      "blocks.1.attn.hook_result",
      "text.blocks.0.hook_k_input",
      "logits_per_text",
      "blocks.0.hook_mlp_in",
    ]
    const some = run(one, (name) => wanted.includes(name))
    expect([...some.keys()].sort()).toEqual([...wanted].sort())
    for (const [name, value] of some) expect(value).toEqual(all.get(name))
  })

  it("holds heads that add up to what attention writes", () => {
    // attn_out = gamma * (sum of the heads + bias)
    const [bias, gamma] = ["attn.out.bias", "ls1.gamma"].map((n) => one.weights.get(`blocks.0.${n}`)!.data)
    const [result, out] = ["attn.hook_result", "hook_attn_out"].map((n) => all.get(`blocks.0.${n}`)!)
    const [, tokens, heads, d] = result!.shape as [number, number, number, number]
    for (let t = 0; t < tokens; t++) {
      for (let c = 0; c < d; c++) {
        let sum = bias![c]!
        for (let h = 0; h < heads; h++) sum += result!.data[(t * heads + h) * d + c]!
        expect(gamma![c]! * sum).toBeCloseTo(out!.data[t * d + c]!, 12)
      }
    }
  })

  it("holds the residual stream once for each head as what q, k and v may read apart", () => {
    const stream = all.get("blocks.1.hook_resid_pre")!.data
    const { nHeads, dModel } = one.config.vision
    for (const which of ["q", "k", "v"]) {
      const wrong = all.get(`blocks.1.hook_${which}_input`)!.data.findIndex((x, i) => {
        const token = Math.floor(i / (nHeads * dModel))
        return x !== stream[token * dModel + (i % dModel)]
      })
      expect([which, wrong]).toEqual([which, -1])
    }
    expect(all.get("blocks.1.hook_mlp_in")).toEqual(all.get("blocks.1.hook_resid_mid"))
  })

  it("takes the last token for a text where the config says so", () => {
    // The third text alone ends with its largest id.
    const text = { ...one.config.text!, pool: "last" as const }
    const last = run({ ...one, config: { ...one.config, text } }).get("text_embeds")!
    const largest = all.get("text_embeds")!.data
    const rows = [0, 1, 2].map(
      (i) => String(last.data.slice(i * 16, i * 16 + 16)) === String(largest.slice(i * 16, i * 16 + 16)),
    )
    expect([last.shape, rows]).toEqual([
      [3, 16],
      [false, false, true],
    ])
  })

  it("hides later tokens of a text behind the least float32, and from everything before them", () => {
    const { shape, data } = all.get("text.blocks.1.attn.hook_attn_scores")!
    const t = shape[3]!
    for (const [i, score] of data.entries()) expect(score < -1e38).toBe(i % t > Math.floor(i / t) % t)
    const ids = Array.from(one.feeds.input_ids!.data, Number)
    const other = ids.with(t - 1, (ids[t - 1]! + 1) % 90)
    const changed = run({ ...one, feeds: { ...one.feeds, input_ids: { ...one.feeds.input_ids!, data: other } } })
    const d = one.config.text!.dModel
    const [before, after] = [all, changed].map((m) => m.get("text.blocks.1.hook_resid_post")!.data)
    expect(after!.subarray(0, (t - 1) * d)).toEqual(before!.subarray(0, (t - 1) * d))
    expect(after!.subarray((t - 1) * d, t * d)).not.toEqual(before!.subarray((t - 1) * d, t * d))
  })
})

describe("a batch", () => {
  it("gives each image what it gets alone", () => {
    const one = load(FIXTURES, "timm-map-registers-classifier")
    const together = run(one)
    const { shape, data } = one.feeds.pixel_values
    const half = data.length / 2
    for (const i of [0, 1]) {
      const pixel_values = { shape: [1, ...shape.slice(1)], data: Array.from(data).slice(i * half, (i + 1) * half) }
      for (const [name, alone] of run({ ...one, feeds: { pixel_values } })) {
        const whole = together.get(name)!.data
        const from = whole.length === alone.data.length ? 0 : i * alone.data.length
        expect([name, whole.slice(from, from + alone.data.length)]).toEqual([name, alone.data])
      }
    }
  })
})

describe("feeds and weights that do not fit", () => {
  const one = load(FIXTURES, "open-clip-layerscale-bias")
  const { pixel_values, input_ids } = one.feeds
  const given =
    (feeds: Feeds, weights = one.weights) =>
    () =>
      run({ ...one, feeds, weights })
  const code = (wanted: string, text: RegExp) =>
    expect.objectContaining({ code: wanted, message: expect.stringMatching(text) as string }) as Error

  it("are errors that say what was expected", () => {
    const small = { shape: [1, 3, 16, 16], data: new Float32Array(768) }
    expect(given({ pixel_values: small })).toThrow(code("E_INPUT", /\[1, 3, 16, 16\].* expected \[batch, 3, 32, 32\]/))
    const none = { shape: [0, 3, 32, 32], data: [] }
    expect(given({ pixel_values: none })).toThrow(code("E_INPUT", /expected \[batch, 3, 32, 32\]/))
    expect(given({ pixel_values })).toThrow(code("E_INPUT", /input_ids is missing/))
    const long = { shape: [1, 11], data: Array<number>(11).fill(1) }
    expect(given({ pixel_values, input_ids: long })).toThrow(code("E_INPUT", /\[1, 11\].* at most 10 tokens/))
    for (const id of [99, -1, 0.5, NaN]) {
      const ids = { ...input_ids!, data: Array.from(input_ids!.data, Number).with(3, id) }
      expect(given({ pixel_values, input_ids: ids })).toThrow(code("E_INPUT", new RegExp(`holds ${id},.* 99 tokens`)))
    }
    const cut = { shape: [32, 31], data: new Float64Array(32 * 31) }
    const weights = new Map(one.weights).set("blocks.1.attn.k.weight", cut)
    expect(given(one.feeds, weights)).toThrow(
      code("E_SHAPE_MISMATCH", /"blocks.1.attn.k.weight" is \[32, 31\] with 992 values, the config wants \[32, 32\]/),
    )
    const pooled = { ...one.config, vision: { ...one.config.vision, outputs: ["logits"] as const } }
    expect(() => run({ ...one, config: pooled })).toThrow(code("E_CONFIG", /output "logits"/))
  })
})
