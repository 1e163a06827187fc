/** @file Checkpoints of Prisma's own models as their trainers left them: pickles, prefixes, configs that say too little. */
import { cpSync, mkdtempSync, readFileSync, rmSync, writeFileSync } from "node:fs"
import { tmpdir } from "node:os"
import { join, resolve } from "node:path"
import { afterAll, describe, expect, it } from "vitest"
import { convertCheckpoint } from "../converters/index.ts"
import { defineConfig, initOptions, modelConfig, MNISTConfig, type ConfigOverrides } from "../src/configs/index.ts"
import { convertModel } from "../src/export/convert.ts"
import { writeSafetensors } from "../src/files/safetensors-file.ts"
import { loadPretrained } from "../src/hub/load-pretrained.ts"
import { initialise } from "../src/model/init.ts"
import type { Tensor } from "../src/tensor/tensor.ts"
import { readSafetensors } from "../src/tensor/safetensors.ts"
import { compare, readCase } from "./helpers/parity.ts"

const fixture = (name: string) => resolve(import.meta.dirname, "fixtures", name)
const temp = mkdtempSync(join(tmpdir(), "legacy-"))
afterAll(() => rmSync(temp, { recursive: true }))

/** A reference case's config and tensors, to be changed. */
function parts(name: string): { json: Record<string, Record<string, unknown>>; tensors: Map<string, Tensor> } {
  const folder = fixture(`reference/${name}`)
  return {
    json: JSON.parse(readFileSync(join(folder, "config.json"), "utf8")) as Record<string, Record<string, unknown>>,
    tensors: new Map(readSafetensors(readFileSync(join(folder, "model.safetensors"))).tensors),
  }
}

describe("a checkpoint of the seed's trainer", () => {
  it("is read from its pickle: several GPUs' prefix, the optimizer beside the model", async () => {
    await expect(loadPretrained(fixture("legacy"))).rejects.toMatchObject({ code: "E_UNSAFE_FORMAT" })
    const model = await loadPretrained(fixture("legacy"), { allowPickle: true, threads: 1 })
    const name = "base-vit-attention-only"
    const { inputs, expected } = readCase({ name, folder: fixture(`reference/${name}`) })
    const { cache, ...outputs } = await model.runWithCache(inputs)
    const problems = [...expected].map(([key, want]) => compare(cache.has(key) ? cache.get(key) : outputs[key], want).problem)
    expect(problems.filter((p) => p !== undefined)).toEqual([])
    expect([model.config.family, model.config.vision.nClasses]).toEqual(["base-vit", 5])
    await model.release()
  }) // prettier-ignore

  it("tells its classes and its pooling where the config does not, and is held to them where it does", () => {
    const { json, tensors } = parts("base-vit-no-norm")
    expect(convertCheckpoint(json, tensors, "c").config.vision).toMatchObject({ pool: "cls", nClasses: 5 })
    const said = (classification: object) => () => convertCheckpoint({ ...json, classification }, tensors, "c")
    expect(said({ num_classes: 5, global_pool: false })().config.vision.nClasses).toBe(5)
    expect(said({ num_classes: 4 })).toThrow(expect.objectContaining({ code: "E_SHAPE_MISMATCH" }))
    expect(said({ global_pool: true })).toThrow(/1 of another shape: "position_embedding".*1 unexpected: "cls_token"/)
    const { classification: _, ...without } = json
    expect(convertCheckpoint(without, tensors, "c").config.vision.nClasses).toBe(5)
  })

  it.each<[string, string, string, unknown, string]>([
    ["image", "patch_size", "E_CONFIG", 5, "image_size must be a multiple of image.patch_size: 16 not divisible by 5"],
    ["image", "image_size", "E_CONFIG", "16", 'image.image_size must be an integer of at least 1, got "16"'],
    ["transformer", "num_heads", "E_CONFIG", 5, "transformer.hidden_dim must be a multiple of transformer.num_heads"],
    ["transformer", "num_heads", "E_CONFIG_LIMIT", 4096, "transformer.num_heads is 4096, the limit is 1024"],
    ["transformer", "activation_name", "E_CONFIG", "SoLU", 'must be one of "ReLU", "LeakyReLU", "GELU", "Linear", got "SoLU"'],
    ["layernorm", "layer_norm_eps", "E_CONFIG", -1, "layernorm.layer_norm_eps must be at least 0, got -1"],
    ["layernorm", "layer_norm_eps", "E_MISSING_TENSORS", 1e-5, '"pre_block_norm.weight"'],
    ["layernorm", "qknorm", "E_MISSING_TENSORS", true, '"blocks.0.attention.q_norm.weight"'],
    ["transformer", "attention_only", "E_UNEXPECTED_TENSORS", true, '"blocks.0.mlp.fc1.weight"'],
    ["transformer", "attn_hidden_layer", "E_UNEXPECTED_TENSORS", false, '"blocks.0.attention.proj.weight"'],
    ["transformer", "mlp_dim", "E_SHAPE_MISMATCH", 64, '"blocks.0.mlp.fc1.weight" is [48, 32], the config wants [64, 32]'],
  ])("with %s.%s changed is refused: %s", (section, key, code, value, message) => {
    const { json, tensors } = parts("base-vit-no-norm")
    json[section]![key] = value
    const reading = () => convertCheckpoint(json, tensors, "config.json")
    expect(reading).toThrow(expect.objectContaining({ code, message: expect.stringContaining(message) }))
  }) // prettier-ignore
})

