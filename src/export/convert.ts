/** @file A checkpoint as a folder that transformers.js, plain onnxruntime and this package load. */
import { copyFile, link, mkdir, readdir, readFile, realpath, stat } from "node:fs/promises"
import { isAbsolute, join, relative, resolve, sep } from "node:path"
import { isDeepStrictEqual } from "node:util"
import { convertCheckpoint } from "../../converters/index.ts"
import { fail } from "../errors.ts"
import { publishFolder, writeFileAtomic } from "../files/atomic.ts"
import { jsonLike, readJson } from "../files/json.ts"
import { writeManifest } from "../files/manifest.ts"
import { openSafetensors, readTensor, writeSafetensors } from "../files/safetensors-file.ts"
import type { Shape } from "../graph/dims.ts"
import { emit, type Values } from "../graph/emit.ts"
import { input, orElse } from "../graph/ops.ts"
import type { Value } from "../graph/value.ts"
import type { LoadedViT } from "../hub/load-pretrained.ts"
import type { ModelConfig } from "../model/config.ts"
import { matchHooks, type HookNames } from "../model/hooks.ts"
import { build } from "../model/model.ts"
import type { Weights } from "../model/scope.ts"
import { toFloat32 } from "../tensor/numbers.ts"
import type { StoredTensor, Tensor } from "../tensor/tensor.ts"
import { version } from "../version.ts"
import { certify, type Certificate } from "./certify.ts"
import { transformersConfig, transformersProcessor, usablePreprocessing } from "./transformers-config.ts"

export interface ConvertOptions {
  /** Hooks that become outputs. */
  readonly hooks?: HookNames
  /**
   * Hooks that become inputs: what is fed replaces what is computed; fed with an empty first axis, nothing changes.
   * (ONNX's defaults of inputs cannot serve: onnxruntime's JavaScript interface never feeds an input that has one.)
   */
  readonly inputs?: HookNames
  /** Compare everything put out with a float64 implementation of its own; above `tolerance` nothing is published. */
  readonly certify?: boolean
  /** Largest |a - b| over max(1, max |b|) that is certified; 1e-4. */
  readonly tolerance?: number
  /** Replace a folder that exists. */
  readonly force?: boolean
  readonly onProgress?: (step: string, done: number, total: number) => void
}

export interface Converted {
  readonly folder: string
  readonly warnings: readonly string[]
  readonly certificate: Certificate | undefined
}

/**
 * Write `folder`: `onnx/model.onnx` with its weights in `onnx/model.onnx_data`, the weights as safetensors under their
 * source's names, the configs and a manifest. The folder appears whole or not at all.
 *
 * Errors: E_OUTPUT, E_LOCKED, E_DISK_FULL, E_IO, E_PARITY (the report is then beside the folder), E_HOOK.
 */
export async function convertModel(model: LoadedViT, folder: string, options: ConvertOptions = {}): Promise<Converted> {
  const { onProgress = () => {}, tolerance = 1e-4, force = false } = options
  await refuseToReplaceSource(model, folder)
  const outputs = options.hooks === undefined ? [] : matchHooks(model.hooks, options.hooks)
  const replaceable = options.inputs === undefined ? [] : matchHooks(model.hooks, options.inputs)
  refuseSplitNorms(replaceable)
  return publishFolder(
    folder,
    async (temp) => {
      onProgress("weights", 0, 1)
      const warnings = [...model.warnings, ...(await suspicious(model.source.checkpoint.tensors))]
      const file = await writeWeights(model, temp)
      await writeConfigs(model, temp)
      onProgress("weights", 1, 1)
      const { config, weights } = await reopened(model, file)
      warnings.push(...otherSize(model, config))
      const graph = await writeGraph(model, temp, file, weights, outputs, replaceable)
      const certificate = options.certify ? await certify(model, join(temp, "onnx"), graph, onProgress) : undefined
      if (certificate) await checked(certificate, tolerance, temp, folder)
      await writeManifest(temp, about(model, graph, certificate))
      return { folder, warnings, certificate }
    },
    { force },
  )
}

/** Where a split input can be fed, q, k or v has a norm of its own, and ln1's hooks would no longer reach it. */
function refuseSplitNorms(replaceable: readonly string[]): void {
  for (const name of replaceable) {
    const [, block] = /^(.*)hook_[qkv]_input$/.exec(name) ?? []
    const norm = block === undefined ? undefined : replaceable.find((other) => other.startsWith(`${block}ln1.`))
    if (norm === undefined) continue
    fail("E_HOOK", `"${name}" takes a norm of its own, so "${norm}" cannot become an input beside it; choose one`)
  }
}

