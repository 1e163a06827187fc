/** @file A list of models in one command: each by itself, whatever it does; what is done is left as it is by the next run. */
import { appendFileSync, mkdirSync, mkdtempSync, readdirSync, readFileSync, rmSync, writeFileSync } from "node:fs"
import { tmpdir } from "node:os"
import { join } from "node:path"
import { afterAll, describe, expect, it } from "vitest"
import { checkManifest } from "../src/files/manifest.ts"
import { loadPretrained } from "../src/hub/load-pretrained.ts"
import { parseList, parseShard, shardOf } from "../src/jobs/list.ts"
import { startHub } from "./helpers/hub/index.ts"
import { BAD, KILLERS, killing, makeModel, makeModels, readReport, stamps, vitPrisma } from "./helpers/batch.ts"

const scratch = mkdtempSync(join(tmpdir(), "vit-prisma-batch-"))
afterAll(() => rmSync(scratch, { recursive: true }))
const at = (...names: string[]): string => join(scratch, ...names)

const leftovers = (out: string): string[] => [
  ...readdirSync(out).filter((name) => name.includes(".tmp-")),
  ...readdirSync(join(out, ".batch")).filter((name) => !name.endsWith(".json")),
]

describe("a list", () => {
  it("has a model a line, each once", () => {
    const text = [
      "# all of them",
      "google/vit-base-patch16-224",
      "  google/vit-base-patch16-224@v2   # another revision",
      "",
      "./models/a@b\r",
      "/data/x/vit",
      "/other/VIT/",
      "gpt2",
      "google/vit-base-patch16-224 # again",
      "models/../models/a@b",
      "./models/a@b/",
    ].join("\n")
    const { models, warnings } = parseList(text, "list")
    const vit = models.filter(({ model }) => /vit\/?$/i.test(model))
    expect(vit.map(({ slug }) => slug)).toEqual([
      expect.stringMatching(/^vit-[0-9a-f]{8}$/),
      expect.stringMatching(/^VIT-[0-9a-f]{8}$/),
    ])
    expect(models.filter((m) => !vit.includes(m))).toEqual([
      { model: "google/vit-base-patch16-224", slug: "google--vit-base-patch16-224" },
      { model: "google/vit-base-patch16-224", revision: "v2", slug: "google--vit-base-patch16-224--v2" },
      { model: "./models/a@b", slug: "a-b" },
      { model: "gpt2", slug: "gpt2" },
    ])
    expect(warnings).toEqual([
      'list:9: "google/vit-base-patch16-224" stands in line 2 already and is done once',
      'list:10: "models/../models/a@b" stands in line 5 already and is done once',
      'list:11: "./models/a@b/" stands in line 5 already and is done once',
    ])
  })

  it("gives each model a name that stays in its folder", () => {
    const lines = ["../..", ".", "..", "/", "~", "./.hidden", "a/b/c", "-x/y", `o/${"n".repeat(300)}`, "é/ü", "con@a/b"]
    const { models } = parseList(lines.join("\n"), "list")
    for (const { slug } of models) expect(slug).toMatch(/^[A-Za-z0-9_][A-Za-z0-9._-]{0,199}$/)
    expect(new Set(models.map(({ slug }) => slug)).size).toBe(models.length)
    expect(() => parseList("a\u0000b", "list")).toThrow("list:1:")
  })

  it("tells apart what would be one folder or one repo, and refuses where it cannot", () => {
    const marked = (line: string, slug: RegExp): object => ({
      model: line,
      slug: expect.stringMatching(slug) as string,
    })
    const slugs = (...lines: string[]) => parseList(lines.join("\n"), "list").models
    expect(slugs("a/b--c", "a--b/c")).toEqual([marked("a/b--c", /^a--b--c-[0-9a-f]{8}$/), marked("a--b/c", /^a--b--c-[0-9a-f]{8}$/)]) // prettier-ignore
    // Their folders differ, their repos would not.
    expect(slugs("a/b-c", "a-b/c", "A/B/d", "e/f")).toEqual([
      marked("a/b-c", /^a--b-c-[0-9a-f]{8}$/),
      marked("a-b/c", /^a-b--c-[0-9a-f]{8}$/),
      { model: "A/B/d", slug: "d" },
      { model: "e/f", slug: "e--f" },
    ])
    expect(slugs("x/y", "X/Y", "./report.json")).toEqual([
      marked("x/y", /^x--y-[0-9a-f]{8}$/),
      marked("X/Y", /^X--Y-[0-9a-f]{8}$/),
      marked("./report.json", /^report\.json-[0-9a-f]{8}$/),
    ])
    const { slug } = slugs("x/y", "X/Y")[0]!
    expect(() => slugs("x/y", "X/Y", slug)).toThrow(`list: "x/y" and "${slug}" would both be written to "${slug}"`)
  })

  it("falls into parts that are the whole", () => {
    const all = Array.from({ length: 23 }, (_, i) => i)
    const parts = Array.from({ length: 5 }, (_, i) => shardOf(all, parseShard(`${i}/5`)))
    expect(parts.flat().sort((a, b) => a - b)).toEqual(all)
    expect(parts.map((p) => p.length)).toEqual([5, 5, 5, 4, 4])
    for (const text of ["5/5", "1/0", "-1/2", "1", "a/b", "0x1/4"]) expect(() => parseShard(text)).toThrow("--shard")
  })
})

