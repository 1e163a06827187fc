/**
 * @file A product of two thin matrices that is never formed, as a head's circuits are: [n, r] times [r, m] of rank r.
 *
 * Whatever is asked of the product is asked of small matrices: with a = Q R and b^T = P S, a b is Q (R S^T) P^T, whose
 * singular values are those of the r x r core, and its eigenvalues other than 0 are those of b a. All in float64.
 */
import { fail } from "../../errors.ts"
import { show, size, tensor, type Tensor } from "../../tensor/tensor.ts"
import { eigenvalues, type Eigenvalues } from "./eigen.ts"
import { length, matrix, multiply, qr, transposed, triangle, type Matrix } from "./matrix.ts"
import { jacobiSvd } from "./svd.ts"

/** The product a b, [..., n, m]. Leading axes are heads or layers, the same of both. */
export interface Factored {
  /** [..., n, r] */
  readonly a: Tensor<"float32" | "float64">
  /** [..., r, m] */
  readonly b: Tensor<"float32" | "float64">
}

/** Singular values fall; k is min(n, r, m). a b = u diag(s) v^T, and the columns of u and v are orthonormal. */
export interface Svd {
  /** [..., n, k] */
  readonly u: Tensor<"float64">
  /** [..., k] */
  readonly s: Tensor<"float64">
  /** [..., m, k] */
  readonly v: Tensor<"float64">
}

/** Errors: E_INPUT for factors that do not fit, of other types, or with values that are not finite. */
export function factored(a: Tensor, b: Tensor): Factored {
  const [heads, more] = [a.shape.slice(0, -2), b.shape.slice(0, -2)]
  if (a.shape.length < 2 || a.shape.at(-1) !== b.shape.at(-2) || String(heads) !== String(more)) {
    fail("E_INPUT", `factors must be [..., n, r] and [..., r, m], got ${show(a.shape)} and ${show(b.shape)}`)
  }
  return { a: real(a), b: real(b) }
}

function real(t: Tensor): Tensor<"float32" | "float64"> {
  if (t.dtype !== "float32" && t.dtype !== "float64")
    return fail("E_INPUT", `factors must be float32 or float64, got ${t.dtype}`)
  const values = t.data as Float32Array | Float64Array
  if (!values.every(Number.isFinite))
    fail("E_INPUT", `factors of shape ${show(t.shape)} hold values that are not finite`)
  return t as Tensor<"float32" | "float64">
}

/** The product's shape, [..., n, m]. */
export const productShape = ({ a, b }: Factored): number[] => [...a.shape.slice(0, -1), b.shape.at(-1)!]

/** One of the leading axes' elements: `head(ov, 3)` is the fourth head's circuit. Error: E_INPUT. */
export function head(x: Factored, index: number): Factored {
  const count = x.a.shape[0]!
  if (x.a.shape.length < 3) fail("E_INPUT", `a circuit of shape ${show(productShape(x))} has no axis of heads`)
  if (!Number.isInteger(index) || index < 0 || index >= count) {
    fail("E_INPUT", `there is no head ${index}; heads are 0 to ${count - 1}`)
  }
  const part = ({ dtype, shape, data }: Factored["a"]): Factored["a"] => {
    const one = size(shape.slice(1))
    return tensor(dtype, shape.slice(1), data.subarray(index * one, (index + 1) * one) as Float64Array)
  }
  return { a: part(x.a), b: part(x.b) }
}

/** The product of products, without forming either: the thinner of the two inner products stays with its neighbour. */
export function compose(x: Factored, y: Factored): Factored {
  if (x.b.shape.at(-1) !== y.a.shape.at(-2)) {
    fail("E_INPUT", `circuits of shapes ${show(productShape(x))} and ${show(productShape(y))} do not follow each other`)
  }
  const cores = each(x, y, (p, q) => multiply(multiply(p.b, q.a), q.b))
  return { a: x.a, b: stacked(x.a.shape.slice(0, -2), cores) }
}

/** Transposed product. */
export function transpose({ a, b }: Factored): Factored {
  const flip = (t: Factored["a"]) => stacked(t.shape.slice(0, -2), matrices(t).map(transposed))
  return { a: flip(b), b: flip(a) }
}

