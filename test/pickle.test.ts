/** @file The checkpoint reader against PyTorch's own files, and against a corpus of attacks put together byte by byte
 * (after the ideas of picklescan's and fickling's samples). */
import { existsSync, mkdirSync, mkdtempSync, readdirSync, readFileSync, realpathSync, rmSync } from "node:fs"
import { symlinkSync, truncateSync, writeFileSync } from "node:fs"
import { type FileHandle, open } from "node:fs/promises"
import { tmpdir } from "node:os"
import { join } from "node:path"
import { deflateRawSync } from "node:zlib"
import { afterAll, describe, expect, test } from "vitest"
import { cpuMs } from "./helpers/cpu.ts"
import { latin1, type Layout, type Member, u16, u32, u64, zip } from "./helpers/zip.ts"
import { PrismaError } from "../src/errors.ts"
import { openTorchFile } from "../src/files/torch-file.ts"
import { readStateDict } from "../src/tensor/state-dict.ts"
import type { StoredTensor, Tensor } from "../src/tensor/tensor.ts"

const FIXTURES = join(import.meta.dirname, "fixtures/pickle")
const folder = mkdtempSync(join(realpathSync(tmpdir()), "pickle-"))
const sentinel = join(folder, "sentinel")
afterAll(() => rmSync(folder, { recursive: true }))

// Bytes of tensors, read here without the code under test

interface Plain {
  readonly dtype: string
  readonly shape: readonly number[]
  readonly bytes: string
}

function readSafetensors(file: string): Map<string, Plain> {
  const bytes = readFileSync(file)
  const start = 8 + Number(bytes.readBigUInt64LE(0))
  const header = JSON.parse(bytes.toString("utf8", 8, start)) as Record<
    string,
    { dtype: string; shape: number[]; data_offsets: [number, number] }
  >
  return new Map(
    Object.entries(header).map(
      ([
        name,
        {
          dtype,
          shape,
          data_offsets: [from, to],
        },
      ]) => [name, { dtype, shape, bytes: bytes.toString("hex", start + from, start + to) }],
    ),
  )
}

const NAMES: Record<string, string> = {
  float64: "F64",
  float32: "F32",
  float16: "F16",
  bfloat16: "BF16",
  int64: "I64",
  int32: "I32",
  int16: "I16",
  int8: "I8",
  uint8: "U8",
  bool: "BOOL",
}

function plain(t: StoredTensor | Tensor): Plain {
  const bytes =
    "file" in t
      ? readFileSync(t.file).subarray(t.offset, t.offset + t.length)
      : Buffer.from(t.data.buffer, t.data.byteOffset, t.data.byteLength)
  return { dtype: NAMES[t.dtype] ?? t.dtype, shape: t.shape, bytes: bytes.toString("hex") }
}

const sorted = <T>(map: Map<string, T>): [string, T][] => [...map].sort(([a], [b]) => (a < b ? -1 : 1))

async function plainTensors(file: string): Promise<[string, Plain][]> {
  const tensors = await openTorchFile(file)
  return sorted(new Map([...tensors].map(([name, t]) => [name, plain(t)])))
}

// Pickles, put together here

const PROTO = "\x80\x02"
const text = (s: string): string => `X${u32(Buffer.byteLength(s))}${Buffer.from(s).toString("latin1")}`
const int = (n: number | bigint): string =>
  typeof n === "number" ? `J${u32(n < 0 ? n + 2 ** 32 : n)}` : `\x8a\x08${u64(BigInt.asUintN(64, n))}`
const ints = (values: readonly (number | bigint)[]): string => `(${values.map(int).join("")}t`
const REBUILD = "ctorch._utils\n_rebuild_tensor_v2\n"
const ORDERED = "ccollections\nOrderedDict\n)R"

interface Fake {
  key?: string
  length?: number | bigint
  offset?: number | bigint
  shape?: readonly (number | bigint)[]
  strides?: readonly (number | bigint)[]
}

/** A float32 tensor as torch.save writes it. */
function fakeTensor({ key = "0", length = 4, offset = 0, shape = [2, 2], strides = [2, 1] }: Fake = {}): string {
  const storage = `(${text("storage")}ctorch\nFloatStorage\n${text(key)}${text("cpu")}${int(length)}tQ`
  return `${REBUILD}(${storage}${int(offset)}${ints(shape)}${ints(strides)}\x89${ORDERED}tR`
}

const stateDict = (entries: Record<string, string>): string =>
  `${PROTO}}(${Object.entries(entries)
    .map(([name, value]) => text(name) + value)
    .join("")}u.`

