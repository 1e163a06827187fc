/** @file The command line in real processes: help, usage, results in both formats, errors and exit codes, pipes, signals. */
import { copyFileSync, cpSync, existsSync, mkdirSync, mkdtempSync, readFileSync, rmSync, writeFileSync } from "node:fs"
import { tmpdir } from "node:os"
import { join } from "node:path"
import { afterAll, beforeAll, describe, expect, it } from "vitest"
import { cli, demoModel, type Ran, reference, root, seven, twoAtATime, writeTensors } from "./helpers/cli.ts"
import { FAULTS } from "./helpers/faults.ts"

const scratch = mkdtempSync(join(tmpdir(), "vit-prisma-cli-"))
afterAll(() => rmSync(scratch, { recursive: true }))
const at = (name: string): string => join(scratch, name)

const json = ({ stdout }: Ran): unknown => JSON.parse(stdout)

const COMMANDS = ["info", "run", "activations", "convert", "demo"]

describe("help", () => {
  it("is data", async () => {
    const { code, stdout, stderr } = await cli(["--help"])
    expect([code, stderr]).toEqual([0, ""])
    expect(stdout).toMatchInlineSnapshot(`
      "Usage: vit-prisma [options] [command]

      Vision transformers as hookable graphs: read, replace, edit and export every
      activation.

      Options:
        -V, --version                              output the version number
        -h, --help                                 display help for command

      Commands:
        info [options] <model>                     what a model, a .safetensors file or an .onnx file holds
        run [options] <model> <images...>          predictions for images
        activations [options] <model> [images...]  write hooks and outputs of a run to a safetensors file
        convert [options] <model>                  write a folder for transformers.js, onnxruntime and this package
        demo [options]                             the model that this package carries, on an image that it carries
        help [command]                             display help for command
      "
    `)
  })

  it("of each command tells its arguments and options", async () => {
    const helps = await twoAtATime(COMMANDS, (command) => cli([command, "--help"]))
    expect(helps.map(({ code, stderr }) => [code, stderr])).toEqual(COMMANDS.map(() => [0, ""]))
    const [info, ...others] = helps.map(({ stdout }) => stdout.split("\n"))
    expect(info!.join("\n")).toMatchInlineSnapshot(`
      "Usage: vit-prisma info [options] <model>

      what a model, a .safetensors file or an .onnx file holds

      Arguments:
        model                  folder, repo id or file

      Options:
        --format <format>      how results are printed (choices: "human", "json",
                               default: "human")
        --json                 short for --format json
        --revision <name>      branch, tag or commit of a repo (main)
        --cache-dir <dir>      the Hub cache to look in
        --allow-pickle         read PyTorch pickles where there is no safetensors;
                               nothing in them is run
        --device <name>        execution provider (choices: "auto", "cpu", "cuda",
                               "webgpu", "dml", "coreml", default: "cpu")
        --threads <n>          threads inside one operator
        --image-size <pixels>  build for another image size
        -h, --help             display help for command
      "
    `)
    // What all commands have is shown once.
    const own = others.map((lines) => lines.filter((line) => line && !info!.includes(line)).join("\n"))
    expect(own.join("\n\n")).toMatchInlineSnapshot(`
      "Usage: vit-prisma run [options] <model> <images...>
      predictions for images
        model                  folder or repo id
        images                 image files
        --top <n>              classes to show (default: 5)
        --batch <n>            images at once (default: 8)
        --on-bad-image <what>  an image that cannot be decoded (choices: "fail",
                               "skip", default: "fail")

      Usage: vit-prisma activations [options] <model> [images...]
      write hooks and outputs of a run to a safetensors file
        model                  folder or repo id
        images                 image files
        --input <file>         safetensors with pixel_values [b, c, h, w] and
                               input_ids [n, t] instead of images
        --out <file>           safetensors file to write
        --hooks <globs>        hooks to write, comma-separated; * stands for anything
        --patch <hook=file>    replace a hook by the tensor of its name in a
                               safetensors file; repeatable

      Usage: vit-prisma convert [options] <model>
      write a folder for transformers.js, onnxruntime and this package
        model                  folder or repo id
        --out <dir>            folder to write
        --hooks <globs>        hooks that become outputs, comma-separated
        --inputs <globs>       hooks that become replaceable inputs, comma-separated
        --certify              compare every value put out with a float64
                               implementation
        --tolerance <x>        largest certified max |a - b| / max(1, max |b|)
                               (default: 0.0001)
        --force                replace the folder if it exists

      Usage: vit-prisma demo [options]
      the model that this package carries, on an image that it carries"
    `)
  })

  it("without a command is an error of usage, as is one that does not exist", async () => {
    const [none, version] = await twoAtATime([[], ["--version"]], (args) => cli(args))
    expect([none!.code, none!.stdout]).toEqual([2, ""])
    expect(none!.stderr).toMatch(/^Usage: vit-prisma[\s\S]*\nvit-prisma: no command was given; .* \[E_USAGE\]\n$/)
    expect(version!.stdout).toBe(
      `${(JSON.parse(readFileSync(join(root, "package.json"), "utf8")) as { version: string }).version}\n`,
    )
  })
})

