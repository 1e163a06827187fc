/**
 * @file `npm run bench:train`: a training step against the rate at which the same machine multiplies matrices.
 *
 * The two cases are a ViT of width 512 on 65 tokens and one of width 128 on 17, 4 layers and batch 64 each. The rate is
 * that of the step's own products, each alone, in the same run and in turns with the steps. `-- --seconds 60` takes less
 * time, `--only big` measures one case, `--profile` shows where the time goes, `--json` prints JSON. Where
 * VIT_PRISMA_BENCH_PYTHON names a Python with PyTorch, its steps of models of the same sizes are taken in turns with ours.
 */
import { mkdtemp, readdir, readFile, rm } from "node:fs/promises"
import { tmpdir } from "node:os"
import { join } from "node:path"
import { parseArgs } from "node:util"
import { configByName, initOptions, modelConfig, type GlobalConfig } from "../src/configs/index.ts"
import { bind } from "../src/graph/dims.ts"
import { narrow } from "../src/graph/narrow.ts"
import { constant, gather, gemm, input } from "../src/graph/ops.ts"
import { is, toposort, type Value } from "../src/graph/value.ts"
import { initialise } from "../src/model/init.ts"
import { nodeRuntime } from "../src/runtime/node.ts"
import type { Runtime } from "../src/runtime/runtime.ts"
import { float32, int64, size, tensor, type Tensor } from "../src/tensor/tensor.ts"
import { flatten } from "../src/train/layout.ts"
import { trainedModel } from "../src/train/objective.ts"
import { stepOptions, taskOf } from "../src/train/plan.ts"
import { trainingStep } from "../src/train/step.ts"
import { stepper } from "../src/train/stepper.ts"
import { inTurns, median, ratios, uncertainty } from "./measure.ts"
import { pytorchSteps } from "./rivals.ts"

const { values: options } = parseArgs({
  options: {
    json: { type: "boolean", default: false },
    profile: { type: "boolean", default: false },
    only: { type: "string" },
    seconds: { type: "string", default: "180" },
    threads: { type: "string", default: "2" },
  },
})

const BATCH = 64
const CASES: Readonly<Record<string, GlobalConfig>> = {
  big: configByName("dsprites"),
  small: configByName("mnist"),
}

/** One step on made-up images: a function that makes the next. */
function training(config: GlobalConfig, runtime: Runtime) {
  const model = modelConfig(config)
  const trained = trainedModel(model, taskOf(config, "uint8"))
  const own = { ...stepOptions(config), maxGradNorm: 1 }
  const step = trainingStep(trained.layout, (flat) => trained.objective(flat, "training"), own)
  const state = stepper(runtime, step, own, { w: flatten(trained.layout, initialise(model, initOptions(config))) })
  const { nChannels, imageSize } = model.vision
  const shape = [BATCH, nChannels, ...imageSize]
  const classes = config.classification.num_classes
  const feeds = {
    images: tensor(
      "uint8",
      shape,
      Uint8Array.from({ length: size(shape) }, (_, i) => (i * 7919) % 251),
    ),
    labels: int64(
      [BATCH],
      Array.from({ length: BATCH }, (_, i) => i % classes),
    ),
  }
  let t = 0
  return {
    products: products(Object.values(narrow(step.apply.outputs, new Set(Object.values(step.apply.inputs))))),
    parameters: trained.layout.size,
    next: () => state.step([feeds], 1e-4, ++t),
  }
}

/** A matrix product [m, k] [k, n]; `count` of them in a step. */
interface Product {
  readonly m: number
  readonly k: number
  readonly n: number
  readonly transA: boolean
  readonly transB: boolean
  /** Of attention, one for each image and head: not measured alone. */
  readonly batched: boolean
  count: number
}

const flops = ({ m, k, n, count }: Product): number => 2 * m * k * n * count

function products(outputs: readonly Value[]): Product[] {
  const symbols = new Map([["batch", BATCH]])
  const found = new Map<string, Product>()
  for (const v of toposort(outputs)) {
    if (!is(v, "Gemm") && !is(v, "MatMul")) continue
    const shape = v.shape.map((d) => bind(d, symbols))
    const flags = is(v, "Gemm") ? v.attrs : { transA: false, transB: false }
    const k = bind(v.inputs[0]!.shape.at(flags.transA ? -2 : -1)!, symbols)
    const [m, n] = shape.slice(-2) as [number, number]
    const product = { m, k, n, ...flags, batched: is(v, "MatMul"), count: 0 }
    const known = found.get(JSON.stringify(product)) ?? product
    found.set(JSON.stringify(product), known)
    known.count += size(shape.slice(0, -2))
  }
  return [...found.values()]
}

/** A product alone; of its result one row is put out, by an index so that the whole is computed. */
async function alone({ m, k, n, transA, transB }: Product, runtime: Runtime): Promise<() => Promise<unknown>> {
  const [a, b] = [transA ? [k, m] : [m, k], transB ? [n, k] : [k, n]]
  const numbers = (shape: number[]): Tensor =>
    float32(
      shape,
      Float32Array.from({ length: size(shape) }, (_, i) => Math.sin(i)),
    )
  const [x, y] = [input("a", a), input("b", b)]
  const row = gather(gemm(x, y, { transA, transB }), constant(int64([1], [0])))
  const run = await runtime.compile({ a: x, b: y }, { row })
  const feeds = { a: numbers(a), b: numbers(b) }
  return () => run(feeds)
}

