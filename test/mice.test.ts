/** @file What training leaves: folders that transformers and this package load, held against files that transformers wrote. */
import { mkdtempSync, readdirSync, readFileSync, rmSync, writeFileSync } from "node:fs"
import { tmpdir } from "node:os"
import { join } from "node:path"
import { afterAll, describe, expect, it } from "vitest"
import { FAMILIES } from "../converters/index.ts"
import { ConfigReader } from "../converters/reader.ts"
import { convert, toSource, unused, type Source } from "../converters/rules.ts"
import { defineConfig, initOptions, MNISTConfig, modelConfig, type ConfigOverrides } from "../src/configs/index.ts"
import { encodePng } from "../src/data/image.ts"
import { oracle } from "../src/export/oracle.ts"
import { openSafetensors, readTensor } from "../src/files/safetensors-file.ts"
import { loadPretrained } from "../src/hub/load-pretrained.ts"
import { concat, input } from "../src/graph/ops.ts"
import { initialise } from "../src/model/init.ts"
import { build } from "../src/model/model.ts"
import { noRequests } from "../src/model/scope.ts"
import { nodeRuntime } from "../src/runtime/node.ts"
import { Random } from "../src/tensor/random.ts"
import { float32, size, type StoredTensor, type Tensor } from "../src/tensor/tensor.ts"
import { feedsOf, flatten, layout, pieceValues, weightAt } from "../src/train/layout.ts"
import { writeMouse } from "../src/train/mouse.ts"
import { change } from "./helpers/causality.ts"
import { demoModel, reference } from "./helpers/cli.ts"
import { readSafetensors } from "./helpers/read-safetensors.ts"
import { thrown } from "./helpers/thrown.ts"

const runtime = nodeRuntime({ threads: 1 })
const scratch = mkdtempSync(join(tmpdir(), "mice-"))
afterAll(async () => {
  await runtime.release()
  rmSync(scratch, { recursive: true })
})

const SMALL = {
  architecture: "preLN",
  image: { image_size: 16, patch_size: 4, n_channels: 3 },
  transformer: { hidden_dim: 32, num_heads: 4, num_layers: 2, mlp_dim: 48 },
  classification: { num_classes: 5 },
} as const
const small = (overrides: ConfigOverrides = {}) => defineConfig(defineConfig(MNISTConfig, SMALL), overrides)
const CLASSES = ["cat", "dog", "__proto__", "a \u{1f9ff}", "7"]

const noise = (shape: readonly number[], name: string): Tensor<"float32"> => {
  const random = new Random(5, name)
  return float32(
    shape,
    Float32Array.from({ length: size(shape) }, () => random.normal()),
  )
}

const json = (folder: string, name: string) => JSON.parse(readFileSync(join(folder, name), "utf8")) as Record<string, unknown> // prettier-ignore

/** A mouse with weights of a tenth, as after some training, and those weights by name and as a vector. */
async function mouse(config: ReturnType<typeof small>, classes: readonly string[] = CLASSES) {
  const folder = mkdtempSync(join(scratch, "mouse-"))
  const initial = initialise(modelConfig(config), initOptions(config))
  const weights = new Map(
    [...initial].map(([name, { shape, data }]) => {
      const more = noise(shape, name)
      return [name, float32(shape, data.map((x, i) => x + 0.1 * more.data[i]!))] as const // prettier-ignore
    }),
  )
  const at = layout([...weights].map(([name, { shape }]) => [name, shape]))
  const flat = flatten(at, weights)
  await writeMouse(folder, config, at, flat, classes)
  return { folder, weights, at, flat }
}

/** Which are transformers', and which under our own config. */
const KINDS: readonly (readonly [string, "hf-vit" | "base-vit", ConfigOverrides])[] = [
  ["norms before", "hf-vit", {}],
  ["ReLU and one channel", "hf-vit", { transformer: { activation_name: "ReLU" }, image: { n_channels: 1 } }],
  ["LeakyReLU and a larger eps", "hf-vit", { transformer: { activation_name: "LeakyReLU" }, layernorm: { layer_norm_eps: 1e-3 } }],
  ["no activation, dropping in training", "hf-vit", { transformer: { activation_name: "Linear" }, dropout: { mlp: 0.2, path: 0.1 } }],
  ["numbers to regress", "hf-vit", { training: { loss_fn_name: "MSE" } }],
  ["the seed's architecture", "base-vit", { architecture: "seed" }],
  ["the seed's with norms", "base-vit", { architecture: "seed", layernorm: { layer_norm_eps: 1e-5 } }],
  ["attention alone", "base-vit", { transformer: { attention_only: true } }],
  ["no output projection", "base-vit", { transformer: { attn_hidden_layer: false } }],
  ["q and k norm", "base-vit", { layernorm: { qknorm: true } }],
  ["the mean of all tokens", "base-vit", { classification: { global_pool: true } }],
  ["reconstruction", "base-vit", { training: { loss_fn_name: "Reconstruction" } }],
] // prettier-ignore

