/** @file Datasets that are drawn: a sample is a code, from which image, label and latents follow. */
import { fail, listed } from "../errors.ts"
import { quote } from "../tensor/quote.ts"
import { Random } from "../tensor/random.ts"
import { size } from "../tensor/tensor.ts"
import type { NamedDataset, Sample, Splits } from "./dataset.ts"
import { generatorFingerprint } from "./fingerprint.ts"
import { checkIndex } from "./held.ts"
import type { Parts } from "./split.ts"

/** "seed-exact": as ViT-Prisma 0.1.4 has it. "corrected" (default): what docs/datasets-synthetic.md lists is repaired. */
export type Variant = "corrected" | "seed-exact"

/** A dataset whose samples are drawn when asked for, and which says what it drew. */
export interface DrawnDataset<L> extends NamedDataset {
  readonly shape: readonly [number, number, number]
  at(i: number): Sample
  /** What sample i was drawn from. Error: E_INPUT. */
  latents(i: number): L
}

export interface DrawnSplits<L> extends Splits {
  readonly train: DrawnDataset<L>
  readonly test: DrawnDataset<L>
}

/** How codes become samples. */
export interface Drawing<L> {
  readonly name: string
  /** Grows when any sample changes. */
  readonly version: number
  /** All that the samples depend on. */
  readonly options: Readonly<Record<string, string | number>>
  readonly classes: readonly string[]
  readonly shape: readonly [number, number, number]
  /** Write the image into zeros. */
  draw(code: number, out: Uint8Array): void
  label(code: number): number | readonly number[]
  latents(code: number): L
}

/** The splits whose samples have these codes, in this order. */
export function drawnSplits<L>(
  drawing: Drawing<L>,
  codes: { readonly [R in "train" | "test"]: Uint32Array },
): DrawnSplits<L> {
  const { name, version, options, classes, shape } = drawing
  const part = (role: "train" | "test"): DrawnDataset<L> => {
    const dataset: DrawnDataset<L> = {
      name: `${name}/${role}`,
      fingerprint: generatorFingerprint(name, version, { ...options, role }),
      classes,
      shape,
      length: codes[role].length,
      at(i) {
        const code = codes[role][checkIndex(i, dataset)]!
        const data = new Uint8Array(size(shape))
        drawing.draw(code, data)
        return { image: { dtype: "uint8", shape, data }, label: drawing.label(code) }
      },
      latents: (i) => drawing.latents(codes[role][checkIndex(i, dataset)]!),
    }
    return dataset
  }
  return { train: part("train"), test: part("test") }
}

/** `variant` if it is one. Error: E_CONFIG. */
export const checkVariant = (variant: unknown, name: string): Variant =>
  oneOf(variant, ["corrected", "seed-exact"], `${name}: variant`)

/** `value` if it is one of `values`. Error: E_CONFIG. */
export function oneOf<T extends string>(value: unknown, values: readonly T[], what: string): T {
  const found = values.find((v) => v === value)
  return found ?? fail("E_CONFIG", `${what} must be one of ${listed(values)}, got ${quote(String(value))}`)
}

/** As many codes of each class as the smallest class has, drawn by the stream "<name>:balance". */
export function balanced(
  codes: readonly number[],
  label: (code: number) => number,
  seed: number,
  name: string,
): number[] {
  const classes = new Map<number, number[]>()
  for (const i of new Random(seed, `${name}:balance`).permutation(codes.length)) {
    const code = codes[i]!
    const rows = classes.get(label(code))
    if (rows) rows.push(code)
    else classes.set(label(code), [code])
  }
  const smallest = Math.min(...[...classes.values()].map((rows) => rows.length))
  return [...classes.keys()].sort((a, b) => a - b).flatMap((c) => classes.get(c)!.slice(0, smallest))
}

/** The codes at each part's indices, in an order drawn by the streams "<name>:order:train" and "test". */
export function inRandomOrder(codes: readonly number[], parts: Parts, seed: number, name: string) {
  const order = (role: "train" | "test") => {
    const rows = parts[role]
    return new Random(seed, `${name}:order:${role}`).permutation(rows.length).map((i) => codes[rows[i]!]!)
  }
  return { train: order("train"), test: order("test") }
}
