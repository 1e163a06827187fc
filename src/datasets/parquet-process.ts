/** @file The process in which parquet files are read; the only import of hyparquet (https://parquet.apache.org/docs/file-format). */
import {
  type AsyncBuffer,
  type ColumnMetaData,
  type Compressors,
  type FileMetaData,
  parquetMetadataAsync,
  type ParquetScan,
  parquetScan,
  parquetSchema,
  type SchemaTree,
} from "hyparquet"
import { compressors, decompressZstd } from "hyparquet-compressors"
import { fail, listed, PrismaError } from "../errors.ts"
import { readFully, withFile } from "../files/read.ts"
import { quote } from "../tensor/quote.ts"
import type { GroupBytes, ParquetFile, ParquetRequest, StoredGroup } from "./parquet-rows.ts"
import { serve } from "./thread.ts"

/** Largest page and row group, in bytes; those of ImageNet-1k on the Hub have 12 MB. */
const MAX_BYTES = 2 ** 29

/** Rows of one row group; a page of a few bytes can claim 2^31 of them. */
const MAX_ROWS = 2 ** 20

const ADVICE = "the file is damaged or forged: get it again"
const bad = (file: string, what: string, cause?: unknown): never =>
  fail("E_PARQUET", `${file}: parquet: ${what}; ${ADVICE}`, { file, cause })

/** The decompressors, none of which may make more than a page can have. */
const BOUNDED = Object.fromEntries(
  Object.entries({
    ...compressors,
    ZSTD: (bytes: Uint8Array, n: number) => decompressZstd(bytes, new Uint8Array(n)),
  }).map(([codec, decompress]) => [
    codec,
    (bytes: Uint8Array, n: number) => {
      if (n < 0 || n > MAX_BYTES) throw new Error(`page of ${n} bytes, at most ${MAX_BYTES} are read`)
      return decompress(bytes, n)
    },
  ]),
) as Compressors

/** The file as hyparquet reads it: opened for each piece, so that nothing has to be closed. */
const pieces = (file: string, size: number): AsyncBuffer => ({
  byteLength: size,
  slice: (start, end = size) =>
    withFile(file, async (handle, now) => {
      if (now !== size) fail("E_CHANGED_DURING_READ", `${file}: changed while it was read; try again`, { file })
      if (!(start >= 0 && start <= end && end <= size && end - start <= MAX_BYTES)) {
        throw new Error(`bytes ${start} to ${end} of ${size} are not there`)
      }
      const bytes = new Uint8Array(end - start)
      await readFully(handle, file, bytes, start)
      return bytes.buffer
    }),
})

interface Opened {
  readonly size: number
  readonly metadata: FileMetaData
  readonly buffer: AsyncBuffer
}

async function open(file: string): Promise<Opened> {
  const size = await withFile(file, async (handle, size) => {
    const ends = [new Uint8Array(4), new Uint8Array(8)] as const
    if (size < 12) bad(file, `has ${size} bytes, at least 12 expected`)
    await readFully(handle, file, ends[0], 0)
    await readFully(handle, file, ends[1], size - 8)
    const [head, tail] = [Buffer.from(ends[0]), Buffer.from(ends[1])]
    for (const [where, magic] of [
      ["begins", head],
      ["ends", tail.subarray(4)],
    ] as const) {
      if (magic.toString("latin1") !== "PAR1")
        bad(file, `${where} with ${magic.toString("hex")}, expected PAR1 (50415231)`)
    }
    const footer = tail.readUInt32LE(0)
    if (footer > size - 12) bad(file, `footer of ${footer} bytes in a file of ${size}`)
    return size
  })
  const buffer = pieces(file, size)
  const metadata = await parquetMetadataAsync(buffer, { geoparquet: false })
  const untyped = metadata.schema.slice(1).find(({ type, num_children }) => type === undefined && !num_children)
  if (untyped) bad(file, `column ${quote(untyped.name)} has no type that there is`)
  return { size, buffer, metadata }
}

/** The last few files, so that a row group is read without its file's metadata being read again. */
const recent = new Map<string, Promise<Opened>>()
const RECENT = 16

