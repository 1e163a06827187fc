/** @file The oracle's position tables at another image size, as each library resamples them (torch's interpolate). */
import type { Numbers } from "./oracle-math.ts"

type Grid = readonly [number, number]

/** Rows of `d` values on the grid `from`, bicubic on the grid `to`. */
export function resampled(table: Numbers, d: number, from: Grid, to: Grid, antialias: boolean): Float64Array {
  const [down, across] = [axis(from[0], to[0], antialias), axis(from[1], to[1], antialias)]
  const out = new Float64Array(to[0] * to[1] * d)
  let at = 0
  for (const rows of down) {
    for (const columns of across) {
      for (const [row, weight] of rows) {
        for (const [column, factor] of columns) {
          const source = (row * from[1] + column) * d
          for (let i = 0; i < d; i++) out[at + i]! += weight * factor * table[source + i]!
        }
      }
      at += d
    }
  }
  return out
}

type Taps = readonly (readonly [index: number, weight: number])[]

/** Which of `n` samples each of `to` new ones takes, and how much of each. */
function axis(n: number, to: number, antialias: boolean): Taps[] {
  const step = n / to
  // The antialiasing kernel widens where there are fewer samples than before, and is cut off at the edges.
  const wide = antialias ? Math.max(step, 1) : 1
  return Array.from({ length: to }, (_, k) => {
    const center = step * (k + 0.5) - 0.5
    const first = antialias ? Math.max(Math.floor(center - 2 * wide + 1), 0) : Math.floor(center) - 1
    const last = antialias ? Math.min(Math.floor(center + 2 * wide), n - 1) : first + 3
    const taps = Array.from({ length: last - first + 1 }, (_, i) => {
      const weight = keys(Math.abs(first + i - center) / wide, antialias ? -0.5 : -0.75)
      return [Math.min(Math.max(first + i, 0), n - 1), weight] as const
    })
    const total = taps.reduce((sum, [, weight]) => sum + weight, 0)
    return taps.map(([index, weight]) => [index, weight / total] as const)
  })
}

/** The cubic convolution kernel at a distance x (Keys 1981, doi:10.1109/TASSP.1981.1163711). */
function keys(x: number, a: number): number {
  if (x < 1) return (a + 2) * x ** 3 - (a + 3) * x ** 2 + 1
  return x < 2 ? a * (x ** 3 - 5 * x ** 2 + 8 * x - 4) : 0
}
