/** @file A training run: a config and its data become a folder with checkpoints, logs, curves and a model. docs/training.md */
import { stat } from "node:fs/promises"
import { availableParallelism, cpus } from "node:os"
import { join } from "node:path"
import { setTimeout as wait } from "node:timers/promises"
import { initOptions, type GlobalConfig } from "../configs/index.ts"
import type { NamedDataset, Splits } from "../datasets/dataset.ts"
import { saveSplit } from "../datasets/split.ts"
import { fail, PrismaError } from "../errors.ts"
import { claim, makeFolder, publishFolder, removeWhole, writeFileAtomic } from "../files/atomic.ts"
import { safeRelPath } from "../files/paths.ts"
import { initialise } from "../model/init.ts"
import type { Runtime } from "../runtime/runtime.ts"
import { version } from "../version.ts"
import { background } from "./background.ts"
import * as checkpoint from "./checkpoint.ts"
import type { Best, TrainingState } from "./checkpoint.ts"
import { evaluator, type Evaluation } from "./evaluate.ts"
import { dataFingerprints, fingerprintsOf } from "./fingerprints.ts"
import { flatten, type Pieces } from "./layout.ts"
import { isLogSpaced, loopOf, named, savesAt, score, valuesOf } from "./loop.ts"
import { TRAINING_FILE, writeMouse } from "./mouse.ts"
import { orderRecipe, planRun, type RunPlan } from "./plan.ts"
import { stepper, weightsOf } from "./stepper.ts"
import { writeCurves } from "./tracking/curves.ts"
import { askedTrackers, checkTrackers, openTrackers, type Values } from "./tracking/index.ts"
import { METRICS } from "./tracking/metrics.ts"
import { ifInterrupted, START, train } from "./trainer.ts"

export interface RunOptions {
  /** The run's folder. */
  readonly out: string
  /** Go on from the newest whole checkpoint in it; from the start where there is none. */
  readonly resume?: boolean
  /** Its threads must be the same on resuming: sums are made in another order with others. */
  readonly runtime: Runtime
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
  /** Empty where the step was not followed by one. */
  readonly evaluation: Values
}

export interface RunResult {
  /** "finished", "early" (no better on the validation set) or "interrupted". */
  readonly ended: "finished" | "early" | "interrupted"
  readonly step: number
  readonly images: number
  readonly seconds: number
  readonly parameters: number
  /** The best validation, whose weights are in `best`; absent where nothing is validated on. */
  readonly best?: Best
  /** Of the model as it is at the end, on the test set; absent where the run was interrupted. */
  readonly test?: Evaluation
}

/** Error: E_OUTPUT where a run that is not resumed would write over another one. */
export async function refuseOtherRun(out: string, { saving }: GlobalConfig, resume: boolean): Promise<void> {
  if (resume) return
  const log = await stat(join(out, METRICS)).catch(() => undefined)
  if (!log?.size && !(await checkpoint.checkpointSteps(checkpointsIn(out, saving))).length) return
  fail("E_OUTPUT", `${out}: holds a run; go on with it by --resume, or choose another folder`, { file: out })
}

const checkpointsIn = (out: string, { save_dir }: GlobalConfig["saving"]): string =>
  join(out, safeRelPath(save_dir, "saving.save_dir"))

/**
 * Train the model that `config` means on `data` and write all of it into `options.out` (docs/training.md): training.json,
 * metrics.jsonl, checkpoints, curves.svg, best and at the end the model, which `loadPretrained` takes.
 * Errors: E_CONFIG, E_USAGE, E_OUTPUT and those of the data before the folder is touched; E_LOCKED where another process
 * trains into it; E_OUTPUT and E_DISK_FULL before the first step; E_CHECKPOINT_*; E_TRAIN_DIVERGED.
 */
export async function trainRun(config: GlobalConfig, data: Splits, options: RunOptions): Promise<RunResult> {
  const { out, resume = false } = options
  checkTrackers(config.logging.track)
  const plan = await planRun(config, data)
  await refuseOtherRun(out, plan.config, resume)
  const release = await claim(join(out, "run"))
  try {
    return await trainInto(plan, data, options)
  } finally {
    await release()
  }
}

