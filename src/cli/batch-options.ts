/** @file Options of commands over many jobs. */
import { positiveInt, wholeNumber, type withModel, type ModelOptions } from "./output.ts"

/** Seconds; 30 are what Kubernetes gives a whole pod. */
export const GRACE = 25

type Command = ReturnType<typeof withModel>

/** Options of every command over many jobs. */
export interface BatchOptions extends Pick<ModelOptions, "format"> {
  readonly jobs?: number
  readonly memory?: string
  readonly timeout?: number
  readonly grace?: number
  readonly retries?: number
  readonly queue?: string
  readonly cancel?: boolean
}

export const withJobs = (command: Command): Command =>
  command
    .option("--jobs <n>", "processes at a time; by default one a core, as far as memory goes", positiveInt)
    .option("--memory <bytes>", "what all of them may hold, as 8G; auto is 80 % of what is available", "auto")
    .option("--timeout <seconds>", "what one may take", positiveInt, 1800)
    .option("--grace <seconds>", "time to end after Ctrl-C or SIGTERM", wholeNumber, GRACE)

export const withBatch = (command: Command): Command =>
  withJobs(command)
    .option("--retries <n>", "attempts after one that crashed, hung or lost its connection", wholeNumber, 1)
    .option("--queue <url>", "have them done by workers at redis://host:6379 or postgres://user@host/database")
    .option("--cancel", "take what this command had put into the queue out of it")

/** A whole number of at least 0, for commander. */
