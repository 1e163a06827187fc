// Which parts of the model wrote the logit of 7, where the largest head read it from, and what each layer would
// have said had it been the last.
import { decomposeLogit, emojiGrid, loadPretrained, logitLens } from "vit-prisma"

const model = await loadPretrained("model-cards/mnist")
const images = await model.images("model-cards/mnist/seven.png")

const [seven] = await decomposeLogit(model, images, { classes: "7" }, { sources: true })
const { value, components, error } = seven
console.log(`logit of 7: ${value.toFixed(3)}, the sum of ${components.length} shares to ${error.toExponential(1)}`)
const largest = components.toSorted((a, b) => Math.abs(b.value) - Math.abs(a.value))
for (const c of largest.slice(0, 5)) console.log(c.value.toFixed(3).padStart(7), c.name)

const head = largest.find((c) => c.part === "head")
console.log(head.name, "reads")
for (let y = 0; y < 4; y++) {
  const row = head.sources.subarray(1 + 4 * y, 5 + 4 * y) // the class token comes first
  console.log([...row].map((v) => v.toFixed(2).padStart(6)).join(""))
}

const lens = await logitLens(model, images, { at: "pooled", top: 1 })
for (const [i, label] of lens.labels.entries()) {
  const { index, probability } = lens.top
  console.log(label.padEnd(10), lens.classes[index.data[i]], `at ${(100 * probability.data[i]).toFixed(1)} %`)
}
const patches = await logitLens(model, images, { top: 1 })
for (const row of emojiGrid(patches, [4, 4])) console.log(row.join(""))
