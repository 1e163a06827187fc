/** @file The batch loader: its order is a function of seed and epoch alone, and neither start nor threads change what comes. */
import { mkdirSync, mkdtempSync, rmSync, writeFileSync } from "node:fs"
import { tmpdir } from "node:os"
import { join } from "node:path"
import { pathToFileURL } from "node:url"
import { afterAll, describe, expect, it } from "vitest"
import { encodePng } from "../src/data/image.ts"
import type { Dataset, Sample } from "../src/datasets/dataset.ts"
import type * as Folder from "../src/datasets/folder.ts"
import { batches, type Batch, type BatchOptions } from "../src/datasets/loader.ts"
import type * as Loader from "../src/datasets/loader.ts"
import type * as ThreadModule from "../src/datasets/thread.ts"
import { Random } from "../src/tensor/random.ts"
import { root } from "./helpers/cli.ts"

// A worker thread runs JavaScript: the built modules.
const built = (name: string): Promise<unknown> =>
  import(pathToFileURL(join(root, "dist/src/datasets", `${name}.js`)).href)
const { imageFolder } = (await built("folder")) as typeof Folder
const { startThread } = (await built("thread")) as typeof ThreadModule
const { batches: builtBatches } = (await built("loader")) as typeof Loader

const scratch = mkdtempSync(join(tmpdir(), "vit-prisma-loader-"))
afterAll(() => rmSync(scratch, { recursive: true }))

/** Image i is [1, 2, 3] of i, 10 i, ... and has label i modulo 7. */
const pixels = (i: number) => Array.from({ length: 6 }, (_, at) => (i + 10 * at) % 256)
const image = (i: number): Sample => ({
  image: { dtype: "uint8", shape: [1, 2, 3], data: Uint8Array.from(pixels(i)) },
  label: i % 7,
})
const plain = (length: number): Dataset => ({ length, at: image })
const waiting = (length: number): Dataset => ({ length, at: async (i) => (await Promise.resolve(), image(i)) })

const OPTIONS = { batchSize: 8, seed: 5, epoch: 3 } as const

async function all(dataset: Dataset, options: Partial<BatchOptions> = {}): Promise<Batch[]> {
  const out: Batch[] = []
  for await (const batch of batches(dataset, { ...OPTIONS, ...options })) out.push(batch)
  return out
}
const failure = (dataset: Dataset, options: object) =>
  all(dataset, options).then(
    () => "nothing",
    (e: Error & { code: string }) => `${e.name} ${e.code}: ${e.message}`,
  )

