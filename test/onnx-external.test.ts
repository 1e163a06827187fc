/** @file The scan of foreign ONNX models: attacks on the location of external data in every place a tensor can lie. The
 * models are put together here, field by field, and onnxruntime says that they are models. */
import { mkdirSync, mkdtempSync, realpathSync, rmSync, symlinkSync, truncateSync, writeFileSync } from "node:fs"
import { tmpdir } from "node:os"
import { join } from "node:path"
import { InferenceSession, Tensor } from "onnxruntime-node"
import { afterAll, describe, expect, test } from "vitest"
import { cpuMs } from "./helpers/cpu.ts"
import { PrismaError } from "../src/errors.ts"
import { checkOnnxFile } from "../src/files/onnx-file.ts"
import { checkExternal, externalData } from "../src/onnx/external.ts"
import { checkNames } from "../src/onnx/names.ts"

const folder = mkdtempSync(join(realpathSync(tmpdir()), "onnx-"))
afterAll(() => rmSync(folder, { recursive: true }))

// Protobuf, written by hand (https://protobuf.dev/programming-guides/encoding)

type Value = number | string | Buffer

function varint(n: number): Buffer {
  const bytes: number[] = []
  for (; n > 127; n = Math.floor(n / 128)) bytes.push((n % 128) + 128)
  return Buffer.from([...bytes, n])
}

const message = (...fields: [number, Value][]): Buffer =>
  Buffer.concat(
    fields.flatMap(([number, value]) => {
      if (typeof value === "number") return [varint(number * 8), varint(value)]
      const bytes = Buffer.from(value)
      return [varint(number * 8 + 2), varint(bytes.length), bytes]
    }),
  )

const entry = (key: string, value: string): Buffer => message([1, key], [2, value])

interface Place {
  location?: string
  offset?: string
  length?: string
}

/** float32 [2] called w, in another file. */
const external = (place: Place): Buffer =>
  message(
    [1, 2],
    [2, 1],
    [8, "w"],
    ...Object.entries(place).map(([key, value]): [number, Value] => [13, entry(key, value as string)]),
    [14, 1],
  )

const shape = (n: number): Buffer => message([1, message([1, n])])
const port = (name: string): Buffer => message([1, name], [2, message([1, message([1, 1], [2, shape(2)])])])
const node = (op: string, inputs: string[], output: string, ...rest: [number, Value][]): Buffer =>
  message(...inputs.map((name): [number, Value] => [1, name]), [2, output], [4, op], ...rest)
const add = node("Add", ["x", "w"], "y")
const attribute = (name: string, type: number, field: number, value: Buffer): Buffer =>
  message([1, name], [field, value], [20, type])
const constant = (value: Buffer): Buffer => node("Constant", [], "w", [5, attribute("value", 4, 5, value)])
const graph = (...fields: [number, Value][]): Buffer => message([2, "g"], ...fields, [11, port("x")], [12, port("y")])
const model = (g: Buffer, ...rest: [number, Value][]): Buffer =>
  message([1, 8], [7, g], [8, message([1, ""], [2, 17])], [8, message([1, "local"], [2, 1])], ...rest)

const inline = (values: number[], dims: number[] = [2]): Buffer =>
  message(
    ...dims.map((n): [number, Value] => [1, n]),
    [2, 1],
    [8, "w"],
    [9, Buffer.from(Float32Array.from(values).buffer)],
  )
const indices = message([1, 2], [2, 7], [8, "i"], [9, Buffer.from(BigInt64Array.from([0n, 1n]).buffer)])
const branch = (...fields: [number, Value][]): Buffer => message([2, "b"], ...fields, [12, port("z")])
const otherwise = branch([1, node("Relu", ["x"], "z")])
const If = (then: Buffer): Buffer =>
  graph(
    [5, message([2, 9], [8, "c"], [9, Buffer.from([1])])],
    [
      1,
      node("If", ["c"], "y", [5, attribute("then_branch", 5, 6, then)], [5, attribute("else_branch", 5, 6, otherwise)]),
    ],
  )
const called = (...body: Buffer[]): Buffer =>
  message(
    [1, "F"],
    [4, "x"],
    [5, "y"],
    ...body.map((n): [number, Value] => [7, n]),
    [9, message([1, ""], [2, 17])],
    [10, "local"],
  )
const caller = graph([1, node("F", ["x"], "y", [7, "local"])])
const foreign = (name: string, type: number, field: number, value: Buffer): Buffer =>
  model(graph([1, node("Op", ["x"], "y", [7, "local"], [5, attribute(name, type, field, value)])]))

