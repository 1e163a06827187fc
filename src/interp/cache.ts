/** @file Activations of one run by TransformerLens' names and by methods. */
import { fail, listed } from "../errors.ts"
import { unknownHook, type HookInfo } from "../model/hooks.ts"
import type { Tensor } from "../tensor/tensor.ts"
import {
  accumulated,
  decomposed,
  headRows,
  neuronRows,
  normed,
  type Cached,
  type CachedModel,
  type ResidualStack,
} from "./residual/accounting.ts"

/** TransformerLens' short names of a block's hooks, and the full ones below `blocks.{i}.`. */
const IN_BLOCK: Readonly<Record<string, string>> = {
  resid_pre: "hook_resid_pre",
  resid_mid: "hook_resid_mid",
  resid_post: "hook_resid_post",
  attn_out: "hook_attn_out",
  mlp_out: "hook_mlp_out",
  mlp_in: "hook_mlp_in",
  q_input: "hook_q_input",
  k_input: "hook_k_input",
  v_input: "hook_v_input",
  q: "attn.hook_q",
  k: "attn.hook_k",
  v: "attn.hook_v",
  rot_q: "attn.hook_rot_q",
  rot_k: "attn.hook_rot_k",
  z: "attn.hook_z",
  result: "attn.hook_result",
  pattern: "attn.hook_pattern",
  attn: "attn.hook_pattern",
  attn_scores: "attn.hook_attn_scores",
  scores: "attn.hook_attn_scores",
  pre: "mlp.hook_pre",
  post: "mlp.hook_post",
  pre_linear: "mlp.hook_pre_linear",
  ln1_scale: "ln1.hook_scale",
  ln1_normalized: "ln1.hook_normalized",
  ln2_scale: "ln2.hook_scale",
  ln2_normalized: "ln2.hook_normalized",
}

/** The full name of a short one: `actName("q", 3)` is "blocks.3.attn.hook_q"; a full name is itself. */
export function actName(name: string, layer?: number): string {
  if (layer === undefined) return name.includes("hook_") ? name : `hook_${name}`
  const short =
    IN_BLOCK[name] ?? fail("E_HOOK", `no short name "${name}"; there are ${Object.keys(IN_BLOCK).join(", ")}`)
  return `blocks.${layer}.${short}`
}

/**
 * The values that a run computed at its hooks, after any intervention.
 *
 * `cache.pattern(3)`, `cache.get("pattern", 3)` and `cache.get("blocks.3.attn.hook_pattern")` are the same tensor; a
 * negative layer counts from the end. Errors: E_HOOK for what does not exist or was not cached.
 */
export class ActivationCache {
  readonly #values: ReadonlyMap<string, Tensor>
  readonly #hooks: ReadonlyMap<string, HookInfo>
  readonly #model: CachedModel
  readonly #release: () => void
  readonly #prefix: string

  /** `release` is what `dispose` does. */
  constructor(
    values: ReadonlyMap<string, Tensor>,
    hooks: ReadonlyMap<string, HookInfo>,
    model: CachedModel,
    release: () => void = () => {},
    prefix = "",
  ) {
    this.#values = values
    this.#hooks = hooks
    this.#model = model
    this.#release = release
    this.#prefix = prefix
  }

  /**
   * Give the arrays back, for the next run to write to. The cache holds nothing then, and arrays that were taken from it are
   * empty. Without it they are left to the garbage collector, which is slower: new memory costs more than what is computed
   * into it (docs/performance.md).
   */
  dispose(): void {
    this.#release()
  }

