/** @file What a run returns: the outputs of the model's library, by name. */
import { fail } from "../errors.ts"
import type { Tensor } from "../tensor/tensor.ts"

const NAMES = [
  "logits",
  "last_hidden_state",
  "pooler_output",
  "image_embeds",
  "text_embeds",
  "logits_per_image",
  "logits_per_text",
  "cls_logits",
  "distillation_logits",
  "reconstruction",
] as const

/** Outputs and hooks that were asked for. An output that this model lacks is an error (E_HOOK) when it is read. */
export type Outputs = Readonly<Record<(typeof NAMES)[number], Tensor>> & Readonly<Record<string, Tensor>>

export function outputsOf(values: Readonly<Record<string, Tensor>>): Outputs {
  const outputs = { ...values }
  const absent = NAMES.filter((name) => !Object.hasOwn(values, name))
  for (const name of absent) {
    Object.defineProperty(outputs, name, {
      enumerable: false,
      get: () => fail("E_HOOK", `this run has no output "${name}"; it has ${Object.keys(values).join(", ")}`),
    })
  }
  return outputs as Outputs
}
