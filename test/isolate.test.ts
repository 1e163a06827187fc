/** @file Jobs in processes of their own: whatever ends a process, its job fails by name and the others finish. */
import { spawn } from "node:child_process"
import { existsSync, mkdtempSync, readFileSync, rmSync, writeFileSync } from "node:fs"
import { tmpdir } from "node:os"
import { join } from "node:path"
import { pathToFileURL } from "node:url"
import { afterAll, describe, expect, it } from "vitest"
import type * as Isolate from "../src/jobs/isolate.ts"
import type { Job, JobResult } from "../src/jobs/job.ts"
import type * as Local from "../src/jobs/local.ts"
import type * as Memory from "../src/jobs/memory.ts"
import type * as Pools from "../src/jobs/pool.ts"
import type { PrismaError as PrismaErrorClass } from "../src/errors.ts"
import { root, twoAtATime } from "./helpers/cli.ts"

// A forked process runs JavaScript: the built module.
const built = (name: string): string => pathToFileURL(join(root, `dist/src/jobs/${name}.js`)).href
const { inChild, isolated } = (await import(built("isolate"))) as typeof Isolate
const { openPool } = (await import(built("pool"))) as typeof Pools
const { localRunner } = (await import(built("local"))) as typeof Local
const { memoryBudget, privateBytes, PROCESS_BYTES } = (await import(built("memory"))) as typeof Memory

const { PrismaError } = (await import(pathToFileURL(join(root, "dist/src/errors.js")).href)) as {
  PrismaError: typeof PrismaErrorClass
}

const scratch = mkdtempSync(join(tmpdir(), "vit-prisma-jobs-"))
afterAll(() => rmSync(scratch, { recursive: true }))

const JOB = `
import { appendFileSync } from "node:fs"
import { PrismaError } from ${JSON.stringify(pathToFileURL(join(root, "dist/src/errors.js")).href)}
const held = []
const killers = {
  pid: () => process.pid,
  reserve: async ({ bytes, log, n }, { reserve }) => {
    await reserve(bytes)
    appendFileSync(log, "+" + bytes + "\\n")
    await new Promise((done) => setTimeout(done, 30))
    appendFileSync(log, "-" + bytes + "\\n")
    return n
  },
  // Buffers, which no limit of the heap concerns.
  buffers: async ({ bytes, reserved }, { reserve }) => {
    if (reserved) await reserve(reserved)
    for (let n = 0; n < bytes; n += 1 << 22) {
      held.push(Buffer.alloc(1 << 22, 1))
      await new Promise((done) => setTimeout(done, 5))
    }
    return held.length
  },
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
export default async (args, context) => {
  console.log("noise"); console.error("noise")
  return killers[args.how](args, context)
}
`
const path = join(scratch, "job.mjs")
writeFileSync(path, JOB)
const module = pathToFileURL(path)

const LIMITS = { timeoutMs: 6500, maxOldSpaceMb: 40 }

