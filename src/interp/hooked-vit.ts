/** @file A model whose every hook can be read, replaced and edited. */
import { grad } from "../autodiff/grad.ts"
import { fail, nearest } from "../errors.ts"
import { bind } from "../graph/dims.ts"
import type { Values } from "../graph/emit.ts"
import { input } from "../graph/ops.ts"
import { Value } from "../graph/value.ts"
import { tokenAxis } from "../model/axes.ts"
import type { ModelConfig } from "../model/config.ts"
import {
  bytesOfShape,
  listHooks,
  matchHooks,
  pointOf,
  unknownHook,
  withInputs,
  type HookInfo,
  type HookNames,
} from "../model/hooks.ts"
import { build, inputShapes, type Built } from "../model/model.ts"
import type { Requests, Weights } from "../model/scope.ts"
import type { Feeds, Runtime } from "../runtime/runtime.ts"
import { expectFloat32, show, size, type StoredTensor, type Tensor } from "../tensor/tensor.ts"
import { unavailable, without } from "./available.ts"
import { ActivationCache } from "./cache.ts"
import { givenSizes, inputValues, patchShape, repeated, sizesOf, type ModelInput } from "./feeds.ts"
import { metricValue, type GradientOptions, type Gradients, type Metric } from "./gradients.ts"
import { outputsOf, type Outputs } from "./outputs.ts"
import { positioned, range, type Positions } from "./positions.ts"
import { runStaged, type Cut, type HookFunction } from "./staged.ts"
import { namedWeight } from "./weights.ts"

/**
 * Made part of the graph: called while it is built, perhaps more than once, and must return a value of the same shape.
 * `at` gives the values of hooks that the model made before this one (one inside an op only where it is opened by
 * `at` of `run` or written) and of the run's further `inputs`.
 */
export type Edit = (value: Value, name: string, at: (name: string) => Value) => Value

/**
 * What is done to hooks. At one hook a patch comes first, then the edit, then the function. Keys may be globs; of two
 * that reach one hook the later counts.
 */
export interface Interventions {
  /** A tensor in place of the hook's value; a first axis of 1 is repeated for every image. */
  readonly patch?: Readonly<Record<string, Tensor>>
  /** Traced into the graph: differentiable and exportable. */
  readonly edit?: Readonly<Record<string, Edit>>
  /** Plain functions on numbers; the run is cut in two there. */
  readonly hooks?: Readonly<Record<string, HookFunction>>
  /** Further inputs of the graph, [images, ...] or [1, ...] for all: edits and `outputs` read them by name, and new numbers need no new session. */
  readonly inputs?: Readonly<Record<string, Tensor>>
}

export interface RunOptions extends Interventions {
  /** Names among the model's outputs and hooks, or new values made of them; by default all outputs that the inputs allow. */
  readonly outputs?: string | readonly string[] | ((at: GraphView) => Values)
  /** Hooks that `outputs` differentiates at: they then lie on the way to what is downstream, also those inside an op. */
  readonly at?: HookNames
}

/** The graph of a run as `outputs` sees it: a lens or a metric is more values hung on it. */
export interface GraphView {
  readonly outputs: Values
  /** The value at a hook, after any intervention; or an output or input. */
  readonly hook: (name: string) => Value
  /** The weight of this stored name ("blocks.0.attn.out.bias"); undefined where this run has none. */
  readonly weight: (name: string) => Value | undefined
  readonly sizes: ReadonlyMap<string, number> // how many images ("batch"), texts and tokens are given
}

export interface CacheOptions extends Interventions {
  /** By default every hook that is not made on request only. */
  readonly names?: HookNames
  /** Only these blocks' hooks; negative numbers count from the end. */
  readonly layers?: number | readonly number[]
  /** Only these tokens of every hook that has a token axis; of scores and patterns, these queries. */
  readonly positions?: Positions
  /** Refuse (E_MEMORY_BUDGET) before running what would hold more than this many bytes. */
  readonly maxBytes?: number
}

export interface HookedViTParts {
  readonly config: ModelConfig
  readonly weights: Weights
  readonly runtime: Runtime
  /** Reads a weight that lies in a file. */
  readonly read?: (stored: StoredTensor) => Promise<Tensor>
}

