/** @file Rows of parquet files, decoded in a process that is ended after 8 s: on damaged files hyparquet may never end, or
 * make arrays that end the process it runs in. */
import { extname } from "node:path"
import { PrismaError } from "../errors.ts"
import { inProcess } from "./carrier.ts"
import { startThread, type Thread } from "./thread.ts"

/** A row group of one file: rows [start, end) of it. */
export interface StoredGroup {
  readonly start: number
  readonly end: number
  /** Bytes of its images. */
  readonly bytes: number
}

/** One row, and the row group in which it lies. */
export interface ParquetRow {
  readonly file: string
  readonly column: string
  readonly row: number
  readonly group: StoredGroup
}

/** What is known of a file before its images are read. */
export interface ParquetFile {
  readonly size: number
  readonly groups: readonly StoredGroup[]
  /** A number or text for each row; null and what is neither is NaN. */
  readonly labels: readonly (number | string)[]
  /** Class names from the metadata that the datasets library writes. */
  readonly classes?: readonly string[]
}

/** The images of a row group one after the other; image i ends at byte `ends[i]`. */
export interface GroupBytes {
  readonly bytes: Uint8Array
  readonly ends: Float64Array
}

export type ParquetRequest =
  | { readonly kind: "open"; readonly file: string; readonly image: string; readonly label: string }
  | { readonly kind: "group"; readonly file: string; readonly column: string; readonly group: StoredGroup }

/** A bad data set may take 10 s in all; a good row group of 128 MiB takes 0.3 s. */
const LIMIT_MS = 8000

/** Heap of the reading process; bytes of images are not on it. */
const HEAP_MIB = 512

/** Bytes of row groups that are kept: somewhat more than the loader shuffles among. */
const KEPT = 160 * 2 ** 20

const DECODER = new URL(`./parquet-process${extname(import.meta.url)}`, import.meta.url)

function lost(request: unknown, late: boolean, what: string): PrismaError {
  const { file } = request as ParquetRequest
  const advice = "the file is damaged or forged: get it again"
  return late
    ? new PrismaError("E_PARQUET_TIMEOUT", `${file}: reading it took longer than ${LIMIT_MS / 1000} s; ${advice}`, {
        file,
      })
    : new PrismaError("E_PARQUET", `${file}: reading it ended its process (${what}); ${advice}`, { file })
}

/** One process, which a file that is made to exhaust memory may end, reads all parquet files of this one or of a thread of
 * the loader. */
let thread: Thread | undefined
const ask = <T>(request: ParquetRequest): Promise<T> =>
  (thread ??= startThread(DECODER, { carry: inProcess, limitMs: LIMIT_MS, heapMiB: HEAP_MIB, lost })).ask<T>(request)

/** Schema, row groups, labels and classes of a file. Errors: E_PARQUET, E_PARQUET_TIMEOUT, E_DATASET_SCHEMA for columns
 * that are not as expected, E_NOT_A_FILE, E_IO. */
export function openParquet(file: string, image: string, label: string): Promise<ParquetFile> {
  // What was read under this name may have been another file.
  for (const [key, group] of kept) if (group.file === file) kept.delete(key)
  return ask({ kind: "open", file, image, label })
}

/** Row groups in the order of their last use, the oldest first. */
const kept = new Map<string, { readonly file: string; readonly bytes: number; readonly data: Promise<GroupBytes> }>()

function groupBytes({ file, column, group }: ParquetRow): Promise<GroupBytes> {
  const key = JSON.stringify([file, column, group.start])
  const data = kept.get(key)?.data ?? ask<GroupBytes>({ kind: "group", file, column, group })
  kept.delete(key)
  kept.set(key, { file, bytes: group.bytes, data })
  let total = [...kept.values()].reduce((sum, { bytes }) => sum + bytes, 0)
  for (const [old, { bytes }] of kept) {
    if (total <= KEPT || old === key) break
    kept.delete(old)
    total -= bytes
  }
  data.catch(() => kept.delete(key))
  return data
}

/** The encoded image of a row. Errors: those of `openParquet`; E_DATASET_SCHEMA where rows of the group have no image,
 * E_CHANGED_DURING_READ where the file is another than it was. */
export async function rowBytes(row: ParquetRow): Promise<Uint8Array> {
  const { bytes, ends } = await groupBytes(row)
  const i = row.row - row.group.start
  return bytes.subarray(i === 0 ? 0 : ends[i - 1]!, ends[i])
}
