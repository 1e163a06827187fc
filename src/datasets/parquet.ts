/** @file Image datasets in parquet files, as the Hub keeps them (https://huggingface.co/docs/hub/datasets-image). */
import { stat } from "node:fs/promises"
import { basename, dirname, join, relative } from "node:path"
import { fail, listed } from "../errors.ts"
import { readError } from "../files/system-errors.ts"
import { quote } from "../tensor/quote.ts"
import type { Splits } from "./dataset.ts"
import { checkFit, decodeSample, type EncodedDataset, type Fit, fitShape } from "./encoded.ts"
import { checkIndex, checkLabels, checkVariety } from "./held.ts"
import type { RowGroup } from "./loader.ts"
import { openParquet, type ParquetFile, type StoredGroup } from "./parquet-rows.ts"
import { byRole, type RoleOptions, roleOf, splitsFound } from "./roles.ts"
import { byBytes, filesFingerprint, namesIn } from "./whole.ts"

export interface ParquetOptions extends Fit {
  /** The columns' names, by default "image" and "label". */
  readonly image?: string
  readonly label?: string
  /** Names of the classes, which the files' metadata may not contradict; by default those of the metadata, else the texts
   * or numbers that the labels are. */
  readonly classes?: readonly string[]
  readonly name?: string
}

export interface ParquetDataset extends EncodedDataset {
  /** Rows that are read together. */
  readonly groups: readonly RowGroup[]
}

interface Group extends RowGroup {
  readonly file: string
  readonly stored: StoredGroup
}

/** The classes where no one names them: the texts in byte order, or the numbers up to the largest. */
function classesOf(labels: readonly (number | string)[]): string[] {
  const texts = new Set(labels.filter((label) => typeof label === "string"))
  if (texts.size > 0) return [...texts].sort(byBytes)
  const largest = labels.reduce<number>((most, label) => Math.max(most, Number(label) || 0), 0)
  return largest < 2 ** 20 ? Array.from({ length: largest + 1 }, (_, i) => String(i)) : []
}

/**
 * The rows of parquet files, one after the other; images are decoded when asked for, their row group is then read and a
 * few are kept. Labels are read at once: class numbers, or texts that are class names. `splits` are those that there are,
 * for messages.
 * Errors: E_PARQUET; E_PARQUET_TIMEOUT for a file that takes 8 s; E_DATASET_SCHEMA for columns that are not there or
 * rows without an image; E_LABEL_RANGE, E_DATASET_EMPTY, E_CONFIG, E_NOT_A_FILE, E_IO.
 */
export async function parquetDataset(
  files: readonly string[],
  options: ParquetOptions = {},
  splits: Iterable<string> = [],
): Promise<ParquetDataset> {
  const { image = "image", label = "label", name = "parquet", classes: asked, ...fit } = options
  checkFit(fit)
  const texts: readonly unknown[] = [
    image,
    label,
    ...(Array.isArray(asked) ? asked : asked === undefined ? [] : [asked]),
  ]
  if (!texts.every((text) => typeof text === "string") || typeof asked === "string") {
    fail("E_CONFIG", `${name}: image and label must be column names, classes a list of texts`)
  }
  const opened: ParquetFile[] = []
  for (const file of files) opened.push(await openParquet(file, image, label))
  const named = namedClasses(files, opened)
  if (asked && named && JSON.stringify(asked) !== JSON.stringify(named)) {
    const text = `names its classes ${listed(named, 3)}, expected ${listed(asked, 3)} as given or as the training split has`
    fail("E_DATASET_SCHEMA", `${files[0]!}: ${text}`, { file: files[0]! })
  }
  const classes = asked ?? named ?? classesOf(opened.flatMap((file) => file.labels))
  const numbers = new Map(classes.map((text, i) => [text, i]))
  const labels = opened.map(({ labels: rows }, f) => {
    const found = rows.map((row) => (typeof row === "number" ? row : numbers.get(row)))
    const unknown = found.indexOf(undefined)
    if (unknown >= 0) {
      const text = `row ${unknown} has label ${quote(String(rows[unknown]))}, which is none of the ${classes.length} classes`
      fail("E_LABEL_RANGE", `${files[f]!}: ${text}`, { file: files[f]! })
    }
    checkLabels(found as number[], classes.length, files[f]!)
    return found as number[]
  })

  const groups: Group[] = []
  let length = 0
  for (const [f, { groups: stored }] of opened.entries()) {
    for (const g of stored) {
      const rows = g.end - g.start
      groups.push({ start: length, end: (length += rows), bytes: g.bytes, file: files[f]!, stored: g })
    }
  }
  if (length === 0)
    fail("E_DATASET_EMPTY", `${name}: no rows in ${listed(files) || "no files"}; ${splitsFound(splits)}`)
  const all = Uint32Array.from(labels.flat())
  const root = dirname(files[0]!)
  const sizes = opened.map(({ size }, f) => ({ name: relative(root, files[f]!), size }))
  const made: ParquetDataset = {
    name,
    classes,
    groups,
    length,
    fingerprint: await filesFingerprint(`parquet ${JSON.stringify([image, label, classes, fit])}`, root, sizes),
    ...fitShape(fit),
    encoded(i) {
      const { start, file, stored } = groupOf(groups, checkIndex(i, made))
      const row = stored.start + i - start
      return { kind: "row", file, column: image, row, group: stored, fit, label: all[i]!, index: i }
    },
    at: async (i) => decodeSample(made.encoded(i)),
  }
  return made
}

