import { execFileSync } from "node:child_process"
import { mkdtempSync, rmSync, symlinkSync, writeFileSync } from "node:fs"
import { tmpdir } from "node:os"
import { join } from "node:path"
import { crc32, deflateSync } from "node:zlib"
import sharp, { type Sharp } from "sharp"
import { afterAll, beforeAll, describe, expect, it } from "vitest"
import { cpuMs } from "./helpers/cpu.ts"
import { decodeImage, encodePng } from "../src/data/image.ts"
import { PrismaError } from "../src/errors.ts"
import { runTs } from "./helpers/child.ts"
import { readSafetensors } from "./helpers/read-safetensors.ts"

const { tensors } = readSafetensors(new URL("fixtures/preprocess/cases.safetensors", import.meta.url))
const files = [...tensors.keys()].filter((key) => key.startsWith("file/")).map((key) => key.slice(5))

/** Deterministic numbers in [0, 1) (mulberry32). */
function random(seed: number): () => number {
  let a = seed
  return () => {
    a = (a + 0x6d2b79f5) | 0
    let t = Math.imul(a ^ (a >>> 15), 1 | a)
    t = (t + Math.imul(t ^ (t >>> 7), 61 | t)) ^ t
    return ((t ^ (t >>> 14)) >>> 0) / 2 ** 32
  }
}

const noise = (n: number, seed = 1): Uint8Array => {
  const next = random(seed)
  return Uint8Array.from({ length: n }, () => next() * 256)
}

function chunk(type: string, data: Uint8Array): Buffer {
  const body = Buffer.concat([Buffer.from(type, "latin1"), data])
  const [length, check] = [Buffer.alloc(4), Buffer.alloc(4)]
  length.writeUInt32BE(data.length)
  check.writeUInt32BE(crc32(body))
  return Buffer.concat([length, body, check])
}

/** PNG colour types by https://www.w3.org/TR/png-3/#3colourTypesAndValues. */
const TYPE = { grey: 0, rgb: 2, palette: 3, greyAlpha: 4, rgba: 6 } as const

/** A PNG byte by byte; `rows` are the unfiltered scanlines. */
function png(
  { width, height, depth = 8, type }: { width: number; height: number; depth?: number; type: keyof typeof TYPE },
  rows: Uint8Array,
  ...extra: Buffer[]
): Buffer {
  const header = Buffer.alloc(13)
  header.writeUInt32BE(width, 0)
  header.writeUInt32BE(height, 4)
  header.set([depth, TYPE[type], 0, 0, 0], 8)
  const row = height === 0 ? 0 : rows.length / height
  const lines = Array.from({ length: height }, (_, y) =>
    Buffer.concat([Buffer.of(0), rows.subarray(y * row, y * row + row)]),
  )
  const data = deflateSync(Buffer.concat(lines))
  const signature = Buffer.from("\x89PNG\r\n\x1a\n", "latin1")
  return Buffer.concat([
    signature,
    chunk("IHDR", header),
    ...extra,
    chunk("IDAT", data),
    chunk("IEND", Buffer.alloc(0)),
  ])
}

/** A TIFF of one grey pixel, https://www.itu.int/itudoc/itu-t/com16/tiff-fx/docs/tiff6.pdf; `format` 3 is floating point. */
function tiff(depth: number, format: number, pixel: Uint8Array): Buffer {
  const entries = Object.entries({
    256: 1,
    257: 1,
    258: depth,
    259: 1,
    262: 1,
    273: 8,
    277: 1,
    278: 1,
    279: pixel.length,
  })
  entries.push(["339", format])
  const file = Buffer.alloc(12 + 2 + entries.length * 12 + 4)
  file.write("II*\0", 0, "latin1")
  file.writeUInt32LE(12, 4) // the directory; the pixel lies at 8
  file.set(pixel, 8)
  file.writeUInt16LE(entries.length, 12)
  entries.forEach(([tag, value], i) => {
    const at = 14 + i * 12
    file.writeUInt16LE(Number(tag), at)
    file.writeUInt16LE(4, at + 2) // LONG
    file.writeUInt32LE(1, at + 4)
    file.writeUInt32LE(value, at + 8)
  })
  return file
}

