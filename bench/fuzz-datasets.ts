/** @file Mutated npz, idx and parquet files through the readers of datasets (figure G27), each in a thread that can be ended.
 * Built by `npx tsc -p bench/tsconfig.json`: `node dist/bench/fuzz-datasets.js [count] [seed] [format ...]`. */
import { mkdirSync, mkdtempSync, readdirSync, readFileSync, rmSync, writeFileSync } from "node:fs"
import { tmpdir } from "node:os"
import { join } from "node:path"
import { isMainThread } from "node:worker_threads"
import { gzipSync } from "node:zlib"
import { dSpritesNpz } from "../src/datasets/dsprites-npz.ts"
import { mnist } from "../src/datasets/idx.ts"
import { readNpz } from "../src/datasets/npz.ts"
import { parquetDataset } from "../src/datasets/parquet.ts"
import { serve, startThread } from "../src/datasets/thread.ts"
import { PrismaError } from "../src/errors.ts"
import { Random } from "../src/tensor/random.ts"

const FIXTURES = join(process.cwd(), "test/fixtures/datasets")

/** A hang: a parquet file alone may take 8 s before it is refused. */
const HANG_MS = 30_000
const SLOW_MS = 10_000

/** The smallest files that have each part of an idx folder: three images and their labels. */
const idx = (shape: readonly number[], values: readonly number[]) =>
  Buffer.concat([
    Uint8Array.of(0, 0, 8, shape.length),
    ...shape.map((d) => Uint8Array.of(0, 0, 0, d)),
    Uint8Array.from(values),
  ])
const IMAGES = idx([3, 2, 2], [1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12])
const LABELS = idx([3], [1, 2, 3])

interface Format {
  /** Good files by name. */
  readonly seeds: () => readonly (readonly [string, Uint8Array])[]
  /** Read all of the dataset of which `name` in `folder` is a damaged file. */
  readonly read: (folder: string, name: string) => Promise<void>
}

const fixtures = (end: string) =>
  readdirSync(FIXTURES)
    .filter((name) => name.endsWith(end))
    .map((name) => [name, readFileSync(join(FIXTURES, name))] as const)

const FORMATS: { readonly [name: string]: Format } = {
  npz: {
    seeds: () => fixtures(".npz"),
    read: async (folder, name) => {
      const { train } = await dSpritesNpz(join(folder, name))
      for (let i = 0; i < train.length; i++) await train.at(i)
      await readNpz(join(folder, name), ["latents_values"])
    },
  },
  idx: {
    seeds: () => [
      ["train-images-idx3-ubyte", IMAGES],
      ["train-labels-idx1-ubyte", LABELS],
      ["train-images-idx3-ubyte.gz", gzipSync(IMAGES)],
    ],
    read: async (folder, name) => {
      const files = {
        "train-images-idx3-ubyte": IMAGES,
        "train-labels-idx1-ubyte": LABELS,
        "t10k-images-idx3-ubyte": IMAGES,
        "t10k-labels-idx1-ubyte": LABELS,
      }
      const damaged = name.replace(/\.gz$/, "")
      for (const [file, bytes] of Object.entries(files)) if (file !== damaged) writeFileSync(join(folder, file), bytes)
      const { train } = await mnist(folder)
      for (let i = 0; i < train.length; i++) await train.at(i)
    },
  },
  parquet: {
    // Each mutation of the endless one that leaves it so would take 8 s.
    seeds: () => fixtures(".parquet").filter(([name]) => name !== "endless.parquet"),
    read: async (folder, name) => {
      const plain = name.startsWith("plain")
      const data = await parquetDataset(
        [join(folder, name)],
        plain ? { image: "png", label: "kind", size: 8 } : { size: 8 },
      )
      for (const { start } of data.groups) await data.at(start)
    },
  },
}

const EXTREMES = [0, 1, 0x7f, 0xff, 0x7fff_ffff, 0x8000_0000, 0xffff_ffff]

