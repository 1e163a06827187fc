/** @file vit-prisma activations: hooks and outputs of a run into a safetensors file. */
import { fail, listed } from "../errors.ts"
import { openSafetensors, readTensor, writeSafetensors } from "../files/safetensors-file.ts"
import { sourceGradients } from "../hub/source-gradients.ts"
import type { LoadedViT } from "../hub/load-pretrained.ts"
import type { ModelInput } from "../interp/feeds.ts"
import { unknownHook } from "../model/hooks.ts"
import { toFloat32 } from "../tensor/numbers.ts"
import { quote } from "../tensor/quote.ts"
import { float32, show, type Tensor } from "../tensor/tensor.ts"
import type { DatasetOptions } from "./batch-activations.ts"
import {
  bytes,
  counted,
  loadModel,
  note,
  print,
  printJson,
  refuseOverwriting,
  table,
  type ModelOptions,
} from "./output.ts"

export interface ActivationsOptions extends ModelOptions {
  readonly input?: string
  readonly out: string
  readonly hooks?: readonly string[]
  readonly patch?: readonly string[]
  readonly grad?: string
  readonly gradParams?: boolean
}

export async function activations(
  name: string,
  paths: readonly string[],
  options: ActivationsOptions & DatasetOptions,
): Promise<void> {
  const { data } = options
  if (data !== undefined) {
    if (paths.length) fail("E_USAGE", "give either images or --data, a dataset")
    return (await import("./batch-activations.ts")).datasetActivations(name, { ...options, data })
  }
  for (const key of ["positions", "shard", "queue", "cancel"] as const) {
    if (options[key] !== undefined) fail("E_USAGE", `--${key} is for a dataset; give --data NAME or PATH`)
  }
  if ((options.input === undefined) === (paths.length === 0)) {
    fail("E_USAGE", "give either --input FILE.safetensors, images, or --data, a dataset")
  }
  if (options.gradParams && options.grad === undefined) fail("E_USAGE", "--grad-params wants --grad METRIC")
  if (options.grad !== undefined && !options.gradParams && !options.hooks?.length) {
    fail("E_USAGE", "--grad wants --hooks GLOB, --grad-params or both: what to differentiate at")
  }
  const model = await loadModel(name, options)
  const files = patchFiles(options.patch ?? [], model)
  const read = [...paths, ...(options.input === undefined ? [] : [options.input]), ...files.values()]
  await refuseOverwriting(options.out, [...read, ...model.source.checkpoint.files])
  const patch: Record<string, Tensor> = {}
  for (const [hook, path] of files) patch[hook] = await readPatch(hook, path)
  const given = options.input === undefined ? await model.images(...paths) : await readInput(options.input, model)
  const { cache, ...outputs } = await model.runWithCache(given, {
    names: options.hooks?.length ? options.hooks : () => false,
    patch,
  })
  const tensors = new Map<string, Tensor>([...Object.entries(outputs), ...cache])
  if (options.grad !== undefined) {
    const { gradParams = false, hooks = [] } = options
    const { hooks: at, params } = await model.gradients(given, options.grad, { at: hooks, params: gradParams, patch })
    for (const [hook, t] of at) tensors.set(`grad.${hook}`, t)
    for (const [source, t] of sourceGradients(model, params)) tensors.set(`grad.param.${source}`, t)
  }
  await writeSafetensors(options.out, tensors)
  const rows = [...tensors].map(([tensor, { shape, data }]) => ({ name: tensor, shape, bytes: data.byteLength }))
  if (options.format === "json") return printJson({ file: options.out, tensors: rows })
  print(table(rows.map((r) => [r.name, show(r.shape), bytes(r.bytes)])))
  note(`wrote ${counted(rows.length, "tensor")} to ${options.out}`)
}

/** `pixel_values` of any number type and, of a dual encoder, `input_ids` of any number type. */
async function readInput(path: string, model: LoadedViT): Promise<ModelInput> {
  const wanted = model.config.text ? ["pixel_values", "input_ids"] : ["pixel_values"]
  const tensors = await readTensors(path, wanted)
  const pixels = tensors.get("pixel_values")
  const ids = tensors.get("input_ids")
  return {
    ...(pixels && { pixel_values: float32(pixels.shape, toFloat32(pixels)) }),
    ...(ids && { input_ids: ids.dtype.includes("int") ? ids : float32(ids.shape, toFloat32(ids)) }),
  }
}

/** Each hook that is to be replaced, and the file that holds what replaces it. Errors: E_USAGE, E_HOOK. */
function patchFiles(texts: readonly string[], { hooks }: LoadedViT): Map<string, string> {
  const files = new Map<string, string>()
  for (const text of texts) {
    const at = text.indexOf("=")
    if (at < 1 || at === text.length - 1) fail("E_USAGE", `--patch wants HOOK=FILE.safetensors, got "${text}"`)
    const hook = text.slice(0, at)
    if (!hooks.has(hook)) unknownHook(hooks, hook)
    if (files.has(hook)) fail("E_USAGE", `--patch names the hook "${hook}" twice`)
    files.set(hook, text.slice(at + 1))
  }
  return files
}

async function readPatch(hook: string, path: string): Promise<Tensor> {
  const found = (await readTensors(path, [hook])).get(hook)!
  return float32(found.shape, toFloat32(found))
}

/** Those of the wanted tensors that the file has, at least one. Error: E_INPUT. */
async function readTensors(path: string, wanted: readonly string[]): Promise<Map<string, Tensor>> {
  const file = await openSafetensors(path)
  const found = wanted.filter((name) => file.entries.has(name))
  if (!found.length) {
    const names = [...file.entries.keys()].map(quote)
    const what = `holds no ${wanted.map((name) => `"${name}"`).join(" or ")}; it has ${listed(names, 6) || "no tensor"}`
    fail("E_INPUT", `${path}: ${what}`, { file: path })
  }
  const tensors = new Map<string, Tensor>()
  for (const name of found) tensors.set(name, await readTensor(file.stored(name)))
  return tensors
}
