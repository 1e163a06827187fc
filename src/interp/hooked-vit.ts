/** @file A model whose every hook can be read, replaced and edited. */
import { grad } from "../autodiff/grad.ts"
import { fail, nearest } from "../errors.ts"
import { bind } from "../graph/dims.ts"
import type { Values } from "../graph/emit.ts"
import type { Value } from "../graph/value.ts"
import type { ModelConfig } from "../model/config.ts"
import {
  bytesOfShape,
  listHooks,
  matchHooks,
  pointOf,
  withInputs,
  type HookInfo,
  type HookNames,
} from "../model/hooks.ts"
import { build, type Built } from "../model/model.ts"
import type { Weights } from "../model/scope.ts"
import type { Compiled, Feeds, Runtime } from "../runtime/runtime.ts"
import { size, type StoredTensor, type Tensor } from "../tensor/tensor.ts"
import { unavailable, without } from "./available.ts"
import { ActivationCache } from "./cache.ts"
import { givenSizes, inputValues, sizesOf, type ModelInput } from "./feeds.ts"
import { metricValue, type GradientOptions, type Gradients, type Metric } from "./gradients.ts"
import { outputsOf, type Outputs } from "./outputs.ts"
import { positionAxis, positioned, range, type Positions } from "./positions.ts"
import { isPlain, isUntouched, prepare, type Interventions } from "./interventions.ts"
import { runStaged, type Cut } from "./staged.ts"
import { namedWeight } from "./weights.ts"

export interface RunOptions extends Interventions {
  /** Names among the model's outputs and hooks, or new values made of them; by default all outputs that the inputs allow. */
  readonly outputs?: string | readonly string[] | ((at: GraphView) => Values)
  /** Hooks that `outputs` differentiates at: they then lie on the way to what is downstream, also those inside an op. */
  readonly at?: HookNames
  /** All that `outputs`, where it is a function, and `at` ask: the graph of equal keys, inputs and shapes is made once.
   * Without an intervention only. */
  readonly key?: unknown
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
  /** Reads a weight that lies in a file. */
  readonly read: (stored: StoredTensor) => Promise<Tensor>
  readonly #compiled = new Map<string, Promise<Compiled>>()
  #hooks: ReadonlyMap<string, HookInfo> | undefined

  constructor({ config, weights, runtime, read }: HookedViTParts) {
    this.config = config
    this.weights = weights
    this.runtime = runtime
    this.read = read ?? ((stored) => fail("E_INPUT", `no reader was given for weights in files (${stored.file})`))
  }

