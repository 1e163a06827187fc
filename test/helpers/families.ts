/** @file Every reference case as a loaded model with its images, for claims that are about all families. */
import { type HookedViT, float32, loadPretrained, Random, type Target, type Tensor } from "../../src/index.ts"
import { PARITY_ROOTS, parityCases, readCase } from "./parity.ts"

/** Cases whose checkpoint loads; the one that is refused is of another test. */
export const FAMILIES = PARITY_ROOTS.flatMap((root) => parityCases(root)).filter((c) => c.name !== "timm-scale-norms")

export type Family = (typeof FAMILIES)[number]

/** Run a claim on a case. */
export async function withFamily<T>(
  family: Family,
  claim: (
    model: Awaited<ReturnType<typeof loadPretrained>>,
    inputs: ReturnType<typeof readCase>["inputs"],
  ) => Promise<T>,
): Promise<T> {
  const model = await loadPretrained(family.folder, { threads: 1 })
  try {
    return await claim(model, readCase(family).inputs)
  } finally {
    await model.release()
  }
}

/** Numbers drawn from N(0, 1), the same for the same seed. */
export function noise(shape: readonly number[], seed = 1): Tensor<"float32"> {
  const random = new Random(seed, "noise")
  return float32(
    shape,
    Float32Array.from({ length: shape.reduce((a, b) => a * b, 1) }, () => random.normal()),
  )
}

/** A target for every output that the model has, and where the same number stands in a plain run. */
export function targetsOf(
  model: HookedViT,
): { target: Target; read: (run: Readonly<Record<string, Tensor>>) => number[] }[] {
  const has = (name: string): boolean => model.outputNames.includes(name)
  const { vision } = model.config
  const at = (name: string, pick: (row: Float32Array) => number) => (run: Readonly<Record<string, Tensor>>) => {
    const { shape, data } = run[name]!
    const n = data.length / shape[0]!
    return Array.from({ length: shape[0]! }, (_, i) => pick((data as Float32Array).subarray(i * n, (i + 1) * n)))
  }
  const d = vision.dModel
  return [
    ...(has("logits") ? [{ target: { classes: 1 }, read: at("logits", (r) => r[1]!) }] : []),
    ...(has("pooler_output")
      ? [{ target: { metric: "pooler_output[:, 3]" }, read: at("pooler_output", (r) => r[3]!) }]
      : []),
    ...(has("image_embeds")
      ? [{ target: { metric: "image_embeds[:, 3]" }, read: at("image_embeds", (r) => r[3]!) }]
      : []),
    ...(has("last_hidden_state")
      ? [{ target: { metric: "last_hidden_state[:, 2, 3]" }, read: at("last_hidden_state", (r) => r[2 * d + 3]!) }]
      : []),
    ...(has("reconstruction")
      ? [
          {
            target: { metric: "reconstruction[:, 1, 3]" },
            read: at("reconstruction", (r) => r[vision.nChannels * vision.patchSize[0] * vision.patchSize[1] + 3]!),
          },
        ]
      : []),
  ]
}
