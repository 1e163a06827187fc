/** @file The logit lens against the final norm and the head by hand, and against the model's own end; emoji. */
import { describe, expect, it } from "vitest"
import { mkdtemp, readFile } from "node:fs/promises"
import { copyFileSync, writeFileSync } from "node:fs"
import { tmpdir } from "node:os"
import { join } from "node:path"
import { emojiGrid, emojiOf, encodeSafetensors, float32, loadPretrained, logitLens, type Tensor } from "../src/index.ts"
import { EMOJI_PHRASES } from "../src/interp/residual/emoji-words.ts"
import { cli, reference, seven } from "./helpers/cli.ts"
import { FAMILIES, noise, withFamily } from "./helpers/families.ts"

const logitsOf = (t: Tensor, row: number): Float32Array => {
  const n = t.shape[1]!
  return (t.data as Float32Array).subarray(row * n, (row + 1) * n)
}

describe("the lens at the end of the whole stream is the model", () => {
  it.each(FAMILIES)("$name", (family) =>
    withFamily(family, async (model, { pixel_values, input_ids }) => {
      const options = { at: "pooled", layers: [-1], top: 2, classes: [0, 1] } as const
      const has = (name: string) => model.outputNames.includes(name)
      const { vision } = model.config
      const plain = await model.run({ pixel_values, ...(input_ids && { input_ids }) })
      const width = vision.pool === "clsAndMean" ? 2 * vision.dModel : vision.dModel
      const probe = { weight: noise([3, width]), bias: noise([3], 2) }
      const lens = has("logits")
        ? await logitLens(model, { pixel_values }, options)
        : input_ids
          ? await logitLens(model, { pixel_values }, { ...options, embeds: plain.text_embeds })
          : await logitLens(model, { pixel_values }, { ...options, head: probe })
      if (!has("logits") && !input_ids && !has("pooler_output"))
        return expect(lens.logit.shape).toEqual([1, pixel_values.shape[0], 1, 2])
      for (let b = 0; b < pixel_values.shape[0]!; b++) {
        const want = has("logits")
          ? logitsOf(plain.logits, b)
          : input_ids
            ? logitsOf(plain.logits_per_image, b)
            : Float32Array.from({ length: 3 }, (_, c) => {
                const pooled = logitsOf(plain.pooler_output, b)
                return pooled.reduce((s, x, j) => s + x * probe.weight.data[c * width + j]!, probe.bias.data[c]!)
              })
        for (const c of [0, 1]) expect(Math.abs(lens.logit.data[b * 2 + c]! - want[c]!)).toBeLessThan(1e-4)
        expect(lens.top.index.data[b * 2]).toBe(want.indexOf(Math.max(...want)))
      }
      return undefined
    }),
  )
})