const big16 = (values: readonly number[]): Uint8Array => Uint8Array.from(values.flatMap((v) => [v >> 8, v & 255]))

const make = (width: number, height: number, channels: 1 | 3 | 4 = 3): Sharp =>
  sharp(noise(width * height * channels), { raw: { width, height, channels } })

const flat = (r: number, g: number, b: number): Sharp =>
  sharp({ create: { width: 16, height: 16, channels: 3, background: { r, g, b } } })

type Outcome = string | { size: string; notes?: string[]; pixels?: readonly number[] }

/** What became of the bytes: the error's code, or size, notes and pixels. */
async function outcome(source: string | Uint8Array, exif = true) {
  try {
    const { width, height, channels, data, notes } = await decodeImage(source, { exif, name: "x" })
    expect(data.length).toBe(width * height * channels)
    expect(channels).toBe(3)
    return { size: `${width}x${height}`, notes, pixels: data.length < 10_000 ? [...data] : [] }
  } catch (error) {
    if (!(error instanceof PrismaError)) throw error
    expect(error.message).not.toContain("\n")
    expect(error.file).toBe("x")
    return error.code
  }
}

const folder = mkdtempSync(join(tmpdir(), "vit-prisma-image-"))
const write = (name: string, bytes: string | Uint8Array): string => {
  writeFileSync(join(folder, name), bytes)
  return join(folder, name)
}

let jpeg: Buffer // 61 x 47
let plain: Buffer // PNG, 61 x 47
beforeAll(async () => {
  jpeg = await make(61, 47).jpeg().toBuffer()
  plain = png({ width: 61, height: 47, type: "rgb" }, noise(61 * 47 * 3))
})
afterAll(() => rmSync(folder, { recursive: true }))

describe("decodeImage gives Pillow's pixels", () => {
  it.each(files)("%s", async (name) => {
    const { shape, bytes } = tensors.get(`pixels/${name}`)!
    const image = await decodeImage(tensors.get(`file/${name}`)!.bytes)
    expect([image.height, image.width, image.channels]).toEqual(shape)
    expect(Buffer.compare(image.data, bytes)).toBe(0)
  })
})

