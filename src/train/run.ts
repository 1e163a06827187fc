/** @file A training run: a config and its data become a folder with checkpoints, logs, curves and a model. */
import { join } from "node:path"
import { fail, PrismaError } from "../errors.ts"
import { initOptions, modelConfig, type GlobalConfig } from "../configs/index.ts"
import type { Dataset, NamedDataset, Splits } from "../datasets/dataset.ts"
import { batches, type Augmentation, type Batch } from "../datasets/loader.ts"
import { makeFolder, writeFileAtomic } from "../files/atomic.ts"
import { initialise } from "../model/init.ts"
import { Random } from "../tensor/random.ts"
import type { Runtime } from "../runtime/runtime.ts"
import { version } from "../version.ts"
import { checkSame, latestCheckpoint, pruneCheckpoints, saveCheckpoint, type TrainingState } from "./checkpoint.ts"
import { evaluator, type Evaluation } from "./evaluate.ts"
import { flatten } from "./layout.ts"
import { TRAINING_FILE, writeMouse } from "./mouse.ts"
import { trainedModel, type Task } from "./objective.ts"
import { learningRate, type ScheduleOptions } from "./schedule.ts"
import { trainingStep, type StepOptions } from "./step.ts"
import { stepper } from "./stepper.ts"
import { openTrackers } from "./tracking/index.ts"
import { START, train, type Plan } from "./trainer.ts"

export interface RunOptions {
  /** The run's folder. */
  readonly out: string
  /** Go on from the newest whole checkpoint in it; from the start where there is none. */
  readonly resume?: boolean
  readonly runtime: Runtime
  /** Part of what must be the same on resuming: sums are made in another order with other threads. */
  readonly threads?: number
  /** Threads that decode images. */
  readonly workers?: number
  /** Stop after the step that is being made, save, and end with "interrupted". */
  readonly signal?: AbortSignal
  readonly warn?: (message: string) => void
  /** Told of each step and of each evaluation. */
  readonly onStep?: (step: RunStep) => void
}

export interface RunStep {
  readonly step: number
  readonly steps: number
  readonly loss: number
  readonly images: number
  /** Images in this step. */
  readonly batch: number
  readonly evaluation?: Readonly<Record<string, number>>
}

export interface RunResult {
  /** "finished", "early" (no better on the validation set) or "interrupted". */
  readonly ended: "finished" | "early" | "interrupted"
  readonly step: number
  readonly images: number
  readonly seconds: number
  readonly parameters: number
  /** Of the model as it is at the end, on the test set; absent where the run was interrupted. */
  readonly test?: Evaluation
}

/** What a config says of the objective and of a step. */
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
  schedule: t.scheduler_type,
  lr: t.lr,
  minLr: t.min_lr,
  warmupSteps: t.warmup_steps,
  stepSize: t.scheduler_step,
  gamma: t.scheduler_gamma,
  totalSteps: t.total_steps ?? steps,
  startsAtZero: variant === "seed-exact",
})

/** Some samples of a dataset. */
function subset(from: Dataset, indices: Uint32Array): Dataset {
  return { length: indices.length, at: (i) => from.at(indices[i]!) }
}

/** `count` of a dataset's samples, drawn by the data's seed; all of them where none is said. */
function sampled(from: Dataset, count: number | null, { data }: GlobalConfig): Dataset {
  if (count === null || count >= from.length) return from
  return subset(from, new Random(data.seed, "test").permutation(from.length).slice(0, count))
}

/** The training set, and what validation takes of it where the dataset brings none. */
function divided(
  { train, val }: Splits,
  { training, data }: GlobalConfig,
): { train: Dataset; val: Dataset | undefined } {
  if (val || !training.validation_split) return { train, val }
  const order = new Random(data.seed, "validation").permutation(train.length)
  const held = Math.round(train.length * training.validation_split)
  if (!held) return { train, val: undefined }
  return { train: subset(train, order.slice(held)), val: subset(train, order.slice(0, held)) }
}

/**
 * Train the model that `config` means on `data` and write all of it into `options.out`: training.json, metrics.jsonl,
 * checkpoints, curves.svg and at the end the model, which `loadPretrained` takes (docs/mice-format.md).
 * Errors: E_CONFIG, E_OUTPUT and E_DISK_FULL before the first step; E_CHECKPOINT_*; E_TRAIN_DIVERGED.
 */