describe("the lens", async () => {
  const model = await loadPretrained("model-cards/mnist", { threads: 1 })
  const images = await model.images(seven, seven)

  it("reads every token of every stream as the final norm and the head do by hand", async () => {
    const lens = await logitLens(model, images, { classes: ["7", 2], mid: true, top: 10 })
    expect(lens.labels).toEqual(["0_pre", "0_mid", "1_pre", "1_mid", "2_pre", "2_mid", "3_pre", "3_mid", "final_post"])
    expect(lens.layers).toEqual([-1, 0, 0, 1, 1, 2, 2, 3, 3])
    expect([lens.logit.shape, lens.top.index.shape]).toEqual([
      [9, 2, 17, 2],
      [9, 2, 17, 10],
    ])
    const { cache } = await model.runWithCache(images)
    const { stack } = cache.accumulatedResidual(undefined, { mid: true })
    const read = async (name: string) => Float64Array.from((await model.weight(name)).data)
    const [g, s, w, bias] = await Promise.all(
      ["ln_final.weight", "ln_final.bias", "head.weight", "head.bias"].map(read),
    )
    const d = 128
    for (let row = 0; row < 9 * 2 * 17; row++) {
      const x = Float64Array.from(stack.data.subarray(row * d, (row + 1) * d))
      const mean = x.reduce((a, v) => a + v, 0) / d
      const scale = Math.sqrt(x.reduce((a, v) => a + (v - mean) ** 2, 0) / d + model.config.vision.eps)
      const logits = Array.from({ length: 10 }, (_, c) =>
        x.reduce((a, v, j) => a + (((v - mean) / scale) * g![j]! + s![j]!) * w![c * d + j]!, bias![c]!),
      )
      const total = logits.reduce((a, v) => a + Math.exp(v), 0)
      const order = logits.map((_, c) => c).sort((a, b) => logits[b]! - logits[a]!)
      for (const [k, c] of [7, 2].entries()) {
        expect(lens.logit.data[row * 2 + k]).toBeCloseTo(logits[c]!, 3)
        expect(lens.probability.data[row * 2 + k]).toBeCloseTo(Math.exp(logits[c]!) / total, 4)
        expect(lens.rank.data[row * 2 + k]).toBe(order.indexOf(c) + 1)
      }
      expect([...lens.top.index.data.subarray(row * 10, (row + 1) * 10)]).toEqual(order)
    }
  })

  it("is of the run as interventions leave it, and of the layers asked for", async () => {
    const patch = { "blocks.2.hook_resid_pre": float32([1, 17, 128], new Float32Array(17 * 128)) }
    const lens = await logitLens(model, images, { patch, layers: [2, 0], classes: 7 })
    expect(lens.labels).toEqual(["0_pre", "2_pre"])
    const bias = (await model.weight("head.bias")).data
    const shift = (await model.weight("ln_final.bias")).data
    const w = (await model.weight("head.weight")).data.subarray(7 * 128, 8 * 128)
    expect(lens.logit.data.at(-1)).toBeCloseTo(
      w.reduce((a, x, j) => a + x * shift[j]!, bias[7]!),
      4,
    )
  })

  it("names what exists", async () => {
    const refused = (options: Parameters<typeof logitLens>[2]) => expect(logitLens(model, images, options)).rejects
    await refused({ layers: [6] }).toMatchObject({
      code: "E_HOOK",
      message: expect.stringMatching(/stream 6 does not exist; 0 to 3 .* 4 is the end/),
    })
    await refused({ classes: "cat" }).toMatchObject({
      code: "E_INPUT",
      message: expect.stringMatching(/no class "cat"; the nearest of 10/),
    })
    await refused({ top: -1 }).toMatchObject({ code: "E_INPUT" })
    await refused({ embeds: noise([1, 3]) }).toMatchObject({ message: expect.stringMatching(/no image_embeds/) })
    await refused({ head: { weight: noise([3]) } }).toMatchObject({
      message: expect.stringMatching(/a head is a weight \[classes, d\]/),
    })
    const clip = await loadPretrained(reference("hf-clip-eos-2"), { threads: 1 })
    await expect(logitLens(clip, noise([1, 3, 32, 32]))).rejects.toMatchObject({
      message: expect.stringMatching(/no class logits; it gives image_embeds/),
    })
    await expect(
      logitLens(clip, { input_ids: { dtype: "int32", shape: [1, 2], data: Int32Array.of(0, 2) } }),
    ).rejects.toMatchObject({ code: "E_INPUT" })
    await clip.release()
  })

  it("is shown as emoji of the patches", async () => {
    const lens = await logitLens(model, images, { top: 1 })
    const rows = emojiGrid(lens, [4, 4], { image: 1 })
    expect([rows.length, rows[0]!.length]).toEqual([4, 4])
    const best = lens.top.index.data[((4 * 2 + 1) * 17 + 1 + 6) * 1]!
    expect(rows[1]![2]).toBe(`${best}\uFE0F\u20E3`)
    expect(() => emojiGrid(lens, [5, 4])).toThrow(/has no 5 x 4 patches/)
    expect(() => emojiGrid(lens, [4, 4], { stream: 5 })).toThrow(/streams 0 to 4/)
  })
})

