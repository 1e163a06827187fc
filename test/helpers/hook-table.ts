/**
 * @file The vocabulary of hooks written down once more: which hooks a model has, their shapes, and what each is computed
 * from. Shares nothing with src/, so that it can be held against it.
 *
 * b batch, P patches, T tokens, h heads, e head width, d model width, m MLP width.
 */

/** A hook or an output: its shape, and the hooks and outputs that it is computed from directly. */
export interface Entry {
  readonly shape: readonly number[]
  readonly from: readonly string[]
}

export type Table = Map<string, Entry>

export interface TowerShape {
  readonly prefix?: "text."
  readonly b: number
  readonly T: number
  /** Patches; of a text, its tokens. */
  readonly P: number
  readonly h: number
  readonly e: number
  readonly d: number
  readonly m: number
  readonly layers: number
  /** Rows of what is added for position; 0: nothing is. */
  readonly positions: number
  readonly lnPre?: true
  readonly gated?: true
  readonly finalNorm?: false
  /** Norms after attention and MLP and inside the MLP, or none; by default before attention and MLP. */
  readonly norm?: "post" | "none"
  readonly attnOnly?: true
  /** A norm of the pooled token [b, d]. */
  readonly lnPooled?: true
  /** A learned query attends to so many tokens. */
  readonly attends?: number
}

/** Hooks that are made only when named. */
export const ON_REQUEST = /(hook_result|hook_[qkv]_input|hook_mlp_in)$/

export function tower(s: TowerShape): Table {
  const { prefix = "", b, T, P, h, e, d, m, positions } = s
  const table: Table = new Map()
  const put = (name: string, shape: readonly number[], ...from: string[]): string => {
    table.set(prefix + name, { shape, from: from.map((f) => prefix + f) })
    return name
  }
  const norm = (at: string, shape: readonly number[], ...from: string[]): string => {
    const scale = put(`${at}.hook_scale`, [...shape.slice(0, -1), 1], ...from)
    return put(`${at}.hook_normalized`, shape, ...from, scale)
  }
  /** Of what is normed there, the norm; elsewhere what it would be made of. */
  const normedIf = (there: boolean, at: string, shape: readonly number[], ...from: string[]): string[] =>
    there ? [norm(at, shape, ...from)] : from
  const [before, after] = [s.norm === undefined, s.norm === "post"]
  /** Scores, pattern and what is read with it, for `queries` over `keys` tokens. */
  const attention = (at: string, queries: number, keys: number): string[] => {
    const scores = put(`${at}.hook_attn_scores`, [b, h, queries, keys], `${at}.hook_q`, `${at}.hook_k`)
    const pattern = put(`${at}.hook_pattern`, [b, h, queries, keys], scores)
    const z = put(`${at}.hook_z`, [b, queries, h, e], pattern, `${at}.hook_v`)
    return [z, put(`${at}.hook_result`, [b, queries, h, d], z)]
  }

  const patches = put("hook_embed", [b, P, d])
  const placed = positions ? [put("hook_pos_embed", [1, positions, d])] : []
  let x = put("hook_full_embed", [b, T, d], patches, ...placed)
  if (s.lnPre) x = put("hook_ln_pre", [b, T, d], norm("ln_pre", [b, T, d], x))
  for (let i = 0; i < s.layers; i++) {
    const at = `blocks.${i}`
    const pre = put(`${at}.hook_resid_pre`, [b, T, d], x)
    const normed = normedIf(before, `${at}.ln1`, [b, T, d], pre)
    for (const kind of ["q", "k", "v"]) {
      const own = put(`${at}.hook_${kind}_input`, [b, T, h, d], pre)
      put(`${at}.attn.hook_${kind}`, [b, T, h, e], ...normed, own)
    }
    const added = put(`${at}.hook_attn_out`, [b, T, d], ...attention(`${at}.attn`, T, T))
    const attended = normedIf(after, `${at}.ln1`, [b, T, d], pre, added)
    if (s.attnOnly) {
      x = put(`${at}.hook_resid_post`, [b, T, d], ...attended)
      continue
    }
    const mid = put(`${at}.hook_resid_mid`, [b, T, d], ...attended)
    const normed2 = normedIf(before, `${at}.ln2`, [b, T, d], put(`${at}.hook_mlp_in`, [b, T, d], mid))
    const hidden = [put(`${at}.mlp.hook_pre`, [b, T, m], ...normed2)]
    if (s.gated) hidden.push(put(`${at}.mlp.hook_pre_linear`, [b, T, m], ...normed2))
    const post = put(`${at}.mlp.hook_post`, [b, T, m], ...hidden)
    const out = put(`${at}.hook_mlp_out`, [b, T, d], ...normedIf(after, `${at}.mlp.ln`, [b, T, m], post))
    x = put(`${at}.hook_resid_post`, [b, T, d], ...normedIf(after, `${at}.ln2`, [b, T, d], mid, out))
  }
  if (s.finalNorm !== false) x = norm("ln_final", [b, T, d], x)
  if (s.attends) {
    put("pool.attn.hook_q", [b, 1, h, e])
    for (const kind of ["k", "v"]) put(`pool.attn.hook_${kind}`, [b, s.attends, h, e], x)
    const attended = attention("pool.attn", 1, s.attends)
    put("pool.ln.hook_scale", [b, 1, 1], ...attended)
    put("pool.ln.hook_normalized", [b, 1, d], ...attended, "pool.ln.hook_scale")
    const post = put("pool.mlp.hook_post", [b, 1, m], put("pool.mlp.hook_pre", [b, 1, m], "pool.ln.hook_normalized"))
    put("pooled", [b, d], ...attended, post)
  }
  if (s.lnPooled) norm("ln_pooled", [b, d], x)
  return table
}

/** Everything that `name` reaches, itself left out. */
export function downstream(table: Table, name: string): Set<string> {
  const found = new Set<string>()
  const visit = (from: string): void => {
    for (const [to, entry] of table) {
      if (!entry.from.includes(from) || found.has(to)) continue
      found.add(to)
      visit(to)
    }
  }
  visit(name)
  return found
}
