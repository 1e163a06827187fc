/**
 * @file float64 arithmetic of the oracle by plain loops: erf, activations, matrix product, layer norm, softmax.
 *
 * erf: W. J. Cody, Rational Chebyshev approximations for the error function, Math. Comp. 23 (1969), with the
 * coefficients of https://netlib.org/specfun/erf.
 */
import type { Activation } from "../model/config.ts"

/** Stored weights are read as they are: a float32 is exact as float64. */
export type Numbers = Float64Array | Float32Array

/** Row-major. */
export interface Array64 {
  readonly shape: readonly number[]
  readonly data: Float64Array
}

type Fraction = { readonly over: readonly number[]; readonly under: readonly number[] }

// Highest power first, the nearest float64 to each. erf(x) = x R(x^2) up to 0.46875; exp(x^2) erfc(x) = R(x) up to 4.
const NEAR: Fraction = {
  over: [0.18577770618460315, 3.1611237438705655, 113.86415415105016, 377.485237685302, 3209.3775891384694],
  under: [1, 23.601290952344122, 244.02463793444417, 1282.6165260773723, 2844.236833439171],
}
const MIDDLE: Fraction = {
  over: [
    2.1531153547440383e-8, 0.5641884969886701, 8.883149794388377, 66.11919063714163, 298.6351381974001,
    881.952221241769, 1712.0476126340707, 2051.0783778260716, 1230.3393547979972,
  ],
  under: [
    1, 15.744926110709835, 117.6939508913125, 537.1811018620099, 1621.3895745666903, 3290.7992357334597,
    4362.619090143247, 3439.3676741437216, 1230.3393548037495,
  ],
}
// exp(x^2) erfc(x) = (1 / sqrt(pi) - z R(z)) / x with z = 1 / x^2, beyond 4.
const FAR: Fraction = {
  over: [
    0.016315387137302097, 0.30532663496123236, 0.36034489994980445, 0.12578172611122926, 0.016083785148742275,
    0.0006587491615298378,
  ],
  under: [1, 2.568520192289822, 1.8729528499234604, 0.5279051029514285, 0.06051834131244132, 0.0023352049762686918],
}

function ratio({ over, under }: Fraction, x: number): number {
  let [p, q] = [0, 0]
  for (const c of over) p = p * x + c
  for (const c of under) q = q * x + c
  return p / q
}

/** erfc(x) for x >= 0.46875. */
function tail(x: number): number {
  if (x > 27) return 0 // below the smallest float64
  const z = 1 / (x * x)
  const scaled = x <= 4 ? ratio(MIDDLE, x) : (1 / Math.sqrt(Math.PI) - z * ratio(FAR, z)) / x
  // exp(-x^2) loses x^2 ulp where x^2 is rounded; four bits behind the point are squared exactly, the rest is small.
  const short = Math.trunc(x * 16) / 16
  return Math.exp(-short * short) * Math.exp(-(x - short) * (x + short)) * scaled
}

const NEAREST = 0.46875

export function erf(x: number): number {
  const size = Math.abs(x)
  return size <= NEAREST ? x * ratio(NEAR, x * x) : Math.sign(x) * (1 - tail(size))
}

/** 1 - erf(x), without its cancellation for large x. */
export function erfc(x: number): number {
  if (Math.abs(x) <= NEAREST) return 1 - erf(x)
  return x > 0 ? tail(x) : 2 - tail(-x)
}

const sigmoid = (x: number): number => 1 / (1 + Math.exp(-x))

/** gelu: x times the normal distribution up to x (arXiv:1606.08415, where gelu_tanh and quick_gelu also stand). */
export const ACTIVATION: { readonly [A in Activation]: (x: number) => number } = {
  gelu: (x) => 0.5 * x * erfc(-x * Math.SQRT1_2),
  gelu_tanh: (x) => 0.5 * x * (1 + Math.tanh(Math.sqrt(2 / Math.PI) * (x + 0.044715 * x * x * x))),
  quick_gelu: (x) => x * sigmoid(1.702 * x),
  relu: (x) => Math.max(x, 0),
  leaky_relu: (x) => (x < 0 ? 0.01 * x : x),
  silu: (x) => x * sigmoid(x),
  tanh: Math.tanh,
  linear: (x) => x,
}

