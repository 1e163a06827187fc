/** @file vit-prisma activations: hooks and outputs of a run into a safetensors file. */
import { fail, listed } from "../errors.ts"
import { openSafetensors, readTensor, writeSafetensors } from "../files/safetensors-file.ts"
import type { LoadedViT } from "../hub/load-pretrained.ts"
import type { ModelInput } from "../interp/feeds.ts"
import { toFloat32 } from "../tensor/numbers.ts"
import { float32, show, type Tensor } from "../tensor/tensor.ts"
import { bytes, loadModel, note, print, printJson, table, type ModelOptions } from "./output.ts"

export interface ActivationsOptions extends ModelOptions {
  readonly input?: string
  readonly out: string
  readonly hooks: readonly string[]
  readonly patch: readonly string[]
}

export async function activations(name: string, paths: readonly string[], options: ActivationsOptions): Promise<void> {
  if ((options.input === undefined) === (paths.length === 0)) {
    fail("E_USAGE", "give either --input FILE.safetensors or images")
  }
  const model = await loadModel(name, options)
  const patch: Record<string, Tensor> = {}
  for (const text of options.patch) Object.assign(patch, await readPatch(text))
  const given = options.input === undefined ? await model.images(...paths) : await readInput(options.input, model)
  const { cache, ...outputs } = await model.runWithCache(given, {
    names: options.hooks.length ? options.hooks : () => false,
    patch,
  })
  const tensors = new Map<string, Tensor>([...Object.entries(outputs), ...cache])
  await writeSafetensors(options.out, tensors)
  const rows = [...tensors].map(([tensor, { shape, data }]) => ({ name: tensor, shape, bytes: data.byteLength }))
  if (options.format === "json") return printJson({ file: options.out, tensors: rows })
  print(table(rows.map((r) => [r.name, show(r.shape), bytes(r.bytes)])))
  note(`wrote ${rows.length} tensors to ${options.out}`)
}

/** `pixel_values` of any float type and, of a dual encoder, `input_ids` of any number type. */
async function readInput(path: string, model: LoadedViT): Promise<ModelInput> {
  const tensors = await readAll(path)
  const pixels = tensors.get("pixel_values")
  const ids = tensors.get("input_ids")
  if (!pixels && !ids) {
    fail(
      "E_INPUT",
      `${path}: holds no pixel_values${model.config.text ? " or input_ids" : ""}; it has ${listed([...tensors.keys()], 6) || "no tensor"}`,
      { file: path },
    )
  }
  return {
    ...(pixels && { pixel_values: float32(pixels.shape, toFloat32(pixels)) }),
    ...(ids && { input_ids: ids.dtype.includes("int") ? ids : float32(ids.shape, toFloat32(ids)) }),
  }
}

/** HOOK=file.safetensors: the tensor of the hook's name in that file. */
async function readPatch(text: string): Promise<Record<string, Tensor>> {
  const at = text.indexOf("=")
  if (at < 1 || at === text.length - 1) fail("E_USAGE", `--patch wants HOOK=FILE.safetensors, got "${text}"`)
  const [hook, path] = [text.slice(0, at), text.slice(at + 1)]
  const tensors = await readAll(path)
  const found = tensors.get(hook)
  if (!found)
    return fail("E_INPUT", `${path}: holds no tensor "${hook}"; it has ${listed([...tensors.keys()], 6)}`, {
      file: path,
    })
  return { [hook]: float32(found.shape, toFloat32(found)) }
}

async function readAll(path: string): Promise<Map<string, Tensor>> {
  const file = await openSafetensors(path)
  const tensors = new Map<string, Tensor>()
  for (const name of file.entries.keys()) tensors.set(name, await readTensor(file.stored(name)))
  return tensors
}
