/** @file The safetensors codec against files of the reference library, a corpus of verdicts, second readers and mutations. */
import { existsSync, mkdtempSync, readdirSync, readFileSync, rmSync, writeFileSync } from "node:fs"
import { tmpdir } from "node:os"
import { join, resolve } from "node:path"
import { SafeTensor } from "safetensors"
import { afterAll, describe, expect, it } from "vitest"
import { cpuMs } from "./helpers/cpu.ts"
import { PrismaError } from "../src/errors.ts"
import { openSafetensors, readTensor } from "../src/files/safetensors-file.ts"
import { encodeSafetensors, readSafetensors } from "../src/tensor/safetensors.ts"
import { bytesOf, type DType, DTYPES, float32, type Tensor, tensor } from "../src/tensor/tensor.ts"
import { readSafetensors as readPlainly } from "./helpers/read-safetensors.ts"
import { ACCEPTED, entry, file, REJECTED } from "./helpers/safetensors-corpus.ts"
import { fuzz } from "./helpers/safetensors-fuzz.ts"

const scratch = mkdtempSync(join(tmpdir(), "vit-prisma-safetensors-"))
afterAll(() => rmSync(scratch, { recursive: true }))

const root = resolve(import.meta.dirname, "..")
const under = (folder: string): string[] =>
  existsSync(folder)
    ? readdirSync(folder, { recursive: true, encoding: "utf8" })
        .filter((name) => name.endsWith(".safetensors"))
        .map((name) => join(folder, name))
    : []

/** Files that Python's safetensors wrote. */
const library = [...under(join(root, "test/fixtures/reference")), ...under(resolve(root, "../shared/reference"))]

async function refusal(work: () => unknown): Promise<PrismaError> {
  try {
    await work()
  } catch (error) {
    if (error instanceof PrismaError) return error
    throw error
  }
  throw new Error("was accepted")
}

describe("files of the reference library", () => {
  it("are there", () => expect(library.length).toBeGreaterThan(40))

  it("give every tensor the bytes, shape and dtype a plain reader finds", () => {
    for (const path of library) {
      const { tensors, metadata, opaque } = readSafetensors(readFileSync(path), path)
      const plain = readPlainly(path)
      expect([...tensors.keys()].sort()).toEqual([...plain.tensors.keys()].sort())
      expect(new Map(metadata)).toEqual(plain.metadata)
      expect(opaque.size).toBe(0)
      for (const [name, t] of tensors) {
        const expected = plain.tensors.get(name)!
        expect([DTYPES[t.dtype].safetensors, t.shape]).toEqual([expected.dtype, expected.shape])
        expect(Buffer.compare(bytesOf(t), expected.bytes)).toBe(0)
      }
    }
  })

  it("are written again byte for byte", () => {
    for (const path of library) {
      const bytes = readFileSync(path)
      const { tensors, metadata } = readSafetensors(bytes, path)
      const shuffled = new Map([...tensors].reverse())
      expect(Buffer.compare(encodeSafetensors(shuffled, metadata), bytes), path).toBe(0)
    }
  })

  it("are lazily read as they are read whole", async () => {
    for (const path of library.slice(0, 6)) {
      const { tensors } = readSafetensors(readFileSync(path), path)
      const opened = await openSafetensors(path)
      for (const [name, t] of tensors) expect(await readTensor(opened.stored(name))).toEqual(t)
    }
  })

  it("agree with the npm package where it can read (no metadata)", () => {
    const readable = library.filter((path) => readPlainly(path).metadata.size === 0)
    expect(readable.length).toBeGreaterThan(10)
    for (const path of readable) {
      const other = new SafeTensor(new Uint8Array(readFileSync(path)))
      const { tensors } = readSafetensors(readFileSync(path), path)
      expect([...other.metadata.keys()].sort()).toEqual([...tensors.keys()].sort())
      for (const [name, t] of tensors) {
        expect(other.metadata.get(name)!.shape).toEqual(t.shape)
        expect(Buffer.compare(other.getTensor(name), bytesOf(t))).toBe(0)
      }
    }
  })
})

