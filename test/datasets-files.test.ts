/** @file Datasets in idx, npy, npz, CIFAR-10's layouts and folders: against numbers computed by NumPy and Pillow, and damaged files. */
import {
  copyFileSync,
  cpSync,
  existsSync,
  mkdirSync,
  mkdtempSync,
  readdirSync,
  readFileSync,
  rmSync,
  symlinkSync,
  writeFileSync,
} from "node:fs"
import { createHash } from "node:crypto"
import { tmpdir } from "node:os"
import { join, resolve } from "node:path"
import { gzipSync } from "node:zlib"
import { afterAll, describe, expect, it } from "vitest"
import { encodePng } from "../src/data/image.ts"
import { configByName, defineConfig, DSpritesConfig, ImageNetConfig, setField } from "../src/configs/index.ts"
import { cifar10 } from "../src/datasets/cifar.ts"
import { circle } from "../src/datasets/circle.ts"
import type { NamedDataset, Sample } from "../src/datasets/dataset.ts"
import { dSpritesNpz } from "../src/datasets/dsprites-npz.ts"
import { dSprites } from "../src/datasets/dsprites.ts"
import { imageFolder } from "../src/datasets/folder.ts"
import { mnist, fashionMnist, readIdx } from "../src/datasets/idx.ts"
import { induction } from "../src/datasets/induction.ts"
import { readNpy } from "../src/datasets/npy.ts"
import { readNpz } from "../src/datasets/npz.ts"
import { DATASET_NAMES, openDataset } from "../src/datasets/open.ts"
import { openOneSplit } from "../src/datasets/recognise.ts"
import { batches } from "../src/datasets/loader.ts"
import { openData } from "../src/train/data.ts"
import { type Member, zip } from "./helpers/zip.ts"

const shared = resolve(import.meta.dirname, "../../shared/data")
const fixtures = resolve(import.meta.dirname, "fixtures/datasets")
const scratch = mkdtempSync(join(tmpdir(), "vit-prisma-datasets-"))
afterAll(() => rmSync(scratch, { recursive: true }))

let made = 0
/** A new folder with these files. */
function folder(files: Record<string, Uint8Array | string> = {}): string {
  const root = join(scratch, String(made++))
  mkdirSync(root)
  for (const [name, content] of Object.entries(files)) {
    mkdirSync(join(root, name, ".."), { recursive: true })
    writeFileSync(join(root, name), content)
  }
  return root
}

/** The error of `work`, which is the same when it is done again. */
async function error(work: () => unknown): Promise<{ code: string; message: string }> {
  const tries = []
  for (let i = 0; i < 2; i++) {
    try {
      await work()
      tries.push({ code: "none", message: "" })
    } catch (e) {
      const { name, code, message } = e as Error & { code: string }
      expect([name, message.split("\n").length]).toEqual(["PrismaError", 1])
      tries.push({ code, message })
    }
  }
  expect(tries[1]).toEqual(tries[0])
  return tries[0]!
}

const sum = (bytes: ArrayLike<number>): number =>
  Array.prototype.reduce.call(bytes, (a, b) => (a as number) + (b as number), 0) as number
const sample = (dataset: NamedDataset, i: number): Sample => dataset.at(i) as Sample
const labels = (dataset: NamedDataset, from: number, to: number) =>
  Array.from({ length: to - from }, (_, i) => sample(dataset, from + i).label)
const counts = (dataset: NamedDataset) => {
  const all = Array.from({ length: dataset.classes.length }, () => 0)
  for (let i = 0; i < dataset.length; i++) all[sample(dataset, i).label as number]!++
  return all
}
const total = (dataset: NamedDataset) => {
  let all = 0
  for (let i = 0; i < dataset.length; i++) for (const pixel of sample(dataset, i).image.data) all += pixel
  return all
}

/** An idx file, built by hand. */
const idx = (type: number, shape: readonly number[], values: Uint8Array | readonly number[]): Uint8Array => {
  const head = Buffer.alloc(4 + 4 * shape.length)
  head[2] = type
  head[3] = shape.length
  shape.forEach((d, axis) => head.writeUInt32BE(d, 4 + 4 * axis))
  return Buffer.concat([head, Uint8Array.from(values)])
}

const TRAIN = ["train-images-idx3-ubyte", "train-labels-idx1-ubyte"] as const
const TEST = ["t10k-images-idx3-ubyte", "t10k-labels-idx1-ubyte"] as const
/** Four small files with the two given in place of those of the training split. */
const four = (images: Uint8Array, labels: Uint8Array, gz = ""): string =>
  folder({
    [TRAIN[0] + gz]: images,
    [TRAIN[1] + gz]: labels,
    [TEST[0]]: idx(8, [1, 2, 2], [9, 8, 7, 6]),
    [TEST[1]]: idx(8, [1], [3]),
  })
const goodImages = idx(
  8,
  [3, 2, 2],
  Array.from({ length: 12 }, (_, i) => i * 20),
)
const goodLabels = idx(8, [3], [5, 0, 9])