/**
 * a b^T: every row of `a` [m, k] times every row of `b` [n, k], as [m, n].
 *
 * Two rows by four at a time, so that sums stay in registers: 3 to 5 GFLOP/s where one by one gives 2.
 */
export function rowProducts(a: Float64Array, m: number, b: Numbers, n: number): Float64Array {
  const k = a.length / m
  const out = new Float64Array(m * n)
  const fours = n - (n % 4)
  for (let j = 0; j < fours; j += 4) {
    for (let i = 0; i < m; i += 2) blockProducts(a, i, Math.min(i + 1, m - 1), b, j, k, out, n)
  }
  for (let j = fours; j < n; j++) {
    for (let i = 0; i < m; i++) {
      let sum = 0
      for (let l = 0; l < k; l++) sum += a[i * k + l]! * b[j * k + l]!
      out[i * n + j] = sum
    }
  }
  return out
}

/** Rows i and i2 of `a` times rows j to j + 3 of `b`. */
function blockProducts(
  a: Float64Array,
  i: number,
  i2: number,
  b: Numbers,
  j: number,
  k: number,
  out: Float64Array,
  n: number,
): void {
  let [s0, s1, s2, s3, t0, t1, t2, t3] = [0, 0, 0, 0, 0, 0, 0, 0]
  const j0 = j * k
  const j1 = j0 + k
  const j2 = j1 + k
  const j3 = j2 + k
  for (let l = 0; l < k; l++) {
    const x = a[i * k + l]!
    const y = a[i2 * k + l]!
    const p = b[j0 + l]!
    const q = b[j1 + l]!
    const r = b[j2 + l]!
    const s = b[j3 + l]!
    s0 += x * p
    s1 += x * q
    s2 += x * r
    s3 += x * s
    t0 += y * p
    t1 += y * q
    t2 += y * r
    t3 += y * s
  }
  const at = i * n + j
  out[at] = s0
  out[at + 1] = s1
  out[at + 2] = s2
  out[at + 3] = s3
  const at2 = i2 * n + j
  out[at2] = t0
  out[at2 + 1] = t1
  out[at2 + 2] = t2
  out[at2 + 3] = t3
}

/** The transpose of a matrix of `m` rows. */
export function transposed(x: Float64Array, m: number): Float64Array {
  const n = x.length / m
  const out = new Float64Array(x.length)
  for (let i = 0; i < m; i++) for (let j = 0; j < n; j++) out[j * m + i] = x[i * n + j]!
  return out
}

/** (x - mean) / scale * gain + offset of every row as wide as `gain`, and each row's scale = sqrt(variance + eps). */
export function layerNorm(
  x: Float64Array,
  eps: number,
  gain: Numbers,
  offset: Numbers,
): { readonly scale: Float64Array; readonly normalized: Float64Array } {
  const d = gain.length
  const scale = new Float64Array(x.length / d)
  const normalized = new Float64Array(x.length)
  for (let row = 0, at = 0; row < scale.length; row++, at += d) {
    let sum = 0
    for (let i = 0; i < d; i++) sum += x[at + i]!
    const mean = sum / d
    let squares = 0
    for (let i = 0; i < d; i++) squares += (x[at + i]! - mean) ** 2
    const spread = Math.sqrt(squares / d + eps)
    scale[row] = spread
    for (let i = 0; i < d; i++) normalized[at + i] = ((x[at + i]! - mean) / spread) * gain[i]! + offset[i]!
  }
  return { scale, normalized }
}

/** exp(x) over its sum, of every row of `n`. */
export function softmax(x: Float64Array, n: number): Float64Array {
  const out = new Float64Array(x.length)
  for (let at = 0; at < x.length; at += n) {
    let largest = -Infinity
    for (let i = at; i < at + n; i++) largest = Math.max(largest, x[i]!)
    let sum = 0
    for (let i = at; i < at + n; i++) {
      out[i] = Math.exp(x[i]! - largest)
      sum += out[i]!
    }
    for (let i = at; i < at + n; i++) out[i]! /= sum
  }
  return out
}
