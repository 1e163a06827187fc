/** @file Some tokens of hooks' values. */
import { fail } from "../errors.ts"
import { bind, type Shape } from "../graph/dims.ts"
import type { Values } from "../graph/emit.ts"
import { slice } from "../graph/ops.ts"
import type { Value } from "../graph/value.ts"
import { tokenAxis } from "../model/axes.ts"
import { nTokens, type VisionConfig } from "../model/config.ts"
import type { Built } from "../model/model.ts"

/** One token, or those from `start` up to `end`; negative numbers count from the end. */
export type Positions = number | readonly [start: number, end: number]

/** What is made before the class token and the registers are there. */
const EARLY = ["hook_embed", "hook_pos_embed"]

/** The axis that positions count along; none of what has patches alone, which is kept whole. */
export function positionAxis(name: string, shape: Shape, vision: VisionConfig): number | undefined {
  const axis = tokenAxis(name, shape)
  return axis !== undefined && EARLY.includes(name) && shape[axis] !== nTokens(vision) ? undefined : axis
}

/** The hooks' values, or only some tokens of them; what two hooks share is cut once. */
export function positioned(
  built: Built,
  names: readonly string[],
  positions: Positions | undefined,
  sizes: ReadonlyMap<string, number>,
  vision: VisionConfig,
): Values {
  const cut = new Map<Value, Value>()
  for (const name of names) {
    const { value } = built.scope.hooks.get(name)!
    if (cut.has(value)) continue
    const axis = positionAxis(name, value.shape, vision)
    if (positions === undefined || axis === undefined) cut.set(value, value)
    else cut.set(value, slice(value, axis, ...range(positions, bind(value.shape[axis]!, sizes))))
  }
  return Object.fromEntries(names.map((name) => [name, cut.get(built.scope.hooks.get(name)!.value)!]))
}

/** From and up to which token. Error: E_INPUT outside them. */
export function range(positions: Positions, length: number): [number, number] {
  const at = (i: number) => (i < 0 ? i + length : i)
  const [start, end] =
    typeof positions === "number" ? [at(positions), at(positions) + 1] : [at(positions[0]), at(positions[1])]
  if (start >= 0 && start < end && end <= length) return [start, end]
  return fail("E_INPUT", `positions ${String(positions)} are outside the ${length} tokens`)
}
