/** @file vit-prisma convert: a checkpoint as a folder for transformers.js and onnxruntime. */
import { convertModel } from "../export/convert.ts"
import { fail } from "../errors.ts"
import type { ListOptions } from "./batch-convert.ts"
import { counted, loadModel, note, print, printJson, warn, type ModelOptions } from "./output.ts"

export interface ConvertOptions extends ModelOptions {
  readonly out: string
  readonly hooks?: readonly string[]
  readonly inputs?: readonly string[]
  readonly certify?: boolean
  readonly tolerance: number
  readonly force?: boolean
}

export async function convert(name: string | undefined, options: ConvertOptions & ListOptions): Promise<void> {
  const { from } = options
  if ((name === undefined) === (from === undefined))
    fail("E_USAGE", "give either a model or --from FILE, a list of models")
  if (from !== undefined) return (await import("./batch-convert.ts")).convertList({ ...options, from })
  for (const key of ["push", "private", "shard", "queue", "cancel"] as const) {
    if (options[key] !== undefined) fail("E_USAGE", `--${key} is for lists of models; give --from FILE`)
  }
  return convertOne(name!, options)
}

async function convertOne(name: string, options: ConvertOptions): Promise<void> {
  const model = await loadModel(name, options)
  const { folder, warnings, certificate } = await convertModel(model, options.out, {
    ...(options.hooks?.length && { hooks: options.hooks }),
    ...(options.inputs?.length && { inputs: options.inputs }),
    certify: options.certify ?? false,
    tolerance: options.tolerance,
    force: options.force ?? false,
    onProgress: (step, done, total) => process.stderr.isTTY && done < total && note(`${step}: ${done + 1} of ${total}`),
  })
  for (const warning of warnings) if (!model.warnings.includes(warning)) warn(warning, options)
  const worst = certificate?.values.reduce((a, b) => (b.error > a.error ? b : a))
  if (options.format === "json") return printJson({ folder, warnings, ...(certificate && { certificate }) })
  print(folder)
  if (certificate && worst) {
    note(
      `certified: ${counted(certificate.values.length, "value")}, the worst "${worst.name}" ${worst.error.toExponential(2)} from float64`,
    )
  }
}
