/** @file Runs compiled training steps and carries their vectors from one to the next. */
import { fail } from "../errors.ts"
import type { Compiled, Runtime } from "../runtime/runtime.ts"
import { tensor, type Tensor } from "../tensor/tensor.ts"
import { cut, feedsOf, type Pieces } from "./layout.ts"
import { OPTIMIZERS } from "./optimizers.ts"
import type { Step, StepGraph, StepOptions } from "./step.ts"

/** By name: the weights "w", the optimizer's, their average "ema". */
export type Vectors = Readonly<Record<string, Pieces>>

/** The weights that a model is made of: their average where one is kept. */
export const weightsOf = (vectors: Vectors): Pieces => vectors["ema"] ?? vectors["w"]!

/** What a step reports: "loss", "gradNorm" and the objective's own metrics, each a number. */
export type Report = Readonly<Record<string, number>>

type Feeds = Readonly<Record<string, Tensor>>

export interface Stepper {
  /** The vectors as they are after the last step; replaced, not written to. */
  readonly vectors: Vectors
  /**
   * `work` to be done on the vectors as they are now, whatever steps are made meanwhile: they stay so until it has been.
   * Then their memory is used again, as that of `vectors` never is.
   */
  borrow<T>(work: (vectors: Vectors) => Promise<T>): () => Promise<T>
  /**
   * One optimizer step, number t = 1, 2, ..., over as many batches as make one: their reports averaged. Where loss or
   * gradient is no number the vectors stay as they are. Errors: E_INPUT for another number of batches; E_INTERRUPTED once
   * `signal` is aborted between two of them, which changes nothing either.
   */
  step(batches: readonly Feeds[], lr: number, t: number, signal?: AbortSignal): Promise<Report>
}

const one = (value: number): Tensor => tensor("float32", [], Float32Array.of(value))

const arrays = (vectors: Vectors): readonly Float32Array[] => Object.values(vectors).flat()

/** Starts from weights `w`, or from all vectors of an earlier run. */
export function stepper(runtime: Runtime, step: Step, options: StepOptions, start: Vectors): Stepper {
  const { accumulation = 1, optimizer } = options
  const zeros = (): Pieces => cut(step.layout, new Float32Array(step.layout.size))
  const first = (name: string) => start[name] ?? (name === "ema" ? start["w"]! : zeros())
  let carried: Vectors = Object.fromEntries(step.carried.map((name) => [name, first(name)]))
  const theirs = new WeakSet(arrays(start).map((data) => data.buffer))
  /** How many look at an array. */
  const lookers = new WeakMap<Float32Array, number>()

  // Writing the graph again took 4 ms a step.
  const compiled = new Map<StepGraph, Compiled>()
  async function compile(graph: StepGraph): Promise<Compiled> {
    const made = compiled.get(graph) ?? (await runtime.compile(graph.inputs, graph.outputs))
    compiled.set(graph, made)
    return made
  }

  async function run(graph: StepGraph, vectors: Vectors, given: Feeds) {
    const carried: Feeds = Object.assign({}, ...Object.entries(vectors).map(([name, pieces]) => feedsOf(name, pieces)))
    const feeds = { ...given, ...carried }
    const needed = Object.fromEntries(Object.keys(graph.inputs).map((name) => [name, feeds[name]!]))
    const out: Feeds = await (await compile(graph))(needed)
    const fresh = (name: string, i: number) => out[`${name}.${i}`]?.data as Float32Array | undefined
    const next = Object.entries(vectors).map(([name, old]) => [name, old.map((data, i) => fresh(name, i) ?? data)])
    const report = Object.entries(out).flatMap(([name, t]) => (name in carried ? [] : [[name, Number(t.data[0])]]))
    return { vectors: Object.fromEntries(next) as Vectors, report: Object.fromEntries(report) as Report }
  }

  /** The memory of arrays that nobody sees any more is what the next ones are written to. */
  function giveBack(old: Iterable<Float32Array>, fresh: Vectors = {}): void {
    const still = new Set([...arrays(carried), ...arrays(fresh)])
    const ours = [...old].filter((data) => !still.has(data) && !lookers.get(data) && !theirs.has(data.buffer))
    runtime.giveBack(Object.values(feedsOf("", ours)))
  }

  const look = (vectors: Vectors, more: 1 | -1): void => {
    for (const data of arrays(vectors)) lookers.set(data, (lookers.get(data) ?? 0) + more)
  }

  return {
    get vectors() {
      look(carried, 1)
      return carried
    },
    borrow(work) {
      const vectors = carried
      look(vectors, 1)
      return () =>
        work(vectors).finally(() => {
          look(vectors, -1)
          giveBack(arrays(vectors))
        })
    },
    async step(batches, lr, t, signal) {
      if (batches.length !== accumulation)
        fail("E_INPUT", `step ${t}: expected ${accumulation} batches, got ${batches.length}`)
      const hyper = Object.entries(OPTIMIZERS[optimizer].hyper(options, lr, t)).map(([name, x]) => [name, one(x)])
      const fed = Object.fromEntries(hyper) as Feeds
      // Gradients are gathered anew in each step.
      let next: Vectors = { ...carried, ...(accumulation > 1 && { g: zeros() }) }
      const reports: Report[] = []
      for (const [i, batch] of batches.entries()) {
        if (i && signal?.aborted)
          fail("E_INTERRUPTED", `step ${t} was interrupted after ${i} of ${accumulation} batches`)
        const last = i === accumulation - 1
        const made = await run(last ? step.apply : step.accumulate, next, last ? { ...batch, ...fed } : batch)
        giveBack(arrays(next), made.vectors)
        next = made.vectors
        reports.push(made.report)
      }
      const report = averaged(reports)
      if (Number.isFinite(report["loss"]) && Number.isFinite(report["gradNorm"])) {
        const old = carried
        carried = Object.fromEntries(Object.keys(carried).map((name) => [name, next[name]!]))
        giveBack([...arrays(next), ...arrays(old)])
      } else giveBack(arrays(next))
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
