/** @file vit-prisma card as users run it: what it prints, its exit codes, and what it changes. */
import { cpSync, mkdtempSync, readFileSync, rmSync, writeFileSync } from "node:fs"
import { tmpdir } from "node:os"
import { join } from "node:path"
import { afterAll, expect, it } from "vitest"
import { cli, root } from "./helpers/cli.ts"

const scratch = mkdtempSync(join(tmpdir(), "cards-cli-"))
afterAll(() => rmSync(scratch, { recursive: true }))

let copies = 0
function mouse(): string {
  const copy = join(scratch, `${copies++}`, "induction")
  cpSync(join(root, "model-cards/induction"), copy, { recursive: true })
  return copy
}
const readme = (folder: string) => readFileSync(join(folder, "README.md"), "utf8")
const edit = (folder: string, name: string, change: (json: Readonly<Record<string, object>>) => unknown) => {
  const file = join(folder, name)
  writeFileSync(file, `${JSON.stringify(change(JSON.parse(readFileSync(file, "utf8")) as never), undefined, 2)}\n`)
}

it("passes the cards of the project, also held against their files", async () => {
  const ran = await cli(["card", "model-cards/mnist", "model-cards/induction/", "--check"])
  expect(ran).toMatchObject({ code: 0, stderr: "" })
  expect(ran.stdout).toBe(
    "model-cards/mnist/README.md: nothing to put right\nmodel-cards/induction/README.md: nothing to put right\n",
  )
})

it("tells each finding with its line and what to do, ends with 1, and changes nothing", async () => {
  const folder = mouse()
  const bad = readme(folder).replace("license: mit", "license: MIT").replace("(curves.svg)", "(curve.svg)")
  writeFileSync(join(folder, "README.md"), bad)
  const ran = await cli(["card", folder])
  expect(ran.code).toBe(1)
  expect(ran.stdout).toContain(
    'README.md:2: license must be a licence identifier, got "MIT"; see https://huggingface.co/docs/hub/',
  )
  expect(ran.stdout).toMatch(/README\.md:\d+: "curve\.svg" is not there; add the file, or take the link out/)
  expect(ran.stderr).toBe("vit-prisma: 2 findings in 1 card; what to do stands with each [E_CARD]\n")
  const json = await cli(["card", folder, "--format", "json"])
  expect(json.code).toBe(1)
  expect(JSON.parse(json.stdout)).toMatchObject([
    {
      card: `${folder}/README.md`,
      written: false,
      findings: [{ line: 2, key: "license", rule: "metadata", file: "README.md" }, { rule: "link" }],
    },
  ])
  expect(JSON.parse(json.stderr)).toMatchObject({ code: "E_CARD" })
  expect(readme(folder)).toBe(bad)
})

it("finds a card that is older than its files, and makes it again", async () => {
  const folder = mouse()
  edit(folder, "result.json", (result) => ({ ...result, seconds: 5000 }))
  const stale = await cli(["card", folder, "--check"])
  expect(stale).toMatchObject({
    code: 1,
    stdout: expect.stringContaining("is not what the files beside it say; make it again"),
  })
  expect(await cli(["card", folder, "--write"])).toMatchObject({
    code: 0,
    stdout: `${folder}/README.md: written, nothing to put right\n`,
  })
  expect(readme(folder)).toContain("| Time | 1 h 23 min |")
})

it("finds paths of a machine beside the card and takes them out", async () => {
  const folder = mouse()
  edit(folder, "training.json", ({ data, saving, ...rest }) => ({
    ...rest,
    data: { ...data, path: "/home/me/data" },
    saving: { ...saving, parent_dir: "C:\\runs" },
  }))
  const found = await cli(["card", folder])
  expect(found.code).toBe(1)
  expect(found.stdout).toContain('training.json:1: data.path "/home/me/data" is a path of one machine; take it out')
  expect(found.stdout).toContain("saving.parent_dir")
  expect(await cli(["card", folder, "--strip-paths"])).toMatchObject({ code: 0 })
  const left = readFileSync(join(folder, "training.json"), "utf8")
  expect(left).not.toMatch(/home|runs"|C:/)
  expect((JSON.parse(left) as { saving: object }).saving).toHaveProperty("save_dir", "checkpoints")
  writeFileSync(join(folder, "manifest.json"), "{}")
  edit(folder, "training.json", (json) => ({ ...json, data: { path: "/x/y" } }))
  expect(await cli(["card", folder, "--strip-paths"])).toMatchObject({
    code: 6,
    stderr: expect.stringContaining("holds the hash of training.json"),
  })
})

it("makes a first card by what it is told, and refuses what it cannot do", async () => {
  const folder = mouse()
  rmSync(join(folder, "README.md"))
  const ran = await cli(["card", folder, "--write", "--license", "mit", "--repo", "me/induction", "--name", "A name"])
  expect(ran).toMatchObject({ code: 0, stderr: "" })
  expect(readme(folder)).toMatch(/^---\nlicense: mit\nlibrary_name: vit-prisma\n/)
  expect(readme(folder)).toContain('loadPretrained("me/induction")')
  expect(readme(folder)).toContain("# A name\n")
  const both = await cli(["card", folder, "--write", "--check"])
  expect(both).toMatchObject({ code: 2, stderr: expect.stringContaining("give one of them") })
  writeFileSync(join(folder, "README.md"), "# mine\n")
  expect(await cli(["card", folder, "--write"])).toMatchObject({
    code: 6,
    stderr: expect.stringContaining("was written by hand and is kept"),
  })
  expect(readme(folder)).toBe("# mine\n")
})
