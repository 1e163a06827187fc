/** @file Small dense matrices in float64: product and thin QR. */

/** Row-major. */
export interface Matrix {
  readonly rows: number
  readonly columns: number
  readonly data: Float64Array
}

export const matrix = (
  rows: number,
  columns: number,
  data: Float64Array = new Float64Array(rows * columns),
): Matrix => ({
  rows,
  columns,
  data,
})

export function transposed({ rows, columns, data }: Matrix): Matrix {
  const out = new Float64Array(data.length)
  for (let i = 0; i < rows; i++) for (let j = 0; j < columns; j++) out[j * rows + i] = data[i * columns + j]!
  return matrix(columns, rows, out)
}

export function multiply(a: Matrix, b: Matrix): Matrix {
  const n = b.columns
  const out = matrix(a.rows, n)
  for (let i = 0; i < a.rows; i++) {
    const row = out.data.subarray(i * n, (i + 1) * n)
    for (let k = 0; k < a.columns; k++) {
      const x = a.data[i * a.columns + k]!
      if (!x) continue
      for (let j = 0, from = k * n; j < n; j++, from++) row[j]! += x * b.data[from]!
    }
  }
  return out
}

/** The root of the sum of squares. */
export function length(x: ArrayLike<number>): number {
  let sum = 0
  for (let i = 0; i < x.length; i++) sum += x[i]! * x[i]!
  return Math.sqrt(sum)
}

/**
 * Thin QR by Householder's reflections (Golub and Van Loan, "Matrix Computations", 5.2): q [n, k] with orthonormal
 * columns, also where `a` has not full rank, and r [k, m] upper triangular, k = min(n, m).
 */
export function qr(a: Matrix): { readonly q: Matrix; readonly r: Matrix } {
  const { rows: n } = a
  const { r, reflections } = reflected(a)
  const columns = new Float64Array(reflections.length * n)
  for (let c = 0; c < reflections.length; c++) {
    columns[c * n + c] = 1
    for (let j = reflections.length - 1; j >= 0; j--) reflect(columns, c * n, j, reflections[j]!)
  }
  return { q: transposed(matrix(reflections.length, n, columns)), r }
}

/** The r of `qr` alone, at half the cost: r^T r is a^T a. */
export const triangle = (a: Matrix): Matrix => reflected(a).r

function reflected(a: Matrix): { readonly r: Matrix; readonly reflections: readonly Float64Array[] } {
  const { rows: n, columns: m } = a
  const k = Math.min(n, m)
  // Columns lie together: each reflection goes over columns.
  const work = transposed(a).data
  const reflections: Float64Array[] = []
  for (let j = 0; j < k; j++) {
    const v = work.slice(j * n + j, (j + 1) * n)
    v[0]! += v[0]! < 0 ? -length(v) : length(v)
    const whole = length(v)
    reflections.push(whole ? v.map((x) => (x * Math.SQRT2) / whole) : v)
    for (let c = j; c < m; c++) reflect(work, c * n, j, reflections[j]!)
  }
  const r = matrix(k, m)
  for (let i = 0; i < k; i++) for (let j = i; j < m; j++) r.data[i * m + j] = work[j * n + i]!
  return { r, reflections }
}

/** x - v (v . x) for a column whose numbers from `from` on the reflection changes; |v|^2 is 2. */
function reflect(columns: Float64Array, at: number, from: number, v: Float64Array): void {
  let dot = 0
  for (let i = 0, c = at + from; i < v.length; i++, c++) dot += v[i]! * columns[c]!
  for (let i = 0, c = at + from; i < v.length; i++, c++) columns[c]! -= dot * v[i]!
}
