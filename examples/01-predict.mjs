// Load a checkpoint folder, prepare an image as its repo says, print the three most probable classes.
import { loadPretrained } from "vit-prisma"

const model = await loadPretrained("model-cards/mnist") // or a repo id in the Hub cache
const images = await model.images("model-cards/mnist/seven.png") // [1, 1, 28, 28]
const { logits } = await model.run(images)

const ranked = [...logits.data].map((logit, index) => ({ label: model.config.labels[index], logit }))
for (const { label, logit } of ranked.sort((a, b) => b.logit - a.logit).slice(0, 3))
  console.log(label, logit.toFixed(2))
