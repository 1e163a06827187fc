/**
 * @file What a head that does one simple thing would look at: each detector is a relation from a query's patch to keys.
 *
 * With A a head's pattern [query, key] and keys(q) the tokens that a detector names, its score is the mean over the
 * patches q for which keys(q) is not empty of sum over k in keys(q) of A[q, k]: the share of attention that the relation
 * explains, in [0, 1]. A head that looks everywhere alike has the mean of |keys(q)| / T, the score by chance.
 */
import { fail } from "../../errors.ts"
import type { Tensor } from "../../tensor/tensor.ts"
import type { TokenLayout } from "./tokens.ts"

/** Tokens that query patch `q` (0 to P - 1, row by row) would look at; tokens count the prefix, so that patch k is p + k. */
export type Relation = (q: number, about: Content) => readonly number[]

/** What a relation may ask of one image. */
export interface Content {
  readonly layout: TokenLayout
  /** Do two patches look the same? */
  readonly same: (a: number, b: number) => boolean
}

export interface Detector {
  readonly what: string
  readonly keys: Relation
  /** Depends on what an image shows, and so is asked again for each. */
  readonly ofContent?: boolean
}

const token = ({ layout }: Content, patch: number): number => layout.nPrefix + patch
const patchesWhere = (about: Content, test: (k: number) => boolean): number[] => {
  const found: number[] = []
  for (let k = 0; k < about.layout.nPatches; k++) if (test(k)) found.push(token(about, k))
  return found
}
const isBorder = ({ grid: [rows, columns] }: TokenLayout, k: number): readonly [inRow: boolean, inColumn: boolean] => {
  const [y, x] = [Math.floor(k / columns), k % columns]
  return [y === 0 || y === rows - 1, x === 0 || x === columns - 1]
}

/** Previous and next go along the rows, from the end of one to the beginning of the next, as the tokens do. */
export const DETECTORS = {
  self: { what: "its own patch", keys: (q, about) => [token(about, q)] },
  previous: { what: "the patch before it", keys: (q, about) => (q > 0 ? [token(about, q - 1)] : []) },
  next: {
    what: "the patch after it",
    keys: (q, about) => (q + 1 < about.layout.nPatches ? [token(about, q + 1)] : []),
  },
  local: {
    what: "its own patch and the eight around it",
    keys: (q, about) => {
      const [rows, columns] = about.layout.grid
      const [y, x] = [Math.floor(q / columns), q % columns]
      const near = [-1, 0, 1].flatMap((dy) => [-1, 0, 1].map((dx) => [y + dy, x + dx] as const))
      return near
        .filter(([r, c]) => r >= 0 && r < rows && c >= 0 && c < columns)
        .map(([r, c]) => token(about, r * columns + c))
    },
  },
  row: {
    what: "its row",
    keys: (q, about) => {
      const [, columns] = about.layout.grid
      return patchesWhere(about, (k) => Math.floor(k / columns) === Math.floor(q / columns))
    },
  },
  column: {
    what: "its column",
    keys: (q, about) => patchesWhere(about, (k) => (k - q) % about.layout.grid[1] === 0),
  },
  class: { what: "class and distillation token", keys: (_, { layout }) => layout.classTokens },
  register: { what: "registers", keys: (_, { layout }) => layout.registers },
  corner: {
    what: "the four corners",
    keys: (_, about) => patchesWhere(about, (k) => isBorder(about.layout, k).every(Boolean)),
  },
  border: {
    what: "the patches at the edge of the image",
    keys: (_, about) => patchesWhere(about, (k) => isBorder(about.layout, k).some(Boolean)),
  },
  content: {
    what: "other patches that look the same",
    keys: (q, about) => patchesWhere(about, (k) => k !== q && about.same(q, k)),
    ofContent: true,
  },
  induction: {
    what: "the patch after another that looks the same",
    keys: (q, about) => patchesWhere(about, (k) => k > 0 && k !== q && k - 1 !== q && about.same(q, k - 1)),
    ofContent: true,
  },
} as const satisfies Readonly<Record<string, Detector>>

export type DetectorName = keyof typeof DETECTORS

/** A detector's keys for every patch of one image, ready for many heads. */
export interface Template {
  /** keys(q) for each q. */
  readonly keys: readonly (readonly number[])[]
  /** Score of a head that looks everywhere alike; NaN where no patch has keys. */
  readonly chance: number
}

/** Errors: E_INPUT for a relation that names what is no token. */
export function template(name: string, { keys }: Detector, about: Content): Template {
  const { nPatches, nTokens } = about.layout
  const all = Array.from({ length: nPatches }, (_, q) => keys(q, about))
  const wrong = all.flat().find((k) => !Number.isInteger(k) || k < 0 || k >= nTokens)
  if (wrong !== undefined) {
    fail("E_INPUT", `the detector "${name}" names token ${String(wrong)}; tokens are 0 to ${nTokens - 1}`)
  }
  const asked = all.filter((k) => k.length)
  const found = asked.reduce((n, k) => n + k.length, 0)
  return { keys: all, chance: asked.length ? found / asked.length / nTokens : NaN }
}

/** Score of one head's [T, T]; NaN where no patch has keys. */
export function relationScore(
  pattern: ArrayLike<number>,
  { keys }: Template,
  { nTokens, nPrefix }: TokenLayout,
): number {
  let [sum, counted] = [0, 0]
  for (const [q, looked] of keys.entries()) {
    if (!looked.length) continue
    counted++
    const row = (nPrefix + q) * nTokens
    for (const k of looked) sum += pattern[row + k]!
  }
  return counted ? sum / counted : NaN
}

/**
 * Do patches of an image [c, H, W] look the same: is the mean squared difference of their pixels at most `tolerance`^2
 * times the variance of all pixels? A patch that differs so little from its own mean shows nothing, and looks like none.
 */
export function sameness(
  image: Tensor<"float32">,
  { grid: [rows, columns], patchSize: [height, width] }: TokenLayout,
  tolerance: number,
): Content["same"] {
  const [c, h, w] = image.shape as [number, number, number]
  const patches = Array.from({ length: rows * columns }, (_, i) => {
    const [top, left] = [Math.floor(i / columns) * height, (i % columns) * width]
    const pixels = new Float32Array(c * height * width)
    for (let j = 0; j < c * height; j++) {
      const from = (Math.floor(j / height) * h + top + (j % height)) * w + left
      pixels.set(image.data.subarray(from, from + width), j * width)
    }
    return pixels
  })
  const limit = tolerance ** 2 * variance(image.data) * c * height * width
  const empty = patches.map((p) => variance(p) * p.length <= limit)
  return (a, b) => {
    if (empty[a] || empty[b]) return false
    const [p, q] = [patches[a]!, patches[b]!]
    let sum = 0
    for (let i = 0; i < p.length && sum <= limit; i++) sum += (p[i]! - q[i]!) ** 2
    return sum <= limit
  }
}

function variance(data: Float32Array): number {
  const mean = data.reduce((sum, x) => sum + x, 0) / data.length
  return data.reduce((sum, x) => sum + (x - mean) ** 2, 0) / data.length
}
