/** @file Dimensions: a known size, a name bound when the graph runs ("batch"), or a product of both ("197*batch"). */
import { fail } from "../errors.ts"

export type Dim = number | string
export type Shape = readonly Dim[]

/** A dimension taken apart: `197*batch` is the factor 197 and the symbols [batch]. */
interface Factors {
  readonly factor: number
  readonly symbols: readonly string[]
}

const factors = (d: Dim): Factors => {
  if (typeof d === "number") return { factor: d, symbols: [] }
  if (/^\D[^*]*$/.test(d)) return { factor: 1, symbols: [d] }
  const parts = d.split("*")
  const known = /^\d+$/.test(parts[0]!)
  return { factor: known ? Number(parts[0]) : 1, symbols: known ? parts.slice(1) : parts }
}

const join = ({ factor, symbols }: Factors): Dim => {
  if (!symbols.length || factor === 0) return factor
  const sorted = [...symbols].sort().join("*")
  return factor === 1 ? sorted : `${factor}*${sorted}`
}

/** The product of dimensions in canonical form: factor first, symbols sorted, so that equal products are equal strings. */
export function product(dims: Shape): Dim {
  let factor = 1
  const symbols: string[] = []
  for (const d of dims) {
    if (typeof d === "number") factor *= d
    else {
      const parts = factors(d)
      factor *= parts.factor
      symbols.push(...parts.symbols)
    }
  }
  return join({ factor, symbols })
}

/** a / b where that is a dimension; else undefined. */
export function quotient(a: Dim, b: Dim): Dim | undefined {
  const [over, under] = [factors(a), factors(b)]
  const symbols = [...over.symbols]
  for (const symbol of under.symbols) {
    const at = symbols.indexOf(symbol)
    if (at < 0) return undefined
    symbols.splice(at, 1)
  }
  const factor = over.factor / under.factor
  return Number.isInteger(factor) ? join({ factor, symbols }) : undefined
}

/** What a dimension is the product of: its number, if that is not 1, and its symbols. */
export function factorsOf(d: Dim): Dim[] {
  const { factor, symbols } = factors(d)
  return factor === 1 && symbols.length ? [...symbols] : [factor, ...symbols]
}

/** The symbols in a dimension, each once. */
export const symbolsOf = (d: Dim): string[] => [...new Set(factors(d).symbols)]

/** The number a dimension stands for once its symbols are bound. */
export function bind(d: Dim, symbols: ReadonlyMap<string, number>): number {
  const { factor, symbols: names } = factors(d)
  return names.reduce((n, name) => {
    const value = symbols.get(name)
    return n * (value ?? fail("E_INPUT", `dimension "${name}" of ${d} is not bound by any input`))
  }, factor)
}

/** numpy's rule: aligned from the right, equal or 1. Undefined where the shapes do not fit. */
export function broadcast(a: Shape, b: Shape): Shape | undefined {
  const rank = Math.max(a.length, b.length)
  const out: Dim[] = []
  for (let i = 0; i < rank; i++) {
    const x = a[a.length - rank + i] ?? 1
    const y = b[b.length - rank + i] ?? 1
    if (x !== y && x !== 1 && y !== 1) return undefined
    out.push(x === 1 ? y : x)
  }
  return out
}
