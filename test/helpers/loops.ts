/** @file What each operation computes, by plain loops over float64 numbers; the formulas of numpy and PyTorch. */

/** Row-major numbers; of integers and truth values too. */
export interface Numbers {
  readonly shape: readonly number[]
  readonly data: readonly number[]
}

const count = (shape: readonly number[]): number => shape.reduce((a, b) => a * b, 1)

/** An array from a function of its index. */
export function make(shape: readonly number[], value: (index: readonly number[]) => number): Numbers {
  const data: number[] = []
  for (let n = 0; n < count(shape); n++) {
    let rest = n
    const index = shape.map(() => 0)
    for (let axis = shape.length - 1; axis >= 0; axis--) {
      index[axis] = rest % shape[axis]!
      rest = Math.floor(rest / shape[axis]!)
    }
    data.push(value(index))
  }
  return { shape, data }
}

/** The number at an index that may be longer than the array's, and beyond 0 where the array has one: broadcasting. */
export function at({ shape, data }: Numbers, index: readonly number[]): number {
  let place = 0
  const own = index.slice(index.length - shape.length)
  for (const [axis, size] of shape.entries()) place = place * size + (size === 1 ? 0 : own[axis]!)
  return data[place]!
}

const together = (a: readonly number[], b: readonly number[]): number[] => {
  const rank = Math.max(a.length, b.length)
  return Array.from({ length: rank }, (_, i) => {
    const [x, y] = [a[a.length - rank + i] ?? 1, b[b.length - rank + i] ?? 1]
    return x === 1 ? y : x
  })
}

export const binary = (f: (x: number, y: number) => number) => (a: Numbers, b: Numbers) =>
  make(together(a.shape, b.shape), (i) => f(at(a, i), at(b, i)))

export const unary = (f: (x: number) => number) => (a: Numbers) => make(a.shape, (i) => f(at(a, i)))

/** 2 / sqrt(pi) times the integral of exp(-t^2) from 0 to x, by Simpson's rule. */
export function erf(x: number): number {
  const end = Math.min(Math.abs(x), 8)
  const n = 2000
  let sum = 1 + Math.exp(-end * end)
  for (let i = 1; i < n; i++) sum += (i % 2 ? 4 : 2) * Math.exp(-(((end * i) / n) ** 2))
  return (Math.sign(x) * 2 * sum * end) / n / 3 / Math.sqrt(Math.PI)
}

export const sigmoid = (x: number): number => 1 / (1 + Math.exp(-x))

/** The row along the last axis that an index lies in. */
const row = (a: Numbers, index: readonly number[]): number[] =>
  Array.from({ length: a.shape.at(-1)! }, (_, j) => at(a, [...index.slice(0, -1), j]))

const total = (values: readonly number[]): number => values.reduce((s, x) => s + x, 0)

export const softmax = (a: Numbers): Numbers =>
  make(a.shape, (i) => Math.exp(at(a, i)) / total(row(a, i).map((x) => Math.exp(x))))

function moments(values: readonly number[]): { mean: number; variance: number } {
  const mean = total(values) / values.length
  return { mean, variance: total(values.map((x) => (x - mean) ** 2)) / values.length }
}

export const layerNorm = (a: Numbers, w: Numbers, b: Numbers, eps: number): Numbers =>
  make(a.shape, (i) => {
    const { mean, variance } = moments(row(a, i))
    return ((at(a, i) - mean) / Math.sqrt(variance + eps)) * at(w, i) + at(b, i)
  })

export const invStd = (a: Numbers, eps: number): Numbers =>
  make([...a.shape.slice(0, -1), 1], (i) => 1 / Math.sqrt(moments(row(a, i)).variance + eps))

export function matmul(a: Numbers, b: Numbers): Numbers {
  const [m, k, n] = [a.shape.at(-2)!, a.shape.at(-1)!, b.shape.at(-1)!]
  const batch = together(a.shape.slice(0, -2), b.shape.slice(0, -2))
  return make([...batch, m, n], (i) => {
    const [r, c] = i.slice(-2) as [number, number]
    const lead = i.slice(0, -2)
    return total(Array.from({ length: k }, (_, j) => at(a, [...lead, r, j]) * at(b, [...lead, j, c])))
  })
}

/** Axis i of the result is axis perm[i]. */
export const transpose = (a: Numbers, perm: readonly number[]): Numbers =>
  make(
    perm.map((axis) => a.shape[axis]!),
    (i) =>
      at(
        a,
        perm.map((_, axis) => i[perm.indexOf(axis)]!),
      ),
  )

export const expand = (a: Numbers, shape: readonly number[]): Numbers => make(shape, (i) => at(a, i))

export function concat(all: readonly Numbers[], axis: number): Numbers {
  const sizes = all.map((a) => a.shape[axis]!)
  return make(all[0]!.shape.with(axis, total(sizes)), (i) => {
    let [from, place] = [0, i[axis]!]
    while (place >= sizes[from]!) place -= sizes[from++]!
    return at(all[from]!, i.with(axis, place))
  })
}

export const slice = (a: Numbers, axis: number, start: number, end: number): Numbers =>
  make(a.shape.with(axis, end - start), (i) => at(a, i.with(axis, i[axis]! + start)))

/** Zeros around, so that `a` starts at `before` of `size`. */
export const pad = (a: Numbers, axis: number, before: number, size: number): Numbers =>
  make(a.shape.with(axis, size), (i) => {
    const place = i[axis]! - before
    return place >= 0 && place < a.shape[axis]! ? at(a, i.with(axis, place)) : 0
  })

/** Row n of the result is the sum of the rows whose index is n. */
export const scatterAdd = (a: Numbers, indices: Numbers, rows: number): Numbers =>
  make([rows, ...a.shape.slice(indices.shape.length)], (i) => {
    const each = make(indices.shape, (j) => (at(indices, j) === i[0] ? at(a, [...j, ...i.slice(1)]) : 0))
    return total(each.data)
  })

export const gather = (table: Numbers, indices: Numbers): Numbers =>
  make([...indices.shape, ...table.shape.slice(1)], (i) =>
    at(table, [at(indices, i.slice(0, indices.shape.length)), ...i.slice(indices.shape.length)]),
  )

export function sum(a: Numbers, axes: readonly number[], keepdims: boolean): Numbers {
  const kept = make(
    a.shape.map((d, axis) => (axes.includes(axis) ? 1 : d)),
    (i) => {
      const inside = make(
        axes.map((axis) => a.shape[axis]!),
        (j) =>
          at(
            a,
            i.map((x, axis) => (axes.includes(axis) ? j[axes.indexOf(axis)]! : x)),
          ),
      )
      return total(inside.data)
    },
  )
  return keepdims ? kept : { shape: a.shape.filter((_, axis) => !axes.includes(axis)), data: kept.data }
}

export function mean(a: Numbers, axes: readonly number[], keepdims: boolean): Numbers {
  const n = count(axes.map((axis) => a.shape[axis]!))
  return unary((x) => x / n)(sum(a, axes, keepdims))
}

export const argMax = (a: Numbers): Numbers =>
  make(a.shape.slice(0, -1), (i) => {
    const values = row(a, [...i, 0])
    return values.indexOf(Math.max(...values))
  })

/** With the last two axes swapped, if so. */
export const turned = (a: Numbers, turn: boolean): Numbers =>
  turn ? transpose(a, [...a.shape.keys()].slice(0, -2).concat(a.shape.length - 1, a.shape.length - 2)) : a
