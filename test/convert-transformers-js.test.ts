/** @file Exported folders in transformers.js (https://huggingface.co/docs/transformers.js): its models and pipelines, our numbers. */
import { cpSync, mkdirSync, mkdtempSync, realpathSync, rmSync, writeFileSync } from "node:fs"
import { tmpdir } from "node:os"
import { join } from "node:path"
import { AutoModel, AutoModelForImageClassification, env, pipeline, Tensor } from "@huggingface/transformers"
import { afterAll, describe, expect, it } from "vitest"
import { encodePng } from "../src/data/image.ts"
import { convertModel } from "../src/export/convert.ts"
import { loadPretrained } from "../src/hub/load-pretrained.ts"
import { reference } from "./helpers/cli.ts"
import { floats, readSafetensors } from "./helpers/read-safetensors.ts"

const scratch = realpathSync(mkdtempSync(join(tmpdir(), "vit-prisma-tjs-")))
afterAll(() => rmSync(scratch, { recursive: true }))
const at = (name: string): string => join(scratch, name)

Object.assign(env, { allowRemoteModels: false, localModelPath: `${scratch}/`, cacheDir: at("cache") })

describe("a model", () => {
  it.each([
    ["hf-vit-names-v5", AutoModelForImageClassification, "ViTForImageClassification", ["logits"]],
    ["hf-deit", AutoModelForImageClassification, "DeiTForImageClassification", ["logits"]],
    ["hf-dinov2", AutoModel, "Dinov2Model", ["last_hidden_state", "pooler_output"]],
    ["hf-dinov2-classifier", AutoModelForImageClassification, "Dinov2ForImageClassification", ["logits"]],
    ["timm-gap", AutoModelForImageClassification, "ViTForImageClassification", ["logits"]],
    ["timm-dinov2", AutoModel, "ViTModel", ["last_hidden_state", "pooler_output"]],
    ["hf-clip-eos-2", AutoModel, "CLIPModel", ["logits_per_image", "image_embeds", "text_embeds"]],
    ["open-clip-quickgelu", AutoModel, "CLIPModel", ["logits_per_image", "image_embeds", "text_embeds"]],
  ] as const)("%s loads and gives its library's values", async (name, auto, type, outputs) => {
    await convertModel(await loadPretrained(reference(name)), at(name), { hooks: "*.hook_resid_post" })
    const model = await auto.from_pretrained(name)
    expect(model.constructor.name).toBe(type)
    const expected = readSafetensors(join(reference(name), "expected.safetensors")).tensors
    const [pixels, ids] = [expected.get("input.pixel_values")!, expected.get("input.input_ids")]
    const got = (await model({
      pixel_values: new Tensor("float32", floats(pixels), [...pixels.shape]),
      ...(ids && { input_ids: new Tensor("int64", BigInt64Array.from(floats(ids), BigInt), [...ids.shape]) }),
    })) as Record<string, { data: Float32Array; dims: number[] } | undefined>
    // The classifiers of transformers.js give their logits only; a whole model gives its hooks too.
    for (const output of auto === AutoModel ? [...outputs, "blocks.0.hook_resid_post"] : outputs) {
      const want = expected.get(output)!
      expect(got[output]?.dims, output).toEqual(want.shape)
      const values = floats(want)
      const scale = values.reduce((n, v) => Math.max(n, Math.abs(v)), 1)
      const worst = values.reduce((n, v, i) => Math.max(n, Math.abs(v - got[output]!.data[i]!)), 0)
      expect(worst / scale, output).toBeLessThan(1e-5)
    }
  })
})

describe("the image-classification pipeline", () => {
  it.each(["hf-vit-names-v5", "hf-dinov2-classifier", "timm-gap"])("of %s gives our predictions", async (name) => {
    const source = at(`source ${name}`)
    cpSync(reference(name), source, { recursive: true })
    if (name.startsWith("hf")) {
      const half = [0.5, 0.5, 0.5]
      const processor = {
        image_processor_type: "ViTImageProcessor",
        size: { height: 32, width: 32 },
        image_mean: half,
        image_std: half,
      }
      writeFileSync(join(source, "preprocessor_config.json"), JSON.stringify(processor))
    }
    const model = await loadPretrained(source)
    const folder = `pipeline-${name}`
    await convertModel(model, at(folder))
    // An image of the model's own size: transformers.js' resizing is not antialiased.
    const { resize } = model.preprocessing
    const size = resize?.to === "shortest" ? resize.edge : resize!.height
    const pixels = Uint8Array.from({ length: size * size * 3 }, (_, i) => (i * 97 + ((i * i) >> 5)) % 256)
    mkdirSync(at("images"), { recursive: true })
    const image = at(join("images", `${name}.png`))
    writeFileSync(image, await encodePng(pixels, size, size, 3))

    const classify = await pipeline("image-classification", folder)
    const theirs = (await classify(image, { top_k: 3 })) as { label: string; score: number }[]
    const { logits } = await model.run(await model.images(image))
    const values = [...(logits.data as Float32Array)]
    const total = values.reduce((sum, v) => sum + Math.exp(v), 0)
    const ours = values
      .map((v, i) => ({ label: model.config.labels[i] ?? `LABEL_${i}`, score: Math.exp(v) / total }))
      .sort((a, b) => b.score - a.score)
      .slice(0, 3)
    expect(theirs.map((p) => p.label)).toEqual(ours.map((p) => p.label))
    for (const [i, { score }] of theirs.entries()) expect(score).toBeCloseTo(ours[i]!.score, 5)
  })
})
