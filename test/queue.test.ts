/** @file Batches through BullMQ over Redis and over PostgreSQL, real servers: workers that are killed, servers that go and come
 * back, jobs that are called off. */
import { mkdirSync, readdirSync, readFileSync, rmSync, writeFileSync } from "node:fs"
import { join } from "node:path"
import { Queue } from "bullmq"
import { Redis } from "ioredis"
import { beforeAll, describe, expect, it } from "vitest"
import { checkManifest } from "../src/files/manifest.ts"
import { type Bullmq, openBullmq } from "../src/jobs/bullmq.ts"
import { type Job, jobFrom, type JobValue } from "../src/jobs/job.ts"
import { optional } from "../src/jobs/optional.ts"
import { idOf, QUEUE_NAME } from "../src/jobs/queue-runner.ts"
import { reach, serverAt } from "../src/jobs/server.ts"
import { BAD, KILLERS, killing, makeModel, makeModels, readReport, stamps, vitPrisma } from "./helpers/batch.ts"
import { breakingWay } from "./helpers/breaking.ts"
import { startHub, type TestHub } from "./helpers/hub/index.ts"
import { queueScene } from "./helpers/queue-scene.ts"
import { SERVERS, type TestServer } from "./helpers/servers.ts"
import { thrown } from "./helpers/thrown.ts"
import { drawn, fleet, startWorker, type Worker } from "./helpers/workers.ts"

const { scratch, at, open, watched } = queueScene()

const env = killing(scratch)
const SHORT = ["--jobs", "1", "--lock", "2", "--timeout", "15", "--memory", "512M"]

function worker(url: string, more: readonly string[] = [], onBegin?: (slug: string) => void): Worker {
  return watched(startWorker(["--queue", url, "--root", scratch, ...SHORT, ...more], env, onBegin))
}

const produce = (url: string, list: string, out: string, ...more: string[]) =>
  vitPrisma(["convert", "--from", at(list, "list.txt"), "--out", at(out), "--queue", url, "--json", ...more], { env })

const published = (): string[] => {
  const text = readFileSync(env.PUBLISHED, "utf8")
  return text.trim().split("\n").filter((name) => !name.startsWith("report") && !name.includes(".")) // prettier-ignore
}

const until = async (holds: () => boolean): Promise<void> => {
  while (!holds()) await new Promise((done) => setTimeout(done, 20))
}

const folderNames = (out: string): string[] => {
  try {
    return readdirSync(at(out))
  } catch {
    return []
  }
}

for (const { name, here, install } of SERVERS) {
  if (!here) console.warn(`queues over ${name} are not tested: it is not on this machine (${install})`)
}

/** Of what is drawn; another each time, unless it is given to see a failure again. */
const seed = Number(process.env["CHAOS_SEED"] ?? Math.floor(Math.random() * 2 ** 32))

