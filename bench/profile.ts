/** @file Where the time of a run goes, op by op, as onnxruntime's profiler sees it, and what lies outside of it. */
import { mkdtemp, readdir, readFile, rm } from "node:fs/promises"
import { tmpdir } from "node:os"
import { join } from "node:path"
import { build, emit, loadPretrained, type LoadedViT } from "../src/index.ts"
import { load } from "../src/runtime/node.ts"
import { images, type Checkpoint } from "./checkpoint.ts"
import { threadsOf } from "./lean.ts"
import { median } from "./measure.ts"

/** An event of the Chrome trace that onnxruntime writes; `ts` and `dur` in microseconds. */
interface Event {
  readonly name: string
  readonly cat: string
  readonly ts: number
  readonly dur: number
  readonly args?: { readonly op_name?: string }
}

/** Print the table of docs/performance.md: milliseconds of each op for logits and for all hooks, batch 1 and 8. */
export async function profile({ model: folder }: Checkpoint, print: (line: string) => void): Promise<void> {
  const model = await loadPretrained(folder)
  const columns: [string, Map<string, number>][] = []
  for (const b of [1, 8]) {
    for (const all of [false, true]) {
      columns.push([`${all ? "all hooks" : "logits"}, ${b}`, await times(model, b, all, b === 1 ? 21 : 9)])
    }
  }
  const order = [...columns[1]![1]].sort((a, b) => b[1] - a[1]).map(([op]) => op)
  print(`| ms | ${columns.map(([name]) => name).join(" | ")} |\n|---|${columns.map(() => "---:").join("|")}|`)
  for (const op of order) print(`| ${op} | ${columns.map(([, t]) => (t.get(op) ?? 0).toFixed(1)).join(" | ")} |`)
}

/** Medians over the runs: each op's kernels, what the run spends between them, and what the call spends outside the run. */
async function times(model: LoadedViT, b: number, all: boolean, runs: number): Promise<Map<string, number>> {
  const folder = await mkdtemp(join(tmpdir(), "vit-prisma-bench-profile-"))
  const calls: number[] = []
  try {
    const { inputs, outputs, scope } = build(model.config, model.weights)
    const wanted = [...scope.hooks].filter(([name]) => !model.hooks.get(name)?.onRequest)
    const hooks = Object.fromEntries(wanted.map(([name, { value }]) => [name, value]))
    const { bytes, outputs: ports } = emit(inputs, all ? { ...outputs, ...hooks } : outputs, {
      locate: (file) => file.slice(model.source.folder.length + 1),
    })
    const fetches = [...new Set([...ports.values()].map((o) => o.port))]
    const ort = load("onnxruntime-node")
    const session = (await ort.InferenceSession.create(bytes, {
      executionProviders: ["cpu"],
      logSeverityLevel: 3,
      ...threadsOf(),
      enableProfiling: true,
      profileFilePrefix: join(folder, "profile"),
      extra: {
        session: {
          force_spinning_stop: "1",
          disable_prepacking: "1",
          model_external_initializers_file_folder_path: model.source.folder,
        },
      },
    })) as Awaited<ReturnType<typeof ort.InferenceSession.create>> & { endProfiling(): void }
    const { dtype, data, shape } = images(b)
    const fed = new ort.Tensor(dtype as never, data as never, shape)
    for (let i = 0; i < runs; i++) {
      const start = performance.now()
      await session.run({ pixel_values: fed }, fetches)
      calls.push(performance.now() - start)
    }
    session.endProfiling()
    const [file] = await readdir(folder)
    return summed(JSON.parse(await readFile(join(folder, file!), "utf8")) as Event[], calls)
  } finally {
    await rm(folder, { recursive: true })
  }
}

function summed(events: readonly Event[], calls: readonly number[]): Map<string, number> {
  const kernels = events.filter((e) => e.cat === "Node" && e.name.endsWith("_kernel_time"))
  const ops = new Set(kernels.map((e) => e.args?.op_name ?? ""))
  const perRun = events
    .filter((e) => e.name === "model_run")
    .map(({ ts, dur }, i) => {
      const inside = kernels.filter((k) => k.ts >= ts && k.ts < ts + dur)
      const of = (op: string) => inside.filter((k) => k.args?.op_name === op).reduce((n, k) => n + k.dur / 1000, 0)
      const byOp = new Map([...ops].map((op) => [op, of(op)]))
      const total = [...byOp.values()].reduce((a, t) => a + t, 0)
      return byOp
        .set("between the ops", dur / 1000 - total)
        .set("copies of inputs and outputs, garbage collection", calls[i]! - dur / 1000)
        .set("the whole call", calls[i]!)
    })
    .slice(1) // the first run allocates
  return new Map([...perRun[0]!.keys()].map((key) => [key, median(perRun.map((run) => run.get(key)!))]))
}
