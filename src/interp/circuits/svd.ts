/** @file Singular value decomposition of a small matrix by one-sided Jacobi rotations (Golub and Van Loan, 8.6.3). */
import { length, matrix, transposed, type Matrix } from "./matrix.ts"

/** The cosine of two columns that counts as 0. Each sweep doubles the digits that are right: ten are plenty. */
const RIGHT = 1e-15
const SWEEPS = 60

/** a = u diag(s) v^T with s falling; of a [n, m], u is [n, k], v [m, k], k = min(n, m), their columns orthonormal. */
export function jacobiSvd(a: Matrix): { readonly u: Matrix; readonly s: Float64Array; readonly v: Matrix } {
  if (a.rows < a.columns) {
    const { u, s, v } = jacobiSvd(transposed(a))
    return { u: v, s, v: u }
  }
  const { rows: n, columns: m } = a
  // Columns lie together, here and in `v`.
  const work = transposed(a).data
  const v = Float64Array.from({ length: m * m }, (_, i) => (i % (m + 1) ? 0 : 1))
  for (let sweep = 0, turned = true; turned && sweep < SWEEPS; sweep++) {
    turned = false
    for (let p = 0; p < m; p++) {
      for (let q = p + 1; q < m; q++) {
        const [x, y] = [work.subarray(p * n, (p + 1) * n), work.subarray(q * n, (q + 1) * n)]
        const [alpha, beta, gamma] = [dot(x, x), dot(y, y), dot(x, y)]
        if (Math.abs(gamma) <= RIGHT * Math.sqrt(alpha * beta) || gamma === 0) continue
        turned = true
        const zeta = (beta - alpha) / (2 * gamma)
        const t = (zeta < 0 ? -1 : 1) / (Math.abs(zeta) + Math.hypot(1, zeta))
        const c = 1 / Math.hypot(1, t)
        rotate(x, y, c, c * t)
        rotate(v.subarray(p * m, (p + 1) * m), v.subarray(q * m, (q + 1) * m), c, c * t)
      }
    }
  }
  const lengths = Float64Array.from({ length: m }, (_, j) => length(work.subarray(j * n, (j + 1) * n)))
  const order = [...lengths.keys()].sort((i, j) => lengths[j]! - lengths[i]!)
  const s = Float64Array.from(order, (j) => lengths[j]!)
  const u = new Float64Array(m * n)
  const sorted = new Float64Array(m * m)
  const noise = n * Number.EPSILON * (s[0] ?? 0)
  for (const [to, from] of order.entries()) {
    sorted.set(v.subarray(from * m, (from + 1) * m), to * m)
    const column = u.subarray(to * n, (to + 1) * n)
    // A column of no length has no direction: any that is at right angles to those before will do.
    if (s[to]! > noise) column.set(work.subarray(from * n, (from + 1) * n).map((x) => x / s[to]!))
    else complete(u, to, n)
  }
  return { u: transposed(matrix(m, n, u)), s, v: transposed(matrix(m, m, sorted)) }
}

function dot(x: Float64Array, y: Float64Array): number {
  let sum = 0
  for (let i = 0; i < x.length; i++) sum += x[i]! * y[i]!
  return sum
}

function rotate(x: Float64Array, y: Float64Array, c: number, s: number): void {
  for (let i = 0; i < x.length; i++) {
    const [a, b] = [x[i]!, y[i]!]
    x[i] = c * a - s * b
    y[i] = s * a + c * b
  }
}

/** Column `at` becomes the unit vector that is left most of by those before, orthogonal to them (twice is enough). */
function complete(columns: Float64Array, at: number, n: number): void {
  const before = Array.from({ length: at }, (_, j) => columns.subarray(j * n, (j + 1) * n))
  const left = Array.from({ length: n }, (_, i) => 1 - before.reduce((sum, column) => sum + column[i]! ** 2, 0))
  const unit = columns.subarray(at * n, (at + 1) * n)
  unit[left.indexOf(Math.max(...left))] = 1
  for (let pass = 0; pass < 2; pass++) {
    for (const column of before) {
      const along = dot(unit, column)
      for (let i = 0; i < n; i++) unit[i]! -= along * column[i]!
    }
  }
  const whole = length(unit)
  for (let i = 0; i < n; i++) unit[i]! /= whole
}
