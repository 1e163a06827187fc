/** @file vit-prisma doctor: what of the surroundings works: Node, onnxruntime and its providers, the Hub, its cache, the disk. */
import { PrismaError } from "../errors.ts"
import { add, input } from "../graph/ops.ts"
import { visitor } from "../hub/api.ts"
import { cachedRepos, findDamage, type Damage } from "../hub/damage.ts"
import { heal } from "../hub/heal.ts"
import { hubHttp } from "../hub/http.ts"
import { hubSettings, type HubSettings } from "../hub/settings.ts"
import { freeBytes } from "../hub/space.ts"
import { DEVICES, type Device } from "../runtime/devices.ts"
import { load, nodeRuntime } from "../runtime/node.ts"
import { float32 } from "../tensor/tensor.ts"
import { version } from "../version.ts"
import { bytes, counted, plain, print, printJson, style, table, type ModelOptions } from "./output.ts"

export interface DoctorOptions extends Pick<ModelOptions, "cacheDir" | "offline" | "format"> {
  readonly heal?: boolean
}

interface Finding {
  readonly about: string
  /** "absent": not on this machine, which is no fault. */
  readonly state: "ok" | "absent" | "warning" | "error"
  readonly found: string
  /** What an error ends the command with. */
  readonly error?: PrismaError
}

/** Below so many bytes the weights of a large ViT do not fit. */
const LITTLE = 2e9
/** Milliseconds that the Hub may take to answer. */
const SHORT = 5000

/** Look at everything, then end as the first error says; warnings are no errors. Nothing is changed without `heal`. */
export async function doctor(options: DoctorOptions): Promise<void> {
  const settings = await hubSettings({ cacheDir: options.cacheDir, offline: options.offline })
  const findings: Finding[] = [
    {
      about: "vit-prisma",
      state: "ok",
      found: `${version}, Node ${process.versions.node}, ${process.platform} ${process.arch}`,
    },
    ...(await providers()),
    ...settings.warnings.map((found) => ({ about: "settings", state: "warning" as const, found })),
    token(settings),
    await endpoint(settings),
    ...proxies(),
    await space(settings),
    ...(await cache(settings, options.heal ?? false)),
  ]
  if (options.format === "json")
    printJson({ findings: findings.map(({ error, ...f }) => ({ ...f, ...(error && { code: error.code }) })) })
  else {
    const mark = {
      absent: "absent",
      ok: style("green", "ok"),
      warning: style("yellow", "warning"),
      error: style("red", "error"),
    }
    print(table(findings.map(({ about, state, found }) => [about, mark[state], plain(found)])))
  }
  const error = findings.find((f) => f.error)?.error
  if (error) throw error
}

const failed = (about: string, error: unknown, state: "absent" | "error"): Finding => {
  if (!(error instanceof PrismaError)) throw error
  return { about, state, found: error.message, ...(state === "error" && { error }) }
}

/** Each device by a session on it: what is listed need not load. */
async function providers(): Promise<Finding[]> {
  let listed: string[]
  try {
    const backends = load("onnxruntime-node").listSupportedBackends?.() ?? [{ name: "cpu" }]
    listed = backends.map((b) => b.name)
  } catch (error) {
    return [failed("onnxruntime", error, "error")]
  }
  const findings: Finding[] = []
  for (const device of DEVICES.filter((d): d is Device => listed.includes(d))) {
    findings.push(
      await tried(device).then(
        () => ({ about: `device ${device}`, state: "ok" as const, found: "works" }),
        (error: unknown) => failed(`device ${device}`, error, device === "cpu" ? "error" : "absent"),
      ),
    )
  }
  return findings
}

async function tried(device: Device): Promise<void> {
  const runtime = nodeRuntime({ device })
  const x = input("x", [1])
  const { y } = await (await runtime.compile({ x }, { y: add(x, x) }))({ x: float32([1], Float32Array.of(2)) })
  await runtime.release()
  if (y.data[0] !== 4) throw new PrismaError("E_RUNTIME", `device ${device}: 2 + 2 is ${y.data[0]} there`)
}

/** Whether there is one and from where, never what it is. */
const token = ({ token: there, tokenFrom }: HubSettings): Finding => ({
  about: "token",
  state: "ok",
  found:
    there === undefined ? 'none; gated and private repos need one (HF_TOKEN or "hf auth login")' : `from ${tokenFrom}`,
})

async function endpoint(settings: HubSettings): Promise<Finding> {
  const about = "Hub"
  if (settings.offline) return { about, state: "ok", found: `${settings.endpoint} is not asked: offline is set` }
  const http = hubHttp(settings)
  try {
    const began = performance.now()
    const who = await visitor(http, SHORT)
    const ms = Math.round(performance.now() - began)
    return {
      about,
      state: "ok",
      found: `${http.endpoint} answers in ${ms} ms${who === undefined ? "" : `, to ${who}`}`,
    }
  } catch (error) {
    return failed(about, error, "error")
  }
}

/** Node's fetch takes no proxy from the environment before version 24, and there only with NODE_USE_ENV_PROXY=1. */
function proxies(): Finding[] {
  const set = ["HTTPS_PROXY", "https_proxy", "HTTP_PROXY", "http_proxy"].filter((name) => process.env[name])
  if (!set.length || process.env["NODE_USE_ENV_PROXY"] === "1") return []
  const found = `${set.join(", ")} has no effect in Node; Node 24 heeds it with NODE_USE_ENV_PROXY=1`
  return [{ about: "proxy", state: "warning", found }]
}

async function space({ cacheDir }: HubSettings): Promise<Finding> {
  const free = await freeBytes(cacheDir)
  const found = `${free === undefined ? "unknown" : bytes(free)} free in ${cacheDir}`
  return { about: "disk", state: free !== undefined && free < LITTLE ? "warning" : "ok", found }
}

/** Everything but the content of blobs, which "cache verify" reads. */
async function cache(settings: HubSettings, repair: boolean): Promise<Finding[]> {
  const about = "cache"
  const places = await cachedRepos(settings.cacheDir)
  const findings: Finding[] = []
  for (const place of places) {
    const { damages } = await findDamage(place, { content: repair })
    const healed = repair
      ? await heal(place, hubHttp(settings), damages)
      : damages.map((damage) => ({ damage, error: unhealed(damage) }))
    for (const { damage, error } of healed) {
      const found = `${damage.path}: ${damage.what}; ${error ? "not repaired" : "repaired"}`
      findings.push(error ? { about, state: "error", found, error } : { about, state: "ok", found })
    }
  }
  const damaged = findings.filter((f) => f.error).length
  return [
    ...findings,
    {
      about,
      state: damaged ? "error" : "ok",
      found: `${counted(places.length, "repo")} in ${settings.cacheDir}, ${counted(damaged, "damage")}`,
    },
  ]
}

const unhealed = ({ path, what, repo }: Damage): PrismaError =>
  new PrismaError("E_CACHE_CORRUPT", `${path}: ${what}; repair it with "vit-prisma doctor --heal"`, {
    file: path,
    repo,
  })
