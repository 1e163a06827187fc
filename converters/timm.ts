/** @file timm's VisionTransformer and its distilled form, from the architecture's name and the config's overrides. */
import { fail } from "../src/errors.ts"
import type { ModelConfig, Pool, PrefixToken, VisionConfig, VisionOutput } from "../src/model/config.ts"
import { plainVision } from "./hf.ts"
import { quote } from "../src/tensor/quote.ts"
import { ConfigReader, nearestTo } from "./reader.ts"
import { fused, module, patchConv, perLayer, type Family, type Rule } from "./rules.ts"
import { TIMM_ARCHITECTURES, TIMM_UNSUPPORTED, type TimmArguments } from "./timm-architectures.ts"

// timm/layers/norm.py
const NORM_EPS = 1e-6

// Arguments of timm's constructor that change what is computed and that we do not have.
const REFUSED = [
  "scale_attn_norm",
  "scale_mlp_norm",
  "embed_layer",
  "embed_norm_layer",
  "block_fn",
  "mlp_layer",
  "attn_layer",
]

export const TIMM_POOLS: Readonly<Record<string, Pool>> = { token: "cls", avg: "mean", map: "attention", "": "none" }

/** The arguments of an architecture name. Errors: E_UNSUPPORTED_ARCH with the nearest names. */
export function timmArguments(name: string, file: string): TimmArguments {
  const base = name.split(".")[0]!
  const known = Object.hasOwn(TIMM_ARCHITECTURES, base) ? TIMM_ARCHITECTURES[base] : undefined
  if (known) return known
  const why = Object.hasOwn(TIMM_UNSUPPORTED, base) ? ` (${TIMM_UNSUPPORTED[base]})` : ""
  const names = Object.keys(TIMM_ARCHITECTURES)
  return fail(
    "E_UNSUPPORTED_ARCH",
    `${file}: timm architecture ${quote(name)} is not supported${why}; supported are ${names.length} of timm's VisionTransformers (nearest: ${nearestTo(base, names)})`,
    { file },
  )
}

/**
 * A timm vision transformer: `c` holds constructor arguments over those of the architecture; `size` [c, h, w] is what
 * the pretrained config says of the input.
 */
