/** @file Activations over a dataset: what the files hold against runs of single images, and what a later run leaves alone. */
import { createHash } from "node:crypto"
import {
  existsSync,
  mkdirSync,
  mkdtempSync,
  readdirSync,
  readFileSync,
  rmSync,
  statSync,
  truncateSync,
  writeFileSync,
} from "node:fs"
import { tmpdir } from "node:os"
import { join } from "node:path"
import { afterAll, beforeAll, describe, expect, it } from "vitest"
import { encodePng } from "../src/data/image.ts"
import { type LoadedViT, loadPretrained } from "../src/hub/load-pretrained.ts"
import { readReport, vitPrisma } from "./helpers/batch.ts"
import { mulberry32 } from "./helpers/causality.ts"
import { demoModel } from "./helpers/cli.ts"
import { floats, readSafetensors, type Stored } from "./helpers/read-safetensors.ts"

const scratch = mkdtempSync(join(tmpdir(), "vit-prisma-activations-dataset-"))
afterAll(() => rmSync(scratch, { recursive: true, maxRetries: 10, retryDelay: 100 }))
const at = (...names: string[]): string => join(scratch, ...names)

const CLASSES = ["cat", "dog", "owl"]
/** In the order of the dataset: by class, then by name. */
const images: { readonly path: string; readonly label: number }[] = []
let model: LoadedViT

beforeAll(async () => {
  const random = mulberry32(5)
  for (const [label, name] of CLASSES.entries()) {
    mkdirSync(at("data/test", name), { recursive: true })
    mkdirSync(at("data/train", name), { recursive: true })
    for (let i = 0; i < 14; i++) {
      const pixels = Uint8Array.from({ length: 28 * 28 }, () => 256 * random())
      const path = at("data/test", name, `${String(i).padStart(2, "0")}.png`)
      writeFileSync(path, await encodePng(pixels, 28, 28, 1))
      images.push({ path, label })
    }
    writeFileSync(at("data/train", name, "0.png"), readFileSync(images.at(-1)!.path))
  }
  model = await loadPretrained(demoModel)
})

const HOOKS = ["hook_pos_embed", "blocks.*.hook_resid_post", "blocks.1.attn.hook_pattern"]
const collect = (out: string, more: readonly string[] = [], started?: Parameters<typeof vitPrisma>[1]) =>
  vitPrisma(
    [
      "activations",
      demoModel,
      "--data",
      at("data"),
      "--hooks",
      HOOKS.join(),
      "--batch",
      "4",
      "--out",
      at(out),
      "--jobs",
      "2",
      ...more,
    ],
    started,
  )
// One batch of four rows in a file, the least there can be.
const SMALL = ["--shard-size", "1"]
const FILES = 11

interface Index {
  readonly metadata: { readonly total_size: number; readonly rows: number; readonly hooks: string[] }
  readonly weight_map: Readonly<Record<string, string[]>>
  readonly tensors: Readonly<Record<string, { dtype: string; shape: number[] }>>
  readonly shards: readonly { file: string; rows: [number, number]; bytes: number; sha256: string }[]
  readonly classes: readonly string[]
}
const indexOf = (out: string): Index =>
  JSON.parse(readFileSync(at(out, "activations.safetensors.index.json"), "utf8")) as Index

const sha256 = (path: string): string => createHash("sha256").update(readFileSync(path)).digest("hex")
const int64s = ({ bytes }: Stored): number[] => Array.from(new BigInt64Array(bytes.buffer), Number)

/** The rows of a tensor over all files, in order. */
function whole(out: string, name: string): { shape: number[]; data: Float32Array } {
  const parts = indexOf(out).shards.map(({ file }) => readSafetensors(at(out, file)).tensors.get(name)!)
  const data = Float32Array.from(parts.flatMap((part) => [...floats(part)]))
  return { shape: [parts.reduce((n, p) => n + p.shape[0]!, 0), ...parts[0]!.shape.slice(1)], data }
}

const difference = (a: ArrayLike<number>, b: ArrayLike<number>): number => {
  expect(a.length).toBe(b.length)
  return Array.from(a).reduce((worst, x, i) => Math.max(worst, Math.abs(x - b[i]!)), 0)
}

