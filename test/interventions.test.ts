/** @file Patches, edits and functions together, and runs of a part of a model. */
import { resolve } from "node:path"
import { afterAll, beforeAll, describe, expect, it, vi } from "vitest"
import {
  float32,
  loadPretrained,
  matchHooks,
  ops,
  type Interventions,
  type LoadedViT,
  type Tensor,
  type Value,
} from "../src/index.ts"
import { change, differing, half, mapped, ROUNDING, type Reading, type Run } from "./helpers/causality.ts"
import { readCase } from "./helpers/parity.ts"

const folderOf = (name: string) => resolve(import.meta.dirname, "fixtures/reference", name)

describe("interventions together", () => {
  const name = "hf-dinov2-swiglu"
  let model: LoadedViT
  let inputs: { pixel_values: Tensor }
  let run: Run
  let base: Reading
  beforeAll(async () => {
    model = await loadPretrained(folderOf(name), { threads: 1 })
    inputs = readCase({ name, folder: folderOf(name) }).inputs
    run = async (patch) => {
      const { cache, ...outputs } = await model.runWithCache(inputs, { patch })
      return new Map<string, Tensor>([...cache, ...Object.entries(outputs)])
    }
    base = await run({})
  })
  afterAll(() => model.release())

  it("come at one hook as patch, edit, function", async () => {
    const hook = "blocks.0.mlp.hook_post"
    const patch = mapped(base.get(hook)!, (x) => x - 1)
    const seen: Tensor[] = []
    const { cache, ...outputs } = await model.runWithCache(inputs, {
      patch: { [hook]: patch },
      edit: { [hook]: (v) => ops.add(ops.mul(v, ops.scalar(2)), ops.scalar(1)) },
      hooks: { [hook]: (t) => (seen.push(t), mapped(t, (x) => x * 3 - 0.5)) },
    })
    const edited = mapped(patch, (x) => 2 * x + 1)
    expect(seen).toHaveLength(1)
    expect(change(seen[0], edited)).toBeLessThan(ROUNDING)
    const last = mapped(edited, (x) => x * 3 - 0.5)
    expect(change(cache.get(hook), last)).toBeLessThan(ROUNDING)
    expect(differing(new Map([...cache, ...Object.entries(outputs)]), await run({ [hook]: last }))).toEqual([])
  })

  it("come at several hooks as if one after the other", async () => {
    const [z, post, scale] = ["blocks.0.attn.hook_z", "blocks.0.mlp.hook_post", "blocks.1.ln1.hook_scale"] as const
    const first = { [z]: half(base.get(z)!) }
    const second = { ...first, [post]: half((await run(first)).get(post)!) }
    const third = { ...second, [scale]: mapped((await run(second)).get(scale)!, (x) => 1.5 * x) }
    const { cache, ...outputs } = await model.runWithCache(inputs, {
      hooks: { [scale]: (t) => mapped(t, (x) => 1.5 * x) },
      edit: { [post]: (v) => ops.mul(v, ops.scalar(0.5)) },
      patch: first,
    })
    expect(differing(new Map([...cache, ...Object.entries(outputs)]), await run(third))).toEqual([])
  })

  it("call functions once each, in the model's order, each after the effect of those before", async () => {
    const calls: [string, Tensor][] = []
    const noted = (f: (x: number) => number) => async (t: Tensor, hook: string) => {
      calls.push([hook, t])
      return mapped(t, f)
    }
    const { cache } = await model.runWithCache(inputs, {
      hooks: {
        "blocks.1.mlp.hook_post": noted((x) => x),
        "blocks.1.hook_resid_pre": noted((x) => x + 1), // the same value as the next, which comes first
        "blocks.0.hook_resid_post": noted((x) => x / 2),
        "blocks.*.attn.hook_pattern": noted((x) => x),
      },
    })
    const [post, pre] = ["blocks.0.hook_resid_post", "blocks.1.hook_resid_pre"]
    expect(calls.map(([hook]) => hook)).toEqual([
      "blocks.0.attn.hook_pattern",
      post,
      pre,
      "blocks.1.attn.hook_pattern",
      "blocks.1.mlp.hook_post",
    ])
    const halved = half(base.get(post)!)
    const raised = mapped(halved, (x) => x + 1)
    expect(change(calls[2]![1], halved)).toBeLessThan(ROUNDING)
    expect(change(cache.get(post), halved)).toBeLessThan(ROUNDING)
    expect(change(cache.get(pre), raised)).toBeLessThan(ROUNDING)
    const want = await run({ [pre]: raised })
    expect(change(calls[4]![1], want.get("blocks.1.mlp.hook_post")!)).toBeLessThan(ROUNDING)
  })

  it("leave a value that a function only looks at", async () => {
    const seen = new Map<string, Tensor>()
    const { cache, ...outputs } = await model.runWithCache(inputs, {
      hooks: { "blocks.*": (t, hook) => void seen.set(hook, t) },
    })
    expect(differing(new Map([...cache, ...Object.entries(outputs)]), base)).toEqual([])
    expect([...seen.keys()]).toEqual(matchHooks(model.hooks, "blocks.*"))
    expect(differing(seen, new Map([...base].filter(([hook]) => seen.has(hook))))).toEqual([])
  })

  it("act on `run` as on `runWithCache`", async () => {
    const hook = "blocks.1.hook_resid_mid"
    const patch = { [hook]: half(base.get(hook)!) }
    const want = await run(patch)
    expect(change((await model.run(inputs, { patch })).pooler_output, want.get("pooler_output")!)).toBe(0)
    const some = await model.run(inputs, { patch, outputs: [hook, "last_hidden_state"] })
    expect(Object.keys(some)).toEqual([hook, "last_hidden_state"])
    expect(change(some.last_hidden_state, want.get("last_hidden_state")!)).toBe(0)
    expect(change(some[hook], patch[hook])).toBe(0)
  })

  it("take one row for all images, and a row for each where the hook has one for all", async () => {
    const embed = base.get("hook_embed")!
    const row = float32([1, ...embed.shape.slice(1)], embed.data.slice(0, embed.data.length / 2) as Float32Array)
    const both = float32(embed.shape, [...row.data, ...row.data])
    expect(differing(await run({ hook_embed: row }), await run({ hook_embed: both }))).toEqual([])

    const one = base.get("hook_pos_embed")!
    const zeros = mapped(one, () => 0)
    const each = float32([2, ...one.shape.slice(1)], [...(one.data as Float32Array), ...(zeros.data as Float32Array)])
    const [mixed, plain, without] = [await run({ hook_pos_embed: each }), base, await run({ hook_pos_embed: zeros })]
    const image = (r: Reading, i: number) =>
      Array.from(r.get("pooler_output")!.data as Float32Array).slice(32 * i, 32 * i + 32)
    const close = (a: number[], b: number[]) => Math.max(...a.map((x, i) => Math.abs(x - b[i]!)))
    expect(close(image(mixed, 0), image(plain, 0))).toBeLessThan(ROUNDING)
    expect(close(image(mixed, 1), image(without, 1))).toBeLessThan(ROUNDING)
  })

  it("patch every hook that a pattern names", async () => {
    const zeros = mapped(base.get("blocks.0.hook_mlp_out")!, () => 0)
    const got = await run({ "blocks.*.hook_mlp_out": zeros })
    expect(differing(got, await run({ "blocks.0.hook_mlp_out": zeros, "blocks.1.hook_mlp_out": zeros }))).toEqual([])
    expect(change(got.get("blocks.1.hook_mlp_out"), zeros)).toBe(0)
  })

  it("call no function that nothing asked for depends on", async () => {
    const seen: string[] = []
    const note = (_: Tensor, hook: string) => void seen.push(hook)
    const patch = { "blocks.0.hook_resid_post": base.get("blocks.0.hook_resid_post")! }
    await model.run(inputs, { patch, hooks: { "blocks.*.hook_mlp_out": note, "blocks.*.hook_attn_out": note } })
    expect(seen).toEqual(["blocks.1.hook_attn_out", "blocks.1.hook_mlp_out"])
  })

  const zeros = (...shape: number[]) => float32(shape, new Float32Array(shape.reduce((a, b) => a * b, 1)))
  const z = "blocks.0.attn.hook_z"
  const refused: [string, Interventions, string, RegExp][] = [
    [
      "a patch of another shape",
      { patch: { [z]: zeros(2, 17, 32) } },
      "E_INPUT",
      /wants shape \[batch, 17, 4, 8\], got/,
    ],
    [
      "a patch for more images",
      { patch: { [z]: zeros(3, 17, 4, 8) } },
      "E_INPUT",
      /"batch" is 2 in "pixel_values" and 3/,
    ],
    [
      "a function that gives another shape",
      { hooks: { [z]: () => zeros(1) } },
      "E_INPUT",
      /at "blocks.0.attn.hook_z" ret/,
    ],
    [
      "an edit that gives another shape",
      { edit: { [z]: () => ops.scalar(1) } },
      "E_INPUT",
      /at "blocks.0.attn.hook_z" ret/,
    ],
    [
      "a hook that is not there",
      { edit: { "blocks.0.attn.hook_zz": (v) => v } },
      "E_HOOK",
      /are "blocks.0.attn.hook_z"/,
    ],
    ["a layer that is not there", { patch: { "blocks.2.attn.hook_z": zeros(1) } }, "E_HOOK", /no hook "blocks\.2/],
    ["a pattern that matches nothing", { hooks: { "block.*": () => {} } }, "E_HOOK", /no hook matches "block\.\*"/],
  ]
  it.each(refused)("refuse %s", async (_, how, code, message) => {
    await expect(model.run(inputs, how)).rejects.toMatchObject({ code })
    await expect(model.run(inputs, how)).rejects.toThrow(message)
  })
})

describe("a part of a model", () => {
  const name = "hf-clip-eos-2"
  const { inputs } = readCase({ name, folder: folderOf(name) })
  let model: LoadedViT
  let whole: Reading
  beforeAll(async () => {
    model = await loadPretrained(folderOf(name), { threads: 1 })
    const { cache, ...outputs } = await model.runWithCache(inputs)
    whole = new Map([...cache, ...Object.entries(outputs)])
  })
  afterAll(() => model.release())

  /** All that one tower computes is as in the whole, and nothing of the other is there. */
  const holds = async (given: Parameters<LoadedViT["runWithCache"]>[0], isOwn: (hook: string) => boolean) => {
    const { cache } = await model.runWithCache(given)
    expect(cache.names).toEqual([...whole.keys()].filter((hook) => hook.includes("hook_") && isOwn(hook)))
    expect(differing(new Map(cache), new Map([...whole].filter(([hook]) => cache.has(hook))))).toEqual([])
    expect([...cache.keys()]).toEqual(cache.names)
    expect([...cache.values()]).toEqual(cache.names.map((hook) => cache.get(hook)))
    expect([...cache.entries()]).toEqual([...cache])
    expect(cache.size).toBe(cache.names.length)
  }

  it("is either tower, with its inputs alone", async () => {
    await holds(inputs.pixel_values, (hook) => !hook.startsWith("text."))
    await holds({ input_ids: inputs.input_ids! }, (hook) => hook.startsWith("text.") || hook === "hook_pos_embed")
    const seen: string[] = []
    const { cache } = await model.runWithCache(inputs.pixel_values, {
      hooks: { "*.0.*": (_, hook) => void seen.push(hook) },
    })
    expect(seen).toEqual(cache.names.filter((hook) => hook.includes(".0.")))
  })

  it("is what lies after a patch, with no input at all", async () => {
    const hook = "blocks.1.hook_resid_pre"
    const { cache, image_embeds } = await model.runWithCache({}, { patch: { [hook]: whole.get(hook)! } })
    expect(change(image_embeds, whole.get("image_embeds")!)).toBeLessThan(ROUNDING)
    expect(cache.has("blocks.0.hook_resid_post")).toBe(false)
    expect(cache.names.slice(0, 2)).toEqual(["hook_pos_embed", hook])
  })

  it("is refused where it needs an input that is not there, or is not there itself", async () => {
    const ask = (...outputs: string[]) => model.run(inputs.pixel_values, { outputs })
    await expect(ask("text.hook_embed")).rejects.toThrow(
      /^the input "input_ids" \[texts, tokens\] is needed and was not given$/,
    )
    await expect(ask("logit_per_image")).rejects.toThrow(/^no output or hook .*; the nearest are "logits_per_image"/)
  })

  it("is made into a graph once while nothing reaches into it, for the questions asked last", async () => {
    const fresh = await loadPretrained(folderOf("hf-dinov2-swiglu"), { threads: 1 })
    const compile = vi.spyOn(fresh.runtime, "compile")
    const { pixel_values }: { pixel_values: Tensor } = readCase({ name: "hf-dinov2-swiglu", folder: folderOf("hf-dinov2-swiglu") }).inputs // prettier-ignore
    const made = async (work: () => Promise<unknown>) => {
      compile.mockClear()
      await work()
      return compile.mock.calls.length
    }
    const ask = (name: string) => () => fresh.runWithCache(pixel_values, { names: name })
    const run = () => fresh.run(pixel_values)
    expect([await made(run), await made(run), await made(ask("hook_embed")), await made(ask("hook_embed"))]).toEqual([1, 0, 1, 0]) // prettier-ignore
    // What differs in anything is another question; what reaches into the graph is made each time.
    expect(await made(() => fresh.runWithCache(pixel_values, { names: "hook_full_embed", positions: 0 }))).toBe(1)
    expect(await made(() => fresh.runWithCache(pixel_values, { names: "hook_full_embed", positions: 1 }))).toBe(1)
    const edit = { hook_embed: (v: Value) => ops.neg(v) }
    expect([await made(() => fresh.run(pixel_values, { edit })), await made(() => fresh.run(pixel_values, { edit }))]).toEqual([1, 1]) // prettier-ignore
    // Eight are kept: the oldest goes, what was asked again stays.
    const others = ["hook_resid_pre", "hook_resid_mid", "hook_attn_out", "mlp.hook_post", "attn.hook_q", "attn.hook_k"]
    for (const name of [...others, "attn.hook_v"]) {
      expect([await made(ask(`blocks.0.${name}`)), await made(run)]).toEqual([1, 0])
    }
    expect([await made(ask("hook_embed")), await made(run)]).toEqual([1, 0])
    await fresh.release()
  })

  it("has the tokens asked for, of what has them: patches alone are kept whole", async () => {
    const names = ["hook_embed", "hook_full_embed", "blocks.1.hook_resid_pre", "blocks.1.attn.hook_pattern"]
    const whole = (await model.runWithCache(inputs, { names })).cache
    const [b, T, d] = whole.get("hook_full_embed").shape as [number, number, number]
    for (const [positions, start, end] of [
      [-1, T - 1, T],
      [0, 0, 1],
      [[1, -1], 1, T - 1],
    ] as const) {
      const { cache } = await model.runWithCache(inputs, { names, positions })
      expect(cache.get("hook_embed").data).toEqual(whole.get("hook_embed").data)
      for (const [name, row] of [
        ["hook_full_embed", d],
        ["blocks.1.hook_resid_pre", d],
        ["blocks.1.attn.hook_pattern", T],
      ] as const) {
        const [got, all] = [cache.get(name), whole.get(name)]
        const groups = all.data.length / (T * row)
        const token = (i: number) => Math.floor(i / row) % T
        const kept = [...(all.data as Float32Array)].filter((_, i) => token(i) >= start && token(i) < end)
        expect([...(got.data as Float32Array)]).toEqual(kept)
        expect(got.shape).toEqual(all.shape.with(groups === b ? 1 : 2, end - start))
      }
      expect(cache.bytes).toBe(model.cacheBytes({ names, positions, batch: b }))
    }
  })

  it("holds as many bytes as are foretold", async () => {
    const all = { names: [...model.hooks.keys()] }
    const sizes = { batch: 2, texts: 3, tokens: 10 }
    for (const how of [{}, all, { layers: -1 }, { names: "blocks.*", positions: [0, 2] as const }]) {
      const { cache } = await model.runWithCache(inputs, how)
      expect(cache.bytes).toBe(model.cacheBytes({ ...how, ...sizes }))
    }
    const limited = model.runWithCache(inputs, { maxBytes: model.cacheBytes(sizes) - 1 })
    await expect(limited).rejects.toMatchObject({ code: "E_MEMORY_BUDGET" })
  })
})
