/** @file Runs TypeScript of this repository in a child process, for tests that kill it, starve it or watch its memory. */
import { spawn } from "node:child_process"
import {
  chmodSync,
  existsSync,
  mkdirSync,
  mkdtempSync,
  readFileSync,
  rmSync,
  symlinkSync,
  writeFileSync,
} from "node:fs"
import { tmpdir } from "node:os"
import { dirname, join, relative, resolve } from "node:path"
import ts from "typescript"
import { afterAll } from "vitest"

const root = resolve(import.meta.dirname, "../..")

/** Made on first use: the repository's modules as JavaScript (Node 20 runs no TypeScript), in a folder of this process. */
let copy: string | undefined
const done = new Set<string>()

const OPTIONS: ts.CompilerOptions = {
  target: ts.ScriptTarget.ES2023,
  module: ts.ModuleKind.ESNext,
  moduleResolution: ts.ModuleResolutionKind.Bundler,
  verbatimModuleSyntax: true,
  rewriteRelativeImportExtensions: true,
}

afterAll(() => {
  if (copy !== undefined) rmSync(copy, { recursive: true })
})

function begin(): string {
  const folder = mkdtempSync(join(tmpdir(), "vit-prisma-child-"))
  chmodSync(folder, 0o755) // for a child of another user
  writeFileSync(join(folder, "package.json"), '{"type":"module"}')
  symlinkSync(join(root, "node_modules"), join(folder, "node_modules"))
  return folder
}

/** Translate the module at `path` of the repository and all it imports; gives where the translation lies. */
function translate(path: string, source: string): string {
  const out = join((copy ??= begin()), relative(root, path)).replace(/\.ts$/, ".js")
  if (done.has(path)) return out
  done.add(path)
  mkdirSync(dirname(out), { recursive: true })
  writeFileSync(out, ts.transpileModule(source, { compilerOptions: OPTIONS, fileName: path }).outputText)
  // What it passes over: export * as name from "...".
  const named = [...source.matchAll(/^export \* as \w+ from "([^"]+)"/gm)].map((m) => m[1]!)
  for (const fileName of [...ts.preProcessFile(source).importedFiles.map((f) => f.fileName), ...named]) {
    const imported = resolve(dirname(path), fileName)
    if (fileName.startsWith(".") && existsSync(imported)) translate(imported, readFileSync(imported, "utf8"))
  }
  return out
}

export interface Ended {
  readonly code: number | null
  readonly signal: NodeJS.Signals | null
  readonly stdout: string
  readonly stderr: string
}

/** As `spawn` takes it. */
export interface User {
  readonly uid?: number
  readonly gid?: number
}

export interface RunOptions {
  readonly args?: readonly string[]
  readonly env?: Readonly<Record<string, string>>
  /** Flags for node, such as `--max-old-space-size=100`. */
  readonly node?: readonly string[]
  /** Source of a module that runs before the program, of JavaScript. */
  readonly preload?: string
  readonly cwd?: string
  /** Whose process it is; by default of who began it. */
  readonly user?: User
  /** Milliseconds until the child is killed. */
  readonly timeout?: number
}

let programs = 0

/** Run `source`, TypeScript that imports as if it lay in `test/`, in a child process until it ends. */
export function runTs(source: string, options: RunOptions = {}): Promise<Ended> {
  const { args = [], env = {}, node = [], preload, cwd, user = {}, timeout = 30_000 } = options
  const program = translate(join(root, `test/program-${programs++}.ts`), source)
  const flags = [...node]
  if (preload !== undefined) {
    const path = program.replace(/\.js$/, ".preload.js")
    writeFileSync(path, preload)
    flags.push("--import", path)
  }
  const child = spawn(process.execPath, [...flags, program, ...args], {
    env: { ...process.env, NODE_OPTIONS: "", ...env },
    cwd,
    ...user,
    timeout,
    killSignal: "SIGKILL",
    stdio: ["ignore", "pipe", "pipe"],
  })
  let stdout = ""
  let stderr = ""
  child.stdout.setEncoding("utf8").on("data", (text: string) => (stdout += text))
  child.stderr.setEncoding("utf8").on("data", (text: string) => (stderr += text))
  return new Promise((done, failed) => {
    child.on("error", failed)
    child.on("close", (code, signal) => done({ code, signal, stdout, stderr }))
  })
}
