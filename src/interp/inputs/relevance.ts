/**
 * @file Relevance of tokens by attention and its gradient (Chefer, Gur and Wolf, "Generic Attention-model Explainability",
 * arXiv:2103.15679): for each layer C = mean over heads of max(0, pattern * d metric / d pattern), and R becomes R + C R.
 */
import { grad } from "../../autodiff/grad.ts"
import { add, constant, expand, matmul, mean, mul, relu, reshape, sum } from "../../graph/ops.ts"
import { nTokens } from "../../model/config.ts"
import { float32, type Tensor } from "../../tensor/tensor.ts"
import { chosenLayers } from "../attention/patterns.ts"
import { readout } from "../attention/tokens.ts"
import { imageMetric, type Metric } from "../gradients.ts"
import type { HookedViT } from "../hooked-vit.ts"
import { inBatches, type InputOptions } from "./batches.ts"

export interface RelevanceOptions extends InputOptions {
  /** Layers whose patterns count; all by default. */
  readonly layers?: number | readonly number[]
}

export interface Relevance {
  /** Of every token for what the metric is read from, [b, T]: class and register tokens first. At least 0. */
  readonly tokens: Tensor<"float32">
  /** [b] */
  readonly metric: Tensor<"float32">
}

/**
 * The rows of R that the model reads its answer from (`readout`: the class token, or the mean of the patches), made from
 * the last layer down, so that no matrix leaves the graph. Errors: E_INPUT, E_HOOK.
 */
export async function attentionGradient(
  model: HookedViT,
  images: Tensor,
  metric: Metric,
  options: RelevanceOptions = {},
): Promise<Relevance> {
  const { vision } = model.config
  const t = nTokens(vision)
  const layers = chosenLayers(vision.nLayers, options.layers)
  const start = constant(float32([1, 1, t], Float32Array.from(readout(vision))))
  return inBatches(model, images, options, (view) => {
    const each = imageMetric(metric, view)
    const patterns = layers.map((layer) => view.hook(`blocks.${layer}.attn.hook_pattern`))
    const contributions = grad(sum(each, [0]), patterns).map((slope, i) => mean(relu(mul(patterns[i]!, slope)), [1]))
    const rows = contributions.reduceRight((r, c) => add(r, matmul(r, c)), expand(start, ["batch", 1, t])) // [b, 1, T]
    return { metric: each, tokens: reshape(rows, ["batch", t]) }
  })
}
