/** @file Run logs: metrics.jsonl and summary.csv, TensorBoard events against a file that TensorBoard's own writer made, and
 * trackio fragments against its importer's rules. */
import { existsSync, mkdirSync, mkdtempSync, readdirSync, readFileSync, rmSync, writeFileSync } from "node:fs"
import { tmpdir } from "node:os"
import { join } from "node:path"
import { afterAll, afterEach, describe, expect, it, vi } from "vitest"
import { openTrackers, type RunInfo } from "../src/train/tracking/index.ts"
import { runTs } from "./helpers/child.ts"
import { FAULTS } from "./helpers/faults.ts"
import { thrown } from "./helpers/thrown.ts"

const scratch = mkdtempSync(join(tmpdir(), "vit-prisma-tracking-"))
afterAll(() => rmSync(scratch, { recursive: true }))
afterEach(() => void vi.useRealTimers())

let runs = 0
const newRun = (more: Partial<RunInfo> = {}): RunInfo => ({
  dir: join(scratch, `run-${runs++}`),
  name: "mouse",
  project: "mice",
  config: { lr: 0.1 },
  ...more,
})
const read = (run: RunInfo, name: string) => readFileSync(join(run.dir, name), "utf8")
const rows = (run: RunInfo) =>
  read(run, "metrics.jsonl")
    .split("\n")
    .filter(Boolean)
    .map((line) => JSON.parse(line) as Record<string, number | null>)
const steps = (run: RunInfo) => rows(run).map((row) => row["step"])
const range = (from: number, to: number) => Array.from({ length: to - from }, (_, i) => from + i)

/** Log the steps of [from, to), with a value that tells them. */
async function go(run: RunInfo, from: number, to: number, names: readonly string[] = [], env = {}): Promise<void> {
  const tracker = await openTrackers(names, run, { env })
  for (const step of range(from, to)) tracker.log(step, { "train/loss": step / 2 })
  await tracker.close()
}

