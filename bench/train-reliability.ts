/**
 * @file What checkpoints cost a run (figure G18) and what a signal loses of it (G19). Built by
 * `npx tsc -p bench/tsconfig.json`: `node dist/bench/train-reliability.js [overhead] [lost]`.
 */
import { spawn } from "node:child_process"
import { mkdtemp, readFile, rm } from "node:fs/promises"
import { tmpdir } from "node:os"
import { join } from "node:path"
import { fileURLToPath } from "node:url"
import { configByName, setField, type GlobalConfig } from "../src/configs/index.ts"
import { nodeRuntime } from "../src/runtime/node.ts"
import { checkpointSteps } from "../src/train/checkpoint.ts"
import { openData } from "../src/train/data.ts"
import { trainRun } from "../src/train/run.ts"
import { Random } from "../src/tensor/random.ts"
import { median } from "./measure.ts"

const CLI = fileURLToPath(new URL("../src/cli/main.js", import.meta.url))
const scratch = await mkdtemp(join(tmpdir(), "train-reliability-"))
const set = (config: GlobalConfig, fields: Readonly<Record<string, string>>): GlobalConfig =>
  Object.entries(fields).reduce((c, [name, value]) => setField(c, name, value), config)

/** Seconds of each step of a run that saves every `every` steps, without what comes before the first and after the last. */
async function timed(config: GlobalConfig, steps: number, every: number): Promise<number> {
  const out = await mkdtemp(join(scratch, "run-"))
  const own = set(config, {
    "training.max_steps": String(steps),
    "training.validation_split": "0",
    "training.test_samples": "64",
    "saving.save_checkpoints": String(every <= steps),
    "saving.save_cp_frequency": String(Math.min(every, steps)),
  })
  const at: number[] = []
  const runtime = nodeRuntime({})
  await trainRun(own, await openData(own), { out, runtime, onStep: () => at.push(performance.now()) })
  await rm(out, { recursive: true })
  await runtime.release()
  // The first steps allocate.
  return (at.at(-1)! - at[3]!) / (at.length - 4)
}

async function overhead(): Promise<void> {
  const big = set(configByName("dsprites"), { "training.batch_size": "64" })
  const [steps, rounds] = [40, 3]
  const plain = await timed(big, 10, Infinity)
  const every = Math.max(1, Math.round(10_000 / plain))
  const ratios: number[] = []
  for (let i = 0; i < rounds; i++) {
    const without = await timed(big, steps, Infinity)
    const saving = await timed(big, steps, every)
    ratios.push(saving / without)
    console.log(
      `${without.toFixed(0)} ms a step without, ${saving.toFixed(0)} ms with a checkpoint every ${every} steps`,
    )
  }
  console.log(
    `checkpoints of 12.7 million weights every 10 s cost ${(100 * (median(ratios) - 1)).toFixed(1)} % (median of ${rounds})`,
  )
}

// Long against a save, as G19 means it: a save goes on beside the next steps, and counts only once it is whole.
const INTERVAL = 200

/** A run of the command line that gets a signal after `ms`: the last step it logged, the last it saved, how long it took to end. */
async function interrupted(signal: "SIGKILL" | "SIGINT" | "SIGTERM", ms: number) {
  const out = await mkdtemp(join(scratch, "lost-"))
  const fields = `transformer.hidden_dim=32 training.batch_size=8 saving.save_cp_frequency=${INTERVAL} logging.log_frequency=1 training.max_steps=100000`
  const args = [CLI, "train", "induction", "--out", out, ...fields.split(" ").flatMap((f) => ["--set", f])]
  const child = spawn(process.execPath, args, { stdio: "ignore" })
  const logged = async () => {
    const text = await readFile(join(out, "metrics.jsonl"), "utf8").catch(() => "")
    const last = text.split("\n").slice(0, -1).at(-1)
    return last ? (JSON.parse(last) as { step: number }).step : 0
  }
  while (!(await logged())) await new Promise((go) => setTimeout(go, 20))
  await new Promise((go) => setTimeout(go, ms))
  const start = performance.now()
  child.kill(signal)
  await new Promise((done) => child.on("close", done))
  const seconds = (performance.now() - start) / 1000
  const saved = (await checkpointSteps(join(out, "checkpoints"))).at(-1) ?? 0
  const step = await logged()
  await rm(out, { recursive: true })
  return { step, saved, seconds }
}

async function lost(): Promise<void> {
  const random = new Random(0, "lost")
  for (const signal of ["SIGKILL", "SIGINT", "SIGTERM"] as const) {
    const runs = []
    for (let i = 0; i < 20; i++) runs.push(await interrupted(signal, Math.floor(2000 + random.uniform() * 4000)))
    const most = Math.max(...runs.map((r) => r.step - r.saved))
    const slowest = Math.max(...runs.map((r) => r.seconds))
    console.log(
      `${signal}: of 20 runs at most ${most} steps lost (a checkpoint every ${INTERVAL}), ended after at most ${slowest.toFixed(2)} s`,
    )
  }
}

const asked = process.argv.slice(2)
const wants = (name: string): boolean => !asked.length || asked.includes(name)
try {
  if (wants("overhead")) await overhead()
  if (wants("lost")) await lost()
} finally {
  await rm(scratch, { recursive: true })
}
