/** @file Outputs computed where they are to lie, in arrays that are used again once they were given back. */
import { ARRAYS, byteLength, bytesOf, tensor, type DType, type Tensor } from "../tensor/tensor.ts"
import type { OrtSession, OrtTensor } from "./ort.ts"

/**
 * The name of an output before all others that is no tensor. onnxruntime-node 1.30 computes into the tensors that it is
 * given as fetches, and then copies every output, in the model's order, into a new array. Of an empty sequence it cannot
 * make one, and stops with an error: all is computed by then, and nothing was copied. Reading all hooks of a ViT-B is 1.2
 * times a run so, and 1.6 to 3 times with the copies (docs/performance.md).
 */
export const UNREAD = ":unread"

const stopped = (cause: unknown): boolean => cause instanceof Error && cause.message.startsWith("Non tensor type")

/** No result of a computation: as float32 a NaN that no operator makes. */
const UNWRITTEN = 0xff

/** An output of a model with the sizes of one run. */
export interface BoundPort {
  readonly name: string
  readonly dtype: DType
  readonly shape: readonly number[]
}

/** It tells as much as all: whether anything was written. Undefined where there is nothing to write. */
const smallest = (made: readonly Tensor[]): Tensor | undefined =>
  made.filter((t) => t.data.length).sort((a, b) => a.data.length - b.data.length)[0]

/** New memory, as it comes: all of it will be written. */
export type Allocate = (bytes: number) => ArrayBuffer

/** Arrays that were given back wait for outputs of the same size, up to `limit` bytes or as many as ever came at once. */
export class InPlace {
  readonly #allocate: Allocate
  readonly #limit: number
  readonly #free = new Map<number, ArrayBuffer[]>()
  readonly #owned = new WeakSet<ArrayBufferLike>()
  #bytes = 0
  /** Of what was given back at once. */
  #most = 0
  #state: "untried" | "works" | "refused" = "untried"

  constructor(allocate: Allocate, limit: number) {
    this.#allocate = allocate
    this.#limit = limit
  }

  /** Has it been tried in vain? */
  get refused(): boolean {
    return this.#state === "refused"
  }

  /** Bytes that wait. */
  get bytes(): number {
    return this.#bytes
  }

  /**
   * Run a session of a model with UNREAD; its outputs, in the order of `ports`. Undefined where this onnxruntime does
   * otherwise, as the first run finds out. Errors: onnxruntime's.
   */
  async run(
    session: OrtSession,
    feeds: Readonly<Record<string, OrtTensor>>,
    ports: readonly BoundPort[],
    toOrt: (t: Tensor) => OrtTensor,
  ): Promise<Tensor[] | undefined> {
    const made = ports.map(({ dtype, shape }) => tensor(dtype, shape, new ARRAYS[dtype](this.#take({ dtype, shape }))))
    const told = this.#state === "untried" ? smallest(made) : undefined
    if (told) bytesOf(told).fill(UNWRITTEN)
    const into = made.map((t, i) => [ports[i]!.name, t.data.length ? toOrt(t) : null] as const)
    try {
      await session.run(feeds, { [UNREAD]: null, ...Object.fromEntries(into) })
    } catch (cause) {
      if (stopped(cause)) {
        if (told && bytesOf(told).some((byte) => byte !== UNWRITTEN)) this.#state = "works"
        if (this.#state === "works" || !told) return made
      } else if (this.#state === "works") throw cause
    }
    return undefined
  }

  /** What a run after `run` gave undefined has shown: it was not the model's fault. */
  refuse(): void {
    this.#state = "refused"
  }

  /** Take arrays back that `run` made: whoever still looks at them finds them empty. Others are left alone. */
  giveBack(tensors: Iterable<Tensor>): void {
    // One that was transferred to another thread has no bytes any more.
    const ours = (b: ArrayBufferLike): boolean => this.#owned.has(b) && b.byteLength > 0
    const buffers = new Set([...tensors].map((t) => t.data.buffer).filter(ours))
    const bytes = [...buffers].reduce((n, b) => n + b.byteLength, 0)
    this.#most = Math.max(this.#most, bytes)
    this.#drop(this.#bytes + bytes - Math.max(this.#limit, this.#most))
    for (const buffer of buffers) {
      this.#owned.delete(buffer)
      const moved = structuredClone(buffer as ArrayBuffer, { transfer: [buffer as ArrayBuffer] })
      const same = this.#free.get(moved.byteLength)
      if (same) same.push(moved)
      else this.#free.set(moved.byteLength, [moved])
    }
    this.#bytes += bytes
  }

  /** An array that was fed and comes out again has two owners: it is left to the garbage collector. */
  leave(t: Tensor): void {
    this.#owned.delete(t.data.buffer)
  }

  #drop(over: number): void {
    let left = over
    for (const [bytes, buffers] of this.#free) {
      for (; left > 0 && buffers.pop(); left -= bytes) this.#bytes -= bytes
    }
  }

  clear(): void {
    this.#free.clear()
    this.#bytes = 0
  }

  #take(t: { readonly dtype: DType; readonly shape: readonly number[] }): ArrayBuffer {
    const bytes = byteLength(t)
    const known = this.#free.get(bytes)?.pop()
    if (known) this.#bytes -= bytes
    const buffer = known ?? this.#allocate(bytes)
    this.#owned.add(buffer)
    return buffer
  }
}
