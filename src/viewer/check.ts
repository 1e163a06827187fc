/** @file Is this JSON a view? Every field, every shape and every packed number is looked at before anything is drawn of it. */
import { fail } from "../errors.ts"
import { quote } from "../tensor/quote.ts"
import { tokensOf, VIEW_FORMAT, VIEW_VERSION, type Numbers, type View } from "./data.ts"
import { inflated, numbersOf } from "./decode.ts"
import { planes } from "./pattern.ts"

/** Refuses `value`, which stands at `at` of the document, by throwing. */
type Check = (value: unknown, at: string) => void

/** More of one kind than any page shows. */
const MOST = 100_000
/** Tokens: a kept patch's place is a uint16. */
const MOST_TOKENS = 65_536
/** Unpacked bytes of one view. */
const MOST_BYTES = 2 ** 30
/** Side of an image in pixels. */
const MOST_PIXELS = 16_384

const refuse = (at: string, wanted: string, got: string): never =>
  fail("E_INPUT", `${at} must be ${wanted}, got ${got}`)

const bad = (at: string, wanted: string, got: unknown): never => refuse(at, wanted, described(got))

function described(got: unknown): string {
  if (typeof got === "string") return quote(got)
  if (got === null || typeof got === "number" || typeof got === "boolean") return String(got)
  return Array.isArray(got) ? "an array" : typeof got
}

const text: Check = (v, at) => void (typeof v === "string" || bad(at, "a string", v))
const finite: Check = (v, at) => void ((typeof v === "number" && Number.isFinite(v)) || bad(at, "a finite number", v))
const whole =
  (least: number, most: number): Check =>
  (v, at) =>
    void (
      (Number.isInteger(v) && (v as number) >= least && (v as number) <= most) ||
      bad(at, `a whole number from ${least} to ${most}`, v)
    )
const oneOf =
  (...values: readonly (string | number)[]): Check =>
  (v, at) =>
    void (values.includes(v as string) || bad(at, values.map((x) => JSON.stringify(x)).join(" or "), v))
const list =
  (item: Check, least = 0, most = MOST): Check =>
  (v, at) => {
    if (!Array.isArray(v) || v.length < least || v.length > most) bad(at, `a list of ${least} to ${most}`, v)
    ;(v as unknown[]).forEach((x, i) => item(x, `${at}[${i}]`))
  }
const pair: Check = (v, at) => {
  list(finite, 2, 2)(v, at)
  const [low, high] = v as [number, number]
  if (low > high) refuse(at, "[low, high]", `[${low}, ${high}]`)
}
const base64: Check = (v, at) => {
  if (typeof v !== "string" || v.length % 4 || !/^[A-Za-z0-9+/]*={0,2}$/.test(v))
    refuse(at, "base64", typeof v === "string" ? "other text" : typeof v)
}
const rising: Check = (v, at) => {
  list(whole(-1, MOST))(v, at)
  const numbers = v as number[]
  if (numbers.some((n, i) => i > 0 && n <= numbers[i - 1]!)) refuse(at, "a rising list", "one that is not")
}
const uri: Check = (v, at) => {
  const head = typeof v === "string" ? /^data:image\/(?:png|jpeg|webp);base64,/.exec(v)?.[0] : undefined
  if (head === undefined)
    refuse(at, "a data URI of a PNG, JPEG or WebP image in base64", typeof v === "string" ? "other text" : typeof v)
  base64((v as string).slice(head?.length), at)
}

/** An object with all of these fields and any of those, and no others. */
const record =
  (fields: Readonly<Record<string, Check>>, optional: Readonly<Record<string, Check>> = {}): Check =>
  (v, at) => {
    if (typeof v !== "object" || v === null || Array.isArray(v)) bad(at, "an object", v)
    const given = new Map(Object.entries(v as object))
    const known = { ...fields, ...optional }
    for (const name of given.keys()) {
      if (!Object.hasOwn(known, name))
        fail("E_INPUT", `${at} has ${quote(name)}, which is no field of a view (docs/viewer.md)`)
    }
    for (const name of Object.keys(fields)) if (!given.has(name)) fail("E_INPUT", `${at}.${name} is missing`)
    for (const [name, check] of Object.entries(known)) if (given.has(name)) check(given.get(name), `${at}.${name}`)
  }

