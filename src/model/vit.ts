/**
 * @file The vision transformer (arXiv:2010.11929) on one page, with the options of its relatives.
 *
 * Tokens are the prefix (class, distillation, registers) and then the patches, row by row.
 */
import type { Dim } from "../graph/dims.ts"
import {
  add,
  concat,
  constant,
  expand,
  mean,
  mul,
  reshape,
  scalar,
  select,
  slice,
  sub,
  transpose,
} from "../graph/ops.ts"
import type { Value } from "../graph/value.ts"
import { float32 } from "../tensor/tensor.ts"
import { grid, nPatches, nPrefix, type VisionConfig, type VisionOutput } from "./config.ts"
import { activations, attention, block, dense, mlp, norm } from "./layers.ts"
import { resamplePositions } from "./resample.ts"
import { turnsOf } from "./rotary.ts"
import type { Scope } from "./scope.ts"

type VisionValues = Partial<Record<VisionOutput, Value>>

/** Pixels [b, c, H, W] to whatever the checkpoint's library returns; more than that is reached through the hooks. */
export function vit(s: Scope, cfg: VisionConfig, pixels: Value, masked?: Value): VisionValues {
  let x = s.drop("drop_embed", embed(s, cfg, pixels, masked), cfg.drop?.position, "element") // [b, T, d]
  if (cfg.lnPre) x = s.hook("hook_ln_pre", norm(s.at("ln_pre"), cfg.eps, x))
  const shared = cfg.rotary ? { turns: turnsOf(cfg.rotary, nPrefix(cfg), grid(cfg), cfg.dHead) } : {}
  for (let i = 0; i < cfg.nLayers; i++) x = block(s, cfg, i, x, shared)
  const normed = cfg.lnFinal ? norm(s.at("ln_final"), cfg.eps, x) : x

  const all = { ...heads(s, cfg, normed), last_hidden_state: cfg.rawHiddenState ? x : normed }
  return Object.fromEntries(cfg.outputs.map((name) => [name, all[name]]))
}

/** Patches, prefix tokens and positions: [b, T, d]. */
function embed(s: Scope, cfg: VisionConfig, pixels: Value, masked: Value | undefined): Value {
  const seen = s.hook("hook_embed", dense(s.at("embed", "proj"), cutPatches(cfg, pixels), cfg.dModel, cfg.patchBias))
  const kept = s.drop("drop_patches", seen, cfg.drop?.patch, "element") // [b, P, d]
  const patches = masked ? replaced(s.at("embed"), kept, masked) : kept
  const tokens = cfg.prefix.map(({ name, count }) => {
    const learned = s.at("embed").param(name, [count, cfg.dModel])
    return expand(reshape(learned, [1, count, cfg.dModel]), [patches.shape[0]!, count, cfg.dModel])
  })
  if (cfg.positions === "none") return s.hook("hook_full_embed", concat([...tokens, patches], 1))
  const positions = s.hook("hook_pos_embed", positionTable(s, cfg))
  const placed =
    cfg.positions === "patches"
      ? concat([...tokens, add(patches, positions)], 1)
      : add(concat([...tokens, patches], 1), positions)
  return s.hook("hook_full_embed", placed)
}

/** What is added for position: [1, P, d] or [1, T, d]; tokens that have no row get zeros. */
function positionTable(s: Scope, cfg: VisionConfig): Value {
  const { dModel: d } = cfg
  const placed = cfg.positions === "patches" ? [] : cfg.prefix.filter(hasPosition(cfg))
  const before = placed.reduce((n, t) => n + t.count, 0)
  const [gh, gw] = cfg.positionGrid
  const stored = s.at("embed").param("pos", [before + gh * gw, d])
  const table = resamplePositions(stored, before, cfg.positionGrid, grid(cfg), cfg.positionsAntialiased)
  const unplaced = cfg.positions === "patches" ? 0 : nPrefix(cfg) - before
  const rows = unplaced
    ? concat([slice(table, 0, 0, before), zeros(unplaced, d), slice(table, 0, before, before + nPatches(cfg))], 0)
    : table
  return reshape(rows, [1, rows.shape[0]!, d])
}

const hasPosition = (cfg: VisionConfig) => (token: { name: string }) => cfg.positions === "all" || token.name !== "reg"

