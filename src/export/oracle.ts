/**
 * @file The oracle: what a model computes, in float64 by plain loops, sharing no code with the graph it certifies.
 *
 * Written from the definitions: ViT (arXiv:2010.11929), CLIP (arXiv:2103.00020), SigLIP (arXiv:2303.15343), registers
 * (arXiv:2309.16588), attention pooling (arXiv:2106.04560). Names and shapes are the vocabulary's.
 */
import { fail } from "../errors.ts"
import type { ModelConfig, TextConfig, VisionConfig, VisionOutput } from "../model/config.ts"
import { attention, block, dense, mlp, norm, Part, sum, type WeightOf } from "./oracle-layers.ts"
import { ACTIVATION, rowProducts, transposed, type Array64, type Numbers } from "./oracle-math.ts"
import { resampled } from "./oracle-positions.ts"

export interface Feeds {
  /** [batch, channels, height, width] */
  readonly pixel_values: { readonly shape: readonly number[]; readonly data: ArrayLike<number> }
  /** [texts, tokens]; of a dual encoder. */
  readonly input_ids?: { readonly shape: readonly number[]; readonly data: ArrayLike<number | bigint> }
  /** [batch, patches], of a masked autoencoder; without it no patch is hidden. */
  readonly patch_mask?: { readonly shape: readonly number[]; readonly data: ArrayLike<number> }
}

export interface OracleOptions {
  /** Names of hooks and outputs to keep; all by default, also those the graph makes on request only. */
  readonly want?: (name: string) => boolean
}

/**
 * Every hook of the vocabulary and every output of the model, by name. Images and texts are computed one by one; memory
 * is what is kept and, beside it, one block's weights and values. `weight` is asked for each of them again.
 * Errors: E_INPUT for feeds that do not fit the config, E_SHAPE_MISMATCH for weights that do not,
 * E_CONFIG for outputs that the model does not make.
 */
export function oracle(
  config: ModelConfig,
  weight: WeightOf,
  feeds: Feeds,
  { want = () => true }: OracleOptions = {},
): Map<string, Array64> {
  const { vision, text, dual } = config
  const kept = new Map<string, Array64>()
  const place = (i: number, n: number): Part =>
    new Part({
      weight,
      want,
      keep: (name, value, shared) => (shared ? kept.set(name, value) : put(kept, name, value, i, n)),
    })

  const outputs = new Map<string, Array64>()
  const images = imagesOf(vision, feeds.pixel_values)
  for (const [i, pixels] of images.entries()) {
    const seen = see(place(i, images.length), config, pixels, hidden(vision, feeds, i))
    for (const name of vision.outputs) put(outputs, name, made(seen, name), i, images.length)
  }
  if (text && dual) {
    const texts = textsOf(text, feeds.input_ids)
    const words = place(0, 1).weight("text.embed.tokens", [text.vocabulary, text.dModel])
    for (const [i, ids] of texts.entries()) {
      put(outputs, "text_embeds", read(place(i, texts.length).at("text"), text, words, ids), i, texts.length)
    }
    const root = place(0, 1)
    compare(outputs, {
      scale: Math.exp(root.weight("logit_scale", [1])[0]!),
      bias: dual.logitBias ? root.weight("logit_bias", [1])[0]! : 0,
    })
  }
  for (const [name, value] of outputs) if (want(name)) kept.set(name, value)
  return kept
}

/** Put the value [1, ...] of item `i` in its place of the batch's [n, ...]. */
function put(into: Map<string, Array64>, name: string, value: Array64, i: number, n: number): void {
  const [, ...rest] = value.shape
  const whole = into.get(name) ?? { shape: [n, ...rest], data: new Float64Array(n * value.data.length) }
  whole.data.set(value.data, i * value.data.length)
  into.set(name, whole)
}

const made = (outputs: ReadonlyMap<string, Array64>, name: string): Array64 =>
  outputs.get(name) ?? fail("E_CONFIG", `the config asks for the output "${name}", which its model does not make`)

function imagesOf(cfg: VisionConfig, { shape, data }: Feeds["pixel_values"]): Float64Array[] {
  const one = [cfg.nChannels, ...cfg.imageSize]
  const [size, n] = [one.reduce((a, b) => a * b), shape[0] ?? 0]
  if (String(shape.slice(1)) !== String(one) || n < 1 || data.length !== n * size) {
    fail(
      "E_INPUT",
      `pixel_values is [${shape.join(", ")}] of ${data.length} values, expected [batch, ${one.join(", ")}]`,
    )
  }
  return Array.from({ length: n }, (_, i) => Float64Array.from({ length: size }, (_, at) => data[i * size + at]!))
}

