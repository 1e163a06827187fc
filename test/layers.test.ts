/** @file The order of the layers and who may touch what: read from the sources, and each rule shown to bite. */
import { describe, expect, it } from "vitest"
import { packageOf, parse, sources, target, type Source } from "./helpers/sources.ts"

/** From the bottom up; those of one line are siblings, which do not know each other. */
const LAYERS: readonly (readonly string[])[] = [
  ["errors", "version"],
  ["tensor"],
  ["onnx"],
  ["graph"],
  ["autodiff"],
  ["model"],
  ["files", "runtime", "data"],
  ["converters", "datasets"],
  ["configs"],
  ["interp", "train"],
  ["core"],
  ["cards", "viewer"],
  ["hub"],
  ["export"],
  ["interop", "jobs"],
  ["index"],
  ["cli"],
]

/** `src/graph/ops.ts` lies in `graph`, `src/core.ts` in `core`, `converters/hf.ts` in `converters`. */
const layerOf = (path: string): string => {
  const [top, ...rest] = path.split("/")
  return (top === "src" ? rest[0]! : top!).replace(/\.ts$/, "")
}
const rankOf = (layer: string): number => LAYERS.findIndex((line) => line.includes(layer))

/** Each file with what it imports that is of this repository. */
const inside = (all: readonly Source[]): (readonly [Source, string])[] =>
  all.flatMap((s) => s.imports.flatMap(({ from }) => (from?.startsWith(".") ? [[s, target(s, from)] as const] : [])))

/** Each file with what it imports that is not. */
const outside = (all: readonly Source[]): (readonly [Source, string, readonly string[]])[] =>
  all.flatMap((s) =>
    s.imports.flatMap(({ from, names }) =>
      from === undefined || from.startsWith(".") ? [] : [[s, from, names] as const],
    ),
  )

type Rule = (all: readonly Source[]) => string[]

const pointDown: Rule = (all) =>
  inside(all).flatMap(([{ path }, to]) => {
    const [from, into] = [layerOf(path), layerOf(to)]
    if (rankOf(from) < 0) return [`${path} lies in no layer`]
    if (rankOf(into) < 0) return [`${path} imports ${to}, which lies in no layer`]
    return from === into || rankOf(into) < rankOf(from) ? [] : [`${path} imports ${to}, which is not below it`]
  })

/** What also runs in a browser: core.ts and all it reaches, and all files of these layers. */
const ANYWHERE = ["errors", "tensor", "onnx", "graph", "autodiff", "model", "converters", "interp", "core"]
const anywhere: Rule = (all) => {
  const byPath = new Map(all.map((s) => [s.path, s]))
  const reached = new Set(all.filter((s) => ANYWHERE.includes(layerOf(s.path))))
  for (const s of reached) {
    for (const { from } of s.imports) {
      const found = from?.startsWith(".") ? byPath.get(target(s, from)) : undefined
      if (found) reached.add(found)
    }
  }
  return [...reached].flatMap((s) => [
    ...outside([s]).map(([{ path }, from]) => `${path} imports ${from}`),
    ...["process", "Buffer", "require", "setImmediate"]
      .filter((g) => s.globals.has(g))
      .map((g) => `${s.path} uses ${g}`),
  ])
}

/** The one file that imports each package. */
const PACKAGES: Readonly<Record<string, string>> = {
  "@huggingface/transformers": "src/interop/transformers.ts",
  "@observablehq/plot": "src/train/tracking/curves.ts",
  bullmq: "src/jobs/bullmq.ts",
  "cli-progress": "src/cli/progress.ts",
  commander: "src/cli/main.ts",
  hyparquet: "src/datasets/parquet-process.ts",
  "hyparquet-compressors": "src/datasets/parquet-process.ts",
  ioredis: "src/jobs/redis.ts",
  linkedom: "src/train/tracking/curves.ts",
  "p-queue": "src/files/parallel.ts",
  pg: "src/jobs/postgres.ts",
  sharp: "src/data/image.ts",
  yaml: "src/cards/front-matter.ts",
  yauzl: "src/files/zip-directory.ts",
  zod: "src/configs/schema.ts",
}
const oneImporter: Rule = (all) =>
  outside(all).flatMap(([{ path }, from]) =>
    from.startsWith("node:") || PACKAGES[packageOf(from)] === path ? [] : [`${path} imports ${from}`],
  )