describe("a corpus of odd images", () => {
  const rgb = [200, 100, 50]
  const rgba = Uint8Array.of(200, 100, 50, 128, 0, 0, 0, 0)
  const samples16 = [0, 127, 128, 255, 256, 257, 385, 386, 32767, 32768, 65406, 65407, 65534, 65535, 1000]
  const scaled = samples16.map((v) => Math.round((v * 255) / 65535))
  const bits = Uint8Array.of(0b10110000)
  const tripled = (values: readonly number[]): number[] => values.flatMap((v) => [v, v, v])
  const palette = [chunk("PLTE", Uint8Array.of(...rgb, 1, 2, 3)), chunk("tRNS", Uint8Array.of(0))]

  const damage = (bytes: Buffer, at: number): Buffer => {
    const copy = Buffer.from(bytes)
    copy[at]! ^= 1
    return copy
  }
  const jpegOf = (width: number, height: number): Buffer => {
    const copy = Buffer.from(jpeg)
    const frame = copy.indexOf(Buffer.of(0xff, 0xc0)) // SOF0: length, precision, height, width
    copy.writeUInt16BE(height, frame + 5)
    copy.writeUInt16BE(width, frame + 7)
    return copy
  }
  const frames = (format: "gif" | "webp"): Promise<Buffer> =>
    sharp(noise(20 * 45 * 3), { raw: { width: 20, height: 45, channels: 3, pageHeight: 15 } })
      .toFormat(format, { delay: [100, 100, 100], loop: 0 })
      .toBuffer()

  const corpus: readonly (readonly [string, () => Buffer | Uint8Array | Promise<Buffer>, Outcome])[] = [
    [
      "texts before, between and after the pixels",
      () => {
        const text = chunk("tEXt", Buffer.from("Title\0x"))
        const file = png({ width: 1, height: 1, type: "rgb" }, Uint8Array.from(rgb), text)
        const end = file.length - 12
        return Buffer.concat([file.subarray(0, end), chunk("iTXt", Buffer.alloc(9)), file.subarray(end), text])
      },
      { size: "1x1", notes: [], pixels: rgb },
    ],
    [
      "PNG cut inside a text",
      () =>
        png({ width: 1, height: 1, type: "rgb" }, Uint8Array.from(rgb), chunk("tEXt", Buffer.alloc(50))).subarray(
          0,
          60,
        ),
      "E_IMAGE_DECODE",
    ],
    ["empty file", () => Buffer.alloc(0), "E_IMAGE_DECODE"],
    ["one byte", () => Buffer.of(0xff), "E_IMAGE_DECODE"],
    ["text", () => Buffer.from("not an image\n"), "E_IMAGE_DECODE"],
    ["HTML", () => Buffer.from("<!DOCTYPE html><html><img src=x></html>"), "E_IMAGE_DECODE"],
    [
      "SVG with an external image",
      () => Buffer.from('<svg xmlns="http://www.w3.org/2000/svg"><image href="http://127.0.0.1:9/x"/></svg>'),
      "E_IMAGE_DECODE",
    ],
    ["PDF", () => Buffer.from("%PDF-1.4\n1 0 obj\n"), "E_IMAGE_DECODE"],
    ["BMP", () => Buffer.from("BM\x3a\0\0\0\0\0\0\0\x36\0\0\0", "latin1"), "E_IMAGE_DECODE"],
    ["WAV, which begins as WebP does", () => Buffer.from("RIFF\x24\0\0\0WAVEfmt ", "latin1"), "E_IMAGE_DECODE"],
    ["SVG behind a JPEG signature", () => Buffer.from("\xff\xd8\xff<svg/>", "latin1"), "E_IMAGE_DECODE"],
    ["PNG signature alone", () => plain.subarray(0, 8), "E_IMAGE_DECODE"],
    ["0 x 0 PNG", () => png({ width: 0, height: 0, type: "rgb" }, Buffer.alloc(0)), "E_IMAGE_DECODE"],
    ["0 x 5 PNG", () => png({ width: 0, height: 5, type: "rgb" }, Buffer.alloc(0)), "E_IMAGE_DECODE"],
    ["0 x 0 JPEG", () => jpegOf(0, 0), "E_IMAGE_DECODE"],
    ["half a JPEG", () => jpeg.subarray(0, jpeg.length >> 1), "E_IMAGE_DECODE"],
    ["a JPEG without its last 40 bytes", () => jpeg.subarray(0, -40), "E_IMAGE_DECODE"],
    ["half a PNG", () => plain.subarray(0, plain.length >> 1), "E_IMAGE_DECODE"],
    ["half a WebP", async () => (await make(61, 47).webp().toBuffer()).subarray(0, 900), "E_IMAGE_DECODE"],
    ["bad CRC of the pixels", () => damage(plain, plain.length - 13), "E_IMAGE_DECODE"],
    ["bad CRC of the header", () => damage(plain, 29), "E_IMAGE_DECODE"],
    ["damaged deflate stream", () => damage(plain, 60), "E_IMAGE_DECODE"],
    [
      "palette index without palette",
      () => png({ width: 1, height: 1, type: "palette" }, Buffer.of(9)),
      "E_IMAGE_DECODE",
    ],
    ["JPEG with junk after its end", () => Buffer.concat([jpeg, Buffer.from("junk".repeat(99))]), { size: "61x47" }],
    ["PNG with junk after its end", () => Buffer.concat([plain, Buffer.from("junk".repeat(99))]), { size: "61x47" }],
    [
      "60,000 x 60,000 PNG",
      () => png({ width: 60_000, height: 60_000, type: "rgb" }, Buffer.alloc(0)),
      "E_IMAGE_TOO_LARGE",
    ],
    ["65,500 x 65,500 JPEG", () => jpegOf(65_500, 65_500), "E_IMAGE_TOO_LARGE"],
    ["12,000 x 9,000 JPEG", () => jpegOf(12_000, 9_000), "E_IMAGE_TOO_LARGE"],
    [
      "1 x 1",
      () => png({ width: 1, height: 1, type: "rgb" }, Uint8Array.from(rgb)),
      { size: "1x1", notes: [], pixels: rgb },
    ],
    ["1 x 10,000", () => png({ width: 1, height: 10_000, type: "grey" }, noise(10_000)), { size: "1x10000" }],
    ["10,000 x 1 JPEG", () => make(10_000, 1).jpeg().toBuffer(), { size: "10000x1" }],
    [
      "RGBA: alpha is dropped, not matted",
      () => png({ width: 2, height: 1, type: "rgba" }, rgba),
      { size: "2x1", notes: ["alpha dropped"], pixels: [200, 100, 50, 0, 0, 0] },
    ],
    [
      "grey and alpha",
      () => png({ width: 2, height: 1, type: "greyAlpha" }, Uint8Array.of(7, 0, 250, 128)),
      { size: "2x1", notes: ["alpha dropped"], pixels: tripled([7, 250]) },
    ],
    [
      "grey",
      () => png({ width: 3, height: 1, type: "grey" }, Uint8Array.of(0, 128, 255)),
      { size: "3x1", notes: [], pixels: tripled([0, 128, 255]) },
    ],
    [
      "1 bit",
      () => png({ width: 5, height: 1, depth: 1, type: "grey" }, bits),
      { size: "5x1", notes: [], pixels: tripled([255, 0, 255, 255, 0]) },
    ],
    [
      "2-bit grey",
      () => png({ width: 4, height: 1, depth: 2, type: "grey" }, Uint8Array.of(0b00011011)),
      { size: "4x1", notes: [], pixels: tripled([0, 85, 170, 255]) },
    ],
    [
      "palette with a transparent entry",
      () => png({ width: 2, height: 1, type: "palette" }, Uint8Array.of(0, 1), ...palette),
      { size: "2x1", notes: ["alpha dropped"], pixels: [...rgb, 1, 2, 3] },
    ],
    [
      "16-bit RGB",
      () => png({ width: 5, height: 1, depth: 16, type: "rgb" }, big16(samples16)),
      { size: "5x1", notes: ["16 bit scaled"], pixels: scaled },
    ],
    [
      "16-bit grey",
      () => png({ width: 5, height: 3, depth: 16, type: "grey" }, big16(samples16)),
      { size: "5x3", notes: ["16 bit scaled"], pixels: tripled(scaled) },
    ],
    [
      "16-bit RGBA",
      () => png({ width: 1, height: 1, depth: 16, type: "rgba" }, big16([385, 386, 65535, 9])),
      { size: "1x1", notes: ["16 bit scaled", "alpha dropped"], pixels: [1, 2, 255] },
    ],
    [
      "CMYK JPEG", // its pixels, and those of a CMYK TIFF, are compared with Pillow's above
      () => tensors.get("file/jpeg-cmyk")!.bytes,
      { size: "14x9", notes: ["cmyk converted"] },
    ],
    [
      "CMYK JPEG with a profile",
      () => flat(200, 100, 50).toColourspace("cmyk").withIccProfile("cmyk").jpeg({ quality: 100 }).toBuffer(),
      { size: "16x16", notes: ["cmyk converted", "colour profile ignored"] },
    ],
    ["progressive JPEG", () => make(61, 47).jpeg({ progressive: true }).toBuffer(), { size: "61x47", notes: [] }],
    ["1 x 1 JPEG", () => make(1, 1).jpeg().toBuffer(), { size: "1x1" }],
    [
      "Display P3: the stored values, not converted",
      async () => {
        const { icc } = await sharp(await flat(1, 2, 3).withIccProfile("p3").png().toBuffer()).metadata()
        const profile = chunk("iCCP", Buffer.concat([Buffer.from("p3\0\0", "latin1"), deflateSync(icc!)]))
        return png({ width: 1, height: 1, type: "rgb" }, Uint8Array.from(rgb), profile)
      },
      { size: "1x1", notes: ["colour profile ignored"], pixels: rgb },
    ],
    ["three-frame GIF", () => frames("gif"), { size: "20x15", notes: ["alpha dropped", "first of 3 frames"] }],
    ["three-frame WebP", () => frames("webp"), { size: "20x15", notes: ["first of 3 frames"] }],
    [
      "three-page TIFF",
      () =>
        sharp(noise(20 * 45), { raw: { width: 20, height: 45, channels: 1, pageHeight: 15 } })
          .tiff()
          .toBuffer(),
      { size: "20x15", notes: ["first of 3 frames"] },
    ],
    ["8-bit TIFF", () => tiff(8, 1, Uint8Array.of(201)), { size: "1x1", notes: [], pixels: [201, 201, 201] }],
    ["floating-point TIFF", () => tiff(32, 3, new Uint8Array(Float32Array.of(0.5).buffer)), "E_IMAGE_DECODE"],
    ["TIFF without directory", () => tiff(8, 1, Uint8Array.of(201)).subarray(0, 8), "E_IMAGE_DECODE"],
    ["TIFF whose directory is itself", () => Buffer.from("II*\0\x04\0\0\0\x01\0", "latin1"), "E_IMAGE_DECODE"],
    [
      "interlaced PNG",
      () => make(33, 21).png({ progressive: true }).toBuffer(),
      { size: "33x21", notes: [], pixels: [...noise(33 * 21 * 3)] },
    ],
  ]

  it("has at least 40 files", () => {
    expect(new Set(corpus.map(([name]) => name)).size).toBeGreaterThanOrEqual(40)
  })

  it.each(corpus)("%s", async (_, build, expected) => {
    const bytes = await build()
    const start = cpuMs()
    const got = await outcome(bytes)
    expect(cpuMs() - start).toBeLessThan(2000)
    if (typeof expected === "string") expect(got).toBe(expected)
    else expect(got).toMatchObject(expected)
  })
})

