// Change activations: a tensor in place of a hook, an edit in the graph, a plain function on numbers.
import { float32, loadPretrained, ops } from "vit-prisma"

const model = await loadPretrained("model-cards/mnist")
const images = await model.images("model-cards/mnist/seven.png")
const logit = (run) => run.logits.data[7].toFixed(3)
const { logits, cache } = await model.runWithCache(images)
console.log("as it is      ", logit({ logits }))

// 1. A tensor: mean-ablate the attention output of layer 2 over tokens.
const out = cache.attnOut(2)
const [, tokens, d] = out.shape
const mean = Float32Array.from({ length: d }, (_, j) => {
  let sum = 0
  for (let t = 0; t < tokens; t++) sum += out.data[t * d + j]
  return sum / tokens
})
const patch = float32(
  out.shape,
  Float32Array.from(out.data, (_, i) => mean[i % d]),
)
console.log("mean-ablated  ", logit(await model.run(images, { patch: { "blocks.2.hook_attn_out": patch } })))

// 2. An edit is traced into the graph: halve every MLP's output.
const half = (value) => ops.mul(value, ops.scalar(0.5))
console.log("MLPs halved   ", logit(await model.run(images, { edit: { "blocks.*.hook_mlp_out": half } })))

// 3. A function on numbers: make head 0 of layer 1 attend to the class token alone.
const toClass = ({ shape, data }) => {
  const [, , t] = shape
  const changed = Float32Array.from(data)
  for (let query = 0; query < t; query++) changed.fill(0, query * t, (query + 1) * t).fill(1, query * t, query * t + 1)
  return float32(shape, changed)
}
console.log("head 1.0 fixed", logit(await model.run(images, { hooks: { "blocks.1.attn.hook_pattern": toClass } })))
