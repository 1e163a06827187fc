/** @file What a card says first and last: what the model is for, how it is loaded, where it ends, whose it is. */
import type { CardFacts } from "./facts.ts"
import type { Port } from "./facts-export.ts"
import { knownDataset } from "./datasets.ts"
import { block, code, count, counted, figure, names, percent, prose, table } from "./markdown.ts"
import { dataWords, testOf } from "./text-training.ts"
import { casesOf } from "./interval.ts"
import { classes, taskOf } from "./task.ts"

export interface UseOptions {
  /** The repo it is or will be in, "owner/name". */
  readonly repo?: string | undefined
  /** Licence identifier, or its name where it is "other", as the card's metadata has it. */
  readonly license?: string | undefined
}

type Texts = Readonly<Record<string, string | undefined>>

export function useTexts(facts: CardFacts, { repo, license }: UseOptions): Texts {
  // What stands in a program must be that string in any language, and a path in any shell.
  const where = repo ?? (/^\w[\w.-]*$/.test(facts.name) ? `./${facts.name}` : "./model")
  const runs = facts.preprocessing && taskOf(facts.model, facts.training).name === "image-classification"
  return {
    title: prose(facts.name),
    summary: [purpose(facts), origin(facts), success(facts)].filter(Boolean).join(" "),
    cli: block("sh", ...(runs ? [`npx vit-prisma run ${where} image.png`] : []), `npx vit-prisma info ${where}`),
    load: loadText(facts, where),
    transformers: transformersText(facts, where),
    transformersJs: transformersJsText(facts, where),
    source: sourceText(facts),
    inputs: portsText(facts.exported?.inputs, "input"),
    exportedOutputs: portsText(facts.exported?.outputs, "output"),
    parity: parityText(facts),
    limits: limits(facts),
    license: licenseText(facts, license),
    citation: citation(facts),
  }
}

const purpose = ({ model, training, parameters }: CardFacts): string => {
  const { vision, text } = model
  const kind = training
    ? "A small vision transformer"
    : text
      ? "A vision transformer and a text tower"
      : "A vision transformer"
  return `${kind} (${counted(vision.nLayers, "layer")}, ${count(parameters)} parameters) ${taskOf(model, training).does}.`
}

function origin(facts: CardFacts): string {
  const { training, exported } = facts
  if (training) {
    const words = dataWords(facts)
    const on = words ? `${words.title}: ${words.what}` : `images of its own (${code(training.data.name || "unnamed")})`
    return `It was trained from random weights on ${on}.`
  }
  return exported ? `It is ${nameOf(facts)}, written as an ONNX graph beside its weights by vit-prisma.` : ""
}

const nameOf = ({ exported, name }: CardFacts): string =>
  exported?.commit === undefined
    ? code(exported?.name ?? name)
    : `[${prose(exported.name)}](https://huggingface.co/${exported.name})`

function success(facts: CardFacts): string {
  const { n, accuracy } = testOf(facts) ?? {}
  if (accuracy === undefined) return ""
  const cases = n === undefined ? undefined : casesOf(accuracy, n)
  return cases === undefined
    ? `It is right on ${percent(accuracy)} of its test images.`
    : `It is right on ${count(cases)} of ${count(n!)} test images (${percent(accuracy)}).`
}

function loadText({ model, preprocessing }: CardFacts, where: string): string {
  const { vision } = model
  const shape = ["batch", vision.nChannels, ...vision.imageSize].join(", ")
  const output = taskOf(model, undefined).output
  const images = preprocessing ? ['const images = await model.images("image.png")'] : [`// images: a tensor [${shape}]`]
  return block(
    "js",
    'import { loadPretrained } from "vit-prisma"',
    "",
    `const model = await loadPretrained("${where}")`,
    ...images,
    `const { ${output} } = await model.run(images)`,
    'const { cache } = await model.runWithCache(images, { names: "blocks.*.attn.hook_pattern" })',
  )
}

function transformersText({ transformers, files, model, preprocessing }: CardFacts, where: string): string | undefined {
  if (transformers === undefined) return undefined
  const auto = transformers.endsWith("ForImageClassification") ? "AutoModelForImageClassification" : "AutoModel"
  const load = `model = ${auto}.from_pretrained("${where}")`
  if (!files.has("preprocessor_config.json") || !preprocessing) {
    return block("python", `from transformers import ${auto}`, "", load)
  }
  const run = [
    `image = Image.open("image.png").convert("${preprocessing.channels === 1 ? "L" : "RGB"}")`,
    'outputs = model(**processor(image, return_tensors="pt"))',
  ]
  return block(
    "python",
    "from PIL import Image",
    `from transformers import AutoImageProcessor, ${auto}`,
    "",
    `processor = AutoImageProcessor.from_pretrained("${where}")`,
    load,
    ...(model.text ? [] : run),
  )
}

