/** @file The contract of every hook of every shape of model: read, replaced, edited, and nothing else changes. */
import { existsSync } from "node:fs"
import { resolve } from "node:path"
import { afterAll, beforeAll, describe, expect, it } from "vitest"
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
import { Scope, type Requests } from "../src/model/scope.ts"
import { nodeRuntime } from "../src/runtime/node.ts"
import { causality, change, type Reading, type Run } from "./helpers/causality.ts"
import { HOOK_CASES } from "./helpers/hook-cases.ts"
import { ON_REQUEST, tower, type Table } from "./helpers/hook-table.ts"
import { readCase } from "./helpers/parity.ts"

const folderOf = (name: string, root = "test/fixtures/reference") => resolve(import.meta.dirname, "..", root, name)
const ROUNDING = 1e-5
/** Their hooks but those of the first block are also changed in all three ways: a gated MLP, two towers, attention pooling. */
const THREE_WAYS = ["hf-dinov2-swiglu", "hf-clip-eos-2", "timm-map-registers-classifier"]

const mapped = (t: Tensor, f: (x: number) => number): Tensor => float32(t.shape, (t.data as Float32Array).map(f))
const half = (t: Tensor): Tensor => mapped(t, (x) => x / 2)

/** Names of what differs between two readings by more than rounding. */
const differing = (got: Reading, want: Reading): string[] =>
  [...want.keys()].filter((name) => !(change(got.get(name), want.get(name)!) <= ROUNDING))

for (const [name, c] of Object.entries(HOOK_CASES)) {
  const folder = folderOf(name, c.root)
  describe.skipIf(!existsSync(folder))(`hooks of ${name}`, () => {
    const table: Table = new Map([...tower(c.vision), ...(c.text ? tower(c.text) : []), ...Object.entries(c.outputs)])
    let model: LoadedViT
    let read: (how: Parameters<LoadedViT["runWithCache"]>[1]) => Promise<Reading>
    let run: Run
    let base: Reading
    beforeAll(async () => {
      model = await loadPretrained(folder, { threads: 1 })
      const { inputs } = readCase({ name, folder })
      read = async (how) => {
        const { cache, ...outputs } = await model.runWithCache(inputs, { names: [...model.hooks.keys()], ...how })
        return new Map<string, Tensor>([...cache, ...Object.entries(outputs)])
      }
      run = (patch) => read({ patch })
      base = await run({})
    })
    afterAll(() => model.release())

    it("are those of the vocabulary, in their shapes", () => {
      const known = [...table].filter(([hook]) => hook !== "pooled")
      expect(Object.fromEntries([...base].map(([hook, t]) => [hook, t.shape]))).toEqual(
        Object.fromEntries(known.map(([hook, { shape }]) => [hook, shape])),
      )
      const onRequest = [...model.hooks.values()].filter((h) => h.onRequest).map((h) => h.name)
      expect(onRequest).toEqual([...model.hooks.keys()].filter((hook) => ON_REQUEST.test(hook)))
    })

    it("are causal", async () => {
      const problems: string[] = []
      for (const [i, hook] of [...model.hooks.keys()].entries()) {
        problems.push(...(await causality(run, base, table, hook, i + 1)))
      }
      expect(problems).toEqual([])
    })

    it("cost nothing where an edit gives back its value", async () => {
      await run({}) // of many hooks the first session may have been dropped
      const { made } = model.runtime.sessions
      for (const hook of model.hooks.keys()) await read({ edit: { [hook]: (v) => v } })
      expect(model.runtime.sessions.made).toBe(made)
    })

    if (!THREE_WAYS.includes(name)) return
    it("change alike by tensor, in the graph and by function", async () => {
      const problems: string[] = []
      for (const hook of [...model.hooks.keys()].filter((h) => !h.includes("blocks.0."))) {
        const halved = half(base.get(hook)!)
        const patched = await run({ [hook]: halved })
        const edited = await read({ edit: { [hook]: (v) => ops.mul(v, ops.scalar(0.5)) } })
        const called = await read({ hooks: { [hook]: half } })
        if (change(edited.get(hook), halved) > ROUNDING) problems.push(`${hook} is not cached as edited`)
        for (const other of differing(edited, patched)) problems.push(`${hook} edited: ${other}`)
        for (const other of differing(called, patched)) problems.push(`${hook} by function: ${other}`)
      }
      expect(problems).toEqual([])
    })
  })
}

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

