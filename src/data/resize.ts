/** @file Pillow's resize of 8-bit pixels, exact to the bit (https://github.com/python-pillow/Pillow/blob/12.3.0/src/libImaging/Resample.c). */
import { fail } from "../errors.ts"

/** 8-bit pixels, row-major, channels interleaved: `data[(y * width + x) * channels + c]`. */
export interface Pixels {
  readonly width: number
  readonly height: number
  readonly channels: number
  readonly data: Uint8Array
}

/** A rectangle of pixels. */
export interface Window {
  readonly left: number
  readonly top: number
  readonly width: number
  readonly height: number
}

interface Kernel {
  /** Half its width, in source pixels when enlarging. */
  readonly support: number
  readonly weight: (x: number) => number
}

const sinc = (x: number): number => (x === 0 ? 1 : Math.sin(x * Math.PI) / (x * Math.PI))

// 0.54 and 0.46 are single-precision constants in Pillow's source.
const HAMMING = [Math.fround(0.54), Math.fround(0.46)] as const

const KERNELS = {
  box: { support: 0.5, weight: (x) => (x > -0.5 && x <= 0.5 ? 1 : 0) },
  bilinear: { support: 1, weight: (x) => Math.max(0, 1 - Math.abs(x)) },
  hamming: {
    support: 1,
    weight: (x) => (Math.abs(x) >= 1 ? 0 : sinc(Math.abs(x)) * (HAMMING[0] + HAMMING[1] * Math.cos(x * Math.PI))),
  },
  bicubic: { support: 2, weight: (x) => cubic(Math.abs(x)) },
  lanczos: { support: 3, weight: (x) => (x >= -3 && x < 3 ? sinc(x) * sinc(x / 3) : 0) },
} as const satisfies Record<string, Kernel>

/** Keys' cubic convolution with a = -0.5, in the order of operations of the source. */
function cubic(x: number): number {
  const a = -0.5
  if (x < 1) return ((a + 2) * x - (a + 3)) * x * x + 1
  return x < 2 ? (((x - 5) * x + 8) * x - 4) * a : 0
}

export type Filter = "nearest" | keyof typeof KERNELS

/** The filters by name, for checking what a config says. */
export const FILTERS: readonly Filter[] = ["nearest", "box", "bilinear", "hamming", "bicubic", "lanczos"]

/** Bits after the point of a weight: 32 less 8 for the result and 2 for overshoot and sign. */
const PRECISION = 32 - 8 - 2
const HALF = 1 << (PRECISION - 1)

/** For each of `count` outputs: its first input, how many follow, and their weights at `i * stride`. */
interface Taps<W extends Float64Array | Int32Array> {
  readonly count: number
  readonly stride: number
  readonly start: Int32Array
  readonly length: Int32Array
  readonly weights: W
}

/** Weights of outputs `first` to `first + count` of `outSize` (precompute_coeffs). */
function taps(inSize: number, outSize: number, first: number, count: number, kernel: Kernel): Taps<Float64Array> {
  const scale = inSize / outSize
  const filterScale = Math.max(1, scale) // shrinking widens the kernel: this is the antialiasing
  const support = kernel.support * filterScale
  const stride = Math.min(inSize, Math.ceil(support) * 2 + 1)
  const start = new Int32Array(count)
  const length = new Int32Array(count)
  const weights = new Float64Array(count * stride)
  for (let i = 0; i < count; i++) {
    const center = (first + i + 0.5) * scale
    const from = Math.max(0, Math.trunc(center - support + 0.5))
    const n = Math.min(inSize, Math.trunc(center + support + 0.5)) - from
    let sum = 0
    for (let j = 0; j < n; j++) {
      const w = kernel.weight((j + from - center + 0.5) * (1 / filterScale))
      weights[i * stride + j] = w
      sum += w
    }
    if (sum !== 0) for (let j = 0; j < n; j++) weights[i * stride + j]! /= sum
    start[i] = from
    length[i] = n
  }
  return { count, stride, start, length, weights }
}

/** In fixed point (normalize_coeffs_8bpc). */
function fixed({ weights, ...rest }: Taps<Float64Array>): Taps<Int32Array> {
  const round = (w: number) => Math.trunc(w < 0 ? w - 0.5 : w + 0.5)
  return { ...rest, weights: Int32Array.from(weights, (w) => round(w * (1 << PRECISION))) }
}

const row = (p: Pixels): number => p.width * p.channels

/** Each output row of `src`'s rows `top` to `top + height`. */
function horizontal(src: Pixels, t: Taps<Int32Array>, top: number, height: number): Pixels {
  const { data, channels } = src
  const { start, length, weights, stride, count } = t
  const out = new Uint8ClampedArray(count * height * channels)
  let o = 0
  for (let y = top; y < top + height; y++) {
    for (let x = 0; x < count; x++) {
      const from = y * row(src) + start[x]! * channels
      const k = x * stride
      const n = length[x]!
      for (let c = 0; c < channels; c++) {
        let sum = HALF
        for (let j = 0, p = from + c; j < n; j++, p += channels) sum = (sum + Math.imul(data[p]!, weights[k + j]!)) | 0
        out[o++] = sum >> PRECISION // the array clips to 0..255
      }
    }
  }
  return { width: count, height, channels, data: new Uint8Array(out.buffer) }
}

