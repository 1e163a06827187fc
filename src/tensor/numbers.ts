/** @file Tensors of any dtype as float32 or float64 numbers; 16-bit floats exactly, bit for bit
 * (https://en.wikipedia.org/wiki/Half-precision_floating-point_format, https://en.wikipedia.org/wiki/Bfloat16_floating-point_format). */
import type { Arrays, DType, Tensor } from "./tensor.ts"

/** float32 bits of every float16, so that NaN payloads and signs survive; made on first use, 256 KiB. */
let halves: Uint32Array | undefined

function float16Bits(h: number): number {
  const sign = (h & 0x8000) << 16
  const exponent = (h >> 10) & 0x1f
  const fraction = h & 0x3ff
  // Infinity and NaN keep their fraction.
  if (exponent === 31) return sign | 0x7f800000 | (fraction << 13)
  if (exponent > 0) return sign | ((exponent + 112) << 23) | (fraction << 13)
  if (fraction === 0) return sign
  // A subnormal, fraction * 2^-24, is a normal float32: shift its leading one into place.
  const shift = Math.clz32(fraction) - 21
  return sign | ((113 - shift) << 23) | (((fraction << shift) & 0x3ff) << 13)
}

function fromFloat16(data: Uint16Array): Float32Array {
  halves ??= Uint32Array.from({ length: 65536 }, (_, h) => float16Bits(h))
  const bits = new Uint32Array(data.length)
  for (let i = 0; i < data.length; i++) bits[i] = halves[data[i]!]!
  return new Float32Array(bits.buffer)
}

function fromBfloat16(data: Uint16Array): Float32Array {
  const bits = new Uint32Array(data.length)
  for (let i = 0; i < data.length; i++) bits[i] = data[i]! << 16
  return new Float32Array(bits.buffer)
}

const FLOAT32: { [D in DType]: (data: Arrays[D]) => Float32Array } = {
  float64: (data) => Float32Array.from(data),
  float32: (data) => data,
  float16: fromFloat16,
  bfloat16: fromBfloat16,
  int64: (data) => Float32Array.from(data, Number),
  int32: (data) => Float32Array.from(data),
  int16: (data) => Float32Array.from(data),
  int8: (data) => Float32Array.from(data),
  uint64: (data) => Float32Array.from(data, Number),
  uint32: (data) => Float32Array.from(data),
  uint16: (data) => Float32Array.from(data),
  uint8: (data) => Float32Array.from(data),
  bool: (data) => Float32Array.from(data, (x) => (x === 0 ? 0 : 1)),
}

const FLOAT64: { [D in DType]: (data: Arrays[D]) => Float64Array } = {
  float64: (data) => data,
  float32: (data) => Float64Array.from(data),
  float16: (data) => Float64Array.from(fromFloat16(data)),
  bfloat16: (data) => Float64Array.from(fromBfloat16(data)),
  int64: (data) => Float64Array.from(data, Number),
  int32: (data) => Float64Array.from(data),
  int16: (data) => Float64Array.from(data),
  int8: (data) => Float64Array.from(data),
  uint64: (data) => Float64Array.from(data, Number),
  uint32: (data) => Float64Array.from(data),
  uint16: (data) => Float64Array.from(data),
  uint8: (data) => Float64Array.from(data),
  bool: (data) => Float64Array.from(data, (x) => (x === 0 ? 0 : 1)),
}

/** The values as float32: exact for floats of at most 32 bits and integers of at most 24, else rounded to nearest (64-bit
 * integers by way of float64). A float32 tensor's own data is returned, not a copy. */
export const toFloat32 = <D extends DType>(t: Tensor<D>): Float32Array => FLOAT32[t.dtype](t.data)

/** The values as float64: exact for all but 64-bit integers beyond 2^53. A float64 tensor's own data is returned. */
export const toFloat64 = <D extends DType>(t: Tensor<D>): Float64Array => FLOAT64[t.dtype](t.data)
