/** @file Random changes of training images, the same for the same seed, epoch and sample. */
import { fail } from "../errors.ts"
import { Random } from "../tensor/random.ts"
import type { Sample } from "./dataset.ts"

type Image = Sample["image"]

interface Settings {
  /** Padding by `padding` zero pixels on each side, then a crop of the old size at a random place. */
  readonly crop: { readonly padding: number }
  /** Left and right exchanged with `probability`, by default 1/2. */
  readonly flip: { readonly probability?: number }
}

/** One change, as plain data: `{ kind: "crop", padding: 4 }`. */
export type Augmentation = { readonly [K in keyof Settings]: { readonly kind: K } & Settings[K] }[keyof Settings]

interface Rule<S> {
  readonly wrong: (settings: S) => string | undefined
  readonly apply: (image: Image, settings: S, random: Random) => Image
}

const RULES: { readonly [K in keyof Settings]: Rule<Settings[K]> } = {
  crop: {
    wrong: ({ padding }) =>
      Number.isInteger(padding) && padding >= 0 ? undefined : `padding must be a whole number >= 0, got ${padding}`,
    apply: (image, { padding }, random) => {
      const down = random.below(2 * padding + 1) - padding
      return shifted(image, down, random.below(2 * padding + 1) - padding)
    },
  },
  flip: {
    wrong: ({ probability = 0.5 }) =>
      probability >= 0 && probability <= 1 ? undefined : `probability must lie in [0, 1], got ${probability}`,
    apply: (image, { probability = 0.5 }, random) => (random.uniform() < probability ? mirrored(image) : image),
  },
}

/** A row of zeros for each row of the image, to be written into. */
const blank = ({ dtype, shape, data }: Image) =>
  dtype === "uint8"
    ? { dtype, shape, data: new Uint8Array(data.length) }
    : { dtype, shape, data: new Float32Array(data.length) }

/** Pixel (y, x) is the old (y + down, x + right), or 0 outside. */
function shifted(image: Image, down: number, right: number): Image {
  const [c, height, width] = image.shape as [number, number, number]
  const out = blank(image)
  const kept = width - Math.abs(right)
  if (kept <= 0) return out
  for (let y = Math.max(0, -down); y < Math.min(height, height - down); y++) {
    for (let channel = 0; channel < c; channel++) {
      const from = (channel * height + y + down) * width + Math.max(0, right)
      out.data.set(image.data.subarray(from, from + kept), (channel * height + y) * width + Math.max(0, -right))
    }
  }
  return out
}

function mirrored(image: Image): Image {
  const width = image.shape[2]!
  const out = blank(image)
  for (let start = 0; start < image.data.length; start += width) {
    out.data.set(image.data.subarray(start, start + width), start)
    out.data.subarray(start, start + width).reverse()
  }
  return out
}

/** Error: E_CONFIG naming what cannot be done. */
export function checkAugmentations(augment: readonly Augmentation[]): void {
  for (const a of augment) {
    const rule = Object.hasOwn(RULES, a.kind) ? (RULES[a.kind] as Rule<Augmentation>) : undefined
    const wrong = rule
      ? rule.wrong(a)
      : `one of ${Object.keys(RULES).join(", ")} expected, got ${JSON.stringify(a.kind)}`
    if (wrong !== undefined) fail("E_CONFIG", `augmentation ${rule ? a.kind : "kind"}: ${wrong}`)
  }
}

/** The image of sample `index` after all changes, in their order. */
export function augmented(
  image: Image,
  augment: readonly Augmentation[],
  { seed, epoch, index }: { readonly seed: number; readonly epoch: number; readonly index: number },
): Image {
  const random = new Random(seed, `augment:${epoch}:${index}`)
  return augment.reduce((now, a) => (RULES[a.kind] as Rule<Augmentation>).apply(now, a, random), image)
}
