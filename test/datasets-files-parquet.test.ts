/** @file Parquet image datasets, written by pyarrow: against Pillow's pixels, damaged files, and files that never end. */
import { spawnSync } from "node:child_process"
import { copyFileSync, existsSync, mkdirSync, mkdtempSync, readFileSync, rmSync, writeFileSync } from "node:fs"
import { tmpdir } from "node:os"
import { join, resolve } from "node:path"
import { pathToFileURL } from "node:url"
import { afterAll, describe, expect, it } from "vitest"
import type * as Loader from "../src/datasets/loader.ts"
import type * as Parquet from "../src/datasets/parquet.ts"
import type * as Open from "../src/datasets/open.ts"
import type * as Carriers from "../src/datasets/carrier.ts"
import type * as ThreadModule from "../src/datasets/thread.ts"
import { root } from "./helpers/cli.ts"

// A worker thread runs JavaScript: the built modules.
const built = (name: string): Promise<unknown> =>
  import(pathToFileURL(join(root, "dist/src/datasets", `${name}.js`)).href)
const { parquetDataset, parquetSplits } = (await built("parquet")) as typeof Parquet
const { batches, order } = (await built("loader")) as typeof Loader
const { openDataset } = (await built("open")) as typeof Open
const carriers = (await built("carrier")) as typeof Carriers
const { startThread } = (await built("thread")) as typeof ThreadModule

const fixtures = resolve(import.meta.dirname, "fixtures/datasets")
const fixture = (name: string) => join(fixtures, `${name}.parquet`)
const scratch = mkdtempSync(join(tmpdir(), "vit-prisma-parquet-"))
afterAll(() => rmSync(scratch, { recursive: true }))

let made = 0
function folder(files: Record<string, string | Uint8Array>): string {
  const root = join(scratch, String(made++))
  mkdirSync(root)
  for (const [name, content] of Object.entries(files)) {
    mkdirSync(join(root, name, ".."), { recursive: true })
    if (typeof content === "string" && existsSync(content)) copyFileSync(content, join(root, name))
    else writeFileSync(join(root, name), content)
  }
  return root
}

async function error(work: () => Promise<unknown>): Promise<{ code: string; message: string }> {
  const tries = []
  for (let i = 0; i < 2; i++) {
    const e = (await work().then(
      () => ({}),
      (e: unknown) => e,
    )) as Error & { code: string }
    expect([e.name, e.message?.split("\n").length]).toEqual(["PrismaError", 1])
    tries.push({ code: e.code, message: e.message })
  }
  expect(tries[1]).toEqual(tries[0])
  return tries[0]!
}

const expected = JSON.parse(readFileSync(join(fixtures, "expected.json"), "utf8")) as {
  imagenet: [number, number, number][]
  imagenetLabels: number[]
}
const channelSums = (data: ArrayLike<number>, n: number) =>
  [0, 1, 2].map((c) => Array.from({ length: n }, (_, i) => data[c * n + i]!).reduce((a, b) => a + b, 0))

