/** @file summary.csv, one row for each evaluation, with the columns that timm's training script writes
 * (https://github.com/huggingface/pytorch-image-models/blob/main/timm/utils/summary.py). */
import { isEvaluation, metricName } from "./names.ts"

/** The part of a run that was held out is timm's `eval`; its accuracies are called top1 and given in percent. */
const PREFIX = { train: "train_", test: "eval_", val: "val_" } as const
const ORDER = ["epoch", "step", "train_", "eval_", "val_"]

interface Column {
  readonly name: string
  readonly title: string
  readonly factor: number
}

/** Takes the values of each step in turn and gives what is to be appended to the file, if anything: the columns are those
 * known at the first evaluation, and values that were not measured again are the last ones. */
export function summary(): (step: number, values: Iterable<readonly [string, number]>) => string | undefined {
  const latest = new Map<string, number>()
  let columns: readonly Column[] | undefined

  return (step, values) => {
    const names: string[] = []
    for (const [name, value] of values) {
      latest.set(name, value)
      names.push(name)
    }
    if (!isEvaluation(names)) return undefined
    const header = columns === undefined
    columns ??= columnsOf(["step", ...latest.keys()])
    latest.set("step", step)
    const row = columns.map(({ name, factor }) => number((latest.get(name) ?? NaN) * factor))
    return `${header ? `${columns.map((c) => cell(c.title)).join(",")}\n` : ""}${row.join(",")}\n`
  }
}

function columnsOf(names: readonly string[]): readonly Column[] {
  const columns = names.map((name): Column => {
    const { series, metric } = metricName(name)
    if (series === undefined) return { name, title: name, factor: 1 }
    const [title, factor] = metric === "accuracy" ? (["top1", 100] as const) : ([metric, 1] as const)
    return { name, title: PREFIX[series] + title, factor }
  })
  const rank = ({ title }: Column) => ORDER.findIndex((start) => title.startsWith(start)) + 1 || ORDER.length + 1
  return columns.sort((a, b) => rank(a) - rank(b))
}

/** As RFC 4180 has it. */
const cell = (text: string): string => (/[",\r\n]/.test(text) ? `"${text.replaceAll('"', '""')}"` : text)

/** 12 digits hide what a factor of 100 does to the last bits of a fraction. */
const number = (x: number): string => (Number.isFinite(x) ? String(Number(x.toPrecision(12))) : "")
