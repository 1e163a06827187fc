// A figure of docs/induction.md: node docs/images/induction-training.mjs runs/induction-head, after npm run build.
import { writeFileSync } from "node:fs"
import { ablate, drawCurves, induction, measure, ops, overTraining, sitesOf, tensor } from "vit-prisma"

const { test } = induction({ seed: 0 })
const samples = Array.from({ length: test.length }, (_, i) => test.at(i))
const data = Float32Array.from(samples.flatMap(({ image }) => Array.from(image.data, (x) => x / 255)))
const images = tensor("float32", [samples.length, 1, 32, 32], data)
const metric = ({ outputs: { logits } }) => ops.cast(ops.argMax(logits), "float32")
const right = (classes) => (100 * classes.filter((c, i) => c === samples[i].label).length) / classes.length

const rows = []
for await (const row of overTraining(process.argv[2], async (model) => {
  const values = { "right (%)": right(await measure(model, images, metric)) }
  const sites = sitesOf(model, "blocks.*.attn.hook_z", ["head"])
  for await (const { site, values: classes } of ablate(model, {
    images,
    by: { zero: true },
    sites,
    metric,
    batch: 128,
  }))
    values[`without head ${site.hook.split(".")[1]}.${site.head} (%)`] = right(classes)
  return values
})) {
  console.log(row.step, ...Object.values(row.values).map((x) => x.toFixed(1)))
  rows.push(row)
}
writeFileSync("docs/images/induction-training.svg", await drawCurves(rows))
