/** @file What a card says of training and of what was measured. */
import type { GlobalConfig } from "../configs/index.ts"
import { isOriginal, knownDataset } from "./datasets.ts"
import type { CardFacts } from "./facts.ts"
import { casesOf, wilson } from "./interval.ts"
import { block, code, count, counted, duration, figure, percent, table } from "./markdown.ts"

type Texts = Readonly<Record<string, string | undefined>>

/** What was measured on images that were not trained on. */
export interface TestResult {
  /** The dataset as the files call it. */
  readonly dataset: string
  readonly split: string
  readonly fingerprint: string | undefined
  /** Images; absent where nothing says how many. */
  readonly n: number | undefined
  readonly loss: number
  readonly accuracy: number | undefined
  readonly top5: number | undefined
}

/** evaluation.json counts more; where it is of other data than the run's own test set, it is of its own. */
export function testOf({ evaluation, result, training }: CardFacts): TestResult | undefined {
  if (evaluation) return evaluation
  if (!result?.test || !training) return undefined
  const fingerprint = result.fingerprints.get("test")
  const original = knownDataset(training.data.name)?.original?.test
  const all = training.training.test_samples === null && original?.fingerprint === fingerprint
  const n = result.testSamples ?? (all ? original?.images : undefined)
  const { loss, accuracy } = result.test
  return { dataset: training.data.name, split: "test", fingerprint, n, loss, accuracy, top5: undefined }
}

const LOSSES = {
  CrossEntropy: "cross entropy",
  MSE: "mean of squared differences",
  Reconstruction: "mean of squared differences of all patches' pixels",
  MaskedReconstruction: "mean of squared differences of the hidden patches' pixels",
} as const

export function resultTexts(facts: CardFacts): Texts {
  const test = testOf(facts)
  const { evaluation, result } = facts
  const best = result?.best
  const validated = best?.loss === undefined ? undefined : `loss ${figure(best.loss)}`
  const validation = best?.accuracy === undefined ? validated : percent(best.accuracy)
  return {
    testSet:
      test &&
      `${datasetText(test.dataset, test.fingerprint)}, ${code(test.split)}${test.n ? `: ${counted(test.n, "image")}` : ""}`,
    accuracy: test?.accuracy === undefined ? undefined : accuracyText(test.accuracy, test.n),
    interval: test?.accuracy === undefined || !test.n ? undefined : intervalText(test.accuracy, test.n),
    top5: test?.top5 === undefined || facts.model.vision.nClasses <= 5 ? undefined : percent(test.top5),
    testLoss: test && lossFigure(test, evaluation ? undefined : facts.training),
    validation: best && validation ? `${validation}, after step ${count(best.step)}` : undefined,
    perClass: perClass(facts),
  }
}

/** Of what is squared the root too, which has the unit of what is estimated. */
function lossFigure({ loss, accuracy }: TestResult, config: GlobalConfig | undefined): string {
  const root = accuracy === undefined && loss >= 0 ? `; its root ${figure(Math.sqrt(loss))}` : ""
  return `${figure(loss)} (${lossText(config)}${root})`
}

const lossText = (config: GlobalConfig | undefined): string => {
  const name = LOSSES[config?.training.loss_fn_name ?? "CrossEntropy"]
  return config?.training.label_smoothing ? `${name}, labels smoothed` : name
}

function accuracyText(accuracy: number, n: number | undefined): string {
  const cases = n && casesOf(accuracy, n)
  return cases === undefined ? percent(accuracy) : `**${percent(accuracy)}** (${count(cases)} of ${count(n!)})`
}

const intervalText = (accuracy: number, n: number): string => {
  const [low, high] = wilson(accuracy, n)
  return `${percent(low)} to ${percent(high)} (Wilson)`
}

/** Few enough classes to be read. */
const CLASSES = 20

function perClass({ evaluation }: CardFacts): string | undefined {
  const classes = evaluation?.classes ?? []
  if (!classes.length || classes.length > CLASSES) return undefined
  const rows = classes.map((c) => [code(c.label), count(c.n), c.accuracy === undefined ? "" : percent(c.accuracy)])
  return table(["class", "images", "right"], rows)
}