describe("the checker", () => {
  // hook_a = 2x, hook_b = hook_a + 1, hook_c = 3 hook_b; beside them hook_side = x - 1
  const table: Table = new Map([
    ["hook_a", { shape: [2], from: [] }],
    ["hook_b", { shape: [2], from: ["hook_a"] }],
    ["hook_c", { shape: [2], from: ["hook_b"] }],
    ["hook_side", { shape: [2], from: [] }],
  ])
  const runtime = nodeRuntime({ threads: 1 })
  afterAll(() => runtime.release())
  type Hook = (name: string, value: Value) => Value

  /** A model function of its own, with `hook` in place of the scope's. */
  async function problems(faulty: (hook: Hook) => Hook, hookName: string): Promise<string[]> {
    const run: Run = async (patch) => {
      const x = ops.input("x", [2])
      const patches = Object.fromEntries(Object.entries(patch).map(([name, t]) => [name, ops.input(name, t.shape)]))
      const requests: Requests = { reads: () => true, writes: (n) => n in patch, write: (n, v) => patches[n] ?? v }
      const scope = new Scope(undefined, requests)
      const hook = faulty((name, value) => scope.hook(name, value))
      const b = hook("hook_b", ops.add(hook("hook_a", ops.mul(x, ops.scalar(2))), ops.scalar(1)))
      hook("hook_c", ops.mul(b, ops.scalar(3)))
      hook("hook_side", ops.sub(x, ops.scalar(1)))
      const outputs = Object.fromEntries([...scope.hooks].map(([name, { value }]) => [name, value]))
      const compiled = await runtime.compile({ x, ...patches }, outputs)
      return new Map(Object.entries(await compiled({ x: float32([2], [5, -7]), ...patch })))
    }
    return causality(run, await run({}), table, hookName, 1)
  }

  it("accepts a model whose hooks are used", async () => {
    for (const name of table.keys()) expect(await problems((hook) => hook, name)).toEqual([])
  })

  it("finds a hook whose result is thrown away", async () => {
    const deaf: (hook: Hook) => Hook = (hook) => (name, value) => {
      const used = hook(name, value)
      return name === "hook_b" ? value : used
    }
    expect(await problems(deaf, "hook_b")).toEqual([expect.stringMatching(/^hook_b replaced does not move hook_c/)])
  })

  it("finds a hook that reaches what lies beside it", async () => {
    let kept: Value | undefined
    const leaking: (hook: Hook) => Hook = (hook) => (name, value) => {
      if (name === "hook_side") return hook(name, ops.add(value, kept!))
      return name === "hook_b" ? (kept = hook(name, value)) : hook(name, value)
    }
    expect(await problems(leaking, "hook_b")).toEqual([expect.stringMatching(/^hook_b replaced moves hook_side/)])
  })

  it("finds a hook that is read as something else than what is used", async () => {
    const lying: (hook: Hook) => Hook = (hook) => (name, value) =>
      name === "hook_b" ? ops.neg(hook(name, ops.neg(value))) : hook(name, value)
    expect(await problems(lying, "hook_b")).toEqual([]) // consistent, so that only the reference values tell
    const twice: (hook: Hook) => Hook = (hook) => (name, value) => {
      const used = hook(name, value)
      return name === "hook_b" && used !== value ? ops.mul(used, ops.scalar(2)) : used
    }
    expect(await problems(twice, "hook_b")).toEqual([
      expect.stringMatching(/^hook_b replaced by its own value changes hook_c/),
    ])
  })

  it("finds a dependency of the real model that the table lacks", async () => {
    const [[name, c]] = Object.entries(HOOK_CASES) as [[string, (typeof HOOK_CASES)[string]]]
    const wrong: Table = new Map([...tower(c.vision), ...Object.entries(c.outputs)])
    wrong.set("blocks.0.hook_resid_mid", { ...wrong.get("blocks.0.hook_resid_mid")!, from: [] })
    const model = await loadPretrained(folderOf(name), { threads: 1 })
    const { inputs } = readCase({ name, folder: folderOf(name) })
    const run: Run = async (patch) => new Map((await model.runWithCache(inputs, { patch })).cache)
    const found = await causality(run, await run({}), wrong, "blocks.0.hook_attn_out", 1)
    expect(found).toContainEqual(expect.stringMatching(/moves blocks\.0\.hook_resid_mid, which is not downstream/))
    await model.release()
  })
})
