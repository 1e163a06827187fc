/**
 * @file What each head's weights do by themselves (Elhage et al., "A Mathematical Framework for Transformer Circuits",
 * https://transformer-circuits.pub/2021/framework): OV, from a token looked at to what is written; QK, from two tokens to
 * a score; and how much of what one head writes another reads.
 */
import { fail } from "../../errors.ts"
import { input, matmul, mul, sqrt, sum } from "../../graph/ops.ts"
import type { StackConfig } from "../../model/config.ts"
import { float32, tensor, type Tensor } from "../../tensor/tensor.ts"
import type { HookedViT } from "../hooked-vit.ts"
import { factored, reading, writing, type Factored } from "./factored.ts"

export interface CircuitOptions {
  /**
   * Take in what stands between the weights and the stream: on the side that reads, the norm's weight and that it takes
   * off the mean; on the side that writes, LayerScale. What is left of a norm is one factor a token. False by default:
   * weights as `model.weight` gives them.
   */
  readonly fold?: boolean
  /** Of a dual encoder. */
  readonly tower?: "vision" | "text"
}

/** x W_V W_O of row vectors, each head's [h, d, d] of rank e; the values' bias is no part of it. Error: E_HOOK. */
export async function ovCircuits(model: HookedViT, layer: number, options: CircuitOptions = {}): Promise<Factored> {
  const at = place(model, layer, options)
  return factored(await reads(model, at, "V"), await writes(model, at))
}

/**
 * x W_Q W_K^T y^T of row vectors x, the query, and y, the key, each head's [h, d, d]; biases and 1 / sqrt(e) are no part
 * of it. Errors: E_HOOK; E_INPUT where queries and keys are normed or turned, so that no such matrix is.
 */
export async function qkCircuits(model: HookedViT, layer: number, options: CircuitOptions = {}): Promise<Factored> {
  const at = place(model, layer, options)
  expectMatrix(at.cfg)
  return factored(await reads(model, at, "Q"), swapped(await reads(model, at, "K")))
}

/** Error: E_INPUT where something that is no matrix, or another for each pair of tokens, stands between W_Q and W_K. */
function expectMatrix({ qkNorm, rotary }: StackConfig): void {
  const done = qkNorm ? "normed" : rotary ? "turned by their tokens' positions" : undefined
  if (done) fail("E_INPUT", `queries and keys of this model are ${done}: no one matrix gives its scores`)
}

/** Through which of its three inputs the later head reads what the earlier wrote. */
export const COMPOSITIONS = ["Q", "K", "V"] as const
export type Composition = (typeof COMPOSITIONS)[number]

export interface CompositionScores {
  /** [layer, head, later layer, head]; NaN where the second is not later. */
  readonly scores: Tensor<"float32">
  /**
   * What the same two heads would score, root mean square, turned at random against each other: 1 / sqrt(d). Exact,
   * since the mean of |X R Y|^2 over rotations R is |X|^2 |Y|^2 / d.
   */
  readonly baseline: number
}

/**
 * |X Y| / (|X| |Y|) in Frobenius norms for every pair of heads of different layers, from 0 to 1: X is the earlier head's
 * OV; Y is of the later head QK (Q-composition), QK transposed (K) or OV (V). A product of all heads of two layers is one
 * product of matrices, run by the model's runtime. Errors: E_HOOK, E_INPUT.
 */
