/** @file A checkpoint's image preprocessing as plain data, read from the config files of transformers, timm and open_clip. */
import { fail, listed, nearest } from "../errors.ts"
import { type Filter, FILTERS } from "./resize.ts"

/** How the resized size follows from the image's. */
export type ResizeRule =
  /** Both edges given; the aspect ratio changes. */
  | { readonly to: "exact"; readonly height: number; readonly width: number }
  /** The shorter edge becomes `edge`; with `longest`, both shrink until the longer one is at most that. */
  | { readonly to: "shortest"; readonly edge: number; readonly longest?: number }
  /** The smallest size that covers, or the largest that fits in, `height` x `width`. */
  | { readonly to: "cover" | "contain"; readonly height: number; readonly width: number }

/** A centre crop; where the image is smaller, it is padded with `fill` (one value per channel). */
export interface Crop {
  readonly height: number
  readonly width: number
  /** Which way an odd margin falls: `floor` as transformers, `half-even` as torchvision, timm and open_clip. */
  readonly rounding: "floor" | "half-even"
  readonly fill: readonly number[]
}

/** The steps in their fixed order: to `channels`, resize, crop, `(pixel * rescale - mean) / std`. */
export interface Preprocessing {
  /** 3, or 1: grey by ITU-R 601-2 luma. */
  readonly channels: 1 | 3
  readonly resize: (ResizeRule & { readonly resample: Filter }) | null
  readonly crop: Crop | null
  readonly rescale: number
  /** Pixels are rescaled before they are resized, and so never rounded to bytes (DINOv3). */
  readonly unrounded?: true
  /** One value per channel, in units of the rescaled pixel. */
  readonly mean: readonly number[]
  readonly std: readonly number[]
}

/** Python's `round`: halves go to the even neighbour. */
export function roundHalfEven(x: number): number {
  const down = Math.floor(x)
  if (x - down !== 0.5) return Math.round(x)
  return down % 2 === 0 ? down : down + 1
}

/** Largest edge a config may ask for, in pixels; the largest in use are near 1000. */
const MAX_EDGE = 4096

interface Norm {
  readonly mean: readonly number[]
  readonly std: readonly number[]
}

const IMAGENET: Norm = { mean: [0.485, 0.456, 0.406], std: [0.229, 0.224, 0.225] }
const STANDARD: Norm = { mean: [0.5, 0.5, 0.5], std: [0.5, 0.5, 0.5] }
const OPENAI: Norm = { mean: [0.48145466, 0.4578275, 0.40821073], std: [0.26862954, 0.26130258, 0.27577711] }

/** A JSON object of a file; a key that is null counts as absent, as it does in the libraries. */
interface Fields {
  readonly file: string
  readonly values: ReadonlyMap<string, unknown>
}

function refuse(file: string, key: string, expected: string, got: unknown): never {
  const text = got === undefined ? "nothing" : JSON.stringify(got)
  const short = text.length > 60 ? `${text.slice(0, 60)}...` : text
  return fail("E_PREPROC", `${file}: ${key} must be ${expected}, got ${short}`, { file })
}

function fields(json: unknown, file: string, what: string): Fields {
  if (typeof json !== "object" || json === null || Array.isArray(json)) return refuse(file, what, "a JSON object", json)
  return { file, values: new Map(Object.entries(json).filter(([, v]) => v !== null)) }
}

function flag({ file, values }: Fields, key: string, absent: boolean): boolean {
  const v = values.get(key) ?? absent
  return typeof v === "boolean" ? v : refuse(file, key, "true or false", v)
}

function edge(file: string, key: string, v: unknown): number {
  const fits = typeof v === "number" && Number.isInteger(v) && v >= 1 && v <= MAX_EDGE
  return fits ? v : refuse(file, key, `an integer from 1 to ${MAX_EDGE}`, v)
}

/** A list [height, width] of edges, or one number for both. */
function square(file: string, key: string, v: unknown): { height: number; width: number } {
  const pair: unknown[] = Array.isArray(v) ? v : [v, v]
  if (pair.length !== 2) refuse(file, key, "one number or [height, width]", v)
  return { height: edge(file, key, pair[0]), width: edge(file, key, pair[1]) }
}