describe("batches", () => {
  it("hold the samples that their indices name, in the permutation of seed and epoch", async () => {
    const permutation = new Random(5, "order:3").permutation(50)
    const some = await all(plain(50))
    expect(some.flatMap(({ indices }) => [...indices])).toEqual(Array.from(permutation.slice(0, 48)))
    for (const { images, labels, indices } of some) {
      expect([images.dtype, images.shape, labels.dtype, labels.shape]).toEqual(["uint8", [8, 1, 2, 3], "int64", [8]])
      expect([...images.data]).toEqual([...indices].flatMap(pixels))
      expect([...labels.data].map(Number)).toEqual([...indices].map((i) => i % 7))
    }
    const last = (await all(plain(50), { dropLast: false })).at(-1)!
    expect([...last.indices]).toEqual(Array.from(permutation.slice(48)))
    const inOrder = await all(plain(50), { shuffle: false, dropLast: false })
    expect(inOrder.flatMap(({ indices }) => [...indices])).toEqual(Array.from({ length: 50 }, (_, i) => i))
    const orders = await Promise.all([{}, { epoch: 4 }, { seed: 6 }].map((o) => all(plain(50), o)))
    expect(new Set(orders.map((o) => o.map(({ indices }) => indices.join()).join())).size).toBe(3)
  })

  it("from batch k on are the tail of the whole epoch, and nothing before is read", async () => {
    const augment = [{ kind: "crop", padding: 1 }, { kind: "flip" }] as const
    for (const make of [plain, waiting]) {
      const whole = await all(make(50), { augment, dropLast: false })
      for (const startBatch of [1, 4, 6, 7]) {
        const read: number[] = []
        const dataset: Dataset = { length: 50, at: (i) => (read.push(i), make(50).at(i)) }
        expect(await all(dataset, { augment, dropLast: false, startBatch })).toEqual(whole.slice(startBatch))
        expect(read).toHaveLength(Math.max(0, 50 - 8 * startBatch))
      }
    }
  })

  it("of numbers to be regressed and of float images are float32", async () => {
    const dataset: Dataset = {
      length: 3,
      at: (i) => ({
        image: { dtype: "float32", shape: [1, 1, 2], data: new Float32Array([i, i / 2]) },
        label: [i, 1 - i],
      }),
    }
    const [batch] = await all(dataset, { batchSize: 3, shuffle: false })
    expect(batch).toEqual({
      images: { dtype: "float32", shape: [3, 1, 1, 2], data: new Float32Array([0, 0, 1, 0.5, 2, 1]) },
      labels: { dtype: "float32", shape: [3, 2], data: new Float32Array([0, 1, 1, 0, 2, -1]) },
      indices: Uint32Array.of(0, 1, 2),
    })
  })

  it("are made ready ahead where samples are waited for, and only then", async () => {
    for (const [make, ahead] of [
      [waiting, 3],
      [plain, 1],
    ] as const) {
      let read = 0
      const dataset: Dataset = { length: 80, at: (i) => (read++, make(80).at(i)) }
      const some = batches(dataset, OPTIONS)
      await some.next()
      for (let turn = 0; turn < 100; turn++) await Promise.resolve()
      expect(read).toBe(8 * ahead)
      await some.return()
    }
  })

  it("that cannot be made are refused", async () => {
    const bad = (i: number, sample: Partial<Sample>): Dataset => ({
      length: 16,
      at: (at) => ({ ...image(at), ...(at === i ? sample : {}) }),
    })
    const wide: Sample["image"] = { dtype: "uint8", shape: [1, 3, 2], data: new Uint8Array(6) }
    const real: Sample["image"] = { dtype: "float32", shape: [1, 2, 3], data: new Float32Array(6) }
    const cases: [Dataset, object, string][] = [
      [
        bad(9, { image: wide }),
        { shuffle: false },
        "PrismaError E_DATASET_SCHEMA: sample 9: image is uint8 [1, 3, 2], expected uint8 [1, 2, 3]",
      ],
      [bad(9, { image: real }), { shuffle: false }, "PrismaError E_DATASET_SCHEMA: sample 9: image is float32"],
      [
        bad(9, { label: [1, 2] }),
        { shuffle: false },
        "PrismaError E_DATASET_SCHEMA: sample 9: label is 2 numbers, expected a class",
      ],
      [bad(9, { label: 0.5 }), { shuffle: false }, "PrismaError E_LABEL_RANGE: sample 9: label is 0.5"],
      [plain(7), {}, "PrismaError E_CONFIG: batches: 7 samples give no batch of 8"],
      [plain(0), { dropLast: false }, "PrismaError E_CONFIG: batches: 0 samples"],
      [plain(16), { startBatch: 3 }, "PrismaError E_CONFIG: batches: startBatch 3 lies behind the last of 2"],
      [plain(16), { batchSize: 0 }, "PrismaError E_CONFIG: batches: batchSize"],
      [plain(16), { workers: 1.5 }, "PrismaError E_CONFIG: batches: workers"],
      [plain(16), { augment: [{ kind: "crop", padding: -1 }] }, "PrismaError E_CONFIG: augmentation crop: padding"],
      [
        plain(16),
        { augment: [{ kind: "flip", probability: 2 }] },
        "PrismaError E_CONFIG: augmentation flip: probability",
      ],
      [plain(16), { augment: [{ kind: "toString" }] }, "PrismaError E_CONFIG: augmentation kind: one of crop, flip"],
    ]
    for (const [dataset, options, message] of cases) {
      const tried = async () => failure(dataset, options)
      expect(
        (await tried().catch((e: Error & { code: string }) => `${e.name} ${e.code}: ${e.message}`)).slice(
          0,
          message.length,
        ),
      ).toBe(message)
    }
  })

  it("fail with the first sample that fails, when its batch is due", async () => {
    const delays = [0, 0, 30, 0, 0, 5]
    const dataset: Dataset = {
      length: 48,
      at: async (i) => {
        await new Promise((done) => setTimeout(done, delays[i - 16] ?? 0))
        if (i === 18 || i === 21) throw new Error(`sample ${i}`)
        return image(i)
      },
    }
    let good = 0
    const run = async () => {
      for await (const batch of batches(dataset, { ...OPTIONS, shuffle: false })) good += batch.indices.length
    }
    await expect(run()).rejects.toThrow("sample 18")
    expect(good).toBe(16)
  })
})

