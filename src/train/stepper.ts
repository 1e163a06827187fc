/** @file Runs compiled training steps and carries their vectors from one to the next. */
import { fail } from "../errors.ts"
import type { Compiled, Runtime } from "../runtime/runtime.ts"
import { tensor, type Tensor } from "../tensor/tensor.ts"
import { OPTIMIZERS } from "./optimizers.ts"
import type { Step, StepGraph, StepOptions } from "./step.ts"

export type Vectors = Record<string, Float32Array>

/** What a step reports: "loss", "gradNorm" and the objective's own metrics, each a number. */
export type Report = Readonly<Record<string, number>>

type Feeds = Readonly<Record<string, Tensor>>

export interface Stepper {
  /** The vectors as they are after the last step; replaced, not written to. */
  readonly vectors: Readonly<Vectors>
  /**
   * One optimizer step, number t = 1, 2, ..., over as many batches as make one: their reports averaged. Where loss or
   * gradient is no number the vectors stay as they are. Errors: E_INPUT for another number of batches; E_INTERRUPTED once
   * `signal` is aborted between two of them, which changes nothing either.
   */
  step(batches: readonly Feeds[], lr: number, t: number, signal?: AbortSignal): Promise<Report>
}

const vector = (data: Float32Array): Tensor => tensor("float32", [data.length], data)

const one = (value: number): Tensor => tensor("float32", [], Float32Array.of(value))

/** Starts from weights `w`, or from all vectors of an earlier run. */
export function stepper(runtime: Runtime, step: Step, options: StepOptions, start: Vectors): Stepper {
  const { accumulation = 1, optimizer } = options
  const { pieces, size } = step.layout
  const first = (name: string) => start[name] ?? (name === "ema" ? start["w"]! : new Float32Array(size))
  // Gradients are gathered anew in each step.
  const kept = step.carried.filter((name) => name !== "g")
  let carried = Object.assign({}, ...kept.map((name) => cut(name, first(name)))) as Vectors
  let joined: Readonly<Vectors> | undefined
  const theirs = new WeakSet(Object.values(start).map((data) => data.buffer))

  function cut(name: string, data: Float32Array): Vectors {
    return Object.fromEntries(pieces.map(([from, to], i) => [`${name}.${i}`, data.subarray(from, to)]))
  }

  function join(name: string): Float32Array {
    if (pieces.length === 1) return carried[`${name}.0`]!
    const whole = new Float32Array(size)
    for (const [i, [from]] of pieces.entries()) whole.set(carried[`${name}.${i}`]!, from)
    return whole
  }

  // Writing the graph again took 4 ms a step.
  const compiled = new Map<StepGraph, Compiled>()
  async function compile(graph: StepGraph): Promise<Compiled> {
    const made = compiled.get(graph) ?? (await runtime.compile(graph.inputs, graph.outputs))
    compiled.set(graph, made)
    return made
  }

  async function run(graph: StepGraph, carried: Readonly<Vectors>, given: Feeds) {
    const vectorFeeds = Object.fromEntries(Object.entries(carried).map(([name, data]) => [name, vector(data)]))
    const feeds = { ...given, ...vectorFeeds }
    const needed = Object.fromEntries(Object.keys(graph.inputs).map((name) => [name, feeds[name]!]))
    const out = Object.entries(await (await compile(graph))(needed))
    const fresh = out.filter(([name]) => name in carried).map(([name, t]) => [name, t.data as Float32Array] as const)
    const report = out.filter(([name]) => !(name in carried)).map(([name, t]) => [name, Number(t.data[0])] as const)
    return { carried: { ...carried, ...Object.fromEntries(fresh) }, report: Object.fromEntries(report) }
  }

  /** The memory of vectors that nobody sees any more is what the next ones are written to. */
  function giveBack(old: Readonly<Vectors>, fresh: Readonly<Vectors> = {}): void {
    const still = new Set([carried, fresh, joined ?? {}].flatMap((vectors) => Object.values(vectors)))
    const ours = Object.values(old).filter((data) => !still.has(data) && !theirs.has(data.buffer))
    runtime.giveBack(ours.map(vector))
  }

  return {
    get vectors() {
      return (joined ??= Object.fromEntries(kept.map((name) => [name, join(name)])))
    },
    async step(batches, lr, t, signal) {
      if (batches.length !== accumulation)
        fail("E_INPUT", `step ${t}: expected ${accumulation} batches, got ${batches.length}`)
      const hyper = Object.entries(OPTIMIZERS[optimizer].hyper(options, lr, t)).map(([name, x]) => [name, one(x)])
      const fed = Object.fromEntries(hyper) as Feeds
      let next: Vectors = { ...carried, ...(accumulation > 1 && cut("g", new Float32Array(size))) }
      const reports: Report[] = []
      for (const [i, batch] of batches.entries()) {
        if (i && signal?.aborted)
          fail("E_INTERRUPTED", `step ${t} was interrupted after ${i} of ${accumulation} batches`)
        const last = i === accumulation - 1
        const made = await run(last ? step.apply : step.accumulate, next, last ? { ...batch, ...fed } : batch)
        giveBack(next, made.carried)
        next = made.carried
        reports.push(made.report)
      }
      const report = averaged(reports)
      if (Number.isFinite(report["loss"]) && Number.isFinite(report["gradNorm"])) {
        const old = carried
        carried = Object.fromEntries(Object.keys(carried).map((name) => [name, next[name]!]))
        giveBack({ ...next, ...old })
        joined = undefined
      } else giveBack(next)
      return report
    },
  }
}

/** Each name's mean over the reports that have it. */
function averaged(reports: readonly Report[]): Report {
  const meanOf = (name: string) => {
    const values = reports.flatMap((r) => (name in r ? [r[name]!] : []))
    return values.reduce((a, b) => a + b, 0) / values.length
  }
  return Object.fromEntries(Object.keys(reports.at(-1)!).map((name) => [name, meanOf(name)]))
}