/** Where a tensor can lie in a model: with the model around it, and how the scan calls the place. */
const PLACES: Record<string, readonly [(tensor: Buffer) => Buffer, string]> = {
  initializer: [(t) => model(graph([1, add], [5, t])), "graph[0].initializer[0]"],
  Constant: [(t) => model(graph([1, constant(t)], [1, add])), "graph[0].node[0].attribute[0].t[0]"],
  "sparse values": [
    (t) => model(graph([1, add], [15, message([1, t], [2, indices], [3, 2])])),
    "graph[0].sparse_initializer[0].values[0]",
  ],
  "sparse indices": [
    (t) => model(graph([1, add], [15, message([1, inline([1, 2])], [2, t], [3, 2])])),
    "graph[0].sparse_initializer[0].indices[0]",
  ],
  subgraph: [
    (t) => model(If(branch([5, t], [1, node("Add", ["x", "w"], "z")]))),
    "graph[0].node[0].attribute[0].g[0].initializer[0]",
  ],
  "local function": [(t) => model(caller, [25, called(constant(t), add)]), "functions[0].node[0].attribute[0].t[0]"],
  "tensor list": [(t) => foreign("ts", 9, 10, t), "graph[0].node[0].attribute[0].tensors[0]"],
  "graph list": [
    (t) => foreign("gs", 10, 11, branch([5, t])),
    "graph[0].node[0].attribute[0].graphs[0].initializer[0]",
  ],
  "sparse attribute": [
    (t) => foreign("s", 11, 22, message([1, t], [2, indices])),
    "graph[0].node[0].attribute[0].sparse_tensor[0].values[0]",
  ],
  "sparse list": [
    (t) => foreign("ss", 12, 23, message([1, inline([1, 2])], [2, t])),
    "graph[0].node[0].attribute[0].sparse_tensors[0].indices[0]",
  ],
  "function default": [
    (t) => model(caller, [25, Buffer.concat([called(add), message([11, attribute("a", 4, 5, t)])])]),
    "functions[0].attribute_proto[0].t[0]",
  ],
  training: [(t) => model(caller, [20, message([2, graph([5, t])])]), "training_info[0].algorithm[0].initializer[0]"],
  "second graph": [(t) => Buffer.concat([model(caller), message([7, graph([5, t])])]), "graph[1].initializer[0]"],
}
const places = Object.entries(PLACES).map(([name, [build, where]]) => ({ name, build, where }))

function thrown(run: () => unknown): PrismaError {
  try {
    run()
  } catch (error) {
    if (error instanceof PrismaError) return error
    throw error
  }
  throw new Error("nothing was thrown")
}