/** What of node:fs makes, changes or removes files. `open` also reads: see the next rule. */
const WRITES =
  /^(appendFile|chmod|chown|copyFile|cp|createWriteStream|lchmod|lchown|link|lutimes|mkdir|mkdtemp|rename|rm|rmdir|symlink|truncate|unlink|utimes|writeFile|writev?)(Sync)?$|^(\*|default)$/
/** Files and folders as a whole; beside them what the Hub's cache needs: links into its blobs, locks between processes, and
 * downloads that can be gone on with. */
const WRITERS = ["atomic", "links", "lock-file", "make-folders", "resumable"].map((name) => `src/files/${name}.ts`)
const oneWriter: Rule = (all) =>
  outside(all).flatMap(([{ path }, from, names]) =>
    /^(node:)?fs(\/promises)?$/.test(from) && !WRITERS.includes(path)
      ? names.filter((name) => WRITES.test(name)).map((name) => `${path} uses ${name}`)
      : [],
  )

/** Files are opened by atomic.ts, at their end by append.ts, and for reading by the others. */
const OPENS = [
  "src/data/image.ts",
  "src/files/atomic.ts",
  "src/files/read.ts",
  "src/files/resumable.ts",
  "src/train/tracking/append.ts",
]
const fewOpen: Rule = (all) =>
  outside(all).flatMap(([{ path }, from, names]) =>
    /^(node:)?fs/.test(from) && names.some((n) => /^open(Sync)?$/.test(n)) && !OPENS.includes(path)
      ? [`${path} opens files`]
      : [],
  )

/** Modules that run other programs or code, and who may. */
const RUNS: Readonly<Record<string, readonly string[]>> = {
  "node:child_process": ["src/jobs/isolate.ts", "src/datasets/carrier.ts"],
  "node:module": ["src/cards/front-matter.ts", "src/configs/schema.ts", "src/runtime/node.ts"],
  "node:worker_threads": ["src/datasets/carrier.ts", "src/jobs/child.ts", "src/jobs/orphan.ts"],
}
const RUNNERS = /^(node:)?(child_process|cluster|inspector|module|repl|vm|wasi|worker_threads)$/
const noCodeFromData: Rule = (all) => [
  ...all.flatMap(({ path, imports }) =>
    imports.some((i) => i.from === undefined) ? [`${path} imports what is computed`] : [],
  ),
  ...all.flatMap(({ path, globals }) =>
    ["eval", "Function"].filter((g) => globals.has(g)).map((g) => `${path} uses ${g}`),
  ),
  ...outside(all).flatMap(([{ path }, from]) =>
    RUNNERS.test(from) && !RUNS[from]?.includes(path) ? [`${path} imports ${from}`] : [],
  ),
]

/** Lines a file may have, and who has more for which reason. */
const LONGEST = 350
const LONGER: Readonly<Record<string, string>> = {
  "converters/timm-architectures.ts": "a table with one entry for each of timm's architectures, read from timm itself",
}
const short: Rule = (all) =>
  all.flatMap(({ path, lines }) => (lines > LONGEST && !(path in LONGER) ? [`${path} has ${lines} lines`] : []))

const onlyExports: Rule = (all) =>
  all.flatMap(({ path, imports }) =>
    /^src\/(index|core)\.ts$/.test(path) && imports.some((i) => i.names[0] !== "*")
      ? [`${path} does more than export`]
      : [],
  )

