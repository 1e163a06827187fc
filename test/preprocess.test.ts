import { existsSync, readFileSync } from "node:fs"
import { describe, expect, it } from "vitest"
import { decodeImage, type Image } from "../src/data/image.ts"
import {
  batch,
  fromHf,
  fromOpenClip,
  fromTimm,
  outputSize,
  preprocess,
  type Preprocessing,
  preprocessUint8,
} from "../src/data/preprocess.ts"
import { PrismaError } from "../src/errors.ts"
import { floats, readSafetensors } from "./helpers/read-safetensors.ts"

interface Case {
  readonly name: string
  readonly library: "transformers" | "transformers-fast" | "transformers-unrounded" | "timm" | "open_clip"
  readonly image: string
  readonly config: unknown
  readonly model?: unknown
  readonly useTestSize?: boolean
}

const { tensors, metadata } = readSafetensors(new URL("fixtures/preprocess/cases.safetensors", import.meta.url))
const cases = (JSON.parse(metadata.get("cases")!) as { pipeline: Case[] }).pipeline

function source(name: string): Image {
  const { shape, bytes } = tensors.get(`image/${name}`)!
  const [height, width, channels] = shape as [number, number, 1 | 3]
  return { height, width, channels, data: bytes, notes: [] }
}

function parse({ library, config, model, useTestSize = false }: Case): Preprocessing {
  if (library === "timm") return fromTimm(config, "config.json", { useTestSize })
  if (library === "open_clip") return fromOpenClip(config, model, "open_clip_config.json")
  return fromHf(config, "preprocessor_config.json")
}

const image = (width: number, height: number, channels: 1 | 3 = 3): Image => {
  const data = Uint8Array.from({ length: width * height * channels }, (_, i) => (i * 37 + (i >> 3)) % 256)
  return { width, height, channels, data, notes: [] }
}

const codeOf = (run: () => unknown): string => {
  try {
    run()
  } catch (error) {
    if (error instanceof PrismaError) return `${error.code} ${error.message}`
    throw error
  }
  return "no error"
}

describe("the model input of the Python libraries, bit for bit", () => {
  const exact = cases.filter((c) => !/-(fast|unrounded)$/.test(c.library))

  it.each(exact)("$name", (c) => {
    const expected = tensors.get(`pipeline/${c.name}`)!
    const out = preprocess(source(c.image), parse(c))
    expect(out.shape).toEqual(expected.shape)
    expect(out.data).toEqual(floats(expected))
  })

  it.each(cases.filter((c) => c.library === "transformers-fast"))(
    "$name: within one grey level (16-bit weights), or the last bits of a float32 where nothing is resized",
    (c) => {
      const expected = tensors.get(`pipeline/${c.name}`)!
      const p = parse(c)
      const out = preprocess(source(c.image), p)
      const want = floats(expected)
      const level = p.resize === null ? 1e-6 : 1e-6 + p.rescale / Math.min(...p.std)
      expect(out.shape).toEqual(expected.shape)
      expect(Math.max(...out.data.map((v, i) => Math.abs(v - want[i]!)))).toBeLessThanOrEqual(level)
    },
  )
})

describe("the model input of transformers' DINOv3, whose pixels are never bytes again", () => {
  const real = cases.filter((c) => c.library === "transformers-unrounded")

  it("has cases", () => expect(real).toHaveLength(8))

  it.each(real)("$name: but for the last bits of a float32", (c) => {
    const expected = tensors.get(`pipeline/${c.name}`)!
    const want = floats(expected)
    const p = parse(c)
    const out = preprocess(source(c.image), p)
    expect(out.shape).toEqual(expected.shape)
    expect(Math.max(...out.data.map((v, i) => Math.abs(v - want[i]!)))).toBeLessThanOrEqual(1e-6 / Math.min(...p.std))
  })

  it("is resized so, and not as bytes: those differ by more", () => {
    const c = real.find(({ name }) => name.includes("square-rgb"))!
    const { unrounded, ...rounded } = parse(c)
    const [a, b] = [preprocess(source(c.image), parse(c)), preprocess(source(c.image), rounded)]
    expect(unrounded).toBe(true)
    expect(Math.max(...a.data.map((v, i) => Math.abs(v - b.data[i]!)))).toBeGreaterThan(1e-3)
  })

  it("has no crop", () => {
    const config = { image_processor_type: "DINOv3ViTImageProcessor", do_center_crop: true, crop_size: 9 }
    expect(codeOf(() => fromHf(config, "p.json"))).toMatch(/^E_PREPROC p\.json: do_center_crop must be false/)
  })
})