describe.skipIf(!existsSync(join(shared, "mnist")))("MNIST of ../shared/data (skipped where it is absent)", () => {
  it("has the counts, labels and pixels that NumPy reads", async () => {
    const { train, test } = await mnist(join(shared, "mnist"))
    expect([train.length, test.length, train.shape, train.name]).toEqual([60_000, 10_000, [1, 28, 28], "mnist/train"])
    expect(labels(train, 0, 10)).toEqual([5, 0, 4, 1, 9, 2, 1, 3, 1, 4])
    expect(labels(test, 0, 10)).toEqual([7, 2, 1, 0, 4, 1, 4, 9, 5, 9])
    expect(counts(train)).toEqual([5923, 6742, 5958, 6131, 5842, 5421, 5918, 6265, 5851, 5949])
    expect(counts(test)).toEqual([980, 1135, 1032, 1010, 982, 892, 958, 1028, 974, 1009])
    expect([total(train), total(test)]).toEqual([1_567_298_545, 264_923_200])
    expect([sum(sample(train, 0).image.data), sum(sample(train, 59_999).image.data)]).toEqual([27_525, 20_920])
    expect(train.fingerprint).toMatch(/^[0-9a-f]{64}$/)
    expect(train.fingerprint).not.toBe(test.fingerprint)
  })
})

describe("idx", () => {
  it("is read as it is written: types, sizes and big-endian values", () => {
    const cases: [number, number[], string, number[]][] = [
      [0x08, [0, 200], "uint8", [0, 200]],
      [0x09, [0xff, 1], "int8", [-1, 1]],
      [0x0b, [0xff, 0xfe, 1, 0], "int16", [-2, 256]],
      [0x0c, [0, 1, 0, 0, 0xff, 0xff, 0xff, 0xff], "int32", [65_536, -1]],
      [0x0d, [0x3f, 0x80, 0, 0, 0xc0, 0, 0, 0], "float32", [1, -2]],
      [0x0e, [0x3f, 0xf0, 0, 0, 0, 0, 0, 0, 0xc0, 0, 0, 0, 0, 0, 0, 0], "float64", [1, -2]],
    ]
    for (const [type, bytes, dtype, values] of cases) {
      const t = readIdx(idx(type, [2], bytes))
      expect([t.dtype, t.shape, Array.from(t.data as Uint8Array)]).toEqual([dtype, [2], values])
    }
  })

  it("that is damaged is refused by what is wrong with it", async () => {
    const cases: [Uint8Array, string][] = [
      [new Uint8Array(0), "begins with 0000, got nothing"],
      [new Uint8Array([0, 0, 8]), "begins with 0000, got 000008"],
      [idx(8, [1], [1]).fill(1, 0, 1), "begins with 0000, got 01000801"],
      [idx(0x0a, [1], [1]), "type 08, 09, 0b, 0c, 0d or 0e expected, got 0a"],
      [idx(8, [], [1]), "rank 1 or more expected, got 0"],
      [idx(8, [1, 1], []).subarray(0, 9), "header of 12 bytes expected, got 9"],
      [goodImages.subarray(0, -1), "idx of uint8 [3, 2, 2] has 28 bytes, got 27"],
      [Buffer.concat([goodImages, new Uint8Array(2)]), "idx of uint8 [3, 2, 2] has 28 bytes, got 30"],
      [idx(8, [2 ** 32 - 1, 2 ** 32 - 1, 2 ** 32 - 1], []), "has 7.922816"],
    ]
    for (const [bytes, what] of cases) {
      expect(await error(() => readIdx(bytes))).toMatchObject({ code: "E_IDX", message: expect.stringContaining(what) })
    }
  })

  it("four files give the same splits plain, gzipped and with dots in their names", async () => {
    const plain = await mnist(four(goodImages, goodLabels))
    const packed = await mnist(four(gzipSync(goodImages), gzipSync(goodLabels), ".gz"))
    const dots = folder()
    cpSync(four(goodImages, goodLabels), dots, { recursive: true })
    for (const name of [...TRAIN, ...TEST]) {
      copyFileSync(join(dots, name), join(dots, name.replace("-idx", ".idx")))
      rmSync(join(dots, name))
    }
    for (const { train, test } of [plain, packed, await mnist(dots)]) {
      expect(labels(train, 0, 3)).toEqual([5, 0, 9])
      expect(sample(train, 1)).toEqual({
        image: { dtype: "uint8", shape: [1, 2, 2], data: new Uint8Array([80, 100, 120, 140]) },
        label: 0,
      })
      expect(test.length).toBe(1)
      expect(train.fingerprint).toBe(plain.train.fingerprint)
    }
    const { train } = await fashionMnist(four(goodImages, goodLabels))
    expect([train.name, train.classes[9]]).toEqual(["fashion-mnist/train", "Ankle boot"])
    for (const i of [-1, 3, 0.5, NaN]) expect(await error(() => train.at(i))).toMatchObject({ code: "E_INPUT" })
  })

  it("files that do not fit together, or cannot be unpacked, are refused", async () => {
    const gz = gzipSync(goodImages)
    const wrongCrc = Buffer.from(gz)
    wrongCrc[gz.length - 8]! ^= 1
    const bomb = gzipSync(idx(8, [1, 10_000, 10_000], new Uint8Array(1e8)))
    const cases: [Uint8Array, Uint8Array, string, string, string][] = [
      [goodImages, idx(8, [2], [1, 2]), "", "E_IDX", "3 labels expected, one for each image, got 2"],
      [
        goodImages,
        idx(8, [3], [1, 2, 10]),
        "",
        "E_LABEL_RANGE",
        "row 2 has label 10, expected a whole number from 0 to 9",
      ],
      [
        goodImages,
        idx(8, [3], [4, 4, 4]),
        "",
        "E_DATASET_EMPTY",
        'samples of class "4" alone; a classifier learns from two classes or more; splits found: train, test',
      ],
      [
        idx(8, [0, 28, 28], []),
        idx(8, [0], []),
        "",
        "E_DATASET_EMPTY",
        "0 images of 28 x 28; splits found: train, test",
      ],
      [
        idx(0x0d, [3, 1, 1], new Uint8Array(12)),
        goodLabels,
        "",
        "E_IDX",
        "uint8 of rank 3 expected, got float32 [3, 1, 1]",
      ],
      [goodImages, idx(8, [3, 1], [1, 2, 3]), "", "E_IDX", "uint8 of rank 1 expected"],
      [
        idx(8, [3, 2, 3], new Uint8Array(18)),
        goodLabels,
        "",
        "E_DATASET_SCHEMA",
        "[1, 2, 3] in train, [1, 2, 2] in test",
      ],
      [gz.subarray(0, -9), gzipSync(goodLabels), ".gz", "E_GZIP", "unexpected end of file"],
      [wrongCrc, gzipSync(goodLabels), ".gz", "E_GZIP", "incorrect data check"],
      [gzipSync(gz), gzipSync(goodLabels), ".gz", "E_GZIP", "gzip inside gzip"],
      [goodImages, gzipSync(goodLabels), ".gz", "E_GZIP", "does not begin as gzip does"],
      [gzipSync(goodImages.subarray(0, -1)), gzipSync(goodLabels), ".gz", "E_IDX", "has 28 bytes, got 27"],
      [
        gzipSync(Buffer.concat([goodImages, goodImages])),
        gzipSync(goodLabels),
        ".gz",
        "E_IDX",
        "has 28 bytes, got more",
      ],
      [gzipSync(new Uint8Array(0)), gzipSync(goodLabels), ".gz", "E_IDX", "got nothing"],
      [bomb, gzipSync(goodLabels), ".gz", "E_GZIP", "that grow to 100000016"],
    ]
    for (const [images, labels, gz, code, what] of cases) {
      const root = four(images, labels, gz)
      expect(await error(() => mnist(root))).toMatchObject({ code, message: expect.stringContaining(what) })
    }
    const absent = await error(() =>
      mnist(folder({ [TRAIN[0]]: goodImages, [TRAIN[1]]: goodLabels })).catch((e: Error) =>
        Promise.reject(Object.assign(e, { message: e.message.replace(/^\S+/, "F") })),
      ),
    )
    expect(absent).toMatchObject({
      code: "E_DATASET_EMPTY",
      message: expect.stringContaining("no test split of mnist; splits found: train"),
    })
    expect(await error(() => mnist(join(scratch, "nowhere")))).toMatchObject({ code: "E_NOT_A_FILE" })
  })
})

