/** @file What goes wrong while a model is trained: kills, disks, numbers that are none, configs that cannot be, two at one folder. */
import {
  cpSync,
  existsSync,
  mkdtempSync,
  readdirSync,
  readFileSync,
  rmSync,
  truncateSync,
  writeFileSync,
} from "node:fs"
import { once } from "node:events"
import { open } from "node:fs/promises"
import { createServer, type AddressInfo } from "node:net"
import { tmpdir } from "node:os"
import { join } from "node:path"
import { setTimeout as wait } from "node:timers/promises"
import { afterAll, describe, expect, it } from "vitest"
import type { GlobalConfig } from "../src/configs/index.ts"
import { claim, makeFolder } from "../src/files/atomic.ts"
import { nodeRuntime } from "../src/runtime/node.ts"
import { float32 } from "../src/tensor/tensor.ts"
import { latestCheckpoint } from "../src/train/checkpoint.ts"
import { trainRun, type RunOptions } from "../src/train/run.ts"
import { runTs } from "./helpers/child.ts"
import { cli, twoAtATime } from "./helpers/cli.ts"
import { FAULTS } from "./helpers/faults.ts"
import { files, logOf, madeConfig, madeData, madeSet, sha256, stepsIn } from "./helpers/made-data.ts"

const runtime = nodeRuntime({ threads: 1 })
const scratch = mkdtempSync(join(tmpdir(), "train-faults-"))
afterAll(async () => {
  await runtime.release()
  rmSync(scratch, { recursive: true })
})

const folder = (name: string) => join(scratch, name)
interface Given extends Partial<RunOptions> {
  readonly config?: GlobalConfig
  readonly data?: ReturnType<typeof madeData>
}
const run = (name: string, { config = madeConfig(), data = madeData(), ...more }: Given = {}) =>
  trainRun(config, data, { out: folder(name), runtime, ...more })
const never = () => expect.unreachable("what should not be")
const checkpoints = (name: string) => join(folder(name), "checkpoints")

/** The calls of file handles of this process, to be put in others' place; gives what puts them back. */
async function handles(change: (own: Calls) => Partial<Calls>): Promise<() => void> {
  const handle = await open(process.execPath)
  const prototype = Object.getPrototypeOf(handle) as Calls
  await handle.close()
  const { write, sync } = prototype
  Object.assign(prototype, change({ write, sync }))
  return () => Object.assign(prototype, { write, sync })
}
interface Calls {
  write: (...args: unknown[]) => Promise<unknown>
  sync: () => Promise<void>
}
const full = async () => {
  throw Object.assign(new Error("ENOSPC: injected"), { code: "ENOSPC", errno: -28, syscall: "write" })
}

