/** @file Images of noise, the same for the same seed. */
import type { HookedViT } from "../../src/interp/hooked-vit.ts"
import { Random } from "../../src/tensor/random.ts"
import { float32, size, type Tensor } from "../../src/tensor/tensor.ts"

/** `n` of them, as the model takes them. */
export function noiseImages(model: HookedViT, n: number, seed: number): Tensor<"float32"> {
  const { nChannels, imageSize } = model.config.vision
  const random = new Random(seed, "images")
  const shape = [n, nChannels, ...imageSize]
  return float32(
    shape,
    Float32Array.from({ length: size(shape) }, () => random.normal()),
  )
}
