/** @file Numbers below 1.2e-38: all threads of a process do the same with them, as its first session was asked to. */
import { expect, it } from "vitest"
import { runTs } from "./helpers/child.ts"

/** Products of 1e-30 and 1e-10, enough of them for two threads, by runtimes made one after the other. */
const PRODUCTS = `
import { input, mul } from "../src/graph/ops.ts"
import { load, nodeRuntime } from "../src/runtime/node.ts"
import { Runtime } from "../src/runtime/runtime.ts"
import { float32 } from "../src/tensor/tensor.ts"
const N = 2 ** 21
const [a, b] = [input("a", ["n"]), input("b", ["n"])]
const feeds = { a: float32([N], new Float32Array(N).fill(1e-30)), b: float32([N], new Float32Array(N).fill(1e-10)) }
const runtimes = {
  ours: () => nodeRuntime({ threads: 2 }),
  keeping: () => nodeRuntime({ threads: 2, flushSubnormals: false }),
  plain: () => new Runtime(load("onnxruntime-node"), { threads: 2 }),
}
const found = []
for (const name of process.argv.slice(2)) {
  const runtime = runtimes[name as keyof typeof runtimes]()
  const run = await runtime.compile({ a, b }, { out: mul(a, b) })
  const seen = new Set<number>()
  // By their bits: a thread that flushes reads 0 where there is something.
  for (let i = 0; i < 5; i++) for (const bits of new Uint32Array((await run(feeds)).out.data.buffer)) seen.add(bits)
  found.push({ bits: [...seen], sessions: runtime.sessions.made })
}
const tiny = Float64Array.of(Number.MIN_VALUE)
console.log(JSON.stringify({ found, script: tiny[0]! * 2 === 0 ? "flushed" : "kept" }))
`
/** Of the float32 next to 1e-40. */
const KEPT = new Uint32Array(Float32Array.of(1e-40).buffer)[0]

it.skipIf(process.arch !== "x64").each([
  [["ours", "keeping"], "flushed"],
  [["keeping", "ours"], "kept"],
  [["plain", "ours", "ours"], "kept"],
  [["ours", "plain"], "flushed"],
])("of %j all are %s", async (names, what) => {
  const { code, stdout, stderr } = await runTs(PRODUCTS, { args: names })
  expect({ code, stderr }).toEqual({ code: 0, stderr: "" })
  const bits = [what === "kept" ? KEPT : 0]
  expect(JSON.parse(stdout)).toEqual({ found: names.map(() => ({ bits, sessions: 1 })), script: what })
})
