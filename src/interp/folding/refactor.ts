/** @file Each head's two low-rank products in the form of their singular values; TransformerLens' refactor_factored_attn_matrices. */
import { fail } from "../../errors.ts"
import { size, tensor, type Tensor } from "../../tensor/tensor.ts"
import { svd } from "../circuits/factored.ts"
import { layersOf, type Draft, type Tower } from "./draft.ts"
import { expectOutput, foldValueBiases } from "./writing.ts"

/**
 * W_Q W_K^T (biases as one more row) = U S V^T becomes U sqrt(S) and V sqrt(S); W_V W_O = U S V^T becomes U S and V^T.
 * The value biases go into the output bias first. Error: E_INPUT for what stands in between: a norm on q and k, rotary
 * positions.
 */
export async function refactorAttention(draft: Draft): Promise<void> {
  for (const tower of draft.towers) {
    const between = tower.config.qkNorm
      ? "a norm on q and k"
      : tower.config.rotary
        ? "the turn of rotary positions"
        : ""
    if (between) {
      fail("E_INPUT", `${draft.config.family}: attention cannot be refactored: ${between} stands between W_Q and W_K`)
    }
    expectOutput(draft, tower, "attention")
  }
  await foldValueBiases(draft)
  for (const tower of draft.towers) {
    for (const at of layersOf(tower)) {
      await refactorScores(draft, `${at}.attn`, tower)
      await refactorValues(draft, `${at}.attn`, tower)
    }
  }
}

async function refactorScores(draft: Draft, attn: string, { config: { nHeads: h, dHead: e, dModel: d } }: Tower) {
  const read = async (kind: "q" | "k") => {
    const weight = (await draft.get(`${attn}.${kind}.weight`)).data // [h * e, d]
    if (!draft.has(`${attn}.${kind}.bias`)) return { weight, n: d }
    return { weight, n: d + 1, bias: (await draft.get(`${attn}.${kind}.bias`)).data }
  }
  const [q, k] = [await read("q"), await read("k")]
  const from = ({ weight, bias }: typeof q, row: number, j: number) => (j < d ? weight[row * d + j]! : bias![row]!)
  const { u, s, v } = svd({
    a: filled([h, q.n, e], (head, j, i) => from(q, head * e + i, j)),
    b: filled([h, e, k.n], (head, i, j) => from(k, head * e + i, j)),
  })
  for (const [kind, { bias, n }, side] of [
    ["q", q, u],
    ["k", k, v],
  ] as const) {
    const to = (head: number, i: number, j: number) => entry(side, i, head, j) * Math.sqrt(entry(s, i, head))
    draft.set(`${attn}.${kind}.weight`, [h * e, d], filled([h, e, d], to).data)
    if (bias) draft.set(`${attn}.${kind}.bias`, [h * e], filled([h, e], (head, i) => to(head, i, n - 1)).data)
  }
}

async function refactorValues(draft: Draft, attn: string, { config: { nHeads: h, dHead: e, dModel: d } }: Tower) {
  const values = (await draft.get(`${attn}.v.weight`)).data // [h * e, d]
  const out = (await draft.get(`${attn}.out.weight`)).data // [d, h * e]
  const { u, s, v } = svd({
    a: filled([h, d, e], (head, j, i) => values[(head * e + i) * d + j]!),
    b: filled([h, e, d], (head, i, j) => out[(j * h + head) * e + i]!),
  })
  const read = (head: number, i: number, j: number) => entry(u, i, head, j) * entry(s, i, head)
  draft.set(`${attn}.v.weight`, [h * e, d], filled([h, e, d], read).data)
  draft.set(`${attn}.out.weight`, [d, h * e], filled([d, h, e], (j, head, i) => entry(v, i, head, j)).data)
}

/** A tensor of what stands at each place. */
function filled(shape: readonly number[], at: (...place: [number, number, number]) => number): Tensor<"float64"> {
  const [, n = 1, m = 1] = shape
  const data = Float64Array.from({ length: size(shape) }, (_, i) =>
    at(Math.floor(i / (n * m)), Math.floor(i / m) % n, i % m),
  )
  return tensor("float64", shape, data)
}

/** Number `i` of what follows `place`: 0 after the last singular value, where heads are wider than the model. */
function entry({ shape, data }: Tensor<"float64">, i: number, ...place: readonly number[]): number {
  const k = shape.at(-1)!
  return i < k ? data[place.reduce((at, x, axis) => at * (axis ? shape[axis]! : 1) + x, 0) * k + i]! : 0
}
