/** @file What a preprocessing does to pixels: convert, resize, crop, normalise, to the bit as Pillow, numpy and torch. */
import { fail } from "../errors.ts"
import { float32, type Tensor } from "../tensor/tensor.ts"
import type { Image } from "./image.ts"
import { type Crop, type Preprocessing, type ResizeRule, roundHalfEven } from "./preprocessing.ts"
import { checkPixels, type Pixels, resize, resizeReal } from "./resize.ts"

export type { Crop, Preprocessing, ResizeRule }
export { fromHf, fromOpenClip, fromTimm } from "./preprocessing.ts"

/** Largest result of one image, in pixels: a 1 x 10,000 image whose shorter edge becomes 224 must not fill the memory. */
const MAX_RESULT = 4096 * 4096

/** Where the crop begins along one edge, given (size - crop) / 2; negative: that many pixels of padding come before. */
const OFFSET: { readonly [R in Crop["rounding"]]: (half: number) => number } = {
  // transformers' slow (numpy) processors; its fast ones put the smaller half of the padding first, as torchvision.
  floor: (half) => Math.floor(half),
  // torchvision's CenterCrop, and CenterCropOrPad of timm and open_clip.
  "half-even": (half) => (half < 0 ? Math.trunc(half) : roundHalfEven(half)),
}

interface Size {
  readonly height: number
  readonly width: number
}

/** transformers' get_size_with_aspect_ratio; without `longest` also its get_resize_output_image_size and torchvision's
 * Resize: the longer edge is int(edge * long / short). */
function shortestEdge({ height, width }: Size, edge: number, longest = Infinity): Size {
  const [short, long] = height <= width ? [height, width] : [width, height]
  const limited = (long / short) * edge > longest
  const real = limited ? (longest * short) / long : edge
  const rounded = limited ? roundHalfEven(real) : edge
  if (rounded === short) return { height, width }
  const other = Math.trunc((real * long) / short)
  return height <= width ? { height: rounded, width: other } : { height: other, width: rounded }
}

/** ResizeKeepRatio of timm and open_clip: both edges divided by the smaller (cover) or larger ratio, halves to even. */
function keepRatio({ height, width }: Size, to: "cover" | "contain", target: Size): Size {
  const ratios = [height / target.height, width / target.width]
  const ratio = to === "cover" ? Math.min(...ratios) : Math.max(...ratios)
  return { height: roundHalfEven(height / ratio), width: roundHalfEven(width / ratio) }
}

function resizedSize(image: Size, rule: ResizeRule | null): Size {
  if (rule === null) return image
  if (rule.to === "exact") return rule
  const { height, width } =
    rule.to === "shortest" ? shortestEdge(image, rule.edge, rule.longest) : keepRatio(image, rule.to, rule)
  // The libraries fail where a very long image would lose its shorter edge; here one row or column stays.
  return { height: Math.max(1, height), width: Math.max(1, width) }
}

/** Height and width of what an image of this size becomes, in pixels. Errors: E_IMAGE_TOO_LARGE beyond 4096 x 4096. */
export function outputSize(image: Size, p: Preprocessing): Size {
  const { height, width } = p.crop ?? resizedSize(image, p.resize)
  if (height * width > MAX_RESULT) {
    const sizes = `${image.width} x ${image.height} pixels becomes ${width} x ${height}`
    fail("E_IMAGE_TOO_LARGE", `image of ${sizes}, the limit is ${MAX_RESULT} pixels; crop the image or its result`)
  }
  return { height, width }
}

/** To one channel as Pillow's `convert("L")`, to three by repeating the one. */
function toChannels(image: Image, channels: 1 | 3): Pixels {
  const { width, height, data } = image
  if (image.channels === channels) return image
  const n = width * height
  const out = new Uint8Array(n * channels)
  for (let i = 0; i < n; i++) {
    if (channels === 3) out.fill(data[i]!, i * 3, i * 3 + 3)
    else out[i] = (data[i * 3]! * 19595 + data[i * 3 + 1]! * 38470 + data[i * 3 + 2]! * 7471 + 0x8000) >> 16
  }
  return { width, height, channels, data: out }
}

/** `part` at `left`, `top` of a canvas of the crop's size and colour. */
function pad(part: Pixels, { height, width, fill }: Crop, left: number, top: number): Pixels {
  const { channels } = part
  const data = new Uint8Array(height * width * channels)
  for (let i = 0; i < data.length; i++) data[i] = fill[i % channels]!
  for (let y = 0; y < part.height; y++) {
    const row = part.data.subarray(y * part.width * channels, (y + 1) * part.width * channels)
    data.set(row, ((top + y) * width + left) * channels)
  }
  return { width, height, channels, data }
}

