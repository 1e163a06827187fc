/** @file The contract of every hook of every shape of model: read, replaced, edited, and nothing else changes. */
import { existsSync } from "node:fs"
import { resolve } from "node:path"
import { afterAll, beforeAll, describe, expect, it } from "vitest"
import { float32, loadPretrained, ops, type LoadedViT, type Tensor, type Value } from "../src/index.ts"
import { Scope, type Requests } from "../src/model/scope.ts"
import { nodeRuntime } from "../src/runtime/node.ts"
import { causality, change, differing, half, ROUNDING, type Reading, type Run } from "./helpers/causality.ts"
import { HOOK_CASES } from "./helpers/hook-cases.ts"
import { ON_REQUEST, tower, type Table } from "./helpers/hook-table.ts"
import { readCase } from "./helpers/parity.ts"

const folderOf = (name: string, root = "test/fixtures/reference") => resolve(import.meta.dirname, "..", root, name)
/** Their hooks but those of the first block are also changed in all three ways: a gated MLP, two towers, attention pooling. */
const THREE_WAYS = ["hf-dinov2-swiglu", "hf-clip-eos-2", "timm-map-registers-classifier"]

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
