/** @file The bytes of a model, against bytes worked out by hand and a reader that shares no code with the writer. */
import { describe, expect, it } from "vitest"
import { emit } from "../src/graph/emit.ts"
import * as ops from "../src/graph/ops.ts"
import { encodeModel } from "../src/onnx/model.ts"
import { Writer } from "../src/onnx/wire.ts"
import { int64, type StoredTensor, type Tensor } from "../src/tensor/tensor.ts"
import { readModel } from "./helpers/protobuf.ts"

describe("the wire format", () => {
  const hex = (write: (w: Writer) => void): string => {
    const writer = new Writer()
    write(writer)
    return Buffer.from(writer.finish()).toString("hex")
  }

  // Bytes worked out by hand: tag = field number * 8 + wire type, seven bits a byte, lowest first.
  it.each<[string, (w: Writer) => void, string]>([
    ["a small integer", (w) => w.int(1, 8), "08 08"],
    ["150, the example of the specification", (w) => w.int(1, 150), "08 9601"],
    ["zero", (w) => w.int(3, 0), "18 00"],
    ["-1 as int64", (w) => w.int(3, -1), "18 ffffffffffffffffff01"],
    ["an integer above 32 bits", (w) => w.int(1, 2 ** 40), "08 808080808020"],
    ["an integer of 53 bits", (w) => w.int(1, 2 ** 53 - 1), "08 ffffffffffffff0f"],
    ["a bigint of 64 bits", (w) => w.int(1, -(2n ** 63n)), "08 80808080808080808001"],
    ["a field number above 15", (w) => w.int(16, 1), "8001 01"],
    ["a float", (w) => w.float(2, 1.5), "15 0000c03f"],
    ["a string, the example of the specification", (w) => w.string(2, "testing"), "12 07 74657374696e67"],
    ["a string beyond ASCII", (w) => w.string(2, "é"), "12 02 c3a9"],
    ["an empty string", (w) => w.string(2, ""), "12 00"],
    ["bytes", (w) => w.bytes(9, Uint8Array.of(0, 255)), "4a 02 00ff"],
    [
      "a message in a message",
      (w) => w.message(7, (m) => m.message(1, (n) => n.int(1, 1)).int(2, 2)),
      "3a 06 0a020801 1002",
    ],
    ["an empty message", (w) => w.message(5, () => {}), "2a 00"],
  ])("writes %s", (_, write, want) => {
    expect(hex(write)).toBe(want.replaceAll(" ", ""))
  })

  it("writes a string and a message longer than its buffer", () => {
    const long = "a".repeat(100_000)
    const writer = new Writer()
    writer.message(1, (m) => m.string(2, long)).int(3, 1)
    const bytes = writer.finish()
    expect(bytes).toHaveLength(4 + 4 + 100_000 + 2)
    expect(Buffer.from(bytes.subarray(0, 9)).toString("hex")).toBe("0aa48d0612a08d0661")
    expect(Buffer.from(bytes.subarray(-3)).toString("hex")).toBe("611801")
  })

  it("writes the whole of a small model", () => {
    const two = ops.input("x", ["b"])
    const { bytes } = emit({ x: two }, { y: ops.mul(two, ops.scalar(2)) }, { named: true })
    const text = (s: string) => Buffer.from(s).toString("hex")
    const port = (name: string) => `0a 01 ${text(name)} 12 0b 0a 09 08 01 12 05 0a 03 12 01 ${text("b")}`
    const want = [
      "08 08", // ir_version 8
      `12 0a ${text("vit-prisma")}`, // producer_name
      "3a 5e", // graph, 94 bytes
      `0a 18 0a 01 ${text("x")} 0a 08 ${text("number_2")} 12 01 ${text("y")}`, // node: inputs, output,
      `1a 01 ${text("y")} 22 03 ${text("Mul")}`, // its name, op_type
      `12 0a ${text("vit-prisma")}`, // the graph's name
      // initializer: no dims, data_type 1 (float), name, raw_data 2.0
      `2a 12 10 01 42 08 ${text("number_2")} 4a 04 00 00 00 40`,
      // input and output: name, type { tensor_type { elem_type 1, shape { dim { dim_param "b" } } } }
      `5a 10 ${port("x")}`,
      `62 10 ${port("y")}`,
      "42 04 0a 00 10 11", // opset_import: the standard domain, version 17
    ]
    expect(Buffer.from(bytes).toString("hex")).toBe(want.join("").replaceAll(" ", ""))
  })

  it("writes every kind of attribute, dtype and domain so that they are read back", () => {
    const { shape, ...rest } = { shape: ["b", 2], dtype: "float32" } as const
    const bytes = encodeModel({
      nodes: [
        {
          op: "Op",
          domain: "com.microsoft",
          inputs: ["x", "", "i"],
          outputs: ["", "y"],
          attrs: {
            int: -1,
            float: { float: 0.1 },
            text: "é",
            ints: [0, -2, 2 ** 40],
            none: [],
            graph: {
              graph: {
                nodes: [{ op: "Identity", inputs: ["x"], outputs: ["z"], attrs: {} }],
                output: { name: "z", shape, ...rest },
              },
            },
          },
        },
      ],
      inputs: [{ name: "x", shape, ...rest }],
      outputs: [{ name: "y", shape: [], dtype: "bool" }],
      initializers: new Map<string, Tensor | StoredTensor>([
        ["i", int64([2], [1, -1])],
        ["far", { dtype: "bfloat16", shape: [3, 1], file: "f.bin", offset: 0, length: 6 }],
      ]),
      metadata: { key: "value", "": "" },
    })
    const model = readModel(bytes)
    const identity = { op: "Identity", domain: "", name: "z", inputs: ["x"], outputs: ["z"], attrs: new Map() }
    expect(model).toEqual({
      ir: 8,
      producer: "vit-prisma",
      opsets: new Map([
        ["", 17],
        ["com.microsoft", 1],
      ]),
      metadata: new Map([
        ["key", "value"],
        ["", ""],
      ]),
      nodes: [
        {
          op: "Op",
          domain: "com.microsoft",
          name: "y",
          inputs: ["x", "", "i"],
          outputs: ["", "y"],
          attrs: new Map<string, unknown>([
            ["int", -1],
            ["float", Math.fround(0.1)],
            ["text", "é"],
            ["ints", [0, -2, 2 ** 40]],
            ["none", []],
            [
              "graph",
              { nodes: [identity], initializers: new Map(), inputs: new Map(), outputs: new Map([["z", [1, shape]]]) },
            ],
          ]),
        },
      ],
      inputs: new Map([["x", [1, shape]]]),
      outputs: new Map([["y", [9, []]]]),
      initializers: new Map([
        ["i", { dims: [2], type: 7, raw: new Uint8Array(BigInt64Array.of(1n, -1n).buffer), external: undefined }],
        [
          "far",
          { dims: [3, 1], type: 16, raw: new Uint8Array(), external: { location: "f.bin", offset: "0", length: "6" } },
        ],
      ]),
    })
  })
})
