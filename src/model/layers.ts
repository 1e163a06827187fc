/**
 * @file What both towers are made of: norm, attention, MLP and the pre-norm block, with TransformerLens' hooks.
 *
 * b batch, T tokens, h heads, e head width, d model width, m MLP width.
 */
import {
  add,
  div,
  expand,
  gelu,
  layerNorm,
  layerNormInvStd,
  linear,
  matmul,
  mean,
  mul,
  quickGelu,
  relu,
  reshape,
  scalar,
  sigmoid,
  softmax,
  sqrt,
  sub,
  sum,
  tanh,
  transpose,
} from "../graph/ops.ts"
import type { Dim } from "../graph/dims.ts"
import type { Value } from "../graph/value.ts"
import type { Activation, StackConfig } from "./config.ts"
import type { Scope } from "./scope.ts"

export const activations: { readonly [A in Activation]: (x: Value) => Value } = {
  gelu: (x) => gelu(x),
  gelu_tanh: (x) => gelu(x, "tanh"),
  quick_gelu: quickGelu,
  relu,
  silu: (x) => mul(x, sigmoid(x)),
  tanh,
}

/** LayerNorm (arXiv:1607.06450) over the last axis; opened into its steps only where `hook_scale` is written. */
export function norm(s: Scope, eps: number, x: Value): Value {
  const d = x.shape.at(-1) as number
  const [w, b] = [s.param("weight", [d]), s.param("bias", [d])]
  if (!s.writes("hook_scale")) {
    s.readOnly("hook_scale", div(scalar(1), layerNormInvStd(x, w, b, eps))) // [b, T, 1]
    return s.hook("hook_normalized", layerNorm(x, w, b, eps))
  }
  const centred = sub(x, mean(x, [-1], true))
  const scale = s.hook("hook_scale", sqrt(add(mean(mul(centred, centred), [-1], true), scalar(eps))))
  return s.hook("hook_normalized", add(mul(div(centred, scale), w), b))
}

/** x W^T + b with a weight [out, in] */
export const dense = (s: Scope, x: Value, out: number, bias: boolean): Value =>
  linear(x, s.param("weight", [out, x.shape.at(-1) as number]), bias ? s.param("bias", [out]) : undefined)

type Projection = "q" | "k" | "v"

/** What a block's attention reads: one stream for all, or, where a split input is written, one per head. */
type AttentionInput = (which: Projection) => { readonly x: Value; readonly perHead: boolean }

/**
 * Multi-head attention (arXiv:1706.03762): queries from `q`, keys and values from their inputs.
 * Returns [b, Tq, d]. `mask` [Tq, T] is added to the scaled scores.
 */
export function attention(s: Scope, cfg: StackConfig, from: AttentionInput, mask?: Value): Value {
  const { nHeads: h, dHead: e, dModel: d } = cfg
  const project = (which: Projection): Value => {
    const { x, perHead } = from(which)
    const [w, bias] = [
      s.at(which).param("weight", [h * e, d]),
      cfg.qkvBias ? s.at(which).param("bias", [h * e]) : undefined,
    ]
    const y = perHead ? headwise(x, w, bias, cfg) : reshape(linear(x, w, bias), [...x.shape.slice(0, 2), h, e])
    const normed = cfg.qkNorm && which !== "v" ? plainNorm(s.at(`${which}_norm`), cfg.eps, y) : y
    return s.hook(`hook_${which}`, normed) // [b, T, h, e]
  }
  const [q, k, v] = [project("q"), project("k"), project("v")]
  const scaled = mul(matmul(transpose(q, [0, 2, 1, 3]), transpose(k, [0, 2, 3, 1])), scalar(1 / Math.sqrt(e)))
  const scores = s.hook("hook_attn_scores", mask ? add(scaled, mask) : scaled)
  const pattern = s.hook("hook_pattern", softmax(scores)) // [b, h, query, key]
  const z = s.hook("hook_z", transpose(matmul(pattern, transpose(v, [0, 2, 1, 3])), [0, 2, 1, 3])) // [b, T, h, e]

  const out = s.at("out")
  const [w, bias] = [out.param("weight", [d, h * e]), cfg.attnOutBias ? out.param("bias", [d]) : undefined]
  if (!s.reads("hook_result") && !s.writes("hook_result"))
    return linear(reshape(z, [...z.shape.slice(0, 2), h * e]), w, bias)
  const perHead = transpose(reshape(w, [d, h, e]), [1, 2, 0]) // [h, e, d]
  const result = transpose(matmul(transpose(z, [0, 2, 1, 3]), perHead), [0, 2, 1, 3]) // [b, T, h, d]
  if (!s.writes("hook_result")) {
    s.readOnly("hook_result", result)
    return linear(reshape(z, [...z.shape.slice(0, 2), h * e]), w, bias)
  }
  const total = sum(s.hook("hook_result", result), [2])
  return bias ? add(total, bias) : total
}

