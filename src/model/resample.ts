/** @file Position tables at another image size: bicubic interpolation as two matrices, so that it is part of the graph. */
import { concat, constant, matmul, reshape, slice } from "../graph/ops.ts"
import type { Value } from "../graph/value.ts"
import { float32, type Tensor } from "../tensor/tensor.ts"

type Grid = readonly [rows: number, columns: number]
/** What one sample is made of. */
type Taps = readonly (readonly [index: number, weight: number])[]

/**
 * The patch rows of a table [before + P, d] from one grid to another; the rows before them stay. As
 * torch.nn.functional.interpolate(mode="bicubic", align_corners=False), with `antialias` or without.
 */
export function resamplePositions(table: Value, before: number, from: Grid, to: Grid, antialias: boolean): Value {
  if (from[0] === to[0] && from[1] === to[1]) return table
  const d = table.shape[1] as number
  const [down, across] = [0, 1].map((axis) => constant(matrix(from[axis]!, to[axis]!, antialias)))
  const patches = slice(table, 0, before, before + from[0] * from[1])
  const rows = matmul(down!, reshape(patches, [from[0], from[1] * d])) // [rows, old columns * d]
  const resampled = reshape(matmul(across!, reshape(rows, [to[0], from[1], d])), [to[0] * to[1], d])
  return before ? concat([slice(table, 0, 0, before), resampled], 0) : resampled
}

/** One axis: [to, from]. */
function matrix(from: number, to: number, antialias: boolean): Tensor<"float32"> {
  const out = new Float32Array(to * from)
  for (const [k, sample] of (antialias ? smoothTaps : taps)(from, to).entries()) {
    for (const [i, weight] of sample) out[k * from + i]! += weight
  }
  return float32([to, from], out)
}

/** Four neighbours of each sample, edges repeated; a = -0.75. */
function taps(from: number, to: number): Taps[] {
  return Array.from({ length: to }, (_, k) => {
    const at = (from / to) * (k + 0.5) - 0.5
    const base = Math.floor(at)
    return [-1, 0, 1, 2].map((i) => [Math.min(from - 1, Math.max(0, base + i)), cubic(Math.abs(at - base - i), -0.75)])
  })
}

/** All neighbours within two samples of the coarser grid, their weights made to sum to 1; a = -0.5, as Pillow's. */
function smoothTaps(from: number, to: number): Taps[] {
  const scale = from / to
  const stretch = Math.max(1, scale)
  return Array.from({ length: to }, (_, k) => {
    const centre = scale * (k + 0.5)
    const first = Math.max(0, Math.trunc(centre - 2 * stretch + 0.5))
    const end = Math.min(from, Math.trunc(centre + 2 * stretch + 0.5))
    const near = Array.from({ length: end - first }, (_, j) =>
      cubic(Math.abs(first + j - centre + 0.5) / stretch, -0.5),
    )
    const total = near.reduce((sum, w) => sum + w, 0)
    return near.map((w, j) => [first + j, w / total])
  })
}

/** Keys' cubic convolution kernel (doi:10.1109/TASSP.1981.1163711) at distance x. */
const cubic = (x: number, a: number): number =>
  x <= 1 ? ((a + 2) * x - (a + 3)) * x * x + 1 : x < 2 ? ((a * x - 5 * a) * x + 8 * a) * x - 4 * a : 0