describe("a parquet file in ImageNet-1k's layout", () => {
  it("has Pillow's pixels, labels, class names and row groups", async () => {
    const data = await parquetDataset([fixture("imagenet-24")], { size: 16 })
    expect([data.length, data.shape, data.classes.length, data.classes[41]]).toEqual([
      24,
      [3, 16, 16],
      1000,
      "class 41",
    ])
    expect(data.groups.map(({ start, end }) => [start, end])).toEqual([[0, 7], [7, 14], [14, 21], [21, 24]]) // prettier-ignore
    for (const i of [23, 0, 7, 6, 20, 13]) {
      const { image, label } = await data.at(i)
      expect(label).toBe(expected.imagenetLabels[i])
      expect(channelSums(image.data, 256)).toEqual(expected.imagenet[i])
    }
    const whole = await parquetDataset([fixture("imagenet-24")])
    expect([whole.shape, (await whole.at(5)).image.shape]).toEqual([undefined, [3, 45, 55]])
  })

  it("several files follow one another, and the loader's order keeps groups together", async () => {
    const data = await parquetDataset([fixture("imagenet-24"), fixture("imagenet-24")], { size: 16 })
    expect([data.length, data.groups.length]).toEqual([48, 8])
    expect(channelSums((await data.at(24 + 9)).image.data, 256)).toEqual(expected.imagenet[9])
    const large = data.groups.map((g) => ({ ...g, bytes: 2 ** 27 }))
    const rows = [...order({ length: 48, groups: large }, { seed: 1, epoch: 0 })]
    expect(rows.toSorted((a, b) => a - b)).toEqual(Array.from({ length: 48 }, (_, i) => i))
    const groups = rows.map((row) => large.findIndex(({ end }) => row < end))
    expect(groups.filter((g, i) => g !== groups[i - 1])).toHaveLength(8)
    const mixed = [...order(data, { seed: 1, epoch: 0 })].map((row) => data.groups.findIndex(({ end }) => row < end))
    expect(mixed.filter((g, i) => g !== mixed[i - 1]).length).toBeGreaterThan(20)
  })

  it("gives the same batches with and without threads", async () => {
    const data = await parquetDataset([fixture("imagenet-24")], { size: 16 })
    const options = { batchSize: 5, seed: 7, epoch: 2, dropLast: false, augment: [{ kind: "flip" }] } as const
    const seen: Loader.Batch[][] = []
    for (const workers of [0, 2]) {
      const some: Loader.Batch[] = []
      for await (const batch of batches(data, { ...options, workers })) some.push(batch)
      seen.push(some)
    }
    expect(seen[0]!.map(({ images }) => images.shape[0])).toEqual([5, 5, 5, 5, 4])
    expect(seen[1]).toEqual(seen[0])
  })

  it("plain bytes, text labels and every compression are read", async () => {
    for (const codec of ["none", "snappy", "gzip", "brotli", "zstd", "lz4"]) {
      const data = await parquetDataset([fixture(`plain-${codec}`)], { image: "png", label: "kind" })
      expect(data.classes).toEqual(["a", "b", "c"])
      const samples = await Promise.all(Array.from({ length: 6 }, (_, i) => data.at(i)))
      expect(samples.map(({ image, label }) => [image.data[0], label])).toEqual(
        [1, 0, 2, 1, 0, 2].map((label, i) => [20 * i, label]),
      )
    }
  })
})

describe("parquet files that are not as they should be", () => {
  it("are refused by what is wrong with them", async () => {
    const good = readFileSync(fixture("plain-none"))
    const patch = (change: (bytes: Buffer) => Uint8Array | void) => {
      const bytes = Buffer.from(good)
      return folder({ "x.parquet": change(bytes) ?? bytes })
    }
    const damaged: [string, string, string][] = [
      [patch((b) => b.subarray(0, 11)), "E_PARQUET", "has 11 bytes, at least 12 expected"],
      [patch((b) => b.subarray(0, -1)), "E_PARQUET", "ends with"],
      [patch((b) => void b.write("PARE")), "E_PARQUET", "begins with 50415245, expected PAR1"],
      [
        patch((b) => void b.writeUInt32LE(b.length - 11, b.length - 8)),
        "E_PARQUET",
        `footer of ${good.length - 11} bytes in a file of ${good.length}`,
      ],
      [
        patch((b) => void b.fill(0xff, b.length - 8 - b.readUInt32LE(b.length - 8), b.length - 100)),
        "E_PARQUET",
        "parquet: ",
      ],
      [patch((b) => Buffer.concat([b.subarray(0, 4), b.subarray(300)])), "E_PARQUET", "parquet: "],
    ]
    const options = { image: "png", label: "kind" }
    for (const [root, code, what] of damaged) {
      const all = async () => {
        const data = await parquetDataset([join(root, "x.parquet")], options)
        for (let i = 0; i < data.length; i++) await data.at(i)
      }
      expect(await error(all), what).toMatchObject({ code, message: expect.stringContaining(what) })
    }
  })

  it("columns, rows and labels are named", async () => {
    const cases: [string, Parquet.ParquetOptions, string, string][] = [
      ["plain-none", {}, "E_DATASET_SCHEMA", 'no column "image", it has "png", "kind"'],
      ["plain-none", { image: "png" }, "E_DATASET_SCHEMA", 'no column "label"'],
      ["image-int", {}, "E_DATASET_SCHEMA", 'column "image" must be bytes or a struct'],
      ["label-list", {}, "E_DATASET_SCHEMA", 'column "label" must hold one number or text a row'],
      ["label-minus-one", {}, "E_LABEL_RANGE", "row 2 has label -1"],
      ["label-null", {}, "E_LABEL_RANGE", "row 1 has label NaN"],
      ["label-nan", {}, "E_LABEL_RANGE", "row 2 has label NaN"],
      ["label-two-of-two", {}, "E_LABEL_RANGE", "row 2 has label 2, expected a whole number from 0 to 1"],
      ["label-two-of-two", { classes: ["a", "b"] }, "E_DATASET_SCHEMA", "names its classes x, y, expected a, b"],
      ["plain-none", { image: "png", label: "kind", classes: ["a", "b"] }, "E_LABEL_RANGE", 'row 2 has label "c"'],
      ["plain-none", { image: 3 } as object, "E_CONFIG", "must be column names"],
      ["plain-none", { classes: "ab" } as object, "E_CONFIG", "a list of texts"],
      ["empty", {}, "E_DATASET_EMPTY", "no rows"],
      ["bad-rows", {}, "E_DATASET_SCHEMA", "row 1 (null), 2 (a path without bytes), 4 (no bytes), 5 (no bytes)"],
      ["not-images", {}, "E_IMAGE_DECODE", "row 0: an image is"],
    ]
    for (const [name, options, code, what] of cases) {
      const first = async () => (await parquetDataset([fixture(name)], options)).at(0)
      expect(await error(first), name).toMatchObject({ code, message: expect.stringContaining(what) })
    }
    await expect(parquetDataset([join(scratch, "nowhere.parquet")])).rejects.toMatchObject({ code: "E_NOT_A_FILE" })
  })

  it("a file that hyparquet never ends to read is given up, and the next is read", async () => {
    const reader = startThread(new URL("dist/src/datasets/parquet-process.js", pathToFileURL(`${root}/`)), {
      limitMs: 3000,
    })
    const open = (name: string) => reader.ask({ kind: "open", file: fixture(name), image: "image", label: "label" })
    const [endless, good] = await Promise.allSettled([open("endless"), open("imagenet-24")])
    expect(endless).toMatchObject({ status: "rejected", reason: { message: "dataset thread: took too long" } })
    expect(good).toMatchObject({ status: "fulfilled", value: { labels: expected.imagenetLabels } })
    reader.end()
  })

  it("a file that changes after it was opened is noticed", async () => {
    const root = folder({ "x.parquet": fixture("imagenet-24") })
    const data = await parquetDataset([join(root, "x.parquet")])
    copyFileSync(fixture("plain-none"), join(root, "x.parquet"))
    await expect(data.at(0)).rejects.toMatchObject({ code: "E_CHANGED_DURING_READ" })
  })
})