/** The `i`-th image's part of the mask, where the model hides patches. */
function hidden(cfg: VisionConfig, { patch_mask: mask }: Feeds, i: number): readonly number[] | undefined {
  if (cfg.reconstructs !== "masked" || !mask) return undefined
  const patches = mask.shape[1]!
  return Array.from({ length: patches }, (_, at) => mask.data[i * patches + at]!)
}

function textsOf(cfg: TextConfig, ids: Feeds["input_ids"]): number[][] {
  if (!ids) return fail("E_INPUT", "input_ids is missing, the model has a text tower")
  const [n = 0, t = 0, ...more] = ids.shape
  if (more.length || n < 1 || t < 1 || t > cfg.contextLength || ids.data.length !== n * t) {
    const expected = `expected [texts, at most ${cfg.contextLength} tokens]`
    fail("E_INPUT", `input_ids is [${ids.shape.join(", ")}] of ${ids.data.length} values, ${expected}`)
  }
  const all = Array.from(ids.data, Number)
  const wrong = all.find((id) => !Number.isInteger(id) || id < 0 || id >= cfg.vocabulary)
  if (wrong !== undefined) fail("E_INPUT", `input_ids holds ${wrong}, the vocabulary has ${cfg.vocabulary} tokens`)
  return Array.from({ length: n }, (_, i) => all.slice(i * t, (i + 1) * t))
}

/** The vision tower on one image [c, H, W]: whatever its library can return of it. */
function see(
  p: Part,
  config: ModelConfig,
  pixels: Float64Array,
  mask: readonly number[] | undefined,
): Map<VisionOutput, Array64> {
  const cfg = config.vision
  const cutUp = cut(cfg, pixels)
  const seen = p.keep("hook_embed", dense(p.at("embed", "proj"), cutUp, cfg.dModel, cfg.patchBias))
  const patches = mask ? withMask(p, cfg, seen, mask) : seen
  let x = p.keep("hook_full_embed", withTokens(p, cfg, patches, cfg.positionsAntialiased)) // [1, T, d]
  if (cfg.lnPre) x = p.keep("hook_ln_pre", norm(p.at("ln_pre"), cfg.eps, x))
  const places = cfg.rotary ? placesOf(cfg) : undefined
  for (let i = 0; i < cfg.nLayers; i++) x = block(p.at("blocks", i), cfg, x, places ? { places } : {})
  const final = cfg.lnFinal ? norm(p.at("ln_final"), cfg.eps, x) : x
  return heads(p, cfg, final).set("last_hidden_state", cfg.rawHiddenState ? x : final)
}

/** The patches, row by row, each as a kernel of the convolution sees it: [1, P, c * ph * pw]. */
function cut({ imageSize, patchSize, nChannels: c }: VisionConfig, pixels: Float64Array): Array64 {
  const [[height, width], [ph, pw]] = [imageSize, patchSize]
  const size = c * ph * pw
  // A kernel that would reach over the edge is not placed.
  const data = new Float64Array(Math.floor(height / ph) * Math.floor(width / pw) * size)
  let at = 0
  for (let top = 0; top + ph <= height; top += ph) {
    for (let left = 0; left + pw <= width; left += pw) {
      for (let row = 0; row < c * ph; row++, at += pw) {
        const start = (Math.floor(row / ph) * height + top + (row % ph)) * width + left
        data.set(pixels.subarray(start, start + pw), at)
      }
    }
  }
  return { shape: [1, data.length / size, size], data }
}

/** m of the learned token and 1 - m of each patch. */
function withMask(p: Part, { dModel: d }: VisionConfig, { shape, data }: Array64, mask: readonly number[]): Array64 {
  const token = p.at("embed").weight("mask", [d])
  const share = (i: number) => mask[Math.floor(i / d)]!
  return { shape, data: data.map((v, i) => v * (1 - share(i)) + token[i % d]! * share(i)) }
}

