// Read activations: all, or some by name, layer and position, with the bytes known beforehand.
import { loadPretrained } from "vit-prisma"

const model = await loadPretrained("model-cards/mnist")
const images = await model.images("model-cards/mnist/seven.png")
console.log(`${model.hooks.size} hooks; all of them for 8 images: ${model.cacheBytes({ batch: 8 })} bytes`)

const { logits, cache } = await model.runWithCache(images)
console.log("logits", logits.shape, "| pattern of layer 1", cache.pattern(1).shape)
console.log("the same tensor:", cache.get("pattern", 1) === cache.get("blocks.1.attn.hook_pattern"))

// Only the class token's residual stream, after each block.
const { cache: stream } = await model.runWithCache(images, { names: "blocks.*.hook_resid_post", positions: 0 })
for (const [name, { shape, data }] of stream) console.log(name, shape, "norm", Math.hypot(...data).toFixed(2))
