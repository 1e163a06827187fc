/** @file Accuracy and loss of a classifier on a dataset, its images prepared as the model's own repo says. */
import type { Image } from "../data/image.ts"
import { preprocess } from "../data/preprocess.ts"
import type { NamedDataset, Sample } from "../datasets/dataset.ts"
import { fail } from "../errors.ts"
import { float32, show, size } from "../tensor/tensor.ts"
import type { LoadedViT } from "./load-pretrained.ts"

export interface Evaluated {
  /** Images. */
  readonly n: number
  /** Mean cross entropy, in nats; smoothed where that is asked for. */
  readonly loss: number
  /** The share whose largest logit is the label's; of equal logits the first counts. */
  readonly accuracy: number
  /** The share whose label is among the five largest. */
  readonly top5: number
  /** How the data's classes were matched with the model's: both name the same, or each by its number. */
  readonly comparedBy: "name" | "number"
  /** In the model's own order. */
  readonly classes: readonly ClassAccuracy[]
}

export interface EvaluateOptions {
  /** Images in one run of the model. */
  readonly batch?: number
  /** Of the loss: as training's `label_smoothing`. */
  readonly labelSmoothing?: number
  readonly onProgress?: (done: number) => void
}

export interface ClassAccuracy {
  readonly label: string
  readonly n: number
  /** Null where the data has no image of the class. */
  readonly accuracy: number | null
}

/** Images that are decoded and prepared at once: more than sharp's four threads would only be held. */
const LANES = 8

/**
 * Run every sample once. Classes are compared by name where model and data have the same names, else by number.
 * Errors: E_INPUT for a model without logits and for data of other classes; E_PREPROC; those of the dataset.
 */
export async function evaluateClassifier(
  model: LoadedViT,
  data: NamedDataset,
  { batch = 64, labelSmoothing = 0, onProgress = () => {} }: EvaluateOptions = {},
): Promise<Evaluated> {
  const names = comparedClasses(model, data)
  const { preprocessing } = model
  const { nChannels, imageSize } = model.config.vision
  const shape = [nChannels, ...imageSize]
  const counts = names.labels.map(() => ({ n: 0, right: 0 }))
  let [loss, top5] = [0, 0]
  for (let start = 0; start < data.length; start += batch) {
    const n = Math.min(batch, data.length - start)
    const pixels = new Float32Array(n * size(shape))
    const labels: number[] = []
    for (let first = 0; first < n; first += LANES) {
      const slots = Array.from({ length: Math.min(LANES, n - first) }, (_, k) => first + k)
      const prepared = async (slot: number) => {
        const sample = await data.at(start + slot)
        pixels.set(preprocess(imageOf(sample, data, start + slot), preprocessing).data, slot * size(shape))
        labels[slot] = names.index[sample.label as number]!
      }
      await Promise.all(slots.map(prepared))
    }
    const { logits } = await model.run(float32([n, ...shape], pixels), { outputs: "logits" })
    for (const [row, label] of labels.entries()) {
      const values = (logits.data as Float32Array).subarray(row * counts.length, (row + 1) * counts.length)
      const rank = rankOf(values, label)
      const count = counts[label]!
      count.n++
      if (rank === 0) count.right++
      if (rank < 5) top5++
      loss += crossEntropy(values, label, labelSmoothing)
    }
    onProgress(start + n)
  }
  const right = counts.reduce((sum, count) => sum + count.right, 0)
  const n = data.length
  const classes = counts.map((c, i) => ({ label: names.labels[i]!, n: c.n, accuracy: c.n ? c.right / c.n : null }))
  return { n, loss: loss / n, accuracy: right / n, top5: top5 / n, comparedBy: names.by, classes }
}

/** The model's labels, and for each class of the data which of them it is. */
function comparedClasses({ config, outputNames, source }: LoadedViT, { classes, name }: NamedDataset) {
  if (!outputNames.includes("logits")) {
    fail("E_INPUT", `${source.name} gives ${outputNames.join(", ")} and no class logits; give a classifier`)
  }
  const { nClasses } = config.vision
  if (!classes.length) fail("E_INPUT", `${name}: its labels are numbers, not classes; give a dataset of classes`)
  if (classes.length !== nClasses) {
    const text = `${source.name} tells ${nClasses} classes apart, ${name} has ${classes.length}`
    fail("E_INPUT", `${text}; give data of the classes that the model was trained on`)
  }
  const { labels } = config
  const found = classes.map((c) => labels.indexOf(c))
  const same = new Set(found).size === nClasses && !found.includes(-1)
  const by = same ? ("name" as const) : ("number" as const)
  return { labels: labels.length ? labels : classes, index: same ? found : classes.map((_, i) => i), by }
}

/** Planar samples as interleaved images. Error: E_INPUT for those that are no 8-bit images. */
function imageOf({ image: { dtype, shape, data } }: Sample, { name }: NamedDataset, i: number): Image {
  const [channels, height, width] = shape as [number, number, number]
  if (dtype !== "uint8" || (channels !== 1 && channels !== 3)) {
    const text = `sample ${i} is ${dtype} ${show(shape)}, expected uint8 of 1 or 3 channels`
    return fail("E_INPUT", `${name}: ${text}, which a model's preprocessing takes`)
  }
  const about = { width, height, channels, notes: [] } as const
  if (channels === 1) return { ...about, channels, data }
  const plane = height * width
  const out = new Uint8Array(data.length)
  for (let c = 0; c < channels; c++) for (let k = 0; k < plane; k++) out[k * channels + c] = data[c * plane + k]!
  return { ...about, data: out }
}

/** How many logits come before the label's; one that is no number comes before all. */
function rankOf(logits: Float32Array, label: number): number {
  const own = logits[label]!
  return logits.reduce((rank, x, i) => rank + Number(i < label ? !(x < own) : i > label && !(x <= own)), 0)
}

/** log(sum of e^x) - (1 - e) x[label] - e mean(x): the target is 1 - e at the label and e / classes everywhere. */
function crossEntropy(logits: Float32Array, label: number, e: number): number {
  const largest = logits.reduce((a, b) => Math.max(a, b))
  const mean = logits.reduce((sum, x) => sum + x, 0) / logits.length
  const target = (1 - e) * logits[label]! + (e && e * mean)
  return Math.log(logits.reduce((sum, x) => sum + Math.exp(x - largest), 0)) + largest - target
}
