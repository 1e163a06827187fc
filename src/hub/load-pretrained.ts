/** @file From a folder or a repo id to a hooked model. */
import { readdir, realpath } from "node:fs/promises"
import { join } from "node:path"
import { convertCheckpoint, refuseUnsupported } from "../../converters/index.ts"
import { timmPretrained } from "../../converters/timm.ts"
import { decodeImage, type Image } from "../data/image.ts"
import { batch, fromHf, fromOpenClip, fromTimm, outputSize, type Preprocessing } from "../data/preprocess.ts"
import { fail, PrismaError } from "../errors.ts"
import { openCheckpoint, type Checkpoint } from "../files/checkpoint.ts"
import { readJson } from "../files/json.ts"
import { checkManifest } from "../files/manifest.ts"
import { safeRelPath } from "../files/paths.ts"
import { readTensor } from "../files/safetensors-file.ts"
import { readError } from "../files/system-errors.ts"
import { HookedViT, type HookedViTParts } from "../interp/hooked-vit.ts"
import type { ModelConfig } from "../model/config.ts"
import { nodeRuntime } from "../runtime/node.ts"
import type { OrtModule } from "../runtime/ort.ts"
import type { Runtime, RuntimeOptions } from "../runtime/runtime.ts"
import type { Tensor } from "../tensor/tensor.ts"
import { fileIn, isFile, isFolder } from "./cache.ts"
import { checkpointAt, listCheckpoints } from "./checkpoints.ts"
import { downloadModel, type DownloadProgress } from "./download.ts"
import { configFor } from "./needed.ts"
import type { HubOptions } from "./settings.ts"

export interface LoadOptions extends RuntimeOptions, HubOptions {
  /** Branch, tag or commit of a repo; "main". */
  readonly revision?: string
  /** The folder of the repo, or of the folder, that the model is in; by default its root. */
  readonly subfolder?: string
  /** The checkpoint of this step of the run that the folder or repo holds. */
  readonly checkpoint?: number
  /** Told how far the download of a repo is. */
  readonly onProgress?: (progress: DownloadProgress) => void
  /** Told at once why a request waits and is tried again; by default that is among the warnings. */
  readonly onWait?: (text: string) => void
  /** Ends a download. */
  readonly signal?: AbortSignal
  /** Read PyTorch pickles (.bin, .pth) where there is no safetensors. */
  readonly allowPickle?: boolean
  /** Build for another image size in pixels: the position table is resampled as its library does. */
  readonly imageSize?: number | readonly [height: number, width: number]
  /** An onnxruntime module in place of onnxruntime-node. */
  readonly module?: OrtModule
  /** A runtime that several models share. */
  readonly runtime?: Runtime
}

/** Where a model came from. */
export interface ModelSource {
  /** As it was asked for. */
  readonly name: string
  readonly folder: string
  /** Of a repo's model, the commit that its files are of. */
  readonly commit?: string
  /** What was odd about finding the files. */
  readonly warnings?: readonly string[]
  /** "config.json" or "open_clip_config.json". */
  readonly configFile: string
  readonly configJson: unknown
  readonly checkpoint: Checkpoint
}

/** A model from a checkpoint, with its repo's own preprocessing. */
export class LoadedViT extends HookedViT {
  readonly source: ModelSource
  readonly warnings: readonly string[]
  readonly #preprocessing: Preprocessing | PrismaError | undefined
  readonly #options: LoadOptions

  constructor(
    parts: HookedViTParts,
    source: ModelSource,
    preprocessing: Preprocessing | PrismaError | undefined,
    options: LoadOptions = {},
  ) {
    super(parts)
    this.#options = options
    this.source = source
    const unusable = preprocessing instanceof PrismaError ? [`images cannot be prepared: ${preprocessing.message}`] : []
    this.warnings = [...(source.warnings ?? []), ...source.checkpoint.warnings, ...unusable]
    this.#preprocessing = preprocessing
  }

  /** What the repo says is done to images. Error: E_PREPROC where it says nothing, or another size than the model's. */
  get preprocessing(): Preprocessing {
    const p = this.#preprocessing
    if (p instanceof PrismaError) throw p
    if (!p)
      return fail(
        "E_PREPROC",
        `${this.source.folder} has no preprocessor_config.json: images cannot be prepared, feed tensors`,
      )
    const { imageSize, nChannels } = this.config.vision
    const [height, width] = imageSize
    const got = outputSize({ height, width }, p)
    if (got.height !== height || got.width !== width) {
      fail(
        "E_PREPROC",
        `${this.source.folder}: preprocessing gives ${got.height}x${got.width} pixels, the model takes ${height}x${width}; load it with imageSize`,
      )
    }
    if (p.channels !== nChannels) {
      const what = `preprocessing gives ${p.channels} channels, the model takes ${nChannels}; feed tensors`
      fail("E_PREPROC", `${this.source.folder}: ${what}`)
    }
    return p
  }

