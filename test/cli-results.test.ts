/** @file What the commands print in real processes: results in both formats, odd names, bad images, pipes, terminals. */
import { copyFileSync, cpSync, existsSync, mkdirSync, mkdtempSync, readFileSync, rmSync, writeFileSync } from "node:fs"
import { tmpdir } from "node:os"
import { join } from "node:path"
import { afterAll, beforeAll, describe, expect, it } from "vitest"
import { cli, demoModel, MAIN, type Ran, reference, seven, writeTensors } from "./helpers/cli.ts"
import { startHub, type TestHub } from "./helpers/hub/index.ts"

const scratch = mkdtempSync(join(tmpdir(), "vit-prisma-results-"))
afterAll(() => rmSync(scratch, { recursive: true }))
const at = (name: string): string => join(scratch, name)

const json = ({ stdout }: Ran): unknown => JSON.parse(stdout)

describe("results", () => {
  it("info of a model", async () => {
    const [human, machine, dual] = await Promise.all([
      cli(["info", demoModel]),
      cli(["info", demoModel, "--json"]),
      cli(["info", reference("hf-clip-eos-2"), "--format=json"]),
    ])
    expect([human.code, human.stderr, machine.code, machine.stderr]).toEqual([0, "", 0, ""])
    expect(human.stdout).toContain("ViTForImageClassification (hf-vit), 105,546 parameters")
    expect(human.stdout).toMatch(/^blocks\.0\.attn\.hook_pattern +\[batch, 4, 50, 50\] +40\.0 kB *$/m)
    expect(human.stdout).toMatch(/^blocks\.0\.attn\.hook_result .* on request$/m)
    interface Info {
      family: string
      parameters: number
      inputs: Record<string, unknown>
      weights: { name: string; dtype: string; shape: number[] }[]
      hooks: { name: string; shape: unknown[]; bytes: number; onRequest: boolean }[]
    }
    const info = json(machine) as Info
    expect(info).toMatchObject({ family: "hf-vit", parameters: 105_546, outputs: ["logits"] })
    expect(info.weights.reduce((n, w) => n + w.shape.reduce((a, b) => a * b, 1), 0)).toBe(info.parameters)
    const pattern = { name: "blocks.0.attn.hook_pattern", shape: ["batch", 4, 50, 50], bytes: 40_000, onRequest: false }
    expect(info.hooks).toContainEqual(pattern)
    expect((json(dual) as Info).inputs).toEqual({ pixel_values: ["batch", 3, 32, 32], input_ids: ["texts", "tokens"] })
  })

  it("info of files", async () => {
    const evil = writeTensors(at("evil\u001b[2J.safetensors"), {
      "red \u001b[31m\n": { shape: [2], data: Float32Array.of(1, 2) },
    })
    const [file, machine, odd] = await Promise.all([
      cli(["info", join(demoModel, "model.safetensors")]),
      cli(["info", join(demoModel, "model.safetensors"), "--json"]),
      cli(["info", evil]),
    ])
    expect(file.stdout).toMatch(/^classifier\.bias +F32 +\[10\] +40 B$/m)
    const { tensors, bytes, metadata } = json(machine) as {
      tensors: { bytes: number }[]
      bytes: number
      metadata: object
    }
    expect([tensors.length, metadata]).toEqual([56, { format: "pt" }])
    expect(tensors.reduce((n, t) => n + t.bytes, 0)).toBe(bytes)
    // Names from files must not steer the terminal.
    expect(odd.stdout).toBe("red \\u{1b}[31m\\u{a}  F32  [2]  8 B\n1 tensor, 8 B\n")
  })

  it("predictions", async () => {
    const [human, machine, top] = await Promise.all([
      cli(["run", demoModel, seven]),
      cli(["run", demoModel, seven, seven, "--json", "--batch", "1"]),
      cli(["run", demoModel, seven, "--format", "json", "--top", "1"]),
    ])
    expect(human.stdout.split("\n").map((line) => line.trim().split(/ +/).at(-1))).toEqual([
      seven,
      "7",
      "9",
      "2",
      "3",
      "1",
      "",
    ])
    const results = json(machine) as { image: string; predictions: Record<string, number | string>[] }[]
    expect(results.map(({ image }) => image)).toEqual([seven, seven])
    expect(results[0]!.predictions).toHaveLength(5)
    expect(Object.keys(results[0]!.predictions[0]!)).toEqual(["label", "score", "logit", "index"])
    expect(results[0]!.predictions[0]).toMatchObject({ label: "7", index: 7 })
    expect(results[1]!.predictions).toEqual(results[0]!.predictions)
    expect((json(top) as typeof results)[0]!.predictions).toEqual(results[0]!.predictions.slice(0, 1))
    expect([human.stderr, machine.stderr, top.stderr]).toEqual(["", "", ""])
  })

  it("the demo, and a conversion", async () => {
    const [demo, machine, convert, info] = await Promise.all([
      cli(["demo"], { cwd: scratch }),
      cli(["demo", "--json"]),
      cli(["convert", demoModel, "--out", at("c1"), "--json", "--certify"]),
      cli(["convert", demoModel, "--out", at("c2"), "--hooks", "*.hook_z"]).then(() =>
        cli(["info", at("c2/onnx/model.onnx")]),
      ),
    ])
    expect(demo.stdout).toMatch(/It says\n {2}7 +99\.99 %/)
    expect((json(machine) as { predictions: object[] }[])[0]!.predictions[0]).toMatchObject({ label: "7" })
    expect(json(convert) as object).toMatchObject({
      folder: at("c1"),
      warnings: [],
      certificate: { values: [{ name: "logits", shape: [1, 10] }] },
    })
    expect(convert.stderr).toBe("")
    expect(info.stdout).toMatch(
      /\n\d+ tensors of external data, all inside the model's folder, as the manifest says\n$/,
    )
  })

  it("skip bad images only when told to", async () => {
    writeFileSync(at("bad.png"), "\u0089PNG")
    const images = [seven, at("bad.png"), seven]
    const [human, machine, none] = await Promise.all([
      cli(["run", demoModel, ...images, "--on-bad-image", "skip"]),
      cli(["run", demoModel, ...images, "--on-bad-image", "skip", "--json"]),
      cli(["activations", demoModel, ...images, "--out", at("none")]),
    ])
    expect([human.code, machine.code]).toEqual([0, 0])
    expect(human.stderr).toMatch(/^skipped image 1: .*bad\.png: .* \[E_IMAGE_DECODE\]\n1 of 3 images were skipped\n$/)
    expect((json(machine) as { image: string }[]).map(({ image }) => image)).toEqual([seven, seven])
    expect(JSON.parse(machine.stderr)).toMatchObject({ code: "E_IMAGE_DECODE", file: at("bad.png") })
    expect(none.code).toBe(1)
    expect(none.stderr).toContain(`${at("bad.png")}: `)
    expect(existsSync(at("none"))).toBe(false)
  })

  it("take odd file names, and those that begin with a dash behind --", async () => {
    const names = ["with space", "\u{1f9ff}", "a#b?c", "100%25", "quote'\"", "-dash", "comma,{x}*"]
    const folder = at("odd \u{1f9ff} # %20")
    cpSync(demoModel, folder, { recursive: true })
    for (const name of names) copyFileSync(seven, join(folder, `${name}.png`))
    const images = names.map((name) => `${name}.png`)
    const run = await cli(["run", "--json", ".", "--", ...images], { cwd: folder })
    expect(
      (json(run) as { image: string; predictions: { label: string }[] }[]).map((r) => [
        r.image,
        r.predictions[0]!.label,
      ]),
    ).toEqual(images.map((image) => [image, "7"]))
    const out = await cli(["activations", folder, join(folder, "a#b?c.png"), "--out", join(folder, "\u{1f9ff} %.st")])
    const converted = await cli(["convert", folder, "--out", join(folder, "c #%41")])
    expect([out.code, converted.code, converted.stdout]).toEqual([0, 0, `${join(folder, "c #%41")}\n`])
    expect((await cli(["info", join(folder, "c #%41/onnx/model.onnx")])).code).toBe(0)
  })
})

