/** @file Runs that are killed and gone on with: the same weights and the same log as a run that was left alone. */
import { spawn } from "node:child_process"
import { createHash } from "node:crypto"
import { cpSync, existsSync, mkdtempSync, readdirSync, readFileSync, rmSync, truncateSync } from "node:fs"
import { tmpdir } from "node:os"
import { join } from "node:path"
import { afterAll, describe, expect, it } from "vitest"
import { mulberry32 } from "./helpers/causality.ts"
import { cli, MAIN } from "./helpers/cli.ts"

const scratch = mkdtempSync(join(tmpdir(), "train-resume-"))
afterAll(() => rmSync(scratch, { recursive: true }))

const STEPS = 200
const args = (out: string, threads: number, more: readonly string[] = []) => [
  ..."train induction --set transformer.hidden_dim=32 --set transformer.num_heads=2 --set training.batch_size=8".split(
    " ",
  ),
  ..."--set saving.save_cp_frequency=7 --set saving.keep_last=3 --set logging.log_frequency=1".split(" "),
  ..."--set training.eval_frequency=50 --set dropout.mlp=0.1 --set dropout.attention=0.1".split(" "),
  "--set",
  `training.max_steps=${STEPS}`,
  "--out",
  out,
  "--threads",
  String(threads),
  ...more,
]

const sha256 = (file: string) => createHash("sha256").update(readFileSync(file)).digest("hex")
/** The log without the times. */
const log = (out: string) =>
  readFileSync(join(out, "metrics.jsonl"), "utf8")
    .trim()
    .split("\n")
    .map((line) => {
      const { time, ...rest } = JSON.parse(line) as Record<string, number>
      expect(time).toBeGreaterThan(0)
      return rest
    })
const lastStep = (out: string): number => {
  if (!existsSync(join(out, "metrics.jsonl"))) return 0
  const lines = readFileSync(join(out, "metrics.jsonl"), "utf8").split("\n").slice(0, -1)
  return lines.length ? (JSON.parse(lines.at(-1)!) as { step: number }).step : 0
}

/** Start, and SIGKILL as soon as the log shows `steps` more; true if it ended by itself. */
function killedAfter(out: string, threads: number, steps: number): Promise<boolean> {
  const before = lastStep(out)
  const child = spawn(process.execPath, [MAIN, ...args(out, threads, ["--resume"])], {
    stdio: "ignore",
  })
  const watch = setInterval(() => {
    if (lastStep(out) >= before + steps || (before && lastStep(out) < before)) child.kill("SIGKILL")
  }, 2)
  return new Promise((done) =>
    child.on("close", (code) => {
      clearInterval(watch)
      done(code === 0)
    }),
  )
}

describe.concurrent.each([1, 2])("a run with %i threads", (threads) => {
  const whole = join(scratch, `whole-${threads}`)
  const broken = join(scratch, `broken-${threads}`)

  it("that is killed 20 times ends as one that is not", { timeout: 300_000 }, async () => {
    const { code, stderr } = await cli(args(whole, threads))
    expect([code, stderr]).toEqual([0, expect.any(String)])
    const random = mulberry32(threads)
    let kills = 0
    while (kills < 20) {
      if (await killedAfter(broken, threads, 1 + Math.floor(14 * random()))) break
      kills++
    }
    expect(kills).toBe(20)
    expect((await cli(args(broken, threads, ["--resume"]))).code).toBe(0)
    expect(sha256(join(broken, "model.safetensors"))).toBe(sha256(join(whole, "model.safetensors")))
    expect(log(broken)).toEqual(log(whole))
    expect(log(whole).map((l) => l["step"])).toEqual(Array.from({ length: STEPS }, (_, i) => i + 1))
    expect(readdirSync(broken).filter((name) => name.includes(".tmp-"))).toEqual([])
  })
})

describe("checkpoints", () => {
  const out = join(scratch, "whole-1")

  it("that are cut short are passed over, and refused where none is whole", async () => {
    const copy = join(scratch, "cut")
    cpSync(out, copy, { recursive: true })
    const all = readdirSync(join(copy, "checkpoints")).sort()
    truncateSync(join(copy, "checkpoints", all.at(-1)!, "optimizer.safetensors"), 1000)
    const more = ["--resume", "--set", "training.max_steps=205"]
    const first = await cli(args(copy, 1, more))
    expect(first.code).toBe(0)
    expect(first.stderr).toMatch(/passed over .*optimizer\.safetensors: expected/)
    for (const name of readdirSync(join(copy, "checkpoints"))) rmSync(join(copy, "checkpoints", name, "manifest.json"))
    const none = await cli(args(copy, 1, [...more, "--json"]))
    expect(none.code).toBe(3)
    expect(none.stderr).toContain('"E_CHECKPOINT_CORRUPT"')
  })

  it("of another config, data or number of threads are refused with all that differs", async () => {
    const { code, stderr } = await cli(args(out, 2, ["--resume", "--set", "training.lr=0.1"]))
    expect(code).toBe(1)
    expect(stderr).toMatch(/training\.lr was 0\.0005, is 0\.1; threads was 1, is 2; .*\[E_CHECKPOINT_MISMATCH\]/)
  })

  it("are not written over by a run that does not say --resume", async () => {
    const { code, stderr } = await cli(args(out, 1))
    expect([code, stderr]).toEqual([6, expect.stringContaining("[E_OUTPUT]")])
  })
})

describe("a signal", () => {
  it.each([
    ["SIGINT", 130],
    ["SIGTERM", 143],
  ] as const)("%s saves, ends with %i, and the run goes on from that very step", async (signal, exit) => {
    const out = join(scratch, signal)
    let sent = Infinity
    const { code } = await cli(args(out, 1), {
      started: (child) => {
        const watch = setInterval(() => {
          if (lastStep(out) < 20) return
          clearInterval(watch)
          sent = performance.now()
          child.kill(signal)
        }, 2)
      },
    })
    expect(performance.now() - sent).toBeLessThan(10_000)
    expect(code).toBe(exit)
    const stopped = lastStep(out)
    const steps = readdirSync(join(out, "checkpoints")).map((name) => Number(name.slice(5)))
    expect(Math.max(...steps)).toBe(stopped) // not one step is lost
    expect((await cli(args(out, 1, ["--resume"]))).code).toBe(0)
    expect(sha256(join(out, "model.safetensors"))).toBe(sha256(join(scratch, "whole-1", "model.safetensors")))
  })
})