  /** Every hook, in the order in which the model makes them. */
  get hooks(): ReadonlyMap<string, HookInfo> {
    return (this.#hooks ??= listHooks(this.config))
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
    const values = inputValues(this.config, given)
    const wanted = typeof options.outputs === "string" ? [options.outputs] : options.outputs
    const ask = (): Question => {
      const reads = typeof wanted === "function" ? new Set(this.hooks.keys()) : new Set(wanted)
      const opened = options.at === undefined ? [] : matchHooks(withInputs(this.config, this.hooks), options.at)
      const { feeds, built, cuts, inputs } = prepare(this, values, options, reads, new Set(opened))
      const view = this.#view(built, inputs, feeds)
      const outputs =
        wanted === undefined
          ? without(built.outputs, unavailable(built, inputs, feeds))
          : typeof wanted === "function"
            ? wanted(view)
            : Object.fromEntries(wanted.map((name) => [name, view.hook(name)]))
      return { inputs, outputs, cuts, feeds }
    }
    const { inputs, at, key } = options
    const fed = { ...values, ...inputs }
    const plain = isPlain(options) && at === undefined && typeof wanted !== "function"
    const known = plain ? ["run", wanted] : isUntouched(options) && key !== undefined ? [key, shapesOf(fed)] : undefined
    return outputsOf(await this.#answer(fed, known, ask))
  }

  /** The model's outputs and `cache`, the values at its hooks after every intervention. */
  async runWithCache(given: ModelInput, options: CacheOptions = {}): Promise<Outputs & { cache: ActivationCache }> {
    const values = inputValues(this.config, given)
    const asked = this.#cached(options)
    const symbols = sizesOf(values)
    const { positions } = options
    const ask = (): Question => {
      const { feeds, built, cuts, inputs } = prepare(this, values, options, new Set(asked))
      const missing = unavailable(built, inputs, feeds)
      const names = asked.filter((name) => !missing.has(built.scope.hooks.get(name)!.value))
      this.#checkBudget(names, symbols, options)
      const hooks = positioned(built, names, positions, symbols, this.config.vision)
      const outputs = { ...prefixed(without(built.outputs, missing)), ...hooks }
      return { inputs, outputs, cuts, feeds }
    }
    const plain = isPlain(options) && options.maxBytes === undefined
    const got = await this.#answer(
      values,
      plain ? ["cache", asked, positions, positions && [...symbols]] : undefined,
      ask,
    )
    const [outputs, hooks] = [{} as Record<string, Tensor>, new Map<string, Tensor>()]
    for (const [name, t] of Object.entries(got)) {
      if (name.startsWith(OUTPUT)) outputs[name.slice(OUTPUT.length)] = t
      else hooks.set(name, t)
    }
    const release = () => {
      // A hook may be the same array as an output.
      const outside = new Set(Object.values(outputs).map((t) => t.data.buffer))
      this.runtime.giveBack([...hooks.values()].filter((t) => !outside.has(t.data.buffer)))
      hooks.clear()
    }
    return Object.assign(outputsOf(outputs), { cache: new ActivationCache(hooks, this.hooks, this, release) })
  }

  /** What is asked; a question that `key` says all of is made into a graph once: 1.3 ms for a ViT-B. */
  async #answer(fed: Feeds, key: unknown, ask: () => Question): Promise<Record<string, Tensor>> {
    const text = key === undefined ? undefined : JSON.stringify([Object.keys(fed), key])
    const known = text === undefined ? undefined : this.#compiled.get(text)
    if (text !== undefined && known) {
      this.#compiled.delete(text)
      this.#compiled.set(text, known) // the last to be dropped
      return (await known)(fed)
    }
    const { inputs, outputs, cuts, feeds } = ask()
    if (!Object.keys(outputs).length) nothingGiven()
    if (text === undefined) return runStaged(this.runtime, inputs, outputs, cuts, feeds)
    const made = this.runtime.compile(inputs, outputs)
    if (this.#compiled.size >= KEPT) this.#compiled.delete(this.#compiled.keys().next().value!)
    this.#compiled.set(text, made)
    made.catch(() => this.#compiled.delete(text))
    return (await made)(feeds)
  }

  /**
   * Gradients of a metric at hooks and weights, of the same graph that `run` runs: at a hook, that of everything
   * downstream of it, after any patch and edit. Errors: E_INPUT for a metric that is none, E_HOOK.
   */
  async gradients(given: ModelInput, metric: Metric, options: GradientOptions = {}): Promise<Gradients> {
    const { at = [], params = false, ...interventions } = options
    const names = matchHooks(withInputs(this.config, this.hooks), at)
    // A metric may read any hook; those to differentiate at must lie on the way, also inside an op.
    const values = inputValues(this.config, given)
    const ask = (): Question => {
      const { feeds, built, inputs } = prepare(this, values, interventions, new Set(this.hooks.keys()), new Set(names))
      const weights = params ? [...built.scope.params] : []
      const points = names.map((name) => pointOf(built, name)!)
      const loss = metricValue(metric, this.#view(built, inputs, feeds))
      const slopes = grad(loss, [...points, ...weights.map(([, w]) => w)])
      const called = [...names.map((name) => HOOK + name), ...weights.map(([name]) => PARAM + name)]
      const outputs = { loss, ...Object.fromEntries(slopes.map((v, i) => [called[i]!, v])) }
      return { inputs, outputs, cuts: [], feeds }
    }
    const { inputs: further } = interventions
    const fed = { ...values, ...further }
    const known = isUntouched(interventions) && typeof metric === "string"
    const key = known ? ["gradients", metric, names, params, shapesOf(fed)] : undefined
    const got = (await this.#answer(fed, key, ask)) as Record<string, Tensor<"float32">>
    const from = (prefix: string) =>
      new Map(
        Object.entries(got).flatMap(([name, t]) => (name.startsWith(prefix) ? [[name.slice(prefix.length), t]] : [])),
      )
    return { value: got["loss"]!.data[0]!, hooks: from(HOOK), params: from(PARAM) }
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
      const axis = positionAxis(name, shape, this.config.vision)
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
}

/** A part of the graph to run. */
interface Question {
  readonly inputs: Values
  readonly outputs: Values
  readonly cuts: readonly Cut[]
  readonly feeds: Feeds
}

// Graphs of plain questions that are kept: some 100 kB each of a ViT-B.
const KEPT = 8

const nothingGiven = (): never => fail("E_INPUT", "nothing was given to run: pixel_values [b, c, H, W] are needed")

const [OUTPUT, HOOK, PARAM] = ["output:", "hook:", "param:"] as const
const shapesOf = (fed: Feeds) => Object.values(fed).map((t) => t.shape)
const prefixed = (outputs: Values): Values =>
  Object.fromEntries(Object.entries(outputs).map(([name, v]) => [OUTPUT + name, v]))
