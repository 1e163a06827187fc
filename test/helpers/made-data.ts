/** @file A small training run for tests: made images, a small config, and where everything of a run lies. */
import { createHash } from "node:crypto"
import { existsSync, readdirSync, readFileSync, statSync } from "node:fs"
import { join } from "node:path"
import { defineConfig, InductionConfig, type ConfigOverrides, type GlobalConfig } from "../../src/configs/index.ts"
import type { NamedDataset, Sample, Splits } from "../../src/datasets/dataset.ts"
import { float32 } from "../../src/tensor/tensor.ts"
import { mulberry32 } from "./causality.ts"

/** 8 x 8 pixels, random, 4 classes; `seen` is told of each sample that is asked for and may change it. */
export function madeSet(name: string, length: number, seen: (i: number, sample: Sample) => Sample | void = () => {}) {
  const set: NamedDataset = {
    name,
    length,
    fingerprint: `made of ${name}, ${length}`,
    classes: ["a", "b", "c", "d"],
    at(i) {
      const random = mulberry32(1000 * name.length + i)
      const label = Math.floor(4 * random())
      const pixels = Array.from({ length: 64 }, (_, k) => (k % 4 === label ? 1 : 0) + random())
      const sample = { image: float32([1, 8, 8], pixels), label }
      return seen(i, sample) ?? sample
    },
  }
  return set
}

export const madeData = (seen?: Parameters<typeof madeSet>[2]): Splits => ({
  train: madeSet("made/train", 40, seen),
  test: madeSet("made/test", 10),
})

/** 32 samples are trained on, 8 validated on; a checkpoint and a validation each 4 steps of 8. */
export const madeConfig = ({ training, saving, ...rest }: ConfigOverrides = {}): GlobalConfig =>
  defineConfig(InductionConfig, {
    image: { image_size: 8, patch_size: 4 },
    transformer: { hidden_dim: 16, num_heads: 2 },
    dropout: { proj: 0.1 },
    training: { batch_size: 8, max_steps: 12, eval_frequency: 4, validation_split: 0.2, warmup_steps: 2, ...training },
    logging: { log_frequency: 1 },
    data: { name: "made" },
    saving: { save_cp_frequency: 4, ...saving },
    ...rest,
  })

export const sha256 = (file: string): string => createHash("sha256").update(readFileSync(file)).digest("hex")

/** Every file below a folder with its hash. */
export function files(folder: string): Record<string, string> {
  if (!existsSync(folder)) return {}
  const names = readdirSync(folder, { recursive: true, encoding: "utf8" }).sort()
  const whole = names.filter((name) => statSync(join(folder, name)).isFile())
  return Object.fromEntries(whole.map((name) => [name, sha256(join(folder, name))]))
}

/** metrics.jsonl without the times. */
export const logOf = (out: string): Record<string, number>[] =>
  readFileSync(join(out, "metrics.jsonl"), "utf8")
    .split("\n")
    .slice(0, -1)
    .map((line) => {
      const { time: _, ...rest } = JSON.parse(line) as Record<string, number>
      return rest
    })

export const stepsIn = (out: string): number[] =>
  readdirSync(join(out, "checkpoints"))
    .sort()
    .map((name) => Number(name.slice(5)))
