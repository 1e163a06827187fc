// A metric or a lens is more values hung on the model's own graph: here the entropy of attention, computed where
// the activations are, and what the blocks added to the residual stream.
import { loadPretrained, ops } from "vit-prisma"

const model = await loadPretrained("model-cards/mnist")
const images = await model.images("model-cards/mnist/seven.png")

const result = await model.run(images, {
  outputs: ({ outputs, hook }) => {
    const entropy = (pattern) => ops.neg(ops.sum(ops.mul(pattern, ops.log(ops.add(pattern, ops.scalar(1e-9)))), [-1]))
    return {
      logits: outputs.logits,
      entropy: ops.mean(entropy(hook("blocks.2.attn.hook_pattern")), [2]), // [b, head]
      drift: ops.sub(hook("blocks.2.hook_resid_post"), hook("blocks.0.hook_resid_pre")),
    }
  },
})
console.log("entropy of each head of layer 2, nats:", [...result.entropy.data].map((v) => v.toFixed(3)).join(" "))
console.log("what three blocks added to the stream:", result.drift.shape)