async function measured(name: string, config: GlobalConfig, seconds: number) {
  const runtime = nodeRuntime({ threads: Number(options.threads) })
  const { next, products: all, parameters } = training(config, runtime)
  // What the first steps allocate stays.
  for (let i = 0; i < 3; i++) await next()
  const own = all.filter((p) => !p.batched)
  const actions: Record<string, () => Promise<unknown>> = { step: next }
  for (const [i, p] of own.entries()) actions[`product ${i}`] = await alone(p, runtime)
  const { nChannels: channels, imageSize, patchSize } = modelConfig(config).vision
  const { hidden_dim: width, num_heads: heads, num_layers: layers, mlp_dim: mlp } = config.transformer
  const classes = config.classification.num_classes
  const rival = pytorchSteps({ batch: BATCH, width, heads, layers, mlp, image: imageSize[0], patch: patchSize[0], channels, classes }) // prettier-ignore
  const rivalMs: number[] = []
  if (rival) actions["pytorch"] = async () => rivalMs.push(await rival.next())
  const times = await inTurns(actions, { seconds, least: 9, tolerance: 0.005 })
  rival?.end()
  const step = median(times["step"]!)
  // Each product as often as the step has it.
  const productMs = own.reduce((sum, p, i) => sum + p.count * median(times[`product ${i}`]!), 0)
  const gflop = all.reduce((sum, p) => sum + flops(p), 0) / 1e9
  const rate = own.reduce((sum, p) => sum + flops(p), 0) / 1e6 / productMs
  await runtime.release()
  return {
    case: name,
    parameters,
    gflop,
    stepMs: step,
    uncertainty: uncertainty(times["step"]!),
    steps: times["step"]!.length,
    gflops: (gflop * 1000) / step,
    gemmGflops: rate,
    share: (gflop * 1000) / step / rate,
    imagesPerSecond: (BATCH * 1000) / step,
    // Its first step came before those that are counted.
    ...(rival && { pytorchMs: median(rivalMs.slice(1)), toPytorch: median(ratios(times["step"]!, rivalMs.slice(1))) }),
  }
}

interface Event {
  readonly name: string
  readonly cat: string
  readonly ts: number
  readonly dur: number
  readonly args?: { readonly op_name?: string }
}

/** Milliseconds of each op in a step, medians over steps that came after the first five. */
async function profiled(config: GlobalConfig): Promise<[string, number][]> {
  const folder = await mkdtemp(join(tmpdir(), "bench-train-"))
  try {
    const session = { enableProfiling: true, profileFilePrefix: join(folder, "profile") }
    const runtime = nodeRuntime({ threads: Number(options.threads), session })
    const { next } = training(config, runtime)
    const walls: number[] = []
    for (let i = 0; i < 15; i++) {
      const start = performance.now()
      await next()
      walls.push(performance.now() - start)
    }
    await runtime.release()
    const [file] = await readdir(folder)
    const events = JSON.parse(await readFile(join(folder, file!), "utf8")) as Event[]
    const kernels = events.filter((e) => e.cat === "Node" && e.name.endsWith("_kernel_time"))
    const runs = events.filter((e) => e.name === "model_run").slice(5)
    const ops = [...new Set(kernels.map((e) => e.args?.op_name ?? ""))]
    const inside = runs.map(({ ts, dur }) => kernels.filter((k) => k.ts >= ts && k.ts < ts + dur))
    const of = (op: string) =>
      median(inside.map((all) => all.reduce((n, k) => n + (k.args?.op_name === op ? k.dur : 0), 0)))
    const rows = ops.map((op): [string, number] => [op, of(op) / 1000]).sort((a, b) => b[1] - a[1])
    const kernelMs = rows.reduce((n, [, ms]) => n + ms, 0)
    const runMs = median(runs.map((r) => r.dur)) / 1000
    return [
      ...rows,
      ["between the kernels", runMs - kernelMs],
      ["outside onnxruntime's run (copies of what is carried)", median(walls.slice(5)) - runMs],
    ]
  } finally {
    await rm(folder, { recursive: true })
  }
}

const names = Object.keys(CASES).filter((name) => !options.only || options.only.split(",").includes(name))
const results = []
for (const name of names) {
  if (options.profile) {
    console.log(`\n${name}\n\n| op | ms a step |\n|---|---:|`)
    for (const [op, ms] of await profiled(CASES[name]!)) console.log(`| ${op} | ${ms.toFixed(1)} |`)
    continue
  }
  process.stderr.write(`measuring ${name} ...\n`)
  results.push(await measured(name, CASES[name]!, Number(options.seconds) / names.length))
}
if (options.json) console.log(JSON.stringify(results, undefined, 2))
else if (results.length) {
  console.log(
    "| case | parameters | GFLOP a step | ms a step | +- | GFLOP/s | Gemm alone, GFLOP/s | share | images/s | PyTorch eager, ms | ours / PyTorch |",
  )
  console.log("|---|---:|---:|---:|---:|---:|---:|---:|---:|---:|---:|")
  for (const r of results) {
    const cells = [
      r.case,
      r.parameters,
      r.gflop.toFixed(1),
      r.stepMs.toFixed(1),
      `${(100 * r.uncertainty).toFixed(1)} %`,
      r.gflops.toFixed(0),
      r.gemmGflops.toFixed(0),
      `${(100 * r.share).toFixed(1)} %`,
      r.imagesPerSecond.toFixed(0),
      r.pytorchMs?.toFixed(1) ?? "",
      r.toPytorch?.toFixed(2) ?? "",
    ]
    console.log(`| ${cells.join(" | ")} |`)
  }
}