export async function trainRun(config: GlobalConfig, data: Splits, options: RunOptions): Promise<RunResult> {
  const { out, runtime, signal, warn = (m) => process.emitWarning(m), onStep = () => {} } = options
  const { training, saving, logging } = config
  const model = modelConfig(config)
  const parts = divided(data, config)
  const batchSize = training.batch_size === -1 ? parts.train.length : training.batch_size
  if (batchSize > parts.train.length) {
    fail(
      "E_CONFIG",
      `training.batch_size is ${batchSize}, the training set has ${parts.train.length} samples; take at most as many`,
    )
  }
  const batchesPerEpoch = Math.floor(parts.train.length / batchSize)
  const { accumulation } = training
  const steps = Math.min(
    training.max_steps ?? Infinity,
    Math.floor(batchesPerEpoch / accumulation) * training.num_epochs,
  )
  const first = await parts.train.at(0)
  const trained = trainedModel(model, taskOf(config, first.image.dtype))
  const own = stepOptions(config)
  const step = trainingStep(trained.layout, (flat) => trained.objective(flat, "training"), own)

  const checkpoints = join(out, saving.save_dir)
  await makeFolder(checkpoints)
  const fingerprints = fingerprintsOf(config, data, options)
  const saved = options.resume ? await latestCheckpoint(checkpoints, warn) : undefined
  if (saved) checkSame(saved, fingerprints)
  await writeFileAtomic(join(out, TRAINING_FILE), `${JSON.stringify(config, undefined, 2)}\n`)
  const w = saved ? {} : { w: flatten(trained.layout, initialise(model, initOptions(config))) }
  const state = stepper(runtime, step, own, { ...w, ...saved?.vectors })
  const evaluate = evaluator(runtime, trained)
  const tracker = await openTrackers(logging.track, {
    dir: out,
    name: config.saving.run_id ?? config.data.name,
    project: logging.wandb_project_name ?? "vit-prisma",
    config,
    ...(saved && { resumedAt: saved.position.step }),
  })

  const schedule = scheduleOf(config, steps)
  const { seed } = training
  const plan: Plan = {
    stepper: state,
    batchesPerEpoch,
    accumulation,
    steps,
    lr: (t) => learningRate(schedule, t),
    async *batches(epoch, start) {
      const opened = batches(parts.train, {
        batchSize,
        seed,
        epoch,
        startBatch: start,
        workers: options.workers ?? 0,
        ...(config.data.augment && { augment: config.data.augment as readonly Augmentation[] }),
      })
      let n = start
      for await (const batch of opened) {
        const masks = trained.masks("training", batch.indices.length, seed, `mask:${epoch}:${n++}`)
        yield { feeds: { ...fedOf(config, batch), ...masks }, indices: batch.indices }
      }
    },
  }

  const began = performance.now() - 1000 * (saved?.seconds ?? 0)
  const seconds = () => (performance.now() - began) / 1000
  let { position, best, waited }: Pick<TrainingState, "position" | "best" | "waited"> = saved ?? {
    position: START,
    best: null,
    waited: 0,
  }
  const evaluated = () => state.vectors["ema"] ?? state.vectors["w"]!
  const { classes } = data.train
  const writeModel = (folder: string, flat: Float32Array) => writeMouse(folder, config, trained.layout, flat, classes)
  const saves = new Set<Promise<unknown>>()
  let failed: unknown
  const save = async () => {
    await tracker.flush()
    while (saves.size >= 2) await Promise.race(saves)
    const now: TrainingState = { position, fingerprints, best, waited, seconds: seconds() }
    const saving = saveCheckpoint(checkpoints, now, state.vectors, writeModel)
      .then(() => pruned(config, checkpoints))
      .catch((error: unknown) => (failed ??= error))
      .finally(() => saves.delete(saving))
    saves.add(saving)
  }
  const settle = async () => {
    await Promise.all(saves)
    if (failed) throw failed
  }

  let ended: RunResult["ended"] = "finished"
  const every = training.eval_frequency ?? Math.floor(batchesPerEpoch / accumulation)
  try {
    // The first checkpoint shows that the folder can be written before anything is trained.
    if (!saved && saving.save_checkpoints) {
      await save()
      await settle()
    }
    for await (const event of train(plan, position)) {
      ;({ position } = event)
      const at = position.step
      const logged: Record<string, number> = {}
      if (at % logging.log_frequency === 0 || at === steps)
        Object.assign(logged, reportOf(event.report, event.lr, position.images, batchSize))
      const looks = at % every === 0 || at === steps
      let found: Evaluation | undefined
      if (looks && parts.val) {
        found = await evaluate(parts.val, config, evaluated())
        Object.assign(logged, named("val", found))
        const better = best === null || score(found) > best
        best = better ? score(found) : best
        waited = better ? 0 : waited + 1
      }
      if (Object.keys(logged).length) tracker.log(at, logged)
      onStep({
        step: at,
        steps,
        loss: event.report["loss"]!,
        images: position.images,
        batch: batchSize * accumulation,
        ...(found && { evaluation: named("val", found) }),
      })
      const early = training.early_stopping && waited >= training.early_stopping_patience
      const stop = early || signal?.aborted || at === steps
      if (stop || (saving.save_checkpoints && savesAt(config, at))) await save()
      if (failed) throw failed
      if (!stop) continue
      ended = signal?.aborted ? "interrupted" : early ? "early" : "finished"
      break
    }
    await settle()
    const result = {
      ended,
      step: position.step,
      images: position.images,
      seconds: seconds(),
      parameters: trained.layout.size,
    }
    if (ended === "interrupted") return result
    const tested = sampled(data.test, training.test_samples, config)
    const test = await evaluate(tested, config, evaluated())
    await writeModel(out, evaluated())
    const summary = { ...result, test, testSamples: tested.length, seed, versions: { "vit-prisma": version }, data: dataFingerprints(data) }
    await writeFileAtomic(join(out, "result.json"), `${JSON.stringify(summary, undefined, 2)}\n`)
    return { ...result, test }
  } catch (error) {
    await Promise.allSettled(saves)
    if (error instanceof PrismaError && error.code === "E_TRAIN_DIVERGED") {
      await writeFileAtomic(
        join(out, "diverged.json"),
        `${JSON.stringify({ message: error.message, ...(error.cause as object) }, undefined, 2)}\n`,
      )
    }
    throw error
  } finally {
    await tracker.close(ended === "interrupted" ? 130 : 0)
  }
}