describe("orientation", () => {
  const [width, height] = [64, 48]
  const stored = noise(width * height * 3)

  /** A PNG with an eXIf chunk of one entry: tag 0x0112, SHORT. */
  const turned = (orientation: number): Buffer => {
    const exif = Buffer.alloc(26)
    exif.write("II*\0", 0, "latin1")
    exif.writeUInt32LE(8, 4)
    exif.writeUInt16LE(1, 8)
    exif.writeUInt16LE(0x0112, 10)
    exif.writeUInt16LE(3, 12)
    exif.writeUInt32LE(1, 14)
    exif.writeUInt16LE(orientation, 18)
    return png({ width, height, type: "rgb" }, stored, chunk("eXIf", exif))
  }

  // Stored column and row of what is shown at x, y (TIFF 6.0, tag Orientation), given the last column and row.
  const shownAt: readonly ((x: number, y: number, right: number, bottom: number) => readonly [number, number])[] = [
    (x, y) => [x, y],
    (x, y, right) => [right - x, y],
    (x, y, right, bottom) => [right - x, bottom - y],
    (x, y, _, bottom) => [x, bottom - y],
    (x, y) => [y, x],
    (x, y, _, bottom) => [y, bottom - x],
    (x, y, right, bottom) => [right - y, bottom - x],
    (x, y, right) => [right - y, x],
  ]

  it.each([1, 2, 3, 4, 5, 6, 7, 8])("%i is applied", async (orientation) => {
    const image = await decodeImage(turned(orientation))
    expect([image.width, image.height]).toEqual(orientation < 5 ? [width, height] : [height, width])
    expect(image.notes).toEqual(orientation === 1 ? [] : [`orientation ${orientation} applied`])
    const wanted: number[] = []
    for (let y = 0; y < image.height; y++) {
      for (let x = 0; x < image.width; x++) {
        const [column, row] = shownAt[orientation - 1]!(x, y, width - 1, height - 1)
        wanted.push(...stored.subarray((row * width + column) * 3, (row * width + column) * 3 + 3))
      }
    }
    expect(Buffer.compare(image.data, Uint8Array.from(wanted))).toBe(0)
  })

  it.each([3, 6, 99])("%i is left alone with exif: false", async (orientation) => {
    const image = await decodeImage(turned(orientation), { exif: false })
    expect([image.width, image.height]).toEqual([width, height])
    expect(Buffer.compare(image.data, stored)).toBe(0)
    expect(image.notes).toEqual(orientation < 9 ? [`orientation ${orientation} not applied`] : [])
  })

  it("a JPEG's is applied too", async () => {
    const bytes = await make(width, height).jpeg().withMetadata({ orientation: 6 }).toBuffer()
    expect(await outcome(bytes)).toMatchObject({ size: "48x64" })
    expect(await outcome(bytes, false)).toMatchObject({ size: "64x48" })
  })
})

