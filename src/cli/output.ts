/** @file What the commands share: options, where text goes, progress, and how an error ends the process. */
import { styleText } from "node:util"
import { type Command, Option } from "commander"
import { fail, PrismaError } from "../errors.ts"
import { loadPretrained, type LoadedViT } from "../hub/load-pretrained.ts"
import { DEVICES, type Device } from "../runtime/devices.ts"

/** Options of every command that loads a model. */
export interface ModelOptions {
  readonly revision?: string
  readonly cacheDir?: string
  readonly allowPickle?: boolean
  readonly device: Device
  readonly threads?: number
  readonly imageSize?: number
  readonly format: "human" | "json"
}

/** A whole number of at least 1, for commander. */
export function positiveInt(text: string): number {
  const n = Number(text)
  return Number.isInteger(n) && n >= 1 ? n : fail("E_USAGE", `"${text}" is not a whole number of at least 1`)
}

const withFormat = (command: Command): Command =>
  command
    .addOption(new Option("--format <format>", "how results are printed").choices(["human", "json"]).default("human"))
    .addOption(new Option("--json", "short for --format json").implies({ format: "json" }))

export const withModel = (command: Command): Command =>
  withFormat(command)
    .option("--revision <name>", "branch, tag or commit of a repo (main)")
    .option("--cache-dir <dir>", "the Hub cache to look in")
    .option("--allow-pickle", "read PyTorch pickles where there is no safetensors; nothing in them is run")
    .addOption(new Option("--device <name>", "execution provider").choices(DEVICES).default("cpu"))
    .option("--threads <n>", "threads inside one operator", positiveInt)
    .option("--image-size <pixels>", "build for another image size", positiveInt)

/** Load with a command's options; what is odd about the checkpoint goes to stderr. */
export async function loadModel(name: string, options: ModelOptions): Promise<LoadedViT> {
  const model = await loadPretrained(name, options)
  for (const warning of model.warnings) note(`warning: ${warning}`)
  return model
}

/** Data, to stdout. */
export const print = (text: string): void => void process.stdout.write(`${text}\n`)
export const printJson = (value: unknown): void => print(JSON.stringify(value, undefined, 2))
/** Anything else, to stderr. */
export const note = (text: string): void => void process.stderr.write(`${text}\n`)

/** Colours only where a person looks. */
export const style = (format: Parameters<typeof styleText>[0], text: string): string =>
  process.stdout.isTTY && !process.env["NO_COLOR"] ? styleText(format, text) : text

export function bytes(n: number): string {
  const units = ["B", "kB", "MB", "GB", "TB"]
  const power = n < 1000 ? 0 : Math.min(units.length - 1, Math.floor(Math.log10(n) / 3))
  return `${power ? (n / 1000 ** power).toPrecision(3) : n} ${units[power]}`
}

/** Columns, each as wide as its widest cell. */
export function table(rows: readonly (readonly string[])[], gap = "  "): string {
  const widths = (rows[0] ?? []).map((_, i) => Math.max(...rows.map((row) => row[i]!.length)))
  return rows
    .map((row) => row.map((cell, i) => (i === row.length - 1 ? cell : cell.padEnd(widths[i]!))).join(gap))
    .join("\n")
}

export interface Progress {
  update(done: number): void
  stop(): void
}

/** A bar on stderr, where that is a terminal. */
export async function progress(label: string, total: number): Promise<Progress> {
  if (!process.stderr.isTTY || total < 2) return { update() {}, stop() {} }
  const { SingleBar, Presets } = await import("cli-progress")
  const format = `${label} {bar} {value}/{total}  {duration_formatted}  left {eta_formatted}`
  const bar = new SingleBar(
    { format, stream: process.stderr, hideCursor: true, clearOnComplete: true },
    Presets.shades_classic,
  )
  bar.start(total, 0)
  return { update: (done) => bar.update(done), stop: () => bar.stop() }
}

/** Print an error as one line (a JSON object with --format json) and return the exit code. Our own faults keep their stack. */
export function report(error: unknown, json: boolean): number {
  if (error instanceof PrismaError) {
    note(json ? JSON.stringify(error) : `vit-prisma: ${error.message} [${error.code}]`)
    return error.exitCode
  }
  note(error instanceof Error ? (error.stack ?? error.message) : String(error))
  return 70
}
