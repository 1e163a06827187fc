/** @file Files on disk: safetensors opened lazily and copied, what is not a file, limits of memory, outputs refused. */
import { execFileSync } from "node:child_process"
import {
  appendFileSync,
  cpSync,
  existsSync,
  mkdirSync,
  mkdtempSync,
  readdirSync,
  readFileSync,
  realpathSync,
  rmSync,
  symlinkSync,
  truncateSync,
  utimesSync,
  writeFileSync,
} from "node:fs"
import { tmpdir } from "node:os"
import { join } from "node:path"
import { afterAll, describe, expect, it } from "vitest"
import { PrismaError } from "../src/errors.ts"
import { makeFolder, publishFolder, writeFileAtomic } from "../src/files/atomic.ts"
import { readJson } from "../src/files/json.ts"
import { openSafetensors, readTensor, writeSafetensors } from "../src/files/safetensors-file.ts"
import { loadPretrained } from "../src/hub/load-pretrained.ts"
import { encodeSafetensors, readSafetensors } from "../src/tensor/safetensors.ts"
import { float32, type StoredTensor, type Tensor } from "../src/tensor/tensor.ts"
import { runTs } from "./helpers/child.ts"
import { cli, reference } from "./helpers/cli.ts"
import { floats, readSafetensors as readPlainly } from "./helpers/read-safetensors.ts"
import { entry, file } from "./helpers/safetensors-corpus.ts"

const scratch = realpathSync(mkdtempSync(join(tmpdir(), "vit-prisma-files-")))
afterAll(() => rmSync(scratch, { recursive: true }))

const at = (name: string): string => join(scratch, name)

async function code(work: Promise<unknown>): Promise<string> {
  try {
    await work
    return "done"
  } catch (error) {
    if (!(error instanceof PrismaError)) throw error
    expect(error.message).not.toContain("\n")
    return error.code
  }
}

const values = Float32Array.from({ length: 6 }, (_, i) => i / 3)
const sample = file(
  `{${entry("a", "F32", "[2,3]", 0, 24)},${entry("f8", "F8_E4M3", "[2]", 24, 26)}}`,
  new Uint8Array(26),
)
sample.set(new Uint8Array(values.buffer), sample.length - 26)

describe("a safetensors file", () => {
  it("is opened by its header: where each tensor lies, on its real path", async () => {
    const path = at("one.safetensors")
    writeFileSync(path, sample)
    symlinkSync(path, at("link"))
    const opened = await openSafetensors(at("link"))
    expect(opened.path).toBe(path)
    const offset = sample.length - 26
    expect(opened.stored("a")).toMatchObject({ dtype: "float32", shape: [2, 3], file: path, offset, length: 24 })
    expect(await readTensor(opened.stored("a"))).toEqual(float32([2, 3], values))
    expect(opened.entries.get("f8")).toMatchObject({ rawDtype: "F8_E4M3", dtype: undefined, begin: 24, end: 26 })
  })

  it("refuses formats it cannot compute with, and names it does not hold, by name", async () => {
    const { stored } = await openSafetensors(at("one.safetensors"))
    expect(() => stored("f8")).toThrow(/one\.safetensors|link: tensor "f8" is stored as F8_E4M3/)
    expect(await code(Promise.resolve().then(() => stored("f8")))).toBe("E_UNSUPPORTED_DTYPE")
    expect(await code(Promise.resolve().then(() => stored("b")))).toBe("E_MISSING_TENSORS")
  })

  it("gives a part of a tensor for a view of it", async () => {
    const { stored } = await openSafetensors(at("one.safetensors"))
    const row: StoredTensor = { ...stored("a"), shape: [1, 3], offset: stored("a").offset + 12, length: 12 }
    expect(await readTensor(row)).toEqual(float32([1, 3], values.slice(3)))
    expect(await code(readTensor({ ...row, length: 8 }))).toBe("E_ST_SHAPE")
  })

  it.each<[string, (path: string) => void]>([
    ["grown", (path) => appendFileSync(path, "x")],
    ["cut", (path) => truncateSync(path, sample.length - 4)],
    ["touched", (path) => utimesSync(path, 1, 1)],
    [
      "replaced",
      (path) => {
        rmSync(path)
        writeFileSync(path, sample)
      },
    ],
  ])("is not read when it was %s since it was opened, nor copied", async (how, change) => {
    const path = at(`changed-${how}.safetensors`)
    writeFileSync(path, sample)
    const stored = (await openSafetensors(path)).stored("a")
    change(path)
    expect(await code(readTensor(stored))).toBe("E_CHANGED_DURING_READ")
    expect(await code(readTensor({ ...stored, shape: [1, 3], length: 12 }))).toBe("E_CHANGED_DURING_READ")
    expect(await code(writeSafetensors(at("copy"), new Map([["a", stored]])))).toBe("E_CHANGED_DURING_READ")
    expect(existsSync(at("copy"))).toBe(false)
  })

  it("is not read past its end by a place nobody checked", async () => {
    const wild: StoredTensor = {
      dtype: "uint8",
      shape: [100],
      file: at("one.safetensors"),
      offset: sample.length - 4,
      length: 100,
    }
    expect(await code(readTensor(wild))).toBe("E_CHANGED_DURING_READ")
  })

  it("is written with tensors in memory and tensors of other files", async () => {
    const big = Float32Array.from({ length: 2_500_000 }, (_, i) => i)
    await writeSafetensors(at("big.safetensors"), new Map<string, Tensor>([["big", float32([big.length], big)]]))
    const tensors = new Map<string, Tensor | StoredTensor>([
      ["copied", (await openSafetensors(at("big.safetensors"))).stored("big")],
      ["here", float32([2], [1, 2])],
      ["part", { ...(await openSafetensors(at("one.safetensors"))).stored("a"), shape: [3], length: 12 }],
    ])
    await writeSafetensors(at("mixed.safetensors"), tensors, { format: "pt" })
    const { tensors: found, metadata } = readPlainly(at("mixed.safetensors"))
    expect(metadata).toEqual(new Map([["format", "pt"]]))
    expect(Buffer.compare(found.get("copied")!.bytes, new Uint8Array(big.buffer))).toBe(0)
    expect(floats(found.get("here")!)).toEqual(Float32Array.of(1, 2))
    expect(floats(found.get("part")!)).toEqual(values.slice(0, 3))
  })
})