/** What the exported model takes and gives. */
export interface ExportedGraph {
  readonly inputs: Readonly<
    Record<string, { readonly dtype: string; readonly shape: Shape; readonly replaces?: string }>
  >
  readonly outputs: Readonly<Record<string, { readonly shape: Shape }>>
}

/** The source's tensors in one file; the name tells whose layout it is. */
async function writeWeights({ source: { checkpoint } }: LoadedViT, temp: string): Promise<string> {
  const name = checkpoint.source.startsWith("open_clip") ? "open_clip_model.safetensors" : "model.safetensors"
  const path = join(temp, name)
  await writeSafetensors(path, checkpoint.tensors, { format: "pt" })
  return path
}

async function writeConfigs(model: LoadedViT, temp: string): Promise<void> {
  const { folder, configFile, configJson } = model.source
  const isOurs = configFile === "config.json"
  if (!isOurs) await copyFile(join(folder, configFile), join(temp, configFile))
  const config = transformersConfig(model, isOurs ? configJson : {})
  const source = isOurs ? await readFile(join(folder, configFile), "utf8") : "{}"
  await writeFileAtomic(join(temp, "config.json"), jsonLike(config, source))
  for (const name of TOKENIZER) await copied(folder, name, temp)
  await writeProcessor(model, temp)
}

const PROCESSOR = "preprocessor_config.json"

/** What transformers and transformers.js read beside a text tower. */
const TOKENIZER = [
  "tokenizer.json",
  "tokenizer_config.json",
  "special_tokens_map.json",
  "added_tokens.json",
  "vocab.json",
  "merges.txt",
  "spiece.model",
]

/** Copy a file of the source, if it has it. */
async function copied(folder: string, name: string, temp: string): Promise<void> {
  const found = await stat(join(folder, name)).catch(() => undefined)
  if (found?.isFile()) await copyFile(join(folder, name), join(temp, name))
}

/**
 * The source's file with every step spelt out: transformers fills in what a file leaves out, transformers.js does not
 * (without `do_normalize` it does not normalise). Where nothing was left out, and nothing changed, the file itself.
 */
async function writeProcessor(model: LoadedViT, temp: string): Promise<void> {
  const { folder } = model.source
  const preprocessing = usablePreprocessing(model)
  if (!preprocessing) return copied(folder, PROCESSOR, temp)
  const there = (await readdir(folder)).includes(PROCESSOR)
  const path = join(folder, PROCESSOR)
  const own = Object(there ? await readJson(path, RULES) : {}) as Readonly<Record<string, unknown>>
  const type = own["image_processor_type"] ?? own["feature_extractor_type"]
  const steps = { ...transformersProcessor(preprocessing), ...(type !== undefined && { image_processor_type: type }) }
  const spelt = { ...own, image_processor: undefined, ...steps } // nested, it would go before the steps
  if (isDeepStrictEqual(spelt, { image_processor: undefined, ...own })) return copied(folder, PROCESSOR, temp)
  await writeFileAtomic(join(temp, PROCESSOR), jsonLike(spelt, there ? await readFile(path, "utf8") : "{}"))
}

const RULES = { limit: 2 ** 24, malformed: "E_PREPROC", tooLarge: "E_PREPROC" } as const

/** With `force` a folder is replaced: not the one that is read. */
async function refuseToReplaceSource({ source }: LoadedViT, folder: string): Promise<void> {
  const target = await realpath(folder).catch(() => resolve(folder))
  for (const read of [source.folder, ...source.checkpoint.files]) {
    const below = relative(target, read)
    if (below === ".." || below.startsWith(`..${sep}`) || isAbsolute(below)) continue
    const what = `holds what is converted (${read}) and is never replaced by it; choose another folder`
    fail("E_OUTPUT", `${folder}: ${what}`, { file: folder })
  }
}

/** The graph has one image size; the written config keeps the checkpoint's. One of any size follows the preprocessing. */
function otherSize(model: LoadedViT, written: ModelConfig): string[] {
  const [now, own] = [model.config, written].map(({ vision }) => vision.imageSize.join("x"))
  if (now === own || (written.vision.anySize && model.hasPreprocessing)) return []
  return [`the graph takes ${now} pixels, the config says ${own}: load the folder with imageSize ${now}`]
}

