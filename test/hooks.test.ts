import { existsSync } from "node:fs"
import { resolve } from "node:path"
import { afterAll, beforeAll, describe, expect, it } from "vitest"
import { loadPretrained, type LoadedViT, type Tensor } from "../src/index.ts"
import { causality, type Reading, type Run } from "./helpers/causality.ts"
import { ON_REQUEST, tower, type Entry, type Table, type TowerShape } from "./helpers/hook-table.ts"
import { readCase } from "./helpers/parity.ts"

const VIT = { b: 2, T: 17, P: 16, h: 4, e: 8, d: 32, m: 64, layers: 2, positions: 17 } as const
const TEXT = { prefix: "text.", b: 3, T: 10, P: 10, h: 3, e: 8, d: 24, m: 48, layers: 2, positions: 10 } as const
const FIXTURES = "test/fixtures/reference"
const NORMED = "ln_final.hook_normalized"

type Case = { root?: string; vision: TowerShape; text?: TowerShape; outputs: Record<string, Entry> }
const logits = (n: number, ...from: string[]): Entry => ({ shape: [2, n], from })
const tokens = (T: number, from = NORMED): Entry => ({ shape: [2, T, 32], from: [from] })
const dual = (b: number, p: number, from: string): Record<string, Entry> => ({
  image_embeds: { shape: [b, p], from: [from] },
  text_embeds: { shape: [3, p], from: [`text.${NORMED}`] },
  logits_per_image: { shape: [b, 3], from: ["image_embeds", "text_embeds"] },
  logits_per_text: { shape: [3, b], from: ["image_embeds", "text_embeds"] },
})

const CASES: Record<string, Case> = {
  "hf-vit-grey-relu": { vision: VIT, outputs: { logits: logits(4, NORMED) } },
  "hf-vit-pooler-wide": {
    vision: { ...VIT, b: 1, T: 25, P: 24, positions: 25 },
    outputs: {
      last_hidden_state: { shape: [1, 25, 32], from: [NORMED] },
      pooler_output: { shape: [1, 32], from: [NORMED] },
    },
  },
  "timm-deit-distilled": {
    vision: { ...VIT, T: 18, positions: 18 },
    outputs: {
      cls_logits: logits(5, NORMED),
      distillation_logits: logits(5, NORMED),
      logits: logits(5, "cls_logits", "distillation_logits"),
      last_hidden_state: tokens(18),
    },
  },
  "hf-dinov2-registers-base": {
    vision: { ...VIT, T: 20, positions: 20 },
    outputs: { last_hidden_state: tokens(20), pooler_output: logits(32, NORMED) },
  },
  "hf-dinov2-swiglu": {
    vision: { ...VIT, m: 48, gated: true },
    outputs: { last_hidden_state: tokens(17), pooler_output: logits(32, NORMED) },
  },
  "hf-dinov2-classifier": { vision: VIT, outputs: { logits: logits(4, NORMED) } },
  "hf-clip-eos-2": {
    vision: { ...VIT, lnPre: true },
    text: TEXT,
    outputs: { pooler_output: logits(32, NORMED), ...dual(2, 16, NORMED) },
  },
  "hf-siglip": {
    root: "../shared/reference",
    vision: { ...VIT, T: 16, positions: 16, attends: 16 },
    text: { ...TEXT, T: 12, P: 12, h: 4, d: 32, m: 64, positions: 12 },
    outputs: { pooler_output: logits(32, "pooled"), ...dual(2, 32, "pooled") },
  },
  "timm-gap": {
    vision: { ...VIT, T: 16, positions: 16 },
    outputs: { logits: logits(5, NORMED), last_hidden_state: tokens(16) },
  },
  "timm-avgpool-class-token": {
    vision: { ...VIT, finalNorm: false, lnPooled: true },
    outputs: {
      logits: logits(5, "ln_pooled.hook_normalized"),
      last_hidden_state: tokens(17, "blocks.1.hook_resid_post"),
    },
  },
  "timm-qk-norm": { vision: VIT, outputs: { logits: logits(5, NORMED), last_hidden_state: tokens(17) } },
  "timm-no-embed-class": {
    vision: { ...VIT, positions: 16 },
    outputs: { logits: logits(5, NORMED), last_hidden_state: tokens(17) },
  },
  "timm-dinov2-registers": {
    vision: { ...VIT, T: 21, positions: 16 },
    outputs: { pooler_output: logits(32, NORMED), last_hidden_state: tokens(21) },
  },
  "timm-no-pos-embed": {
    vision: { ...VIT, positions: 0 },
    outputs: { logits: logits(5, NORMED), last_hidden_state: tokens(17) },
  },
  "timm-no-final-norm": {
    vision: { ...VIT, finalNorm: false },
    outputs: {
      pooler_output: logits(32, "blocks.1.hook_resid_post"),
      last_hidden_state: tokens(17, "blocks.1.hook_resid_post"),
    },
  },
  "timm-map-registers-classifier": {
    vision: { ...VIT, T: 20, positions: 20, attends: 16 },
    outputs: { logits: logits(5, "pooled"), last_hidden_state: tokens(20) },
  },
  "timm-clip": {
    vision: { ...VIT, lnPre: true },
    outputs: { logits: logits(5, NORMED), last_hidden_state: tokens(17) },
  },
  "open-clip-layerscale-bias": {
    vision: { ...VIT, b: 1, lnPre: true },
    text: TEXT,
    outputs: dual(1, 16, NORMED),
  },
}

for (const [name, c] of Object.entries(CASES)) {
  const folder = resolve(import.meta.dirname, "..", c.root ?? FIXTURES, name)
  describe.skipIf(!existsSync(folder))(`hooks of ${name}`, () => {
    const table: Table = new Map([...tower(c.vision), ...(c.text ? tower(c.text) : []), ...Object.entries(c.outputs)])
    let model: LoadedViT
    let run: Run
    let base: Reading
    beforeAll(async () => {
      model = await loadPretrained(folder, { threads: 1 })
      const { inputs } = readCase({ name, folder })
      run = async (patch) => {
        const { cache, ...outputs } = await model.runWithCache(inputs, { names: [...model.hooks.keys()], patch })
        return new Map<string, Tensor>([...cache, ...Object.entries(outputs)])
      }
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
      let [stayed, moved, identical, beside] = [0, Infinity, 0, 0]
      for (const [i, hook] of [...model.hooks.keys()].entries()) {
        const verdict = await causality(run, base, table, hook, i + 1)
        problems.push(...verdict.problems)
        stayed = Math.max(stayed, verdict.stayed)
        moved = Math.min(moved, verdict.moved)
        identical += verdict.identical[0]
        beside += verdict.identical[1]
      }
      console.log(name, model.hooks.size, stayed, moved, identical / beside)
      expect(problems).toEqual([])
    })
  })
}
