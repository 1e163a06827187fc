/** @file Each value of an ONNX graph has one name and one maker
 * (https://github.com/onnx/onnx/blob/main/docs/IR.md#names-within-a-graph). */
import { fail } from "../errors.ts"
import { quote } from "../tensor/quote.ts"
import { readFields, type Scan, textOf, walkModel } from "./read.ts"

/** What makes a value: the field of GraphProto, and how to reach the names in it. An initializer may share the name of
 * an input, whose default it is. */
const MAKERS: Readonly<Record<number, { what: string; path: readonly number[]; shares?: string }>> = {
  1: { what: "output of a node", path: [2] },
  5: { what: "initializer", path: [8], shares: "input" },
  11: { what: "input", path: [1], shares: "initializer" },
  15: { what: "initializer", path: [1, 8], shares: "input" },
}

/** Check that no two inputs, initializers or outputs of nodes of one graph share a name. `file` is for messages.
 * Throws E_NAME_COLLISION, E_ONNX_FORMAT. */
export function checkNames(bytes: Uint8Array, file: string): void {
  walkModel(bytes, file, (scan, kind, graph, where) => {
    if (kind !== "graph") return
    const made = new Map<string, string>()
    readFields(scan, graph, (number, value) => {
      const maker = MAKERS[number]
      if (maker === undefined || typeof value === "number") return
      eachName(scan, value, maker.path, (name) => {
        const other = made.get(name)
        if (name !== "" && other !== undefined && other !== maker.shares) {
          const text = `${where()} has the name ${quote(name)} for an ${other} and an ${maker.what}`
          fail("E_NAME_COLLISION", `${file}: ${text}; every value needs a name of its own`, { file })
        }
        made.set(name, maker.what)
      })
    })
  })
}

/** The strings at the end of a path of field numbers. */
function eachName(scan: Scan, message: Uint8Array, path: readonly number[], use: (name: string) => void): void {
  const [head, ...rest] = path
  readFields(scan, message, (number, value) => {
    if (number !== head) return
    if (rest.length === 0) use(textOf(scan, value))
    else if (typeof value !== "number") eachName(scan, value, rest, use)
  })
}
