/** @file Which token is what, and where on the image each patch lies. */
import { grid, nPatches, nPrefix, nTokens, type VisionConfig } from "../../model/config.ts"

/** The tokens of a vision tower: prefix first, then the patches, row by row. */
export interface TokenLayout {
  readonly nTokens: number
  readonly nPrefix: number
  readonly nPatches: number
  /** Patches down and across. */
  readonly grid: readonly [rows: number, columns: number]
  /** Pixels down and across of one patch. */
  readonly patchSize: readonly [height: number, width: number]
  /** Class and distillation tokens: what the model reads its answer from. */
  readonly classTokens: readonly number[]
  readonly registers: readonly number[]
}

export function tokenLayout(vision: VisionConfig): TokenLayout {
  const names = vision.prefix.flatMap(({ name, count }) => Array<typeof name>(count).fill(name))
  const at = (register: boolean) => names.flatMap((name, i) => ((name === "reg") === register ? [i] : []))
  return {
    nTokens: nTokens(vision),
    nPrefix: nPrefix(vision),
    nPatches: nPatches(vision),
    grid: grid(vision),
    patchSize: vision.patchSize,
    classTokens: at(false),
    registers: at(true),
  }
}

/**
 * How much of the model's answer is read from each token, [T], sum 1: the class token; class and distillation token
 * alike; the mean of what is pooled. Of attention pooling, which weighs tokens itself, the mean too.
 */
export function readout(vision: VisionConfig): Float64Array {
  const { nTokens: t, nPrefix: p, classTokens } = tokenLayout(vision)
  const out = new Float64Array(t)
  const share = (weight: number, tokens: readonly number[]) => {
    for (const token of tokens) out[token]! += weight / tokens.length
  }
  const pooled = [...out.keys()].slice(vision.poolsPrefix ? 0 : p)
  const { pool } = vision
  const meanPart = pool === "mean" || pool === "attention" || !classTokens.length ? 1 : pool === "clsAndMean" ? 0.5 : 0
  share(meanPart, pooled)
  if (meanPart < 1) share(1 - meanPart, pool === "distilled" ? classTokens : classTokens.slice(0, 1))
  return out
}
