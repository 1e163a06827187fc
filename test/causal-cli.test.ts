/** @file vit-prisma patch and ablate, as users have them: processes of the built program, its files, and a real browser. */
import { existsSync, mkdtempSync, readFileSync, rmSync, writeFileSync } from "node:fs"
import { tmpdir } from "node:os"
import { join } from "node:path"
import { pathToFileURL } from "node:url"
import { chromium } from "playwright-core"
import { afterAll, describe, expect, it } from "vitest"
import { denoise, noise, ablate } from "../src/interp/causal/patching.ts"
import { sitesOf, type Site } from "../src/interp/causal/sites.ts"
import type { SweepRow } from "../src/interp/causal/sweep.ts"
import { decodeImage, encodePng, float32, loadPretrained, writeSafetensors } from "../src/index.ts"
import { cli, root, seven } from "./helpers/cli.ts"

const CHROMIUM = "/usr/bin/chromium"
const mouse = join(root, "model-cards/mnist")
const scratch = mkdtempSync(join(tmpdir(), "vit-prisma-causal-"))
const model = await loadPretrained(mouse, { threads: 1 })
afterAll(async () => {
  await model.release()
  rmSync(scratch, { recursive: true })
})
const at = (name: string): string => join(scratch, name)

/** Seven, and others made of it: upside down, mirrored, shifted. */
const image = await decodeImage(seven)
async function changed(name: string, from: (y: number, x: number) => readonly [number, number]): Promise<string> {
  const { width, height, channels, data } = image
  const out = new Uint8Array(data.length)
  for (let y = 0; y < height; y++)
    for (let x = 0; x < width; x++) {
      const [v, u] = from(y, x)
      for (let c = 0; c < channels; c++) out[(y * width + x) * channels + c] = data[(v * width + u) * channels + c]!
    }
  writeFileSync(at(name), await encodePng(out, width, height, channels))
  return at(name)
}
const flipped = await changed("flipped.png", (y, x) => [27 - y, x])
const mirrored = await changed("mirrored.png", (y, x) => [y, 27 - x])
const shifted = await changed("shifted.png", (y, x) => [(y + 5) % 28, x])

interface Report {
  readonly metric: string
  readonly clean?: number
  readonly corrupt?: number
  readonly intact?: number
  readonly rows: readonly SweepRow[]
}
const all = async (rows: AsyncGenerator<SweepRow>): Promise<SweepRow[]> => {
  const out: SweepRow[] = []
  for await (const r of rows) out.push(r)
  return out
}
const alike = (got: readonly SweepRow[], want: readonly SweepRow[]): void => {
  expect(got.map((r) => r.site)).toEqual(want.map((r) => r.site))
  for (const [i, row] of got.entries()) {
    for (const [j, x] of row.values.entries()) expect(x).toBeCloseTo(want[i]!.values[j]!, 4)
    expect(Object.keys(row).toSorted()).toEqual(
      [...(row.values.length > 1 ? ["interval"] : []), "mean", "site", "values"].toSorted(),
    )
  }
}

