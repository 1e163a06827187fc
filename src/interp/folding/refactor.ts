/** @file Each head's two low-rank products in the form of their singular values; TransformerLens' refactor_factored_attn_matrices. */
import { fail } from "../../errors.ts"
import { layersOf, type Draft, type Tower } from "./draft.ts"
import { productSvd, type Columns } from "./svd.ts"
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
  const read = async (kind: "q" | "k") => ({
    weight: Float32Array.from((await draft.get(`${attn}.${kind}.weight`)).data), // [h * e, d]
    bias: draft.has(`${attn}.${kind}.bias`)
      ? Float32Array.from((await draft.get(`${attn}.${kind}.bias`)).data)
      : undefined,
  })
  const [q, k] = [await read("q"), await read("k")]
  const columns = ({ weight, bias }: typeof q, head: number): Columns =>
    range(e).map((i) => {
      const row = head * e + i
      return Float64Array.from([...weight.subarray(row * d, (row + 1) * d), ...(bias ? [bias[row]!] : [])])
    })
  for (const head of range(h)) {
    const { u, v, values } = productSvd(columns(q, head), columns(k, head))
    for (const [i, value] of values.entries()) {
      const row = head * e + i
      for (const [to, from] of [
        [q, u[i]!],
        [k, v[i]!],
      ] as const) {
        for (let j = 0; j < d; j++) to.weight[row * d + j] = from[j]! * Math.sqrt(value)
        if (to.bias) to.bias[row] = from[d]! * Math.sqrt(value)
      }
    }
  }
  for (const [kind, { weight, bias }] of [
    ["q", q],
    ["k", k],
  ] as const) {
    draft.set(`${attn}.${kind}.weight`, [h * e, d], weight)
    if (bias) draft.set(`${attn}.${kind}.bias`, [h * e], bias)
  }
}

async function refactorValues(draft: Draft, attn: string, { config: { nHeads: h, dHead: e, dModel: d } }: Tower) {
  const values = Float32Array.from((await draft.get(`${attn}.v.weight`)).data) // [h * e, d]
  const out = Float32Array.from((await draft.get(`${attn}.out.weight`)).data) // [d, h * e]
  for (const head of range(h)) {
    const read = range(e).map((i) => Float64Array.from(values.subarray((head * e + i) * d, (head * e + i + 1) * d)))
    const write = range(e).map((i) => Float64Array.from({ length: d }, (_, j) => out[j * h * e + head * e + i]!))
    const svd = productSvd(read, write)
    for (const i of range(e)) {
      for (let j = 0; j < d; j++) {
        values[(head * e + i) * d + j] = svd.u[i]![j]! * svd.values[i]!
        out[j * h * e + head * e + i] = svd.v[i]![j]!
      }
    }
  }
  draft.set(`${attn}.v.weight`, [h * e, d], values)
  draft.set(`${attn}.out.weight`, [d, h * e], out)
}

const range = (n: number): number[] => [...Array(n).keys()]