describe("tensors that are named like paths", () => {
  it("are names: whoever lists, loads, converts or copies them writes nothing but what it was asked for", async () => {
    const model = at("names/a/b/model")
    cpSync(reference("hf-deit"), model, { recursive: true })
    const names = ["../../etc/x", "../x", join(at("names"), "x"), "a/../../x"]
    const path = join(model, "model.safetensors")
    const { tensors } = readSafetensors(readFileSync(path))
    writeFileSync(
      path,
      encodeSafetensors(new Map([...tensors, ...names.map((name) => [name, float32([1], [1])] as const)])),
    )
    const all = () => readdirSync(at("names"), { recursive: true, encoding: "utf8" }).sort()
    const before = all()
    const ran = (args: readonly string[]) => cli(args, { cwd: at("names/a/b") })

    const listed = await ran(["info", path, "--json"])
    const found = (JSON.parse(listed.stdout) as { tensors: { name: string }[] }).tensors.map(({ name }) => name)
    expect(found).toEqual(expect.arrayContaining(names))
    // No weight of a model is called that.
    for (const args of [["info", "model"], ["convert", "model", "--out", "out"]])
      expect([(await ran(args)).code, (await ran([...args, "--json"])).stderr]).toEqual([1, expect.stringContaining("E_UNEXPECTED_TENSORS")]) // prettier-ignore
    expect(await code(loadPretrained(model))).toBe("E_UNEXPECTED_TENSORS")
    expect(all()).toEqual(before)

    const { stored } = await openSafetensors(path)
    await writeSafetensors(join(model, "copy"), new Map(names.map((name) => [name, stored(name)])))
    expect([...readPlainly(join(model, "copy")).tensors.keys()].sort()).toEqual([...names].sort())
    expect(all()).toEqual([...before, "a/b/model/copy"].sort())
  })
})