describe("a checkpoint", () => {
  /** Save step 3 where 1 and 2 are, and take 1 away. */
  const SAVE = `
import { join } from "node:path"
import { writeFileAtomic } from "../src/files/atomic.ts"
import { pruneCheckpoints, saveCheckpoint } from "../src/train/checkpoint.ts"
const [, , root, ...steps] = process.argv as string[]
for (const step of steps.map(Number)) {
  const position = { step, epoch: 0, batch: step, images: 8 * step }
  const vectors = { w: [new Float32Array(100).fill(step)], m: [60, 40].map((n) => new Float32Array(n).fill(-step)) }
  const state = { position, fingerprints: { a: 1 }, best: null, waited: 0, seconds: step, pending: null }
  await saveCheckpoint(root!, state, vectors, (folder) => writeFileAtomic(join(folder, "config.json"), "{}"))
  await pruneCheckpoints(root!, step, 2, () => false)
}
console.log((globalThis as unknown as { faults?: { calls: string[] } }).faults?.calls.join(" ") ?? "")
`
  it("survives SIGKILL at every call of its saving: the new one or the one before is loaded, whole", async () => {
    expect(await runTs(SAVE, { args: [folder("clean"), "1", "2"] })).toMatchObject({ code: 0, stderr: "" })
    const copy = (name: string) => {
      cpSync(folder("clean"), folder(name), { recursive: true })
      return folder(name)
    }
    const { stdout } = await runTs(SAVE, { args: [copy("saved"), "3"], preload: FAULTS })
    const calls = stdout.trim().split(" ")
    expect(calls.length).toBeGreaterThan(30)
    expect(readdirSync(folder("saved"))).toEqual(["step-00000002", "step-00000003"])
    const numbers = Array.from(calls, (_, i) => i + 1)
    const newest = await twoAtATime(numbers, async (at) => {
      const root = copy(`killed at ${at}`)
      const env = { FAULT_AT: String(at) }
      expect(await runTs(SAVE, { args: [root, "3"], preload: FAULTS, env })).toMatchObject({ signal: "SIGKILL" })
      const { position, vectors } = (await latestCheckpoint(root, never))!
      expect([vectors["w"]![99], vectors["m"]![99]]).toEqual([position.step, -position.step])
      return position.step
    })
    expect(newest).toEqual(newest.toSorted((a, b) => a - b))
    expect(new Set(newest)).toEqual(new Set([2, 3]))
  })

  it("that a resumed run has passed over does not count when older ones are taken away", async () => {
    await run("passed", { config: madeConfig({ saving: { keep_last: 2 } }) })
    expect(stepsIn(folder("passed"))).toEqual([8, 12])
    truncateSync(join(checkpoints("passed"), "step-00000012", "optimizer.safetensors"), 1000)
    const warnings: string[] = []
    const config = madeConfig({ training: { max_steps: 10 }, saving: { keep_last: 1, save_cp_frequency: 1 } })
    await run("passed", { config, resume: true, warn: (message) => warnings.push(message) })
    expect(warnings).toEqual([expect.stringMatching(/passed over .*step-00000012: .*optimizer\.safetensors: expected/)])
    expect(stepsIn(folder("passed"))).toEqual([10, 12])
    expect((await latestCheckpoint(checkpoints("passed"), () => {}))!.position.step).toBe(10)
  })

  it("that has no manifest is passed over with a warning, and the run goes on from the one before it", async () => {
    await run("bare")
    await run("whole")
    rmSync(join(checkpoints("bare"), "step-00000012", "manifest.json"))
    const [warnings, steps]: [string[], number[]] = [[], []]
    const onStep = ({ step }: { step: number }) => steps.push(step)
    await run("bare", { resume: true, warn: (message) => warnings.push(message), onStep })
    expect(warnings).toEqual([expect.stringMatching(/passed over .*step-00000012: .*has no manifest\.json/)])
    expect(steps).toEqual([9, 10, 11, 12])
    expect(sha256(join(folder("bare"), "model.safetensors"))).toBe(sha256(join(folder("whole"), "model.safetensors")))
  })

  it("is refused where it is of other data or another version, with all that differs", async () => {
    await run("other")
    const data = { ...madeData(), train: { ...madeSet("made/train", 40), fingerprint: "of other images" } }
    await expect(run("other", { data, resume: true })).rejects.toMatchObject({
      code: "E_CHECKPOINT_MISMATCH",
      message: expect.stringMatching(/: data\.train was made of made\/train, 40, is of other images; resume/),
    })
    changeState("other", 12, (state) => Object.assign(state["fingerprints"] as object, { version: "0.0.9" }))
    await expect(run("other", { resume: true })).rejects.toMatchObject({
      code: "E_CHECKPOINT_MISMATCH",
      message: expect.stringMatching(/: version was 0\.0\.9, is \d/),
    })
  })

  it.each<[string, (state: Record<string, unknown>) => void]>([
    ["no position", (state) => delete state["position"]],
    ["half a step", (state) => Object.assign(state["position"] as object, { step: 11.5 })],
    ["no fingerprints", (state) => Object.assign(state, { fingerprints: null })],
    ["another format", (state) => Object.assign(state, { format: "vit-prisma checkpoint 0" })],
  ])("is passed over where its state has %s, whatever its manifest says", async (what, change) => {
    if (!existsSync(folder("state"))) await run("state")
    cpSync(folder("state"), folder(what), { recursive: true })
    changeState(what, 12, change)
    const warnings: string[] = []
    const found = await latestCheckpoint(checkpoints(what), (message) => warnings.push(message))
    expect(found!.position.step).toBe(8)
    expect(warnings).toEqual([expect.stringMatching(/state\.json: is not the state of a run/)])
  })
})

