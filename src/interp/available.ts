/** @file Which parts of a model what is fed is enough for: of a dual encoder, one tower may run alone. */
import { symbolsOf } from "../graph/dims.ts"
import type { Values } from "../graph/emit.ts"
import { toposort, type Value } from "../graph/value.ts"
import type { Built } from "../model/model.ts"
import type { Feeds } from "../runtime/runtime.ts"

/** What of the graph cannot be computed from what is fed: of a dual encoder, what needs the other tower. */
export function unavailable(built: Built, inputs: Values, feeds: Feeds): ReadonlySet<Value> {
  const absent = Object.entries(inputs).flatMap(([name, v]) => (name in feeds ? [] : [v]))
  const out = new Set<Value>(absent)
  if (!absent.length) return out
  const known = new Set(
    Object.entries(inputs).flatMap(([name, v]) => (name in feeds ? v.shape.flatMap(symbolsOf) : [])),
  )
  const bound = ({ shape }: Value) => shape.every((d) => symbolsOf(d).every((s) => known.has(s)))
  const ends = [...built.scope.hooks.values()].map((h) => h.value).concat(Object.values(built.outputs))
  for (const v of toposort(ends)) if (!bound(v) || v.inputs.some((x) => out.has(x))) out.add(v)
  return out
}

export const without = (outputs: Values, missing: ReadonlySet<Value>): Values =>
  Object.fromEntries(Object.entries(outputs).filter(([, v]) => !missing.has(v)))