describe("a job", () => {
  it("gives its result, as JSON", async () => {
    expect(await inChild(module, { how: "double", n: 21 })).toEqual({ n: 42 })
    expect(await inChild(module, { how: "nothing" })).toBeNull()
  })

  it("is a typed error whatever ends its process, and says what did", async () => {
    const crash = (what: string, retryable = true) => ({
      code: "E_WORKER_CRASH",
      message: `the job${what}`,
      retryable,
    })
    const cases: [string, object][] = [
      ["exit", crash("'s process ended with exit code 1")],
      ["exit0", crash("'s process ended with exit code 0")],
      ["lost", crash("'s process ended with exit code 1")],
      ["segfault", crash("'s process was ended by SIGSEGV")],
      ["kill", crash("'s process was ended by SIGKILL")],
      ["heap", crash(" ran out of memory (the heap is limited to 40 MiB)")],
      ["hang", crash(" did not end within 6.5 s and was stopped", false)],
      ["wait", crash(" did not end within 6.5 s and was stopped", false)],
      ["throws", crash(" threw TypeError: x is not y", false)],
      ["bigint", crash(" threw TypeError: Do not know how to serialize a BigInt", false)],
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

describe("a process that is kept", () => {
  it("does one job after another, whatever they throw, until it is told to end", async () => {
    const own = isolated(module)
    expect(await own.ask({ how: "pid" })).toBe(own.pid)
    await expect(own.ask({ how: "refuses" })).rejects.toMatchObject({ code: "E_CONFIG" })
    await expect(own.ask({ how: "throws" })).rejects.toMatchObject({ code: "E_WORKER_CRASH", retryable: false })
    expect(await own.ask({ how: "double", n: 4 })).toEqual({ n: 8 })
    expect([own.alive, own.jobs]).toEqual([true, 4])
    await own.end()
    expect(own.alive).toBe(false)
    await expect(own.ask({ how: "pid" })).rejects.toMatchObject({ code: "E_WORKER_CRASH" })
    expect(() => process.kill(own.pid, 0)).toThrow("ESRCH")
  })

  it("is killed with the reason that is given, and leaves no process behind", async () => {
    const own = isolated(module)
    const asked = own.ask({ how: "hang" })
    setTimeout(() => own.kill(new PrismaError("E_INTERRUPTED", "stopped")), 100)
    await expect(asked).rejects.toMatchObject({ code: "E_INTERRUPTED", message: "stopped" })
    expect(() => process.kill(own.pid, 0)).toThrow("ESRCH")
  })

  it.skipIf(process.platform !== "linux")(
    "ends with the process that began it, also where it hears of nothing",
    async () => {
      const parent = `
      import { isolated } from ${JSON.stringify(built("isolate"))}
      const own = isolated(new URL(${JSON.stringify(module.href)}))
      own.ask({ how: "hang" })
      console.log(own.pid)`
      const child = spawn(process.execPath, ["--input-type=module", "--eval", parent], {
        stdio: ["ignore", "pipe", "inherit"],
      })
      const pid = Number(await new Promise((said) => child.stdout.setEncoding("utf8").once("data", said)))
      // Once it is at its job, of which no more can be heard than that it computes.
      while ((Number(readFileSync(`/proc/${pid}/stat`, "utf8").split(" ")[13]) || 0) < 60)
        await new Promise((done) => setTimeout(done, 20))
      process.kill(pid, 0)
      child.kill("SIGKILL")
      const gone = () => !existsSync(`/proc/${pid}/fd/0`)
      for (let i = 0; i < 400 && !gone(); i++) await new Promise((done) => setTimeout(done, 20))
      expect(gone()).toBe(true)
    },
  )
})

const MIB = 2 ** 20

describe("jobs that end every process they are given", () => {
  it.each([
    ["no option", 2, {}],
    ["two retries", 3, { retries: 2 }],
  ])("with %s are begun %d times each; however many there are, the others are done", async (_, times, options) => {
    const killers = ["exit", "segfault", "kill", "exit0"]
    const hows = ["double", ...killers, "double"]
    // What `pool.run` gets is the job and what stands in it besides.
    const jobs = hows.map((how, i): Job & { how: string } => {
      const about = { name: how, model: how, out: scratch, slug: `${i}-${how}-${times}` }
      return { kind: "convert", ...about, how }
    })
    const runner = localRunner({ workers: 1, memory: 600 * MIB, module, ...options })
    const [begun, ended]: [string[], JobResult[]] = [[], []]
    const never = new AbortController().signal
    const on = { started: ({ name }: Job) => begun.push(name), ended: (result: JobResult) => ended.push(result) }
    await runner.run(jobs, on, { stop: never, kill: never })
    await runner.close()
    expect(begun).toEqual(hows.flatMap((how) => Array.from({ length: how === "double" ? 1 : times }, () => how)))
    expect(ended.map(({ job, state, attempts, error }) => [job.name, state, attempts, error?.code])).toEqual(
      hows.map((how) => (how === "double" ? [how, "done", 1, undefined] : [how, "failed", times, "E_WORKER_CRASH"])),
    )
  })
})

/** Only Linux tells what a process holds. */
const WATCHED = process.platform === "linux"

describe("a pool", () => {
  const open = (options: Partial<Pools.PoolOptions> = {}) =>
    openPool({ workers: 1, memory: 600 * MIB, module, ...options })

  it("keeps a process through jobs, and has another within a second of a crash", async () => {
    const pool = open()
    const pid = await pool.run({ how: "pid" })
    expect(await pool.run({ how: "pid" })).toBe(pid)
    const after: number[] = []
    for (const how of ["segfault", "exit", "kill"]) {
      await expect(pool.run({ how })).rejects.toMatchObject({ code: "E_WORKER_CRASH", retryable: true })
      const crashed = performance.now()
      expect(await pool.run({ how: "double", n: 1 })).toEqual({ n: 2 })
      after.push(performance.now() - crashed)
    }
    // Of three: a busy machine may take its time.
    expect(Math.min(...after)).toBeLessThan(1000)
    expect(await pool.run({ how: "pid" }, { fresh: true })).not.toBe(pid)
    await pool.close()
  })

  it.skipIf(!WATCHED)(
    "stops a job that holds more than it may, of whatever kind of memory, and lets one that asked for it go on",
    async () => {
      const pool = open({ memory: PROCESS_BYTES + 240 * MIB })
      const first = {
        code: "E_MEMORY_BUDGET",
        message: expect.stringMatching(/held 4\d\d MiB .* may hold 400, /) as string,
      }
      await expect(pool.run({ how: "buffers", bytes: 1200 * MIB })).rejects.toMatchObject({
        ...first,
        retryable: false,
      })
      // What other jobs left in the process may be at fault.
      await pool.run({ how: "nothing" })
      await expect(pool.run({ how: "buffers", bytes: 1200 * MIB })).rejects.toMatchObject({ ...first, retryable: true })
      const more = { how: "buffers", reserved: 300 * MIB, bytes: 100 * MIB }
      await expect(pool.run(more)).rejects.toMatchObject({
        code: "E_MEMORY_BUDGET",
        message: expect.stringContaining("needs about 300 MiB, the budget of all jobs is 240 MiB") as string,
      })
      expect(await pool.run({ ...more, reserved: 240 * MIB })).toBe(25)
      await pool.close()
    },
  )

  it("never lets more be reserved than there is, and lets all who wait have their turn", async () => {
    const log = join(scratch, "reserved")
    const workers = 4
    const free = 600 * MIB
    const pool = open({ workers, memory: workers * PROCESS_BYTES + free })
    const sizes = [1, 500, 1, 300, 300, 600, 1, 1, 150, 450, 1, 300, 2, 550, 1, 1].map((n) => n * MIB)
    const lane = async (k: number) => {
      for (let i = k; i < sizes.length; i += workers) await pool.run({ how: "reserve", bytes: sizes[i], log, n: i })
    }
    await Promise.all([0, 1, 2, 3].map(lane))
    await pool.close()
    // Each has at least an equal share of it.
    let [now, most, together, running] = [0, 0, 0, 0]
    for (const line of readFileSync(log, "utf8").trim().split("\n")) {
      now += Math.sign(Number(line)) * Math.max(Math.abs(Number(line)), free / workers)
      running += Math.sign(Number(line))
      most = Math.max(most, now)
      together = Math.max(together, running)
    }
    expect(now).toBe(0)
    expect(most).toBeLessThanOrEqual(free)
    expect(together).toBeGreaterThan(1)
  })

  it("ends a job at a signal, and refuses what cannot be", async () => {
    const pool = open({ workers: 2, timeoutMs: 60_000 })
    const stop = new AbortController()
    const hanging = pool.run({ how: "hang" }, { signal: stop.signal })
    setTimeout(() => stop.abort(), 100)
    await expect(hanging).rejects.toMatchObject({ code: "E_INTERRUPTED" })
    await expect(pool.run({ how: "nothing" }, { signal: stop.signal })).rejects.toMatchObject({ code: "E_INTERRUPTED" })
    await pool.close()
    for (const workers of [0, 1.5, Number.NaN]) expect(() => open({ workers })).toThrow("workers must be 1 or more")
    expect(() => memoryBudget(300 * MIB, 2)).toThrow("2 processes need 384 MiB, the budget is 300 MiB")
  })

  it.skipIf(!WATCHED)("knows what a process holds alone, not the files that it looks at", async () => {
    const before = (await privateBytes(process.pid))!
    const bytes = Buffer.alloc(64 * MIB, 1)
    const after = (await privateBytes(process.pid))!
    expect(after - before).toBeGreaterThan(50 * MIB)
    expect(bytes.length).toBe(64 * MIB)
    expect(await privateBytes(2 ** 22 + 1)).toBeUndefined()
  })
})
