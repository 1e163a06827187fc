/** @file What an attribution explains, of each image: a class, a class against another, likeness to a text. */
import { constant, div, mul, slice, sqrt, sub, sum } from "../../graph/ops.ts"
import { float32, type Tensor } from "../../tensor/tensor.ts"
import type { Metric } from "../gradients.ts"
import type { GraphView, HookedViT } from "../hooked-vit.ts"
import { classIndex, type ClassName } from "../residual/classes.ts"
import { embeddingWidth, expectLogits, unitRows } from "../residual/targets.ts"

/** The logit of a class, less that of another where one is given. Errors: E_INPUT for a class that does not exist. */
export function classMetric(model: HookedViT, wanted: ClassName, over?: ClassName): Metric {
  expectLogits(model)
  const logit = (at: GraphView, c: number) => slice(at.outputs["logits"]!, 1, c, c + 1)
  const a = classIndex(model.config, wanted)
  if (over === undefined) return (at) => logit(at, a)
  const b = classIndex(model.config, over)
  return (at) => sub(logit(at, a), logit(at, b))
}

/**
 * The cosine of each image's embedding and `embed` [p] (or [1, p]), such as a text's `text_embeds`. Errors: E_INPUT for
 * another width, and for a model without image embeddings.
 */
export function similarityMetric(model: HookedViT, embed: Tensor): Metric {
  const width = embeddingWidth(model, "")
  const direction = constant(
    float32([width], unitRows(float32([1, embed.data.length], embed.data as Float32Array), width)),
  )
  return ({ outputs }) => {
    const e = outputs["image_embeds"]!
    return div(sum(mul(e, direction), [1]), sqrt(sum(mul(e, e), [1])))
  }
}