describe.each(KINDS)("a mouse with %s", (_, family, overrides) => {
  const config = small(overrides)
  const reconstructs = config.training.loss_fn_name === "Reconstruction"
  const made = mouse(config)

  it(`is loaded as ${family}, with class names and all it was trained by`, async () => {
    const { folder } = await made
    const model = await loadPretrained(folder, { runtime })
    expect(model.config.family).toBe(family)
    expect(model.config.labels).toEqual(reconstructs ? [] : CLASSES)
    expect(model.warnings).toEqual([])
    expect(json(folder, "training.json")).toEqual(config)
    expect(readdirSync(folder).sort()).toEqual(["config.json", "model.safetensors", "preprocessor_config.json", "training.json"]) // prettier-ignore
    expect(readSafetensors(join(folder, "model.safetensors")).metadata).toEqual(new Map([["format", "pt"]]))
  })

  it("computes what the weights in training do, and what the float64 oracle does", async () => {
    const { folder, weights, at, flat } = await made
    const model = await loadPretrained(folder, { runtime })
    const { vision } = modelConfig(config)
    const images = noise([3, vision.nChannels, 16, 16], "images")
    const name = reconstructs ? "reconstruction" : "logits"
    const got = (await model.run(images))[name]

    const pixels = input("images", ["batch", vision.nChannels, ...vision.imageSize])
    const w = pieceValues(at, "w")
    const whole = concat(Object.values(w), 0)
    const requests = { ...noRequests, weight: (n: string) => weightAt(at, whole, n) }
    const { outputs } = build(modelConfig(config), undefined, requests, pixels)
    const run = await runtime.compile({ images: pixels, ...w }, { out: outputs[name]! })
    const { out } = await run({ images, ...feedsOf("w", flat) })
    expect(change(got, out)).toBeLessThan(1e-6)

    const wanted = oracle(modelConfig(config), (n) => weights.get(n)!, { pixel_values: images }).get(name)!
    expect(change(got, float32(wanted.shape, wanted.data))).toBeLessThan(1e-5)
    expect(Math.max(...wanted.data.map(Math.abs))).toBeGreaterThan(0.1)
  })
})

describe("as transformers writes it", () => {
  it("the file of weights is the same to the byte, and config and preprocessing say the same", async () => {
    const own = json(demoModel, "config.json")
    const processor = json(demoModel, "preprocessor_config.json")
    const config = small({
      image: { image_size: 28, patch_size: 4, n_channels: 1 },
      transformer: { hidden_dim: 64, num_heads: 4, num_layers: 3, mlp_dim: 128 },
      layernorm: { layer_norm_eps: 1e-12 },
      classification: { num_classes: 10 },
      data: { mean: [0.1307], std: [0.3081] },
    })
    const demo = await loadPretrained(demoModel, { runtime })
    const weights = new Map<string, Tensor<"float32">>()
    for (const [name, { tensor, shape }] of demo.weights) {
      const { data } = "data" in tensor ? tensor : await readTensor(tensor)
      weights.set(name, float32(shape, data as Float32Array))
    }
    const at = layout([...weights].map(([name, { shape }]) => [name, shape]))
    const folder = mkdtempSync(join(scratch, "demo-"))
    await writeMouse(folder, config, at, flatten(at, weights), Array.from("0123456789"))

    const bytes = (of: string) => readFileSync(join(of, "model.safetensors"))
    expect(Buffer.compare(bytes(folder), bytes(demoModel))).toBe(0)
    const { transformers_version: _, encoder_stride: __, ...said } = own
    expect(json(folder, "config.json")).toMatchObject(said)
    expect(json(folder, "preprocessor_config.json")).toMatchObject(processor)
  })

  it("has every field of ViTConfig, where no probability is lost that it can say", async () => {
    const { folder } = await mouse(small({ dropout: { attention: 0.1, proj: 0.2, mlp: 0.3 } }))
    const { transformers_version: _, ...theirs } = json(demoModel, "config.json")
    const ours = json(folder, "config.json")
    expect(Object.keys(theirs).filter((key) => !(key in ours))).toEqual([])
    expect(ours).toMatchObject({ hidden_dropout_prob: 0.3, attention_probs_dropout_prob: 0.1, layer_norm_eps: 1e-6 })
    expect(Object.entries(ours["label2id"] as object)).toEqual(
      expect.arrayContaining(CLASSES.map((name, i) => [name, i])),
    )
  })
})

/** Our weights of a reference checkpoint, the rules that made them and its own tensors. */
async function converted(name: string) {
  const folder = reference(name)
  const file = join(folder, "model.safetensors")
  const { entries, stored } = await openSafetensors(file)
  const source: Source = new Map([...entries.keys()].map((key) => [key, stored(key)]))
  const reader = new ConfigReader(json(folder, "config.json"), "config.json")
  const family = FAMILIES.find((f) => f.claims(reader))!
  const config = family.read(reader, source)
  const rules = family.table(config, source, reader)
  const weights = new Map<string, Tensor<"float32">>()
  for (const [to, { tensor, shape }] of convert(config, source, rules, reader)) {
    const { data } = await readTensor(tensor as StoredTensor)
    weights.set(to, float32(shape, data as Float32Array))
  }
  const named = new Map([...rules].filter(([key]) => source.has(key)))
  return { weights, rules: named, tensors: readSafetensors(file).tensors }
}