export class HookedViT {
  readonly config: ModelConfig
  readonly weights: Weights
  readonly runtime: Runtime
  /** Every hook, in the order in which the model makes them. */
  readonly hooks: ReadonlyMap<string, HookInfo>
  /** Reads a weight that lies in a file. */
  readonly read: (stored: StoredTensor) => Promise<Tensor>

  constructor({ config, weights, runtime, read }: HookedViTParts) {
    this.config = config
    this.weights = weights
    this.runtime = runtime
    this.hooks = listHooks(config)
    this.read = read ?? ((stored) => fail("E_INPUT", `no reader was given for weights in files (${stored.file})`))
  }

  /** Names of what `run` returns, in the library's words. */
  get outputNames(): readonly string[] {
    return Object.keys(build(this.config).outputs)
  }

  /** Number of parameters: elements of all weights. */
  get nParameters(): number {
    return [...this.weights.values()].reduce((n, w) => n + size(w.shape), 0)
  }

  /** The model's outputs, under the names of its library. */
  async run(given: ModelInput, options: RunOptions = {}): Promise<Outputs> {
    const wanted = typeof options.outputs === "string" ? [options.outputs] : options.outputs
    const reads = typeof wanted === "function" ? new Set(this.hooks.keys()) : new Set(wanted)
    const opened = new Set(options.at === undefined ? [] : matchHooks(withInputs(this.config, this.hooks), options.at))
    const { feeds, built, cuts, inputs } = this.#prepare(given, options, reads, opened)
    const view = this.#view(built, inputs, feeds)
    const outputs =
      wanted === undefined
        ? without(built.outputs, unavailable(built, inputs, feeds))
        : typeof wanted === "function"
          ? wanted(view)
          : Object.fromEntries(wanted.map((name) => [name, view.hook(name)]))
    if (!Object.keys(outputs).length) nothingGiven()
    return outputsOf(await runStaged(this.runtime, inputs, outputs, cuts, feeds))
  }

  /** The model's outputs and `cache`, the values at its hooks after every intervention. */
  async runWithCache(given: ModelInput, options: CacheOptions = {}): Promise<Outputs & { cache: ActivationCache }> {
    const asked = this.#cached(options)
    const { values, feeds, built, cuts, inputs } = this.#prepare(given, options, new Set(asked))
    const missing = unavailable(built, inputs, feeds)
    const names = asked.filter((name) => !missing.has(built.scope.hooks.get(name)!.value))
    const symbols = sizesOf(values)
    this.#checkBudget(names, symbols, options)
    const cached = positioned(built, names, options.positions, symbols)
    const outputs = without(built.outputs, missing)
    if (!names.length && !Object.keys(outputs).length) nothingGiven()
    const got = await runStaged(this.runtime, inputs, { ...prefixed(outputs), ...cached }, cuts, feeds)
    const cache = new ActivationCache(new Map(names.map((name) => [name, got[name]!])), this.hooks, this)
    const returned = Object.fromEntries(Object.keys(outputs).map((name) => [name, got[OUTPUT + name]!]))
    return Object.assign(outputsOf(returned), { cache })
  }