/** Change a checkpoint's state, and its manifest so that it fits. */
function changeState(name: string, step: number, change: (state: Record<string, unknown>) => void): void {
  const at = join(checkpoints(name), `step-${String(step).padStart(8, "0")}`)
  const edit = (file: string, by: (json: Record<string, unknown>) => void) => {
    const json = JSON.parse(readFileSync(join(at, file), "utf8")) as Record<string, unknown>
    by(json)
    writeFileSync(join(at, file), JSON.stringify(json))
  }
  edit("state.json", change)
  const bytes = readFileSync(join(at, "state.json")).length
  edit("manifest.json", ({ files: all }) =>
    Object.assign(all as object, { "state.json": { bytes, sha256: sha256(join(at, "state.json")) } }),
  )
}

describe("a loss that is no number", () => {
  it("ends the run at that step, with its samples; what was good is untouched, and it goes on with better data", async () => {
    const config = madeConfig({ training: { max_steps: 24 } })
    await run("sound", { config })
    await run("nan")
    const [model, card] = ["model.safetensors", "result.json"].map((file) => sha256(join(folder("nan"), file)))
    const sound = await latestCheckpoint(checkpoints("sound"), never)
    const { parts } = JSON.parse(readFileSync(join(folder("nan"), "splits.json"), "utf8")) as {
      parts: { train: string }
    }
    const bits = Buffer.from(parts.train, "base64")
    const rows = Array.from({ length: 40 }, (_, i) => i).filter((i) => bits[i >> 3]! & (1 << (i & 7)))
    let armed = false
    const bad = madeData((i, sample) =>
      armed && i === rows[5] ? { ...sample, image: float32([1, 8, 8], new Float32Array(64).fill(NaN)) } : undefined,
    )
    const onStep = ({ step }: { step: number }) => (armed ||= step === 13)
    const failed = run("nan", { config, data: bad, resume: true, onStep })
    await expect(failed).rejects.toMatchObject({
      code: "E_TRAIN_DIVERGED",
      message: expect.stringMatching(/^step \d+: loss is NaN, .*; batch of samples .*; lower training\.lr/),
    })
    const said = JSON.parse(readFileSync(join(folder("nan"), "diverged.json"), "utf8")) as Record<string, never>
    const { step, indices } = said as unknown as { step: number; indices: number[] }
    expect(said).toMatchObject({ dataset: "made/train/train", message: expect.stringContaining(`step ${step}:`) })
    expect(indices).toHaveLength(8)
    expect(step).toBeGreaterThan(13)
    expect(step).toBeLessThan(22)
    expect(indices.map((i) => rows[i])).toContain(rows[5])
    expect(logOf(folder("nan")).at(-1)!["step"]).toBe(step - 1)
    const last = (await latestCheckpoint(checkpoints("nan"), never))!
    expect(last.position.step).toBe(4 * Math.floor((step - 1) / 4))
    expect(last.vectors["w"]!.every(Number.isFinite)).toBe(true)
    expect(sha256(join(folder("nan"), "model.safetensors"))).toBe(model)
    expect(sha256(join(folder("nan"), "result.json"))).toBe(card)
    const best = join(checkpoints("nan"), `step-${String(last.best!.step).padStart(8, "0")}`, "model.safetensors")
    expect(sha256(join(folder("nan"), "best", "model.safetensors"))).toBe(sha256(best))

    await run("nan", { config, resume: true })
    expect(existsSync(join(folder("nan"), "diverged.json"))).toBe(false)
    expect((await latestCheckpoint(checkpoints("nan"), never))!.vectors).toEqual(sound!.vectors)
    expect(logOf(folder("nan"))).toEqual(logOf(folder("sound")))
  })
})

