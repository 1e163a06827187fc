/** @file What is computed of attention patterns, in slower ways. */
import { expect } from "vitest"
import type { Tensor } from "../../src/index.ts"

/** [query][key] of one head. */
export const square = ({ shape, data }: Tensor, image: number, head: number): number[][] => {
  const [, h, t] = shape as [number, number, number]
  const from = (image * h + head) * t * t
  return Array.from({ length: t }, (_, q) => [...(data as Float32Array).subarray(from + q * t, from + (q + 1) * t)])
}
export const times = (a: number[][], b: number[][]): number[][] =>
  a.map((row) => b[0]!.map((_, j) => row.reduce((s, x, k) => s + x * b[k]![j]!, 0)))

/** A layer's matrix as the paper and the options say it, in another way. */
export function mixedBySorting(layer: Tensor, image: number, fusion: "mean" | "max" | "min", ratio: number, w: number) {
  const heads = Array.from({ length: layer.shape[1]! }, (_, h) => square(layer, image, h))
  const t = heads[0]!.length
  const fuse = { max: Math.max, min: Math.min, mean: (...x: number[]) => x.reduce((a, b) => a + b) / x.length }[fusion]
  const cells = Array.from({ length: t * t }, (_, i) => ({
    i,
    x: fuse(...heads.map((m) => m[Math.floor(i / t)]![i % t]!)),
  }))
  const lowest = new Set(
    cells
      .toSorted((a, b) => a.x - b.x || a.i - b.i)
      .slice(0, Math.floor(ratio * t * t))
      .map((c) => c.i),
  )
  return Array.from({ length: t }, (_, q) => {
    const row = Array.from({ length: t }, (__, k) => {
      const kept = lowest.has(q * t + k) ? 0 : cells[q * t + k]!.x
      return (1 - w) * kept + (q === k ? w : 0)
    })
    const sum = row.reduce((a, x) => a + x, 0)
    return row.map((x) => (sum ? x / sum : x))
  })
}

export function near(got: ArrayLike<number>, want: readonly number[], digits = 5): void {
  expect(got.length).toBe(want.length)
  for (const [i, x] of want.entries()) expect(got[i], String(i)).toBeCloseTo(x, digits)
}

/** The most that can flow, by shortest paths over a table of what is left (Edmonds and Karp). */
export function slowFlow(capacities: readonly (readonly number[])[], source: number, sink: number): number {
  const left = capacities.map((row) => [...row])
  let flow = 0
  for (;;) {
    const before = new Map([[source, source]])
    for (const node of before.keys()) {
      for (const [to, c] of left[node]!.entries()) if (c > 1e-12 && !before.has(to)) before.set(to, node)
    }
    if (!before.has(sink)) return flow
    const path: [number, number][] = []
    for (let at = sink; at !== source; at = before.get(at)!) path.push([before.get(at)!, at])
    const most = Math.min(...path.map(([from, to]) => left[from]![to]!))
    for (const [from, to] of path) {
      left[from]![to]! -= most
      left[to]![from]! += most
    }
    flow += most
  }
}
