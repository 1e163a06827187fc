/** @file The original dSprites file (https://github.com/google-deepmind/dsprites-dataset): 737,280 images of 64 x 64 pixels, black
 * or white, kept as bits. */
import { fail } from "../errors.ts"
import { withZip, type Zip } from "../files/zip.ts"
import { show, type Tensor } from "../tensor/tensor.ts"
import type { NamedDataset, Sample, Splits } from "./dataset.ts"
import { LATENTS } from "./dsprites-render.ts"
import { type SpriteClasses, type SpriteTarget, spriteTarget } from "./dsprites.ts"
import { checkIndex, checkLabels, checkVariety } from "./held.ts"
import { NPY_HEAD, type NpyHeader, readNpyHeader } from "./npy.ts"
import { npzArray, npzMember, streamMember } from "./npz.ts"
import { partition, splitIndices } from "./split.ts"
import { sha256 } from "./whole.ts"

const NAME = "dsprites"
const EDGE = 64
const PIXELS = EDGE * EDGE
const BYTES = PIXELS / 8

/** Twice the original's, which makes 377 MB of bits. */
const MAX_IMAGES = 2 * 737_280

/** The original's images grow 113 times; deflate can reach 1032. Their bytes are counted as they come and are never held. */
const MAX_RATIO = 1032

/** Room for the six classes of each, int64. */
const MAX_LATENTS = MAX_IMAGES * 6 * 8 + NPY_HEAD

/** latents_classes has a column for the colour and then one for each latent. */
const COLUMNS = 6

interface Bits {
  readonly images: Uint8Array
  /** The latents' classes, six for each image; 255 is none. */
  readonly latents: Uint8Array
}

export interface DSpritesNpzOptions {
  /** Decides which images are for testing. */
  readonly seed?: number
  /** The part that is for testing, by default a quarter. */
  readonly testSplit?: number
  /** What is to be learned, as of the drawn ones; by default the shape. */
  readonly target?: SpriteTarget
}

/**
 * The splits of `dsprites_ndarray_co1sh3sc6or40x32y32_64x64.npz` or a file like it: images [1, 64, 64] of 0 and 255.
 * The file is unpacked once into one bit a pixel (377 MB). Images are split as they come; some occur
 * more than once, which `leaks` finds. Errors: E_ZIP, E_NPY_HEADER, E_NPY_OBJECT, E_DATASET_SCHEMA, E_LABEL_RANGE,
 * E_DATASET_EMPTY, E_CONFIG, E_NOT_A_FILE, E_IO.
 */
export async function dSpritesNpz(file: string, options: DSpritesNpzOptions = {}): Promise<Splits> {
  const { seed = 0, testSplit = 0.25, target = "shape" } = options
  const { classes, label } = spriteTarget(target)
  const { images, latents } = await withZip(file, readBits, { maxRatio: MAX_RATIO })
  const length = latents.length / COLUMNS
  const parts = splitIndices(length, { seed, name: NAME, test: testSplit })
  checkLatents(latents, file)
  const labelAt = (row: number) => label(spriteAt(latents, row))
  if (classes.length)
    checkVariety(
      Uint8Array.from({ length }, (_, row) => Number(labelAt(row))),
      classes,
      file,
      Object.keys(parts),
    )
  const fingerprint = sha256(`${NAME} ${target}`, images, latents)
  return partition(dataset(images, { length, classes, fingerprint, labelAt }), parts)
}

/** A row without its colour. */
const spriteAt = (latents: Uint8Array, row: number): SpriteClasses =>
  [1, 2, 3, 4, 5].map((column) => latents[row * COLUMNS + column]!) as unknown as SpriteClasses

/** Error: E_LABEL_RANGE for the first class that a latent does not have. */
function checkLatents(latents: Uint8Array, file: string): void {
  for (const [i, [name, size]] of Object.entries(LATENTS).entries()) {
    const column = latents.filter((_, at) => at % COLUMNS === i + 1)
    checkLabels(column, size, file, name)
  }
}

