/** @file The oracle's arithmetic against tables, exact integers and a series in 256-bit fixed point. */
import { describe, expect, it } from "vitest"
import { ACTIVATION, erf, erfc, layerNorm, rowProducts, softmax, transposed } from "../src/export/oracle-math.ts"

// mpmath 1.3 with 40 digits: x, erf(x), erfc(x).
const TABLE = [
  [0, 0, 1],
  [1e-300, 1.128379167095512602e-300, 1],
  [1e-8, 1.128379167095512559892e-8, 0.9999999887162083290448],
  [0.1, 0.1124629160182848984047, 0.8875370839817151015953],
  [0.25, 0.276326390168236932985, 0.723673609831763067015],
  [0.46875, 0.4926134732179379915882, 0.5073865267820620084118],
  [0.5, 0.5204998778130465376827, 0.4795001221869534623173],
  [0.75, 0.7111556336535151315989, 0.2888443663464848684011],
  [1, 0.842700792949714869341, 0.1572992070502851306588],
  [1.5, 0.966105146475310727067, 0.03389485352468927293302],
  [2, 0.9953222650189527341621, 0.004677734981047265837931],
  [3, 0.9999779095030014145586, 2.209049699858544137278e-5],
  [4, 0.999999984582742099719981, 1.541725790028001885216e-8],
  [5, 0.999999999998462540205572, 1.537459794428034850188e-12],
  [6, 0.9999999999999999784802633, 2.151973671249891311659e-17],
  [10, 1, 2.088487583762544757001e-45],
  [26, 1, 5.663192408856142846476e-296],
  [30, 1, 0],
  [Infinity, 1, 0],
] as unknown as readonly (readonly [number, number, number])[]

const BITS = 256n
const ONE = 1n << BITS
// 100 digits; https://oeis.org/A000796
const PI = "31415926535897932384626433832795028841971693993751058209749445923078164062862089986280348253421170679"

function root(n: bigint): bigint {
  let x = 1n << BigInt((n.toString(2).length / 2 + 1) | 0)
  for (;;) {
    const next = (x + n / x) >> 1n
    if (next >= x) return x
    x = next
  }
}
const SQRT_PI = root(((BigInt(PI) << BITS) / 10n ** 100n) << BITS)

/** A finite float64 below 2^64 and above 2^-200, exactly. */
const fixed = (x: number): bigint =>
  (BigInt(Math.round((x / 2 ** Math.floor(Math.log2(x))) * 2 ** 52)) << BITS) /
  (1n << BigInt(52 - Math.floor(Math.log2(x))))

/** erf(x) = 2 / sqrt(pi) * sum over n of (-1)^n x^(2n+1) / (n! (2n+1)) */
function series(x: number): bigint {
  const f = fixed(x)
  const square = (f * f) >> BITS
  let [power, total] = [f, f]
  for (let n = 1n; power !== 0n; n++) {
    power = ((power * square) / n) >> BITS
    total += (n % 2n ? -power : power) / (2n * n + 1n)
  }
  return (2n * total * ONE) / SQRT_PI
}

/** got minus a fixed point number, as a number. */
const difference = (got: number, wanted: bigint): number =>
  Number((got === 0 ? 0n : fixed(got)) - wanted) / 2 ** Number(BITS)

const random = (seed: number) => () => {
  // The minimal standard generator (Park and Miller 1988).
  seed = (seed * 48271) % 2147483647
  return seed / 2147483647
}

describe("erf and erfc", () => {
  it.each(TABLE)("of %d", (x, e, c) => {
    expect(Math.abs(erf(x) - e)).toBeLessThanOrEqual(2.3e-16 * e)
    expect(Math.abs(erfc(x) - c)).toBeLessThanOrEqual(9e-16 * c)
    expect(erf(-x)).toBe(-erf(x))
    expect(erfc(-x)).toBeCloseTo(2 - c, 15)
  })

  it("agree with the series within two units of the last place of 1", () => {
    const next = random(7)
    const xs = Array.from({ length: 2000 }, (_, i) => next() * (i % 2 ? 7 : 1) + 1e-9)
    const worst = { erf: 0, erfc: 0, relative: 0 }
    for (const x of [...xs, 0.46875, 4]) {
      const exact = series(x)
      worst.erf = Math.max(worst.erf, Math.abs(difference(erf(x), exact)))
      worst.erfc = Math.max(worst.erfc, Math.abs(difference(erfc(x), ONE - exact)))
      const small = Number(ONE - exact) / 2 ** Number(BITS)
      worst.relative = Math.max(worst.relative, Math.abs(difference(erfc(x), ONE - exact)) / small)
    }
    expect(worst.erf).toBeLessThan(2.3e-16)
    expect(worst.erfc).toBeLessThan(3e-16)
    expect(worst.relative).toBeLessThan(9e-16)
  })
})