describe("emoji", () => {
  it.each([
    ["tiger shark, Galeocerdo cuvieri", "🦈"],
    ["tiger cat", "🐱"],
    ["tiger beetle", "🪲"],
    ["golden retriever", "🐕"],
    ["tabby, tabby cat", "🐱"],
    ["hen-of-the-woods, hen of the woods", "🍄"],
    ["bicycle-built-for-two, tandem bicycle", "🚲"],
    ["airplanes", "✈️"],
    ["Ankle boot", "🥾"],
    ["T-shirt/top", "👕"],
    ["7", "7️⃣"],
    ["zyzzyva, Egyptian cats", "🐱"],
    ["zyzzyva", "▫️"],
    ["", "▫️"],
  ])("of %s is %s", (label, emoji) => expect(emojiOf(label)).toBe(emoji))

  it("has one for each phrase, and each phrase can be met", () => {
    const phrases = EMOJI_PHRASES.map(([, phrase]) => phrase)
    expect(new Set(phrases).size).toBe(phrases.length)
    for (const [emoji, phrase] of EMOJI_PHRASES) {
      expect([...new Intl.Segmenter().segment(emoji)], emoji).toHaveLength(1)
      expect(emojiOf(phrase), phrase).toBe(emoji)
    }
  })
})

describe("vit-prisma lens and attribute", () => {
  const mouse = "model-cards/mnist"

  it("print a table and emoji", async () => {
    const { code, stdout, stderr } = await cli(["lens", mouse, seven, "--class", "7", "--emoji"])
    expect([code, stderr]).toEqual([0, ""])
    expect(stdout).toMatch(/0_pre +\d+\.\d\d % \(\d+\)[^]*final_post +99\.99 % \(1\) +99\.99 % 7;/)
    expect(stdout.split("\n").filter((l) => /\d\uFE0F\u20E3/.test(l))).toHaveLength(4)
  })

  it("print JSON", async () => {
    const lens = JSON.parse((await cli(["lens", mouse, seven, "--json", "--class", "7", "--layers", "-1"])).stdout)
    expect(lens[0].streams).toHaveLength(1)
    expect(lens[0].streams[0].pooled.classes[0]).toMatchObject({ label: "7", rank: 1 })
    expect(lens[0].streams[0].tokens.map((t: { token: string }) => t.token).slice(0, 3)).toEqual(["CLS", "0,0", "0,1"])
    const shares = JSON.parse((await cli(["attribute", mouse, seven, "--json", "--by", "head"])).stdout)
    const [target] = shares[0].targets
    expect(target.target).toBe("7")
    expect(target.shares.reduce((s: number, r: { value: number }) => s + r.value, 0)).toBeCloseTo(target.value, 4)
  })

  it("draw", async () => {
    const out = await mkdtemp(join(tmpdir(), "prisma-lens-"))
    const ran = await cli([
      "attribute",
      mouse,
      seven,
      "--by",
      "source",
      "--against",
      "1",
      "--class",
      "7",
      "--view-json",
      join(out, "view.json"),
    ])
    expect([ran.code, ran.stdout]).toEqual([
      0,
      expect.stringMatching(/7 - 1: 12\.1210, the sum of 18 shares[^]*not by heads/),
    ])
    const view = JSON.parse(await readFile(join(out, "view.json"), "utf8"))
    expect(view.images[0].overlays.map((o: { name: string }) => o.name)).toEqual(["read by heads for 7 - 1"])
    expect(view.matrices[0]).toMatchObject({ name: "heads: 7 - 1", rowAxis: "layer" })
    await cli(["lens", mouse, seven, "--class", "7", "--view-json", join(out, "view.json")])
    const seen = JSON.parse(await readFile(join(out, "view.json"), "utf8"))
    expect(seen.images[0].overlays[1].labels.glyphs).toContain("7️⃣")
  })

  it("read texts by the checkpoint's tokenizer or as embeddings", async () => {
    const folder = await clipFolder()
    const args = (...more: string[]) => [folder, join(folder, "seven.png"), ...more]
    const lens = await cli([
      "lens",
      ...args("--text", "a cat", "--text", "photo", "--class", "photo", "--json", "--layers", "-1"),
    ])
    expect(lens.stderr).toBe("")
    const { pooled } = JSON.parse(lens.stdout)[0].streams[0]
    const model = await loadPretrained(folder)
    const { logits_per_image } = await model.run({
      pixel_values: await model.images(join(folder, "seven.png")),
      input_ids: { dtype: "int32", shape: [2, 4], data: Int32Array.of(0, 4, 5, 2, 0, 6, 2, 2) }, // a second end is not read
    })
    expect(pooled.classes[0].logit).toBeCloseTo((logits_per_image.data as Float32Array)[1]!, 4)
    const apart = await cli(["attribute", ...args("--text", "a cat", "--against", "photo", "--json", "--by", "layer")])
    const [{ targets }] = JSON.parse(apart.stdout)
    const [cat, photo] = logits_per_image.data as Float32Array
    expect(targets[0]).toMatchObject({ target: "a cat - photo" })
    expect(targets[0].value).toBeCloseTo(cat! - photo!, 4)

    const { text_embeds } = await model.run({
      input_ids: { dtype: "int32", shape: [1, 4], data: Int32Array.of(0, 4, 5, 2) },
    })
    const file = join(folder, "texts.safetensors")
    writeFileSync(file, encodeSafetensors(new Map([["text_embeds", text_embeds]])))
    const stored = await cli(["attribute", ...args("--text-embeds", file, "--json")])
    expect(JSON.parse(stored.stdout)[0].targets[0].value).toBeCloseTo(cat!, 4)
    await model.release()
    const unknown = await cli(["lens", ...args("--text", "zebra")])
    expect(unknown).toMatchObject({
      code: 1,
      stderr: expect.stringMatching(/the text "zebra" has a token that the model does not have/),
    })
  })

  it.each([
    [["lens", mouse, seven, "--text", "a cat"], 1, /has no text tower to read --text with; give --text-embeds/],
    [
      ["attribute", mouse, seven, "--metric", "logits[:, 1]", "--class", "7"],
      2,
      /give one of --class, --metric and texts/,
    ],
    [["attribute", reference("hf-dino"), seven], 1, /images cannot be prepared|no preprocessor_config/],
  ])("%j ends with %i", async (args, code, message) => {
    const ran = await cli(args)
    expect(ran).toMatchObject({ code, stdout: "", stderr: expect.stringMatching(message) })
  })
})

