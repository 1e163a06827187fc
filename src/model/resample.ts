/** @file Position tables at another image size: bicubic interpolation as a matrix, so that it is part of the graph. */
import { constant, concat, matmul, slice } from "../graph/ops.ts"
import type { Value } from "../graph/value.ts"
import { float32 } from "../tensor/tensor.ts"

type Grid = readonly [number, number]

/** The patch rows of a table [before + P, d] from one grid to another; the rows before them stay. */
export function resamplePositions(table: Value, before: number, from: Grid, to: Grid): Value {
  if (from[0] === to[0] && from[1] === to[1]) return table
  const patches = slice(table, 0, before, before + from[0] * from[1])
  const resampled = matmul(constant(bicubicMatrix(from, to)), patches)
  return before ? concat([slice(table, 0, 0, before), resampled], 0) : resampled
}

/** [to patches, from patches]: row-major outer product of the two axes' weights. */
function bicubicMatrix(from: Grid, to: Grid) {
  const [rows, columns] = [weights(from[0], to[0]), weights(from[1], to[1])]
  const [n, m] = [to[0] * to[1], from[0] * from[1]]
  const out = new Float32Array(n * m)
  for (let y = 0; y < to[0]; y++) {
    for (let x = 0; x < to[1]; x++) {
      const at = (y * to[1] + x) * m
      for (const [i, wy] of rows[y]!) for (const [j, wx] of columns[x]!) out[at + i * from[1] + j]! += wy * wx
    }
  }
  return float32([n, m], out)
}

/**
 * For each of `to` samples, four neighbours and their weights: torch.nn.functional.interpolate(mode="bicubic",
 * align_corners=False), which transformers uses: a = -0.75, no antialiasing, edges repeated.
 */
function weights(from: number, to: number): (readonly [index: number, weight: number])[][] {
  const scale = from / to
  return Array.from({ length: to }, (_, k) => {
    const at = scale * (k + 0.5) - 0.5
    const base = Math.floor(at)
    const t = at - base
    return [-1, 0, 1, 2].map((i) => [Math.min(from - 1, Math.max(0, base + i)), cubic(Math.abs(t - i))] as const)
  })
}

const A = -0.75

/** Keys' cubic convolution kernel (doi:10.1109/TASSP.1981.1163711). */
const cubic = (x: number): number =>
  x <= 1 ? ((A + 2) * x - (A + 3)) * x * x + 1 : x < 2 ? ((A * x - 5 * A) * x + 8 * A) * x - 4 * A : 0