describe("augmentations", () => {
  const square = (i: number): Sample => ({
    image: { dtype: "uint8", shape: [2, 4, 4], data: Uint8Array.from({ length: 32 }, (_, at) => 1 + at + (i % 3)) },
    label: 0,
  })
  const dataset: Dataset = { length: 400, at: square }
  const values = async (augment: BatchOptions["augment"]) => {
    const [batch] = await all(dataset, { batchSize: 400, shuffle: false, augment: augment! })
    return Array.from({ length: 400 }, (_, i) => Array.from(batch!.images.data.slice(32 * i, 32 * i + 32)))
  }
  /** Padding, crop and flip written out pixel by pixel. */
  const cropped = (i: number, down: number, right: number) =>
    Array.from({ length: 32 }, (_, at) => {
      const [c, y, x] = [at >> 4, ((at >> 2) & 3) + down, (at & 3) + right]
      return y < 0 || y > 3 || x < 0 || x > 3 ? 0 : square(i).image.data[16 * c + 4 * y + x]!
    })
  const flipped = (i: number) => Array.from({ length: 32 }, (_, at) => square(i).image.data[(at & ~3) + 3 - (at & 3)]!)

  it("crop at every place of the padded image about equally often", async () => {
    for (const padding of [1, 5]) {
      const counts = new Map<string, number>()
      const all = await values([{ kind: "crop", padding }])
      for (const [i, got] of (padding > 1 ? all.slice(0, 30) : all).entries()) {
        const places = []
        for (let down = -padding; down <= padding; down++) {
          for (let right = -padding; right <= padding; right++) {
            if (cropped(i, down, right).join() === got.join()) places.push(`${down},${right}`)
          }
        }
        expect(places.length).toBeGreaterThan(0)
        counts.set(places[0]!, (counts.get(places[0]!) ?? 0) + 1)
      }
      if (padding > 1) continue
      expect(counts.size).toBe(9)
      for (const n of counts.values()) expect(Math.abs(n - 400 / 9)).toBeLessThan(30) // 4.7 standard deviations
    }
  })

  it("flip about half of the images, each whole", async () => {
    const got = await values([{ kind: "flip" }])
    const turned = got.filter((image, i) => image.join() === flipped(i).join()).length
    const kept = got.filter((image, i) => image.join() === [...square(i).image.data].join()).length
    expect(turned + kept).toBe(400)
    expect(Math.abs(turned - 200)).toBeLessThan(50) // 5 standard deviations
    expect(await values([{ kind: "flip", probability: 1 }])).toEqual(got.map((_, i) => flipped(i)))
    const [a, b] = await Promise.all(
      [3, 4].map((epoch) => all(dataset, { batchSize: 400, shuffle: false, epoch, augment: [{ kind: "flip" }] })),
    )
    expect(a![0]!.images).not.toEqual(b![0]!.images)
  })
})