describe.each(SERVERS)("through $name", ({ name, here, open: begin }) => {
  const bad = [...KILLERS, ...Object.keys(BAD)]
  const [count, kills] = [60, 12]
  let server: TestServer
  beforeAll(async () => {
    if (here) open.push((server = await begin()))
  })
  const out = `out-${name}`

  it.skipIf(!here)(
    `${count} models, seven of them killers or bad, ${kills} workers killed at random: none is lost, none made twice, and a rerun touches the seven alone (QU-01, QU-02, QU-04, QU-09)`,
    { timeout: 240_000 },
    async ({ onTestFailed }) => {
      onTestFailed(() => console.error(`what was drawn came from CHAOS_SEED=${seed}`))
      const list = `models-${name}`
      const names = makeModels(at(list), count, bad)
      writeFileSync(env.PUBLISHED, "")
      const about = { size: 2, jobs: count, kills, random: drawn(seed) }
      const crew = fleet(about, (onBegin) => worker(server.url, [], onBegin))
      const { code, stdout, stderr } = await produce(server.url, list, out)
      crew.calm()
      expect(stdout, stderr).not.toBe("")
      const { counts, models } = JSON.parse(stdout) as ReturnType<typeof readReport>
      const good = names.filter((n) => !bad.includes(n))
      expect([code, counts["failed"], counts["done"]! + counts["already"]!, crew.killed]).toEqual([
        1,
        bad.length,
        good.length,
        kills,
      ])
      expect(models.map(({ output }) => output)).toEqual(names)
      const codes = Object.fromEntries(models.filter((m) => m.state === "failed").map((m) => [m.output, m.code]))
      expect(codes).toEqual({
        "killer-segfault": "E_WORKER_CRASH",
        "killer-exit": "E_WORKER_CRASH",
        "killer-hang": "E_WORKER_CRASH",
        "killer-memory": "E_MEMORY_BUDGET",
        ...BAD,
      })
      for (const n of good) expect(await checkManifest(at(out, n)), n).toBe(true)
      expect(published().sort()).toEqual(good.sort())
      for (const { child } of crew.running) child.kill("SIGTERM")
      expect(await Promise.all(crew.running.map((w) => w.ended))).toEqual([143, 143])
      expect(folderNames(out).filter((n) => n.includes(".tmp-"))).toEqual([])

      const before = stamps(at(out))
      const drain = worker(server.url, ["--drain", "--jobs", "2"])
      const again = await produce(server.url, list, out, "--retries", "0")
      const { counts: then } = JSON.parse(again.stdout) as ReturnType<typeof readReport>
      expect(then).toMatchObject({ already: good.length, failed: bad.length })
      expect(published().sort()).toEqual(good.sort())
      const after = stamps(at(out))
      const changed = Object.keys({ ...before, ...after }).filter((n) => after[n] !== before[n])
      expect(changed.sort()).toEqual(["report.json", "report.md"])
      expect(await drain.ended).toBe(0)
    },
  )

  it.skipIf(!here)(
    "a job whose worker is killed is given to another, and done once (QU-02)",
    { timeout: 120_000 },
    async () => {
      const list = `one-${name}`
      makeModel(at(list, "killer-slow"), 1)
      writeFileSync(at(list, "list.txt"), at(list, "killer-slow"))
      writeFileSync(env.PUBLISHED, "")
      const first = worker(server.url)
      const done = produce(server.url, list, `${out}-one`)
      await until(() => folderNames(join(`${out}-one`, ".batch")).includes("killer-slow.lock"))
      first.child.kill("SIGKILL")
      const second = worker(server.url)
      const { code } = await done
      expect(code).toBe(0)
      expect(readReport(at(`${out}-one`)).models).toMatchObject([{ state: "done", attempts: 2 }])
      expect(published()).toEqual(["killer-slow"])
      second.child.kill("SIGTERM")
      await second.ended
    },
  )

  it.skipIf(!here)(
    "a connection that breaks when a job's end is told: the job is done, not failed, and once (QU-05)",
    { timeout: 120_000 },
    async () => {
      const list = `told-${name}`
      makeModels(at(list), 4)
      writeFileSync(env.PUBLISHED, "")
      // Twice for one job: a failure that counted as the job's own would use up its attempts.
      const way = await breakingWay(server.url, '"bytes":', ["unheard", "unheard", "unanswered"])
      open.push({ remove: () => way.close() })
      const breaking = worker(way.url, ["--lock", "4"])
      const { code, stdout } = await produce(server.url, list, `${out}-told`, "--retries", "0")
      expect([code, way.left()], stdout).toEqual([0, 0])
      expect(published().sort()).toEqual(["m0000", "m0001", "m0002", "m0003"])
      breaking.child.kill("SIGTERM")
      expect(await breaking.ended).toBe(143)
    },
  )

  it.skipIf(!here)(
    "a job that has lost its worker is the next, whatever waits (G32)",
    { timeout: 120_000 },
    async () => {
      const at = await serverAt(server.url)
      await reach(at)
      const bull = await openBullmq(at, "order", () => {})
      for (const jobId of ["a", "b", "c"]) await bull.queue.add(jobId, { job: jobId }, { jobId })
      await bull.first("c")
      await bull.first("of none")
      const done: unknown[] = []
      bull.worker(async ({ data }) => done.push(data.job), {})
      await until(() => done.length === 3)
      await bull.close()
      expect(done).toEqual(["c", "a", "b"])
    },
  )

  it.skipIf(!here)(
    "a worker that is told to end, twice or once and its grace is over, gives back what it is at (QU-10, QU-13)",
    { timeout: 120_000 },
    async () => {
      const list = `late-${name}`
      makeModel(at(list, "killer-late"), 1)
      writeFileSync(at(list, "list.txt"), at(list, "killer-late"))
      const half = () => folderNames(`${out}-late`).some((n) => n.startsWith(".killer-late.tmp-"))
      const first = worker(server.url, ["--timeout", "60"])
      const done = produce(server.url, list, `${out}-late`)
      await until(half)
      first.child.kill("SIGTERM")
      // Two at once are one.
      await first.says("may finish")
      first.child.kill("SIGTERM")
      await first.says("given back")
      expect(await first.ended).toBe(143)
      expect(half()).toBe(false)

      // Another takes it, and is told once.
      const patient = worker(server.url, ["--timeout", "60", "--grace", "1"])
      await until(half)
      patient.child.kill("SIGTERM")
      await patient.says("for at most 1 s")
      await patient.says("given back")
      expect([await patient.ended, half()]).toEqual([143, false])

      // A third takes it; then it is called off.
      const second = worker(server.url, ["--timeout", "60"])
      await until(half)
      const began = performance.now()
      expect((await produce(server.url, list, `${out}-late`, "--cancel")).code).toBe(0)
      await until(() => !half())
      expect(performance.now() - began).toBeLessThan(5000)
      expect((await done).code).toBe(1)
      expect(readReport(at(`${out}-late`)).models).toMatchObject([{ state: "cancelled" }])
      second.child.kill("SIGTERM")
      expect(await second.ended).toBe(143)
    },
  )

  it.skipIf(!here)(
    "a server that is gone: a producer is told, a worker waits; all comes back (QU-05)",
    { timeout: 180_000 },
    async () => {
      const list = `gone-${name}`
      makeModels(at(list), 6)
      await server.kill()
      const refused = await produce(server.url, list, `${out}-gone`)
      expect([refused.code, refused.seconds < 15, JSON.parse(refused.stderr)]).toMatchObject([
        4,
        true,
        { code: "E_QUEUE", retryable: true },
      ])
      const waiting = worker(server.url)
      await waiting.says("waits for it")
      await server.start()
      await waiting.says("works for")
      const done = produce(server.url, list, `${out}-gone`)
      await until(() => folderNames(`${out}-gone`).some((n) => n.startsWith("m")))
      // In the middle of all; Redis keeps nothing and has forgotten the jobs.
      await server.kill()
      await server.start()
      const { code, stdout } = await done
      const { counts } = JSON.parse(stdout) as ReturnType<typeof readReport>
      expect([code, counts["done"]! + counts["already"]!], stdout).toEqual([0, 6])
      waiting.child.kill("SIGTERM")
      expect(await waiting.ended).toBe(143)
    },
  )
})