describe("what this project trains", () => {
  it.each<[string, ConfigOverrides]>([
    ["as the seed's", {}],
    ["with norms before", { architecture: "preLN", init: { scheme: "timm" } }],
    ["with norms after", { layernorm: { layer_norm_eps: 1e-6, qknorm: true } }],
    ["hiding patches", { architecture: "preLN", training: { loss_fn_name: "MaskedReconstruction" } }],
    ["reconstructing, norms after", { layernorm: { layer_norm_eps: 1e-6 }, training: { loss_fn_name: "Reconstruction" } }],
    ["without class token", { classification: { global_pool: true } }],
  ])("%s, is saved under its own names and loaded again", async (title, overrides) => {
    const config = defineConfig(defineConfig(MNISTConfig, { transformer: { hidden_dim: 32, num_layers: 1 } }), overrides)
    const folder = mkdtempSync(join(temp, "run-"))
    const weights = initialise(modelConfig(config), initOptions(config))
    await writeSafetensors(join(folder, "model.safetensors"), weights, {})
    writeFileSync(join(folder, "config.json"), JSON.stringify(config))
    const model = await loadPretrained(folder, { threads: 1 })
    const { drop: _, ...vision } = modelConfig(config).vision
    expect(model.config).toEqual({ ...modelConfig(config), vision })
    for (const [name, tensor] of weights) {
      expect(await model.weight(name), `${title} ${name}`).toEqual(tensor)
    }
    await model.release()
  }) // prettier-ignore
})

describe("an export", () => {
  it.each(["base-vit-post-norm-qknorm", "base-vit-global-pool", "prisma-hooked-vit"])("of %s is certified, and loads again", async (name) => {
    const model = await loadPretrained(fixture(`reference/${name}`), { threads: 1 })
    const folder = join(temp, name)
    const { certificate } = await convertModel(model, folder, { certify: true, hooks: "*", tolerance: 1e-5 })
    expect(certificate!.values.length).toBeGreaterThan(30)
    const again = await loadPretrained(folder, { threads: 1 })
    expect(again.config).toEqual(model.config)
    await Promise.all([model.release(), again.release()])
  }) // prettier-ignore

  it("of a model that hides patches takes its mask as an input", async () => {
    const config = defineConfig(MNISTConfig, { training: { loss_fn_name: "MaskedReconstruction" }, architecture: "preLN" })
    const [source, folder] = [mkdtempSync(join(temp, "masked-")), join(temp, "masked-onnx")]
    await writeSafetensors(join(source, "model.safetensors"), initialise(modelConfig(config)), {})
    writeFileSync(join(source, "config.json"), JSON.stringify(config))
    const model = await loadPretrained(source, { threads: 1 })
    const { certificate } = await convertModel(model, folder, { certify: true, tolerance: 1e-5 })
    expect(certificate!.values.map((v) => v.name)).toEqual(["reconstruction"])
    await model.release()
  }) // prettier-ignore
})

