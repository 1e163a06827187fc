/** @file A run as a whole: its folder, best weights, early ends, interruptions at any place, and the order of its data. */
import { createHash } from "node:crypto"
import { existsSync, mkdirSync, mkdtempSync, readFileSync, rmSync, writeFileSync } from "node:fs"
import { tmpdir } from "node:os"
import { join } from "node:path"
import { pathToFileURL } from "node:url"
import { afterAll, describe, expect, it } from "vitest"
import type { ConfigOverrides } from "../src/configs/index.ts"
import { contentHash } from "../src/datasets/fingerprint.ts"
import type * as Open from "../src/datasets/open.ts"
import { readMember, withZip } from "../src/files/zip.ts"
import { type DatasetSpec, defineConfig, loadPretrained } from "../src/index.ts"
import { nodeRuntime } from "../src/runtime/node.ts"
import { Random } from "../src/tensor/random.ts"
import { float32 } from "../src/tensor/tensor.ts"
import { planRun } from "../src/train/plan.ts"
import { learningRate } from "../src/train/schedule.ts"
import { trainRun, type RunOptions, type RunResult } from "../src/train/run.ts"
import { root } from "./helpers/cli.ts"
import { files, logOf, madeConfig, madeData, madeSet, sha256, stepsIn } from "./helpers/made-data.ts"
import { zip } from "./helpers/zip.ts"

const runtime = nodeRuntime({ threads: 1 })
const scratch = mkdtempSync(join(tmpdir(), "train-run-"))
afterAll(async () => {
  await runtime.release()
  rmSync(scratch, { recursive: true })
})

const folder = (name: string) => join(scratch, name)
const run = (
  name: string,
  { config = madeConfig(), data = madeData(), ...more }: Partial<RunOptions> & Given = {},
): Promise<RunResult> => trainRun(config, data, { out: folder(name), runtime, ...more })
interface Given {
  config?: ReturnType<typeof madeConfig>
  data?: ReturnType<typeof madeData>
}
const json = (name: string, file: string) => JSON.parse(readFileSync(join(folder(name), file), "utf8")) as never

describe("a finished run", () => {
  it("has all in its folder, and the figures of its result", async () => {
    const steps: number[] = []
    const result = await run("whole", { onStep: ({ step }) => steps.push(step) })
    expect(result).toMatchObject({ ended: "finished", step: 12, images: 96 })
    expect(steps).toEqual(Array.from({ length: 12 }, (_, i) => i + 1))
    const top = new Set(Object.keys(files(folder("whole"))).map((name) => name.split("/")[0]!))
    const model = ["config.json", "model.safetensors", "preprocessor_config.json", "training.json"]
    const about = ["curves.svg", "metrics.jsonl", "result.json", "splits.json", "summary.csv", "tracking.json"]
    expect(top).toEqual(new Set([...model, ...about, "best", "checkpoints"]))
    expect(stepsIn(folder("whole"))).toEqual([0, 4, 8, 12])
    expect(json("whole", "result.json")).toMatchObject({ ...result, seed: 0, threads: 1, testSamples: 10 })
    expect(readFileSync(join(folder("whole"), "curves.svg"), "utf8")).toMatch(/^<svg/)
  })

  it("can be looked at: the model and the best one are loaded and agree with what the log says of them", async () => {
    const { best, test } = await run("whole", { resume: true })
    const data = madeData()
    const split = json("whole", "splits.json") as { parts: { val: string } }
    const rows = bits(split.parts.val, 40)
    for (const [where, set, indices, accuracy] of [
      [".", data.test, Array.from({ length: 10 }, (_, i) => i), test!.accuracy!],
      ["best", data.train, rows, best!.accuracy!],
    ] as const) {
      const model = await loadPretrained(join(folder("whole"), where), { threads: 1 })
      const samples = await Promise.all(indices.map(async (i) => set.at(i)))
      const images = float32(
        [samples.length, 1, 8, 8],
        samples.flatMap(({ image }) => Array.from(image.data)),
      )
      const { logits } = await model.run(images)
      const right = samples.filter(({ label }, i) => {
        const row = [...(logits.data as Float32Array).subarray(4 * i, 4 * i + 4)]
        return row.indexOf(Math.max(...row)) === label
      })
      expect(right.length / samples.length).toBeCloseTo(accuracy, 9)
      await model.release()
    }
  })

  it("says in which order it saw its data, so that it can be made again", async () => {
    const seen: number[] = []
    await run("order", { data: madeData((i) => void seen.push(i)) })
    const { order } = json("order", "result.json") as { order: Record<string, number> }
    const { seed, samples, batchSize, batchesPerEpoch } = order
    const rows = bits((json("order", "splits.json") as { parts: { train: string } }).parts.train, 40)
    const epoch = (e: number) => new Random(seed!, `order:${e}`).permutation(samples!)
    const want = [0, 1, 2].flatMap((e) => [...epoch(e)].slice(0, batchSize! * batchesPerEpoch!).map((i) => rows[i]!))
    expect([samples, batchSize, batchesPerEpoch]).toEqual([32, 8, 4])
    expect(order["sha256OfEpoch0"]).toBe(createHash("sha256").update(epoch(0)).digest("hex"))
    // What validation reads between is the rest of the samples; one of each part is looked at before.
    const trained = seen.slice(1).filter((i) => rows.includes(i))
    expect(trained).toEqual(want)
  })
})

