/** @file The command line and the Hub: models by repo id, the cache's commands, doctor; and that no token is ever shown. */
import { existsSync, readdirSync, readFileSync, statSync, writeFileSync } from "node:fs"
import { join } from "node:path"
import { afterAll, afterEach, beforeAll, describe, expect, it } from "vitest"
import { cli, demoModel, seven, twoAtATime, type CliOptions, type Ran } from "./helpers/cli.ts"
import { etagOf, fakeHub, repoOf, type FakeHub, type Fault } from "./helpers/download-hub.ts"
import { folderAt, scratch } from "./helpers/variants.ts"

const CANARY = "hf_Canary7Zq4Wm"
const FORMS = [CANARY, Buffer.from(CANARY).toString("base64").replace(/=+$/, ""), encodeURIComponent(CANARY)]
const root = scratch()
let count = 0
const fresh = (): string => folderAt(root, `home ${count++}`)

let hub: FakeHub
beforeAll(async () => {
  hub = await fakeHub({ token: CANARY })
})
afterAll(() => hub.close())
afterEach(() => {
  outputs.length = 0
  hub.fault = undefined
  hub.asked.length = 0
  hub.repos.clear()
})

/** The environment of somebody with a token and much curiosity. */
const env = (home: string): Record<string, string> => ({
  HF_ENDPOINT: hub.url,
  HF_HUB_CACHE: join(home, "hub"),
  HF_TOKEN: CANARY,
  HF_DEBUG: "1",
  NODE_DEBUG: "fetch,undici,http",
  HF_HUB_OFFLINE: "",
})
const outputs: string[] = []
async function run(home: string, args: readonly string[], options: CliOptions = {}): Promise<Ran> {
  const ran = await cli(args, { ...options, env: { ...env(home), ...options.env } })
  outputs.push(ran.stdout, ran.stderr)
  return ran
}
/** What a command says, without what Node's debugging says. */
const said = ({ stderr }: Ran): string[] =>
  stderr.split("\n").filter((line) => line && !/^(HTTP|FETCH|UNDICI|NET)\b/.test(line))

/** The token occurs in no output and in no file. */
function checkCanary(...homes: string[]): void {
  for (const form of FORMS) for (const text of outputs) expect(text.includes(form)).toBe(false)
  for (const home of homes) {
    for (const name of readdirSync(home, { recursive: true, encoding: "utf8" })) {
      const path = join(home, name)
      if (!existsSync(path) || !statSync(path).isFile()) continue
      const bytes = readFileSync(path)
      for (const form of FORMS) expect(bytes.includes(form), path).toBe(false)
    }
  }
  outputs.length = 0
}

const ID = "owner/model"
const serve = () => {
  const repo = repoOf(demoModel)
  hub.repos.set(ID, repo)
  return repo
}

