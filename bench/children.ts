/** @file Processes that the bench starts, and what they load and print. */
import { spawn } from "node:child_process"
import { mkdtemp, readdir, readFile, rm } from "node:fs/promises"
import { tmpdir } from "node:os"
import { join } from "node:path"
import { fileURLToPath } from "node:url"
import type { Started } from "./start.ts"

const START = fileURLToPath(new URL("start.js", import.meta.url))

/** Run a program; milliseconds from its start to the first line it prints, and that line. */
export function firstLine(
  command: string,
  args: readonly string[],
  env: Readonly<Record<string, string>> = {},
): Promise<{ ms: number; line: string }> {
  const start = performance.now()
  const child = spawn(command, args, { env: { ...process.env, ...env }, stdio: ["ignore", "pipe", "pipe"] })
  const output: string[] = []
  const errors: string[] = []
  let ms = Number.NaN
  child.stdout.setEncoding("utf8").on("data", (text: string) => {
    if (!output.join("").includes("\n") && text.includes("\n")) ms = performance.now() - start
    output.push(text)
  })
  child.stderr.setEncoding("utf8").on("data", (text: string) => errors.push(text))
  return new Promise((resolve, reject) => {
    child.on("error", reject)
    child.on("close", (code) => {
      const [line = ""] = output.join("").split("\n")
      if (code === 0 && line) resolve({ ms, line })
      else reject(new Error(`${command} ${args.join(" ")} ended with ${code}: ${errors.join("").trim()}`))
    })
  })
}

/** A new process of ours from its start to logits: wall time as seen from here, and what it says. */
export async function startToLogits(model: string): Promise<{ ms: number; started: Started }> {
  const { ms, line } = await firstLine(process.execPath, [START, model])
  return { ms, started: JSON.parse(line) as Started }
}

/** The packages that such a process loads, found by what V8 saw of their files. */
export async function packagesLoaded(model: string): Promise<string[]> {
  const folder = await mkdtemp(join(tmpdir(), "vit-prisma-bench-coverage-"))
  try {
    await firstLine(process.execPath, [START, model], { NODE_V8_COVERAGE: folder })
    const names = new Set<string>()
    for (const file of await readdir(folder)) {
      const { result } = JSON.parse(await readFile(join(folder, file), "utf8")) as { result: { url: string }[] }
      for (const { url } of result) {
        const [, name] = /.*\/node_modules\/((?:@[^/]+\/)?[^/]+)\//.exec(url) ?? []
        if (name) names.add(name)
      }
    }
    return [...names].sort()
  } finally {
    await rm(folder, { recursive: true })
  }
}