describe("what is not an ordinary file", () => {
  execFileSync("mkfifo", [at("pipe")])
  symlinkSync("loop", at("loop"))
  mkdirSync(at("folder"))

  it.each([
    ["folder", at("folder")],
    ["pipe", at("pipe")],
    ["device", "/dev/zero"],
    ["absent", at("absent")],
    ["below a file", at("one.safetensors/x")],
    ["a link to itself", at("loop")],
    ["a zero byte in the path", at("a\0b")],
    ["a path too long", at("x".repeat(5000))],
  ])("%s: E_NOT_A_FILE", async (_, path) => {
    expect(await code(openSafetensors(path))).toBe("E_NOT_A_FILE")
    expect(await code(readTensor({ dtype: "uint8", shape: [1], file: path, offset: 0, length: 1 }))).toBe(
      "E_NOT_A_FILE",
    )
    const rules = { limit: 10, malformed: "E_CONFIG", tooLarge: "E_CONFIG_LIMIT" } as const
    expect(await code(readJson(path, rules))).toBe("E_NOT_A_FILE")
  })
})

describe("JSON files", () => {
  const read = (text: string | Uint8Array, limit = 1000): Promise<unknown> => {
    writeFileSync(at("x.json"), text)
    return readJson(at("x.json"), { limit, depth: 5, malformed: "E_CONFIG", tooLarge: "E_CONFIG_LIMIT" })
  }

  it("are read", async () =>
    expect(await read('{"a":["[[[[[[[[",{"b":"\\"{{{{{{{{"}]}')).toEqual({ a: ["[[[[[[[[", { b: '"{{{{{{{{' }] }))

  it("are refused above their limit, unread", async () => {
    expect(await code(read(" ".repeat(1001)))).toBe("E_CONFIG_LIMIT")
    truncateSync(at("x.json"), 2 ** 40)
    const rules = { limit: 1000, malformed: "E_CONFIG", tooLarge: "E_CONFIG_LIMIT" } as const
    expect(await code(readJson(at("x.json"), rules))).toBe("E_CONFIG_LIMIT")
  })

  it.each([
    ["too deep", "[".repeat(6) + "]".repeat(6), "E_CONFIG_LIMIT"],
    ["100,000 deep", "[".repeat(100_000), "E_CONFIG_LIMIT"],
    ["not JSON", "{a:1}", "E_CONFIG"],
    ["empty", "", "E_CONFIG"],
    ["cut", '{"a":"', "E_CONFIG"],
    ["not UTF-8", Uint8Array.of(0x22, 0xff, 0x22), "E_CONFIG"],
  ])("%s", async (_, text, expected) => expect(await code(read(text, 1_000_000))).toBe(expected))
})

