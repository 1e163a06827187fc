/** @file Before all tests: dist is made again where a source is newer, for the tests that run what is shipped. */
import { spawnSync } from "node:child_process"
import { existsSync, readdirSync, rmSync, statSync, utimesSync } from "node:fs"
import { join, resolve } from "node:path"

const root = resolve(import.meta.dirname, "../..")
const MAIN = join(root, "dist/src/cli/main.js")

/** Types are the business of `npm run types`: what has errors is written all the same, and here that is enough. */
export default function build(): void {
  const begun = new Date()
  if (existsSync(MAIN) && statSync(MAIN).mtime > newest()) return
  for (const project of ["tsconfig.build.json", "src/viewer/page/tsconfig.json"]) {
    spawnSync(process.execPath, [join(root, "node_modules/typescript/bin/tsc"), "-p", project], {
      cwd: root,
      stdio: ["ignore", "inherit", "inherit"],
    })
  }
  prune()
  utimesSync(MAIN, begun, begun)
}

/** What was built from sources that are gone would be shipped. */
function prune(): void {
  for (const name of readdirSync(join(root, "dist"), { recursive: true, encoding: "utf8" })) {
    const source = join(root, name.replace(/(\.d\.ts|\.js)$/, ".ts"))
    if (/\.(d\.ts|js)$/.test(name) && !existsSync(source)) rmSync(join(root, "dist", name))
  }
}

function newest(): Date {
  const files = ["src", "converters"].flatMap((folder) =>
    readdirSync(join(root, folder), { recursive: true, encoding: "utf8" }).map((name) => join(folder, name)),
  )
  const times = [...files, "tsconfig.json", "tsconfig.build.json"].map((name) => statSync(join(root, name)).mtimeMs)
  return new Date(Math.max(...times))
}