describe("npy and npz", () => {
  const file = (name: string) => new Uint8Array(readFileSync(join(fixtures, name)))
  const npy = (header: string, length = header.length, version = 1): Uint8Array => {
    const head = Buffer.alloc(version === 1 ? 10 : 12)
    head.write("\x93NUMPY", "latin1")
    head[6] = version
    if (version === 1) head.writeUInt16LE(length, 8)
    else head.writeUInt32LE(length, 8)
    return Buffer.concat([head, Buffer.from(header)])
  }
  const dict = (descr: string, shape: string, fortran = "False") =>
    `{'descr': ${descr}, 'fortran_order': ${fortran}, 'shape': ${shape}, }`
  const array = (name: string, descr: string, shape: string, data: Uint8Array): Member => ({
    name: `${name}.npy`,
    data: Buffer.concat([npy(dict(descr, shape)), data]),
  })
  /** dSprites' layout: four images, all black, of the shapes 0, 1, 2 and 0. */
  const imgs = array("imgs", "'|u1'", "(4, 64, 64)", new Uint8Array(4 * 64 * 64))
  const latents = BigInt64Array.from({ length: 24 }, (_, at) => BigInt(at % 6 === 1 ? Math.floor(at / 6) % 3 : 0))
  const classes = array("latents_classes", "'<i8'", "(4, 6)", new Uint8Array(latents.buffer))

  it("arrays that NumPy wrote are read: versions, types, byte orders, rank 0", () => {
    expect(readNpy(file("f4.npy"))).toEqual({
      dtype: "float32",
      shape: [2, 3],
      data: new Float32Array([0, 0.5, 1, 1.5, 2, 2.5]),
    })
    expect(readNpy(file("big-i4.npy"))).toEqual({ dtype: "int32", shape: [3], data: new Int32Array([1, -2, 300_000]) })
    expect(readNpy(file("scalar.npy"))).toEqual({ dtype: "float64", shape: [], data: new Float64Array([2.5]) })
    for (const v of [1, 2, 3]) {
      expect(readNpy(file(`v${v}.npy`))).toEqual({ dtype: "bool", shape: [2], data: new Uint8Array([1, 0]) })
    }
  })

  it("what cannot be read is refused before it is", async () => {
    const cases: [Uint8Array, string, string][] = [
      [file("objects.npy"), "E_NPY_OBJECT", "pickled arrays are not read"],
      [file("fields.npy"), "E_NPY_HEADER", "header entry expected at"],
      [file("fortran.npy"), "E_NPY_HEADER", "order of Fortran"],
      [file("f4.npy").subarray(0, 5), "E_NPY_HEADER", "got 934e554d50"],
      [file("f4.npy").subarray(0, -1), "E_NPY_HEADER", "float32 [2, 3] makes a file of 152 bytes, got 151"],
      [npy("x", 10_001), "E_NPY_HEADER", "header of 10001 bytes, at most 10000"],
      [npy("x", 2 ** 32 - 1, 2), "E_NPY_HEADER", "header of 4294967295 bytes"],
      [npy("x", 5000), "E_NPY_HEADER", "header of 5000 bytes in a file of 11"],
      [npy("x", 1, 4), "E_NPY_HEADER", "version 1.0, 2.0 or 3.0 expected, got 4.0"],
      [new Uint8Array(0), "E_NPY_HEADER", "got nothing"],
      [npy("x", 1, 2).subarray(0, 11), "E_NPY_HEADER", "ends within its first 12 bytes"],
      [npy("[1]"), "E_NPY_HEADER", "header is a Python dict"],
      [npy("{'descr': True, 'fortran_order': False, 'shape': (0,)}"), "E_NPY_HEADER", "descr is a type in quotes"],
      [npy("{'descr': '|u1', 'fortran_order': '0', 'shape': (0,)}"), "E_NPY_HEADER", "fortran_order is True or False"],
      [npy("{'descr': '|u1', 'fortran_order': False, 'shape': '(0,)'}"), "E_NPY_HEADER", "shape is a tuple of sizes"],
      [npy("{}"), "E_NPY_HEADER", "no entry descr"],
      [npy("{'descr': '|u1', 'descr': '|u1'}"), "E_NPY_HEADER", "two entries descr"],
      [npy(dict("'|u1'", "(-1,)")), "E_NPY_HEADER", "header entry expected"],
      [npy(dict("'|u1'", "(3)")), "E_NPY_HEADER", "shape is a tuple of sizes"],
      [npy(dict("'|u1'", "3")), "E_NPY_HEADER", "header entry expected"],
      [npy(dict("'|u1'", "(99999999999999999999,)")), "E_NPY_HEADER", "shape is a tuple of sizes"],
      [npy(dict("'|u1'", "(9007199254740991, 9007199254740991)")), "E_NPY_HEADER", "makes a file of 8.1"],
      [npy(dict("'<c16'", "(0,)")), "E_UNSUPPORTED_DTYPE", '"<c16"'],
      [npy(dict("'|O'", "(0,)")), "E_NPY_OBJECT", "objects"],
      [npy(`{'descr': '|u1', 'fortran_order': exit(), 'shape': (0,)}`), "E_NPY_HEADER", "header entry expected"],
    ]
    for (const [bytes, code, what] of cases) {
      expect(await error(() => readNpy(bytes)), what).toMatchObject({ code, message: expect.stringContaining(what) })
    }
  })

  it("dSprites' npz gives NumPy's images, bit by bit, each once", async () => {
    const { dsprites } = JSON.parse(readFileSync(join(fixtures, "expected.json"), "utf8")) as { dsprites: string[] }
    const { train, test } = await dSpritesNpz(join(fixtures, "dsprites-12.npz"), { seed: 3 })
    expect([train.length, test.length, train.shape]).toEqual([9, 3, [1, 64, 64]])
    const seen = [train, test].flatMap((split) =>
      Array.from({ length: split.length }, (_, i) => {
        const { image, label } = sample(split, i)
        const hash = createHash("sha256").update(image.data).digest("hex").slice(0, 16)
        expect(label).toBe(dsprites.indexOf(hash) % 3)
        return hash
      }),
    )
    expect(seen.toSorted()).toEqual(dsprites.toSorted())
    expect((await dSpritesNpz(join(fixtures, "dsprites-12.npz"), { seed: 4 })).train.fingerprint).not.toBe(
      train.fingerprint,
    )
  })

  it("dSprites' npz has every target of the drawn ones", async () => {
    const npz = join(fixtures, "dsprites-12.npz") // its latents count up: shape i % 3, scale i % 6, the others 0
    const of = async (target: "shape" | "scale" | "orientation" | "position") => {
      const { train, test } = await dSpritesNpz(npz, { target })
      return { classes: train.classes.length, labels: [...labels(train, 0, 9), ...labels(test, 0, 3)] }
    }
    expect((await of("shape")).labels.map(Number).toSorted((a, b) => a - b)).toEqual([
      0, 0, 0, 0, 1, 1, 1, 1, 2, 2, 2, 2,
    ])
    expect(await of("scale")).toMatchObject({ classes: 6, labels: expect.arrayContaining([0, 1, 2, 3, 4, 5]) })
    expect(await of("position")).toEqual({ classes: 0, labels: Array.from({ length: 12 }, () => [0, 0]) })
    expect(await error(() => of("orientation"))).toMatchObject({
      code: "E_DATASET_EMPTY",
      message: expect.stringMatching(/has samples of class "0\/39 turn" alone; .*; splits found: train, test$/),
    })
  })

  it("damaged npz files are refused", async () => {
    const good = file("dsprites-12.npz")
    const damaged = Buffer.from(good)
    damaged[damaged.indexOf("imgs.npy") + 300]! ^= 0xff
    const where = folder({ "cut.npz": good.subarray(0, -30), "bit.npz": damaged })
    expect(await error(() => dSpritesNpz(join(where, "cut.npz")))).toMatchObject({ code: "E_ZIP" })
    expect(await error(() => dSpritesNpz(join(where, "bit.npz")))).toMatchObject({ code: "E_ZIP" })
    const npz = join(fixtures, "dsprites-12.npz")
    expect(await error(() => readNpz(npz, ["metadata"]))).toMatchObject({ code: "E_NPY_OBJECT" })
    expect(await error(() => readNpz(npz, ["nothing"]))).toMatchObject({
      code: "E_DATASET_SCHEMA",
      message: expect.stringContaining('it has "metadata", "imgs", "latents_values", "latents_classes"'),
    })
    const latents = (await readNpz(npz, ["latents_values"])).get("latents_values")!
    expect([latents.dtype, latents.shape, latents.data[1]]).toEqual(["float64", [12, 6], 1])
  })

  it("npz files whose archive is wrong are refused before or while they are read", async () => {
    const read = { readNpz: (npz: string) => readNpz(npz, ["imgs", "latents_classes"]), dSpritesNpz }
    const whole = folder({ "x.npz": zip([imgs, { ...classes, deflate: true }]) })
    for (const work of Object.values(read)) expect((await error(() => work(join(whole, "x.npz")))).code).toBe("none")
    const other = { name: "other.npy", data: Buffer.alloc(1 << 20), deflate: true }
    const cases: [string, readonly Member[], string][] = [
      ["a CRC", [{ ...imgs, crc: 1 }, classes], "imgs.npy"],
      ["the CRC of a deflated member", [{ ...imgs, deflate: true, crc: 1 }, classes], "imgs.npy"],
      ["the CRC of the smaller member", [imgs, { ...classes, crc: 1 }], "latents_classes.npy"],
      ["a bomb that says so", [{ ...imgs, deflate: true, size: 2 ** 30 }, classes], "to 1073741824 bytes"],
      ["a bomb that nobody reads", [imgs, classes, { ...other, size: 2 ** 31 }], "to 2147483648 bytes"],
      ["a bomb that lies", [{ ...imgs, deflate: true, size: 160 }, classes], "160 bytes"],
      ["equal names", [imgs, classes, classes], 'two members "latents_classes.npy"'],
      ["an encrypted member", [{ ...imgs, deflate: true, flags: 1 }, classes], "encrypted"],
      ["an encrypted member that nobody reads", [imgs, classes, { ...other, flags: 1 }], "encrypted"],
    ]
    for (const [what, members, text] of cases) {
      const npz = join(folder({ "x.npz": zip(members) }), "x.npz")
      for (const [name, work] of Object.entries(read)) {
        const refused = await error(() => work(npz))
        expect(refused, `${what}, ${name}`).toMatchObject({ code: "E_ZIP", message: expect.stringContaining(text) })
      }
    }
    // 1 MiB of zeros grows a thousand times; in an archive that is read whole a hundred are too many.
    const bomb = join(folder({ "x.npz": zip([imgs, classes, other]) }), "x.npz")
    expect(await error(() => read.readNpz(bomb))).toMatchObject({
      code: "E_ZIP",
      message: expect.stringContaining("more than 100 times"),
    })
  })

  it("names in an npz that lead out of the folder are names like others: read in memory, and nothing is written", async () => {
    const names = ["../../x", "/etc/x", "C:\\x", "..\\x"]
    const extra = names.map((name, i) => array(name, "'|u1'", "(1,)", Uint8Array.of(i)))
    const where = folder({ "a/b/c.npz": zip([...extra, imgs, classes]) })
    const before = readdirSync(scratch, { recursive: true })
    const arrays = await readNpz(join(where, "a/b/c.npz"), names)
    expect([...arrays].map(([name, { data }]) => [name, data[0]])).toEqual(names.map((name, i) => [name, i]))
    expect((await dSpritesNpz(join(where, "a/b/c.npz"))).train.length).toBe(3)
    expect(readdirSync(scratch, { recursive: true })).toEqual(before)
    expect([existsSync("/etc/x.npy"), existsSync("../../x.npy")]).toEqual([false, false])
  })
})