async function readBits(zip: Zip): Promise<Bits> {
  const schema = (what: string): never => fail("E_DATASET_SCHEMA", `${zip.file}: ${what}`, { file: zip.file })
  const { size: bytes } = npzMember(zip, "latents_classes")
  if (bytes > MAX_LATENTS) schema(`latents_classes has ${bytes} bytes, at most ${MAX_LATENTS} are read`)
  const latents = await npzArray(zip, "latents_classes")
  const [n = 0, columns] = latents.shape
  if (latents.dtype !== "int64" || latents.shape.length !== 2 || columns !== COLUMNS) {
    schema(`latents_classes must be int64 [n, 6], got ${latents.dtype} ${show(latents.shape)}`)
  }
  if (n > MAX_IMAGES) schema(`${n} images, at most ${MAX_IMAGES} are read`)
  const images = new Uint8Array(n * BYTES)
  const put = packer(images, zip.file)
  const member = npzMember(zip, "imgs")
  let head = new Uint8Array(0)
  let header: NpyHeader | undefined
  await streamMember(zip, member, (bytes) => {
    if (header) return put(bytes)
    head = Buffer.concat([head, bytes])
    if (head.length < Math.min(NPY_HEAD, member.size)) return
    header = readNpyHeader(head, member.size, `${zip.file} "imgs"`)
    const { dtype, shape } = header
    if ((dtype !== "uint8" && dtype !== "bool") || show(shape) !== show([n, EDGE, EDGE])) {
      schema(
        `imgs must be uint8 ${show([n, EDGE, EDGE])}, one image for each row of latents_classes, got ${dtype} ${show(shape)}`,
      )
    }
    put(head.subarray(header.start))
  })
  if (!header) readNpyHeader(head, member.size, `${zip.file} "imgs"`)
  const { data } = latents as Tensor<"int64">
  return { images, latents: Uint8Array.from(data, (x) => (x >= 0n && x < 255n ? Number(x) : 255)) }
}

/** A function that takes pixels of 0 and 1, in order and in pieces of any length, and writes eight to a byte of `out`. */
function packer(out: Uint8Array, file: string): (pixels: Uint8Array) => void {
  let at = 0 // of the next pixel
  let other = 0
  const one = (pixel: number) => {
    other |= pixel
    out[at >> 3]! |= pixel << (at & 7)
    at++
  }
  return (pixels) => {
    const lead = Math.min(pixels.length, -at & 7)
    let i = 0
    for (; i < lead; i++) one(pixels[i]!)
    for (; i + 8 <= pixels.length; i += 8, at += 8) {
      const [a, b, c, d] = [pixels[i]!, pixels[i + 1]!, pixels[i + 2]!, pixels[i + 3]!]
      const [e, f, g, h] = [pixels[i + 4]!, pixels[i + 5]!, pixels[i + 6]!, pixels[i + 7]!]
      other |= a | b | c | d | e | f | g | h
      out[at / 8] = a | (b << 1) | (c << 2) | (d << 3) | (e << 4) | (f << 5) | (g << 6) | (h << 7)
    }
    for (; i < pixels.length; i++) one(pixels[i]!)
    if (other > 1) fail("E_DATASET_SCHEMA", `${file}: imgs must hold 0 and 1, got other pixels`, { file })
  }
}

/** The four pixels of each half of a byte, 0 or 255, as the four bytes of a number. */
const FOUR = new Uint32Array(Uint8Array.from({ length: 16 * 4 }, (_, i) => ((i >> 2) >> (i & 3)) & 1 && 255).buffer)

interface About extends Pick<NamedDataset, "length" | "classes" | "fingerprint"> {
  readonly labelAt: (row: number) => Sample["label"]
}

function dataset(images: Uint8Array, { labelAt, ...about }: About): NamedDataset {
  const shape = [1, EDGE, EDGE] as const
  const made: NamedDataset = {
    ...about,
    name: NAME,
    shape,
    at(i) {
      const row = checkIndex(i, made)
      const data = new Uint8Array(PIXELS)
      const fours = new Uint32Array(data.buffer)
      for (let i = 0, byte = row * BYTES; i < fours.length; i += 2, byte++) {
        fours[i] = FOUR[images[byte]! & 15]!
        fours[i + 1] = FOUR[images[byte]! >> 4]!
      }
      return { image: { dtype: "uint8", shape, data }, label: labelAt(row) }
    },
  }
  return made
}
