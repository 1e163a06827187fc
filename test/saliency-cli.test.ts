/** @file vit-prisma saliency and heads, as users have them: processes of the built program. */
import { existsSync, mkdtempSync, readFileSync, rmSync } from "node:fs"
import { tmpdir } from "node:os"
import { join } from "node:path"
import { afterAll, describe, expect, it } from "vitest"
import { loadPretrained } from "../src/index.ts"
import { cli, reference, root, seven, twoAtATime, writeTensors } from "./helpers/cli.ts"
import { floats, readSafetensors } from "./helpers/read-safetensors.ts"

const mouse = join(root, "model-cards/mnist")
const picture = join(mouse, "seven.png")
const scratch = mkdtempSync(join(tmpdir(), "saliency-"))
afterAll(() => rmSync(scratch, { recursive: true }))

interface Said {
  readonly image: string
  readonly method: string
  readonly of: string
  readonly metric: number
  readonly error?: number
  readonly patches: number[][]
}

describe("vit-prisma saliency", () => {
  it("explains the most probable class by one method and another, and its files hold what is printed", async () => {
    const methods = ["integrated", "smooth", "attention-gradient", "rollout"]
    const model = await loadPretrained(mouse, { threads: 1 })
    const { logits } = await model.run(await model.images(picture))
    const of7 = (logits.data as Float32Array)[7]!
    const maps = await twoAtATime(methods, async (method) => {
      const out = join(scratch, `${method}.safetensors`)
      const few = ["--steps", "8", "--samples", "3", "--out", out]
      const { code, stdout, stderr } = await cli(["saliency", mouse, picture, "--method", method, "--json", ...few])
      expect([code, stderr]).toEqual([0, expect.stringContaining("wrote values")])
      const [said] = JSON.parse(stdout) as [Said]
      expect([said.image, said.method, said.of]).toEqual([picture, method, "7"])
      expect(said.metric).toBeCloseTo(of7, 3)
      expect(said.patches.map((row) => row.length)).toEqual([4, 4, 4, 4])
      const { tensors } = readSafetensors(out)
      expect([...floats(tensors.get("patches")!)]).toEqual(said.patches.flat().map(Math.fround))
      if (method === "integrated") {
        // Patches hold all pixels: their sum is what the logit is above the baseline's, but for the error.
        const { logits: none } = await model.run({
          dtype: "float32",
          shape: [1, 1, 28, 28],
          data: new Float32Array(784),
        })
        const above = of7 - (none.data as Float32Array)[7]!
        expect(said.patches.flat().reduce((a, b) => a + b)).toBeCloseTo(above + said.error!, 3)
      }
      return said.patches.flat()
    })
    expect(new Set(maps.map(String)).size).toBe(methods.length)
    expect(maps.at(-1)!.reduce((a, b) => a + b)).toBeLessThan(1)
  })

  it("prints the strongest patches, and draws them", async () => {
    const [html, png] = [join(scratch, "s.html"), join(scratch, "s.png")]
    const asked = [
      "--class",
      "7",
      "--against",
      "1",
      "--method",
      "occlusion",
      "--top",
      "2",
      "--html",
      html,
      "--png",
      png,
    ]
    const { code, stdout } = await cli(["saliency", mouse, picture, ...asked])
    expect(code).toBe(0)
    expect(stdout).toMatch(
      /seven\.png\n {2}7 - 1: 10\.6679, by occlusion over 4 x 4 patches\n( +-?\d\S+ +row \d, column \d\n){2}$/,
    )
    expect(readFileSync(html, "utf8")).toContain("occlusion")
    expect(existsSync(png)).toBe(true)
  })

  it("explains likeness to a text's embedding", async () => {
    const texts = writeTensors(join(scratch, "text.safetensors"), {
      text_embeds: { shape: [1, 16], data: Float32Array.from({ length: 16 }, (_, i) => Math.sin(i)) },
    })
    const { code, stdout, stderr } = await cli([
      "saliency",
      reference("open-clip-quickgelu"),
      seven,
      "--text-embeds",
      texts,
      "--json",
    ])
    expect([code, stderr]).toEqual([0, ""])
    const [said] = JSON.parse(stdout) as [Said]
    expect([said.of, Math.abs(said.metric) <= 1]).toEqual(["text 0", true])
  })

  it("refuses what cannot be", async () => {
    const cases: [string[], number, RegExp][] = [
      [[mouse, picture, "--class", "cat"], 1, /no class "cat".*\[E_INPUT\]/],
      [[mouse, picture, "--class", "7", "--metric", "logits[:, 1]"], 2, /one of --class, --metric.*\[E_USAGE\]/],
      [[mouse, picture, "--method", "rollout", "--discard-ratio", "2"], 2, /number from 0 to below 1.*\[E_USAGE\]/],
      [[mouse, picture, "--method", "smooth", "--seed", "x"], 2, /whole number from 0 on.*\[E_USAGE\]/],
      [[reference("hf-dino"), picture], 2, /no class logits; it gives last_hidden_state: give --metric.*\[E_USAGE\]/],
      [[mouse, picture, "--out", picture], 6, /is read here.*\[E_OUTPUT\]/],
    ]
    await twoAtATime(cases, async ([args, exit, said]) => {
      const { code, stdout, stderr } = await cli(["saliency", ...args])
      expect([code, stdout, stderr]).toEqual([exit, "", expect.stringMatching(said)])
      expect(stderr.trimEnd()).not.toContain("\n")
    })
  })
})

