/** @file What a config and its data mean together: everything about a run that is known, and refused, before it begins. */
import { createHash } from "node:crypto"
import { defineConfig, modelConfig, type GlobalConfig } from "../configs/index.ts"
import type { NamedDataset, Splits } from "../datasets/dataset.ts"
import { type Batch, order, type Source } from "../datasets/loader.ts"
import { partition, type SomeParts, splitIndices } from "../datasets/split.ts"
import { fail } from "../errors.ts"
import type { ModelConfig } from "../model/config.ts"
import { show } from "../tensor/tensor.ts"
import { Random } from "../tensor/random.ts"
import { trainedModel, type Task, type TrainedModel } from "./objective.ts"
import type { ScheduleOptions } from "./schedule.ts"
import { trainingStep, type Step, type StepOptions } from "./step.ts"

export interface RunPlan {
  readonly config: GlobalConfig
  readonly model: ModelConfig
  readonly trained: TrainedModel
  readonly options: StepOptions
  readonly step: Step
  readonly schedule: ScheduleOptions
  /** What is trained on, validated on where there is anything to, and tested on at the end. */
  readonly train: NamedDataset
  readonly val: NamedDataset | undefined
  readonly test: NamedDataset
  /** What early stopping goes by in place of the validation set: the seed's, training samples. */
  readonly judged: NamedDataset | undefined
  /** Which samples of the dataset's training part these are, where validation takes some of it. */
  readonly split: SomeParts | undefined
  readonly batchSize: number
  readonly batchesPerEpoch: number
  /** Of the whole run. */
  readonly steps: number
  /** Steps between two validations. */
  readonly every: number
}

/**
 * Errors: E_CONFIG, before any sample is read where it is the config's alone; E_DATASET_EMPTY; those of the samples that
 * are looked at, the first of each part.
 */
export async function planRun(given: GlobalConfig, data: Splits): Promise<RunPlan> {
  const config = defineConfig(given, {})
  const { training } = config
  const model = modelConfig(config)
  const parts = { ...divided(data, config), test: testSamples(data.test, config) }
  for (const set of [parts.train, parts.val, parts.test])
    if (set?.length === 0) fail("E_DATASET_EMPTY", `${set.name}: has no samples`)

  const n = parts.train.length
  const batchSize = training.batch_size === -1 ? n : training.batch_size
  if (batchSize > n)
    fail("E_CONFIG", `training.batch_size is ${batchSize}, ${parts.train.name} has ${n} samples; take at most as many`)
  const batchesPerEpoch = Math.floor(n / batchSize)
  const stepsPerEpoch = Math.floor(batchesPerEpoch / training.accumulation)
  if (!stepsPerEpoch) {
    const what = `training.accumulation is ${training.accumulation}, an epoch has ${batchesPerEpoch} batches`
    fail("E_CONFIG", `${what} of ${batchSize}; take at most as many, or smaller ones`)
  }
  const classes = config.classification.num_classes
  if (training.loss_fn_name === "CrossEntropy" && data.train.classes.length > classes) {
    const what = `classification.num_classes is ${classes}, ${data.train.name} has ${data.train.classes.length}`
    fail("E_CONFIG", `${what}; set it to that`)
  }

  const pixels = await firstSamples([parts.train, ...(parts.val ? [parts.val] : []), parts.test], config)
  const trained = trainedModel(model, taskOf(config, pixels))
  const options = stepOptions(config)
  const steps = Math.min(training.max_steps ?? Infinity, stepsPerEpoch * training.num_epochs)
  return {
    config,
    model,
    trained,
    options,
    step: trainingStep(trained.layout, (flat) => trained.objective(flat, "training"), options),
    schedule: scheduleOf(config, steps),
    ...parts,
    judged: judgedBy(parts.train, batchSize, config),
    batchSize,
    batchesPerEpoch,
    steps,
    every: training.eval_frequency ?? stepsPerEpoch,
  }
}

/** What a config says of the objective. */
export function taskOf({ training, data }: GlobalConfig, pixels: Task["pixels"]): Task {
  return {
    loss: training.loss_fn_name,
    labelSmoothing: training.label_smoothing,
    maskRatio: training.mask_ratio,
    pixels,
    mean: data.mean,
    std: data.std,
  }
}

/** What it says of a step. */
export const stepOptions = ({ training: t }: GlobalConfig): StepOptions => ({
  optimizer: t.optimizer_name,
  betas: t.betas,
  eps: t.eps,
  weightDecay: t.weight_decay,
  momentum: t.momentum,
  nesterov: t.nesterov,
  maxGradNorm: t.max_grad_norm ?? undefined,
  accumulation: t.accumulation,
  emaDecay: t.ema_decay ?? undefined,
})

