/** @file Reverse mode: from a scalar of the graph to its gradients, which are more values of the same graph. */
import { fail } from "../errors.ts"
import { add, concat, expand, scalar } from "../graph/ops.ts"
import type { Shape } from "../graph/dims.ts"
import { partOf, partRead, placed, samePart, type Part } from "../graph/narrow.ts"
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

  const flows = new Map<Value, Flow[]>([[y, [{ value: scalar(1), part: undefined }]]])
  const adjoint = new Map<Value, Flow>()
  for (const v of order.toReversed()) {
    const given = flows.get(v)
    if (!given || !onPath.has(v)) continue
    const flow = total(given, v.shape)
    adjoint.set(v, flow)
    for (const [i, into] of through(v, flow, (x) => onPath.has(x)).entries()) {
      const x = v.inputs[i]!
      if (!into || !onPath.has(x)) continue
      const known = flows.get(x)
      if (known) known.push(into)
      else flows.set(x, [into])
    }
  }
  return xs.map((x) => {
    const found = adjoint.get(x)
    return found ? whole(found, x.shape) : expand(scalar(0), x.shape)
  })
}

/** A gradient at some value: of all of it, or of the part beside which it is 0. */
interface Flow {
  readonly value: Value
  readonly part: Part | undefined
}

const whole = ({ value, part }: Flow, shape: Shape): Value => (part ? placed(value, part, shape) : value)

/** What flows into each input of `v`. Where only a part of `v` has a gradient, that of the op which makes this part alone. */
function through(v: Value, flow: Flow, wanted: (x: Value) => boolean): readonly (Flow | undefined)[] {
  const less = flow.part && partOf(v, flow.part)
  const dv = less ? flow.value : whole(flow, v.shape)
  const read = less ? undefined : partRead(v)
  if (read) return [{ value: dv, part: read }]
  const { value: made, reads } = less ?? { value: v, reads: [] }
  const rule = rules[v.op] as (...args: unknown[]) => readonly (Value | undefined)[]
  const slopes = rule(dv, made, made.inputs, (i: number) => wanted(v.inputs[i]!))
  return made.inputs.map((x, i) => slopes[i] && { value: toShape(slopes[i], x.shape), part: reads[i] })
}

/** The sum of what flows into one value; parts that do not overlap are put side by side instead of added. */
function total(flows: readonly Flow[], shape: Shape): Flow {
  const [{ part }] = flows as [Flow]
  if (flows.every((f) => samePart(f.part, part))) return { value: flows.map((f) => f.value).reduce(add), part }
  return { value: summed(flows.map((f) => whole(f, shape))), part: undefined }
}

function summed(parts: readonly Value[]): Value {
  const tiles = parts.filter((p): p is Value<"Pad"> => is(p, "Pad"))
  const axis = tiles[0]?.attrs.axis
  if (
    axis === undefined ||
    tiles.length < 2 ||
    tiles.length < parts.length ||
    tiles.some((t) => t.attrs.axis !== axis)
  ) {
    return parts.reduce(add)
  }
  const { shape } = tiles[0]!
  const zeros = (from: number, to: number) => (to > from ? [expand(scalar(0), shape.with(axis, to - from))] : [])
  const pieces: Value[] = []
  let end = 0
  for (const { attrs, inputs } of tiles.toSorted((a, b) => a.attrs.before - b.attrs.before)) {
    if (attrs.before < end) return parts.reduce(add)
    pieces.push(...zeros(end, attrs.before), inputs[0]!)
    end = attrs.before + (inputs[0]!.shape[axis] as number)
  }
  return concat([...pieces, ...zeros(end, shape[axis] as number)], axis)
}
