/** @file What a command measures: --class, --against, --text, --text-embeds, --metric, or what an image is taken for. */
import { fail } from "../errors.ts"
import type { LoadedViT } from "../hub/load-pretrained.ts"
import type { Metric } from "../interp/gradients.ts"
import { classMetric, similarityMetric } from "../interp/inputs/metrics.ts"
import { classIndex, className } from "../interp/residual/classes.ts"
import type { Tensor } from "../tensor/tensor.ts"
import { predictions } from "./run.ts"
import { textsOf } from "./text-embeds.ts"

export interface MetricOptions {
  readonly class?: string
  readonly against?: string
  readonly text?: string
  readonly textEmbeds?: string
  readonly metric?: string
}

export interface Named {
  /** A class, a text, or the metric as it was written. */
  readonly of: string
  readonly what: "logit" | "similarity" | "metric"
  readonly metric: Metric
}

/** The metric that the options name, which may be each image's most probable class. Errors: E_USAGE, E_INPUT. */
export async function metrics(model: LoadedViT, options: MetricOptions): Promise<(pixels: Tensor) => Promise<Named>> {
  const { class: wanted, against, metric, text, textEmbeds } = options
  if ([wanted, metric, text ?? textEmbeds].filter((x) => x !== undefined).length > 1) {
    fail("E_USAGE", "give one of --class, --metric, --text and --text-embeds: each names another output")
  }
  if (against !== undefined && wanted === undefined) fail("E_USAGE", "--against wants --class")
  const always = (named: Named) => () => Promise.resolve(named)
  if (metric !== undefined) return always({ of: metric, what: "metric", metric })
  if (wanted !== undefined) {
    if (!model.outputNames.includes("logits")) noLogits(model)
    const called = (name: string) => className(model.config, classIndex(model.config, name))
    const of = against === undefined ? called(wanted) : `${called(wanted)} - ${called(against)}`
    return always({ of, what: "logit", metric: classMetric(model, wanted, against) })
  }
  const texts = await textsOf(model, {
    ...(text !== undefined && { text: [text] }),
    ...(textEmbeds !== undefined && { textEmbeds }),
  })
  if (texts) {
    if (texts.names.length !== 1) fail("E_INPUT", `${textEmbeds}: holds ${texts.names.length} texts; one is measured`)
    return always({ of: texts.names[0]!, what: "similarity", metric: similarityMetric(model, texts.embeds) })
  }
  if (!model.outputNames.includes("logits")) noLogits(model)
  return async (pixels) => {
    const { logits } = await model.run(pixels, { outputs: "logits" })
    const { label, index } = predictions(model, logits, 0, 1)[0]!
    return { of: label, what: "logit", metric: classMetric(model, index) }
  }
}

/** Error: E_USAGE, naming what the model has instead. */
export function noLogits({ source, outputNames: outputs, config }: LoadedViT): never {
  const one = ["pooler_output", "image_embeds"].find((name) => outputs.includes(name))
  const metric = one ? `${one}[:, 0]` : "last_hidden_state[:, 0, 0]"
  const texts = outputs.includes("image_embeds") ? `, or ${config.text ? "--text" : "--text-embeds"}` : ""
  return fail(
    "E_USAGE",
    `${source.name} has no class logits; it gives ${outputs.join(", ")}: give --metric, as "${metric}"${texts}`,
  )
}