describe("activations", () => {
  // mpmath 1.3 with 40 digits.
  it.each([
    ["gelu", -3, -0.0040496940948902836],
    ["gelu", -0.5, -0.15426876936299345],
    ["gelu", 0.25, 0.14967658142073093],
    ["gelu", 2, 1.9544997361036416],
    ["gelu_tanh", -3, -0.0036373920817730188],
    ["gelu_tanh", -0.5, -0.15428599017485608],
    ["gelu_tanh", 0.25, 0.149675350701685],
    ["gelu_tanh", 2, 1.954597694087775],
    ["quick_gelu", -3, -0.018071309707785967],
    ["quick_gelu", -0.5, -0.14961156339361988],
    ["quick_gelu", 0.25, 0.15119964990019418],
    ["quick_gelu", 2, 1.9356586231442081],
    ["silu", -3, -0.14227761953270034],
    ["silu", -0.5, -0.18877033439907272],
    ["silu", 0.25, 0.14054412522144953],
    ["silu", 2, 1.7615941559557649],
    ["relu", -3, 0.0],
    ["relu", -0.5, 0.0],
    ["relu", 0.25, 0.25],
    ["relu", 2, 2.0],
    ["tanh", -3, -0.99505475368673045],
    ["tanh", -0.5, -0.46211715726000976],
    ["tanh", 0.25, 0.24491866240370913],
    ["tanh", 2, 0.96402758007581688],
  ] as const)("%s of %d", (name, x, y) => {
    expect(Math.abs(ACTIVATION[name](x) - y)).toBeLessThanOrEqual(1e-15 * Math.abs(y))
  })
})

describe("rowProducts", () => {
  it("is exact on integers, whatever the sizes", () => {
    const next = random(3)
    const integers = (n: number) => Float64Array.from({ length: n }, () => Math.floor(next() * 2001) - 1000)
    for (let m = 1; m <= 5; m++) {
      for (let n = 1; n <= 9; n++) {
        const k = 1 + ((m * n) % 6)
        const [a, b] = [integers(m * k), integers(n * k)]
        const wanted = Array.from({ length: m * n }, (_, at) => {
          const [i, j] = [Math.floor(at / n), at % n]
          return a.slice(i * k, (i + 1) * k).reduce((sum, x, l) => sum + x * b[j * k + l]!, 0)
        })
        expect(Array.from(rowProducts(a, m, b, n))).toEqual(wanted)
        expect(Array.from(rowProducts(a, m, Float32Array.from(b), n))).toEqual(wanted)
      }
    }
  })
})

it("transposed puts rows in columns", () => {
  expect(Array.from(transposed(Float64Array.of(1, 2, 3, 4, 5, 6), 2))).toEqual([1, 4, 2, 5, 3, 6])
})

describe("softmax", () => {
  it("gives rows that sum to 1 and keep ratios of e to the differences", () => {
    const x = Float64Array.of(0, Math.log(3), -1, 1, 700, 700, -3e38, 700)
    const p = softmax(x, 4)
    for (const row of [p.subarray(0, 4), p.subarray(4)]) expect(row.reduce((a, b) => a + b)).toBeCloseTo(1, 15)
    expect(p[1]! / p[0]!).toBeCloseTo(3, 14)
    expect(p[3]! / p[2]!).toBeCloseTo(Math.E ** 2, 13)
    expect(Array.from(p.subarray(4))).toEqual([1 / 3, 1 / 3, 0, 1 / 3])
  })
})

describe("layerNorm", () => {
  it("divides by the root of the biased variance plus eps, then applies gain and offset", () => {
    // Mean 3, variance (4 + 1 + 1 + 4) / 4 = 2.5; with eps 0.06 the scale is 1.6.
    const x = Float64Array.of(1, 2, 4, 5, 10, 10, 10, 10)
    const { scale, normalized } = layerNorm(x, 0.06, Float32Array.of(1, 2, 1, -1), Float64Array.of(0, 0, 8, 0.5))
    expect(scale[0]).toBeCloseTo(1.6, 15)
    expect(scale[1]).toBeCloseTo(Math.sqrt(0.06), 15)
    const wanted = [-1.25, -1.25, 8.625, -0.75, 0, 0, 8, 0.5]
    for (const [i, y] of normalized.entries()) expect(y).toBeCloseTo(wanted[i]!, 15)
  })
})