describe("a model by its repo id", () => {
  it("is downloaded by run, info, activations and convert, then used offline without a request", async () => {
    serve()
    const commands = (home: string) => [
      ["run", ID, seven, "--json"],
      ["info", ID, "--json"],
      ["activations", ID, seven, "--out", join(home, "a.safetensors"), "--hooks", "*hook_pattern"],
      ["convert", ID, "--out", join(home, "converted"), "--force"],
    ]
    const homes = await twoAtATime([0, 1, 2, 3], async (i) => {
      const home = fresh()
      const cold = await run(home, commands(home)[i]!)
      expect([cold.code, said(cold).filter((l) => !/^(wrote|certified)/.test(l))]).toEqual([0, []])
      return home
    })
    expect(hub.asked.filter((a) => a.host === "store")).toHaveLength(4)
    hub.asked.length = 0
    const warm = homes[0]!
    const results = await twoAtATime(commands(warm), (args) => run(warm, [...args, "--offline"]))
    expect(results.map((r) => r.code)).toEqual([0, 0, 0, 0])
    expect(hub.asked).toEqual([])
    const [{ predictions }] = JSON.parse(results[0]!.stdout) as [{ predictions: { label: string }[] }]
    expect(predictions[0]!.label).toBe("7")
    checkCanary(...homes)
  })

  const json = (code: number, headers: Record<string, string> = {}, text = "{}"): Fault => (_, response) =>
    Boolean(response.writeHead(code, headers).end(text)) // prettier-ignore
  const echo = JSON.stringify({ error: `Bad ${CANARY} for https://s.test/f?X-Amz-Signature=abc` })

  it.each<[string, number, Fault | undefined, readonly string[], Record<string, string>]>([
    ["E_HUB_AUTH", 4, json(401, {}, JSON.stringify({ error: `Invalid credentials ${CANARY}` })), [], {}],
    ["E_HUB_GATED", 4, json(403, { "x-error-code": "GatedRepo" }, echo), [], {}],
    ["E_HUB_NOT_FOUND", 4, json(404, { "x-error-code": "RepoNotFound" }, echo), [], {}],
    ["E_HUB_RATE_LIMIT", 4, json(429, { "retry-after": "3600" }, echo), [], {}],
    ["E_HUB_UNAVAILABLE", 4, json(503, { "retry-after": "3600" }, echo), [], {}],
    ["E_HUB_PROTOCOL", 4, json(302, { location: `http://10.1.1.1/?t=${CANARY}` }), [], {}],
    ["E_HUB_PROTOCOL", 4, json(200, { "content-type": "text/html" }, `<html>${CANARY}`), [], {}],
    ["E_INTEGRITY", 3, ({ host }, _, send) => host === "store" && (send({ body: Buffer.alloc(9) }), true), [], {}],
    ["E_OFFLINE", 4, undefined, ["--offline"], {}],
    ["E_OFFLINE", 4, undefined, [], { HF_HUB_OFFLINE: "1" }],
    ["E_REVISION", 1, undefined, ["--revision", "../x"], {}],
    ["E_USAGE", 2, undefined, [], { HF_ENDPOINT: `https://user:${CANARY}@hub.test` }],
    ["E_NETWORK", 4, undefined, [], { HF_ENDPOINT: "https://no-such-host.invalid" }],
  ])("ends with %s (exit %i), one JSON line, and without the token", async (code, exit, fault, args, more) => {
    serve()
    hub.fault = fault
    const home = fresh()
    const ran = await run(home, ["info", ID, "--json", ...args], { env: more })
    expect([ran.code, ran.stdout]).toEqual([exit, ""])
    const lines = said(ran).map((line) => JSON.parse(line) as { code?: string; warning?: string })
    expect(lines.at(-1)!.code).toBe(code)
    expect(lines.slice(0, -1).every((line) => line.warning !== undefined)).toBe(true)
    expect(said(ran).join()).not.toContain("Signature")
    checkCanary(home)
  }) // prettier-ignore

  it("has no option for a token, which the list of processes would show (SE-05)", async () => {
    const help = await Promise.all(["run", "info", "convert", "cache", "doctor"].map((c) => cli([c, "--help"])))
    for (const { stdout } of help) expect(stdout).not.toMatch(/--token/)
    expect((await cli(["info", ID, "--token", "x"])).code).toBe(2)
  })
})

