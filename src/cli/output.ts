/** @file What the commands share: options, where text goes, progress, and how an error ends the process. */
import { stat } from "node:fs/promises"
import { styleText } from "node:util"
import { type Command, InvalidArgumentError, Option } from "commander"
import { fail, PrismaError, withoutSecrets } from "../errors.ts"
import { loadPretrained, type LoadedViT } from "../hub/load-pretrained.ts"
import { DEVICES, type Device } from "../runtime/devices.ts"
import { downloadProgress } from "./progress.ts"
import { stoppable } from "./stopping.ts"

/** Options of every command that loads a model. */
export interface ModelOptions {
  readonly revision?: string
  readonly cacheDir?: string
  readonly offline?: boolean
  readonly wait?: number
  readonly allowPickle?: boolean
  readonly device: Device
  readonly threads?: number
  readonly imageSize?: number
  readonly format: "human" | "json"
}

/** A whole number of at least 1, for commander. */
export function positiveInt(text: string): number {
  const n = Number(text)
  if (Number.isInteger(n) && n >= 1) return n
  throw new InvalidArgumentError("It must be a whole number of at least 1.")
}

/** Seconds as milliseconds, for commander. */
export const milliseconds = (text: string): number => 1000 * positiveInt(text)

/** A whole number from 0 on, for commander. */
export function wholeNumber(text: string): number {
  if (/^\d+$/.test(text) && Number.isSafeInteger(Number(text))) return Number(text)
  throw new InvalidArgumentError("It must be a whole number from 0 on.")
}

const FORMAT = (): Option =>
  new Option("--format <format>", "how results are printed").choices(["human", "json"]).default("human")

export const withFormat = (command: Command): Command =>
  command.addOption(FORMAT()).addOption(new Option("--json", "short for --format json").implies({ format: "json" }))

/** Where results can go into a file too: `--json results.json`; without a file, as `withFormat`. */
const withJsonFile = (command: Command): Command =>
  command
    .addOption(FORMAT())
    .addOption(
      new Option("--json [file]", "write the results to a file; short for --format json without one").argParser(
        jsonFile,
      ),
    )
    .hook("preAction", (_, ran) => {
      if (ran.opts()["json"] === true) ran.setOptionValue("format", "json")
    })

/** An image after a bare --json must not be taken for the file to write. */
function jsonFile(text: string): string {
  if (isJsonFile(text)) return text
  throw new InvalidArgumentError("Its file ends in .json; to print, put --json last or give --format json.")
}

const isJsonFile = (text: string): boolean => /\.json$/i.test(text)

/** Are errors to be JSON, also those that are found before the options are? */
export function asksForJson(args: readonly string[]): boolean {
  const options = args.includes("--") ? args.slice(0, args.indexOf("--")) : args
  return options.some(
    (arg, i) =>
      arg === "--format=json" ||
      (arg === "json" && options[i - 1] === "--format") ||
      (arg === "--json" && !isJsonFile(options[i + 1] ?? "")),
  )
}

export const withModel = (command: Command, { jsonFile: toFile = false } = {}): Command =>
  (toFile ? withJsonFile : withFormat)(command)
    .option("--revision <name>", "branch, tag or commit of a repo (main)")
    .option("--cache-dir <dir>", "the Hub cache to use")
    .option("--offline", "ask no server: a repo must be in the cache")
    .option("--wait <seconds>", "how long a busy Hub may ask to wait (120)", milliseconds)
    .option("--allow-pickle", "read PyTorch pickles where there is no safetensors; nothing in them is run")
    .addOption(new Option("--device <name>", "execution provider").choices(DEVICES).default("cpu"))
    .option("--threads <n>", "threads inside one operator", positiveInt)
    .option("--image-size <pixels>", "build for another image size", positiveInt)

