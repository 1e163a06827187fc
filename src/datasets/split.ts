/** @file Splits by a seed: made, kept in a file, and searched for images that lie on both sides. */
import { fail, listed } from "../errors.ts"
import { writeFileAtomic } from "../files/atomic.ts"
import { readJson } from "../files/json.ts"
import { quote } from "../tensor/quote.ts"
import { Random } from "../tensor/random.ts"
import type { Dataset, NamedDataset, Sample } from "./dataset.ts"
import { imageHash } from "./fingerprint.ts"
import { checkIndex } from "./held.ts"
import type { RowGroup, Source } from "./loader.ts"
import { sha256 } from "./whole.ts"
import { isRecord } from "../tensor/record.ts"

/** Numbers of samples, ascending; no sample is in two parts, some may be in none. */
export interface Parts {
  readonly train: Uint32Array
  readonly test: Uint32Array
  readonly val?: Uint32Array
}

/** Of a dataset that may be tested on another one. */
export type SomeParts = Pick<Parts, "train"> & Partial<Parts>

export interface SplitOptions {
  readonly seed?: number
  /** Tells splits of one seed apart: the stream is "<name>:split". */
  readonly name?: string
  /** The fractions for testing and validation, rounded up to whole samples. */
  readonly test: number
  readonly val?: number
  /** The label of each sample, to take these fractions of each class. */
  readonly labels?: ArrayLike<number>
}

/** `seed` if it can be one. Error: E_CONFIG. */
export function checkSeed(seed: number, what = "seed"): number {
  if (Number.isSafeInteger(seed) && seed >= 0) return seed
  return fail("E_CONFIG", `${what} must be a whole number from 0 to 2^53 - 1, got ${quote(String(seed))}`)
}

/** All samples in the order in which they are given to the parts. */
export const splitOrder = (length: number, seed: number, name: string): Uint32Array =>
  new Random(seed, `${name}:split`).permutation(length)

/** How many of `n` a fraction is, rounded up. What is above a whole number by rounding alone (0.07 * 100) is that number. */
export const share = (n: number, fraction: number): number =>
  fraction > 0 ? Math.max(1, Math.ceil(n * fraction - 1e-9)) : 0

/** Errors: E_CONFIG for a seed or fractions that are none. */
export function checkFractions({ seed = 0, name = "dataset", test, val = 0 }: SplitOptions): void {
  checkSeed(seed, `${name}: seed`)
  if (Number.isFinite(test) && Number.isFinite(val) && test > 0 && val >= 0 && test + val < 1) return
  const got = `test ${quote(String(test))} and val ${quote(String(val))}`
  fail("E_CONFIG", `${name}: the parts must be fractions, test above 0, together below 1; got ${got}`)
}

/** Error: E_DATASET_EMPTY where of `size` samples none is left for training. */
export function checkSome(size: number, { name = "dataset", test, val = 0 }: SplitOptions, of = ""): void {
  if (share(size, test) + share(size, val) < size) return
  fail("E_DATASET_EMPTY", `${name}: ${size} samples${of}, too few to leave any for training`)
}

/** Parts of the samples 0..length-1. Errors: E_CONFIG; E_DATASET_EMPTY where a part (with `labels`, of any class) has no
 * sample. */
export function splitIndices(length: number, options: SplitOptions): Parts {
  const { seed = 0, name = "dataset", test, val = 0, labels } = options
  checkFractions(options)
  if (!(Number.isInteger(length) && length > 0)) fail("E_DATASET_EMPTY", `${name}: has no samples to split`)
  if (labels && labels.length !== length) {
    fail("E_CONFIG", `${name}: there must be a label for each of ${length} samples, got ${labels.length}`)
  }
  const labelOf = (i: number) => labels?.[i] ?? 0
  const classes = new Map<number, { size: number; given: number }>()
  for (let i = 0; i < length; i++) {
    const known = classes.get(labelOf(i))
    if (known) known.size++
    else classes.set(labelOf(i), { size: 1, given: 0 })
  }
  for (const [label, { size }] of classes) checkSome(size, options, labels ? ` of class ${label}` : "")
  const roles = new Uint8Array(length)
  for (const i of splitOrder(length, seed, name)) {
    const of = classes.get(labelOf(i))!
    const k = of.given++ - share(of.size, test)
    roles[i] = k < 0 ? TEST : k < share(of.size, val) ? VAL : TRAIN
  }
  const both = { train: indicesOf(roles, TRAIN), test: indicesOf(roles, TEST) }
  return val > 0 ? { ...both, val: indicesOf(roles, VAL) } : both
}