describe.skipIf(!existsSync(join(shared, "cifar10")))("CIFAR-10 of ../shared/data (skipped where it is absent)", () => {
  it("has the counts, labels and pixels that Pillow reads", async () => {
    const { train, test } = await cifar10(join(shared, "cifar10"))
    expect([train.length, test.length, train.shape]).toEqual([50_000, 1000, [3, 32, 32]])
    expect(labels(train, 0, 10)).toEqual([6, 9, 9, 4, 1, 1, 2, 7, 8, 3])
    expect(labels(test, 0, 10)).toEqual([3, 8, 8, 0, 6, 6, 1, 6, 3, 1])
    expect(counts(train)).toEqual(Array.from({ length: 10 }, () => 5000))
    const channels = (from: number) => {
      const sums = [0, 0, 0]
      for (let i = from; i < from + 1000; i++) sample(train, i).image.data.forEach((v, at) => (sums[at >> 10]! += v))
      return sums
    }
    expect(channels(0)).toEqual([128_037_399, 126_082_481, 116_333_231])
    expect(channels(49_000)).toEqual([129_391_859, 126_718_133, 117_410_453])
    expect(Array.from(sample(train, 0).image.data.slice(0, 8))).toEqual([59, 43, 50, 68, 98, 119, 139, 145])
    expect(Array.from(sample(test, 7).image.data.slice(1120, 1125))).toEqual([95, 93, 92, 90, 83])
  })
})

