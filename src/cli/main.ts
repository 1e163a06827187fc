#!/usr/bin/env node
/** @file The command line: data on stdout, everything else on stderr, exit codes by kind of error (docs/errors.md). */
import { Command, CommanderError, InvalidArgumentError, Option } from "commander"
import { PrismaError } from "../errors.ts"
import { keepTokens } from "../hub/settings.ts"
import { version } from "../version.ts"
import { DEVICES } from "../runtime/devices.ts"
import { withBatch, withJobs } from "./batch-options.ts"
import { asksForJson, milliseconds, positiveInt, report, wholeNumber, withFormat, withModel } from "./output.ts"
import { withPictures, withResults } from "./pictures.ts"

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

function share(text: string): number {
  const n = text.trim() ? Number(text) : NaN
  if (n >= 0 && n < 1) return n
  throw new InvalidArgumentError("It must be a number from 0 to below 1.")
}

const wholeNumbers = (text: string): number[] => [...new Set(region(text))]

function region(text: string): number[] {
  if (/^-?\d{1,6}(,-?\d{1,6})*$/.test(text)) return text.split(",").map(Number)
  throw new InvalidArgumentError("It must be whole numbers with commas between.")
}

function cuts(text: string): ("token" | "head")[] {
  const parts = text.split(",")
  if (parts.every((p) => p === "token" || p === "head")) return parts
  throw new InvalidArgumentError("It must be token, head or token,head.")
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

withBatch(withModel(program.command("activations")))
  .description("write hooks and outputs of a run to a safetensors file; with --data of a dataset to many")
  .argument("<model>", "folder or repo id")
  .argument("[images...]", "image files")
  .option("--input <file>", "safetensors with pixel_values [b, c, h, w] and input_ids [n, t] instead of images")
  .requiredOption("--out <file>", "safetensors file to write; with --data a folder")
  .option("--hooks <globs>", "hooks to write, comma-separated; * stands for anything", names)
  .option("--patch <hook=file>", "replace a hook by the tensor of its name in a safetensors file; repeatable", collect)
  .option("--grad <metric>", 'write grad.<hook> of every hook asked for: d metric / d hook; "logits[:, 1]" is summed')
  .option("--grad-params", "write grad.param.<name> of every weight too, under the checkpoint's names")
  .option("--data <what>", "a dataset by name, or the path of one")
  .option("--path <path>", "where the dataset of that name lies")
  .addOption(new Option("--split <name>", "part of the dataset").choices(["train", "test", "val"]).default("test"))
  .option("--positions <tokens>", "only this token, as 0, or these, as 1:197; of a dataset")
  .option("--batch <n>", "images of a dataset at once", positiveInt, 32)
  .option("--shard-size <bytes>", "what one file of a dataset may hold", "500M")
  .option("--shard <i/n>", "only every n-th file, from the i-th on; i counts from 0")
  .action(async (model, images, options) => (await import("./activations.ts")).activations(model, images, options))

withBatch(withModel(program.command("convert")))
  .description(
    "write a folder for transformers.js, onnxruntime and this package; with --from one for each model of a list",
  )
  .argument("[model]", "folder or repo id")
  .requiredOption("--out <dir>", "folder to write; with --from the folder of all")
  .option("--hooks <globs>", "hooks that become outputs, comma-separated", names)
  .option("--inputs <globs>", "hooks that become replaceable inputs, comma-separated", names)
  .option("--certify", "compare every value put out with a float64 implementation")
  .option("--tolerance <x>", "largest certified max |a - b| / max(1, max |b|)", positive, 1e-4)
  .option("--force", "replace the folder if it exists")
  .option("--from <file>", "a list: one folder or owner/name, or owner/name@revision, a line")
  .option("--push <owner>", "upload each to owner/<its name> on the Hub")
  .option("--private", "make the repos that --push makes private")
  .option("--shard <i/n>", "only every n-th model of the list, from the i-th on; i counts from 0")
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

const withSites = (command: Command): Command =>
  withResults(command)
    .option("--hook <name>", "hooks, by a short name (resid_pre, z, pattern, mlp_out) or a glob", "resid_pre")
    .option("--by <what>", "a site for each: token, head or both", cuts, [])
    .option("--layers <list>", "only these layers, as 0,5,-1", wholeNumbers)
    .option("--heads <list>", "a site for each of these heads, as 0,3", wholeNumbers)
    .option("--tokens <list>", "a site for each of these tokens, as 0,17; special tokens come first", wholeNumbers)
    .option("--region <list>", "patches as one site: row,column or row,column,rows,columns", region)
    .option("--metric <text>", 'one number for each image, as "logits[:, 3]"')
    .option(
      "--class <name>",
      "the logit of this class, by index or label; by default what the first image is taken for",
    )
    .option("--against <name>", "less the logit of this class")
    .option("--text <text>", "of a dual encoder: likeness to a text")
    .option("--text-embeds <file>", "safetensors with text_embeds [1, p]: likeness to it")
    .option("--batch <n>", "images at once", positiveInt, 8)
    .option("--rows <file>", "write each row as JSON when it is there; rows that the file has are not computed again")

withSites(program.command("patch"))
  .description("activation patching: one run's values put into another, site by site")
  .argument("<model>", "folder or repo id")
  .argument("<clean>", "image")
  .argument("<corrupt>", "image")
  .option("--noise", "corrupt values into the clean run; without it clean ones into the corrupt run")
  .action(async (model, a, b, options) => (await import("./causal.ts")).patch(model, [a, b], options))

withSites(program.command("ablate"))
  .description("take values away, site by site, and see what becomes of a metric")
  .argument("<model>", "folder or repo id")
  .argument("<images...>", "image files")
  .addOption(new Option("--mode <what>", "what is put there").choices(["zero", "mean", "resample"]).default("zero"))
  .option("--seed <n>", "of resampling", wholeNumber, 0)
  .action(async (model, images, options) => (await import("./causal.ts")).ablate(model, images, options))

withPictures(withModel(program.command("view")))
  .description("where each attention head looks: an interactive page, a picture, or the numbers behind them")
  .argument("<model>", "folder or repo id; or a .json file that --view-json wrote")
  .argument("[images...]", "image files")
  .option("--layers <list>", "only these layers, as 0,5,-1", wholeNumbers)
  .option("--heads <list>", "only these heads", wholeNumbers)
  .option("--attention-bytes <n>", "what attention may take of a file; more keeps more detail", positiveInt, 1_000_000)
  .action(async (model, images, options) => (await import("./view.ts")).view(model, images, options))

withResults(program.command("lens"))
  .description("what the model's head makes of the residual stream at each layer: of the image, and of each patch")
  .argument("<model>", "folder or repo id")
  .argument("<images...>", "image files")
  .option("--class <name>", "a class, by index or label: its probability and rank at each layer; repeatable", collect)
  .option("--text <text>", "of a dual encoder: a text in place of a class; repeatable", collect)
  .option("--text-embeds <file>", "safetensors with text_embeds [n, p] in place of classes")
  .option("--layers <list>", "only what these layers read, as 0,6,-1; -1 is the end", wholeNumbers)
  .option("--mid", "between attention and MLP too")
  .option("--top <n>", "largest classes to show", positiveInt, 3)
  .option("--emoji", "print the largest class of each patch as an emoji")
  .action(async (model, images, options) => (await import("./lens.ts")).lens(model, images, options))

withResults(program.command("attribute"))
  .description("which parts of the model wrote a logit, summing to it")
  .argument("<model>", "folder or repo id")
  .argument("<images...>", "image files")
  .option("--class <name>", "a class, by index or label; repeatable; by default the most probable", collect)
  .option("--text <text>", "of a dual encoder: the logit with a text; repeatable", collect)
  .option("--text-embeds <file>", "safetensors with text_embeds [n, p]: the logit with each")
  .option("--against <name>", "the difference to this class or text")
  .option("--metric <metric>", 'any output with an index, as "pooler_output[:, 3]"')
  .addOption(
    new Option("--by <what>", "what shares are of")
      .choices(["component", "head", "layer", "token", "source"])
      .default("component"),
  )
  .option("--top <n>", "largest shares to show", positiveInt, 20)
  .action(async (model, images, options) => (await import("./attribute.ts")).attribute(model, images, options))

withJobs(withFormat(program.command("worker")))
  .description("do the jobs that commands with --queue put into a queue")
  .requiredOption("--queue <url>", "redis://host:6379 or postgres://user@host/database")
  .option("--root <dir>", "jobs may write below this folder only", ".")
  .option(
    "--lock <seconds>",
    "without a sign of life for so long, a worker's jobs are given to another",
    positiveInt,
    30,
  )
  .option("--drain", "end when the queue is empty")
  .action(async (options) => (await import("./worker.ts")).worker(options))

withFormat(program.command("card"))
  .description("make model cards from the files beside them, or hold them against the Hub's rules")
  .argument("<folders...>", "models' folders, as train and convert leave them")
  .option("--write", "make README.md; what was written by hand outside its marks stays")
  .option("--check", "hold it against the files beside it too")
  .option("--force", "replace a text that was written by hand")
  .option("--name <text>", "what the card calls the model")
  .option("--repo <id>", "the repo that the model is or will be in, as owner/name")
  .option("--license <id>", "the licence's identifier, as mit")
  .option("--template <file>", "another template than model-cards/template.md")
  .option("--strip-paths", "take absolute paths out of the JSON files beside the card")
  .action(async (folders, options) => (await import("./card.ts")).card(folders, options))

withFormat(program.command("push"))
  .description("a folder to a repo of the Hub: what differs, in one commit; a run's checkpoints as revisions")
  .argument("<folder>", "a model's folder, as train and convert leave it, or any other")
  .argument("<repo>", "owner/name; made where it is not there")
  .option("--private", "make it private")
  .option("--branch <name>", "push to this branch", "main")
  .option("--message <text>", "the commit's title")
  .option("--path <path>", "a folder of the repo; by default its root")
  .addOption(new Option("--checkpoints <how>", "of a run (docs/upload.md)").choices(["revisions", "folders", "none"]))
  .option("--dry-run", "send nothing, show what would be sent")
  .option("--wait <seconds>", "how long a busy Hub may ask to wait (120)", milliseconds)
  .action(async (folder, repo, options) => (await import("./push.ts")).push(folder, repo, options))

withResults(program.command("saliency"))
  .description("where in an image a class, a text or any output comes from")
  .argument("<model>", "folder or repo id")
  .argument("<images...>", "image files")
  .addOption(
    new Option("--method <name>", "how (docs/saliency.md)")
      .choices(["gradient", "integrated", "smooth", "occlusion", "attention-gradient", "rollout"])
      .default("attention-gradient"),
  )
  .option("--class <name>", "a class, by index or label; by default the most probable")
  .option("--against <name>", "the difference to this class")
  .option("--text <text>", "of a dual encoder: likeness to a text")
  .option("--text-embeds <file>", "safetensors with text_embeds [1, p]: likeness to it")
  .option("--metric <metric>", 'any output or hook with an index, as "pooler_output[:, 3]"')
  .option("--steps <n>", "of integrated: points on the path", positiveInt, 32)
  .option("--samples <n>", "of smooth: noisy copies", positiveInt, 32)
  .option("--seed <n>", "of smooth: the noise", wholeNumber, 0)
  .option("--window <pixels>", "of occlusion: edge of what is covered; the patch size", positiveInt)
  .option("--stride <pixels>", "of occlusion: from window to window; the window", positiveInt)
  .addOption(new Option("--head-fusion <how>", "of rollout").choices(["mean", "max", "min"]).default("mean"))
  .option("--discard-ratio <x>", "of rollout: the share of the lowest attention that is left out", share, 0)
  .option("--batch <n>", "images at once", positiveInt, 8)
  .option("--top <n>", "patches to show", positiveInt, 5)
  .option("--out <file>", "safetensors to write, with what the method gives of every pixel or token")
  .action(async (model, images, options) => (await import("./saliency.ts")).saliency(model, images, options))

withResults(program.command("heads"))
  .description("how wide and how far each attention head looks, and which ones do something simple")
  .argument("<model>", "folder or repo id")
  .argument("<images...>", "image files; more make the means surer")
  .option("--layers <list>", "only these layers, as 0,5,-1", wholeNumbers)
  .option("--level <x>", "how far from chance (0) to all (1) a score must be for a head to be named", positive, 0.3)
  .addOption(new Option("--unit <unit>", "of distances").choices(["pixels", "patches"]).default("pixels"))
  .action(async (model, images, options) => (await import("./heads.ts")).heads(model, images, options))

withModel(program.command("demo"))
  .description("the model that this package carries, on an image that it carries")
  .action(async (options) => (await import("./demo.ts")).demo(options))

const cache = program.command("cache").description("the Hub cache: what it holds, whether it is whole, its repair")
const withCache = (command: Command): Command =>
  withFormat(command).option("--cache-dir <dir>", "the Hub cache to use").option("--offline", "ask no server")

withCache(cache.command("ls"))
  .description("repos, their commits and bytes")
  .action(async (options) => (await import("./cache.ts")).list(options))

withCache(cache.command("verify"))
  .description("read every blob and compare it with its hash; exit 3 where something is damaged")
  .argument("[repo]", "one repo; by default all")
  .action(async (repo, options) => (await import("./cache.ts")).verify(repo, options))

withCache(cache.command("heal"))
  .description("verify, and replace or take away what is damaged")
  .argument("[repo]", "one repo; by default all")
  .action(async (repo, options) => (await import("./cache.ts")).healCache(repo, options))

withCache(program.command("doctor"))
  .description("what of Node, onnxruntime, the Hub, its cache and the disk works here")
  .option("--heal", "repair the cache")
  .action(async (options) => (await import("./doctor.ts")).doctor(options))

keepTokens()
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
  const code = error instanceof CommanderError ? usage(error) : report(error, json)
  // A command that a signal ended has said by which: 130 or 143.
  process.exitCode ??= code
}

/** Help and version are no errors; anything else that commander refuses is one of usage. */
function usage(error: CommanderError): number {
  if (error.exitCode === 0) return 0
  const words = error.code === "commander.help" ? "no command was given" : error.message
  // A token that somebody tries to give so stays out of logs.
  const said = error.code === "commander.unknownOption" ? words.replace(/(?<='-[^'=]*)=[^']*/, "") : words
  const line = said.replace(/^error: /, "").replace(/\s*\n\s*/g, " ")
  return report(new PrismaError("E_USAGE", `${line.replace(/\.$/, "")}; see vit-prisma --help`), json)
}
