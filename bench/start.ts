/** @file One process from its start to logits, as the bench starts it: `node start.js folder`; prints one line of JSON. */
import { readFileSync } from "node:fs"
import type * as Library from "../src/index.ts"

/** What the process says of itself: milliseconds since its start, and anonymous bytes. */
export interface Started {
  /** When our first line ran. */
  readonly node: number
  readonly imported: number
  /** onnxruntime-node and its native library. */
  readonly runtime: number
  readonly loaded: number
  readonly session: number
  readonly ran: number
  /** RssAnon of the interpreter before any import, with a session, and after the first run; undefined but on Linux. */
  readonly anonymous: readonly [before: number, session: number, ran: number] | undefined
  readonly sessions: number
  readonly top: number
}

const node = performance.now()
const before = rssAnon()
const { float32, loadPretrained, nodeRuntime } = (await import(
  new URL("../lib/index.js", import.meta.url).href
)) as typeof Library
const imported = performance.now()
const runtime = nodeRuntime()
const runtimeLoaded = performance.now()
const model = await loadPretrained(process.argv[2]!, { runtime })
const loaded = performance.now()
const made: { session?: number; anonymous?: number | undefined } = {}
const compile = runtime.compile.bind(runtime)
runtime.compile = async (inputs, outputs) => {
  const compiled = await compile(inputs, outputs)
  made.session = performance.now()
  made.anonymous = rssAnon()
  return compiled
}
const { imageSize, nChannels } = model.config.vision
const shape = [1, nChannels, ...imageSize]
const pixels = Float32Array.from({ length: shape.reduce((a, b) => a * b) }, (_, i) => Math.sin(i))
const { data } = (await model.run(float32(shape, pixels))).logits
const ran = performance.now()
const after = rssAnon()
const { session = NaN, anonymous: withSession } = made
const started: Started = {
  node,
  imported,
  runtime: runtimeLoaded,
  loaded,
  session,
  ran,
  anonymous: before && withSession && after ? [before, withSession, after] : undefined,
  sessions: runtime.sessions.made,
  top: (data as Float32Array).indexOf(Math.max(...(data as Float32Array))),
}
console.log(JSON.stringify(started))

/** Bytes of anonymous memory in RAM (https://docs.kernel.org/filesystems/proc.html). */
function rssAnon(): number | undefined {
  if (process.platform !== "linux") return undefined
  const [, kilobytes] = /RssAnon:\s+(\d+) kB/.exec(readFileSync("/proc/self/status", "utf8")) ?? []
  return Number(kilobytes) * 1024
}