const kind = oneOf("sequential", "diverging")
const axis = oneOf("layer", "head", "token")
const numbers: Check = record({
  shape: list(whole(0, MOST_BYTES), 1, 4),
  data: (v, at) =>
    typeof v === "string" ? base64(v, at) : list((x, here) => x === null || finite(x, here), 0, MOST_BYTES)(v, at),
})
const image = record(
  { name: text, source: uri, width: whole(1, MOST_PIXELS), height: whole(1, MOST_PIXELS) },
  {
    predictions: list(record({ label: text, score: finite }, { logit: finite })),
    attention: record({
      heads: list(whole(0, MOST), 1),
      layers: list(
        record({
          layer: whole(0, MOST),
          queries: oneOf("all", "special"),
          keep: whole(0, MOST_TOKENS),
          unit: (v, at) => (finite(v, at), (v as number) >= 1 || bad(at, "1 or more", v)),
          data: base64,
        }),
      ),
    }),
    overlays: list(
      record(
        { name: text, kind, values: numbers },
        {
          layers: rising,
          units: text,
          range: pair,
          labels: record({ names: list(text), index: numbers }, { glyphs: list(text) }),
        },
      ),
    ),
  },
)
const view = record(
  {
    format: oneOf(VIEW_FORMAT),
    version: oneOf(VIEW_VERSION),
    title: text,
    grid: list(whole(1, MOST_TOKENS), 2, 2),
    special: list(text, 0, 64),
    images: list(image, 1, 256),
  },
  {
    model: text,
    notes: list(text),
    tables: list(
      record(
        { name: text, rows: list(record({ name: text, value: finite }, { note: text })) },
        { units: text, image: whole(0, 255) },
      ),
    ),
    matrices: list(
      record(
        { name: text, kind, rows: list(text, 1), columns: list(text, 1), values: numbers },
        {
          units: text,
          image: whole(0, 255),
          rowAxis: axis,
          columnAxis: axis,
          rowNumbers: list(whole(-1, MOST_TOKENS)),
          columnNumbers: list(whole(-1, MOST_TOKENS)),
          range: pair,
        },
      ),
    ),
  },
)

/** The view that this JSON is. Error: E_INPUT, which begins with `name` and says where it is none. */
export function checkView(json: unknown, name = "view"): View {
  view(json, name)
  const checked = json as View
  const [t, p] = [tokensOf(checked), checked.grid[0] * checked.grid[1]]
  if (t > MOST_TOKENS) bad(`${name}.grid`, `of at most ${MOST_TOKENS} tokens`, t)
  let room = MOST_BYTES
  const take = (bytes: number, at: string) => {
    room -= bytes
    if (room < 0) fail("E_INPUT", `${at}: the view unpacks to more than ${MOST_BYTES} bytes; show less in it`)
  }
  const shaped = (numbers: Numbers, shape: readonly number[], at: string) => {
    if (numbers.shape.join() !== shape.join())
      refuse(`${at}.shape`, `[${shape.join(", ")}]`, `[${numbers.shape.join(", ")}]`)
    take(4 * shape.reduce((a, b) => a * b, 1), at)
    numbersOf(numbers, at)
  }
  const ofImage = (n: number | undefined, at: string) => {
    if (n !== undefined && n >= checked.images.length) bad(`${at}.image`, `below ${checked.images.length}`, n)
  }
  checked.images.forEach(({ attention, overlays = [] }, i) => {
    attention?.layers.forEach(({ layer, queries, keep, data }, l) => {
      const at = `${name}.images[${i}].attention.layers[${l}]`
      if (l > 0 && layer <= attention.layers[l - 1]!.layer) bad(`${at}.layer`, "above the one before", layer)
      if (keep > p) bad(`${at}.keep`, `at most ${p}, the number of patches`, keep)
      const rows = queries === "all" ? t : checked.special.length
      const shape = { heads: attention.heads.length, queries: rows, special: checked.special.length, patches: p, keep }
      const { bytes, index, dense } = planes(shape)
      take(bytes, at)
      const words = inflated(data, bytes, `${at}.data`)
      for (let b = index; b < dense; b += 2) {
        const patch = words[b]! + 256 * words[b + 1]!
        if (patch >= p) bad(`${at}.data`, `of patches below ${p}`, patch)
      }
    })
    overlays.forEach(({ values, layers, labels }, o) => {
      const at = `${name}.images[${i}].overlays[${o}]`
      const shape = [layers?.length ?? 1, values.shape[1] === t ? t : p]
      shaped(values, shape, `${at}.values`)
      if (labels) shaped(labels.index, shape, `${at}.labels.index`)
    })
  })
  checked.tables?.forEach((table, i) => ofImage(table.image, `${name}.tables[${i}]`))
  checked.matrices?.forEach(({ image, rows, columns, values, rowNumbers, columnNumbers }, i) => {
    const at = `${name}.matrices[${i}]`
    ofImage(image, at)
    shaped(values, [rows.length, columns.length], `${at}.values`)
    if (rowNumbers && rowNumbers.length !== rows.length)
      bad(`${at}.rowNumbers`, `${rows.length} numbers`, rowNumbers.length)
    if (columnNumbers && columnNumbers.length !== columns.length) {
      bad(`${at}.columnNumbers`, `${columns.length} numbers`, columnNumbers.length)
    }
  })
  return checked
}