const shared = new URL("../../shared/", import.meta.url)

describe.skipIf(!existsSync(shared))("reference/preprocess of ../shared (skipped where it is absent)", () => {
  interface Reference {
    readonly resize?: [number, number]
    readonly shortest_edge?: number
    readonly crop?: number
    readonly resample: "bilinear" | "bicubic"
    readonly mean: number[]
    readonly std: number[]
  }
  const folder = new URL("reference/preprocess/", shared)
  const reference = existsSync(folder)
    ? (JSON.parse(readFileSync(new URL("cases.json", folder), "utf8")) as Record<string, Reference>)
    : {}
  const expected = existsSync(folder) ? readSafetensors(new URL("expected.safetensors", folder)).tensors : new Map()

  it.each(["astronaut", "chelsea", "coffee"])("%s: every case has the same bytes", async (name) => {
    const decoded = await decodeImage(new URL(`data/images/${name}.png`, shared).pathname)
    expect(Object.keys(reference).length).toBe(7)
    for (const [key, { resize, shortest_edge, crop, resample, mean, std }] of Object.entries(reference)) {
      const fill = [0, 0, 0]
      const p: Preprocessing = {
        channels: 3,
        resize: resize
          ? { to: "exact", height: resize[0], width: resize[1], resample }
          : { to: "shortest", edge: shortest_edge!, resample },
        crop: crop === undefined ? null : { height: crop, width: crop, rounding: "floor", fill },
        rescale: 1 / 255,
        mean,
        std,
      }
      const { shape, bytes } = expected.get(`${name}/${key}`)!
      const out = preprocessUint8(decoded, p)
      expect([out.height, out.width, out.channels], key).toEqual(shape)
      expect(Buffer.compare(out.data, bytes), key).toBe(0)
    }
  })

  it("reads the grey preprocessing of a real MNIST model", () => {
    const file = new URL("real/vit-mnist-3class/preprocessor_config.json", shared)
    const p = fromHf(JSON.parse(readFileSync(file, "utf8")), "preprocessor_config.json", { channels: 1 })
    expect(p).toMatchObject({ channels: 1, mean: [0.1307], std: [0.3081], crop: null })
    expect(preprocess(image(28, 28, 1), p).shape).toEqual([1, 28, 28])
  })
})

describe("preprocess", () => {
  const p = fromHf({ size: 8 }, "p.json")
  const grey = fromHf({ size: 8, image_mean: [0.5], image_std: [0.5] }, "p.json")

  it("turns RGB into grey by ITU-R 601-2 luma before resizing", () => {
    const { data } = image(8, 8)
    // Pillow's documented L = R * 299/1000 + G * 587/1000 + B * 114/1000, whose 16-bit form is at most 1 away.
    const out = preprocessUint8(image(8, 8), grey)
    expect(out.channels).toBe(1)
    out.data.forEach((v, i) => {
      const luma = data[i * 3]! * 0.299 + data[i * 3 + 1]! * 0.587 + data[i * 3 + 2]! * 0.114
      expect(Math.abs(v - luma)).toBeLessThanOrEqual(0.5 + 1e-2)
    })
  })

  it("repeats grey for models of three channels", () => {
    const out = preprocess(image(9, 9, 1), p)
    expect(out.shape).toEqual([3, 8, 8])
    expect(out.data.slice(0, 64)).toEqual(out.data.slice(64, 128))
    expect(out.data.slice(0, 64)).toEqual(out.data.slice(128))
  })

  it("stacks a batch, and its rows are those of the single images", () => {
    const images = [image(9, 30), image(8, 8), image(40, 3, 1)]
    const out = batch(images, p)
    expect(out.shape).toEqual([3, 3, 8, 8])
    images.forEach((one, i) => expect(out.data.slice(i * 192, (i + 1) * 192)).toEqual(preprocess(one, p).data))
  })

  it("refuses an empty batch and one of unequal sizes", () => {
    const loose: Preprocessing = { ...p, resize: { to: "shortest", edge: 8, resample: "bilinear" } }
    expect(codeOf(() => batch([], p))).toMatch(/^E_INPUT batch: at least one image/)
    expect(codeOf(() => batch([image(8, 8), image(16, 8)], loose))).toBe(
      "E_INPUT batch: image 1 becomes 16 x 8, image 0 8 x 8; equal sizes are needed: give the preprocessing a crop or an exact resize",
    )
    expect(codeOf(() => batch([{ ...image(8, 8), width: 9 }], p))).toMatch(/^E_INPUT image of 9 x 8 pixels/)
  })

  it("takes a 1 x 10,000 image through a crop, and refuses it without one before any memory is taken", () => {
    const clip = fromHf({ image_processor_type: "CLIPImageProcessor" }, "p.json")
    expect(preprocess(image(1, 10_000), clip).shape).toEqual([3, 224, 224])
    expect(preprocess(image(10_000, 1), clip).shape).toEqual([3, 224, 224])
    const loose: Preprocessing = { ...clip, crop: null }
    expect(codeOf(() => preprocess(image(1, 10_000), loose))).toMatch(
      /^E_IMAGE_TOO_LARGE image of 1 x 10000 pixels becomes 224 x 2240000, the limit is 16777216 pixels/,
    )
  })

  it("keeps one row where a very long image would lose its shorter edge", () => {
    const longest = fromOpenClip({ resize_mode: "longest" }, { vision_cfg: { image_size: 16 } }, "c.json")
    const out = preprocessUint8(image(1000, 1), longest)
    expect([out.width, out.height]).toEqual([16, 16])
    const rows = Array.from({ length: 16 }, (_, y) => out.data.subarray(y * 48, y * 48 + 48).some((v) => v > 0))
    expect(rows.filter((lit) => lit).length).toBe(1)
  })

  it("knows its size beforehand", () => {
    for (const c of cases) {
      const { width, height } = source(c.image)
      const [, h, w] = tensors.get(`pipeline/${c.name}`)!.shape
      expect(outputSize({ width, height }, parse(c))).toEqual({ height: h, width: w })
    }
  })
})