describe("the files", () => {
  it("hold every row of every hook as a run of the single image gives it, labels and numbers", async () => {
    const { code, stdout, stderr } = await collect("acts", SMALL)
    expect([code, stdout]).toEqual([0, `${at("acts/activations.safetensors.index.json")}\n`])
    const index = indexOf("acts")
    const ranges = Array.from({ length: FILES }, (_, i) => [4 * i, Math.min(4 * i + 4, images.length)])
    expect(index.shards.map(({ rows }) => rows)).toEqual(ranges)
    expect(index.classes).toEqual(CLASSES)
    const names = Object.keys(index.tensors)
    expect([...names].sort()).toEqual([...index.metadata.hooks, "logits", "labels", "image_ids"].sort())
    for (const { file, rows, bytes, sha256: hash } of index.shards) {
      const { tensors, metadata } = readSafetensors(at("acts", file))
      expect([...tensors.keys()].sort()).toEqual([...names].sort())
      expect(metadata.get("rows")).toBe(rows.join(":"))
      expect([...tensors.values()].reduce((n, t) => n + t.bytes.length, 0)).toBe(bytes)
      expect(hash).toBe(sha256(at("acts", file)))
      const ids = Array.from({ length: rows[1] - rows[0] }, (_, i) => rows[0] + i)
      expect(int64s(tensors.get("image_ids")!)).toEqual(ids)
      expect(int64s(tensors.get("labels")!)).toEqual(ids.map((i) => images[i]!.label))
    }
    for (const [name, files] of Object.entries(index.weight_map)) {
      expect(files, name).toEqual(index.shards.map(({ file }) => file))
    }
    // What was said before anything was computed is what came of it.
    expect(stderr.split("\n")[0]).toMatch(/^42 rows of .*, \d tensors: .* in 11 files in acts$/)
    expect(index.metadata.total_size).toBe(index.shards.reduce((n, { bytes }) => n + bytes, 0))
    for (const name of [...index.metadata.hooks, "logits"]) {
      const got = whole("acts", name)
      expect([index.tensors[name]!.shape, index.tensors[name]!.dtype]).toEqual([got.shape, "F32"])
      const row = got.data.length / images.length
      for (const i of [0, 3, 4, 13, 14, 25, 41]) {
        const { cache, logits } = await model.runWithCache(await model.images(images[i]!.path), { names: HOOKS })
        const want = name === "logits" ? logits : cache.get(name)
        expect(difference(got.data.subarray(i * row, (i + 1) * row), want.data as Float32Array), name).toBeLessThan(
          2e-5,
        )
      }
    }
  })

  it("hold only the tokens that are asked for", async () => {
    const hooks = ["--hooks", "blocks.2.hook_resid_post,hook_embed"]
    expect((await collect("first", [...hooks, "--positions", "0"])).code).toBe(0)
    expect((await collect("some", [...hooks, "--positions", "3:5"])).code).toBe(0)
    expect(indexOf("first").shards).toHaveLength(1)
    const [all, first, some] = ["acts", "first", "some"].map((out) => whole(out, "blocks.2.hook_resid_post"))
    const [n, t, d] = all!.shape as [number, number, number]
    expect([first!.shape, some!.shape]).toEqual([[n, 1, d], [n, 2, d]]) // prettier-ignore
    for (let i = 0; i < n; i++) {
      const tokens = (from: number, to: number) => all!.data.subarray((i * t + from) * d, (i * t + to) * d)
      expect(difference(first!.data.subarray(i * d, (i + 1) * d), tokens(0, 1))).toBeLessThan(2e-5)
      expect(difference(some!.data.subarray(2 * i * d, 2 * (i + 1) * d), tokens(3, 5))).toBeLessThan(2e-5)
    }
  })
})

