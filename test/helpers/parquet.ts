/** @file Small parquet files put together field by field (https://parquet.apache.org/docs/file-format), so that any of it can be wrong. */

/** A value in Thrift's compact protocol. */
type Thrift =
  | { readonly i: number; readonly wide?: boolean }
  | { readonly s: string }
  | { readonly list: readonly Thrift[] }
  | { readonly struct: Readonly<Record<number, Thrift | undefined>> }

const i = (value: number): Thrift => ({ i: value })
/** An integer of 64 bits. */
const l = (value: number): Thrift => ({ i: value, wide: true })
const s = (text: string): Thrift => ({ s: text })
const list = (...items: readonly Thrift[]): Thrift => ({ list: items })
const struct = (fields: Readonly<Record<number, Thrift | undefined>>): Thrift => ({ struct: fields })

function varint(n: number): number[] {
  const bytes = []
  for (; n >= 128; n = Math.floor(n / 128)) bytes.push((n % 128) | 128)
  return [...bytes, n]
}

const kind = (value: Thrift): number =>
  "i" in value ? (value.wide ? 6 : 5) : "s" in value ? 8 : "list" in value ? 9 : 12

function thrift(value: Thrift): number[] {
  if ("i" in value) return varint(value.i >= 0 ? 2 * value.i : -2 * value.i - 1)
  if ("s" in value) return [...varint(value.s.length), ...Buffer.from(value.s)]
  if ("list" in value) {
    const of = kind(value.list[0] ?? i(0))
    return [0xf0 | of, ...varint(value.list.length), ...value.list.flatMap(thrift)]
  }
  const bytes = []
  let last = 0
  for (const [key, field] of Object.entries(value.struct)) {
    if (field === undefined) continue
    bytes.push(((Number(key) - last) << 4) | kind(field), ...thrift(field))
    last = Number(key)
  }
  return [...bytes, 0]
}

export const INT32 = 1
export const BYTE_ARRAY = 6
const [PLAIN, RLE, RLE_DICTIONARY] = [0, 3, 8]

export const int32s = (...values: readonly number[]): Buffer => Buffer.from(Int32Array.from(values).buffer)

export const byteArrays = (...values: readonly Uint8Array[]): Buffer =>
  Buffer.concat(values.flatMap((value) => [int32s(value.length), value]))

export interface Page {
  readonly bytes: Uint8Array
  /** What its header says it holds. */
  readonly values: number
  readonly dictionary?: boolean
  /** Are its values indexes of a dictionary? */
  readonly indexes?: boolean
}

export interface Column {
  readonly path: readonly string[]
  readonly type: number
  readonly pages: readonly Page[]
  /** What the footer says it holds. */
  readonly values: number
}

const page = ({ bytes, values, dictionary = false, indexes = false }: Page): Buffer => {
  const size = i(bytes.length)
  const said = struct({ 1: i(values), 2: i(indexes ? RLE_DICTIONARY : PLAIN), 3: i(RLE), 4: i(RLE) })
  const header = dictionary
    ? struct({ 1: i(2), 2: size, 3: size, 7: struct({ 1: i(values), 2: i(PLAIN) }) })
    : struct({ 1: i(0), 2: size, 3: size, 5: said })
  return Buffer.concat([Buffer.from(thrift(header)), bytes])
}

export interface Element {
  readonly name: string
  readonly type?: number
  /** 0 required, 1 optional, 2 repeated. */
  readonly repetition?: number
  readonly children?: number
}

/** A file of one row group, uncompressed. */
export function parquet(schema: readonly Element[], rows: number, columns: readonly Column[]): Buffer {
  const parts: Buffer[] = [Buffer.from("PAR1")]
  let at = 4
  const chunks = columns.map(({ path, type, pages, values }) => {
    const bytes = pages.map(page)
    const size = bytes.reduce((n, { length }) => n + length, 0)
    const data = at + (pages[0]?.dictionary ? bytes[0]!.length : 0)
    const about = {
      1: i(type),
      2: list(i(PLAIN)),
      3: list(...path.map(s)),
      4: i(0),
      5: l(values),
      6: l(size),
      7: l(size),
    }
    const metadata = struct({ ...about, 9: l(data), 11: pages[0]?.dictionary ? l(at) : undefined })
    const chunk = struct({ 2: l(at), 3: metadata })
    parts.push(...bytes)
    at += size
    return chunk
  })
  const elements = schema.map(({ name, type, repetition, children }) =>
    struct({
      1: type === undefined ? undefined : i(type),
      3: repetition === undefined ? undefined : i(repetition),
      4: s(name),
      5: children === undefined ? undefined : i(children),
    }),
  )
  const group = struct({ 1: list(...chunks), 2: l(at), 3: l(rows) })
  const footer = Buffer.from(thrift(struct({ 1: i(1), 2: list(...elements), 3: l(rows), 4: list(group) })))
  return Buffer.concat([...parts, footer, int32s(footer.length), Buffer.from("PAR1")])
}
