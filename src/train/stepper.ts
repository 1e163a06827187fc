/** @file Runs compiled training steps and carries their vectors from one to the next. */
import type { Runtime } from "../runtime/runtime.ts"
import { tensor, type Tensor } from "../tensor/tensor.ts"
import { OPTIMIZERS } from "./optimizers.ts"
import type { Step, StepGraph, StepOptions } from "./step.ts"

export type Vectors = Record<string, Float32Array>

/** What a step reports: "loss", "gradNorm" and the objective's own metrics, each a number. */
export type Report = Readonly<Record<string, number>>

export interface Stepper {
  /** The vectors as they are after the last step; replaced, not written to. */
  readonly vectors: Readonly<Vectors>
  /** One optimizer step, number t = 1, 2, ..., over one batch, or over `accumulation` of them: their reports averaged. */
  step(batches: readonly Readonly<Record<string, Tensor>>[], lr: number, t: number): Promise<Report>
}

const vector = (data: Float32Array): Tensor => tensor("float32", [data.length], data)

const one = (value: number): Tensor => tensor("float32", [], Float32Array.of(value))

/** Starts from weights `w`, or from all vectors of an earlier run. */
export function stepper(runtime: Runtime, step: Step, options: StepOptions, start: Vectors): Stepper {
  const zeros = (name: string) => (name === "ema" ? start["w"]!.slice() : new Float32Array(step.layout.size))
  let vectors: Vectors = Object.fromEntries(step.carried.map((name) => [name, start[name] ?? zeros(name)]))

  async function run(graph: StepGraph, batch: Readonly<Record<string, Tensor>>, hyper: Record<string, Tensor>) {
    const carried = Object.fromEntries(Object.entries(vectors).map(([name, data]) => [name, vector(data)]))
    const feeds = { ...batch, ...carried, ...hyper }
    const needed = Object.fromEntries(Object.keys(graph.inputs).map((name) => [name, feeds[name]!]))
    const out = await (await runtime.compile(graph.inputs, graph.outputs))(needed)
    const fresh = Object.keys(vectors).filter((name) => name in out)
    vectors = { ...vectors, ...Object.fromEntries(fresh.map((name) => [name, out[name]!.data as Float32Array])) }
    return Object.fromEntries(
      Object.entries(out).flatMap(([name, t]) => (name in vectors ? [] : [[name, Number(t.data[0])]])),
    )
  }

  return {
    get vectors() {
      return vectors
    },
    async step(batches, lr, t) {
      const { hyper } = OPTIMIZERS[options.optimizer]
      const fed = Object.fromEntries(Object.entries(hyper(options, lr, t)).map(([name, x]) => [name, one(x)]))
      const reports: Report[] = []
      if (vectors["g"]) vectors = { ...vectors, g: new Float32Array(step.layout.size) }
      for (const batch of batches.slice(0, -1)) reports.push(await run(step.accumulate, batch, {}))
      const last = await run(step.apply, batches.at(-1)!, fed)
      const names = Object.keys(last)
      const meanOf = (name: string) => {
        const values = [...reports, last].flatMap((r) => (name in r ? [r[name]!] : []))
        return values.reduce((a, b) => a + b, 0) / values.length
      }
      return Object.fromEntries(names.map((name) => [name, meanOf(name)]))
    },
  }
}