/** A CLIP with a tokenizer of seven words and preprocessing. */
async function clipFolder(): Promise<string> {
  const folder = await mkdtemp(join(tmpdir(), "prisma-clip-"))
  for (const name of ["config.json", "model.safetensors"])
    copyFileSync(join(reference("hf-clip-eos-2"), name), join(folder, name))
  copyFileSync(seven, join(folder, "seven.png"))
  const special = ["<s>", "<pad>", "</s>"].map((content, id) => ({
    id,
    content,
    single_word: false,
    lstrip: false,
    rstrip: false,
    normalized: false,
    special: true,
  }))
  const tokenizer = {
    version: "1.0",
    added_tokens: special,
    normalizer: { type: "Lowercase" },
    pre_tokenizer: { type: "Whitespace" },
    post_processor: {
      type: "TemplateProcessing",
      single: [
        { SpecialToken: { id: "<s>", type_id: 0 } },
        { Sequence: { id: "A", type_id: 0 } },
        { SpecialToken: { id: "</s>", type_id: 0 } },
      ],
      pair: [],
      special_tokens: {
        "<s>": { id: "<s>", ids: [0], tokens: ["<s>"] },
        "</s>": { id: "</s>", ids: [2], tokens: ["</s>"] },
      },
    },
    decoder: null,
    model: {
      type: "WordLevel",
      vocab: { "<s>": 0, "<pad>": 1, "</s>": 2, a: 4, cat: 5, photo: 6 },
      unk_token: "[UNK]",
    },
  }
  const preprocessing = {
    image_processor_type: "CLIPImageProcessor",
    do_resize: true,
    size: { shortest_edge: 32 },
    resample: 3,
    do_center_crop: true,
    crop_size: 32,
    do_rescale: true,
    rescale_factor: 1 / 255,
    do_normalize: true,
    image_mean: [0.5, 0.5, 0.5],
    image_std: [0.5, 0.5, 0.5],
    do_convert_rgb: true,
  }
  writeFileSync(join(folder, "tokenizer.json"), JSON.stringify(tokenizer))
  writeFileSync(join(folder, "preprocessor_config.json"), JSON.stringify(preprocessing))
  return folder
}