/** Higher is better. */
const score = ({ accuracy, loss }: Evaluation): number => accuracy ?? -loss

const named = (part: string, values: Evaluation): Record<string, number> =>
  Object.fromEntries(Object.entries(values).map(([name, value]) => [`${part}/${name}`, value as number]))

function reportOf(report: Readonly<Record<string, number>>, lr: number, images: number, batchSize: number) {
  const { loss, gradNorm, correct } = report
  return {
    "train/loss": loss!,
    ...(correct !== undefined && { "train/accuracy": correct / batchSize }),
    "train/grad_norm": gradNorm!,
    lr,
    images,
  }
}

function savesAt({ saving }: GlobalConfig, step: number): boolean {
  const logSpaced = saving.log_spaced && Number.isInteger(Math.log2(step))
  return step % saving.save_cp_frequency === 0 || logSpaced
}

async function pruned({ saving }: GlobalConfig, root: string): Promise<void> {
  if (saving.keep_last === null) return
  await pruneCheckpoints(root, saving.keep_last, (step) => saving.log_spaced && Number.isInteger(Math.log2(step)))
}

/** A batch as the objective's inputs. */
export function fedOf({ training }: GlobalConfig, { images, labels }: Batch) {
  return training.loss_fn_name.endsWith("Reconstruction") ? { images } : { images, labels }
}

const dataFingerprints = (data: Splits): Record<string, string> =>
  Object.fromEntries(
    (Object.entries(data) as [string, NamedDataset][]).map(([part, set]) => [`data.${part}`, set.fingerprint]),
  )

/** Where it is written to, how long it runs and how it is shown do not change what a run does next. */
const FREE = new Set(["saving", "logging"])
const LENGTH = new Set(["num_epochs", "max_steps", "test_samples", "device"])

function fingerprintsOf(config: GlobalConfig, data: Splits, { threads }: RunOptions): TrainingState["fingerprints"] {
  const fields = Object.entries(config).flatMap(([section, value]) =>
    FREE.has(section)
      ? []
      : typeof value === "object"
        ? Object.entries(value).flatMap(([k, v]) =>
            LENGTH.has(k) ? [] : [[`${section}.${k}`, JSON.stringify(v)] as const],
          )
        : [[section, JSON.stringify(value)] as const],
  )
  return { ...Object.fromEntries(fields), ...dataFingerprints(data), threads: threads ?? null, version }
}