describe("fromHf", () => {
  it.each([
    ["ViTFeatureExtractor", "ViTImageProcessor"],
    ["ViTImageProcessorFast", "ViTImageProcessor"],
    ["CLIPFeatureExtractor", "CLIPImageProcessor"],
    ["CLIPImageProcessorFast", "CLIPImageProcessor"],
    ["BitImageProcessorFast", "BitImageProcessor"],
    ["SiglipImageProcessorFast", "SiglipImageProcessor"],
    ["DeiTFeatureExtractor", "DeiTImageProcessor"],
  ])("takes %s for %s", (old, now) => {
    const p = fromHf({ image_processor_type: now }, "p.json")
    expect(fromHf({ feature_extractor_type: old }, "p.json")).toEqual(p)
    expect(fromHf({ image_processor_type: old, feature_extractor_type: "Whisper" }, "p.json")).toEqual(p)
    expect(fromHf({}, "p.json", { type: now })).toEqual(p)
    expect(fromHf({ image_processor: { image_processor_type: now } }, "processor_config.json")).toEqual(p)
  })

  it("has the class's defaults for absent keys and for null", () => {
    expect(fromHf({ size: null, image_mean: null }, "p.json")).toEqual({
      channels: 3,
      resize: { to: "exact", height: 224, width: 224, resample: "bilinear" },
      crop: null,
      rescale: 1 / 255,
      mean: [0.5, 0.5, 0.5],
      std: [0.5, 0.5, 0.5],
    })
  })

  it("reads a number as size the way the class does", () => {
    const of = (type: string): unknown => fromHf({ image_processor_type: type, size: 32 }, "p.json").resize
    expect(of("DeiTImageProcessor")).toMatchObject({ to: "exact", height: 32, width: 32 })
    expect(of("BitImageProcessor")).toMatchObject({ to: "shortest", edge: 32 })
  })

  const size = "a number, {height, width}, {shortest_edge} or {shortest_edge, longest_edge}"
  it.each([
    [[], "the preprocessor config must be a JSON object, got []"],
    [null, "the preprocessor config must be a JSON object, got null"],
    [
      { image_processor_type: "ConvNextImageProcessorFast" },
      'image_processor_type must be one of ViTImageProcessor, DeiTImageProcessor, BitImageProcessor, CLIPImageProcessor, DINOv3ViTImageProcessor, SiglipImageProcessor (nearest: ViTImageProcessor), got "ConvNextImageProcessorFast"',
    ],
    [{ size: "224" }, 'size must be a JSON object, got "224"'],
    [{ size: 0 }, "size must be an integer from 1 to 4096, got 0"],
    [{ size: 1e9 }, "size must be an integer from 1 to 4096, got 1000000000"],
    [{ size: { longest_edge: 4 } }, `size must be ${size}, got {"longest_edge":4}`],
    [{ size: { height: 4, width: -1 } }, "size.width must be an integer from 1 to 4096, got -1"],
    [{ size: [1, 2, 3] }, "size must be one number or [height, width], got [1,2,3]"],
    [{ resample: 6 }, "resample must be a PIL filter, 0 to 5, got 6"],
    [{ resample: "bilinear" }, 'resample must be a PIL filter, 0 to 5, got "bilinear"'],
    [{ do_resize: 1 }, "do_resize must be true or false, got 1"],
    [{ do_center_crop: true }, "crop_size must be an integer from 1 to 4096, got null"],
    [
      { do_center_crop: true, crop_size: { height: 4 } },
      "crop_size.width must be an integer from 1 to 4096, got nothing",
    ],
    [{ rescale_factor: "1/255" }, 'rescale_factor must be a positive number, got "1/255"'],
    [{ image_mean: [1, 2] }, "image_mean must be one number or 3, got [1,2]"],
    [{ image_mean: [1, 2, "3"] }, 'image_mean must be one number or 3, got [1,2,"3"]'],
    [{ image_std: [1, 0, 1] }, "image_std must be positive, got [1,0,1]"],
    [{ do_pad: true }, "do_pad must be false (nothing else is supported), got true"],
    [
      { image_processor_type: "CLIPImageProcessor", image_mean: [0.5], image_std: [0.5] },
      "do_convert_rgb must be false for a model of one channel, got true",
    ],
  ])("refuses %j", (json, message) => {
    expect(codeOf(() => fromHf(json, "p.json"))).toBe(`E_PREPROC p.json: ${message}`)
  })
})