function opened(file: string): Promise<Opened> {
  const found = recent.get(file) ?? open(file)
  recent.delete(file)
  recent.set(file, found)
  if (recent.size > RECENT) recent.delete(recent.keys().next().value!)
  found.catch(() => recent.delete(file))
  return found
}

const leaf = (node: SchemaTree | undefined, types: readonly string[]): boolean =>
  node !== undefined &&
  node.children.length === 0 &&
  node.element.repetition_type !== "REPEATED" &&
  types.includes(node.element.type ?? "")

const LABELS = ["INT32", "INT64", "FLOAT", "DOUBLE", "BOOLEAN", "BYTE_ARRAY"]

/** Both columns are there and can be what they are asked to be. */
function checkColumns(file: string, metadata: FileMetaData, image: string, label: string): void {
  const columns = parquetSchema(metadata).children
  const find = (name: string): SchemaTree => {
    const found = columns.filter(({ element }) => element.name === name)
    if (found.length === 1) return found[0]!
    const names = listed(columns.map(({ element }) => quote(element.name)))
    const text = `${found.length ? "two columns" : "no column"} ${quote(name)}, it has ${names}; name the column by an option`
    return fail("E_DATASET_SCHEMA", `${file}: ${text}`, { file })
  }
  const node = find(image)
  const struct = node.element.repetition_type !== "REPEATED" && node.children.every((c) => leaf(c, ["BYTE_ARRAY"]))
  const bytes =
    node.children.length > 0
      ? struct && node.children.some((c) => c.element.name === "bytes")
      : leaf(node, ["BYTE_ARRAY"])
  if (!bytes) {
    const text = `column ${quote(image)} must be bytes or a struct of bytes and path, as the datasets library writes images`
    fail("E_DATASET_SCHEMA", `${file}: ${text}`, { file })
  }
  if (!leaf(find(label), LABELS)) {
    fail("E_DATASET_SCHEMA", `${file}: column ${quote(label)} must hold one number or text a row`, { file })
  }
}

/** The row groups, after a check that each column has one value a row and lies in the file. */
function rowGroups(file: string, { metadata, size }: Opened, image: string, label: string): StoredGroup[] {
  let start = 0
  const groups = metadata.row_groups.map(({ num_rows, columns }, g) => {
    const rows = Number(num_rows)
    if (!(rows >= 0 && rows <= MAX_ROWS)) bad(file, `row group ${g} of ${rows} rows, at most ${MAX_ROWS} are read`)
    const of = (name: string): ColumnMetaData[] =>
      columns.flatMap(({ meta_data }) => (meta_data?.path_in_schema[0] === name ? [meta_data] : []))
    for (const { num_values, path_in_schema, total_compressed_size } of [...of(image), ...of(label)]) {
      const column = quote(path_in_schema.join("."))
      if (Number(num_values) !== rows)
        bad(file, `row group ${g}: column ${column} has ${num_values} values for ${rows} rows`)
      if (total_compressed_size > size) bad(file, `row group ${g}: column ${column} of ${total_compressed_size} bytes`)
    }
    const bytes = of(image).reduce((sum, { total_uncompressed_size: n }) => sum + Number(n), 0)
    if (!(bytes >= 0 && bytes <= MAX_BYTES))
      bad(file, `row group ${g} has ${bytes} bytes, at most ${MAX_BYTES} are read`)
    start += rows
    return { start: start - rows, end: start, bytes }
  })
  if (start !== Number(metadata.num_rows))
    bad(file, `${start} rows in its row groups, ${metadata.num_rows} in its footer`)
  return groups.filter(({ start, end }) => end > start)
}

/** `dataset_info.features.COLUMN.names` of a ClassLabel, as the datasets library stores it. */
function classNames(file: string, { key_value_metadata }: FileMetaData, label: string): { classes?: string[] } {
  const text = key_value_metadata?.find(({ key }) => key === "huggingface")?.value
  if (text === undefined) return {}
  let names: unknown
  try {
    const known = JSON.parse(text) as {
      info?: { features?: Record<string, { _type?: unknown; names?: unknown }> }
    } | null
    const features = new Map(Object.entries(known?.info?.features ?? {}))
    const feature = features.get(label)
    if (feature?._type !== "ClassLabel") return {}
    names = feature.names
  } catch (cause) {
    return bad(file, "its huggingface metadata is not JSON", cause)
  }
  const classes: readonly unknown[] = Array.isArray(names) ? names : []
  const good = classes.length > 0 && classes.every((name) => typeof name === "string")
  if (good && new Set(classes).size === classes.length) return { classes: classes as string[] }
  return fail("E_DATASET_SCHEMA", `${file}: class names of ${quote(label)} must be distinct texts`, { file })
}

