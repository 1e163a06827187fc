/** @file The Hub's metadata that follows from the facts (https://github.com/huggingface/hub-docs/blob/main/modelcard.md). */
import { isOriginal, knownDataset } from "./datasets.ts"
import type { CardFacts } from "./facts.ts"
import { count } from "./markdown.ts"
import { taskOf } from "./task.ts"
import { type TestResult, testOf } from "./text-training.ts"

/** Keys whose lists are joined with what the card's author has there. */
export const JOINED: ReadonlySet<string> = new Set(["tags", "datasets"])

/** What is not known is undefined: a licence never follows from the files. */
export function metadataOf(facts: CardFacts): Readonly<Record<string, unknown>> {
  const { model, training, exported, transformers, files } = facts
  const task = taskOf(model, training)
  const test = testOf(facts)
  const onnx = exported && files.has("onnx")
  const hub = training && hubId(training.data.name, "train", facts.result?.fingerprints.get("train"))
  return {
    library_name: "vit-prisma",
    pipeline_tag: task.name === "other" ? undefined : task.name,
    tags: [
      "vision-transformer",
      "interpretability",
      ...(transformers === undefined ? [] : ["transformers"]),
      ...(onnx ? ["onnx", "transformers.js"] : []),
    ],
    base_model: exported?.commit === undefined ? undefined : exported.name,
    datasets: hub === undefined ? undefined : [hub],
    metrics: test && [test.accuracy === undefined ? "mse" : "accuracy"],
    "model-index": test && [{ name: facts.name, results: [resultOf(facts, test)] }],
  }
}

function resultOf(facts: CardFacts, test: TestResult): object {
  const known = knownDataset(test.dataset)
  const own = known && isOriginal(known, "test", test.fingerprint) !== false
  const type = hubId(test.dataset, "test", test.fingerprint) ?? slug(test.dataset)
  const whole = own && known.original?.test.images === test.n
  const title = own ? known.title : test.dataset
  const { accuracy, loss } = test
  const metrics =
    accuracy === undefined
      ? [{ type: "mse", value: rounded(loss), name: "Mean squared error" }]
      : [
          { type: "accuracy", value: accuracy, name: "Accuracy" },
          { type: "loss", value: rounded(loss), name: "Cross entropy" },
        ]
  return {
    task: { type: taskOf(facts.model, facts.training).name },
    dataset: {
      type,
      name: whole || test.n === undefined ? title : `${title} (${count(test.n)} images)`,
      split: slug(test.split),
    },
    metrics,
  }
}

/** Nine digits are what a float32 has. */
const rounded = (x: number): number => Number(x.toPrecision(9))

function hubId(name: string, part: "train" | "test", fingerprint: string | undefined): string | undefined {
  const known = knownDataset(name)
  return known && isOriginal(known, part, fingerprint) !== false ? known.hub : undefined
}

/** What a dataset is called where it has no id: letters, digits, - _ and . of its name here. */
const slug = (name: string): string =>
  name
    .split("/")[0]!
    .replace(/[^\w.-]+/g, "-")
    .replace(/^-+|-+$/g, "")
    .slice(0, 96) || "unnamed"