describe("locations", () => {
  const LOCATIONS = [
    "",
    "/etc/passwd",
    "//host/share/x",
    "../x",
    "..",
    "a/../../x",
    "a/..",
    "./../x",
    ".. /x",
    ".../x",
    "..\\x",
    "a\\..\\..\\x",
    "\\\\host\\share\\x",
    "\\\\?\\C:\\x",
    "C:\\x",
    "C:x",
    "c:/x",
    "file:///etc/passwd",
    "https://host/x",
    "s3://bucket/x",
    "x\0y",
    "x\n",
    "x:stream",
    "*/_ORT_MEM_ADDR_/*",
    ".",
    "a/",
    "a/.",
    " ",
  ]

  test.each(LOCATIONS)("%j is refused in every place", (location) => {
    for (const { build, where } of places) {
      const bytes = build(external({ location, offset: "0", length: "8" }))
      const error = thrown(() => checkExternal(bytes, "m.onnx"))
      expect([error.code, error.tensor, error.file, error.exitCode]).toEqual(["E_ONNX_EXTERNAL", "w", "m.onnx", 3])
      expect(error.message).toContain(`(${where})`)
      expect(error.message).not.toMatch(/\p{Cc}/u)
      expect(thrown(() => checkExternal(bytes, "m.onnx")).message).toBe(error.message)
    }
  })

  test.each(["w.bin", "model.onnx_data", "weights/layer 0..w", "./w", "..w", "a..b/c", "~", "näme"])(
    "%j stays in the folder",
    (location) => {
      for (const { build, where } of places) {
        const bytes = build(external({ location, offset: "4096", length: "8" }))
        expect(externalData(bytes, "m.onnx")).toEqual([{ name: "w", location, offset: "4096", length: "8", where }])
        expect(checkExternal(bytes, "m.onnx")).toEqual([{ name: "w", location, offset: 4096, length: 8, where }])
      }
    },
  )

  test.each<[string, Place]>([
    ["no location", { offset: "0" }],
    ["negative offset", { location: "w", offset: "-1" }],
    ["negative length", { location: "w", length: "-8" }],
    ["offset 2^53", { location: "w", offset: String(2n ** 53n) }],
    ["offset 2^64", { location: "w", offset: String(2n ** 64n) }],
    ["offset of 10^5 digits", { location: "w", offset: "9".repeat(1e5) }],
    ["offset and length beyond 2^53", { location: "w", offset: String(2n ** 53n - 1n), length: "1" }],
    ["hexadecimal", { location: "w", offset: "0x10" }],
    ["exponent", { location: "w", length: "1e3" }],
    ["fraction", { location: "w", length: "1.5" }],
    ["space", { location: "w", offset: " 1" }],
    ["empty", { location: "w", offset: "" }],
    ["a word", { location: "w", length: "all" }],
    ["other digits", { location: "w", offset: "٣" }],
  ])("%s is refused in every place", (_, place) => {
    for (const { build, where } of places) {
      const error = thrown(() => checkExternal(build(external(place)), "m.onnx"))
      expect([error.code, error.message]).toEqual(["E_ONNX_EXTERNAL", expect.stringContaining(`(${where})`)])
    }
  })

  test.each([".".repeat(1e6), `${".".repeat(1e6)}x`, "/".repeat(1e6), "a".repeat(1001)])(
    "a long location",
    (location) => {
      const start = cpuMs()
      const error = thrown(() => checkExternal(model(graph([5, external({ location })])), "m.onnx"))
      expect([error.code, error.message.length < 500]).toEqual(["E_ONNX_EXTERNAL", true])
      expect(cpuMs() - start).toBeLessThan(500)
    },
  )

  test("a location that is given twice", () => {
    const twice = Buffer.concat([external({ location: "w" }), message([13, entry("location", "/etc/passwd")])])
    expect(thrown(() => externalData(model(graph([5, twice])), "m.onnx")).code).toBe("E_ONNX_EXTERNAL")
  })

  test("a location without the mark of external data, and the mark with bits above the 32nd", () => {
    const unmarked = message([8, "w"], [13, entry("location", "../x")])
    expect(thrown(() => checkExternal(model(graph([5, unmarked])), "m.onnx")).code).toBe("E_ONNX_EXTERNAL")
    const wide = message([8, "w"], [14, 2 ** 32 + 1])
    expect(thrown(() => checkExternal(model(graph([5, wide])), "m.onnx")).code).toBe("E_ONNX_EXTERNAL")
  })

  test("tensors inside the model are not listed", () => {
    for (const { build } of places) expect(externalData(build(inline([1, 2])), "m.onnx")).toEqual([])
  })
})

