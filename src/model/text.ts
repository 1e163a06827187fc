/** @file The text tower of CLIP (arXiv:2103.00020) and SigLIP (arXiv:2303.15343). */
import { add, argMax, cast, constant, equal, gather, linear, matmul, reshape, slice } from "../graph/ops.ts"
import type { Value } from "../graph/value.ts"
import { float32, int64 } from "../tensor/tensor.ts"
import type { TextConfig } from "./config.ts"
import { block, norm } from "./layers.ts"
import type { Scope } from "./scope.ts"

/** Token ids [n, t] int64, t at most the context length, to the text's embedding [n, p]. */
export function text(s: Scope, cfg: TextConfig, ids: Value): Value {
  const { dModel: d, contextLength } = cfg
  const [n, t] = ids.shape
  const words = s.hook("hook_embed", gather(s.at("embed").param("tokens", [cfg.vocabulary, d]), ids)) // [n, t, d]
  const table = slice(s.at("embed").param("pos", [contextLength, d]), 0, 0, t!)
  let x = s.hook("hook_full_embed", add(words, s.hook("hook_pos_embed", reshape(table, [1, t!, d]))))
  const mask = cfg.causal ? slice(slice(causalMask(contextLength), 0, 0, t!), 1, 0, t!) : undefined
  for (let i = 0; i < cfg.nLayers; i++) x = block(s, cfg, i, x, mask ? { mask } : {})
  const normed = norm(s.at("ln_final"), cfg.eps, x)

  const projection = s.at("projection")
  const bias = cfg.projectionBias ? projection.param("bias", [cfg.dProjection]) : undefined
  const pooled = reshape(matmul(poolWeights(cfg, ids), normed), [n!, d]) // [n, 1, t] x [n, t, d]
  return linear(pooled, projection.param("weight", [cfg.dProjection, d]), bias)
}

/** 1 at the token that stands for the text, 0 elsewhere: [n, 1, t] */
function poolWeights(cfg: TextConfig, ids: Value): Value {
  const t = ids.shape[1]!
  const index = (values: readonly number[]) => constant(int64([values.length], values))
  const positions = slice(index([...Array(cfg.contextLength).keys()]), 0, 0, t)
  const at = {
    eos: () => argMax(cast(equal(ids, index([cfg.eosTokenId])), "int32")), // [n]
    largestId: () => argMax(cast(ids, "int32")),
    last: () => argMax(reshape(cast(positions, "int32"), [1, t])),
  }[cfg.pool]()
  return cast(
    reshape(equal(reshape(at, [at.shape[0]!, 1]), reshape(positions, [1, t])), [at.shape[0]!, 1, t]),
    "float32",
  )
}

// The most negative float32, as transformers adds it; -Infinity would make gradients of the scores NaN.
const BLOCKED = -3.4028234663852886e38

/** Added to scores so that a query sees itself and what is before it: [t, t] */
const causalMask = (t: number): Value =>
  constant(
    float32(
      [t, t],
      Float32Array.from({ length: t * t }, (_, i) => (i % t > Math.floor(i / t) ? BLOCKED : 0)),
    ),
  )
