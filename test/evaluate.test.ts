/** @file vit-prisma evaluate: figures of mice and of other classifiers, and what data it recognises, through the program. */
import { cpSync, copyFileSync, existsSync, mkdirSync, mkdtempSync, readFileSync, rmSync, writeFileSync } from "node:fs"
import { tmpdir } from "node:os"
import { join, resolve } from "node:path"
import { afterAll, beforeAll, describe, expect, it } from "vitest"
import { CIFAR10Config, defineConfig, initOptions, modelConfig, readConfig } from "../src/configs/index.ts"
import { encodePng } from "../src/data/image.ts"
import type { NamedDataset } from "../src/datasets/dataset.ts"
import { evaluateLoss } from "../src/hub/evaluate-loss.ts"
import { evaluateClassifier, type Evaluated } from "../src/hub/evaluate.ts"
import { loadPretrained } from "../src/hub/load-pretrained.ts"
import { initialise } from "../src/model/init.ts"
import { nodeRuntime } from "../src/runtime/node.ts"
import { float32 } from "../src/tensor/tensor.ts"
import { openData } from "../src/train/data.ts"
import { flatten, layout } from "../src/train/layout.ts"
import { writeMouse } from "../src/train/mouse.ts"
import { mulberry32 } from "./helpers/causality.ts"
import { cli, demoModel, root, seven, twoAtATime } from "./helpers/cli.ts"
import { thrown } from "./helpers/thrown.ts"

const runtime = nodeRuntime({ threads: 1 })
const scratch = mkdtempSync(join(tmpdir(), "evaluate-"))
afterAll(async () => {
  await runtime.release()
  rmSync(scratch, { recursive: true })
})
const at = (...names: readonly string[]): string => join(scratch, ...names)

/** Files by path below a new folder. */
function folder(name: string, files: Readonly<Record<string, string | Uint8Array>>): string {
  for (const [path, content] of Object.entries(files)) {
    mkdirSync(join(at(name), path, ".."), { recursive: true })
    writeFileSync(join(at(name), path), content)
  }
  return at(name)
}

type Result = Evaluated & { data: { name: string; split: string; length: number; fingerprint: string; readAs: string } }
const result = async (...args: readonly string[]): Promise<Result> => {
  const { code, stdout, stderr } = await cli(["evaluate", ...args, "--json"])
  expect([code, stderr]).toEqual([0, expect.stringContaining('{"data":')])
  return JSON.parse(stdout) as Result
}
const refusal = async (...args: readonly string[]): Promise<{ code: string; message: string; exit: number | null }> => {
  const { code: exit, stdout, stderr } = await cli(["evaluate", ...args, "--json"])
  expect(stdout).toBe("")
  const { code, message } = JSON.parse(stderr.trim().split("\n").at(-1)!) as { code: string; message: string }
  expect(message).not.toContain("\n")
  return { code, message, exit }
}

const SIZES = "--set transformer.hidden_dim=32 --set transformer.num_heads=2 --set training.validation_split=0"
const RUNS = {
  seed: "induction --set training.max_steps=60 --set data.seed=3",
  transformers:
    "induction --set training.max_steps=60 --set architecture=preLN --set transformer.attention_only=false --set training.test_samples=100 --set training.label_smoothing=0.2",
  circle: "circle --set training.max_steps=4 --set image.patch_size=8 --set training.ema_decay=0.5",
} as const
type Run = keyof typeof RUNS
/** Trained to give numbers and pixels, not classes. */
const OTHERS = {
  numbers:
    "dsprites --set training.max_steps=4 --set image.patch_size=16 --set data.target=position --set training.loss_fn_name=MSE --set classification.num_classes=2 --set training.test_samples=40 --set training.batch_size=8 --set architecture=preLN --set data.mean=[0.1] --set data.std=[0.3]",
  pixels: "induction --set training.max_steps=4 --set training.loss_fn_name=Reconstruction --set architecture=preLN",
  hidden: "induction --set training.max_steps=4 --set training.loss_fn_name=MaskedReconstruction",
} as const

beforeAll(
  () =>
    twoAtATime(Object.entries({ ...RUNS, ...OTHERS }), async ([name, args]) => {
      const { code, stderr } = await cli([
        "train",
        ...`${args} ${SIZES}`.split(" "),
        "--out",
        at(name),
        "--threads",
        "1",
      ])
      expect([code, stderr]).toEqual([0, expect.any(String)])
    }),
  60_000,
)