/** Each head's own stream [b, T, h, d] through its rows of a weight [h * e, d]: [b, T, h, e]. */
function headwise(x: Value, w: Value, bias: Value | undefined, { nHeads: h, dHead: e, dModel: d }: StackConfig): Value {
  const perHead = transpose(reshape(w, [h, e, d]), [0, 2, 1]) // [h, d, e]
  const y = transpose(matmul(transpose(x, [0, 2, 1, 3]), perHead), [0, 2, 1, 3])
  return bias ? add(y, reshape(bias, [h, e])) : y
}

/** A norm whose inside has no hooks of its own. */
function plainNorm(s: Scope, eps: number, x: Value): Value {
  const d = x.shape.at(-1) as number
  return layerNorm(x, s.param("weight", [d]), s.param("bias", [d]), eps)
}

/** Two dense layers around an activation; gated, the activation of one half times the other (arXiv:2002.05202). */
export function mlp(s: Scope, cfg: StackConfig, x: Value): Value {
  const { dMlp: m, dModel: d, mlpBias } = cfg
  const pre = s.hook("hook_pre", dense(s.at("in"), x, m, mlpBias)) // [b, T, m]
  const active = activations[cfg.activation](pre)
  const gated = cfg.gatedMlp ? mul(active, s.hook("hook_pre_linear", dense(s.at("linear"), x, m, mlpBias))) : active
  return dense(s.at("out"), s.hook("hook_post", gated), d, mlpBias)
}

/** A pre-norm transformer block on the residual stream [b, T, d]. */
export function block(s: Scope, cfg: StackConfig, input: Value, mask?: Value): Value {
  const residPre = s.hook("hook_resid_pre", input)
  const added = attention(s.at("attn"), cfg, attentionInput(s, cfg, residPre), mask)
  const attnOut = s.hook("hook_attn_out", layerScale(s.at("ls1"), cfg, added))
  const residMid = s.hook("hook_resid_mid", add(residPre, attnOut))
  const mlpIn = s.hook("hook_mlp_in", residMid)
  const mlpOut = s.hook(
    "hook_mlp_out",
    layerScale(s.at("ls2"), cfg, mlp(s.at("mlp"), cfg, norm(s.at("ln2"), cfg.eps, mlpIn))),
  )
  return s.hook("hook_resid_post", add(residMid, mlpOut))
}

/**
 * The normed stream that q, k and v read. A split input is the residual stream repeated for each head, before the
 * norm; written, it takes a norm of its own, and ln1's hooks belong to what is not split.
 */
function attentionInput(s: Scope, cfg: StackConfig, residPre: Value): AttentionInput {
  const shared = norm(s.at("ln1"), cfg.eps, residPre)
  const [b, t, d] = residPre.shape as [Dim, Dim, number]
  return (which) => {
    const name = `hook_${which}_input`
    if (!s.reads(name) && !s.writes(name)) return { x: shared, perHead: false }
    const copies = expand(reshape(residPre, [b, t, 1, d]), [b, t, cfg.nHeads, d]) // [b, T, h, d]
    if (s.writes(name)) return { x: plainNorm(s.at("ln1"), cfg.eps, s.hook(name, copies)), perHead: true }
    s.readOnly(name, copies)
    return { x: shared, perHead: false }
  }
}

const layerScale = (s: Scope, cfg: StackConfig, x: Value): Value =>
  cfg.layerScale ? mul(x, s.param("gamma", [cfg.dModel])) : x

/** Unit length along the last axis. */
export const normalize = (x: Value): Value => div(x, sqrt(sum(mul(x, x), [-1], true)))