describe("a gradient that is no number, of a loss that is one", () => {
  // Squares of what so bright a pixel gives are more than a float32 can be; where all are brighter still, infinities meet.
  it.each([
    ["Infinity", (pixels: Float32Array) => pixels.fill(1e20, 3, 4)],
    ["NaN", (pixels: Float32Array) => pixels.fill(1e30, 4)],
  ])("%s ends the run at that step, and what was good is untouched", async (value, brighten) => {
    const name = `gradient ${value}`
    let armed = false
    const data = madeData((_, sample) =>
      armed ? { ...sample, image: float32([1, 8, 8], brighten(Float32Array.from(sample.image.data))) } : undefined,
    )
    const onStep = ({ step }: { step: number }) => (armed ||= step === 5)
    const failed = run(name, { config: madeConfig({ training: { max_steps: 24 } }), data, onStep })
    await expect(failed).rejects.toMatchObject({
      code: "E_TRAIN_DIVERGED",
      message: expect.stringMatching(
        new RegExp(`^step \\d+: gradNorm is ${value}, expected a finite number; batch of`),
      ),
    })
    const said = JSON.parse(readFileSync(join(folder(name), "diverged.json"), "utf8")) as Record<string, never>
    const { step, indices } = said as unknown as { step: number; indices: number[] }
    expect(said).toMatchObject({ dataset: "made/train/train", message: expect.stringContaining("gradNorm is") })
    expect(indices).toHaveLength(8)
    expect(logOf(folder(name)).at(-1)!["step"]).toBe(step - 1)
    const last = (await latestCheckpoint(checkpoints(name), never))!
    expect(last.position.step).toBe(4 * Math.floor((step - 1) / 4))
    for (const vector of Object.values(last.vectors)) expect(vector.every(Number.isFinite)).toBe(true)
    const best = join(checkpoints(name), `step-${String(last.best!.step).padStart(8, "0")}`, "model.safetensors")
    expect(sha256(join(folder(name), "best", "model.safetensors"))).toBe(sha256(best))
  })
})

describe("a disk", () => {
  it("that is full when the run begins is found before the first step, at whatever write", async () => {
    let at = 0
    const seen = { step: false }
    do {
      at++
      let calls = 0
      const undo = await handles(({ write }) => ({
        write(...args) {
          return ++calls >= at ? full() : write.apply(this, args)
        },
      }))
      const name = `full at ${at}`
      const ended = await run(name, { onStep: () => (seen.step = true), warn: () => {} }).catch(
        (error: unknown) => error,
      )
      undo()
      if (!seen.step) expect(ended, name).toMatchObject({ name: "PrismaError", code: "E_DISK_FULL" })
      // Nobody is held up by what is left.
      if (at === 5) expect(await run(name, { resume: true })).toMatchObject({ ended: "finished" })
    } while (!seen.step)
    expect(at).toBeGreaterThan(8)
  })

  it("that is full later ends the run, which then goes on from its last checkpoint", async () => {
    let isFull = false
    const undo = await handles(({ write }) => ({
      write(...args) {
        return isFull ? full() : write.apply(this, args)
      },
    }))
    const onStep = ({ step }: { step: number }) => (isFull = step >= 6)
    await expect(run("fills", { onStep, warn: () => {} })).rejects.toMatchObject({ code: "E_DISK_FULL" })
    undo()
    expect((await latestCheckpoint(checkpoints("fills"), never))!.position.step).toBeLessThanOrEqual(4)
    await run("fills", { resume: true })
    await run("roomy")
    expect(logOf(folder("fills"))).toEqual(logOf(folder("roomy")))
    expect(sha256(join(folder("fills"), "model.safetensors"))).toBe(sha256(join(folder("roomy"), "model.safetensors")))
  })

  it("that is slow holds the run up rather than filling the memory", async () => {
    const undo = await handles(({ sync }) => ({
      async sync() {
        await wait(2)
        return sync.apply(this)
      },
    }))
    const before = process.memoryUsage().arrayBuffers
    let [most, behind, steps] = [0, 0, 0]
    const config = madeConfig({
      transformer: { hidden_dim: 256, num_layers: 2, num_heads: 2 },
      training: { max_steps: 20, eval_frequency: 100, batch_size: 1, num_epochs: 100 },
      saving: { save_cp_frequency: 1, keep_last: 2 },
    })
    const onStep = ({ step }: { step: number }) => {
      most = Math.max(most, process.memoryUsage().arrayBuffers - before)
      behind = Math.max(behind, step - 1 - stepsIn(folder("slow")).findLast((s) => s >= 0)!)
      steps = step
    }
    await run("slow", { config, onStep })
    undo()
    expect(steps).toBe(20)
    // With a checkpoint each step, none is made before the one before it is whole.
    expect(behind).toBe(0)
    // Three vectors of 530,000 numbers are 6.4 MB; 20 steps' would be 127 MB.
    expect(most).toBeLessThan(100e6)
  })

  it("that is read-only, or a folder that cannot be, is refused at the start", async () => {
    const preload = `${FAULTS}\nObject.assign(globalThis.faults, { at: 1, only: ["mkdir"], code: "EROFS" })`
    const readOnly = await cli(["train", "induction", "--out", folder("read-only"), "--json"], { preload })
    expect(readOnly).toMatchObject({
      code: 6,
      stdout: "",
      stderr: expect.stringMatching(/^\{"code":"E_OUTPUT".*\}\n$/),
    })
    writeFileSync(folder("file"), "")
    await expect(run("file/below")).rejects.toMatchObject({ code: "E_OUTPUT" })
    // Linux has no new folders there; Node's own recursive mkdir never ends.
    if (existsSync("/proc/self"))
      await expect(makeFolder("/proc/none/below")).rejects.toMatchObject({ code: "E_OUTPUT" })
  })
})