describe("a run that is killed", () => {
  it(
    "at any moment leaves whole files, which the next one keeps, and the end is the same",
    { timeout: 90_000 },
    async () => {
      const kept = new Map<string, bigint>()
      let kills = 0
      const files = () => readdirSync(at("killed")).filter((name) => name.endsWith(".safetensors"))
      for (let i = 0; i < 3; i++) {
        const { code } = await collect("killed", SMALL, {
          started: (child) => {
            const look = setInterval(() => {
              if (existsSync(at("killed")) && files().length > kept.size) child.kill("SIGKILL")
            }, 2)
            child.once("exit", () => clearInterval(look))
          },
        })
        // The last of them may be done before the signal comes.
        if (code === null) kills++
        else expect([code, files().length]).toEqual([0, 6])
        for (const name of files()) {
          expect(sha256(at("killed", name)), name).toBe(sha256(at("acts", name)))
          const { ino } = statSync(at("killed", name), { bigint: true })
          expect(kept.get(name) ?? ino, name).toBe(ino)
          kept.set(name, ino)
        }
        if (files().length === 6) break
      }
      expect([kills, kept.size]).not.toContain(0)
      expect((await collect("killed", SMALL)).code).toBe(0)
      expect(indexOf("killed")).toEqual(indexOf("acts"))
      for (const [name, ino] of kept) expect(statSync(at("killed", name), { bigint: true }).ino, name).toBe(ino)
      expect(readdirSync(at("killed")).filter((name) => name.includes(".tmp-"))).toEqual([])
    },
  )

  it("makes again what was damaged, and what other options ask for, and nothing else", async () => {
    const [a, b, c] = indexOf("killed").shards.map(({ file }) => at("killed", file))
    const bytes = readFileSync(a!)
    bytes[bytes.length - 9]! ^= 1
    writeFileSync(a!, bytes)
    truncateSync(b!, 1000)
    rmSync(c!)
    const states = async (...more: string[]) => {
      expect((await collect("killed", [...SMALL, ...more])).code).toBe(0)
      return (JSON.parse(readFileSync(at("killed/report.json"), "utf8")) as { files: { state: string }[] }).files.map(
        ({ state }) => state,
      )
    }
    expect(await states()).toEqual(["done", "done", "done", ...Array<string>(FILES - 3).fill("already")])
    expect(indexOf("killed")).toEqual(indexOf("acts"))
    writeFileSync(images[41]!.path, await encodePng(new Uint8Array(28 * 28), 28, 28, 1))
    // The dataset is another one, in every row for all that is known.
    expect(new Set(await states())).toEqual(new Set(["done"]))
  })
})

describe("parts", () => {
  it("by --shard are the whole, whose index the last one writes", async () => {
    const index = () => readdirSync(at("parts")).includes("activations.safetensors.index.json")
    expect((await collect("parts", [...SMALL, "--shard", "0/2"])).stderr).toContain("6 of 11 files are done")
    expect(index()).toBe(false)
    await collect("parts", [...SMALL, "--shard", "1/2"])
    expect(index()).toBe(true)
    expect(indexOf("parts")).toEqual(indexOf("killed"))
  })
})

describe("what cannot be", () => {
  it("is refused by name; a bad image costs the file it is in", async () => {
    const cases: [string[], number, string][] = [
      [["--hooks", "blocks.9.*"], 2, "E_HOOK"],
      [["--positions", "99"], 1, "E_INPUT"],
      [["--positions", "x"], 2, "E_USAGE"],
      [["--shard-size", "0"], 2, "E_USAGE"],
      [["--grad", "logits"], 2, "E_USAGE"],
      [["--split", "val"], 1, "E_DATASET_EMPTY"],
      [["--path", at("data")], 2, "E_USAGE"],
    ]
    for (const [args, code, error] of cases) {
      const ran = await collect("unused", [...args, "--json"])
      const said = JSON.parse(ran.stderr.trim().split("\n").at(-1)!) as { code: string }
      expect([ran.code, said.code], args.join(" ")).toEqual([code, error])
    }
    expect(readdirSync(scratch)).not.toContain("unused")
    writeFileSync(images[17]!.path, "no image")
    expect((await collect("bad", SMALL)).code).toBe(1)
    const { files } = readReport(at("bad")) as unknown as {
      files: { state: string; code?: string; message?: string }[]
    }
    expect(files.filter(({ state }) => state === "done")).toHaveLength(FILES - 1)
    expect(files[4]).toMatchObject({ code: "E_IMAGE_DECODE", message: expect.stringContaining("dog/03.png") as string })
    expect(readdirSync(at("bad"))).not.toContain("activations.safetensors.index.json")
  })
})
