/** @file What a card says of the model itself: sizes, a drawing, what is done to images. */
import type { Preprocessing } from "../data/preprocessing.ts"
import { type ModelConfig, nPatches, nTokens, type StackConfig, type VisionConfig } from "../model/config.ts"
import { listHooks } from "../model/hooks.ts"
import { build } from "../model/model.ts"
import type { CardFacts } from "./facts.ts"
import { block, bytes, code, count, counted, figure, names } from "./markdown.ts"

/** "28 x 28" */
const by = (edges: readonly number[]): string => edges.join(" x ")

const PREFIX = { cls: "class token", dist: "distillation token", reg: "register token" } as const

/** What is put before the patches: "a class token", "4 register tokens". */
const prefixOf = ({ prefix }: VisionConfig): string[] =>
  prefix.map(({ name, count: n }) => (n === 1 ? `a ${PREFIX[name]}` : `${n} ${PREFIX[name]}s`))

/** What becomes of the tokens after the last block. */
const POOLED = {
  cls: "the class token",
  mean: "the mean of the patches",
  clsAndMean: "the class token beside the mean of the patches",
  attention: "attention by a learned query",
  distilled: "the class and the distillation token, each under a head of its own",
  none: undefined,
} as const

const NORM = {
  pre: "LayerNorm before attention and MLP",
  post: "LayerNorm after attention and MLP",
  none: "no norm",
} as const

/** Fields of a table by their names in the template; what does not apply is undefined. */
export function modelTexts({ model, parameters, weights }: CardFacts): Readonly<Record<string, string | undefined>> {
  const { vision, text, labels } = model
  const hooks = listHooks(model)
  const [outputs, tokens] = [Object.keys(build(model).outputs), nTokens(vision)]
  return {
    class: code(model.architecture),
    image: `${by(vision.imageSize)} pixels, ${counted(vision.nChannels, "channel")}`,
    patches: `${nPatches(vision)} of ${by(vision.patchSize)} pixels`,
    tokens: vision.prefix.length
      ? `${tokens}: ${prefixOf(vision).join(", ")} and the patches`
      : `${tokens}: the patches`,
    blocks: stackText(vision),
    mlp: vision.attnOnly ? "none: blocks of attention alone" : mlpText(vision),
    options: options(vision),
    pooling: pooling(vision),
    textTower:
      text && `blocks: ${stackText(text)}; ${count(text.vocabulary)} token ids, up to ${text.contextLength} tokens`,
    outputs: names(outputs),
    classes: classes(vision, labels),
    parameters: count(parameters),
    weights: `${code(weights.file)}: ${weights.dtypes.join(", ")}, ${bytes(weights.bytes)}`,
    hooks: `${count(hooks.size)} named values can be read and replaced`,
    diagram: diagram(model),
  }
}

const stackText = (s: StackConfig): string =>
  `${s.nLayers} of width ${s.dModel}, ${counted(s.nHeads, "head")} of ${s.dHead}; ${NORM[s.norm ?? "pre"]}`

const mlpText = (s: StackConfig): string =>
  `${s.gatedMlp ? "gated, " : ""}width ${s.dMlp}, ${s.activation.replace("_", " ")}`

function options(v: VisionConfig): string | undefined {
  const found = [
    v.qkNorm && "norm of each head's q and k",
    v.rotary && `rotary positions of rows and columns, base ${v.rotary.base}`,
    v.layerScale && "LayerScale",
    v.lnPre && "a norm before the first block",
    v.attnOutIdentity && "no output projection after the heads",
  ].filter(Boolean)
  return found.length ? found.join("; ") : undefined
}

function pooling(v: VisionConfig): string | undefined {
  if (v.reconstructs) return "none: a linear head gives each patch's pixels"
  const pooled = v.pool === "mean" && v.poolsPrefix ? "the mean of all tokens" : POOLED[v.pool]
  if (pooled === undefined) return undefined
  return v.dProjection ? `${pooled}, projected to ${v.dProjection} numbers` : pooled
}

function classes({ nClasses }: VisionConfig, labels: readonly string[]): string | undefined {
  if (!nClasses) return undefined
  return labels.length ? `${count(nClasses)}: ${names(labels)}` : `${count(nClasses)}, without names`
}

/** The way from pixels to the output, in as many lines as there are kinds of steps. */
function diagram({ vision: v, dual, text }: ModelConfig): string {
  const width = v.dModel
  const attention = `attention (${v.nHeads} x ${v.dHead})`
  const norm = v.norm ?? "pre"
  const part = (what: string) =>
    norm === "pre" ? `norm -> ${what} -> add` : norm === "post" ? `${what} -> add -> norm` : `${what} -> add`
  const parts = [attention, ...(v.attnOnly ? [] : [`MLP (${v.dMlp}, ${v.activation})`])].map(part)
  const positions = v.positions === "none" ? "" : " + positions"
  return block(
    "text",
    `image [${[v.nChannels, ...v.imageSize].join(", ")}]`,
    `  -> ${nPatches(v)} patches of ${by(v.patchSize)} -> linear -> [${nPatches(v)}, ${width}]`,
    `  -> ${[...prefixOf(v), "patches"].join(" + ")}${positions} -> [${nTokens(v)}, ${width}]`,
    ...(v.lnPre ? ["  -> norm"] : []),
    `  -> ${v.nLayers} x { ${parts.join("; ")} }`,
    `  -> ${[...(v.lnFinal ? ["norm"] : []), end(v)].join(" -> ")}`,
    ...(dual && text
      ? [`text [tokens] -> ${text.nLayers} blocks of width ${text.dModel} -> [${text.dProjection}]`]
      : []),
  )
}

function end(v: VisionConfig): string {
  if (v.reconstructs) return `linear -> ${nPatches(v)} patches of ${by([v.nChannels, ...v.patchSize])} numbers`
  const pooled = pooling(v)
  if (v.nClasses) return `${pooled ?? "tokens"} -> linear -> ${v.nClasses} logits`
  if (v.dProjection) return `${POOLED[v.pool] ?? "tokens"} -> linear -> [${v.dProjection}]`
  return pooled ?? `[${nTokens(v)}, ${v.dModel}]`
}

/** What is done to an image before the model sees it. */
export function preprocessingTexts(p: Preprocessing | undefined): Readonly<Record<string, string | undefined>> {
  if (!p) return {}
  const each = (values: readonly number[]) =>
    (new Set(values).size === 1 ? [values[0]!] : values).map((x) => figure(x, 9)).join(", ")
  const per = 1 / p.rescale
  const scale =
    Math.abs(per - Math.round(per)) < 1e-9 * per ? `pixel / ${Math.round(per)}` : `pixel * ${figure(p.rescale, 9)}`
  return {
    channels: p.channels === 1 ? "1: grey (ITU-R 601-2 luma)" : "3: red, green, blue",
    resize: p.resize ? `${sizeText(p.resize)}, ${p.resize.resample}${p.unrounded ? ", not rounded" : ""}` : "none",
    crop: p.crop ? `the middle ${by([p.crop.height, p.crop.width])}` : undefined,
    values: `(${scale} - mean) / std, mean ${each(p.mean)}, std ${each(p.std)}`,
  }
}

function sizeText(r: NonNullable<Preprocessing["resize"]>): string {
  if (r.to === "shortest") return `shorter edge to ${r.edge}${r.longest ? `, longer edge at most ${r.longest}` : ""}`
  const size = by([r.height, r.width])
  return { exact: `to ${size}`, cover: `to cover ${size}`, contain: `to fit in ${size}` }[r.to]
}
