/** @file What is done to hooks while the graph of a run is built: patches become inputs, functions cuts, edits values. */
import { fail } from "../errors.ts"
import type { Values } from "../graph/emit.ts"
import { input } from "../graph/ops.ts"
import { Value } from "../graph/value.ts"
import type { ModelConfig } from "../model/config.ts"
import { matchHooks, unknownHook, withInputs, type HookInfo } from "../model/hooks.ts"
import { build, inputShapes, type Built } from "../model/model.ts"
import type { Requests, Weights } from "../model/scope.ts"
import type { Feeds } from "../runtime/runtime.ts"
import { expectFloat32, show, type Tensor } from "../tensor/tensor.ts"
import { patchShape, repeated } from "./feeds.ts"
import type { Cut, HookFunction } from "./staged.ts"

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

const none = (changes: object | undefined): boolean => changes === undefined || !Object.keys(changes).length

/** Is nothing of the graph changed? */
export const isUntouched = ({ patch, edit, hooks }: Interventions): boolean => [patch, edit, hooks].every(none)

/** Does nothing reach into the graph? */
export const isPlain = (options: Interventions): boolean => isUntouched(options) && none(options.inputs)

/** What a model is built of. */
interface Parts {
  readonly config: ModelConfig
  readonly weights: Weights
  readonly hooks: ReadonlyMap<string, HookInfo>
}

/** A model's graph with the interventions in it, and what it is fed. */
export interface Prepared {
  readonly built: Built
  readonly inputs: Values
  readonly feeds: Feeds
  readonly cuts: readonly Cut[]
}

/**
 * The graph for one question, on these values of the model's inputs. `reads` are hooks that are named, `opened` those that
 * must lie on the way to what is downstream. Errors: E_HOOK, E_INPUT.
 */
export function prepare(
  { config, weights, hooks }: Parts,
  values: Feeds,
  { patch = {}, edit = {}, hooks: called = {}, inputs: further = {} }: Interventions,
  reads: ReadonlySet<string>,
  opened: ReadonlySet<string> = new Set(),
): Prepared {
  const batch = values["pixel_values"]?.shape[0]
  const patched = spread(hooks, patch)
  for (const [name, t] of patched) expectFloat32(t, `the patch for "${name}"`)
  const fed = furtherInputs(config, hooks, further, batch)
  const edits = spread(hooks, edit)
  for (const [name, fn] of edits) if (isIdentity(hooks, name, fn, fed)) edits.delete(name)
  const functions = spread(hooks, called)
  const cuts: Cut[] = []
  const placeholders: Record<string, Value> = {}
  const made = new Map(Object.entries(fed))
  const at = (name: string) =>
    made.get(name) ?? fail("E_HOOK", `"${name}" is no input and no hook made before the edit that asks for it`)

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
  const requests: Requests = {
    reads: (name) => reads.has(name),
    writes: (name) => opened.has(name) || patched.has(name) || edits.has(name) || functions.has(name),
    write: (name, computed) => {
      const value = intervened(name, computed)
      made.set(name, value)
      return value
    },
  }
  const built = build(config, weights, requests)
  const put = [...patched].map(([name, t]) => [name, repeated(t, hooks.get(name)!.shape, batch)] as const)
  const inputs = { ...built.inputs, ...fed, ...placeholders }
  return { feeds: { ...values, ...further, ...Object.fromEntries(put) }, built, cuts, inputs }
}

/** What each pattern means for every hook that it reaches. */
function spread<T>(hooks: ReadonlyMap<string, HookInfo>, byPattern: Readonly<Record<string, T>>): Map<string, T> {
  return new Map(
    Object.entries(byPattern).flatMap(([pattern, t]) => matchHooks(hooks, pattern).map((name) => [name, t] as const)),
  )
}

function furtherInputs(
  config: ModelConfig,
  hooks: ReadonlyMap<string, HookInfo>,
  given: Readonly<Record<string, Tensor>>,
  batch: number | undefined,
): Values {
  const known = withInputs(config, hooks)
  return Object.fromEntries(
    Object.entries(given).map(([name, t]) => {
      if (known.has(name) || name in inputShapes(config)) fail("E_INPUT", `the input "${name}" has a name of the model`)
      const [rows, ...rest] = expectFloat32(t, `the input "${name}"`).shape
      return [name, input(name, [rows === 1 && batch !== 1 ? 1 : "batch", ...rest])]
    }),
  )
}

/** An edit that gives back what it is given needs no opened op: asked with a value that only has the shape. */
function isIdentity(hooks: ReadonlyMap<string, HookInfo>, name: string, edit: Edit, fed: Values): boolean {
  const probe = input(name, hooks.get(name)!.shape)
  const at = (other: string) => fed[other] ?? input(other, (hooks.get(other) ?? unknownHook(hooks, other)).shape)
  return edit(probe, name, at) === probe
}

function sameShape(name: string, from: Value, to: unknown): Value {
  if (!(to instanceof Value))
    return fail("E_INPUT", `the edit at "${name}" must return a Value of the graph, got ${typeof to}`)
  if (String(from.shape) === String(to.shape)) return to
  return fail("E_INPUT", `the edit at "${name}" returned ${show(to.shape)}, expected ${show(from.shape)}`)
}
