/** @file vit-prisma run: predictions for images. */
import { decodeImage, type Image } from "../data/image.ts"
import { fail, PrismaError } from "../errors.ts"
import type { LoadedViT } from "../hub/load-pretrained.ts"
import type { Tensor } from "../tensor/tensor.ts"
import { loadModel, note, plain, print, printJson, style, table, type ModelOptions } from "./output.ts"
import { progress } from "./progress.ts"

export interface RunOptions extends ModelOptions {
  readonly top: number
  readonly batch: number
  readonly onBadImage: "fail" | "skip"
}

interface Prediction {
  readonly label: string
  readonly score: number
  readonly logit: number
  readonly index: number
}

export async function run(name: string, paths: readonly string[], options: RunOptions): Promise<void> {
  const model = await loadModel(name, options)
  if (!model.outputNames.includes("logits")) {
    fail(
      "E_INPUT",
      `${name} gives ${model.outputNames.join(", ")} and no class logits; write its outputs with "vit-prisma activations"`,
    )
  }
  const results: { image: string; predictions: Prediction[] }[] = []
  const bar = await progress("images", paths.length)
  try {
    for (let at = 0; at < paths.length; at += options.batch) {
      const images = await decoded(paths.slice(at, at + options.batch), at, options)
      if (images.length) {
        const { logits } = await model.run(await model.images(...images.map(([, image]) => image)))
        for (const [i, [image]] of images.entries())
          results.push({ image, predictions: predictions(model, logits, i, options.top) })
      }
      bar.update(Math.min(paths.length, at + options.batch))
    }
  } finally {
    bar.stop()
  }
  if (options.format === "json") return printJson(results)
  if (results.length < paths.length) note(`${paths.length - results.length} of ${paths.length} images were skipped`)
  for (const { image, predictions } of results) {
    print(style("bold", plain(image)))
    print(
      table(
        predictions.map((p) => [
          `  ${(100 * p.score).toFixed(2).padStart(6)} %`,
          p.logit.toFixed(3).padStart(8),
          p.label,
        ]),
      ),
    )
  }
}

/** Images with their paths. A bad one is named by its number and path; with "skip" it is reported and left out. */
async function decoded(
  paths: readonly string[],
  first: number,
  { onBadImage, format }: RunOptions,
): Promise<[string, Image][]> {
  const images: [string, Image][] = []
  for (const [i, path] of paths.entries()) {
    try {
      images.push([path, await decodeImage(path)])
    } catch (error) {
      if (!(error instanceof PrismaError)) throw error
      const named = new PrismaError(error.code, `image ${first + i}: ${error.message}`, { file: path, cause: error })
      if (onBadImage === "fail") throw named
      note(format === "json" ? JSON.stringify(named) : `skipped ${plain(named.message)} [${named.code}]`)
    }
  }
  return images
}

/** The classes of one row of logits [b, classes], most probable first; scores are the softmax of the logits. */
export function predictions({ config }: LoadedViT, logits: Tensor, row: number, top: number): Prediction[] {
  const n = logits.shape[1]!
  const values = Array.from((logits.data as Float32Array).subarray(row * n, (row + 1) * n))
  const largest = Math.max(...values)
  const total = values.reduce((sum, v) => sum + Math.exp(v - largest), 0)
  return values
    .map((logit, index) => ({
      label: config.labels[index] ?? String(index),
      score: Math.exp(logit - largest) / total,
      logit,
      index,
    }))
    .sort((a, b) => b.logit - a.logit || a.index - b.index)
    .slice(0, top)
}
