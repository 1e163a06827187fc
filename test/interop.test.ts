/** @file Our graph in transformers.js' clothes: its models and pipelines give our numbers, interventions included. */
import { fileURLToPath } from "node:url"
import { expect, it } from "vitest"
import { mul, scalar } from "../src/graph/ops.ts"
import { loadPretrained } from "../src/hub/load-pretrained.ts"
import { transformersModel } from "../src/interop/transformers.ts"
import { floats, readSafetensors } from "./helpers/read-safetensors.ts"

const folder = (name: string) => fileURLToPath(new URL(`fixtures/reference/${name}`, import.meta.url))

it.each([
  ["hf-vit-names-v5", "ViTForImageClassification", "logits"],
  ["hf-dinov2-classifier", "Dinov2ForImageClassification", "logits"],
  ["hf-clip-eos-2", "CLIPModel", "logits_per_image"],
])("%s runs as transformers.js' %s", async (name, type, output) => {
  const { Tensor } = await import("@huggingface/transformers")
  const model = await transformersModel(await loadPretrained(folder(name)))
  expect(model.constructor.name).toBe(type)
  const { tensors } = readSafetensors(`${folder(name)}/expected.safetensors`)
  const pixels = tensors.get("input.pixel_values")!
  const ids = tensors.get("input.input_ids")
  const outputs = (await model({
    pixel_values: new Tensor("float32", floats(pixels), [...pixels.shape]),
    ...(ids && { input_ids: new Tensor("int64", BigInt64Array.from(floats(ids), BigInt), [...ids.shape]) }),
  })) as Record<string, { data: Float32Array }>
  const want = floats(tensors.get(output)!)
  expect(outputs[output]!.data.length).toBe(want.length)
  for (const [i, v] of want.entries()) expect(outputs[output]!.data[i]).toBeCloseTo(v, 4)
})

it("runs interventions inside transformers.js", async () => {
  const { Tensor } = await import("@huggingface/transformers")
  const source = await loadPretrained(folder("hf-vit-names-v5"))
  const edit = { "blocks.*.hook_mlp_out": (v: Parameters<typeof mul>[0]) => mul(v, scalar(0)) }
  const model = await transformersModel(source, { edit })
  const pixels = readSafetensors(`${folder("hf-vit-names-v5")}/expected.safetensors`).tensors.get("input.pixel_values")!
  const given = { dtype: "float32", shape: pixels.shape, data: floats(pixels) } as const
  const { logits } = (await model({ pixel_values: new Tensor("float32", given.data, [...given.shape]) })) as Record<
    string,
    { data: Float32Array }
  >
  const plain = await source.run(given)
  const edited = await source.run(given, { edit })
  expect(logits!.data).toEqual(edited.logits.data)
  expect(logits!.data).not.toEqual(plain.logits.data)
})