describe("metrics.jsonl", () => {
  it("has a line for each step, with its time", async () => {
    vi.useFakeTimers({ toFake: ["Date"], now: 1_760_000_000_125 })
    const run = newRun()
    const tracker = await openTrackers([], run)
    tracker.log(0, { "train/loss": 2.5 })
    tracker.log(7, { lr: 1e-7, "train/loss": NaN, big: Infinity })
    await tracker.close()
    expect(read(run, "metrics.jsonl")).toBe(
      '{"step":0,"time":1760000000.125,"train/loss":2.5}\n' +
        '{"step":7,"time":1760000000.125,"lr":1e-7,"train/loss":null,"big":null}\n',
    )
  })

  it("is on the disk after flush, before the tracker is closed", async () => {
    const run = newRun()
    const tracker = await openTrackers([], run)
    for (const step of range(0, 1000)) tracker.log(step, { x: step })
    await tracker.flush()
    expect(steps(run)).toEqual(range(0, 1000))
    await tracker.close()
  })

  it("is whole up to the last flush when the process is killed", async () => {
    const run = newRun()
    const source = `
      import { openTrackers } from "../src/train/tracking/index.ts"
      const tracker = await openTrackers(["tensorboard"], ${JSON.stringify(run)})
      for (let step = 0; ; step++) {
        tracker.log(step, { "train/loss": step })
        if (step === 500) await tracker.flush()
        if (step % 100 === 99) await new Promise(setImmediate)
        if (step === 777) process.kill(process.pid, "SIGKILL")
      }`
    expect(await runTs(source)).toMatchObject({ signal: "SIGKILL", stderr: "" })
    const lines = read(run, "metrics.jsonl").split("\n").slice(0, -1)
    expect(lines.length).toBeGreaterThan(500)
    expect(lines.map((line) => (JSON.parse(line) as { step: number }).step)).toEqual(range(0, lines.length))
    await go({ ...run, resumedAt: 500 }, 501, 510)
    expect(steps(run)).toEqual(range(0, 510))
  })

  it.each([
    ["a checkpoint before its end", 6],
    ["its end", 9],
    ["the start", 0],
    ["before the start", -1],
    ["beyond its end", 40],
  ])("after a resume from %s has each step once, in order", async (_, resumedAt) => {
    const run = newRun()
    await go(run, 0, 10)
    await go({ ...run, resumedAt }, resumedAt + 1, resumedAt + 5)
    expect(steps(run)).toEqual([...range(0, Math.min(resumedAt + 1, 10)), ...range(resumedAt + 1, resumedAt + 5)])
  })

  it("drops what a kill has torn, wherever it cut", async () => {
    const run = newRun()
    await go(run, 0, 4)
    const whole = readFileSync(join(run.dir, "metrics.jsonl"))
    const starts = [0, ...[...whole].flatMap((byte, i) => (byte === 10 ? [i + 1] : []))]
    for (let cut = starts[2]!; cut <= whole.length; cut++) {
      writeFileSync(join(run.dir, "metrics.jsonl"), whole.subarray(0, cut))
      const left = starts.filter((end) => end > 0 && end <= cut).length
      await (await openTrackers([], { ...run, resumedAt: 3 })).close()
      expect(read(run, "metrics.jsonl")).toBe(whole.subarray(0, starts[left]).toString())
    }
  })

  it("keeps good lines among foreign, repeated and endless ones", async () => {
    const run = newRun({ resumedAt: 8 })
    const good = [0, 1, 5].map((step) => `{"step":${step},"time":1,"x":${step}}\n`)
    const bad = [
      "\n",
      "[1]\n",
      "null\n",
      '{"step":0,"time":1}\n',
      '{"step":"3","time":1}\n',
      '{"step":2.5,"time":1}\n',
      '{"step":3,"time":1e300}\n',
      '{"step":3}\n',
      "\xff\xfe\n",
      `${"[".repeat(3_000_000)}\n`,
      `${"x".repeat(2 ** 20)}\n`,
    ].join("")
    mkdirSync(run.dir)
    writeFileSync(join(run.dir, "metrics.jsonl"), Buffer.from(good.join(bad) + bad, "latin1"))
    await go(run, 9, 11)
    expect(steps(run)).toEqual([0, 1, 5, 9, 10])
    expect(read(run, "metrics.jsonl").startsWith(good.join(""))).toBe(true)
  })

  it("on a disk that fails at any call is a typed error, and goes on after it", async () => {
    const source = `
      import { openTrackers } from "../src/train/tracking/index.ts"
      const run = (n) => ({ dir: ${JSON.stringify(join(scratch, "faults-"))} + n, name: "r", project: "p", config: {} })
      const go = async (info, from, to) => {
        const tracker = await openTrackers(["tensorboard"], info)
        try {
          for (let step = from; step < to; step++) {
            tracker.log(step, { "train/loss": step, "test/loss": step })
            await tracker.flush()
          }
        } finally {
          await tracker.close()
        }
      }
      for (const start of [undefined, 1])
        for (let at = 1; ; at++) {
          const n = String(start) + at
          if (start) await go(run(n), 0, 3)
          Object.assign(globalThis.faults, { calls: [], at, code: "ENOSPC", only: ["open", "mkdir", "write", "rename", "sync"] })
          const info = start ? { ...run(n), resumedAt: start } : run(n)
          const error = await go(info, (start ?? -1) + 1, 3).then(() => undefined, (e) => e)
          const over = globalThis.faults.calls.length < at
          globalThis.faults.at = 0
          // From what was flushed: step 1 of a run that had been there, nothing of one that had not.
          await go({ ...run(n), resumedAt: start ?? -1 }, (start ?? -1) + 1, 4)
          console.log(JSON.stringify({ n, over, code: error?.code, name: error?.name, call: globalThis.faults.calls[at - 1] }))
          if (over) break
        }
      const tracker = await openTrackers([], run("sync"))
      tracker.log(0, { x: 1 })
      globalThis.faults.calls = []
      await tracker.flush()
      console.log(JSON.stringify(globalThis.faults.calls))
      await tracker.close()`
    const { stdout, stderr, code } = await runTs(source, { preload: FAULTS })
    expect([code, stderr]).toEqual([0, ""])
    // metrics.jsonl is written, then it and summary.csv are synced.
    const [flushed, ...lines] = stdout.trim().split("\n").reverse()
    const calls = JSON.parse(flushed!) as string[]
    expect([calls.toSorted(), calls.at(-1)]).toEqual([["sync", "sync", "write"], "sync"])
    const cases = lines.map((line) => JSON.parse(line) as Record<string, unknown>)
    expect(cases.length).toBeGreaterThan(30)
    for (const { n, over, ...error } of cases) {
      if (over !== true)
        expect(error).toMatchObject({
          code: expect.stringMatching(/^E_(DISK_FULL|IO)$/) as string,
          name: "PrismaError",
        })
      const run = { ...newRun(), dir: join(scratch, `faults-${String(n)}`) }
      expect(steps(run)).toEqual(range(0, 4))
      expect(
        read(run, "summary.csv")
          .split("\n")
          .slice(1, -1)
          .map((row) => parseInt(row, 10)),
      ).toEqual(range(0, 4))
      expect(readdirSync(run.dir).filter((name) => name.includes(".tmp-"))).toEqual([])
    }
    const failed = cases.filter(({ over }) => over !== true).map(({ call }) => call)
    expect(new Set(failed)).toEqual(new Set(["open", "mkdir", "write", "rename", "sync"]))
  })

  it("of an earlier run is not written over", async () => {
    const run = newRun()
    await go(run, 0, 3)
    const before = read(run, "metrics.jsonl")
    expect(await thrown(openTrackers([], run))).toMatchObject({ code: "E_OUTPUT" })
    expect(read(run, "metrics.jsonl")).toBe(before)
  })

  it("cannot be where the folder is a file", async () => {
    const run = newRun()
    writeFileSync(run.dir, "")
    expect(await thrown(openTrackers([], run))).toMatchObject({ code: "E_OUTPUT" })
  })
})