describe("a home and a working folder with spaces, quotes, an emoji, # and %", () => {
  const home = at('it\'s "my" # home \u{1f9ff} 100%25')
  const cwd = join(home, "work of 'me' # %41")
  let hub: TestHub
  beforeAll(async () => {
    hub = await startHub({ root: at("hub") })
    mkdirSync(join(home, ".cache/huggingface"), { recursive: true })
    writeFileSync(join(home, ".cache/huggingface/token"), "hf_write\n")
    mkdirSync(cwd)
  })
  afterAll(() => hub.close())
  /** What a command says, which must end well. */
  async function works(...args: string[]): Promise<string> {
    // Everything is where a home has it.
    const none = { HF_HOME: "", HF_HUB_CACHE: "", HUGGINGFACE_HUB_CACHE: "", XDG_CACHE_HOME: "", HF_TOKEN: "" }
    const env = { ...none, HOME: home, USERPROFILE: home, HF_ENDPOINT: hub.url, HF_HUB_OFFLINE: "" }
    const { code, stdout, stderr } = await cli(args, { cwd, env })
    expect([args[0], code, stderr]).toEqual([args[0], 0, expect.any(String)])
    return stdout
  }

  it("are no hindrance to a run, its card, its upload, a list of models, the cache and a page", async () => {
    const few = "training.max_steps=2 training.test_samples=10 transformer.hidden_dim=16 transformer.num_heads=2"
    await works("train", "induction", "--out", "run", "--threads", "1", ...few.split(" ").flatMap((s) => ["--set", s]))
    cpSync(demoModel, join(cwd, "model"), { recursive: true })
    writeFileSync(join(cwd, "list #1.txt"), `${join(cwd, "model")}  # by its whole path\n./run\nowner/it\n`)
    await Promise.all([
      works("evaluate", "run", "--json").then((said) => expect(JSON.parse(said)).toMatchObject({ n: 10 })),
      works("view", "model", seven, "--html", "page # %41.html"),
    ])
    expect(readFileSync(join(cwd, "page # %41.html"), "utf8")).toMatch(/^<!doctype html>/i)
    await works("card", "run", "--write")
    await works("push", "run", "owner/it")
    expect(hub.files("owner/it").get("README.md")).toEqual(readFileSync(join(cwd, "run/README.md")))
    expect(Object.keys(hub.refs("owner/it").tags).length).toBeGreaterThan(0)
    await works("convert", "--from", "list #1.txt", "--out", "all # of %41", "--jobs", "2")
    for (const name of ["model", "run", "owner--it"]) {
      expect(existsSync(join(cwd, "all # of %41", name, "onnx/model.onnx")), name).toBe(true)
    }
    const cache = join(home, ".cache/huggingface/hub")
    expect(await works("cache", "ls")).toContain("owner/it")
    expect(await works("cache", "verify", "--json")).toContain('"damages": []')
    const { findings } = JSON.parse(await works("doctor", "--json")) as { findings: { about: string; found: string }[] }
    const found = new Map(findings.map((finding) => [finding.about, finding.found]))
    expect(found.get("token")).toBe(`from ${join(home, ".cache/huggingface/token")}`)
    expect(found.get("cache")).toBe(`1 repo in ${cache}, 0 damages`)
  })
})

