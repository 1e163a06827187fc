/**
 * @file A run cut by plain functions on numbers: each part of the graph runs up to the cuts, the functions are called,
 * and the next part starts from what they return and from what the earlier parts already computed.
 */
import { fail } from "../errors.ts"
import type { Values } from "../graph/emit.ts"
import { toposort, type Value } from "../graph/value.ts"
import type { Feeds, Runtime } from "../runtime/runtime.ts"
import { expectFloat32, show, type Tensor } from "../tensor/tensor.ts"

/**
 * Called with a hook's value; what it returns takes its place, nothing leaves it as it is. Shape [as the hook], float32.
 * Not called where nothing that is asked for depends on the hook.
 */
export type HookFunction = (value: Tensor, name: string) => Tensor | void | Promise<Tensor | void>

/** `before` is the value computed so far; what lies downstream reads `after`, an input of the next part. */
export interface Cut {
  readonly hook: string
  /** Of the input that `after` is. */
  readonly name: string
  readonly before: Value
  readonly after: Value
  readonly call: HookFunction
}

/** Run the graph between `inputs` and `outputs`, whose cuts are made in the order in which they depend on each other. */
export async function runStaged(
  runtime: Runtime,
  inputs: Values,
  outputs: Values,
  cuts: readonly Cut[],
  feeds: Feeds,
): Promise<Record<string, Tensor>> {
  let open = needed(Object.values(outputs), cuts)
  let known: Values = inputs
  let values: Feeds = feeds
  for (let part = 0; open.length; part++) {
    const waiting = new Set(open.map((c) => c.after))
    const stop = new Set(Object.values(known))
    const ready = open.filter((c) => !toposort([c.before], stop).some((v) => waiting.has(v)))
    open = open.filter((c) => !ready.includes(c))
    const later = [...open.map((c) => c.before), ...Object.values(outputs)]
    const met = frontier(
      later,
      computed(
        ready.map((c) => c.before),
        stop,
      ),
      stop,
    )
    const carried = Object.fromEntries(met.map((v, i) => [`carried_${part}_${i}`, v]))

    const run = await runtime.compile(known, {
      ...Object.fromEntries(ready.map((c) => [c.name, c.before])),
      ...carried,
    })
    const got: Record<string, Tensor> = await run(values)
    const kept = Object.fromEntries(Object.keys(carried).map((name) => [name, got[name]!]))
    values = { ...values, ...kept }
    for (const cut of ready) values = { ...values, [cut.name]: await called(cut, got[cut.name]!) }
    known = { ...known, ...carried, ...Object.fromEntries(ready.map((c) => [c.name, c.after])) }
  }
  return (await runtime.compile(known, outputs))(values)
}

/** The cuts that `outputs` depend on; later ones come first in the search, since they may need earlier ones. */
function needed(outputs: readonly Value[], cuts: readonly Cut[]): readonly Cut[] {
  const reached = new Set(toposort(outputs))
  for (const { before, after } of cuts.toReversed()) {
    if (reached.has(after)) for (const v of toposort([before])) reached.add(v)
  }
  return cuts.filter((c) => reached.has(c.after))
}

async function called(cut: Cut, value: Tensor): Promise<Tensor> {
  const returned = await cut.call(value, cut.hook)
  if (!returned) return value
  expectFloat32(returned, `what the function at "${cut.hook}" returned`)
  if (String(returned.shape) !== String(value.shape)) {
    fail("E_INPUT", `the function at "${cut.hook}" returned ${show(returned.shape)}, expected ${show(value.shape)}`)
  }
  return returned
}

/** What this part computes from its inputs; weights and constants are not among it. */
function computed(targets: readonly Value[], stop: ReadonlySet<Value>): Set<Value> {
  const out = new Set<Value>()
  for (const v of toposort(targets, stop)) if (stop.has(v) || v.inputs.some((x) => out.has(x))) out.add(v)
  return out
}

/** Where the rest of the graph meets what is done: those values are carried over instead of computed again. */
function frontier(later: readonly Value[], done: ReadonlySet<Value>, stop: ReadonlySet<Value>): Value[] {
  return toposort(later, done).filter((v) => done.has(v) && !stop.has(v))
}
