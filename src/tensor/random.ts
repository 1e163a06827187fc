/**
 * @file Random numbers from a key and a counter: Philox 4x32-10 (Salmon et al., "Parallel random numbers: as easy as
 * 1, 2, 3", SC 2011). A stream's whole state is its name and how far it has been read, so any draw can be made again.
 */
import { fail } from "../errors.ts"

/** High and low 32 bits of the product of two 32-bit integers. */
function mulHi(a: number, b: number): number {
  const [ah, al, bh, bl] = [a >>> 16, a & 0xffff, b >>> 16, b & 0xffff]
  const mid = ah * bl + ((al * bl) >>> 16)
  return (ah * bh + Math.floor(mid / 65536) + ((mid % 65536) + al * bh) / 65536) >>> 0
}

/** Ten rounds over a counter of four words under a key of two, written into `out`. */
export function philox(counter: ArrayLike<number>, key: ArrayLike<number>, out: Uint32Array): Uint32Array {
  let [c0, c1, c2, c3] = [counter[0]!, counter[1]!, counter[2]!, counter[3]!]
  let [k0, k1] = [key[0]!, key[1]!]
  for (let round = 0; round < 10; round++) {
    const [h0, l0] = [mulHi(0xd2511f53, c0), Math.imul(0xd2511f53, c0) >>> 0]
    const [h1, l1] = [mulHi(0xcd9e8d57, c2), Math.imul(0xcd9e8d57, c2) >>> 0]
    ;[c0, c1, c2, c3] = [(h1 ^ c1 ^ k0) >>> 0, l1, (h0 ^ c3 ^ k1) >>> 0, l0]
    k0 = (k0 + 0x9e3779b9) >>> 0
    k1 = (k1 + 0xbb67ae85) >>> 0
  }
  out[0] = c0
  out[1] = c1
  out[2] = c2
  out[3] = c3
  return out
}

/** 32-bit FNV-1a (http://www.isthe.com/chongo/tech/comp/fnv) of a stream's name. */
function nameHash(name: string): number {
  let h = 0x811c9dc5
  for (let i = 0; i < name.length; i++) h = Math.imul(h ^ name.charCodeAt(i), 0x01000193) >>> 0
  return h
}

/** A stream of numbers; two with the same seed and name give the same. */
export class Random {
  readonly #key: readonly [number, number]
  readonly #counter = new Uint32Array(4)
  readonly #block = new Uint32Array(4)
  #left = 0
  #spare: number | undefined

  /** `name` tells streams of one seed apart: "order:3", "init:head.weight". Error: E_INPUT for no safe integer >= 0. */
  constructor(seed: number, name = "") {
    if (!Number.isSafeInteger(seed) || seed < 0) fail("E_INPUT", `a seed is an integer from 0 on, got ${String(seed)}`)
    this.#key = [(seed >>> 0) ^ nameHash(name), (Math.floor(seed / 2 ** 32) ^ nameHash(`${name}#`)) >>> 0]
  }

  /** 32 random bits. */
  bits(): number {
    if (!this.#left) {
      philox(this.#counter, this.#key, this.#block)
      for (let i = 0; i < 4 && ++this.#counter[i]! === 2 ** 32; i++);
      this.#left = 4
    }
    return this.#block[4 - this.#left--]!
  }

  /** Uniform in [0, 1), 32 bits fine. */
  uniform(): number {
    return this.bits() / 2 ** 32
  }

  /** An integer in [0, n), without bias; n <= 2^32. */
  below(n: number): number {
    const limit = 2 ** 32 - (2 ** 32 % n)
    for (;;) {
      const x = this.bits()
      if (x < limit) return x % n
    }
  }

  /** Mean 0, standard deviation 1 (Box and Muller, 1958). */
  normal(): number {
    if (this.#spare !== undefined) {
      const x = this.#spare
      this.#spare = undefined
      return x
    }
    const r = Math.sqrt(-2 * Math.log((this.bits() + 1) / 2 ** 32))
    const angle = 2 * Math.PI * this.uniform()
    this.#spare = r * Math.sin(angle)
    return r * Math.cos(angle)
  }

  /** Normal, drawn again until within `limit` standard deviations. */
  truncatedNormal(limit = 2): number {
    for (;;) {
      const x = this.normal()
      if (Math.abs(x) <= limit) return x
    }
  }

  /** The integers 0..n-1 in random order (Fisher and Yates). */
  permutation(n: number): Uint32Array {
    const out = Uint32Array.from({ length: n }, (_, i) => i)
    for (let i = n - 1; i > 0; i--) {
      const j = this.below(i + 1)
      const x = out[i]!
      out[i] = out[j]!
      out[j] = x
    }
    return out
  }
}
