/** @file Jobs in processes of their own: whatever ends a process, its job fails by name and the others finish. */
import { mkdtempSync, readFileSync, rmSync, writeFileSync } from "node:fs"
import { tmpdir } from "node:os"
import { join } from "node:path"
import { pathToFileURL } from "node:url"
import { afterAll, describe, expect, it } from "vitest"
import type * as Isolate from "../src/jobs/isolate.ts"
import { root, twoAtATime } from "./helpers/cli.ts"

// A forked process runs JavaScript: the built module.
const built = pathToFileURL(join(root, "dist/src/jobs/isolate.js")).href
const { inChild, pool } = (await import(built)) as typeof Isolate

const scratch = mkdtempSync(join(tmpdir(), "vit-prisma-jobs-"))
afterAll(() => rmSync(scratch, { recursive: true }))

const JOB = `
import { appendFileSync } from "node:fs"
import { PrismaError } from ${JSON.stringify(pathToFileURL(join(root, "dist/src/errors.js")).href)}
const killers = {
  double: ({ n }) => ({ n: 2 * n }),
  nothing: () => {},
  exit: () => process.exit(1),
  exit0: () => process.exit(0),
  segfault: () => process.kill(process.pid, "SIGSEGV"),
  kill: () => process.kill(process.pid, "SIGKILL"),
  heap: () => { for (const all = []; ; ) all.push(Array(1000).fill(Math.random())) },
  hang: () => { for (;;); },
  wait: () => new Promise(() => setInterval(() => {}, 1000)),
  lost: () => { Promise.reject(new Error("lost")); return new Promise((done) => setTimeout(done, 1000)) },
  throws: () => { throw new TypeError("x is not y") },
  refuses: () => { throw new PrismaError("E_CONFIG", "config.json: bad", { file: "config.json" }) },
  bigint: () => 1n,
}
export default async ({ how, log, ...args }) => {
  if (log) appendFileSync(log, how + " " + Date.now() + "\\n")
  console.log("noise"); console.error("noise")
  return killers[how](args)
}
`
const path = join(scratch, "job.mjs")
writeFileSync(path, JOB)
const module = pathToFileURL(path)

const LIMITS = { timeoutMs: 1500, maxOldSpaceMb: 40 }

describe("a job", () => {
  it("gives its result, as JSON", async () => {
    expect(await inChild(module, { how: "double", n: 21 })).toEqual({ n: 42 })
    expect(await inChild(module, { how: "nothing" })).toBeNull()
  })

  it("is a typed error whatever ends its process, and says what did", async () => {
    const crash = (what: string, retryable = true) => ({
      code: "E_WORKER_CRASH",
      message: `job ${path}: ${what}`,
      retryable,
    })
    const cases: [string, object][] = [
      ["exit", crash("ended with exit code 1 and no result")],
      ["exit0", crash("ended with exit code 0 and no result")],
      ["lost", crash("ended with exit code 1 and no result")],
      ["segfault", crash("was ended by SIGSEGV")],
      ["kill", crash("was ended by SIGKILL")],
      ["heap", crash("ran out of memory (its heap is limited to 40 MiB)")],
      ["hang", crash("did not end within 1500 ms and was stopped")],
      ["wait", crash("did not end within 1500 ms and was stopped")],
      ["throws", crash("threw TypeError: x is not y", false)],
      ["bigint", crash("threw TypeError: Do not know how to serialize a BigInt", false)],
      ["refuses", { code: "E_CONFIG", message: "config.json: bad", file: "config.json", exitCode: 1 }],
    ]
    const got = await twoAtATime(cases, ([how]) => inChild(module, { how }, LIMITS).catch((error: unknown) => error))
    for (const [i, [how, want]] of cases.entries()) {
      expect((got[i] as Error).name, how).toBe("PrismaError")
      expect(got[i], how).toMatchObject(want)
    }
  })

  it("whose module is not there says so", async () => {
    const error = inChild(new URL("nowhere.mjs", module), {})
    await expect(error).rejects.toMatchObject({
      code: "E_WORKER_CRASH",
      message: expect.stringContaining("Cannot find"),
    })
  })
})

describe("a pool", () => {
  it("finishes the others, begins a crashed job again within a second and stops it after three crashes", async () => {
    const log = join(scratch, "log")
    const killers = ["exit", "segfault", "kill", "heap"]
    const jobs = [...killers, "double", "throws", "double", "refuses", "double", "double"].map((how, n) => ({
      module,
      args: { how, n, log },
    }))
    const outcomes = await pool(jobs, { workers: 2, ...LIMITS })
    expect(outcomes.map((o) => o.error?.code ?? o.value)).toEqual([
      ...killers.map(() => "E_WORKER_CRASH"),
      { n: 8 },
      "E_WORKER_CRASH",
      { n: 12 },
      "E_CONFIG",
      { n: 16 },
      { n: 18 },
    ])
    expect(outcomes.map((o) => o.crashes)).toEqual([3, 3, 3, 3, 0, 0, 0, 0, 0, 0])
    const begun = readFileSync(log, "utf8").trim().split("\n")
    for (const how of killers) {
      const times = begun.filter((line) => line.startsWith(`${how} `)).map((line) => Number(line.split(" ")[1]))
      expect(times).toHaveLength(3)
      // Between the beginnings of two attempts lies also the time that the job itself takes to crash.
      if (how !== "heap") expect(Math.max(times[1]! - times[0]!, times[2]! - times[1]!)).toBeLessThan(1000)
    }
  })

  it("goes on after a job that recovers, and refuses to have no workers", async () => {
    const flaky = join(scratch, "flaky.mjs")
    const marker = JSON.stringify(join(scratch, "marker"))
    writeFileSync(
      flaky,
      `import { existsSync, writeFileSync } from "node:fs"
       export default () => existsSync(${marker}) ? "done" : (writeFileSync(${marker}, ""), process.exit(9))`,
    )
    const [outcome] = await pool([{ module: pathToFileURL(flaky), args: {} }], { workers: 1 })
    expect(outcome).toEqual({ value: "done", crashes: 1 })
    await expect(pool([], { workers: 0 })).rejects.toMatchObject({ code: "E_USAGE" })
  })
})
