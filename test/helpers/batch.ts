/** @file Lists of small models for batches, some of which end whatever process opens them, and a count of what is published. */
import { cpSync, mkdirSync, readdirSync, readFileSync, statSync, writeFileSync } from "node:fs"
import { type ChildProcess, spawn } from "node:child_process"
import { join, resolve } from "node:path"

// The bench runs this from dist.
const here = import.meta.dirname.replace(/[/\\]dist(?=[/\\]test[/\\]helpers$)/, "")
export const MAIN = resolve(here, "../../dist/lib/cli/main.js")
const SOURCE = resolve(here, "../fixtures/reference/hf-vit-names-v5")

/** What a process does that opens a file of a model of this name; the code under test knows nothing of it. */
export const KILLERS = ["killer-segfault", "killer-exit", "killer-hang", "killer-memory"] as const

/** Files that are wrong, and the code of their refusal. */
export const BAD = {
  "bad-truncated": "E_ST_TRUNCATED",
  "bad-config": "E_CONFIG",
  "bad-shape": "E_SHAPE_MISMATCH",
} as const

/** Source of a module for `--import`: killers kill, and each folder that is published is a line of the file in PUBLISHED. */
const PRELOAD = `
import { appendFileSync, existsSync, renameSync } from "node:fs"
import promises from "node:fs/promises"
import { syncBuiltinESMExports } from "node:module"
import { basename } from "node:path"
const { open } = promises
const ways = {
  segfault: () => process.kill(process.pid, "SIGSEGV"),
  exit: () => process.exit(3),
  hang: () => { for (;;); },
  memory: async () => {
    for (const all = []; ; await new Promise(setImmediate)) all.push(Buffer.alloc(1 << 24, 1))
  },
  // The first time only: each tensor is read by itself.
  slow: () => new Promise((done) => (ways.slow = undefined, setTimeout(done, 1000))),
}
// Until the test makes the file.
const opened = async () => {
  while (!existsSync(process.env.PUBLISHED + ".gate")) await new Promise((done) => setTimeout(done, 20))
}
const waits = () => new Promise(() => setInterval(() => {}, 1000))
promises.open = async (path, ...rest) => {
  // In the midst of writing, when something half done lies there.
  if (/[/][.]killer-late[.]tmp-/.test(String(path))) await waits()
  if (/[/][.]killer-gate[.]tmp-/.test(String(path))) await opened()
  const [, how] = /[/]killer-(\\w+)[^/]*[/]model[.]safetensors$/.exec(String(path)) ?? []
  await ways[how]?.()
  return open(path, ...rest)
}
promises.rename = async (from, to) => {
  // At once with its line in the log: a process that is to end does so between two turns of its loop.
  renameSync(from, to)
  const log = process.env.PUBLISHED
  if (log && String(from).includes(".tmp-") && !basename(to).startsWith(".")) appendFileSync(log, basename(to) + "\\n")
}
syncBuiltinESMExports()
`

/** NODE_OPTIONS with which killers kill; the file of what was published is `published` in `scratch`. */
export function killing(scratch: string): { NODE_OPTIONS: string; PUBLISHED: string } {
  const path = join(scratch, "preload.mjs")
  writeFileSync(path, PRELOAD)
  return { NODE_OPTIONS: `--import ${path}`, PUBLISHED: join(scratch, "published") }
}

/** A model of 24,036 parameters in a folder of its own; no two have the same weights. */
export function makeModel(folder: string, number = 0): string {
  mkdirSync(folder, { recursive: true })
  cpSync(join(SOURCE, "config.json"), join(folder, "config.json"))
  const weights = readFileSync(join(SOURCE, "model.safetensors"))
  weights.writeFloatLE(number / 1000, weights.length - 4)
  writeFileSync(join(folder, "model.safetensors"), weights)
  return folder
}

const SPOILED: { readonly [N in keyof typeof BAD]: (folder: string) => void } = {
  "bad-truncated": (folder) => {
    const path = join(folder, "model.safetensors")
    writeFileSync(path, readFileSync(path).subarray(0, 50_000))
  },
  "bad-config": (folder) => writeFileSync(join(folder, "config.json"), "{nope"),
  "bad-shape": (folder) => {
    const path = join(folder, "config.json")
    writeFileSync(path, readFileSync(path, "utf8").replace(/"hidden_size": \d+/, '"hidden_size": 64'))
  },
}

/** `count` models below `folder`, the bad ones among them; gives their names, in the order of the list that is written. */
export function makeModels(folder: string, count: number, bad: readonly string[] = []): string[] {
  const names = Array.from({ length: count - bad.length }, (_, i) => `m${String(i).padStart(4, "0")}`)
  for (const [i, name] of bad.entries()) names.splice(Math.floor(((i + 1) * count) / (bad.length + 1)), 0, name)
  for (const [i, name] of names.entries()) {
    const made = makeModel(join(folder, name), i)
    if (Object.hasOwn(SPOILED, name)) SPOILED[name as keyof typeof BAD](made)
  }
  writeFileSync(join(folder, "list.txt"), `${names.map((name) => join(folder, name)).join("\n")}\n`)
  return names
}

export interface RunOptions {
  readonly env?: Readonly<Record<string, string>>
  readonly started?: (child: ChildProcess) => void
}

export interface Ran {
  readonly code: number | null
  readonly stdout: string
  readonly stderr: string
  readonly seconds: number
}

/** `vit-prisma ...args` until it ends, for at most two minutes. */
export function vitPrisma(args: readonly string[], { env = {}, started }: RunOptions = {}): Promise<Ran> {
  const began = performance.now()
  const child = spawn(process.execPath, [MAIN, ...args], {
    env: { ...process.env, NODE_OPTIONS: "", HF_HUB_OFFLINE: "1", ...env },
    stdio: ["ignore", "pipe", "pipe"],
    timeout: 120_000,
    killSignal: "SIGKILL",
  })
  let [stdout, stderr] = ["", ""]
  child.stdout.setEncoding("utf8").on("data", (text: string) => (stdout += text))
  child.stderr.setEncoding("utf8").on("data", (text: string) => (stderr += text))
  started?.(child)
  return new Promise((done, failed) => {
    child.on("error", failed)
    child.on("close", (code) => done({ code, stdout, stderr, seconds: (performance.now() - began) / 1000 }))
  })
}

export interface ReadReport {
  readonly counts: Readonly<Record<string, number>>
  readonly models: readonly {
    readonly model: string
    readonly output: string
    readonly state: string
    readonly code?: string
    readonly message?: string
    readonly attempts: number
    readonly worst?: number
    readonly bytes?: number
  }[]
}

export const readReport = (out: string, name = "report"): ReadReport =>
  JSON.parse(readFileSync(join(out, `${name}.json`), "utf8")) as ReadReport

/** Every file below a folder, and what changes when it is written again. */
export const stamps = (folder: string): Record<string, string> =>
  Object.fromEntries(
    readdirSync(folder, { recursive: true, encoding: "utf8" })
      .filter((name) => !name.startsWith("."))
      .map((name) => [name, statSync(join(folder, name), { bigint: true })] as const)
      .map(([name, s]) => [name, `${s.ino}:${s.mtimeNs}`]),
  )
