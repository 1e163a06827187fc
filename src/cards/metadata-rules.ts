/** @file Rules of the Hub's metadata, a table by key; what a rule sees it reports with its place in the block. */
import { PrismaError } from "../errors.ts"
import { repoId } from "../files/paths.ts"
import { quote } from "../tensor/quote.ts"
import type { Path, Block } from "./front-matter.ts"
import { isLanguage, LICENSES, RELATIONS, TASKS } from "./vocabulary.ts"
import { isRecord } from "../tensor/record.ts"

/** Told what is wrong at a place and what to do about it. */
export type Report = (path: Path, what: string, todo: string) => void

interface Seen {
  readonly path: Path
  readonly value: unknown
  /** As Python reads it. */
  readonly python: unknown
  readonly report: Report
}

type Rule = (seen: Seen) => void

const shown = (value: unknown): string =>
  typeof value === "string" ? quote(value) : quote(JSON.stringify(value) ?? String(value)).slice(1, -1)

/** A text, by both versions of YAML, that `test` takes. */
const text =
  (what: string, test: (value: string) => boolean = () => true, todo = `write ${what}`): Rule =>
  ({ path, value, python, report }) => {
    if (typeof value !== "string") return report(path, `must be ${what}, got ${shown(value)}`, todo)
    if (typeof python !== "string") {
      return report(path, `${shown(value)} without quotes is ${shown(python)} to Python`, `write "${value}" in quotes`)
    }
    if (value.trim() === "") return report(path, `must be ${what}, got an empty text`, todo)
    if (!test(value)) report(path, `must be ${what}, got ${shown(value)}`, todo)
  }

const below = (seen: Seen, key: string | number): Seen => ({
  path: [...seen.path, key],
  value: (seen.value as Record<string | number, unknown>)[key],
  python: (seen.python as Record<string | number, unknown> | null | undefined)?.[key],
  report: seen.report,
})

const list =
  (rule: Rule, what: string): Rule =>
  (seen) => {
    if (!Array.isArray(seen.value))
      return seen.report(
        seen.path,
        `must be a list of ${what}, got ${shown(seen.value)}`,
        "write a list: one line with a dash for each",
      )
    seen.value.forEach((_, i) => rule(below(seen, i)))
  }

const oneOrMore =
  (rule: Rule, what: string): Rule =>
  (seen) =>
    (Array.isArray(seen.value) ? list(rule, what) : rule)(seen)

const isMap = (value: unknown): value is Readonly<Record<string, unknown>> =>
  isRecord(value) && !(value instanceof Date)

type Keys = Readonly<Record<string, Rule>>

/** A map with these keys; others are let be. */
const map =
  (what: string, needed: Keys, optional: Keys = {}): Rule =>
  (seen) => {
    const { path, value, report } = seen
    if (!isMap(value))
      return report(path, `must be ${what}, got ${shown(value)}`, `write ${what}: ${Object.keys(needed).join(", ")}`)
    for (const [key, rule] of Object.entries(needed)) {
      if (isAbsent(value, key)) report(path, `${key} is missing`, `add ${key} to ${what}`)
      else rule(below(seen, key))
    }
    for (const [key, rule] of Object.entries(optional)) if (!isAbsent(value, key)) rule(below(seen, key))
  }

const isAbsent = (value: Readonly<Record<string, unknown>>, key: string): boolean =>
  !Object.hasOwn(value, key) || value[key] === null

function isRepoId(value: string): boolean {
  try {
    return repoId(value) === value
  } catch (error) {
    if (error instanceof PrismaError) return false
    throw error
  }
}

const isUrl = (value: string): boolean => /^https?:\/\/[^\s/]+/.test(value) && URL.canParse(value)
const url = text("a URL that begins with https://", isUrl)
const anyText = text("a text")

const flag: Rule = ({ path, value, report }) => {
  if (typeof value !== "boolean") report(path, `must be true or false, got ${shown(value)}`, "write true or false")
}

const metricValue: Rule = ({ path, value, python, report }) => {
  const fits = (x: unknown): boolean =>
    typeof x === "number" ? Number.isFinite(x) : typeof x === "string" ? x.trim() !== "" : isMap(x) || Array.isArray(x)
  if (typeof value === "number" && typeof python === "string") {
    report(path, `${python} is a text to Python`, "write a point and a sign: 1.0e-7")
  } else if (!fits(value))
    report(path, `must be a number, got ${shown(value)}`, "write what was measured, or take the metric out")
}