describe("threads", async () => {
  const path = join(scratch, "images")
  for (let i = 0; i < 24; i++) {
    const folder = join(path, i < 20 ? "train" : "test", i % 2 ? "odd" : "even")
    mkdirSync(folder, { recursive: true })
    writeFileSync(
      join(folder, `${i}.png`),
      await encodePng(
        Uint8Array.from({ length: 75 }, (_, at) => (i * 9 + at) % 256),
        5,
        5,
        3,
      ),
    )
  }
  const { train } = await imageFolder(path, { size: 8 })
  const run = async (options: object, dataset: Dataset = train) => {
    const some: Batch[] = []
    for await (const batch of builtBatches(dataset, { batchSize: 3, seed: 1, epoch: 0, dropLast: false, ...options }))
      some.push(batch)
    return some
  }

  it("decode the same batches in the same order, from any batch on", async () => {
    const augment = [{ kind: "crop", padding: 2 }, { kind: "flip" }]
    const whole = await run({ augment })
    expect(whole.map(({ indices }) => indices.length)).toEqual([3, 3, 3, 3, 3, 3, 2])
    expect(await run({ augment, workers: 2 })).toEqual(whole)
    expect(await run({ augment, workers: 3, startBatch: 5 })).toEqual(whole.slice(5))
  })

  it("go on while the main thread is busy", async () => {
    const noise = Uint8Array.from({ length: 700 * 700 * 3 }, (_, at) => (at * at) >> 7)
    const files: Record<string, Uint8Array> = { "train/a/0.png": await encodePng(noise, 700, 700, 3) }
    for (let i = 1; i < 6; i++) files[`train/${i % 2 ? "b" : "a"}/${i}.png`] = files["train/a/0.png"]!
    files["test/a/0.png"] = files["train/a/0.png"]!
    const large = join(scratch, "large")
    for (const [name, bytes] of Object.entries(files)) {
      mkdirSync(join(large, name, ".."), { recursive: true })
      writeFileSync(join(large, name), bytes)
    }
    const { train } = await imageFolder(large, { size: 64 })
    const some = builtBatches(train, { batchSize: 1, seed: 1, epoch: 0, workers: 1, prefetch: 4 })
    await some.next()
    Atomics.wait(new Int32Array(new SharedArrayBuffer(4)), 0, 0, 2000)
    // Four batches were read meanwhile: their files are not there any more.
    rmSync(large, { recursive: true })
    for (let k = 0; k < 4; k++) expect((await some.next()).value?.indices).toHaveLength(1)
    await some.return()
  })

  it("may be ended while their answers are under way", async () => {
    const failures: unknown[] = []
    const note = (error: unknown) => void failures.push(error)
    process.on("uncaughtException", note)
    for (let round = 0; round < 3; round++) {
      const thread = startThread(pathToFileURL(join(root, "dist/src/datasets/loader-thread.js")))
      const [first] = Array.from({ length: 50 }, async () => thread.ask({}).catch((e: unknown) => e))
      expect(await first).toBeInstanceOf(Error)
      const start = performance.now()
      while (performance.now() - start < 100); // the others come meanwhile and are not taken yet
      thread.end()
      await new Promise((done) => setTimeout(done, 50))
    }
    process.removeListener("uncaughtException", note)
    expect(failures).toEqual([])
  })

  it("are not started for what lies in memory, and give errors of files by name", async () => {
    expect(await run({ workers: 2 }, plain(9))).toEqual(await run({}, plain(9)))
    const file = join(path, "train/even/8.png")
    writeFileSync(file, "not a png")
    const errors = await Promise.all([0, 2].map((workers) => run({ workers }).catch((e: unknown) => e)))
    for (const error of errors) expect(error).toMatchObject({ name: "PrismaError", code: "E_IMAGE_DECODE", file })
    rmSync(file)
    const gone = await Promise.all([0, 2].map((workers) => run({ workers }).catch((e: unknown) => e)))
    for (const error of gone) {
      // In the order of the paths, "10.png" and the like come before it.
      const message = expect.stringMatching(`^sample 9: ${file}: there is no such file`) as string
      expect(error).toMatchObject({ name: "PrismaError", code: "E_DATASET_GONE", message, file })
    }
  })
})
