/** @file The whole model: one tower or two, their outputs under the library's names. */
import type { Shape } from "../graph/dims.ts"
import { add, exp, input, matmul, mul, reshape, transpose } from "../graph/ops.ts"
import type { Value } from "../graph/value.ts"
import type { ModelConfig } from "./config.ts"
import { normalize } from "./layers.ts"
import { Scope, type Requests, type Weights } from "./scope.ts"
import { text } from "./text.ts"
import { vit } from "./vit.ts"

/** A model built once, for one question. */
export interface Built {
  /** `pixel_values` and, of a dual encoder, `input_ids`. */
  readonly inputs: Readonly<Record<string, Value>>
  readonly outputs: Readonly<Record<string, Value>>
  readonly scope: Scope
}

/** Shapes of what is fed: images [batch, c, H, W]; texts [texts, tokens]. */
export const inputShapes = ({ vision, text }: ModelConfig): Readonly<Record<string, Shape>> => ({
  pixel_values: ["batch", vision.nChannels, ...vision.imageSize],
  ...(text && { input_ids: ["texts", "tokens"] }),
})

/** Build the graph with these weights (none: only to look at it) and what is asked of its hooks. */
export function build(cfg: ModelConfig, weights?: Weights, requests?: Requests): Built {
  const scope = new Scope(weights, requests)
  const shapes = inputShapes(cfg)
  const pixels = input("pixel_values", shapes["pixel_values"]!)
  const seen = vit(scope, cfg.vision, pixels)
  if (!cfg.text || !cfg.dual) return { inputs: { pixel_values: pixels }, outputs: seen, scope }

  const ids = input("input_ids", shapes["input_ids"]!, "int64")
  const images = normalize(seen.image_embeds!) // [b, p]
  const texts = normalize(text(scope.at("text"), cfg.text, ids)) // [n, p]
  const perImage = similarity(scope, cfg.dual, images, texts) // [b, n]
  const compared = {
    logits_per_image: perImage,
    logits_per_text: transpose(perImage, [1, 0]),
    image_embeds: images,
    text_embeds: texts,
  }
  return { inputs: { pixel_values: pixels, input_ids: ids }, outputs: { ...seen, ...compared }, scope }
}

/** exp(scale) * image . text + bias */
function similarity(s: Scope, { logitBias }: { logitBias: boolean }, images: Value, texts: Value): Value {
  const scaled = mul(matmul(images, transpose(texts, [1, 0])), exp(reshape(s.param("logit_scale", [1]), [])))
  return logitBias ? add(scaled, reshape(s.param("logit_bias", [1]), [])) : scaled
}
