/** @file Image files to 8-bit RGB pixels and back to PNG; the only import of sharp (https://sharp.pixelplumbing.com). */
import { constants, open } from "node:fs/promises"
import type { Metadata, Sharp } from "sharp"
import { fail, PrismaError } from "../errors.ts"
import { checkPixels } from "./resize.ts"

/** 8-bit pixels, row-major, channels interleaved, top left first. */
export interface Image {
  readonly width: number
  readonly height: number
  readonly channels: 1 | 3
  readonly data: Uint8Array
  /** What was done to get these pixels that one may not expect, such as "alpha dropped". */
  readonly notes: readonly string[]
}

const MIB = 2 ** 20

/** Memory that one image may take, file and result included; the header tells the need before anything is decoded. */
const BUDGET = 300 * MIB

/** What libvips holds whatever the image (18 MiB measured at 98 megapixels). */
const WORKING = 18 * MIB

/** No decoder is given longer; within the budget the slowest measured took 1.2 s. */
const TIMEOUT = { seconds: 30 }

/**
 * What a file may begin with. Content decides, not the name, and nothing else reaches the decoder: no SVG or PDF is
 * rendered, so nothing that an image refers to is fetched. AVIF is left out because its colours differ from Pillow's.
 */
const SIGNATURES = [
  ["jpeg", "\xff\xd8\xff"],
  ["png", "\x89PNG\r\n\x1a\n"],
  ["gif", "GIF87a"],
  ["gif", "GIF89a"],
  ["webp", "RIFF"],
  ["tiff", "II*\0"],
  ["tiff", "MM\0*"],
] as const

type Format = (typeof SIGNATURES)[number][0]

/** Bytes per pixel that libvips holds besides the result, as measured; `stored` is what a pixel takes in the file. */
const HELD: { readonly [F in Format]: (progressive: boolean, stored: number) => number } = {
  jpeg: (progressive, stored) => (progressive ? 2 * stored : 0), // all coefficients, 16 bits each
  png: (interlaced, stored) => (interlaced ? stored : 0),
  gif: () => 4,
  webp: () => 8,
  tiff: (_, stored) => stored, // a strip may be the whole image
}

/** How the pixels of one colour space and depth are asked for and become RGB. */
interface Mode {
  readonly depth: "uchar" | "ushort"
  readonly note?: string
  /** Bytes per pixel of what sharp returns. */
  readonly raw: number
  readonly read: (sharp: Sharp) => Sharp
  readonly toRgb?: (raw: Uint8Array, pixels: number) => Uint8Array
}

const mode8: Mode = { depth: "uchar", raw: 3, read: (s) => s.toColourspace("srgb").removeAlpha().raw() }

const mode16 = (space: string, channels: 1 | 3): Mode => ({
  depth: "ushort",
  note: "16 bit scaled",
  raw: 2 * channels,
  read: (s) => s.toColourspace(space).removeAlpha().raw({ depth: "ushort" }),
  toRgb: (raw, pixels) => scale16(raw, pixels, channels),
})

const modeCmyk: Mode = {
  depth: "uchar",
  note: "cmyk converted",
  raw: 4,
  read: (s) => s.pipelineColourspace("cmyk").toColourspace("cmyk").removeAlpha().raw(),
  toRgb: (raw, pixels) => cmykToRgb(raw, pixels),
}

/** By libvips' name of the colour space, https://www.libvips.org/API/current/enum.Interpretation.html. */
const MODES: ReadonlyMap<string, Mode> = new Map([
  ["srgb", mode8],
  ["b-w", mode8],
  ["rgb16", mode16("rgb16", 3)],
  ["grey16", mode16("grey16", 1)],
  ["cmyk", modeCmyk],
])

/**
 * v * 255 / 65535, rounded, for little-endian samples. Pillow takes the high byte of RGB (never more than one level
 * away, and the same for 8-bit values stored as 16) but clips grey to 255, which turns most of an image white.
 */
function scale16(raw: Uint8Array, pixels: number, channels: 1 | 3): Uint8Array {
  const rgb = new Uint8Array(pixels * 3)
  for (let i = 0; i < rgb.length; i++) {
    const at = 2 * (channels === 3 ? i : Math.trunc(i / 3))
    rgb[i] = Math.trunc(((raw[at]! | (raw[at + 1]! << 8)) + 128) / 257)
  }
  return rgb
}

/** Pillow's conversion, free of profiles: (255 - k) - c * (255 - k) / 255. Print colours differ with a profile. */
function cmykToRgb(raw: Uint8Array, pixels: number): Uint8Array {
  const rgb = new Uint8Array(pixels * 3)
  for (let i = 0; i < rgb.length; i++) {
    const pixel = 4 * Math.trunc(i / 3)
    const light = 255 - raw[pixel + 3]!
    const product = raw[pixel + (i % 3)]! * light + 128
    rgb[i] = light - (((product >> 8) + product) >> 8) // >> 8 twice: division by 255, rounded
  }
  return rgb
}

