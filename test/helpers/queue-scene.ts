/** @file What the tests of queues begin with, and leave nothing of: a folder, servers, processes. */
import type { ChildProcess } from "node:child_process"
import { mkdtempSync, realpathSync, rmSync } from "node:fs"
import { tmpdir } from "node:os"
import { join } from "node:path"
import { afterAll } from "vitest"
import type { Worker } from "./workers.ts"

export function queueScene() {
  const scratch = realpathSync(mkdtempSync(join(tmpdir(), "vit-prisma-queue-")))
  const children = new Set<ChildProcess>()
  /** What was opened last is removed first. */
  const open: { remove(): Promise<void> }[] = []
  afterAll(async () => {
    for (const child of children) child.kill("SIGKILL")
    for (const one of open.reverse()) await one.remove()
    rmSync(scratch, { recursive: true, maxRetries: 10, retryDelay: 100 })
  }, 60_000)
  return {
    scratch,
    at: (...names: string[]): string => join(scratch, ...names),
    open,
    children,
    /** A worker that is killed at the end, if it has not ended. */
    watched: (begun: Worker): Worker => {
      children.add(begun.child)
      void begun.ended.then(() => children.delete(begun.child))
      return begun
    },
  }
}
