/** @file Every float16 and bfloat16 pattern against the formula of its format, and the other dtypes against plain numbers. */
import { describe, expect, it } from "vitest"
import { toFloat32, toFloat64 } from "../src/tensor/numbers.ts"
import { type DType, type Tensor, tensor } from "../src/tensor/tensor.ts"

const patterns = Uint16Array.from({ length: 65536 }, (_, i) => i)

/** (-1)^s 2^(e - bias) (1 + f), with e = 0 for subnormals and all ones for infinity and NaN. */
function value(bits: number, exponentBits: number): number {
  const fractionBits = 15 - exponentBits
  const e = (bits >> fractionBits) & (2 ** exponentBits - 1)
  const f = (bits & (2 ** fractionBits - 1)) / 2 ** fractionBits
  const bias = 2 ** (exponentBits - 1) - 1
  const size =
    e === 2 ** exponentBits - 1 ? (f === 0 ? Infinity : NaN) : e === 0 ? 2 ** (1 - bias) * f : 2 ** (e - bias) * (1 + f)
  return bits >= 0x8000 ? -size : size
}

describe.each([
  ["float16", 5],
  ["bfloat16", 8],
] as const)("%s", (dtype, exponentBits) => {
  const t = tensor(dtype, [65536], patterns)

  it("is exact for all 65,536 patterns, minus zero and NaN among them", () => {
    const [narrow, wide] = [toFloat32(t), toFloat64(t)]
    const wrong = patterns.filter((bits) => {
      const expected = value(bits, exponentBits)
      return !Object.is(narrow[bits], expected) || !Object.is(wide[bits], expected)
    })
    expect([...wrong]).toEqual([])
    expect(narrow.filter(Number.isNaN).length).toBe(2 * (2 ** (15 - exponentBits) - 1))
  })

  it("keeps the sign and the fraction of NaN", () => {
    const bits = new Uint32Array(toFloat32(t).buffer)
    const shift = 23 - (15 - exponentBits)
    for (const nan of [0x7fff, 0xffff, 0x7f81, 0xff81].filter((b) => Number.isNaN(value(b, exponentBits)))) {
      expect(bits[nan]! >>> 31).toBe(nan >> 15)
      expect((bits[nan]! & 0x7fffff) >> shift).toBe(nan & (2 ** (15 - exponentBits) - 1))
    }
  })
})

it.each<[DType, Tensor["data"], number[]]>([
  ["float64", Float64Array.of(0.1, -0, 1e300), [0.1, -0, 1e300]],
  ["float32", Float32Array.of(0.5, NaN), [0.5, NaN]],
  ["int64", BigInt64Array.of(-(2n ** 53n), 3n), [-(2 ** 53), 3]],
  ["uint64", BigUint64Array.of(2n ** 63n), [2 ** 63]],
  ["int32", Int32Array.of(-(2 ** 31)), [-(2 ** 31)]],
  ["uint32", Uint32Array.of(2 ** 32 - 1), [2 ** 32 - 1]],
  ["int16", Int16Array.of(-32768), [-32768]],
  ["uint16", Uint16Array.of(65535), [65535]],
  ["int8", Int8Array.of(-128), [-128]],
  ["uint8", Uint8Array.of(255), [255]],
  ["bool", Uint8Array.of(0, 1, 255), [0, 1, 1]],
])("%s", (dtype, data, expected) => {
  const t = tensor(dtype, [data.length], data)
  expect([...toFloat64(t)]).toEqual(expected)
  expect([...toFloat32(t)]).toEqual(expected.map(Math.fround))
})

it("gives a float32 tensor's own data, not a copy", () => {
  const data = Float32Array.of(1, 2)
  expect(toFloat32(tensor("float32", [2], data))).toBe(data)
})