/** sharp takes 100 ms to load, so only work on image files pays for it. */
const loadSharp = async () => (await import("sharp")).default

async function readFile(path: string, name: string): Promise<Uint8Array> {
  try {
    // O_NONBLOCK: opening a named pipe must not wait for a writer.
    const handle = await open(path, constants.O_RDONLY | (constants.O_NONBLOCK ?? 0))
    try {
      const stat = await handle.stat()
      if (!stat.isFile()) fail("E_NOT_A_FILE", `${name}: not a file; give the path of an image file`, { file: name })
      if (stat.size > BUDGET) tooLarge(name, `a file of ${Math.ceil(stat.size / MIB)} MiB`)
      return await handle.readFile()
    } finally {
      await handle.close()
    }
  } catch (cause) {
    if (cause instanceof PrismaError) throw cause
    const code = cause instanceof Error && "code" in cause ? String(cause.code) : "unknown error"
    if (code === "ENOENT" || code === "ENOTDIR") {
      fail("E_DATASET_GONE", `${name}: there is no such file (any more); check the path, or list the images again`, {
        file: name,
        cause,
      })
    }
    return fail("E_IO", `${name}: cannot be read (${code}); check the path and its permissions`, { file: name, cause })
  }
}

function tooLarge(name: string, what: string): never {
  const limit = `the limit is ${BUDGET / MIB} MiB; make the image smaller`
  return fail("E_IMAGE_TOO_LARGE", `${name}: ${what}, ${limit}`, { file: name })
}

function undecodable(name: string, what: string, cause?: unknown): never {
  return fail("E_IMAGE_DECODE", `${name}: ${what}`, { file: name, cause })
}

function sniff(bytes: Uint8Array, name: string): Format {
  const head = Buffer.from(bytes.subarray(0, 16)).toString("latin1")
  const format = SIGNATURES.find(([, signature]) => head.startsWith(signature))?.[0]
  if (format !== undefined) return format
  const expected = "an image is JPEG, PNG, GIF, WebP or TIFF"
  if (head === "") return undecodable(name, `${expected}, got an empty file`)
  return undecodable(name, `${expected}, got a file that begins with "${head.replaceAll(/[^ -~]/g, ".")}"`)
}

/** The chunk types tEXt, zTXt and iTXt. */
const TEXTS: ReadonlySet<number> = new Set([0x74455874, 0x7a545874, 0x69545874])

/**
 * A PNG without its text chunks. libvips inflates all of them, up to 8 MB each: 400 in a file of 2.7 MB took 3.3 GB
 * and 10 s. Chunks are length, type, data and CRC (https://www.w3.org/TR/png-3/#5Chunk-layout).
 */
function withoutText(bytes: Uint8Array): Uint8Array {
  const view = new DataView(bytes.buffer, bytes.byteOffset, bytes.byteLength)
  let kept: Uint8Array | undefined // a copy from the first text on
  let to = 8
  for (let at = 8, end = 8; at < bytes.length; at = end) {
    const whole = at + 12 <= bytes.length
    end = whole ? Math.min(bytes.length, at + 12 + view.getUint32(at)) : bytes.length
    if (whole && TEXTS.has(view.getUint32(at + 4))) kept ??= bytes.slice()
    else {
      kept?.copyWithin(to, at, end)
      to += end - at
    }
  }
  return kept?.subarray(0, to) ?? bytes
}

/** Checks what the header says before anything is decoded. */
function plan(m: Metadata, format: Format, oriented: boolean, held: number, name: string): Mode {
  const mode = MODES.get(m.space)
  // The format: a libvips of the system's may have loaders for more than what the signatures say, such as camera files.
  if (m.format !== format || mode === undefined || mode.depth !== m.depth) {
    return undecodable(
      name,
      `${format} of colour space ${m.space} and depth ${m.depth} is not supported; save it as RGB`,
    )
  }
  const stored = m.channels * (m.depth === "ushort" ? 2 : 1)
  const perPixel =
    mode.raw + (mode.toRgb ? 3 : 0) + HELD[format](m.isProgressive ?? false, stored) + (oriented ? mode.raw : 0)
  const need = m.width * m.height * perPixel + held + WORKING
  if (need > BUDGET) tooLarge(name, `${m.width} x ${m.height} ${format} needs ${Math.ceil(need / MIB)} MiB to decode`)
  return mode
}

function notesOf(m: Metadata, mode: Mode, exif: boolean): string[] {
  const pages = m.pages ?? 1
  const turned = m.orientation !== undefined && m.orientation > 1
  const facts: readonly (readonly [boolean, string])[] = [
    [mode.note !== undefined, mode.note ?? ""],
    [m.hasAlpha, "alpha dropped"],
    [m.hasProfile, "colour profile ignored"],
    [pages > 1, `first of ${pages} frames`],
    [turned, `orientation ${m.orientation} ${exif ? "applied" : "not applied"}`],
  ]
  return facts.filter(([holds]) => holds).map(([, note]) => note)
}

