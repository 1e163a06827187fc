/** @file What commands share that show their results: --html, --png, --svg and --view-json. */
import { basename, resolve } from "node:path"
import type { Image } from "../data/image.ts"
import { preprocessUint8 } from "../data/preprocess.ts"
import { fail } from "../errors.ts"
import { writeFileAtomic } from "../files/atomic.ts"
import type { LoadedViT } from "../hub/load-pretrained.ts"
import { grid, type PrefixToken, type VisionConfig } from "../model/config.ts"
import type { Pixels } from "../data/resize.ts"
import type { Tensor } from "../tensor/tensor.ts"
import type { View } from "../viewer/data.ts"
import type { EncodeOptions, ViewInput } from "../viewer/encode.ts"
import { note, printJson, refuseOverwriting, warn, withModel, type ModelOptions } from "./output.ts"
import { predictions } from "./run.ts"

/** Files to write, where they are asked for. */
export interface PictureOptions {
  readonly html?: string
  readonly png?: string
  readonly svg?: string
  readonly viewJson?: string
  /** Of the results themselves; true: on stdout. */
  readonly json?: string | true
}

type Command = Parameters<typeof withModel>[0]

export const withPictures = (command: Command): Command =>
  command
    .option("--html <file>", "write an interactive page: one file that needs no network")
    .option("--png <file>", "write a picture, two pixels to a point")
    .option("--svg <file>", "write the same picture as SVG")
    .option("--view-json <file>", "write the numbers behind the page (docs/viewer.md)")

/** Options of a command that finds something in a model and shows it: as text, JSON, page and picture. */
export const withResults = (command: Command): Command => withPictures(withModel(command, { jsonFile: true }))

/** The option of each kind of file. */
const FLAGS = { html: "--html", png: "--png", svg: "--svg", viewJson: "--view-json", json: "--json" } as const
const KINDS = Object.keys(FLAGS) as (keyof typeof FLAGS)[]

export const wantsPictures = (options: PictureOptions): boolean =>
  KINDS.some((kind) => kind !== "json" && options[kind] !== undefined)

/** Results: to stdout as text or as JSON, and to the file of --json. Errors: E_DISK_FULL, E_IO, E_OUTPUT. */
export async function present(
  found: unknown,
  { json, format }: PictureOptions & Pick<ModelOptions, "format">,
  asText: () => void,
): Promise<void> {
  if (typeof json === "string") await writeFileAtomic(json, `${JSON.stringify(found, undefined, 2)}\n`)
  if (format === "json") printJson(found)
  else asText()
}

const TOKEN_NAMES: { readonly [N in PrefixToken["name"]]: string } = { cls: "CLS", dist: "DIST", reg: "REG" }

/** Names of the tokens before the patches: "CLS", "REG 1", "REG 2", ... */
export const specialTokens = (prefix: readonly PrefixToken[]): string[] =>
  prefix.flatMap(({ name, count }) =>
    Array.from({ length: count }, (_, i) => TOKEN_NAMES[name] + (count > 1 ? ` ${i + 1}` : "")),
  )

/** The view of a model and images to which a command adds what it found; `logits` [b, classes] become predictions. */
export function pictureBase(
  model: LoadedViT,
  images: readonly { readonly name: string; readonly image: Image }[],
  { title, logits }: { readonly title: string; readonly logits?: Tensor | undefined },
): ViewInput {
  const { vision } = model.config
  return {
    title,
    model: nameOf(model.source.name),
    grid: grid(vision),
    special: specialTokens(vision.prefix),
    images: images.map(({ name, image }, i) => ({
      name: nameOf(name),
      pixels: {
        ...covered(preprocessUint8(image, model.preprocessing), vision),
        channels: model.preprocessing.channels,
      },
      ...(logits && { predictions: predictions(model, logits, i, 5) }),
    })),
  }
}

/** A page is given to others, whom the folders of this machine do not concern; relative paths and repo ids stay. */
const nameOf = (path: string): string => (/^([/\\~.]|[a-zA-Z]:)/.test(path) ? basename(path) : path)

/** What the patches cover: pixels at the right and bottom that fill no patch are not read. */
function covered({ width, height, channels, data }: Pixels, vision: VisionConfig): Pixels {
  const [h, w] = grid(vision).map((n, i) => n * vision.patchSize[i]!) as [number, number]
  if (h === height && w === width) return { width, height, channels, data }
  const out = new Uint8Array(w * h * channels)
  for (let y = 0; y < h; y++) out.set(data.subarray(y * width * channels, (y * width + w) * channels), y * w * channels)
  return { width: w, height: h, channels, data: out }
}

/**
 * Write every file that is asked for; what was left out of them is said on stderr. `sources` are files that must not be
 * replaced. Errors: E_INPUT for results of wrong shapes, E_USAGE for one name twice, E_OUTPUT, E_DISK_FULL, E_IO.
 */
export async function writePictures(
  input: ViewInput,
  options: PictureOptions & Pick<ModelOptions, "format"> & EncodeOptions,
  sources: readonly string[] = [],
): Promise<void> {
  await checkPictures(options, sources)
  const { encodeView } = await import("../viewer/encode.ts")
  const view = await encodeView(input, options)
  for (const text of (view.notes ?? []).slice(input.notes?.length ?? 0)) warn(text, options)
  await writeView(view, options)
}

/** Refuse before any work what could not be written after it. Errors: E_USAGE, E_OUTPUT. */
export async function checkPictures(options: PictureOptions, sources: readonly string[]): Promise<void> {
  const asked = new Map<string, string>()
  for (const kind of KINDS) {
    const path = options[kind]
    if (path === undefined || path === true) continue
    const before = asked.get(resolve(path))
    if (before !== undefined)
      fail("E_USAGE", `${before} and ${FLAGS[kind]} name the same file, ${path}`, { file: path })
    asked.set(resolve(path), FLAGS[kind])
    await refuseOverwriting(path, sources)
  }
}

/** The files of a view; all are made before the first is written. */
export async function writeView(view: View, options: PictureOptions): Promise<void> {
  const files: [string, string | Uint8Array][] = []
  if (options.viewJson !== undefined) files.push([options.viewJson, `${JSON.stringify(view)}\n`])
  if (options.html !== undefined) {
    const { viewHtml } = await import("../viewer/page.ts")
    files.push([options.html, await viewHtml(view)])
  }
  if (options.png !== undefined || options.svg !== undefined) {
    const { hasFont, viewPng, viewSvg } = await import("../viewer/picture.ts")
    if (options.svg !== undefined) files.push([options.svg, await viewSvg(view)])
    if (options.png !== undefined) {
      if (!(await hasFont()))
        note("no font is installed: letters in the PNG are drawn of dots; any font gives better ones")
      files.push([options.png, await viewPng(view)])
    }
  }
  for (const [path, content] of files) await writeFileAtomic(path, content)
}