const zeros = (rows: number, d: number): Value => constant(float32([rows, d], new Float32Array(rows * d)))

/** Where `masked` [b, P] is 1, the learned token stands for the patch. */
function replaced(s: Scope, patches: Value, masked: Value): Value {
  const [b, p, d] = patches.shape as [Dim, Dim, number]
  const there = reshape(masked, [b, p, 1])
  return add(mul(patches, sub(scalar(1), there)), mul(there, s.param("mask", [1, d])))
}

/** The patches of pixels [b, c, H, W], row by row, each as a convolution's kernel sees it: [b, P, c * ph * pw]. */
export function cutPatches(cfg: VisionConfig, pixels: Value): Value {
  const [gh, gw] = grid(cfg)
  const [ph, pw] = cfg.patchSize
  const [b, c] = [pixels.shape[0]!, cfg.nChannels]
  const read = slice(slice(pixels, 2, 0, gh * ph), 3, 0, gw * pw)
  const cut = transpose(reshape(read, [b, c, gh, ph, gw, pw]), [0, 2, 4, 1, 3, 5])
  return reshape(cut, [b, gh * gw, c * ph * pw])
}

/** From the final tokens [b, T, d] to embeddings and logits. */
function heads(s: Scope, cfg: VisionConfig, tokens: Value): VisionValues {
  if (cfg.reconstructs) {
    const patches = slice(tokens, 1, nPrefix(cfg), tokens.shape[1]!)
    const pixels = cfg.nChannels * cfg.patchSize[0] * cfg.patchSize[1]
    return { reconstruction: dense(s.at("head"), patches, pixels, true) } // [b, P, c * ph * pw]
  }
  if (cfg.pool === "none") return {}
  const { nClasses, dProjection } = cfg
  if (cfg.pool === "distilled") {
    const cls = dense(s.at("head"), select(tokens, 1, 0), nClasses, true)
    const dist = dense(s.at("head_dist"), select(tokens, 1, 1), nClasses, true)
    return { logits: mul(add(cls, dist), scalar(0.5)), cls_logits: cls, distillation_logits: dist }
  }
  let pooled = pool(s, cfg, tokens)
  if (cfg.lnPooled) pooled = norm(s.at("ln_pooled"), cfg.eps, pooled)
  if (cfg.pooler) pooled = activations[cfg.pooler](dense(s.at("pooler"), pooled, cfg.dPooler ?? cfg.dModel, true))
  return {
    pooler_output: pooled, // [b, d]
    ...(nClasses > 0 && { logits: dense(s.at("head"), pooled, nClasses, true) }),
    ...(dProjection > 0 && { image_embeds: dense(s.at("projection"), pooled, dProjection, false) }),
    ...(cfg.outputs.includes("image_embeds") && !dProjection && { image_embeds: pooled }),
  }
}

function pool(s: Scope, cfg: VisionConfig, tokens: Value): Value {
  const cls = () => select(tokens, 1, 0)
  const pooled = () => (cfg.poolsPrefix ? tokens : slice(tokens, 1, nPrefix(cfg), tokens.shape[1]!))
  const patchMean = () => mean(pooled(), [1])
  switch (cfg.pool) {
    case "mean":
      return patchMean()
    case "clsAndMean":
      return concat([cls(), patchMean()], 1)
    case "attention":
      return attentionPool(s.at("pool"), cfg, pooled())
    default:
      return cls()
  }
}

/** One learned query attends to all tokens (the MAP head of arXiv:2106.04560): [b, d] */
function attentionPool(s: Scope, cfg: VisionConfig, tokens: Value): Value {
  const { dModel: d } = cfg
  const stack = {
    ...cfg,
    dMlp: cfg.poolMlp,
    qkvBias: true,
    keyBias: true,
    attnOutBias: true,
    mlpBias: true,
    qkNorm: false,
    gatedMlp: false,
  }
  const query = expand(reshape(s.param("query", [d]), [1, 1, d]), [tokens.shape[0]!, 1, d])
  const attended = attention(s.at("attn"), stack, (which) => ({ x: which === "q" ? query : tokens, perHead: false }))
  const out = add(attended, mlp(s.at("mlp"), stack, norm(s.at("ln"), cfg.eps, attended)))
  return reshape(out, [tokens.shape[0]!, d])
}
