/** @file Checkpoints of a run: folders that are complete or not there, and the newest that can be gone on from. */
import { readdir } from "node:fs/promises"
import { join } from "node:path"
import { fail, PrismaError } from "../errors.ts"
import { publishFolder, removeWhole, writeFileAtomic } from "../files/atomic.ts"
import { readJson } from "../files/json.ts"
import { checkManifest, writeManifest } from "../files/manifest.ts"
import { openSafetensors, readTensor, writeSafetensors } from "../files/safetensors-file.ts"
import { readError, systemCode } from "../files/system-errors.ts"
import type { PiecedTensor } from "../tensor/safetensors.ts"
import type { StoredTensor } from "../tensor/tensor.ts"
import { cut, type Layout, type Pieces } from "./layout.ts"
import { weightsOf, type Vectors } from "./stepper.ts"
import type { Position } from "./trainer.ts"
import { isRecord } from "../tensor/record.ts"

const FORMAT = "vit-prisma checkpoint 1"
const RULES = { limit: 2 ** 24, malformed: "E_CHECKPOINT_CORRUPT", tooLarge: "E_CHECKPOINT_CORRUPT" } as const

/** What a run goes on from. */
export interface TrainingState {
  readonly position: Position
  /** What must be the same where a run goes on: the config's fields, data, versions, threads; by name. */
  readonly fingerprints: Readonly<Record<string, string | number | null>>
  /** The best validation so far, and how many there were since. */
  readonly best: Best | null
  readonly waited: number
  /** The best score on what the seed's early stopping goes by. */
  readonly judged?: number
  /** Of training. */
  readonly seconds: number
  /** What the last step has to log, where a signal came before it was evaluated. */
  readonly pending: Readonly<Record<string, number>> | null
}

/** A validation, and the step after which it was. */
export interface Best {
  readonly step: number
  readonly loss: number
  readonly accuracy?: number
}

export interface Saved extends TrainingState {
  readonly folder: string
  readonly vectors: Readonly<Record<string, Float32Array>>
}

const nameOf = (step: number): string => `step-${String(step).padStart(8, "0")}`
const PATTERN = /^step-(\d{8,})$/

/**
 * Save one under `root` and return its folder: `model.safetensors` and what `model` adds, `optimizer.safetensors`,
 * `state.json`, and the manifest last. Errors: E_OUTPUT, E_DISK_FULL, E_IO, after which nothing of it is there.
 */
export async function saveCheckpoint(
  root: string,
  state: TrainingState,
  vectors: Vectors,
  writeModel: (folder: string, weights: Pieces) => Promise<void>,
): Promise<string> {
  const folder = join(root, nameOf(state.position.step))
  const whole = (pieces: Pieces): PiecedTensor => {
    return { dtype: "float32", shape: [pieces.reduce((n, piece) => n + piece.length, 0)], pieces }
  }
  await publishFolder(
    folder,
    async (temp) => {
      // The vector itself: what the model's file shows may be its moving average, in other shapes.
      const kept = new Map(Object.entries(vectors).map(([name, pieces]) => [name, whole(pieces)]))
      await writeSafetensors(join(temp, "optimizer.safetensors"), kept)
      await writeModel(temp, weightsOf(vectors))
      await writeFileAtomic(join(temp, "state.json"), `${JSON.stringify({ format: FORMAT, ...state }, undefined, 2)}\n`)
      await writeManifest(temp, { kind: "checkpoint", step: state.position.step })
    },
    { force: true },
  )
  return folder
}

/** The steps that have a folder, ascending. */
export async function checkpointSteps(root: string): Promise<number[]> {
  const absent = (e: unknown) => ["ENOENT", "ENOTDIR"].includes(systemCode(e) ?? "")
  const names = await readdir(root).catch((e: unknown) => (absent(e) ? [] : readError(e, root)))
  return names.flatMap((name) => (PATTERN.test(name) ? [Number(PATTERN.exec(name)![1])] : [])).sort((a, b) => a - b)
}

/**
 * The newest checkpoint that is whole; those that are not are told to `warn` and passed over. Undefined where there is
 * none at all. Error: E_CHECKPOINT_CORRUPT where there are some and none is whole.
 */
