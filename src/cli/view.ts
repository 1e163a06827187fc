/** @file vit-prisma view: where each head looks, as a page, a picture or JSON; and a page from such JSON. */
import { basename } from "node:path"
import { decodeImage } from "../data/image.ts"
import { fail } from "../errors.ts"
import { readJson } from "../files/json.ts"
import { checkView } from "../viewer/check.ts"
import type { ImageInput } from "../viewer/encode.ts"
import { loadModel, type ModelOptions } from "./output.ts"
import { checkPictures, pictureBase, wantsPictures, writePictures, writeView, type PictureOptions } from "./pictures.ts"

export interface ViewOptions extends ModelOptions, PictureOptions {
  readonly layers?: readonly number[]
  readonly heads?: readonly number[]
  readonly attentionBytes?: number
}

/** All heads of all layers at 1370 tokens are about 300 MB. */
const VIEW_JSON = { limit: 400 * 2 ** 20, malformed: "E_INPUT", tooLarge: "E_INPUT" } as const

export async function view(name: string, paths: readonly string[], options: ViewOptions): Promise<void> {
  if (!wantsPictures(options)) fail("E_USAGE", "nothing to write: give --html, --png, --svg or --view-json a file name")
  await checkPictures(options, [name, ...paths])
  if (/\.json$/i.test(name)) {
    if (paths.length) fail("E_USAGE", `${name} is a view, which has its images; give it no others`)
    return writeView(checkView(await readJson(name, VIEW_JSON), name), options)
  }
  if (!paths.length) fail("E_USAGE", `${name} needs images to look at; give their files`)
  const model = await loadModel(name, options)
  const { nLayers } = model.config.vision
  const layers = [...new Set((options.layers ?? [...Array(nLayers).keys()]).map((l) => (l < 0 ? l + nLayers : l)))]
  const on = paths.length === 1 ? basename(paths[0]!) : `${paths.length} images`
  const title = `Attention on ${on}`

  const images: ImageInput[] = []
  let base = pictureBase(model, [], { title })
  // One image at a time: all patterns of a ViT-B/14 at 518 pixels are 1.1 GB.
  for (const path of paths) {
    const image = await decodeImage(path)
    const outputs = await model.runWithCache(await model.images(image), { names: "blocks.*.attn.hook_pattern", layers })
    const logits = model.outputNames.includes("logits") ? outputs.logits : undefined
    base = pictureBase(model, [{ name: path, image }], { title, logits })
    const patterns = {
      layers: new Map(layers.map((layer) => [layer, outputs.cache.pattern(layer)])),
      ...(options.heads && { heads: options.heads }),
    }
    images.push(...base.images.map((one) => ({ ...one, patterns })))
  }
  await writePictures({ ...base, images }, options, [name, ...paths])
}
