/** @file vit-prisma demo: the mouse that the package carries, on a digit that is drawn here. */
import { fileURLToPath } from "node:url"
import { preprocessUint8 } from "../data/preprocess.ts"
import { grid, nPrefix } from "../model/config.ts"
import type { Tensor } from "../tensor/tensor.ts"
import { drawDigit } from "./draw.ts"
import { loadModel, print, printJson, style, table, type ModelOptions } from "./output.ts"
import { predictions } from "./run.ts"

const folder = fileURLToPath(new URL("../../../model-cards/mnist/", import.meta.url))

export async function demo(options: ModelOptions): Promise<void> {
  const model = await loadModel(folder, options)
  const image = drawDigit(7)
  const { logits, cache } = await model.runWithCache(await model.images(image), { names: "blocks.*.attn.hook_pattern" })
  const seen = predictions(model, logits, 0, 3)
  if (options.format === "json") return printJson([{ image: "a drawn 7", predictions: seen }])
  const { vision } = model.config
  print(
    style("bold", `A vision transformer with ${model.nParameters.toLocaleString("en")} parameters looks at a digit:`),
  )
  print(picture(preprocessUint8(image, model.preprocessing)))
  print(style("bold", "\nIt says"))
  print(table(seen.map((p) => [`  ${p.label}`, `${(100 * p.score).toFixed(2)} %`, `logit ${p.logit.toFixed(2)}`])))
  print(
    style(
      "bold",
      `\nWhere each head's class token looks (${vision.nLayers} layers of ${vision.nHeads} heads, ${grid(vision).join(" x ")} patches):`,
    ),
  )
  for (let layer = 0; layer < vision.nLayers; layer++) {
    const maps = [...Array(vision.nHeads).keys()].map((head) =>
      attentionMap(cache.pattern(layer), head, nPrefix(vision), grid(vision)),
    )
    print(`layer ${layer}\n${beside(maps)}`)
  }
  print(
    `\nThe same from TypeScript: ${style("cyan", "const { cache } = await model.runWithCache(images); cache.pattern(2)")}`,
  )
}

const SHADES = " .:-=+*#%@"
const shade = (v: number): string => SHADES[Math.min(SHADES.length - 1, Math.floor(v * SHADES.length))]!

/** Grey pixels as text, two characters a pixel. */
function picture({
  width,
  height,
  channels,
  data,
}: {
  width: number
  height: number
  channels: number
  data: Uint8Array
}): string {
  const row = (y: number) =>
    Array.from({ length: width }, (_, x) => shade(data[(y * width + x) * channels]! / 256).repeat(2)).join("")
  return Array.from({ length: height }, (_, y) => `  ${row(y)}`)
    .filter((line) => line.trim())
    .join("\n")
}

/** What the first token of a pattern [1, h, T, T] looks at, patch by patch, scaled to its largest. */
function attentionMap(
  { shape, data }: Tensor,
  head: number,
  prefix: number,
  [rows, columns]: readonly [number, number],
): string[] {
  const t = shape[3]!
  const looked = (data as Float32Array).subarray(head * t * t + prefix, head * t * t + t)
  const largest = Math.max(...looked)
  return Array.from({ length: rows }, (_, y) =>
    Array.from({ length: columns }, (_, x) => shade((0.999 * looked[y * columns + x]!) / largest).repeat(2)).join(""),
  )
}

const beside = (maps: readonly string[][]): string =>
  maps[0]!.map((_, y) => `  ${maps.map((map) => map[y]).join(" | ")}`).join("\n")