export async function compositionScores(
  model: HookedViT,
  kind: Composition,
  options: CircuitOptions = {},
): Promise<CompositionScores> {
  if (!COMPOSITIONS.includes(kind)) fail("E_INPUT", `composition is ${COMPOSITIONS.join(", ")}, got ${kind as string}`)
  const { nLayers: n, nHeads: h, dHead: e, dModel: d } = stack(model, options)
  const later = async (layer: number): Promise<Factored> => {
    if (kind === "V") return ovCircuits(model, layer, options)
    const { a, b } = await qkCircuits(model, layer, options)
    return kind === "Q" ? { a, b } : { a: swapped(b), b: swapped(a) }
  }
  const r = Math.min(d, e)
  const [written, read] = [input("written", [h, 1, r, d]), input("read", [1, h, d, r])]
  const met = matmul(written, read) // [h, h, r, r]
  const score = sqrt(sum(mul(met, met), [2, 3])) // [h, h]
  const compare = await model.runtime.compile({ written, read }, { score })

  const scores = new Float32Array((n * h) ** 2).fill(NaN)
  const earlier: Tensor[] = []
  for (let to = 0; to < n; to++) {
    const face = float32([1, h, d, r], reading(await later(to)).data)
    for (const [from, out] of earlier.entries()) {
      const { data } = (await compare({ written: out, read: face })).score
      for (let i = 0; i < h * h; i++) {
        scores[(from * h + Math.floor(i / h)) * n * h + to * h + (i % h)] = (data as Float32Array)[i]!
      }
    }
    earlier.push(float32([h, 1, r, d], writing(await ovCircuits(model, to, options)).data))
  }
  return { scores: float32([n, h, n, h], scores), baseline: 1 / Math.sqrt(d) }
}

interface Place {
  readonly cfg: StackConfig
  /** "blocks.3." */
  readonly prefix: string
  readonly fold: boolean
}

const stack = ({ config }: HookedViT, { tower = "vision" }: CircuitOptions): StackConfig =>
  tower === "vision" ? config.vision : (config.text ?? fail("E_INPUT", "this model has no text tower"))

function place(model: HookedViT, layer: number, options: CircuitOptions): Place {
  const cfg = stack(model, options)
  const at = layer < 0 ? layer + cfg.nLayers : layer
  if (!Number.isInteger(at) || at < 0 || at >= cfg.nLayers) {
    fail("E_HOOK", `layer ${layer} does not exist; the model has layers 0 to ${cfg.nLayers - 1}`)
  }
  const prefix = `${options.tower === "text" ? "text." : ""}blocks.${at}.`
  return { cfg, prefix, fold: options.fold ?? false }
}

/** W_Q, W_K or W_V [h, d, e]. */
async function reads(model: HookedViT, { cfg, prefix, fold }: Place, which: Composition): Promise<Tensor<"float32">> {
  const w = await model.weight(`${prefix}attn.W_${which}`)
  if (!fold || (cfg.norm ?? "pre") !== "pre") return w
  const { data: gain } = await model.weight(`${prefix}ln1.weight`)
  const [h, d, e] = w.shape as [number, number, number]
  const out = new Float32Array(w.data.length)
  for (let head = 0; head < h; head++) {
    for (let j = 0; j < e; j++) {
      const at = (i: number) => (head * d + i) * e + j
      let mean = 0
      for (let i = 0; i < d; i++) mean += (gain[i]! * w.data[at(i)]!) / d
      for (let i = 0; i < d; i++) out[at(i)] = gain[i]! * w.data[at(i)]! - mean
    }
  }
  return float32(w.shape, out)
}

/** W_O [h, e, d]; where there is none, each head's place among the others. */
async function writes(model: HookedViT, { cfg, prefix, fold }: Place): Promise<Tensor<"float32">> {
  const { nHeads: h, dHead: e, dModel: d } = cfg
  const w = cfg.attnOutIdentity
    ? float32(
        [h, e, d],
        Float32Array.from({ length: h * e * d }, (_, i) => (Math.floor(i / d) === i % d ? 1 : 0)),
      )
    : await model.weight(`${prefix}attn.W_O`)
  if (!fold || !cfg.layerScale) return w
  const { data: gain } = await model.weight(`${prefix}ls1.gamma`)
  return float32(
    w.shape,
    w.data.map((x, i) => x * gain[i % d]!),
  )
}

/** The last two axes of [h, n, m]. */
function swapped<D extends "float32" | "float64">({ dtype, shape, data }: Tensor<D>): Tensor<D> {
  const [h, n, m] = shape as [number, number, number]
  const out = data.slice() as typeof data
  for (let i = 0; i < data.length; i++) {
    const [at, row, column] = [Math.floor(i / (n * m)), Math.floor(i / m) % n, i % m]
    out[at * n * m + column * n + row] = data[i]!
  }
  return tensor(dtype, [h, m, n], out)
}
