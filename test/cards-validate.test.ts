/** @file Cards held against the Hub's rules: each rule by a fault planted in a good card, and by what Python makes of it. */
import { readFileSync } from "node:fs"
import { join } from "node:path"
import { describe, expect, it } from "vitest"
import { cpuMs } from "./helpers/cpu.ts"
import { readYaml } from "../src/cards/front-matter.ts"
import { privatePathIn, secretIn } from "../src/cards/text-rules.ts"
import { validateCard } from "../src/cards/validate.ts"
import { root } from "./helpers/cli.ts"

const FILES = new Set(["curves.svg", "docs/a b.md", "LICENSE", "docs"])

const GOOD = `---
license: mit
library_name: vit-prisma
pipeline_tag: image-classification
language:
  - en
tags:
  - a
datasets:
  - ylecun/mnist
metrics:
  - accuracy
base_model: google/vit-base-patch16-224
base_model_relation: finetune
model-index:
  - name: m
    results:
      - task:
          type: image-classification
        dataset:
          type: ylecun/mnist
          name: MNIST
          split: test
        metrics:
          - type: accuracy
            value: 0.99
            name: Accuracy
        source:
          name: here
          url: https://example.org/m
---

# m

See [curves](curves.svg "loss") and ![](./curves.svg), [more](docs/a%20b.md#top), [a](<docs/a b.md>), <img src="curves.svg">,
[web](https://example.org/home/x), [here](#m), \`[no](link)\` and \`/home/me\`less words such as and/or, 1/2, /v1.

\`\`\`md
[no](link) <script> {{x}}
\`\`\`

[ref]: docs
`

/** The good card with a change. */
const changed = (from: string | RegExp, to: string): string => {
  const text = GOOD.replace("`/home/me`less ", "").replace(from, to)
  expect(text).not.toBe(GOOD.replace("`/home/me`less ", ""))
  return text
}
const SOUND = GOOD.replace("`/home/me`less ", "")
const lineOf = (text: string, part: string) => text.slice(0, text.indexOf(part)).split("\n").length

it("a sound card has no findings", () => {
  expect(validateCard(SOUND, FILES)).toEqual([])
  expect(validateCard(SOUND.replaceAll("\n", "\r\n"), FILES)).toEqual([])
  for (const other of [
    "license: other\nlicense_name: my-1.0\nlicense_link: LICENSE",
    "license:\n  - mit\n  - apache-2.0",
    "language: de\nlicense: mit",
    "language: [fra, code, multilingual]",
    "inference: false",
    "own_key: {a: [1, no]}",
  ])
    expect(
      validateCard(
        SOUND.replace("license: mit\n", `${other}\n`).replace(
          /language:\n {2}- en\n/,
          other.includes("language") ? "" : "$&",
        ),
        FILES,
      ),
      other,
    ).toEqual([])
})

