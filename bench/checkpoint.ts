/** @file The bench's own checkpoint: a ViT-B/16 classifier with random weights under transformers' names, made once. */
import { existsSync } from "node:fs"
import { mkdir, writeFile } from "node:fs/promises"
import { tmpdir } from "node:os"
import { join } from "node:path"
import { openSafetensors, readTensor, writeSafetensors } from "../src/files/safetensors-file.ts"
import { float32, size, type Tensor } from "../src/tensor/tensor.ts"

/** Sizes of ViT-B/16 (arXiv:2010.11929): d width, m MLP width, P patches, T tokens, h heads of width e. */
export const VIT_B = { d: 768, m: 3072, layers: 12, h: 12, e: 64, image: 224, patch: 16, P: 196, T: 197, classes: 1000 }

/** Part of the folder's name, to be raised when what is written changes. */
const VERSION = 1

export interface Checkpoint {
  /** Holds `model/` (a folder as the Hub lays it out) and `fused.safetensors`: external initializers must lie below it. */
  readonly root: string
  readonly model: string
  readonly weightBytes: number
}

/** The checkpoint in `cache` (346 MB, and 85 MB of fused query, key and value weights for comparison). */
export async function checkpoint(cache = process.env["VIT_PRISMA_BENCH_CACHE"] ?? tmpdir()): Promise<Checkpoint> {
  const root = join(cache, `vit-prisma-bench-${VERSION}`)
  const model = join(root, "model")
  const weights = join(model, "model.safetensors")
  await mkdir(model, { recursive: true })
  if (!existsSync(weights)) {
    await writeFile(join(model, "config.json"), JSON.stringify(config()))
    await writeSafetensors(weights, randomWeights(1), { format: "pt" })
  }
  const fused = join(root, "fused.safetensors")
  if (!existsSync(fused)) await writeSafetensors(fused, await fusedWeights(weights))
  const { entries } = await openSafetensors(weights)
  const weightBytes = [...entries.values()].reduce((n, e) => n + e.end - e.begin, 0)
  return { root, model, weightBytes }
}

const config = () => ({
  architectures: ["ViTForImageClassification"],
  model_type: "vit",
  hidden_size: VIT_B.d,
  num_hidden_layers: VIT_B.layers,
  num_attention_heads: VIT_B.h,
  intermediate_size: VIT_B.m,
  image_size: VIT_B.image,
  patch_size: VIT_B.patch,
  num_channels: 3,
  hidden_act: "gelu",
  qkv_bias: true,
  layer_norm_eps: 1e-12,
  id2label: Object.fromEntries(Array.from({ length: VIT_B.classes }, (_, i) => [i, `class ${i}`])),
})

/** Weights with standard deviation 0.02, norms around 1. */
function randomWeights(seed: number): Map<string, Tensor> {
  const { d, m, layers, patch, T, classes } = VIT_B
  const next = generator(seed)
  const tensors = new Map<string, Tensor>()
  const random = (name: string, shape: readonly number[], mean = 0) => {
    const data = new Float32Array(size(shape))
    for (let i = 0; i < data.length; i++) data[i] = mean + 0.02 * Math.sqrt(3) * next()
    tensors.set(name, float32(shape, data))
  }
  const linear = (name: string, out: number, inner: number) => {
    random(`${name}.weight`, [out, inner])
    random(`${name}.bias`, [out])
  }
  const norm = (name: string) => {
    random(`${name}.weight`, [d], 1)
    random(`${name}.bias`, [d])
  }
  random("vit.embeddings.cls_token", [1, 1, d])
  random("vit.embeddings.position_embeddings", [1, T, d])
  random("vit.embeddings.patch_embeddings.projection.weight", [d, 3, patch, patch])
  random("vit.embeddings.patch_embeddings.projection.bias", [d])
  for (let i = 0; i < layers; i++) {
    const at = `vit.encoder.layer.${i}`
    norm(`${at}.layernorm_before`)
    for (const which of ["query", "key", "value"]) linear(`${at}.attention.attention.${which}`, d, d)
    linear(`${at}.attention.output.dense`, d, d)
    norm(`${at}.layernorm_after`)
    linear(`${at}.intermediate.dense`, m, d)
    linear(`${at}.output.dense`, d, m)
  }
  norm("vit.layernorm")
  linear("classifier", classes, d)
  return tensors
}

/** Each block's query, key and value weights one below the other: `qkv.{i}.weight` [3d, d] and `qkv.{i}.bias` [3d]. */
async function fusedWeights(path: string): Promise<Map<string, Tensor>> {
  const { stored } = await openSafetensors(path)
  const fused = new Map<string, Tensor>()
  for (let i = 0; i < VIT_B.layers; i++) {
    for (const [kind, shape] of [["weight", [3 * VIT_B.d, VIT_B.d]] as const, ["bias", [3 * VIT_B.d]] as const]) {
      const all = new Float32Array(size(shape))
      for (const [k, which] of ["query", "key", "value"].entries()) {
        const part = await readTensor(stored(`vit.encoder.layer.${i}.attention.attention.${which}.${kind}`))
        all.set(part.data as Float32Array, (k * all.length) / 3)
      }
      fused.set(`qkv.${i}.${kind}`, float32(shape, all))
    }
  }
  return fused
}

/** Uniform in -1..1: mulberry32, which is small and the same everywhere. */
export function generator(seed: number): () => number {
  let state = seed >>> 0
  return () => {
    state = (state + 0x6d2b79f5) >>> 0
    let t = Math.imul(state ^ (state >>> 15), state | 1)
    t ^= t + Math.imul(t ^ (t >>> 7), t | 61)
    return ((t ^ (t >>> 14)) >>> 0) / 2 ** 31 - 1
  }
}

/** Images [b, 3, 224, 224], seeded. */
export function images(b: number): Tensor<"float32"> {
  const next = generator(2)
  const shape = [b, 3, VIT_B.image, VIT_B.image]
  return float32(
    shape,
    Float32Array.from({ length: size(shape) }, () => next()),
  )
}