describe("format", () => {
  const good = model(graph([1, add], [5, external({ location: "w" })]))

  test.each<[string, Buffer]>([
    ["no byte", Buffer.alloc(0)],
    ["no graph", message([1, 8])],
    ["text", Buffer.from("not a model at all")],
    ["HTML", Buffer.from("<!doctype html><html><body>404</body></html>")],
    ["zeros", Buffer.alloc(100)],
    ["a group", Buffer.concat([good, Buffer.from([0x0b, 0x0c])])],
    ["wire type 7", Buffer.concat([good, Buffer.from([0x0f])])],
    ["integer of eleven bytes", Buffer.concat([good, Buffer.from([0x08, ...Array(10).fill(0xff), 1])])],
    ["length beyond the end", Buffer.concat([good, Buffer.from([0x12, 0x7f])])],
    ["length of 2^32 - 1", Buffer.concat([good, Buffer.from([0x12, 0xff, 0xff, 0xff, 0xff, 0x0f])])],
    ["half a double", Buffer.concat([good, Buffer.from([0x11, 0, 0, 0])])],
    ["half a float", Buffer.concat([good, Buffer.from([0x15, 0])])],
    [
      "a location that is not UTF-8",
      model(graph([5, message([13, message([1, "location"], [2, Buffer.from([0xff])])])])),
    ],
    ["a name that is a number", model(graph([5, message([8, 1])]))],
  ])("%s", (_, bytes) => {
    expect(thrown(() => externalData(bytes, "m.onnx")).code).toBe("E_ONNX_FORMAT")
  })

  test("cut anywhere inside the graph", () => {
    const whole = message([7, graph([5, external({ location: "w" })])])
    for (let n = 0; n < whole.length; n++) {
      expect(thrown(() => checkExternal(whole.subarray(0, n), "m.onnx")).code).toBe("E_ONNX_FORMAT")
    }
  })

  test("subgraphs 1000 deep", () => {
    let bytes = graph()
    for (let i = 0; i < 1000; i++) bytes = message([1, message([5, message([6, bytes])])])
    expect(thrown(() => externalData(model(bytes), "m.onnx")).message).toContain("nested deeper than 100")
  })

  test("a bomb of 25 million fields ends in 2 s", () => {
    const bytes = Buffer.concat([model(graph()), Buffer.alloc(50_000_000, Buffer.from([0x08, 0]))])
    const start = cpuMs()
    expect(thrown(() => externalData(bytes, "m.onnx")).message).toContain("fields")
    expect(cpuMs() - start).toBeLessThan(2000)
  })

  test("20,000 mutations give a list or a typed error", () => {
    const seeds = places.map(({ build }) => build(external({ location: "w.bin", offset: "0", length: "8" })))
    let state = 1
    const random = (n: number): number => {
      state = (Math.imul(state, 1664525) + 1013904223) >>> 0 // Numerical Recipes' generator
      return Math.floor((state / 2 ** 32) * n)
    }
    let refused = 0
    for (let round = 0; round < 20_000; round++) {
      const bytes = Buffer.from(seeds[round % seeds.length] ?? "")
      for (let n = random(3); n >= 0; n--) bytes[random(bytes.length)] = random(256)
      try {
        checkExternal(bytes, "m.onnx")
        checkNames(bytes, "m.onnx")
      } catch (error) {
        if (!(error instanceof PrismaError)) throw error
        refused++
      }
    }
    expect(refused).toBeGreaterThan(2000)
  })
})

describe("names", () => {
  const named = (name: string): Buffer => message([8, name])
  test.each<[string, Buffer]>([
    ["two nodes", graph([1, add], [1, add])],
    ["a node and an initializer", graph([1, node("Relu", ["x"], "w")], [5, inline([1, 2])])],
    ["a node and an input", graph([1, node("Relu", ["y"], "x")])],
    ["two initializers", graph([5, inline([1, 2])], [5, inline([1, 2])])],
    ["dense and sparse", graph([5, inline([1, 2])], [15, message([1, inline([1, 2])])])],
    ["two inputs", graph([11, port("x")])],
    ["two outputs of a node", graph([1, Buffer.concat([add, message([2, "y"])])])],
    ["in a subgraph", If(branch([5, named("a")], [1, node("Relu", ["x"], "a")]))],
    ["10^5 hooks and a weight", Buffer.concat([graph([5, named("hook_99999")]), hooks(1e5)])],
  ])("%s of one name", (_, g) => {
    const error = thrown(() => checkNames(model(g), "m.onnx"))
    expect([error.code, error.file]).toEqual(["E_NAME_COLLISION", "m.onnx"])
  })

  function hooks(n: number): Buffer {
    return Buffer.concat(Array.from({ length: n }, (_, i) => message([1, node("Identity", ["x"], `hook_${i}`)])))
  }

  test("names of their own, omitted outputs, and inputs with a default", () => {
    checkNames(model(graph([1, add], [5, message([8, "x"])], [15, message([1, named("v")])])), "m.onnx")
    checkNames(model(Buffer.concat([graph([1, node("Op", [], "")], [1, node("Op", [], "")]), hooks(1e5)])), "m.onnx")
  })
})

