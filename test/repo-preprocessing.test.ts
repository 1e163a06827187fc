/** @file The preprocessing that a model's repo says, for every family. */
import { writeFileSync } from "node:fs"
import { join } from "node:path"
import { describe, expect, it } from "vitest"
import { PrismaError } from "../src/index.ts"
import { readCase } from "./helpers/parity.ts"
import * as v from "./helpers/variants.ts"

const CASE = "hf-vit-grey-relu"
const { inputs } = readCase({ name: CASE, folder: v.caseFolder(CASE) })

describe("the preprocessing", () => {
  const json = {
    image_mean: [0.1, 0.2, 0.3],
    image_std: [0.4, 0.5, 0.6],
    rescale_factor: 0.5,
    size: { height: 32, width: 32 },
    do_center_crop: false,
    do_convert_rgb: true,
    resample: 4,
  }
  const given = { channels: 3, mean: json.image_mean, std: json.image_std, rescale: 0.5, crop: null }

  it.each(["hf-deit", "hf-dinov2", "hf-clip-eos-2", "hf-siglip-vision", "hf-siglip-classifier", "hf-vit-names-v5"])(
    "of %s is what its file says",
    async (name) => {
      const at = v.apart({ name, at: [] })
      writeFileSync(join(at, "preprocessor_config.json"), JSON.stringify(json))
      const exact = { to: "exact", height: 32, width: 32, resample: "box" }
      expect(await v.using(at, (m) => m.preprocessing)).toEqual({ ...given, resize: exact })
      writeFileSync(join(at, "processor_config.json"), JSON.stringify({ processor_class: "CLIPProcessor" }))
      expect(await v.using(at, (m) => m.preprocessing)).toMatchObject(given)
      writeFileSync(join(at, "processor_config.json"), JSON.stringify({ image_processor: { ...json, resample: 0 } }))
      expect(await v.using(at, (m) => m.preprocessing)).toMatchObject({ ...given, resize: { resample: "nearest" } })
    },
  )

  // transformers 5.17: the processor of the model type, whose defaults hold for what a file does not say.
  it.each([
    ["hf-vit-names-v5", { resize: { to: "exact", resample: "bilinear" }, crop: null, mean: [0.5, 0.5, 0.5] }],
    ["hf-deit", { resize: { to: "exact", resample: "bicubic" }, crop: { height: 32 }, mean: [0.5, 0.5, 0.5] }],
    ["hf-dinov2", { resize: { resample: "bicubic" }, crop: { height: 32 }, mean: [0.48145466, 0.4578275, 0.40821073] }],
    ["hf-clip-vision-base", { resize: { resample: "bicubic" }, crop: { height: 32 }, mean: [0.48145466, 0.4578275, 0.40821073] }],
    ["hf-siglip-vision", { resize: { to: "exact", resample: "bicubic" }, crop: null, mean: [0.5, 0.5, 0.5] }],
    ["hf-siglip-classifier", { resize: { to: "exact", resample: "bicubic" }, crop: null, mean: [0.5, 0.5, 0.5] }],
  ])("of %s without a processor's name is its model type's", async (name, expected) => {
    const at = v.apart({ name, at: [] })
    const size = { height: 32, width: 32 }
    writeFileSync(join(at, "preprocessor_config.json"), JSON.stringify({ size, crop_size: size }))
    expect(await v.using(at, (m) => m.preprocessing)).toMatchObject(expected)
  }) // prettier-ignore

  it("of timm and open_clip stands in the config", async () => {
    const timm = v.apart({ name: "timm-gap", at: ["pretrained_cfg"] }, (c) => Object.assign(c, { mean: [0.1, 0.2, 0.3], crop_pct: 0.5 })) // prettier-ignore
    expect(await v.using(timm, (m) => m.preprocessing)).toMatchObject({ mean: [0.1, 0.2, 0.3], resize: { edge: 64 }, crop: { height: 32 } }) // prettier-ignore
    const clip = v.apart({ name: "open-clip-quickgelu", at: ["preprocess_cfg"] }, (c) => (c["mean"] = [0.1, 0.2, 0.3]))
    expect(await v.using(clip, (m) => m.preprocessing)).toMatchObject({ mean: [0.1, 0.2, 0.3], resize: { edge: 32 } })
  })

  it("that is missing or unusable stops images, not tensors", async () => {
    const image = { width: 1, height: 1, channels: 1, data: new Uint8Array(1), notes: [] } as const
    const at = v.apart({ name: CASE, at: [] })
    const says = async (expected: RegExp) => {
      expect(await v.outputsOf(at, inputs)).toBeDefined()
      const error = await v.using(at, (m) => m.images(image).catch((e: unknown) => e))
      expect(error).toBeInstanceOf(PrismaError)
      expect(error).toMatchObject({ code: "E_PREPROC", message: expect.stringMatching(expected) as unknown })
      expect(await v.using(at, (m) => m.hasPreprocessing)).toBe(/pixels, the model/.test(String(error)))
    }
    await says(/has no preprocessor_config\.json/)
    const write = (value: unknown) => writeFileSync(join(at, "preprocessor_config.json"), JSON.stringify(value))
    write({ image_processor_type: "ConvNextImageProcessor" })
    await says(/image_processor_type must be one of .*, got "ConvNextImageProcessor"/)
    write({ image_mean: "0.5", image_processor_type: "ViTImageProcessor" })
    await says(/image_mean must be one number, got "0\.5"/)
    write({ size: 224, image_mean: [0.5], image_std: [0.5] })
    await says(/preprocessing gives 224x224 pixels, the model takes 28x28; load it with imageSize/)
  })

  it("that is no JSON is an error at once", async () => {
    const at = v.apart({ name: "hf-deit", at: [] })
    writeFileSync(join(at, "preprocessor_config.json"), "{")
    expect(await v.refused(at, "E_CONFIG")).toContain("preprocessor_config.json: is not valid JSON")
  })
})