describe("what cannot be", () => {
  const unread = { train: madeSet("made/train", 40, never), test: madeSet("made/test", 10, never) }
  const wrong = (section: "training" | "saving" | "logging", field: string, value: unknown) => {
    const config = madeConfig()
    return { ...config, [section]: { ...config[section], [field]: value } } as GlobalConfig
  }
  it.each<[string, GlobalConfig, string, string]>([
    ["lr NaN", wrong("training", "lr", NaN), "E_CONFIG", "training.lr must be a number above 0, got NaN"],
    ["lr -1", wrong("training", "lr", -1), "E_CONFIG", "training.lr must be a number above 0, got -1"],
    ["batch 0", wrong("training", "batch_size", 0), "E_CONFIG", "training.batch_size must be -1"],
    ["batch 41", wrong("training", "batch_size", 41), "E_CONFIG", "training.batch_size is 41, made/train/train has 32"],
    ["no epochs", wrong("training", "num_epochs", 0), "E_CONFIG", "training.num_epochs must be a whole number from 1"],
    ["5 of 4 batches", wrong("training", "accumulation", 5), "E_CONFIG", "training.accumulation is 5, an epoch has 4"],
    ["a tracker", wrong("logging", "track", ["tensorbord"]), "E_USAGE", "did you mean tensorboard?"],
  ])("is refused before data is read or a file made: %s", async (name, config, code, message) => {
    await expect(run(name, { config, data: unread })).rejects.toMatchObject({
      code,
      message: expect.stringContaining(message),
    })
    expect(existsSync(folder(name))).toBe(false)
  })

  it("is refused at the command line before the data is looked for", async () => {
    const { code, stderr } = await cli([
      "train",
      "mnist",
      "--data",
      "/nowhere",
      "--set",
      "training.lr=-1",
      "--out",
      "x",
    ])
    expect([code, stderr]).toEqual([
      1,
      expect.stringMatching(/training\.lr must be a number above 0, got -1 \[E_CONFIG\]/),
    ])
  })

  const one = (sample: object) => madeData((_, own) => ({ ...own, ...sample }))
  const many = { ...madeData(), train: { ...madeSet("made/train", 40), classes: ["a", "b", "c", "d", "e"] } }
  it.each<[string, Given, string, string]>([
    [
      "images of another size",
      { data: one({ image: float32([3, 8, 8], new Float32Array(192)) }) },
      "E_CONFIG",
      "[3, 8, 8]",
    ],
    ["numbers as labels", { data: one({ label: [1, 2] }) }, "E_CONFIG", "labels are 2 numbers"],
    ["more classes", { data: many }, "E_CONFIG", "classification.num_classes is 4, made/train has 5"],
    [
      "an empty test set",
      { data: { ...madeData(), test: madeSet("made/test", 0) } },
      "E_DATASET_EMPTY",
      "made/test: has no",
    ],
    ["a folder outside", { config: wrong("saving", "save_dir", "../x") }, "E_UNSAFE_PATH", "saving.save_dir"],
  ])("is refused before a file is made: %s", async (name, given, code, message) => {
    await expect(run(name, given)).rejects.toMatchObject({ code, message: expect.stringContaining(message) })
    expect(existsSync(folder(name))).toBe(false)
  })

  it("as a label that is no class ends the run, by its sample", async () => {
    const data = madeData((i, sample) => (i === 7 ? { ...sample, label: 4 } : undefined))
    await expect(run("label", { data })).rejects.toMatchObject({
      code: "E_LABEL_RANGE",
      message: expect.stringMatching(/^sample \d+: label is 4, expected a class from 0 to 3/),
    })
  })
})