describe.each(SERVERS)("a job that two workers of $name have at once", ({ name, here, open: begin }) => {
  const out = `twice-out-${name}`
  let server: TestServer
  let hub: TestHub
  let queue: Bullmq["queue"]
  beforeAll(async () => {
    if (!here) return
    open.push((server = await begin()))
    hub = await startHub({ root: at(`hub-${name}`) })
    open.push({ remove: () => hub.close() })
    const named = await serverAt(server.url)
    await reach(named)
    const bull = await openBullmq(named, QUEUE_NAME, () => {})
    queue = bull.queue
    open.push({ remove: () => bull.close() })
  })
  const cache = at(`cache-${name}`)
  const pushing = () => ({ HF_ENDPOINT: hub.url, HF_TOKEN: "hf_write", HF_HUB_OFFLINE: "0", HF_HUB_CACHE: cache })
  const working = (more: Readonly<Record<string, string>>) => {
    return watched(startWorker(["--queue", server.url, "--root", scratch, ...SHORT], { ...pushing(), ...more }))
  }
  const job = (slug: string): Job => {
    const model = makeModel(at("twice", slug), 3)
    return { kind: "convert", name: slug, model, out: at(out), slug, push: "owner" }
  }
  const ended = (id: string) => queue.getJob(id).then(async (found) => ({ state: await found?.getState(), value: found?.returnvalue as unknown })) // prettier-ignore
  const commits = (slug: string) => hub.commits(`owner/${slug}`).length
  const posted = (slug: string) =>
    hub.requests.filter(({ method, path }) => method === "POST" && path.includes(`/owner/${slug}/commit/`)).length

  it.skipIf(!here)("is made and pushed once; the second finds it done (QU-01)", { timeout: 60_000 }, async () => {
    writeFileSync(env.PUBLISHED, "")
    rmSync(`${env.PUBLISHED}.gate`, { force: true })
    const both = [working(env), working(env)]
    const data = { job: job("killer-gate") }
    await queue.addBulk(["first", "second"].map((jobId) => ({ name: "x", data, opts: { jobId } })))
    await Promise.all(both.map((w) => w.says("begins killer-gate")))
    const half = () => folderNames(out).filter((n) => n.startsWith(".killer-gate.tmp-")).length
    await until(() => half() > 0)
    // One is in the midst of it; for as long as a process takes to begin, the other is not.
    const late = performance.now() + 2000
    await until(() => half() > 1 || performance.now() > late)
    expect(half()).toBe(1)
    writeFileSync(`${env.PUBLISHED}.gate`, "")
    await Promise.race(both.map((w) => w.says("done killer-gate")))
    await Promise.race(both.map((w) => w.says("already killer-gate")))
    for (const { child } of both) child.kill("SIGTERM")
    expect(await Promise.all(both.map((w) => w.ended))).toEqual([143, 143])
    const values = (await Promise.all(["first", "second"].map(ended))).map(({ value }) => value as JobValue)
    const [made, again] = values[0]!.already ? values.toReversed() : values
    expect([made!.already, again]).toEqual([false, { ...made, already: true }])
    expect(made!.pushed).toMatch(/^[0-9a-f]{40}$/)
    expect(published()).toEqual(["killer-gate"])
    // That of the repo's making, and ours.
    expect([commits("killer-gate"), posted("killer-gate")]).toEqual([2, 1])
    expect(folderNames(out).sort()).toEqual([".batch", "killer-gate"])
  })

  it.skipIf(!here)("is left by the worker that has lost it, and that worker goes on", { timeout: 60_000 }, async () => {
    const half = () => folderNames(out).some((n) => n.startsWith(".killer-late.tmp-"))
    const first = working(env)
    await queue.add("x", { job: job("killer-late") }, { jobId: "late" })
    await until(half)
    // It stands still and shows no sign of life, while its process goes on.
    first.child.kill("SIGSTOP")
    const second = working({})
    await second.says("begins killer-late")
    first.child.kill("SIGCONT")
    await first.says("lost late")
    await second.says("done killer-late")
    second.child.kill("SIGTERM")
    expect(await second.ended).toBe(143)
    expect([(await ended("late")).state, half()]).toEqual(["completed", false])
    expect(await checkManifest(at(out, "killer-late"))).toBe(true)
    expect([commits("killer-late"), posted("killer-late")]).toEqual([2, 1])
    await queue.add("x", { job: job("next") }, { jobId: "next" })
    await first.says("done next")
    first.child.kill("SIGTERM")
    expect(await first.ended).toBe(143)
  })
})

