/** @file Prisma's two classes, reconstruction and dropping: against the float64 oracle and against transformers' ViT. */
import { resolve } from "node:path"
import { afterAll, describe, expect, it } from "vitest"
import { convertCheckpoint } from "../converters/index.ts"
import { defineConfig, modelConfig, MNISTConfig, type ConfigOverrides } from "../src/configs/index.ts"
import { oracle } from "../src/export/oracle.ts"
import { input, mul } from "../src/graph/ops.ts"
import type { Value } from "../src/graph/value.ts"
import { BaseViT } from "../src/hub/base-vit.ts"
import { loadPretrained } from "../src/hub/load-pretrained.ts"
import { PretrainedModel } from "../src/hub/pretrained-model.ts"
import { HookedViT } from "../src/interp/hooked-vit.ts"
import { build } from "../src/model/model.ts"
import { maskShape, noRequests, type DropKind } from "../src/model/scope.ts"
import { nodeRuntime } from "../src/runtime/node.ts"
import { Random } from "../src/tensor/random.ts"
import { float32, size, type Tensor } from "../src/tensor/tensor.ts"
import { change, ROUNDING } from "./helpers/causality.ts"
import { readCase } from "./helpers/parity.ts"

const runtime = nodeRuntime({ threads: 1 })
afterAll(() => runtime.release())

const SMALL = {
  image: { image_size: 16, patch_size: 4, n_channels: 3 },
  transformer: { hidden_dim: 32, num_heads: 4, num_layers: 2, mlp_dim: 48 },
  classification: { num_classes: 5 },
} as const
const small = (overrides: ConfigOverrides = {}) => defineConfig(defineConfig(MNISTConfig, SMALL), overrides)

function noise(shape: readonly number[], name: string): Tensor<"float32"> {
  const random = new Random(5, name)
  return float32(
    shape,
    Float32Array.from({ length: size(shape) }, () => random.normal()),
  )
}
const images = noise([2, 3, 16, 16], "images")
const folderOf = (name: string) => resolve(import.meta.dirname, "fixtures/reference", name)

/** Every hook and output of a model with these weights, by the graph and by the oracle: the names that differ. */
async function differences(model: HookedViT, given: { pixel_values: Tensor; patch_mask?: Tensor }): Promise<string[]> {
  const { cache, ...outputs } = await model.runWithCache(given, { names: [...model.hooks.keys()] })
  const got = new Map<string, Tensor>([...cache, ...Object.entries(outputs)])
  const weight = (name: string) => model.weights.get(name)!.tensor as Tensor<"float32">
  const wanted = oracle(model.config, weight, given as Parameters<typeof oracle>[2])
  expect([...got.keys()].sort()).toEqual([...wanted.keys()].sort())
  return [...wanted]
    .filter(([name, { shape, data }]) => change(got.get(name), float32(shape, data)) > ROUNDING)
    .map(([name]) => name)
}

describe("new BaseViT(config)", () => {
  it.each<[string, ConfigOverrides]>([
    ["as the seed's", {}],
    ["of attention alone", { transformer: { attention_only: true } }],
    ["with norms after", { layernorm: { layer_norm_eps: 1e-5, qknorm: true }, transformer: { activation_name: "Linear" } }],
    ["without output projection", { transformer: { attn_hidden_layer: false, activation_name: "LeakyReLU" } }],
    ["with the mean of all tokens", { classification: { global_pool: true }, layernorm: { layer_norm_eps: 1e-5 } }],
    ["with norms before", { architecture: "preLN", init: { scheme: "timm" } }],
    ["that reconstructs", { training: { loss_fn_name: "Reconstruction" }, layernorm: { layer_norm_eps: 1e-5 } }],
    ["that reconstructs, norms before", { training: { loss_fn_name: "Reconstruction" }, architecture: "preLN" }],
  ])("%s computes what the oracle does", async (_, overrides) => {
    const model = new BaseViT(small(overrides), { runtime })
    expect(await differences(model, { pixel_values: images })).toEqual([])
  }) // prettier-ignore

  it("gives logits, or before them the token that the head reads", async () => {
    const model = new BaseViT(small(), { runtime })
    const outputs = await model.run(images)
    expect(await model.forward(images)).toEqual(outputs.logits)
    const pooled = await model.forward(images, { preLogits: true })
    expect(pooled.shape).toEqual([2, 32])
    expect(pooled).toEqual(outputs.pooler_output)
    expect(model.nParameters).toBe([...build(modelConfig(small())).scope.params.values()].reduce((n, v) => n + size(v.shape as number[]), 0)) // prettier-ignore
  })

  it("of a reconstruction gives the pixels of each patch", async () => {
    const model = new BaseViT(small({ training: { loss_fn_name: "Reconstruction" } }), { runtime })
    expect((await model.forward(images)).shape).toEqual([2, 16, 48])
  })
})