/** What each kind of error is provoked by, its code and exit code. Paths are relative to `scratch`. */
const ERRORS: readonly (readonly [what: string, args: readonly string[], code: string, exit: number, message: RegExp])[] = [
  ["unknown command", ["nope"], "E_USAGE", 2, /^unknown command 'nope'; see vit-prisma --help$/],
  ["misspelt command", ["inf", "x"], "E_USAGE", 2, /^unknown command 'inf' \(Did you mean info\?\); see/],
  ["unknown option", ["run", "--nope", "a", "b"], "E_USAGE", 2, /^unknown option '--nope' \(Did you mean --top\?\)/],
  ["unknown format", ["info", "--format", "xml", demoModel], "E_USAGE", 2, /'xml' is invalid. Allowed choices are human, json;/],
  ["missing argument", ["run", demoModel], "E_USAGE", 2, /^missing required argument 'images'/],
  ["surplus argument", ["info", "a", "b"], "E_USAGE", 2, /^too many arguments for 'info'/],
  ["missing option", ["convert", demoModel], "E_USAGE", 2, /^required option '--out <dir>' not specified/],
  ["option without value", ["run", demoModel, "a", "--top"], "E_USAGE", 2, /^option '--top <n>' argument missing/],
  ["not a number", ["run", demoModel, "a", "--top", "0"], "E_USAGE", 2, /'--top <n>' argument '0' is invalid. It must be a whole number of at least 1;/],
  ["not positive", ["convert", demoModel, "--out", "o", "--tolerance", "-1"], "E_USAGE", 2, /'--tolerance <x>' argument '-1' is invalid. It must be a number above 0;/],
  ["unknown choice", ["run", demoModel, "a", "--device", "abacus"], "E_USAGE", 2, /'--device <name>' argument 'abacus' is invalid/],
  ["neither images nor input", ["activations", demoModel, "--out", "o"], "E_USAGE", 2, /^give either --input FILE.safetensors or images$/],
  ["both", ["activations", demoModel, seven, "--input", "x", "--out", "o"], "E_USAGE", 2, /^give either/],
  ["unknown hook", ["activations", demoModel, seven, "--out", "o", "--hooks", "blocks.0.hook_resid"], "E_HOOK", 2, /nearest are "blocks.0.hook_resid_\w+"/],
  ["no such image", ["run", demoModel, "gone.png"], "E_DATASET_GONE", 1, /^image 0: gone.png: /],
  ["not an image", ["run", demoModel, seven, "text.txt"], "E_IMAGE_DECODE", 1, /^image 1: text.txt: /],
  ["no such folder", ["info", "./gone"], "E_INPUT", 1, /^\.\/gone: no such folder$/],
  ["no such file", ["info", "gone.safetensors"], "E_NOT_A_FILE", 1, /^gone.safetensors: does not exist/],
  ["no such graph", ["info", "gone.onnx"], "E_NOT_A_FILE", 1, /^gone.onnx: does not exist/],
  ["no safetensors", ["info", "text.txt"], "E_ST_HEADER_TOO_LARGE", 1, /^text.txt: header length /],
  ["bad repo id", ["info", "a/b/c"], "E_REPO_ID", 1, /"a\/b\/c"/],
  ["unsupported model", ["info", reference("timm-scale-norms")], "E_UNSUPPORTED_ARCH", 1, /beit3_base_patch16_224/],
  ["no classes", ["run", reference("hf-dinov2"), seven], "E_INPUT", 1, /no class logits/],
  ["no preprocessing", ["run", reference("hf-vit-names-v5"), seven], "E_PREPROC", 1, /preprocessor_config.json/],
  ["weights only as a pickle", ["info", "./pickled"], "E_UNSAFE_FORMAT", 3, /--allow-pickle/],
  ["changed weights", ["info", "./flipped"], "E_INTEGRITY", 3, /flipped\/model.safetensors: expected \d+ bytes with sha256/],
  ["changed data of a graph", ["info", "flipped/onnx/model.onnx"], "E_INTEGRITY", 3, /onnx\/model.onnx_data: expected/],
  ["not precise enough", ["convert", demoModel, "--out", "imprecise", "--certify", "--tolerance", "1e-12"], "E_PARITY", 3, /imprecise.certificate.json$/],
  ["not in the cache", ["info", "someone/something"], "E_HUB_NOT_FOUND", 4, /hf download someone\/something/],
  ["folder is there", ["convert", demoModel, "--out", "flipped"], "E_OUTPUT", 6, /flipped: exists already/],
  ["folder is a file", ["convert", demoModel, "--out", "text.txt"], "E_OUTPUT", 6, /text.txt: exists already/],
  ["file is a folder", ["activations", demoModel, seven, "--out", "flipped"], "E_OUTPUT", 6, /flipped: is a folder, not a file/],
  ["parent is a file", ["activations", demoModel, seven, "--out", "text.txt/o"], "E_OUTPUT", 6, /text.txt\/o: cannot be written/],
] // prettier-ignore