const scanOf = ({ buffer, metadata }: Opened, column: string): Promise<ParquetScan> =>
  parquetScan({
    file: buffer,
    metadata,
    columns: [column],
    compressors: BOUNDED,
    utf8: false, // the bytes of images carry no mark that tells them from text
    useOffsetIndex: false,
  })

/** The values of one column in rows [start, end), which are a row group. */
async function values(
  file: string,
  scan: ParquetScan,
  column: string,
  { start, end }: StoredGroup,
): Promise<unknown[]> {
  const data = await scan.readColumn({ column, rowStart: start, rowEnd: end })
  if (data.length !== end - start) bad(file, `${data.length} values of ${quote(column)} in rows ${start} to ${end - 1}`)
  return Array.from(data as ArrayLike<unknown>)
}

const decoder = new TextDecoder()

/** What stands for a class: a number, or text. */
function labelOf(value: unknown): number | string {
  if (typeof value === "number" || typeof value === "string") return value
  if (typeof value === "bigint" || typeof value === "boolean") return Number(value)
  return value instanceof Uint8Array ? decoder.decode(value) : NaN
}

async function openFile(file: string, image: string, label: string): Promise<ParquetFile> {
  recent.delete(file) // it may be another file by now
  const it = await opened(file)
  checkColumns(file, it.metadata, image, label)
  const groups = rowGroups(file, it, image, label)
  const scan = await scanOf(it, label)
  const labels: (number | string)[] = []
  for (const group of groups) {
    for (const value of await values(file, scan, label, group)) labels.push(labelOf(value))
  }
  return { size: it.size, groups, labels, ...classNames(file, it.metadata, label) }
}

/** What an image column may hold instead of an image. */
function missing(value: unknown): string | undefined {
  if (value instanceof Uint8Array) return value.length > 0 ? undefined : "no bytes"
  if (value === null || value === undefined) return "null"
  const { bytes, path } = value as { bytes?: unknown; path?: unknown }
  if (bytes instanceof Uint8Array && bytes.length > 0) return undefined
  return path === null || path === undefined ? "no bytes" : "a path without bytes"
}

async function readGroup(file: string, column: string, group: StoredGroup): Promise<GroupBytes> {
  const all = await values(file, await scanOf(await opened(file), column), column, group)
  const without = all.flatMap((value, i) => (missing(value) ? [`${group.start + i} (${missing(value)})`] : []))
  if (without.length > 0) {
    const text = `no image in column ${quote(column)} of row ${listed(without)}; files that paths name are not read`
    fail("E_DATASET_SCHEMA", `${file}: ${text}: write the images into the parquet file`, { file })
  }
  const images = all.map((value) => (value instanceof Uint8Array ? value : (value as { bytes: Uint8Array }).bytes))
  const total = images.reduce((sum, { length }) => sum + length, 0)
  if (total > MAX_BYTES)
    bad(file, `rows ${group.start} to ${group.end - 1} have ${total} bytes, at most ${MAX_BYTES} are read`)
  const bytes = new Uint8Array(total)
  let at = 0
  const ends = Float64Array.from(images, (image) => {
    bytes.set(image, at)
    return (at += image.length)
  })
  return { bytes, ends }
}

/** hyparquet's own errors, of every class, are E_PARQUET. */
const guarded = async <T>(file: string, work: Promise<T>): Promise<T> =>
  work.catch((error: unknown) => {
    if (error instanceof PrismaError) throw error
    return bad(file, error instanceof Error ? error.message : String(error), error)
  })

serve(async (given) => {
  const request = given as ParquetRequest
  const { file } = request
  if (request.kind === "open") return [await guarded(file, openFile(file, request.image, request.label)), []]
  const found = await guarded(file, readGroup(file, request.column, request.group))
  return [found, [found.bytes.buffer as ArrayBuffer, found.ends.buffer as ArrayBuffer]]
})