/** Load with a command's options; what is odd about the checkpoint goes to stderr. */
export async function loadModel(name: string, options: ModelOptions): Promise<LoadedViT> {
  const bar = downloadProgress({ json: options.format === "json" })
  const onWait = (text: string) => warn(text, options)
  const model = await stoppable(
    (stop) => `${name}: stopped by ${stop}; what was downloaded is kept, the same command goes on`,
    (signal) => loadPretrained(name, { ...options, signal, onProgress: bar.update, onWait }).finally(bar.stop),
  )
  for (const warning of model.warnings) warn(warning, options)
  return model
}

/** Data, to stdout. No secret is in it, whatever names it has. */
export const print = (text: string): void => void process.stdout.write(`${withoutSecrets(text)}\n`)
export const printJson = (value: unknown): void => print(JSON.stringify(value, undefined, 2))

/** Text from a file, such as a tensor's name, on one line of a terminal that obeys control characters. */
export const plain = (text: string): string =>
  text.replace(/[\p{C}\p{Zl}\p{Zp}]/gu, (c) => `\\u{${c.codePointAt(0)!.toString(16)}}`)

/** Anything else, to stderr. */
export const note = (text: string): void => void process.stderr.write(`${withoutSecrets(text)}\n`)
/** What is told of the work; where results are JSON, as one object. */
export const tell = (text: string, { format }: Partial<Pick<ModelOptions, "format">>): void =>
  note(format === "json" ? JSON.stringify({ note: text }) : text)
/** What is odd but no error; with --format json, stderr holds one JSON object a line. */
export const warn = (text: string, { format }: Pick<ModelOptions, "format">): void =>
  note(format === "json" ? JSON.stringify({ warning: text }) : `warning: ${plain(text)}`)

/** Colours only where a person looks. */
export const style = (format: Parameters<typeof styleText>[0], text: string): string =>
  process.stdout.isTTY && !process.env["NO_COLOR"] ? styleText(format, text) : text

export function bytes(n: number): string {
  const units = ["B", "kB", "MB", "GB", "TB"]
  const power = n < 1000 ? 0 : Math.min(units.length - 1, Math.floor(Math.log10(n) / 3))
  return `${power ? (n / 1000 ** power).toPrecision(3) : n} ${units[power]}`
}

/** Six digits of what is measured, all of what is counted. */
export const rounded = (x: number): string => String(Number.isInteger(x) ? x : Number(x.toPrecision(6)))

/** "1 tensor", "2 tensors" */
export const counted = (n: number, what: string): string => `${n} ${what}${n === 1 ? "" : "s"}`

/** Columns, each as wide as its widest cell. */
export function table(cells: readonly (readonly string[])[], gap = "  "): string {
  const rows = cells.map((row) => row.map(plain))
  const widths = (rows[0] ?? []).map((_, i) => rows.reduce((widest, row) => Math.max(widest, row[i]!.length), 0))
  return rows
    .map((row) => row.map((cell, i) => (i === row.length - 1 ? cell : cell.padEnd(widths[i]!))).join(gap))
    .join("\n")
}

/** Refuse to replace a file that is being read, under whatever name: the model's own, for example. Error: E_OUTPUT. */
export async function refuseOverwriting(out: string, sources: readonly string[]): Promise<void> {
  const identity = (path: string) =>
    stat(path).then(
      ({ dev, ino }) => `${dev}:${ino}`,
      () => undefined,
    )
  const target = await identity(out)
  if (target === undefined) return
  for (const source of sources) {
    if ((await identity(source)) !== target) continue
    fail("E_OUTPUT", `${out}: is ${source}, which is read here; choose another name`, { file: out })
  }
}

/** Print an error as one line (a JSON object with --format json) and return the exit code. Our own faults keep their stack. */
export function report(error: unknown, json: boolean): number {
  if (error instanceof PrismaError) {
    note(json ? JSON.stringify(error) : `vit-prisma: ${plain(error.message)} [${error.code}]`)
    return error.exitCode
  }
  const said = error instanceof Error ? (error.stack ?? error.message) : String(error)
  note(json ? JSON.stringify({ code: "E_INTERNAL", message: said, retryable: false }) : said)
  return 70
}
