/** @file Losses, each the mean over a batch of known size, and what is counted beside them. */
import {
  add,
  argMax,
  cast,
  constant,
  div,
  equal,
  logSoftmax,
  mean,
  mul,
  neg,
  reshape,
  scalar,
  sub,
  sum,
} from "../graph/ops.ts"
import type { Value } from "../graph/value.ts"
import { int64 } from "../tensor/tensor.ts"

const everyAxis = (x: Value): number[] => x.shape.map((_, i) => i)

/**
 * Cross entropy of logits [b, classes] and class indices int64 [b]. Smoothed, the target is 1 - e at the label plus
 * e / classes everywhere (arXiv:1512.00567), as PyTorch's `label_smoothing`.
 */
export function crossEntropy(logits: Value, labels: Value, smoothing = 0): Value {
  const classes = logits.shape[1] as number
  const logp = logSoftmax(logits)
  const indices = constant(
    int64(
      [1, classes],
      Array.from({ length: classes }, (_, i) => i),
    ),
  )
  const hot = cast(equal(reshape(labels, [labels.shape[0]!, 1]), indices), "float32")
  const target = smoothing ? add(mul(hot, scalar(1 - smoothing)), scalar(smoothing / classes)) : hot
  return neg(mean(sum(mul(target, logp), [1]), [0]))
}

/** The mean of (a - b)^2 over all elements. */
export function meanSquaredError(a: Value, b: Value): Value {
  const difference = sub(a, b)
  return mean(mul(difference, difference), everyAxis(difference))
}

/** How many of logits [b, classes] have their largest at the label. */
export const countCorrect = (logits: Value, labels: Value): Value =>
  sum(cast(equal(argMax(logits), labels), "float32"), [0])

/**
 * Squared error of predicted patches [b, P, c * p * p], averaged over patches; with `mask` [b, P] (1 hidden) over the
 * hidden ones alone, as masked autoencoders do (arXiv:2111.06377).
 */
export function reconstruction(predicted: Value, patches: Value, mask?: Value): Value {
  if (!mask) return meanSquaredError(predicted, patches)
  const difference = sub(predicted, patches)
  const each = mean(mul(difference, difference), [2]) // [b, P]
  return div(sum(mul(each, mask), [0, 1]), sum(mask, [0, 1]))
}
