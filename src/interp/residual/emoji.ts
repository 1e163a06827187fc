/** @file A class label as an emoji, for pictures of what a lens reads at each patch. */
import { fail } from "../../errors.ts"
import { EMOJI_PHRASES } from "./emoji-words.ts"
import type { Lens } from "./lens.ts"

/** Stands where no word of a label is known. */
const UNKNOWN = "▫️"

const BY_PHRASE: ReadonlyMap<string, string> = new Map(EMOJI_PHRASES.map(([emoji, phrase]) => [phrase, emoji]))

/** Words of the longest phrase that is looked up, and of a name that is looked at. */
const [LONGEST, SEEN] = [4, 12]

/**
 * The emoji of a label, by rules over its words: of its comma-separated names the first that has a known phrase, and
 * there the one that ends last, since English compounds end with what they are ("tiger shark" is a shark).
 */
export function emojiOf(label: string): string {
  for (const name of label.toLowerCase().split(",").slice(0, SEEN)) {
    const words = (name.match(/[\p{L}\p{N}]+/gu) ?? []).slice(0, SEEN)
    for (let end = words.length; end > 0; end--) {
      for (let start = Math.max(0, end - LONGEST); start < end; start++) {
        const found = known(words.slice(start, end).join(" "))
        if (found !== undefined) return found
      }
    }
  }
  return UNKNOWN
}

/** As it stands, and as a singular. */
const known = (phrase: string): string | undefined =>
  BY_PHRASE.get(phrase) ?? BY_PHRASE.get(phrase.replace(/s$/, "")) ?? BY_PHRASE.get(phrase.replace(/es$/, ""))

/**
 * What a lens reads at each patch, as rows of emoji: the largest class of every patch of one stream of one image.
 * `grid` is [rows, columns], `stream` an index of the lens' labels, by default the last. Error: E_INPUT.
 */
export function emojiGrid(
  lens: Lens,
  [rows, columns]: readonly [number, number],
  { stream = lens.labels.length - 1, image = 0 }: { readonly stream?: number; readonly image?: number } = {},
): string[][] {
  const [n, b, t, k] = lens.top.index.shape as [number, number, number, number]
  const prefix = t - rows * columns
  if (prefix < 0 || k < 1) {
    fail("E_INPUT", `a lens of ${t} tokens and the ${k} largest classes has no ${rows} x ${columns} patches to show`)
  }
  const within = (i: number, size: number) => Number.isInteger(i) && i >= 0 && i < size
  if (!within(stream, n) || !within(image, b)) {
    fail("E_INPUT", `the lens has streams 0 to ${n - 1} of images 0 to ${b - 1}, got ${stream} of ${image}`)
  }
  const best = (patch: number): number => lens.top.index.data[((stream * b + image) * t + prefix + patch) * k]!
  return Array.from({ length: rows }, (_, y) =>
    Array.from({ length: columns }, (__, x) => emojiOf(lens.classes[best(y * columns + x)]!)),
  )
}
