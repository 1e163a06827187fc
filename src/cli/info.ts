/** @file vit-prisma info: what a model, a safetensors file or an ONNX file holds. */
import { stat } from "node:fs/promises"
import { basename, dirname, resolve } from "node:path"
import { usablePreprocessing } from "../export/transformers-config.ts"
import { checkOnnxFile } from "../files/onnx-file.ts"
import { checkManifest } from "../files/manifest.ts"
import { openSafetensors } from "../files/safetensors-file.ts"
import { isFolder } from "../hub/cache.ts"
import { inputShapes } from "../model/model.ts"
import { show } from "../tensor/tensor.ts"
import { bytes, counted, loadModel, plain, print, printJson, style, table, warn, type ModelOptions } from "./output.ts"

export async function info(name: string, options: ModelOptions): Promise<void> {
  if (await isFolder(name)) return model(name, options)
  const isFile = await stat(name).then(
    () => true,
    () => false,
  )
  if (name.endsWith(".onnx")) return onnx(name, options)
  if (isFile || name.endsWith(".safetensors")) return tensors(name, options)
  return model(name, options)
}

async function tensors(path: string, { format }: ModelOptions): Promise<void> {
  const { entries, metadata, warnings } = await openSafetensors(path)
  for (const warning of warnings) warn(warning, { format })
  const listed = [...entries.values()].map(({ name, rawDtype, shape, begin, end }) => ({
    name,
    dtype: rawDtype,
    shape,
    bytes: end - begin,
  }))
  const total = listed.reduce((n, t) => n + t.bytes, 0)
  if (format === "json")
    return printJson({ file: path, metadata: Object.fromEntries(metadata ?? []), bytes: total, tensors: listed })
  for (const [key, value] of metadata ?? []) print(plain(`${key}: ${value}`))
  if (listed.length) print(table(listed.map((t) => [t.name, t.dtype, show(t.shape), bytes(t.bytes)])))
  print(style("bold", `${counted(listed.length, "tensor")}, ${bytes(total)}`))
}

async function onnx(path: string, { format }: ModelOptions): Promise<void> {
  const external = await checkOnnxFile(path)
  // What convert wrote lies in the folder "onnx" of a folder with a manifest.
  const folder = dirname(resolve(path))
  const checked =
    basename(folder) === "onnx" && (await checkManifest(dirname(folder), (file) => file.startsWith("onnx/")))
  const listed = external.map(({ name, location, offset, length }) => ({ name, location, offset, length }))
  if (format === "json") return printJson({ file: path, manifest_checked: checked, external: listed })
  if (listed.length) print(table(listed.map((t) => [t.name, t.location, String(t.offset), bytes(Number(t.length))])))
  const said = `${counted(listed.length, "tensor")} of external data, all inside the model's folder`
  print(style("bold", checked ? `${said}, as the manifest says` : said))
}

async function model(name: string, options: ModelOptions): Promise<void> {
  const m = await loadModel(name, options)
  // Loading has checked all but the exported graph.
  await checkManifest(m.source.folder, (file) => file.startsWith("onnx/"))
  const { family, architecture, vision, text, labels } = m.config
  const hooks = [...m.hooks.values()].map((h) => ({ name: h.name, shape: h.shape, bytes: m.cacheBytes({ names: h.name }), onRequest: h.onRequest }))
  const weights = [...m.weights].map(([weight, { tensor, shape }]) => ({ name: weight, dtype: tensor.dtype, shape }))
  if (options.format === "json") {
    const { folder, configFile, checkpoint } = m.source
    const preprocessing = usablePreprocessing(m)
    return printJson({
      model: name, folder, config_file: configFile, weights_file: checkpoint.source, family, architecture,
      parameters: m.nParameters, inputs: inputShapes(m.config), outputs: m.outputNames, vision, text, labels, preprocessing, weights, hooks,
    })
  }
  print(style("bold", `${name}: ${architecture} (${family}), ${m.nParameters.toLocaleString("en")} parameters`))
  print(table([
    ["image", `${show(vision.imageSize)} pixels, ${vision.nChannels} channels, patches of ${show(vision.patchSize)}`],
    ["blocks", `${vision.nLayers} of width ${vision.dModel}, ${vision.nHeads} heads of ${vision.dHead}, MLP ${vision.dMlp}, ${vision.activation}`],
    ...(text ? [["text", `${text.nLayers} blocks of width ${text.dModel}, ${text.nHeads} heads, ${text.vocabulary} ids, context ${text.contextLength}`]] : []),
    ["inputs", Object.entries(inputShapes(m.config)).map(([key, shape]) => `${key} ${show(shape)}`).join(", ")],
    ["outputs", m.outputNames.join(", ")],
    ...(labels.length ? [["labels", `${labels.length}: ${labels.slice(0, 5).join(", ")}${labels.length > 5 ? ", ..." : ""}`]] : []),
    ["weights", `${m.weights.size} under our names, ${m.source.checkpoint.tensors.size} tensors in ${m.source.checkpoint.source}`],
  ]))
  print(style("bold", `\nHooks of one image${text ? " and one text of full length" : ""}: ${bytes(m.cacheBytes())}`))
  print(table(hooks.map((h) => [h.name, show(h.shape), bytes(h.bytes), h.onRequest ? "on request" : ""])))
} // prettier-ignore
