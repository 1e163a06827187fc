/**
 * @file What ships: the modules that tsc wrote, in few files, and the page's script. Node reads and compiles the library's
 * modules one by one in 285 ms where these take 115. No package is taken in: all of them stay imports.
 */
import { dirname, join, relative, resolve } from "node:path"
import { build } from "rolldown"

const MODULES = resolve(import.meta.dirname, "dist/src")
const OUT = resolve(import.meta.dirname, "dist/lib")

/** What other projects import: `exports` of package.json. core is first, for index holds it. */
const LIBRARY = ["core", "index"]
/** What is started: the command line, and what runs in threads and processes of its own and must be small. */
const PROGRAMS = [
  "cli/main",
  "jobs/child",
  "jobs/orphan",
  "jobs/work",
  "datasets/loader-thread",
  "datasets/parquet-process",
]
const ENTRIES = [...LIBRARY, ...PROGRAMS]
const moduleOf = (entry) => join(MODULES, `${entry}.js`)

/** By entry: the modules that its import runs. */
const runs = new Map()
const finds = {
  name: "what each entry runs",
  buildEnd() {
    for (const entry of ENTRIES) {
      const ids = new Set([moduleOf(entry)])
      for (const id of ids) for (const next of this.getModuleInfo(id)?.importedIds ?? []) ids.add(next)
      runs.set(entry, ids)
    }
  },
}

/** One file for all that an entry of the library runs, but for what the small programs share with it. */
const whole = (entry, priority) => ({
  name: entry,
  priority,
  test: (id) => runs.get(entry).has(id) && !PROGRAMS.some((program) => runs.get(program).has(id)),
})

/** Modules look for files from where they stand: for each that is its own place below dist/lib, in whatever file it is. */
const places = {
  name: "places of modules",
  transform: (code, id) =>
    code.replaceAll("import.meta.url", `__placeOf(${JSON.stringify(relative(MODULES, id).replaceAll("\\", "/"))})`),
  renderChunk: (code, { fileName }) =>
    code.replaceAll(/__placeOf\("(.*?)"\)/g, (_, place) => {
      const path = relative(dirname(fileName), place).replaceAll("\\", "/")
      return `new URL(${JSON.stringify(path.startsWith(".") ? path : `./${path}`)}, import.meta.url).href`
    }),
}

await build({
  input: Object.fromEntries(ENTRIES.map((entry) => [entry, moduleOf(entry)])),
  external: /^(?![./])/,
  platform: "neutral",
  plugins: [finds, places],
  preserveEntrySignatures: "allow-extension",
  output: {
    dir: OUT,
    cleanDir: true,
    chunkFileNames: "chunks/[name].js",
    codeSplitting: {
      includeDependenciesRecursively: false,
      groups: LIBRARY.map((entry, i) => whole(entry, LIBRARY.length - i)),
    },
  },
})

await build({
  input: resolve(import.meta.dirname, "src/viewer/page/main.ts"),
  platform: "browser",
  output: { file: join(OUT, "viewer/script.js"), format: "iife", comments: false },
})
