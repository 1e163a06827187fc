/** @file Weights & Biases: the requests of its own client (recorded from wandb-core 0.30), against a server that keeps lines by
 * their offset as W&B does, and that fails, hangs, redirects and talks. */
import { mkdtempSync, readdirSync, readFileSync, rmSync } from "node:fs"
import { createServer, type IncomingMessage, type ServerResponse } from "node:http"
import type { AddressInfo } from "node:net"
import { tmpdir } from "node:os"
import { join } from "node:path"
import { afterAll, afterEach, describe, expect, it } from "vitest"
import { configByName } from "../src/configs/index.ts"
import { askedTrackers, openTrackers, type RunInfo } from "../src/train/tracking/index.ts"
import { openMetrics } from "../src/train/tracking/metrics.ts"
import type { Tracker } from "../src/train/tracking/tracker.ts"
import { openWandb } from "../src/train/tracking/wandb.ts"
import { runTs } from "./helpers/child.ts"
import { thrown } from "./helpers/thrown.ts"

const scratch = mkdtempSync(join(tmpdir(), "vit-prisma-wandb-"))
afterAll(() => rmSync(scratch, { recursive: true }))

const KEY = "canary/0123+456789abcdef=0123456789"
const ID = "0123456789abcdef"
/** The times of a run in test time. */
const PACE = { limit: 50, batch: 20, every: 10, first: 10, longest: 40, timeout: 2000, heartbeat: 60_000, close: 5000 }

interface Request {
  readonly path: string
  readonly headers: IncomingMessage["headers"]
  readonly body: {
    query?: string
    variables?: Record<string, unknown>
    files?: Record<string, { offset: number; content: string[] }>
    complete?: boolean
    exitcode?: number
  }
}

/** Answers in place of the server, or lets it answer. `n` counts requests from 0. */
type Fault = (n: number, request: Request, answer: ServerResponse) => boolean

interface Server {
  readonly url: string
  readonly requests: Request[]
  /** Lines of wandb-history.jsonl. */
  readonly history: string[]
  fault: Fault
  close(): Promise<void>
}

const servers: Server[] = []
afterEach(async () => {
  for (const server of servers.splice(0)) await server.close()
})

async function serve(fault: Fault = () => false): Promise<Server> {
  const http = createServer((incoming, answer) => {
    const pieces: Buffer[] = []
    incoming.on("data", (piece: Buffer) => pieces.push(piece))
    incoming.on("end", () => {
      const body = JSON.parse(Buffer.concat(pieces).toString()) as Request["body"]
      const request = { path: incoming.url!, headers: incoming.headers, body }
      server.requests.push(request)
      if (!server.fault(server.requests.length - 1, request, answer)) answer.end(JSON.stringify(handle(request)))
    })
  })
  const handle = ({ body }: Request): object => {
    if (body.query?.includes("mutation UpsertBucket(")) {
      const project = { name: body.variables!["project"], entity: { name: body.variables!["entity"] ?? "me & co" } }
      return { data: { upsertBucket: { bucket: { name: body.variables!["name"], project } } } }
    }
    if (body.query?.includes("RunResumeStatus")) {
      const historyTail = JSON.stringify(server.history.slice(-1))
      return { data: { model: { bucket: { historyLineCount: server.history.length, historyTail } } } }
    }
    const { offset, content } = body.files?.["wandb-history.jsonl"] ?? { offset: 0, content: [] }
    for (const [i, line] of content.entries()) server.history[offset + i] = line
    return {}
  }
  await new Promise<void>((ready) => http.listen(0, "127.0.0.1", ready))
  const { port } = http.address() as AddressInfo
  const server: Server = {
    url: `http://127.0.0.1:${port}`,
    requests: [],
    history: [],
    fault,
    close: () =>
      new Promise((closed) => {
        http.close(() => closed())
        http.closeAllConnections()
      }),
  }
  servers.push(server)
  return server
}

let runs = 0
const newRun = (more: Partial<RunInfo> = {}): RunInfo => ({
  dir: join(scratch, `run-${runs++}`),
  name: "mouse",
  project: "mice",
  config: { lr: 0.1, model: { d: 3 } },
  ...more,
})