/** Its image processors make three channels, whatever the file says. */
function transformersJsText({ exported, files, model, preprocessing }: CardFacts, where: string): string | undefined {
  if (!exported || !files.has("onnx")) return undefined
  const { vision, text } = model
  const classifies = vision.nClasses > 0 && preprocessing?.channels === 3 && !text
  const lines = classifies
    ? [
        'import { pipeline } from "@huggingface/transformers"',
        "",
        `const classify = await pipeline("image-classification", "${where}", { dtype: "fp32" })`,
        'await classify("image.png")',
      ]
    : [
        'import { AutoModel } from "@huggingface/transformers"',
        "",
        `const model = await AutoModel.from_pretrained("${where}", { dtype: "fp32" })`,
      ]
  return block("js", ...lines)
}

function sourceText(facts: CardFacts): string | undefined {
  const { exported } = facts
  if (!exported) return undefined
  const commit = exported.commit === undefined ? "" : ` at commit ${code(exported.commit)}`
  const version = exported.version === undefined ? "" : ` (${code(exported.version)})`
  const { weights, unused } = exported
  const chosen =
    weights !== undefined && unused.length
      ? `, from ${code(weights)}, which goes before ${names(unused)} beside it`
      : ""
  return `${nameOf(facts)}${commit}, converted with vit-prisma${version}; weights unchanged${chosen}`
}

/** Ports that are shown; a model with every hook put out has hundreds. */
const PORTS = 24

function portsText(ports: readonly Port[] | undefined, what: string): string | undefined {
  if (!ports?.length) return undefined
  const rows = ports
    .slice(0, PORTS)
    .map(({ name, shape, replaces }) => [
      code(name),
      code(`[${shape.join(", ")}]`),
      replaces === undefined ? "" : `replaces ${code(replaces)}; fed with an empty first axis, nothing changes`,
    ])
  const full = rows.some(([, , note]) => note !== "")
  const shown = table([what, "shape", ...(full ? [""] : [])], full ? rows : rows.map((row) => row.slice(0, 2)))
  const rest = ports.length - PORTS
  return rest > 0 ? `${shown}\n\nand ${counted(rest, `${what} more`)}: see [manifest.json](manifest.json).` : shown
}

function parityText({ exported, files }: CardFacts): string | undefined {
  const { certificate } = exported ?? {}
  if (!certificate) return undefined
  const { values, worst, name, tolerance } = certificate
  const whose = name === undefined ? "" : `, at ${code(name)}`
  const limit = tolerance === undefined ? "" : ` (certified up to ${tolerance})`
  const report = files.has("certificate.json") ? " Value by value: [certificate.json](certificate.json)." : ""
  return `On a random input, ${counted(values, "value")} of the ONNX file run by onnxruntime were compared with an implementation in float64 that shares no code with it. The greatest difference, max |a - b| / max(1, max |b|), is **${figure(worst, 3)}**${whose}${limit}.${report}`
}

/** What follows from the facts alone; what else is known only its author can say. */
function limits(facts: CardFacts): string {
  const { model, training, result, exported } = facts
  const test = testOf(facts)
  const found = [
    model.vision.nClasses &&
      taskOf(model, training).name === "image-classification" &&
      `Whatever the image, the answer is one of ${classes(model.vision.nClasses)}.`,
    training && dataWords(facts)
      ? `It was trained and tested on ${dataWords(facts)!.title} alone; nothing was measured on other images.`
      : training && "It was trained and tested on one dataset alone; nothing was measured on other images.",
    training &&
      result &&
      `It is one run with one seed (${result.seed ?? training.training.seed}): how much other seeds differ was not measured.`,
    test?.n !== undefined && test.n < 1000 && `The test set is small: ${counted(test.n, "image")}.`,
    exported && "What the original can and cannot do, and on what it was trained, its own card says.",
    exported && !test && "Accuracy was not measured here: parity is of numbers, not of answers.",
    !model.vision.nClasses && !model.dual && !training && "It has no classifier: what it gives are features.",
  ].filter((line) => typeof line === "string")
  return found.map((line) => `- ${line}`).join("\n")
}

function licenseText({ exported }: CardFacts, license: string | undefined): string {
  if (license !== undefined) return `${code(license)}.`
  const source = exported && " The licence of what it was converted from holds; the files here do not record it."
  return `Not stated.${source ?? ""}`
}

const VIT = `@inproceedings{dosovitskiy2021image,
  title     = {An Image is Worth 16x16 Words: Transformers for Image Recognition at Scale},
  author    = {Dosovitskiy, Alexey and Beyer, Lucas and Kolesnikov, Alexander and Weissenborn, Dirk and Zhai, Xiaohua and
               Unterthiner, Thomas and Dehghani, Mostafa and Minderer, Matthias and Heigold, Georg and Gelly, Sylvain and
               Uszkoreit, Jakob and Houlsby, Neil},
  booktitle = {International Conference on Learning Representations},
  year      = {2021},
  note      = {arXiv:2010.11929}
}`

/** Works that it is made of; what cites the model itself its author adds. */
function citation(facts: CardFacts): string | undefined {
  const { training } = facts
  if (!training) return undefined
  const data = dataWords(facts) && knownDataset(training.data.name)?.citation
  return block("bibtex", VIT, ...(data ? ["", data] : []))
}
