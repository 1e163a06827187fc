/** @file The hooks a model has, found by building it without weights; and what a user may call them. */
import { fail, nearest } from "../errors.ts"
import { bind, type Shape } from "../graph/dims.ts"
import { storage } from "../graph/emit.ts"
import type { Value } from "../graph/value.ts"
import { size } from "../tensor/tensor.ts"
import type { ModelConfig } from "./config.ts"
import { build, inputShapes, type Built } from "./model.ts"
import { noRequests } from "./scope.ts"

export interface HookInfo {
  readonly name: string
  /** "batch" and "texts" are how many are fed, "tokens" how long the texts are. */
  readonly shape: Shape
  /** Made only when named, by its own name or a pattern that ends in it: what path patching needs. */
  readonly onRequest: boolean
  /** The first hook that has the very same values: after a block is before the next. */
  readonly sameAs: string
}

const ON_REQUEST = ["hook_result", "hook_q_input", "hook_k_input", "hook_v_input", "hook_mlp_in"]

const lastPart = (name: string): string => name.slice(name.lastIndexOf(".") + 1)

/** Every hook of a model, in the order in which it makes them. */
export function listHooks(config: ModelConfig): ReadonlyMap<string, HookInfo> {
  const { scope } = build(config, undefined, { ...noRequests, reads: () => true })
  const first = new Map<Value, string>()
  return new Map(
    [...scope.hooks].map(([name, { value }]) => {
      const bytes = storage(value)
      if (!first.has(bytes)) first.set(bytes, name)
      return [
        name,
        { name, shape: value.shape, onRequest: ON_REQUEST.includes(lastPart(name)), sameAs: first.get(bytes)! },
      ]
    }),
  )
}

/** What can be differentiated at: the hooks, and `pixel_values`, which a pattern reaches only if it spells that name. */
export const withInputs = (
  config: ModelConfig,
  hooks: ReadonlyMap<string, HookInfo>,
): ReadonlyMap<string, HookInfo> => {
  const shape = inputShapes(config)["pixel_values"]!
  return new Map([["pixel_values", { name: "pixel_values", shape, onRequest: true, sameAs: "pixel_values" }], ...hooks])
}

/** The value at a hook or input of a built model. */
export const pointOf = (built: Built, name: string): Value | undefined =>
  built.scope.hooks.get(name)?.value ?? built.inputs[name]

/** Bytes of a float32 value of this shape, for so many images, texts and tokens. */
export const bytesOfShape = (shape: Shape, symbols: ReadonlyMap<string, number>): number =>
  4 * size(shape.map((d) => bind(d, symbols)))

/** One name, a glob, a predicate, or a list of these. */
export type HookNames = string | ((name: string) => boolean) | readonly (string | ((name: string) => boolean))[]

const GLOB = /[*?[{]/

/**
 * The hooks that `names` mean, in the model's order. A pattern reaches a hook made on request only if its last
 * part spells its name. Errors: E_HOOK for a name that does not exist (with the nearest) and a pattern that matches nothing.
 */
export function matchHooks(hooks: ReadonlyMap<string, HookInfo>, names: HookNames): string[] {
  const wanted = new Set<string>()
  for (const name of Array.isArray(names) ? (names as readonly (string | ((name: string) => boolean))[]) : [names]) {
    if (typeof name === "string" && !GLOB.test(name)) {
      wanted.add(hooks.has(name) ? name : unknownHook(hooks, name))
      continue
    }
    const test = typeof name === "string" ? globTest(name) : (name as (hook: string) => boolean)
    const ending = typeof name === "string" ? lastPart(name) : ""
    const found = [...hooks.values()].filter((h) => (!h.onRequest || ending.includes(lastPart(h.name))) && test(h.name))
    if (!found.length && typeof name === "string") {
      fail("E_HOOK", `no hook matches "${name}"; there are ${examples(hooks)}`)
    }
    for (const hook of found) wanted.add(hook.name)
  }
  return [...hooks.keys()].filter((name) => wanted.has(name))
}

export function unknownHook(hooks: ReadonlyMap<string, HookInfo>, name: string): never {
  const near = nearest(name, [...hooks.keys()])
  return fail("E_HOOK", `no hook "${name}"; the nearest are ${near.map((n) => `"${n}"`).join(", ")}`)
}

const examples = (hooks: ReadonlyMap<string, HookInfo>): string =>
  [...new Set([...hooks.keys()].map((n) => n.replace(/\d+/, "{i}")))].slice(0, 8).join(", ") + ", ..."

/** `*` stands for anything, `?` for one character, `{a,b}` and `[0-3]` as in a shell. */
export function globTest(pattern: string): (name: string) => boolean {
  const source = pattern.replace(/[*?.+^$()|\\{},]/g, (c) => GLOB_PARTS[c] ?? `\\${c}`)
  try {
    const test = new RegExp(`^${source}$`)
    return (name) => test.test(name)
  } catch {
    return fail("E_HOOK", `"${pattern}" is not a pattern: a bracket or brace is not closed`)
  }
}

const GLOB_PARTS: Readonly<Record<string, string>> = { "*": ".*", "?": ".", "{": "(?:", "}": ")", ",": "|" }
