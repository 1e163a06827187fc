/**
 * @file The model with only its direct paths left: what each part adds to the residual stream, and the norms, frozen.
 *
 * With the scale of every norm on the stream, what heads and neurons found, and the pattern of attention pooling taken
 * for constants, an output is an affine function of what is written to the stream. Its gradient is then the direction
 * that the output reads at each place, and gradient times what is added there is a share of the output; the shares add
 * up to it (Euler). Elhage et al. 2021 (https://transformer-circuits.pub/2021/framework) do this for one final norm.
 */
import { detach, matmul, mul, sub, transpose } from "../../graph/ops.ts"
import type { Value } from "../../graph/value.ts"
import { nPrefix, type ModelConfig, type StackConfig, type VisionConfig } from "../../model/config.ts"
import type { HookInfo } from "../../model/hooks.ts"
import type { GraphView } from "../hooked-vit.ts"
import type { Edit } from "../interventions.ts"

/** Which tower: the prefix of its hooks and weights. */
export type Tower = "" | "text."

/** What kind of part of a model a share belongs to. */
export type Part = "embedding" | "position" | "head" | "mlp" | "bias" | "pool"

/** Something that is added at a place: `added` broadcasts against the place, whose last axis is summed over. */
export interface Source {
  /** TransformerLens' words where it has them: "embed", "L3H5", "3_mlp_out". */
  readonly name: string
  readonly part: Part
  readonly layer?: number
  readonly site: Value
  readonly added: Value
  /** The token that the place's first row is; absent where the place is behind the tokens. */
  readonly firstToken?: number
  /** The place is [b, T, h, e]: a share for each head. */
  readonly perHead?: true
  /** The place is [b, T, m]: a share for each neuron. */
  readonly neurons?: true
}

const isPost = ({ norm }: StackConfig): boolean => norm === "post"

/** Hooks that are constants on the direct paths. In a post-norm block the stream itself goes through ln1 and ln2. */
const frozen = (post: boolean): RegExp =>
  post
    ? /^blocks\.\d+\.(ln[12]|mlp\.ln)\.hook_scale$/
    : /^(text\.)?(ln_pre|ln_final|ln_pooled)\.hook_scale$|^(text\.)?blocks\.\d+\.(attn\.hook_z|mlp\.hook_post)$|^pool\.(attn\.hook_pattern|mlp\.hook_post)$/

/** The edits that leave only the direct paths of a tower. */
export function straightened(config: ModelConfig, hooks: ReadonlyMap<string, HookInfo>): Record<string, Edit> {
  const post = isPost(config.vision)
  const names = [...hooks.keys()].filter((name) => frozen(false).test(name) || (post && frozen(true).test(name)))
  return Object.fromEntries(names.map((name) => [name, detach]))
}

/** Everything that is added on the direct paths of a tower built as `view`. */
export function sources(view: GraphView, { vision, text }: ModelConfig, tower: Tower): Source[] {
  if (tower === "text.") {
    return [
      atHook(view, "embed", "embedding", "text.hook_embed"),
      atHook(view, "pos_embed", "position", "text.hook_pos_embed"),
      ...blocks(view, text!, tower),
      ...bias(view, "ln_final_bias", "text.ln_final.bias", "text.ln_final.hook_normalized"),
      ...behind(view, ["text.projection.bias"]),
    ]
  }
  return [
    ...embedding(view, vision),
    ...bias(view, "ln_pre_bias", "ln_pre.bias", "ln_pre.hook_normalized"),
    ...blocks(view, vision, tower),
    ...bias(view, "ln_final_bias", "ln_final.bias", "ln_final.hook_normalized"),
    ...(vision.pool === "attention" ? pooling(view) : []),
    ...behind(view, ["ln_pooled.bias", "pooler.bias", "head.bias", "head_dist.bias"]),
  ]
}

