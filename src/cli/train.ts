/** @file vit-prisma train and evaluate: a config or a model, and a dataset. */
import { resolve } from "node:path"
import { configByName, readConfig, setField, setFields, type GlobalConfig } from "../configs/index.ts"
import { fail } from "../errors.ts"
import { nodeRuntime } from "../runtime/node.ts"
import type { Device } from "../runtime/devices.ts"
import { openData } from "../train/data.ts"
import { refuseOtherRun, trainRun, type RunResult } from "../train/run.ts"
import { note, plain, print, printJson, rounded, table, warn } from "./output.ts"
import { trainingProgress, type TrainingProgress } from "./progress.ts"
import { stopOnSignals } from "./stopping.ts"

export interface TrainOptions {
  readonly out: string
  readonly set?: readonly string[]
  readonly data?: string
  readonly variant: GlobalConfig["variant"]
  readonly resume?: boolean
  readonly device?: Device
  readonly threads?: number
  readonly workers: number
  readonly track?: readonly string[]
  readonly format: "human" | "json"
}

/** A name of ours, or a file. */
async function configOf(name: string, options: TrainOptions): Promise<GlobalConfig> {
  const known = !/[./\\]/.test(name)
  let config = known ? configByName(name, options.variant) : await readConfig(name)
  const changes = (options.set ?? []).map((change) => {
    const at = change.indexOf("=")
    if (at < 1) fail("E_USAGE", `--set ${plain(change)}: expected field=value, as training.lr=1e-3`)
    return [change.slice(0, at), change.slice(at + 1)] as const
  })
  if (changes.length) config = setFields(config, changes)
  if (options.data !== undefined) config = setField(config, "data.path", resolve(options.data))
  if (options.device !== undefined) config = setField(config, "training.device", options.device)
  if (options.track?.length) config = setField(config, "logging.track", JSON.stringify(options.track))
  return config
}

export async function trainCommand(name: string, options: TrainOptions): Promise<void> {
  const config = await configOf(name, options)
  const { device } = config.training
  const { print_every } = config.logging
  const { threads, out, resume = false, workers } = options
  await refuseOtherRun(out, config, resume)
  // An accelerator is named, not found: its sums have other bits, by which the run could not be made again elsewhere.
  const runtime = nodeRuntime({ device: device === "auto" ? "cpu" : device, ...(threads && { threads }) })
  const data = await openData(config)

  const json = options.format === "json"
  const message = "stopping after this step; once more to stop at once"
  const stop = stopOnSignals(() => note(json ? JSON.stringify({ note: message }) : message))
  let bar: TrainingProgress | undefined
  try {
    let opening: Promise<void> | undefined
    const result = await trainRun(config, data, {
      out,
      resume,
      runtime,
      workers,
      signal: stop.signal,
      warn: (message) => warn(message, options),
      onStep: ({ step, steps, loss, batch, evaluation }) => {
        opening ??= trainingProgress({ total: steps, done: step - 1, batch, json }).then((b) => void (bar = b))
        bar?.update(step, loss)
        const printed = { ...(print_every && step % print_every === 0 && { "train/loss": loss }), ...evaluation }
        if (Object.keys(printed).length && !process.stderr.isTTY)
          note(json ? JSON.stringify({ step, ...printed }) : `step ${step}: ${shown(printed)}`)
      },
    })
    await opening
    bar?.stop()
    if (json) printJson(result)
    else print(table(rowsOf(result)))
    // A request that a server does not answer would keep the process.
    const code = stop.exitCode()
    if (result.ended === "interrupted" && code) process.stdout.write("", () => process.exit(code))
  } finally {
    bar?.stop()
    stop.release()
    await runtime.release()
  }
}

/** A result as rows of a table; what has parts, in a row for each. */
function rowsOf(result: RunResult): string[][] {
  const cell = (value: string | number) => (typeof value === "number" ? rounded(value) : value)
  const entries: [string, string | number | Values][] = Object.entries(result)
  return entries.flatMap(([key, value]) =>
    typeof value === "object" ? Object.entries(value).map(([k, v]) => [`${key} ${k}`, cell(v)]) : [[key, cell(value)]],
  )
}

type Values = Readonly<Record<string, number>>

const shown = (values: Values): string =>
  Object.entries(values)
    .map(([name, value]) => `${name} ${value.toPrecision(4)}`)
    .join(", ")