describe("a mouse", () => {
  const trained = (name: Run) =>
    JSON.parse(readFileSync(at(name, "result.json"), "utf8")) as {
      test: { accuracy: number; loss: number }
      data: Record<string, string>
    }

  it.each(Object.keys(RUNS) as Run[])("(%s) has the accuracy and loss that the trainer found", async (name) => {
    const { test, data } = trained(name)
    const found = await result(at(name), "--batch", "100")
    expect(found.accuracy).toBe(test.accuracy)
    expect(Math.abs(found.loss - test.loss)).toBeLessThan(1e-5)
    // The mouse's own seed decides which samples are for testing.
    expect(found.data.fingerprint).toBe(data["data.test"])
    expect(found.n).toBe(found.data.length)
    expect(found.classes.reduce((sum, c) => sum + c.n, 0)).toBe(found.n)
    expect(found.classes.reduce((sum, c) => sum + c.n * (c.accuracy ?? 0), 0) / found.n).toBeCloseTo(found.accuracy, 12)
    expect(found.comparedBy).toBe("name")
    const some = ", 100 of its 656 (test_samples), label_smoothing 0.2"
    expect([found.n === 100, found.data.readAs.includes(some)]).toEqual(Array(2).fill(name === "transformers"))
  })

  it("is evaluated at a checkpoint, on another split and on another seed's data alike", async () => {
    const step = at("seed", "checkpoints", "step-00000060")
    const [own, train, named] = await Promise.all([
      result(step),
      result(at("seed"), "--split", "train"),
      result(at("transformers"), "--data", "induction"),
    ])
    expect(own.accuracy).toBe(trained("seed").test.accuracy)
    expect(train.data.fingerprint).toBe(trained("seed").data["data.train"])
    expect(named.data.fingerprint).toBe(trained("transformers").data["data.test"])
    expect(named.data.fingerprint).not.toBe(own.data.fingerprint)
  })

  it("shows people its figures, and what it read on stderr", async () => {
    const { stdout, stderr } = await cli(["evaluate", at("seed")])
    const { test } = trained("seed")
    expect(stderr).toBe("data: induction, as the model's training.json says, induction/test, 656 images\n")
    expect(stdout).toMatch(/^n +656\nloss +[\d.]+\naccuracy +[\d.]+\ntop5 +1\n\naccuracy +n +class\n/)
    expect(Number(/\naccuracy +([\d.]+)\n/.exec(stdout)![1])).toBeCloseTo(test.accuracy, 5)
    expect(stdout).toMatch(/^[\d.]+ +164 +horizontal-not-same$/m)
  })

  it("of other classes than the data's is refused, as is data without the split", async () => {
    const [classes, split] = await Promise.all([
      refusal(at("seed"), "--data", "circle"),
      refusal(at("seed"), "--split", "val"),
    ])
    expect(classes).toMatchObject({ code: "E_INPUT", exit: 1 })
    expect(classes.message).toMatch(/seed tells 4 classes apart, circle\/test has 60; /)
    expect(split).toMatchObject({ code: "E_DATASET_EMPTY", message: expect.stringContaining("splits found: train, test") }) // prettier-ignore
  })
})

describe("a mouse without classes", () => {
  const losses = async (...args: readonly string[]) =>
    (await result(...args)) as unknown as { n: number; loss: number; data: { length: number; readAs: string } }

  it.each(Object.keys(OTHERS))("(%s) has the loss that the trainer found", async (name) => {
    const { test } = JSON.parse(readFileSync(at(name, "result.json"), "utf8")) as { test: { loss: number } }
    const found = await losses(at(name))
    expect(Math.abs(found.loss / test.loss - 1)).toBeLessThan(1e-6)
    expect([found.n, Object.keys(found)]).toEqual([found.data.length, ["model", "data", "n", "loss"]])
    const { stdout } = await cli(["evaluate", at(name)])
    expect(stdout).toMatch(/^n +\d+\nloss +[\d.e-]+\n$/)
  })

  it("has the loss that a loop over what it gives makes", async () => {
    const model = await loadPretrained(at("numbers"), { runtime })
    const config = await readConfig(at("numbers", "training.json"))
    const { test } = await openData(config)
    const data: NamedDataset = { ...test, length: 40, at: (i) => test.at(i + 7) }
    let sum = 0
    for (let i = 0; i < 40; i++) {
      const { image, label } = await data.at(i)
      const pixels = Float32Array.from(image.data as Uint8Array, (x) => (x / 255 - 0.1) / 0.3)
      const { logits } = await model.run(float32([1, ...image.shape], pixels))
      for (const [k, want] of (label as readonly number[]).entries()) sum += (Number(logits.data[k]) - want) ** 2
    }
    const found = await evaluateLoss(model, config, data)
    expect(Math.abs(found.loss / (sum / 80) - 1)).toBeLessThan(1e-5)
  })

  it("is refused data of another kind", async () => {
    const classes = await refusal(at("numbers"), "--data", "induction")
    expect(classes).toMatchObject({ code: "E_CONFIG", exit: 1 })
    expect(classes.message).toMatch(/^induction\/test: images are \[1, 32, 32\], the config says \[1, 64, 64\]/)
    const config = await readConfig(at("numbers", "training.json"))
    const { test } = await openData({ ...config, data: { ...config.data, target: "shape" } })
    const model = await loadPretrained(at("numbers"), { runtime })
    expect(await thrown(evaluateLoss(model, config, test))).toMatchObject({
      code: "E_CONFIG",
      message: expect.stringContaining("labels are a class, the loss MSE needs 2 numbers"),
    })
  })
})