const storage = (data = Buffer.alloc(16, 1), key = "0"): Member => ({ name: `m/data/${key}`, data })
const pickleMember = (pickle: string): Member => ({ name: "m/data.pkl", data: latin1(pickle) })
const good = [pickleMember(stateDict({ w: fakeTensor() })), storage()]

let written = 0
function write(bytes: Buffer): string {
  const file = join(folder, `${written++}.pth`)
  writeFileSync(file, bytes)
  return file
}

/** The typed error that opening `file` gives, twice the same, in one line, leaving nothing behind. */
async function refusal(file: string): Promise<PrismaError> {
  const before = readdirSync(folder)
  const [first, second] = [await attempt(file), await attempt(file)]
  expect(first.message).toBe(second.message)
  expect(first.message).toContain(file)
  expect(first.message).not.toMatch(/[\p{Cc}]/u)
  expect(readdirSync(folder)).toEqual(before)
  return first
}

async function attempt(file: string): Promise<PrismaError> {
  const start = cpuMs()
  const error: unknown = await openTorchFile(file).then(
    (tensors) => new Error(`opened: ${[...tensors.keys()].join()}`),
    (error: unknown) => error,
  )
  expect(cpuMs() - start).toBeLessThan(2000)
  if (!(error instanceof PrismaError)) throw error
  return error
}

const refusePickle = (pickle: string): Promise<PrismaError> => refusal(write(zip([pickleMember(pickle), storage()])))
const refuseZip = async (members: readonly Member[], layout?: Layout): Promise<PrismaError> =>
  refusal(write(zip(members, layout)))

describe("PyTorch's own files", () => {
  const names = readdirSync(FIXTURES).flatMap((name) => /^(.*)\.safetensors$/.exec(name)?.[1] ?? [])

  test.each(names)("%s holds exactly what safetensors holds", async (name) => {
    const expected = sorted(readSafetensors(join(FIXTURES, `${name}.safetensors`)))
    expect(await plainTensors(join(FIXTURES, `${name}.pth`))).toEqual(expected)
  })

  test("contiguous tensors stay in the file, the others are copied out", async () => {
    const inFile = async (name: string): Promise<string[]> =>
      [...(await openTorchFile(join(FIXTURES, name)))].filter(([, t]) => "file" in t).map(([name]) => name)
    expect(await inFile("views.pth")).toEqual(["one_row", "offset"])
    expect(await inFile("contiguous.pth")).toHaveLength(15)
    expect(await inFile("tied.pth")).toEqual(["wte", "head", "row"])
    expect(await inFile("deflated.pth")).toEqual([])
  })

  test("tied tensors are the same bytes of the file", async () => {
    const tensors = await openTorchFile(join(FIXTURES, "tied.pth"))
    expect(tensors.get("head")).toEqual(tensors.get("wte"))
  })

  test("the order is the state dict's", async () => {
    expect([...(await openTorchFile(join(FIXTURES, "views.pth"))).keys()].slice(0, 3)).toEqual([
      "channels_last",
      "transposed",
      "transposed_f16",
    ])
  })

  test("stored tensors name the real file, also through a symlink", async () => {
    const link = join(folder, "link.bin")
    symlinkSync(join(FIXTURES, "parameter.pth"), link)
    const tensors = await openTorchFile(link)
    const files = new Set([...tensors.values()].map((t) => ("file" in t ? t.file : "")))
    expect([...files]).toEqual([realpathSync(join(FIXTURES, "parameter.pth"))])
    rmSync(link)
  })

  test.each([
    ["stacked.bin", "E_PICKLE_LEGACY", "stacked pickle (PyTorch < 1.6)"],
    ["torchscript.pt", "E_PICKLE_LEGACY", "TorchScript"],
    ["protocol4.pth", "E_PICKLE_OPCODE", "protocol 4"],
    ["namespace.pth", "E_PICKLE_GLOBAL", "global argparse.Namespace is"],
    ["numpy_scalar.pth", "E_PICKLE_GLOBAL", "global numpy._core.multiarray.scalar is"],
  ])("%s: %s", async (name, code, message) => {
    const error = await refusal(join(FIXTURES, name))
    expect(error.code).toBe(code)
    expect(error.message).toContain(message)
    expect(error.message).toContain("torch.save(model.state_dict(), path)")
  })

  test("a flipped bit anywhere is an error or changes nothing", async () => {
    const name = join(FIXTURES, "tied.pth")
    const expected = await plainTensors(name)
    const bytes = readFileSync(name)
    const file = join(folder, "flipped.pth")
    let refused = 0
    for (let at = 0; at < bytes.length; at += 3) {
      const flipped = Buffer.from(bytes)
      flipped[at] = (flipped[at] ?? 0) ^ (1 << (at % 8))
      writeFileSync(file, flipped)
      const got = await plainTensors(file).catch((error: unknown) => error)
      if (got instanceof PrismaError) refused++
      else expect(got).toEqual(expected)
    }
    expect(refused).toBeGreaterThan(300)
    rmSync(file)
  })
})