/**
 * The image converted to `p.channels`, resized and cropped: the bytes that Pillow gives, before any arithmetic.
 * Only what the crop keeps is computed. Errors: E_INPUT for malformed pixels, E_IMAGE_TOO_LARGE for a result of more
 * than 4096 x 4096 pixels.
 */
export function preprocessUint8(image: Image, p: Preprocessing): Pixels {
  checkPixels(image)
  outputSize(image, p) // the limit
  const { crop } = p
  const src = toChannels(image, p.channels)
  const { height, width } = resizedSize(image, p.resize)
  const filter = p.resize?.resample ?? "nearest"
  if (crop === null) return resize(src, width, height, filter)
  const top = OFFSET[crop.rounding]((height - crop.height) / 2)
  const left = OFFSET[crop.rounding]((width - crop.width) / 2)
  const part = resize(src, width, height, filter, {
    top: Math.max(0, top),
    left: Math.max(0, left),
    height: Math.min(height, crop.height),
    width: Math.min(width, crop.width),
  })
  const filled = part.height === crop.height && part.width === crop.width
  return filled ? part : pad(part, crop, Math.max(0, -left), Math.max(0, -top))
}

/** The normalised value of each byte; every operation is rounded to float32, as numpy and torch do it. */
function table({ rescale, mean, std }: Preprocessing, c: number): Float32Array {
  const m = Math.fround(mean[c]!)
  const s = Math.fround(std[c]!)
  return Float32Array.from({ length: 256 }, (_, v) => Math.fround(Math.fround(v * rescale) - m) / s)
}

/** Writes the image as [c, h, w] into `out` from `at`. */
function write(image: Image, p: Preprocessing, out: Float32Array, at: number): void {
  if (p.unrounded) return writeReal(image, p, out, at)
  const { data, channels } = preprocessUint8(image, p)
  const n = data.length / channels
  for (let c = 0; c < channels; c++) {
    const values = table(p, c)
    for (let i = 0; i < n; i++) out[at + c * n + i] = values[data[i * channels + c]!]!
  }
}

/** The same of numbers that are never bytes again: rescaled, resized, normalised. */
function writeReal(image: Image, p: Preprocessing, out: Float32Array, at: number): void {
  const { data, channels, ...size } = toChannels(image, p.channels)
  const { height, width } = outputSize(image, p)
  const rescaled = { ...size, channels, data: Float32Array.from(data, (v) => v * p.rescale) }
  const values = resizeReal(rescaled, width, height, p.resize?.resample ?? "nearest")
  const n = height * width
  for (let c = 0; c < channels; c++) {
    const [m, s] = [Math.fround(p.mean[c]!), Math.fround(p.std[c]!)]
    for (let i = 0; i < n; i++) out[at + c * n + i] = Math.fround(values[i * channels + c]! - m) / s
  }
}

/**
 * The model's input for one image, [c, h, w]: bit for bit what transformers' slow (Pillow) processors, timm's
 * create_transform and open_clip's image_transform make of an RGB image. transformers' fast (torchvision) processors
 * resize with 16-bit weights, which moves a pixel by up to one grey level, and fuse rescaling with normalising, which
 * moves the last bits of a float32; DINOv3's, which has no slow form, is met but for those bits. Errors: those of `preprocessUint8`.
 */
export function preprocess(image: Image, p: Preprocessing): Tensor<"float32"> {
  const { data, shape } = batch([image], p)
  return float32(shape.slice(1), data)
}

/** `preprocess` of each image in one tensor, [b, c, h, w]. Errors: also E_INPUT for no image or unequal results. */
export function batch(images: readonly Image[], p: Preprocessing): Tensor<"float32"> {
  const sizes = images.map((image) => {
    checkPixels(image)
    return outputSize(image, p)
  })
  const { height, width } = sizes[0] ?? fail("E_INPUT", "batch: at least one image is needed, got none")
  const odd = sizes.findIndex((s) => s.height !== height || s.width !== width)
  if (odd > 0) {
    const got = `image ${odd} becomes ${sizes[odd]!.width} x ${sizes[odd]!.height}, image 0 ${width} x ${height}`
    fail("E_INPUT", `batch: ${got}; equal sizes are needed: give the preprocessing a crop or an exact resize`)
  }
  const size = p.channels * height * width
  const data = new Float32Array(images.length * size)
  images.forEach((image, i) => write(image, p, data, i * size))
  return float32([images.length, p.channels, height, width], data)
}
