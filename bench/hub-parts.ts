/** @file What the benches of the Hub share. */
import { mkdtempSync, readdirSync, readFileSync, rmSync } from "node:fs"
import { tmpdir } from "node:os"
import { join, resolve } from "node:path"
import { gitSha1, sha256 } from "../test/helpers/download-hub.ts"

export const REFERENCE = "test/fixtures/reference"
export const DEMO = "test/fixtures/mnist-demo"
export const ID = "owner/model"
export const say = (text: string): void => void process.stdout.write(`${text}\n`)
const made: string[] = []
process.once("exit", () => made.forEach((folder) => rmSync(folder, { recursive: true, force: true })))
export function scratch(): string {
  const folder = mkdtempSync(join(tmpdir(), "hub-bench-"))
  made.push(folder)
  return folder
}
export const seconds = (from: number): string => `${((performance.now() - from) / 1000).toFixed(1)} s`

/** Blobs that do not hold what their names say. */
export function badBlobs(cache: string): number {
  const names = readdirSync(cache, { recursive: true, encoding: "utf8" }).filter((n) => /\/blobs\/[0-9a-f]+$/.test(n))
  return names.filter((n) => {
    const bytes = readFileSync(join(cache, n))
    const name = n.split("/").at(-1)!
    return name !== (name.length === 64 ? sha256(bytes) : gitSha1(bytes))
  }).length
}

process.chdir(resolve(import.meta.dirname, "../.."))
