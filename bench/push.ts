/** @file Figures of docs/upload.md: a large file up to a Hub in another process, and what memory that takes; `npm run bench:push`. */
import { fork, spawn } from "node:child_process"
import { mkdtempSync, openSync, closeSync, ftruncateSync, rmSync, writeSync } from "node:fs"
import { tmpdir } from "node:os"
import { join } from "node:path"
import { fileURLToPath } from "node:url"
import { privateBytes } from "../src/jobs/memory.ts"
import { startHub } from "../test/helpers/hub/index.ts"

const MIB = 2 ** 20
const [what = "", size = "2048"] =
  process.argv[2] === "server" ? process.argv.slice(2) : ["", process.argv[2] ?? "2048"]

/** A file of zeros on no disk blocks, but for a number that makes it a new one. */
function large(folder: string, bytes: number, mark: number): void {
  const file = openSync(join(folder, "model.safetensors"), "w")
  ftruncateSync(file, bytes)
  writeSync(file, Buffer.from([mark + 1]), 0, 1, 100)
  closeSync(file)
}

async function main(): Promise<void> {
  const bytes = Number(size) * MIB
  for (const [mark, part] of [0, 64].entries()) {
    const scratch = mkdtempSync(join(tmpdir(), "vit-prisma-push-"))
    const server = fork(import.meta.filename, ["server", String(part)])
    const url = await new Promise<string>((done) => server.once("message", (m) => done(m as string)))
    large(scratch, bytes, mark)
    const began = performance.now()
    const cli = fileURLToPath(new URL("../lib/cli/main.js", import.meta.url))
    const env = { ...process.env, HF_ENDPOINT: url, HF_TOKEN: "hf_write", HF_HUB_OFFLINE: "" }
    const child = spawn(process.execPath, [cli, "push", scratch, "owner/large"], { env, stdio: "inherit" })
    let peak = 0
    const watch = setInterval(() => {
      void privateBytes(child.pid!).then(
        (n) => (peak = Math.max(peak, n ?? 0)),
        () => {},
      )
    }, 50)
    const code = await new Promise<number | null>((done) => child.once("close", done))
    clearInterval(watch)
    const seconds = (performance.now() - began) / 1000
    const how = part ? `in parts of ${part} MiB` : "whole"
    console.log(`${size} MiB ${how}: exit ${code}, ${seconds.toFixed(1)} s, ${(Number(size) / seconds).toFixed(0)} MiB/s, private memory at most ${(peak / MIB).toFixed(0)} MiB`) // prettier-ignore
    server.kill()
    rmSync(scratch, { recursive: true })
  }
}

/** The Hub, whose memory is not counted. */
async function serve(): Promise<void> {
  const part = Number(size) * MIB
  const root = mkdtempSync(join(tmpdir(), "vit-prisma-hub-"))
  const hub = await startHub({ root, multipart: { above: part || Infinity, part: part || 1 } })
  process.on("exit", () => rmSync(root, { recursive: true, force: true }))
  process.on("SIGTERM", () => process.exit())
  process.send!(hub.url)
}

await (what === "server" ? serve() : main())
