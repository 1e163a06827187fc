/**
 * @file The logit lens: what the model's own readout makes of the residual stream at every layer and token.
 *
 * nostalgebraist 2020 (https://www.lesswrong.com/posts/AcKRB8wDpdaN6v6ru); for patches of vision transformers, Joseph
 * and Nanda 2024 (https://www.lesswrong.com/posts/kobJymvvcvhbjWFKe).
 */
import { fail } from "../../errors.ts"
import { add, constant, linear, mul, scalar } from "../../graph/ops.ts"
import type { Value } from "../../graph/value.ts"
import { nPrefix, nTokens, type ModelConfig, type VisionConfig } from "../../model/config.ts"
import { normalize } from "../../model/layers.ts"
import { expectFloat32, float32, show, type Tensor } from "../../tensor/tensor.ts"
import { inputValues, rowOf, type ModelInput } from "../feeds.ts"
import { HookedViT, type GraphView } from "../hooked-vit.ts"
import type { Interventions } from "../interventions.ts"
import { classIndex, className, type ClassName } from "./classes.ts"
import { Ranking, type Ranked } from "./ranking.ts"
import { embeddingWidth, expectLogits, similarity, unitRows } from "./targets.ts"

/** What reads the stream in place of the model's own head. */
export interface Probe {
  /** [classes, d] */
  readonly weight: Tensor
  /** [classes] */
  readonly bias?: Tensor
}

export interface LensOptions extends Interventions {
  /**
   * "tokens" (the default): each token alone, as the readout sees a stream whose every token is this one. "pooled":
   * the readout of the whole stream, as if the layers in between were skipped.
   */
  readonly at?: "tokens" | "pooled"
  /** Streams to look at: i is what layer i reads, the number of layers (or -1) the end; by default all. */
  readonly layers?: number | readonly number[]
  /** Between attention and MLP too. */
  readonly mid?: boolean
  /** Classes whose logit, probability and rank are wanted. */
  readonly classes?: ClassName | readonly ClassName[]
  /** How many of the largest are wanted; 5. */
  readonly top?: number
  /** Of a model with image_embeds: these embeddings [n, p] of texts are the classes, scale and bias applied. */
  readonly embeds?: Tensor
  /** What `embeds` or the head's classes are called. */
  readonly names?: readonly string[]
  /** A linear probe on what the head would read, for a model without one. */
  readonly head?: Probe
}

/** What the readout makes of n streams of b images at T tokens ("pooled": T is 1). */
export interface Lens extends Ranked {
  /** "0_pre", "0_mid", ..., "final_post" */
  readonly labels: readonly string[]
  /** The last block that each stream has been through; -1 is none. */
  readonly layers: readonly number[]
  /** What all classes are called. */
  readonly classes: readonly string[]
  /** The classes asked for, as indices of `classes`. */
  readonly wanted: readonly number[]
}

/**
 * Logits are made of each stream by the model itself without its blocks: final norm (at the stream's own scale), pooling,
 * head, with whatever it has of these. Errors: E_INPUT for a model without class logits where neither `embeds` nor
 * `head` is given, and for a class that it does not have; E_HOOK for a layer that does not exist.
 */
export async function logitLens(model: HookedViT, given: ModelInput, options: LensOptions = {}): Promise<Lens> {
  const { at = "tokens", patch, edit, hooks, inputs } = options
  const { vision } = model.config
  const { pixel_values, patch_mask } = inputValues(model.config, given)
  const images = pixel_values ?? fail("E_INPUT", "a lens looks at images: pixel_values [b, c, H, W] are needed")
  const streams = streamsOf(vision, options)
  const read = await reader(model, options)
  const { wanted, names } = read
  const b = images.shape[0]!
  const T = at === "pooled" ? 1 : nTokens(vision)
  const ranking = new Ranking([streams.length, b, T], names.length, options.top ?? 5, wanted, read.independent)
  const seen = new HookedViT({
    config: withoutBlocks(model.config, at),
    weights: model.weights,
    runtime: model.runtime,
  })
  for (let image = 0; image < b; image++) {
    const one = { pixel_values: rowOf(images, image), ...(patch_mask && { patch_mask: rowOf(patch_mask, image) }) }
    const outputs = streams.map((s) => s.hook)
    const got = await model.run(one, {
      outputs,
      ...(patch && { patch }),
      ...(edit && { edit }),
      ...(hooks && { hooks }),
      ...(inputs && { inputs }),
    })
    for (const [i, { hook }] of streams.entries()) {
      const stream = got[hook] as Tensor<"float32">
      const full = at === "pooled" ? stream : alone(stream, nPrefix(vision) + 1)
      const { logits } = await seen.run(
        {},
        { patch: { hook_full_embed: full }, outputs: (v) => ({ logits: read.logits(v) }) },
      )
      ranking.put(i * b + image, logits as Tensor<"float32">)
    }
  }
  return {
    labels: streams.map((s) => s.label),
    layers: streams.map((s) => s.after),
    classes: names,
    ...ranking.result,
    wanted,
  }
}