describe("CIFAR-10's layouts", () => {
  /** Rows whose pixels in [3, 32, 32] are `seed + at`, modulo 256. */
  const row = (seed: number) => Uint8Array.from({ length: 3072 }, (_, at) => (seed + at) % 256)
  const batch = (...rows: [label: number, seed: number][]) =>
    Buffer.concat(rows.flatMap(([label, seed]) => [Uint8Array.of(label), row(seed)]))
  const sheet = (...seeds: number[]) => {
    const interleaved = (planes: Uint8Array) =>
      Uint8Array.from({ length: 3072 }, (_, i) => planes[(i % 3) * 1024 + Math.floor(i / 3)]!)
    return encodePng(Buffer.concat(seeds.map((seed) => interleaved(row(seed)))), 1024, seeds.length, 3)
  }

  it("binary batches and PNG sheets of the same images are the same dataset", async () => {
    const binary = await cifar10(
      folder({
        "data_batch_1.bin": batch([3, 1], [9, 2]),
        "data_batch_2.bin": batch([0, 5]),
        "test_batch.bin": batch([7, 6]),
      }),
    )
    const sheets = await cifar10(
      folder({
        "cifar10_batch_0.png": await sheet(1, 2),
        "cifar10_batch_1.png": await sheet(5),
        "cifar10_batch_2.png": await sheet(6),
        "cifar10_labels.js": "var labels=[3, 9, 0, 7];",
      }),
    )
    for (const { train, test } of [binary, sheets]) {
      expect([labels(train, 0, 3), labels(test, 0, 1)]).toEqual([[3, 9, 0], [7]])
      expect([...sample(train, 2).image.data]).toEqual([...row(5)])
      expect(train.classes[9]).toBe("truck")
    }
    expect(binary.train.fingerprint).toBe(sheets.train.fingerprint)
  })

  it("that are incomplete or damaged are refused; the labels are never run", async () => {
    const [a, b] = [await sheet(1, 2), await sheet(3)]
    const sheets = (js: string, more = {}) => ({
      "cifar10_batch_0.png": a,
      "cifar10_batch_1.png": b,
      "cifar10_labels.js": js,
      ...more,
    })
    const cases: [Record<string, Uint8Array | string>, string, string][] = [
      [{ "data_batch_1.bin": batch([1, 1]) }, "E_DATASET_EMPTY", "no test split"],
      [{ "test_batch.bin": batch([1, 1]) }, "E_DATASET_EMPTY", "no train split"],
      [
        { "data_batch_1.bin": batch([1, 1]).subarray(1), "test_batch.bin": batch([1, 1]) },
        "E_DATASET_SCHEMA",
        "has 3072 bytes",
      ],
      [
        { "data_batch_1.bin": batch([1, 1], [10, 1]), "test_batch.bin": batch([1, 1]) },
        "E_LABEL_RANGE",
        "row 1 has label 10",
      ],
      [sheets("var labels=[1, 2]"), "E_DATASET_SCHEMA", "3 labels expected, one for each row of the sheets, got 2"],
      [sheets("var labels=[1, 2, 12]"), "E_LABEL_RANGE", "row 2 has label 12"],
      [sheets("var labels=[1,,2]"), "E_LABEL_RANGE", "row 1 has label NaN"],
      [sheets("var labels=[1, 2, 3]; process.exit(1)"), "E_DATASET_SCHEMA", "and nothing else"],
      [sheets("var labels=[1, 2, 3]", { "cifar10_batch_3.png": b }), "E_DATASET_SCHEMA", "no cifar10_batch_2.png"],
      [
        sheets("var labels=[1, 2, 3]", { "cifar10_batch_1.png": a.subarray(0, 60) }),
        "E_IMAGE_DECODE",
        "cifar10_batch_1.png",
      ],
      [
        { "readme.txt": "" },
        "E_DATASET_EMPTY",
        "no train and no test split; splits found: none; CIFAR-10 is data_batch_1.bin",
      ],
    ]
    for (const [files, code, what] of cases) {
      const root = folder(files)
      expect(await error(() => cifar10(root)), what).toMatchObject({ code, message: expect.stringContaining(what) })
    }
  })
})

