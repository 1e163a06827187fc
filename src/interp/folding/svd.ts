/** @file The singular value decomposition of a product of two thin matrices, without making the product. */

/** Columns of equal length, float64. */
export type Columns = readonly Float64Array[]

/** left right^T = sum over k of values[k] u[k] v[k]^T, the values falling. */
export interface Decomposed {
  readonly u: Columns
  readonly v: Columns
  readonly values: readonly number[]
}

/** Of left [n, e] times right [m, e] transposed: QR of both, then the SVD of the [e, e] matrix between them. */
export function productSvd(left: Columns, right: Columns): Decomposed {
  const [a, b] = [qr(left), qr(right)]
  const e = left.length
  // Column j of R_a R_b^T
  const middle = b.r[0]!.map((_, j) =>
    Float64Array.from({ length: e }, (__, i) => sumOf(e, (k) => a.r[i]![k]! * b.r[j]![k]!)),
  )
  const { u, v, values } = jacobi(middle)
  return { u: u.map((c) => combined(a.q, c)), v: v.map((c) => combined(b.q, c)), values }
}

/** Modified Gram-Schmidt, each column twice ("twice is enough", Giraud et al. 2005). r[i][j] of row i, column j. */
function qr(columns: Columns): { q: Float64Array[]; r: number[][] } {
  const e = columns.length
  const r = Array.from({ length: e }, () => Array<number>(e).fill(0))
  const q: Float64Array[] = []
  for (const [j, column] of columns.entries()) {
    const x = Float64Array.from(column)
    for (let pass = 0; pass < 2; pass++) {
      for (let i = 0; i < j; i++) {
        const along = dot(q[i]!, x)
        r[i]![j]! += along
        for (let k = 0; k < x.length; k++) x[k]! -= along * q[i]![k]!
      }
    }
    // What is left of a column that depends on the others is rounding and has no direction.
    const length = Math.sqrt(dot(x, x))
    const real = length > 1e-13 * Math.sqrt(dot(column, column))
    r[j]![j] = real ? length : 0
    q.push(real ? x.map((v) => v / length) : new Float64Array(x.length))
  }
  return { q, r }
}

/** One-sided Jacobi (Hestenes 1958): the columns are turned until they are orthogonal. */
function jacobi(columns: readonly Float64Array[]): { u: Float64Array[]; v: Float64Array[]; values: number[] } {
  const e = columns.length
  const a = columns.map((c) => Float64Array.from(c))
  const v = a.map((_, i) => Float64Array.from({ length: e }, (__, j) => Number(i === j)))
  for (let sweep = 0, turned = true; turned && sweep < 60; sweep++) {
    turned = false
    for (let i = 0; i < e; i++) {
      for (let j = i + 1; j < e; j++) {
        const [p, q, cross] = [dot(a[i]!, a[i]!), dot(a[j]!, a[j]!), dot(a[i]!, a[j]!)]
        if (Math.abs(cross) <= 1e-15 * Math.sqrt(p * q) || cross === 0) continue
        turned = true
        const zeta = (q - p) / (2 * cross)
        const t = (zeta < 0 ? -1 : 1) / (Math.abs(zeta) + Math.sqrt(1 + zeta * zeta))
        const c = 1 / Math.sqrt(1 + t * t)
        turn(a[i]!, a[j]!, c, c * t)
        turn(v[i]!, v[j]!, c, c * t)
      }
    }
  }
  const lengths = a.map((x) => Math.sqrt(dot(x, x)))
  const order = lengths.map((_, i) => i).sort((i, j) => lengths[j]! - lengths[i]!)
  return {
    u: order.map((i) => a[i]!.map((x) => (lengths[i]! > 0 ? x / lengths[i]! : 0))),
    v: order.map((i) => v[i]!),
    values: order.map((i) => lengths[i]!),
  }
}

function turn(x: Float64Array, y: Float64Array, c: number, s: number): void {
  for (let k = 0; k < x.length; k++) {
    const [a, b] = [x[k]!, y[k]!]
    x[k] = c * a - s * b
    y[k] = s * a + c * b
  }
}

function dot(x: Float64Array, y: Float64Array): number {
  let sum = 0
  for (let i = 0; i < x.length; i++) sum += x[i]! * y[i]!
  return sum
}

/** The columns, each times its weight, added. */
function combined(columns: Columns, weights: Float64Array): Float64Array {
  const out = new Float64Array(columns[0]!.length)
  for (const [k, c] of columns.entries()) for (let i = 0; i < out.length; i++) out[i]! += weights[k]! * c[i]!
  return out
}

const sumOf = (n: number, f: (i: number) => number): number => {
  let sum = 0
  for (let i = 0; i < n; i++) sum += f(i)
  return sum
}
