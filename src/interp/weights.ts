/** @file Weights in TransformerLens' names and orientation, made on request from the stored layout. */
import { fail, nearest } from "../errors.ts"
import type { ModelConfig, StackConfig } from "../model/config.ts"
import { permutedFrom, type Weight, type Weights } from "../model/scope.ts"
import { toFloat32 } from "../tensor/numbers.ts"
import { float32, size, type StoredTensor, type Tensor } from "../tensor/tensor.ts"

/** From a stored name to ours: reshape to `shape`, then transpose by `perm`. */
interface View {
  readonly stored: string
  readonly shape?: readonly number[]
  readonly perm?: readonly number[]
}

/** TransformerLens' name of each weight that has one. */
function lensNames(config: ModelConfig): Map<string, View> {
  const { vision, text } = config
  const names = new Map<string, View>([
    ["W_E", { stored: "embed.proj.weight", perm: [1, 0] }],
    ["b_E", { stored: "embed.proj.bias" }],
    ["W_pos", { stored: "embed.pos" }],
    ["cls_token", { stored: "embed.cls" }],
    ["W_H", { stored: "head.weight", perm: [1, 0] }],
    ["b_H", { stored: "head.bias" }],
    ...blockNames("", vision),
    ...(text
      ? ([
          ["text.W_E", { stored: "text.embed.tokens" }],
          ["text.W_pos", { stored: "text.embed.pos" }],
          ...blockNames("text.", text),
        ] as [string, View][])
      : []),
  ])
  return names
}

function blockNames(prefix: string, { nLayers, nHeads: h, dHead: e, dModel: d }: StackConfig): [string, View][] {
  return [...Array(nLayers).keys()].flatMap((i): [string, View][] => {
    const at = `${prefix}blocks.${i}.`
    const heads = (["Q", "K", "V"] as const).flatMap((kind): [string, View][] => {
      const stored = `${at}attn.${kind.toLowerCase()}`
      return [
        [`${at}attn.W_${kind}`, { stored: `${stored}.weight`, shape: [h, e, d], perm: [0, 2, 1] }], // [h, d, e]
        [`${at}attn.b_${kind}`, { stored: `${stored}.bias`, shape: [h, e] }],
      ]
    })
    return [
      ...heads,
      [`${at}attn.W_O`, { stored: `${at}attn.out.weight`, shape: [d, h, e], perm: [1, 2, 0] }], // [h, e, d]
      [`${at}attn.b_O`, { stored: `${at}attn.out.bias` }],
      [`${at}mlp.W_in`, { stored: `${at}mlp.in.weight`, perm: [1, 0] }],
      [`${at}mlp.b_in`, { stored: `${at}mlp.in.bias` }],
      [`${at}mlp.W_out`, { stored: `${at}mlp.out.weight`, perm: [1, 0] }],
      [`${at}mlp.b_out`, { stored: `${at}mlp.out.bias` }],
    ]
  })
}

type Read = (stored: StoredTensor) => Promise<Tensor>

/** A weight's values as float32 in our stored shape. */
export async function weightValues(weight: Weight, read: Read): Promise<Tensor<"float32">> {
  const { tensor, shape, perm } = weight
  const values = toFloat32("data" in tensor ? tensor : await read(tensor))
  return float32(shape, perm ? permuted(float32(permutedFrom(weight), values), perm).data : values)
}

export async function namedWeight(
  config: ModelConfig,
  weights: Weights,
  name: string,
  read: Read,
): Promise<Tensor<"float32">> {
  const names = lensNames(config)
  const view = names.get(name) ?? { stored: name }
  const weight = weights.get(view.stored)
  if (!weight) {
    const known = [...[...names].filter(([, v]) => weights.has(v.stored)).map(([n]) => n), ...weights.keys()]
    return fail("E_HOOK", `no weight "${name}"; the nearest are ${nearest(name, known).join(", ")}`)
  }
  const values = await weightValues(weight, read)
  const shaped = float32(view.shape ?? values.shape, values.data)
  return view.perm ? permuted(shaped, view.perm) : shaped
}

/** Axis i of the result is axis perm[i] of `t`. */
export function permuted(t: Tensor<"float32">, perm: readonly number[]): Tensor<"float32"> {
  const strides = t.shape.map((_, i) => size(t.shape.slice(i + 1)))
  const shape = perm.map((axis) => t.shape[axis]!)
  const out = new Float32Array(t.data.length)
  const index = shape.map(() => 0)
  let from = 0
  for (let to = 0; to < out.length; to++) {
    out[to] = t.data[from]!
    for (let i = shape.length - 1; i >= 0; i--) {
      from += strides[perm[i]!]!
      if (++index[i]! < shape[i]!) break
      from -= strides[perm[i]!]! * shape[i]!
      index[i] = 0
    }
  }
  return float32(shape, out)
}
