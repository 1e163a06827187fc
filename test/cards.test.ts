/** @file Model cards made from folders: every figure in them against the files, read by other means than the cards' own. */
import {
  copyFileSync,
  cpSync,
  existsSync,
  mkdirSync,
  mkdtempSync,
  readdirSync,
  readFileSync,
  rmSync,
  writeFileSync,
} from "node:fs"
import { tmpdir } from "node:os"
import { join } from "node:path"
import { afterAll, describe, expect, it } from "vitest"
import { checkCard, filesOf, makeCard, writeCard } from "../src/cards/card.ts"
import { readYaml, splitCard } from "../src/cards/front-matter.ts"
import { wilson } from "../src/cards/interval.ts"
import { validateCard } from "../src/cards/validate.ts"
import { convertModel } from "../src/export/convert.ts"
import { loadPretrained } from "../src/hub/load-pretrained.ts"
import { nodeRuntime } from "../src/runtime/node.ts"
import { trainRun } from "../src/train/run.ts"
import { reference, root } from "./helpers/cli.ts"
import { startHub } from "./helpers/hub/index.ts"
import { madeConfig, madeData } from "./helpers/made-data.ts"
import { readSafetensors } from "./helpers/read-safetensors.ts"
import { thrown } from "./helpers/thrown.ts"

const runtime = nodeRuntime({ threads: 1 })
const scratch = mkdtempSync(join(tmpdir(), "cards-"))
afterAll(async () => {
  await runtime.release()
  rmSync(scratch, { recursive: true })
})

type Json = Record<string, never>
const json = (folder: string, name: string) => JSON.parse(readFileSync(join(folder, name), "utf8")) as Json
const writeJson = (folder: string, name: string, value: unknown) =>
  writeFileSync(join(folder, name), JSON.stringify(value))
const metadata = (card: string) => readYaml(splitCard(card).yaml!).value as Json
const indexOf = (card: string) => metadata(card)["model-index"] as unknown as { name: string; results: Json[] }[]
const readme = (folder: string) => readFileSync(join(folder, "README.md"), "utf8")
/** The row of a table that begins with these words. */
const row = (card: string, head: string) => card.split("\n").find((line) => line.startsWith(`| ${head} |`))

let copies = 0
function copyOf(folder: string, change: (copy: string) => void = () => {}): string {
  const copy = join(scratch, `copy-${copies++}`, "m")
  cpSync(folder, copy, { recursive: true })
  change(copy)
  return copy
}

const MICE = readdirSync(join(root, "model-cards"), { withFileTypes: true })
  .filter((entry) => entry.isDirectory())
  .map(({ name }) => name)

describe.each(MICE)("the card of model-cards/%s", (name) => {
  const folder = join(root, "model-cards", name)

  it("is what its files say, and passes the Hub's rules", async () => {
    expect(await makeCard(folder)).toBe(readme(folder))
    expect(await checkCard(folder)).toEqual([])
  })

  it("has the figures of result.json and the parameters of its weights", () => {
    const { test, parameters } = json(folder, "result.json") as unknown as {
      test: { accuracy?: number; loss: number }
      parameters: number
    }
    const { tensors } = readSafetensors(join(folder, "model.safetensors"))
    const stored = [...tensors.values()].reduce((n, { shape }) => n + shape.reduce((a, b) => a * b, 1), 0)
    expect(stored).toBe(parameters)
    expect(row(readme(folder), "Parameters")).toBe(`| Parameters | ${stored.toLocaleString("en")} |`)
    const { metrics } = indexOf(readme(folder))[0]!.results[0] as unknown as {
      metrics: { type: string; value: number }[]
    }
    expect(metrics[0]!.value).toBeCloseTo(test.accuracy ?? test.loss, 6)
  })
})

const run = join(scratch, "runs/stripes")
const trained = trainRun(madeConfig(), madeData(), { out: run, runtime })