interface Opened {
  readonly tracker: Tracker
  readonly warnings: string[]
}

async function open(server: Pick<Server, "url">, { run = newRun(), pace = {}, env = {} } = {}): Promise<Opened> {
  const warnings: string[] = []
  const tracker = await openWandb(
    {
      run,
      id: ID,
      started: Date.now() / 1000 - 5,
      env: { WANDB_API_KEY: KEY, WANDB_BASE_URL: server.url, ...env },
      warn: (message) => void warnings.push(message),
    },
    { ...PACE, ...pace },
  )
  return { tracker, warnings }
}

const range = (from: number, to: number) => Array.from({ length: to - from }, (_, i) => from + i)
const stepOf = (line: string) => Number(/"_step":(\d+)/.exec(line)?.[1])
const until = async (condition: () => boolean) => {
  for (const end = Date.now() + 5000; !condition() && Date.now() < end;) await new Promise((r) => setTimeout(r, 5))
  expect(condition()).toBe(true)
}

it("is asked for by the seed's use_wandb, with its team and where there is a key", async () => {
  const { logging } = configByName("induction", "seed-exact")
  const warnings: string[] = []
  const asked = (env: object, given = logging) =>
    askedTrackers(given, { env: { ...env }, warn: (w) => warnings.push(w) })
  expect(asked({})).toEqual({ names: [] })
  expect(warnings).toEqual([expect.stringContaining("WANDB_API_KEY is not set")])
  const { names, ...more } = asked({ WANDB_API_KEY: KEY })
  expect([names, more]).toEqual([["wandb"], { entity: "perceptual-alignment" }])
  expect(asked({ WANDB_API_KEY: KEY }, { ...logging, track: ["wandb"] })).toEqual({ names: ["wandb"] })
  const server = await serve()
  const { tracker } = await open(server, { run: newRun(more) })
  await tracker.close()
  expect(server.requests[0]!.body.variables).toMatchObject({ entity: "perceptual-alignment" })
})