describe("what is logged", () => {
  it.each<[string, number, Record<string, number>]>([
    ["a step that was logged", 5, { x: 1 }],
    ["an earlier step", 4, { x: 1 }],
    ["half a step", 5.5, { x: 1 }],
    ["no number", 6, { x: "1" as unknown as number }],
    ["the name step", 6, { step: 1 }],
    ["a name of W&B's", 6, { _runtime: 1 }],
    ["no name", 6, { "": 1 }],
  ])("is refused: %s", async (_, step, values) => {
    const run = newRun()
    const tracker = await openTrackers(["tensorboard"], run)
    tracker.log(5, { x: 0 })
    const work = async () => tracker.log(step, values)
    expect(await thrown(work())).toMatchObject({ code: "E_INPUT" })
    await tracker.close()
    await tracker.close()
    expect(rows(run)).toEqual([{ step: 5, time: expect.any(Number) as number, x: 0 }])
  })

  it("goes to trackers that exist", async () => {
    const run = newRun()
    const error = await thrown(openTrackers(["tensorboard", "tensorbord"], run))
    expect(error).toMatchObject({
      code: "E_USAGE",
      message: expect.stringContaining("did you mean tensorboard?") as string,
    })
    expect(existsSync(run.dir)).toBe(false)
  })
})

describe("summary.csv", () => {
  it("has a row for each evaluation, as timm writes it", async () => {
    const run = newRun()
    const tracker = await openTrackers([], run)
    tracker.log(10, { "train/loss": 2, lr: 0.001, epoch: 0 })
    tracker.log(20, { "train/loss": 1.5, epoch: 1, test_loss: 1.75, "test/accuracy": 0.29, 'odd,"name"': 4 })
    tracker.log(30, { "train/loss": 1, lr: 0.0005, late: 1 })
    tracker.log(40, { "test/accuracy": 0.5, epoch: 2, test_loss: NaN })
    await tracker.close()
    const text = [
      'epoch,step,train_loss,eval_loss,eval_top1,lr,"odd,""name"""',
      "1,20,1.5,1.75,29,0.001,4",
      "2,40,1,,50,0.0005,4",
    ]
    expect(read(run, "summary.csv")).toBe(`${text.join("\n")}\n`)

    // A resume makes it again from the log.
    const resumed = await openTrackers([], { ...run, resumedAt: 30 })
    resumed.log(35, { "test/accuracy": 0.75, epoch: 3 })
    await resumed.close()
    expect(read(run, "summary.csv")).toBe(`${[...text.slice(0, 2), "3,35,1,1.75,75,0.0005,4"].join("\n")}\n`)
  })
})