describe.skipIf(!SERVERS[0]!.here)("what a worker refuses", () => {
  it("is what is no job, and what would write elsewhere", { timeout: 120_000 }, async () => {
    const server = await SERVERS[0]!.open()
    open.push(server)
    mkdirSync(at("home"))
    const connection = new Redis(server.url, { maxRetriesPerRequest: null })
    const queue = new Queue("vit-prisma", { connection })
    const job = { kind: "convert", name: "x", model: makeModel(at("refused/x")), out: at("home/out"), slug: "x" }
    const cases: [unknown, string | undefined][] = [
      [job, undefined],
      [{ ...job, out: at("elsewhere") }, "E_UNSAFE_PATH"],
      [{ ...job, out: at("home/../elsewhere") }, "E_UNSAFE_PATH"],
      [{ ...job, slug: "../x" }, "E_JOB_INVALID"],
      [{ ...job, slug: ".batch" }, "E_JOB_INVALID"],
      [{ ...job, kind: "__proto__" }, "E_JOB_INVALID"],
      [null, "E_JOB_INVALID"],
    ]
    await queue.addBulk(
      cases.map(([data], i) => ({ name: "x", data: { job: data }, opts: { jobId: `job-${i}`, attempts: 3 } })),
    )
    const args = ["worker", "--queue", server.url, "--root", at("home"), "--jobs", "1", "--drain", "--json"]
    expect((await vitPrisma(args)).code).toBe(0)
    for (const [i, [, code]] of cases.entries()) {
      const found = await queue.getJob(`job-${i}`)
      expect(/^\[(E_\w+)\]/.exec(found?.failedReason ?? "")?.[1], String(i)).toBe(code)
      expect(found?.attemptsMade).toBe(1)
    }
    expect(readdirSync(scratch)).not.toContain("elsewhere")
    expect(readdirSync(at("home/out"))).toEqual([".batch", "x"])
    await queue.close()
    connection.disconnect()
  })
})

describe("without a server", () => {
  const job: Job = { kind: "convert", name: "x", model: "x", out: "/out", slug: "x" }

  it("a job is known by all that it says", () => {
    expect(idOf(job)).toBe(idOf({ ...job }))
    expect(idOf({ ...job, certify: true })).not.toBe(idOf(job))
    expect(idOf(job)).toMatch(/^x-[0-9a-f]{16}$/)
    expect(jobFrom(JSON.parse(JSON.stringify(job)))).toEqual(job)
  })

  it("a package that is not installed is named with the command that installs it", async () => {
    const missing = "vit-prisma-has-no-such-package"
    const error = await thrown(optional(() => import(missing), "--queue redis://", "bullmq@6 ioredis@6"))
    expect(error).toMatchObject({ code: "E_USAGE" })
    expect(error.message).toContain("npm install bullmq@6 ioredis@6")
    await expect(optional(() => Promise.reject(new Error("other")), "x", "y")).rejects.toThrow("other")
  })

  it("an address is told without what is secret in it", async () => {
    expect((await serverAt("redis://user:secret@127.0.0.1:6379/2")).name).toBe("redis://127.0.0.1:6379/2")
    expect((await serverAt("postgres://user:secret@host/db?password=secret")).name).toBe("postgres://host/db")
    for (const url of ["http://a:secret@b", "secret", "file:///secret", ""]) {
      const error = await thrown(serverAt(url))
      expect([error.code, error.message.includes("secret")]).toEqual(["E_USAGE", false])
    }
  })
})