/** The graph over the written file, which stands beside it under the name that transformers.js looks for. */
async function writeGraph(
  model: LoadedViT,
  temp: string,
  file: string,
  weights: Weights,
  outputs: readonly string[],
  replaceable: readonly string[],
): Promise<ExportedGraph> {
  await mkdir(join(temp, "onnx"))
  // One file under two names: the same bytes are a safetensors file and ONNX external data.
  const data = join(temp, "onnx", "model.onnx_data")
  await link(file, data).catch(() => copyFile(file, data))

  const placeholders: Record<string, Value> = {}
  const built = build(model.config, weights, {
    reads: (name) => outputs.includes(name),
    writes: (name) => replaceable.includes(name),
    write: (name, computed) => {
      if (!replaceable.includes(name)) return computed
      const fed = inputName(name, outputs)
      const own = computed.shape.map((d, i) => (i === 0 || typeof d === "string" ? `${fed}:${i}` : d))
      placeholders[fed] = input(fed, own)
      return orElse(placeholders[fed], computed)
    },
  })
  const hooks = Object.fromEntries(outputs.map((name) => [name, built.scope.hooks.get(name)!.value]))
  const inputs: Values = { ...built.inputs, ...placeholders }
  const all: Values = { ...built.outputs, ...hooks }
  const metadata = { "vit-prisma": version, family: model.config.family, architecture: model.config.architecture }
  const { bytes } = emit(inputs, all, { locate: () => "model.onnx_data", named: true, metadata })
  await writeFileAtomic(join(temp, "onnx", "model.onnx"), bytes)
  const replaces = new Map(replaceable.map((name) => [inputName(name, outputs), name]))
  return {
    inputs: Object.fromEntries(
      Object.entries(inputs).map(([name, v]) => {
        const hook = replaces.get(name)
        return [name, { dtype: v.dtype, shape: v.shape, ...(hook !== undefined && { replaces: hook }) }]
      }),
    ),
    outputs: Object.fromEntries(Object.entries(all).map(([name, v]) => [name, { shape: v.shape }])),
  }
}

/** A hook's own name; where that is an output already, with `.in` behind it. */
const inputName = (hook: string, outputs: readonly string[]): string => (outputs.includes(hook) ? `${hook}.in` : hook)

/** The model's weights as views into the written file, and its config, by the same converter. */
async function reopened(model: LoadedViT, file: string): Promise<{ config: ModelConfig; weights: Weights }> {
  const opened = await openSafetensors(file)
  const tensors = new Map([...opened.entries.keys()].map((name) => [name, opened.stored(name)]))
  return convertCheckpoint(model.source.configJson, tensors, model.source.configFile)
}

async function suspicious(tensors: ReadonlyMap<string, Tensor | StoredTensor>): Promise<string[]> {
  const warnings: string[] = []
  for (const [name, stored] of tensors) {
    const values = toFloat32("data" in stored ? stored : await readTensor(stored))
    let count = 0
    for (const v of values) if (!Number.isFinite(v)) count++
    if (count) warnings.push(`the tensor "${name}" holds ${count} values that are NaN or infinite`)
  }
  return warnings
}

async function checked(certificate: Certificate, tolerance: number, temp: string, folder: string): Promise<void> {
  // JSON has no infinity, which stands for a value that is no number.
  const said = (_: string, v: unknown) => (typeof v === "number" && !Number.isFinite(v) ? String(v) : v)
  const report = `${JSON.stringify({ ...certificate, tolerance }, said, 2)}\n`
  const wrong = certificate.values.filter((v) => !(v.error <= tolerance))
  if (!wrong.length) return writeFileAtomic(join(temp, "certificate.json"), report)
  const kept = `${folder.replace(/[/\\]+$/, "")}.certificate.json`
  await writeFileAtomic(kept, report)
  const worst = wrong.reduce((a, b) => (b.error > a.error ? b : a))
  const by = Number.isFinite(worst.error) ? `by ${worst.error}` : "which holds values that are no numbers"
  return fail(
    "E_PARITY",
    `${wrong.length} of ${certificate.values.length} values differ from the float64 implementation by more than ${tolerance}, the worst "${worst.name}" ${by}; nothing was published, the report is ${kept}`,
    { file: kept },
  )
}

function about(model: LoadedViT, graph: ExportedGraph, certificate: Certificate | undefined): Record<string, unknown> {
  const { name, folder, checkpoint } = model.source
  const commit = /[/\\]snapshots[/\\]([0-9a-f]{40})$/.exec(folder)?.[1]
  return {
    tool: { name: "vit-prisma", version },
    source: {
      name: commit ? name : name.split(/[/\\]/).findLast((part) => part),
      ...(commit && { commit }),
      weights: checkpoint.source,
      ...(checkpoint.unused.length && { unused: checkpoint.unused }),
    },
    family: model.config.family,
    architecture: model.config.architecture,
    parameters: model.nParameters,
    ...graph,
    ...(certificate && {
      certificate: { worst: Math.max(...certificate.values.map((v) => v.error)), values: certificate.values.length },
    }),
  }
}
