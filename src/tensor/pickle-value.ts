/** @file The values that a PyTorch pickle can hold. */
import type { Machine } from "./pickle.ts"
import type { DType } from "./tensor.ts"

/** A storage named by the pickle: `length` elements that lie elsewhere. */
export interface Storage {
  readonly kind: "storage"
  readonly key: string
  readonly dtype: DType
  readonly length: number
}

/** A tensor as PyTorch writes it: a strided view that lies inside its storage; all numbers count elements. */
export interface View {
  readonly kind: "view"
  readonly storage: Storage
  readonly offset: number
  readonly shape: readonly number[]
  readonly strides: readonly number[]
}

/** `depth` and `parts` are those of the whole tree, a shared part counted each time it is met. */
export interface Tree {
  depth: number
  parts: number
}

export interface Dict extends Tree {
  readonly kind: "dict"
  readonly ordered: boolean
  readonly entries: Map<Pickled, Pickled>
}

export interface Sequence<K extends "list" | "tuple"> extends Tree {
  readonly kind: K
  readonly items: Pickled[]
}

export interface StorageClass {
  readonly kind: "storage class"
  readonly dtype: DType
}

/** What stands here for a Python function. */
export interface Callable {
  readonly kind: "function"
  readonly call: (m: Machine, args: readonly Pickled[]) => Pickled
}

type Scalar = null | boolean | number | bigint | string
export type Pickled = Scalar | Dict | Sequence<"list"> | Sequence<"tuple"> | Storage | View | StorageClass | Callable

/** An empty dict or OrderedDict. */
export const emptyDict = (ordered: boolean): Dict => ({
  kind: "dict",
  ordered,
  entries: new Map(),
  depth: 1,
  parts: 1,
})

export function isKind<K extends string>(value: Pickled | undefined, kind: K): value is Extract<Pickled, { kind: K }> {
  return typeof value === "object" && value !== null && value.kind === kind
}

/** What a value is, for messages. */
export function kindOf(value: Pickled | undefined): string {
  if (value === undefined) return "nothing"
  if (value === null) return "None"
  if (typeof value === "object") return value.kind === "view" ? "a tensor" : `a ${value.kind}`
  return typeof value === "bigint" ? "a number" : `a ${typeof value}`
}