describe("a run on a W&B server", () => {
  it("is told with the requests that the real client makes", async () => {
    const server = await serve()
    const { tracker, warnings } = await open(server)
    tracker.log(0, { loss: 1, bad: NaN })
    tracker.log(10, { loss: 0.5 })
    await tracker.close(3)
    expect(warnings).toEqual([])
    const [made, lines, ...rest] = server.requests
    expect(rest).toEqual([])
    expect(made!.path).toBe("/graphql")
    expect(made!.headers.authorization).toBe(`Basic ${btoa(`api:${KEY}`)}`)
    expect(made!.body.variables).toEqual({
      name: ID,
      project: "mice",
      displayName: "mouse",
      config: '{"lr":{"value":0.1},"model":{"value":{"d":3}}}',
    })
    expect(lines!.path).toBe(`/files/me%20%26%20co/mice/${ID}/file_stream`)
    expect(lines!.headers).toMatchObject({
      "content-type": "application/json",
      authorization: made!.headers.authorization,
    })
    const { files, ...end } = lines!.body
    expect(end).toEqual({ complete: true, exitcode: 3 })
    expect(files!["wandb-history.jsonl"]!.offset).toBe(0)
    // As wandb-core writes it: {"_timestamp":1.7954696356657338e+09,"_runtime":0.017015566,"_step":0,"loss":1,"bad":NaN}
    const time = String.raw`"_timestamp":\d{10}(\.\d+)?,"_runtime":5(\.\d+)?`
    const [first, second] = files!["wandb-history.jsonl"]!.content
    expect(first).toMatch(new RegExp(`^{"loss":1,"bad":NaN,"_step":0,${time}}$`))
    expect(second).toMatch(new RegExp(`^{"loss":0.5,"_step":10,${time}}$`))
    const summary = files!["wandb-summary.json"]!
    expect([summary.offset, summary.content.length]).toEqual([0, 1])
    expect(summary.content[0]).toMatch(new RegExp(`^{"loss":0.5,"bad":NaN,"_step":10,${time}}$`))
  })

  it("is sent piece by piece while it goes on", async () => {
    const server = await serve()
    const { tracker } = await open(server)
    for (const step of range(0, 45)) tracker.log(step, { x: step })
    await until(() => server.history.length === 45)
    await tracker.close()
    expect(server.history.map(stepOf)).toEqual(range(0, 45))
    const sizes = server.requests.flatMap((r) => r.body.files?.["wandb-history.jsonl"]?.content.length ?? [])
    expect(Math.max(...sizes)).toBe(20)
    expect(server.requests.at(-1)!.body).toEqual({ complete: true, exitcode: 0 })
  })

  it("is where the environment says", async () => {
    const server = await serve()
    const { tracker } = await open(server, { env: { WANDB_PROJECT: "other", WANDB_ENTITY: "team" } })
    await tracker.close()
    expect(server.requests[0]!.body.variables).toMatchObject({ project: "other", entity: "team" })
    expect(server.requests[1]!.path).toBe(`/files/team/other/${ID}/file_stream`)
  })

  it("is made before anything is logged", async () => {
    const server = await serve()
    const { tracker } = await open(server, { pace: { every: 60_000 } })
    await until(() => server.requests.length === 2)
    await tracker.close()
  })

  it("shows signs of life when nothing is logged", async () => {
    const server = await serve()
    const { tracker } = await open(server, { pace: { heartbeat: 30 } })
    await until(() => server.requests.length >= 4)
    expect(server.requests.slice(1, 4).map((r) => r.body)).toEqual([{}, {}, {}])
    await tracker.close()
  })

  it("goes on after a resume: what was not sent comes, nothing comes twice", async () => {
    for (const had of [0, 4, 8, 13]) {
      const server = await serve()
      const run = newRun()
      const metrics = await openTrackers([], run)
      for (const step of range(0, 13)) metrics.log(step, { x: step, [`only${step}`]: 1 })
      await metrics.close()
      server.history.push(...range(0, had).map((step) => `{"x":${step},"_step":${step}}`))
      const resumed = { ...run, resumedAt: 9 }
      const log = await openTrackers([], resumed)
      const { tracker, warnings } = await open(server, { run: resumed })
      for (const step of range(10, 16)) for (const t of [log, tracker]) t.log(step, { x: step })
      await Promise.all([log.close(), tracker.close()])
      expect(warnings).toEqual([])
      expect(server.history.map(stepOf)).toEqual(range(0, 16))
      const summary = JSON.parse(server.requests.at(-1)!.body.files!["wandb-summary.json"]!.content[0]!) as object
      expect(summary).toMatchObject({ x: 15, only0: 1, only9: 1, _step: 15 })
    }
  })
})