describe("TensorBoard", () => {
  const files = (run: RunInfo) => readdirSync(run.dir).filter((name) => name.includes("tfevents"))

  it("gets the bytes that its own writer makes of the same events", async () => {
    // Made with tensorboard 2.21: RecordWriter over Event, SessionLog and Summary messages.
    const golden = readFileSync(join(import.meta.dirname, "fixtures/tracking/tensorboard.tfevents"))
    vi.useFakeTimers({ toFake: ["Date"], now: 1_760_000_000_125 })
    const run = newRun({ resumedAt: 42 })
    const tracker = await openTrackers(["tensorboard"], run)
    tracker.log(50, { "train/loss": 2.25, lr: 1e-3 })
    tracker.log(300, { "train/loss": NaN, "test/genauigkeit é": 0.625 })
    await tracker.close()
    expect(files(run)).toEqual(["events.out.tfevents.1760000000.vit-prisma.000000"])
    expect(readFileSync(join(run.dir, files(run)[0]!)).toString("hex")).toBe(golden.toString("hex"))
  })

  /** Records, their checksums verified bit by bit with the polynomial as it is published, not reflected. */
  const records = (bytes: Buffer): Buffer[] => {
    const flip = (x: number, bits: number) =>
      parseInt(x.toString(2).padStart(bits, "0").split("").reverse().join(""), 2)
    const crc = (data: Buffer) => {
      let remainder = 0xffffffffn
      for (const byte of data) {
        remainder ^= BigInt(flip(byte, 8)) << 24n
        for (let i = 0; i < 8; i++) {
          remainder = ((remainder << 1n) ^ (remainder >> 31n ? 0x1edc6f41n : 0n)) & 0xffffffffn
        }
      }
      return BigInt(flip(Number(remainder ^ 0xffffffffn), 32))
    }
    expect(crc(Buffer.from("123456789"))).toBe(0xe3069283n)
    const masked = (data: Buffer) => {
      const c = crc(data)
      return Number((((c >> 15n) | (c << 17n)) + 0xa282ead8n) & 0xffffffffn)
    }
    const found: Buffer[] = []
    for (let at = 0; at < bytes.length;) {
      const length = Number(bytes.readBigUInt64LE(at))
      const data = bytes.subarray(at + 12, at + 12 + length)
      expect(bytes.readUInt32LE(at + 8)).toBe(masked(bytes.subarray(at, at + 8)))
      expect(bytes.readUInt32LE(at + 12 + length)).toBe(masked(data))
      found.push(data)
      at += 16 + length
    }
    return found
  }

  it("gets a file for each start, named in order whatever the clock does, the later ones saying where they begin", async () => {
    const run = newRun()
    for (const [resumedAt, second] of [
      [undefined, 300],
      [4, 300],
      [6, 100],
    ] as const) {
      vi.useFakeTimers({ toFake: ["Date"], now: (1_760_000_000 + second) * 1000 })
      await go(resumedAt === undefined ? run : { ...run, resumedAt }, (resumedAt ?? -1) + 1, 9, ["tensorboard"])
    }
    expect(files(run).sort()).toEqual([0, 1, 2].map((n) => `events.out.tfevents.1760000300.vit-prisma.00000${n}`))
    const [first, second, third] = files(run).map((name) => records(readFileSync(join(run.dir, name))))
    expect([first!.length, second!.length, third!.length]).toEqual([1 + 9, 2 + 4, 2 + 2])
    // 2: step, varint; 7: session_log { 1 status: 1 START }
    expect(second![1]!.subarray(9).toString("hex")).toBe("10053a020801")
    expect(third![1]!.subarray(9).toString("hex")).toBe("10073a020801")
  })
})