describe("verdicts", () => {
  it("number at least 22 and 58, under names of their own", () => {
    expect(ACCEPTED.length).toBeGreaterThanOrEqual(22)
    expect(REJECTED.length).toBeGreaterThanOrEqual(58)
    expect(new Set([...ACCEPTED, ...REJECTED].map(([name]) => name)).size).toBe(ACCEPTED.length + REJECTED.length)
  })

  it.each(ACCEPTED)("accept: %s", async (_, bytes) => {
    const path = join(scratch, "accepted.safetensors")
    writeFileSync(path, bytes)
    const names = readSafetensors(bytes)
    const count = names.tensors.size + names.opaque.size
    expect((await openSafetensors(path)).entries.size).toBe(count)
    // A view at an odd place of a larger buffer, as sockets and archives give them.
    const odd = new Uint8Array(bytes.length + 3)
    odd.set(bytes, 3)
    expect(readSafetensors(odd.subarray(3)).tensors).toEqual(names.tensors)
  })

  it.each(REJECTED)("reject: %s: %s", async (_, code, bytes) => {
    const path = join(scratch, "rejected.safetensors")
    writeFileSync(path, bytes)
    const whole = await refusal(() => readSafetensors(bytes, path))
    const lazy = await refusal(() => openSafetensors(path))
    const again = await refusal(() => readSafetensors(bytes, path))
    expect(whole.code).toBe(code)
    expect([lazy.toJSON(), again.toJSON()]).toEqual([whole.toJSON(), whole.toJSON()])
    expect(whole.message).toContain(path)
    expect(whole.message).not.toMatch(/[\p{Cc}\u2028\u2029]/u)
    expect(whole.message.length).toBeLessThan(700)
  })

  const message = async (name: string): Promise<string> => {
    const bytes = REJECTED.find(([n]) => n === name)![2]
    return (await refusal(() => readSafetensors(bytes, "x"))).message
  }

  it.each([
    ["7 bytes", "x: 7 bytes; a safetensors file has at least 8"],
    ["header longer than the file", "header length 3 is more than the 2 bytes that follow"],
    ["empty header", "empty header"],
    ["root list", "header must be an object"],
    ["root null", "header must be an object"],
    ["root string", "header must be an object"],
    ["root number", "header must be an object"],
    ["begin after end", 'tensor "a": data_offsets begin at 8, after their end 0'],
    ["overlap", '"b" begins at 4, inside "a", which ends at 8'],
    ["zip behind the tensors", "4 bytes not described by the header; polyglot files are refused"],
    ["span of another size", 'tensor "a": F32 [3] needs 12 bytes, data_offsets span 8'],
    ["nesting of 100,000 lists", "nesting deeper than 127"],
    ["Git LFS pointer", "run git lfs pull"],
  ])("%s: says %s", async (name, text) => expect(await message(name)).toContain(text))

  it("warns once of unknown members", () => {
    const member = `"dtype":"U8","shape":[0],"data_offsets":[0,0],"note":1`
    const { warnings } = readSafetensors(file(`{"a":{${member}},"b":{${member}}}`), "x")
    expect(warnings).toEqual(['x: tensor "a": member "note" is not known and was ignored (2 unknown members in all)'])
  })

  it("keeps names that are traps for objects and paths", () => {
    const names = ["__proto__", "constructor", "../../etc/x", "", "a\nb"]
    const members = names.map((name, i) => entry(JSON.stringify(name).slice(1, -1), "U8", "[1]", i, i + 1))
    expect([...readSafetensors(file(`{${members.join(",")}}`, names.length)).tensors.keys()]).toEqual(names)
  })

  it("refuses 100,000 tensors over the same bytes without looking at them", async () => {
    const members = Array.from({ length: 100_000 }, (_, i) => entry(`t${i}`, "F32", "[200,200]", 0, 160_000))
    const bytes = file(`{${members.join(",")}}`, 160_000)
    const start = cpuMs()
    expect((await refusal(() => readSafetensors(bytes))).code).toBe("E_ST_OVERLAP")
    expect(cpuMs() - start).toBeLessThan(2000)
  })

  it("refuses metadata of more than 100,000 keys", async () => {
    const pairs = Array.from({ length: 100_001 }, (_, i) => `"${i}":""`)
    expect((await refusal(() => readSafetensors(file(`{"__metadata__":{${pairs.join(",")}}}`)))).code).toBe(
      "E_ST_METADATA",
    )
  })
})

describe("views", () => {
  const header = `{${entry("a", "F32", "[2]", 0, 8)},${entry("c", "U8", "[1]", 8, 9)}}`
  const bytes = file(header.padEnd(Math.ceil(header.length / 8) * 8), 9)

  it("are not copies where the alignment allows it", () => {
    const start = new DataView(bytes.buffer).getUint32(0, true) + 8
    const { tensors } = readSafetensors(bytes)
    expect(tensors.get("a")!.data.buffer).toBe(bytes.buffer)
    expect(tensors.get("a")!.data.byteOffset).toBe(start)
  })

  it("are copies where it does not", () => {
    const odd = new Uint8Array(bytes.length + 1)
    odd.set(bytes, 1)
    const { tensors } = readSafetensors(odd.subarray(1))
    expect(tensors.get("a")!.data.buffer).not.toBe(odd.buffer)
    expect(tensors.get("c")!.data.buffer).toBe(odd.buffer)
  })
})