  /**
   * Gradients of a metric at hooks and weights, of the same graph that `run` runs: at a hook, that of everything
   * downstream of it, after any patch and edit. Errors: E_INPUT for a metric that is none, E_HOOK.
   */
  async gradients(given: ModelInput, metric: Metric, options: GradientOptions = {}): Promise<Gradients> {
    const { at = [], params = false, ...interventions } = options
    const names = matchHooks(withInputs(this.config, this.hooks), at)
    // A metric may read any hook; those to differentiate at must lie on the way, also inside an op.
    const { feeds, built, inputs } = this.#prepare(given, interventions, new Set(this.hooks.keys()), new Set(names))
    const loss = metricValue(metric, this.#view(built, inputs, feeds))
    const weights = new Map(params ? built.scope.params : [])
    const points = names.map((name) => pointOf(built, name)!)
    const slopes = grad(loss, [...points, ...weights.values()])
    const outputs = { loss, ...Object.fromEntries(slopes.map((v, i) => [String(i), v])) }
    const got = (await runStaged(this.runtime, inputs, outputs, [], feeds)) as Record<string, Tensor<"float32">>
    const from = (start: number, keys: readonly string[]) => new Map(keys.map((k, i) => [k, got[String(start + i)]!]))
    return {
      value: got["loss"]!.data[0]!,
      hooks: from(0, names),
      params: from(names.length, [...weights.keys()]),
    }
  }

  /** Bytes that `runWithCache` with these options will hold for so many images and texts. */
  cacheBytes(
    options: CacheOptions & { readonly batch?: number; readonly texts?: number; readonly tokens?: number } = {},
  ): number {
    const { batch = 1, texts = 1, tokens = this.config.text?.contextLength ?? 0 } = options
    const symbols = new Map([
      ["batch", batch],
      ["texts", texts],
      ["tokens", tokens],
    ])
    return this.#bytes(this.#cached(options), symbols, options.positions)
  }

  /**
   * A weight under TransformerLens' name and in its orientation: `blocks.0.attn.W_Q` [h, d, e], `blocks.0.attn.W_O`
   * [h, e, d], `blocks.0.mlp.W_in` [d, m], `W_E` [c * p * p, d], `W_pos` [T, d], `W_H` [d, classes], ...; or under our
   * stored name. Error: E_HOOK with the nearest names.
   */
  async weight(name: string): Promise<Tensor<"float32">> {
    return namedWeight(this.config, this.weights, name, this.read)
  }

  /** Give the model's sessions back. */
  async release(): Promise<void> {
    await this.runtime.release()
  }

  #cached({ names, layers }: CacheOptions): string[] {
    const matched = matchHooks(this.hooks, names ?? (() => true))
    if (layers === undefined) return matched
    const wanted = new Set((typeof layers === "number" ? [layers] : layers).map((l) => this.#layer(l)))
    return matched.filter((name) => wanted.has(Number(/(?:^|\.)blocks\.(\d+)\./.exec(name)?.[1] ?? -1)))
  }

  #layer(layer: number): number {
    const n = this.config.vision.nLayers
    const at = layer < 0 ? layer + n : layer
    return at >= 0 && at < n ? at : fail("E_HOOK", `layer ${layer} does not exist; the model has layers 0 to ${n - 1}`)
  }

  #checkBudget(
    names: readonly string[],
    symbols: ReadonlyMap<string, number>,
    { maxBytes, positions }: CacheOptions,
  ): void {
    if (maxBytes === undefined) return
    const bytes = this.#bytes(names, symbols, positions)
    if (bytes > maxBytes) {
      fail(
        "E_MEMORY_BUDGET",
        `caching ${names.length} hooks would hold ${bytes} bytes, the limit is ${maxBytes}: name fewer hooks, layers or positions, or feed fewer images`,
      )
    }
  }

