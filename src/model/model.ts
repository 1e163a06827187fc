/** @file The whole model: one tower or two, their outputs under the library's names. */
import type { Shape } from "../graph/dims.ts"
import { add, exp, input, matmul, mul, reshape, transpose } from "../graph/ops.ts"
import type { Value } from "../graph/value.ts"
import { nPatches, type ModelConfig } from "./config.ts"
import { normalize } from "./layers.ts"
import { Scope, type Requests, type Weights } from "./scope.ts"
import { text } from "./text.ts"
import { vit } from "./vit.ts"

/** A model built once, for one question. */
export interface Built {
  /** `pixel_values`; of a dual encoder `input_ids`, of a masked autoencoder `patch_mask`. */
  readonly inputs: Readonly<Record<string, Value>>
  readonly outputs: Readonly<Record<string, Value>>
  readonly scope: Scope
}

/** Shapes of what is fed: images [batch, c, H, W]; texts [texts, tokens]; which patches are hidden [batch, P]. */
export const inputShapes = ({ vision, text }: ModelConfig): Readonly<Record<string, Shape>> => ({
  pixel_values: ["batch", vision.nChannels, ...vision.imageSize],
  ...(text && { input_ids: ["texts", "tokens"] }),
  ...(vision.reconstructs === "masked" && { patch_mask: ["batch", nPatches(vision)] }),
})

/**
 * Build the graph with these weights (none: only to look at it) and what is asked of its hooks. `pixels` stands for
 * the images where they are made in the graph and not fed as they are.
 */
export function build(cfg: ModelConfig, weights?: Weights, requests?: Requests, pixels?: Value): Built {
  const scope = new Scope(weights, requests)
  const shapes = inputShapes(cfg)
  const images = pixels ?? input("pixel_values", shapes["pixel_values"]!)
  const masked = shapes["patch_mask"] && input("patch_mask", shapes["patch_mask"])
  const seen = vit(scope, cfg.vision, images, masked)
  const given = { pixel_values: images, ...(masked && { patch_mask: masked }) }
  if (!cfg.text || !cfg.dual) return { inputs: given, outputs: seen, scope }

  const ids = input("input_ids", shapes["input_ids"]!, "int64")
  const unit = normalize(seen.image_embeds!) // [b, p]
  const texts = normalize(text(scope.at("text"), cfg.text, ids)) // [n, p]
  const perImage = similarity(scope, cfg.dual, unit, texts) // [b, n]
  const compared = {
    logits_per_image: perImage,
    logits_per_text: transpose(perImage, [1, 0]),
    image_embeds: unit,
    text_embeds: texts,
  }
  return { inputs: { ...given, input_ids: ids }, outputs: { ...seen, ...compared }, scope }
}

/** exp(scale) * image . text + bias */
function similarity(s: Scope, { logitBias }: { logitBias: boolean }, images: Value, texts: Value): Value {
  const scaled = mul(matmul(images, texts, { transB: true }), exp(reshape(s.param("logit_scale", [1]), [])))
  return logitBias ? add(scaled, reshape(s.param("logit_bias", [1]), [])) : scaled
}
