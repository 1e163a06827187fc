/** @file The page's script: the modules that tsc made of page/*.ts, each in a function of its own, in the order of their imports. */
import { readFile } from "node:fs/promises"
import { fail } from "../errors.ts"
import { readError } from "../files/system-errors.ts"

/** Where tsc puts the page: beside this file in the package; in dist when this file runs as TypeScript. */
const BUILT = new URL(import.meta.url.endsWith(".ts") ? "../../dist/src/viewer/" : "./", import.meta.url)

const IMPORT = /^import (?:\{ (.*) \} from )?"(\.{1,2}\/.+\.js)";$/gm
const EXPORT = /^export (?=(?:async )?(?:function\*?|const|let|class) (\w+))/gm
/** Comments that stand on lines of their own. */
const COMMENT = /^\s*(?:\/\*\*[^]*?\*\/|\/\/.*)\n/gm

/**
 * One script without imports that does what page/main.js does. tsc writes each import on one line and each export as
 * `export function`, `export const` or `export class`; a module of another form is refused.
 */
export async function pageScript(entry: URL = new URL("page/main.js", BUILT)): Promise<string> {
  const parts: string[] = []
  const numbers = new Map<string, number>()
  const open = new Set<string>()

  const add = async (url: URL): Promise<number> => {
    const known = numbers.get(url.href)
    if (known !== undefined) return known
    if (open.has(url.href)) fail("E_INPUT", `${url.pathname}: imports itself over others`)
    open.add(url.href)
    const text = (await source(url)).replace(COMMENT, "")
    const imports: string[] = []
    for (const [, names, from] of text.matchAll(IMPORT)) {
      const n = await add(new URL(from!, url))
      if (names !== undefined) imports.push(`const { ${names.replaceAll(" as ", ": ")} } = m${n};`)
    }
    const exported = [...text.matchAll(EXPORT)].map(([, name]) => name!)
    const body = text
      .replace(IMPORT, "")
      .replace(EXPORT, "")
      .replace(/^export \{\};$/m, "")
    const left = /^(?:import|export)\b.*$/m.exec(body)
    if (left) fail("E_INPUT", `${url.pathname}: "${left[0]}" is of a form that the page cannot hold`)
    const n = parts.length
    parts.push(
      `const m${n} = (() => {\n${[...imports, body.trim()].join("\n")}\nreturn { ${exported.join(", ")} };\n})();`,
    )
    numbers.set(url.href, n)
    return n
  }
  await add(entry)
  return `"use strict";\n${parts.join("\n")}\n`
}

const source = (url: URL): Promise<string> =>
  readFile(url, "utf8").catch((e: unknown) => readError(e, decodeURIComponent(url.pathname)))