function positive({ file, values }: Fields, key: string, absent: number): number {
  const v = values.get(key) ?? absent
  return typeof v === "number" && Number.isFinite(v) && v > 0 ? v : refuse(file, key, "a positive number", v)
}

function choice<T extends string>({ file, values }: Fields, key: string, of: readonly T[], absent: T): T {
  const v = values.get(key) ?? absent
  return of.find((name) => name === v) ?? refuse(file, key, `one of ${of.join(", ")}`, v)
}

/** One number per channel; a single one is repeated. */
function perChannel({ file, values }: Fields, key: string, channels: number, absent: readonly number[]): number[] {
  const given = values.get(key) ?? absent
  const list: unknown[] = Array.isArray(given) ? given : [given]
  const each = list.length === 1 ? Array.from({ length: channels }, () => list[0]) : list
  const finite = (v: unknown): v is number => typeof v === "number" && Number.isFinite(v)
  if (each.length === channels && each.every(finite)) return each
  return refuse(file, key, channels === 1 ? "one number" : `one number or ${channels}`, given)
}

function normalisation(f: Fields, prefix: "" | "image_", channels: number, absent: Norm): Norm {
  const mean = perChannel(f, `${prefix}mean`, channels, absent.mean)
  const std = perChannel(f, `${prefix}std`, channels, absent.std)
  if (!std.every((v) => v > 0)) refuse(f.file, `${prefix}std`, "positive", std)
  return { mean, std }
}

interface Processor extends Norm {
  readonly size: unknown
  /** Whether a plain number as `size` means both edges (`default_to_square`) or the shortest one. */
  readonly square: boolean
  readonly crop: number | null
  readonly resample: number
  readonly rgb: boolean
  readonly unrounded?: true
}

/** Class defaults of transformers 5.17, by class name without `ImageProcessor...`; they hold for keys a file lacks. */
const PROCESSORS: ReadonlyMap<string, Processor> = new Map([
  ["ViT", { size: 224, square: true, crop: null, resample: 2, rgb: false, ...STANDARD }],
  ["DeiT", { size: 256, square: true, crop: 224, resample: 3, rgb: false, ...STANDARD }],
  ["Bit", { size: 224, square: false, crop: 224, resample: 3, rgb: true, ...OPENAI }],
  ["CLIP", { size: 224, square: false, crop: 224, resample: 3, rgb: true, ...OPENAI }],
  ["DINOv3ViT", { size: [224, 224], square: false, crop: null, resample: 2, rgb: false, unrounded: true, ...IMAGENET }],
  ["Siglip", { size: [224, 224], square: false, crop: null, resample: 3, rgb: true, ...STANDARD }],
])

/** Filters by PIL.Image.Resampling's numbers. */
const PIL_FILTERS: readonly Filter[] = ["nearest", "lanczos", "bilinear", "bicubic", "box", "hamming"]

/** Keys of other processors that change pixels; true here means that the file asks for what is not done. */
const UNSUPPORTED = ["do_pad", "rescale_offset", "use_square_size", "do_flip_channel_order", "do_thumbnail"] as const

function processor({ file, values }: Fields, absent: string): Processor {
  const key = values.has("image_processor_type") ? "image_processor_type" : "feature_extractor_type"
  const type = values.get(key) ?? absent
  const stem = typeof type === "string" ? type.replace(/(ImageProcessor(Fast|Pil)?|FeatureExtractor)$/, "") : ""
  const found = PROCESSORS.get(stem)
  if (found !== undefined) return found
  const names = [...PROCESSORS.keys()].map((name) => `${name}ImageProcessor`)
  return refuse(file, key, `one of ${listed(names)} (nearest: ${listed(nearest(stem.slice(0, 99), names, 1))})`, type)
}

