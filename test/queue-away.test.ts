/** @file Servers of a queue that are away when a process begins, or for good when it is told to end; and a job that takes its
 * workers with it. */
import type { ChildProcess } from "node:child_process"
import { existsSync, readdirSync, readFileSync, writeFileSync } from "node:fs"
import { setTimeout as wait } from "node:timers/promises"
import { describe, expect, it } from "vitest"
import { openBullmq } from "../src/jobs/bullmq.ts"
import { reach, serverAt } from "../src/jobs/server.ts"
import { killing, makeModel, makeModels, readReport, vitPrisma } from "./helpers/batch.ts"
import { queueScene } from "./helpers/queue-scene.ts"
import { SERVERS } from "./helpers/servers.ts"
import { startWorker, type Worker } from "./helpers/workers.ts"

const { scratch, at, open, children, watched } = queueScene()

const env = killing(scratch)

function worker(url: string, more: readonly string[] = [], onBegin?: (slug: string) => void): Worker {
  return watched(
    startWorker(["--queue", url, "--root", scratch, "--jobs", "1", "--memory", "512M", ...more], env, onBegin),
  )
}

function producer(url: string, list: string, out: string): Pick<Worker, "child" | "ended"> {
  let child: ChildProcess | undefined
  const args = ["convert", "--from", at(list, "list.txt"), "--out", at(out), "--queue", url, "--json"]
  const ended = vitPrisma(args, { env, started: (begun) => children.add((child = begun)) }).then(({ code }) => code)
  return { child: child!, ended }
}

const until = async (holds: () => boolean): Promise<void> => {
  while (!holds()) await wait(20)
}

/** Has a job's process begun to write below this folder? */
const isAtWork = (out: string): boolean =>
  existsSync(at(out)) && readdirSync(at(out)).some((n) => n.startsWith(".killer-late.tmp-"))

/** Tell a process to end, once or twice; its exit code and the seconds that it took, or what it is told after 40 s. */
async function told(
  { child, ended }: Pick<Worker, "child" | "ended">,
  signal: NodeJS.Signals,
  times: number,
): Promise<{ code: unknown; seconds: number }> {
  const began = performance.now()
  child.kill(signal)
  // Two at once are one.
  if (times > 1) void wait(1000).then(() => child.kill(signal))
  const code = await Promise.race([ended, wait(40_000, "still there")])
  return { code, seconds: (performance.now() - began) / 1000 }
}

describe.each(SERVERS)("at $name", ({ name, here, open: begin }) => {
  it.skipIf(!here)(
    "a worker whose first connections failed works when the server is back (QU-05)",
    { timeout: 60_000 },
    async () => {
      const server = await begin()
      open.push(server)
      const named = await serverAt(server.url)
      await reach(named)
      await server.kill()
      const bull = await openBullmq(named, "early", () => {})
      const done: unknown[] = []
      bull.worker(async ({ data }) => done.push(data.job), { runRetryDelay: 100 })
      await wait(1000)
      await server.start()
      await bull.queue.add("x", { job: "first" })
      await until(() => done.length === 1)
      await bull.close()
    },
  )

  /** Seconds; the default is waited for once. */
  const grace = name === "Redis" ? 25 : 1

  it.skipIf(!here)(
    "whoever is told to end while the server is away for good ends within 30 s, told twice or idle at once (QU-05, QU-10)",
    { timeout: 150_000 },
    async () => {
      const server = await begin()
      open.push(server)
      const out = (which: string) => `away-${name}-${which}`
      const producers = ["once", "twice"].map((which) => {
        makeModel(at(which, "killer-late"), 1)
        writeFileSync(at(which, "list.txt"), at(which, "killer-late"))
        return producer(server.url, which, out(which))
      })
      const busy = [0, 1].map(() => worker(server.url, grace === 25 ? [] : ["--grace", `${grace}`]))
      await until(() => ["once", "twice"].every((which) => isAtWork(out(which))))
      const idle = [worker(server.url), worker(server.url)]
      await Promise.all(idle.map((w) => w.says("works for")))
      await server.kill()
      // Each is now between two tries to connect, most of the time.
      await wait(2500)

      const all = (who: readonly Pick<Worker, "child" | "ended">[], signal: NodeJS.Signals) =>
        Promise.all(who.map((one, i) => told(one, signal, i + 1)))
      const [commands, idlers, [patient, hurried]] = await Promise.all([
        all(producers, "SIGINT"),
        all(idle, "SIGTERM"),
        all(busy, "SIGTERM"),
      ])
      expect([...commands, ...idlers, patient!, hurried!].map(({ code }) => code)).toEqual([
        130, 130, 143, 143, 143, 143,
      ])
      // They take 1 to 3 s.
      for (const { seconds } of [...commands, ...idlers, hurried!]) expect(seconds).toBeLessThan(15)
      expect(patient!.seconds).toBeGreaterThan(grace - 1)
      expect(patient!.seconds).toBeLessThan(30)
      for (const w of busy) {
        await w.says(`what runs may finish, for at most ${grace} s`)
        await w.says("cannot give back killer-late-")
      }
      for (const which of ["once", "twice"]) {
        expect(readReport(at(out(which))).models).toMatchObject([{ state: "left" }])
        expect(isAtWork(out(which))).toBe(false)
      }
    },
  )

  it.skipIf(!here)(
    "a job at which nine workers died is given to no tenth and says so; the others are done (QU-02)",
    { timeout: 120_000 },
    async () => {
      const server = await begin()
      open.push(server)
      const [list, out] = [`deadly-${name}`, `deadly-out-${name}`]
      const names = makeModels(at(list), 4, ["killer-hang"])
      writeFileSync(env.PUBLISHED, "")
      let deaths = 0
      const replaced = (): Worker => {
        const one = worker(server.url, ["--lock", "1"], (slug) => {
          if (slug !== "killer-hang") return
          deaths++
          one.child.kill("SIGKILL")
          last = replaced()
        })
        return one
      }
      let last = replaced()
      const code = await producer(server.url, list, out).ended
      const { counts, models } = readReport(at(out))
      expect([code, deaths, counts["failed"], counts["done"]! + counts["already"]!]).toEqual([1, 9, 1, 3])
      const { message } = models.find(({ output }) => output === "killer-hang")!
      expect(models.map(({ output }) => output)).toEqual(names)
      expect(models.find(({ output }) => output === "killer-hang")).toMatchObject({
        state: "failed",
        code: "E_WORKER_CRASH",
      })
      expect(message).toMatch(/^9 workers, .* died at this job .* the same command tries it again$/)
      const made = readFileSync(env.PUBLISHED, "utf8")
        .split("\n")
        .filter((n) => n.startsWith("m") && !n.includes("."))
      expect(made.sort()).toEqual(names.filter((n) => n !== "killer-hang"))
      last.child.kill("SIGTERM")
      expect(await last.ended).toBe(143)
    },
  )
})