/**
 * The pixels of an image file (a path) or its bytes, always three channels, as Pillow's `open(...).convert("RGB")`
 * gives them to the bit, with two exceptions: 16-bit samples are scaled, transparent pixels of a GIF are black.
 * - Orientation: EXIF's is applied, as transformers' `load_image` does; `exif: false` leaves the pixels as stored.
 * - Alpha is dropped, not blended: a half transparent 200, 100, 50 stays 200, 100, 50.
 * - Colour profiles (Display P3, CMYK) are ignored, as none of the Python libraries converts them.
 * - CMYK becomes RGB by Pillow's formula. Of an animation or a document the first frame counts.
 *
 * Errors: E_IMAGE_DECODE for anything that is not a whole image, E_IMAGE_TOO_LARGE before decoding where more than
 * 300 MiB would be needed (about 95 megapixels, less for progressive, rotated, 16-bit, GIF and WebP images),
 * E_DATASET_GONE for a path that is not there, E_NOT_A_FILE, E_IO. `name` replaces the path in them.
 */
export async function decodeImage(
  source: string | Uint8Array,
  { exif = true, name = typeof source === "string" ? source : "image" }: { exif?: boolean; name?: string } = {},
): Promise<Image> {
  const file = typeof source === "string" ? await readFile(source, name) : source
  const format = sniff(file, name)
  const bytes = format === "png" ? withoutText(file) : file
  const held = file.length + (bytes === file ? 0 : file.length)
  const sharp = await loadSharp()
  // failOn "error" refuses cut files and bad checksums but takes what warns only: odd profiles, bytes between markers.
  const input = { failOn: "error", ignoreIcc: true, limitInputPixels: false } as const
  const damaged = `the ${format} cannot be decoded: damaged or cut short (${file.length} bytes)`
  const meta = await sharp(bytes, input)
    .metadata()
    .catch((cause: unknown) => undecodable(name, damaged, cause))
  const mode = plan(meta, format, exif && (meta.orientation ?? 1) > 1, held, name)
  const opened = sharp(bytes, { ...input, autoOrient: exif }).timeout(TIMEOUT)
  const { data, info } = await mode
    .read(opened)
    .toBuffer({ resolveWithObject: true })
    .catch((cause: unknown) => undecodable(name, damaged, cause))
  const { width, height } = info
  const raw = new Uint8Array(data.buffer, data.byteOffset, data.byteLength)
  if (raw.length !== width * height * mode.raw) undecodable(name, damaged)
  const rgb = mode.toRgb?.(raw, width * height) ?? raw
  return { width, height, channels: 3, data: rgb, notes: notesOf(meta, mode, exif) }
}

/**
 * A PNG file of 8-bit pixels: grey (1 channel), RGB (3) or RGBA (4). The same pixels give the same bytes.
 * Errors: E_INPUT for sizes that do not fit the data.
 */
export async function encodePng(
  data: Uint8Array,
  width: number,
  height: number,
  channels: 1 | 3 | 4,
): Promise<Uint8Array> {
  checkPixels({ data, width, height, channels })
  const sharp = await loadSharp()
  const png = await sharp(data, { raw: { width, height, channels }, limitInputPixels: false }).png().toBuffer()
  return new Uint8Array(png.buffer, png.byteOffset, png.byteLength)
}

/** A JPEG file of 8-bit pixels, colour at full resolution: for looking at, not for computing. Errors: E_INPUT. */
export async function encodeJpeg(
  data: Uint8Array,
  width: number,
  height: number,
  channels: 1 | 3,
): Promise<Uint8Array> {
  checkPixels({ data, width, height, channels })
  const sharp = await loadSharp()
  const image = sharp(data, { raw: { width, height, channels }, limitInputPixels: false })
  const jpeg = await image.jpeg({ quality: 90, chromaSubsampling: "4:4:4", mozjpeg: true }).toBuffer()
  return new Uint8Array(jpeg.buffer, jpeg.byteOffset, jpeg.byteLength)
}

/** The density at which libvips draws an SVG's units as one pixel each. */
const DPI = 72

/**
 * A PNG of an SVG that this package wrote, `scale` pixels to one of its own. Text needs a font that fontconfig finds:
 * where there is none it is left out without an error. Error: E_IMAGE_TOO_LARGE beyond 268 megapixels.
 */
export async function renderSvg(svg: string, scale: number): Promise<Uint8Array> {
  const sharp = await loadSharp()
  const png = await sharp(Buffer.from(svg), { density: DPI * scale })
    .png({ palette: false })
    .toBuffer()
    .catch((cause: unknown) => fail("E_IMAGE_TOO_LARGE", "the picture is too large to be drawn; show less", { cause }))
  return new Uint8Array(png.buffer, png.byteOffset, png.byteLength)
}
