/** @file Gradients of our weights put together as gradients of the checkpoint's own tensors. */
import { permutedFrom, type Weight } from "../model/scope.ts"
import { size, tensor, type StoredTensor, type Tensor } from "../tensor/tensor.ts"
import { DTYPES } from "../tensor/tensor.ts"
import type { LoadedViT } from "./load-pretrained.ts"

/**
 * d metric / d tensor for each source tensor that the model reads, in its stored shape and orientation; rows of it that
 * no weight reads have gradient 0.
 */
export function sourceGradients(
  { weights, source }: LoadedViT,
  params: ReadonlyMap<string, Tensor<"float32">>,
): Map<string, Tensor<"float32">> {
  const out = new Map<string, Tensor<"float32">>()
  for (const [name, stored] of source.checkpoint.tensors) {
    const whole = new Float32Array(size(stored.shape))
    let used = false
    for (const [ours, gradient] of params) {
      const weight = weights.get(ours)!
      const start = offsetIn(stored, weight.tensor)
      if (start === undefined) continue
      used = true
      whole.set(unpermuted(gradient, weight), start)
    }
    if (used) out.set(name, tensor("float32", stored.shape, whole))
  }
  return out
}

/** Where in `whole` the bytes of `part` begin, in elements; undefined where they lie elsewhere. */
function offsetIn(whole: Tensor | StoredTensor, part: Tensor | StoredTensor): number | undefined {
  const { bytes } = DTYPES[whole.dtype]
  const [a, b] = [extent(whole), extent(part)]
  if (a.place !== b.place || b.start < a.start || b.end > a.end) return undefined
  return (b.start - a.start) / bytes
}

function extent(t: Tensor | StoredTensor): { place: unknown; start: number; end: number } {
  if ("data" in t) {
    const { buffer, byteOffset, byteLength } = t.data
    return { place: buffer, start: byteOffset, end: byteOffset + byteLength }
  }
  return { place: t.file, start: t.offset, end: t.offset + t.length }
}

/** From our orientation to the stored one: ours is a transpose by `perm` of what is stored. */
function unpermuted({ data }: Tensor<"float32">, weight: Weight): Float32Array {
  const { perm } = weight
  if (!perm) return data
  const from = permutedFrom(weight)
  const turned = perm.map((axis) => from[axis]!)
  const strides = from.map((_, axis) => size(from.slice(axis + 1)))
  const out = new Float32Array(data.length)
  const index = turned.map(() => 0)
  for (const value of data) {
    out[index.reduce((at, i, axis) => at + i * strides[perm[axis]!]!, 0)] = value
    for (let axis = index.length - 1; axis >= 0 && ++index[axis]! === turned[axis]; axis--) index[axis] = 0
  }
  return out
}