export async function latestCheckpoint(root: string, warn: (message: string) => void): Promise<Saved | undefined> {
  const steps = await checkpointSteps(root)
  for (const step of steps.toReversed()) {
    const folder = join(root, nameOf(step))
    try {
      return await readCheckpoint(folder)
    } catch (error) {
      if (!(error instanceof PrismaError)) throw error
      warn(`passed over ${folder}: ${error.message}`)
    }
  }
  if (!steps.length) return undefined
  return fail(
    "E_CHECKPOINT_CORRUPT",
    `${root}: none of ${steps.length} checkpoints is whole; start again without --resume`,
  )
}

/** Errors: E_CHECKPOINT_CORRUPT, E_INTEGRITY, those of reading files. */
export async function readCheckpoint(folder: string): Promise<Saved> {
  if (!(await checkManifest(folder))) {
    fail("E_CHECKPOINT_CORRUPT", `${folder}: has no manifest.json: it was not saved to its end`, { file: folder })
  }
  const file = join(folder, "state.json")
  const state = await readJson(file, RULES)
  if (!isState(state))
    fail("E_CHECKPOINT_CORRUPT", `${file}: is not the state of a run in format "${FORMAT}"`, { file })
  const { entries, stored } = await openSafetensors(join(folder, "optimizer.safetensors"))
  const vectors: [string, Float32Array][] = []
  for (const name of entries.keys()) vectors.push([name, await vectorOf(stored(name))])
  return { ...state, folder, vectors: Object.fromEntries(vectors) }
}

const isNumber = (value: unknown): value is number => typeof value === "number" && value >= 0

/** Numbers that JSON lacks are null in it. */
function isState(json: unknown): json is TrainingState {
  if (!isRecord(json) || json["format"] !== FORMAT) return false
  const { position, fingerprints, best, waited, seconds, pending } = json
  const parts = isRecord(position) ? ["step", "epoch", "batch", "images"].map((name) => position[name]) : []
  return (
    parts.length > 0 &&
    [...parts, waited].every((n) => Number.isSafeInteger(n) && isNumber(n)) &&
    isNumber(seconds) &&
    isRecord(fingerprints) &&
    (best === null || (isRecord(best) && isNumber(best["step"]) && isNumber(best["loss"]))) &&
    (pending === null || isRecord(pending))
  )
}

async function vectorOf(stored: StoredTensor): Promise<Float32Array> {
  const { dtype, data } = await readTensor(stored)
  if (dtype === "float32") return data as Float32Array
  return fail("E_CHECKPOINT_CORRUPT", `${stored.file}: expected float32, got ${dtype}`, { file: stored.file })
}

/** The vectors that a run of this layout goes on from. Error: E_CHECKPOINT_CORRUPT where one is not of its size. */
export function vectorsOf({ folder, vectors }: Saved, names: readonly string[], layout: Layout): Vectors {
  const pieces = (name: string): Pieces => {
    const { [name]: data = new Float32Array() } = vectors
    if (data.length === layout.size) return cut(layout, data)
    const what = `"${name}" has ${data.length} numbers, expected ${layout.size}`
    return fail("E_CHECKPOINT_CORRUPT", `${folder}/optimizer.safetensors: ${what}; resume from another`, {
      file: folder,
    })
  }
  return Object.fromEntries(names.map((name) => [name, pieces(name)]))
}

/** Of the checkpoints up to step `last` take away all but the newest `keep`, and those that `keeps` says. Later ones are
 * those that a resumed run has passed over: they do not count. */
export async function pruneCheckpoints(
  root: string,
  last: number,
  keep: number,
  keeps: (step: number) => boolean,
): Promise<void> {
  const steps = (await checkpointSteps(root)).filter((step) => step <= last)
  for (const step of steps.slice(0, Math.max(0, steps.length - keep))) {
    if (!keeps(step)) await removeWhole(join(root, nameOf(step)))
  }
}

/** Error: E_CHECKPOINT_MISMATCH with everything that differs. */
export function checkSame(saved: Saved, now: TrainingState["fingerprints"]): void {
  const names = [...new Set([...Object.keys(saved.fingerprints), ...Object.keys(now)])]
  const differ = names.filter((name) => saved.fingerprints[name] !== now[name])
  if (!differ.length) return
  const list = differ.map((name) => `${name} was ${saved.fingerprints[name] ?? "absent"}, is ${now[name] ?? "absent"}`)
  fail(
    "E_CHECKPOINT_MISMATCH",
    `${saved.folder} is of another run: ${list.join("; ")}; resume with the same, or use a new --out`,
  )
}