/** 28 x 28 images of noise, some bright and some dark, so that the model does not say the same of all. */
function noise(n: number, channels: 1 | 3): Uint8Array[] {
  const random = mulberry32(n)
  return Array.from({ length: n }, (_, i) =>
    Uint8Array.from({ length: 784 * channels }, () => (random() < i / n ? 255 : 60 * random())),
  )
}

describe("figures", () => {
  it("are those of plain loops over the model's logits", async () => {
    const model = await loadPretrained(demoModel, { runtime })
    const images = noise(30, 1)
    const labels = images.map((_, i) => (i * 7) % 10)
    const { logits } = await model.run(
      await model.images(...images.map((data) => ({ width: 28, height: 28, channels: 1 as const, data, notes: [] }))),
    )
    let [loss, first, five] = [0, 0, 0]
    for (const [i, label] of labels.entries()) {
      const row = Array.from((logits.data as Float32Array).subarray(i * 10, i * 10 + 10))
      const order = row.map((x, k) => [x, k] as const).sort((a, b) => b[0] - a[0])
      if (order[0]![1] === label) first++
      if (order.slice(0, 5).some(([, k]) => k === label)) five++
      loss -= Math.log(Math.exp(row[label]!) / row.reduce((sum, x) => sum + Math.exp(x), 0))
    }
    const data: NamedDataset = {
      name: "noise",
      fingerprint: "",
      classes: Array.from("0123456789"),
      length: 30,
      at: (i) => ({ image: { dtype: "uint8", shape: [1, 28, 28], data: images[i]! }, label: labels[i]! }),
    }
    const done: number[] = []
    const found = await evaluateClassifier(model, data, { batch: 16, onProgress: (n) => done.push(n) })
    expect([found.accuracy, found.top5]).toEqual([first / 30, five / 30])
    expect(found.top5).toBeGreaterThan(found.accuracy)
    expect(found.loss).toBeCloseTo(loss / 30, 6)
    expect(done).toEqual([16, 30])

    const wrong = (change: Partial<NamedDataset>) => thrown(evaluateClassifier(model, { ...data, ...change }))
    expect(await wrong({ classes: [] })).toMatchObject({ code: "E_INPUT", message: expect.stringContaining("numbers, not classes") }) // prettier-ignore
    const odd = { image: { dtype: "float32", shape: [1, 28, 28], data: new Float32Array(784) }, label: 0 } as const
    expect(await wrong({ at: () => odd })).toMatchObject({
      code: "E_INPUT",
      message: "noise: sample 0 is float32 [1, 28, 28], expected uint8 of 1 or 3 channels, which a model's preprocessing takes",
    }) // prettier-ignore
  })

  it("count logits that are no numbers as wrong, and equal ones as the first", async () => {
    const one = (row: readonly number[], label: number): Promise<Evaluated> => {
      const data = { at: () => ({ image: { dtype: "uint8", shape: [1, 28, 28], data: new Uint8Array(784) }, label }) }
      return loadPretrained(demoModel, { runtime }).then((model) => {
        const logits = { logits: { dtype: "float32", shape: [1, 10], data: Float32Array.from(row) } }
        Object.defineProperty(model, "run", { value: () => Promise.resolve(logits) })
        return evaluateClassifier(model, { ...data, length: 1, name: "one", fingerprint: "", classes: Array.from("0123456789") } as NamedDataset) // prettier-ignore
      })
    }
    const ties = [1, 2, 2, 0, 0, 0, 0, 0, 0, 0]
    expect((await one(ties, 1)).accuracy).toBe(1)
    expect(await one(ties, 2)).toMatchObject({ accuracy: 0, top5: 1 })
    expect(await one(ties.fill(Number.NaN), 0)).toMatchObject({ accuracy: 0, top5: 0, loss: Number.NaN })
  })
})

