/** @file vit-prisma evaluate: a classifier, or a mouse trained for something else, on a dataset. */
import { existsSync } from "node:fs"
import { join } from "node:path"
import { readConfig, type GlobalConfig } from "../configs/index.ts"
import type { NamedDataset } from "../datasets/dataset.ts"
import { DATASET_NAMES, openDataset, type DatasetSpec } from "../datasets/open.ts"
import { datasetAt, openOneSplit, splitOf, type SplitName } from "../datasets/recognise.ts"
import { fail, nearest, PrismaError } from "../errors.ts"
import { evaluateLoss } from "../hub/evaluate-loss.ts"
import { evaluateClassifier } from "../hub/evaluate.ts"
import type { LoadedViT } from "../hub/load-pretrained.ts"
import { quote } from "../tensor/quote.ts"
import { openData } from "../train/data.ts"
import { TRAINING_FILE } from "../train/mouse.ts"
import { testSamples } from "../train/plan.ts"
import { counted, loadModel, note, plain, print, printJson, rounded, table, warn, type ModelOptions } from "./output.ts"
import { progress } from "./progress.ts"

export interface EvaluateOptions extends ModelOptions {
  /** A dataset's name, or where one lies; of a mouse by default what it was trained on. */
  readonly data?: string
  /** Where the dataset of that name lies. */
  readonly path?: string
  readonly split: SplitName
  readonly batch: number
}

interface Read {
  /** In words. */
  readonly what: string
  readonly data: NamedDataset
  readonly labelSmoothing: number
  /** How a mouse without classes was trained. */
  readonly trained?: GlobalConfig
}

export async function evaluate(name: string, options: EvaluateOptions): Promise<void> {
  const { split, batch, format } = options
  const model = await loadModel(name, options)
  const { what, data, labelSmoothing, trained } = await dataOf(model, options)
  const about = { name: data.name, split, length: data.length, fingerprint: data.fingerprint, readAs: what }
  note(
    format === "json"
      ? JSON.stringify({ data: about })
      : `data: ${plain(what)}, ${plain(data.name)}, ${counted(data.length, "image")}`,
  )
  const bar = await progress("images", data.length)
  try {
    if (trained) {
      const result = await evaluateLoss(model, trained, data)
      bar.stop()
      if (format === "json") return printJson({ model: name, data: about, ...result })
      return print(table(Object.entries(result).map(([key, value]) => [key, shown(value)])))
    }
    const result = await evaluateClassifier(model, data, {
      batch,
      labelSmoothing,
      onProgress: (done) => bar.update(done),
    })
    bar.stop()
    if (result.comparedBy === "number" && model.config.labels.length) {
      const [theirs, ours] = [data.classes, model.config.labels].map((names) => names.slice(0, 2).map(quote).join(", "))
      warn(`classes are compared by number: the data's are ${theirs}, ...; the model's ${ours}, ...`, options)
    }
    if (format === "json") return printJson({ model: name, data: about, ...result })
    const { classes, comparedBy: _, ...figures } = result
    print(table(Object.entries(figures).map(([key, value]) => [key, shown(value)])))
    const rows = classes.map(({ label, n, accuracy }) => [shown(accuracy), String(n), label])
    print(`\n${table([["accuracy", "n", "class"], ...rows])}`)
  } finally {
    bar.stop()
    await model.release()
  }
}

/** A regression's outputs are logits too, without names. */
const hasClasses = ({ outputNames, config }: LoadedViT): boolean =>
  outputNames.includes("logits") && config.labels.length > 0

const shown = (x: number | null): string => (x === null ? "-" : rounded(x))

/**
 * The split, and in words as what it was read. A name that the mouse was trained on means its own seed and target, and
 * the test figures of its result.json again: of the same test samples, the loss smoothed as there.
 */
async function dataOf(model: LoadedViT, options: EvaluateOptions): Promise<Read> {
  const { split, path } = options
  const isName = options.data === undefined || (DATASET_NAMES as readonly string[]).includes(options.data)
  const own = isName || !hasClasses(model) ? await trainingOf(model, options) : undefined
  const trained = own && own.training.loss_fn_name !== "CrossEntropy" ? { trained: own } : {}
  const name = options.data ?? own?.data.name
  if (name === undefined) {
    return fail("E_USAGE", `${model.source.name} does not say what it was trained on; give --data, a name or a path`)
  }
  if (!isName) {
    if (path !== undefined)
      fail("E_USAGE", `--path says where a dataset of a name lies; ${quote(name)} is a path itself`)
    if (!existsSync(name)) unknownData(name)
    return { ...(await datasetAt(name, split)), labelSmoothing: 0, ...trained }
  }
  const config = own?.data.name === name ? own : undefined
  const at = path ?? config?.data.path
  const whole = await openNamed(name, split, at, config)
  if (!config) return { what: name, data: whole, labelSmoothing: 0, ...trained }
  const data = split === "test" ? testSamples(whole, config) : whole
  const labelSmoothing = config.training.label_smoothing
  const part = data.length < whole.length ? `, ${data.length} of its ${whole.length} (test_samples)` : ""
  const smoothed = labelSmoothing ? `, label_smoothing ${labelSmoothing}` : ""
  return { what: `${name}, as the model's ${TRAINING_FILE} says${part}${smoothed}`, data, labelSmoothing, ...trained }
}

async function openNamed(name: string, split: SplitName, at: string | undefined, config: GlobalConfig | undefined) {
  if ((name === "folder" || name === "parquet") && at !== undefined) {
    const { test, image, label } = config?.data ?? {}
    const columns = { ...(image !== undefined && { image }), ...(label !== undefined && { label }) }
    return openOneSplit[name](at, split === "test" ? (test ?? split) : split, columns)
  }
  const path = at === undefined ? {} : { path: at }
  const splits = config
    ? await openData({ ...config, data: { ...config.data, ...path } })
    : await openDataset({ name, ...path } as DatasetSpec)
  return splitOf(splits, split, name)
}

function unknownData(name: string): never {
  const near = nearest(name.slice(0, 100), DATASET_NAMES, 1)[0]!
  const text = `there is no such path and no dataset of this name (nearest: "${near}")`
  return fail("E_USAGE", `--data ${quote(name)}: ${text}; the names are ${DATASET_NAMES.join(", ")}`)
}

/** The config that the model was trained by; another project's file of that name is passed over. */
async function trainingOf({ source }: LoadedViT, options: EvaluateOptions): Promise<GlobalConfig | undefined> {
  const file = join(source.folder, TRAINING_FILE)
  if (!existsSync(file)) return undefined
  try {
    return await readConfig(file)
  } catch (error) {
    if (!(error instanceof PrismaError)) throw error
    warn(`what the model was trained on is not known: ${error.message}`, options)
    return undefined
  }
}