/** Learned tokens before the patches [1, P, d], and positions where the table has a row. */
function withTokens(p: Part, cfg: VisionConfig, patches: Array64, antialias: boolean): Array64 {
  const { dModel: d, positions } = cfg
  const nPatches = patches.shape[1]!
  const counts = cfg.prefix.map(({ count }) => count)
  const before = counts.reduce((a, b) => a + b, 0)
  const data = new Float64Array((before + nPatches) * d)
  data.set(patches.data, before * d)
  // Which of these tokens have a position, in the table's order.
  const placed: number[] = []
  let row = 0
  for (const { name, count } of cfg.prefix) {
    data.set(p.at("embed").weight(name, [count, d]), row * d)
    const has = positions === "all" || (positions === "classAndPatches" && name !== "reg")
    for (const end = row + count; row < end; row++) if (has) placed.push(row)
  }
  const x = { shape: [1, before + nPatches, d], data }
  if (positions === "none") return x
  const [gh, gw] = cfg.positionGrid
  const table = p.at("embed").weight("pos", [placed.length + gh * gw, d])
  const ofPatches = table.subarray(placed.length * d)
  const grid = [0, 1].map((i) => Math.floor(cfg.imageSize[i]! / cfg.patchSize[i]!)) as [number, number]

  // The hook has a row for every token, or for every patch where only patches have one.
  const first = positions === "patches" ? before : 0
  const added = new Float64Array(data.length - first * d)
  for (const [i, at] of placed.entries()) added.set(table.subarray(i * d, (i + 1) * d), at * d)
  const moved = gh !== grid[0] || gw !== grid[1]
  added.set(moved ? resampled(ofPatches, d, [gh, gw], grid, antialias) : ofPatches, (before - first) * d)
  p.keep("hook_pos_embed", { shape: [1, added.length / d, d], data: added }, { shared: true })
  for (const [i, value] of added.entries()) data[first * d + i]! += value
  return x
}

/** Where the middle of each patch lies, from -1 at the upper and left edge to 1; learned tokens lie nowhere. */
function placesOf({ prefix, imageSize, patchSize }: VisionConfig): ([number, number] | undefined)[] {
  const [rows, columns] = [0, 1].map((i) => Math.floor(imageSize[i]! / patchSize[i]!)) as [number, number]
  const before = prefix.reduce((n, { count }) => n + count, 0)
  const places: ([number, number] | undefined)[] = Array.from({ length: before }, () => undefined)
  for (let y = 0; y < rows; y++)
    for (let x = 0; x < columns; x++) places.push([((y + 0.5) / rows) * 2 - 1, ((x + 0.5) / columns) * 2 - 1])
  return places
}

/** What follows the final norm, of the tokens [1, T, d]. */
function heads(p: Part, cfg: VisionConfig, tokens: Array64): Map<VisionOutput, Array64> {
  const outputs = new Map<VisionOutput, Array64>()
  if (cfg.reconstructs) {
    const before = cfg.prefix.reduce((n, { count }) => n + count, 0) * cfg.dModel
    const data = tokens.data.subarray(before)
    const patches = { shape: [1, data.length / cfg.dModel, cfg.dModel], data }
    return outputs.set(
      "reconstruction",
      dense(p.at("head"), patches, cfg.nChannels * cfg.patchSize[0] * cfg.patchSize[1], true),
    )
  }
  if (cfg.pool === "none") return outputs
  if (cfg.pool === "distilled") {
    // DeiT (arXiv:2012.12877): class and distillation token under a head each, and their mean.
    const cls = dense(p.at("head"), token(tokens, 0), cfg.nClasses, true)
    const distilled = dense(p.at("head_dist"), token(tokens, 1), cfg.nClasses, true)
    const logits = { shape: cls.shape, data: sum(cls, distilled).data.map((v) => v / 2) }
    return outputs.set("logits", logits).set("cls_logits", cls).set("distillation_logits", distilled)
  }
  let pooled = pool(p, cfg, tokens) // [1, d], of class and mean [1, 2 d]
  if (cfg.lnPooled) pooled = norm(p.at("ln_pooled"), cfg.eps, pooled)
  if (cfg.pooler) {
    const activate = ACTIVATION[cfg.pooler]
    const { shape, data } = dense(p.at("pooler"), pooled, cfg.dPooler ?? cfg.dModel, true)
    pooled = { shape, data: data.map((v) => activate(v)) }
  }
  outputs.set("pooler_output", pooled)
  if (cfg.nClasses) outputs.set("logits", dense(p.at("head"), pooled, cfg.nClasses, true))
  const embeds = cfg.dProjection ? dense(p.at("projection"), pooled, cfg.dProjection, false) : pooled
  return outputs.set("image_embeds", embeds)
}