/** The class names that the files' metadata give, which must be the same in all. */
function namedClasses(files: readonly string[], opened: readonly ParquetFile[]): readonly string[] | undefined {
  const first = opened[0]?.classes
  const odd = opened.findIndex(({ classes }) => JSON.stringify(classes) !== JSON.stringify(first))
  if (odd < 0) return first
  const file = files[odd]!
  return fail("E_DATASET_SCHEMA", `${file}: other class names than ${files[0]!}; give classes or other files`, { file })
}

/** The group with row i, by bisection. */
function groupOf(groups: readonly Group[], i: number): Group {
  let [low, high] = [0, groups.length - 1]
  while (low < high) {
    const middle = (low + high + 1) >> 1
    if (groups[middle]!.start <= i) low = middle
    else high = middle - 1
  }
  return groups[low]!
}

/** Folders below the one given in which files are looked for: `data`, `CONFIG/train`. */
const MAX_DEPTH = 3

async function filesBelow(root: string, folder = "", depth = 0): Promise<string[]> {
  const found: string[] = []
  for (const name of await namesIn(join(root, folder))) {
    const child = folder === "" ? name : `${folder}/${name}`
    const path = join(root, child)
    const stats = await stat(path).catch((error: unknown) => readError(error, path))
    if (!stats.isDirectory()) found.push(child)
    else if (depth < MAX_DEPTH) for (const file of await filesBelow(root, child, depth + 1)) found.push(file)
  }
  return found
}

/** `train-00000-of-00005-0123456789abcdef.parquet` is the first of five files. */
const SHARD = /-(\d{5})-of-(\d{5})(?:-[0-9a-f]+)?\.parquet$/

/** The files of each split: by the beginning of their names (`train-00000-of-00001.parquet`) or their folder (`train/`).
 * Errors: E_UNSAFE_FORMAT for a loading script, E_DATASET_SCHEMA for files of two configurations, E_SHARD_MISSING. */
async function splitFiles(root: string): Promise<Map<string, string[]>> {
  const all = await filesBelow(root)
  const script = all.find((name) => /^[^/]+\.py$/.test(name))
  if (script !== undefined) {
    const text = `has the loading script ${quote(script)}, which is not run; take the Hub's branch refs/convert/parquet`
    fail("E_UNSAFE_FORMAT", `${root}: ${text}, or name the folder of the parquet files`, { file: root })
  }
  const found = new Map<string, string[]>()
  const configs = new Set<string>()
  for (const name of all.filter((n) => n.endsWith(".parquet"))) {
    const folder = dirname(name)
    const byName = roleOf(/^[A-Za-z]*/.exec(basename(name))![0])
    const role = byName ?? roleOf(basename(folder))
    if (role === undefined) continue
    configs.add(byName === undefined ? dirname(folder) : folder)
    found.set(role, [...(found.get(role) ?? []), join(root, name)])
  }
  if (configs.size > 1) {
    const text = `parquet files of ${configs.size} configurations: ${listed([...configs].map(quote))}; name the folder of one`
    fail("E_DATASET_SCHEMA", `${root}: ${text}`, { file: root })
  }
  for (const files of found.values()) {
    const shards = files.map((file) => SHARD.exec(file))
    const count = Number(shards[0]?.[2] ?? files.length)
    if (shards.some((shard) => Number(shard?.[2] ?? count) !== count) || files.length !== count) {
      fail("E_SHARD_MISSING", `${files[0]!}: is one of ${count} files, got ${files.length}; get the others`, {
        file: root,
      })
    }
  }
  return found
}

/** One split of such a folder by itself. Errors: those of `parquetSplits`. */
export async function parquetSplit(
  root: string,
  role: keyof Splits,
  options: Pick<ParquetOptions, "image" | "label"> = {},
): Promise<ParquetDataset> {
  const found = await splitFiles(root)
  const text = `no ${role} split; ${splitsFound(found.keys())}`
  const files = found.get(role) ?? fail("E_DATASET_EMPTY", `${root}: ${text}`, { file: root })
  return parquetDataset(files, { ...options, name: `parquet/${role}` }, found.keys())
}

/**
 * The splits in a folder of parquet files, in the layouts of the Hub: `data/train-00000-of-00001.parquet` or
 * `CONFIG/train/0000.parquet`. The training split's classes are those of all. Errors: those of `parquetDataset`;
 * E_DATASET_EMPTY listing the splits, E_UNSAFE_FORMAT, E_SHARD_MISSING, E_CONFIG.
 */
export async function parquetSplits(
  root: string,
  { test, ...options }: ParquetOptions & RoleOptions = {},
): Promise<Splits> {
  const { name = "parquet" } = options
  const found = await splitFiles(root)
  const roles = byRole(found, root, test === undefined ? {} : { test })
  const train = await parquetDataset(roles.train, { ...options, name: `${name}/train` }, found.keys())
  checkVariety(
    Array.from({ length: train.length }, (_, i) => train.encoded(i).label),
    train.classes,
    root,
    found.keys(),
  )
  const other = (files: readonly string[], role: string) =>
    parquetDataset(files, { ...options, name: `${name}/${role}`, classes: train.classes }, found.keys())
  return {
    train,
    test: await other(roles.test, "test"),
    ...(roles.val === undefined ? {} : { val: await other(roles.val, "val") }),
  }
}