describe("hidden patches", () => {
  const config = small({ training: { loss_fn_name: "MaskedReconstruction" }, architecture: "preLN" })
  const model = new BaseViT(config, { runtime })
  const patch_mask = float32(
    [2, 16],
    Float32Array.from({ length: 32 }, (_, i) => (i % 4 ? 1 : 0)),
  )

  it("are replaced, as the oracle does", async () => {
    expect(await differences(model, { pixel_values: images, patch_mask })).toEqual([])
  })

  it("are not seen: their pixels change nothing", async () => {
    const other = float32(images.shape, images.data.slice())
    for (let y = 4; y < 8; y++) other.data[3 * 256 + y * 16 + 5] = 100 // image 1, patch 5: hidden
    const [a, b] = [await model.run({ pixel_values: images, patch_mask }), await model.run({ pixel_values: other, patch_mask })]
    expect(change(a.reconstruction, b.reconstruction)).toBe(0)
    const seen = await model.run({ pixel_values: other })
    expect(change(seen.reconstruction, (await model.run(images)).reconstruction)).toBeGreaterThan(0.01)
  }) // prettier-ignore

  it("are none where no mask is given", async () => {
    const none = float32([2, 16], new Float32Array(32))
    expect(await model.run(images)).toEqual(await model.run({ pixel_values: images, patch_mask: none }))
  })

  it("must be said for each patch of each image", async () => {
    const wrong = model.run({ pixel_values: images, patch_mask: float32([1, 16], new Float32Array(16)) })
    await expect(wrong).rejects.toMatchObject({
      code: "E_INPUT",
      message: "patch_mask must be [images, patches] [2, 16], got [1, 16]",
    })
    await expect(new BaseViT(small(), { runtime }).run({ pixel_values: images, patch_mask })).rejects.toMatchObject({
      code: "E_INPUT",
      message: "patch_mask was given; this model hides no patches",
    })
  })
})

