/** @file SigLIP so400m's 384 pixels in patches of 14: 27 patches, and the last 6 pixels unread, as its convolution leaves them. */
import { expect, it } from "vitest"
import { convertCheckpoint } from "../converters/index.ts"
import { HookedViT } from "../src/interp/hooked-vit.ts"
import { nodeRuntime } from "../src/runtime/node.ts"
import { float32, size, type Tensor } from "../src/tensor/tensor.ts"
import { mulberry32 } from "./helpers/causality.ts"

const [d, m, patch] = [8, 12, 14]
const random = mulberry32(7)
const tensor = (...shape: number[]): Tensor<"float32"> =>
  float32(
    shape,
    Float32Array.from({ length: size(shape) }, () => random() - 0.5),
  )

const linear = (name: string, out: number, inner: number): [string, Tensor][] => [
  [`${name}.weight`, tensor(out, inner)],
  [`${name}.bias`, tensor(out)],
]
const norm = (name: string): [string, Tensor][] => [
  [`${name}.weight`, tensor(d)],
  [`${name}.bias`, tensor(d)],
]
const layer = "encoder.layers.0."
const tensors = new Map<string, Tensor>([
  ["embeddings.patch_embedding.weight", tensor(d, 3, patch, patch)],
  ["embeddings.patch_embedding.bias", tensor(d)],
  ["embeddings.position_embedding.weight", tensor(27 * 27, d)],
  ...["q_proj", "k_proj", "v_proj", "out_proj"].flatMap((p) => linear(`${layer}self_attn.${p}`, d, d)),
  ...norm(`${layer}layer_norm1`),
  ...norm(`${layer}layer_norm2`),
  ...linear(`${layer}mlp.fc1`, m, d),
  ...linear(`${layer}mlp.fc2`, d, m),
  ...norm("post_layernorm"),
])
const config = (image_size: number, patch_size = patch) => ({
  model_type: "siglip_vision_model",
  hidden_size: d,
  num_hidden_layers: 1,
  num_attention_heads: 2,
  intermediate_size: m,
  image_size,
  patch_size,
  vision_use_head: false,
})
const model = (image: number) =>
  new HookedViT({ ...convertCheckpoint(config(image), tensors, "config.json"), runtime: nodeRuntime() })

it("gives what the model of 378 pixels gives of the image without its last 6", async () => {
  const whole = tensor(1, 3, 384, 384)
  const cut = Float32Array.from({ length: 3 * 378 * 378 }, (_, i) => {
    const [c, y, x] = [Math.floor(i / (378 * 378)), Math.floor(i / 378) % 378, i % 378]
    return whole.data[(c * 384 + y) * 384 + x]!
  })
  const got = await model(384).run(whole)
  const want = await model(378).run(float32([1, 3, 378, 378], cut))
  expect(got.last_hidden_state.shape).toEqual([1, 27 * 27, d])
  expect(got.last_hidden_state.data).toEqual(want.last_hidden_state.data)
})

it("leaves other sizes that are no multiple refused", () => {
  expect(() => convertCheckpoint(config(383), tensors, "config.json")).toThrow(/383 not divisible by 14/)
  expect(() => convertCheckpoint(config(384, 13), tensors, "config.json")).toThrow(/384 not divisible by 13/)
})
