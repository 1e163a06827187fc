/** @file A graph as text: one line a value, for people and for tests. */
import { show } from "../tensor/tensor.ts"
import type { Values } from "./emit.ts"
import { is, toposort, type Value } from "./value.ts"

/**
 * The part of a graph between `inputs` and `outputs`, for example
 *
 *     x: input [batch, 4]
 *     %1 = Mul(x, 2) [batch, 4]
 *     return y = %1
 */
export function print(inputs: Values, outputs: Values): string {
  const names = new Map<Value, string>(Object.entries(inputs).map(([name, v]) => [v, name]))
  const lines = Object.entries(inputs).map(([name, v]) => `${name}: input ${typed(v)}`)
  for (const v of toposort(Object.values(outputs), new Set(Object.values(inputs)))) {
    if (names.has(v)) continue
    if (is(v, "Param")) names.set(v, v.attrs.name)
    else if (is(v, "Constant")) names.set(v, literal(v))
    else {
      const name = `%${lines.length - Object.keys(inputs).length + 1}`
      lines.push(`${name} = ${v.op}${attributes(v)}(${v.inputs.map((x) => names.get(x)).join(", ")}) ${typed(v)}`)
      names.set(v, name)
    }
  }
  for (const [name, v] of Object.entries(outputs)) lines.push(`return ${name} = ${names.get(v)}`)
  return lines.join("\n")
}

const typed = (v: Value): string => `${v.dtype === "float32" ? "" : `${v.dtype} `}${show(v.shape)}`

/** A scalar as its number, anything larger as its type. */
function literal({ attrs: { tensor } }: Value<"Constant">): string {
  if (tensor.data.length !== 1) return `const ${show(tensor.shape)}`
  return String(Number(Number(tensor.data[0]).toPrecision(7)))
}

function attributes(v: Value): string {
  const implied = ["shape", "name", "tensor"]
  const shown = Object.entries(v.attrs).filter(([key, value]) => !implied.includes(key) && value !== false)
  return shown.length
    ? `{${shown.map(([key, value]) => `${key}: ${Array.isArray(value) ? `[${value.join(", ")}]` : String(value)}`).join(", ")}}`
    : ""
}
