/** @file Which axis of a hook's value is that of tokens, and which that of heads. */
import type { Shape } from "../graph/dims.ts"

/** Of scores and patterns [b, h, T, T], the first axis is the heads' and the tokens are the queries. */
const byHead = (name: string, shape: Shape): boolean => shape.length === 4 && /hook_(attn_scores|pattern)$/.test(name)

/** The axis of tokens; of scores and patterns, that of the queries. */
export function tokenAxis(name: string, shape: Shape): number | undefined {
  if (name.includes("ln_pooled.") || name.includes("pool.")) return undefined
  return byHead(name, shape) ? 2 : shape.length >= 3 ? 1 : undefined
}

/** The axis of heads, of what has one. */
export const headAxis = (name: string, shape: Shape): number | undefined =>
  shape.length !== 4 || name.includes("pool.") ? undefined : byHead(name, shape) ? 1 : 2