describe("outputs", () => {
  const put = (force?: boolean) => (path: string) =>
    publishFolder(path, (dir) => writeFileAtomic(join(dir, "x"), "new"), force === undefined ? {} : { force })

  it("are made with the folders above them, whatever these are called", async () => {
    const strange = at(`a b/'"$(x)/\u{1f600}#%41?&/c`)
    await put()(join(strange, "out"))
    expect(readFileSync(join(strange, "out", "x"), "utf8")).toBe("new")
    const tensors = new Map([["a", float32([1], [1])]])
    await writeSafetensors(join(strange, "m.safetensors"), tensors)
    expect((await openSafetensors(join(strange, "m.safetensors"))).entries.size).toBe(1)
    expect(readdirSync(strange).sort()).toEqual(["m.safetensors", "out"])
    await makeFolder(join(strange, "y", "z"))
    expect(existsSync(join(strange, "y", "z"))).toBe(true)
  })

  it("give what the filler gives", async () => expect(await publishFolder(at("given"), async () => 42)).toBe(42))

  it("are refused where something is, and replaced by force", async () => {
    mkdirSync(at("taken"))
    writeFileSync(join(at("taken"), "mine"), "old")
    writeFileSync(at("taken-file"), "old")
    symlinkSync(at("taken"), at("taken-link"))
    for (const name of ["taken", "taken-file", "taken-link"]) {
      expect(await code(put()(at(name))), name).toBe("E_OUTPUT")
      expect(await code(writeFileAtomic(at(name), "new", { force: false })), name).toBe("E_OUTPUT")
    }
    expect(readFileSync(join(at("taken"), "mine"), "utf8")).toBe("old")
    await put(true)(at("taken-link"))
    expect(readdirSync(at("taken"))).toEqual(["mine"])
    for (const name of ["taken", "taken-file", "taken-link"]) {
      await put(true)(at(name))
      expect(readdirSync(at(name))).toEqual(["x"])
    }
    await writeFileAtomic(at("one-more"), "1")
    await writeFileAtomic(at("one-more"), "2")
    expect(readFileSync(at("one-more"), "utf8")).toBe("2")
    expect(readdirSync(scratch).filter((name) => name.startsWith("."))).toEqual([])
  })

  it("are refused below a file, in the place of a folder, and under names no system takes", async () => {
    writeFileSync(at("plain"), "")
    expect(await code(put()(at("plain/out")))).toBe("E_OUTPUT")
    expect(await code(writeFileAtomic(at("plain/out"), ""))).toBe("E_OUTPUT")
    expect(await code(makeFolder(at("plain")))).toBe("E_OUTPUT")
    symlinkSync(at("nowhere"), at("dangling"))
    expect(await code(makeFolder(at("dangling/out")))).toBe("E_OUTPUT")
    // Of the folders that hold no other: Node's own mkdir does not come back from there.
    if (existsSync("/proc/self")) expect(await code(put()("/proc/none/out"))).toBe("E_OUTPUT")
    expect(await code(writeFileAtomic(at("folder"), ""))).toBe("E_OUTPUT")
    expect(await code(put()(at("x".repeat(300))))).toBe("E_OUTPUT")
    expect(await code(writeFileAtomic(at("a\0b"), ""))).toBe("E_OUTPUT")
  })

  it("are made by many at once, each finding what the others made", async () => {
    for (let round = 0; round < 50; round++) {
      const below = at(`many/${round}/a/b/c/d`)
      await Promise.all(Array.from({ length: 8 }, (_, i) => makeFolder(`${below}/${i % 2}`)))
      expect(readdirSync(below)).toEqual(["0", "1"])
    }
  })

  it("never replace the folder one works or lives in", async () => {
    // In a process that works and lives in folders made for it: without the check they would be gone.
    const program = `
import { publishFolder } from "../src/files/atomic.ts"
for (const own of process.argv.slice(2)) {
  console.log(await publishFolder(own, async () => "done", { force: true }).catch((e: { code: string }) => e.code))
}
`
    const [cwd, home] = [at("own/work"), at("own/home")]
    for (const dir of [cwd, home]) await makeFolder(join(dir, "keep"))
    symlinkSync(at("own"), at("own-link"))
    const args = [cwd, home, at("own"), ".", at("own-link/work"), at("own/other")]
    const { stdout } = await runTs(program, { args, cwd, env: { HOME: home } })
    expect(stdout.trim().split("\n")).toEqual([...Array.from({ length: 5 }, () => "E_OUTPUT"), "done"])
    expect([...readdirSync(cwd), ...readdirSync(home)]).toEqual(["keep", "keep"])
  })

  it("are not there when the filler fails, whose own error is kept", async () => {
    const failing = publishFolder(at("failing"), async (dir) => {
      await writeFileAtomic(join(dir, "x"), "")
      throw new RangeError("mine")
    })
    await expect(failing).rejects.toThrow(new RangeError("mine"))
    expect(readdirSync(scratch).filter((name) => name.includes("failing"))).toEqual([])
  })
})