describe("a converter's table read backwards", () => {
  it.each([
    "hf-deit",
    "hf-dinov2",
    "hf-clip-vision-base",
    "timm-wide",
    "timm-deit-distilled",
    "base-vit-post-norm-qknorm",
  ])("gives the tensors of %s", async (name) => {
    const { weights, rules, tensors } = await converted(name)
    const back = toSource(weights, rules)
    for (const [key, { data }] of back) {
      const bytes = Buffer.from(data.buffer, data.byteOffset, data.byteLength)
      expect(Buffer.compare(bytes, tensors.get(key)!.bytes), key).toBe(0)
    }
    expect([...tensors.keys()].filter((key) => !back.has(key) && rules.get(key) !== unused)).toEqual([])
  })

  it("refuses weights that it has no place for, and those that are stored transposed", async () => {
    const { weights, rules } = await converted("hf-deit")
    const left = new Map([...rules].filter(([key]) => !key.includes("layernorm_after.bias")))
    const other = await converted("prisma-hooked-vit")
    expect(await thrown(Promise.resolve().then(() => toSource(weights, left)))).toMatchObject({
      code: "E_INPUT",
      message: expect.stringMatching(/^2 weights have no place in such a checkpoint: blocks\.0\.ln2\.bias, /),
    })
    expect(await thrown(Promise.resolve().then(() => toSource(other.weights, other.rules)))).toMatchObject({
      message: expect.stringContaining("blocks.0.attn.q.weight"),
    })
  })
})

describe("class names", () => {
  const labels = async (overrides: ConfigOverrides, classes: readonly string[]) => {
    const { folder } = await mouse(small(overrides), classes)
    return (await loadPretrained(folder, { runtime })).config.labels
  }
  const seed = { architecture: "seed" } as const

  it("of the config go before the dataset's", async () => {
    const class_names = ["v", "w", "x", "y", "z"]
    expect(await labels({ classification: { class_names } }, CLASSES)).toEqual(class_names)
    expect(await labels({ ...seed, classification: { class_names } }, CLASSES)).toEqual(class_names)
  })

  it("are left out where there is not one for each output", async () => {
    expect(await labels(seed, ["a", "b"])).toEqual([])
    expect(await labels({}, [])).toEqual(["LABEL_0", "LABEL_1", "LABEL_2", "LABEL_3", "LABEL_4"])
  })

  it("of another number are refused, in a config and in a checkpoint's", async () => {
    expect(() => small({ classification: { class_names: ["a"] } })).toThrow(
      "the config: classification.class_names must have 5 names (classification.num_classes), got 1",
    )
    const { folder } = await mouse(small(seed))
    const config = json(folder, "config.json")
    for (const [class_names, said] of [
      [["a"], /classification\.class_names has 1 names, num_classes is 5/],
      ["abcde", /classification\.class_names must be a list of strings, got "abcde"/],
    ] as const) {
      const changed = { ...config, classification: { ...(config["classification"] as object), class_names } }
      writeFileSync(join(folder, "config.json"), JSON.stringify(changed))
      expect(await thrown(loadPretrained(folder, { runtime }))).toMatchObject({ code: "E_CONFIG", message: expect.stringMatching(said) }) // prettier-ignore
    }
  })
})

describe("an image", () => {
  it.each([1, 3] as const)("of %i channels becomes the pixels of training", async (channels) => {
    const mean = channels === 1 ? [0.25] : [0.1, 0.2, 0.3]
    const { folder } = await mouse(small({ image: { n_channels: channels }, data: { mean, std: [0.5] } }))
    const model = await loadPretrained(folder, { runtime })
    const random = new Random(1, "bytes")
    const bytes = Uint8Array.from({ length: channels * 256 }, () => random.below(256))
    const { shape, data } = await model.images(await encodePng(bytes, 16, 16, channels))
    expect(shape).toEqual([1, channels, 16, 16])
    for (const [i, x] of data.entries()) {
      const [c, pixel] = [Math.floor(i / 256), i % 256]
      expect(Math.abs(x - (bytes[pixel * channels + c]! / 255 - mean[c]!) / 0.5)).toBeLessThan(1e-6)
    }
  })

  it("file has no pixels for a model of two channels, which tells so when images are prepared", async () => {
    const { folder } = await mouse(small({ image: { n_channels: 2 } }))
    expect(readdirSync(folder)).not.toContain("preprocessor_config.json")
    const model = await loadPretrained(folder, { runtime })
    expect((await model.run(noise([1, 2, 16, 16], "images"))).logits.shape).toEqual([1, 5])
    expect(() => model.preprocessing).toThrow("images cannot be prepared, feed tensors")
  })
})