describe("vit-prisma heads", () => {
  it("measures every head, as JSON and as a table", async () => {
    const { code, stdout } = await cli([
      "heads",
      mouse,
      picture,
      seven,
      "--json",
      "--unit",
      "patches",
      "--layers",
      "1,-1",
    ])
    expect(code).toBe(0)
    const said = JSON.parse(stdout) as {
      images: number
      unit: string
      heads: {
        layer: number
        head: number
        entropy: { n: number; interval: number[] }
        scores: Record<string, unknown>
      }[]
      detectors: { name: string; threshold: number | null }[]
    }
    expect([said.images, said.unit]).toEqual([2, "patches"])
    expect(said.heads.map((h) => `${h.layer}.${h.head}`)).toEqual([
      "1.0",
      "1.1",
      "1.2",
      "1.3",
      "3.0",
      "3.1",
      "3.2",
      "3.3",
    ])
    expect(said.heads[0]!.entropy).toMatchObject({ n: 2, interval: [expect.any(Number), expect.any(Number)] })
    expect(Object.keys(said.heads[0]!.scores)).toEqual(said.detectors.map((d) => d.name))
    // No registers here: nothing to measure is null, not 0.
    expect(said.detectors.find((d) => d.name === "register")!.threshold).toBeNull()

    const page = join(scratch, "heads.html")
    const human = await cli(["heads", mouse, picture, "--level", "0.05", "--html", page])
    expect(human.code).toBe(0)
    expect(human.stdout).toMatch(/head +entropy +distance +looks at\n +0\.0 /)
    expect(human.stdout).toMatch(/border +the patches at the edge of the image +0\.71 +0\.72 +\d\.\d \(0\.\d\d\)/)
    expect(readFileSync(page, "utf8")).toContain("mean distance")
  })

  it("refuses what cannot be", async () => {
    const cases: [string[], number, RegExp][] = [
      [[mouse, picture, "--layers", "4"], 2, /layer 4 does not exist; the model has layers 0 to 3 \[E_HOOK\]/],
      [[mouse, picture, "--level", "2"], 1, /level must be between 0 and 1, got 2 \[E_INPUT\]/],
      [[mouse, join(scratch, "none.png")], 1, /none\.png/],
    ]
    await twoAtATime(cases, async ([args, exit, said]) => {
      const { code, stdout, stderr } = await cli(["heads", ...args])
      expect([code, stdout, stderr]).toEqual([exit, "", expect.stringMatching(said)])
    })
  })
})
