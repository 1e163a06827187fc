/** @file One number a pixel or a patch from attributions, for pictures. */
import { fail } from "../../errors.ts"
import { expectFloat32, float32, show, type Tensor } from "../../tensor/tensor.ts"
import type { TokenLayout } from "../attention/tokens.ts"

/** How a pixel's channels become one number. */
const CHANNELS = {
  /** What the pixel adds, with its sign. */
  sum: (a: number, b: number): number => a + b,
  /** The strongest of its channels (Simonyan et al.). */
  max: (a: number, b: number): number => Math.max(a, Math.abs(b)),
  /** All of them, without their signs. */
  absolute: (a: number, b: number): number => a + Math.abs(b),
} as const
export type ChannelReduction = keyof typeof CHANNELS

/** Attributions [b, c, H, W] to [b, H, W]. Error: E_INPUT. */
export function heatmap(values: Tensor, channels: ChannelReduction = "max"): Tensor<"float32"> {
  const { shape, data } = expectFloat32(values, "attributions")
  const [b, c, h, w] = shape as [number, number, number, number]
  if (shape.length !== 4) fail("E_INPUT", `attributions must be [b, c, H, W], got ${show(shape)}`)
  const merge = Object.hasOwn(CHANNELS, channels)
    ? CHANNELS[channels]
    : fail("E_INPUT", `channels are reduced by ${Object.keys(CHANNELS).join(", ")}, got ${channels as string}`)
  const out = new Float32Array(b * h * w)
  for (let i = 0; i < data.length; i++) {
    const at = Math.floor(i / (c * h * w)) * h * w + (i % (h * w))
    out[at] = merge(out[at]!, data[i]!)
  }
  return float32([b, h, w], out)
}

/**
 * Numbers of patches [b, rows, columns]: of tokens [b, T], the patches'; of pixels [b, H, W], the mean of each patch's, or
 * their sum, which for shares of a metric is the patch's share. Error: E_INPUT.
 */
export function patchMap(values: Tensor, layout: TokenLayout, of: "mean" | "sum" = "mean"): Tensor<"float32"> {
  const { shape, data } = expectFloat32(values, "values")
  const { grid, patchSize, nPrefix, nPatches, nTokens } = layout
  const [rows, columns] = grid
  const b = shape[0]!
  const out = new Float32Array(b * nPatches)
  const share = of === "sum" ? 1 : 1 / (patchSize[0] * patchSize[1])
  if (shape.length === 2 && shape[1] === nTokens) {
    for (let i = 0; i < b; i++) out.set(data.subarray(i * nTokens + nPrefix, (i + 1) * nTokens), i * nPatches)
    return float32([b, rows, columns], out)
  }
  const [h, w] = [shape[1]!, shape[2]!]
  if (shape.length !== 3 || h < rows * patchSize[0] || w < columns * patchSize[1]) {
    fail("E_INPUT", `a map of patches wants tokens [b, ${nTokens}] or pixels [b, H, W], got ${show(shape)}`)
  }
  for (let i = 0; i < b; i++) {
    for (let y = 0; y < rows * patchSize[0]; y++) {
      for (let x = 0; x < columns * patchSize[1]; x++) {
        const patch = Math.floor(y / patchSize[0]) * columns + Math.floor(x / patchSize[1])
        out[i * nPatches + patch]! += data[(i * h + y) * w + x]! * share
      }
    }
  }
  return float32([b, rows, columns], out)
}