const scheduleOf = ({ training: t, variant }: GlobalConfig, steps: number): ScheduleOptions => ({
  // The seed steps its scheduler only where it warms up.
  schedule: variant === "seed-exact" && !t.warmup_steps ? "constant" : t.scheduler_type,
  lr: t.lr,
  minLr: t.min_lr,
  warmupSteps: t.warmup_steps,
  stepSize: t.scheduler_step,
  gamma: t.scheduler_gamma,
  totalSteps: t.total_steps ?? steps,
  startsAtZero: variant === "seed-exact",
})

/** The training set, and what validation takes of it where the dataset brings nothing for that. */
function divided({ train, val }: Splits, { training, data }: GlobalConfig): Pick<RunPlan, "train" | "val" | "split"> {
  if (val || !training.validation_split) return { train, val, split: undefined }
  const { seed } = data
  const { test, ...rest } = splitIndices(train.length, { seed, name: train.name, test: training.validation_split })
  const split = { ...rest, val: test }
  return { ...partition(train, split), split }
}

/** As many test samples as the config says, drawn by the data's seed; all of them where it says nothing. */
export const testSamples = (from: NamedDataset, { training, data }: GlobalConfig): NamedDataset =>
  training.test_samples === null ? from : drawn(from, training.test_samples, data.seed, "test")

/** The seed looks at 40 batches (2000 // 50) of what it trains on. */
const SEED_BATCHES = 40
const judgedBy = (train: NamedDataset, batchSize: number, { variant, training, data }: GlobalConfig) =>
  variant === "seed-exact" && training.early_stopping
    ? drawn(train, SEED_BATCHES * batchSize, data.seed, "judged")
    : undefined

function drawn(from: NamedDataset, count: number, seed: number, stream: string): NamedDataset {
  if (count >= from.length) return from
  const rows = new Random(seed, stream).permutation(from.length)
  const { name, fingerprint, classes } = from
  return { name, fingerprint, classes, length: count, at: (i) => from.at(rows[i]!) }
}

/** How pixels come, from the first sample of each part, which must be what the config says. Errors: E_CONFIG,
 * E_DATASET_SCHEMA. */
export async function firstSamples(sets: readonly NamedDataset[], config: GlobalConfig): Promise<Task["pixels"]> {
  const { image, classification, training } = config
  const expected = show([image.n_channels, image.image_size, image.image_size])
  const kinds: Task["pixels"][] = []
  for (const set of sets) {
    const { image: got, label } = await set.at(0)
    if (show(got.shape) !== expected) {
      const what = `${set.name}: images are ${show(got.shape)}, the config says ${expected}`
      fail("E_CONFIG", `${what} (image.n_channels, image.image_size twice); set these, or data.size where it has one`)
    }
    kinds.push(got.dtype)
    if (got.dtype !== kinds[0])
      fail("E_DATASET_SCHEMA", `${set.name}: images are ${got.dtype}, those of ${sets[0]!.name} ${kinds[0]}`)
    const numbers = typeof label === "number" ? 0 : label.length
    const needs = { CrossEntropy: 0, MSE: classification.num_classes, Reconstruction: -1, MaskedReconstruction: -1 }
    const needed = needs[training.loss_fn_name]
    if (needed < 0 || needed === numbers) continue
    const kind = (k: number) => (k ? `${k} numbers (classification.num_classes)` : "a class")
    fail(
      "E_CONFIG",
      `${set.name}: labels are ${kind(numbers)}, the loss ${training.loss_fn_name} needs ${kind(needed)}`,
    )
  }
  return kinds[0]!
}

/** A batch as the objective's inputs. Error: E_LABEL_RANGE for a class that the model does not have. */
export function fedOf({ training, classification }: GlobalConfig, { images, labels, indices }: Batch) {
  if (training.loss_fn_name.endsWith("Reconstruction")) return { images }
  const classes = classification.num_classes
  const bad = labels.dtype === "int64" ? labels.data.findIndex((x) => x < 0n || x >= classes) : -1
  if (bad >= 0) {
    const text = `label is ${labels.data[bad]}, expected a class from 0 to ${classes - 1}`
    fail("E_LABEL_RANGE", `sample ${indices[bad]}: ${text} (classification.num_classes)`)
  }
  return { images, labels }
}

/** How the order in which the samples are trained on is made again (docs/training.md). */
export function orderRecipe(plan: RunPlan): Readonly<Record<string, unknown>> {
  const { config, batchSize, batchesPerEpoch } = plan
  const train: RunPlan["train"] & Source = plan.train
  const { seed } = config.training
  const first = order(train, { seed, epoch: 0 })
  return {
    generator: "philox4x32-10",
    seed,
    stream: "order:<epoch>",
    samples: train.length,
    // Samples that are read together: they are shuffled among themselves, and the groups.
    groups: train.groups?.length ?? 0,
    batchSize,
    batchesPerEpoch,
    sha256OfEpoch0: createHash("sha256").update(first).digest("hex"),
  }
}