describe("trackio", () => {
  interface Line {
    readonly step: number
    readonly log_id: string
    readonly run_id: string
  }
  /** As its dashboard does: sorted paths, lines new by log_id are kept, files are deleted. */
  const collect = (home: string, into: Map<string, Line>) => {
    const inbox = join(home, "inbox")
    const names = readdirSync(inbox, { recursive: true, encoding: "utf8" }).sort()
    for (const name of names.filter((n) => n.endsWith(".jsonl"))) {
      for (const text of readFileSync(join(inbox, name), "utf8").split("\n").filter(Boolean)) {
        const line = JSON.parse(text) as Line
        if (!into.has(line.log_id)) into.set(line.log_id, line)
      }
      rmSync(join(inbox, name))
    }
    for (const writer of readdirSync(inbox)) rmSync(join(inbox, writer), { recursive: true })
    return [...into.values()]
  }

  it("gets lines with the fields that its importer reads", async () => {
    vi.useFakeTimers({ toFake: ["Date"], now: 1_760_000_000_125 })
    const home = join(scratch, "trackio-1")
    const run = newRun()
    const tracker = await openTrackers(["trackio"], run, { env: { TRACKIO_DIR: home } })
    tracker.log(0, { "train/loss": 2.5, odd: -Infinity })
    tracker.log(1, { "train/loss": 2 })
    await tracker.close()
    const { id } = JSON.parse(read(run, "tracking.json")) as { id: string }
    const common = {
      v: 1,
      kind: "metric",
      project: "mice",
      run: "mouse",
      run_id: id,
      timestamp: "2025-10-09T08:53:20.125Z",
    }
    const [first, second] = collect(home, new Map())
    expect(first).toEqual({
      ...common,
      metrics: { "train/loss": 2.5, odd: "-Infinity" },
      step: 0,
      config: { lr: 0.1, _Created: "2025-10-09T08:53:20.125Z" },
      log_id: expect.stringMatching(/^[0-9a-f]{32}$/) as string,
    })
    expect(second).toEqual({
      ...common,
      metrics: { "train/loss": 2 },
      step: 1,
      config: null,
      log_id: expect.stringMatching(/^[0-9a-f]{32}$/) as string,
    })
  })

  it("gets each step once after a kill before anything was sent, and after a resume from an earlier step", async () => {
    const home = join(scratch, "trackio-2")
    const run = newRun()
    const known = new Map<string, Line>()
    const killed = await openTrackers(["trackio"], run, { env: { TRACKIO_DIR: home } })
    for (const step of range(0, 10)) killed.log(step, { x: step })
    await killed.flush()
    expect(collect(home, known)).toEqual([])
    for (const resumedAt of [5, 3]) {
      await go({ ...run, resumedAt }, resumedAt + 1, 12, ["trackio"], { TRACKIO_DIR: home })
      const lines = collect(home, known)
      expect(lines.map((line) => line.step).sort((a, b) => a - b)).toEqual(range(0, 12))
      expect(new Set(lines.map((line) => line.run_id)).size).toBe(1)
    }
    await killed.close()
  })

  it.each([
    ["TRACKIO_DIR", (home: string) => ({ TRACKIO_DIR: join(home, "a"), HF_HOME: "/nowhere" }), "a"],
    ["HF_HOME", (home: string) => ({ HF_HOME: home, XDG_CACHE_HOME: "/nowhere" }), "trackio"],
    ["XDG_CACHE_HOME", (home: string) => ({ XDG_CACHE_HOME: home }), "huggingface/trackio"],
  ])("has its inbox where %s says", async (name, env, folder) => {
    const home = join(scratch, `trackio-${name}`)
    await go(newRun(), 0, 2, ["trackio"], env(home))
    expect(collect(join(home, folder), new Map())).toHaveLength(2)
  })

  it("must be able to write there from the start", async () => {
    const file = join(scratch, "a-file")
    writeFileSync(file, "")
    const run = newRun()
    const error = await thrown(openTrackers(["trackio"], run, { env: { TRACKIO_DIR: file } }))
    expect(error.code).toBe("E_OUTPUT")
    // What is wrong can be set right, and the run be started again.
    await go(run, 0, 2)
    expect(steps(run)).toEqual([0, 1])
  })
})