/** A preload: what is written is said to go to a terminal. */
const terminal = (...streams: readonly string[]): string =>
  streams
    .map((s) => `Object.assign(process.${s}, { isTTY: true, columns: 80, cursorTo() {}, clearLine() {} });`)
    .join("")

describe("streams", () => {
  it("may be closed by their reader", async () => {
    const closed = (name: "stdout" | "stderr", args: readonly string[]) =>
      cli(args, { started: (child) => child[name]!.destroy() })
    const [data, errors] = await Promise.all([
      closed("stdout", ["info", reference("hf-vit-names-v5"), "--json"]),
      closed("stderr", ["run", demoModel, at("nothing"), seven, "--on-bad-image", "skip", "--json"]),
    ])
    expect(data).toMatchObject({ code: 0, signal: null, stderr: "" })
    expect(errors).toMatchObject({ code: 0, signal: null })
    expect(json(errors)).toHaveLength(1)
  })

  it.skipIf(!existsSync("/dev/full"))("that are full are a typed error (needs /dev/full)", async () => {
    const { openSync } = await import("node:fs")
    const { spawnSync } = await import("node:child_process")
    const ran = spawnSync(process.execPath, [MAIN, "info", demoModel], {
      stdio: ["ignore", openSync("/dev/full", "w"), "pipe"],
      encoding: "utf8",
    })
    expect(ran.status).toBe(5)
    expect(ran.stderr).toBe("vit-prisma: standard output is full (ENOSPC) [E_DISK_FULL]\n")
  })

  it("have colours only on a terminal and without NO_COLOR", async () => {
    const args = ["run", demoModel, seven]
    const env = (NO_COLOR: string) => ({ NO_COLOR, FORCE_COLOR: "", NODE_DISABLE_COLORS: "" })
    const [plain, coloured, asked, machine] = await Promise.all([
      cli(args, { env: env("") }),
      cli(args, { env: env(""), preload: terminal("stdout") }),
      cli(args, { env: env("1"), preload: terminal("stdout") }),
      cli([...args, "--json"], { env: env(""), preload: terminal("stdout") }),
    ])
    expect(coloured.stdout).toContain("\u001b[1m")
    expect(coloured.stdout.replace(/\u001b\[\d+m/g, "")).toBe(plain.stdout)
    expect(asked.stdout).toBe(plain.stdout)
    expect(JSON.parse(machine.stdout)).toHaveLength(1)
  })

  it("show a bar on a terminal, which Ctrl-C ends", async () => {
    const images = Array.from({ length: 400 }, () => seven)
    const args = ["run", demoModel, ...images, "--batch", "1", "--json"]
    const interrupted = (signal: NodeJS.Signals) =>
      cli(args, {
        preload: terminal("stderr"),
        started: (child) => child.stderr!.once("data", () => child.kill(signal)),
      })
    const [int, term] = await Promise.all([interrupted("SIGINT"), interrupted("SIGTERM")])
    expect([int.code, term.code, int.stdout]).toEqual([130, 143, ""])
    expect(int.stderr).toContain("images")
    expect(int.stderr.lastIndexOf("\u001b[?25h")).toBeGreaterThan(int.stderr.lastIndexOf("\u001b[?25l"))
  })
})
