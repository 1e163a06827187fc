/** @file The figures that the bench measures, each with its limit. */
import { fileURLToPath } from "node:url"
import {
  float32,
  HookedViT,
  loadPretrained,
  nodeRuntime,
  type LoadedViT,
  type OrtModule,
  type Tensor,
} from "../src/index.ts"
import { images, type Checkpoint } from "./checkpoint.ts"
import { packagesLoaded, startToLogits } from "./children.ts"
import { bare, VARIANTS, type Bare } from "./lean.ts"
import { inTurns, median, ratios } from "./measure.ts"

export interface Figure {
  readonly name: string
  readonly unit: "ms" | "x" | ""
  /** At most; absent where the figure is only told. */
  readonly limit?: number
  readonly values: readonly number[]
  readonly note?: string
}

/** What the figures share, made when first needed. */
export interface Bench {
  readonly checkpoint: Checkpoint
  readonly model: LoadedViT
  /** Seconds for the whole bench; each figure takes its share. */
  readonly seconds: number
  readonly log: (line: string) => void
}

/** A group of figures that are measured together, and its share of the time. */
export interface Group {
  readonly share: number
  readonly measure: (bench: Bench, seconds: number) => Promise<Figure[]>
}

const ms = (t: number): string => `${t.toFixed(t < 10 ? 2 : 0)} ms`

export const GROUPS: Readonly<Record<string, Group>> = {
  start: { share: 0.08, measure: start },
  calls: { share: 0.06, measure: calls },
  logits: { share: 0.46, measure: logits },
  hooks: { share: 0.4, measure: hooks },
}

/** New processes: to a session, to logits, and what memory they hold. */
async function start({ checkpoint }: Bench, seconds: number): Promise<Figure[]> {
  const { model, weightBytes } = checkpoint
  const packages = await packagesLoaded(model) // and the file is in the page cache
  const end = performance.now() + seconds * 1000
  const runs = []
  while (runs.length < 7 || (performance.now() < end && runs.length < 30)) runs.push(await startToLogits(model))
  const started = runs.map((r) => r.started)
  const step = (name: string, from: (s: (typeof started)[number]) => number) =>
    `${name} ${ms(median(started.map(from)))}`
  const memory = started.flatMap(({ anonymous: a }) => (a ? [(a[2] - a[0]) / weightBytes] : []))
  const withSession = started.flatMap(({ anonymous: a }) => (a ? [(a[1] - a[0]) / weightBytes] : []))
  if (started.some((s) => s.sessions !== 1)) throw new Error("the run did not use the session that was made for it")
  return [
    {
      name: "checkpoint to session",
      unit: "ms",
      limit: 100,
      values: started.map((s) => s.session - s.runtime),
      note: `${step("headers and names", (s) => s.loaded - s.runtime)}, ${step("graph and session", (s) => s.session - s.loaded)}`,
    },
    {
      name: "process start to logits",
      unit: "ms",
      limit: 500,
      values: runs.map((r) => r.ms),
      note: `${step("node", (s) => s.node)}, ${step("imports", (s) => s.imported - s.node)}, ${step("onnxruntime", (s) => s.runtime - s.imported)}, ${step("checkpoint", (s) => s.loaded - s.runtime)}, ${step("session", (s) => s.session - s.loaded)}, ${step("run", (s) => s.ran - s.session)}; packages: ${packages.join(", ")}`,
    },
    {
      name: "anonymous memory / weights",
      unit: "x",
      limit: 0.15,
      values: memory,
      note: `with a session ${median(withSession).toFixed(3)}; weights ${(weightBytes / 1e6).toFixed(0)} MB`,
    },
  ]
}

/** What a call costs besides onnxruntime, and how many sessions a loop of patches makes. */
async function calls({ model }: Bench, seconds: number): Promise<Figure[]> {
  const tiny = await loadPretrained(fileURLToPath(new URL("../../model-cards/mnist", import.meta.url)))
  const figures: Figure[] = []
  for (const [name, m, limit] of [["ViT-B/16", model, 3] as const, ["the demo's model", tiny, 1] as const]) {
    const idle = new HookedViT({ config: m.config, weights: m.weights, runtime: nodeRuntime({ module: instant(m) }) })
    const x = pixels(m)
    const { run } = await inTurns({ run: () => idle.run(x) }, { seconds: seconds / 4, least: 200 })
    figures.push({ name: `call without onnxruntime, ${name}`, unit: "ms", limit, values: run })
  }
  figures.push(await patches(tiny, 1000))
  return figures
}

