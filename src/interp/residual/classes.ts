/** @file Classes by index or name. */
import { fail, listed, nearest } from "../../errors.ts"
import type { ModelConfig } from "../../model/config.ts"
import { quote } from "../../tensor/quote.ts"

/** An index, or a label or one of its comma-separated names ("tench" of "tench, Tinca tinca"), in any case. */
export type ClassName = number | string

/** The index of a class. Errors: E_INPUT for one that does not exist, with the range or the nearest, and for a name of several. */
export function classIndex({ vision, labels }: ModelConfig, wanted: ClassName): number {
  const n = vision.nClasses
  const index = typeof wanted === "number" || /^\d+$/.test(wanted) ? Number(wanted) : undefined
  // A digit may be a label too (MNIST's "7"), and there stands for the class of that name.
  const named = typeof wanted === "string" ? labelled(labels, wanted) : []
  if (named.length === 1) return named[0]!
  if (named.length > 1) {
    const which = listed(named.map((i) => `${i} (${quote(labels[i]!)})`))
    return fail("E_INPUT", `the class ${quote(String(wanted))} is ambiguous: ${which}; give the index`)
  }
  if (index !== undefined) {
    return Number.isInteger(index) && index >= 0 && index < n
      ? index
      : fail("E_INPUT", `there is no class ${index}; the model has classes 0 to ${n - 1}`)
  }
  if (!labels.length) return fail("E_INPUT", `the model names no classes; give an index from 0 to ${n - 1}`)
  const near = nearest(String(wanted).slice(0, 100), labels.map(String)).map(quote).join(", ")
  return fail("E_INPUT", `there is no class ${quote(String(wanted))}; the nearest of ${labels.length} are ${near}`)
}

/** Those with exactly this label; without one, those that have it among their names. */
function labelled(labels: readonly string[], wanted: string): number[] {
  const fold = (text: string): string => text.trim().toLowerCase()
  const where = (test: (label: string) => boolean): number[] => labels.flatMap((l, i) => (test(l) ? [i] : []))
  const exact = where((l) => fold(l) === fold(wanted))
  return exact.length ? exact : where((l) => l.split(",").some((part) => fold(part) === fold(wanted)))
}

/** What a class is called in a report. */
export const className = ({ labels }: ModelConfig, index: number): string => labels[index] ?? String(index)