describe("files", () => {
  it("content decides, not the name", async () => {
    const path = write("photo.jpg", plain)
    expect((await decodeImage(path)).data).toEqual((await decodeImage(plain)).data)
  })

  it("names that sharp would read as options are just names", async () => {
    const path = write("a[page=7].gif", jpeg)
    expect(await outcome(path)).toMatchObject({ size: "61x47" })
  })

  it("follows a link, and says what is missing, a folder or a pipe", async () => {
    symlinkSync(write("real.png", plain), join(folder, "link.png"))
    expect(await outcome(join(folder, "link.png"))).toMatchObject({ size: "61x47" })
    expect(await outcome(join(folder, "gone.png"))).toBe("E_DATASET_GONE")
    expect(await outcome(join(folder, "real.png", "x"))).toBe("E_DATASET_GONE")
    expect(await outcome("http://127.0.0.1:9/a.png")).toBe("E_DATASET_GONE")
    expect(await outcome(folder)).toBe("E_NOT_A_FILE")
    expect(await outcome("a\0b")).toBe("E_IO")
    expect(await outcome("n".repeat(5000))).toBe("E_IO")
  })

  it.skipIf(process.platform === "win32")("does not wait for a named pipe", async () => {
    execFileSync("mkfifo", [join(folder, "pipe")])
    expect(await outcome(join(folder, "pipe"))).toBe("E_NOT_A_FILE")
  })

  it("gives the same one-line message twice, with the file and what to do", async () => {
    const messageOf = (source: string | Uint8Array, name?: string): Promise<unknown> =>
      decodeImage(source, name === undefined ? {} : { name }).catch((error: unknown) => (error as Error).message)
    const half = jpeg.subarray(0, 500)
    expect(await messageOf(half, "a/b.jpg")).toBe(
      "a/b.jpg: the jpeg cannot be decoded: damaged or cut short (500 bytes)",
    )
    expect(await messageOf(half, "a/b.jpg")).toBe(await messageOf(half, "a/b.jpg"))
    expect(await messageOf(Buffer.from("<html>\n\x1b[31m"))).toBe(
      'image: an image is JPEG, PNG, GIF, WebP or TIFF, got a file that begins with "<html>..[31m"',
    )
    expect(await messageOf(png({ width: 60_000, height: 60_000, type: "rgb" }, Buffer.alloc(0)), "x.png")).toBe(
      "x.png: 60000 x 60000 png needs 10318 MiB to decode, the limit is 300 MiB; make the image smaller",
    )
    expect(await messageOf("/no/such.png", "row 7")).toBe(
      "row 7: there is no such file (any more); check the path, or list the images again",
    )
  })
})

