/** @file vit-prisma train and evaluate: a config or a model, and a dataset. */
import { existsSync } from "node:fs"
import { join, resolve } from "node:path"
import { configByName, readConfig, setField, type GlobalConfig } from "../configs/index.ts"
import { fail } from "../errors.ts"
import { nodeRuntime } from "../runtime/node.ts"
import type { Device } from "../runtime/devices.ts"
import { openData } from "../train/data.ts"
import { trainRun } from "../train/run.ts"
import { note, plain, print, printJson, table } from "./output.ts"
import { trainingProgress } from "./progress.ts"

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
  for (const change of options.set ?? []) {
    const at = change.indexOf("=")
    if (at < 1) fail("E_USAGE", `--set ${plain(change)}: expected field=value, as training.lr=1e-3`)
    config = setField(config, change.slice(0, at), change.slice(at + 1))
  }
  if (options.data !== undefined) config = setField(config, "data.path", resolve(options.data))
  if (options.device !== undefined) config = setField(config, "training.device", options.device)
  if (options.track?.length) config = setField(config, "logging.track", JSON.stringify(options.track))
  return config
}

export async function trainCommand(name: string, options: TrainOptions): Promise<void> {
  const config = await configOf(name, options)
  const { device } = config.training
  const { threads, out, resume = false, workers } = options
  const runtime = nodeRuntime({ device: device === "auto" ? "cpu" : device, ...(threads && { threads }) })
  if (!resume && existsSync(join(out, "metrics.jsonl"))) {
    fail("E_OUTPUT", `${out}: holds a run; go on with it by --resume, or choose another folder`, { file: out })
  }
  const data = await openData(config)

  const stop = new AbortController()
  let signalled: NodeJS.Signals | undefined
  const interrupted = (signal: NodeJS.Signals) => {
    // A second one does not wait: what is on the disk is whole at any moment.
    if (signalled) process.exit(signal === "SIGINT" ? 130 : 143)
    signalled = signal
    note("stopping after this step; once more to stop at once")
    stop.abort()
  }
  const signals = ["SIGINT", "SIGTERM"] as const
  for (const signal of signals) process.on(signal, interrupted)
  let bar: Awaited<ReturnType<typeof trainingProgress>> | undefined
  try {
    let opening: Promise<void> | undefined
    const result = await trainRun(config, data, {
      out,
      resume,
      runtime,
      ...(threads && { threads }),
      workers,
      signal: stop.signal,
      warn: (message) => note(plain(message)),
      onStep: ({ step, steps, loss, batch, evaluation }) => {
        opening ??= trainingProgress({ total: steps, done: step - 1, batch, json: options.format === "json" }).then(
          (b) => {
            bar = b
          },
        )
        bar?.update(step, loss)
        if (evaluation && !process.stderr.isTTY) note(`step ${step}: ${shown(evaluation)}`)
      },
    })
    await opening
    bar?.stop()
    if (options.format === "json") printJson(result)
    else {
      const { test, ...rest } = result
      const rows = Object.entries({
        ...rest,
        ...(test && Object.fromEntries(Object.entries(test).map(([k, v]) => [`test ${k}`, v]))),
      })
      print(
        table(
          rows.map(([key, value]) => [
            key,
            typeof value === "number" ? String(Number(value.toPrecision(6))) : String(value),
          ]),
        ),
      )
    }
    if (result.ended === "interrupted") process.exitCode = signalled === "SIGTERM" ? 143 : 130
  } finally {
    for (const signal of signals) process.removeListener(signal, interrupted)
    await runtime.release()
  }
}

const shown = (values: Readonly<Record<string, number>>): string =>
  Object.entries(values)
    .map(([name, value]) => `${name} ${value.toPrecision(4)}`)
    .join(", ")
