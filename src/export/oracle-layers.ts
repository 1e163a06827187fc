/**
 * @file What both towers of the oracle are made of, for one image or text at a time: norm, attention, MLP, block.
 *
 * n queries, t tokens, h heads, e head width, d model width, m MLP width; every shape begins with a batch of 1.
 */
import { fail } from "../errors.ts"
import type { StackConfig } from "../model/config.ts"
import { ACTIVATION, layerNorm, rowProducts, softmax, transposed, type Array64, type Numbers } from "./oracle-math.ts"

/** A weight in the project's own layout (linear weights [out, in]) under the project's own name. */
export type WeightOf = (name: string) => { readonly shape: readonly number[]; readonly data: Numbers }

/** What a run reads and where its named values go. */
export interface Run {
  readonly weight: WeightOf
  readonly want: (name: string) => boolean
  /** `shared`: one value for the whole batch, not one per item. */
  readonly keep: (name: string, value: Array64, shared: boolean) => void
}

/** A place in the model: its weights and named values by their names below it. */
export class Part {
  readonly #run: Run
  readonly #prefix: string

  constructor(run: Run, prefix = "") {
    this.#run = run
    this.#prefix = prefix
  }

  at(...path: readonly (string | number)[]): Part {
    return new Part(this.#run, `${this.#prefix}${path.join(".")}.`)
  }

  /** Errors: E_SHAPE_MISMATCH where the weight has not as many values as `shape`. */
  weight(name: string, shape: readonly number[]): Numbers {
    const full = this.#prefix + name
    const { shape: got, data } = this.#run.weight(full)
    const wanted = shape.reduce((a, b) => a * b, 1)
    if (data.length === wanted) return data
    return fail(
      "E_SHAPE_MISMATCH",
      `weight "${full}" is [${got.join(", ")}] with ${data.length} values, the config wants [${shape.join(", ")}]`,
      { tensor: full },
    )
  }

  wants(name: string): boolean {
    return this.#run.want(this.#prefix + name)
  }

  keep(name: string, value: Array64, { shared = false } = {}): Array64 {
    if (this.wants(name)) this.#run.keep(this.#prefix + name, value, shared)
    return value
  }
}

const width = ({ shape }: Array64): number => shape.at(-1)!

const widened = ({ shape }: Array64, to: number): readonly number[] => [...shape.slice(0, -1), to]

/** x W^T + b along the last axis. */
export function dense(p: Part, x: Array64, out: number, bias: boolean): Array64 {
  const data = rowProducts(x.data, x.data.length / width(x), p.weight("weight", [out, width(x)]), out)
  if (bias) {
    const b = p.weight("bias", [out])
    for (let at = 0; at < data.length; at += out) for (let i = 0; i < out; i++) data[at + i]! += b[i]!
  }
  return { shape: widened(x, out), data }
}

/** LayerNorm along the last axis, with its two hooks. */
export function norm(p: Part, eps: number, x: Array64): Array64 {
  const { scale, normalized } = layerNorm(x.data, eps, p.weight("weight", [width(x)]), p.weight("bias", [width(x)]))
  p.keep("hook_scale", { shape: widened(x, 1), data: scale })
  return p.keep("hook_normalized", { shape: x.shape, data: normalized })
}

export function sum(a: Array64, b: Array64): Array64 {
  return { shape: a.shape, data: a.data.map((x, i) => x + b.data[i]!) }
}

// What transformers adds to the scores a query must not see: the least float32.
const BLOCKED = -3.4028234663852886e38

export interface Looking {
  /** A query sees the tokens up to its own. */
  readonly causal?: boolean
  /** Of rotary positions: each token's place down and across, from -1 to 1; none is a token that is not turned. */
  readonly places?: readonly (readonly [number, number] | undefined)[]
}

/** Each pair i, i + e/2 of a head is a point of the plane, turned about its origin: half of them by row, half by column. */
function rotate(x: Numbers, { nHeads: h, dHead: e, rotary }: StackConfig, places: Looking["places"]): Float64Array {
  const out = Float64Array.from(x)
  const quarter = e / 4
  for (let at = 0; at < x.length; at += e) {
    const place = places![Math.floor(at / (h * e))]
    if (!place) continue
    for (let i = 0; i < 2 * quarter; i++) {
      const period = rotary!.base ** ((i % quarter) / quarter)
      const angle = (2 * Math.PI * place[i < quarter ? 0 : 1]) / period
      const [a, b] = [x[at + i]!, x[at + i + 2 * quarter]!]
      out[at + i] = a * Math.cos(angle) - b * Math.sin(angle)
      out[at + i + 2 * quarter] = b * Math.cos(angle) + a * Math.sin(angle)
    }
  }
  return out
}

/** Attention of `queries` [1, n, d] over `tokens` [1, t, d]. */
export function attention(
  p: Part,
  cfg: StackConfig,
  queries: Array64,
  tokens: Array64,
  { causal = false, places }: Looking = {},
): Array64 {
  const { nHeads: h, dHead: e, dModel: d } = cfg
  const project = (name: "q" | "k" | "v", x: Array64): Float64Array => {
    const { data } = dense(p.at(name), x, h * e, cfg.qkvBias && (name !== "k" || (cfg.keyBias ?? true)))
    const own = p.at(`${name}_norm`)
    const normed =
      cfg.qkNorm && name !== "v"
        ? layerNorm(data, cfg.qkNormEps ?? cfg.eps, own.weight("weight", [e]), own.weight("bias", [e])).normalized
        : data
    const shape = [1, x.shape[1]!, h, e]
    p.keep(`hook_${name}`, { shape, data: normed })
    if (!places || name === "v") return Float64Array.from(normed)
    return Float64Array.from(p.keep(`hook_rot_${name}`, { shape, data: rotate(normed, cfg, places) }).data)
  }
  const [q, k, v] = [project("q", queries), project("k", tokens), project("v", tokens)]
  const [n, t] = [queries.shape[1]!, tokens.shape[1]!]

  const scores = new Float64Array(h * n * t)
  for (let head = 0; head < h; head++) {
    scores.set(rowProducts(ofHead(q, head, cfg), n, ofHead(k, head, cfg), t), head * n * t)
  }
  for (let i = 0; i < scores.length; i++) {
    const [query, key] = [Math.floor(i / t) % n, i % t]
    scores[i] = causal && key > query ? BLOCKED : scores[i]! / Math.sqrt(e)
  }
  p.keep("hook_attn_scores", { shape: [1, h, n, t], data: scores })
  const pattern = p.keep("hook_pattern", { shape: [1, h, n, t], data: softmax(scores, t) }).data

  const z = new Float64Array(n * h * e)
  for (let head = 0; head < h; head++) {
    const seen = rowProducts(pattern.subarray(head * n * t, (head + 1) * n * t), n, byColumn(v, head, cfg), e) // [n, e]
    for (let i = 0; i < n; i++) z.set(seen.subarray(i * e, (i + 1) * e), (i * h + head) * e)
  }
  p.keep("hook_z", { shape: [1, n, h, e], data: z })
  if (cfg.attnOutIdentity) {
    if (p.wants("hook_result")) p.keep("hook_result", apart(z, cfg))
    return { shape: [1, n, d], data: z }
  }
  if (p.wants("hook_result")) p.keep("hook_result", results(p.at("out").weight("weight", [d, h * e]), z, cfg))
  return dense(p.at("out"), { shape: [1, n, h * e], data: z }, d, cfg.attnOutBias)
}

/** One head's rows [rows, e] of [rows, h, e]. */
function ofHead(x: Numbers, head: number, { nHeads: h, dHead: e }: StackConfig): Float64Array {
  const rows = x.length / (h * e)
  const out = new Float64Array(rows * e)
  for (let i = 0; i < rows; i++) out.set(x.subarray((i * h + head) * e, (i * h + head + 1) * e), i * e)
  return out
}

const byColumn = (x: Float64Array, head: number, cfg: StackConfig): Float64Array =>
  transposed(ofHead(x, head, cfg), x.length / (cfg.nHeads * cfg.dHead))

/** What each head alone writes: its columns of the output weight [d, h * e] times its z. */
function results(w: Numbers, z: Float64Array, cfg: StackConfig): Array64 {
  const { nHeads: h, dHead: e, dModel: d } = cfg
  const n = z.length / (h * e)
  const data = new Float64Array(n * h * d)
  for (let head = 0; head < h; head++) {
    const written = rowProducts(ofHead(z, head, cfg), n, ofHead(w, head, cfg), d) // [n, d]
    for (let i = 0; i < n; i++) data.set(written.subarray(i * d, (i + 1) * d), (i * h + head) * d)
  }
  return { shape: [1, n, h, d], data }
}

/** Without an output projection each head writes its z where it stands, and zeros beside it. */
function apart(z: Float64Array, { nHeads: h, dHead: e, dModel: d }: StackConfig): Array64 {
  const data = new Float64Array(z.length * h)
  for (const [i, value] of z.entries()) {
    const [token, column] = [Math.floor(i / d), i % d]
    data[(token * h + Math.floor(column / e)) * d + column] = value
  }
  return { shape: [1, z.length / d, h, d], data }
}

/** Dense, activation (of the gate, times the other half, where there is one: arXiv:2002.05202), dense. */
export function mlp(p: Part, cfg: StackConfig, x: Array64): Array64 {
  const pre = p.keep("hook_pre", dense(p.at("in"), x, cfg.dMlp, cfg.mlpBias))
  const activate = ACTIVATION[cfg.activation]
  const post = pre.data.map((v) => activate(v))
  if (cfg.gatedMlp) {
    const other = p.keep("hook_pre_linear", dense(p.at("linear"), x, cfg.dMlp, cfg.mlpBias)).data
    for (let i = 0; i < post.length; i++) post[i]! *= other[i]!
  }
  const hidden = p.keep("hook_post", { shape: pre.shape, data: post })
  const read = cfg.norm === "post" ? norm(p.at("ln"), cfg.eps, hidden) : hidden
  return dense(p.at("out"), read, cfg.dModel, cfg.mlpBias)
}

/** A block on the residual stream [1, t, d]; `norm` says whether its norms stand before, after or not at all. */
export function block(p: Part, cfg: StackConfig, x: Array64, options: Looking = {}): Array64 {
  const [pre, post] = [cfg.norm === undefined || cfg.norm === "pre", cfg.norm === "post"]
  p.keep("hook_resid_pre", x)
  const normed = pre ? norm(p.at("ln1"), cfg.eps, x) : x
  for (const name of ["hook_q_input", "hook_k_input", "hook_v_input"]) {
    if (p.wants(name)) p.keep(name, forEachHead(x, cfg.nHeads))
  }
  const attended = attention(p.at("attn"), cfg, normed, normed, options)
  const attnSum = sum(x, p.keep("hook_attn_out", layerScale(p.at("ls1"), cfg, attended)))
  const mid = post ? norm(p.at("ln1"), cfg.eps, attnSum) : attnSum
  if (cfg.attnOnly) return p.keep("hook_resid_post", mid)
  p.keep("hook_resid_mid", mid)
  p.keep("hook_mlp_in", mid)
  const made = mlp(p.at("mlp"), cfg, pre ? norm(p.at("ln2"), cfg.eps, mid) : mid)
  const mlpSum = sum(mid, p.keep("hook_mlp_out", layerScale(p.at("ls2"), cfg, made)))
  return p.keep("hook_resid_post", post ? norm(p.at("ln2"), cfg.eps, mlpSum) : mlpSum)
}

/** [1, t, d] repeated as [1, t, h, d]. */
function forEachHead(x: Array64, h: number): Array64 {
  const [, t, d] = x.shape as [number, number, number]
  const data = new Float64Array(t * h * d)
  for (let i = 0; i < t * h; i++) {
    const token = Math.floor(i / h)
    data.set(x.data.subarray(token * d, (token + 1) * d), i * d)
  }
  return { shape: [1, t, h, d], data }
}

function layerScale(p: Part, cfg: StackConfig, x: Array64): Array64 {
  if (!cfg.layerScale) return x
  const gamma = p.weight("gamma", [cfg.dModel])
  return { shape: x.shape, data: x.data.map((v, i) => v * gamma[i % cfg.dModel]!) }
}