describe("folders of images", async () => {
  const png = (value: number, edge = 2) => encodePng(new Uint8Array(edge * edge * 3).fill(value), edge, edge, 3)
  const files = async (...names: string[]) =>
    Object.fromEntries(await Promise.all(names.map(async (n, i) => [n, await png(i)] as const)))

  it("are read in byte order, without what is hidden or no image", async () => {
    // U+FF5A comes before U+1F600 by its bytes, after it by JavaScript's own order.
    const root = folder({
      ...(await files(
        "train/b/2.png",
        "train/b/10.PNG",
        "train/a/\u{1F600}.png",
        "train/a/\uFF5A.png",
        "train/a/deep/x.png",
      )),
      ...(await files("test/a/1.png", "validation/b/1.png", "train/a/.hidden.png", "train/.git/x.png")),
      "train/a/notes.txt": "x",
      "train/readme.md": "x",
    })
    const { train, test, val } = await imageFolder(root)
    expect(train.classes).toEqual(["a", "b"])
    const seen = []
    for (let i = 0; i < train.length; i++) {
      const { image, label } = await train.at(i)
      seen.push([image.data[0], label])
    }
    expect(seen).toEqual([[4, 0], [3, 0], [2, 0], [1, 1], [0, 1]]) // prettier-ignore
    expect([test.length, val?.length, (await val!.at(0)).label]).toEqual([1, 1, 1])
  })

  it("are resized as Pillow does it", async () => {
    const coffee = Uint8Array.from({ length: 4 * 2 * 3 }, (_, i) => (i * 37) % 256)
    const root = folder({
      "train/a/1.png": await encodePng(coffee, 4, 2, 3),
      ...(await files("train/b/1.png", "test/a/1.png")),
    })
    const { train } = await imageFolder(root, { size: [3, 2] })
    expect(train.shape).toEqual([3, 3, 2])
    // Image.fromarray(a.reshape(2, 4, 3)).resize((2, 3), Image.BILINEAR), then transpose(2, 0, 1)
    expect(Array.from((await train.at(0)).image.data)).toEqual([
      79, 144, 100, 110, 121, 76, 80, 71, 119, 92, 158, 113, 117, 108, 101, 129, 85, 150,
    ])
    const grey = await imageFolder(root, { size: 2, channels: 1 })
    expect((await grey.train.at(0)).image.shape).toEqual([1, 2, 2])
    expect(grey.train.fingerprint).not.toBe(train.fingerprint)
  })

  it("name the sample whose file goes away between the listing and its reading, by its number", async () => {
    const root = folder(await files("train/a/1.png", "train/a/2.png", "train/b/1.png", "train/b/2.png", "test/a/1.png"))
    const { train } = await imageFolder(root)
    const path = join(root, "train/b/1.png")
    rmSync(path)
    const gone = { code: "E_DATASET_GONE", message: expect.stringMatching(`^sample 2: ${path}: there is no such file`), file: path } // prettier-ignore
    await expect(train.at(2)).rejects.toMatchObject(gone)
    expect((await train.at(3)).label).toBe(1)
    const read = async () => {
      for await (const { indices } of batches(train, { batchSize: 2, seed: 1, epoch: 0, shuffle: false }))
        expect([...indices]).toEqual([0, 1])
    }
    await expect(read()).rejects.toMatchObject(gone)
  })

  it("with links that lead back, empty files, missing splits or classes are refused", async () => {
    const good = await files("train/a/1.png", "train/b/1.png", "test/a/1.png")
    const loop = folder(good)
    symlinkSync(join(loop, "train"), join(loop, "train/a/again"))
    const twice = folder(good)
    symlinkSync(join(twice, "train/a"), join(twice, "train/c"))
    const broken = folder(good)
    symlinkSync(join(broken, "nowhere"), join(broken, "train/a/x.png"))
    const cases: [string, string, string][] = [
      [loop, "E_DATASET_SCHEMA", 'is the folder "a" again'],
      [twice, "E_DATASET_SCHEMA", 'is the folder "a" again'],
      [broken, "E_NOT_A_FILE", "x.png"],
      [
        folder({ ...good, "train/b/0.png": "", "train/a/0.jpg": "" }),
        "E_DATASET_SCHEMA",
        '2 image files of 0 bytes: "a/0.jpg", "b/0.png"',
      ],
      [folder({ ...good, "train/a/x.bmp": "BM" }), "E_DATASET_SCHEMA", ".bmp images are not decoded"],
      [
        folder({ ...good, "train/c/readme.txt": "" }),
        "E_DATASET_EMPTY",
        'no images of class "c"; splits found: test, train',
      ],
      [
        folder({ ...(await files("train/a/1.png", "train/b/1.png", "val/a/1.png")), "test/readme.txt": "" }),
        "E_DATASET_EMPTY",
        "test: has no images; splits found: test, train, val",
      ],
      [folder({ ...good, "test/z/1.png": await png(1) }), "E_LABEL_RANGE", 'class "z" is not among the 2'],
      [
        folder(await files("train/a/1.png", "test/a/1.png")),
        "E_DATASET_EMPTY",
        "1 class folders in train, at least 2 expected; splits found: test, train",
      ],
      [
        folder(await files("train/a/1.png", "val/a/1.png")),
        "E_DATASET_EMPTY",
        'no test split; splits found: train, val; option test: "val"',
      ],
      [folder({ ...good, "training/a/1.png": await png(1) }), "E_DATASET_SCHEMA", "two folders of the train split"],
      [folder(), "E_DATASET_EMPTY", "no train and no test split; splits found: none"],
    ]
    for (const [root, code, what] of cases) {
      expect(await error(() => imageFolder(root)), what).toMatchObject({ code, message: expect.stringContaining(what) })
    }
    // Of one split alone as well.
    for (const [name, what] of [["c", 'no images of class "c"'], [".c", "has no images"]] as const) {
      const root = folder({ ...good, [`val/${name}/readme.txt`]: "" })
      expect(await error(() => openOneSplit.folder(root, "val")), what).toMatchObject({
        code: "E_DATASET_EMPTY",
        message: expect.stringContaining(`val: ${what}; splits found: test, train, val`),
      })
    } // prettier-ignore
    for (const size of [0, 1.5, 4097, [2], "64"]) {
      const options = { size } as { size: number }
      expect(await error(() => imageFolder(loop, options))).toMatchObject({ code: "E_CONFIG" })
    }
    const { test, val } = await imageFolder(folder(await files("train/a/1.png", "train/b/1.png", "val/a/1.png")), {
      test: "val",
    })
    expect([test.length, val]).toEqual([1, undefined])
  })
})