/** Token `i` of [1, T, d] as [1, d]. */
function token({ shape, data }: Array64, i: number): Array64 {
  const d = shape[2]!
  return { shape: [1, d], data: data.slice(i * d, (i + 1) * d) }
}

function pool(p: Part, cfg: VisionConfig, tokens: Array64): Array64 {
  const { dModel: d } = cfg
  const first = cfg.poolsPrefix ? 0 : cfg.prefix.reduce((n, { count }) => n + count, 0)
  const data = tokens.data.subarray(first * d)
  const pooledTokens = { shape: [1, data.length / d, d], data }
  if (cfg.pool === "attention") return attentionPool(p.at("pool"), cfg, pooledTokens)
  const cls = token(tokens, 0)
  if (cfg.pool === "cls") return cls
  const mean = new Float64Array(d)
  for (const [i, value] of data.entries()) mean[i % d]! += value / pooledTokens.shape[1]!
  if (cfg.pool === "mean") return { shape: [1, d], data: mean }
  return { shape: [1, 2 * d], data: Float64Array.of(...cls.data, ...mean) }
}

/** A learned query attends to the tokens; an MLP with its norm is added to what it found: [1, d] */
function attentionPool(p: Part, cfg: VisionConfig, tokens: Array64): Array64 {
  const { dModel: d } = cfg
  const plain = { qkvBias: true, keyBias: true, attnOutBias: true, mlpBias: true, qkNorm: false, gatedMlp: false }
  const stack = { ...cfg, ...plain, dMlp: cfg.poolMlp }
  const query = { shape: [1, 1, d], data: Float64Array.from(p.weight("query", [d])) }
  const found = attention(p.at("attn"), stack, query, tokens)
  return token(sum(found, mlp(p.at("mlp"), stack, norm(p.at("ln"), cfg.eps, found))), 0)
}

/** The text tower on one text: its embedding [1, p], not yet of unit length. */
function read(p: Part, cfg: TextConfig, words: Numbers, ids: readonly number[]): Array64 {
  const { dModel: d } = cfg
  const shape = [1, ids.length, d]
  const embedded = new Float64Array(ids.length * d)
  for (const [i, id] of ids.entries()) embedded.set(words.subarray(id * d, (id + 1) * d), i * d)
  const table = p.at("embed").weight("pos", [cfg.contextLength, d])
  const positions = { shape, data: Float64Array.from(table.subarray(0, ids.length * d)) }
  p.keep("hook_pos_embed", positions, { shared: true })
  let x = p.keep("hook_full_embed", sum(p.keep("hook_embed", { shape, data: embedded }), positions))
  for (let i = 0; i < cfg.nLayers; i++) x = block(p.at("blocks", i), cfg, x, { causal: cfg.causal })
  const final = norm(p.at("ln_final"), cfg.eps, x)
  return dense(p.at("projection"), token(final, standsForText(cfg, ids)), cfg.dProjection, cfg.projectionBias)
}

/** Where there is no end of text, transformers' argmax of nothing but zeros gives the first token. */
function standsForText({ pool, eosTokenId }: TextConfig, ids: readonly number[]): number {
  if (pool === "last") return ids.length - 1
  if (pool === "eos") return Math.max(ids.indexOf(eosTokenId), 0)
  return ids.indexOf(Math.max(...ids))
}

/** Images and texts as unit vectors, and scale * image . text + bias of each pair. */
function compare(outputs: Map<string, Array64>, { scale, bias }: { scale: number; bias: number }): void {
  const images = unitRows(made(outputs, "image_embeds"))
  const texts = unitRows(made(outputs, "text_embeds"))
  const [b, n] = [images.shape[0]!, texts.shape[0]!]
  const logits = rowProducts(images.data, b, texts.data, n).map((v) => v * scale + bias)
  outputs
    .set("logits_per_image", { shape: [b, n], data: logits })
    .set("logits_per_text", { shape: [n, b], data: transposed(logits, b) })
    .set("image_embeds", images)
    .set("text_embeds", texts)
}

function unitRows({ shape, data }: Array64): Array64 {
  const d = shape[1]!
  const lengths = Array.from({ length: shape[0]! }, (_, i) =>
    Math.sqrt(data.subarray(i * d, (i + 1) * d).reduce((total, v) => total + v * v, 0)),
  )
  return { shape, data: data.map((v, i) => v / lengths[Math.floor(i / d)]!) }
}
