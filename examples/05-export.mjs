// Write a folder with an ONNX model whose patterns are outputs and whose residual stream can be replaced, then use it
// with onnxruntime alone.
import { mkdtempSync, readFileSync } from "node:fs"
import { tmpdir } from "node:os"
import { join } from "node:path"
import { convertModel, loadPretrained } from "vit-prisma"

process.env.ORT_DISABLE_TELEMETRY = "1"
const { default: ort } = await import("onnxruntime-node")

const model = await loadPretrained("model-cards/mnist")
const folder = join(mkdtempSync(join(tmpdir(), "prisma-")), "mnist")
const { certificate } = await convertModel(model, folder, {
  hooks: "*hook_pattern",
  inputs: "blocks.1.hook_resid_pre",
  certify: true,
})
console.log(
  "certified:",
  certificate.values.length,
  "values, worst",
  Math.max(...certificate.values.map((v) => v.error)),
)

const { inputs, outputs } = JSON.parse(readFileSync(join(folder, "manifest.json"), "utf8"))
console.log("inputs", Object.keys(inputs), "outputs", Object.keys(outputs))
const session = await ort.InferenceSession.create(join(folder, "onnx", "model.onnx"), { logSeverityLevel: 3 })
const { data, shape } = await model.images("model-cards/mnist/seven.png")
const pixel_values = new ort.Tensor("float32", data, shape)
const zeros = new ort.Tensor("float32", new Float32Array(17 * 128), [1, 17, 128])
const leave = new ort.Tensor("float32", new Float32Array(), [0, 17, 128]) // an empty first axis replaces nothing
const plain = await session.run({ pixel_values, "blocks.1.hook_resid_pre": leave })
const replaced = await session.run({ pixel_values, "blocks.1.hook_resid_pre": zeros })
console.log("logit of 7:", plain.logits.data[7].toFixed(2), "with an empty stream:", replaced.logits.data[7].toFixed(2))
