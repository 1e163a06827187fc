/** @file Where each weight lies in the one vector that training carries in pieces: names, shapes and offsets. */
import { param, reshape, slice } from "../graph/ops.ts"
import type { Value } from "../graph/value.ts"
import { fail } from "../errors.ts"
import { show, size, tensor, type Tensor } from "../tensor/tensor.ts"

export interface Place {
  readonly shape: readonly number[]
  readonly offset: number
}

/** The vector of all weights: a few tensors to carry, clip and update instead of many. */
export interface Layout {
  readonly places: ReadonlyMap<string, Place>
  /** Number of weights. */
  readonly size: number
  /** Where the vector is cut, between weights, into pieces [start, end) that are carried. */
  readonly pieces: readonly (readonly [start: number, end: number])[]
}

/**
 * Weights in one piece, if they are not one matrix. An array of more than 32 MiB gets new pages from the system whenever
 * it is made (glibc's largest mmap threshold): carrying three vectors of 12.7 million took 68 ms whole, 25 ms in such pieces.
 */
const PIECE = 2 ** 21

export function layout(shapes: Iterable<readonly [string, readonly number[]]>): Layout {
  const places = new Map<string, Place>()
  const cuts = [0]
  let offset = 0
  for (const [name, shape] of shapes) {
    places.set(name, { shape, offset })
    const end = offset + size(shape)
    if (end - cuts.at(-1)! > PIECE && offset > cuts.at(-1)!) cuts.push(offset)
    offset = end
  }
  return { places, size: offset, pieces: cuts.map((start, i) => [start, cuts[i + 1] ?? offset]) }
}

/** A vector's numbers, as its layout cuts it. */
export type Pieces = readonly Float32Array[]

/** The pieces of a whole vector, as views of it. */
export const cut = ({ pieces }: Layout, whole: Float32Array): Pieces => pieces.map((span) => whole.subarray(...span))

/** The vector's pieces as values of the graph, by the names under which they are carried. */
export const pieceValues = ({ pieces }: Layout, name: string): Record<string, Value> =>
  Object.fromEntries(pieces.map(([start, end], i) => [`${name}.${i}`, param(`${name}.${i}`, [end - start])]))

/** One weight of the vector. */
export function weightAt({ places }: Layout, flat: Value, name: string): Value {
  const { shape, offset } = places.get(name) ?? fail("E_INPUT", `the layout has no weight "${name}"`)
  return reshape(slice(flat, 0, offset, offset + size(shape)), shape)
}

/** The pieces of vector `name` by those names. */
export const feedsOf = (name: string, pieces: Pieces): Record<string, Tensor> =>
  Object.fromEntries(pieces.map((data, i) => [`${name}.${i}`, tensor("float32", [data.length], data)]))

/** All weights in one vector. Errors: E_MISSING_TENSORS, E_SHAPE_MISMATCH. */
export function flatten(at: Layout, weights: ReadonlyMap<string, Tensor<"float32">>): Pieces {
  const out = new Float32Array(at.size)
  for (const [name, { shape, offset }] of at.places) {
    const t = weights.get(name) ?? fail("E_MISSING_TENSORS", `training needs the weight "${name}", which is not given`)
    if (String(t.shape) !== String(shape)) {
      fail("E_SHAPE_MISMATCH", `weight "${name}" is ${show(t.shape)}, the model wants ${show(shape)}`)
    }
    out.set(t.data, offset)
  }
  return cut(at, out)
}

/** The weights of a vector by name, as views into it: each lies in one piece. */
export function unflatten({ places, pieces: spans }: Layout, pieces: Pieces): Map<string, Tensor<"float32">> {
  return new Map(
    [...places].map(([name, { shape, offset }]) => {
      const piece = spans.findLastIndex(([start]) => start <= offset)
      const from = offset - spans[piece]![0]
      return [name, tensor("float32", shape, pieces[piece]!.subarray(from, from + size(shape)))]
    }),
  )
}
