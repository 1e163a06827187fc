// Figures of docs/induction.md: node docs/images/induction.mjs, after npm run build.
import { execFileSync } from "node:child_process"
import { mkdtempSync, rmSync, writeFileSync } from "node:fs"
import { tmpdir } from "node:os"
import { join } from "node:path"
import { encodePng, induction } from "vit-prisma"

const { train } = induction({ seed: 0 })
const scratch = mkdtempSync(join(tmpdir(), "induction-"))
const samples = Array.from({ length: train.length }, (_, i) => i)
const key = (i) => {
  const { row, column, a } = train.latents(i)
  return `${row} ${column} ${a}`
}
const ofClass = (label) => new Map(samples.filter((i) => train.at(i).label === label).map((i) => [key(i), i]))
const [alike, different] = [ofClass(0), ofClass(1)]
// Two images that differ in the second shape alone, below the first.
const [where, first] = [...alike].find(([k, i]) => different.has(k) && train.latents(i).a === "x")
const write = async (name, i) => {
  const file = join(scratch, `${name}.png`)
  writeFileSync(file, await encodePng(train.at(i).image.data, 32, 32, 1))
  return file
}
const [same, other] = [await write("same", first), await write("not-same", different.get(where))]
const cli = (...args) =>
  execFileSync(process.execPath, ["dist/lib/cli/main.js", ...args], { stdio: ["ignore", "ignore", "inherit"] })
const mouse = "model-cards/induction-head"
cli("view", mouse, same, "--png", "docs/images/induction-attention.png")
const patch = ["--hook", "z", "--by", "token", "--metric", "logits[:, 0]"]
cli("patch", mouse, same, other, ...patch, "--png", "docs/images/induction-patching.png")
rmSync(scratch, { recursive: true })