/** Where a split's file has a bit. */
const bits = (text: string, n: number): number[] => {
  const bytes = Buffer.from(text, "base64")
  return Array.from({ length: n }, (_, i) => i).filter((i) => bytes[i >> 3]! & (1 << (i & 7)))
}

describe("the record of its data", async () => {
  // Parquet files are read by a process that runs JavaScript: the built module.
  const built = pathToFileURL(join(root, "dist/src/datasets/open.js")).href
  const { openDataset } = (await import(built)) as typeof Open
  const fixture = (name: string) => join(root, "test/fixtures/datasets", name)
  const idx = (shape: readonly number[], value: (at: number) => number) => {
    const head = Uint8Array.from([0, 0, 8, shape.length, ...shape.flatMap((d) => [0, 0, 0, d])])
    const length = shape.reduce((n, d) => n * d)
    return Buffer.concat([head, Uint8Array.from({ length }, (_, at) => value(at))])
  }
  const members = await withZip(fixture("dsprites-12.npz"), async (zip) => {
    const read = ["imgs.npy", "latents_classes.npy"].map(async (name) => {
      return { name, data: Buffer.from(await readMember(zip, zip.members.get(name)!)) }
    })
    return Promise.all(read)
  })
  const parquet = readFileSync(fixture("imagenet-24.parquet"))

  interface Kind {
    readonly spec: DatasetSpec
    readonly config: ConfigOverrides
    /** The file whose byte is flipped, with the flip made or not. */
    readonly file: string
    readonly make: (flip: (bytes: Buffer, at: number) => Buffer) => Buffer
    readonly others?: Readonly<Record<string, Buffer>>
  }
  const kinds: Readonly<Record<string, Kind>> = {
    idx: {
      spec: { name: "mnist", path: folder("idx") },
      config: { image: { image_size: 8 }, classification: { num_classes: 10 } },
      file: "train-images-idx3-ubyte",
      make: (flip) =>
        flip(
          idx([8, 8, 8], (at) => at % 251),
          16 + 100,
        ),
      others: {
        "train-labels-idx1-ubyte": idx([8], (at) => at),
        "t10k-images-idx3-ubyte": idx([4, 8, 8], (at) => at % 241),
        "t10k-labels-idx1-ubyte": idx([4], (at) => at),
      },
    },
    npz: {
      spec: { name: "dsprites", path: join(folder("npz"), "x.npz") },
      config: { image: { image_size: 64, patch_size: 16 }, classification: { num_classes: 3 } },
      file: "x.npz",
      // A pixel that was black; the archive's CRC is right for it.
      make: (flip) => zip(members.map(({ name, data }, i) => ({ name, data: i ? data : flip(data, 200) }))),
    },
    parquet: {
      spec: { name: "parquet", path: folder("parquet"), size: 16 },
      config: { image: { image_size: 16, n_channels: 3 }, classification: { num_classes: 1000 } },
      file: "train.parquet",
      // In the midst of the first JPEG.
      make: (flip) => flip(parquet, 1500),
      others: { "test.parquet": parquet },
    },
  }

  it.each(Object.entries(kinds))("(%s) is another where one byte of a file is another", async (name, kind) => {
    const { spec, config, file, make, others = {} } = kind
    mkdirSync(folder(name))
    for (const [other, bytes] of Object.entries(others)) writeFileSync(join(folder(name), other), bytes)
    const small = madeConfig({ ...config, training: { batch_size: 2, max_steps: 1, validation_split: 0 } })
    const recorded: Record<string, string>[] = []
    const contents: string[] = []
    for (const [i, bit] of [0, 0, 1].entries()) {
      const flip = (bytes: Buffer, at: number) => Buffer.from(bytes.with(at, bytes[at]! ^ bit))
      writeFileSync(join(folder(name), file), make(flip))
      const data = await openDataset(spec)
      await run(`${name}-${i}`, { config: small, data })
      recorded.push((json(`${name}-${i}`, "result.json") as { data: Record<string, string> }).data)
      contents.push(await contentHash(data.train))
    }
    const [first, again, other] = recorded
    expect(first!["data.train"]).toMatch(/^[0-9a-f]{64}$/)
    expect(again).toEqual(first)
    expect(contents[2]).not.toBe(contents[0])
    expect(other!["data.train"]).not.toBe(first!["data.train"])
  })
})

