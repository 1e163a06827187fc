/**
 * @file The residual stream taken apart into what was written to it, from a cache; TransformerLens' words for the rows.
 *
 * Of a pre-norm (or norm-free) tower, stream = embeddings + what each attention and each MLP added, to rounding.
 */
import { fail } from "../../errors.ts"
import { nTokens, type ModelConfig, type PrefixToken, type StackConfig } from "../../model/config.ts"
import { float32, size, type Tensor } from "../../tensor/tensor.ts"

/** What of a model its caches know. */
export interface CachedModel {
  readonly config: ModelConfig
  readonly weight: (name: string) => Promise<Tensor<"float32">>
}

/** Rows of one shape, [n, b, T, d], and what each is. */
export interface ResidualStack {
  readonly labels: readonly string[]
  readonly stack: Tensor<"float32">
}

/** A cache as it is read here: a full name, or a short one with its layer; of the text tower where `text`. */
export interface Cached {
  readonly get: (name: string, layer?: number) => Tensor
  readonly has: (name: string, layer?: number) => boolean
  readonly model: CachedModel
  readonly text: boolean
}

type Row = readonly [label: string, value: Tensor]

/** Before `layer`, or after the last where it is absent; negative from the end. */
export function decomposed(cache: Cached, layer?: number): ResidualStack {
  const cfg = stackOf(cache)
  if (cfg.norm === "post") {
    fail(
      "E_INPUT",
      "this model norms the stream itself (post-norm), so that what was written does not sum to it; decomposeLogit takes its outputs apart through the norms",
    )
  }
  const last = upTo(cfg, layer)
  const begun = embeddings(cache)
  const written = [...Array(last).keys()].flatMap((i): Row[] => [
    [`${i}_attn_out`, cache.get("attn_out", i)],
    ...(cfg.attnOnly ? [] : [[`${i}_mlp_out`, cache.get("mlp_out", i)] as const]),
  ])
  return stacked([...begun, ...written])
}

/** The stream before each layer up to `layer` inclusive, or to the end where it is absent; with `mid` also after attention. */
export function accumulated(cache: Cached, layer?: number, mid = false): ResidualStack {
  const cfg = stackOf(cache)
  const last = upTo(cfg, layer)
  const before = [...Array(last).keys()].flatMap((i): Row[] => [
    [`${i}_pre`, cache.get("resid_pre", i)],
    ...(mid && !cfg.attnOnly ? [[`${i}_mid`, cache.get("resid_mid", i)] as const] : []),
  ])
  const end: Row =
    last < cfg.nLayers
      ? [`${last}_pre`, cache.get("resid_pre", last)]
      : ["final_post", cache.get("resid_post", cfg.nLayers - 1)]
  return stacked([...before, end])
}

/** What each head adds to the stream, LayerScale applied; sums with the output biases to hook_attn_out. */
export async function headRows(cache: Cached): Promise<ResidualStack> {
  const { nLayers, nHeads: h } = stackOf(cache)
  const rows: Row[] = []
  for (let layer = 0; layer < nLayers; layer++) {
    const result = cache.has("result", layer)
      ? (cache.get("result", layer) as Tensor<"float32">)
      : throughOutput(cache.get("z", layer) as Tensor<"float32">, await outputOf(cache, layer))
    const gamma = await scaleOf(cache, layer, "ls1")
    for (let head = 0; head < h; head++) rows.push([`L${layer}H${head}`, headOf(result, head, gamma)])
  }
  return stacked(rows)
}

/** Bytes of the rows of neurons that are made without being asked again. */
const NEURON_BYTES = 2 ** 31

