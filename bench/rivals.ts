/** @file The same questions to PyTorch and transformers, where a Python that has them is named. */
import { spawn } from "node:child_process"
import { once } from "node:events"
import { createInterface } from "node:readline"
import { setTimeout } from "node:timers/promises"
import { fileURLToPath } from "node:url"
import { firstLine } from "./children.ts"
import type { Bench, Figure } from "./figures.ts"

const SCRIPT = fileURLToPath(new URL("../../bench/rivals.py", import.meta.url))

/** What bench/rivals.py prints; milliseconds and bytes. */
interface Rival {
  readonly versions: string
  readonly peak: number
  readonly logits: Readonly<Record<string, readonly number[]>>
  readonly all: Readonly<Record<string, readonly number[]>>
}

export const python = process.env["VIT_PRISMA_BENCH_PYTHON"]

/** A PyTorch process that makes training steps of a model of these sizes, one when asked; undefined without a Python. */
export function pytorchSteps(sizes: Readonly<Record<string, number>>) {
  if (!python) return undefined
  const child = spawn(python, [SCRIPT, JSON.stringify(sizes), "train"], { stdio: ["pipe", "pipe", "inherit"] })
  const lines = createInterface(child.stdout)
  return {
    /** Milliseconds of a step, by its own clock. */
    next: async (): Promise<number> => {
      child.stdin.write("\n")
      const [line] = (await once(lines, "line")) as [string]
      // Its threads go on spinning for a while.
      await setTimeout(20)
      return Number(line)
    },
    end: () => void child.stdin.end(),
  }
}

export async function rivals({ checkpoint, log }: Bench): Promise<Figure[]> {
  if (!python) {
    log("no rivals: VIT_PRISMA_BENCH_PYTHON does not name a Python with torch and transformers")
    return []
  }
  const starts: number[] = []
  const peaks: number[] = []
  for (let i = 0; i < 4; i++) {
    const { ms, line } = await firstLine(python, [SCRIPT, checkpoint.model, "start"])
    // The first also reads Python's own files.
    if (i) starts.push(ms)
    peaks.push((JSON.parse(line) as Rival).peak / 2 ** 20)
  }
  const { line } = await firstLine(python, [SCRIPT, checkpoint.model, "hooks"])
  const { versions, logits, all } = JSON.parse(line) as Rival
  return [
    { name: "transformers: process start to logits", unit: "ms", values: starts, note: versions },
    { name: "transformers: peak resident MiB", unit: "", values: peaks.map(Math.round) },
    ...Object.keys(logits).flatMap((b): Figure[] => [
      { name: `transformers: logits, batch ${b}`, unit: "ms", values: logits[b]! },
      { name: `transformers: hidden states and attentions, batch ${b}`, unit: "ms", values: all[b]! },
    ]),
  ]
}
