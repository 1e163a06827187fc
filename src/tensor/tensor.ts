/** @file The dense tensor and its dtypes; `data` is a view and nobody writes to it. */
import { fail } from "../errors.ts"

/** Bytes per element and the name safetensors gives each dtype (https://github.com/huggingface/safetensors). */
export const DTYPES = {
  float64: { bytes: 8, safetensors: "F64" },
  float32: { bytes: 4, safetensors: "F32" },
  float16: { bytes: 2, safetensors: "F16" },
  bfloat16: { bytes: 2, safetensors: "BF16" },
  int64: { bytes: 8, safetensors: "I64" },
  int32: { bytes: 4, safetensors: "I32" },
  int16: { bytes: 2, safetensors: "I16" },
  int8: { bytes: 1, safetensors: "I8" },
  uint64: { bytes: 8, safetensors: "U64" },
  uint32: { bytes: 4, safetensors: "U32" },
  uint16: { bytes: 2, safetensors: "U16" },
  uint8: { bytes: 1, safetensors: "U8" },
  bool: { bytes: 1, safetensors: "BOOL" },
} as const

export type DType = keyof typeof DTYPES

/** The array that holds each dtype; 16-bit floats are kept as their bits. */
export interface Arrays {
  float64: Float64Array
  float32: Float32Array
  float16: Uint16Array
  bfloat16: Uint16Array
  int64: BigInt64Array
  int32: Int32Array
  int16: Int16Array
  int8: Int8Array
  uint64: BigUint64Array
  uint32: Uint32Array
  uint16: Uint16Array
  uint8: Uint8Array
  bool: Uint8Array
}

/** The typed array that is laid over bytes of each dtype. */
export const ARRAYS: { [D in DType]: new (buffer: ArrayBufferLike, offset?: number, length?: number) => Arrays[D] } = {
  float64: Float64Array,
  float32: Float32Array,
  float16: Uint16Array,
  bfloat16: Uint16Array,
  int64: BigInt64Array,
  int32: Int32Array,
  int16: Int16Array,
  int8: Int8Array,
  uint64: BigUint64Array,
  uint32: Uint32Array,
  uint16: Uint16Array,
  uint8: Uint8Array,
  bool: Uint8Array,
}

/** Dense, row-major. */
export interface Tensor<D extends DType = DType> {
  readonly dtype: D
  readonly shape: readonly number[]
  readonly data: Arrays[D]
}

/** A tensor that lies in a file: `length` bytes at `offset` of `file` (an absolute path), not read. */
export interface StoredTensor {
  readonly dtype: DType
  readonly shape: readonly number[]
  readonly file: string
  readonly offset: number
  readonly length: number
}

/** Number of elements; of a scalar (`[]`) it is 1. */
export const size = (shape: readonly number[]): number => shape.reduce((a, b) => a * b, 1)

export const byteLength = (t: { dtype: DType; shape: readonly number[] }): number =>
  size(t.shape) * DTYPES[t.dtype].bytes

export const show = (shape: readonly (number | string)[]): string => `[${shape.join(", ")}]`

/** A tensor over `data`, whose length must be the shape's. */
export function tensor<D extends DType>(dtype: D, shape: readonly number[], data: Arrays[D]): Tensor<D> {
  if (data.length !== size(shape)) {
    fail("E_INPUT", `tensor of shape ${show(shape)} needs ${size(shape)} values, got ${data.length}`)
  }
  return { dtype, shape, data }
}

export const float32 = (shape: readonly number[], data: ArrayLike<number>): Tensor<"float32"> =>
  tensor("float32", shape, data instanceof Float32Array ? data : Float32Array.from(data))

export const int64 = (shape: readonly number[], data: readonly number[]): Tensor<"int64"> =>
  tensor("int64", shape, BigInt64Array.from(data, BigInt))

/** The tensor's bytes, little-endian, as a view. */
export const bytesOf = (t: Tensor): Uint8Array => new Uint8Array(t.data.buffer, t.data.byteOffset, t.data.byteLength)

/** Is this a float32 tensor whose data fits its shape? Error: E_INPUT, beginning with `what`, says what it is instead. */
export function expectFloat32(t: unknown, what: string): Tensor<"float32"> {
  const { dtype, shape, data } = (typeof t === "object" && t !== null ? t : {}) as Partial<Tensor>
  const whole = Array.isArray(shape) && shape.every((d) => Number.isInteger(d) && d >= 0)
  if (!whole || dtype === undefined) fail("E_INPUT", `${what} must be a tensor { dtype, shape, data }, got ${typeof t}`)
  if (dtype !== "float32" || !(data instanceof Float32Array)) {
    fail("E_INPUT", `${what} must be float32 in a Float32Array, got ${dtype} in ${data?.constructor.name ?? "nothing"}`)
  }
  if (data.length !== size(shape)) {
    fail("E_INPUT", `${what} of shape ${show(shape)} needs ${size(shape)} values, got ${data.length}`)
  }
  return t as Tensor<"float32">
}

/** A tensor over `bytes` (little-endian): a view, or a copy where their place in memory does not suit the dtype. */
export function tensorOver(dtype: DType, shape: readonly number[], bytes: Uint8Array): Tensor {
  const width = DTYPES[dtype].bytes
  const aligned = bytes.byteOffset % width === 0 ? bytes : bytes.slice()
  return tensor(dtype, shape, new ARRAYS[dtype](aligned.buffer, aligned.byteOffset, aligned.byteLength / width))
}
