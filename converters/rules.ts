/**
 * @file A converter's table applied: source name -> views under our names, every tensor used once or refused.
 *
 * A view is the same bytes, one of n equal parts of the leading rows, or a transpose made by the graph; no weight is
 * rewritten.
 */
import { fail, listed } from "../src/errors.ts"
import { nPatches, nPrefix, type ModelConfig } from "../src/model/config.ts"
import { build } from "../src/model/model.ts"
import type { Weight, Weights } from "../src/model/scope.ts"
import { quote } from "../src/tensor/quote.ts"
import { DTYPES, float32, show, size, type DType, type StoredTensor, type Tensor } from "../src/tensor/tensor.ts"
import type { ConfigReader } from "./reader.ts"

export type Source = ReadonlyMap<string, Tensor | StoredTensor>

/** What the checkpoint of a family is, and how its tensors are named. */
export interface Family {
  readonly name: string
  /** Shown where a checkpoint is not supported. */
  readonly supports: readonly string[]
  readonly claims: (config: ConfigReader) => boolean
  readonly read: (config: ConfigReader, source: Source) => ModelConfig
  readonly table: (config: ModelConfig, source: Source, reader: ConfigReader) => Rules
}

/** Where a source tensor goes. `part: [k, n]` is the k-th of n equal parts along the first axis. */
export interface View {
  readonly to: string
  readonly part?: readonly [number, number]
  /** Ours is the stored matrix transposed. */
  readonly transposed?: true
  /** The source's shape, where ours flattens it. */
  readonly shape?: readonly number[]
  /** Ours is a tensor of `shape` with its axes in this order, flattened. */
  readonly perm?: readonly number[]
}

/** Our name; views; or a known tensor that the model does not read. */
export type Rule = string | readonly View[] | typeof unused
export const unused = Symbol("unused")
export type Rules = ReadonlyMap<string, Rule>

/** `weight` and `bias` of one module. */
export const module = (from: string, to: string): [string, Rule][] => [
  [`${from}.weight`, `${to}.weight`],
  [`${from}.bias`, `${to}.bias`],
]

/** A convolution over patches, its kernel flattened by us. */
export const patchConv = (
  from: string,
  { vision: { dModel, nChannels, patchSize } }: ModelConfig,
): [string, Rule][] => [
  [`${from}.weight`, [{ to: "embed.proj.weight", shape: [dModel, nChannels, ...patchSize] }]],
  [`${from}.bias`, "embed.proj.bias"],
]

/** q, k and v stacked in one tensor. */
export const fused = (from: string, to: string, names = ["q", "k", "v"], suffix = "weight"): [string, Rule] => [
  from,
  names.map((name, i) => ({ to: `${to}.${name}.${suffix}`, part: [i, names.length] as const })),
]

const layers = (n: number): number[] => [...Array(n).keys()]

/** The rows of a table that repeat for each layer. */
export const perLayer = (n: number, rows: (i: number) => readonly [string, Rule][]): [string, Rule][] =>
  layers(n).flatMap((i) => rows(i))

/**
 * The prefix that a family's body stands under in this checkpoint: the one of `prefixes` with which `anchor` exists.
 * Errors: E_AMBIGUOUS_PREFIX where it exists under more than one. Where it exists under none, the first is returned
 * and the missing tensors are listed later.
 */
export function prefixOf(source: Source, anchor: string, prefixes: readonly string[], { file }: ConfigReader): string {
  const found = prefixes.filter((p) => source.has(p + anchor))
  if (found.length > 1) {
    const names = found.map((p) => `"${p}${anchor}"`).join(" and ")
    fail(
      "E_AMBIGUOUS_PREFIX",
      `${file}: the checkpoint holds ${names}, expected one of them; keep one model's tensors`,
      {
        file,
      },
    )
  }
  return found[0] ?? prefixes[0]!
}

// What trainers wrap a model in: torch.nn.DataParallel, torch.compile, Lightning and own modules.
const WRAPPERS = ["module.", "_orig_mod.", "model.", "backbone."]

/** Take off wrapper prefixes that every name has. */
export function unwrapped(source: Source): Source {
  const names = [...source.keys()]
  const wrapper = names.length ? WRAPPERS.find((w) => names.every((n) => n.startsWith(w))) : undefined
  if (!wrapper) return source
  return unwrapped(new Map([...source].map(([name, t]) => [name.slice(wrapper.length), t])))
}

/**
 * The weights of a model from a checkpoint's tensors. Errors, each naming up to 20 tensors: E_SHAPE_MISMATCH,
 * E_MISSING_TENSORS, E_UNEXPECTED_TENSORS; where there are several kinds, one message lists them all.
 */
export function convert(config: ModelConfig, source: Source, rules: Rules, reader: ConfigReader): Weights {
  const wanted = new Map([...build(config).scope.params].map(([name, v]) => [name, v.shape as readonly number[]]))
  const weights = new Map<string, Weight>()
  const origin = new Map<string, string>()
  const unexpected: string[] = []
  const misfits: string[] = []

  for (const [name, tensor] of source) {
    const rule = rules.get(name)
    if (rule === unused) continue
    const views = rule === undefined ? [] : viewsOf(rule)
    if (!views.some((v) => wanted.has(v.to))) {
      unexpected.push(name)
      continue
    }
    for (const view of views) {
      const shape = wanted.get(view.to)
      const twin = origin.get(view.to)
      if (twin !== undefined) {
        const what = `tensors ${quote(twin)} and ${quote(name)} both give the weight "${view.to}"; keep one of them`
        fail("E_DUPLICATE_TENSOR", `${reader.file}: ${what}`, { file: reader.file, tensor: name })
      }
      origin.set(view.to, name)
      if (!shape || !fits(tensor.shape, shape, view)) misfits.push(misfit(config, name, tensor.shape, view, shape))
      else weights.set(view.to, viewed(tensor, shape, view, name, reader.file))
    }
  }
  const from = new Map([...rules].flatMap(([name, rule]) => viewsOf(rule).map(({ to }) => [to, name] as const)))
  const missing = [...wanted.keys()].filter((to) => !origin.has(to)).map((to) => from.get(to) ?? to)
  report(config, reader, misfits, [...new Set(missing)], unexpected)
  return weights
}

