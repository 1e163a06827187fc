/** @file Which dataset lies at a path, told by what is there. */
import { stat } from "node:fs/promises"
import { basename, join } from "node:path"
import { fail } from "../errors.ts"
import { readFully, withFile } from "../files/read.ts"
import { readError, systemCode } from "../files/system-errors.ts"
import { cifar10 } from "./cifar.ts"
import type { NamedDataset, Splits } from "./dataset.ts"
import { classFolders } from "./folder.ts"
import { mnist } from "./idx.ts"
import { parquetDataset, parquetSplit } from "./parquet.ts"
import { roleOf, splitsFound } from "./roles.ts"
import { namesIn } from "./whole.ts"

export type SplitName = keyof Splits

/** A folder's files and folders by name. */
interface Listing {
  readonly files: readonly string[]
  readonly folders: readonly string[]
}

interface Kind {
  /** In words, with what is looked for. */
  readonly what: string
  readonly matches: (root: string, listing: Listing) => boolean | Promise<boolean>
  readonly open: (root: string, split: SplitName) => Promise<NamedDataset>
}

/** Layouts that are told apart by names that only they have. */
const KINDS = {
  idx: {
    what: "MNIST's idx files (t10k-images-idx3-ubyte, ...)",
    matches: (_, { files }) =>
      files.some((name) => /^(train|t10k)-(images|labels)[-.]idx[13]-ubyte(\.gz)?$/.test(name)),
    open: async (root, split) => splitOf(await mnist(root), split, root),
  },
  cifar10: {
    what: "CIFAR-10's batches (data_batch_1.bin, ...) or sheets (cifar10_batch_0.png, ..., cifar10_labels.js)",
    matches: (_, { files }) =>
      files.some((name) => /^((data_batch_\d|test_batch)\.bin|cifar10_labels\.js)$/.test(name)),
    open: async (root, split) => splitOf(await cifar10(root), split, root),
  },
  parquet: {
    what: "parquet files by split (data/test-00000-of-00001.parquet, CONFIG/test/0000.parquet)",
    matches: (root, listing) => holdsParquet(root, listing, true),
    open: parquetSplit,
  },
  folder: {
    what: "images by split and class (test/CLASS/1.png) or by class (CLASS/1.png)",
    matches: holdsClasses,
    open: openFolder,
  },
} as const satisfies Readonly<Record<string, Kind>>

/** Layouts that the dataset names "parquet" and "folder" mean, where one split is enough. */
export const openOneSplit = { parquet: KINDS.parquet.open, folder: KINDS.folder.open } as const

/**
 * The split of the dataset at `path`: of MNIST's or CIFAR-10's files, of parquet files, of a folder of images; of one
 * parquet file, or of a folder of classes alone, all of it. `what` says as which it was read.
 * Errors: E_USAGE, listing what was looked for, where none or several of them are there; E_DATASET_EMPTY where there is
 * no such split; those of the dataset.
 */
export async function datasetAt(path: string, split: SplitName): Promise<{ what: string; data: NamedDataset }> {
  const stats = await stat(path).catch((error: unknown) =>
    systemCode(error) === "ENOENT"
      ? fail("E_USAGE", `${path}: there is no such file or folder`)
      : readError(error, path),
  )
  if (!stats.isDirectory()) {
    if (!(await isParquet(path))) fail("E_USAGE", `${path}: is no parquet file; ${lookedFor()}`, { file: path })
    return { what: "one parquet file", data: await parquetDataset([path], { name: basename(path) }) }
  }
  const listing = await list(path)
  const found: Kind[] = []
  for (const kind of Object.values(KINDS)) if (await kind.matches(path, listing)) found.push(kind)
  const [kind, ...more] = found
  if (!kind) return fail("E_USAGE", `${path}: no dataset is recognised in it; ${lookedFor()}`, { file: path })
  if (more.length) {
    const names = found.map(({ what }) => what).join("; and ")
    fail("E_USAGE", `${path}: holds more than one dataset: ${names}; name the folder of one`, { file: path })
  }
  return { what: kind.what, data: await kind.open(path, split) }
}

const lookedFor = (): string =>
  `looked for are a parquet file, or a folder with ${Object.values(KINDS)
    .map(({ what }) => what)
    .join("; ")}`

/** One of a dataset's parts. Error: E_DATASET_EMPTY listing those that there are. */
export function splitOf(splits: Splits, split: SplitName, where: string): NamedDataset {
  const text = `no ${split} split; ${splitsFound(Object.keys(splits))}`
  return splits[split] ?? fail("E_DATASET_EMPTY", `${where}: ${text}`)
}

async function list(folder: string): Promise<Listing> {
  const [files, folders]: [string[], string[]] = [[], []]
  for (const name of await namesIn(folder)) {
    const path = join(folder, name)
    const stats = await stat(path).catch((error: unknown) => readError(error, path))
    ;(stats.isDirectory() ? folders : files).push(name)
  }
  return { files, folders }
}

/** Every parquet file begins with these (https://parquet.apache.org/docs/file-format/). */
const MAGIC = "PAR1"

const isParquet = (path: string): Promise<boolean> =>
  withFile(path, async (file) => {
    const first = new Uint8Array(MAGIC.length)
    return (await readFully(file, path, first, 0)) === MAGIC.length && Buffer.from(first).toString("latin1") === MAGIC
  })

/** In the folder, in those below it, or in their folders of splits. */
async function holdsParquet(root: string, { files, folders }: Listing, deeper: boolean): Promise<boolean> {
  if (files.some((name) => name.endsWith(".parquet"))) return true
  for (const name of folders) {
    if (!deeper && roleOf(name) === undefined) continue
    const path = join(root, name)
    const names = await namesIn(path)
    if (names.some((n) => n.endsWith(".parquet"))) return true
    const splits = deeper ? names.filter((n) => roleOf(n) !== undefined) : []
    if (splits.length && (await holdsParquet(path, await list(path), false))) return true
  }
  return false
}

const IMAGE = /\.(png|jpe?g|webp|gif|tiff?)$/i

/** Does a folder, or one of those by split, hold folders of images? */
async function holdsClasses(root: string, { folders }: Listing): Promise<boolean> {
  for (const name of folders) {
    const path = join(root, name)
    const { files, folders: inner } = await list(path)
    if (roleOf(name) === undefined ? files.some((n) => IMAGE.test(n)) : inner.length > 0) return true
  }
  return false
}

/** The split's own folder, whose classes are those of the training split where that is there; or the folder of classes. */
async function openFolder(root: string, split: SplitName): Promise<NamedDataset> {
  const { folders } = await list(root)
  const splits = folders.filter((name) => roleOf(name) !== undefined)
  if (!splits.length) return classFolders(root)
  const named = (role: SplitName) => splits.find((name) => roleOf(name) === role)
  const text = `no ${split} split; ${splitsFound(splits)}`
  const folder = named(split) ?? fail("E_DATASET_EMPTY", `${root}: ${text}`, { file: root })
  const train = named("train")
  const classes = train === undefined ? undefined : (await list(join(root, train))).folders
  return classFolders(join(root, folder), classes, splits)
}
