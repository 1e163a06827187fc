/** @file Weights processed as TransformerLens does, each step with the error that it introduces. */
import { fail, listed } from "../../errors.ts"
import type { VisionOutput } from "../../model/config.ts"
import type { Tensor } from "../../tensor/tensor.ts"
import type { ModelInput } from "../feeds.ts"
import { HookedViT } from "../hooked-vit.ts"
import { Draft } from "./draft.ts"
import { foldNorms } from "./norms.ts"
import { refactorAttention } from "./refactor.ts"
import { centreWriting, foldLayerScale, foldValueBiases } from "./writing.ts"

/** Done in this order. */
export interface FoldOptions {
  /** Weight and bias of each norm into the layers that read it (fold_ln). */
  readonly norms?: boolean
  /** LayerScale into the output weights. */
  readonly layerScale?: boolean
  /** Writing weights without their mean (center_writing_weights). */
  readonly centerWriting?: boolean
  /** Value biases into the output bias (fold_value_biases). */
  readonly valueBiases?: boolean
  /** W_Q W_K^T and W_V W_O in the form of their singular values (refactor_factored_attn_matrices). */
  readonly refactorAttention?: boolean
  /** Only these outputs of the vision tower: what is not put out need not stay the same. */
  readonly outputs?: readonly VisionOutput[]
  /** Run before and after each step, to measure it. */
  readonly inputs?: ModelInput
}

type Step = Exclude<keyof FoldOptions, "outputs" | "inputs">

export interface FoldStep {
  readonly step: Step
  /** max |difference| of each output on the given inputs, to the model before this step. */
  readonly error?: Readonly<Record<string, number>>
  /** Hooks whose meaning this step changes, with their new one; and what was left as it is. */
  readonly notes: readonly string[]
}

/** What each step does, in its order, and what it says. */
const STEPS: { readonly [S in Step]: (draft: Draft) => Promise<readonly string[]> } = {
  norms: async (draft) => {
    const { norms, kept } = await foldNorms(draft)
    if (!norms.length && !kept.length) return ["the model has no norms"]
    const hooks = norms.map((name) => name.replace(/\d+/, "*"))
    const said = [...new Set(hooks)].map(
      (name) => `${name}.hook_normalized is now (x - mean) / scale, without weight and bias`,
    )
    return [...said, ...kept.map((name) => `not folded: ${name}`)]
  },
  layerScale: async (draft) => {
    if (!draft.towers.some((t) => t.config.layerScale)) return ["the model has no LayerScale"]
    await foldLayerScale(draft)
    return ["blocks.*.attn.hook_result now has the LayerScale in it"]
  },
  centerWriting: async (draft) => {
    await centreWriting(draft)
    const kept = draft.config.vision.lnPre ? ["not centred: what ln_pre gives, with which the stream begins"] : []
    return ["the residual stream, hook_attn_out and hook_mlp_out have no mean along d", ...kept]
  },
  valueBiases: async (draft) => {
    await foldValueBiases(draft)
    return ["attn.hook_v, hook_z and hook_result are without the value bias; exact while the pattern's rows sum to 1"]
  },
  refactorAttention: async (draft) => {
    await refactorAttention(draft)
    return ["attn.hook_q, hook_k, hook_v and hook_z are in another basis of each head, by falling singular value"]
  },
}

/**
 * A model that computes the same with other weights; hooks keep their names, and `steps` says which of them mean
 * something else. The new weights are in memory, as float32. Errors: E_INPUT where a step would not be exact for this model, by
 * name.
 */
export async function fold(
  model: HookedViT,
  { outputs, inputs, ...wanted }: FoldOptions,
): Promise<{ readonly model: HookedViT; readonly steps: readonly FoldStep[] }> {
  const { runtime, read } = model
  const known = Object.keys(STEPS)
  const unknown = Object.keys(wanted).filter((name) => !known.includes(name))
  if (unknown.length) fail("E_INPUT", `no folding is called ${listed(unknown)}; there are ${known.join(", ")}`)
  const draft = new Draft(model)
  if (outputs) draft.configure("", { outputs: kept(model, outputs) })
  let folded = new HookedViT({ config: draft.config, weights: draft.weights, runtime, read })
  const steps: FoldStep[] = []
  let before = inputs && (await folded.run(inputs))
  for (const step of known as Step[]) {
    if (!wanted[step]) continue
    const notes = await STEPS[step](draft)
    folded = new HookedViT({ config: draft.config, weights: draft.weights, runtime, read })
    const after = inputs && (await folded.run(inputs))
    steps.push({ step, ...(before && after && { error: differences(before, after) }), notes })
    before = after
  }
  return { model: folded, steps }
}

function kept({ config }: HookedViT, wanted: readonly VisionOutput[]): VisionOutput[] {
  const { outputs } = config.vision
  const absent = wanted.filter((name) => !outputs.includes(name))
  if (absent.length) fail("E_INPUT", `the model has no output ${listed(absent)}; it has ${outputs.join(", ")}`)
  return outputs.filter((name) => wanted.includes(name))
}

const differences = (
  a: Readonly<Record<string, Tensor>>,
  b: Readonly<Record<string, Tensor>>,
): Record<string, number> =>
  Object.fromEntries(
    Object.entries(a).map(([name, { data }]) => [
      name,
      (data as Float32Array).reduce((most, x, i) => Math.max(most, Math.abs(x - (b[name]!.data[i] as number))), 0),
    ]),
  )