describe("a HookedViT", () => {
  it("of the years when its head was a linear layer is the same", () => {
    const { json, tensors } = parts("prisma-hooked-vit")
    const head = tensors.get("head.W_H") as Tensor<"float32">
    const [d, classes] = head.shape as [number, number]
    const rows = Float32Array.from(head.data, (_, i) => head.data[(i % d) * classes + Math.floor(i / d)]!)
    const old = new Map([...tensors].filter(([name]) => !name.startsWith("head.")))
    old.set("head.weight", { dtype: "float32", shape: [classes, d], data: rows })
    old.set("head.bias", tensors.get("head.b_H")!)
    const [a, b] = [convertCheckpoint(json, tensors, "c"), convertCheckpoint(json, old, "c")]
    expect(b.config).toEqual(a.config)
    expect([...b.weights.keys()].sort()).toEqual([...a.weights.keys()].sort())
  })

  it.each<[string, unknown, string, string]>([
    ["use_bert_block", true, "E_CONFIG", "use_bert_block must be absent or false"],
    ["normalize_output", true, "E_CONFIG", "normalize_output must be absent or false"],
    ["is_video_transformer", true, "E_CONFIG", "is_video_transformer must be absent or false"],
    ["normalization_type", "LNPre", "E_CONFIG", 'normalization_type must be "LN", got "LNPre"'],
    ["use_attn_scale", false, "E_CONFIG", "use_attn_scale must be true"],
    ["use_cls_token", false, "E_CONFIG", 'classification_type "cls" needs use_cls_token true'],
    ["activation_name", "solu_ln", "E_UNSUPPORTED_ACTIVATION", "solu_ln"],
    ["classification_type", "map", "E_CONFIG", 'must be one of "cls", "gaap", got "map"'],
    ["layer_norm_pre", false, "E_UNEXPECTED_TENSORS", '"ln_pre.w"'],
    ["normalization_type", null, "E_UNEXPECTED_TENSORS", '"blocks.0.ln1.w"'],
    ["d_head", 4, "E_SHAPE_MISMATCH", '"blocks.0.attn.W_Q" is [4, 32, 8], the config wants [4, 32, 4]'],
    ["attn_only", true, "E_UNEXPECTED_TENSORS", '"blocks.0.mlp.W_in"'],
  ])("with %s %j is refused", (key, value, code, message) => {
    const { json, tensors } = parts("prisma-hooked-vit")
    const reading = () => convertCheckpoint({ ...json, [key]: value }, tensors, "config.json")
    expect(reading).toThrow(expect.objectContaining({ code, message: expect.stringContaining(message) }))
  })

  it("shows its weights as TransformerLens does, which is how it stores them", async () => {
    const { tensors } = parts("prisma-hooked-vit")
    const folder = mkdtempSync(join(temp, "hooked-"))
    cpSync(fixture("reference/prisma-hooked-vit"), folder, { recursive: true })
    const model = await loadPretrained(folder, { threads: 1 })
    for (const kind of ["W_Q", "W_K", "W_V", "W_O", "b_Q", "b_O"]) {
      const name = `blocks.1.attn.${kind}`
      expect(await model.weight(name)).toEqual(tensors.get(name))
    }
    expect(await model.weight("blocks.0.mlp.W_in")).toEqual(tensors.get("blocks.0.mlp.W_in"))
    expect(await model.weight("W_H")).toEqual(tensors.get("head.W_H"))
    await model.release()
  })
})