describe("memory of one image near the limit, in a process of its own", () => {
  const program = `
    import { decodeImage, encodePng } from "../src/data/image.ts"
    await decodeImage(await encodePng(new Uint8Array(3), 1, 1, 3))
    const before = process.memoryUsage.rss()
    let peak = before
    const look = () => { peak = Math.max(peak, process.memoryUsage.rss()) }
    const timer = setInterval(look, 1) // resourceUsage().maxRSS would begin with the parent's
    const { width } = await decodeImage(process.argv[2]!).catch((error) => ({ width: error.code }))
    look()
    clearInterval(timer)
    console.log(JSON.stringify({ width, mib: (peak - before) / 2 ** 20 }))
  `
  const blank = (width: number, height: number): Sharp =>
    sharp({ create: { width, height, channels: 3, background: "#c86432" }, limitInputPixels: false })

  it.each([
    ["PNG of 90 megapixels", () => blank(9500, 9500).png({ compressionLevel: 1 }).toBuffer(), 9500],
    ["WebP of 25 megapixels", () => blank(5000, 5000).webp({ effort: 0 }).toBuffer(), 5000],
    ["progressive JPEG of 30 megapixels", () => blank(5500, 5500).jpeg({ progressive: true }).toBuffer(), 5500],
    [
      "PNG header of 3600 megapixels",
      () => png({ width: 60_000, height: 60_000, type: "rgb" }, Buffer.alloc(0)),
      "E_IMAGE_TOO_LARGE",
    ],
  ] as const)("%s", async (_, build, width) => {
    const { stdout, stderr } = await runTs(program, { args: [write("large", await build())] })
    expect(stderr).toBe("")
    const got = JSON.parse(stdout) as { width: unknown; mib: number }
    expect(got.width).toBe(width)
    const large = typeof width === "number" && width > 1
    if (large) expect(got.mib).toBeGreaterThan(150) // that the peak was seen at all
    expect(got.mib).toBeLessThan(large ? 300 : 30)
  })
})

