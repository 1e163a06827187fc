/** @file Folders of images, ROOT/SPLIT/CLASS/IMAGE, as torchvision's ImageFolder reads them
 * (https://docs.pytorch.org/vision/stable/generated/torchvision.datasets.ImageFolder.html). */
import { realpath, stat } from "node:fs/promises"
import { basename, extname, join } from "node:path"
import { fail, listed } from "../errors.ts"
import { readError } from "../files/system-errors.ts"
import { quote } from "../tensor/quote.ts"
import type { Splits } from "./dataset.ts"
import { checkFit, decodeSample, type EncodedDataset, type Fit, fitShape } from "./encoded.ts"
import { checkIndex } from "./held.ts"
import { byRole, type RoleOptions, roleOf, splitsFound } from "./roles.ts"
import { filesFingerprint, namesIn } from "./whole.ts"

const IMAGES: ReadonlySet<string> = new Set([".png", ".jpg", ".jpeg", ".webp", ".gif", ".tif", ".tiff"])
/** Images that are not decoded; leaving them out in silence would change the dataset. */
const OTHER_IMAGES: ReadonlySet<string> = new Set([".bmp", ".ppm", ".pgm", ".avif", ".heic", ".jp2", ".jxl"])

/** Folders below a class folder. */
const MAX_DEPTH = 16

interface Found {
  /** Path below the split's folder. */
  readonly name: string
  readonly size: number
}

const schema = (where: string, what: string): never => fail("E_DATASET_SCHEMA", `${where}: ${what}`, { file: where })

/** The images below `folder`, in byte order at each level. `seen` holds the real folders that were read. */
async function walk(root: string, folder: string, seen: Map<string, string>, depth = 0): Promise<Found[]> {
  const path = join(root, folder)
  const real = await realpath(path).catch((error: unknown) => readError(error, path))
  const before = seen.get(real)
  if (before !== undefined) {
    schema(
      path,
      `is the folder ${quote(before)} again, by a symbolic link; each folder may be reached once: remove the link`,
    )
  }
  if (depth > MAX_DEPTH) schema(path, `lies ${depth} folders below its class, at most ${MAX_DEPTH} are read`)
  seen.set(real, folder)
  const found: Found[] = []
  for (const name of await namesIn(path)) {
    const child = `${folder}/${name}`
    const at = join(root, child)
    const stats = await stat(at).catch((error: unknown) => readError(error, at))
    if (stats.isDirectory()) for (const image of await walk(root, child, seen, depth + 1)) found.push(image)
    else if (isImage(at) && stats.isFile()) found.push({ name: child, size: stats.size })
    else if (isImage(at)) schema(at, "is a pipe or device, not an image file; remove it")
  }
  return found
}

function isImage(path: string): boolean {
  const extension = extname(path).toLowerCase()
  if (OTHER_IMAGES.has(extension)) schema(path, `${extension} images are not decoded; convert it to PNG`)
  return IMAGES.has(extension)
}

interface Split {
  readonly classes: readonly string[]
  readonly files: readonly Found[]
}

/** The images of one of `splits`, of which a dataset needs some. */
async function someSplit(folder: string, splits: Iterable<string>): Promise<Split> {
  const split = await readSplit(folder, splits)
  if (split.files.length) return split
  return fail("E_DATASET_EMPTY", `${folder}: has no images; ${splitsFound(splits)}`, { file: folder })
}

/** The images of one of `splits`. */
async function readSplit(folder: string, splits: Iterable<string>): Promise<Split> {
  const seen = new Map<string, string>()
  const classes: string[] = []
  const files: Found[] = []
  const empty: string[] = []
  for (const name of await namesIn(folder)) {
    const path = join(folder, name)
    if (!(await stat(path).catch((error: unknown) => readError(error, path))).isDirectory()) continue
    const images = await walk(folder, name, seen)
    if (images.length === 0) empty.push(quote(name))
    for (const image of images) files.push(image)
    classes.push(name)
  }
  if (empty.length > 0) {
    const text = `no images of class ${listed(empty)}; ${splitsFound(splits)}`
    fail("E_DATASET_EMPTY", `${folder}: ${text}`, { file: folder })
  }
  const hollow = files.filter(({ size }) => size === 0).map(({ name }) => quote(name))
  if (hollow.length > 0)
    schema(folder, `${hollow.length} image files of 0 bytes: ${listed(hollow)}; remove or replace them`)
  return { classes, files }
}

