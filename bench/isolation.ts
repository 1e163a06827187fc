/** @file What seven models that kill or are bad cost the other 93 of a batch: wall time with them and without. */
import { cpSync, mkdtempSync, readFileSync, rmSync, writeFileSync } from "node:fs"
import { tmpdir } from "node:os"
import { join, resolve } from "node:path"
import { parseArgs } from "node:util"
import { BAD, KILLERS, killing, makeModels, readReport, vitPrisma } from "../test/helpers/batch.ts"

const { values } = parseArgs({
  options: {
    jobs: { type: "string", default: "2" },
    /** Seconds that a model may take. */
    timeout: { type: "string", default: "10" },
    /** Let the one that hangs be the last of the list. */
    last: { type: "boolean", default: false },
    /** Layers of the good ones. */
    layers: { type: "string", default: "12" },
  },
})
const scratch = mkdtempSync(join(tmpdir(), "vit-prisma-isolation-"))
const env = killing(scratch)
const MOUSE = resolve(import.meta.dirname, "../../model-cards/mnist")

interface Header {
  [name: string]: { readonly dtype: string; readonly shape: number[]; data_offsets: [begin: number, end: number] }
}

/** The MNIST mouse with its four layers again and again, so that a model takes as long as one that is worth a batch. */
function makeDeep(folder: string, layers: number): void {
  const config = JSON.parse(readFileSync(join(MOUSE, "config.json"), "utf8")) as object
  writeFileSync(join(folder, "config.json"), JSON.stringify({ ...config, num_hidden_layers: layers }))
  const bytes = readFileSync(join(MOUSE, "model.safetensors"))
  const start = 8 + Number(bytes.readBigUInt64LE())
  const { __metadata__: _, ...header } = JSON.parse(bytes.toString("utf8", 8, start)) as Header
  const parts: Buffer[] = []
  let end = 0
  const deep: Header = {}
  const put = (name: string, { data_offsets: at, ...about }: Header[string]) => {
    parts.push(bytes.subarray(start + at[0], start + at[1]))
    deep[name] = { ...about, data_offsets: [end, (end += at[1] - at[0])] }
  }
  for (const [name, about] of Object.entries(header)) {
    const layer = Number(/\.layer\.(\d+)\./.exec(name)?.[1] ?? layers)
    if (layer === layers) put(name, about)
    for (let i = layer; i < layers; i += 4) put(name.replace(/\.layer\.\d+\./, `.layer.${i}.`), about)
  }
  const text = Buffer.from(JSON.stringify(deep))
  const length = Buffer.alloc(8)
  length.writeBigUInt64LE(BigInt(text.length))
  writeFileSync(join(folder, "model.safetensors"), Buffer.concat([length, text, ...parts]))
}

const deep = mkdtempSync(join(scratch, "deep-"))
makeDeep(deep, Number(values.layers))

async function batch(name: string, bad: readonly string[]): Promise<readonly [seconds: number, counts: object]> {
  const list = join(scratch, name, "list.txt")
  const names = makeModels(join(scratch, name), 93 + bad.length, bad)
  for (const n of names.filter((n) => !bad.includes(n))) cpSync(deep, join(scratch, name, n), { recursive: true })
  if (values.last) {
    const lines = readFileSync(list, "utf8").trim().split("\n")
    const order = [...lines.filter((line) => !line.endsWith("hang")), ...lines.filter((line) => line.endsWith("hang"))]
    writeFileSync(list, order.join("\n"))
  }
  const out = join(scratch, `${name}-out`)
  const how = ["--jobs", values.jobs, "--timeout", values.timeout, "--memory", "2G", "--certify", "--hooks", "*"]
  const { seconds } = await vitPrisma(["convert", "--from", list, "--out", out, ...how], { env })
  return [seconds, readReport(out).counts]
}

const [without, goodCounts] = await batch("good", [])
const [withSeven, counts] = await batch("all", [...KILLERS, ...Object.keys(BAD)])
const round = (x: number): number => Math.round(x * 100) / 100
console.log(
  JSON.stringify({
    ...values,
    without: round(without),
    withSeven: round(withSeven),
    ratio: round(withSeven / without),
  }),
)
console.log(JSON.stringify({ goodCounts, counts }))
rmSync(scratch, { recursive: true })