const metric = map(
  "a metric",
  { type: text("a metric's id, as accuracy"), value: metricValue },
  {
    name: anyText,
    config: anyText,
    verified: (seen) => {
      flag(seen)
      if (seen.value === true) seen.report(seen.path, "only the Hub's own evaluation is verified", "take verified out")
    },
  },
)

const result = map(
  "a result",
  {
    task: map("a task", { type: text("a task's id, as image-classification") }, { name: anyText }),
    dataset: map(
      "a dataset",
      { type: text("a dataset's id"), name: anyText },
      { config: anyText, split: anyText, revision: text("a revision") },
    ),
    metrics: (seen) => {
      list(metric, "metrics")(seen)
      if (Array.isArray(seen.value) && !seen.value.length)
        seen.report(seen.path, "has no metric", "add what was measured, or take the result out")
    },
  },
  { source: map("a source", { url }, { name: anyText }) },
)

const modelIndex: Rule = (seen) => {
  list(map("a model", { name: anyText, results: list(result, "results") }), "models")(seen)
  if (!Array.isArray(seen.value)) return
  if (!seen.value.length) seen.report(seen.path, "is empty", "add a model with its results, or take it out")
  if (seen.value.length > 1)
    seen.report(
      [...seen.path, 1],
      "has more than one model; the Hub's library reads the first alone",
      "keep one model in a card",
    )
}

const ID = "use an id as on https://huggingface.co: owner/name"

/** Every key that the Hub knows by kind; keys that it does not know are the author's own. */
const KEYS: Keys = {
  license: oneOrMore(
    text(
      "a licence identifier",
      (v) => LICENSES.has(v),
      "see https://huggingface.co/docs/hub/repositories-licenses; for any other write other, with license_name and license_link",
    ),
    "licences",
  ),
  license_name: text(
    "a name of lower-case letters, digits, - and .",
    (v) => /^[a-z0-9][a-z0-9.-]*$/.test(v),
    "write a name such as my-license-1.0",
  ),
  license_link: text("LICENSE, LICENSE.md or a URL", (v) => /^LICENSE(\.md|\.txt)?$/.test(v) || isUrl(v)),
  library_name: text("a library's name", (v) => /^[\w.+-]+$/.test(v)),
  pipeline_tag: text(
    "a task of the Hub",
    (v) => TASKS.has(v),
    "take one of https://huggingface.co/tasks, as image-classification",
  ),
  language: oneOrMore(
    text("a language code of ISO 639", isLanguage, "write en, fr, deu, ..., code or multilingual"),
    "languages",
  ),
  tags: list(anyText, "texts"),
  datasets: oneOrMore(text("a dataset's id", isRepoId, ID), "datasets"),
  metrics: oneOrMore(
    text("a metric's id", (v) => /^[\w./ +@-]+$/.test(v), "use an id as accuracy"),
    "metrics",
  ),
  base_model: oneOrMore(text("a model's id", isRepoId, ID), "models"),
  base_model_relation: text("finetune, adapter, merge or quantized", (v) => RELATIONS.has(v)),
  new_version: text("a model's id", isRepoId, ID),
  model_name: anyText,
  thumbnail: anyText,
  inference: ({ path, value, report }) => {
    if (typeof value !== "boolean" && !isMap(value))
      report(path, `must be true, false or parameters, got ${shown(value)}`, "take it out")
  },
  widget: (seen) => {
    if (seen.value !== false) list(map("an example", {}), "examples")(seen)
  },
  "model-index": modelIndex,
}

/** All that is wrong with a block that could be read. */
export function checkMetadata({ value, python }: Block, report: Report): void {
  if (value === null || value === undefined)
    return report([], "the metadata block is empty", "add license, library_name, pipeline_tag, ...")
  if (!isMap(value))
    return report([], `must be keys with values, got ${shown(value)}`, "write one key a line, as license: mit")
  const seen: Seen = { path: [], value, python, report }
  map("metadata", {}, KEYS)(seen)
  for (const key of Object.keys(value)) {
    if (value[key] === null && Object.hasOwn(KEYS, key))
      report([key], "has no value", "give it one, or take the key out")
  }
  const needs = (key: string, other: string, why: string) => {
    if (!isAbsent(value, key) && isAbsent(value, other)) report([key], why, `add ${other}`)
  }
  if (value["license"] === "other") needs("license", "license_name", "other says nothing without license_name")
  needs("license_name", "license", "stands without license")
  if (!isAbsent(value, "license_name") && !isAbsent(value, "license") && value["license"] !== "other") {
    report(["license_name"], "stands beside a licence that has a name", "take it out, or write license: other")
  }
  needs("base_model_relation", "base_model", "stands without base_model")
}
