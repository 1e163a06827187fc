/** @file Where in a model we stand: full names for its weights and hooks, and what is asked of each hook. */
import { fail } from "../errors.ts"
import type { Shape } from "../graph/dims.ts"
import { cast, param, reshape, transpose } from "../graph/ops.ts"
import type { Value } from "../graph/value.ts"
import { show, type StoredTensor, type Tensor } from "../tensor/tensor.ts"

/** A checkpoint's tensor under our name: its bytes, or rows of them, as `shape`; where ours is the transpose, `perm`. */
export interface Weight {
  readonly tensor: Tensor | StoredTensor
  readonly shape: readonly number[]
  readonly perm?: readonly number[]
  /** What `perm` is of; without it the shape that gives `shape`. */
  readonly from?: readonly number[]
}

/** The shape that `perm`, if there is one, is applied to. */
export const permutedFrom = ({ shape, perm, from }: Weight): readonly number[] =>
  from ?? (perm ? perm.map((_, i) => shape[perm.indexOf(i)]!) : shape)

export type Weights = ReadonlyMap<string, Weight>

/** What is wanted of a hook while the graph is built. Names are full: "blocks.0.attn.hook_q". */
export interface Requests {
  /** Is this hook named, so that what costs something only for it must be made? */
  reads(name: string): boolean
  /** Will `write` return something else than it is given? */
  writes(name: string): boolean
  /** What downstream uses in place of `value`. */
  write(name: string, value: Value): Value
  /**
   * In training: `value` times a mask of `maskShape(kind, value.shape)`, 0 with probability `rate` and else
   * 1 / (1 - rate). Without it nothing is dropped. Asked once for each name, and only for rates above 0.
   */
  drop?(name: string, value: Value, rate: number, kind: DropKind): Value
  /** In training: the value that stands for a weight. Without it, weights are those the scope was given. */
  weight?(name: string, shape: readonly number[]): Value
}

/** What is dropped together: each element alone, all of one token, all of one image. */
export type DropKind = "element" | "token" | "sample"

const MASK_AXES: { readonly [K in DropKind]: (axis: number) => boolean } = {
  element: () => true,
  token: (axis) => axis < 2,
  sample: (axis) => axis < 1,
}

/** The shape of the mask that drops so from a value [b, T, ...]: 1 along the axes that fall together. */
export const maskShape = (kind: DropKind, shape: Shape): Shape =>
  shape.map((d, axis) => (MASK_AXES[kind](axis) ? d : 1))

export const noRequests: Requests = { reads: () => false, writes: () => false, write: (_, value) => value }

/** A hook of a built graph: `computed` before any write, `value` as downstream and the cache see it. */
export interface HookPoint {
  readonly computed: Value
  readonly value: Value
}

/**
 * `scope.at("blocks", 0).param("ln1.weight", [d])` is the weight "blocks.0.ln1.weight".
 *
 * The scope notes every weight and hook it hands out, so building a model is also how its weights and hooks are
 * listed: without weights a model builds all the same, only to be looked at.
 */
export class Scope {
  readonly params: Map<string, Value>
  /** In the order in which the model makes them. */
  readonly hooks: Map<string, HookPoint>
  readonly #prefix: string
  readonly #weights: Weights | undefined
  readonly #requests: Requests

  constructor(weights?: Weights, requests: Requests = noRequests, inside?: { prefix: string; parent: Scope }) {
    this.#weights = weights
    this.#requests = requests
    this.#prefix = inside?.prefix ?? ""
    this.params = inside?.parent.params ?? new Map()
    this.hooks = inside?.parent.hooks ?? new Map()
  }

  at(...path: readonly (string | number)[]): Scope {
    const prefix = this.#prefix + path.map((p) => `${p}.`).join("")
    return new Scope(this.#weights, this.#requests, { prefix, parent: this })
  }

  /** The weight of this name as float32 of this shape; half-precision storage is cast in the graph. */
  param(name: string, shape: readonly number[]): Value {
    const full = this.#prefix + name
    const known = this.params.get(full)
    if (known) return known
    const made = this.#make(full, shape)
    this.params.set(full, made)
    return made
  }

  /** A named value: returns what downstream must use. */
  hook(name: string, computed: Value): Value {
    const full = this.#prefix + name
    const value = this.#requests.write(full, computed)
    this.hooks.set(full, { computed, value })
    return value
  }

  /** A named value that nothing downstream uses in this form of the graph; the caller has asked `writes` first. */
  readOnly(name: string, value: Value): void {
    const full = this.#prefix + name
    if (this.#requests.writes(full))
      fail("E_HOOK", `the graph was built so that writing "${full}" would have no effect`)
    this.hooks.set(full, { computed: value, value })
  }

  /** `value` with some of it dropped, where the graph is built to train. */
  drop(name: string, value: Value, rate: number | undefined, kind: DropKind): Value {
    return rate ? (this.#requests.drop?.(this.#prefix + name, value, rate, kind) ?? value) : value
  }

  reads(name: string): boolean {
    return this.#requests.reads(this.#prefix + name)
  }

  writes(name: string): boolean {
    return this.#requests.writes(this.#prefix + name)
  }

  #make(name: string, shape: readonly number[]): Value {
    if (!this.#weights) return this.#requests.weight?.(name, shape) ?? param(name, shape)
    const weight = this.#weights.get(name) ?? fail("E_MISSING_TENSORS", `the checkpoint has no weight "${name}"`)
    const { tensor, perm } = weight
    if (String(weight.shape) !== String(shape)) {
      fail("E_SHAPE_MISMATCH", `weight "${name}" is ${show(weight.shape)}, the config wants ${show(shape)}`)
    }
    const value = cast(reshape(param(name, tensor.shape, tensor), permutedFrom(weight)), "float32")
    return perm ? reshape(transpose(value, perm), shape) : value
  }
}

/** A value of the hook's shape for reading it: [batch, ...] dimensions as they are declared in the graph. */
export const hookShape = (point: HookPoint): Shape => point.value.shape