describe("errors", () => {
  beforeAll(async () => {
    writeFileSync(at("text.txt"), "hello there, this is no image")
    mkdirSync(at("pickled"))
    copyFileSync(join(demoModel, "config.json"), at("pickled/config.json"))
    writeFileSync(at("pickled/pytorch_model.bin"), "")
    expect((await cli(["convert", demoModel, "--out", at("flipped")])).code).toBe(0)
    const data = readFileSync(at("flipped/model.safetensors"))
    data[data.length - 5]! ^= 1
    writeFileSync(at("flipped/model.safetensors"), data) // under its other name too
    cpSync(at("flipped"), at("whole graph"), { recursive: true })
  })

  it("end with the exit code of their kind: one line on stderr, nothing on stdout, the same twice", async () => {
    const seen = new Set<string>()
    const ended = await twoAtATime(ERRORS, async ([, [command, ...args], code]) => {
      const machine = await cli([command!, "--json", ...args], { cwd: scratch })
      // The other format, of one error of each code.
      const human = seen.has(code) ? undefined : (seen.add(code), await cli([command!, ...args], { cwd: scratch }))
      return { human, machine }
    })
    for (const [i, [what, , code, exit, message]] of ERRORS.entries()) {
      const { human, machine } = ended[i]!
      expect([machine.code, machine.stdout], what).toEqual([exit, ""])
      expect(machine.stderr.trim().split("\n"), what).toHaveLength(1)
      const error = JSON.parse(machine.stderr) as { code: string; message: string; retryable: boolean }
      expect(error.code, what).toBe(code)
      expect(error.message, what).toMatch(message)
      expect(error.retryable, what).toBe(false)
      const said = { code: exit, stdout: "", stderr: `vit-prisma: ${error.message} [${code}]\n` }
      if (human) expect(human, what).toMatchObject(said)
    }
    for (const name of ["o", "imprecise"]) expect(existsSync(at(name)), name).toBe(false)
    expect(JSON.parse(readFileSync(at("imprecise.certificate.json"), "utf8"))).toMatchObject({ tolerance: 1e-12 })
  })

  it("of resources end with 5", async () => {
    const full = `${FAULTS}; Object.assign(globalThis.faults, { only: ["write"], at: 1, code: "ENOSPC" })`
    const broken = `${FAULTS}; Object.assign(globalThis.faults, { only: ["sync"], at: 1, code: "EIO" })`
    const [activations, convert, io] = await Promise.all([
      cli(["activations", demoModel, seven, "--out", at("full")], { preload: full }),
      cli(["convert", demoModel, "--out", at("full"), "--json"], { preload: full }),
      cli(["activations", demoModel, seven, "--out", at("full")], { preload: broken }),
    ])
    expect([activations.code, convert.code, io.code]).toEqual([5, 5, 5])
    expect(activations.stderr).toContain("[E_DISK_FULL]")
    expect(JSON.parse(convert.stderr)).toMatchObject({ code: "E_DISK_FULL", file: at("full/model.safetensors") })
    expect(io.stderr).toContain("[E_IO]")
    expect(existsSync(at("full"))).toBe(false)
  })

  it("of ours keep their stack and end with 70", async () => {
    const preload = `process.stdout.write = function planted() { throw new TypeError("planted") }`
    const [human, machine] = await Promise.all([
      cli(["info", demoModel], { preload }),
      cli(["info", demoModel, "--format", "json"], { preload }),
    ])
    expect([human.code, machine.code]).toEqual([70, 70])
    expect(human.stderr).toMatch(/^TypeError: planted\n +at .*planted/)
    expect(JSON.parse(machine.stderr)).toMatchObject({
      code: "E_INTERNAL",
      message: expect.stringMatching(/^TypeError: planted\n +at /),
    })
  })
})

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
    expect(demo.stdout).toMatch(/It says\n {2}7 +99\.97 %/)
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
      closed("stderr", ["run", demoModel, seven, at("nothing"), "--on-bad-image", "skip"]),
    ])
    expect(data).toMatchObject({ code: 0, signal: null, stderr: "" })
    expect(errors.signal).toBeNull()
  })

  it.skipIf(!existsSync("/dev/full"))("that are full are a typed error (needs /dev/full)", async () => {
    const { openSync } = await import("node:fs")
    const { spawnSync } = await import("node:child_process")
    const main = join(root, "dist/src/cli/main.js")
    const ran = spawnSync(process.execPath, [main, "info", demoModel], {
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