describe("vit-prisma cache and doctor", () => {
  it("list, verify and heal what there is", async () => {
    const { files } = serve()
    const home = fresh()
    await run(home, ["info", ID])
    const [ls, lsJson] = await Promise.all([run(home, ["cache", "ls"]), run(home, ["cache", "ls", "--json"])])
    expect(ls.stdout).toMatch(/owner\/model {2}a{12} {2}main {2}\d files {2}.*\n1 repo, /)
    expect(JSON.parse(lsJson.stdout)).toMatchObject({ repos: [{ repo: ID, commits: [{ commit: "a".repeat(40), refs: ["main"] }] }] }) // prettier-ignore
    expect((await run(home, ["cache", "verify"])).code).toBe(0)

    const weights = [...files.keys()].find((n) => n.endsWith(".safetensors"))!
    const blob = join(home, "hub", "models--owner--model", "blobs", etagOf(weights, files.get(weights)!))
    const bytes = readFileSync(blob)
    bytes[bytes.length - 1]! ^= 1
    writeFileSync(blob, bytes)
    const verify = await run(home, ["cache", "verify", ID, "--json"])
    expect(verify.code).toBe(3)
    expect(JSON.parse(verify.stdout)).toMatchObject({ repos: [{ damages: [{ path: blob, what: "holds other bytes than its name says" }] }] }) // prettier-ignore
    expect(JSON.parse(said(verify).at(-1)!)).toMatchObject({ code: "E_CACHE_CORRUPT", file: blob })
    const offline = await run(home, ["cache", "heal", "--offline"])
    expect([offline.code, said(offline).at(-1)]).toEqual([4, expect.stringContaining("[E_OFFLINE]")])
    const healed = await run(home, ["cache", "heal"])
    expect([healed.code, healed.stdout.split("\n").at(-2)]).toEqual([0, "1 damage, 1 repaired"])
    expect((await run(home, ["cache", "verify"])).code).toBe(0)
    expect((await run(home, ["cache", "verify", "owner/other"])).code).toBe(1)
    checkCanary(home)
  })

  it("say what works here, and end as the first error says", async () => {
    serve()
    const home = fresh()
    await run(home, ["info", ID])
    const login = Buffer.from("<html>Log in to this network</html>")
    let whoami: Parameters<Parameters<Fault>[2]>[0] = { status: 200, body: Buffer.from('{"name":"owner"}') }
    hub.fault = ({ path }, _, send) => path === "/api/whoami-v2" && (send(whoami), true)
    const fine = await run(home, ["doctor", "--json"])
    const { findings } = JSON.parse(fine.stdout) as { findings: { about: string; state: string; found: string }[] }
    const of = (about: string) => findings.find((f) => f.about === about)!
    expect(fine.code).toBe(0)
    expect(of("vit-prisma").found).toContain(`Node ${process.versions.node}`)
    expect(of("device cpu")).toMatchObject({ state: "ok", found: "works" })
    expect(of("token").found).toBe("from HF_TOKEN")
    expect(of("Hub").found).toMatch(/answers in \d+ ms, to owner$/)
    expect(of("disk").found).toMatch(/free in/)
    expect(of("cache").found).toMatch(/^1 repo in .*, 0 damages$/)

    const partial = join(home, "hub", "models--owner--model", "blobs", `.${"d".repeat(64)}.tmp-999999999-x`)
    writeFileSync(partial, "part")
    const ill = await run(home, ["doctor"])
    expect([ill.code, said(ill).at(-1)]).toEqual([3, expect.stringMatching(/was left by a process.*doctor --heal.*\[E_CACHE_CORRUPT\]/)]) // prettier-ignore
    const healed = await run(home, ["doctor", "--heal"])
    expect([healed.code, existsSync(partial)]).toEqual([0, false])
    const none = { "x-error-code": undefined }
    for (const [answer, state, env] of [
      [
        { status: 401, headers: none, body: Buffer.from('{"error":"Invalid username or password."}') },
        [0, "ok"],
        { HF_TOKEN: "" },
      ],
      [
        { status: 401, headers: none, body: Buffer.from('{"error":"Invalid credentials in Authorization header"}') },
        [4, "E_HUB_AUTH"],
        {},
      ],
      [{ status: 200, headers: { "content-type": "text/html" }, body: login }, [4, "E_HUB_PROTOCOL"], {}],
    ] as const) {
      whoami = answer
      const { code, stdout } = await run(home, ["doctor", "--json"], { env })
      const { findings: all } = JSON.parse(stdout) as { findings: { about: string; state: string; code?: string }[] }
      const at = all.find((f) => f.about === "Hub")!
      expect([code, at.code ?? at.state]).toEqual(state)
    }
    const away = await run(home, ["doctor", "--json"], { env: { HF_ENDPOINT: "http://127.0.0.1:9" } })
    expect([away.code, JSON.parse(said(away).at(-1)!)]).toEqual([4, expect.objectContaining({ code: "E_NETWORK" })])
    expect((await run(home, ["doctor", "--offline"], { env: { HF_ENDPOINT: "http://127.0.0.1:9" } })).code).toBe(0)
    checkCanary(home)
  })
})