describe("the dataset of a config", () => {
  it("is the seed's where the config is", async () => {
    for (const [name, drawn] of [["circle", circle], ["dsprites", dSprites], ["induction", induction]] as const) {
      const { train, test } = await openData(configByName(name, "seed-exact"))
      const want = drawn({ variant: "seed-exact" })
      expect([train.fingerprint, test.fingerprint]).toEqual([want.train.fingerprint, want.test.fingerprint])
    }
    expect((await openData(configByName("circle"))).train.fingerprint).toBe(circle().train.fingerprint)
  }) // prettier-ignore

  it("is dSprites' own file where one is named, the validation images where the test images have no labels", async () => {
    const path = join(fixtures, "dsprites-12.npz")
    expect((await openData(defineConfig(DSpritesConfig, { data: { path } }))).train.length).toBe(9)
    const image = await encodePng(new Uint8Array(12), 2, 2, 3)
    const names = ["train/a/1.png", "train/b/1.png", "val/a/1.png", "val/b/1.png", "val/b/2.png", "test/a/1.png"]
    const root = folder(Object.fromEntries(names.map((name) => [name, image])))
    const data = { path: root, mean: [0], std: [1] }
    const config = defineConfig(ImageNetConfig, { image: { image_size: 16, n_channels: 1 }, data })
    const { val, test } = await openData(config)
    expect([val?.length, test.length, test.shape]).toEqual([3, 1, [1, 16, 16]])
    const tested = await openData(setField(config, "data.test", "val"))
    expect([tested.val, tested.test.length]).toEqual([undefined, 3])
  })
})