/** `bytes` with one to three of its parts changed, cut, repeated or filled. */
function mutated(bytes: Uint8Array, random: Random): Uint8Array {
  let out = Buffer.from(bytes)
  for (let n = random.below(3); n >= 0 && out.length > 8; n--) {
    // Headers and footers decide more than what lies between.
    const near = random.below(3)
    const at =
      near === 0
        ? random.below(Math.min(64, out.length))
        : near === 1
          ? out.length - 1 - random.below(Math.min(600, out.length))
          : random.below(out.length)
    const length = random.below(Math.min(64, out.length - at)) + 1
    const kinds = [
      () => (out[at]! ^= 1 << random.below(8)),
      () => (out[at] = random.below(256)),
      () => at + 4 <= out.length && out.writeUInt32LE(EXTREMES[random.below(EXTREMES.length)]!, at),
      () => out.fill(random.below(2) * 255, at, at + length),
      () => out.copyWithin(at, random.below(out.length), out.length),
      () => (out = out.subarray(0, at)),
      () => (out = Buffer.concat([out.subarray(0, at), out.subarray(at + length)])),
      () => (out = Buffer.concat([out.subarray(0, at + length), out.subarray(at)])),
    ]
    // Most leave the length alone: what moves the ends of a file is refused at once.
    const kind = random.below(4) === 0 ? random.below(kinds.length) : random.below(5)
    kinds[kind]!()
  }
  return out
}

interface Case {
  readonly format: string
  readonly seed: number
  readonly i: number
  readonly folder: string
}

/** What came of one file: "read", a code, or the error that is none of the project's. */
async function attempt({ format, seed, i, folder }: Case): Promise<string> {
  const { seeds, read } = FORMATS[format]!
  const random = new Random(seed, `fuzz:${format}:${i}`)
  const all = seeds()
  const [name, bytes] = all[random.below(all.length)]!
  const mine = join(folder, `${format}-${i}`)
  mkdirSync(mine)
  writeFileSync(join(mine, name), mutated(bytes, random))
  try {
    await read(mine, name)
    return "read"
  } catch (error) {
    if (error instanceof PrismaError && !error.message.includes("\n")) return error.code
    return `UNTYPED ${name}: ${String(error)}`
  } finally {
    rmSync(mine, { recursive: true })
  }
}

async function main([
  count = "100000",
  given = String(Date.now() % 2 ** 31),
  ...asked
]: readonly string[]): Promise<void> {
  const seed = Number(given)
  const folder = mkdtempSync(join(tmpdir(), "vit-prisma-fuzz-"))
  for (const format of asked.length > 0 ? asked : Object.keys(FORMATS)) {
    const thread = startThread(new URL(import.meta.url), { limitMs: HANG_MS })
    const codes = new Map<string, number>()
    const bad: string[] = []
    const begun = performance.now()
    let slowest = 0
    for (let i = 0; i < Number(count); i++) {
      const start = performance.now()
      const got = await thread
        .ask<string>({ format, seed, i, folder } satisfies Case)
        .catch((e: Error) => `LOST ${e.message}`)
      const ms = performance.now() - start
      slowest = Math.max(slowest, ms)
      codes.set(got.split(" ")[0]!, (codes.get(got.split(" ")[0]!) ?? 0) + 1)
      if (got.includes(" ") || ms > SLOW_MS) bad.push(`${format} ${seed} ${i}: ${Math.round(ms)} ms: ${got}`)
    }
    thread.end()
    const seconds = ((performance.now() - begun) / 1000).toFixed(1)
    console.log(
      `${format}, seed ${seed}: ${count} files in ${seconds} s, slowest ${(slowest / 1000).toFixed(2)} s, ${bad.length} failures`,
    )
    console.log(Object.fromEntries([...codes].sort(([, a], [, b]) => b - a)))
    for (const failure of bad) console.error(failure)
    if (bad.length > 0) process.exitCode = 1
  }
  rmSync(folder, { recursive: true })
}

if (isMainThread) await main(process.argv.slice(2))
else serve(async (request) => [await attempt(request as Case), []])
