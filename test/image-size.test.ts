/** @file Models built for another image size, against what transformers, timm and open_clip compute there. */
import { writeFileSync } from "node:fs"
import { join } from "node:path"
import { describe, expect, it } from "vitest"
import { float32 } from "../src/index.ts"
import { compare, readCase } from "./helpers/parity.ts"
import { readSafetensors } from "./helpers/read-safetensors.ts"
import * as v from "./helpers/variants.ts"

const file = join(import.meta.dirname, "fixtures", "resample", "expected.safetensors")
const rows = [...readSafetensors(file).tensors].map(([key, stored]) => {
  const [name, size, output] = key.split("/") as [string, string, string]
  return { name, size: size.split("x").map(Number) as [number, number], output, stored, title: `${name} ${size}` }
})
const titles = [...new Set(rows.map((r) => r.title))]

/** As make.py beside the fixture makes them. */
const pixels = ([height, width]: readonly [number, number], channels = 3) =>
  float32(
    [1, channels, height, width],
    Float32Array.from({ length: channels * height * width }, (_, i) => ((7919 * i) % 1000) / 500 - 1),
  )

describe("imageSize", () => {
  it("has a reference for each family", () => expect(titles).toHaveLength(33))

  it.each(titles)("%s", async (title) => {
    const wanted = rows.filter((r) => r.title === title)
    const { name, size } = wanted[0]!
    await v.using(
      v.caseFolder(name),
      async (model) => {
        const names = wanted.map((r) => r.output).filter((o) => o.startsWith("hook_"))
        const { cache, ...outputs } = await model.runWithCache(pixels(size), { names })
        for (const { output, stored } of wanted) {
          const got = output.startsWith("hook_") ? cache.get(output) : outputs[output]
          expect(compare(got, stored).problem, output).toBeUndefined()
        }
      },
      { imageSize: size },
    )
  })

  it("of the checkpoint itself changes nothing", async () => {
    const name = "hf-vit-names-v5"
    const { inputs } = readCase({ name, folder: v.caseFolder(name) })
    const expected = await v.outputsOf(v.caseFolder(name), inputs)
    expect(await v.outputsOf(v.caseFolder(name), inputs, { imageSize: 32 })).toEqual(expected)
    expect(await v.outputsOf(v.caseFolder(name), inputs, { imageSize: [32, 32] })).toEqual(expected)
  })

  it("may be large: the table is resampled axis by axis, not by a matrix of all pairs", async () => {
    const before = process.memoryUsage().arrayBuffers
    await v.using(v.caseFolder("timm-gap"), (m) => m.hooks.get("hook_full_embed")!.shape, { imageSize: 8192 })
    expect(process.memoryUsage().arrayBuffers - before).toBeLessThan(2 ** 20)
  })

  it.each([0, -32, 32.5, NaN, Infinity, 8200, 1e9, null, "32", [], [32], [32, 32, 32], [32, 0], ["32", "32"], {}])(
    "%j is a usage error",
    async (imageSize) => {
      const message = await v.refused(v.caseFolder("hf-deit"), "E_USAGE", { imageSize: imageSize as never })
      expect(message).toMatch(/imageSize must be one integer from 1 to 8192 or \[height, width\], got /)
    },
  )

  it("that is no whole number of patches is refused, with both", async () => {
    for (const name of ["hf-deit", "hf-dinov2", "timm-gap", "open-clip-quickgelu"]) {
      const message = await v.refused(v.caseFolder(name), "E_CONFIG", { imageSize: [32, 36] })
      expect(message).toContain("32x36 is not a multiple of the patch size 8x8")
    }
  })

  it("prepares images for that size, with the same share cropped away", async () => {
    const at = v.apart({ name: "hf-deit", at: [] })
    const config = { size: { shortest_edge: 40 }, crop_size: { height: 32, width: 32 }, do_center_crop: true }
    writeFileSync(join(at, "preprocessor_config.json"), JSON.stringify(config))
    await v.using(at, (m) => expect(m.preprocessing).toMatchObject({ resize: { edge: 60 }, crop: { height: 48, width: 48 } }), { imageSize: 48 }) // prettier-ignore
  })
})

describe("DINOv2, which resamples by itself", () => {
  it("is built for the size its preprocessing gives", async () => {
    const name = "hf-dinov2"
    const at = v.apart({ name, at: [] })
    const config = { size: { shortest_edge: 64 }, crop_size: { height: 48, width: 40 } }
    writeFileSync(join(at, "preprocessor_config.json"), JSON.stringify(config))
    const want = rows.find((r) => r.title === `${name} 48x40` && r.output === "pooler_output")!.stored
    const got = await v.using(at, (m) => m.run(pixels([48, 40])))
    expect(compare(got["pooler_output"], want).problem).toBeUndefined()
  })

  it("is refused where that is no whole number of patches", async () => {
    const at = v.apart({ name: "hf-dinov2", at: [] })
    writeFileSync(join(at, "preprocessor_config.json"), JSON.stringify({ crop_size: { height: 44, width: 44 } }))
    expect(await v.refused(at, "E_CONFIG")).toContain("44x44 is not a multiple of the patch size 8x8")
  })
})
