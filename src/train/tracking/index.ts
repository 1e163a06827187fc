/** @file Where a run's numbers go: the table of trackers, and the one that hands everything to those that were asked for. */
import { randomBytes } from "node:crypto"
import { join } from "node:path"
import type { GlobalConfig } from "../../configs/index.ts"
import { fail, nearest, PrismaError } from "../../errors.ts"
import { makeFolder, writeFileAtomic } from "../../files/atomic.ts"
import { readJson } from "../../files/json.ts"
import { quote } from "../../tensor/quote.ts"
import { openMetrics } from "./metrics.ts"
import { openTensorBoard } from "./tensorboard.ts"
import { isTime, now, type Opening, type OpenTracker, type RunInfo, type Tracker, type Values } from "./tracker.ts"
import { openTrackio } from "./trackio.ts"
import { openWandb } from "./wandb.ts"

export type { RunInfo, Tracker, Values } from "./tracker.ts"

/** In the order in which they are opened: the others read the log that `metrics` has brought in order. */
const TRACKERS = new Map<string, OpenTracker>([
  ["metrics", openMetrics],
  ["tensorboard", openTensorBoard],
  ["trackio", (opening) => openTrackio(opening)],
  ["wandb", (opening) => openWandb(opening)],
])

export const TRACKER_NAMES: readonly string[] = [...TRACKERS.keys()]

export interface TrackerOptions {
  readonly env?: Opening["env"]
  /** Gets one line about what is odd but stops nothing; by default it becomes a warning of the process. */
  readonly warn?: (message: string) => void
}

/** Error: E_USAGE for what is not a tracker. */
export function checkTrackers(names: readonly string[]): void {
  const unknown = names.find((name) => !TRACKERS.has(name))
  if (unknown !== undefined) {
    const [near] = nearest(unknown, TRACKER_NAMES, 1)
    fail(
      "E_USAGE",
      `no tracker is called ${quote(unknown)}; did you mean ${near}? There are ${TRACKER_NAMES.join(", ")}`,
    )
  }
}

/**
 * The trackers that a config asks for. The seed's `use_wandb` is W&B of the config's team; without a key a run of the
 * seed's config goes on, and `warn` is told.
 */
export function askedTrackers(
  { track, use_wandb, wandb_team_name }: GlobalConfig["logging"],
  { env = process.env, warn = (message) => process.emitWarning(message) }: TrackerOptions = {},
): { readonly names: readonly string[]; readonly entity?: string } {
  if (!use_wandb || track.includes("wandb")) return { names: track }
  if (!env["WANDB_API_KEY"]) {
    warn("logging.use_wandb is true and WANDB_API_KEY is not set: nothing is sent to W&B")
    return { names: track }
  }
  return { names: [...track, "wandb"], ...(wandb_team_name !== null && { entity: wandb_team_name }) }
}

/** Open the trackers `names` and "metrics", which is always there, for a run. Errors: E_USAGE for what is not a tracker or
 * not set up; E_OUTPUT where a new run's folder holds a log; E_DISK_FULL, E_IO. */
export async function openTrackers(
  names: readonly string[],
  run: RunInfo,
  { env = process.env, warn = (message) => process.emitWarning(message) }: TrackerOptions = {},
): Promise<Tracker> {
  checkTrackers(names)
  await makeFolder(run.dir)
  const opening = { run, ...(await identity(run)), env, warn }
  const opened: Tracker[] = []
  try {
    for (const [name, open] of TRACKERS) {
      if (name === "metrics" || names.includes(name)) opened.push(await open(opening))
    }
  } catch (error) {
    await closeAll(opened, 1).catch(() => {})
    throw error
  }
  return all(opened, run.resumedAt ?? -1)
}

/** Hands everything on, after a look at it. */
function all(trackers: readonly Tracker[], last: number): Tracker {
  let closed: Promise<void> | undefined
  return {
    log(step, values) {
      checkStep(step, last)
      checkValues(values)
      last = step
      for (const tracker of trackers) tracker.log(step, values)
    },
    async flush() {
      await Promise.all(trackers.map((tracker) => tracker.flush()))
    },
    close: (exitCode = 0) => (closed ??= closeAll(trackers, exitCode)),
  }
}

async function closeAll(trackers: readonly Tracker[], exitCode: number): Promise<void> {
  const results = await Promise.allSettled(trackers.map((tracker) => tracker.close(exitCode)))
  const failed = results.find((result) => result.status === "rejected")
  if (failed) throw failed.reason
}

function checkStep(step: number, last: number): void {
  if (Number.isSafeInteger(step) && step > last) return
  fail("E_INPUT", `step ${step} logged after step ${last}; expected a whole number above it: log each step once`)
}

/** Names that trackers use for themselves; W&B has those that begin with an underscore. */
const RESERVED = /^(?:step|time|timestamp|project|run|metrics|_.*|)$/s

function checkValues(values: Values): void {
  for (const [name, value] of Object.entries(values)) {
    if (RESERVED.test(name)) fail("E_INPUT", `metric ${quote(name)}: the name is reserved; choose another`)
    if (typeof value !== "number") fail("E_INPUT", `metric ${quote(name)}: is a ${typeof value}; expected a number`)
  }
}

const IDENTITY = "tracking.json"
const RULES = { limit: 4096, malformed: "E_OUTPUT", tooLarge: "E_OUTPUT" } as const

/** What the trackers know the run by, made at its start and kept in its folder. */
async function identity({ dir, resumedAt }: RunInfo): Promise<Pick<Opening, "id" | "started">> {
  const path = join(dir, IDENTITY)
  const known = resumedAt === undefined ? undefined : await readIdentity(path)
  if (known) return known
  const made = { id: randomBytes(8).toString("hex"), started: now() }
  await writeFileAtomic(path, `${JSON.stringify(made)}\n`)
  return made
}

async function readIdentity(path: string): Promise<Pick<Opening, "id" | "started"> | undefined> {
  const value = await readJson(path, RULES).catch((error: unknown) => {
    // Absent or no JSON: what knew the run by it sees a new one.
    if (error instanceof PrismaError && error.code !== "E_IO") return undefined
    throw error
  })
  const { id, started } = (value ?? {}) as Readonly<Record<string, unknown>>
  if (typeof id !== "string" || !/^[0-9a-f]{16}$/.test(id) || !isTime(started)) return undefined
  return { id, started }
}
