/** @file An ONNX model as plain data, and its bytes (https://github.com/onnx/onnx/blob/main/onnx/onnx.proto3). */
import { bytesOf, type DType, type StoredTensor, type Tensor } from "../tensor/tensor.ts"
import { Writer } from "./wire.ts"

/** TensorProto.DataType */
const DATA_TYPE: Record<DType, number> = {
  float32: 1,
  uint8: 2,
  int8: 3,
  uint16: 4,
  int16: 5,
  int32: 6,
  int64: 7,
  bool: 9,
  float16: 10,
  float64: 11,
  uint32: 12,
  uint64: 13,
  bfloat16: 16,
}

export const dataType = (dtype: DType): number => DATA_TYPE[dtype]

/** Integers, floats (`{ float }`), strings, lists of integers and sub-graphs: what our nodes need. */
export type Attribute = number | string | readonly number[] | { readonly float: number } | { readonly graph: Branch }

/** A branch of If: nodes that may use names of the graph around it, and what it gives. */
export interface Branch {
  readonly nodes: readonly Node[]
  readonly output: Port
}

/** An empty name among `inputs` or `outputs` is an omitted optional one. */
export interface Node {
  readonly op: string
  readonly domain?: string
  readonly inputs: readonly string[]
  readonly outputs: readonly string[]
  readonly attrs: Readonly<Record<string, Attribute>>
}

export interface Port {
  readonly name: string
  readonly dtype: DType
  readonly shape: readonly (number | string)[]
}

/** A stored tensor's `file` is written as the external location, as it is given here. */
export interface Model {
  readonly nodes: readonly Node[]
  readonly inputs: readonly Port[]
  readonly outputs: readonly Port[]
  readonly initializers: ReadonlyMap<string, Tensor | StoredTensor>
  readonly metadata?: Readonly<Record<string, string>>
  /** The name of one more output, before all others: an empty sequence. */
  readonly sequence?: string
}

// Opset 17 is the first with LayerNormalization; IR 8 is what onnxruntime 1.14 reads.
const OPSET = 17
const IR_VERSION = 8
const CONTRIB = "com.microsoft"

/** The bytes of a ModelProto. */
export function encodeModel(model: Model): Uint8Array {
  const w = new Writer()
  w.int(1, IR_VERSION).string(2, "vit-prisma")
  w.message(7, (graph) => {
    for (const node of model.nodes) graph.message(1, (n) => encodeNode(n, node))
    graph.string(2, "vit-prisma")
    for (const [name, tensor] of model.initializers) graph.message(5, (t) => encodeTensor(t, name, tensor))
    if (model.sequence !== undefined) encodeSequence(graph, model.sequence)
    for (const port of model.inputs) graph.message(11, (p) => encodePort(p, port))
    for (const port of model.outputs) graph.message(12, (p) => encodePort(p, port))
  })
  w.message(8, (opset) => opset.string(1, "").int(2, OPSET))
  if (model.nodes.some((n) => n.domain === CONTRIB)) w.message(8, (opset) => opset.string(1, CONTRIB).int(2, 1))
  for (const [key, value] of Object.entries(model.metadata ?? {})) {
    w.message(14, (entry) => entry.string(1, key).string(2, value))
  }
  return w.finish()
}

function encodeNode(w: Writer, { op, domain, inputs, outputs, attrs }: Node): void {
  for (const name of inputs) w.string(1, name)
  for (const name of outputs) w.string(2, name)
  w.string(3, outputs.find((name) => name) ?? op).string(4, op)
  for (const [name, value] of Object.entries(attrs)) w.message(5, (a) => encodeAttribute(a, name, value))
  if (domain) w.string(7, domain)
}

/** A sequence of float32 tensors, with the node that makes it. */
function encodeSequence(graph: Writer, name: string): void {
  graph.message(1, (n) => encodeNode(n, { op: "SequenceEmpty", inputs: [], outputs: [name], attrs: {} }))
  graph.message(12, (port) =>
    port.string(1, name).message(2, (type) =>
      // TypeProto.sequence_type: its elem_type is a TypeProto.
      type.message(4, (sequence) => sequence.message(1, (of) => of.message(1, (t) => t.int(1, DATA_TYPE.float32)))),
    ),
  )
}

function encodeAttribute(w: Writer, name: string, value: Attribute): void {
  w.string(1, name)
  if (typeof value === "number") w.int(3, value).int(20, 2)
  else if (typeof value === "string") w.string(4, value).int(20, 3)
  else if ("float" in value) w.float(2, value.float).int(20, 1)
  else if ("graph" in value) {
    const { nodes, output } = value.graph
    w.message(6, (g) => {
      for (const node of nodes) g.message(1, (n) => encodeNode(n, node))
      g.string(2, name).message(12, (p) => encodePort(p, output))
    }).int(20, 5)
  } else {
    for (const v of value) w.int(8, v)
    w.int(20, 7)
  }
}

function encodeTensor(w: Writer, name: string, tensor: Tensor | StoredTensor): void {
  for (const d of tensor.shape) w.int(1, d)
  w.int(2, DATA_TYPE[tensor.dtype]).string(8, name)
  if ("data" in tensor) {
    w.bytes(9, bytesOf(tensor))
    return
  }
  const entry = (key: string, value: string) => w.message(13, (e) => e.string(1, key).string(2, value))
  entry("location", tensor.file)
  entry("offset", String(tensor.offset))
  entry("length", String(tensor.length))
  w.int(14, 1)
}

function encodePort(w: Writer, { name, dtype, shape }: Port): void {
  w.string(1, name).message(2, (type) =>
    type.message(1, (t) =>
      t.int(1, DATA_TYPE[dtype]).message(2, (dims) => {
        for (const d of shape) dims.message(1, (dim) => (typeof d === "number" ? dim.int(1, d) : dim.string(2, d)))
      }),
    ),
  )
}