describe("fromTimm and fromOpenClip", () => {
  it("turn timm's random interpolation into bicubic", () => {
    expect(fromTimm({ interpolation: "random" }, "c.json").resize).toMatchObject({ resample: "bicubic" })
  })

  it.each([
    ["x", 'pretrained_cfg must be a JSON object, got "x"'],
    [{ input_size: [3, 224] }, "input_size must be [channels, height, width], got [3,224]"],
    [{ input_size: [4, 224, 224] }, "input_size[0] must be 1 or 3 channels, got 4"],
    [{ input_size: [3, 224, 1.5] }, "input_size must be an integer from 1 to 4096, got 1.5"],
    [{ crop_pct: 0 }, "crop_pct must be a positive number, got 0"],
    [{ crop_pct: 0.001 }, "input_size / crop_pct must be an integer from 1 to 4096, got 224000"],
    [{ crop_mode: "cut" }, 'crop_mode must be one of center, squash, border, got "cut"'],
    [
      { interpolation: 3 },
      "interpolation must be one of nearest, box, bilinear, hamming, bicubic, lanczos, random, got 3",
    ],
    [{ std: [1, 1] }, "std must be one number or 3, got [1,1]"],
    [{ input_size: [1, 28, 28] }, "mean must be one number, got [0.485,0.456,0.406]"],
  ])("refuse a timm config of %j", (json, message) => {
    expect(codeOf(() => fromTimm(json, "c.json"))).toBe(`E_PREPROC c.json: ${message}`)
  })

  it.each([
    [null, {}, "preprocess_cfg must be a JSON object, got null"],
    [{}, {}, "vision_cfg must be a JSON object, got nothing"],
    [{}, { vision_cfg: { image_size: "x" } }, 'vision_cfg.image_size must be an integer from 1 to 4096, got "x"'],
    [{ resize_mode: 1 }, { vision_cfg: {} }, "resize_mode must be one of shortest, longest, squash, got 1"],
    [{ interpolation: "box" }, { vision_cfg: {} }, 'interpolation must be one of bicubic, bilinear, random, got "box"'],
    [{ mode: "L" }, { vision_cfg: {} }, 'mode must be one of RGB, got "L"'],
    [
      { resize_mode: "longest", fill_color: 300 },
      { vision_cfg: {} },
      "fill_color must be an integer from 0 to 255, got 300",
    ],
  ])("refuse an open_clip config of %j and %j", (preprocessCfg, model, message) => {
    expect(codeOf(() => fromOpenClip(preprocessCfg, model, "c.json"))).toBe(`E_PREPROC c.json: ${message}`)
  })
})
