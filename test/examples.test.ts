/** @file Every numbered example runs as it stands, against the built package, and prints what it is about. */
import { execFile } from "node:child_process"
import { existsSync, readdirSync } from "node:fs"
import { mkdtemp } from "node:fs/promises"
import { tmpdir } from "node:os"
import { join } from "node:path"
import { fileURLToPath } from "node:url"
import { promisify } from "node:util"
import { expect, it } from "vitest"

const root = fileURLToPath(new URL("..", import.meta.url))

const SAYS: Readonly<Record<string, RegExp>> = {
  "01-predict.mjs": /^7 11\.37\n/,
  "02-cache.mjs": /93 hooks.*\n.*pattern of layer 1 \[ 1, 4, 17, 17 \]\nthe same tensor: true/,
  "03-interventions.mjs": /as it is +11\.366\nmean-ablated +\d+\.\d+\nMLPs halved +\d+\.\d+\nhead 1\.0 fixed +\d+\.\d+/,
  "04-attention-picture.mjs": /attention\.png: 592 x 472 pixels/,
  "05-export.mjs": /certified: 5 values[^]*logit of 7: 11\.37 with an empty stream: -?\d\.\d+/,
  "06-values.mjs": /entropy of each head of layer 2, nats:( \d\.\d{3}){4}/,
  "07-gradients.mjs":
    /^logit of 7: 11\.366, .* each \[ 1, 17, 4, 32 \]\n[^]*blocks\.2\.\S+ head 1 estimated +-0\.37 measured +-1\.70\n[^]*72 weights.*\[ 128, 128 \]\n$/,
  "08-train-a-mouse.mjs":
    /^after 40 steps of 26724 weights: accuracy 0\.\d{3}\nafter 120 steps: accuracy (0\.9\d\d|1\.000)\ntest image 0 is (\w+), it says \2; pattern \[ 1, 4, 17, 17 \]\n$/,
  "09-logit-attribution.mjs":
    /^logit of 7: 11\.366, the sum of 34 shares to \d\.\de-\d\n +2\.\d{3} L2H[13]\n[^]*L2H\d reads\n( +-?\d\.\d\d){4}\n[^]*final_post +7 at 100\.0 %\n[^]*(\d\uFE0F\u20E3){4}\n$/,
  "10-heads.mjs":
    /^narrowest: head 2\.2, 0\.49 of 2\.83 nats\n[^]*border, .*3\.1 \(0\.81\)[^]*layer 3 copies( -0\.\d\d){4}\nhead 3\.1 .* head 2\.0 writes: 0\.361, by chance 0\.088\n[^]*0\.115 .* 0\.167[^]*\n$/,
  "11-induction-head.mjs":
    /^right: 100\.0 % of 656\n[^]*\n +0\.0( +2[4-7]\.\d %){3}\n +1\.0( +100\.0 %){3}\n[^]*brought back by\n +0\.0 +(99|100) %\n +1\.0 +[0-3] %\n[^]* 0\.0 +78 % +27 %\n[^]*$/,
}

it("names what each example prints", () => {
  expect(Object.keys(SAYS)).toEqual(readdirSync(join(root, "examples")).sort())
})

it.each(Object.entries(SAYS))("%s", async (name, said) => {
  const out = await mkdtemp(join(tmpdir(), "prisma-example-"))
  const args = [join(root, "examples", name), join(out, "attention.png")]
  const { stdout } = await promisify(execFile)(process.execPath, args, { cwd: root })
  expect(stdout).toMatch(said)
  expect(existsSync(join(out, "attention.png"))).toBe(name.startsWith("04"))
})
