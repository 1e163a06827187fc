/** @file Direct logit attribution: which parts of a model wrote what an output reads, summing to it exactly. */
import { grad } from "../../autodiff/grad.ts"
import { fail } from "../../errors.ts"
import type { Values } from "../../graph/emit.ts"
import { mul, sum } from "../../graph/ops.ts"
import { nTokens } from "../../model/config.ts"
import { matchHooks } from "../../model/hooks.ts"
import type { Tensor } from "../../tensor/tensor.ts"
import { inputValues, rowOf, type ModelInput } from "../feeds.ts"
import type { GraphView, HookedViT } from "../hooked-vit.ts"
import type { Edit, Interventions } from "../interventions.ts"
import { sources, straightened, throughPattern, type Part, type Source, type Tower } from "./straight.ts"
import { linearTower, readable, readouts, type Readout, type Target } from "./targets.ts"

/** With interventions, the shares are of the run as it is changed; an edit must be linear where the shares flow through it. */
export interface LogitAttributionOptions extends Interventions {
  /** Give each neuron's share of its MLP too. */
  readonly neurons?: boolean
  /** Give, for each head, how much of its share comes from each token that it reads. */
  readonly sources?: boolean
  /** |sum - value| may be this much of max(1, |value|, the largest share); 1e-4. */
  readonly tolerance?: number
}

/** One part's share of the output. */
export interface Component {
  /** TransformerLens' words where it has them: "embed", "pos_embed", "L3H5", "3_mlp_out", "3_attn_bias", "ln_final_bias". */
  readonly name: string
  readonly part: Part
  readonly layer?: number
  readonly head?: number
  readonly value: number
  /** The share written at each token [T]; absent for what is behind the tokens. */
  readonly tokens?: Float32Array
  /** [m], summed over tokens; of an MLP, where asked for. */
  readonly neurons?: Float32Array
  /** The share read from each token [T]; of a head, where asked for. */
  readonly sources?: Float32Array
}

/** What one output of one image (or text) is made of. */
export interface LogitAttribution {
  /** Which image, or text. */
  readonly image: number
  /** The label of a class, or the target's name. */
  readonly target: string
  /** The output as the model gives it. */
  readonly value: number
  /** Of all components, in float64. */
  readonly sum: number
  /** |sum - value| */
  readonly error: number
  readonly components: readonly Component[]
}

// More in one graph would be longer to build than to run.
const TARGETS_AT_ONCE = 8

/**
 * What each part of the model adds directly to an output: patch embedding, each learned token, positions, every head,
 * every MLP, every bias (with LayerScale, through the norms at the scale they have), and what of the readout is
 * constant. Given `input_ids` alone, the text tower's. Images are taken one by one, so that memory does not grow
 * with them. Results are in the order of images, then of targets.
 *
 * Errors: E_PARITY where the components do not sum to the output, which a metric that is not linear in the model's outputs
 * causes; E_INPUT for a class or output that the model does not have.
 */
export async function decomposeLogit(
  model: HookedViT,
  given: ModelInput,
  target: Target,
  options: LogitAttributionOptions = {},
): Promise<LogitAttribution[]> {
  const values = inputValues(model.config, given)
  const tower: Tower = values["pixel_values"] ? "" : "text."
  const rows = values["pixel_values"] ?? values["input_ids"] ?? fail("E_INPUT", "nothing was given to attribute")
  const out: LogitAttribution[] = []
  const straight = linearTower(model, tower)
  for (let image = 0; image < rows.shape[0]!; image++) {
    const one = Object.fromEntries(
      Object.entries(values).flatMap(([name, t]) =>
        tower === "" && name === "input_ids" ? [] : [[name, rowOf(t, image)]],
      ),
    )
    const wanted = await readouts(model, target, tower, one["input_ids"])
    for (let at = 0; at < wanted.length; at += TARGETS_AT_ONCE) {
      const some = wanted.slice(at, at + TARGETS_AT_ONCE)
      out.push(...(await attributed(model, straight, one, some, tower, options)).map((a) => ({ ...a, image })))
    }
  }
  return out
}