  /** The steps of the run that left this model, ascending: `loadPretrained(name, { checkpoint })` loads each. Errors: those of the Hub. */
  async checkpoints(): Promise<readonly number[]> {
    return [...(await listCheckpoints(this.source.name, this.#options)).keys()]
  }

  /** Does the repo say what is done to images, in a way that can be done? */
  get hasPreprocessing(): boolean {
    return this.#preprocessing !== undefined && !(this.#preprocessing instanceof PrismaError)
  }

  /** Image files (paths), their bytes, or decoded images, as pixel_values [b, c, H, W]. */
  async images(...sources: readonly (string | Uint8Array | Image)[]): Promise<Tensor<"float32">> {
    const decoded: Image[] = []
    for (const s of sources) decoded.push(typeof s === "string" || s instanceof Uint8Array ? await decodeImage(s) : s)
    return batch(decoded, this.preprocessing)
  }
}

/**
 * Load a vision model: a folder as the Hub lays it out, or a repo id, whose files are downloaded into the Hub cache where it
 * lacks them (docs/hub.md). A folder goes before a repo id of the same spelling.
 *
 * Weights are looked for as model.safetensors, then as open_clip_model.safetensors, then as pickles. Of two configs,
 * config.json counts, unless the weights are open_clip's: then open_clip_config.json does.
 *
 * Only headers are read; weights stay in their files, which onnxruntime maps. Errors: E_INPUT (no such folder),
 * E_REPO_ID, E_REVISION, E_HUB_*, E_NETWORK, E_OFFLINE, E_CACHE_*, E_INTEGRITY, E_UNSAFE_*, E_DISK_FULL, E_USAGE (a name or image size of another kind),
 * E_CONFIG*, E_UNSUPPORTED_*, E_AMBIGUOUS_PREFIX, E_SHAPE_MISMATCH, E_MISSING_TENSORS, E_UNEXPECTED_TENSORS and those of
 * the files.
 */
export async function loadPretrained(name: string, options: LoadOptions = {}): Promise<LoadedViT> {
  const { allowPickle = false, imageSize } = options
  const { folder, ...from } = await folderOf(name, { ...options, ...(await placeOf(name, options)) })
  // The graph of an exported folder is not read here.
  await checkManifest(folder, (name) => !name.startsWith("onnx/"))
  const checkpoint = await openCheckpoint(folder, { allowPickle })
  const configFile = configFor(await readdir(folder), checkpoint.source, folder, { file: folder })
  const path = await fileIn(folder, configFile)
  const configJson = await readJson(path, CONFIG)
  const { config, weights } = convertCheckpoint(configJson, checkpoint.tensors, path, checkpoint.opaque)
  const found = await preprocessingOf(folder, path, configJson, config).catch(unusable)
  const usable = found instanceof PrismaError ? undefined : found
  const built = sized(config, imageSize, usable, path)
  const preprocessing = usable && imageSize !== undefined ? fitted(usable, built.vision.imageSize) : found
  const parts: HookedViTParts = {
    config: built,
    weights,
    runtime: runtimeOf(options),
    read: readTensor,
  }
  return new LoadedViT(parts, { name, folder, ...from, configFile, configJson, checkpoint }, preprocessing, options)
}

/** Where in the folder or repo the model is. */
async function placeOf(name: string, options: LoadOptions): Promise<Pick<LoadOptions, "revision" | "subfolder">> {
  const { checkpoint: step } = options
  if (step === undefined) return {}
  if (Number.isSafeInteger(step) && step >= 0) return checkpointAt(name, step, options)
  return fail("E_USAGE", `checkpoint must be a step of the run, got ${String(step)}`)
}

/** A runtime with the options that are its own. */
function runtimeOf({ runtime, ...options }: LoadOptions): Runtime {
  const { module, device, threads, prepack, memoryBudget, flushSubnormals, session } = options
  const given = { module, device, threads, prepack, memoryBudget, flushSubnormals, session }
  const set = Object.fromEntries(Object.entries(given).filter(([, value]) => value !== undefined))
  return runtime ?? nodeRuntime(set)
}

// Label lists of 21,843 classes make a config of 2 MB.
const CONFIG = { limit: 16 * 2 ** 20, malformed: "E_CONFIG", tooLarge: "E_CONFIG_LIMIT" } as const

/** A folder goes before a repo id of the same spelling; what is neither is refused by its form. */
async function folderOf(
  name: string,
  options: LoadOptions,
): Promise<Pick<ModelSource, "folder" | "commit" | "warnings">> {
  // Callers without types.
  if (typeof name !== "string") return fail("E_USAGE", `the model must be a folder or a repo id, got ${typeof name}`)
  const looksLikePath = /^(\.{0,2}[/\\]|~|[a-zA-Z]:)|[/\\]$/.test(name) || name === "."
  if (await isFolder(name)) {
    const names = await readdir(name).catch((e: unknown) => readError(e, name))
    // A run that has not ended has its models in folders below it alone.
    const isThere = options.subfolder !== undefined && (await isFolder(join(name, options.subfolder)))
    if (looksLikePath || isThere || names.length === 0 || names.some((n) => OF_MODEL.test(n)))
      return { folder: await below(name, options.subfolder) }
  } else if (looksLikePath || (await isFile(name))) {
    const what = (await isFile(name)) ? "is a file; give the folder it is in" : "no such folder"
    return fail("E_INPUT", `${name}: ${what}`, { file: name })
  }
  const seeConfig = async (path: string) => refuseUnsupported(await readJson(path, CONFIG), path)
  const { folder, commit, warnings } = await downloadModel(name, { ...options, seeConfig })
  return { folder, commit, warnings }
}

async function below(folder: string, subfolder: string | undefined): Promise<string> {
  if (!subfolder) return realpath(folder)
  const path = join(folder, safeRelPath(subfolder, "subfolder"))
  return (await isFolder(path)) ? realpath(path) : fail("E_INPUT", `${path}: no such folder`, { file: path })
}

const OF_MODEL = /^(open_clip_)?config\.json$|\.(safetensors|bin|pth|pt)$/

/** What transformers takes for a model whose preprocessor_config.json names no processor, by how its class is called. */
const PROCESSORS = [
  [/^DeiT/, "DeiTImageProcessor"],
  [/^Dinov2/, "BitImageProcessor"],
  [/^DINOv3/, "DINOv3ViTImageProcessor"],
  [/^CLIP/, "CLIPImageProcessor"],
  [/^Siglip/, "SiglipImageProcessor"],
] as const

async function preprocessingOf(
  folder: string,
  configPath: string,
  json: unknown,
  { family, architecture, vision }: ModelConfig,
): Promise<Preprocessing | undefined> {
  const config = json as Readonly<Record<string, unknown>>
  if (family === "timm") return fromTimm(timmPretrained(config), configPath)
  if (family === "open-clip") return fromOpenClip(config["preprocess_cfg"] ?? {}, config["model_cfg"], configPath)
  const found = await processorOf(folder)
  if (!found) return undefined
  const { nChannels } = vision
  const channels = nChannels === 1 ? { channels: 1 as const } : nChannels === 3 ? { channels: 3 as const } : {}
  const type = PROCESSORS.find(([name]) => name.test(architecture))?.[1]
  return fromHf(found.json, found.path, { ...channels, ...(type && { type }) })
}

/** As transformers looks for it: nested in a processor_config.json, most of which do not have it, before the other. */
async function processorOf(folder: string): Promise<{ path: string; json: unknown } | undefined> {
  const names = await readdir(folder)
  for (const name of ["processor_config.json", "preprocessor_config.json"].filter((n) => names.includes(n))) {
    const path = await fileIn(folder, name)
    const json = await readJson(path, CONFIG)
    const nested = (json as { image_processor?: unknown } | null)?.image_processor !== undefined
    if (nested || name === "preprocessor_config.json") return { path, json }
  }
  return undefined
}

/** What is wrong with a preprocessing waits until images are prepared: timm writes three means for one channel. */
function unusable(error: unknown): PrismaError {
  if (error instanceof PrismaError && error.code === "E_PREPROC") return error
  throw error
}

/** The config at another image size; where the model takes any, at that of its preprocessing. */
function sized(
  config: ModelConfig,
  asked: LoadOptions["imageSize"],
  p: Preprocessing | undefined,
  file: string,
): ModelConfig {
  const { vision } = config
  const own =
    vision.anySize && p ? outputSize({ height: vision.imageSize[0], width: vision.imageSize[1] }, p) : undefined
  const [h, w] = asked === undefined ? (own ? [own.height, own.width] : vision.imageSize) : pixels(asked)
  if (h === vision.imageSize[0] && w === vision.imageSize[1]) return config
  if (h % vision.patchSize[0] || w % vision.patchSize[1]) {
    fail(
      "E_CONFIG",
      `${file}: image size ${h}x${w} is not a multiple of the patch size ${vision.patchSize.join("x")}`,
      { file },
    )
  }
  return { ...config, vision: { ...vision, imageSize: [h, w] } }
}

/** Largest edge of an image that is asked for, in pixels; configs may name no larger one either. */
const MAX_EDGE = 8192

function pixels(asked: NonNullable<LoadOptions["imageSize"]>): readonly [number, number] {
  const both = typeof asked === "number" ? ([asked, asked] as const) : asked
  const fits = (n: number): boolean => Number.isInteger(n) && n >= 1 && n <= MAX_EDGE
  if (Array.isArray(both) && both.length === 2 && both.every(fits)) return both
  return fail("E_USAGE", `imageSize must be one integer from 1 to ${MAX_EDGE} or [height, width], got ${String(asked)}`)
}

/** The same steps for another size: what was cropped away stays the same share of the image. */
function fitted(p: Preprocessing, [height, width]: readonly [number, number]): Preprocessing {
  const crop = p.crop && { ...p.crop, height, width }
  if (!p.resize || !p.crop)
    return { ...p, crop, resize: p.resize && { to: "exact", height, width, resample: p.resize.resample } }
  const scaled = (edge: number) =>
    Math.round((edge * Math.min(height, width)) / Math.min(p.crop!.height, p.crop!.width))
  if (p.resize.to === "shortest") return { ...p, crop, resize: { ...p.resize, edge: scaled(p.resize.edge) } }
  return { ...p, crop, resize: { ...p.resize, height: scaled(p.resize.height), width: scaled(p.resize.width) } }
}