describe("dropping", () => {
  const dropout = { patch: 0.1, position: 0.2, attention: 0.3, proj: 0.4, mlp: 0.5, path: 0.6 }
  const config = modelConfig(small({ dropout, transformer: { num_layers: 3 } }))
  const asked = new Map<string, { rate: number; kind: DropKind; shape: readonly unknown[] }>()
  build(config, undefined, {
    ...noRequests,
    drop(name, value, rate, kind) {
      expect(asked.has(name)).toBe(false)
      asked.set(name, { rate, kind, shape: maskShape(kind, value.shape) })
      return mul(value, input(`mask:${name}`, maskShape(kind, value.shape)))
    },
  })

  it("is asked for at each place, with its rate and the shape of its mask", () => {
    const tokens = ["batch", 17, 32]
    const block = (i: number, path: number) => [
      [`blocks.${i}.attn.drop_pattern`, { rate: 0.3, kind: "element", shape: ["batch", 4, 17, 17] }],
      [`blocks.${i}.attn.drop_out`, { rate: 0.4, kind: "element", shape: tokens }],
      ...(path ? [[`blocks.${i}.drop_attn_path`, { rate: path, kind: "sample", shape: ["batch", 1, 1] }]] : []),
      [`blocks.${i}.mlp.drop_post`, { rate: 0.5, kind: "element", shape: ["batch", 17, 48] }],
      [`blocks.${i}.mlp.drop_out`, { rate: 0.5, kind: "element", shape: tokens }],
      ...(path ? [[`blocks.${i}.drop_mlp_path`, { rate: path, kind: "sample", shape: ["batch", 1, 1] }]] : []),
    ]
    expect([...asked]).toEqual([
      ["drop_patches", { rate: 0.1, kind: "element", shape: ["batch", 16, 32] }],
      ["drop_embed", { rate: 0.2, kind: "element", shape: tokens }],
      ...block(0, 0),
      ...block(1, 0.3),
      ...block(2, 0.6),
    ])
    expect(maskShape("token", ["batch", 17, 32])).toEqual(["batch", 17, 1])
  })

  it("costs nothing where the graph is not built to train", async () => {
    const plain = new BaseViT(small({ transformer: { num_layers: 3 } }), { runtime })
    const dropping = new BaseViT(small({ dropout, transformer: { num_layers: 3 } }), { runtime })
    await plain.run(images)
    const { made } = runtime.sessions
    expect(await dropping.run(images)).toEqual(await plain.run(images))
    expect(runtime.sessions.made).toBe(made) // the very same graph
  })

  it("of all that a block adds leaves the stream as it was", async () => {
    const model = new BaseViT(small({ dropout, transformer: { num_layers: 3 } }), { runtime })
    const masks = new Map<string, Value>()
    const { inputs, scope } = build(config, model.weights, {
      ...noRequests,
      drop(name, value, _, kind) {
        masks.set(name, input(name, maskShape(kind, value.shape)))
        return mul(value, masks.get(name)!)
      },
    })
    const [before, after] = ["pre", "post"].map((end) => scope.hooks.get(`blocks.1.hook_resid_${end}`)!.value)
    const read = [...masks].filter(([name]) => !name.startsWith("blocks.2"))
    const compiled = await runtime.compile(
      { ...inputs, ...Object.fromEntries(read) },
      { before: before!, after: after! },
    )
    const filled = read.map(([name, mask]) => {
      const shape = mask.shape.map((d) => (d === "batch" ? 2 : (d as number)))
      return [name, float32(shape, new Float32Array(size(shape)).fill(name.endsWith("path") ? 0 : 1))] as const
    })
    const got = await compiled({ pixel_values: images, ...Object.fromEntries(filled) })
    expect(change(got.after, got.before)).toBe(0)
    const { cache } = await model.runWithCache(images, { names: "blocks.0.hook_resid_post" })
    expect(change(got.before, cache.get("blocks.0.hook_resid_post"))).toBeLessThan(ROUNDING)
  })
})

describe("a model with norms before", () => {
  // transformers' names, as its own checkpoints in fixtures/reference have them.
  const NAMES = [
    [/^embed\.cls$/, "vit.embeddings.cls_token"],
    [/^embed\.pos$/, "vit.embeddings.position_embeddings"],
    [/^embed\.proj/, "vit.embeddings.patch_embeddings.projection"],
    [/^ln_final/, "vit.layernorm"],
    [/^head/, "classifier"],
    [/^blocks\.(\d+)\.ln1/, "vit.encoder.layer.$1.layernorm_before"],
    [/^blocks\.(\d+)\.ln2/, "vit.encoder.layer.$1.layernorm_after"],
    [/^blocks\.(\d+)\.attn\.q/, "vit.encoder.layer.$1.attention.attention.query"],
    [/^blocks\.(\d+)\.attn\.k/, "vit.encoder.layer.$1.attention.attention.key"],
    [/^blocks\.(\d+)\.attn\.v/, "vit.encoder.layer.$1.attention.attention.value"],
    [/^blocks\.(\d+)\.attn\.out/, "vit.encoder.layer.$1.attention.output.dense"],
    [/^blocks\.(\d+)\.mlp\.in/, "vit.encoder.layer.$1.intermediate.dense"],
    [/^blocks\.(\d+)\.mlp\.out/, "vit.encoder.layer.$1.output.dense"],
  ] as const

  it("is transformers' ViTForImageClassification, weight by weight", async () => {
    const model = new BaseViT(small({ architecture: "preLN", init: { scheme: "timm", pos_std: 0.5 } }), { runtime })
    const state = new Map<string, Tensor>()
    for (const [name, { tensor }] of model.weights) {
      const [pattern, theirs] = NAMES.find(([ours]) => ours.test(name))!
      const stored = { "embed.proj.weight": [32, 3, 4, 4], "embed.cls": [1, 1, 32], "embed.pos": [1, 17, 32] } as const
      const shape = (stored as Readonly<Record<string, readonly number[]>>)[name] ?? tensor.shape
      state.set(name.replace(pattern, theirs), { ...(tensor as Tensor), shape })
    }
    const json = {
      model_type: "vit",
      architectures: ["ViTForImageClassification"],
      hidden_size: 32,
      num_hidden_layers: 2,
      num_attention_heads: 4,
      intermediate_size: 48,
      hidden_act: "gelu",
      layer_norm_eps: 1e-6,
      image_size: 16,
      patch_size: 4,
      num_channels: 3,
      num_labels: 5,
    }
    const theirs = new HookedViT({ ...convertCheckpoint(json, state, "config.json"), runtime })
    expect([...theirs.hooks.keys()]).toEqual([...model.hooks.keys()])
    const [a, b] = [await model.run(images, { outputs: ["logits"] }), await theirs.run(images)]
    expect(change(a.logits, b.logits)).toBeLessThan(1e-6)
  })
})