describe("the seed", () => {
  it("is 0 where none is given, is recorded, and makes the same run again", async () => {
    expect(json("whole", "training.json")).toMatchObject({ training: { seed: 0 }, data: { seed: 0 } })
    await run("again", { config: madeConfig({ training: { seed: 0 } }) })
    expect(logOf(folder("again"))).toEqual(logOf(folder("whole")))
    for (const file of ["model.safetensors", "best/model.safetensors", "splits.json"])
      expect(sha256(join(folder("again"), file))).toBe(sha256(join(folder("whole"), file)))
    await run("other", { config: madeConfig({ training: { seed: 1 } }) })
    expect(sha256(join(folder("other"), "model.safetensors"))).not.toBe(
      sha256(join(folder("whole"), "model.safetensors")),
    )
  })
})

describe("early stopping", () => {
  const config = madeConfig({
    training: { early_stopping: true, early_stopping_patience: 2, eval_frequency: 1, lr: 0.05, max_steps: 40 },
    saving: { save_cp_frequency: 1 },
  })

  it("ends the run after so many validations that are no better, and keeps the best weights", async () => {
    const { ended, step, best } = await run("early", { config })
    expect(ended).toBe("early")
    expect(step).toBe(best!.step + 2)
    const of = (s: number) => join(folder("early"), "checkpoints", `step-${String(s).padStart(8, "0")}`)
    const [kept, last] = [join(folder("early"), "best"), folder("early")]
    expect(sha256(join(kept, "model.safetensors"))).toBe(sha256(join(of(best!.step), "model.safetensors")))
    expect(sha256(join(last, "model.safetensors"))).toBe(sha256(join(of(step), "model.safetensors")))
    expect(sha256(join(kept, "model.safetensors"))).not.toBe(sha256(join(last, "model.safetensors")))
    const found = logOf(folder("early")).map((line) => line["val/accuracy"]!)
    expect(found.indexOf(Math.max(...found)) + 1).toBe(best!.step)
  })

  it("goes by training samples in the seed's variant, whatever there is to validate on", async () => {
    const training = { early_stopping: true, early_stopping_patience: 3, eval_frequency: 1, lr: 1e-30, max_steps: 6 }
    const still = madeConfig({ variant: "seed-exact", training: { ...training, validation_split: 0 } })
    expect(await run("judged", { config: still })).toMatchObject({ ended: "early", step: 4 })
    expect(await run("unjudged", { config: defineConfig(still, { variant: "corrected" }) })).toMatchObject({ ended: "finished" }) // prettier-ignore
  })

  it("has, in the seed's variant, no schedule without a warm-up", async () => {
    const config = madeConfig({ training: { warmup_steps: 0, scheduler_step: 1 } })
    const rates = async (variant: "corrected" | "seed-exact") => {
      const { schedule } = await planRun(defineConfig(config, { variant }), madeData())
      return [0, 1, 2].map((t) => learningRate(schedule, t) / config.training.lr)
    }
    expect(await rates("seed-exact")).toEqual([1, 1, 1])
    expect((await rates("corrected"))[2]).toBeCloseTo(0.64)
  })

  it("is not undone by a resume", async () => {
    const before = sha256(join(folder("early"), "model.safetensors"))
    expect(await run("early", { config, resume: true })).toMatchObject({ ended: "early" })
    expect(sha256(join(folder("early"), "model.safetensors"))).toBe(before)
  })
})

