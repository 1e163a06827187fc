/** @file Eigenvalues of a small real matrix: Hessenberg form, then shifted QR in complex numbers (Golub and Van Loan, 7.5). */
import { fail } from "../../errors.ts"
import type { Matrix } from "./matrix.ts"

/** Real and imaginary parts, by falling absolute value. */
export interface Eigenvalues {
  readonly re: Float64Array
  readonly im: Float64Array
}

/** Steps for one eigenvalue; three are usual. */
const STEPS = 100

/** Of a square matrix. Error: E_INPUT if the iteration does not end, as with numbers near the limits of float64. */
export function eigenvalues(a: Matrix): Eigenvalues {
  const n = a.rows
  const re = hessenberg(a)
  const im = new Float64Array(n * n)
  const h = (i: number, j: number) => i * n + j
  for (let end = n - 1, steps = 0; end > 0;) {
    let start = end
    for (; start > 0; start--) {
      const [d, e] = [h(start, start), h(start - 1, start - 1)]
      const beside = Math.hypot(re[d]!, im[d]!) + Math.hypot(re[e]!, im[e]!)
      const below = h(start, start - 1)
      if (Math.hypot(re[below]!, im[below]!) <= Number.EPSILON * beside) break
    }
    if (start > 0) re[h(start, start - 1)] = im[h(start, start - 1)] = 0
    if (start === end) {
      end--
      steps = 0
      continue
    }
    if (++steps > STEPS) fail("E_INPUT", `the eigenvalues of a ${n} x ${n} matrix were not found in ${STEPS} steps`)
    qrStep(re, im, n, start, end, steps % 10 === 0)
  }
  const size = (i: number) => Math.hypot(re[h(i, i)]!, im[h(i, i)]!)
  // Of a pair, the one above the real axis first.
  const order = [...Array(n).keys()].sort((i, j) => size(j) - size(i) || im[h(j, j)]! - im[h(i, i)]!)
  return { re: Float64Array.from(order, (i) => re[h(i, i)]!), im: Float64Array.from(order, (i) => im[h(i, i)]!) }
}

/** Zeros below the first subdiagonal, by elimination with the largest pivot; the eigenvalues stay. */
function hessenberg({ rows: n, data }: Matrix): Float64Array {
  const a = Float64Array.from(data)
  for (let m = 1; m < n - 1; m++) {
    let pivot = m
    for (let i = m + 1; i < n; i++) if (Math.abs(a[i * n + m - 1]!) > Math.abs(a[pivot * n + m - 1]!)) pivot = i
    if (a[pivot * n + m - 1] === 0) continue
    for (let j = 0; j < n; j++) swap(a, pivot * n + j, m * n + j)
    for (let i = 0; i < n; i++) swap(a, i * n + pivot, i * n + m)
    for (let i = m + 1; i < n; i++) {
      const factor = a[i * n + m - 1]! / a[m * n + m - 1]!
      if (!factor) continue
      for (let j = m - 1; j < n; j++) a[i * n + j]! -= factor * a[m * n + j]!
      for (let k = 0; k < n; k++) a[k * n + m]! += factor * a[k * n + i]!
      a[i * n + m - 1] = 0
    }
  }
  return a
}

function swap(a: Float64Array, i: number, j: number): void {
  ;[a[i], a[j]] = [a[j]!, a[i]!]
}

type Complex = readonly [re: number, im: number]
const times = ([a, b]: Complex, [c, d]: Complex): Complex => [a * c - b * d, a * d + b * c]
const minus = ([a, b]: Complex, [c, d]: Complex): Complex => [a - c, b - d]
const conjugate = ([a, b]: Complex): Complex => [a, -b]
const root = ([a, b]: Complex): Complex => {
  const r = Math.hypot(a, b)
  return [Math.sqrt((r + a) / 2), (b < 0 ? -1 : 1) * Math.sqrt(Math.max(0, (r - a) / 2))]
}

/** One step of QR with Wilkinson's shift on the block from `start` to `end`; `odd`: another shift, to break a cycle. */
function qrStep(re: Float64Array, im: Float64Array, n: number, start: number, end: number, odd: boolean): void {
  const at = (i: number, j: number): Complex => [re[i * n + j]!, im[i * n + j]!]
  const put = (i: number, j: number, [x, y]: Complex) => {
    re[i * n + j] = x
    im[i * n + j] = y
  }
  const shift: Complex = odd ? [Math.hypot(...at(end, end - 1)), 0] : wilkinson(at, end)
  for (let i = start; i <= end; i++) put(i, i, minus(at(i, i), shift))
  const rotations: (readonly [c: number, s: Complex])[] = []
  for (let k = start; k < end; k++) {
    const [x, y] = [at(k, k), at(k + 1, k)]
    const r = Math.hypot(...x, ...y)
    // [c, s; -s*, c] with real c turns (x, y) into (phase r, 0).
    const size = Math.hypot(...x)
    const phase: Complex = size ? [x[0] / size, x[1] / size] : [1, 0]
    const c = r ? size / r : 1
    const s: Complex = r ? (times(phase, conjugate(y)).map((v) => v / r) as unknown as Complex) : [0, 0]
    rotations.push([c, s])
    for (let j = k; j <= end; j++) {
      const [p, q] = [at(k, j), at(k + 1, j)]
      const [sq, sp] = [times(s, q), times(conjugate(s), p)]
      put(k, j, [c * p[0] + sq[0], c * p[1] + sq[1]])
      put(k + 1, j, [c * q[0] - sp[0], c * q[1] - sp[1]])
    }
  }
  for (const [i, [c, s]] of rotations.entries()) {
    const k = start + i
    for (let row = start; row <= Math.min(k + 1, end); row++) {
      const [p, q] = [at(row, k), at(row, k + 1)]
      const [sp, sq] = [times(s, p), times(conjugate(s), q)]
      put(row, k, [c * p[0] + sq[0], c * p[1] + sq[1]])
      put(row, k + 1, [c * q[0] - sp[0], c * q[1] - sp[1]])
    }
  }
  for (let i = start; i <= end; i++) put(i, i, minus(at(i, i), [-shift[0], -shift[1]]))
}

/** The eigenvalue of the last 2 x 2 block that is nearer to its last element. */
function wilkinson(at: (i: number, j: number) => Complex, end: number): Complex {
  const [a, b, c, d] = [at(end - 1, end - 1), at(end - 1, end), at(end, end - 1), at(end, end)]
  const half: Complex = [(a[0] - d[0]) / 2, (a[1] - d[1]) / 2]
  const product = times(b, c)
  const square = times(half, half)
  const spread = root([square[0] + product[0], square[1] + product[1]])
  const sign = half[0] * spread[0] + half[1] * spread[1] < 0 ? -1 : 1
  const below: Complex = [half[0] + sign * spread[0], half[1] + sign * spread[1]]
  const length = below[0] ** 2 + below[1] ** 2
  if (!length) return d
  const quotient = times(product, conjugate(below))
  return [d[0] - quotient[0] / length, d[1] - quotient[1] / length]
}
