/** @file Before all tests: dist is made again where a source is newer, for the tests that run what is shipped. */
import { spawnSync } from "node:child_process"
import { existsSync, readdirSync, rmSync, statSync, utimesSync } from "node:fs"
import { join } from "node:path"
import { MAIN, root } from "./cli.ts"

/** Types are the business of `npm run types`: what has errors is written all the same, and here that is enough. */
export default function build(): void {
  const begun = new Date()
  if (existsSync(MAIN) && statSync(MAIN).mtime > newest()) return
  for (const [tool, ...args] of [
    ["node_modules/typescript/bin/tsc", "-p", "tsconfig.build.json"],
    ["bundle.js"],
  ] as const) {
    spawnSync(process.execPath, [join(root, tool), ...args], {
      cwd: root,
      stdio: ["ignore", "inherit", "inherit"],
    })
  }
  prune()
  utimesSync(MAIN, begun, begun)
}

/** Declarations of sources that are gone would be shipped. */
function prune(): void {
  for (const name of readdirSync(join(root, "dist"), { recursive: true, encoding: "utf8" })) {
    if (/^lib[/\\]/.test(name)) continue
    const source = join(root, name.replace(/(\.d\.ts|\.js)$/, ".ts"))
    if (/\.(d\.ts|js)$/.test(name) && !existsSync(source)) rmSync(join(root, "dist", name))
  }
}

function newest(): Date {
  const files = ["src", "converters"].flatMap((folder) =>
    readdirSync(join(root, folder), { recursive: true, encoding: "utf8" }).map((name) => join(folder, name)),
  )
  const times = [...files, "tsconfig.json", "tsconfig.build.json", "bundle.js"].map(
    (name) => statSync(join(root, name)).mtimeMs,
  )
  return new Date(Math.max(...times))
}