/** Sessions made by `n` runs, each with another tensor patched in. */
async function patches(model: LoadedViT, n: number): Promise<Figure> {
  const hook = "blocks.1.hook_resid_pre"
  const x = pixels(model)
  const shape = model.hooks.get(hook)!.shape.map((d) => (typeof d === "number" ? d : 1))
  const before = model.runtime.sessions.made
  const start = performance.now()
  for (let i = 0; i < n; i++) {
    const patch = float32(shape, new Float32Array(shape.reduce((a, b) => a * b)).fill(i / n))
    await model.run(x, { patch: { [hook]: patch } })
  }
  const each = (performance.now() - start) / n
  const made = model.runtime.sessions.made - before
  return { name: `sessions of ${n} patches on one hook`, unit: "", limit: 1, values: [made], note: `${ms(each)} a run` }
}

/** Our logits against the fastest bare graph. */
async function logits({ model, checkpoint, log }: Bench, seconds: number): Promise<Figure[]> {
  const sessions = new Map<string, Bare>()
  for (const [name, variant] of Object.entries(VARIANTS)) sessions.set(name, await bare(checkpoint, variant))
  const one = images(1)
  const ours = () => model.run(one)
  await agree([...sessions], (await ours()).logits, one)
  const actions: Record<string, () => Promise<unknown>> = { ours }
  for (const [name, run] of sessions) actions[name] = () => run(one)
  const times = await inTurns(actions, { seconds: seconds * 0.5, least: 5 })
  const told = [...sessions.keys()].map((name): Figure => {
    const values = ratios(times[name]!, times["ours"]!)
    return { name: `bare: ${name} / ours, batch 1`, unit: "x", values, note: ms(median(times[name]!)) }
  })
  // Prepacking is another trade of memory for time, open to both sides.
  const comparable = told.filter(({ name }) => !/prepacked|fixed/.test(name))
  const best = comparable.reduce((a, b) => (median(b.values) < median(a.values) ? b : a))
  const name = [...sessions.keys()].find((n) => best.name.includes(`: ${n} /`))!
  log(`the fastest bare graph is: ${name}`)
  const figures: Figure[] = []
  for (const b of [1, 8]) {
    const x = images(b)
    const run = sessions.get(name)!
    const t = await inTurns({ bare: () => run(x), ours: () => model.run(x) }, { seconds: seconds * 0.25 })
    figures.push({
      name: `logits / fastest bare graph, batch ${b}`,
      unit: "x",
      limit: 1.03,
      values: ratios(t.ours, t.bare),
      note: `ours ${ms(median(t.ours))}, bare ${ms(median(t.bare))} (${name})`,
    })
  }
  return [...figures, ...told]
}

/** Every bare graph gives our logits: otherwise the comparison means nothing. */
async function agree(sessions: readonly [string, Bare][], ours: Tensor, x: Tensor): Promise<void> {
  const wanted = ours.data as Float32Array
  for (const [name, run] of sessions) {
    const got = await run(x)
    const worst = wanted.reduce((n, v, i) => Math.max(n, Math.abs(v - got[i]!)), 0)
    if (!(worst < 1e-4)) throw new Error(`the bare graph "${name}" differs from ours by ${worst}`)
  }
}

/** All hooks read against logits only, each cache given back before the next, and left to the garbage collector. */
async function hooks({ model }: Bench, seconds: number): Promise<Figure[]> {
  const figures: Figure[] = []
  for (const b of [1, 8]) {
    const x = images(b)
    let held = 0
    let count = 0
    const read = async () => {
      const { cache } = await model.runWithCache(x)
      held = cache.bytes
      count = cache.names.length
      return cache
    }
    for (const [how, limit, all] of [
      ["", 1.35, async () => (await read()).dispose()],
      [", left to the garbage collector", undefined, read],
    ] as const) {
      const t = await inTurns({ logits: () => model.run(x), all }, { seconds: seconds / 4 })
      figures.push({
        name: `all hooks / logits, batch ${b}${how}`,
        unit: "x",
        ...(limit !== undefined && { limit }),
        values: ratios(t.all, t.logits),
        note: `${count} hooks, ${(held / 1e6).toFixed(0)} MB: ${ms(median(t.all))} against ${ms(median(t.logits))}`,
      })
    }
  }
  return figures
}

function pixels(model: LoadedViT): Tensor {
  const { imageSize, nChannels } = model.config.vision
  return float32([1, nChannels, ...imageSize], new Float32Array(nChannels * imageSize[0] * imageSize[1]))
}

/** An onnxruntime that computes nothing. */
function instant({ config }: LoadedViT): OrtModule {
  const data = new Float32Array(config.vision.nClasses)
  class Tensor {
    readonly type: string
    readonly data: unknown
    readonly dims: readonly number[]
    constructor(type: string, data: unknown, dims: readonly number[]) {
      this.type = type
      this.data = data
      this.dims = dims
    }
  }
  return {
    Tensor,
    InferenceSession: {
      create: async () => ({
        run: async (_, fetches) => {
          for (const t of Object.values(fetches)) if (t) (t as { data: Float32Array }).data.set(data)
          throw new Error("Non tensor type: all is written (src/runtime/in-place.ts)")
        },
        release: async () => {},
      }),
    },
  }
}