/** What neurons of one MLP add to the stream, LayerScale applied: hook_post times their rows of W_out. */
export async function neuronRows(
  cache: Cached,
  layer: number,
  only?: readonly number[],
  maxBytes = NEURON_BYTES,
): Promise<ResidualStack> {
  const cfg = stackOf(cache)
  const i = layer < 0 ? layer + cfg.nLayers : layer
  const post = cache.get("post", layer) as Tensor<"float32">
  const [b, t, m] = post.shape as [number, number, number]
  const neurons = only ?? [...Array(m).keys()]
  const wrong = neurons.find((n) => !Number.isInteger(n) || n < 0 || n >= m)
  if (wrong !== undefined) fail("E_INPUT", `there is no neuron ${wrong}; layer ${i} has neurons 0 to ${m - 1}`)
  if (!neurons.length) fail("E_INPUT", `no neuron was named; layer ${i} has neurons 0 to ${m - 1}`)
  if (cfg.norm === "post") fail("E_INPUT", "this model norms its hidden neurons (post-norm): they do not write alone")
  const bytes = 4 * neurons.length * b * t * cfg.dModel
  if (bytes > maxBytes) {
    const what = `${neurons.length} neurons of layer ${i} are ${bytes} bytes, the limit is ${maxBytes}`
    fail("E_MEMORY_BUDGET", `${what}: name neurons, cache fewer positions, or use decomposeLogit with neurons`)
  }
  const out = (await cache.model.weight(`${prefix(cache)}blocks.${i}.mlp.W_out`)).data // [m, d]
  const gamma = await scaleOf(cache, i, "ls2")
  const d = cfg.dModel
  const rows = neurons.map((n): Row => {
    const row = new Float32Array(b * t * d)
    for (let at = 0; at < b * t; at++) {
      const x = post.data[at * m + n]!
      for (let j = 0; j < d; j++) row[at * d + j] = x * out[n * d + j]! * (gamma?.[j] ?? 1)
    }
    return [`L${i}N${n}`, float32([b, t, d], row)]
  })
  return stacked(rows)
}

/**
 * Rows through the final norm at the scale that the run had: each centred, divided by ln_final.hook_scale, times the
 * norm's weight; its bias is a row of its own. Rows that sum to the final stream then sum to ln_final.hook_normalized.
 */
export async function normed(cache: Cached, { labels, stack }: ResidualStack): Promise<ResidualStack> {
  if (!cache.text && !cache.model.config.vision.lnFinal) {
    fail("E_INPUT", "the model has no ln_final: what the last block leaves is read as it is")
  }
  const scale = cache.get("ln_final.hook_scale").data as Float32Array
  const [n, b, t, d] = stack.shape as [number, number, number, number]
  if (scale.length !== b * t) {
    fail("E_INPUT", `the stack has ${b} x ${t} tokens, ln_final.hook_scale was cached for ${scale.length}`)
  }
  const [w, bias] = await Promise.all(
    ["weight", "bias"].map(async (kind) => (await cache.model.weight(`${prefix(cache)}ln_final.${kind}`)).data),
  )
  const out = new Float32Array((n + 1) * b * t * d)
  for (let row = 0; row < n * b * t; row++) {
    let mean = 0
    for (let j = 0; j < d; j++) mean += stack.data[row * d + j]! / d
    for (let j = 0; j < d; j++) {
      out[row * d + j] = ((stack.data[row * d + j]! - mean) / scale[row % (b * t)]!) * w![j]!
    }
  }
  for (let at = n * b * t * d; at < out.length; at += d) out.set(bias!, at)
  return { labels: [...labels, "ln_final_bias"], stack: float32([n + 1, b, t, d], out) }
}

const stackOf = ({ model, text }: Cached): StackConfig => (text ? model.config.text! : model.config.vision)
const prefix = ({ text }: Cached): string => (text ? "text." : "")

function upTo({ nLayers }: StackConfig, layer = nLayers): number {
  const at = layer < 0 ? layer + nLayers : layer
  if (Number.isInteger(at) && at >= 0 && at <= nLayers) return at
  return fail(
    "E_HOOK",
    `layer ${layer} does not exist; the model has layers 0 to ${nLayers - 1}, and ${nLayers} is the end`,
  )
}