/** Each rule, what breaks it today and why that may be, and a file that must not pass. */
const RULES: readonly [string, Rule, readonly string[], path: string, text: string][] = [
  [
    "imports point down over the layers",
    pointDown,
    [],
    "src/graph/fake.ts",
    'import { loadPretrained } from "../hub/load-pretrained.ts"',
  ],
  ["siblings do not know each other", pointDown, [], "src/data/fake.ts", 'export { readJson } from "../files/json.ts"'],
  ["nor do training and interpreting", pointDown, [], "src/train/fake.ts", 'import "../interp/hooked-vit.ts"'],
  ["every file lies in a layer", pointDown, [], "src/misc/fake.ts", 'import { fail } from "../errors.ts"'],
  [
    "what runs anywhere imports nothing of Node",
    anywhere,
    [],
    "src/tensor/fake.ts",
    'import { join } from "node:path"',
  ],
  ["nor does what of training core.ts exports", anywhere, [], "src/train/step.ts", 'import { join } from "node:path"'],
  ["nor uses what only Node has", anywhere, [], "src/interp/fake.ts", "export const cpu = () => process.cpuUsage()"],
  [
    "each package has one importer",
    oneImporter,
    ["src/cli/output.ts imports commander"],
    "src/data/fake.ts",
    'const load = () => import("sharp")',
  ],
  [
    "files are made and renamed in few places",
    oneWriter,
    // They fill the folder that publishFolder makes and renames, which nobody sees before it is whole.
    ["copyFile", "link", "mkdir"].map((name) => `src/export/convert.ts uses ${name}`),
    "src/data/fake.ts",
    'import { writeFile as put } from "node:fs/promises"',
  ],
  ["nor by the whole of node:fs", oneWriter, [], "src/hub/fake.ts", 'import * as fs from "node:fs"'],
  ["few open files", fewOpen, [], "src/hub/fake.ts", 'import { open } from "node:fs/promises"'],
  [
    "no code comes from data: imports name what they import",
    noCodeFromData,
    // The module that a job's caller names, in a process of its own; and onnxruntime's package.
    ["src/jobs/child.ts imports what is computed", "src/runtime/node.ts imports what is computed"],
    "src/hub/fake.ts",
    "export const run = (name: string) => import(name)",
  ],
  [
    "nor by require",
    noCodeFromData,
    [],
    "src/hub/fake.ts",
    "export const run = (name: string) => createRequire(import.meta.url)(name)",
  ],
  ["nor is any evaluated", noCodeFromData, [], "src/hub/fake.ts", 'new Function("x", "return x")'],
  ["nor are programs run", noCodeFromData, [], "src/hub/fake.ts", 'import { exec } from "node:child_process"'],
  ["files are short", short, [], "src/hub/fake.ts", "\n".repeat(LONGEST + 1)],
  ["index.ts and core.ts only export", onlyExports, [], "src/index.ts", 'import { fail } from "./errors.ts"'],
]

describe("the sources", () => {
  const all = sources(["src", "converters"])

  it("are found", () => {
    expect(all.length).toBeGreaterThan(130)
    expect(all.find((s) => s.path === "src/runtime/node.ts")).toMatchObject({ globals: new Set(["Buffer", "process"]) })
  })

  const known = (rule: Rule) => RULES.filter(([, other]) => other === rule).flatMap(([, , broken]) => broken)
  it.each(RULES)("%s", (_, rule, __, path, text) => {
    expect(new Set(rule(all))).toEqual(new Set(known(rule)))
    const fake = parse(path, text)
    expect(rule([...all.filter((s) => s.path !== path), fake]).filter((found) => found.startsWith(path))).toHaveLength(
      1,
    )
  })

  it("load onnxruntime by name, in one place", () => {
    expect(outside(all).filter(([, from]) => from.startsWith("onnxruntime"))).toEqual([])
  })

  it("that may be longer are", () => {
    for (const path of Object.keys(LONGER)) expect(all.find((s) => s.path === path)?.lines).toBeGreaterThan(LONGEST)
  })
})
