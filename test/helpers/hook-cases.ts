/** @file The reference cases whose hooks are held to the contract: their sizes and what each output is made of. */
import type { Entry, TowerShape } from "./hook-table.ts"

const VIT = { b: 2, T: 17, P: 16, h: 4, e: 8, d: 32, m: 64, layers: 2, positions: 17 } as const
const TEXT = { prefix: "text.", b: 3, T: 10, P: 10, h: 3, e: 8, d: 24, m: 48, layers: 2, positions: 10 } as const
const NORMED = "ln_final.hook_normalized"

interface Case {
  readonly root?: string
  readonly vision: TowerShape
  readonly text?: TowerShape
  readonly outputs: Readonly<Record<string, Entry>>
}

const logits = (n: number, ...from: string[]): Entry => ({ shape: [2, n], from })
const tokens = (T: number, from = NORMED): Entry => ({ shape: [2, T, 32], from: [from] })
const dual = (b: number, p: number, from: string): Record<string, Entry> => ({
  image_embeds: { shape: [b, p], from: [from] },
  text_embeds: { shape: [3, p], from: [`text.${NORMED}`] },
  logits_per_image: { shape: [b, 3], from: ["image_embeds", "text_embeds"] },
  logits_per_text: { shape: [3, b], from: ["image_embeds", "text_embeds"] },
})

const SEED = { ...VIT, m: 48 } as const
const seedOutputs = (from: string) => ({ logits: logits(5, from), pooler_output: logits(32, from) })

/** Each shape of model there is, on the smallest checkpoint that has it. */
export const HOOK_CASES: Readonly<Record<string, Case>> = {
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
  "open-clip-layerscale-bias": {
    vision: { ...VIT, b: 1, lnPre: true },
    text: TEXT,
    outputs: dual(1, 16, NORMED),
  },
  "base-vit-no-norm": {
    vision: { ...SEED, norm: "none", finalNorm: false },
    outputs: seedOutputs("blocks.1.hook_resid_post"),
  },
  "base-vit-attention-only": {
    vision: { ...SEED, norm: "none", finalNorm: false, attnOnly: true },
    outputs: seedOutputs("blocks.1.hook_resid_post"),
  },
  "base-vit-post-norm-qknorm": {
    vision: { ...SEED, norm: "post", lnPre: true, finalNorm: false, lnPooled: true },
    outputs: seedOutputs("ln_pooled.hook_normalized"),
  },
  "base-vit-global-pool": {
    vision: { ...SEED, T: 16, positions: 16, norm: "post", lnPre: true, finalNorm: false, lnPooled: true },
    outputs: seedOutputs("ln_pooled.hook_normalized"),
  },
  "prisma-hooked-vit": { vision: { ...SEED, lnPre: true }, outputs: { logits: logits(5, NORMED) } },
}