describe("folders of parquet files", () => {
  const one = fixture("imagenet-24")

  it("are read in the Hub's layouts", async () => {
    const layouts = [
      folder({
        "data/train-00000-of-00002.parquet": one,
        "data/train-00001-of-00002.parquet": one,
        "data/test-00000-of-00001-0123456789abcdef.parquet": one,
        "README.md": "x",
      }),
      folder({
        "default/train/0000.parquet": one,
        "default/train/0001.parquet": one,
        "default/test/0000.parquet": one,
      }),
    ]
    for (const path of layouts) {
      const { train, test } = await openDataset({ name: "parquet", path, size: 8 })
      expect([train.length, test.length, test.classes.length, train.name]).toEqual([48, 24, 1000, "parquet/train"])
    }
    const { test, val } = await parquetSplits(folder({ "train.parquet": one, "validation.parquet": one }), {
      test: "val",
    })
    expect([test.length, val]).toEqual([24, undefined])
  })

  it("CIFAR-10 of the Hub has its own column and class names", async () => {
    const path = folder({
      "plain_text/train-00000-of-00001.parquet": one,
      "plain_text/test-00000-of-00001.parquet": one,
    })
    expect(await error(() => openDataset({ name: "cifar10", path }))).toMatchObject({
      code: "E_DATASET_SCHEMA",
      message: expect.stringContaining('no column "img"'),
    })
  })

  it("with a loading script, two configurations, or parts missing are refused", async () => {
    const cases: [string, string, string][] = [
      [
        folder({ "imagenet.py": "print()", "data/train.parquet": one, "data/test.parquet": one }),
        "E_UNSAFE_FORMAT",
        'loading script "imagenet.py", which is not run',
      ],
      [folder({ "imagenet.py": "print()" }), "E_UNSAFE_FORMAT", "which is not run"],
      [folder({ "a/train.parquet": one, "b/test.parquet": one }), "E_DATASET_SCHEMA", '2 configurations: "a", "b"'],
      [
        folder({ "train-00000-of-00002.parquet": one, "test.parquet": one }),
        "E_SHARD_MISSING",
        "is one of 2 files, got 1",
      ],
      [folder({ "train.parquet": one }), "E_DATASET_EMPTY", "no test split; splits found: train"],
      [
        folder({ "train.parquet": fixture("empty"), "val.parquet": one, "test.parquet": one }),
        "E_DATASET_EMPTY",
        "train.parquet; splits found: test, train, val",
      ],
    ]
    for (const [root, code, what] of cases) {
      expect(await error(() => parquetSplits(root)), what).toMatchObject({
        code,
        message: expect.stringContaining(what),
      })
    }
  })

  it("of one class are refused with the splits that there are", async () => {
    // The dictionaries of the labels hold each with its length before it.
    const text = readFileSync(fixture("plain-none"), "latin1")
    const plain = Buffer.from(
      ["b", "c"].reduce((all, c) => all.replaceAll(`\x01\0\0\0${c}`, "\x01\0\0\0a"), text),
      "latin1",
    )
    const root = folder({ "train.parquet": plain, "test.parquet": fixture("plain-none") })
    expect(await error(() => parquetSplits(root, { image: "png", label: "kind" }))).toMatchObject({
      code: "E_DATASET_EMPTY",
      message: expect.stringMatching(/has samples of class "a" alone; .*; splits found: test, train$/),
    })
  })
})

