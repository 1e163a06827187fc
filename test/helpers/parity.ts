/** @file Reference cases through the public API, compared with what the checkpoint's own library computed. */
import { existsSync, readdirSync } from "node:fs"
import { join, resolve } from "node:path"
import { float32, int64, loadPretrained, type Tensor } from "../../src/index.ts"
import { floats, readSafetensors, type Stored } from "./read-safetensors.ts"

// The compiled file lies in dist, the fixtures beside the source.
const root = resolve(import.meta.dirname.replace(/[/\\]dist(?=[/\\]test[/\\]helpers$)/, ""), "../..")

/** Where cases lie: in the repository, and beside it where there are more. */
export const PARITY_ROOTS = ["test/fixtures/reference", "../shared/reference"] as const

/** |got - expected| may be this much of the larger of 1 and the tensor's largest magnitude. */
export const TOLERANCE = 1e-5

export interface ParityCase {
  readonly name: string
  readonly folder: string
}

/** One case: how many tensors were compared, the worst of |got - expected| / max(1, max |expected|), and what is wrong. */
export interface ParityRow {
  readonly name: string
  readonly tensors: number
  readonly worst: number
  readonly where: string
  readonly problems: readonly string[]
}

/** The cases of one root: folders with images and what they give; none where the root is absent. */
export function parityCases(from: (typeof PARITY_ROOTS)[number]): ParityCase[] {
  const folder = resolve(root, from)
  if (!existsSync(folder)) return []
  return readdirSync(folder)
    .map((name) => ({ name, folder: join(folder, name) }))
    .filter((c) => existsSync(expectedOf(c)) && readSafetensors(expectedOf(c)).tensors.has("input.pixel_values"))
}

const expectedOf = ({ folder }: ParityCase) => join(folder, "expected.safetensors")

/** The inputs of a case as the API takes them, and every tensor that its library gave. */
export function readCase(c: ParityCase): {
  inputs: { pixel_values: Tensor; input_ids?: Tensor }
  expected: Map<string, Stored>
} {
  const { tensors } = readSafetensors(expectedOf(c))
  const pixels = tensors.get("input.pixel_values")!
  const ids = tensors.get("input.input_ids")
  return {
    inputs: {
      pixel_values: float32(pixels.shape, floats(pixels)),
      ...(ids && { input_ids: int64(ids.shape, idsOf(ids)) }),
    },
    expected: new Map([...tensors].filter(([name]) => !/^(input|grad)\./.test(name))),
  }
}

const idsOf = (t: Stored): number[] =>
  t.dtype === "I64"
    ? Array.from(new BigInt64Array(t.bytes.buffer), Number)
    : Array.from(t.dtype === "I32" ? new Int32Array(t.bytes.buffer) : floats(t))

/** One run of the case with all its hooks cached. */
export async function measure(c: ParityCase): Promise<ParityRow> {
  const { inputs, expected } = readCase(c)
  const model = await loadPretrained(c.folder, { threads: 1 })
  try {
    const names = [...expected.keys()].filter((name) => model.hooks.has(name))
    const { cache, ...outputs } = await model.runWithCache(inputs, { names })
    const rows = [...expected].map(([name, want]) => ({
      name,
      ...compare(cache.has(name) ? cache.get(name) : outputs[name], want),
    }))
    const worst = rows.reduce((a, b) => (b.error > a.error ? b : a))
    const problems = rows.flatMap(({ name, problem }) => (problem === undefined ? [] : [`${name}: ${problem}`]))
    return { name: c.name, tensors: rows.length, worst: worst.error, where: worst.name, problems }
  } finally {
    await model.release()
  }
}

/** The largest error relative to max(1, max |expected|); NaN anywhere is infinite. */
export function compare(got: Tensor | undefined, want: Stored): { error: number; problem?: string } {
  if (!got) return { error: Infinity, problem: "absent" }
  if (got.dtype !== "float32") return { error: Infinity, problem: `is ${got.dtype}` }
  if (String(got.shape) !== String(want.shape)) {
    return { error: Infinity, problem: `has shape [${got.shape.join(", ")}], expected [${want.shape.join(", ")}]` }
  }
  const [a, b] = [got.data as Float32Array, floats(want)]
  let [most, scale] = [0, 1]
  for (let i = 0; i < b.length; i++) {
    const difference = Math.abs(a[i]! - b[i]!)
    if (Number.isNaN(difference)) return { error: Infinity, problem: `is not a number at ${i}` }
    most = Math.max(most, difference)
    scale = Math.max(scale, Math.abs(b[i]!))
  }
  const error = most / scale
  return error <= TOLERANCE ? { error } : { error, problem: `differs by ${error.toExponential(2)}` }
}

/** Rows as a Markdown table. */
export function parityTable(rows: readonly ParityRow[]): string {
  const lines = rows.map((r) => `| ${r.name} | ${r.tensors} | ${r.worst.toExponential(1)} | \`${r.where}\` |`)
  return ["| case | tensors | worst | where |", "| --- | ---: | ---: | --- |", ...lines].join("\n")
}