/** Checkpoints and best models under way at once, which hold their weights: one is written, one waits. */
const IN_FLIGHT = 2

/** Once a run is interrupted, servers that are told of it have so many ms; the local files are whole before. */
const FAREWELL = 3000

const DIVERGED = "diverged.json"

const FRESH: Pick<TrainingState, "position" | "best" | "waited" | "judged" | "pending"> = {
  position: START,
  best: null,
  waited: 0,
  pending: null,
}

const writeJson = (path: string, value: unknown): Promise<void> =>
  writeFileAtomic(path, `${JSON.stringify(value, undefined, 2)}\n`)

async function trainInto(plan: RunPlan, data: Splits, options: RunOptions): Promise<RunResult> {
  const { out, runtime, signal, warn = (m) => process.emitWarning(m), onStep = () => {} } = options
  const { config, model, trained, steps, batchSize } = plan
  const { training, saving, logging } = config
  const { names, ...wandb } = askedTrackers(logging, { warn })
  const checkpoints = checkpointsIn(out, saving)
  const fingerprints = fingerprintsOf(config, data, runtime.threads)
  const saved = options.resume ? await checkpoint.latestCheckpoint(checkpoints, warn) : undefined
  if (saved) checkpoint.checkSame(saved, fingerprints)
  const start = saved
    ? checkpoint.vectorsOf(saved, plan.step.carried, trained.layout)
    : { w: flatten(trained.layout, initialise(model, initOptions(config))) }
  const state = stepper(runtime, plan.step, plan.options, start)
  const evaluated = evaluator(runtime, trained)

  await makeFolder(checkpoints)
  await writeJson(join(out, TRAINING_FILE), config)
  if (plan.split) await saveSplit(join(out, "splits.json"), data.train, plan.split)
  await removeWhole(join(out, DIVERGED))
  let { position, best, waited, judged, pending } = saved ?? FRESH
  const about = {
    dir: out,
    name: saving.run_id ?? config.data.name,
    project: logging.wandb_project_name ?? "vit-prisma",
    ...wandb,
    config,
    // A step that was not evaluated is not logged either.
    ...(saved && { resumedAt: position.step - (pending ? 1 : 0) }),
  }
  const tracker = await openTrackers(names, about, { warn })

  const begun = performance.now() - 1000 * (saved?.seconds ?? 0)
  const seconds = () => (performance.now() - begun) / 1000
  const { classes } = data.train
  const writeModel = (folder: string, weights: Pieces) => writeMouse(folder, config, trained.layout, weights, classes)
  const evaluate = (set: NamedDataset) =>
    state
      .borrow((vectors) => evaluated(set, config, weightsOf(vectors), signal))()
      .catch(ifInterrupted)
  const writes = background(IN_FLIGHT)
  let savedAt = saved?.position.step
  let landedAt = savedAt ?? 0
  const save = async () => {
    await tracker.flush()
    const about = { position, fingerprints, best, waited, pending, seconds: seconds() }
    const now: TrainingState = { ...about, ...(judged !== undefined && { judged }) }
    savedAt = position.step
    const written = state.borrow((vectors) => checkpoint.saveCheckpoint(checkpoints, now, vectors, writeModel))
    await writes.add(async () => {
      await written()
      landedAt = now.position.step
      if (saving.keep_last === null) return
      const keeps = (step: number) => isLogSpaced(config, step)
      await checkpoint.pruneCheckpoints(checkpoints, now.position.step, saving.keep_last, keeps)
    })
  }
  const saveBest = async () => {
    const written = state.borrow((vectors) =>
      publishFolder(join(out, "best"), (folder) => writeModel(folder, weightsOf(vectors)), { force: true }),
    )
    await writes.add(written)
  }

  const isEarly = () => training.early_stopping && waited >= training.early_stopping_patience
  /** What follows a step whose own values are given: validation and the log; and how the run ends, where it does. */
  const conclude = async (values: Values): Promise<RunResult["ended"] | undefined> => {
    const { step, images } = position
    let evaluation: Values = {}
    const sets = [plan.val, plan.judged].flatMap((set) => set ?? [])
    if (sets.length && (step % plan.every === 0 || step === steps)) {
      const all: Evaluation[] = []
      for (const set of sets) {
        const found = await evaluate(set)
        // Without it the step is not logged: that is done when the run goes on.
        pending = found ? null : values
        if (!found) return "interrupted"
        all.push(found)
      }
      const found = plan.val && all[0]
      const better = found !== undefined && score(found) > (best ? score(best) : -Infinity)
      const counted = plan.judged ? score(all.at(-1)!) : undefined
      waited = (counted === undefined ? better : counted > (judged ?? -Infinity)) ? 0 : waited + 1
      if (counted !== undefined) judged = Math.max(counted, judged ?? -Infinity)
      if (found) evaluation = named("val", found)
      if (better) best = { step, ...found }
      if (better) await saveBest()
    }
    const logged = { ...((step % logging.log_frequency === 0 || step === steps) && values), ...evaluation }
    if (Object.keys(logged).length) tracker.log(step, logged)
    const batch = batchSize * training.accumulation
    onStep({ step, steps, loss: values["train/loss"]!, images, batch, evaluation })
    if (signal?.aborted) return "interrupted"
    if (isEarly()) return "early"
    return step === steps ? "finished" : undefined
  }

  let ended: RunResult["ended"] | undefined
  try {
    // The first checkpoint shows that the folder can be written before anything is trained.
    if (!saved) await save()
    await writes.settle()
    if (pending) ended = await conclude(pending)
    else if (isEarly()) ended = "early"
    if (!ended) {
      for await (const event of train(loopOf(plan, state, options.workers), position, signal)) {
        ;({ position } = event)
        ended = await conclude(valuesOf(event, plan))
        if (saving.save_checkpoints && savesAt(config, position.step) && !ended) await save()
        // A kill loses what no whole checkpoint has: at most an interval, so the next step waits where it would be more.
        if (saving.save_checkpoints && position.step - landedAt >= saving.save_cp_frequency) await writes.settle()
        writes.check()
        if (ended) break
      }
    }
    ended ??= signal?.aborted ? "interrupted" : "finished"
    if (savedAt !== position.step) await save()
    await writes.settle()

    const test = ended === "interrupted" ? undefined : await evaluate(plan.test)
    if (!test) ended = "interrupted"
    const { step, images } = position
    const parameters = trained.layout.size
    const result = { ended, step, images, seconds: seconds(), parameters, ...(best && { best }), ...(test && { test }) }
    if (!test) return result
    await writeModel(out, weightsOf(state.vectors))
    await writeJson(join(out, "result.json"), { ...result, ...recordOf(plan, data, runtime.threads) })
    return result
  } catch (error) {
    ended = undefined
    await writes.settle().catch(() => {})
    if (error instanceof PrismaError && error.code === "E_TRAIN_DIVERGED") {
      const { message, cause } = error
      await writeJson(join(out, DIVERGED), { message, dataset: plan.train.name, ...(cause as object) })
    }
    throw error
  } finally {
    const closed = tracker.close(ended === "interrupted" ? 130 : ended ? 0 : 1)
    await (ended === "interrupted" ? Promise.race([closed, wait(FAREWELL, undefined, { ref: false })]) : closed)
    await writeCurves(out).catch((error: unknown) => warn(`curves.svg was not written: ${String(error)}`))
  }
}

/** What the result's file says besides: all that it takes to make the run again. */
const recordOf = (plan: RunPlan, data: Splits, threads: number | undefined): object => ({
  finished: new Date().toISOString(),
  testSamples: plan.test.length,
  seed: plan.config.training.seed,
  threads: threads ?? null,
  device: plan.config.training.device,
  machine: {
    cpu: cpus()[0]?.model.trim() ?? null,
    cores: availableParallelism(),
    system: `${process.platform} ${process.arch}`,
  },
  versions: { "vit-prisma": version, node: process.versions.node },
  data: dataFingerprints(data),
  order: orderRecipe(plan),
})