describe("a batch of 200 with seven that kill or are bad", () => {
  const out = at("out")
  const bad = [...KILLERS, ...Object.keys(BAD)]
  const args = [
    "convert",
    "--from",
    at("models/list.txt"),
    "--out",
    out,
    "--jobs",
    "2",
    "--timeout",
    "15",
    "--memory",
    "1G",
  ]

  it(
    "does 193, says what became of each of the seven, and leaves nothing half done (QU-04, QU-09)",
    { timeout: 240_000 },
    async () => {
      const names = makeModels(at("models"), 200, bad)
      appendFileSync(at("models/list.txt"), `${at("models", names[0]!)} # again\n`)
      const { code, stdout, stderr } = await vitPrisma(args, { env: killing(scratch) })
      expect([code, stdout]).toEqual([1, `${join(out, "report.md")}\n`])
      expect(stderr).toContain("list.txt:201: ")
      expect(stderr.trimEnd().split("\n").at(-1)).toBe("200 models: 193 done, 7 failed")
      const { counts, models } = readReport(out)
      expect(counts).toEqual({ done: 193, already: 0, failed: 7, cancelled: 0, left: 0 })
      expect(models.map(({ output }) => output)).toEqual(names)
      const failed = models.filter(({ state }) => state === "failed")
      expect(Object.fromEntries(failed.map((m) => [m.output, `${m.code} ${m.attempts} ${m.message}`]))).toEqual({
        "killer-segfault": "E_WORKER_CRASH 2 the job's process was ended by SIGSEGV",
        "killer-exit": "E_WORKER_CRASH 2 the job's process ended with exit code 3",
        "killer-hang": "E_WORKER_CRASH 1 the job did not end within 15 s and was stopped",
        // The first process had had other jobs, which might have been at fault.
        "killer-memory": expect.stringMatching(
          /^E_MEMORY_BUDGET 2 the job held \d+ MiB of memory, it may hold 512, /,
        ) as string,
        ...Object.fromEntries(
          Object.entries(BAD).map(([n, c]) => [n, expect.stringMatching(`^${c} 1 .*${n}`) as string]),
        ),
      })
      expect(
        readdirSync(out)
          .filter((name) => /^[mkb]/.test(name))
          .sort(),
      ).toEqual(names.filter((name) => !bad.includes(name)).sort())
      for (const name of names.filter((n) => !bad.includes(n)))
        expect(await checkManifest(join(out, name)), name).toBe(true)
      // Each is its own model, under its own name.
      for (const [i, name] of [names[0]!, names[7]!, names.at(-1)!].entries()) {
        const { source } = await loadPretrained(join(out, name))
        expect(readFileSync(source.checkpoint.files[0]!), String(i)).toEqual(
          readFileSync(at("models", name, "model.safetensors")),
        )
      }
      expect(leftovers(out)).toEqual([])
      const markdown = readFileSync(join(out, "report.md"), "utf8")
      expect(markdown).toMatch(/^# 200 models: 7 failed, 193 done\n/)
      expect(markdown.split("\n").filter((line) => line.startsWith("| killer-exit |"))).toHaveLength(1)
    },
  )

  it(
    "touches only the seven when it is run again, and does those that are mended (QU-09)",
    { timeout: 240_000 },
    async () => {
      const before = stamps(out)
      for (const name of bad) makeModel(at("models", name), 500)
      // Nothing kills now, so all can be done.
      const { code, stderr } = await vitPrisma(args)
      expect([code, stderr.trimEnd().split("\n").at(-1)]).toEqual([0, "200 models: 7 done, 193 already"])
      const after = stamps(out)
      const changed = Object.keys(after).filter((name) => after[name] !== before[name])
      expect(new Set(changed.map((name) => name.split("/")[0]))).toEqual(new Set([...bad, "report.json", "report.md"]))
      expect(Object.keys(before).filter((name) => !(name in after))).toEqual([])
    },
  )
})

describe("what is done again", () => {
  const out = at("again")
  const convert = (...more: string[]) =>
    vitPrisma(["convert", "--from", at("few/list.txt"), "--out", out, "--jobs", "1", "--json", ...more])
  const states = (): string => readReport(out).models.map(({ state }) => state).join(" ") // prettier-ignore

  it("is what was changed: the source, the output, the options", async () => {
    makeModels(at("few"), 3)
    await convert("--certify")
    expect(states()).toBe("done done done")
    for (const { worst, bytes } of readReport(out).models) {
      expect(worst).toBeLessThan(1e-5)
      expect(bytes).toBeGreaterThan(24_036 * 4)
    }
    makeModel(at("few/m0000"), 99)
    // Damage that leaves the size as it was.
    const path = join(out, "m0001", "model.safetensors")
    const bytes = readFileSync(path)
    bytes[bytes.length - 1]! ^= 1
    writeFileSync(path, bytes)
    writeFileSync(join(out, "m0002", "notes.txt"), "the user's own")
    await convert("--certify")
    expect(states()).toBe("done done already")
    expect(await checkManifest(join(out, "m0001"))).toBe(true)
    await convert("--certify", "--hooks", "*.hook_z")
    expect(states()).toBe("done done done")
  })

  it("is not begun where a folder has the report's name", async () => {
    mkdirSync(at("taken/report.md"), { recursive: true })
    const { code, stderr } = await convert("--out", at("taken"))
    expect([code, readdirSync(at("taken"))]).toEqual([6, ["report.md"]])
    const message = expect.stringMatching(/report\.md: is a folder, and the report's name;/) as string
    expect(JSON.parse(stderr)).toMatchObject({ code: "E_OUTPUT", message })
  })

  it("is never what something else wrote, unless forced", async () => {
    rmSync(join(out, "m0001"), { recursive: true })
    mkdirSync(join(out, "m0001"))
    writeFileSync(join(out, "m0001", "precious"), "x")
    const { code, stdout } = await convert("--certify", "--hooks", "*.hook_z")
    expect([code, (JSON.parse(stdout) as { counts: object }).counts]).toEqual([1, readReport(out).counts])
    expect(readReport(out).models[1]).toMatchObject({ state: "failed", code: "E_OUTPUT" })
    expect(readFileSync(join(out, "m0001", "precious"), "utf8")).toBe("x")
    await convert("--certify", "--hooks", "*.hook_z", "--force")
    expect(states()).toBe("already done already")
  })

  it("is nothing where the process died between the output and its record", async () => {
    const before = stamps(out)
    const record = join(out, ".batch", "m0002.json")
    const { done, ...begun } = JSON.parse(readFileSync(record, "utf8")) as { done?: object }
    expect(done).toBeDefined()
    // As it was when the output was begun: older than the output.
    writeFileSync(record, JSON.stringify(begun))
    const { utimesSync } = await import("node:fs")
    utimesSync(record, new Date(0), new Date(0))
    await convert("--certify", "--hooks", "*.hook_z", "--force")
    expect(states()).toBe("already already already")
    const after = stamps(out)
    for (const name of Object.keys(after).filter((n) => !n.startsWith("report")))
      expect(after[name], name).toBe(before[name])
    expect(readReport(out).models[2]!.worst).toBeLessThan(1e-5)
    // Begun later than what lies there: that is of something else.
    writeFileSync(record, JSON.stringify(begun))
    await convert("--certify", "--hooks", "*.hook_z", "--force")
    expect(states()).toBe("already already done")
  })
})

describe("models on a Hub", () => {
  it("are fetched once, and done again when their branch moves on, unless the list names a commit", async () => {
    const hub = await startHub({ root: at("hub") })
    try {
      const files = (n: number) => ({
        "config.json": readFileSync(join(makeModel(at(`hub-${n}`), n), "config.json")),
        "model.safetensors": readFileSync(at(`hub-${n}`, "model.safetensors")),
      })
      hub.addRepo("lab/moves", files(1))
      hub.addRepo("lab/stays", files(2))
      const commit = hub.refs("lab/stays").branches["main"]!
      writeFileSync(at("hub.txt"), `lab/moves\nlab/stays@${commit}\nlab/nowhere\nnot an/id\n`)
      const env = { HF_ENDPOINT: hub.url, HF_HUB_OFFLINE: "0", HF_HUB_CACHE: at("cache"), HF_TOKEN: "" }
      const run = async () => {
        await vitPrisma(["convert", "--from", at("hub.txt"), "--out", at("hub-out"), "--jobs", "2"], { env })
        return readReport(at("hub-out")).models.map(({ output, state, code }) => [output, code ?? state])
      }
      const bad = [["lab--nowhere", "E_HUB_NOT_FOUND"], ["not-an--id", "E_REPO_ID"]] // prettier-ignore
      expect(await run()).toEqual([["lab--moves", "done"], [`lab--stays--${commit}`, "done"], ...bad])
      const weights = () =>
        hub.requests.filter(({ path, sent }) => /blobs|safetensors/.test(path) && sent > 50_000).length
      const fetched = weights()
      expect(fetched).toBeGreaterThan(0)
      hub.addRepo("lab/moves", files(3))
      hub.addRepo("lab/stays", files(4))
      expect(await run()).toEqual([["lab--moves", "done"], [`lab--stays--${commit}`, "already"], ...bad])
      expect(weights()).toBe(fetched + 1)
      for (const [name, n] of [
        ["lab--moves", 3],
        [`lab--stays--${commit}`, 2],
      ] as const) {
        // prettier-ignore
        expect(readFileSync(at("hub-out", name, "model.safetensors"))).toEqual(files(n)["model.safetensors"])
      }
    } finally {
      await hub.close()
    }
  })
})

describe("parts of a list", () => {
  it("are done by themselves, with a report each, and together are all", async () => {
    const names = makeModels(at("parts"), 5)
    const run = (...shard: string[]) =>
      vitPrisma(["convert", "--from", at("parts/list.txt"), "--out", at("parts-out"), "--jobs", "1", ...shard])
    for (const [i, part] of ["0/2", "1/2"].entries()) {
      expect((await run("--shard", part)).code).toBe(0)
      const report = readReport(at("parts-out"), `report-${i}-of-2`)
      expect(report.models.map(({ output }) => output)).toEqual(names.filter((_, k) => k % 2 === i))
    }
    expect((await run()).stderr).toContain("5 models: 5 already")
  })
})

describe("a signal", () => {
  const run = (out: string, signals: readonly number[], ...more: readonly string[]) => {
    const env = killing(scratch)
    const args = ["convert", "--from", at("signalled/list.txt"), "--out", out, "--jobs", "2", "--json", ...more]
    return vitPrisma(args, {
      env,
      started: (child) =>
        // The first two are at work when a line of the third tells that it has ended.
        child.stderr!.once("data", () => signals.forEach((ms) => setTimeout(() => child.kill("SIGTERM"), ms))),
    })
  }

  it("begins no new job, and those that run may finish (QU-10)", async () => {
    makeModels(at("signalled"), 30)
    const { code, stdout, seconds } = await run(at("stopped"), [0])
    const { counts } = JSON.parse(stdout) as { counts: Record<string, number> }
    expect([code, counts["failed"], seconds < 20]).toEqual([143, 0, true])
    expect(counts["done"]).toBeGreaterThan(0)
    expect(counts["left"]).toBeGreaterThan(0)
    expect(counts["done"]! + counts["left"]!).toBe(30)
    expect(readdirSync(at("stopped")).filter((name) => name.startsWith("m"))).toHaveLength(counts["done"]!)
    expect(leftovers(at("stopped"))).toEqual([])
  })

  it("ends what runs when it comes again, and removes what that left half done (QU-10, QU-13)", async () => {
    makeModel(at("signalled/killer-late"), 7)
    const list = readFileSync(at("signalled/list.txt"), "utf8").split("\n")
    writeFileSync(at("signalled/list.txt"), [at("signalled/killer-late"), ...list].join("\n"))
    let half: string[] = []
    const watch = setInterval(() => {
      try {
        half = [...half, ...readdirSync(at("ended")).filter((name) => name.startsWith(".killer-late.tmp-"))]
      } catch {}
    }, 20)
    const { code, seconds } = await run(at("ended"), [0, 500])
    clearInterval(watch)
    expect(half.length).toBeGreaterThan(0)
    expect([code, seconds < 8]).toEqual([143, true])
    expect(readReport(at("ended")).models[0]).toMatchObject({ output: "killer-late", state: "left" })
    expect(leftovers(at("ended"))).toEqual([])
  })

  it("that comes once ends, after the grace, what does not end", async () => {
    const { code, stderr, seconds } = await run(at("grace"), [0], "--grace", "2")
    expect(stderr).toContain("what runs may finish, for at most 2 s;")
    expect([code, seconds > 2, seconds < 30]).toEqual([143, true, true])
    const { models, counts } = readReport(at("grace"))
    expect(models[0]).toMatchObject({ output: "killer-late", state: "left" })
    expect(counts["done"]! + counts["left"]!).toBe(31)
    expect(leftovers(at("grace"))).toEqual([])
  })
})

describe("usage", () => {
  it("is refused by name before anything is done", async () => {
    writeFileSync(at("empty.txt"), "# nothing\n\n")
    const few = at("few/list.txt")
    const cases: [string[], number, string][] = [
      [["--from", few, "some/model"], 2, "E_USAGE"],
      [[], 2, "E_USAGE"],
      [["some/model", "--shard", "0/2"], 2, "E_USAGE"],
      [["some/model", "--private"], 2, "E_USAGE"],
      [["--from", few, "--private"], 2, "E_USAGE"],
      [["--from", few, "--shard", "2/2"], 2, "E_USAGE"],
      [["--from", few, "--memory", "lots"], 2, "E_USAGE"],
      [["--from", few, "--memory", "1M"], 2, "E_USAGE"],
      [["--from", few, "--cancel"], 2, "E_USAGE"],
      [["--from", few, "--queue", "http://user:secret@host"], 2, "E_USAGE"],
      [["--from", at("empty.txt")], 1, "E_INPUT"],
      [["--from", at("nowhere.txt")], 1, "E_NOT_A_FILE"],
      [["--from", at("few")], 1, "E_NOT_A_FILE"],
      [["--from", join(at("few"), "m0000/model.safetensors")], 1, "E_INPUT"],
    ]
    for (const [args, code, error] of cases) {
      const ran = await vitPrisma(["convert", ...args, "--out", at("unused"), "--json"])
      expect([ran.code, (JSON.parse(ran.stderr.trim()) as { code: string }).code, ran.stdout], args.join(" ")).toEqual([code, error, ""]) // prettier-ignore
      expect(ran.stderr).not.toContain("secret")
    }
    expect(readdirSync(scratch)).not.toContain("unused")
  })
})
