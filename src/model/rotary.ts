/**
 * @file Rotary positions of patches (arXiv:2104.09864), in the two dimensions and the pairing of DINOv3
 * (arXiv:2508.10104): of a head's e numbers, i and i + e/2 are turned as one point of the plane.
 */
import { add, concat, constant, mul, slice } from "../graph/ops.ts"
import type { Value } from "../graph/value.ts"
import { float32, type Tensor } from "../tensor/tensor.ts"
import type { Rotary } from "./config.ts"

/** Cosine and sine of each token's angles, [T, 1, e]; the sine's first half bears the turn's minus. */
export interface Turns {
  readonly cos: Tensor<"float32">
  readonly sin: Tensor<"float32">
}

/**
 * The turns of `before` tokens that stay as they are and of a grid of patches. A patch's place is its centre, from -1 to
 * 1 along each edge; angle j of e/4 is 2 pi place / base^(4 j / e), first those of its row and then those of its column.
 */
export function turnsOf({ base, kept }: Rotary, before: number, grid: readonly [number, number], e: number): Turns {
  const half = e / 2
  const [rows, columns] = kept?.grid ?? grid
  const patches = kept?.patches ?? [...Array(rows * columns).keys()]
  const size = (before + patches.length) * e
  const [cos, sin] = [new Float32Array(size).fill(1, 0, before * e), new Float32Array(size)]
  const centre = (i: number, n: number) => (2 * (i + 0.5)) / n - 1
  for (const [k, patch] of patches.entries()) {
    const at = (before + k) * e
    const place = [centre(Math.floor(patch / columns), rows), centre(patch % columns, columns)] as const
    for (let i = 0; i < half; i++) {
      const [axis, j] = i < half / 2 ? [0 as const, i] : [1 as const, i - half / 2]
      const angle = 2 * Math.PI * place[axis] * base ** ((-4 * j) / e)
      cos[at + i] = cos[at + half + i] = Math.cos(angle)
      sin[at + half + i] = Math.sin(angle)
      sin[at + i] = -sin[at + half + i]!
    }
  }
  const shape = [before + patches.length, 1, e]
  return { cos: float32(shape, cos), sin: float32(shape, sin) }
}

/** x [b, T, h, e] with every token's pairs turned by its angles. */
export function turned(x: Value, { cos, sin }: Turns): Value {
  const e = x.shape[3] as number
  const swapped = concat([slice(x, 3, e / 2, e), slice(x, 3, 0, e / 2)], 3)
  return add(mul(x, constant(cos)), mul(swapped, constant(sin)))
}
