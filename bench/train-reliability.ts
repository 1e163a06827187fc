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

const CLI = fileURLToPath(new URL("../lib/cli/main.js", import.meta.url))
const scratch = await mkdtemp(join(tmpdir(), "train-reliability-"))
const set = (config: GlobalConfig, fields: Readonly<Record<string, string>>): GlobalConfig =>
  Object.entries(fields).reduce((c, [name, value]) => setField(c, name, value), config)

/**
 * What saving adds to a run: of one run's steps, those that come after a checkpoint against the others, so that what else
 * the machine does meets both. All of a save's time lies there: the next step waits until it is whole.
 */
async function overhead(): Promise<void> {
  const out = await mkdtemp(join(scratch, "run-"))
  const [steps, every, seconds] = [151, 25, 10]
  const config = set(configByName("dsprites"), {
    "training.batch_size": "16",
    "training.max_steps": String(steps),
    "training.validation_split": "0",
    "training.test_samples": "64",
    "saving.save_cp_frequency": String(every),
    "saving.keep_last": "2",
  })
  const at: number[] = []
  const runtime = nodeRuntime({})
  await trainRun(config, await openData(config), { out, runtime, onStep: () => at.push(performance.now()) })
  await runtime.release()
  // ms[i] is from the end of step i + 1 to that of step i + 2; the first steps allocate.
  const ms = at.slice(1).map((t, i) => [i + 1, t - at[i]!] as const)
  const of = (saves: boolean) => ms.filter(([n]) => n >= every && (n % every === 0) === saves).map(([, t]) => t)
  const [plain, saving] = [median(of(false)), of(true)]
  const costs = saving.map((t) => t - plain)
  const mean = costs.reduce((a, b) => a + b) / costs.length
  console.log(
    `${costs.length} checkpoints of 12.7 million weights in steps of ${plain.toFixed(0)} ms hold the run up for ` +
      `${costs.map((c) => c.toFixed(0)).join(", ")} ms, on average ${mean.toFixed(0)}: ` +
      `${(mean / 10 / seconds).toFixed(1)} % at one each ${seconds} s`,
  )
}

// Steps between two checkpoints: what a SIGKILL may lose at most (docs/training.md).
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