describe("memory and time", () => {
  // The peak that getrusage gives begins with that of the process which started this one.
  const PEAK = `
import { readFileSync } from "node:fs"
const kib = (key: string) => Number(new RegExp(key + ":\\\\s+(\\\\d+)").exec(readFileSync("/proc/self/status", "utf8"))![1])
const base = kib("VmRSS")
const cpuMs = () => Object.values(process.cpuUsage()).reduce((a, b) => a + b) / 1000
const start = cpuMs()
const report = (result: unknown) => {
  const found = { result, cpuMs: cpuMs() - start, mib: (kib("VmHWM") - base) / 1024 }
  const text = JSON.stringify(Array.from({ length: 100_000 }, (_, i) => ({ ["tensor." + i]: { shape: [0], dtype: "U8" } })))
  const before = cpuMs()
  JSON.parse(text)
  console.log(JSON.stringify({ ...found, yardMs: cpuMs() - before }))
}
`
  /** What JSON.parse takes in `report` on a machine at rest, and then some. */
  const YARD_MS = 150
  const HEADER = `
import { openSafetensors } from "../src/files/safetensors-file.ts"
${PEAK}
report(await openSafetensors(process.argv[2]!).then((f) => f.entries.size, (e: { code: string }) => e.code))
`
  const MAKE = `
import { writeFileSync } from "node:fs"
import { HOSTILE } from "./helpers/hostile-headers.ts"
import { file } from "./helpers/safetensors-corpus.ts"
const [path, kind, size] = process.argv.slice(2) as [string, string, string]
writeFileSync(path, file(HOSTILE[kind]!(Number(size))))
`
  it.runIf(existsSync("/proc/self/status")).each([
    ["empty tensors, wide names", 25e6, 400_000, 256, 2000],
    ["empty tensors", 65e6, 1_000_000, 1024, 5000],
  ])(
    "%s in a header of %d bytes: more than %d in %d MiB and %d ms of the processor",
    async (kind, size, least, mib, ms) => {
      await runTs(MAKE, { args: [at("hostile"), kind, String(size)] })
      const { stdout, stderr } = await runTs(HEADER, { args: [at("hostile")] })
      rmSync(at("hostile"))
      expect(stderr).toBe("")
      const report = JSON.parse(stdout) as { result: number; cpuMs: number; yardMs: number; mib: number }
      expect(report.result).toBeGreaterThan(least)
      expect(report.mib).toBeLessThan(mib)
      // A core that others use too computes longer for the same: by how much, JSON.parse tells.
      expect(report.cpuMs).toBeLessThan(ms * Math.max(1, report.yardMs / YARD_MS))
    },
  )

  it.runIf(existsSync("/proc/self/status"))("what claims to be too large is refused before it has a byte", async () => {
    const huge = (end: number) => `{${entry("a", "U8", `[${end}]`, 0, end)}}`
    const cases: [string, Uint8Array, string][] = [
      ["header of 100,000,001", file("{}", 0, 100_000_001n), "E_ST_HEADER_TOO_LARGE"],
      ["header of 2^63", file("{}", 0, 2n ** 63n), "E_ST_HEADER_TOO_LARGE"],
      ["header of 2^64 - 1", file("{}", 0, 2n ** 64n - 1n), "E_ST_HEADER_TOO_LARGE"],
      ["tensor of 2^50", file(huge(2 ** 50)), "E_ST_TRUNCATED"],
      ["tensor of 2^64", file(huge(2 ** 64)), "E_ST_INT_RANGE"],
    ]
    for (const [name, bytes] of cases) {
      writeFileSync(at(name), bytes)
      // With holes: a header that long could be read.
      truncateSync(at(name), 200_000_000)
    }
    const program = `
import { openSafetensors } from "../src/files/safetensors-file.ts"
const [first, ...others] = process.argv.slice(2)
const open = (path: string) => openSafetensors(path).then(() => "opened", (e: { code: string }) => e.code)
await open(first!) // what the code itself takes
${PEAK}
const codes = []
for (const path of others) codes.push(await open(path))
report(codes)
`
    writeFileSync(at("sound"), sample)
    const args = ["sound", ...cases.map(([name]) => name)].map(at)
    const { result, mib } = JSON.parse((await runTs(program, { args })).stdout) as { result: string[]; mib: number }
    expect(result).toEqual(cases.map(([, , code]) => code))
    expect(mib).toBeLessThan(5)
  })

  it.runIf(existsSync("/proc/self/status"))("10 GiB with holes: what is asked for is read, and no more", async () => {
    const path = at("sparse.safetensors")
    const [small, huge] = [100 * 2 ** 20, 10 * 2 ** 30]
    writeFileSync(
      path,
      file(
        `{${entry("huge", "U8", `[${huge}]`, 0, huge)},${entry("small", "F32", `[${small / 4}]`, huge, huge + small)}}`,
      ),
    )
    truncateSync(path, readFileSync(path).length + huge + small)
    const program = `
import { openSafetensors, readTensor, writeSafetensors } from "../src/files/safetensors-file.ts"
${PEAK}
const { stored } = await openSafetensors(process.argv[2]!)
if (process.argv[3] === "read") report((await readTensor(stored("small"))).data.byteLength)
else report(await writeSafetensors(process.argv[2] + ".copy", new Map([["copy", stored("small")]])))
`
    const reading = JSON.parse((await runTs(program, { args: [path, "read"] })).stdout) as {
      result: number
      mib: number
    }
    expect(reading.result).toBe(small)
    expect(reading.mib).toBeLessThan(100 + 64)
    const copying = JSON.parse((await runTs(program, { args: [path, "copy"] })).stdout) as { mib: number }
    expect(copying.mib).toBeLessThan(64)
    rmSync(path)
  })
})