function hfSize(f: Fields, { size, square: both }: Processor): ResizeRule {
  const { file } = f
  const v = f.values.get("size") ?? size
  if (typeof v === "number" && !flag(f, "default_to_square", both))
    return { to: "shortest", edge: edge(file, "size", v) }
  if (typeof v === "number" || Array.isArray(v)) return { to: "exact", ...square(file, "size", v) }
  const { values } = fields(v, file, "size")
  const at = (key: string): number => edge(file, `size.${key}`, values.get(key))
  switch ([...values.keys()].toSorted().join()) {
    case "height,width":
      return { to: "exact", height: at("height"), width: at("width") }
    case "shortest_edge":
      return { to: "shortest", edge: at("shortest_edge") }
    case "longest_edge,shortest_edge":
      return { to: "shortest", edge: at("shortest_edge"), longest: at("longest_edge") }
    default:
      return refuse(file, "size", "a number, {height, width}, {shortest_edge} or {shortest_edge, longest_edge}", v)
  }
}

function hfCrop({ file, values }: Fields, crop: number | null): { height: number; width: number } {
  const v = values.get("crop_size") ?? crop
  if (typeof v !== "object" || Array.isArray(v) || v === null) return square(file, "crop_size", v)
  const of = fields(v, file, "crop_size").values
  const at = (key: string): number => edge(file, `crop_size.${key}`, of.get(key))
  return { height: at("height"), width: at("width") }
}

/**
 * `preprocessor_config.json` (or `processor_config.json`) of transformers, for the ViT, DeiT, Bit (DINO, DINOv2),
 * DINOv3, CLIP and SigLIP processors under any of their names (...FeatureExtractor, ...ImageProcessor, ...Fast).
 * `type` is the processor to assume where the file names none, as files written before 2022 do; `channels` is the
 * model's `num_channels`: without it a one-value `image_mean` list means grey.
 * Errors: E_PREPROC with the key, what it must be and what it is.
 */
export function fromHf(
  json: unknown,
  file: string,
  { type = "ViTImageProcessor", channels }: { readonly type?: string; readonly channels?: 1 | 3 } = {},
): Preprocessing {
  const outer = fields(json, file, "the preprocessor config")
  const nested = outer.values.get("image_processor")
  const f = nested === undefined ? outer : fields(nested, file, "image_processor")
  const known = processor(f, type)
  for (const key of UNSUPPORTED) {
    const v = f.values.get(key) ?? false
    if (v !== false) refuse(file, key, "false (nothing else is supported)", v)
  }
  const lists = [f.values.get("image_mean"), f.values.get("image_std")].filter((v) => Array.isArray(v))
  const c = channels ?? (lists.some((v) => v.length === 1) ? 1 : 3)
  if (c === 1 && flag(f, "do_convert_rgb", known.rgb)) {
    refuse(file, "do_convert_rgb", "false for a model of one channel", true)
  }
  const fill = Array.from({ length: c }, () => 0)
  const resample = f.values.get("resample") ?? known.resample
  const filter = typeof resample === "number" ? PIL_FILTERS[resample] : undefined
  if (known.unrounded && flag(f, "do_center_crop", false)) {
    refuse(file, "do_center_crop", "false for this processor (nothing else is supported)", true)
  }
  const identity: Norm = { mean: fill, std: fill.map(() => 1) }
  return {
    channels: c,
    resize: flag(f, "do_resize", true)
      ? { ...hfSize(f, known), resample: filter ?? refuse(file, "resample", "a PIL filter, 0 to 5", resample) }
      : null,
    crop: flag(f, "do_center_crop", known.crop !== null) ? { ...hfCrop(f, known.crop), rounding: "floor", fill } : null,
    rescale: flag(f, "do_rescale", true) ? positive(f, "rescale_factor", 1 / 255) : 1,
    ...(known.unrounded && { unrounded: true }),
    ...(flag(f, "do_normalize", true) ? normalisation(f, "image_", c, known) : identity),
  }
}

/**
 * A timm `pretrained_cfg`, as `timm.data.create_transform(**resolve_data_config(...))` uses it for evaluation; with
 * `useTestSize` its `test_input_size` and `test_crop_pct` where it has them.
 * Errors: E_PREPROC with the key, what it must be and what it is.
 */