describe("the limit counts what the decoder will hold (headers of large images, without their pixels)", () => {
  /** The JPEG with other sizes in its frame header, FF C0 or FF C2: length, precision, height, width. */
  const resizedJpeg = (bytes: Buffer, marker: 0xc0 | 0xc2, n: number): Buffer => {
    const frame = bytes.indexOf(Buffer.of(0xff, marker))
    bytes.writeUInt16BE(n, frame + 5)
    bytes.writeUInt16BE(n, frame + 7)
    return bytes
  }
  const interlaced = (n: number, method: number): Buffer => {
    const bytes = png({ width: n, height: n, type: "rgb" }, Buffer.alloc(0))
    bytes[28] = method
    bytes.writeUInt32BE(crc32(bytes.subarray(12, 29)), 29)
    return bytes
  }
  const rotated = async (n: number): Promise<Buffer> =>
    resizedJpeg(await make(9, 9).jpeg().withMetadata({ orientation: 6 }).toBuffer(), 0xc0, n)
  const gif = (n: number): Buffer => {
    const size = [n & 255, n >> 8, n & 255, n >> 8]
    const screen = [...size, 0x80, 0, 0, 0, 0, 0, 255, 255, 255] // two colours
    const frame = [0x2c, 0, 0, 0, 0, ...size, 0, 2, 2, 0x44, 1, 0, 0x3b] // one pixel of data
    return Buffer.concat([Buffer.from("GIF89a"), Buffer.from([...screen, ...frame])])
  }
  const webp = async (n: number): Promise<Buffer> => {
    const bytes = await make(9, 9).webp().toBuffer()
    bytes.writeUInt16LE(n, 26)
    bytes.writeUInt16LE(n, 28)
    return bytes
  }
  const progressive = async (n: number): Promise<Buffer> =>
    resizedJpeg(await make(9, 9).jpeg({ progressive: true }).toBuffer(), 0xc2, n)
  const deep = (n: number): Buffer => png({ width: n, height: n, depth: 16, type: "rgb" }, Buffer.alloc(0))

  // The largest square that fits in 282 MiB, at 3 bytes a pixel and what is held besides.
  it.each([
    ["JPEG", 9900, (n) => Promise.resolve(resizedJpeg(Buffer.from(jpeg), 0xc0, n)), true],
    ["progressive JPEG", 5700, progressive, true],
    ["rotated JPEG", 7000, rotated, true],
    ["rotated JPEG with exif: false", 9900, rotated, false],
    ["PNG", 9900, (n) => Promise.resolve(interlaced(n, 0)), true],
    ["interlaced PNG", 7000, (n) => Promise.resolve(interlaced(n, 1)), true],
    ["16-bit PNG", 5700, (n) => Promise.resolve(deep(n)), true],
    ["GIF", 6480, (n) => Promise.resolve(gif(n)), true],
    ["WebP", 5170, webp, true],
  ] as const satisfies readonly [string, number, (n: number) => Promise<Buffer>, boolean][])(
    "%s: %i pixels square",
    async (_, largest, build, exif) => {
      expect(await outcome(await build(largest + 50), exif)).toBe("E_IMAGE_TOO_LARGE")
      expect(await outcome(await build(largest - 50), exif)).not.toBe("E_IMAGE_TOO_LARGE")
    },
  )
})

