/** @file The command line and the Hub: models by repo id, the cache's commands, doctor; and that no token is ever shown. */
import type { ChildProcess } from "node:child_process"
import { cpSync, existsSync, readdirSync, readFileSync, statSync, writeFileSync } from "node:fs"
import { join } from "node:path"
import { Redis } from "ioredis"
import { afterAll, afterEach, beforeAll, describe, expect, it } from "vitest"
import { cli, demoModel, seven, twoAtATime, type CliOptions, type Ran } from "./helpers/cli.ts"
import { etagOf, fakeHub, repoOf, type FakeHub, type Fault } from "./helpers/download-hub.ts"
import { startHub, type TestHub } from "./helpers/hub/index.ts"
import { secretForms } from "./helpers/secret-forms.ts"
import { SERVERS } from "./helpers/servers.ts"
import { folderAt, remove, scratch } from "./helpers/variants.ts"

/** In a URL it is another, and its base64 has characters that an alphabet for URLs writes otherwise. */
const CANARY = "hf_Can~~~ary+7Zq=4Wm"
const FORMS = secretForms(CANARY)
/** A user's name and the token, as servers are told them, so that it lies in base64 in each of the three ways. */
const BASIC = ["user", "use", "us"].map((user) => `Basic ${Buffer.from(`${user}:${CANARY}`).toString("base64")}`)
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

const networkLog = (home: string): string => join(home, "network.log")
/** What was asked of the network by the commands with `watched`. */
const networkOf = (home: string): string[] =>
  existsSync(networkLog(home)) ? readFileSync(networkLog(home), "utf8").split("\n").filter(Boolean) : [] // prettier-ignore
/** A network that writes down who asks anything of it, and gives nothing. */
const watched = (home: string): CliOptions => ({
  env: { HF_ENDPOINT: "https://hub.invalid" },
  preload: `
    import dns from "node:dns"
    import dgram from "node:dgram"
    import net from "node:net"
    import { appendFileSync } from "node:fs"
    import { syncBuiltinESMExports } from "node:module"
    const refuse = (what) => (...args) => {
      const about = [args.flat(2)[0]].map((a) => a?.host ?? a?.hostname ?? a)
      appendFileSync(${JSON.stringify(networkLog(home))}, what + " " + about + "\\n")
      throw new Error("the network was used")
    }
    net.Socket.prototype.connect = net.connect = net.createConnection = refuse("connect")
    dgram.createSocket = refuse("socket")
    for (const of of [dns, dns.promises]) for (const name of Object.keys(of)) if (/^(lookup|resolve|reverse)/.test(name)) of[name] = refuse(name)
    syncBuiltinESMExports()`,
})

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
    const results = await twoAtATime(commands(warm), (args) => run(warm, [...args, "--offline"], watched(warm)))
    expect(results.map((r) => [r.code, said(r).filter((l) => !/^(wrote|certified)/.test(l))])).toEqual(Array.from({ length: 4 }, () => [0, []]))
    expect([hub.asked, networkOf(warm)]).toEqual([[], []])
    const [{ predictions }] = JSON.parse(results[0]!.stdout) as [{ predictions: { label: string }[] }]
    expect(predictions[0]!.label).toBe("7")
    checkCanary(...homes)
  }) // prettier-ignore

  it("offline opens no socket and looks up no name (HD-22), also where a file is absent: E_OFFLINE names it", async () => {
    serve()
    const home = fresh()
    await run(home, ["info", ID])
    // Without the option it would have: the name of this Hub is nobody's.
    const online = await run(home, ["info", ID], watched(home))
    expect([online.code, networkOf(home)]).toEqual([0, ["connect hub.invalid"]])
    const snapshot = join(home, "hub", "models--owner--model", "snapshots", "a".repeat(40))
    const commands = [["info", ID], ["run", ID, seven], ["convert", ID, "--out", join(home, "out")], ["doctor"]]
    remove(join(snapshot, "model.safetensors"))
    remove(networkLog(home))
    const [doctor, ...others] = (await twoAtATime(commands, (args) => run(home, [...args, "--offline"], watched(home)))).reverse()
    expect(doctor!.code).toBe(0)
    for (const ran of others) expect([ran.code, said(ran)]).toEqual([4, [expect.stringMatching(/lacks model\.safetensors in the Hub cache.*\[E_OFFLINE\]$/)]])
    expect([networkOf(home), hub.asked.filter(({ path }) => path === "/api/whoami-v2")]).toEqual([[], []])
    checkCanary(home)
  }) // prettier-ignore

  const json = (code: number, headers: Record<string, string> = {}, text = "{}"): Fault => (_, response) =>
    Boolean(response.writeHead(code, headers).end(text)) // prettier-ignore
  const echo = JSON.stringify({ error: `Bad ${CANARY} for https://s.test/f?X-Amz-Signature=abc` })
  const [basic, ...others] = BASIC.map((text) =>
    JSON.stringify({ error: `Bad ${text} or ${encodeURIComponent(text)}` }),
  )

  it.each<[string, number, Fault | undefined, readonly string[], Record<string, string>]>([
    ["E_HUB_AUTH", 4, json(401, {}, JSON.stringify({ error: `Invalid credentials ${CANARY}` })), [], {}],
    ["E_HUB_AUTH", 4, json(403, {}, basic), [], {}],
    ["E_HUB_AUTH", 4, json(403, {}, others[0]), [], {}],
    ["E_HUB_AUTH", 4, json(403, {}, others[1]), [], {}],
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
})

