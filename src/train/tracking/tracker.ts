/** @file What a tracker of runs is, and what it is told of the run. */

export interface RunInfo {
  /** The run's folder. */
  readonly dir: string
  readonly name: string
  readonly project: string
  /** Of W&B: the team or user that the project is of; by default the key's own. */
  readonly entity?: string
  /** Plain data; trackers that show configs get it as JSON. */
  readonly config: object
  /** The step whose checkpoint the run goes on from: what was logged of later steps is dropped. Absent for a new run. */
  readonly resumedAt?: number
}

/** Names to numbers, such as `{ "train/loss": 2.3, lr: 1e-3 }`. */
export type Values = Readonly<Record<string, number>>

export interface Tracker {
  /** Steps go up by at least 1 from call to call. Returns at once; nothing is awaited. */
  log(step: number, values: Values): void
  /** What was logged is in the local files and these are on the disk: to be awaited before a checkpoint is saved.
   * Errors: E_DISK_FULL, E_IO, E_OUTPUT. */
  flush(): Promise<void>
  /** Finish, within 10 s whatever a server does; `exitCode` is what the run ends with. Errors as of `flush`. */
  close(exitCode?: number): Promise<void>
}

/** What every tracker is opened with: the run, what tells its lines from those of others, and the world around. */
export interface Opening {
  readonly run: RunInfo
  /** 16 hexadecimal digits, the same after a resume. */
  readonly id: string
  /** When the run was first started, in seconds since 1970. */
  readonly started: number
  readonly env: Readonly<Record<string, string | undefined>>
  /** Gets one line about what is odd but stops nothing. */
  readonly warn: (message: string) => void
}

export type OpenTracker = (opening: Opening) => Promise<Tracker>

/** Seconds since 1970, to the millisecond. */
export const now = (): number => Date.now() / 1000

/** Whether a value read from a file is such a time; year 5138 ends what dates are made of. */
export const isTime = (value: unknown): value is number => typeof value === "number" && value >= 0 && value < 1e11