describe("globals", () => {
  // Module and name of what attacks have called, by themselves or to reach further.
  const CORPUS =
    `os system|posix system|nt system|os popen|os execv|os spawnl|builtins eval|__builtin__ eval|builtins exec
    |__builtin__ exec|builtins getattr|__builtin__ globals|__builtin__ apply|builtins __import__|builtins compile
    |builtins open|subprocess Popen|subprocess run|subprocess check_output|commands getoutput|pkgutil resolve_name
    |runpy _run_code|runpy run_path|pty spawn|timeit timeit|cProfile run|cProfile runctx|profile Profile.run
    |trace Trace.run|bdb Bdb.run|pdb run|code InteractiveInterpreter.runcode|doctest debug_script|pip main
    |ensurepip _run_pip|venv create|pydoc locate|pydoc pipepager|operator attrgetter|operator methodcaller
    |functools partial|importlib import_module|marshal loads|pickle loads|_pickle loads|dill loads|cloudpickle loads
    |ctypes CDLL|socket create_connection|http.client HTTPSConnection|urllib.request urlopen|requests.api get
    |aiohttp.client ClientSession|webbrowser open|shutil rmtree|io FileIO|logging FileHandler|sys exit|sys modules
    |signal pthread_kill|asyncio.unix_events _UnixSubprocessTransport._start|multiprocessing.util spawnv_passfds
    |distutils.file_util write_file|idlelib.autocomplete AutoComplete.get_entity|idlelib.run Executive.runcode
    |lib2to3.pgen2.grammar Grammar.loads|numpy.testing._private.utils runstring|numpy.f2py.crackfortran getlincoef
    |torch load|torch.hub load|torch.jit.unsupported_tensor_ops execWrapper|torch.utils.collect_env run
    |torch.utils.bottleneck.__main__ run_cprofile|torch._inductor.codecache compile_file
    |torch._dynamo.guards GuardBuilder.get|torch.fx.experimental.symbolic_shapes ShapeEnv.evaluate_guards_expression
    |torch.utils._config_module ConfigModule.load_config|torch.serialization load|torch.storage _load_from_bytes
    |argparse Namespace|numpy.core.multiarray scalar|numpy._core.multiarray scalar|numpy dtype|_codecs encode
    |collections defaultdict|collections OrderedDict.__init__|collections namedtuple|torch device|torch float32
    |torch Tensor|torch.nn.parameter Parameter|torch._utils _rebuild_tensor|torch._utils _rebuild_tensor_v3
    |torch._utils _rebuild_sparse_tensor|torch._tensor _rebuild_from_type_v2|torch.storage UntypedStorage
    |torch QInt8Storage|torch ComplexFloatStorage|__main__ Evil|copyreg _reconstructor|__builtin__ object
    |Object constructor|toString __proto__|torch __proto__| constructor`
      .split("|")
      .map((line) => line.trim().split(" ") as [string, string])

  test.each(CORPUS)("%s %s is refused by its name", async (module, name) => {
    const dotted = `${module}.${name}`
    const command = `__import__('os').system('touch ${sentinel}')`
    for (const pickle of [
      `${PROTO}c${module}\n${name}\n${text(command)}\x85R.`,
      `c${module}\n${name}\n(S"${command}"\ntR.`,
      stateDict({ w: fakeTensor(), evil: `c${module}\n${name}\n${text(command)}\x85R` }),
    ]) {
      const error = await refusePickle(pickle)
      expect(error.code).toBe("E_PICKLE_GLOBAL")
      expect(error.message).toContain(`global ${dotted} `)
      expect(error.message).toContain("torch.save(model.state_dict(), path)")
      expect(error.exitCode).toBe(3)
    }
    // The pickle by itself, named .pth.
    const bare = await refusal(write(latin1(`${PROTO}c${module}\n${name}\n${text(command)}\x85R.`)))
    expect([bare.code, bare.message.includes(dotted)]).toEqual(["E_PICKLE_GLOBAL", true])
    expect(existsSync(sentinel)).toBe(false)
  })

  test("names with control characters stay on one line", async () => {
    const error = await refusePickle(`${PROTO}cos\x1b[2J\r\nsys\ttem\n.`)
    expect([error.code, error.message.includes('"os\\u{1b}[2J\\u{d}.sys\\u{9}tem"')]).toEqual(["E_PICKLE_GLOBAL", true])
  })

  test("the reader's sources have no way to call by name", () => {
    for (const file of ["tensor/pickle.ts", "tensor/pickle-value.ts", "tensor/state-dict.ts", "files/torch-file.ts"]) {
      const source = readFileSync(join(import.meta.dirname, "../src", file), "utf8")
      expect(source).not.toMatch(/\beval\b|\bFunction\b|\bimport\(|\brequire\b|child_process|globalThis|Reflect|\bvm\b/)
    }
  })
})

describe("opcodes", () => {
  const evil = text(`touch ${sentinel}`)
  test.each([
    ["STACK_GLOBAL", `\x80\x02${text("os")}${text("system")}\x93${evil}\x85R.`],
    ["STACK_GLOBAL", `${text("os")}q\x00${text("torch")}q\x01h\x00${text("system")}\x93.`],
    ["protocol 4", `\x80\x04\x95\x10\x00\x00\x00\x00\x00\x00\x00\x8c\x02os\x94\x8c\x06system\x93.`],
    ["protocol 5", `\x80\x05\x8c\x02os\x8c\x06system\x93.`],
    ["protocol 255", "\x80\xffN."],
    ["FRAME", `${PROTO}\x95${u64(2n ** 63n)}N.`],
    ["MEMOIZE", `${PROTO}N\x94.`],
    ["INST", `(${evil}ios\nsystem\n.`],
    ["INST", `${PROTO}(${text("x")}icollections\nOrderedDict\n.`],
    ["OBJ", `${PROTO}(ccollections\nOrderedDict\no.`],
    ["NEWOBJ", `${PROTO}ccollections\nOrderedDict\n)\x81.`],
    ["NEWOBJ_EX", `${PROTO}ccollections\nOrderedDict\n)}\x92.`],
    ["EXT1", `${PROTO}\x82\x01.`],
    ["EXT2", `${PROTO}\x83\x01\x00.`],
    ["EXT4", `${PROTO}\x84\x01\x00\x00\x00.`],
    ["PERSID", `${PROTO}P0\n.`],
    ["BINPERSID", `${PROTO}${text("../../etc/passwd")}Q.`],
    ["BINPERSID", `${PROTO}(${text("module")}ctorch\nFloatStorage\n${text("0")}${text("cpu")}K\x01tQ.`],
    ["BINPERSID", `${PROTO}(${text("storage")}ctorch\nFloatStorage\n${text("0")}${text("cpu")}K\x01NtQ.`],
    ["BUILD", `${PROTO}}}b.`],
    ["BUILD", `${PROTO}]}b.`],
    ["BUILD", `${PROTO}ctorch\nFloatStorage\n}b.`],
    ["BUILD", `${PROTO}ctorch._utils\n_rebuild_parameter\n}(${text("__code__")}${evil}ub.`],
    ["BUILD", `${PROTO}${ORDERED}N}\x86b.`],
    ["0x96", `${PROTO}\x96${u64(4n)}\x00\x00\x00\x00.`],
    ["0x8b", `${PROTO}\x8b${u32(4)}\x00\x00\x00\x00.`],
    ["0x53", "S'x'\n."],
    ["0x00", "\x00."],
    ["calls a storage class", `${PROTO}ctorch\nFloatStorage\n)R.`],
    ["calls a string", `${PROTO}${text("os.system")})R.`],
    ["expected a tuple", `${PROTO}ccollections\nOrderedDict\n]R.`],
    ["OrderedDict of 1", `${PROTO}ccollections\nOrderedDict\n]\x85R.`],
    ["other arguments", `${PROTO}${REBUILD})R.`],
    ["_rebuild_parameter of None", `${PROTO}ctorch._utils\n_rebuild_parameter\nNN}\x87R.`],
    ["torch.Size of a list", `${PROTO}ctorch\nSize\n]\x85R.`],
    ["memo 0 is read", `${PROTO}h\x00.`],
    ["memo index is not", `${PROTO}Np-1\n.`],
    ["a mark that was not set", `${PROTO}t.`],
    ["a value where there is none", `${PROTO}0.`],
    ["a value where there is none", `${PROTO}N(0.`],
    ["expected a dict", `${PROTO}]NNs.`],
    ["expected a list", `${PROTO}}Na.`],
    ["expected pairs", `${PROTO}}(NNNu.`],
    ["dict key is a list", `${PROTO}}]Ns.`],
    ['"w" is set twice', `${PROTO}}(${text("w")}N${text("w")}Nu.`],
    ["not UTF-8", `${PROTO}X${u32(2)}\xff\xfe.`],
    ["not UTF-8", "cmod\n\xf8\n."],
    ["1 bytes after", `${PROTO}}.\x00`],
    [" bytes after", `${stateDict({ w: fakeTensor() })}cos\nsystem\n(tR.`],
    ["ends with 2 values", `${PROTO}}}.`],
    ["ends with 1 values and 1 marks", `${PROTO}(}.`],
  ])("%s: %j", async (what, pickle) => {
    const error = await refusePickle(pickle)
    expect([error.code, error.message]).toEqual(["E_PICKLE_OPCODE", expect.stringContaining(what)])
    expect(existsSync(sentinel)).toBe(false)
  })

  test("every opcode not in the list is refused by its code", () => {
    const listed = "\x80(012N\x88\x89JKM\x8aGX)\x85\x86\x87tl]}aesupqrghjcRbQ."
    for (let code = 0; code < 256; code++) {
      const opcode = String.fromCharCode(code)
      if (listed.includes(opcode)) continue
      const pickle = latin1(`${PROTO}}}${opcode}0\n0\n0\n0\n0\n.`)
      expect(() => readStateDict(pickle, "f")).toThrow(`0x${code.toString(16).padStart(2, "0")} is not allowed`)
    }
  })

  test("cut anywhere", () => {
    const whole = stateDict({ w: fakeTensor(), v: fakeTensor({ shape: [1, 4], strides: [4, 1] }) })
    expect([...readStateDict(latin1(whole), "f").keys()]).toEqual(["w", "v"])
    for (let n = 0; n < whole.length; n++) {
      expect(() => readStateDict(latin1(whole.slice(0, n)), "f")).toThrow(
        expect.objectContaining({ code: "E_PICKLE_TRUNCATED", exitCode: 1 }),
      )
    }
  })

  test("string longer than the file", async () => {
    expect((await refusePickle(`${PROTO}X\xff\xff\xff\xffabc.`)).code).toBe("E_PICKLE_TRUNCATED")
  })

  test("20,000 mutations of PyTorch's pickles give tensors or a typed error", () => {
    const seeds = ["views.pth", "wrapped_model.pth"].map((name) => {
      const bytes = readFileSync(join(FIXTURES, name))
      const start = bytes.indexOf(PROTO, 0, "latin1")
      return bytes.subarray(start, bytes.indexOf("PK\x07\x08", start, "latin1"))
    })
    let state = 1
    const random = (n: number): number => {
      state = (Math.imul(state, 1664525) + 1013904223) >>> 0 // Numerical Recipes' generator
      return Math.floor((state / 2 ** 32) * n)
    }
    let refused = 0
    for (let round = 0; round < 20_000; round++) {
      const bytes = Buffer.from(seeds[round % seeds.length] ?? "")
      for (let n = random(4); n >= 0; n--) bytes[random(bytes.length)] = random(256)
      try {
        readStateDict(bytes, "f")
      } catch (error) {
        if (!(error instanceof PrismaError)) throw error
        refused++
      }
    }
    expect(refused).toBeGreaterThan(10_000)
  })
})

describe("bombs", () => {
  const laughs = (open: string, repeat: string): string => "(".repeat(9) + text("lol") + `${open}${repeat}l`.repeat(9)
  test.each([
    ["DUP", () => `N${"2".repeat(1e6)}.`],
    ["BINGET", () => `Nq\x00${"h\x00".repeat(1e6)}.`],
    ["GET", () => `Np0\n${"g0\n".repeat(1e6)}.`],
    ["memo", () => `N${Array.from({ length: 1.1e6 }, (_, i) => `r${u32(i)}`).join("")}.`],
    ["marks", () => `${"(".repeat(1e6)}${"t".repeat(1e6)}.`],
    ["lists in lists", () => `${"]".repeat(1e6)}${"a".repeat(1e6 - 1)}.`],
    ["lists in lists, short stack", () => `]${"]q\x000]h\x00a".repeat(2e5)}.`],
    ["tuples in tuples", () => `)${"\x85".repeat(1e6)}.`],
    ["dicts in dicts", () => `${"}N".repeat(1e5)}N${"s".repeat(1e5)}.`],
    ["10^7 opcodes", () => `${"N0".repeat(5e6)}.`],
    ["billion laughs by DUP", () => `${laughs("2", "22222222")}.`],
    ["billion laughs by memo", () => `${laughs("q\x00", "h\x00".repeat(9))}.`],
    ["a line without end", () => `c${"a".repeat(1e6)}`],
  ])("%s", async (_, pickle) => {
    expect((await refusePickle(PROTO + pickle())).code).toBe("E_PICKLE_LIMIT")
  })

  test("an expanded scalar of 2^50 elements", async () => {
    const tensor = fakeTensor({ shape: [2n ** 50n], strides: [0] })
    expect((await refusePickle(stateDict({ w: tensor }))).code).toBe("E_PICKLE_LIMIT")
  })

  test("10,000 transposed views of one storage of 256 kB", async () => {
    const tensor = fakeTensor({ length: 65_536, shape: [256, 256], strides: [1, 256] })
    const pickle = stateDict(Object.fromEntries(Array.from({ length: 10_000 }, (_, i) => [`${i}`, tensor])))
    const error = await refuseZip([pickleMember(pickle), storage(Buffer.alloc(262_144))])
    expect(error.code).toBe("E_PICKLE_LIMIT")
  })

  test("a pickle of 65 MiB", async () => {
    const file = write(latin1(PROTO))
    truncateSync(file, 65 << 20)
    expect((await refusal(file)).code).toBe("E_PICKLE_LIMIT")
    rmSync(file)
  })
})

describe("tensors on one storage", () => {
  // So large that what is read at the end of the file, where a zip's directory is, ends behind its middle.
  const values = Float32Array.from({ length: 65_536 }, (_, i) => Math.sin(i))
  const data = Buffer.from(values.buffer)
  const VIEWS = {
    wte: { offset: 0, shape: [256, 256], strides: [256, 1] },
    head: { offset: 0, shape: [256, 256], strides: [256, 1] },
    row: { offset: 640, shape: [64], strides: [1] },
    turned: { offset: 0, shape: [256, 256], strides: [1, 256] },
    corner: { offset: 70, shape: [2, 3], strides: [512, 2] },
    expanded: { offset: 7, shape: [2, 3], strides: [0, 1] },
  } as const
  type Name = keyof typeof VIEWS

  /** The elements in row-major order. */
  const elements = (name: Name): number[] => {
    const { offset, shape, strides } = VIEWS[name]
    let at: number[] = [offset]
    for (const [axis, n] of shape.entries())
      at = at.flatMap((from) => Array.from({ length: n }, (_, i) => from + i * strides[axis]!))
    return at.map((i) => values[i]!)
  }

  /** How often the byte at `place` is read while `work` runs. */
  async function readsOf(place: number, work: () => Promise<void>): Promise<number> {
    const handle = await open(process.execPath)
    const prototype = Object.getPrototypeOf(handle) as { read: (...args: never[]) => unknown }
    await handle.close()
    const { read } = prototype
    let count = 0
    prototype.read = function (this: FileHandle, ...args: never[]) {
      const [, , length, from] = args as unknown as [Uint8Array, number, number, number]
      if (from <= place && place < from + length) count++
      return read.apply(this, args)
    }
    await work().finally(() => (prototype.read = read))
    return count
  }

  test.each<[string, boolean, Name[]]>([
    ["that stay in the file", false, ["wte", "head", "row"]],
    ["of which some are strided", false, ["turned", "wte", "corner", "head", "expanded"]],
    ["that are deflated", true, ["wte", "head", "row"]],
    ["that are deflated and strided", true, ["turned", "wte", "corner", "head", "expanded", "row"]],
  ])("%s have the right values, and it is read once", async (_, deflate, names) => {
    const pickle = stateDict(
      Object.fromEntries(names.map((name) => [name, fakeTensor({ length: values.length, ...VIEWS[name] })])),
    )
    const bytes = zip([pickleMember(pickle), { ...storage(data), deflate }])
    const file = write(bytes)
    const stored = deflate ? deflateRawSync(data) : data
    const middle = bytes.indexOf(stored) + (stored.length >> 1)
    const reads = await readsOf(middle, async () => {
      const tensors = await openTorchFile(file)
      expect([...tensors.keys()]).toEqual(names)
      // What stays in the file is read here, by other means.
      for (const name of names) {
        const want = Buffer.from(Float32Array.from(elements(name)).buffer).toString("hex")
        expect(plain(tensors.get(name)!), name).toEqual({ dtype: "F32", shape: VIEWS[name].shape, bytes: want })
      }
    })
    expect(reads).toBe(1)
  })
})

describe("storages", () => {
  test.each<[string, Fake]>([
    ["longer than its member", { length: 5 }],
    ["offset beyond", { offset: 1 }],
    ["shape beyond", { shape: [3, 2] }],
    ["stride beyond", { strides: [3, 1] }],
    ["stride far beyond", { strides: [2n ** 52n, 1] }],
    ["negative shape", { shape: [-2, 2] }],
    ["negative stride", { offset: 3, strides: [-2, -1] }],
    ["negative offset", { offset: -1 }],
    ["negative length", { length: -1, shape: [0], strides: [1] }],
    ["empty tensor past the end", { offset: 5, shape: [0], strides: [1] }],
    ["elements beyond 2^53", { shape: [2n ** 30n, 2n ** 30n], strides: [0, 0] }],
    ["axis beyond 2^53", { shape: [2n ** 62n, 0], strides: [0, 0] }],
    ["fewer strides than axes", { shape: [2, 2], strides: [1] }],
    ["more strides than axes", { shape: [2], strides: [1, 1] }],
    ["65 axes", { shape: Array.from({ length: 65 }, () => 1), strides: Array.from({ length: 65 }, () => 1) }],
  ])("%s", async (_, fake) => {
    expect((await refusePickle(stateDict({ w: fakeTensor(fake) }))).code).toBe("E_STORAGE_BOUNDS")
  })

  test("a shape that is no number", async () => {
    const pickle = stateDict({ w: fakeTensor().replace(`${int(2)}${int(2)}`, `${text("2")}${int(2)}`) })
    expect((await refusePickle(pickle)).code).toBe("E_STORAGE_BOUNDS")
  })

  test.each(["1", "../0", "", "0/../0", "__proto__"])("key %j is not in the archive", async (key) => {
    const error = await refusePickle(stateDict({ w: fakeTensor({ key }) }))
    expect([error.code, error.tensor]).toEqual(["E_STORAGE_MISSING", "w"])
  })

  test("what is ignored beside a state dict need not be there", async () => {
    const inner = `}${text("w")}${fakeTensor()}s`
    const file = write(zip([pickleMember(stateDict({ model: inner, loss: fakeTensor({ key: "9" }) })), storage()]))
    expect([...(await openTorchFile(file)).keys()]).toEqual(["w"])
  })

  test.each([
    ["a list", `${PROTO}].`],
    ["a tensor", `${PROTO}${fakeTensor()}.`],
    ["None", `${PROTO}N.`],
    ["state_dict and model", stateDict({ model: "}", state_dict: "}" })],
    ['entry "epoch" is a number', stateDict({ w: fakeTensor(), epoch: "K\x01" })],
    ['entry "model.w" is a list', stateDict({ model: `}${text("model.w")}]s` })],
    ["a number among its keys", `${PROTO}}K\x01${fakeTensor()}s.`],
  ])("%s is no state dict", async (what, pickle) => {
    const error = await refusePickle(pickle)
    expect([error.code, error.message]).toEqual(["E_PICKLE_STATE_DICT", expect.stringContaining(what)])
  })
})

describe("zip", () => {
  const [pickle, data] = good as [Member, Member]
  const zip64 = (offset: bigint, count = 2n): string =>
    `PK\x06\x06${u64(44n)}${u16(45)}${u16(45)}${u32(0)}${u32(0)}${u64(count)}${u64(count)}${u64(0n)}${u64(0n)}` +
    `PK\x06\x07${u32(0)}${u64(offset)}${u32(1)}`
  const zeros = { name: "m/data/0", data: Buffer.alloc(1 << 20), deflate: true }
  const bigView = stateDict({ w: fakeTensor({ length: 1 << 18, shape: [1 << 18], strides: [1] }) })

  test("the archive that the attacks below start from opens", async () => {
    const tensors = await openTorchFile(write(zip(good)))
    expect([...tensors.values()].map(plain)).toEqual([{ dtype: "F32", shape: [2, 2], bytes: "01".repeat(16) }])
  })

  test.each<[string, readonly Member[], Layout?]>([
    ["CRC of the pickle", [{ ...pickle, crc: 1 }, data]],
    ["CRC of a storage", [pickle, { ...data, crc: 1 }]],
    ["CRC in the local header", [pickle, { ...data, localCrc: 1 }]],
    ["CRC of a deflated storage", [pickle, { ...data, deflate: true, crc: 1 }]],
    ["deflate bomb that says so", [pickleMember(bigView), zeros]],
    ["deflate bomb that lies", [pickle, { ...zeros, size: 16 }]],
    ["deflated to less than said", [pickle, { ...data, deflate: true, size: 17 }]],
    ["not deflated", [pickle, { ...data, method: 8 }]],
    ["method 93", [pickle, { ...data, method: 93 }]],
    ["encrypted", [{ ...pickle, flags: 1 }, data]],
    ["encrypted, a member nobody reads", [...good, { name: "m/version", data: latin1("3"), flags: 1 }]],
    ["patched", [{ ...pickle, flags: 0x20 }, data]],
    ["strongly encrypted", [{ ...pickle, flags: 0x41 }, data]],
    ["masked headers", [pickle, { ...data, flags: 0x2000 }]],
    ["larger than the file", [pickle, { ...data, size: 1e6 }]],
    ["larger than its data", [pickle, { ...data, size: 17 }]],
    ["other size in the local header", [pickle, { ...data, localSize: 15 }]],
    ["other name in the local header", [{ ...pickle, localName: "m/evil.pkl" }, data]],
    ["zip64 size of 2^60", [pickle, { ...data, size: 0xffffffff, extra: u16(1) + u16(16) + u64(2n ** 60n).repeat(2) }]],
    ["zip64 size of 2^64 - 1", [pickle, { ...data, size: 0xffffffff, extra: u16(1) + u16(16) + "\xff".repeat(16) }]],
    ["zip64 size left out", [pickle, { ...data, size: 0xffffffff }]],
    ["zip64 sizes in one header only", [pickle, { ...data, localSize: 0xffffffff }]],
    ["zip64 offset of 2^64 - 1", [pickle, { ...data, at: 0xffffffff, extra: u16(1) + u16(8) + "\xff".repeat(8) }]],
    ["zip64 end record at 2^64 - 1", good, { beforeEnd: zip64(2n ** 64n - 1n) }],
    ["zip64 end record at 2^53", good, { beforeEnd: zip64(2n ** 53n) }],
    ["zip64 end record at 0", good, { beforeEnd: zip64(0n) }],
    ["extra field longer than said", [pickle, { ...data, extra: `${u16(1)}${u16(99)}x` }]],
    ["offset past the end", [pickle, { ...data, at: 1e6 }]],
    ["offset into another member", [pickle, { ...data, at: 3 }]],
    ["two entries for one member", [pickle, data, { ...data, name: "m/data/1", at: 0 }]],
    ["prefix", good, { prefix: "junk" }],
    ["prefix of a script", good, { prefix: "#!/bin/sh\n" }],
    ["suffix", good, { suffix: "junk" }],
    ["bytes before the end record", good, { beforeEnd: "junk" }],
    ["fewer entries than there are", good, { count: 1 }],
    ["more entries than there are", good, { count: 3 }],
    ["several disks", good, { disk: 1 }],
    ["a name twice", [pickle, data, data]],
    ["two pickles", [pickle, data, { ...pickle, name: "n/data.pkl" }]],
    ["no pickle", [data]],
    ["no member", []],
  ])("%s", async (_, members, layout) => {
    const error = await refuseZip(members, layout)
    expect(error.code).toBe("E_ZIP")
  })

  test("20,001 members", async () => {
    const error = await refuseZip(good, { count: 20_001 })
    expect([error.code, error.message.includes("at most 20000")]).toEqual(["E_ZIP", true])
  })

  test.each([0, 1, 21, 22, 100])("%d bytes", async (n) => {
    expect((await refusal(write(Buffer.alloc(n)))).code).toBe("E_ZIP")
  })

  test("names that lead out of the folder are names like others", async () => {
    mkdirSync(join(folder, "a/b"), { recursive: true })
    const file = join(folder, "a/b/c.pth")
    const extra = ["../../x", "/etc/x", "C:\\x", "m/data/../../../x"].map((name) => ({ name, data: latin1("x") }))
    writeFileSync(file, zip([...extra, ...good]))
    expect([...(await openTorchFile(file)).keys()]).toEqual(["w"])
    expect(readdirSync(join(folder, "a"), { recursive: true })).toEqual(["b", join("b", "c.pth")])
    expect(existsSync(join(folder, "x"))).toBe(false)
  })

  test("big-endian", async () => {
    const error = await refuseZip([...good, { name: "m/byteorder", data: latin1("big") }])
    expect(error.code).toBe("E_PICKLE_LEGACY")
  })

  const tar = Buffer.alloc(1024)
  tar.write("pickle", 0)
  tar.write("ustar\x0000", 257)
  test.each([
    ["tar archive", "E_PICKLE_LEGACY", tar],
    ["7z archive", "E_PICKLE_LEGACY", latin1("7z\xbc\xaf\x27\x1c\x00\x04rest")],
    ["gzip file", "E_PICKLE_LEGACY", latin1("\x1f\x8b\x08\x00rest")],
    ["stacked pickle", "E_PICKLE_LEGACY", latin1("\x80\x02\x8a\x0a\x6c\xfc\x9c\x46\xf9\x20\x6a\xa8\x50\x19.\x80\x02M")],
    ["bare pickle", "E_PICKLE_LEGACY", latin1(`${PROTO}}.`)],
    ["Git LFS", "E_LFS_POINTER", latin1("version https://git-lfs.github.com/spec/v1\noid sha256:0\nsize 1\n")],
  ])("%s named .pth: %s", async (what, code, bytes) => {
    const error = await refusal(write(bytes))
    expect([error.code, error.message]).toEqual([code, expect.stringContaining(what)])
  })

  test("no file, a folder", async () => {
    expect((await attempt(join(folder, "none.pth"))).code).toBe("E_NOT_A_FILE")
    expect((await attempt(folder)).code).toBe("E_NOT_A_FILE")
  })
})