describe("files", () => {
  const place = { location: "w.bin", offset: "8", length: "8" }
  const data = Buffer.from(Float32Array.from([0, 0, 3, 4]).buffer)
  let made = 0

  function write(bytes: Buffer, name = "model.onnx"): string {
    const home = join(folder, String(made++))
    mkdirSync(home)
    writeFileSync(join(home, name), bytes)
    return join(home, name)
  }
  const beside = (path: string, name: string): string => join(path, "..", name)

  // That these places are what they are called, and are read: onnxruntime runs the model, and does not without the data.
  test.each(["initializer", "Constant", "subgraph", "local function", "sparse values"])(
    "onnxruntime reads external data in: %s",
    async (name) => {
      const [build] = PLACES[name] ?? []
      const path = write(build?.(external(place)) ?? Buffer.alloc(0))
      await expect(InferenceSession.create(path)).rejects.toThrow("w.bin")
      writeFileSync(beside(path, "w.bin"), data)
      expect((await checkOnnxFile(path)).map(({ file }) => file)).toEqual([beside(path, "w.bin")])
      const session = await InferenceSession.create(path)
      const { y } = await session.run({ x: new Tensor("float32", [1, 2], [2]) })
      expect(y?.data).toEqual(Float32Array.from([4, 6]))
      await session.release()
    },
  )

  test("the list has the real file and the range", async () => {
    const path = write(model(graph([1, add], [5, external(place)])))
    writeFileSync(beside(path, "w.bin"), data)
    expect(await checkOnnxFile(path)).toEqual([
      {
        name: "w",
        location: "w.bin",
        offset: 8,
        length: 8,
        where: "graph[0].initializer[0]",
        file: beside(path, "w.bin"),
      },
    ])
  })

  async function code(path: string): Promise<string> {
    const error: unknown = await checkOnnxFile(path).catch((error: unknown) => error)
    if (error instanceof PrismaError) return error.code
    throw new Error(`${path}: ${String(error)}`)
  }

  test("links that leave the folder, and links that stay", async () => {
    const path = write(model(graph([1, add], [5, external(place)])))
    const outside = beside(path, "../outside.bin")
    writeFileSync(outside, data)
    symlinkSync("../outside.bin", beside(path, "w.bin"))
    expect(await code(path)).toBe("E_ONNX_EXTERNAL")
    rmSync(beside(path, "w.bin"))
    writeFileSync(beside(path, "v.bin"), data)
    symlinkSync("v.bin", beside(path, "w.bin"))
    expect((await checkOnnxFile(path)).map(({ file }) => file)).toEqual([beside(path, "v.bin")])
  })

  test("a folder that is a link out", async () => {
    const path = write(model(graph([1, add], [5, external({ ...place, location: "sub/w.bin" })])))
    const outside = beside(path, "../elsewhere")
    mkdirSync(outside)
    writeFileSync(join(outside, "w.bin"), data)
    symlinkSync(outside, beside(path, "sub"))
    expect(await code(path)).toBe("E_ONNX_EXTERNAL")
  })

  test("a neighbour whose name begins alike", async () => {
    const path = write(model(graph([1, add], [5, external(place)])))
    mkdirSync(`${beside(path, "")}2`)
    writeFileSync(`${beside(path, "")}2/w.bin`, data)
    symlinkSync(`${beside(path, "")}2/w.bin`, beside(path, "w.bin"))
    expect(await code(path)).toBe("E_ONNX_EXTERNAL")
  })

  test("the Hub's cache, where model and data are links into one folder", async () => {
    const blob = write(model(graph([1, add], [5, external(place)])), "abc")
    writeFileSync(beside(blob, "def"), data)
    const path = write(Buffer.alloc(0), "unused")
    symlinkSync(blob, beside(path, "model.onnx"))
    symlinkSync(beside(blob, "def"), beside(path, "w.bin"))
    expect((await checkOnnxFile(beside(path, "model.onnx"))).map(({ file }) => file)).toEqual([beside(blob, "def")])
  })

  test("ranges beyond the file", async () => {
    const ends: [string, string | undefined, boolean][] = [
      ["0", "16", true],
      ["16", "0", true],
      ["16", undefined, true],
      ["0", "17", false],
      ["9", "8", false],
      ["17", undefined, false],
    ]
    for (const [offset, length, inside] of ends) {
      const tensor = external({ location: "w.bin", offset, ...(length === undefined ? {} : { length }) })
      const path = write(model(graph([1, add], [5, tensor])))
      writeFileSync(beside(path, "w.bin"), data)
      if (inside) expect(await checkOnnxFile(path)).toHaveLength(1)
      else expect(await code(path)).toBe("E_ONNX_EXTERNAL")
    }
  })

  test("no data, no model, folders in their place", async () => {
    const path = write(model(graph([1, add], [5, external(place)])))
    expect(await code(path)).toBe("E_NOT_A_FILE")
    mkdirSync(beside(path, "w.bin"))
    expect(await code(path)).toBe("E_NOT_A_FILE")
    expect(await code(beside(path, "none.onnx"))).toBe("E_NOT_A_FILE")
    expect(await code(beside(path, ""))).toBe("E_NOT_A_FILE")
  })

  test("a model of 2 GiB", async () => {
    const path = write(Buffer.alloc(0))
    truncateSync(path, 2 ** 31)
    expect(await code(path)).toBe("E_ONNX_FORMAT")
  })

  test("two values of one name", async () => {
    expect(await code(write(model(graph([1, add], [1, add]))))).toBe("E_NAME_COLLISION")
  })
})