/** Each output column of `src`, whose first row is row `top` of what `t` counts in. */
function vertical(src: Pixels, t: Taps<Int32Array>, top: number): Pixels {
  const { data, channels, width } = src
  const size = row(src)
  const out = new Uint8ClampedArray(size * t.count)
  const sums = new Int32Array(size)
  for (let y = 0; y < t.count; y++) {
    sums.fill(HALF)
    for (let j = 0; j < t.length[y]!; j++) {
      const w = t.weights[y * t.stride + j]!
      const p = (t.start[y]! - top + j) * size
      for (let i = 0; i < size; i++) sums[i] = sums[i]! + Math.imul(data[p + i]!, w)
    }
    for (let i = 0; i < size; i++) out[y * size + i] = sums[i]! >> PRECISION
  }
  return { width, height: t.count, channels, data: new Uint8Array(out.buffer) }
}

/** Source index of outputs `first` to `first + count`; Pillow adds the step up, so its rounding errors are kept. */
function nearestIndex(inSize: number, outSize: number, first: number, count: number): Int32Array {
  const step = inSize / outSize
  const index = new Int32Array(count)
  let at = step * 0.5
  for (let i = 0; i < first + count; i++, at += step) if (i >= first) index[i - first] = Math.trunc(at)
  return index
}

function nearest(src: Pixels, xs: Int32Array, ys: Int32Array): Pixels {
  const { data, channels } = src
  const out = new Uint8Array(xs.length * ys.length * channels)
  let o = 0
  for (const y of ys) {
    for (const x of xs) {
      const p = y * row(src) + x * channels
      for (let c = 0; c < channels; c++) out[o++] = data[p + c]!
    }
  }
  return { width: xs.length, height: ys.length, channels, data: out }
}

/**
 * `src` resized to `width` x `height`, the same bytes as `PIL.Image.resize((width, height), filter)` for any channel
 * count (channels are independent: alpha is not premultiplied). With `window`, only that part of the result is
 * computed; the part is the same as if the whole had been.
 * A pass along an edge whose size does not change is the identity for every filter, as Pillow's skipping of it is.
 * Errors: E_INPUT for sizes that are not positive integers, a window outside the result, or data of another length.
 */
export function resize(
  src: Pixels,
  width: number,
  height: number,
  filter: Filter,
  window: Window = { left: 0, top: 0, width, height },
): Pixels {
  checkPixels(src)
  const { left, top } = window
  for (const [name, n, least] of [
    ["width", width, 1],
    ["height", height, 1],
    ["window width", window.width, 1],
    ["window height", window.height, 1],
    ["window left", left, 0],
    ["window top", top, 0],
  ] as const) {
    if (!Number.isSafeInteger(n) || n < least)
      fail("E_INPUT", `resize: ${name} must be an integer >= ${least}, got ${n}`)
  }
  if (left + window.width > width || top + window.height > height) {
    fail("E_INPUT", `resize: window ${JSON.stringify(window)} leaves the ${width} x ${height} result`)
  }
  const whole = window.width === width && window.height === height
  if (whole && width === src.width && height === src.height) return src
  if (filter === "nearest") {
    const xs = nearestIndex(src.width, width, left, window.width)
    return nearest(src, xs, nearestIndex(src.height, height, top, window.height))
  }
  const across = fixed(taps(src.width, width, left, window.width, KERNELS[filter]))
  const down = fixed(taps(src.height, height, top, window.height, KERNELS[filter]))
  // Image.resize works on the columns first where an image is more than 100 times as high as wide and loses height.
  if (src.height > src.width * 100 && height < src.height) {
    const narrow = vertical(src, down, 0)
    return horizontal(narrow, across, 0, narrow.height)
  }
  const first = down.start[0]!
  const last = down.start[down.count - 1]! + down.length[down.count - 1]!
  return vertical(horizontal(src, across, first, last - first), down, first)
}

/**
 * `src` [height, width, channels] of real numbers resized to `height` x `width`, rounded to float32 after each of the two
 * passes and nowhere else: torch.nn.functional.interpolate(antialias=True) of a float tensor, but for the last bits.
 */
export function resizeReal(
  { data, ...from }: Omit<Pixels, "data"> & { readonly data: Float32Array },
  width: number,
  height: number,
  filter: Filter,
): Float32Array {
  const { channels } = from
  if (width === from.width && height === from.height) return data
  const kernel = filter === "nearest" ? undefined : KERNELS[filter]
  const along = (inSize: number, outSize: number): Taps<Float64Array> => {
    if (kernel) return taps(inSize, outSize, 0, outSize, kernel)
    const start = Int32Array.from({ length: outSize }, (_, i) => Math.floor((i * inSize) / outSize))
    return { count: outSize, stride: 1, start, length: start.map(() => 1), weights: new Float64Array(outSize).fill(1) }
  }
  const across = pass(data, along(from.width, width), from.height, channels)
  return pass(across, along(from.height, height), 1, width * channels)
}

/** Along the middle axis of [outer, in, inner]: [outer, out, inner]. */
function pass(
  data: Float32Array,
  { count, stride, start, length, weights }: Taps<Float64Array>,
  outer: number,
  inner: number,
): Float32Array {
  const size = data.length / outer // of one row of the outer axis
  const out = new Float32Array(outer * count * inner)
  for (let o = 0, at = 0; o < outer; o++)
    for (let x = 0; x < count; x++)
      for (let i = 0; i < inner; i++) {
        let sum = 0
        for (let j = 0, p = o * size + start[x]! * inner + i; j < length[x]!; j++, p += inner)
          sum += data[p]! * weights[x * stride + j]!
        out[at++] = sum
      }
  return out
}

/** Fails with E_INPUT unless the sizes are positive integers and the data has their length. */
export function checkPixels({ width, height, channels, data }: Pixels): void {
  const sizes = [width, height, channels]
  if (!sizes.every((n) => Number.isSafeInteger(n) && n > 0) || data.length !== width * height * channels) {
    fail("E_INPUT", `image of ${width} x ${height} pixels with ${channels} channels: got ${data.length} bytes`)
  }
}
