/**
 * @file `npm run bench`: speed and memory against their limits, on a ViT-B/16 that the bench makes itself.
 *
 * `-- --json` prints JSON, `--check` ends with 1 if a limit is missed, `--only start,hooks` measures some groups,
 * `--seconds 60` takes less time, `--profile` shows where the time goes, `--cache folder` says where the checkpoint lies.
 */
import { readFileSync } from "node:fs"
import { createRequire } from "node:module"
import { availableParallelism, cpus, loadavg, totalmem } from "node:os"
import { parseArgs } from "node:util"
import { loadPretrained } from "../src/index.ts"
import { checkpoint } from "./checkpoint.ts"
import { GROUPS, type Bench, type Figure, type Group } from "./figures.ts"
import { median, uncertainty } from "./measure.ts"
import { profile } from "./profile.ts"
import { rivals } from "./rivals.ts"

const { values: options } = parseArgs({
  options: {
    json: { type: "boolean", default: false },
    check: { type: "boolean", default: false },
    profile: { type: "boolean", default: false },
    only: { type: "string" },
    seconds: { type: "string", default: "280" },
    cache: { type: "string" },
  },
})

const log = (line: string) => void process.stderr.write(`${line}\n`)
const machine = {
  date: new Date().toISOString().slice(0, 10),
  cores: availableParallelism(),
  cpu: cpus()[0]?.model ?? "unknown",
  instructions: instructions(),
  memory: `${(totalmem() / 2 ** 30).toFixed(0)} GiB`,
  system: `${process.platform} ${process.arch}`,
  node: process.version,
  onnxruntime: version("onnxruntime-node"),
  load: loadavg().map((n) => n.toFixed(2)),
}
log(
  Object.entries(machine)
    .map(([key, value]) => `${key} ${String(value)}`)
    .join("; "),
)

const made = await checkpoint(options.cache)
if (options.profile) {
  await profile(made, console.log)
} else {
  const groups: Readonly<Record<string, Group>> = { ...GROUPS, rivals: { share: 0, measure: rivals } }
  const names = Object.keys(groups).filter((name) => !options.only || options.only.split(",").includes(name))
  const bench: Bench = {
    checkpoint: made,
    model: await loadPretrained(made.model),
    seconds: Number(options.seconds),
    log,
  }
  const figures: Figure[] = []
  for (const name of names) {
    const group = groups[name]!
    log(`measuring ${name} ...`)
    figures.push(...(await group.measure(bench, group.share * bench.seconds)))
  }
  const rows = figures.map(summary)
  if (options.json) console.log(JSON.stringify({ ...machine, loadAtEnd: loadavg()[0], figures: rows }, undefined, 2))
  else console.log(`\n${table(rows)}\n\nload average at the end ${loadavg()[0]!.toFixed(2)}`)
  if (options.check && rows.some((r) => r.pass === false)) process.exitCode = 1
}

interface Row {
  readonly name: string
  readonly unit: string
  readonly limit: number | undefined
  readonly min: number
  readonly median: number
  readonly max: number
  /** Half the 95 % interval of the median, relative. */
  readonly uncertainty: number
  readonly samples: number
  readonly pass: boolean | undefined
  readonly note: string
}

function summary({ name, unit, limit, values, note = "" }: Figure): Row {
  const middle = median(values)
  return {
    name,
    unit,
    limit,
    min: Math.min(...values),
    median: middle,
    max: Math.max(...values),
    uncertainty: uncertainty(values),
    samples: values.length,
    pass: limit === undefined || !values.length ? undefined : middle <= limit,
    note,
  }
}

function table(rows: readonly Row[]): string {
  const number = (x: number, unit: string) => (unit === "" ? String(x) : x.toFixed(unit === "x" || x < 10 ? 3 : 0))
  const head = ["figure", "limit", "median", "min", "max", "+-", "n", "", "note"]
  const cells = rows.map((r) => [
    r.name,
    r.limit === undefined ? "" : `${r.limit} ${r.unit}`,
    `${number(r.median, r.unit)} ${r.unit}`,
    number(r.min, r.unit),
    number(r.max, r.unit),
    r.samples > 1 ? `${(100 * r.uncertainty).toFixed(1)} %` : "",
    String(r.samples),
    r.pass === undefined ? "" : r.pass ? "pass" : "MISSED",
    r.note,
  ])
  const lines = [head, head.map(() => "---"), ...cells]
  const widths = head.map((_, i) => Math.max(...lines.map((line) => (i === head.length - 1 ? 3 : line[i]!.length))))
  return lines.map((line) => `| ${line.map((cell, i) => cell.padEnd(widths[i]!)).join(" | ")} |`).join("\n")
}

function version(name: string): string {
  const path = createRequire(import.meta.url).resolve(`${name}/package.json`)
  return (JSON.parse(readFileSync(path, "utf8")) as { version: string }).version
}

/** The widest vector instructions, where the system tells. */
function instructions(): string {
  const text = process.platform === "linux" ? readFileSync("/proc/cpuinfo", "utf8") : ""
  return ["avx512f", "avx2", "asimd"].find((name) => text.includes(name)) ?? "unknown"
}