/** "MNIST", or the name that the files give it where it is not known to be that. */
function datasetText(name: string, fingerprint: string | undefined): string {
  const known = knownDataset(name)
  if (!known) return code(name)
  if (isOriginal(known, "test", fingerprint) !== false) return known.title
  return `images read as ${known.title}, which are not its own`
}

/** Words for what its images show; undefined where only its author knows. */
export function dataWords({ training, result }: CardFacts): { title: string; what: string } | undefined {
  const known = training && knownDataset(training.data.name)
  if (!known || isOriginal(known, "train", result?.fingerprints.get("train")) === false) return undefined
  const { title, what, targets = {} } = known
  const target = training.data.target ?? Object.keys(targets)[0]
  const told = target !== undefined && Object.hasOwn(targets, target) ? `; ${targets[target]}` : ""
  return { title, what: what + told }
}

export function dataTexts(facts: CardFacts): Texts {
  const { training: config, result } = facts
  if (!config) return {}
  const { data, training } = config
  const words = dataWords(facts)
  const at = data.path === undefined ? "a dataset of its author's own: " : "the images at `data.path`, read as "
  const train = result?.fingerprints.get("train")
  const original = knownDataset(data.name)?.original?.train
  const images = original?.fingerprint === train ? original?.images : undefined
  const share = result?.fingerprints.has("val") ? 0 : training.validation_split
  const { order } = result ?? {}
  return {
    dataset: words ? `${words.title}: ${words.what}` : at + code(data.name || "unnamed"),
    target: data.target === undefined ? undefined : code(data.target),
    trainImages: order ? count(order.samples) : images === undefined ? undefined : imagesText(images, share),
    validationImages: result?.fingerprints.has("val")
      ? "a part of their own"
      : share
        ? `${part(share)} of the training part, drawn by seed ${data.seed}`
        : undefined,
    augmentation: data.augment?.length ? data.augment.map(augmentation).join("; ") : "none",
    trainFingerprint: train && code(train),
    testFingerprint: result?.fingerprints.get("test") && code(result.fingerprints.get("test")!),
    order: order && orderText(order, training.seed),
    orderHash: order && code(order.sha256),
  }
}

/** A share that was chosen: "10 %". */
const part = (share: number): string => `${figure(100 * share)} %`

const imagesText = (images: number, share: number): string =>
  share ? `${count(images)}, of which validation takes ${part(share)}` : count(images)

type Augmentation = NonNullable<GlobalConfig["data"]["augment"]>[number]
const augmentation = (a: Augmentation): string =>
  a.kind === "crop"
    ? `moved by up to ${counted(a.padding, "pixel")} at random`
    : `mirrored with probability ${a.probability ?? 0.5}`

const orderText = (order: NonNullable<NonNullable<CardFacts["result"]>["order"]>, seed: number): string =>
  order.groups
    ? `by seed ${seed}: groups of rows are shuffled, and rows within windows of groups`
    : `epoch e is \`new Random(${seed}, "order:<e>").permutation(${order.samples})\`: the same again from the seed`

export function trainingTexts({ training: config, result, checkpoints, files }: CardFacts): Texts {
  if (!config) return {}
  const { training: t, dropout, init } = config
  const drops = Object.entries(dropout).filter(([, p]) => p > 0)
  const seed = result?.seed ?? t.seed
  const versions = [...(result?.versions ?? [])].map(([name, version]) => code(`${name} ${version}`))
  return {
    loss:
      lossText(config) +
      (t.label_smoothing ? ` by ${t.label_smoothing}` : "") +
      (t.loss_fn_name === "MaskedReconstruction" ? `; ${part(t.mask_ratio)} of the patches are hidden` : ""),
    optimizer: optimizer(t),
    schedule: schedule(config, result?.step),
    batch:
      t.batch_size === -1
        ? "all training images at once"
        : `${counted(t.batch_size, "image")}${t.accumulation > 1 ? `, ${t.accumulation} of them a step` : ""}`,
    length: length(config, result),
    clipping: t.max_grad_norm === null ? undefined : `to norm ${t.max_grad_norm}`,
    dropout: drops.length ? drops.map(([where, p]) => `${where} ${p}`).join(", ") : undefined,
    ema: t.ema_decay === null ? undefined : `decay ${t.ema_decay}; these are the weights that were tested and saved`,
    init: init.scheme === "timm" ? "as timm's ViT" : `Prisma's (${init.weight_type})`,
    seed: `${seed}; data ${config.data.seed}`,
    time: result?.seconds === undefined ? undefined : duration(result.seconds),
    hardware: hardware(result),
    software: versions.length ? versions.join(", ") : undefined,
    day: result?.day,
    command: block(
      "sh",
      `npx vit-prisma train training.json --out runs/again${config.data.path === undefined ? "" : " --data path/to/the/images"}`,
    ),
    curves: files.has("curves.svg")
      ? "![Loss, accuracy and learning rate over the steps of training](curves.svg)"
      : undefined,
    logs: logs(files),
    checkpoints: checkpoints && checkpointText(checkpoints),
  }
}