describe("a server that fails", () => {
  const status =
    (code: number, headers: Record<string, string> = {}): Fault =>
    (_, __, answer) => {
      answer.writeHead(code, headers).end("{}")
      return true
    }
  const passing: [string, Fault][] = [
    ...[408, 429, 500, 502, 503, 504].map((code): [string, Fault] => [`HTTP ${code}`, status(code)]),
    [
      "a cut connection",
      (_, __, answer) => {
        answer.destroy()
        return true
      },
    ],
    ["silence", () => true],
    [
      "half an answer",
      (_, __, answer) => {
        answer.writeHead(200, { "content-length": "100" }).write("{")
        setTimeout(() => answer.destroy(), 5)
        return true
      },
    ],
  ]
  it.each(passing)("for a while (%s) gets every line once, in order", async (_, fault) => {
    const server = await serve((n, request, answer) => [0, 2, 4, 5].includes(n) && fault(n, request, answer))
    const { tracker, warnings } = await open(server, { pace: { timeout: 60 } })
    for (const step of range(0, 30)) tracker.log(step, { x: step })
    await until(() => server.requests.length > 4)
    for (const step of range(30, 40)) tracker.log(step, { x: step })
    await tracker.close()
    expect(server.history.map(stepOf)).toEqual(range(0, 40))
    expect(server.requests.at(-1)!.body.complete).toBe(true)
    expect(warnings).toHaveLength(1)
    expect(warnings[0]).toMatch(/^W&B: 127\.0\.0\.1:\d+ .+; it is tried again while training goes on \(metrics\.jsonl/)
  })

  it("after it has taken the lines gets none of them twice", async () => {
    const server = await serve((n, request, answer) => {
      if (n !== 1) return false
      const { offset, content } = request.body.files!["wandb-history.jsonl"]!
      server.history.splice(offset, content.length, ...content)
      answer.destroy()
      return true
    })
    const { tracker } = await open(server)
    for (const step of range(0, 30)) tracker.log(step, { x: step })
    await tracker.close()
    expect(server.history.map(stepOf)).toEqual(range(0, 30))
  })

  it("is left alone for as long as it asks", async () => {
    const times: number[] = []
    const server = await serve((n, request, answer) => {
      times.push(performance.now())
      return n === 0 && status(429, { "retry-after": "1" })(n, request, answer)
    })
    const { tracker } = await open(server)
    await until(() => times.length > 1)
    await tracker.close()
    expect(times[1]! - times[0]!).toBeGreaterThan(990)
    expect(times[1]! - times[0]!).toBeLessThan(3000)
  })

  it.each([400, 401, 403, 404, 409, 410])("for good (HTTP %i) is not asked again", async (code) => {
    const server = await serve(status(code))
    const { tracker, warnings } = await open(server)
    tracker.log(0, { x: 1 })
    await until(() => warnings.length === 1)
    for (const step of range(1, 200)) tracker.log(step, { x: 1 })
    await tracker.close()
    expect(server.requests).toHaveLength(1)
    expect(warnings[0]).toContain(`HTTP ${code}`)
    expect(warnings.slice(1)).toEqual(["W&B: 200 lines were not sent (metrics.jsonl has all lines)"])
  })

  it("by leading elsewhere leads nobody there", async () => {
    const other = await serve()
    const server = await serve(status(307, { location: `${other.url}/graphql` }))
    const { tracker, warnings } = await open(server)
    await until(() => warnings.length === 1)
    await tracker.close()
    expect(other.requests).toEqual([])
  })

  it.each<[string, Fault]>([
    ["no JSON", (_, __, answer) => !!answer.end("<html>")],
    ["null", (_, __, answer) => !!answer.end("null")],
    ["another shape", (_, __, answer) => !!answer.end('{"data":{"upsertBucket":{"bucket":[]}}}')],
    ["an endless answer", (_, __, answer) => !!answer.end(Buffer.alloc(8 << 20, 32))],
    ["errors", (_, __, answer) => !!answer.end('{"errors":[{"message":"no such\\nproject"}]}')],
    ["odd errors", (_, __, answer) => !!answer.end('{"errors":[null]}')],
  ])("by answering with %s gets nothing more", async (_, fault) => {
    const server = await serve(fault)
    const { tracker, warnings } = await open(server)
    await until(() => warnings.length === 1)
    await tracker.close()
    expect(server.requests).toHaveLength(1)
    expect(warnings).toHaveLength(1)
    expect(warnings[0]).not.toMatch(/\n|TypeError|undefined/)
  })
})

describe("a server that is gone for an hour", () => {
  it.each<[string, Fault]>([
    ["and hangs", () => true],
    ["and refuses", (_, __, answer) => !!answer.writeHead(503).end()],
  ])("%s costs a step nothing, and a bounded queue", async (_, fault) => {
    const server = await serve(fault)
    const { tracker, warnings } = await open(server, { pace: { timeout: 100 } })
    let spent = 0
    for (const step of range(0, 20_000)) {
      const begun = performance.now()
      tracker.log(step, { "train/loss": step, lr: 1e-3 })
      spent += performance.now() - begun
      if (step % 500 === 0) await new Promise((r) => setTimeout(r, 5))
    }
    // In ms, the mean: 5 % of a step of 2 ms, a twentieth of the shortest there are.
    expect(spent / 20_000).toBeLessThan(0.1)
    await until(() => warnings.length === 2)
    expect(warnings.filter((w) => w.includes("the oldest are dropped"))).toHaveLength(1)

    server.fault = () => false
    await until(() => server.history.length > 0)
    await tracker.close()
    // The batch that was being sent, then the newest.
    expect(server.history.length).toBeLessThanOrEqual(PACE.batch + PACE.limit)
    expect(server.history.slice(-PACE.limit).map(stepOf)).toEqual(range(20_000 - PACE.limit, 20_000))
    expect(warnings[2]).toBe(`W&B: ${20_000 - server.history.length} lines were not sent (metrics.jsonl has all lines)`)
  })

  it.each<[string, Fault, boolean]>([
    ["hangs", () => true, false],
    ["asks for patience", (_, __, answer) => !!answer.writeHead(429, { "retry-after": "300" }).end(), true],
  ])("is not waited for at the end: it %s", async (_, fault, tried) => {
    let unanswered = 0
    const server = await serve((n, request, answer) => {
      unanswered++
      answer.on("close", () => unanswered--)
      return fault(n, request, answer)
    })
    const { tracker, warnings } = await open(server, { pace: { timeout: 60_000, close: 300 } })
    tracker.log(0, { x: 1 })
    await until(() => server.requests.length > 0 && (!tried || warnings.length > 0))
    const begun = performance.now()
    await tracker.close()
    expect(performance.now() - begun).toBeLessThan(1000)
    await until(() => unanswered === 0)
    expect(warnings.at(-1)).toBe("W&B: 1 line was not sent (metrics.jsonl has all lines)")
  })

  it("keeps no process alive", async () => {
    const run = newRun()
    const env = { WANDB_API_KEY: KEY, WANDB_BASE_URL: "http://127.0.0.1:9" }
    const source = `
      import { openTrackers } from "../src/train/tracking/index.ts"
      const tracker = await openTrackers(["wandb"], ${JSON.stringify(run)}, { env: ${JSON.stringify(env)} })
      tracker.log(0, { x: 1 })
      const alive = setInterval(() => {}, 1000)
      process.once("warning", () => clearInterval(alive))`
    expect(await runTs(source, { timeout: 10_000 })).toMatchObject({
      code: 0,
      stderr: expect.stringMatching(/Warning: W&B: 127\.0\.0\.1:9 cannot be reached/) as string,
    })
  })
})

describe("the environment", () => {
  it.each<[string, Record<string, string>]>([
    ["no key", { WANDB_API_KEY: " " }],
    ["a mode that is none", { WANDB_MODE: "sometimes" }],
    ["no address", { WANDB_BASE_URL: `api.wandb.ai/${KEY}` }],
    ["another protocol", { WANDB_BASE_URL: "file:///etc" }],
    ["an address with a password", { WANDB_BASE_URL: `https://me:${KEY}@api.wandb.ai` }],
  ])("with %s is refused at the start", async (_, env) => {
    const run = newRun()
    const error = await thrown(openTrackers(["wandb"], run, { env: { WANDB_API_KEY: KEY, ...env } }))
    expect(error.code).toBe("E_USAGE")
    expect(JSON.stringify(error)).not.toContain(KEY)
    await (await openTrackers([], run)).close()
  })

  it.each(["offline", "disabled"])("with WANDB_MODE=%s sends nothing and needs no key", async (mode) => {
    const server = await serve()
    const { tracker } = await open(server, { env: { WANDB_MODE: mode, WANDB_API_KEY: "" }, pace: { every: 1 } })
    tracker.log(0, { x: 1 })
    await tracker.flush()
    await tracker.close()
    expect(server.requests).toEqual([])
  })

  it("keeps the key in no message and no file, whatever a server says", async () => {
    const forms = [KEY, btoa(KEY), btoa(`api:${KEY}`), encodeURIComponent(KEY)]
    const server = await serve((n, request, answer) => {
      const said = `${request.headers.authorization} ${KEY} ${forms.join(" ")}`
      if (n === 0) answer.writeHead(500, { "x-key": encodeURIComponent(KEY) }).end(said)
      else answer.end(JSON.stringify({ errors: [{ message: said }] }))
      return true
    })
    const run = newRun()
    const { tracker, warnings } = await open(server, { run })
    const metrics = await openMetrics({ run, id: ID, started: 0, env: {}, warn: () => {} })
    for (const t of [tracker, metrics]) t.log(0, { x: 1 })
    await until(() => warnings.length === 2)
    await Promise.all([tracker.close(), metrics.close()])
    const all = [...warnings, ...readdirSync(run.dir).map((name) => readFileSync(join(run.dir, name), "utf8"))].join(
      "\n",
    )
    for (const form of forms) expect(all).not.toContain(form)
  })
})
