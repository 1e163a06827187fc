/** @file What the files of a folder say of the model in it, as `vit-prisma train` and `vit-prisma convert` leave them. */
import { readdir, realpath, stat } from "node:fs/promises"
import { basename, join } from "node:path"
import { convertCheckpoint } from "../../converters/index.ts"
import { timmPretrained } from "../../converters/timm.ts"
import { readConfig, type GlobalConfig } from "../configs/index.ts"
import { fromHf, fromOpenClip, fromTimm, type Preprocessing } from "../data/preprocessing.ts"
import { fail, PrismaError } from "../errors.ts"
import { openCheckpoint } from "../files/checkpoint.ts"
import { readJson } from "../files/json.ts"
import { readError } from "../files/system-errors.ts"
import type { ModelConfig } from "../model/config.ts"
import { size } from "../tensor/tensor.ts"
import { checkpointSteps } from "../train/checkpoint.ts"
import { TRAINING_FILE } from "../train/mouse.ts"
import { exportOf, type Exported } from "./facts-export.ts"
import { evaluationOf, resultOf, type Measured, type Result } from "./facts-training.ts"

export interface CardFacts {
  /** What the card calls it; foreign text. */
  readonly name: string
  readonly model: ModelConfig
  readonly parameters: number
  /** The weights' file or index, and the bytes of the files. */
  readonly weights: { readonly file: string; readonly bytes: number; readonly dtypes: readonly string[] }
  /** What is done to an image, where the files say it in a way that can be done. */
  readonly preprocessing: Preprocessing | undefined
  /** By what it was trained here. */
  readonly training: GlobalConfig | undefined
  readonly result: Result | undefined
  /** What `vit-prisma evaluate` found: evaluation.json. */
  readonly evaluation: Measured | undefined
  readonly exported: Exported | undefined
  /** Steps with a checkpoint, and the folder that holds them. */
  readonly checkpoints: { readonly folder: string; readonly steps: readonly number[] } | undefined
  /** transformers' class, where it can load these very weights. */
  readonly transformers: string | undefined
  /** The names in the folder itself. */
  readonly files: ReadonlySet<string>
}

export interface FactOptions {
  readonly name?: string
  /** Told what is passed over. */
  readonly warn?: (message: string) => void
}

/** Files of ours and configs, whose label lists may have 2 MB. */
const JSON_RULES = { limit: 16 * 2 ** 20, malformed: "E_CONFIG", tooLarge: "E_CONFIG_LIMIT" } as const

/**
 * Errors: E_INPUT (no such folder), E_HUB_NOT_FOUND (no weights), E_CONFIG for files that say what cannot be or are of
 * different models, and those of reading a checkpoint.
 */
export async function readFacts(folder: string, { name, warn = () => {} }: FactOptions = {}): Promise<CardFacts> {
  const checkpoint = await openCheckpoint(folder)
  const files = new Set(await readdir(folder).catch((e: unknown) => readError(e, folder)))
  const read = async (file: string): Promise<unknown> =>
    files.has(file) ? readJson(join(folder, file), JSON_RULES) : undefined
  const configFile = configName(folder, files, checkpoint.source)
  const configPath = join(folder, configFile)
  const configJson = await read(configFile)
  const { config: model, weights } = convertCheckpoint(configJson, checkpoint.tensors, configPath, checkpoint.opaque)
  const parameters = [...weights.values()].reduce((n, w) => n + size(w.shape), 0)
  const at = (file: string) => join(folder, file)

  const training = files.has(TRAINING_FILE) ? await trainingOf(at(TRAINING_FILE), warn) : undefined
  const result = resultOf(await read("result.json"), at("result.json"))
  if (result?.parameters !== undefined && result.parameters !== parameters) {
    const what = `parameters are ${result.parameters}, the weights beside it have ${parameters}`
    fail("E_CONFIG", `${at("result.json")}: ${what}; it is of another model, take it away`, { file: at("result.json") })
  }
  const exported = exportOf(await read("manifest.json"), await read("certificate.json"), folder)
  const sizes = await Promise.all(checkpoint.files.map(async (file) => (await stat(file)).size))
  return {
    name: name ?? exported?.name ?? training?.saving.run_id ?? basename(await realpath(folder)),
    model,
    parameters,
    weights: {
      file: checkpoint.source,
      bytes: sizes.reduce((a, b) => a + b, 0),
      dtypes: [...new Set([...checkpoint.tensors.values()].map((t) => t.dtype))].sort(),
    },
    preprocessing: await preprocessingOf(model, configJson, configPath, read, at("preprocessor_config.json")),
    training,
    result,
    evaluation: evaluationOf(await read("evaluation.json"), at("evaluation.json")),
    exported,
    checkpoints: training && (await checkpointsOf(folder, training)),
    transformers: transformersClass(model, configJson),
    files,
  }
}

/** As `loadPretrained` chooses: open_clip's config where the weights are open_clip's. */
function configName(folder: string, files: ReadonlySet<string>, weights: string): string {
  const order = ["config.json", "open_clip_config.json"]
  const found = (weights.startsWith("open_clip") ? order.toReversed() : order).find((name) => files.has(name))
  return (
    found ?? fail("E_CONFIG", `${folder}: holds weights but no config.json, which says what they are`, { file: folder })
  )
}

/** Another project's file of that name is passed over. */
async function trainingOf(file: string, warn: (message: string) => void): Promise<GlobalConfig | undefined> {
  try {
    return await readConfig(file)
  } catch (error) {
    if (!(error instanceof PrismaError)) throw error
    warn(`how it was trained is not known: ${error.message}`)
    return undefined
  }
}

async function preprocessingOf(
  { family, vision }: ModelConfig,
  json: unknown,
  configPath: string,
  read: (file: string) => Promise<unknown>,
  path: string,
): Promise<Preprocessing | undefined> {
  const config = json as Readonly<Record<string, unknown>>
  const processor = await read("preprocessor_config.json")
  const n = vision.nChannels
  const channels = n === 1 ? { channels: 1 as const } : n === 3 ? { channels: 3 as const } : {}
  try {
    if (family === "timm") return fromTimm(timmPretrained(config), configPath)
    if (family === "open-clip") return fromOpenClip(config["preprocess_cfg"] ?? {}, config["model_cfg"], configPath)
    return processor === undefined ? undefined : fromHf(processor, path, channels)
  } catch (error) {
    // What cannot be done is not described either.
    if (error instanceof PrismaError && error.code === "E_PREPROC") return undefined
    throw error
  }
}

/** A checkpoint's own folder has none below it. */
async function checkpointsOf(folder: string, { saving }: GlobalConfig): Promise<CardFacts["checkpoints"]> {
  const name = saving.save_dir
  if (!/^[\w-]+$/.test(name)) return undefined
  const steps = await checkpointSteps(join(folder, name))
  return steps.length ? { folder: name, steps } : undefined
}

/** Weights under other libraries' names lie beside a config that transformers.js takes and transformers does not. */
function transformersClass({ family, architecture }: ModelConfig, json: unknown): string | undefined {
  const { architectures } = json as { architectures?: unknown }
  return family.startsWith("hf-") && Array.isArray(architectures) ? architecture : undefined
}
