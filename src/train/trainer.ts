/** @file The training loop: batches in, one event out for each step. It knows no model and no dataset. */
import { fail, PrismaError } from "../errors.ts"
import type { Tensor } from "../tensor/tensor.ts"
import type { Report, Stepper } from "./stepper.ts"

/** How far a run is: with the config it decides everything that follows. */
export interface Position {
  /** Optimizer steps done. */
  readonly step: number
  readonly epoch: number
  /** Batches of this epoch that are done. */
  readonly batch: number
  /** Images seen. */
  readonly images: number
}

export const START: Position = { step: 0, epoch: 0, batch: 0, images: 0 }

export interface TrainedBatch {
  readonly feeds: Readonly<Record<string, Tensor>>
  /** Which samples these are. */
  readonly indices: Uint32Array
}

export interface Plan {
  readonly stepper: Stepper
  /** The batches of an epoch from number `start` on. */
  batches(epoch: number, start: number): AsyncIterable<TrainedBatch>
  readonly batchesPerEpoch: number
  /** Batches in one step. */
  readonly accumulation: number
  /** Steps of the whole run. */
  readonly steps: number
  /** The rate of step t = 0, 1, ... */
  lr(t: number): number
}

/** A step that was made. */
export interface Stepped {
  /** After it. */
  readonly position: Position
  readonly report: Report
  readonly lr: number
  readonly indices: readonly Uint32Array[]
}

/**
 * Train from `from` on; between two events nothing happens, and whoever listens may stop at any. Once `signal` is aborted
 * there are no more events; what was begun of a step is dropped. The batches of an epoch that do not make a whole step are
 * left out. Errors: E_CONFIG where an epoch makes none; E_TRAIN_DIVERGED for a loss or a gradient that is no number, with
 * the step and the samples; the weights are then those before that step.
 */
export async function* train(
  plan: Plan,
  from: Position = START,
  signal?: AbortSignal,
): AsyncGenerator<Stepped, void, void> {
  const { stepper, accumulation } = plan
  const usable = plan.batchesPerEpoch - (plan.batchesPerEpoch % accumulation)
  if (!usable) {
    const what = `${plan.batchesPerEpoch} batches in an epoch make no step of ${accumulation} batches`
    fail("E_CONFIG", `${what}; take fewer for a step or smaller ones`)
  }
  let position = from.batch < usable ? from : { ...from, epoch: from.epoch + 1, batch: 0 }
  while (position.step < plan.steps) {
    const gathered: TrainedBatch[] = []
    for await (const batch of plan.batches(position.epoch, position.batch)) {
      if (signal?.aborted) return
      gathered.push(batch)
      if (gathered.length < accumulation) continue
      const group = gathered.splice(0)
      const lr = plan.lr(position.step)
      const feeds = group.map((b) => b.feeds)
      const report = await stepper.step(feeds, lr, position.step + 1, signal).catch(ifInterrupted)
      if (!report) return
      const indices = group.map((b) => b.indices)
      checkFinite(report, position.step + 1, indices)
      const done = position.batch + accumulation
      position = {
        step: position.step + 1,
        epoch: position.epoch,
        batch: done,
        images: position.images + indices.reduce((n, i) => n + i.length, 0),
      }
      yield { position, report, lr, indices }
      if (signal?.aborted) return
      if (position.step >= plan.steps || done >= usable) break
    }
    position = { ...position, epoch: position.epoch + 1, batch: 0 }
  }
}

/** For what a signal stops: nothing in its place. */
export function ifInterrupted(error: unknown): undefined {
  if (!(error instanceof PrismaError && error.code === "E_INTERRUPTED")) throw error
}

function checkFinite(report: Report, step: number, indices: readonly Uint32Array[]): void {
  const bad = ["loss", "gradNorm"].find((name) => !Number.isFinite(report[name]))
  if (!bad) return
  const ids = indices.flatMap((i) => [...i])
  const shown = `${ids.slice(0, 8).join(", ")}${ids.length > 8 ? `, ... (${ids.length} in all)` : ""}`
  const what = `step ${step}: ${bad} is ${report[bad]}, expected a finite number; batch of samples ${shown}`
  fail("E_TRAIN_DIVERGED", `${what}; lower training.lr, clip gradients, or look at these samples`, {
    cause: { step, indices: ids },
  })
}
