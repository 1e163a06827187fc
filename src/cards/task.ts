/** @file What a model is for: the Hub's name of the task (https://huggingface.co/tasks) and the words for it. */
import type { GlobalConfig } from "../configs/index.ts"
import { type ModelConfig, nTokens } from "../model/config.ts"
import { count, counted } from "./markdown.ts"

export interface Task {
  /** As the Hub calls it. */
  readonly name: "image-classification" | "zero-shot-image-classification" | "image-feature-extraction" | "other"
  /** "sorts images into 10 classes" */
  readonly does: string
  /** The output that answers. */
  readonly output: string
}

export const classes = (n: number): string => (n === 1 ? "1 class" : `${count(n)} classes`)

export function taskOf({ vision, text, dual }: ModelConfig, training: GlobalConfig | undefined): Task {
  if (dual && text) {
    const does = "that says how well images and texts go together"
    return { name: "zero-shot-image-classification", does, output: "image_embeds" }
  }
  if (vision.reconstructs) {
    const what =
      vision.reconstructs === "masked" ? "fills in hidden patches of an image" : "gives back the pixels of an image"
    return { name: "other", does: `that ${what}`, output: "reconstruction" }
  }
  if (vision.nClasses && training?.training.loss_fn_name === "MSE") {
    return {
      name: "other",
      does: `that estimates ${counted(vision.nClasses, "number")} from an image`,
      output: "logits",
    }
  }
  if (vision.nClasses) {
    return {
      name: "image-classification",
      does: `that sorts images into ${classes(vision.nClasses)}`,
      output: "logits",
    }
  }
  const output =
    vision.outputs.find((name) => name === "image_embeds" || name === "pooler_output") ?? "last_hidden_state"
  const does =
    output === "image_embeds"
      ? `turns an image into ${vision.dProjection} numbers`
      : `turns an image into ${nTokens(vision)} tokens of width ${vision.dModel}`
  return { name: "image-feature-extraction", does: `that ${does}`, output }
}