describe.each([
  ["a thread", "inThread"],
  ["a process", "inProcess"],
] as const)("%s", (what, name) => {
  const carry = carriers[name]
  const script = (source: string): URL => {
    const path = join(scratch, `thread-${made++}.mjs`)
    writeFileSync(
      path,
      `import { serve } from ${JSON.stringify(pathToFileURL(join(root, "dist/src/datasets/thread.js")).href)}\n${source}`,
    )
    return pathToFileURL(path)
  }
  const HANDLER = `serve(async (x) => {
    if (x === "hang") for (;;);
    if (x === "exit") process.exit(3)
    if (x === "heap") for (const all = []; ; ) all.push(Array(1000).fill(Math.random()))
    if (x === "array") Array(2 ** 27).fill(0.5)
    if (x === "kill") process.kill(process.pid, "SIGKILL")
    if (x === "throw") throw new TypeError("x is not y")
    if (x === "slow") Atomics.wait(new Int32Array(new SharedArrayBuffer(4)), 0, 0, 100)
    return [{ x, bytes: new Uint8Array([x.length]), ends: new Float64Array(x === "big" ? 1e6 : 1) }, []]
  })`

  it("fails the one request that hangs, throws or ends it, and answers the others in order", async () => {
    const thread = startThread(script(HANDLER), { carry, limitMs: 3000, heapMiB: 32 })
    // A single array beyond the heap, or a signal, would end this process too if it were a thread that has them.
    const worse = name === "inProcess" ? ["array", "kill"] : []
    const asked = ["a", "hang", "bb", "exit", "throw", "ccc", "heap", ...worse, "big", "dddd"]
    const got = await Promise.allSettled(
      asked.map((x) => thread.ask<{ x: string; bytes: Uint8Array; ends: Float64Array }>(x)),
    )
    expect(
      got.map((g) =>
        g.status === "fulfilled" ? [g.value.x, g.value.bytes[0], g.value.ends.length] : (g.reason as Error).message,
      ),
    ).toEqual([
      ["a", 1, 1],
      "dataset thread: took too long",
      ["bb", 2, 1],
      "dataset thread: ended with exit code 3",
      "dataset thread: threw TypeError: x is not y",
      ["ccc", 3, 1],
      expect.stringContaining("memory"),
      ...worse.map((x) => expect.stringContaining(x === "array" ? "ran out of memory" : "SIGKILL")),
      ["big", 3, 1_000_000],
      ["dddd", 4, 1],
    ])
    thread.end()
  })

  it("is not taken to hang when its answer came while the main thread was busy", async () => {
    const thread = startThread(script(HANDLER), { carry, limitMs: 2000 })
    await thread.ask("warm")
    const answer = thread.ask<{ x: string }>("slow")
    Atomics.wait(new Int32Array(new SharedArrayBuffer(4)), 0, 0, 2500)
    expect((await answer).x).toBe("slow")
    thread.end()
  })

  it("keeps no process alive, and does not outlive the one that asked", async () => {
    const dist = (file: string) => JSON.stringify(pathToFileURL(join(root, "dist/src/datasets", file)).href)
    const asker = join(scratch, `asker-${name}.mjs`)
    const module = script(HANDLER.replace("{ x,", "{ x, pid: process.pid,"))
    writeFileSync(
      asker,
      `import { ${name} } from ${dist("carrier.js")}
       import { startThread } from ${dist("thread.js")}
       const thread = startThread(new URL(${JSON.stringify(module.href)}), { carry: ${name} })
       console.log((await thread.ask("a")).pid)
       if (process.argv[2] === "die") process.kill(process.pid, "SIGKILL")`,
    )
    for (const [arg, ended] of [
      ["", 0],
      ["die", null],
    ] as const) {
      const { status, stdout } = spawnSync(process.execPath, [asker, arg], { encoding: "utf8", timeout: 20_000 })
      expect([what, status]).toEqual([what, ended])
      await expect.poll(() => existsSync(`/proc/${stdout.trim()}/cmdline`), { timeout: 5000 }).toBe(false)
    }
  })
})