const [TRAIN, TEST, VAL] = [0, 1, 2]

/** Where `value` stands, ascending. */
export function indicesOf(values: Uint8Array, value: number): Uint32Array {
  const found = new Uint32Array(values.length)
  let n = 0
  for (let i = 0; i < values.length; i++) if (values[i] === value) found[n++] = i
  return found.slice(0, n)
}

const ROLES = ["train", "test", "val"] as const

/** The parts of one dataset, whose samples are decoded and read as its own. Errors: E_INPUT for a sample that it does not
 * have, E_DATASET_EMPTY for an empty part. */
export function partition<P extends SomeParts>(
  dataset: NamedDataset & Source,
  parts: P,
): { readonly [R in keyof P]: NamedDataset } {
  const part = (role: string, rows: Uint32Array): NamedDataset & Source => {
    if (rows.length === 0) fail("E_DATASET_EMPTY", `${dataset.name}: its ${role} part has no samples`)
    for (const row of rows) checkIndex(row, dataset)
    const of = sha256(dataset.fingerprint, role, new Uint8Array(rows.buffer, rows.byteOffset, rows.byteLength))
    const { classes, shape, groups } = dataset
    const rowOf = (i: number): number => rows[checkIndex(i, made)]!
    const made: NamedDataset & Source = {
      name: `${dataset.name}/${role}`,
      fingerprint: of,
      classes,
      ...(shape && { shape }),
      ...(groups && { groups: groupsOf(groups, rows) }),
      ...(dataset.encoded && { encoded: (i) => dataset.encoded!(rowOf(i)) }),
      length: rows.length,
      at: (i) => dataset.at(rowOf(i)),
    }
    return made
  }
  const made = ROLES.flatMap((role) => (parts[role] ? [[role, part(role, parts[role])] as const] : []))
  return Object.fromEntries(made) as { [R in keyof P]: NamedDataset }
}

/** The groups as far as they have rows of a part, in that part's numbers; their bytes are read whole all the same. */
function groupsOf(groups: readonly RowGroup[], rows: Uint32Array): RowGroup[] {
  let next = 0
  return groups.flatMap(({ end, bytes }) => {
    const start = next
    while (next < rows.length && rows[next]! < end) next++
    return next > start ? [{ start, end: next, bytes }] : []
  })
}

/** What a split's file says besides its parts, and of which dataset. */
const FORMAT = "vit-prisma/split/1"

type Known = Pick<NamedDataset, "name" | "fingerprint" | "length">

/** Write `parts` of `dataset` into a JSON file: a bit for each sample and part, in base64 (60,000 samples: 20 kB).
 * Errors: E_INPUT for a sample that the dataset does not have; E_OUTPUT, E_DISK_FULL, E_IO. */
export async function saveSplit(file: string, dataset: Known, parts: SomeParts): Promise<void> {
  const { name, fingerprint, length } = dataset
  const bits = ROLES.flatMap((role) => {
    const rows = parts[role]
    return rows ? [[role, packed(rows, dataset)] as const] : []
  })
  const json = { format: FORMAT, dataset: name, fingerprint, length, parts: Object.fromEntries(bits) }
  await writeFileAtomic(file, `${JSON.stringify(json, null, 2)}\n`)
}

function packed(rows: Uint32Array, dataset: Known): string {
  const bytes = new Uint8Array(Math.ceil(dataset.length / 8))
  for (const row of rows) bytes[checkIndex(row, dataset) >> 3]! |= 1 << (row & 7)
  return Buffer.from(bytes).toString("base64")
}

/** Room for a hundred million samples; the file of dSprites takes 250 kB. */
const FILE = { limit: 2 ** 25, depth: 3, malformed: "E_DATASET_SCHEMA", tooLarge: "E_DATASET_SCHEMA" } as const