describe("new PretrainedModel(name, config)", () => {
  const folder = folderOf("hf-vit-names-v5")
  const { inputs, expected } = readCase({ name: "hf-vit-names-v5", folder })
  const classes = expected.get("logits")!.shape[1]!

  it("is loaded at first use, once", async () => {
    const model = new PretrainedModel(folder, undefined, { runtime })
    expect(model.load()).toBe(model.load())
    const direct = await loadPretrained(folder, { runtime })
    expect(await model.forward(inputs.pixel_values)).toEqual((await direct.run(inputs)).logits)
    const { cache } = await model.runWithCache(inputs, { names: "ln_final.hook_normalized" })
    const normed = cache.get("ln_final.hook_normalized") as Tensor<"float32">
    const pooled = await model.forward(inputs.pixel_values, { preLogits: true })
    const [b, t, d] = normed.shape as [number, number, number]
    const cls = Float32Array.from({ length: b * d }, (_, i) => normed.data[Math.floor(i / d) * t * d + (i % d)]!)
    expect(change(pooled, float32([b, d], cls))).toBeLessThan(1e-6)
  })

  it("keeps its head where the config has as many classes, and gets a new one where not", async () => {
    const with_ = (num_classes: number) => defineConfig(MNISTConfig, { classification: { num_classes } })
    const same = await new PretrainedModel(folder, with_(classes), { runtime }).load()
    const own = await loadPretrained(folder, { runtime })
    expect(new Map(same.weights)).toEqual(new Map(own.weights))
    const other = await new PretrainedModel(folder, with_(classes + 3), { runtime }).load()
    expect((await other.run(inputs)).logits.shape).toEqual([2, classes + 3])
    const changed = [...other.weights.keys()].filter((name) => String(other.weights.get(name)!.shape) !== String(own.weights.get(name)!.shape)) // prettier-ignore
    expect(changed).toEqual(["head.weight", "head.bias"])
    expect(other.config.labels).toEqual([])
  })

  it("gives a head to a checkpoint that has none", async () => {
    const config = defineConfig(MNISTConfig, { classification: { num_classes: 7 } })
    const bare = folderOf("hf-dino")
    const model = new PretrainedModel(bare, config, { runtime })
    expect((await model.forward(readCase({ name: "hf-dino", folder: bare }).inputs.pixel_values)).shape).toEqual([2, 7])
  })

  it("is refused a head where there is no pooled token", async () => {
    const model = new PretrainedModel(folderOf("timm-deit-distilled"), small({ classification: { num_classes: 9 } }), { runtime }) // prettier-ignore
    await expect(model.load()).rejects.toMatchObject({
      code: "E_CONFIG",
      message: expect.stringContaining("has no pooled token that a new head of 9 classes could read"),
    })
  })

  it("knows timm's names", () => {
    const name = (given: string) => new PretrainedModel(given, undefined, { timm: true }).name
    expect(name("vit_base_patch32_224")).toBe("timm/vit_base_patch32_224.augreg_in21k_ft_in1k")
    expect(name("vit_base_patch16_224")).toBe("timm/vit_base_patch16_224.augreg2_in21k_ft_in1k")
    expect(name("vit_tiny_patch16_384.augreg_in21k")).toBe("timm/vit_tiny_patch16_384.augreg_in21k")
    expect(name("timm/vit_x.y")).toBe("timm/vit_x.y")
    expect(() => name("vit_giant_patch14_224")).toThrow(expect.objectContaining({ code: "E_REPO_ID" }))
  })
})