export function timmVision(
  architecture: TimmArguments,
  c: ConfigReader,
  size: readonly [number, number, number],
  nClasses: number,
): VisionConfig {
  const a = { patch_size: 16, embed_dim: 768, depth: 12, num_heads: 12, mlp_ratio: 4, ...architecture }
  for (const key of REFUSED) if (c.has(key) && c.raw(key) !== false) c.unsupported(key)
  const flag = (key: keyof TimmArguments, fallback: boolean) =>
    c.bool(
      key,
      (a as Record<string, unknown>)[key] === undefined ? fallback : ((a as Record<string, unknown>)[key] as boolean),
    )

  const pool = c.choice("global_pool", a.global_pool ?? "token", TIMM_POOLS)
  const hasClass = flag("class_token", true)
  if (a.distilled && pool !== "cls") c.invalid(`global_pool must be "token" for a distilled model`)
  if (a.distilled && !nClasses) c.invalid("num_classes must be at least 1 for a distilled model, got 0")
  if (pool === "cls" && !hasClass) c.invalid(`global_pool "token" needs class_token true`)
  if (pool === "none" && nClasses)
    c.invalid(`global_pool "" with ${nClasses} classes gives logits for every token, which is not supported`)
  if (pool === "none" && c.has("fc_norm") && c.bool("fc_norm", false))
    c.invalid('fc_norm true with global_pool "" is not supported')

  const dModel = c.int("embed_dim", { fallback: a.embed_dim })
  const nHeads = c.int("num_heads", { fallback: a.num_heads })
  const hidden = c.scaled("mlp_ratio", a.mlp_ratio, dModel)
  const imageSize = c.pair("img_size", { fallback: a.img_size ? [a.img_size, a.img_size] : [size[1], size[2]] })
  const patchSize = c.pair("patch_size", { fallback: [a.patch_size, a.patch_size] })
  const projBias = flag("proj_bias", true)
  const finalNorm = flag("final_norm", true)
  const normAfterPool = c.raw("fc_norm") === null ? pool === "mean" : flag("fc_norm", pool === "mean")
  const positioned = c.choice("pos_embed", "learn", { learn: true, none: false, "": false })
  const registers = c.count("reg_tokens", { fallback: a.reg_tokens ?? 0, limit: "tokens" })
  // As in Python, where null and 0 are both false.
  const layerScale = c.raw("init_values") !== null && c.number("init_values", { fallback: a.init_values ?? 0 }) !== 0
  const preNorm = flag("pre_norm", false)
  // Named in the config it is timm's own LayerNorm, without the eps that an architecture gives its.
  const norms = { layernorm: NORM_EPS, layer_norm: NORM_EPS, "": NORM_EPS }
  const eps = c.has("norm_layer") ? c.choice("norm_layer", "", norms) : (a.eps ?? NORM_EPS)

  const prefix: PrefixToken[] = []
  if (hasClass) prefix.push({ name: "cls", count: 1 })
  if (a.distilled) prefix.push({ name: "dist", count: 1 })
  if (registers) prefix.push({ name: "reg", count: registers })
  const outputs: VisionOutput[] = ["last_hidden_state"]
  if (a.distilled) outputs.unshift("cls_logits", "distillation_logits")
  if (nClasses) outputs.unshift("logits")
  else if (pool !== "none") outputs.push("pooler_output")

  return {
    ...plainVision,
    nLayers: c.int("depth", { fallback: a.depth, limit: "count" }),
    dModel,
    nHeads,
    dHead: c.divide("embed_dim", dModel, "num_heads", nHeads),
    dMlp: a.mlp === "SwiGLUPacked" ? Math.floor(hidden / 2) : hidden,
    activation: c.activation("act_layer", ACTIVATIONS[a.act_layer ?? "gelu"] ?? "gelu"),
    gatedMlp: a.mlp !== undefined,
    eps,
    qkvBias: flag("qkv_bias", true),
    attnOutBias: projBias,
    mlpBias: projBias,
    qkNorm: flag("qk_norm", false),
    layerScale,
    imageSize,
    patchSize,
    positionGrid: c.patches("img_size", imageSize, patchSize),
    positionsAntialiased: true,
    nChannels: c.int("in_chans", { fallback: size[0], limit: "count" }),
    patchBias: !preNorm,
    prefix,
    positions: positioned ? (flag("no_embed_class", false) ? "patches" : "all") : "none",
    lnPre: preNorm,
    lnFinal: finalNorm && !normAfterPool,
    lnPooled: finalNorm && normAfterPool,
    pool: a.distilled ? "distilled" : pool,
    poolsPrefix: flag("pool_include_prefix", false),
    poolMlp: hidden,
    nClasses,
    outputs,
  }
}

const ACTIVATIONS = {
  gelu: "gelu",
  gelu_tanh: "gelu_tanh",
  quick_gelu: "quick_gelu",
  silu: "silu",
} as const as Readonly<Record<string, "gelu" | "gelu_tanh" | "quick_gelu" | "silu">>