/** The parts that `saveSplit` wrote. Errors: E_DATASET_SCHEMA; E_INTEGRITY where they are of other data than `dataset`;
 * E_NOT_A_FILE, E_IO. */
export async function readSplit(file: string, dataset: Known): Promise<SomeParts> {
  const json = record(await readJson(file, FILE), file, "the file")
  const got = json.get("format")
  if (got !== FORMAT) schema(file, `format must be "${FORMAT}", got ${quote(String(got))}`)
  for (const key of ["fingerprint", "length"] as const) {
    if (json.get(key) === dataset[key]) continue
    const text = `was made of another dataset than ${dataset.name}: ${key} ${quote(String(json.get(key)))}`
    fail("E_INTEGRITY", `${file}: ${text}, expected ${quote(String(dataset[key]))}; make the split again`, { file })
  }
  const stored = record(json.get("parts"), file, "parts")
  const unknown = [...stored.keys()].filter((key) => !ROLES.some((role) => role === key))
  if (unknown.length > 0) schema(file, `parts must be train, test and val, got ${listed(unknown.map((k) => quote(k)))}`)
  const seen = new Uint8Array(dataset.length)
  const part = (role: string) => unpacked(stored.get(role), dataset.length, seen, `${file}: part ${role}`, file)
  const train = part("train")
  const val = stored.has("val") ? { val: part("val") } : {}
  return { train, ...((stored.has("test") || !stored.has("val")) && { test: part("test") }), ...val }
}

const schema = (file: string, what: string): never => fail("E_DATASET_SCHEMA", `${file}: ${what}`, { file })

function record(value: unknown, file: string, what: string): Map<string, unknown> {
  return isRecord(value) ? new Map(Object.entries(value)) : schema(file, `${what} must be a JSON object`)
}

function unpacked(text: unknown, length: number, seen: Uint8Array, what: string, file: string): Uint32Array {
  const bytes = Buffer.from(typeof text === "string" ? text : "", "base64")
  if (bytes.length !== Math.ceil(length / 8) || bytes.toString("base64") !== text) {
    fail("E_DATASET_SCHEMA", `${what} must be ${length} bits in base64`, { file })
  }
  const rows: number[] = []
  for (let row = 0; row < bytes.length * 8; row++) {
    if (!((bytes[row >> 3]! >> (row & 7)) & 1)) continue
    if (row >= length) fail("E_DATASET_SCHEMA", `${what} has sample ${row} of ${length}`, { file })
    if (seen[row]!++) fail("E_DATASET_SCHEMA", `${what} has sample ${row}, which is in another part too`, { file })
    rows.push(row)
  }
  if (rows.length === 0) fail("E_DATASET_EMPTY", `${what} has no samples`, { file })
  return Uint32Array.from(rows)
}

/** Two samples with one image: number `a` of the first dataset, `b` of the second. */
export interface Twin {
  readonly a: number
  readonly b: number
  readonly sameLabel: boolean
}

const labelText = ({ label }: Sample): string => JSON.stringify(label)

/** Every image of `b` that is also in `a`, with the first place where: what a model is tested on and has seen. */
export async function leaks(a: Dataset, b: Dataset): Promise<Twin[]> {
  const known = new Map<string, { readonly at: number; readonly label: string }>()
  for (let i = 0; i < a.length; i++) {
    const sample = await a.at(i)
    const hash = imageHash(sample)
    if (!known.has(hash)) known.set(hash, { at: i, label: labelText(sample) })
  }
  const found: Twin[] = []
  for (let i = 0; i < b.length; i++) {
    const sample = await b.at(i)
    const twin = known.get(imageHash(sample))
    if (twin) found.push({ a: twin.at, b: i, sameLabel: twin.label === labelText(sample) })
  }
  return found
}

/** Every image of `dataset` that came before (at `a`); those not of `sameLabel` cannot all be learned. */
export async function duplicates(dataset: Dataset): Promise<Twin[]> {
  return (await leaks(dataset, dataset)).filter(({ a, b }) => a !== b)
}
