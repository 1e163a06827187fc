// Gradients of a logit at every head's output: what taking each head out does to it, estimated all at once, and measured.
import { float32, loadPretrained, ops } from "vit-prisma"

const model = await loadPretrained("model-cards/mnist")
const images = await model.images("model-cards/mnist/seven.png")

const { cache, logits } = await model.runWithCache(images, { names: "blocks.{2,3}.attn.hook_z" })
const { value, hooks } = await model.gradients(images, "logits[:, 7]", { at: "blocks.{2,3}.attn.hook_z" })
const [{ shape: at }] = hooks.values()
console.log(`logit of 7: ${value.toFixed(3)}, gradients at ${hooks.size} hooks, each`, at)

// z[0, token, head, e] becomes 0: the change is -sum(z * dlogit/dz), as far as the logit is linear in z.
const { nHeads, dHead } = model.config.vision
const head = (i) => Math.floor(i / dHead) % nHeads
for (const [name, z] of cache) {
  const estimated = new Float64Array(nHeads)
  for (const [i, x] of z.data.entries()) estimated[head(i)] -= x * hooks.get(name).data[i]
  for (const [h, guess] of estimated.entries()) {
    const without = float32(
      z.shape,
      z.data.map((x, i) => (head(i) === h ? 0 : x)),
    )
    const run = await model.run(images, { patch: { [name]: without } })
    const change = run.logits.data[7] - logits.data[7]
    console.log(name, "head", h, "estimated", guess.toFixed(2).padStart(6), "measured", change.toFixed(2).padStart(6))
  }
}

// A metric may be any value of the graph, and weights are as good a place to differentiate at as hooks.
const margin = ({ outputs }) => ops.sub(ops.select(outputs.logits, 1, 7), ops.select(outputs.logits, 1, 1))
const { params } = await model.gradients(images, margin, { params: true })
const { shape } = params.get("blocks.0.attn.q.weight")
console.log("d (7 over 1) at", params.size, "weights, blocks.0.attn.q.weight", shape)
