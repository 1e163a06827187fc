/** @file What a ViT is trained for: its graph on images of a dataset, a loss, and the random masks that it is fed. */
import { fail } from "../errors.ts"
import { bind, type Shape } from "../graph/dims.ts"
import { add, cast, constant, detach, input, mul, scalar } from "../graph/ops.ts"
import type { Value } from "../graph/value.ts"
import type { ModelConfig } from "../model/config.ts"
import { build } from "../model/model.ts"
import { maskShape, noRequests, type Requests } from "../model/scope.ts"
import { cutPatches } from "../model/vit.ts"
import { Random } from "../tensor/random.ts"
import { float32, size, tensor, type Tensor } from "../tensor/tensor.ts"
import { layout, weightAt, type Layout } from "./layout.ts"
import { countCorrect, crossEntropy, meanSquaredError, reconstruction } from "./losses.ts"
import type { Objective } from "./step.ts"

export type LossName = "CrossEntropy" | "MSE" | "Reconstruction" | "MaskedReconstruction"

export interface Task {
  readonly loss: LossName
  /** Of cross entropy. */
  readonly labelSmoothing: number
  /** The share of an image's patches that masked reconstruction hides. */
  readonly maskRatio: number
  /** How images come: uint8 0..255 stands for 0..1. */
  readonly pixels: "uint8" | "float32"
  /** Taken off the pixels and divided by: one number for each channel, or one for all. */
  readonly mean: readonly number[]
  readonly std: readonly number[]
}

type Mode = "training" | "evaluation"

export interface TrainedModel {
  readonly layout: Layout
  /** Inputs: `images` [batch, c, H, W], `labels` (int64 [batch], or float32 [batch, k]) and masks. */
  objective(flat: Value, mode: Mode): Objective
  /** Numbers for the masks of a batch of `n` images: the same for one seed and stream. */
  masks(mode: Mode, n: number, seed: number, stream: string): Record<string, Tensor>
}

/** A mask that is drawn anew for each batch. */
interface Mask {
  readonly shape: Shape
  readonly draw: (random: Random, shape: readonly number[]) => Tensor
}

/** A model and a task as something to train. Error: E_CONFIG where the model has no output that the loss needs. */
export function trainedModel(cfg: ModelConfig, task: Task): TrainedModel {
  const places = layout([...build(cfg).scope.params].map(([name, v]) => [name, v.shape as readonly number[]]))
  const objective = (flat: Value, mode: Mode) => buildObjective(cfg, task, places, flat, mode)
  const drawn = { training: undefined, evaluation: undefined } as Record<Mode, ReadonlyMap<string, Mask> | undefined>
  return {
    layout: places,
    objective: (flat, mode) => objective(flat, mode).objective,
    masks(mode, n, seed, stream) {
      drawn[mode] ??= objective(input("w", [places.size]), mode).masks
      const batch = new Map([["batch", n]])
      return Object.fromEntries(
        [...drawn[mode]].map(([name, { shape, draw }]) => [
          name,
          draw(
            new Random(seed, `${stream}:${name}`),
            shape.map((d) => bind(d, batch)),
          ),
        ]),
      )
    },
  }
}

function buildObjective(cfg: ModelConfig, task: Task, places: Layout, flat: Value, mode: Mode) {
  const masks = new Map<string, Mask>()
  const maskInputs: Record<string, Value> = {}
  const drop: NonNullable<Requests["drop"]> = (name, value, rate, kind) => {
    const shape = maskShape(kind, value.shape)
    masks.set(name, { shape, draw: bernoulli(1 - rate) })
    maskInputs[name] = input(name, shape, "uint8")
    return mul(value, mul(cast(maskInputs[name], "float32"), scalar(1 / (1 - rate))))
  }
  const requests: Requests = {
    ...noRequests,
    weight: (name) => (ignored(cfg, name) ? detach : same)(weightAt(places, flat, name)),
    ...(mode === "training" && { drop }),
  }
  const { vision } = cfg
  const images = input("images", ["batch", vision.nChannels, ...vision.imageSize], task.pixels)
  const pixels = normalised(images, task)
  const { inputs, outputs } = build(cfg, undefined, requests, pixels)
  const hidden = inputs["patch_mask"]
  if (hidden) {
    masks.set("patch_mask", { shape: hidden.shape, draw: chosen(task.maskRatio) })
    maskInputs["patch_mask"] = hidden
  }
  const output = (name: string): Value =>
    outputs[name] ??
    fail(
      "E_CONFIG",
      `the loss ${task.loss} needs the output "${name}"; the model has ${Object.keys(outputs).join(", ")}`,
    )

  const goal = (): Objective => {
    if (task.loss === "Reconstruction" || task.loss === "MaskedReconstruction") {
      const loss = reconstruction(output("reconstruction"), cutPatches(vision, pixels), hidden)
      return { inputs: { images, ...maskInputs }, loss, metrics: {} }
    }
    const logits = output("logits")
    if (task.loss === "MSE") {
      const labels = input("labels", logits.shape)
      return { inputs: { images, labels, ...maskInputs }, loss: meanSquaredError(logits, labels), metrics: {} }
    }
    const labels = input("labels", ["batch"], "int64")
    const loss = crossEntropy(logits, labels, task.labelSmoothing)
    return { inputs: { images, labels, ...maskInputs }, loss, metrics: { correct: countCorrect(logits, labels) } }
  }
  return { objective: goal(), masks }
}

/**
 * What is added to all keys, by their bias or that of their norm, is the same in all scores of a query, and softmax
 * takes it off again: its gradient is 0. Computed in float32 it is noise of about 1e-9, which Adam divides by its own
 * size: steps of lr / 10 instead of none. Rotary positions turn a bias by each key's own angles: it is another in each.
 */
const ignored = ({ vision }: ModelConfig, name: string): boolean =>
  !vision.rotary && name.endsWith(vision.qkNorm ? "attn.k_norm.bias" : "attn.k.bias")
const same = (x: Value): Value => x

/** (x - mean) / std, of uint8 as x / 255, in one multiplication and one addition. */
function normalised(images: Value, { pixels, mean, std }: Task): Value {
  const unit = pixels === "uint8" ? 255 : 1
  const perChannel = (of: (m: number, s: number) => number) => {
    const n = Math.max(mean.length, std.length)
    const values = Array.from({ length: n }, (_, i) => of(mean[i % mean.length]!, std[i % std.length]!))
    return n === 1 ? scalar(values[0]!) : constant(float32([n, 1, 1], values))
  }
  const scaled = mul(
    cast(images, "float32"),
    perChannel((_, s) => 1 / (unit * s)),
  )
  if (mean.every((m) => m === 0)) return scaled
  return add(
    scaled,
    perChannel((m, s) => -m / s),
  )
}

const bernoulli =
  (keep: number): Mask["draw"] =>
  (random, shape) =>
    tensor(
      "uint8",
      shape,
      Uint8Array.from({ length: size(shape) }, () => Number(random.uniform() < keep)),
    )

/** As many of each row as the ratio says, rounded, are 1. */
const chosen =
  (ratio: number): Mask["draw"] =>
  (random, [n, patches]) => {
    const count = Math.round(ratio * patches!)
    const out = new Float32Array(n! * patches!)
    for (let row = 0; row < n!; row++) {
      for (const i of random.permutation(patches!).subarray(0, count)) out[row * patches! + i] = 1
    }
    return float32([n!, patches!], out)
  }