describe("500 mutated files", () => {
  it("end in pixels or a typed error, none in anything else, none slowly", async () => {
    const next = random(26)
    const seeds = [jpeg, plain, ...files.map((name) => Buffer.from(tensors.get(`file/${name}`)!.bytes))]
    const codes = new Map<string, number>()
    let slowest = 0
    for (let i = 0; i < 500; i++) {
      let bytes = Buffer.from(seeds[i % seeds.length]!)
      for (let edits = 1 + next() * 3; edits >= 1; edits--) {
        const at = Math.trunc(next() * (next() < 0.5 ? Math.min(64, bytes.length) : bytes.length))
        const kind = next()
        if (kind < 0.6) bytes[at] = Math.trunc(next() * 256)
        else if (kind < 0.8) bytes = bytes.subarray(0, at + 1)
        else bytes = Buffer.concat([bytes.subarray(0, at), bytes.subarray(Math.trunc(next() * bytes.length))])
      }
      const start = cpuMs()
      const got = await outcome(bytes, next() < 0.5) // anything but a PrismaError fails here
      slowest = Math.max(slowest, cpuMs() - start)
      const code = typeof got === "string" ? got : "pixels"
      codes.set(code, (codes.get(code) ?? 0) + 1)
    }
    expect(new Set(codes.keys())).toEqual(new Set(["pixels", "E_IMAGE_DECODE", "E_IMAGE_TOO_LARGE"]))
    expect(slowest).toBeLessThan(2000)
  })
})

describe("encodePng", () => {
  it.each([1, 3] as const)("is undone by decoding (%i channels)", async (channels) => {
    const data = noise(7 * 5 * channels)
    const file = await encodePng(data, 7, 5, channels)
    const image = await decodeImage(file)
    expect([image.width, image.height, image.notes]).toEqual([7, 5, []])
    const wanted = channels === 3 ? [...data] : [...data].flatMap((v) => [v, v, v])
    expect([...image.data]).toEqual(wanted)
    expect(await encodePng(data, 7, 5, channels)).toEqual(file)
  })

  it("keeps alpha", async () => {
    const data = noise(3 * 3 * 4)
    const { data: back, info } = await sharp(await encodePng(data, 3, 3, 4))
      .raw()
      .toBuffer({ resolveWithObject: true })
    expect(info.channels).toBe(4)
    expect([...back]).toEqual([...data])
  })

  it.each([
    [8, 5],
    [0, 0],
    [7.5, 5],
    [-7, -5],
  ])("refuses sizes that do not fit: %d x %d", async (width, height) => {
    await expect(encodePng(noise(105), width, height, 3)).rejects.toMatchObject({ code: "E_INPUT" })
  })
})
