#!/usr/bin/env node
/** @file The command line: data on stdout, everything else on stderr, exit codes by kind of error (docs/errors.md). */
import { Command, CommanderError, InvalidArgumentError, Option } from "commander"
import { PrismaError } from "../errors.ts"
import { version } from "../version.ts"
import { DEVICES } from "../runtime/devices.ts"
import { positiveInt, report, withFormat, withModel } from "./output.ts"

/** Comma-separated names, but for commas inside braces; the option may be repeated. */
const names = (text: string, before: readonly string[] = []): string[] => [
  ...before,
  ...text.split(/,(?![^{]*\})/).filter(Boolean),
]
const collect = (text: string, before: readonly string[] = []): string[] => [...before, text]

function positive(text: string): number {
  const n = Number(text)
  if (n > 0 && Number.isFinite(n)) return n
  throw new InvalidArgumentError("It must be a number above 0.")
}

const program = new Command("vit-prisma")
  .description("Vision transformers as hookable graphs: read, replace, edit and export every activation.")
  .version(version)
  .exitOverride()
  .configureOutput({ outputError: () => {} })

withModel(program.command("info"))
  .description("what a model, a .safetensors file or an .onnx file holds")
  .argument("<model>", "folder, repo id or file")
  .action(async (model, options) => (await import("./info.ts")).info(model, options))

withModel(program.command("run"))
  .description("predictions for images")
  .argument("<model>", "folder or repo id")
  .argument("<images...>", "image files")
  .option("--top <n>", "classes to show", positiveInt, 5)
  .option("--batch <n>", "images at once", positiveInt, 8)
  .addOption(
    new Option("--on-bad-image <what>", "an image that cannot be decoded").choices(["fail", "skip"]).default("fail"),
  )
  .action(async (model, images, options) => (await import("./run.ts")).run(model, images, options))

withModel(program.command("activations"))
  .description("write hooks and outputs of a run to a safetensors file")
  .argument("<model>", "folder or repo id")
  .argument("[images...]", "image files")
  .option("--input <file>", "safetensors with pixel_values [b, c, h, w] and input_ids [n, t] instead of images")
  .requiredOption("--out <file>", "safetensors file to write")
  .option("--hooks <globs>", "hooks to write, comma-separated; * stands for anything", names)
  .option("--patch <hook=file>", "replace a hook by the tensor of its name in a safetensors file; repeatable", collect)
  .option("--grad <metric>", 'write grad.<hook> of every hook asked for: d metric / d hook; "logits[:, 1]" is summed')
  .option("--grad-params", "write grad.param.<name> of every weight too, under the checkpoint's names")
  .action(async (model, images, options) => (await import("./activations.ts")).activations(model, images, options))

withModel(program.command("convert"))
  .description("write a folder for transformers.js, onnxruntime and this package")
  .argument("<model>", "folder or repo id")
  .requiredOption("--out <dir>", "folder to write")
  .option("--hooks <globs>", "hooks that become outputs, comma-separated", names)
  .option("--inputs <globs>", "hooks that become replaceable inputs, comma-separated", names)
  .option("--certify", "compare every value put out with a float64 implementation")
  .option("--tolerance <x>", "largest certified max |a - b| / max(1, max |b|)", positive, 1e-4)
  .option("--force", "replace the folder if it exists")
  .action(async (model, options) => (await import("./convert.ts")).convert(model, options))

withFormat(program.command("train"))
  .description("train a small ViT: checkpoints, logs, curves and a model in one folder")
  .argument("<config>", "induction, circle, mnist, dsprites, cifar10, imagenet, or a config.json")
  .requiredOption("--out <dir>", "the run's folder")
  .option("--set <field=value>", "change a field of the config, as training.lr=1e-3; repeatable", collect)
  .option("--data <path>", "where the dataset lies (data.path)")
  .addOption(new Option("--variant <name>", "defaults").choices(["corrected", "seed-exact"]).default("corrected"))
  .option("--resume", "go on from the newest checkpoint in the folder")
  .addOption(new Option("--device <name>", "execution provider").choices(DEVICES))
  .option("--threads <n>", "threads inside one operator", positiveInt)
  .option("--workers <n>", "threads that decode images", positiveInt, 1)
  .option("--track <names>", "tensorboard, trackio, wandb; metrics.jsonl is always written", names)
  .action(async (config, options) => (await import("./train.ts")).trainCommand(config, options))

withModel(program.command("evaluate"))
  .description("accuracy and loss of a classifier on a dataset")
  .argument("<model>", "folder or repo id")
  .option("--data <what>", "a dataset by name, or the path of one; by default what the model was trained on here")
  .option("--path <path>", "where the dataset of that name lies")
  .addOption(new Option("--split <name>", "part of the dataset").choices(["train", "test", "val"]).default("test"))
  .option("--batch <n>", "images at once", positiveInt, 64)
  .action(async (model, options) => (await import("./evaluate.ts")).evaluate(model, options))

withModel(program.command("demo"))
  .description("the model that this package carries, on an image that it carries")
  .action(async (options) => (await import("./demo.ts")).demo(options))

const json = asksForJson(process.argv.slice(2))
// A reader that has seen enough, as head, is no error; nor is one who wants no messages.
process.stderr.on("error", () => {})
process.stdout.on("error", (error: NodeJS.ErrnoException) => {
  if (error.code === "EPIPE") process.exit()
  const [code, what] = error.code === "ENOSPC" ? (["E_DISK_FULL", "is full"] as const) : (["E_IO", "failed"] as const)
  process.exit(report(new PrismaError(code, `standard output ${what} (${error.code})`), json))
})
try {
  await program.parseAsync()
} catch (error) {
  process.exitCode = error instanceof CommanderError ? usage(error) : report(error, json)
}

/** Help and version are no errors; anything else that commander refuses is one of usage. */
function usage(error: CommanderError): number {
  if (error.exitCode === 0) return 0
  const said = error.code === "commander.help" ? "no command was given" : error.message
  const line = said.replace(/^error: /, "").replace(/\s*\n\s*/g, " ")
  return report(new PrismaError("E_USAGE", `${line.replace(/\.$/, "")}; see vit-prisma --help`), json)
}

/** Are errors to be JSON, also those that are found before the options are? */
function asksForJson(args: readonly string[]): boolean {
  const options = args.includes("--") ? args.slice(0, args.indexOf("--")) : args
  return options.some((arg, i) => /^--(json|format=json)$/.test(arg) || (arg === "json" && args[i - 1] === "--format"))
}
