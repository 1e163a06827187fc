/** @file Metrics by name, one number for each image: short partials over the model's outputs. */
import { exp, logSoftmax, neg, slice } from "../../graph/ops.ts"
import type { Value } from "../../graph/value.ts"
import type { Metric } from "../gradients.ts"
import type { GraphView, HookedViT } from "../hooked-vit.ts"
import { classMetric } from "../inputs/metrics.ts"
import { classIndex, type ClassName } from "../residual/classes.ts"
import { expectLogits } from "../residual/targets.ts"

export { similarityMetric as textSimilarity } from "../inputs/metrics.ts"

/** The logit of a class, by index or label. Errors (of all here): E_INPUT for a class or output that does not exist. */
export const logit = (model: HookedViT, wanted: ClassName): Metric => classMetric(model, wanted)

/** The logit of one class less that of another. */
export const logitDifference = (model: HookedViT, wanted: ClassName, other: ClassName): Metric =>
  classMetric(model, wanted, other)

/** The logarithm of a class' softmax probability. */
export function logProbability(model: HookedViT, wanted: ClassName): (at: GraphView) => Value {
  expectLogits(model)
  const c = classIndex(model.config, wanted)
  return ({ outputs }) => slice(logSoftmax(outputs["logits"]!), 1, c, c + 1)
}

/** A class' probability among all by softmax. */
export const probability = (model: HookedViT, wanted: ClassName): Metric => {
  const log = logProbability(model, wanted)
  return (view) => exp(log(view))
}

/** Cross entropy against a class: minus its log probability. */
export const loss = (model: HookedViT, wanted: ClassName): Metric => {
  const log = logProbability(model, wanted)
  return (view) => neg(log(view))
}