/** What the program lists as its commands, or as those of one. */
const listed = async (...args: string[]): Promise<string[]> => {
  const [, commands] = (await cli([...args, "--help"])).stdout.split("\nCommands:\n")
  return [...commands!.matchAll(/^ {2}([a-z]+) /gm)].map(([, name]) => name!).filter((name) => name !== "help")
}

describe("every command", () => {
  it("has no option for a token, which the list of processes would show", async () => {
    const commands = [...(await listed()), ...(await listed("cache")).map((name) => `cache ${name}`)]
    expect(commands).toEqual(expect.arrayContaining(["push", "train", "worker", "cache heal"]))
    const helps = await twoAtATime(commands, async (name) => (await cli([...name.split(" "), "--help"])).stdout)
    for (const [i, help] of helps.entries()) {
      expect(help).toContain(`Usage: vit-prisma ${commands[i]!}`)
      expect(help, commands[i]).not.toMatch(/--([a-z]+-)*(token|password|secret|key)\b/)
    }
    const given = [
      ["push", demoModel, ID],
      ["info", ID],
      ["worker", "--queue", "redis://127.0.0.1:9"],
    ]
    const ended = await twoAtATime(given, (args) => cli([...args, "--token", CANARY]))
    for (const { code, stdout, stderr } of ended) {
      expect([code, stdout, stderr]).toEqual([2, "", expect.stringContaining("unknown option '--token'")])
      expect(stderr).not.toContain(CANARY)
    }
  })

  /** Tried by the tests above; a worker is below. */
  const OTHERS = ["run", "info", "activations", "cache", "doctor", "worker"]
  const CLASSES = Array.from({ length: 10 }, (_, i) => String(i))
  const TINY = [
    "training.max_steps=2",
    "training.test_samples=10",
    "transformer.hidden_dim=16",
    "transformer.num_heads=2",
  ]
  let whole: TestHub
  beforeAll(async () => {
    whole = await startHub({ root: fresh(), tokens: { [CANARY]: { name: "owner", role: "write", orgs: ["org"] } } })
    whole.addRepo(ID, demoModel)
  })
  afterAll(() => whole.close())
  afterEach(() => whole.reset())

  /** A home with images of ten classes and a list of models. */
  function furnished(): string {
    const home = fresh()
    for (const name of CLASSES) cpSync(seven, join(home, "data/test", name, "seven.png"))
    writeFileSync(join(home, "list.txt"), `${ID}\n`)
    return home
  }
  const withModel = (at: (name: string) => string): readonly (readonly string[])[] => [
    ["evaluate", ID, "--data", at("data")],
    ["patch", ID, seven, seven, "--layers", "0", "--json", at("patch.json")],
    ["ablate", ID, seven, "--layers", "0", "--rows", at("rows.jsonl")],
    ["view", ID, seven, "--html", at("view.html")],
    ["lens", ID, seven, "--html", at("lens.html")],
    ["attribute", ID, seven, "--json", at("attribute.json")],
    ["saliency", ID, seven, "--out", at("saliency.safetensors")],
    ["heads", ID, seven, "--html", at("heads.html")],
    ["convert", "--from", at("list.txt"), "--out", at("all"), "--push", "org", "--jobs", "1"],
  ]
  const train = (at: (name: string) => string, ...more: readonly string[]) =>
    ["train", "induction", "--out", at("run"), "--threads", "1", "--track", "tensorboard", ...[...TINY, ...more].flatMap((s) => ["--set", s])] // prettier-ignore
  /** Run each, and tell which ended how. */
  const endings = (home: string, commands: readonly (readonly string[])[]) =>
    twoAtATime(commands, async (args) => {
      const ran = await run(home, args, { env: { HF_ENDPOINT: whole.url } })
      return { name: args[0]!, code: ran.code, last: said(ran).at(-1) ?? "" }
    })
  const isDebugged = () => expect(outputs.join("")).toMatch(/^(HTTP|FETCH|UNDICI) \d+: /m)

  it("keeps the token out of all that it says and writes", async () => {
    const home = furnished()
    const at = (name: string) => join(home, name)
    await run(home, ["info", ID], { env: { HF_ENDPOINT: whole.url } })
    const first = [...withModel(at), train(at), ["demo"]]
    const second = [
      ["card", at("run"), "--write"],
      ["push", at("run"), "owner/run"],
    ]
    const ended = [...(await endings(home, first)), ...(await endings(home, second.slice(0, 1))), ...(await endings(home, second.slice(1)))] // prettier-ignore
    expect(ended.filter(({ code }) => code !== 0)).toEqual([])
    expect(whole.store.ids().sort()).toEqual(["org/owner-model", ID, "owner/run"])
    const tried = new Set([...first, ...second].map(([name]) => name!))
    expect([...tried, ...OTHERS].sort()).toEqual((await listed()).sort())
    isDebugged()
    checkCanary(home)
  })

  it("keeps it out where the Hub refuses and says it back, or what is asked for cannot be", async () => {
    const echo = JSON.stringify({
      error: `Bad ${CANARY} (${BASIC[0]!}) for https://s.test/f?X-Amz-Signature=${CANARY}`,
    })
    whole.fault({ on: /^(?!GET .*whoami)/, times: Infinity, do: { status: 403, body: echo } })
    const home = furnished()
    const at = (name: string) => join(home, name)
    const asking = [...withModel(at), ["push", demoModel, "owner/refused"]]
    for (const { name, code, last } of await endings(home, asking)) {
      if (name === "convert") expect([code, last]).toEqual([1, "1 models: 1 failed"])
      else expect([name, code, last]).toEqual([name, 4, expect.stringContaining("[E_HUB_AUTH]")])
    }
    const report = readFileSync(at("all/report.json"), "utf8")
    expect(report).toMatch(/Bad \*\*\*/)
    const local = [train(at, "training.lr=-1"), ["card", at("none"), "--write"], ["demo", "--threads", "0"]]
    expect((await endings(home, local)).map(({ name, code }) => [name, code])).toEqual([["train", 1], ["card", 1], ["demo", 2]]) // prettier-ignore
    isDebugged()
    checkCanary(home)
  })

  /** A worker of a queue, told to end when it has said this. */
  function worker(home: string, url: string, until: string): Promise<Ran> {
    let all = ""
    const started = (child: ChildProcess) =>
      void child.stderr!.on("data", (text: string) => {
        const [before] = [all, (all += text)]
        if (!before.includes(until) && all.includes(until)) child.kill("SIGTERM")
      })
    const args = ["worker", "--queue", url, "--root", home, "--jobs", "1"]
    return run(home, args, { env: { HF_ENDPOINT: whole.url }, started })
  }

  it("keeps it out as a worker whose server is down", async () => {
    const home = fresh()
    expect((await worker(home, "redis://127.0.0.1:9", "waits for it")).code).toBe(143)
    checkCanary(home)
  })

  const [redis] = SERVERS
  it.skipIf(!redis!.here)(`keeps it out of a queue and of what its worker does (${redis!.install})`, async () => {
    const home = furnished()
    const server = await redis!.open()
    try {
      const list = ["--from", join(home, "list.txt"), "--out", join(home, "all"), "--push", "owner"]
      const [asked, worked] = await Promise.all([
        run(home, ["convert", ...list, "--queue", server.url], { env: { HF_ENDPOINT: whole.url } }),
        worker(home, server.url, "done owner--model"),
      ])
      expect([asked.code, worked.code]).toEqual([0, 143])
      expect(whole.store.ids()).toContain("owner/owner-model")
      const connection = new Redis(server.url)
      const kept: string[] = []
      for (const key of await connection.keys("*")) {
        const isHash = (await connection.type(key)) === "hash"
        kept.push(key, isHash ? JSON.stringify(await connection.hgetall(key)) : "")
      }
      connection.disconnect()
      expect(kept.join("\n")).toContain(ID)
      outputs.push(...kept)
      checkCanary(home)
    } finally {
      await server.remove()
    }
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