describe("data at a path", () => {
  const digits = Array.from("0123456789")
  /** As `vit-prisma run` tells them: the class of each image. */
  let told: readonly string[]
  let pngs: readonly Uint8Array[]
  const byClass = (prefix = "") =>
    Object.fromEntries([
      ...digits.map((d) => [`${prefix}${d}/x.png`, pngs[Number(d)]!] as const),
      ...told.map((t, i) => [`${prefix}${t}/told-${i}.png`, pngs[i]!] as const),
    ])
  /** The share of these files that lies in the folder of what is said of its image. */
  const share = (says: (i: number) => string) =>
    [...digits, ...told].filter((d, i) => says(i % digits.length) === d).length / (2 * digits.length)

  beforeAll(async () => {
    // Of another size and number of channels than the model's.
    pngs = await Promise.all(noise(10, 3).map((pixels) => encodePng(pixels.subarray(0, 3 * 20 * 30), 20, 30, 3)))
    const files = pngs.map((png, i) => {
      writeFileSync(at(`${i}.png`), png)
      return at(`${i}.png`)
    })
    const { stdout } = await cli(["run", demoModel, ...files, "--json"])
    told = (JSON.parse(stdout) as { predictions: { label: string }[] }[]).map(
      ({ predictions }) => predictions[0]!.label,
    )
    expect(new Set(told).size).toBeGreaterThan(1)
  })

  it("is a folder of images by class, by split or not, prepared as the model's repo says", async () => {
    const right = share((i) => told[i]!)
    const [alone, test, val] = await twoAtATime(
      [
        [folder("alone", byClass())],
        [folder("splits", { ...byClass("test/"), ...byClass("val/"), ...byClass("train/") })],
        [folder("val", byClass("val/")), "--split", "val"],
      ],
      ([path, ...more]) => result(demoModel, "--data", path!, ...more),
    )
    expect(alone).toMatchObject({ n: 20, accuracy: right, comparedBy: "name" })
    expect(alone!.classes.map((c) => c.n)).toEqual(digits.map((d) => 1 + told.filter((t) => t === d).length))
    expect([test!.accuracy, val!.accuracy, test!.data.name]).toEqual([right, right, "folder/test"])
  })

  it("is compared by name where the model has the names in another order, else by number", async () => {
    const reversed = at("reversed")
    cpSync(demoModel, reversed, { recursive: true })
    const config = JSON.parse(readFileSync(join(demoModel, "config.json"), "utf8")) as object
    const names = (name: (i: number) => string) => Object.fromEntries(digits.map((d, i) => [d, name(i)]))
    const model = (id2label: object) => writeFileSync(join(reversed, "config.json"), JSON.stringify({ ...config, id2label })) // prettier-ignore
    const data = folder("two", byClass())
    model(names((i) => String(9 - i)))
    const byName = await result(reversed, "--data", data)
    expect(byName.comparedBy).toBe("name")
    expect(byName.accuracy).toBeCloseTo(
      share((i) => String(9 - Number(told[i]))),
      12,
    )
    expect(byName.classes.map((c) => c.label)).toEqual(digits.toReversed())

    model(names((i) => `digit ${i}`))
    const { stdout, stderr } = await cli(["evaluate", reversed, "--data", data, "--json"])
    const byNumber = JSON.parse(stdout) as Result
    expect([byNumber.comparedBy, byNumber.accuracy]).toEqual(["number", share((k) => told[k]!)])
    expect(stderr).toContain('classes are compared by number: the data\'s are \\"0\\", \\"1\\", ...')
  })

  it("is idx files, CIFAR's batches or parquet, in a folder or one file", async () => {
    const fixture = join(root, "test/fixtures/datasets/imagenet-24.parquet")
    const head = (...numbers: readonly number[]) => Buffer.from(numbers.flatMap((n) => [0, 0, n >> 8, n & 255]))
    const idx = (type: number, rank: number, sizes: readonly number[], data: Uint8Array) =>
      Buffer.concat([Buffer.from([0, 0, type, rank]), head(...sizes), data])
    const images = idx(8, 3, [10, 28, 28], Buffer.concat(noise(10, 1)))
    const labels = idx(8, 1, [10], Uint8Array.from(digits, Number))
    const four = folder("idx", {
      "train-images-idx3-ubyte": images,
      "train-labels-idx1-ubyte": labels,
      "t10k-images-idx3-ubyte": images,
      "t10k-labels-idx1-ubyte": labels,
    })
    const batch = Buffer.concat(digits.map((d) => Buffer.concat([Buffer.from([Number(d)]), Buffer.alloc(3072, 9 * Number(d))]))) // prettier-ignore
    const cifar = folder("cifar", { "data_batch_1.bin": batch, "test_batch.bin": batch })
    const shards = folder("parquet", { "data/test-00000-of-00001.parquet": readFileSync(fixture) })
    const config = defineConfig(CIFAR10Config, {
      transformer: { hidden_dim: 8, num_heads: 2, num_layers: 1 },
      classification: { num_classes: 1000 },
    })
    const weights = initialise(modelConfig(config), initOptions(config))
    const places = layout([...weights].map(([name, { shape }]) => [name, shape]))
    const thousand = folder("thousand", { ".keep": "" })
    const names = Array.from({ length: 1000 }, (_, i) => `class ${i}`)
    await writeMouse(thousand, config, places, flatten(places, weights), names)
    const [mnist, tenth, file, split] = await Promise.all([
      result(demoModel, "--data", four),
      result(demoModel, "--data", cifar),
      result(thousand, "--data", fixture),
      result(thousand, "--data", shards),
    ])
    expect([mnist.n, mnist.data.name, mnist.data.readAs]).toEqual([10, "mnist/test", expect.stringContaining("idx files")]) // prettier-ignore
    expect([tenth.n, tenth.data.name, tenth.comparedBy]).toEqual([10, "cifar10/test", "number"])
    const classes = Array.from({ length: 24 }, (_, i) => (i * 41) % 1000).sort((a, b) => a - b)
    for (const { n, comparedBy, classes: found } of [file, split]) {
      expect([n, comparedBy]).toEqual([24, "name"])
      expect(found.flatMap((c, i) => (c.n === 1 && c.label === `class ${i}` ? [i] : []))).toEqual(classes)
    }
    expect([file.data.name, split.data.name]).toEqual(["imagenet-24.parquet", "parquet/test"])
  })

  it("is refused where none or more than one dataset is there, with what was looked for", async () => {
    const both = folder("both", { ...byClass(), "data/test-00000-of-00001.parquet": "PAR1" })
    const other = folder("other", { "notes.txt": "x" })
    copyFileSync(seven, at("other", "seven.png"))
    const cases = [
      [both, /both: holds more than one dataset: parquet files .*; and images by split and class .*; name the folder of one$/],
      [other, /other: no dataset is recognised in it; looked for are a parquet file, or a folder with MNIST's idx files .*CIFAR-10's .*parquet files .*images by split/],
      [seven, /seven\.png: is no parquet file; looked for are/],
      ["mnits", /^--data "mnits": there is no such path and no dataset of this name \(nearest: "mnist"\); the names are mnist, /],
      [undefined, /mnist-demo does not say what it was trained on; give --data, a name or a path$/],
      ["mnist", /option path is missing$/, "E_CONFIG"],
      [other, /--path says where a dataset of a name lies/, "E_USAGE", "--path", "x"],
    ] as const // prettier-ignore
    await twoAtATime(cases, async ([data, said, code = "E_USAGE", ...more]) => {
      expect(await refusal(demoModel, ...(data === undefined ? [] : ["--data", data]), ...more)).toMatchObject({
        code,
        message: expect.stringMatching(said),
      })
    })
    const missing = await refusal(demoModel, "--data", folder("train-only", byClass("train/")))
    expect(missing).toMatchObject({ code: "E_DATASET_EMPTY", message: expect.stringContaining("splits found: train") })
  })

  it("is what another project's training.json does not say", async () => {
    const model = at("foreign")
    cpSync(demoModel, model, { recursive: true })
    writeFileSync(join(model, "training.json"), '{"learning_rate": 1}')
    const { code, stderr } = await cli(["evaluate", model])
    expect([code, stderr]).toEqual([2, expect.stringMatching(/^warning: what the model was trained on is not known: .*training\.json: .*\n.*\[E_USAGE\]\n$/)]) // prettier-ignore
  })
})

const MNIST = resolve(root, "../shared/data/mnist")
const card = join(root, "model-cards/mnist")

describe.skipIf(!existsSync(MNIST))("the MNIST mouse (skipped where ../shared/data/mnist is absent)", () => {
  it("has the accuracy on all 10,000 test digits that its training found", { timeout: 60_000 }, async () => {
    const { test } = JSON.parse(readFileSync(join(card, "result.json"), "utf8")) as { test: { accuracy: number } }
    const found = await result(card, "--data", "mnist", "--path", MNIST)
    expect([found.n, found.accuracy]).toEqual([10_000, test.accuracy])
  })
})