function optimizer(t: GlobalConfig["training"]): string {
  const decay = `weight decay ${t.weight_decay}`
  if (t.optimizer_name === "SGD") return `SGD, momentum ${t.momentum}${t.nesterov ? " (Nesterov)" : ""}, ${decay}`
  return `${t.optimizer_name}, betas ${t.betas.join(" and ")}, eps ${t.eps}, ${decay}`
}

function schedule({ training: t }: GlobalConfig, ran: number | undefined): string {
  const warm = t.warmup_steps ? `up to ${t.lr} in ${counted(t.warmup_steps, "step")}, then ` : ""
  const steps = t.total_steps ?? ran
  const until = steps === undefined ? "at the end" : `at step ${count(steps)}`
  const rest = {
    constant: warm ? "constant" : `${t.lr}, constant`,
    WarmupThenStep: `times ${t.scheduler_gamma} every ${counted(t.scheduler_step, "step")}${warm ? "" : `, from ${t.lr}`}`,
    WarmupCosine: `a cosine ${warm ? "" : `from ${t.lr} `}to ${t.min_lr} ${until}`,
    linear: `linear ${warm ? "" : `from ${t.lr} `}to ${t.min_lr} ${until}`,
  }[t.scheduler_type]
  return warm + rest
}

function length({ training: t }: GlobalConfig, result: CardFacts["result"]): string {
  const most = t.max_steps === null ? counted(t.num_epochs, "epoch") : `at most ${counted(t.max_steps, "step")}`
  if (result?.step === undefined) return `up to ${most.replace("at most ", "")}`
  const seen = result.images === undefined ? "" : `, ${count(result.images)} images seen`
  const early =
    result.ended === "early" ? `; ended early: no better for ${counted(t.early_stopping_patience, "validation")}` : ""
  const epochs = t.max_steps === null && !early ? ` (${counted(t.num_epochs, "epoch")})` : ""
  return `${counted(result.step, "step")}${epochs}${seen}${early}`
}

function hardware(result: CardFacts["result"]): string | undefined {
  const { cpu, cores, system } = result?.machine ?? {}
  const found = [
    result?.device && result.device !== "cpu" && result.device !== "auto" ? code(result.device) : undefined,
    cpu === undefined ? undefined : code(cpu),
    cores === undefined ? undefined : counted(cores, "core"),
    result?.threads === undefined ? undefined : `${counted(result.threads, "thread")} used`,
    system === undefined ? undefined : code(system),
  ].filter((x) => x !== undefined)
  return found.length ? found.join(", ") : undefined
}

const LOGS = [
  ["training.json", "the whole config"],
  ["result.json", "how the run ended"],
  ["metrics.jsonl", "loss, accuracy and rate by step"],
  ["splits.json", "which images were validated on"],
] as const

function logs(files: ReadonlySet<string>): string | undefined {
  const found = LOGS.filter(([name]) => files.has(name))
  return found.length ? found.map(([name, what]) => `[${name}](${name}): ${what}`).join("; ") : undefined
}

/** Checkpoints that are named one by one. */
const NAMED = 24

function checkpointText({ folder, steps }: NonNullable<CardFacts["checkpoints"]>): string {
  const link = (step: number) => `[${count(step)}](${folder}/step-${String(step).padStart(8, "0")})`
  const shown =
    steps.length <= NAMED
      ? steps.map(link).join(", ")
      : `${steps
          .slice(0, NAMED - 4)
          .map(link)
          .join(", ")}, ..., ${steps.slice(-3).map(link).join(", ")}`
  return `${counted(steps.length, "checkpoint")}, each a model of its own, after step ${shown}.`
}