export function fromTimm(
  json: unknown,
  file: string,
  { useTestSize = false }: { readonly useTestSize?: boolean } = {},
): Preprocessing {
  const f = fields(json, file, "pretrained_cfg")
  const key = (name: string): string => (useTestSize && f.values.has(`test_${name}`) ? `test_${name}` : name)
  const sizeKey = key("input_size")
  const size = f.values.get(sizeKey) ?? [3, 224, 224]
  if (!Array.isArray(size) || size.length !== 3) return refuse(file, sizeKey, "[channels, height, width]", size)
  const channels = size[0] === 1 || size[0] === 3 ? size[0] : refuse(file, `${sizeKey}[0]`, "1 or 3 channels", size[0])
  const { height, width } = square(file, sizeKey, size.slice(1))
  const pct = positive(f, key("crop_pct"), 0.875)
  const scaled = (n: number): number => edge(file, `${sizeKey} / crop_pct`, Math.floor(n / pct))
  const target = { height: scaled(height), width: scaled(width) }
  const norm = normalisation(f, "", channels, IMAGENET)
  // "random" draws bilinear or bicubic for each image; one result for one image needs a choice, and it is open_clip's.
  const named = choice(f, "interpolation", [...FILTERS, "random"] as const, "bicubic")
  const resample = named === "random" ? "bicubic" : named
  const crop: Crop = { height, width, rounding: "half-even", fill: norm.mean.map(() => 0) }
  const base = { channels, rescale: 1 / 255, ...norm }
  const mode = choice(f, "crop_mode", ["center", "squash", "border"] as const, "center")
  if (mode === "squash") return { ...base, resize: { to: "exact", ...target, resample }, crop }
  if (mode === "border") {
    const fill = norm.mean.map((v) => roundHalfEven(255 * v))
    return { ...base, resize: { to: "contain", ...target, resample }, crop: { ...crop, fill } }
  }
  if (target.height === target.width) {
    return { ...base, resize: { to: "shortest", edge: target.height, resample }, crop }
  }
  // timm does not hand on the interpolation here, and its ResizeKeepRatio defaults to bilinear.
  return { ...base, resize: { to: "cover", ...target, resample: "bilinear" }, crop }
}

/**
 * `preprocess_cfg` and `model_cfg` of an open_clip_config.json, as `image_transform` uses them for evaluation. The size
 * is the vision tower's. Errors: E_PREPROC with the key, what it must be and what it is.
 */
export function fromOpenClip(preprocessCfg: unknown, modelCfg: unknown, file: string): Preprocessing {
  const f = fields(preprocessCfg, file, "preprocess_cfg")
  const vision = fields(fields(modelCfg, file, "model_cfg").values.get("vision_cfg"), file, "vision_cfg")
  const size = square(file, "vision_cfg.image_size", vision.values.get("image_size") ?? 224)
  choice(f, "mode", ["RGB"] as const, "RGB")
  const base = { channels: 3, rescale: 1 / 255, ...normalisation(f, "", 3, OPENAI) } as const
  const named = choice(f, "interpolation", ["bicubic", "bilinear", "random"] as const, "bicubic")
  const resample = named === "bilinear" ? "bilinear" : "bicubic" // as image_transform: random counts as bicubic
  const crop: Crop = { ...size, rounding: "half-even", fill: [0, 0, 0] }
  const mode = choice(f, "resize_mode", ["shortest", "longest", "squash"] as const, "shortest")
  if (mode === "squash") return { ...base, resize: { to: "exact", ...size, resample }, crop: null }
  if (mode === "longest") {
    const color = f.values.get("fill_color") ?? 0
    const byte = typeof color === "number" && Number.isInteger(color) && color >= 0 && color <= 255
    const fill = byte ? [color, color, color] : refuse(file, "fill_color", "an integer from 0 to 255", color)
    return { ...base, resize: { to: "contain", ...size, resample }, crop: { ...crop, fill } }
  }
  if (size.height === size.width) return { ...base, resize: { to: "shortest", edge: size.height, resample }, crop }
  // open_clip does not hand on the interpolation here, and its ResizeKeepRatio defaults to bicubic.
  return { ...base, resize: { to: "cover", ...size, resample: "bicubic" }, crop }
}
