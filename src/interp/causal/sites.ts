/** @file Where an experiment reaches in: a hook, or some tokens or one head of it. */
import { fail } from "../../errors.ts"
import { headAxis, tokenAxis } from "../../model/axes.ts"
import { grid, nPrefix } from "../../model/config.ts"
import { matchHooks, type HookNames } from "../../model/hooks.ts"
import { quote } from "../../tensor/quote.ts"
import { show } from "../../tensor/tensor.ts"
import type { HookedViT } from "../hooked-vit.ts"

/** A part of a hook's value. Of scores and patterns the tokens are the queries. */
export interface Site {
  readonly hook: string
  /** All where left out. */
  readonly tokens?: readonly number[]
  /** All where left out. */
  readonly head?: number
}

/** What a hook is cut along: one site for each token, for each head, for both, or one for the whole of it. */
export type Cut = "token" | "head"

/**
 * The sites of hooks, in the model's order: `sitesOf(model, "*hook_resid_pre", ["token"])` has layers x T of them.
 * `tokens` are groups of tokens (a region of patches, say) that go in the place of single ones; `heads` in that of all heads.
 * Hooks of a text tower are none of an experiment over images. Errors: E_HOOK for hooks that do not exist; E_INPUT for
 * hooks without such an axis.
 */
export function sitesOf(
  model: HookedViT,
  hooks: HookNames,
  along: readonly Cut[] = [],
  tokens?: readonly (readonly number[])[],
  heads?: readonly number[],
): Site[] {
  const wrong = along.find((cut) => !["token", "head"].includes(cut))
  if (wrong !== undefined) fail("E_INPUT", `sites are along "token", "head" or both, got ${quote(wrong)}`)
  const matched = matchHooks(model.hooks, hooks)
  const ofImages = matched.filter((hook) => !isText(hook))
  if (matched.length && !ofImages.length) refuseText(matched[0]!)
  return ofImages.flatMap((hook) => {
    const { tokenCount, headCount } = axesOf(model, hook)
    const all = (cut: Cut, count: number | undefined) =>
      along.includes(cut) ? upTo(count ?? without(model, hook, `${cut}s`)) : undefined
    const groups = tokens ?? all("token", tokenCount)?.map((t) => [t])
    const byHead: Site[] = (heads ?? all("head", headCount))?.map((head) => ({ hook, head })) ?? [{ hook }]
    return byHead.flatMap((site) => groups?.map((group) => ({ ...site, tokens: group })) ?? [site])
  })
}

/** The tokens of a rectangle of patches, rows and columns counted from 0 at the top left. Error: E_INPUT outside it. */
export function regionTokens(
  model: HookedViT,
  [top, left]: readonly [number, number],
  [height, width]: readonly [number, number] = [1, 1],
): number[] {
  const { vision } = model.config
  const [rows, columns] = grid(vision)
  const outside = top < 0 || left < 0 || height < 1 || width < 1 || top + height > rows || left + width > columns
  if (outside || ![top, left, height, width].every(Number.isInteger)) {
    const got = `${height}x${width} at row ${top}, column ${left}`
    fail("E_INPUT", `the region of patches ${got} is outside the ${rows}x${columns} patches`)
  }
  return upTo(height).flatMap((r) => upTo(width).map((c) => nPrefix(vision) + (top + r) * columns + left + c))
}

/** "blocks.3.attn.hook_z, head 2, token 5" */
export function siteName({ hook, head, tokens }: Site): string {
  const which = tokens && (tokens.length === 1 ? `token ${tokens[0]}` : `tokens ${tokens.join(", ")}`)
  return [hook, head !== undefined && `head ${head}`, which].filter(Boolean).join(", ")
}

/** Errors: E_HOOK and E_INPUT, naming what exists. */
export function checkSite(model: HookedViT, site: Site): void {
  const [hook] = matchHooks(model.hooks, [site.hook])
  if (isText(hook!)) refuseText(hook!)
  const { tokenCount, headCount } = axesOf(model, hook!)
  const within = (what: string, at: number, n: number | undefined) => {
    const count = n ?? without(model, site.hook, `${what}s`)
    if (Number.isInteger(at) && at >= 0 && at < count) return
    fail("E_INPUT", `${what} ${at} of "${site.hook}" does not exist; there are ${what}s 0 to ${count - 1}`)
  }
  if (site.head !== undefined) within("head", site.head, headCount)
  if (site.tokens?.length === 0) fail("E_INPUT", `the site at "${site.hook}" names no token`)
  for (const t of site.tokens ?? []) within("token", t, tokenCount)
}

/** Write the part of `from` that a site names over that of `into`, each one row of the hook (without the batch's axis). */
export function writeSite(model: HookedViT, site: Site, into: Float32Array, from: Float32Array): void {
  const { shape, token, head } = axesOf(model, site.hook)
  const chosen = new Map<number, readonly number[]>()
  if (site.tokens && token !== undefined) chosen.set(token - 1, site.tokens)
  if (site.head !== undefined && head !== undefined) chosen.set(head - 1, [site.head])
  const sizes = shape.slice(1) as number[]
  const last = Math.max(-1, ...chosen.keys())
  const copy = (axis: number, offset: number, length: number) => {
    if (axis > last) return into.set(from.subarray(offset, offset + length), offset)
    const step = length / sizes[axis]!
    for (const i of chosen.get(axis) ?? upTo(sizes[axis]!)) copy(axis + 1, offset + i * step, step)
  }
  copy(0, 0, from.length)
}

const isText = (hook: string): boolean => hook.startsWith("text.")
const refuseText = (hook: string): never =>
  fail("E_INPUT", `"${hook}" is of the text tower: an experiment is over images; patch or edit it in model.run`)

function axesOf(model: HookedViT, hook: string) {
  const { shape } = model.hooks.get(hook)!
  const [token, head] = [tokenAxis(hook, shape), headAxis(hook, shape)]
  const count = (axis: number | undefined) => (axis === undefined ? undefined : (shape[axis] as number))
  return { shape, token, head, tokenCount: count(token), headCount: count(head) }
}

function without(model: HookedViT, hook: string, what: string): never {
  return fail("E_INPUT", `"${hook}" is ${show(model.hooks.get(hook)!.shape)}: it has no axis of ${what}`)
}

const upTo = (n: number): number[] => Array.from({ length: n }, (_, i) => i)