/** The dataset over one split's files; the class of a file is its first folder. */
async function dataset(root: string, role: string, folder: string, split: Split, classes: readonly string[], fit: Fit) {
  const at = join(root, folder)
  const number = new Map(classes.map((name, i) => [name, i]))
  const unknown = split.classes.filter((name) => !number.has(name)).map(quote)
  if (unknown.length > 0) {
    fail("E_LABEL_RANGE", `${at}: class ${listed(unknown)} is not among the ${classes.length} of the training split`, {
      file: at,
    })
  }
  const labels = split.files.map(({ name }) => number.get(name.slice(0, name.indexOf("/")))!)
  const made: EncodedDataset = {
    name: `folder/${role}`,
    fingerprint: await filesFingerprint(`folder ${JSON.stringify([classes, fit])}`, at, split.files),
    classes,
    length: split.files.length,
    ...fitShape(fit),
    encoded(i) {
      const { name } = split.files[checkIndex(i, made)]!
      return { kind: "file", path: join(at, name), fit, label: labels[i]!, index: i }
    },
    at: async (i) => decodeSample(made.encoded(i)),
  }
  return made
}

/**
 * One split by itself, FOLDER/CLASS/**, read as `imageFolder` does; its classes are `classes`, by default its own folders.
 * `splits` are those that there are, for messages. Errors: those of `imageFolder`.
 */
export async function classFolders(
  folder: string,
  classes?: readonly string[],
  splits: readonly string[] = [],
): Promise<EncodedDataset> {
  const split = await someSplit(folder, splits)
  return dataset(folder, basename(folder), "", split, classes ?? split.classes, {})
}

/**
 * The splits ROOT/{train,test,val}/CLASS/**: PNG, JPEG, WebP, GIF and TIFF, in byte order of their paths; the training
 * split's folders name the classes. Hidden files and files that are no images are left out. Images are decoded when asked
 * for. Errors: E_DATASET_EMPTY (a split, a class or a second class is missing), E_DATASET_SCHEMA (links that lead back,
 * files of 0 bytes, formats that are not decoded), E_LABEL_RANGE for a class unknown in training, E_CONFIG,
 * E_NOT_A_FILE, E_IO.
 */
export async function imageFolder(root: string, { test, ...fit }: Fit & RoleOptions = {}): Promise<Splits> {
  checkFit(fit)
  const folders = new Map<string, string>()
  for (const name of await namesIn(root)) {
    const role = roleOf(name)
    if (role === undefined) continue
    const other = folders.get(role)
    if (other !== undefined) schema(root, `two folders of the ${role} split: ${other} and ${name}; rename one`)
    folders.set(role, name)
  }
  const roles = byRole(folders, root, test === undefined ? {} : { test })
  const { classes, files } = await readSplit(join(root, roles.train), folders.keys())
  if (classes.length < 2) {
    const text = `${classes.length} class folders in ${roles.train}, at least 2 expected; ${splitsFound(folders.keys())}`
    fail("E_DATASET_EMPTY", `${root}: ${text}`, { file: root })
  }
  const other = async (role: "test" | "val", folder: string) => {
    const split = await someSplit(join(root, folder), folders.keys())
    return dataset(root, role, folder, split, classes, fit)
  }
  return {
    train: await dataset(root, "train", roles.train, { classes, files }, classes, fit),
    test: await other("test", roles.test),
    ...(roles.val === undefined ? {} : { val: await other("val", roles.val) }),
  }
}
