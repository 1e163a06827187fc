/** @file Shares added up: by component, head, layer or token. Each grouping sums to the output, like the components. */
import { fail } from "../../errors.ts"
import { quote } from "../../tensor/quote.ts"
import type { LogitAttribution, Component } from "./attribution.ts"

/**
 * "component": what each attention and each MLP added, biases with them; "head": every head, and the rest as it is;
 * "layer": embeddings, each layer, the readout; "token": where it was written, and what is behind the tokens; "source":
 * which tokens the heads read it from (asked for with `sources`), and what no head wrote.
 */
export type Grouping = "component" | "head" | "layer" | "token" | "source"

export interface Share {
  readonly name: string
  readonly value: number
}

const NAMES: { readonly [G in Exclude<Grouping, "token" | "source">]: (c: Component) => string } = {
  component: (c) =>
    c.part === "head" || c.name.endsWith("_attn_bias")
      ? `${c.layer}_attn_out`
      : /_mlp_(out|bias|ln_bias)$/.test(c.name) && c.layer !== undefined
        ? `${c.layer}_mlp_out`
        : c.name,
  head: (c) => c.name,
  layer: (c) =>
    c.layer !== undefined
      ? `layer ${c.layer}`
      : /^(embed|.*_token$|pos_embed|ln_pre)/.test(c.name)
        ? "embeddings"
        : "readout",
}

/**
 * Rows in the model's order; of tokens, "token 0" to "token T - 1". Error: E_INPUT by source, where it was made without
 * `sources`.
 */
export function sharesBy({ components }: LogitAttribution, by: Grouping): Share[] {
  if (by === "token") return byToken(components, "tokens", "behind the tokens")
  if (by === "source") return byToken(components, "sources", "not by heads")
  const nameOf = Object.hasOwn(NAMES, by) ? NAMES[by] : undefined
  if (!nameOf) return fail("E_INPUT", `shares are by token, source, ${Object.keys(NAMES).join(", ")}, got ${quote(by)}`)
  const sums = new Map<string, number>()
  for (const c of components) {
    const name = nameOf(c)
    sums.set(name, (sums.get(name) ?? 0) + c.value)
  }
  return [...sums].map(([name, value]) => ({ name, value }))
}

/** What was written at each token [T], or read from it by heads; summed in float64. */
export function tokenShares(
  { components }: Pick<LogitAttribution, "components">,
  of: "tokens" | "sources" = "tokens",
): Float64Array {
  if (of === "sources" && components.some((c) => c.part === "head" && !c.sources)) {
    fail("E_INPUT", "what heads read was not asked for: decomposeLogit with { sources: true }")
  }
  const length = Math.max(0, ...components.map((c) => c[of]?.length ?? 0))
  const out = new Float64Array(length)
  for (const c of components) for (const [t, x] of (c[of] ?? []).entries()) out[t]! += x
  return out
}

function byToken(components: readonly Component[], of: "tokens" | "sources", rest: string): Share[] {
  const others = components.reduce((sum, c) => (c[of] ? sum : sum + c.value), 0)
  return [
    ...Array.from(tokenShares({ components }, of), (value, t) => ({ name: `token ${t}`, value })),
    { name: rest, value: others },
  ]
}
