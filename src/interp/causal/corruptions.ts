/** @file Images made worse on purpose: pixel values [n, c, H, W] in, the same out. */
import { fail } from "../../errors.ts"
import { Random } from "../../tensor/random.ts"
import { float32, show, type Tensor } from "../../tensor/tensor.ts"

/** A rectangle of pixels. */
export interface Region {
  readonly top: number
  readonly left: number
  readonly height: number
  readonly width: number
}

/** A region of one set of images taken from another. Errors: E_INPUT for other sizes and a region outside. */
export function swapRegion(images: Tensor, others: Tensor, region: Region): Tensor<"float32"> {
  if (String(images.shape) !== String(others.shape)) {
    fail("E_INPUT", `images of one size can be swapped, got ${show(images.shape)} and ${show(others.shape)}`)
  }
  return inside(images, region, (_, i) => Number(others.data[i]))
}

/** Gaussian noise of this deviation, in units of the pixel values, added everywhere or in a region. */
export function addNoise(images: Tensor, deviation: number, seed = 0, region?: Region): Tensor<"float32"> {
  if (!(deviation >= 0 && deviation < Infinity)) {
    fail("E_INPUT", `the deviation of noise must be a number of at least 0, got ${deviation}`)
  }
  const random = new Random(seed, "noise")
  return inside(images, region, (x) => x + deviation * random.normal())
}

/** Each channel's mean over the image (or over the region) in its place. */
export function fillMean(images: Tensor, region?: Region): Tensor<"float32"> {
  const [, , H, W] = sizes(images)
  const sums = new Map<number, [number, number]>()
  inside(images, region, (x, i) => {
    const plane = Math.floor(i / (H * W))
    const [sum, n] = sums.get(plane) ?? [0, 0]
    sums.set(plane, [sum + x, n + 1])
    return x
  })
  return inside(images, region, (_, i) => {
    const [sum, n] = sums.get(Math.floor(i / (H * W)))!
    return sum / n
  })
}

/** Gaussian blur of this deviation in pixels, the border repeated, everywhere or in a region. */
export function blur(images: Tensor, deviation: number, region?: Region): Tensor<"float32"> {
  const [, , H, W] = sizes(images)
  const most = Math.max(H, W)
  if (!(deviation > 0 && deviation <= most)) {
    fail("E_INPUT", `the deviation of a blur must be above 0 and at most the image's ${most} pixels, got ${deviation}`)
  }
  const radius = Math.ceil(3 * deviation)
  const kernel = Array.from({ length: 2 * radius + 1 }, (_, i) => Math.exp(-((i - radius) ** 2) / (2 * deviation ** 2)))
  const total = kernel.reduce((a, b) => a + b)
  const along = (from: ArrayLike<number>, size: number, step: number): Float64Array =>
    Float64Array.from({ length: from.length }, (_, i) => {
      const at = Math.floor(i / step) % size
      const clamped = (k: number) => Math.min(size - 1, Math.max(0, at + k - radius)) - at
      return kernel.reduce((sum, w, k) => sum + w * from[i + clamped(k) * step]!, 0) / total
    })
  const blurred = along(along(images.data as Float32Array, W, 1), H, W)
  return inside(images, region, (_, i) => blurred[i]!)
}

function sizes({ shape }: Tensor): [number, number, number, number] {
  return shape.length === 4
    ? (shape as unknown as [number, number, number, number])
    : fail("E_INPUT", `images must be [n, c, H, W], got ${show(shape)}`)
}

function inside(
  images: Tensor,
  region: Region | undefined,
  change: (x: number, i: number) => number,
): Tensor<"float32"> {
  const [, , H, W] = sizes(images)
  const { top, left, height, width } = region ?? { top: 0, left: 0, height: H, width: W }
  const outside = top < 0 || left < 0 || height < 1 || width < 1 || top + height > H || left + width > W
  if (outside || ![top, left, height, width].every(Number.isInteger)) {
    fail("E_INPUT", `the region ${height}x${width} at row ${top}, column ${left} is outside the ${H}x${W} image`)
  }
  const out = Float32Array.from(images.data as Float32Array)
  for (let i = 0; i < out.length; i++) {
    const [y, x] = [Math.floor(i / W) % H, i % W]
    if (y >= top && y < top + height && x >= left && x < left + width) out[i] = change(out[i]!, i)
  }
  return float32(images.shape, out)
}