async function attributed(
  model: HookedViT,
  straight: HookedViT,
  one: Readonly<Record<string, Tensor>>,
  wanted: readonly Readout[],
  tower: Tower,
  options: LogitAttributionOptions,
): Promise<Omit<LogitAttribution, "image">[]> {
  const { config } = model
  let found: readonly Source[] = []
  const got = await straight.run(one, {
    ...(options.patch && { patch: options.patch }),
    ...(options.hooks && { hooks: options.hooks }),
    ...(options.inputs && { inputs: options.inputs }),
    edit: frozenAfter(options.edit ?? {}, straight),
    outputs: (plain) => {
      const view = readable(plain, config)
      found = sources(view, config, tower)
      return Object.assign({}, ...wanted.map((w, k) => shares(view, w, found, `${k}`, tower, options)))
    },
  })
  const length = tower ? one["input_ids"]!.shape[1]! : nTokens(config.vision)
  const numbers = (name: string) => got[name] as Tensor<"float32">
  return wanted.map(({ name, constants }, k) => {
    const parts = found.flatMap((s, i) => components(s, (kind) => numbers(`${k}.${i}.${kind}`), length, options))
    const known = constants.map((c): Component => ({ ...c, part: "bias" }))
    return summed(name, numbers(`${k}`).data[0]!, [...parts, ...known], options.tolerance ?? 1e-4)
  })
}

/** The edits, and the constants of the direct paths behind them. */
function frozenAfter(edits: NonNullable<Interventions["edit"]>, { config, hooks }: HookedViT): Record<string, Edit> {
  const out = straightened(config, hooks)
  for (const [pattern, edit] of Object.entries(edits)) {
    for (const hook of matchHooks(hooks, pattern)) {
      const freeze = out[hook]
      out[hook] = freeze ? (value, name, at) => freeze(edit(value, name, at), name, at) : edit
    }
  }
  return out
}

/** The readout and each source's share of it as values of the graph. */
function shares(
  view: GraphView,
  { value }: Readout,
  found: readonly Source[],
  key: string,
  tower: Tower,
  { neurons, sources: read }: LogitAttributionOptions,
): Values {
  const y = value(view)
  const slopes = grad(
    y,
    found.map((s) => s.site),
  )
  const out: Record<string, ReturnType<typeof sum>> = { [key]: y }
  for (const [i, source] of found.entries()) {
    const slope = slopes[i]!
    const product = mul(slope, source.added)
    out[`${key}.${i}.share`] = sum(product, [-1])
    if (neurons && source.neurons) out[`${key}.${i}.neurons`] = sum(product, [0, 1])
    if (read && source.perHead) {
      out[`${key}.${i}.sources`] = sum(throughPattern(view, slope, `${tower}blocks.${source.layer!}`), [0, 2])
    }
  }
  return out
}

type Kind = "share" | "neurons" | "sources"

function components(
  source: Source,
  numbers: (kind: Kind) => Tensor<"float32">,
  length: number,
  { neurons, sources: read }: LogitAttributionOptions,
): Component[] {
  const { name, part, layer, firstToken } = source
  const base = { part, ...(layer !== undefined && { layer }) }
  const share = numbers("share")
  if (source.perHead) {
    const h = share.shape.at(-1)!
    return Array.from({ length: h }, (_, head): Component => {
      const tokens = Float32Array.from({ length }, (__, t) => share.data[t * h + head]!)
      const from = read && numbers("sources").data.slice(head * length, (head + 1) * length)
      return { name: `${name}H${head}`, ...base, head, value: total(tokens), tokens, ...(from && { sources: from }) }
    })
  }
  const component: Component = {
    name,
    ...base,
    value: total(share.data),
    ...(neurons && source.neurons && { neurons: numbers("neurons").data }),
  }
  if (firstToken === undefined) return [component]
  const tokens = new Float32Array(length)
  tokens.set(share.data, firstToken)
  return [{ ...component, tokens }]
}

function summed(
  target: string,
  value: number,
  components: readonly Component[],
  tolerance: number,
): Omit<LogitAttribution, "image"> {
  const sum = total(components.map((c) => c.value))
  const error = Math.abs(sum - value)
  const scale = components.reduce((most, c) => Math.max(most, Math.abs(c.value)), Math.max(1, Math.abs(value)))
  if (!(error <= tolerance * scale)) {
    fail(
      "E_PARITY",
      `the ${components.length} components of "${target}" sum to ${sum}, the output is ${value}: what is attributed must be linear in the model's outputs`,
    )
  }
  return { target, value, sum, error, components }
}

const total = (values: ArrayLike<number>): number => {
  let sum = 0
  for (let i = 0; i < values.length; i++) sum += values[i]!
  return sum
}