/** timm's names, which stand under `b`. */
export function timmTable(b: string, config: ModelConfig, packed: boolean): [string, Rule][] {
  const { nLayers, gatedMlp } = config.vision
  const kinds = ["weight", "bias"] as const
  const gate = (at: string, to: string): [string, Rule][] =>
    packed
      ? kinds.map((kind) => fused(`${at}fc1.${kind}`, to, ["in", "linear"], kind))
      : [...module(`${at}fc1_g`, `${to}.in`), ...module(`${at}fc1_x`, `${to}.linear`)]
  return [
    [`${b}cls_token`, "embed.cls"],
    [`${b}dist_token`, "embed.dist"],
    [`${b}reg_token`, "embed.reg"],
    [`${b}pos_embed`, "embed.pos"],
    ...patchConv(`${b}patch_embed.proj`, config),
    ...module(`${b}norm_pre`, "ln_pre"),
    ...perLayer(nLayers, (i) => {
      const at = `${b}blocks.${i}.`
      const to = `blocks.${i}.`
      return [
        ...module(`${at}norm1`, `${to}ln1`),
        ...kinds.map((kind) => fused(`${at}attn.qkv.${kind}`, `${to}attn`, ["q", "k", "v"], kind)),
        ...module(`${at}attn.q_norm`, `${to}attn.q_norm`),
        ...module(`${at}attn.k_norm`, `${to}attn.k_norm`),
        ...module(`${at}attn.proj`, `${to}attn.out`),
        [`${at}ls1.gamma`, `${to}ls1.gamma`],
        ...module(`${at}norm2`, `${to}ln2`),
        ...(gatedMlp ? gate(`${at}mlp.`, `${to}mlp`) : module(`${at}mlp.fc1`, `${to}mlp.in`)),
        ...module(`${at}mlp.fc2`, `${to}mlp.out`),
        [`${at}ls2.gamma`, `${to}ls2.gamma`],
      ]
    }),
    ...module(`${b}norm`, "ln_final"),
    ...module(`${b}fc_norm`, "ln_pooled"),
    [`${b}attn_pool.latent`, "pool.query"],
    ...module(`${b}attn_pool.q`, "pool.attn.q"),
    ...kinds.map((kind) => fused(`${b}attn_pool.kv.${kind}`, "pool.attn", ["k", "v"], kind)),
    ...module(`${b}attn_pool.proj`, "pool.attn.out"),
    ...module(`${b}attn_pool.norm`, "pool.ln"),
    ...module(`${b}attn_pool.mlp.fc1`, "pool.mlp.in"),
    ...module(`${b}attn_pool.mlp.fc2`, "pool.mlp.out"),
    ...module(`${b}head`, "head"),
    ...module(`${b}head_dist`, "head_dist"),
  ]
}

/** What a config says of the pretrained weights; configs of 2022 have no such part and say it at the top. */
export function timmPretrained(config: Readonly<Record<string, unknown>>): unknown {
  return config["pretrained_cfg"] ?? config
}

/** Class names: a list or, where numbers are left out, an object by number. Errors: E_CONFIG. */
function labelsOf(c: ConfigReader, nClasses: number): string[] {
  if (!c.has("label_names")) return []
  const names = c.raw("label_names")
  if (Array.isArray(names) && names.length !== nClasses) {
    c.invalid(`label_names has ${names.length} names, num_classes is ${nClasses}`)
  }
  if (Array.isArray(names)) return c.strings("label_names")!
  const some = c.object("label_names")
  return Array.from({ length: nClasses }, (_, i) => some.string(String(i), String(i)))
}

export const timm: Family = {
  name: "timm",
  supports: ["timm VisionTransformer and VisionTransformerDistilled by architecture name"],
  claims: (c) => c.has("architecture"),

  read(c): ModelConfig {
    const architecture = c.string("architecture")
    const args = timmArguments(architecture, c.file)
    const pretrained = new ConfigReader(
      timmPretrained(c.json),
      c.file,
      c.has("pretrained_cfg") ? "pretrained_cfg." : "",
    )
    const ofPretrained = pretrained.count("num_classes", { fallback: 1000, limit: "classes" })
    const ofConfig = c.count("num_classes", { fallback: ofPretrained, limit: "classes" })
    if (c.has("model_args")) c.object("model_args") // its check
    // The config's global_pool stands beside model_args, which win.
    const given = {
      ...(c.has("global_pool") && { global_pool: c.raw("global_pool") }),
      ...(c.raw("model_args") as object),
    }
    const overrides = new ConfigReader(given, c.file, "model_args.")
    const nClasses = overrides.count("num_classes", { fallback: ofConfig, limit: "classes" })
    const vision = timmVision(args, overrides, pretrained.sizes("input_size", [3, 224, 224]), nClasses)
    const labels = labelsOf(c.has("label_names") ? c : pretrained, nClasses)
    return { family: "timm", architecture, vision, text: undefined, dual: undefined, labels }
  },

  table(config, _, reader) {
    const packed = timmArguments(config.architecture, reader.file).mlp !== "SwiGLU"
    return new Map(timmTable("", config, packed))
  },
}