const viewsOf = (rule: Rule): readonly View[] =>
  typeof rule === "string" ? [{ to: rule }] : rule === unused ? [] : rule

/**
 * `convert` the other way: the tensors of a checkpoint that these rules read as `weights`. Where several names are read
 * as one weight, the first is written. Error: E_INPUT for weights that no rule writes, those that are stored transposed
 * among them.
 */
export function toSource(
  weights: ReadonlyMap<string, Tensor<"float32">>,
  rules: Rules,
): Map<string, Tensor<"float32">> {
  const left = new Set(weights.keys())
  const out = new Map<string, Tensor<"float32">>()
  for (const [name, rule] of rules) {
    const views = viewsOf(rule)
    if (!views.length || views.some(({ to, transposed, perm }) => !left.has(to) || transposed || perm)) continue
    out.set(
      name,
      joined(
        views.map(({ to }) => weights.get(to)!),
        views[0]!.shape,
      ),
    )
    for (const { to } of views) left.delete(to)
  }
  if (left.size) fail("E_INPUT", `${left.size} weights have no place in such a checkpoint: ${listed([...left])}`)
  return out
}

/** Equal parts along the first axis as one tensor; a single one is a view of itself. */
function joined(parts: readonly Tensor<"float32">[], as: readonly number[] | undefined): Tensor<"float32"> {
  const [{ shape, data }] = parts as [Tensor<"float32">]
  if (parts.length === 1) return float32(as ?? shape, data)
  const whole = new Float32Array(parts.length * data.length)
  for (const [i, part] of parts.entries()) whole.set(part.data, i * data.length)
  return float32(shape.with(0, parts.length * shape[0]!), whole)
}

function report(
  config: ModelConfig,
  reader: ConfigReader,
  misfits: readonly string[],
  missing: readonly string[],
  unexpected: readonly string[],
): void {
  const kinds = [
    ["E_SHAPE_MISMATCH", misfits.length && `${misfits.length} of another shape: ${listed(misfits, 5)}`],
    ["E_MISSING_TENSORS", missing.length && `${missing.length} missing: ${listed(missing.map(quote))}`],
    ["E_UNEXPECTED_TENSORS", unexpected.length && `${unexpected.length} unexpected: ${listed(unexpected.map(quote))}`],
  ] as const
  const found = kinds.filter(([, text]) => text)
  if (!found.length) return
  const what = `${reader.file}: ${config.architecture} (${config.family}) and the checkpoint's tensors do not match`
  fail(found[0]![0], `${what}; ${found.map(([, text]) => text).join("; ")}`, { file: reader.file })
}

/** Does a source tensor, or its part, have our shape but for axes of size 1 and a kernel that we flatten? */
function fits(source: readonly number[], ours: readonly number[], { part, transposed, shape }: View): boolean {
  if (shape) return String(source) === String(shape)
  if (part && (!source.length || source[0]! % part[1])) return false
  const rows = part ? source.with(0, source[0]! / part[1]) : source
  const squeeze = (s: readonly number[]) => String(s.filter((d) => d !== 1))
  return squeeze(transposed ? [...rows].reverse() : rows) === squeeze(ours)
}

function misfit(
  config: ModelConfig,
  name: string,
  got: readonly number[],
  { part, to, shape, transposed }: View,
  ours: readonly number[] | undefined,
): string {
  const whole = part && ours ? ours.with(0, ours[0]! * part[1]) : ours
  const wanted = shape ?? (transposed && whole ? [...whole].reverse() : whole)
  const tokens =
    to === "embed.pos"
      ? ` (${got.at(-2) ?? got.at(-1)} positions; the config's image gives ${nPatches(config.vision)} patches and ${nPrefix(config.vision)} other tokens)`
      : ""
  return `${quote(name)} is ${show(got)}, the config wants ${wanted ? show(wanted) : "none"}${tokens}`
}

const FLOATS: readonly DType[] = ["float32", "float16", "bfloat16", "float64"]

/** Refuse a tensor whose numbers cannot be weights. */
export function unsupportedDtype(name: string, dtype: string, file: string): never {
  const what = `tensor ${quote(name)} is ${dtype}; weights must be ${FLOATS.join(", ")}`
  return fail("E_UNSUPPORTED_DTYPE", `${file}: ${what}; use the checkpoint in one of these`, { tensor: name, file })
}

function viewed(
  source: Tensor | StoredTensor,
  shape: readonly number[],
  { part, transposed, shape: from, perm }: View,
  name: string,
  file: string,
): Weight {
  if (!FLOATS.includes(source.dtype)) unsupportedDtype(name, source.dtype, file)
  const [k, n] = part ?? [0, 1]
  const count = size(source.shape) / n
  const piece = { dtype: source.dtype, shape: part ? source.shape.with(0, source.shape[0]! / n) : source.shape }
  const bytes = count * DTYPES[source.dtype].bytes
  const tensor =
    "data" in source
      ? ({ ...piece, data: source.data.subarray(k * count, (k + 1) * count) } as Tensor)
      : { ...piece, file: source.file, offset: source.offset + k * bytes, length: bytes }
  return { tensor, shape, ...(transposed && { perm: [1, 0] }), ...(perm && from && { perm, from }) }
}
