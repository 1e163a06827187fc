/** @file Weights & Biases over HTTP, with the requests that its own client makes: GraphQL `upsertBucket`, then lines of
 * wandb-history.jsonl to `file_stream` (https://github.com/wandb/wandb/tree/main/core/internal/filestream). */
import { fail } from "../../errors.ts"
import { quote } from "../../tensor/quote.ts"
import { backlog } from "./backlog.ts"
import { type Failure, openQueue, type Pace, type Send } from "./queue.ts"
import { now, type Opening, type OpenTracker, type Tracker } from "./tracker.ts"
import { at, openWandbHttp } from "./wandb-http.ts"

/** The real client sends at most each 15 s and a sign of life each 30 s; the server calls a run crashed after 5 minutes. */
const PACE: Pace = {
  limit: 10_000,
  batch: 1_000,
  every: 5_000,
  first: 1_000,
  longest: 60_000,
  timeout: 15_000,
  heartbeat: 30_000,
  close: 10_000,
}

const UPSERT = `mutation UpsertBucket($name: String, $project: String, $entity: String, $displayName: String, $config: JSONString) {
  upsertBucket(input: {name: $name, modelName: $project, entityName: $entity, displayName: $displayName, config: $config}) {
    bucket { name project { name entity { name } } }
  }
}`

const RESUME = `query RunResumeStatus($project: String, $entity: String, $name: String!) {
  model(name: $project, entityName: $entity) { bucket(name: $name, missingOk: true) { historyLineCount historyTail } }
}`

interface Line {
  readonly step: number
  readonly text: string
}

/** Where the lines go: a path of the server, how many lines it has and the step of the last. */
interface Stream {
  readonly path: string
  offset: number
  readonly sent: number
}

/** Numbers that JSON lacks are written as Python does, which is what the server takes. */
const json = (values: Iterable<readonly [string, number]>): string =>
  `{${Array.from(values, ([name, x]) => `${JSON.stringify(name)}:${x}`).join(",")}}`

/** Nothing is sent, and no key is needed. */
const SILENT: Tracker = { log() {}, flush: async () => {}, close: async () => {} }

/** Environment: WANDB_API_KEY, WANDB_BASE_URL, WANDB_PROJECT, WANDB_ENTITY; WANDB_MODE = online, offline or disabled, the
 * latter two of which send nothing. Errors: E_USAGE; what goes wrong later is a warning. */
export async function openWandb(opening: Opening, pace = PACE): ReturnType<OpenTracker> {
  const { run, id, started, env, warn } = opening
  const mode = env["WANDB_MODE"] || "online"
  if (mode === "offline" || mode === "disabled") return SILENT
  if (mode !== "online") fail("E_USAGE", `WANDB_MODE is ${quote(mode)}; expected online, offline or disabled`)
  const http = openWandbHttp(env)
  const where = {
    project: env["WANDB_PROJECT"] || run.project,
    entity: env["WANDB_ENTITY"] || run.entity || undefined,
    name: id,
  }
  /** The last value of every name. */
  const latest = new Map<string, number>()
  let stream: Stream | undefined
  let missed: Line[] = []
  let exitCode = 0

  const complete = (step: number, time: number, values: Iterable<readonly [string, number]>) =>
    [...values, ["_step", step], ["_timestamp", time], ["_runtime", Math.max(0, time - started)]] as const

  /** Make or find the run on the server, and what of it the server has. */
  const connect = async (signal: AbortSignal): Promise<Stream | Failure> => {
    const config = Object.fromEntries(Object.entries(run.config).map(([k, value]) => [k, { value: value as unknown }]))
    const variables = { ...where, displayName: run.name, config: JSON.stringify(config) }
    const made = await http.graphql(UPSERT, variables, signal)
    if ("why" in made) return made
    const project = at(made.data, "upsertBucket", "bucket", "project")
    const [entity, name] = [at(project, "entity", "name"), at(project, "name")]
    if (typeof entity !== "string" || typeof name !== "string")
      return { why: `${http.host} named no project for the run`, again: false }
    const path = `/files/${[entity, name, id].map(encodeURIComponent).join("/")}/file_stream`
    if (run.resumedAt === undefined) return { path, offset: 0, sent: -1 }

    const known = await http.graphql(RESUME, { ...where, project: name, entity }, signal)
    if ("why" in known) return known
    const bucket = at(known.data, "model", "bucket")
    const count = at(bucket, "historyLineCount")
    const sent = lastStep(at(bucket, "historyTail"))
    const before = new Map<string, number>()
    missed = []
    for (const { step, time, values } of await backlog(run, pace.limit)) {
      const all = complete(step, time, values)
      for (const [name, x] of all) before.set(name, x)
      missed.push({ step, text: json(all) })
    }
    for (const [name, x] of before) if (!latest.has(name)) latest.set(name, x)
    return { path, offset: typeof count === "number" ? count : 0, sent }
  }

  const send: Send<Line> = async (batch, last, signal) => {
    if (!stream) {
      const found = await connect(signal)
      if ("why" in found) return found
      stream = found
    }
    // What a run goes through once more after a resume is there already.
    const { sent } = stream
    const lines = [...missed, ...batch].flatMap(({ step, text }) => (step > sent ? text : []))
    const files = lines.length
      ? {
          "wandb-history.jsonl": { offset: stream.offset, content: lines },
          "wandb-summary.json": { offset: 0, content: [json(latest)] },
        }
      : undefined
    const failure = await http.post(stream.path, { files, ...(last && { complete: true, exitcode: exitCode }) }, signal)
    if (failure) return failure
    stream.offset += lines.length
    missed = []
    return "sent"
  }

  const queue = openQueue("W&B", send, pace, warn)
  return {
    log(step, values) {
      const all = complete(step, now(), Object.entries(values))
      for (const [name, x] of all) latest.set(name, x)
      queue.push({ step, text: json(all) })
    },
    flush: async () => {},
    close(code = 0) {
      exitCode = code
      return queue.close()
    },
  }
}

/** `historyTail` is JSON text of a list of JSON lines. */
function lastStep(tail: unknown): number {
  try {
    const lines = JSON.parse(String(tail)) as unknown
    const step = at(JSON.parse(String(Array.isArray(lines) ? lines.at(-1) : lines)), "_step")
    return typeof step === "number" ? step : -1
  } catch {
    return -1
  }
}