describe("two at one folder", () => {
  it("are one too many: the second is told, and nothing of the first is touched", async () => {
    const stop = new AbortController()
    let second: Promise<unknown> | undefined
    const onStep = () => {
      second ??= run("both", { resume: true })
        .catch((error: unknown) => error)
        .finally(() => stop.abort())
    }
    const long = madeConfig({ training: { max_steps: 100_000, num_epochs: 100_000 }, saving: { keep_last: 2 } })
    const { ended, step } = await run("both", { config: long, signal: stop.signal, onStep })
    expect(ended).toBe("interrupted")
    expect(await second).toMatchObject({ code: "E_LOCKED", retryable: true })
    expect(logOf(folder("both")).map((line) => line["step"])).toEqual(Array.from({ length: step }, (_, i) => i + 1))
    expect((await latestCheckpoint(checkpoints("both"), never))!.position.step).toBe(step)
    // Nor is it written over later by one that does not say that it goes on.
    const before = files(folder("both"))
    await expect(run("both")).rejects.toMatchObject({ code: "E_OUTPUT" })
    expect(files(folder("both"))).toEqual(before)
  })

  it("may follow each other, also where the first was killed", async () => {
    const CLAIM = `
import { claim } from "../src/files/atomic.ts"
await claim(process.argv[2]!)
setTimeout(() => process.kill(process.pid, "SIGKILL"), 1500)
`
    const path = join(folder("claimed"), "run")
    const killed = runTs(CLAIM, { args: [path] })
    while (!existsSync(folder("claimed")) || !readdirSync(folder("claimed")).length) await wait(5)
    await expect(run("claimed")).rejects.toMatchObject({
      code: "E_LOCKED",
      message: expect.stringMatching(/another process works in it; wait for that one, or remove .*\.run\.tmp-\d+-/),
    })
    await killed
    expect(await run("claimed")).toMatchObject({ ended: "finished" })
    expect(readdirSync(folder("claimed")).filter((name) => name.includes(".tmp-"))).toEqual([])
  })

  it("that begin at once never both go on", async () => {
    const path = join(folder("raced"), "run")
    const claims = await Promise.allSettled(Array.from({ length: 8 }, () => claim(path)))
    const won = claims.flatMap((c) => (c.status === "fulfilled" ? [c.value] : []))
    expect(won.length).toBeLessThanOrEqual(1)
    for (const release of won) await release()
    await (
      await claim(path)
    )()
    expect(readdirSync(folder("raced"))).toEqual([])
  })
})

describe("a signal, while a server of a tracker never answers", () => {
  it("ends the run within 10 s, a second one at once; not a step is lost", async () => {
    const silent = createServer(() => {}).listen(0, "127.0.0.1")
    await once(silent, "listening")
    const env = {
      WANDB_API_KEY: "0".repeat(40),
      WANDB_BASE_URL: `http://127.0.0.1:${(silent.address() as AddressInfo).port}`,
    }
    const interrupt = async (name: string, again: boolean) => {
      const out = folder(name)
      const args = ["train", "induction", "--set", "training.eval_frequency=1000", "--threads", "1", "--track", "wandb"]
      const logged = () => existsSync(join(out, "metrics.jsonl")) && readFileSync(join(out, "metrics.jsonl")).length
      const times: number[] = []
      const ran = await cli([...args, "--out", out], {
        env,
        started: (child) => {
          void (async () => {
            while (!logged()) await wait(5)
            times.push(performance.now())
            child.kill("SIGINT")
            if (!again) return
            // Of the folders: one that is being written has another name.
            while (readdirSync(join(out, "checkpoints")).filter((made) => /^step-\d+$/.test(made)).length < 2)
              await wait(5)
            await wait(200)
            times.push(performance.now())
            child.kill("SIGINT")
          })()
        },
      })
      expect([ran.code, ran.stderr]).toEqual([130, expect.stringContaining("once more to stop at once")])
      const { position } = (await latestCheckpoint(join(out, "checkpoints"), never))!
      expect(logOf(out).at(-1)!["step"]).toBe(position.step)
      return performance.now() - times.at(-1)!
    }
    const [first, second] = await Promise.all([interrupt("once", false), interrupt("twice", true)])
    silent.close()
    expect(first).toBeLessThan(10_000)
    expect(second).toBeLessThan(3000)
  })
})