describe("the card of a run", () => {
  it("says what was trained, on what, how, where, and what came of it", async () => {
    const { test, best } = await trained
    const card = await makeCard(run)
    expect(validateCard(card, filesOf(run))).toEqual([])
    const right = Math.round(10 * test!.accuracy!)
    const [low, high] = wilson(right / 10, 10).map((x) => (100 * x).toFixed(2))
    expect(card).toContain(`It is right on ${right} of 10 test images (${10 * right}.00 %).`)
    expect(row(card, "95 % interval")).toBe(`| 95 % interval | ${low} % to ${high} % (Wilson) |`)
    expect(row(card, "Best validation")).toContain(
      `${(100 * best!.accuracy!).toFixed(2)} %, after step ${best!.step} |`,
    )
    expect(row(card, "Training images")).toBe("| Training images | 32 |")
    expect(row(card, "Dropout")).toBe("| Dropout | proj 0.1 |")
    expect(row(card, "Length")).toBe("| Length | 12 steps, 96 images seen |")
    expect(row(card, "Hardware")).toContain("1 thread used")
    const record = json(run, "result.json") as unknown as {
      finished: string
      machine: { cpu: string }
      order: { sha256OfEpoch0: string }
    }
    expect(row(card, "Ended on")).toContain(record.finished.slice(0, 10))
    expect(row(card, "Hardware")).toContain(record.machine.cpu.split(" ")[0]!)
    expect(row(card, "Order of epoch 0, sha256")).toContain(record.order.sha256OfEpoch0)
    expect(card.match(/\]\(checkpoints\/step-\d{8}\)/g)).toHaveLength(4)
    expect(card).toContain("](curves.svg)")
    expect(card).not.toMatch(/undefined|NaN|\[object|\{\{/)
    expect(metadata(card)).toMatchObject({
      library_name: "vit-prisma",
      pipeline_tag: "image-classification",
      metrics: ["accuracy"],
    })
    expect(metadata(card)).not.toHaveProperty("license")
    expect(metadata(card)).not.toHaveProperty("datasets")
    expect(card).toContain("## Licence\n\nNot stated.")
  })

  it("leaves out what is not recorded, with its row, section or paragraph", async () => {
    await trained
    const bare = copyOf(run, (copy) => {
      for (const name of ["result.json", "curves.svg", "preprocessor_config.json"]) rmSync(join(copy, name))
      rmSync(join(copy, "checkpoints"), { recursive: true })
    })
    const card = await makeCard(bare)
    for (const head of ["Accuracy", "95 % interval", "Hardware", "Time", "Ended on", "Order", "Channels"])
      expect(row(card, head)).toBeUndefined()
    expect(card).not.toMatch(/## Results|### Checkpoints|## Preprocessing|curves\.svg|It is right on/)
    expect(metadata(card)).not.toHaveProperty("model-index")
    expect(validateCard(card, filesOf(bare))).toEqual([])
    expect(card).toContain("## Training")
  })

  it("of a checkpoint is the card of that model", async () => {
    await trained
    const card = await makeCard(copyOf(join(run, "checkpoints/step-00000004")))
    expect(row(card, "Parameters")).toBe(row(await makeCard(run), "Parameters"))
    expect(card).not.toContain("## Results")
  })

  it("takes evaluation.json for what was measured", async () => {
    await trained
    const measured = copyOf(run, (copy) =>
      writeJson(copy, "evaluation.json", {
        data: { name: "other/val", split: "val", fingerprint: "x" },
        n: 200, loss: 1.5e-7, accuracy: 0.905, top5: 1,
        classes: [{ label: "a|b", n: 100, accuracy: 0.91 }, { label: "c", n: 100, accuracy: null }],
      }),
    ) // prettier-ignore
    const card = await makeCard(measured)
    expect(row(card, "Accuracy")).toBe("| Accuracy | **90.50 %** (181 of 200) |")
    expect(row(card, "Test images")).toBe("| Test images | `other/val`, `val`: 200 images |")
    expect(card).toContain("| <code>a&#124;b</code> | 100 | 91.00 % |\n| `c` | 100 |  |")
    // 1.5e-7 as Python's YAML reads numbers; it takes 2e-7 for a text.
    expect(card).toContain("value: 1.5e-7\n")
    writeJson(measured, "evaluation.json", { ...json(measured, "evaluation.json"), loss: 2e-7 })
    expect(await makeCard(measured)).toContain("value: 2.0e-7\n")
    expect(indexOf(card)[0]!.results[0]).toMatchObject({
      dataset: { type: "other", name: "other/val (200 images)", split: "val" },
    })
  })

  it("is refused where files are of different models or say what cannot be", async () => {
    await trained
    const wrong = (change: Record<string, unknown>) =>
      copyOf(run, (copy) => writeJson(copy, "result.json", { ...json(copy, "result.json"), ...change }))
    for (const [change, message] of [
      [{ parameters: 7 }, /parameters are 7, the weights beside it have \d+/],
      [{ test: { loss: 1, accuracy: 1.5 } }, /result\.json: test\.accuracy must be a number from 0 to 1, got "1\.5"/],
      [{ step: -1 }, /step must be a whole number of at least 0/],
      [{ versions: [] }, /versions must be an object/],
    ] as const)
      expect(await thrown(makeCard(wrong(change)))).toMatchObject({
        code: "E_CONFIG",
        message: expect.stringMatching(message),
      })
  })

  it("names MNIST on the Hub only where the fingerprint is that of its files", async () => {
    const mouse = join(root, "model-cards/mnist")
    expect(metadata(readme(mouse))).toMatchObject({ datasets: ["ylecun/mnist"] })
    const other = copyOf(mouse, (copy) => {
      rmSync(join(copy, "README.md"))
      const data = { "data.train": "0".repeat(64), "data.test": "1".repeat(64) }
      writeJson(copy, "result.json", { ...json(copy, "result.json"), data })
    })
    const card = await makeCard(other)
    expect(metadata(card)).not.toHaveProperty("datasets")
    expect(indexOf(card)[0]!.results[0]).toMatchObject({ dataset: { type: "mnist" } })
    expect(row(card, "95 % interval")).toBeUndefined()
    expect(card).not.toContain("handwritten")
  })
})

describe("the card of a conversion", () => {
  const out = join(scratch, "converted")
  const converted = (async () => {
    // As the Hub cache has it: the name is a repo's and the commit is known.
    const commit = "0123456789abcdef0123456789abcdef01234567"
    const cache = join(scratch, "cache")
    const snapshot = join(cache, "models--owner--tiny/snapshots", commit)
    mkdirSync(join(cache, "models--owner--tiny/refs"), { recursive: true })
    writeFileSync(join(cache, "models--owner--tiny/refs/main"), commit)
    cpSync(reference("hf-dinov2-classifier"), snapshot, { recursive: true })
    const model = await loadPretrained("owner/tiny", { runtime, cacheDir: cache })
    await convertModel(model, out, {
      hooks: "blocks.0.hook_resid_p*",
      inputs: "blocks.0.hook_resid_pre",
      certify: true,
    })
    return snapshot
  })()

  it("says what was converted, what goes in and out, and the worst certified value", async () => {
    await converted
    const card = await makeCard(out)
    expect(validateCard(card, filesOf(out))).toEqual([])
    expect(metadata(card)).toMatchObject({
      base_model: "owner/tiny",
      tags: expect.arrayContaining(["onnx", "transformers.js", "transformers"]),
    })
    // What the base allows is not known: nothing is said in its place.
    expect(metadata(card)).not.toHaveProperty("license")
    expect(metadata(card)).not.toHaveProperty("base_model_relation")
    expect(card).toContain("Not stated. The licence of what it was converted from holds")
    const { values } = json(out, "certificate.json") as unknown as { values: { name: string; error: number }[] }
    const worst = values.toSorted((a, b) => b.error - a.error)[0]!
    expect(card).toContain(
      `is **${Number(worst.error.toPrecision(3))}**, at \`${worst.name}\` (certified up to 0.0001)`,
    )
    for (const { name } of values) expect(card).toContain(`| \`${name}\` | \`[`)
    expect(card).toContain("replaces `blocks.0.hook_resid_pre`")
    expect(card).toContain(`[owner&#47;tiny](https://huggingface.co/owner/tiny) at commit \`0123456789`)
    expect(await loadPretrained(out, { runtime })).toHaveProperty("warnings", [])
  })

  it("of a gated repo states no licence: what the base allows is said to be unknown", async () => {
    await converted
    const hub = await startHub({ root: join(scratch, "hub") })
    try {
      hub.addRepo("maker/gated", reference("hf-dinov2-classifier"), { gated: true })
      const theirs = "---\nlicense: other\nlicense_name: makers-own\nextra_gated_prompt: Agree\n---\n# Gated\n"
      hub.addRepo("maker/gated", { "README.md": theirs })
      hub.grant("owner")
      const from = { runtime, endpoint: hub.url, cacheDir: join(scratch, "gated-cache") }
      expect((await thrown(loadPretrained("maker/gated", { ...from, token: "hf_other" }))).code).toBe("E_HUB_GATED")
      const gated = join(scratch, "converted-gated")
      await convertModel(await loadPretrained("maker/gated", { ...from, token: "hf_read" }), gated)
      const card = await makeCard(gated)
      expect(validateCard(card, filesOf(gated))).toEqual([])
      expect(metadata(card)).toMatchObject({ base_model: "maker/gated" })
      expect(Object.keys(metadata(card)).filter((key) => /^(license|extra_gated)/.test(key))).toEqual([])
      const unknown = "Not stated. The licence of what it was converted from holds; the files here do not record it."
      expect(card).toContain(`## Licence\n\n${unknown}`)
    } finally {
      await hub.close()
    }
  })

  it("says which weights were taken where there was a choice, as their manifest does, and nothing where there was none", async () => {
    const source = copyOf(reference("hf-vit-sharded"))
    const shards = { "model.safetensors.index.json": json(source, "model.safetensors.index.json") }
    const choices: [Record<string, object>, string[]][] = [
      [shards, ["model.safetensors.index.json"]],
      [{ ...shards, "open_clip_model.safetensors.index.json": {} }, ["model.safetensors.index.json", "open_clip_model.safetensors.index.json"]],
      [{}, []],
    ] // prettier-ignore
    const whole = await loadPretrained(source, { runtime })
    await convertModel(whole, join(scratch, "one file"))
    copyFileSync(join(scratch, "one file/model.safetensors"), join(source, "model.safetensors"))
    for (const [i, [there, unused]] of choices.entries()) {
      const folder = copyOf(source, (copy) => rmSync(join(copy, "model.safetensors.index.json")))
      for (const [name, content] of Object.entries(there)) writeJson(folder, name, content)
      const to = join(scratch, `chosen-${i}`)
      await convertModel(await loadPretrained(folder, { runtime }), to)
      expect(json(to, "manifest.json")["source"]).toEqual({
        name: "m",
        weights: "model.safetensors",
        ...(unused.length && { unused }),
      })
      const others = unused.map((name) => `\`${name}\``).join(", ")
      const said = `weights unchanged, from \`model.safetensors\`, which goes before ${others} beside it\n`
      expect((await makeCard(to)).includes(unused.length ? said : "weights unchanged\n")).toBe(true)
    }
  })

  it("is written beside the files, and their manifest still holds; a snapshot of the cache is not written into", async () => {
    const snapshot = await converted
    expect((await writeCard(out, { license: "apache-2.0" })).findings).toEqual([])
    expect(metadata(readme(out))).toMatchObject({ license: "apache-2.0" })
    await loadPretrained(out, { runtime })
    expect(await thrown(writeCard(snapshot))).toMatchObject({ code: "E_OUTPUT" })
    expect(existsSync(join(snapshot, "README.md"))).toBe(false)
  })
})

describe("what an author wrote", () => {
  const mouse = join(root, "model-cards/induction")
  const bare = (text: string | undefined) =>
    copyOf(mouse, (copy) =>
      text === undefined ? rmSync(join(copy, "README.md")) : writeFileSync(join(copy, "README.md"), text),
    )

  it("outside the marks stays, and so do keys that do not follow from the files, with their comments", async () => {
    const folder = bare(`---
# of ours
license: cc-by-4.0 # as we agreed
tags:
  - ours
pipeline_tag: text-generation
thumbnail: curves.svg
---

Above.

<!-- vit-prisma: begin -->
old
<!-- vit-prisma: end -->

Below.
`)
    await writeCard(folder, { name: "induction" })
    const card = readme(folder)
    expect(card).toMatch(/^---\n# of ours\nlicense: cc-by-4\.0 # as we agreed\n/)
    expect(card).toMatch(/\n---\n\nAbove\.\n\n<!-- vit-prisma: begin\b[^]*<!-- vit-prisma: end -->\n\nBelow\.\n$/)
    expect(card).not.toContain("\nold\n")
    expect(metadata(card)).toMatchObject({
      license: "cc-by-4.0",
      thumbnail: "curves.svg",
      pipeline_tag: "image-classification",
      tags: ["vision-transformer", "interpretability", "ours"],
    })
    expect(await makeCard(folder)).toBe(card)
    expect(await writeCard(folder)).toMatchObject({ changed: false })
    expect(await checkCard(folder)).toEqual([])
  })

  it("by hand is refused and left alone, and replaced with force, but for its metadata", async () => {
    for (const text of [
      "# mine\n",
      "---\nlicense: mit\n---\n# mine\n",
      "<!-- vit-prisma: begin -->\n",
      "<!-- vit-prisma: end -->\n<!-- vit-prisma: begin -->\n",
    ]) {
      const folder = bare(text)
      expect(await thrown(writeCard(folder))).toMatchObject({
        code: "E_OUTPUT",
        message: expect.stringContaining("--force"),
      })
      expect(readme(folder)).toBe(text)
      await writeCard(folder, { force: true })
      expect(readme(folder)).not.toContain("# mine")
      expect(readme(folder).includes("license: mit")).toBe(text.includes("license: mit"))
    }
    const broken = bare("---\nlicense: [\n---\n")
    expect(await thrown(writeCard(broken))).toMatchObject({
      code: "E_CONFIG",
      message: expect.stringMatching(/README\.md:2: the metadata cannot be read/),
    })
  })

  it("need not be there: the first card is made of the files alone, and made again is the same", async () => {
    const folder = bare(undefined)
    await writeCard(folder, { name: "m" })
    const first = readme(folder)
    expect(await makeCard(folder)).toBe(first)
    expect(await makeCard(folder, { force: true })).toBe(first)
  })
})

describe("foreign text", () => {
  const EVIL = [
    '<img src=x onerror="alert(1)">', "</code><script>alert(1)</script>", "`a` **b** [c](javascript:alert(1))", "a | b\n| --- |\n# title",
    "---\nlicense: mit", "no", "1:30", "{{title}}", "<!-- vit-prisma: end -->", "\u202Eabc\u0000\u001B[31m", "$$x$$ \\(y\\)", "- [ ] *x* _y_ ~z~ @someone https://evil.example",
  ] // prettier-ignore

  it("in class names, repo names, run ids and reports shows as text: nothing else in the card changes", async () => {
    const made = async (labels: readonly string[], name: string) => {
      const folder = copyOf(join(root, "model-cards/mnist"), (copy) => {
        rmSync(join(copy, "README.md"))
        const config = json(copy, "config.json") as Record<string, unknown>
        const all = Array.from({ length: 10 }, (_, i) => labels[i % labels.length]! + (i < labels.length ? "" : i))
        config["id2label"] = Object.fromEntries(all.map((label, i) => [i, label]))
        config["label2id"] = Object.fromEntries(all.map((label, i) => [label, i]))
        writeJson(copy, "config.json", config)
        writeJson(copy, "evaluation.json", {
          data: { name, split: name },
          n: 10,
          loss: 1,
          accuracy: 0.5,
          classes: all.map((label) => ({ label, n: 1, accuracy: 1 })),
        })
        const result = json(copy, "result.json") as Record<string, unknown>
        writeJson(copy, "result.json", {
          ...result,
          machine: { cpu: name, system: name },
          device: name,
          versions: { [name]: name },
          data: { "data.train": name },
        })
      })
      return { folder, card: await makeCard(folder, { name }) }
    }
    /** Lines with all foreign text gone: what a reader of Markdown takes as structure. */
    const shape = (card: string) =>
      splitCard(card)
        .body.replace(/<code>[^<]*<\/code>|`[^`\n]*`/g, "`x`")
        .replace(/^# .*/m, "# x")
        .replaceAll(/\.\/(no|plain|model)\b/g, "./x")
        .split("\n")
        .filter((line) => !line.includes("](https://huggingface.co"))
    const plain = await made(Array.from("0123456789"), "plain")
    for (const evil of EVIL) {
      const { folder, card } = await made([evil, ...Array.from("123456789")], evil)
      expect(shape(card), evil).toEqual(shape(plain.card))
      expect(splitCard(card).body).not.toMatch(/[\u0000-\u0009\u000B-\u001F\u202A-\u202E]/)
      const { name, results } = indexOf(card)[0]!
      expect(name).toBe(evil)
      expect(results[0]!["dataset"]).toMatchObject({ name: `${evil} (10 images)` })
      const findings = validateCard(card, filesOf(folder))
      expect(findings.filter(({ rule }) => rule !== "metadata")).toEqual([])
      // By the rules of YAML that Python has, it is the same text.
      expect(readYaml(splitCard(card).yaml!).python).toEqual(metadata(card))
    }
  })

  it("that is a token is not written", async () => {
    const folder = copyOf(join(root, "model-cards/mnist"))
    const before = readme(folder)
    const token = `hf_${"abcdefghijklmnop".repeat(2)}`
    const error = await thrown(writeCard(folder, { name: `x ${token}` }))
    expect(error).toMatchObject({ code: "E_SECRET_FOUND", exitCode: 3 })
    expect(error.message).not.toContain(token)
    expect(readme(folder)).toBe(before)
  })
})

describe("templates", () => {
  const card = async (template: string) => {
    await trained
    const file = join(scratch, "template.md")
    writeFileSync(file, template)
    const text = await makeCard(run, { template: file, name: "m" })
    return text.slice(text.indexOf("-->") + 5, text.lastIndexOf("\n<!--"))
  }

  it("put facts in their places; what speaks of one that is not known vanishes, and what is empty then", async () => {
    expect(
      await card(`<!-- For {{anyone}}
who reads it. -->
# {{ title }} and more

## Gone

Of the {{textTower}}
there is nothing.

### Gone too

- {{inputs}}

## Here

| a | b |
| --- | --- |
| gone | {{crop}} |
| seed | {{seed}} |

- batch {{batch}}
- gone {{ema}}

| a | b |
| --- | --- |
| gone | {{crop}} |

\`\`\`text
# no heading {{seed}}

- {{seed}}
\`\`\`
`),
    ).toBe(`# m and more

## Here

| a | b |
| --- | --- |
| seed | 0; data 0 |

- batch 8 images

\`\`\`text
# no heading 0; data 0

- 0; data 0
\`\`\`
`)
  })

  it("name facts that there are", async () => {
    expect(await thrown(card("# m\n\n{{acuracy}}\n"))).toMatchObject({
      code: "E_CONFIG",
      message: expect.stringMatching(/template\.md:3: there is no fact "acuracy"; the nearest are "accuracy"/),
    })
    expect(await thrown(card("{{__proto__}}"))).toMatchObject({ code: "E_CONFIG" })
    const latin = join(scratch, "latin.md")
    writeFileSync(latin, Buffer.from([0x23, 0x20, 0xe9]))
    expect(await thrown(makeCard(run, { template: latin }))).toMatchObject({
      code: "E_CONFIG",
      message: expect.stringContaining("UTF-8"),
    })
  })

  it("of this package names each fact that there is, so that none is left unsaid", async () => {
    const { factTexts } = await import("../src/cards/card.ts")
    const { readFacts } = await import("../src/cards/facts.ts")
    const template = readFileSync(join(root, "model-cards/template.md"), "utf8")
    const facts = Object.keys(factTexts(await readFacts(join(root, "model-cards/mnist"))))
    expect(facts.filter((name) => !template.includes(`{{${name}}}`))).toEqual([])
    const page = readFileSync(join(root, "docs/model-cards.md"), "utf8")
    expect(facts.filter((name) => !page.includes(`\`${name}\``))).toEqual([])
  })
})

describe("the interval", () => {
  it("is Wilson's: where it ends, a test of the share against it just fails", () => {
    // z^2 = (p - q)^2 n / (q (1 - q)) at both ends q, by definition; at 0 and n of n one end is exact.
    for (const [share, n] of [
      [0.9, 10],
      [0.5, 7],
      [0.9902, 10_000],
      [1, 656],
      [0, 3],
    ] as const) {
      // prettier-ignore
      const ends = wilson(share, n)
      expect(ends[0]).toBeLessThanOrEqual(share)
      expect(ends[1]).toBeGreaterThanOrEqual(share)
      for (const q of ends.filter((q) => q !== share))
        expect(((share - q) ** 2 * n) / (q * (1 - q))).toBeCloseTo(1.959963984540054 ** 2, 8)
    }
    expect(wilson(1, 656)[0]).toBeCloseTo(1 / (1 + 1.959963984540054 ** 2 / 656), 12)
  })
})

it("a folder without a model, a config or a card is told of", async () => {
  const empty = join(scratch, "empty")
  mkdirSync(empty)
  expect(await thrown(makeCard(empty))).toMatchObject({ code: "E_HUB_NOT_FOUND" })
  expect(await thrown(makeCard(join(empty, "x")))).toMatchObject({ code: "E_INPUT" })
  expect(await checkCard(empty)).toMatchObject([{ what: "there is no card" }])
  expect(await thrown(checkCard(join(empty, "x")))).toMatchObject({ code: "E_INPUT" })
  expect(await thrown(makeCard(empty, { repo: "../x" }))).toMatchObject({ code: "E_REPO_ID" })
  copyFileSync(join(root, "model-cards/mnist/model.safetensors"), join(empty, "model.safetensors"))
  expect(await thrown(makeCard(empty))).toMatchObject({ code: "E_CONFIG" })
})