  #bytes(names: readonly string[], symbols: ReadonlyMap<string, number>, positions: Positions | undefined): number {
    // A value that two hooks share is held once.
    const held = new Set<string>()
    const seen = names.filter((name) => {
      const { sameAs } = this.hooks.get(name)!
      return !held.has(sameAs) && held.add(sameAs)
    })
    return seen.reduce((n, name) => {
      const { shape } = this.hooks.get(name)!
      const axis = tokenAxis(name, shape)
      if (positions === undefined || axis === undefined) return n + bytesOfShape(shape, symbols)
      const [start, end] = range(positions, bind(shape[axis]!, symbols))
      return n + bytesOfShape(shape.with(axis, end - start), symbols)
    }, 0)
  }

  #view = (built: Built, inputs: Values, feeds: Feeds): GraphView => ({
    outputs: built.outputs,
    hook: (name) => built.outputs[name] ?? pointOf(built, name) ?? inputs[name] ?? this.#unknown(built, name),
    weight: (name) => built.scope.params.get(name),
    sizes: givenSizes(feeds),
  })

  #unknown(built: Built, name: string): never {
    if (this.hooks.has(name)) return fail("E_HOOK", `the hook "${name}" is not part of this run`)
    const near = nearest(name, [...Object.keys(built.outputs), ...this.hooks.keys()])
    return fail("E_HOOK", `no output or hook "${name}"; the nearest are ${near.map((n) => `"${n}"`).join(", ")}`)
  }

  /** The graph for one question: patches become inputs, functions become cuts, edits become values. */
  #prepare(
    given: ModelInput,
    { patch = {}, edit = {}, hooks = {}, inputs: further = {} }: Interventions,
    reads: ReadonlySet<string>,
    opened: ReadonlySet<string> = new Set(),
  ) {
    const values = inputValues(this.config, given)
    const patched = this.#spread(patch)
    for (const [name, t] of patched) expectFloat32(t, `the patch for "${name}"`)
    const fed = this.#further(further, values["pixel_values"]?.shape[0])
    const edits = this.#spread(edit)
    for (const [name, fn] of edits) if (this.#isIdentity(name, fn, fed)) edits.delete(name)
    const functions = this.#spread(hooks)
    const cuts: Cut[] = []
    const placeholders: Record<string, Value> = {}
    const made = new Map(Object.entries(fed))
    const at = (name: string) =>
      made.get(name) ?? fail("E_HOOK", `"${name}" is no input and no hook made before the edit that asks for it`)

    const requests: Requests = {
      reads: (name) => reads.has(name),
      writes: (name) => opened.has(name) || patched.has(name) || edits.has(name) || functions.has(name),
      write: (name, computed) => {
        const value = intervened(name, computed)
        made.set(name, value)
        return value
      },
    }
    const intervened = (name: string, computed: Value): Value => {
      const replacement = patched.get(name)
      let value = replacement ? (placeholders[name] = input(name, patchShape(computed.shape, replacement))) : computed
      const change = edits.get(name)
      if (change) value = sameShape(name, value, change(value, name, at))
      const call = functions.get(name)
      if (!call) return value
      const after = input(`${name}:after`, value.shape)
      cuts.push({ hook: name, name: `${name}:after`, before: value, after, call })
      return after
    }
    const built = build(this.config, this.weights, requests)
    const batch = values["pixel_values"]?.shape[0]
    const put = [...patched].map(([name, t]) => [name, repeated(t, this.hooks.get(name)!.shape, batch)] as const)
    const inputs = { ...built.inputs, ...fed, ...placeholders }
    return { values, feeds: { ...values, ...further, ...Object.fromEntries(put) } as Feeds, built, cuts, inputs }
  }

  #spread<T>(byPattern: Readonly<Record<string, T>>): Map<string, T> {
    return new Map(
      Object.entries(byPattern).flatMap(([pattern, t]) =>
        matchHooks(this.hooks, pattern).map((name) => [name, t] as const),
      ),
    )
  }

  #further(given: Readonly<Record<string, Tensor>>, batch: number | undefined): Values {
    const known = withInputs(this.config, this.hooks)
    return Object.fromEntries(
      Object.entries(given).map(([name, t]) => {
        if (known.has(name) || name in inputShapes(this.config))
          fail("E_INPUT", `the input "${name}" has a name of the model`)
        const [rows, ...rest] = expectFloat32(t, `the input "${name}"`).shape
        return [name, input(name, [rows === 1 && batch !== 1 ? 1 : "batch", ...rest])]
      }),
    )
  }

  /** An edit that gives back what it is given needs no opened op: asked with a value that only has the shape. */
  #isIdentity(name: string, edit: Edit, fed: Values): boolean {
    const probe = input(name, this.hooks.get(name)!.shape)
    return (
      edit(
        probe,
        name,
        (other) => fed[other] ?? input(other, (this.hooks.get(other) ?? unknownHook(this.hooks, other)).shape),
      ) === probe
    )
  }
}

const nothingGiven = (): never => fail("E_INPUT", "nothing was given to run: pixel_values [b, c, H, W] are needed")

const OUTPUT = "output:"
const prefixed = (outputs: Values): Values =>
  Object.fromEntries(Object.entries(outputs).map(([name, v]) => [OUTPUT + name, v]))

function sameShape(name: string, from: Value, to: unknown): Value {
  if (!(to instanceof Value))
    return fail("E_INPUT", `the edit at "${name}" must return a Value of the graph, got ${typeof to}`)
  if (String(from.shape) === String(to.shape)) return to
  return fail("E_INPUT", `the edit at "${name}" returned ${show(to.shape)}, expected ${show(from.shape)}`)
}