/** What is in the stream before the first block. Positions of the cache that are not all of them cannot be told apart. */
function embeddings(cache: Cached): Row[] {
  if (cache.text) {
    return [
      ["embed", cache.get("hook_embed")],
      ["pos_embed", cache.get("hook_pos_embed")],
    ]
  }
  const { vision } = cache.model.config
  if (vision.lnPre) return [["ln_pre", cache.get("hook_ln_pre")]]
  const full = cache.get("hook_full_embed") as Tensor<"float32">
  const [b, t, d] = full.shape as [number, number, number]
  if (t !== nTokens(vision)) return [["full_embed", full]]
  const positions =
    vision.positions === "none" ? undefined : placed(cache.get("hook_pos_embed") as Tensor<"float32">, full)
  const learned = positions
    ? float32(
        full.shape,
        full.data.map((x, i) => x - positions.data[i]!),
      )
    : full
  let first = 0
  const tokens = vision.prefix.map(({ name, count }: PrefixToken): Row => {
    const row = onlyTokens(learned, first, first + count)
    first += count
    return [`${name}_token`, row]
  })
  return [
    ["embed", onlyTokens(learned, first, t)],
    ...tokens,
    ...(positions ? [["pos_embed", float32([b, t, d], positions.data)] as const] : []),
  ]
}

/** Positions [1, T or P, d] for every image and token; the prefix has none where the table is of patches. */
function placed(positions: Tensor<"float32">, full: Tensor<"float32">): Tensor<"float32"> {
  const [b, t, d] = full.shape as [number, number, number]
  const out = new Float32Array(full.data.length)
  for (let i = 0; i < b; i++) out.set(positions.data, ((i + 1) * t - positions.shape[1]!) * d)
  return float32(full.shape, out)
}

/** The same, with zeros at all other tokens. */
function onlyTokens({ shape, data }: Tensor<"float32">, start: number, end: number): Tensor<"float32"> {
  const [, t, d] = shape as [number, number, number]
  return float32(
    shape,
    data.map((x, i) => {
      const token = Math.floor(i / d) % t
      return token >= start && token < end ? x : 0
    }),
  )
}

/** Rows [b, T, d] (or [1, T, d], repeated) on top of each other. */
function stacked(rows: readonly Row[]): ResidualStack {
  const labels = rows.map(([label]) => label)
  const shape = rows.find(([, { shape }]) => shape[0] !== 1)?.[1].shape ?? rows[0]![1].shape
  const n = size(shape)
  const data = new Float32Array(rows.length * n)
  for (const [i, [, value]] of rows.entries()) {
    const one = value.data as Float32Array
    for (let at = 0; at < n; at += one.length) data.set(one, i * n + at)
  }
  return { labels, stack: float32([rows.length, ...shape], data) }
}

/** W_O [h, e, d]; undefined where the heads' outputs side by side are what attention adds. */
async function outputOf(cache: Cached, layer: number): Promise<Tensor<"float32"> | undefined> {
  return stackOf(cache).attnOutIdentity ? undefined : cache.model.weight(`${prefix(cache)}blocks.${layer}.attn.W_O`)
}

const scaleOf = async (cache: Cached, layer: number, which: "ls1" | "ls2"): Promise<Float32Array | undefined> =>
  stackOf(cache).layerScale
    ? (await cache.model.weight(`${prefix(cache)}blocks.${layer}.${which}.gamma`)).data
    : undefined

/** z [b, T, h, e] through W_O: [b, T, h, d]. */
function throughOutput(z: Tensor<"float32">, w: Tensor<"float32"> | undefined): Tensor<"float32"> {
  const [b, t, h, e] = z.shape as [number, number, number, number]
  const d = w?.shape[2] ?? h * e
  const out = new Float32Array(b * t * h * d)
  for (let at = 0; at < b * t * h; at++) {
    const head = at % h
    for (let i = 0; i < e; i++) {
      const x = z.data[at * e + i]!
      if (!w) {
        out[at * d + head * e + i] = x
        continue
      }
      const from = (head * e + i) * d
      for (let j = 0; j < d; j++) out[at * d + j]! += x * w.data[from + j]!
    }
  }
  return float32([b, t, h, d], out)
}

/** One head of results [b, T, h, d], times the LayerScale: [b, T, d]. */
function headOf(result: Tensor<"float32">, head: number, gamma: Float32Array | undefined): Tensor {
  const [b, t, h, d] = result.shape as [number, number, number, number]
  const out = new Float32Array(b * t * d)
  for (let at = 0; at < b * t; at++) {
    for (let j = 0; j < d; j++) out[at * d + j] = result.data[(at * h + head) * d + j]! * (gamma?.[j] ?? 1)
  }
  return float32([b, t, d], out)
}