describe("writing", () => {
  const plain = (bytes: Uint8Array) => {
    const path = join(scratch, "written.safetensors")
    writeFileSync(path, bytes)
    return readPlainly(path)
  }

  it("gives the reference's own bytes", () => {
    // The golden bytes of test_serialization_forced_alignement and test_empty in the reference's tensor.rs.
    const head = '{"attn0":{"dtype":"F32","shape":[1,1,2,3],"data_offsets":[0,24]}}       '
    const written = encodeSafetensors({ attn0: float32([1, 1, 2, 3], [0, 1, 2, 3, 4, 5]) })
    expect(Buffer.from(written.subarray(0, 80)).toString("latin1")).toBe(`H\0\0\0\0\0\0\0${head}`)
    expect([...written.subarray(80, 92)]).toEqual([0, 0, 0, 0, 0, 0, 128, 63, 0, 0, 0, 64])
    expect(Buffer.from(encodeSafetensors({})).toString("latin1")).toBe("\b\0\0\0\0\0\0\0{}      ")
    const metadata = encodeSafetensors({}, { framework: "pt" })
    expect(Buffer.from(metadata).toString("latin1")).toBe('(\0\0\0\0\0\0\0{"__metadata__":{"framework":"pt"}}     ')
  })

  it("sorts by width, then by name in the order of UTF-8, and aligns every tensor", () => {
    const of = (dtype: DType): Tensor =>
      readSafetensors(file(`{${entry("a", DTYPES[dtype].safetensors, "[0]", 0, 0)}}`)).tensors.get("a")!
    const tensors = new Map<string, Tensor>()
    for (const d of Object.keys(DTYPES) as DType[]) tensors.set(d, of(d))
    for (const name of ["\u{1f600}", "\uffee", "b", "a", "ab"]) tensors.set(name, of("bool"))
    const names = [...plain(encodeSafetensors(tensors)).tensors.keys()]
    const widths = "uint64 int64 float64 float32 uint32 int32 bfloat16 float16 uint16 int16 int8 uint8"
    expect(names).toEqual([...widths.split(" "), "a", "ab", "b", "bool", "\uffee", "\u{1f600}"])
  })

  it("reads back what it wrote, names and metadata included", () => {
    const names = ["__proto__", 'quote"\\', "line\n", "\u0001", "\u6743\u{1f600}", "10", "2", ""]
    const tensors = new Map(names.map((name, i) => [name, float32([1], [i])]))
    const metadata = new Map(names.map((name) => [name, name]))
    const found = plain(encodeSafetensors(tensors, metadata))
    expect(found.metadata).toEqual(metadata)
    for (const [i, name] of names.entries()) expect(new Float32Array(found.tensors.get(name)!.bytes.buffer)[0]).toBe(i)
  })

  it.each<[string, Record<string, Tensor>, Record<string, string>?]>([
    ["the name __metadata__", { __metadata__: float32([1], [1]) }],
    ["a lone surrogate in a name", { "\ud800": float32([1], [1]) }],
    ["a lone surrogate in metadata", {}, { a: "\udfff" }],
    ["data that does not fit the shape", { a: { ...float32([1], [1]), shape: [2] } }],
  ])("refuses %s", async (_, tensors, metadata) => {
    expect((await refusal(() => encodeSafetensors(tensors, metadata))).code).toBe("E_INPUT")
  })

  it("refuses a header no reader would take", async () => {
    const error = await refusal(() => encodeSafetensors({}, { a: "x".repeat(100_000_000) }))
    expect(error.code).toBe("E_ST_HEADER_TOO_LARGE")
  })

  it("holds every dtype", () => {
    const data = new Uint8Array(16).map((_, i) => i)
    for (const dtype of Object.keys(DTYPES) as DType[]) {
      const n = 16 / DTYPES[dtype].bytes
      const t = readSafetensors(file(`{${entry("a", DTYPES[dtype].safetensors, `[${n}]`, 0, 16)}}`, data)).tensors.get(
        "a",
      )!
      expect(t.dtype).toBe(dtype)
      expect(plain(encodeSafetensors({ a: t })).tensors.get("a")).toEqual({
        dtype: DTYPES[dtype].safetensors,
        shape: [n],
        bytes: data,
      })
    }
  })

  it("refuses a tensor whose data another dtype would need", () => {
    expect(() => tensor("int32", [2], Int32Array.of(1))).toThrow(PrismaError)
  })
})

describe("mutations", () => {
  const count = Number(process.env.FUZZ_INPUTS ?? 20_000)

  it(`of valid files, ${count} of them, end typed and as the reference would judge`, () => {
    const result = fuzz((bytes) => readSafetensors(bytes), count, 1)
    expect(result.untyped).toEqual([])
    expect(result.differences).toEqual([])
    expect(result.slowest).toBeLessThan(2000)
    expect(result.accepted).toBeGreaterThan(count / 100)
    expect(result.codes.size).toBeGreaterThanOrEqual(12)
  })

  it("would show a reader that is too lenient or fails untyped", () => {
    const lenient = fuzz((bytes) => JSON.parse(new TextDecoder().decode(bytes.subarray(8))), 2000, 1)
    expect(lenient.differences.length).toBeGreaterThan(0)
    expect(lenient.untyped.length).toBeGreaterThan(0)
  })
})
