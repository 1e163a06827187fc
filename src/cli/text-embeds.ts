/** @file What --text and --text-embeds give: embeddings of texts, in place of classes. */
import { fail, listed } from "../errors.ts"
import { openSafetensors, readTensor } from "../files/safetensors-file.ts"
import type { LoadedViT } from "../hub/load-pretrained.ts"
import { toFloat32 } from "../tensor/numbers.ts"
import { quote } from "../tensor/quote.ts"
import { float32, show, type Tensor } from "../tensor/tensor.ts"

export interface TextOptions {
  readonly text?: readonly string[]
  readonly textEmbeds?: string
}

export interface Texts {
  /** [n, p] */
  readonly embeds: Tensor<"float32">
  readonly names: readonly string[]
}

/** Nothing where no text is asked for. Errors: E_USAGE for both at once, E_INPUT for a model without a text tower. */
export async function textsOf(model: LoadedViT, { text, textEmbeds }: TextOptions): Promise<Texts | undefined> {
  if (text && textEmbeds !== undefined) fail("E_USAGE", "give either --text or --text-embeds")
  if (textEmbeds !== undefined) return stored(textEmbeds)
  return text && embedded(model, text)
}

async function embedded(model: LoadedViT, texts: readonly string[]): Promise<Texts> {
  const { text, dual } = model.config
  if (!text || !dual) {
    return fail(
      "E_INPUT",
      `${model.source.name} has no text tower to read --text with; give --text-embeds FILE.safetensors`,
    )
  }
  const { tokenized } = await import("../interop/transformers.ts")
  const rows: Float32Array[] = []
  // One at a time: texts of different lengths share no batch.
  for (const input_ids of await tokenized(model.source.folder, texts, text)) {
    const { text_embeds } = await model.run({ input_ids }, { outputs: "text_embeds" })
    rows.push(text_embeds.data as Float32Array)
  }
  const width = text.dProjection
  const all = new Float32Array(rows.length * width)
  for (const [i, row] of rows.entries()) all.set(row, i * width)
  return { embeds: float32([rows.length, width], all), names: texts }
}

/** The tensor `text_embeds` [n, p] of a safetensors file, or its only one; its metadata may name the rows: {"names": "[...]"}. */
async function stored(path: string): Promise<Texts> {
  const file = await openSafetensors(path)
  const all = [...file.entries.keys()]
  const name = all.includes("text_embeds") || all.length !== 1 ? "text_embeds" : all[0]!
  if (!all.includes(name)) {
    fail("E_INPUT", `${path}: holds no "text_embeds"; it has ${listed(all.map(quote), 6) || "no tensor"}`, {
      file: path,
    })
  }
  const t = await readTensor(file.stored(name))
  if (t.shape.length !== 2) {
    fail("E_INPUT", `${path}: ${quote(name)} must be [n, p], got ${show(t.shape)}`, { file: path, tensor: name })
  }
  const n = t.shape[0]!
  return {
    embeds: float32(t.shape, toFloat32(t)),
    names: namesIn(file.metadata?.get("names"), n) ?? Array.from({ length: n }, (_, i) => `text ${i}`),
  }
}

function namesIn(json: string | undefined, n: number): string[] | undefined {
  try {
    const names: unknown = JSON.parse(json ?? "null")
    const fits = Array.isArray(names) && names.length === n && names.every((x) => typeof x === "string")
    return fits ? names : undefined
  } catch {
    return undefined
  }
}