  /** Shapes are those of the vocabulary (docs/hooks.md), positions sliced if asked. */
  get(name: string, layer?: number): Tensor {
    const full = this.#prefix + actName(name, layer === undefined ? undefined : this.#layer(layer))
    const found = this.#values.get(full)
    if (found) return found
    if (!this.#hooks.has(full)) return unknownHook(this.#hooks, full)
    if (!this.#values.size)
      return fail("E_HOOK", `"${full}" is not here: nothing was cached, or the cache was disposed of`)
    return fail(
      "E_HOOK",
      `"${full}" was not cached; name it in runWithCache. Cached are ${listed([...this.#values.keys()], 6)}`,
    )
  }

  has(name: string, layer?: number): boolean {
    return this.#values.has(this.#prefix + actName(name, layer))
  }

  /** Full names, in the model's order. */
  get names(): string[] {
    return [...this.#values.keys()]
  }

  /** As a Map's. */
  keys = (): IterableIterator<string> => this.#values.keys()
  values = (): IterableIterator<Tensor> => this.#values.values()
  entries = (): IterableIterator<[string, Tensor]> => this.#values.entries()

  get size(): number {
    return this.#values.size
  }

  get bytes(): number {
    return [...new Set([...this.#values.values()].map((t) => t.data))].reduce((n, d) => n + d.byteLength, 0)
  }

  [Symbol.iterator](): IterableIterator<[string, Tensor]> {
    return this.#values.entries()
  }

  /** The text tower's activations, under the same methods. */
  get text(): ActivationCache {
    return new ActivationCache(this.#values, this.#hooks, this.#model, this.#release, "text.")
  }

  embed = (): Tensor => this.get("hook_embed")
  posEmbed = (): Tensor => this.get("hook_pos_embed")
  fullEmbed = (): Tensor => this.get("hook_full_embed")
  lnPre = (): Tensor => this.get("hook_ln_pre")
  lnFinal = (): Tensor => this.get("ln_final.hook_normalized")
  lnFinalScale = (): Tensor => this.get("ln_final.hook_scale")
  residPre = (layer: number): Tensor => this.get("resid_pre", layer)
  residMid = (layer: number): Tensor => this.get("resid_mid", layer)
  residPost = (layer: number): Tensor => this.get("resid_post", layer)
  attnOut = (layer: number): Tensor => this.get("attn_out", layer)
  mlpOut = (layer: number): Tensor => this.get("mlp_out", layer)
  mlpIn = (layer: number): Tensor => this.get("mlp_in", layer)
  q = (layer: number): Tensor => this.get("q", layer)
  k = (layer: number): Tensor => this.get("k", layer)
  v = (layer: number): Tensor => this.get("v", layer)
  z = (layer: number): Tensor => this.get("z", layer)
  result = (layer: number): Tensor => this.get("result", layer)
  attnScores = (layer: number): Tensor => this.get("attn_scores", layer)
  pattern = (layer: number): Tensor => this.get("pattern", layer)
  mlpPre = (layer: number): Tensor => this.get("pre", layer)
  mlpPost = (layer: number): Tensor => this.get("post", layer)
  ln1 = (layer: number): Tensor => this.get("ln1_normalized", layer)
  ln1Scale = (layer: number): Tensor => this.get("ln1_scale", layer)
  ln2 = (layer: number): Tensor => this.get("ln2_normalized", layer)
  ln2Scale = (layer: number): Tensor => this.get("ln2_scale", layer)

  /**
   * What was written to the residual stream before `layer` (all, where it is absent; negative from the end): patch
   * embedding, learned tokens and positions (after a pre-norm one row, "ln_pre"), then each attention and MLP.
   * Rows [n, b, T, d] sum to the stream. Error: E_INPUT for a post-norm model, whose stream is no such sum.
   */
  decomposeResidual = (layer?: number): ResidualStack => decomposed(this.#cached, layer)

  /** The stream before each layer up to `layer` inclusive, "final_post" after the last; with `mid` after attention too. */
  accumulatedResidual = (layer?: number, { mid = false }: { readonly mid?: boolean } = {}): ResidualStack =>
    accumulated(this.#cached, layer, mid)

  /** What each head of each layer adds to the stream, LayerScale applied: from hook_result, or else hook_z and W_O. */
  headResults = (): Promise<ResidualStack> => headRows(this.#cached)

  /** What each neuron of an MLP adds to the stream, or only some. Error: E_MEMORY_BUDGET above `maxBytes` (2 GiB). */
  neuronResults = (
    layer: number,
    { neurons, maxBytes }: { readonly neurons?: readonly number[]; readonly maxBytes?: number } = {},
  ): Promise<ResidualStack> => neuronRows(this.#cached, this.#layer(layer), neurons, maxBytes)

  /** Rows of the stream through the final norm, at the scale that this run had; its bias is one more row. */
  applyFinalNorm = (stack: ResidualStack): Promise<ResidualStack> => normed(this.#cached, stack)

  get #cached(): Cached {
    return {
      get: (name, layer) => this.get(name, layer),
      has: (name, layer) => this.has(name, layer),
      model: this.#model,
      text: this.#prefix !== "",
    }
  }

  #layer(layer: number): number {
    const blocks = [...this.#hooks.keys()].flatMap((name) => {
      const found = name.startsWith(`${this.#prefix}blocks.`)
        ? Number(name.slice(this.#prefix.length).split(".")[1])
        : -1
      return found >= 0 ? [found] : []
    })
    const n = Math.max(-1, ...blocks) + 1
    const at = layer < 0 ? layer + n : layer
    if (Number.isInteger(at) && at >= 0 && at < n) return at
    return fail("E_HOOK", `layer ${layer} does not exist; the model has layers 0 to ${n - 1}`)
  }
}
