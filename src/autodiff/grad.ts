/** @file Reverse mode: from a scalar of the graph to its gradients, which are more values of the same graph. */
import { fail } from "../errors.ts"
import { add, concat, expand, scalar } from "../graph/ops.ts"
import { is, toposort, type Value } from "../graph/value.ts"
import { show } from "../tensor/tensor.ts"
import { rules, toShape } from "./rules.ts"

/**
 * dy/dx for each x, of x's shape; 0 where y does not depend on x. `y` is a scalar; an `x` is any float value that y is
 * made of: an input, a weight, a hook's value. The gradient at an x is that of everything downstream of it, also where
 * another x lies there. Error: E_INPUT if y is no scalar.
 */
export function grad(y: Value, xs: readonly Value[]): Value[] {
  if (y.shape.length) fail("E_INPUT", `grad: the value to differentiate must be a scalar, got ${show(y.shape)}: sum it`)
  const wanted = new Set(xs)
  const order = toposort([y])
  const onPath = new Set<Value>()
  for (const v of order) if (wanted.has(v) || v.inputs.some((x) => onPath.has(x))) onPath.add(v)

  const parts = new Map<Value, Value[]>([[y, [scalar(1)]]])
  const adjoint = new Map<Value, Value>()
  for (const v of order.toReversed()) {
    const given = parts.get(v)
    if (!given || !onPath.has(v)) continue
    const dv = total(given)
    adjoint.set(v, dv)
    const rule = rules[v.op] as (...args: unknown[]) => readonly (Value | undefined)[]
    const needs = (i: number) => onPath.has(v.inputs[i]!)
    for (const [i, dx] of rule(dv, v, v.inputs, needs).entries()) {
      const x = v.inputs[i]
      if (!x || !dx || !onPath.has(x)) continue
      const fitted = toShape(dx, x.shape)
      const known = parts.get(x)
      if (known) known.push(fitted)
      else parts.set(x, [fitted])
    }
  }
  return xs.map((x) => adjoint.get(x) ?? expand(scalar(0), x.shape))
}

/** The sum of what flows into one value; slices that do not overlap are put side by side instead of added. */
function total(parts: readonly Value[]): Value {
  const tiles = parts.filter((p): p is Value<"Pad"> => is(p, "Pad"))
  const axis = tiles[0]?.attrs.axis
  if (
    axis === undefined ||
    tiles.length < 2 ||
    tiles.length < parts.length ||
    tiles.some((t) => t.attrs.axis !== axis)
  ) {
    return parts.reduce((a, b) => add(a, b))
  }
  const { shape } = tiles[0]!
  const zeros = (from: number, to: number) => (to > from ? [expand(scalar(0), shape.with(axis, to - from))] : [])
  const pieces: Value[] = []
  let end = 0
  for (const { attrs, inputs } of tiles.toSorted((a, b) => a.attrs.before - b.attrs.before)) {
    if (attrs.before < end) return parts.reduce((a, b) => add(a, b))
    pieces.push(...zeros(end, attrs.before), inputs[0]!)
    end = attrs.before + (inputs[0]!.shape[axis] as number)
  }
  return concat([...pieces, ...zeros(end, shape[axis] as number)], axis)
}