describe("a dataset by its name", () => {
  it("is opened, or refused with the names that there are", async () => {
    const path = four(goodImages, goodLabels)
    expect((await openDataset({ name: "mnist", path })).train.length).toBe(3)
    expect(
      (await openDataset({ name: "dsprites", path: join(fixtures, "dsprites-12.npz"), testSplit: 0.5 })).test.length,
    ).toBe(6)
    const drawn = await openDataset({ name: "circle", modulus: 12 })
    expect([drawn.train.name, drawn.train.length + drawn.test.length]).toEqual(["circle/train", 66])
    const refused = (spec: object) => error(() => openDataset(spec as Parameters<typeof openDataset>[0]))
    for (const name of ["imagenet", "__proto__", "constructor", undefined]) {
      expect(await refused({ name })).toMatchObject({
        code: "E_CONFIG",
        message: expect.stringContaining(DATASET_NAMES.join(", ")),
      })
    }
    expect(await refused({ name: "mnist", path, sise: 3 })).toMatchObject({
      code: "E_CONFIG",
      message: expect.stringContaining('"sise"'),
    })
    expect(await refused({ name: "cifar10" })).toMatchObject({
      code: "E_CONFIG",
      message: expect.stringContaining("option path is missing"),
    })
    expect(await refused({ name: "mnist", path: 3 })).toMatchObject({ code: "E_CONFIG" })
  })
})
