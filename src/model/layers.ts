/**
 * @file What both towers are made of: norm, attention, MLP and the blocks, with TransformerLens' hooks.
 *
 * b batch, T tokens, h heads, e head width, d model width, m MLP width.
 */
import {
  add,
  constant,
  div,
  expand,
  gelu,
  layerNorm,
  layerNormInvStd,
  linear,
  matmul,
  mean,
  mul,
  neg,
  quickGelu,
  relu,
  reshape,
  scalar,
  softmax,
  sqrt,
  sub,
  sum,
  tanh,
  transpose,
} from "../graph/ops.ts"
import type { Dim } from "../graph/dims.ts"
import type { Value } from "../graph/value.ts"
import { float32 } from "../tensor/tensor.ts"
import type { Activation, StackConfig } from "./config.ts"
import { turned, type Turns } from "./rotary.ts"
import type { Scope } from "./scope.ts"

export const activations: { readonly [A in Activation]: (x: Value) => Value } = {
  gelu: (x) => gelu(x),
  gelu_tanh: (x) => gelu(x, "tanh"),
  quick_gelu: (x) => quickGelu(x),
  relu,
  leaky_relu: (x) => sub(relu(x), mul(relu(neg(x)), scalar(0.01))), // torch's slope
  silu: (x) => quickGelu(x, 1),
  tanh,
  linear: (x) => x,
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

/** What is the same in the attention of every block: `mask` [Tq, T] is added to the scaled scores. */
export interface Shared {
  readonly mask?: Value
  readonly turns?: Turns
}

/** Multi-head attention (arXiv:1706.03762): queries from `q`, keys and values from their inputs. Returns [b, Tq, d]. */
export function attention(s: Scope, cfg: StackConfig, from: AttentionInput, { mask, turns }: Shared = {}): Value {
  const { nHeads: h, dHead: e, dModel: d } = cfg
  const biased = (which: Projection) => cfg.qkvBias && !(which === "k" && cfg.keyBias === false)
  const project = (which: Projection): Value => {
    const { x, perHead } = from(which)
    const [w, bias] = [
      s.at(which).param("weight", [h * e, d]),
      biased(which) ? s.at(which).param("bias", [h * e]) : undefined,
    ]
    const y = perHead ? headwise(x, w, bias, cfg) : reshape(linear(x, w, bias), [...x.shape.slice(0, 2), h, e])
    const normed = cfg.qkNorm && which !== "v" ? plainNorm(s.at(`${which}_norm`), cfg.qkNormEps ?? cfg.eps, y) : y
    return s.hook(`hook_${which}`, normed) // [b, T, h, e]
  }
  const [q, k, v] = [project("q"), project("k"), project("v")]
  const [placedQ, placedK] = turns
    ? [s.hook("hook_rot_q", turned(q, turns)), s.hook("hook_rot_k", turned(k, turns))]
    : [q, k]
  const [queries, keys, values] = [placedQ, placedK, v].map((x) => transpose(x, [0, 2, 1, 3])) as [Value, Value, Value]
  const scaled = matmul(mul(queries, scalar(1 / Math.sqrt(e))), keys, { transB: true })
  const scores = s.hook("hook_attn_scores", mask ? add(scaled, mask) : scaled)
  const pattern = s.hook("hook_pattern", softmax(scores)) // [b, h, query, key]
  const kept = s.drop("drop_pattern", pattern, cfg.drop?.attention, "element")
  const z = s.hook("hook_z", transpose(matmul(kept, values), [0, 2, 1, 3])) // [b, T, h, e]
  return s.drop("drop_out", attentionOut(s, cfg, z), cfg.drop?.proj, "element")
}

/** What the heads found [b, T, h, e] through the output projection: [b, T, d]. */
function attentionOut(s: Scope, cfg: StackConfig, z: Value): Value {
  const { nHeads: h, dHead: e, dModel: d } = cfg
  const out = s.at("out")
  const w = cfg.attnOutIdentity ? undefined : out.param("weight", [d, h * e])
  const bias = w && cfg.attnOutBias ? out.param("bias", [d]) : undefined
  const joined = () => {
    const flat = reshape(z, [...z.shape.slice(0, 2), h * e])
    return w ? linear(flat, w, bias) : flat
  }
  if (!s.reads("hook_result") && !s.writes("hook_result")) return joined()
  const result = w ? projected(z, w, cfg) : apart(z, cfg) // [b, T, h, d]
  if (!s.writes("hook_result")) {
    s.readOnly("hook_result", result)
    return joined()
  }
  const total = sum(s.hook("hook_result", result), [2])
  return bias ? add(total, bias) : total
}

/** Each head's z through its columns of the output weight [d, h * e]. */
function projected(z: Value, w: Value, { nHeads: h, dHead: e, dModel: d }: StackConfig): Value {
  const perHead = transpose(reshape(w, [d, h, e]), [1, 2, 0]) // [h, e, d]
  return transpose(matmul(transpose(z, [0, 2, 1, 3]), perHead), [0, 2, 1, 3])
}

/** Each head's z at its place among zeros. */
function apart(z: Value, { nHeads: h, dHead: e }: StackConfig): Value {
  const [b, t] = z.shape as [Dim, Dim]
  const eye = Float32Array.from({ length: h * h }, (_, i) => (i % (h + 1) ? 0 : 1))
  return reshape(mul(reshape(z, [b, t, h, 1, e]), constant(float32([h, h, 1], eye))), [b, t, h, h * e])
}

/** Each head's own stream [b, T, h, d] through its rows of a weight [h * e, d]: [b, T, h, e]. */
function headwise(x: Value, w: Value, bias: Value | undefined, { nHeads: h, dHead: e, dModel: d }: StackConfig): Value {
  const product = matmul(transpose(x, [0, 2, 1, 3]), reshape(w, [h, e, d]), { transB: true }) // [b, h, T, e]
  const y = transpose(product, [0, 2, 1, 3])
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
  const post = s.drop("drop_post", s.hook("hook_post", gated), cfg.drop?.mlp, "element")
  const read = cfg.norm === "post" ? norm(s.at("ln"), cfg.eps, post) : post
  return s.drop("drop_out", dense(s.at("out"), read, d, mlpBias), cfg.drop?.mlp, "element")
}

/** Block number `i`, on the residual stream [b, T, d]. */
export function block(stack: Scope, cfg: StackConfig, i: number, input: Value, shared: Shared = {}): Value {
  const s = stack.at("blocks", i)
  const normed = (where: "pre" | "post", at: string, x: Value) =>
    (cfg.norm ?? "pre") === where ? norm(s.at(at), cfg.eps, x) : x
  const path = ((cfg.drop?.path ?? 0) * i) / Math.max(1, cfg.nLayers - 1)

  const residPre = s.hook("hook_resid_pre", input)
  const found = attention(s.at("attn"), cfg, attentionInput(s, cfg, residPre), shared)
  const attnOut = s.hook("hook_attn_out", layerScale(s.at("ls1"), cfg, found))
  const attended = normed("post", "ln1", add(residPre, s.drop("drop_attn_path", attnOut, path, "sample")))
  if (cfg.attnOnly) return s.hook("hook_resid_post", attended)

  const residMid = s.hook("hook_resid_mid", attended)
  // Opened, it is a value of its own: its gradient is that of the MLP alone, not of the stream that goes on.
  const mlpIn = s.writes("hook_mlp_in") ? add(residMid, scalar(0)) : residMid
  const made = mlp(s.at("mlp"), cfg, normed("pre", "ln2", s.hook("hook_mlp_in", mlpIn)))
  const mlpOut = s.hook("hook_mlp_out", layerScale(s.at("ls2"), cfg, made))
  const added = add(residMid, s.drop("drop_mlp_path", mlpOut, path, "sample"))
  return s.hook("hook_resid_post", normed("post", "ln2", added))
}

/**
 * The stream that q, k and v read, normed in a pre-norm block. A split input is the residual stream repeated for each
 * head, before the norm; written, it takes a norm of its own, and ln1's hooks belong to what is not split.
 */
function attentionInput(s: Scope, cfg: StackConfig, residPre: Value): AttentionInput {
  const pre = (cfg.norm ?? "pre") === "pre"
  const shared = pre ? norm(s.at("ln1"), cfg.eps, residPre) : residPre
  const [b, t, d] = residPre.shape as [Dim, Dim, number]
  const copies = () => expand(reshape(residPre, [b, t, 1, d]), [b, t, cfg.nHeads, d]) // [b, T, h, d]
  let read: Value | undefined
  return (which) => {
    const name = `hook_${which}_input`
    if (s.writes(name)) {
      const own = s.hook(name, copies())
      return { x: pre ? plainNorm(s.at("ln1"), cfg.eps, own) : own, perHead: true }
    }
    // One value for all three that are only read.
    if (s.reads(name)) s.readOnly(name, (read ??= copies()))
    return { x: shared, perHead: false }
  }
}

const layerScale = (s: Scope, cfg: StackConfig, x: Value): Value =>
  cfg.layerScale ? mul(x, s.param("gamma", [cfg.dModel])) : x

/** Unit length along the last axis. */
export const normalize = (x: Value): Value => div(x, sqrt(sum(mul(x, x), [-1], true)))