/** What is changed to what, the key that is named, and words of the finding; the line is that of the last text. */
type Change = readonly [from: string | RegExp, to: string, key: string, said: RegExp, at?: string]
const METADATA: readonly Change[] = [
  ["license: mit", "license: MIT", "license", /must be a licence identifier, got "MIT"/],
  ["license: mit", "license: gpl-2.0-or-later", "license", /must be a licence identifier/],
  ["license: mit", "license: [mit, nope]", "license[1]", /got "nope"/, "license:"],
  ["license: mit", "license: 1", "license", /got 1/],
  ["license: mit", "license:", "license", /has no value/],
  ["license: mit", "license: other", "license", /without license_name/],
  ["license: mit", "license: mit\nlicense_name: x", "license_name", /stands beside a licence/, "license_name"],
  ["license: mit", "license_name: x-1.0", "license_name", /stands without license/],
  ["license: mit", "license: other\nlicense_name: My Licence", "license_name", /lower-case/, "license_name"],
  ["license: mit", "license: other\nlicense_name: a\nlicense_link: terms.txt", "license_link", /LICENSE/, "license_link"],
  ["license: mit", "license: other\nlicense_name: a\nlicense_link: LICENSE.md", "license_link", /is not there/, "license_link"],
  ["library_name: vit-prisma", "library_name: [vit-prisma]", "library_name", /a library's name/],
  ["pipeline_tag: image-classification", "pipeline_tag: image-clasification", "pipeline_tag", /a task of the Hub/],
  ["- en", "- english", "language[0]", /ISO 639/],
  ["- en", "- xx", "language[0]", /ISO 639/],
  ["- en", "- no", "language[0]", /"no" without quotes is false to Python/],
  [/language:\n {2}- en/, "language: zh-TW", "language", /ISO 639/, "language: zh"],
  [/tags:\n {2}- a/, "tags: a", "tags", /must be a list of texts/, "tags: a"],
  ["  - a\n", "  - 2024-01-01\n", "tags[0]", /without quotes is/],
  ["  - a\n", "  - [a]\n", "tags[0]", /must be a text/],
  ["- ylecun/mnist", "- MNIST dataset", "datasets[0]", /a dataset's id/],
  ["- ylecun/mnist", "- https://huggingface.co/datasets/ylecun/mnist", "datasets[0]", /a dataset's id/],
  ["- accuracy", "- {a: 1}", "metrics[0]", /a metric's id/],
  ["base_model: google/vit-base-patch16-224", "base_model: ./vit", "base_model", /a model's id/],
  ["base_model: google/vit-base-patch16-224\n", "", "base_model_relation", /stands without base_model/, "base_model_relation"],
  ["base_model_relation: finetune", "base_model_relation: copied", "base_model_relation", /finetune, adapter, merge or quantized/],
  ["  - name: m\n    results", "  - results", "model-index[0]", /name is missing/, "  - results"],
  ["          type: image-classification\n", "          name: x\n", "model-index[0].results[0].task", /type is missing/, "task:"],
  ["          name: MNIST\n", "", "model-index[0].results[0].dataset", /name is missing/, "dataset:\n          type"],
  ["          - type: accuracy\n            value", "          - value", "model-index[0].results[0].metrics[0]", /type is missing/, "          - value"],
  ["value: 0.99", "value: .nan", "model-index[0].results[0].metrics[0].value", /must be a number/],
  ["value: 0.99", "value: 1e-3", "model-index[0].results[0].metrics[0].value", /1e-3 is a text to Python/],
  ["value: 0.99", "value: ''", "model-index[0].results[0].metrics[0].value", /must be a number/],
  ["name: Accuracy", "verified: true", "model-index[0].results[0].metrics[0].verified", /only the Hub/],
  ["          url: https://example.org/m\n", "", "model-index[0].results[0].source", /url is missing/, "source:"],
  [/metrics:\n {10}- type[^]*name: Accuracy/, "metrics: []", "model-index[0].results[0].metrics", /has no metric/, "metrics: []"],
  [/model-index:[^]*?(?=---)/, "model-index: []\n", "model-index", /is empty/, "model-index"],
] // prettier-ignore

describe("metadata", () => {
  it.each(METADATA.map((change) => ({ change })))("$change.0 -> $change.1", ({ change: [from, to, key, said, at] }) => {
    const text = changed(from, to)
    const found = validateCard(text, FILES)
    expect(found).toEqual([
      {
        rule: "metadata",
        key,
        line: lineOf(text, at ?? to.split("\n")[0]!),
        what: expect.stringMatching(said),
        todo: expect.stringMatching(/\w/),
      },
    ])
  })

  it.each([
    ["---\nlicense: [mit\n---\n# m\n", 2],
    ["---\nlicense: mit\nlicense: mit\n---\n# m\n", 3],
    ["---\ntags:\n\t- a\n---\n# m\n", 3],
    ["---\n- license\n---\n# m\n", 2],
    ["---\n\n---\n# m\n", 2],
    ["# m\n", 1],
    ["---\nlicense: mit\n# m\n", 1],
    ["\uFEFF---\nlicense: mit\n---\n# m\n", 1],
    [`---\nlicense: !!python/object/apply:os.system [ls]\n---\n# m\n`, 2],
  ])("%j cannot be read, in line %i", (text, line) => {
    const found = validateCard(text, FILES)
    expect(found[0]).toMatchObject({ line })
    expect(found[0]!.rule).toMatch(/yaml|metadata/)
  })

  it("that is a bomb, deep, or long ends soon, in findings", () => {
    const laughs = Array.from(
      { length: 20 },
      (_, i) =>
        `a${i}: &a${i} [${
          i
            ? Array(9)
                .fill(`*a${i - 1}`)
                .join(",")
            : "lol"
        }]`,
    )
    for (const yaml of [
      laughs.join("\n"),
      `a: ${"[".repeat(20_000)}`,
      "- ".repeat(20_000),
      `a: ${"x".repeat(2 ** 19)}`,
      "license: &a [*a]",
    ]) {
      const begun = cpuMs()
      expect(validateCard(`---\n${yaml}\n---\n# m\n`, FILES).length).toBeGreaterThan(0)
      expect(cpuMs() - begun).toBeLessThan(5000)
    }
    expect(validateCard(`---\nlicense: mit\n---\n${"x ".repeat(2 ** 19)}`, FILES)).toMatchObject([{ rule: "size" }])
    expect(validateCard(`---\nlicense: mit\n---\n${"[a](b)\n".repeat(1000)}`, FILES)).toHaveLength(200)
  })
})

const TEXT: readonly (readonly [line: string, rule: string, said?: RegExp])[] = [
  ["[a](missing.md)", "link", /"missing\.md" is not there/],
  ["![a](Curves.svg)", "link"],
  ["[a](../other/README.md)", "link", /leaves the repository/],
  ["[a](docs/../../x)", "link", /leaves/],
  ["[a](/etc/passwd)", "link", /root of a website/],
  ["[a](<missing file.md>)", "link"],
  ["[a](%zz)", "link", /escapes/],
  ["[b]: missing.md", "link"],
  ["<img alt='' src='missing.png'>", "link"],
  ["trained in /home/me/runs/1", "private-path", /\/home\/me\/runs\/1/],
  ["    --data /mnt/data/imagenet", "private-path"],
  ["`C:\\Users\\me\\runs`", "private-path"],
  ["see ~/runs/a", "private-path"],
  ["`--out=/scratch/me/out`", "private-path"],
  ["[a](file:///x/y)", "private-path"],
  ["<script>alert(1)</script>", "html"],
  ['<img src="curves.svg" onerror="x()">', "html"],
  ["[a](javascript:alert(1))", "html"],
  ["{{accuracy}}", "placeholder"],
  ["- **Developed by:** [More Information Needed]", "placeholder"],
  [`token hf_${"aBcD".repeat(8)}`, "secret", /a Hugging Face token/],
  [`\`hf_${"aBcD".repeat(8)}\``, "secret"],
  [Buffer.from(`x hf_${"aBcD".repeat(8)}`).toString("base64"), "secret"],
  ["https://me:password@example.org/x", "secret", /password/],
  [`ghp_${"a1".repeat(18)}`, "secret"],
  ["-----BEGIN RSA PRIVATE KEY-----", "secret"],
] // prettier-ignore

describe("the text", () => {
  it.each(TEXT)("%s", (line, rule, said = /./) => {
    const found = validateCard(`${SOUND}\n${line}\n`, FILES)
    expect(found).toMatchObject([
      { rule, key: "", line: SOUND.split("\n").length + 1, what: expect.stringMatching(said) },
    ])
  })

  it("is looked at for secrets and paths inside code too, where links are none", () => {
    const inside = (line: string) => validateCard(`${SOUND}\n~~~sh\n${line}\n~~~\n`, FILES).map(({ rule }) => rule)
    expect(inside(`--token hf_${"aBcD".repeat(8)}`)).toEqual(["secret"])
    expect(inside("cd /root/x")).toEqual(["private-path"])
    expect(inside("[a](missing)")).toEqual([])
  })

  it("is looked at for secrets in other forms: base64 of any length, in lines, in a longer text; escapes of escapes", () => {
    const key = `hf_${"aBcD".repeat(8)}`
    const base64 = (text: string) => Buffer.from(text).toString("base64")
    const long = base64(`${"some text, ".repeat(900)}${key}`)
    const escaped = encodeURIComponent(key.replace("_", "%5F"))
    for (const form of [base64(key), long, long.replace(/.{76}/g, "$&\r\n"), escaped, `my_${key}`])
      expect(secretIn(`a: ${form}`), form.slice(0, 80)).toBe("a Hugging Face token")
  })

  it("must be there", () => {
    expect(validateCard("---\nlicense: mit\n---\n", FILES)).toMatchObject([{ rule: "text" }])
  })

  it.each([
    "https://example.org/home/me/x",
    "a/b/c and 1/2",
    "docs/home/x.md",
    "[a](https://x.org/tmp/y)",
    "hf_hub_download(repo)",
    "the hf_transfer package",
    "w3c://x",
    "10:30, C: and D",
  ])("%s is no secret and no path", (text) => {
    expect(privatePathIn(text)).toBeUndefined()
    expect(secretIn(text)).toBeUndefined()
  })

  it("of any bytes is no reason to fail, and takes no long", () => {
    const begun = cpuMs()
    for (const piece of ["[a](", "](", "<img ", "`", "```\n", "{{", "on", "%", "=/", "<", "((", "hf_", "\\", "A"])
      validateCard(`---\nlicense: mit\n---\n${piece.repeat(100_000 / piece.length)}`, FILES)
    expect(cpuMs() - begun).toBeLessThan(10_000)
  })
})

describe("Python's huggingface_hub", () => {
  interface Case {
    what: string
    block: string
    value?: unknown
    error?: string
  }
  const { cases } = JSON.parse(readFileSync(join(root, "test/fixtures/cards/verdicts.json"), "utf8")) as {
    cases: Case[]
  }
  /** As the fixture has what JSON has not. */
  const plain = (value: unknown): unknown => {
    if (value instanceof Date) return { date: value.toISOString().slice(0, 10) }
    if (value === Infinity) return { infinity: "inf" }
    if (Array.isArray(value)) return value.map(plain)
    if (typeof value !== "object" || value === null) return value
    return Object.fromEntries(Object.entries(value).map(([key, item]) => [key, plain(item)]))
  }

  it.each(cases)("$what", ({ block, value, error }) => {
    if (error !== undefined) expect(validateCard(`---\n${block}---\n# m\n`, FILES).length).toBeGreaterThan(0)
    if (value !== undefined) expect(plain(readYaml(block).python)).toEqual(value)
  })

  it("refuses and takes enough of these", () => {
    expect(cases.filter((c) => c.error).length).toBeGreaterThan(15)
    expect(cases.filter((c) => !c.error).length).toBeGreaterThan(10)
  })
})