describe("vit-prisma patch", () => {
  it("prints what the API gives, both ways round", async () => {
    const [clean, corrupt] = [await model.images(image), await model.images(await decodeImage(flipped))]
    const sites = sitesOf(model, "blocks.*.attn.hook_z", ["head"])
    const metric = "logits[:, 7]"
    for (const [flags, work] of [
      [[], denoise],
      [["--noise"], noise],
    ] as const) {
      const args = ["patch", mouse, seven, flipped, "--hook", "z", "--by", "head", "--class", "7", "--json", ...flags]
      const ran = await cli(args)
      expect([ran.code, ran.stderr]).toEqual([0, ""])
      const got = JSON.parse(ran.stdout) as Report
      expect(Object.keys(got)).toEqual(["metric", "clean", "corrupt", "rows"])
      expect(got.metric).toBe("logit of 7")
      const { logits } = await model.run(clean)
      expect(got.clean).toBeCloseTo(Number(logits.data[7]), 4)
      alike(got.rows, await all(work(model, { clean, corrupt, sites, metric })))
    }
  })

  it("draws a page that opens by itself in a browser, and a picture", async () => {
    const [html, png] = [at("patched.html"), at("patched.png")]
    const args = ["patch", mouse, seven, flipped, "--by", "token", "--html", html, "--png", png]
    const ran = await cli(args)
    expect([ran.code, ran.stdout.split("\n")[0]]).toEqual([0, expect.stringMatching(/^clean .*, corrupt /)])
    const drawn = await decodeImage(png)
    expect(Math.min(drawn.width, drawn.height)).toBeGreaterThan(100)
    expect(new Set(drawn.data).size).toBeGreaterThan(20)
    expect(readFileSync(html, "utf8")).not.toMatch(/(src|href)\s*=\s*["']?(https?:)?\/\//)
    if (!existsSync(CHROMIUM)) return
    const browser = await chromium.launch({ executablePath: CHROMIUM, args: ["--no-sandbox", "--disable-gpu"] })
    try {
      const page = await browser.newPage()
      const said: string[] = []
      page.on("console", (m) => void (m.type() === "error" && said.push(m.text())))
      page.on("pageerror", (e) => void said.push(String(e)))
      page.on("request", (r) => void (/^(file|data|blob):/.test(r.url()) || said.push(r.url())))
      await page.goto(pathToFileURL(html).href)
      await page.waitForSelector("canvas")
      const text = await page.locator("body").innerText()
      expect(text).toContain("layers by tokens")
      expect(said).toEqual([])
    } finally {
      await browser.close()
    }
  })

  it.each([
    [["--hook", "blocks.0.hook_nothing"], 2, /no hook "blocks\.0\.hook_nothing"; the nearest are "/],
    [["--hook", "nothing"], 2, /no short name "nothing"; there are resid_pre, /],
    [["--layers", "9"], 2, /layers 0 to 3/],
    [["--class", "11"], 1, /classes 0 to 9/],
    [["--class", "eight"], 1, /the nearest of 10 are/],
    [["--metric", "logits"], 1, /must be one number of each image, got \[batch, 10\]/],
    [["--metric", "logits[:, 10]"], 1, /outside \[1, 10\]/],
    [["--metric", "logit[:, 1]"], 2, /nearest are "logits"/],
    [["--hook", "resid_pre", "--by", "head"], 1, /no axis of heads/],
    [["--hook", "*.mlp.hook_post", "--by", "head"], 1, /no axis of heads/],
    [
      ["--hook", "z", "--heads", "4"],
      1,
      /^vit-prisma: head 4 of "blocks\.0\.attn\.hook_z" does not exist; there are heads 0 to 3/,
    ],
    [["--hook", "resid_pre", "--heads", "0"], 1, /no axis of heads/],
    [["--tokens", "0,999"], 1, /token 999 of "blocks\.0\.hook_resid_pre" does not exist; there are tokens 0 to \d+/],
    [["--tokens", "-1"], 1, /token -1 .* there are tokens 0 to/],
    [["--region", "0,0,99,1"], 1, /the region of patches 99x1 at row 0, column 0 is outside the \d+x\d+ patches/],
    [["--region", "3"], 2, /expected row,column or row,column,rows,columns/],
    [["--region", "0,0", "--tokens", "1"], 2, /give --tokens or --region/],
    [["--layers", "0,99"], 2, /layer 99 does not exist; the model has layers 0 to 3/],
    [["--json", seven], 2, /Its file ends in \.json/],
    [["--json", at("x.json"), "--view-json", at("x.json")], 2, /name the same file/],
  ])("names what exists: %j", async (args, code, message) => {
    const ran = await cli(["patch", mouse, seven, flipped, ...args])
    expect([ran.code, ran.stdout]).toEqual([code, ""])
    expect(ran.stderr).toMatch(message)
    expect(ran.stderr.trimEnd().split("\n")).toHaveLength(1)
  })
})

describe("vit-prisma patch of chosen sites", () => {
  const run = async (...args: string[]): Promise<Report> => {
    const { code, stdout, stderr } = await cli(["patch", mouse, seven, flipped, "--class", "7", "--json", ...args])
    expect([code, stderr]).toEqual([0, ""])
    return JSON.parse(stdout) as Report
  }
  const rowsOf = async (sites: readonly Site[]): Promise<SweepRow[]> => {
    const [clean, corrupt] = [await model.images(image), await model.images(await decodeImage(flipped))]
    return all(denoise(model, { clean, corrupt, sites, metric: "logits[:, 7]" }))
  }

  it("is that of heads, of tokens, of both and of a region of patches", async () => {
    const [heads, tokens, both, region] = await Promise.all([
      run("--hook", "z", "--heads", "2,0", "--layers", "1,-1"),
      run("--hook", "resid_pre", "--tokens", "0,3", "--layers", "0"),
      run("--hook", "z", "--heads", "1", "--tokens", "0", "--layers", "2"),
      run("--hook", "resid_pre", "--region", "1,1,2,3", "--layers", "0"),
    ])
    const z = (layer: number, head: number): Site => ({ hook: `blocks.${layer}.attn.hook_z`, head })
    alike(heads.rows, await rowsOf([z(1, 2), z(1, 0), z(3, 2), z(3, 0)]))
    const hook = "blocks.0.hook_resid_pre"
    alike(tokens.rows, await rowsOf([0, 3].map((t) => ({ hook, tokens: [t] }))))
    alike(both.rows, await rowsOf([{ ...z(2, 1), tokens: [0] }]))
    const { imageSize, patchSize } = model.config.vision
    const columns = imageSize[1] / patchSize[1]
    const patches = [1, 2].flatMap((r) => [1, 2, 3].map((c) => 1 + r * columns + c))
    alike(region.rows, await rowsOf([{ hook, tokens: patches }]))
  })

  it("goes as JSON into a file and as text to the terminal, and its page has a column for each", async () => {
    const [file, view] = [at("patch.json"), at("patch-view.json")]
    const sites = ["--class", "7", "--hook", "z", "--heads", "3,1"]
    const written = await cli(["patch", mouse, "--json", file, seven, flipped, ...sites, "--view-json", view])
    expect([written.code, written.stderr]).toEqual([0, ""])
    expect(written.stdout).toMatch(/^clean .*, corrupt .*\nblocks\.\d\.attn\.hook_z, head [13]/)
    const printed = await run("--hook", "z", "--heads", "3,1")
    expect(JSON.parse(readFileSync(file, "utf8"))).toEqual(printed)
    const { matrices } = JSON.parse(readFileSync(view, "utf8")) as { matrices: { columns: string[]; rows: string[] }[] }
    expect([matrices[0]!.columns, matrices[0]!.rows.length]).toEqual([["H3", "H1"], 4])
  })

  it("lays what tokens change over the image, layer by layer, and tables hooks that are cut alike", async () => {
    interface View {
      readonly images: { overlays?: { layers: number[]; values: { shape: number[]; data: (number | null)[] } }[] }[]
      readonly matrices: { name: string; rows: string[]; columns: string[]; columnNumbers?: number[] }[]
    }
    const view = async (...args: string[]): Promise<View> => {
      const file = at("laid-view.json")
      const ran = await cli(["patch", mouse, seven, flipped, "--class", "7", ...args, "--view-json", file])
      expect(ran.code, ran.stderr).toBe(0)
      return JSON.parse(readFileSync(file, "utf8")) as View
    }
    const one = await view("--tokens", "0,5", "--layers", "1,3")
    const { corrupt, rows } = await run("--tokens", "0,5", "--layers", "1,3")
    expect(one.matrices.map((m) => [m.name, m.rows, m.columns, m.columnNumbers])).toEqual([
      ["resid_pre: layers by tokens", ["L1", "L3"], ["CLS", "1,0"], [0, 5]],
    ])
    const [{ layers, values }] = one.images[0]!.overlays as [NonNullable<View["images"][0]["overlays"]>[0]]
    expect([layers, values.shape]).toEqual([
      [1, 3],
      [2, 17],
    ])
    for (const [i, { site, mean }] of rows.entries()) {
      expect(values.data[Math.floor(i / 2) * 17 + site.tokens![0]!]).toBeCloseTo(mean - corrupt!, 4)
    }
    expect(values.data.filter((x) => x === null)).toHaveLength(30)
    const hooks = await view("--hook", "*.hook_{resid_pre,mlp_out}")
    expect(hooks.matrices.map((m) => [m.name, m.columns, m.rows.length])).toEqual([
      ["layers by hooks", ["resid_pre", "mlp_out"], 4],
    ])
    // Patches have no place for the class token, others have.
    const mixed = await view("--hook", "hook_{embed,full_embed}", "--tokens", "0,1")
    expect(mixed.matrices.map((m) => [m.name, m.columns])).toEqual([
      ["embed: tokens", ["0,0", "0,1"]],
      ["full_embed: tokens", ["CLS", "0,0"]],
    ])
  })

  it("has errors as text where only the file is JSON", async () => {
    const file = at("no-such.json")
    const ran = await cli(["patch", mouse, seven, flipped, "--hook", "nothing", "--json", file])
    expect(ran.stderr).toMatch(/^vit-prisma: /)
    expect(existsSync(file)).toBe(false)
  })
})

describe.each(["lens", "attribute", "heads", "saliency"])("vit-prisma %s --json FILE", (command) => {
  it("holds what --format json prints", async () => {
    const file = at(`${command}.json`)
    const [written, printed] = await Promise.all([
      cli([command, mouse, seven, "--json", file]),
      cli([command, mouse, seven, "--format", "json"]),
    ])
    expect([written.code, written.stderr, printed.code]).toEqual([0, "", 0])
    expect(written.stdout).not.toMatch(/^[[{]/)
    expect(JSON.parse(readFileSync(file, "utf8"))).toEqual(JSON.parse(printed.stdout))
  })
})

describe("vit-prisma ablate", () => {
  const paths = [seven, flipped, mirrored, shifted]

  it("gives Student's interval over images", async () => {
    const args = ["ablate", mouse, ...paths, "--hook", "mlp_out", "--mode", "mean", "--class", "7", "--json"]
    const { code, stdout, stderr } = await cli(args)
    expect([code, stderr]).toEqual([0, ""])
    const got = JSON.parse(stdout) as Report
    expect(Object.keys(got)).toEqual(["metric", "intact", "rows"])
    const images = await model.images(...(await Promise.all(paths.map((p) => decodeImage(p)))))
    const sites: Site[] = sitesOf(model, "blocks.*.hook_mlp_out")
    alike(got.rows, await all(ablate(model, { images, by: { mean: images }, sites, metric: "logits[:, 7]" })))
    for (const { values, mean, interval } of got.rows) {
      const m = values.reduce((a, b) => a + b) / 4
      const deviation = Math.sqrt(values.reduce((a, x) => a + (x - m) ** 2, 0) / 3)
      expect(mean).toBeCloseTo(m, 6)
      // t of 97.5 % at 3 degrees of freedom, from printed tables.
      const half = (3.182446 * deviation) / 2
      expect(interval![0]).toBeCloseTo(m - half, 4)
      expect(interval![1]).toBeCloseTo(m + half, 4)
    }
  })

  it("stopped by Ctrl-C goes on from its rows: only what is missing is computed", async () => {
    const rows = at("rows.jsonl")
    const wide = ["ablate", mouse, seven, flipped, "--hook", "*.hook_resid_{pre,mid,post}", "--by", "token"]
    const options = ["--batch", "2", "--json", "--class", "7"]
    const whole = await cli([...wide, ...options])
    const want = JSON.parse(whole.stdout) as Report
    // A child that interrupts itself once its file holds ten rows, as the terminal's Ctrl-C would.
    const preload = `import { existsSync, readFileSync } from "node:fs";
      const timer = setInterval(() => {
        if (existsSync(${JSON.stringify(rows)}) && readFileSync(${JSON.stringify(rows)}, "utf8").split("\\n").length > 10) {
          clearInterval(timer); process.kill(process.pid, "SIGINT")
        }
      }, 1); timer.unref()`
    const stopped = await cli([...wide, ...options, "--rows", rows], { preload })
    expect([stopped.code, stopped.stdout]).toEqual([130, ""])
    expect(stopped.stderr).toContain(`the same command goes on from ${rows}`)
    const before = readFileSync(rows, "utf8").trimEnd().split("\n")
    expect(before.length).toBeGreaterThanOrEqual(10)
    expect(before.length).toBeLessThan(want.rows.length)
    // A row that was computed is given as the file has it: marked ones come back marked, so they were not computed again.
    const marked = before.map((line) => JSON.stringify({ ...(JSON.parse(line) as SweepRow), mean: 12345 }))
    writeFileSync(rows, `${marked.join("\n")}\n`)
    const resumed = await cli([...wide, ...options, "--rows", rows])
    expect([resumed.code, resumed.stderr]).toEqual([0, ""])
    const got = JSON.parse(resumed.stdout) as Report
    expect(got.rows.filter((r) => r.mean === 12345)).toHaveLength(before.length)
    expect(got.rows.map((r) => [r.site, r.values])).toEqual(want.rows.map((r) => [r.site, r.values]))
    expect(readFileSync(rows, "utf8").trimEnd().split("\n")).toHaveLength(want.rows.length)
  })

  it("goes on from rows of the same experiment alone, and past one that was cut short", async () => {
    const rows = at("own-rows.jsonl")
    const args = ["ablate", mouse, seven, "--hook", "z", "--by", "head", "--layers", "0", "--rows", rows, "--json"]
    const first = await cli([...args, "--class", "7"])
    const written = readFileSync(rows, "utf8")
    const other = await cli([...args, "--class", "1"])
    expect([other.code, other.stdout]).toEqual([2, ""])
    expect(other.stderr).toMatch(
      /rows of another experiment: metric .*logit of 7.*, here .*logit of 1.*; name another file/,
    )
    expect(readFileSync(rows, "utf8")).toBe(written)
    writeFileSync(rows, written.slice(0, -60))
    for (const note of [/a row that was cut short is passed over/, /./]) {
      const again = await cli([...args, "--class", "7"])
      expect(again.code).toBe(0)
      alike((JSON.parse(again.stdout) as Report).rows, (JSON.parse(first.stdout) as Report).rows)
      expect(again.stderr).toMatch(note)
    }
    const picture = at("a picture.png")
    writeFileSync(picture, readFileSync(seven))
    const refused = await cli([...args.map((a) => (a === rows ? picture : a)), "--class", "7"])
    expect([refused.code, refused.stderr]).toEqual([2, expect.stringMatching(/is no file of rows/)])
    expect(readFileSync(picture).equals(readFileSync(seven))).toBe(true)
  })

  it("of a dual encoder measures likeness to a text, and without one says what there is", async () => {
    const clip = join(root, "test/fixtures/reference/open-clip-quickgelu")
    const embeds = at("texts.safetensors")
    const two = await loadPretrained(clip, { threads: 1 })
    const [images, width] = [await two.images(image), two.config.vision.dProjection]
    const text = float32(
      [1, width],
      Float32Array.from({ length: width }, (_, i) => Math.sin(i)),
    )
    await writeSafetensors(embeds, new Map([["text_embeds", text]]))
    const { image_embeds: e } = await two.run(images)
    const dot = (a: ArrayLike<number>, b: ArrayLike<number>) => Array.from(a).reduce((s, x, i) => s + x * b[i]!, 0)
    const [u, v] = [e.data as Float32Array, text.data]
    await two.release()
    const args = ["ablate", clip, seven, "--hook", "mlp_out"]
    const ran = await cli([...args, "--text-embeds", embeds, "--json"])
    expect([ran.code, ran.stderr]).toEqual([0, ""])
    const got = JSON.parse(ran.stdout) as Report
    expect(got.metric).toBe("similarity to text 0")
    expect(got.intact).toBeCloseTo(dot(u, v) / Math.sqrt(dot(u, u) * dot(v, v)), 5)
    const without = await cli(args)
    expect([without.code, without.stdout]).toEqual([2, ""])
    expect(without.stderr).toMatch(/it gives image_embeds, .*: give --metric, as "image_embeds\[:, 0\]", or --text/)
  })

  it.each([
    [["--mode", "mean"], 2, /needs at least two images/],
    [["--mode", "nothing"], 2, /Allowed choices are zero, mean, resample/],
    [["--layers", "4"], 2, /layers 0 to 3/],
  ])("refuses %j", async (args, code, message) => {
    const ran = await cli(["ablate", mouse, seven, ...args])
    expect([ran.code, ran.stdout]).toEqual([code, ""])
    expect(ran.stderr).toMatch(message)
  })
})