interface Stream {
  readonly label: string
  readonly hook: string
  readonly after: number
}

function streamsOf({ nLayers, attnOnly }: VisionConfig, { layers, mid = false }: LensOptions): Stream[] {
  const at = (layer: number): number => {
    const i = layer < 0 ? layer + nLayers + 1 : layer
    if (Number.isInteger(i) && i >= 0 && i <= nLayers) return i
    return fail(
      "E_HOOK",
      `stream ${layer} does not exist; 0 to ${nLayers - 1} are what the layers read, ${nLayers} is the end`,
    )
  }
  if (Array.isArray(layers) && !layers.length) fail("E_HOOK", `no stream was named; there are 0 to ${nLayers}`)
  const wanted = new Set((layers === undefined ? undefined : [layers].flat().map(at)) ?? Array(nLayers + 1).keys())
  return [...Array(nLayers + 1).keys()]
    .filter((i) => wanted.has(i))
    .flatMap((i): Stream[] =>
      i === nLayers
        ? [{ label: "final_post", hook: `blocks.${i - 1}.hook_resid_post`, after: i - 1 }]
        : [
            { label: `${i}_pre`, hook: `blocks.${i}.hook_resid_pre`, after: i - 1 },
            ...(mid && !attnOnly ? [{ label: `${i}_mid`, hook: `blocks.${i}.hook_resid_mid`, after: i }] : []),
          ],
    )
}

/** The model with no block between what is fed as `hook_full_embed` and the readout; of one patch where tokens are read alone. */
function withoutBlocks({ vision, ...config }: ModelConfig, at: "tokens" | "pooled"): ModelConfig {
  return {
    ...config,
    text: undefined,
    dual: undefined,
    vision: {
      ...vision,
      nLayers: 0,
      lnPre: false,
      positions: "none",
      pool: vision.pool === "none" ? "cls" : vision.pool,
      imageSize: at === "tokens" ? vision.patchSize : vision.imageSize,
      outputs: ["logits", "image_embeds", "pooler_output"],
    },
  }
}

interface Reader {
  readonly logits: (view: GraphView) => Value
  readonly names: readonly string[]
  readonly wanted: readonly number[]
  /** Is each class a question of its own (a sigmoid), rather than one of all (a softmax)? */
  readonly independent: boolean
}

/** What makes logits, how many and what they are called. */
async function reader(model: HookedViT, options: LensOptions): Promise<Reader> {
  const { config } = model
  const { embeds, head, names } = options
  if (embeds) {
    const width = embeddingWidth(model, "")
    const rows = unitRows(embeds, width)
    const { scale, bias = 0 } = await similarity(model)
    const texts = constant(float32([rows.length / width, width], rows))
    return {
      ...choices(config, rows.length / width, options),
      logits: ({ outputs }) =>
        add(mul(linear(normalize(outputs["image_embeds"]!), texts), scalar(scale)), scalar(bias)),
      independent: config.dual?.logitBias ?? false,
    }
  }
  if (head) {
    const [weight, bias] = [
      expectFloat32(head.weight, "the head's weight"),
      head.bias && expectFloat32(head.bias, "the head's bias"),
    ]
    if (weight.shape.length !== 2 || (bias && String(bias.shape) !== String([weight.shape[0]]))) {
      fail(
        "E_INPUT",
        `a head is a weight [classes, d] and a bias [classes], got ${show(weight.shape)} and ${show(bias?.shape ?? [])}`,
      )
    }
    return {
      ...choices(config, weight.shape[0]!, options),
      logits: ({ outputs }) => linear(outputs["pooler_output"]!, constant(weight), bias && constant(bias)),
      independent: false,
    }
  }
  expectLogits(model)
  const wanted = listOf(options.classes).map((c) => classIndex(config, c))
  const all = [...Array(config.vision.nClasses).keys()].map((i) => names?.[i] ?? className(config, i))
  return { logits: ({ outputs }) => outputs["logits"]!, names: all, wanted, independent: false }
}

/** Names of n classes that are not the model's, and which of them are wanted. */
function choices(config: ModelConfig, n: number, { classes, names }: LensOptions): Pick<Reader, "names" | "wanted"> {
  const all = [...Array(n).keys()].map((i) => names?.[i] ?? String(i))
  const renamed = { ...config, labels: all, vision: { ...config.vision, nClasses: n } }
  return { names: all, wanted: listOf(classes).map((c) => classIndex(renamed, c)) }
}

const listOf = (classes: LensOptions["classes"]): readonly ClassName[] =>
  classes === undefined ? [] : Array.isArray(classes) ? (classes as readonly ClassName[]) : [classes as ClassName]

/** Tokens [1, T, d] as T streams of `n` equal tokens: [T, n, d]. */
function alone({ shape, data }: Tensor<"float32">, n: number): Tensor<"float32"> {
  const [, t, d] = shape as [number, number, number]
  const out = new Float32Array(t * n * d)
  for (let i = 0; i < t * n; i++) out.set(data.subarray(Math.floor(i / n) * d, (Math.floor(i / n) + 1) * d), i * d)
  return float32([t, n, d], out)
}
