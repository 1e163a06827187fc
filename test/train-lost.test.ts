/** @file What a run that is killed has lost: the steps that it had made and no whole checkpoint has, on a disk that is slow. */
import { mkdtempSync, rmSync } from "node:fs"
import { tmpdir } from "node:os"
import { join } from "node:path"
import { afterAll, describe, expect, it } from "vitest"
import { latestCheckpoint } from "../src/train/checkpoint.ts"
import { mulberry32 } from "./helpers/causality.ts"
import { runTs } from "./helpers/child.ts"
import { twoAtATime } from "./helpers/cli.ts"
import { FAULTS } from "./helpers/faults.ts"

const scratch = mkdtempSync(join(tmpdir(), "train-lost-"))
afterAll(() => rmSync(scratch, { recursive: true }))

const INTERVAL = 10

/** Trains until it is killed, and tells each step that was made before anything else is done. */
const TRAIN = `
import { writeSync } from "node:fs"
import { nodeRuntime } from "../src/runtime/node.ts"
import { trainRun } from "../src/train/run.ts"
import { madeConfig, madeData } from "./helpers/made-data.ts"
const [, , out, saves] = process.argv as string[]
const config = madeConfig({
  training: { max_steps: 2000, num_epochs: 2000, eval_frequency: 25 },
  saving: { save_checkpoints: saves === "true", save_cp_frequency: ${INTERVAL}, log_spaced: true, keep_last: 2 },
})
const onStep = ({ step }: { step: number }) => writeSync(1, step + "\\n")
await trainRun(config, madeData(), { out: out!, runtime: nodeRuntime({ threads: 1 }), onStep })
`

/** Each sync takes 4 ms more, two or three steps of this model, and a checkpoint has 14: a save outlasts an interval. */
const SLOW = `${FAULTS}
const fast = prototype.sync
prototype.sync = async function () {
  await new Promise((done) => setTimeout(done, 4))
  return fast.call(this)
}
`

/** Kill a run at its disk call number `call`: the last step that it made, and that of its newest whole checkpoint. */
async function killed(call: number, saves = true): Promise<{ made: number; saved: number }> {
  const out = join(scratch, `${call}-${saves}`)
  const env = { FAULT_AT: String(call) }
  const { signal, stdout, stderr } = await runTs(TRAIN, { args: [out, String(saves)], preload: SLOW, env })
  expect([signal, stderr]).toEqual(["SIGKILL", ""])
  const whole = await latestCheckpoint(join(out, "checkpoints"), () => {})
  return { made: Number(stdout.trim().split("\n").at(-1)), saved: whole?.position.step ?? 0 }
}

describe("SIGKILL", () => {
  it("at whatever moment loses at most the steps of one interval between checkpoints (G19)", async () => {
    const random = mulberry32(19)
    // Up to 130 calls come before the first step and with checkpoints 1, 2, 4 and 8; a save makes about 90.
    const calls = Array.from({ length: 8 }, (_, i) => 200 + Math.floor(150 * (i + random())))
    const runs = await twoAtATime(calls, (call) => killed(call))
    for (const { made, saved } of runs) expect(made - saved).toBeLessThanOrEqual(INTERVAL)
    expect(Math.max(...runs.map((r) => r.made))).toBeGreaterThan(2 * INTERVAL)
    // Some are killed inside a save, where most is lost.
    expect(Math.max(...runs.map((r) => r.made - r.saved))).toBeGreaterThan(INTERVAL / 2)
  })

  it("is seen to lose more where nothing is saved", async () => {
    const { made, saved } = await killed(300, false)
    expect(made - saved).toBeGreaterThan(INTERVAL)
  })
})