describe("an interruption", () => {
  const accumulated = madeConfig({ training: { accumulation: 2, max_steps: 6, eval_frequency: 2 } })
  /** Each place: which samples were asked for before the signal, of which part. */
  it.each<[string, ReturnType<typeof madeConfig>, "train" | "val" | "test", number]>([
    ["before the first step", madeConfig(), "train", 1],
    ["in a step", madeConfig(), "train", 30],
    ["between the two batches of a step", accumulated, "train", 16 * 2 + 12],
    ["while it is validated", madeConfig(), "val", 11],
    ["while it is validated the last time", madeConfig(), "val", 19],
    ["while it is tested", madeConfig(), "test", 3],
  ])("%s loses no step, and the run goes on as if there were none", async (what, config, part, count) => {
    const whole = `whole ${config === accumulated ? "accumulated" : "plain"}`
    if (!existsSync(folder(whole))) await run(whole, { config })
    const rows = bits((json(whole, "splits.json") as { parts: { val: string } }).parts.val, 40)
    const stop = new AbortController()
    const seen = { train: 0, val: 0, test: 0 }
    const see = (of: keyof typeof seen) => {
      if (++seen[of] === count && of === part) stop.abort()
    }
    const data = madeData((i) => see(rows.includes(i) ? "val" : "train"))
    const test = madeSet("made/test", 10, () => see("test"))
    let steps = 0
    const result = await run(what, {
      config,
      data: { ...data, test },
      signal: stop.signal,
      onStep: ({ step }) => (steps = step),
    })
    expect(result.ended).toBe("interrupted")
    expect(stepsIn(folder(what)).at(-1)).toBe(result.step)
    // A step that is not validated yet is done all the same.
    expect(result.step - steps).toBe(what.includes("validated") ? 1 : 0)
    expect(existsSync(join(folder(what), "model.safetensors"))).toBe(false)
    expect(existsSync(join(folder(what), "curves.svg"))).toBe(true)

    expect((await run(what, { config, resume: true })).ended).toBe("finished")
    expect(logOf(folder(what))).toEqual(logOf(folder(whole)))
    for (const file of ["model.safetensors", "best/model.safetensors"])
      expect(sha256(join(folder(what), file))).toBe(sha256(join(folder(whole), file)))
  })

  it("can come at any time: timers have their turn between steps", async () => {
    let ticks = 0
    const atStep: number[] = []
    const timer = setInterval(() => ticks++, 1)
    await run("ticks", { config: madeConfig({ training: { max_steps: 40 } }), onStep: () => atStep.push(ticks) })
    clearInterval(timer)
    expect(new Set(atStep).size).toBeGreaterThan(10)
  })
})
