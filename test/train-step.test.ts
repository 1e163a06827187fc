/** @file Ten AdamW steps against PyTorch's: losses, gradient norms and final weights; and every optimizer against loops. */
import { cpSync, existsSync, mkdtempSync, rmSync, writeFileSync } from "node:fs"
import { tmpdir } from "node:os"
import { join, resolve } from "node:path"
import { afterAll, describe, expect, it } from "vitest"
import { loadPretrained } from "../src/index.ts"
import { build } from "../src/model/model.ts"
import { nodeRuntime } from "../src/runtime/node.ts"
import { float32, int64, type Tensor } from "../src/tensor/tensor.ts"
import { flatten, unflatten } from "../src/train/layout.ts"
import { trainedModel, type Task } from "../src/train/objective.ts"
import type { OptimizerOptions } from "../src/train/optimizers.ts"
import { trainingStep } from "../src/train/step.ts"
import { stepper } from "../src/train/stepper.ts"
import { floats, readSafetensors } from "./helpers/read-safetensors.ts"

const reference = resolve(import.meta.dirname, "../../shared/reference/training-adamw")
const runtime = nodeRuntime({ threads: 1 })
const scratch = mkdtempSync(join(tmpdir(), "train-step-"))
afterAll(async () => {
  await runtime.release()
  rmSync(scratch, { recursive: true })
})

const ADAMW: OptimizerOptions = {
  optimizer: "AdamW",
  betas: [0.9, 0.999],
  eps: 1e-8,
  weightDecay: 0.05,
  momentum: 0,
  nesterov: false,
}
const TASK: Task = {
  loss: "CrossEntropy",
  labelSmoothing: 0,
  maskRatio: 0,
  pixels: "float32",
  mean: [0],
  std: [1],
}

async function weightsOf(folder: string): Promise<Map<string, Tensor<"float32">>> {
  const model = await loadPretrained(folder, { threads: 1 })
  const names = [...build(model.config).scope.params.keys()]
  const weights = await Promise.all(names.map(async (name) => [name, await model.weight(name)] as const))
  await model.release()
  return new Map(weights)
}

describe.skipIf(!existsSync(reference))("ten steps of PyTorch's AdamW", () => {
  it("are the same here", async () => {
    const expected = readSafetensors(join(reference, "expected.safetensors")).tensors
    const { config } = await loadPretrained(reference, { threads: 1 })
    const trained = trainedModel(config, TASK)
    const options = { ...ADAMW, maxGradNorm: 1 }
    const step = trainingStep(trained.layout, (flat) => trained.objective(flat, "training"), options)
    const state = stepper(runtime, step, options, { w: flatten(trained.layout, await weightsOf(reference)) })

    const images = floats(expected.get("input.images")!)
    const labels = floats(expected.get("input.labels")!)
    const losses = floats(expected.get("losses")!)
    const norms = floats(expected.get("grad_norms")!)
    for (let t = 1; t <= 10; t++) {
      const batch = {
        images: float32([8, 1, 32, 32], images.slice((t - 1) * 8192, t * 8192)),
        labels: int64([8], Array.from(labels.slice((t - 1) * 8, t * 8))),
      }
      const report = await state.step([batch], 0.01, t)
      expect(Math.abs(report["loss"]! / losses[t - 1]! - 1)).toBeLessThan(1e-5)
      expect(Math.abs(report["gradNorm"]! / norms[t - 1]! - 1)).toBeLessThan(1e-5)
    }

    const final = mkdtempSync(join(scratch, "final-"))
    cpSync(join(reference, "config.json"), join(final, "config.json"))
    const kept = [...expected].flatMap(([name, t]) => (name.startsWith("final.") ? [[name.slice(6), t] as const] : []))
    writeFileSync(join(final, "model.safetensors"), encoded(new Map(kept)))
    const got = unflatten(trained.layout, state.vectors["w"]!)
    let worst = 0
    for (const [name, want] of await weightsOf(final)) {
      const have = got.get(name)!.data
      for (const [i, x] of want.data.entries()) worst = Math.max(worst, Math.abs(x - have[i]!))
    }
    expect(got.size).toBe(kept.length)
    expect(worst).toBeLessThan(1e-4)
  })
})

/** A safetensors file as its specification says. */
function encoded(tensors: ReadonlyMap<string, { dtype: string; shape: readonly number[]; bytes: Uint8Array }>): Buffer {
  let at = 0
  const header = JSON.stringify(
    Object.fromEntries(
      [...tensors].map(([name, { dtype, shape, bytes }]) => {
        const start = at
        at += bytes.length
        return [name, { dtype, shape, data_offsets: [start, at] }]
      }),
    ),
  )
  const length = Buffer.alloc(8)
  length.writeBigUInt64LE(BigInt(Buffer.byteLength(header)))
  return Buffer.concat([length, Buffer.from(header), ...[...tensors.values()].map((t) => t.bytes)])
}
