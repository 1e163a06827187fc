/** @file The oracle's arithmetic against tables, exact integers and a series in 256-bit fixed point. */
import { describe, expect, it } from "vitest"
import { ACTIVATION, erf, erfc, layerNorm, rowProducts, softmax, transposed } from "../src/export/oracle-math.ts"

// x, erf(x), erfc(x) by mpmath 1.3 with 40 digits, rounded to float64.
const TABLE = [
  [0, 0, 1],
  [1e-300, 1.1283791670955126e-300, 1],
  [1e-8, 1.1283791670955126e-8, 0.9999999887162083],
  [0.1, 0.1124629160182849, 0.887537083981715],
  [0.25, 0.27632639016823696, 0.7236736098317631],
  [0.46875, 0.49261347321793797, 0.507386526782062],
  [0.5, 0.5204998778130465, 0.4795001221869535],
  [0.75, 0.7111556336535151, 0.28884436634648486],
  [1, 0.8427007929497149, 0.15729920705028513],
  [1.5, 0.9661051464753108, 0.033894853524689274],
  [2, 0.9953222650189527, 0.004677734981047266],
  [3, 0.9999779095030014, 2.209049699858544e-5],
  [4, 0.9999999845827421, 1.541725790028002e-8],
  [5, 0.9999999999984626, 1.537459794428035e-12],
  [6, 1, 2.1519736712498913e-17],
  [10, 1, 2.088487583762545e-45],
  [26, 1, 5.663192408856143e-296],
  [30, 1, 0],
  [Infinity, 1, 0],
] as const

const BITS = 256n
const ONE = 1n << BITS
// 100 decimals; https://oeis.org/A000796
const PI = "31415926535897932384626433832795028841971693993751058209749445923078164062862089986280348253421170679"

/** The integer square root, by Newton's method from above. */
function root(n: bigint): bigint {
  let x = 1n << BigInt(Math.ceil(n.toString(2).length / 2))
  for (;;) {
    const next = (x + n / x) >> 1n
    if (next >= x) return x
    x = next
  }
}
const SQRT_PI = root(((BigInt(PI) << BITS) / 10n ** 100n) << BITS)

/** A float64 above 2^-100 in fixed point, exactly. */
function fixed(x: number): bigint {
  const exponent = Math.floor(Math.log2(x)) - 52
  return BigInt(x / 2 ** exponent) << (BITS + BigInt(exponent))
}

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

const difference = (got: number, wanted: bigint): number => Number(fixed(got) - wanted) / 2 ** Number(BITS)

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
  // mpmath 1.3 with 40 digits, rounded to float64.
  it.each([
    ["gelu", -3, -0.0040496940948902835],
    ["gelu", -0.5, -0.15426876936299344],
    ["gelu", 0.25, 0.14967658142073093],
    ["gelu", 2, 1.9544997361036416],
    ["gelu_tanh", -3, -0.0036373920817730186],
    ["gelu_tanh", -0.5, -0.15428599017485609],
    ["gelu_tanh", 0.25, 0.149675350701685],
    ["gelu_tanh", 2, 1.954597694087775],
    ["quick_gelu", -3, -0.018071309707785966],
    ["quick_gelu", -0.5, -0.1496115633936199],
    ["quick_gelu", 0.25, 0.1511996499001942],
    ["quick_gelu", 2, 1.9356586231442081],
    ["silu", -3, -0.14227761953270035],
    ["silu", -0.5, -0.18877033439907273],
    ["silu", 0.25, 0.14054412522144952],
    ["silu", 2, 1.7615941559557649],
    ["relu", -3, 0],
    ["relu", -0.5, 0],
    ["relu", 0.25, 0.25],
    ["relu", 2, 2],
    ["tanh", -3, -0.9950547536867305],
    ["tanh", -0.5, -0.46211715726000974],
    ["tanh", 0.25, 0.24491866240370913],
    ["tanh", 2, 0.9640275800758169],
  ] as const)("%s of %d", (name, x, y) => {
    expect(Math.abs(ACTIVATION[name](x) - y)).toBeLessThanOrEqual(3e-16 * Math.abs(x))
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
