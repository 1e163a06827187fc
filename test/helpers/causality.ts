/** @file Is every hook causal? Replaces each by its own value and by another one, and looks at all hooks and outputs. */
import { float32, type Tensor } from "../../src/index.ts"
import { downstream, type Table } from "./hook-table.ts"

/** The values of all hooks and outputs, by name. */
export type Reading = ReadonlyMap<string, Tensor>

/** A run of one model on one input, with these tensors in place of hooks. */
export type Run = (patch: Readonly<Record<string, Tensor>>) => Promise<Reading>

// Relative to max(1, largest magnitude). What lies beside a hook is computed bit for bit as before in all cases seen,
// what lies downstream moves by 4e-4 at least.
const STILL = 1e-6
export const ROUNDING = 1e-5
const CHANGE = 1e-4

/** max |a - b| / max(1, max |b|); infinite where shapes differ or a number is none. */
export function change(a: Tensor | undefined, b: Tensor): number {
  if (!a || String(a.shape) !== String(b.shape)) return Infinity
  const [x, y] = [a.data as Float32Array, b.data as Float32Array]
  if (x.every((v, i) => v === y[i])) return 0
  let [most, scale] = [0, 1]
  for (let i = 0; i < y.length; i++) {
    const by = masked(x[i]!) && masked(y[i]!) ? 0 : Math.abs(x[i]! - y[i]!)
    if (!(by <= most)) most = Number.isNaN(by) ? Infinity : by
    if (!masked(y[i]!)) scale = Math.max(scale, Math.abs(y[i]!))
  }
  return most / scale
}

/** Scores that a causal mask blocks lie around -3.4e38 and would drown the others. */
export const masked = (score: number): boolean => score < -1e30

export const mapped = (t: Tensor, f: (x: number) => number): Tensor => float32(t.shape, (t.data as Float32Array).map(f))

export const half = (t: Tensor): Tensor => mapped(t, (x) => x / 2)

/** Names of what differs between two readings by more than rounding. */
export const differing = (got: Reading, want: Reading): string[] =>
  [...want.keys()].filter((name) => !(change(got.get(name), want.get(name)!) <= ROUNDING))

/** The same tensor at half its size and with noise of a tenth of its own spread, the same for the same `seed`. */
export function another(t: Tensor, seed: number): Tensor {
  const values = Float32Array.from(t.data as Float32Array)
  const spread = Math.sqrt(values.reduce((s, v) => s + (masked(v) ? 0 : v * v), 0) / values.length)
  const random = mulberry32(seed)
  return float32(
    t.shape,
    values.map((v) => (masked(v) ? v : v / 2 + (random() - 0.5) * 0.2 * spread)),
  )
}

/** Uniform in [0, 1): https://gist.github.com/tommyettinger/46a874533244883189143505d203312c */
export function mulberry32(seed: number): () => number {
  let a = seed
  return () => {
    a = (a + 0x6d2b79f5) | 0
    let t = Math.imul(a ^ (a >>> 15), 1 | a)
    t = (t + Math.imul(t ^ (t >>> 7), 61 | t)) ^ t
    return ((t ^ (t >>> 14)) >>> 0) / 2 ** 32
  }
}

/**
 * Hold one hook to the contract: its own value in its place changes nothing; another one changes what lies downstream
 * of it in `table` and nothing else, and is what is read there.
 */
export async function causality(run: Run, base: Reading, table: Table, hook: string, seed: number): Promise<string[]> {
  const problems: string[] = []
  const own = await run({ [hook]: base.get(hook)! })
  for (const [name, value] of base) {
    const by = change(own.get(name), value)
    if (by > ROUNDING) problems.push(`${hook} replaced by its own value changes ${name} by ${by.toExponential(1)}`)
  }

  const given = another(base.get(hook)!, seed)
  const got = await run({ [hook]: given })
  if (change(got.get(hook), given) > 0) problems.push(`${hook} replaced is not read as what was given`)
  const below = downstream(table, hook)
  for (const [name, value] of base) {
    if (name === hook) continue
    const by = change(got.get(name), value)
    if (below.has(name)) {
      if (by < CHANGE) problems.push(`${hook} replaced does not move ${name}, which is downstream (${by})`)
    } else if (by > STILL) problems.push(`${hook} replaced moves ${name}, which is not downstream, by ${by}`)
  }
  return problems
}