function embedding(view: GraphView, cfg: VisionConfig): Source[] {
  const site = view.hook("hook_embed")
  const shift = view.weight("embed.proj.bias")
  const first = nPrefix(cfg)
  let token = 0
  const tokens = cfg.prefix.flatMap(({ name, count }): Source[] => {
    const row = token
    token += count
    const learned = view.weight(`embed.${name}`)
    return learned ? [{ name: `${name}_token`, part: "embedding", site: learned, added: learned, firstToken: row }] : []
  })
  const mask = view.weight("embed.mask")
  const positions = cfg.positions === "patches" ? first : 0
  return [
    { name: "embed", part: "embedding", site, added: shift ? sub(site, shift) : site, firstToken: first },
    ...(shift ? [{ name: "embed_bias", part: "bias", site, added: shift, firstToken: first } as const] : []),
    ...tokens,
    ...(mask ? [{ name: "mask_token", part: "embedding", site: mask, added: mask } as const] : []),
    ...(cfg.positions === "none"
      ? []
      : [{ ...atHook(view, "pos_embed", "position", "hook_pos_embed"), firstToken: positions }]),
  ]
}

function blocks(view: GraphView, cfg: StackConfig, tower: Tower): Source[] {
  return [...Array(cfg.nLayers).keys()].flatMap((layer) => {
    const at = `${tower}blocks.${layer}`
    const own = (s: Source): Source => ({ ...s, layer })
    const z = view.hook(`${at}.attn.hook_z`)
    const attention: Source[] = [
      { name: `L${layer}`, part: "head", site: z, added: z, firstToken: 0, perHead: true },
      ...bias(view, `${layer}_attn_bias`, `${at}.attn.out.bias`, `${at}.hook_attn_out`, `${at}.ls1.gamma`),
      ...(isPost(cfg) ? bias(view, `${layer}_ln1_bias`, `${at}.ln1.bias`, `${at}.ln1.hook_normalized`) : []),
    ]
    if (cfg.attnOnly) return attention.map(own)
    const post = view.hook(`${at}.mlp.hook_post`)
    const mlp: Source[] = [
      { name: `${layer}_mlp_out`, part: "mlp", site: post, added: post, firstToken: 0, neurons: true },
      ...bias(view, `${layer}_mlp_ln_bias`, `${at}.mlp.ln.bias`, `${at}.mlp.ln.hook_normalized`),
      ...bias(view, `${layer}_mlp_bias`, `${at}.mlp.out.bias`, `${at}.hook_mlp_out`, `${at}.ls2.gamma`),
      ...(isPost(cfg) ? bias(view, `${layer}_ln2_bias`, `${at}.ln2.bias`, `${at}.ln2.hook_normalized`) : []),
    ]
    return [...attention, ...mlp].map(own)
  })
}

/** Attention pooling at the pattern that it has: its MLP is a part of its own, its values go on to the tokens. */
function pooling(view: GraphView): Source[] {
  const post = view.hook("pool.mlp.hook_post")
  return [
    { name: "pool_mlp_out", part: "pool", site: post, added: post },
    ...behind(view, ["pool.attn.v.bias", "pool.attn.out.bias", "pool.mlp.out.bias"]),
  ]
}

const atHook = (view: GraphView, name: string, part: Part, hook: string): Source => {
  const value = view.hook(hook)
  return { name, part, site: value, added: value, firstToken: 0 }
}

/** A bias, times the block's LayerScale if it has one, at the hook behind it; nothing where the model has none. */
function bias(view: GraphView, name: string, weight: string, hook: string, scale?: string): Source[] {
  const value = view.weight(weight)
  const gamma = scale === undefined ? undefined : view.weight(scale)
  const added = value && gamma ? mul(value, gamma) : value
  return added ? [{ name, part: "bias", site: view.hook(hook), added, firstToken: 0 }] : []
}

/** Biases behind the tokens, where one image's gradient at the weight is all there is. */
const behind = (view: GraphView, weights: readonly string[]): Source[] =>
  weights.flatMap((weight): Source[] => {
    const value = view.weight(weight)
    const name = weight.replace(/^text\./, "").replaceAll(".", "_")
    return value ? [{ name, part: "bias", site: value, added: value }] : []
  })

/**
 * How much each head's share owes to each token that it reads: gradient at z times the values, weighed by the pattern;
 * [1, h, query, key]. The values hold their bias.
 */
export function throughPattern(view: GraphView, slope: Value, at: string): Value {
  const [g, v] = [transpose(slope, [0, 2, 1, 3]), transpose(view.hook(`${at}.attn.hook_v`), [0, 2, 3, 1])]
  return mul(view.hook(`${at}.attn.hook_pattern`), matmul(g, v))
}
