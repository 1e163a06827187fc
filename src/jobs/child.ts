/** @file The child process of jobs: gets a job's arguments, runs the default export of its module, sends what came of it, and waits for the next. */
import { extname } from "node:path"
import { Worker } from "node:worker_threads"
import { type ErrorCode, PrismaError } from "../errors.ts"
import type { Progress } from "./isolate.ts"
import { privateBytes, PROCESS_BYTES } from "./memory.ts"

/** What a job's process says, as JSON. */
export type Answer =
  | { readonly value?: unknown }
  | { readonly error: { readonly code?: string; readonly message: string; readonly [place: string]: unknown } }
  | { readonly reserve: number }
  | { readonly progress: Progress }

/** What a job may ask of the process that watches it. */
export interface JobContext {
  /** Wait until so many bytes may be used. Error: E_MEMORY_BUDGET where they never can. */
  readonly reserve: (bytes: number) => Promise<void>
  readonly progress: (step: string, done: number, total: number) => void
}

type Message =
  | { readonly args: unknown }
  | { readonly end: true }
  | { readonly granted: true }
  | { readonly refused: { readonly code: ErrorCode; readonly message: string } }

/** What waits for the answer to `reserve`. */
let waiting: ((message: Message) => void) | undefined

const context: JobContext = {
  async reserve(bytes) {
    // What an earlier job left, such as a dataset, is still held.
    const held = Math.max(0, ((await privateBytes(process.pid)) ?? 0) - PROCESS_BYTES)
    say({ reserve: held + bytes })
    const message = await new Promise<Message>((resolve) => (waiting = resolve))
    if ("refused" in message) throw new PrismaError(message.refused.code, message.refused.message)
  },
  progress: (step, done, total) => say({ progress: { step, done, total } }),
}

const say = (answer: Answer): void => void process.send!(answer)

async function answer(args: unknown): Promise<Answer> {
  try {
    const module = (await import(process.argv[2]!)) as { default?: unknown }
    if (typeof module.default !== "function") throw new Error("the job's module has no function as default export")
    // Sent as text, so that what JSON cannot hold fails here, in the job.
    return { value: JSON.parse(JSON.stringify((await module.default(args, context)) ?? null)) }
  } catch (error) {
    if (error instanceof PrismaError) return { error: { ...error.toJSON(), message: error.message, code: error.code } }
    return { error: { message: error instanceof Error ? `${error.name}: ${error.message}` : String(error) } }
  }
}

// Ctrl-C reaches the whole group of processes: the one that watches decides what becomes of the job.
for (const signal of ["SIGINT", "SIGTERM"] as const) process.on(signal, () => {})
process.once("disconnect", () => process.exit()) // nobody waits for the answer any more
new Worker(new URL(`./orphan${extname(import.meta.url)}`, import.meta.url), {
  workerData: Number(process.argv[3]),
}).unref()
process.on("message", (text: string) => {
  const message = JSON.parse(text) as Message
  if ("args" in message) void answer(message.args).then(say)
  else if ("end" in message) process.exit()
  else waiting?.(message)
})