/** The product itself, [..., n, m]: n m numbers a head. */
export function dense(x: Factored): Tensor<"float64"> {
  return stacked(
    x.a.shape.slice(0, -2),
    pairs(x).map(({ a, b }) => multiply(a, b)),
  )
}

/** Singular value decomposition, [..., k] of each head. */
export function svd(x: Factored): Svd {
  const heads = x.a.shape.slice(0, -2)
  const all = pairs(x).map(({ a, b }) => {
    const [left, right] = [qr(a), qr(transposed(b))]
    const core = jacobiSvd(multiply(left.r, transposed(right.r)))
    return { u: multiply(left.q, core.u), s: core.s, v: multiply(right.q, core.v) }
  })
  return {
    u: stacked(
      heads,
      all.map((d) => d.u),
    ),
    s: tensor("float64", [...heads, all[0]?.s.length ?? 0], Float64Array.from(all.flatMap((d) => [...d.s]))),
    v: stacked(
      heads,
      all.map((d) => d.v),
    ),
  }
}

/**
 * How a circuit writes, brought to Frobenius norm 1: [..., r', m], whose product with anything has the norm that the
 * product of the circuit with it has. A circuit of 0 stays 0.
 */
export const writing = (x: Factored): Tensor<"float64"> =>
  stacked(
    x.a.shape.slice(0, -2),
    pairs(x).map(({ a, b }) => {
      const left = triangle(a)
      return unit(multiply(left, b), multiply(left, transposed(triangle(transposed(b)))))
    }),
  )

/** How a circuit of norm 1 reads, the same from the other side: [..., n, r']. */
export const reading = (x: Factored): Tensor<"float64"> =>
  stacked(
    x.a.shape.slice(0, -2),
    pairs(x).map(({ a, b }) => {
      const right = transposed(triangle(transposed(b)))
      return unit(multiply(a, right), multiply(triangle(a), right))
    }),
  )

/** `side` divided by the norm of the circuit whose core this is. */
function unit(side: Matrix, core: Matrix): Matrix {
  const whole = length(core.data) || 1
  return matrix(
    side.rows,
    side.columns,
    side.data.map((x) => x / whole),
  )
}

/** Frobenius norms, [...]: the root of the sum of all squares. */
export function norm(x: Factored): Tensor<"float64"> {
  const norms = pairs(x).map(({ a, b }) => length(multiply(triangle(a), transposed(triangle(transposed(b)))).data))
  return tensor("float64", x.a.shape.slice(0, -2), Float64Array.from(norms))
}

/** Of a square product, its eigenvalues that can be other than 0, largest first, one list for each head. */
export function eigenvaluesOf(x: Factored): Eigenvalues[] {
  const [n, m] = productShape(x).slice(-2)
  if (n !== m) fail("E_INPUT", `only square circuits have eigenvalues, got ${show(productShape(x))}`)
  return pairs(x).map(({ a, b }) => eigenvalues(multiply(b, a)))
}

const matrices = (t: Factored["a"]): Matrix[] => {
  const [rows, columns] = t.shape.slice(-2) as [number, number]
  const one = rows * columns
  return Array.from({ length: size(t.shape.slice(0, -2)) }, (_, i) =>
    matrix(rows, columns, Float64Array.from(t.data.subarray(i * one, (i + 1) * one))),
  )
}

const pairs = ({ a, b }: Factored): { readonly a: Matrix; readonly b: Matrix }[] => {
  const right = matrices(b)
  return matrices(a).map((left, i) => ({ a: left, b: right[i]! }))
}

function each(x: Factored, y: Factored, f: (p: ReturnType<typeof pairs>[0], q: ReturnType<typeof pairs>[0]) => Matrix) {
  const [ps, qs] = [pairs(x), pairs(y)]
  if (ps.length !== qs.length)
    fail("E_INPUT", `circuits of ${ps.length} and ${qs.length} heads cannot be composed; take one head of each`)
  return ps.map((p, i) => f(p, qs[i]!))
}

function stacked(heads: readonly number[], all: readonly Matrix[]): Tensor<"float64"> {
  const [rows, columns] = [all[0]?.rows ?? 0, all[0]?.columns ?? 0]
  const data = new Float64Array(all.length * rows * columns)
  for (const [i, m] of all.entries()) data.set(m.data, i * rows * columns)
  return tensor("float64", [...heads, rows, columns], data)
}
