/** @file What is fed to a model: images, token ids and patches, checked and brought to the shapes of the graph. */
import { fail } from "../errors.ts"
import type { Shape } from "../graph/dims.ts"
import type { ModelConfig } from "../model/config.ts"
import { inputShapes } from "../model/model.ts"
import { expectFloat32, float32, int64, show, size, type Tensor } from "../tensor/tensor.ts"

/**
 * Images [b, c, H, W] (or one [c, H, W]) float32; of a dual encoder also `input_ids` [n, t]; of a masked autoencoder
 * `patch_mask` [b, P] float32, 1 where a patch is hidden, without which none is.
 */
export type ModelInput =
  | Tensor
  | { readonly pixel_values?: Tensor; readonly input_ids?: Tensor; readonly patch_mask?: Tensor }

/** The model's inputs by name. Errors: E_INPUT for wrong dtypes, lengths and ids. */
export function inputValues(config: ModelConfig, given: ModelInput): Record<string, Tensor> {
  const object = typeof given === "object" && given !== null
  const { pixel_values, input_ids, patch_mask } =
    object && !("data" in given) ? given : { pixel_values: given, input_ids: undefined, patch_mask: undefined }
  const wanted = inputShapes(config)
  if (input_ids && !wanted["input_ids"]) fail("E_INPUT", "input_ids were given; this model has no text tower")
  if (patch_mask && !wanted["patch_mask"]) fail("E_INPUT", "patch_mask was given; this model hides no patches")
  const images = pixel_values || !object ? asImages(pixel_values, wanted["pixel_values"]!) : undefined
  return {
    ...(images && { pixel_values: images }),
    ...(input_ids && { input_ids: asIds(input_ids, config.text!) }),
    ...(images && wanted["patch_mask"] && { patch_mask: asMask(patch_mask, images, wanted["patch_mask"]) }),
  }
}

function asMask(given: unknown, images: Tensor, [, patches]: Shape): Tensor {
  const shape = [images.shape[0]!, patches as number]
  if (given === undefined) return float32(shape, new Float32Array(size(shape)))
  const mask = expectFloat32(given, "patch_mask")
  return String(mask.shape) === String(shape)
    ? mask
    : fail("E_INPUT", `patch_mask must be [images, patches] ${show(shape)}, got ${show(mask.shape)}`)
}

function asImages(given: unknown, wanted: Shape): Tensor {
  const t = expectFloat32(given, "pixel_values")
  return t.shape.length === wanted.length - 1 ? { ...t, shape: [1, ...t.shape] } : t
}

/** Ids as int64, from any number type, within the vocabulary and the context. */
function asIds(t: Tensor, { vocabulary, contextLength }: { vocabulary: number; contextLength: number }): Tensor {
  if (t.shape.length !== 2) fail("E_INPUT", `input_ids must be [texts, tokens], got ${show(t.shape)}`)
  if (t.shape[1]! > contextLength)
    fail("E_INPUT", `input_ids have ${t.shape[1]} tokens, the model takes at most ${contextLength}`)
  const ids = Array.from(t.data as ArrayLike<number | bigint>, Number)
  const wrong = ids.find((id) => !Number.isInteger(id) || id < 0 || id >= vocabulary)
  if (wrong !== undefined) fail("E_INPUT", `input_ids hold ${wrong}; ids are whole numbers from 0 to ${vocabulary - 1}`)
  return int64(t.shape, ids)
}

/** How many images, texts and tokens are fed. */
export function sizesOf(values: Readonly<Record<string, Tensor>>): Map<string, number> {
  const [texts, tokens] = values["input_ids"]?.shape ?? [0, 0]
  return new Map([
    ["batch", values["pixel_values"]?.shape[0] ?? 1],
    ["texts", texts!],
    ["tokens", tokens!],
  ])
}

/** Of these the ones that are given, and not taken for 1 or 0. */
export const givenSizes = (values: Readonly<Record<string, Tensor>>): ReadonlyMap<string, number> =>
  new Map([...sizesOf(values)].filter(([name]) => (name === "batch" ? "pixel_values" : "input_ids") in values))

/** The shape of what is fed at a hook: where the hook has one row for all images, a row for each may be given. */
export const patchShape = (hook: Shape, given: Tensor): Shape =>
  hook[0] === 1 && given.shape[0] !== 1 ? ["batch", ...hook.slice(1)] : hook

/** A patch whose first axis is 1, repeated for every image. */
export function repeated(given: Tensor, hook: Shape, batch: number | undefined): Tensor {
  if (hook[0] !== "batch" || given.shape[0] !== 1 || batch === undefined || batch === 1) return given
  const one = given.data as Float32Array
  const all = new Float32Array(one.length * batch)
  for (let i = 0; i < batch; i++) all.set(one, i * one.length)
  return float32([batch, ...given.shape.slice(1)], all)
}

/** One image of a batch, still with its first axis. */
export function rowOf(t: Tensor, i: number): Tensor {
  const n = size(t.shape.slice(1))
  return { ...t, shape: [1, ...t.shape.slice(1)], data: t.data.slice(i * n, (i + 1) * n) }
}
