/** @file The pages of the documentation: what they link to and name exists, and their TypeScript compiles. */
import { execFile } from "node:child_process"
import {
  existsSync,
  mkdirSync,
  mkdtempSync,
  readdirSync,
  readFileSync,
  rmSync,
  symlinkSync,
  writeFileSync,
} from "node:fs"
import { tmpdir } from "node:os"
import { dirname, join } from "node:path"
import { promisify } from "node:util"
import { afterAll, expect, it } from "vitest"
import { root } from "./helpers/cli.ts"

const scratch = mkdtempSync(join(tmpdir(), "vit-prisma-docs-"))
afterAll(() => rmSync(scratch, { recursive: true }))

const below = (folder: string): string[] =>
  readdirSync(join(root, folder), { recursive: true, encoding: "utf8" })
    .filter((name) => name.endsWith(".md"))
    .map((name) => join(folder, name))
const PAGES = ["README.md", "CHANGELOG.md", ...below("docs"), ...below("model-cards")]
const text = (page: string): string => readFileSync(join(root, page), "utf8")
const found = (page: string, pattern: RegExp): string[] => [...text(page).matchAll(pattern)].map((m) => m[1]!)

it.each(PAGES)("%s names what there is", (page) => {
  const links = found(page, /\]\(([^)#:\s]+)\)/g).map((to) => join(dirname(page), to))
  const files = found(page, /\b((?:src|test|docs|examples|converters|bench)\/[\w./-]+\.(?:ts|mjs|md))\b/g)
  expect([...links, ...files].filter((path) => !existsSync(join(root, path)))).toEqual([])
  const codes = new Set(
    [...readFileSync(join(root, "src/errors.ts"), "utf8").matchAll(/^ {2}(E_\w+):/gm)].map((m) => m[1]),
  )
  // What the command line says of a fault of ours is no code of an error.
  const named = found(page, /\b(E_[A-Z_]*[A-Z])\b/g).filter((code) => code !== "E_INTERNAL")
  expect(named.filter((code) => !codes.has(code))).toEqual([])
})

/** Pages whose blocks, one after the other, are one program, and what they speak of without saying so. */
const model = 'import type { HookedViT, Tensor } from "vit-prisma"\ndeclare const model: HookedViT, images: Tensor\n'
const PROGRAMS: Readonly<Record<string, string>> = {
  "README.md": "",
  "docs/attention.md": "",
  "docs/attribution.md": `${model}declare const clip: HookedViT, texts: Tensor, direction: Tensor\n`,
  "docs/datasets-synthetic.md": "",
  "docs/folding.md": model,
  "docs/gradients.md": `${model}declare const clean: Tensor\n`,
  "docs/hooks.md": model,
  "docs/hub.md": "",
  "docs/lenses.md": `${model}declare const texts: Tensor, weight: Tensor, bias: Tensor\n`,
  "docs/saliency.md": "",
  "docs/training.md": "",
  "docs/viewer.md": "",
}

it("and what they show compiles", { timeout: 60_000 }, async () => {
  mkdirSync(join(scratch, "node_modules"))
  symlinkSync(root, join(scratch, "node_modules/vit-prisma"))
  writeFileSync(join(scratch, "package.json"), '{"type":"module"}')
  for (const [page, prelude] of Object.entries(PROGRAMS)) {
    const blocks = found(page, /```ts\n([^]*?)```/g)
    expect(blocks.length, page).toBeGreaterThan(0)
    writeFileSync(join(scratch, `${page.replaceAll("/", "-")}.ts`), [prelude, ...blocks, "export {}"].join("\n"))
  }
  writeFileSync(join(scratch, "wrong.ts"), 'import { nothing } from "vit-prisma"\nexport { nothing }')
  const options = {
    target: "es2023",
    module: "nodenext",
    strict: true,
    noEmit: true,
    skipLibCheck: true,
    types: [join(root, "node_modules/@types/node")],
  }
  writeFileSync(join(scratch, "tsconfig.json"), JSON.stringify({ compilerOptions: options, include: ["*.ts"] }))
  const tsc = join(root, "node_modules/typescript/bin/tsc")
  const run = promisify(execFile)(process.execPath, [tsc, "-p", scratch, "--pretty", "false"])
  const { stdout } = await run.catch((error: { stdout: string }) => error)
  expect(stdout.trim().split("\n")).toEqual([expect.stringMatching(/wrong\.ts\(1,10\): error TS2305: .* 'nothing'/)])
})
