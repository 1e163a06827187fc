/** @file The command line as users have it: a process of the built program; and small files to feed it with. */
import { type ChildProcess, spawn } from "node:child_process"
import { mkdtempSync, rmSync, writeFileSync } from "node:fs"
import { tmpdir } from "node:os"
import { join, resolve } from "node:path"
import type { User } from "./child.ts"

export const root = resolve(import.meta.dirname, "../..")
export const MAIN = join(root, "dist/lib/cli/main.js")

export const demoModel = join(root, "test/fixtures/mnist-demo")
export const seven = join(demoModel, "seven.png")
export const reference = (name: string): string => join(root, "test/fixtures/reference", name)

export interface Ran {
  readonly code: number | null
  readonly signal: NodeJS.Signals | null
  readonly stdout: string
  readonly stderr: string
}

export interface CliOptions {
  readonly cwd?: string
  readonly env?: Readonly<Record<string, string>>
  /** Source of a JavaScript module that runs first. */
  readonly preload?: string
  /** Whose process it is; by default of who began it. */
  readonly user?: User
  /** Sees the process when it has begun. */
  readonly started?: (child: ChildProcess) => void
}

/** `vit-prisma ...args` until it ends. */
export function cli(
  args: readonly string[],
  { cwd = root, env, preload, user = {}, started }: CliOptions = {},
): Promise<Ran> {
  const first = preload === undefined ? [] : ["--import", moduleOf(preload)]
  const child = spawn(process.execPath, [...first, MAIN, ...args], {
    cwd,
    ...user,
    env: { ...process.env, NODE_OPTIONS: "", HF_HUB_CACHE: join(root, "no-such-cache"), ...env },
    stdio: ["ignore", "pipe", "pipe"],
    timeout: 30_000,
    killSignal: "SIGKILL",
  })
  let [stdout, stderr] = ["", ""]
  child.stdout.setEncoding("utf8").on("data", (text: string) => (stdout += text))
  child.stderr.setEncoding("utf8").on("data", (text: string) => (stderr += text))
  started?.(child)
  return new Promise((done, failed) => {
    child.on("error", failed)
    child.on("close", (code, signal) => done({ code, signal, stdout, stderr }))
  })
}

/** A file with this source. */
function moduleOf(source: string): string {
  const path = join((folder ??= begin()), `${modules++}.mjs`)
  writeFileSync(path, source)
  return path
}

let folder: string | undefined
let modules = 0

function begin(): string {
  const made = mkdtempSync(join(tmpdir(), "vit-prisma-preload-"))
  process.once("exit", () => rmSync(made, { recursive: true, force: true }))
  return made
}

/** `work` on every item, two at a time: each is a process, and the machine may have two cores. */
export async function twoAtATime<T, R>(items: readonly T[], work: (item: T) => Promise<R>): Promise<R[]> {
  const results: R[] = []
  let next = 0
  const worker = async () => {
    for (let i = next++; i < items.length; i = next++) results[i] = await work(items[i]!)
  }
  await Promise.all([worker(), worker()])
  return results
}

const DTYPES = new Map<Function, string>([
  [Float32Array, "F32"],
  [Float64Array, "F64"],
  [Int32Array, "I32"],
  [BigInt64Array, "I64"],
])

export interface Written {
  readonly shape: readonly number[]
  readonly data: Float32Array | Float64Array | Int32Array | BigInt64Array
  /** What the header says; by default what the array holds. */
  readonly dtype?: string
}

/** A safetensors file, written by no code of the project. */
export function writeTensors(path: string, tensors: Readonly<Record<string, Written>>): string {
  let at = 0
  const header = Object.entries(tensors).map(([name, { shape, data, dtype = DTYPES.get(data.constructor) }]) => {
    const entry = { dtype, shape, data_offsets: [at, (at += data.byteLength)] }
    return [name, entry]
  })
  const json = Buffer.from(JSON.stringify(Object.fromEntries(header)))
  const length = Buffer.alloc(8)
  length.writeBigUInt64LE(BigInt(json.length))
  const bytes = Object.values(tensors).map(({ data }) => Buffer.from(data.buffer, data.byteOffset, data.byteLength))
  writeFileSync(path, Buffer.concat([length, json, ...bytes]))
  return path
}
