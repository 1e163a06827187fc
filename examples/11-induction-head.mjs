// Which head of a mouse tells whether two shapes are the same: taken away, put back, and watched at work.
import { ablate, denoise, induction, loadPretrained, measure, ops, sitesOf, tensor } from "vit-prisma"

const model = await loadPretrained("model-cards/induction-head", { threads: 1 })
const { nHeads } = model.config.vision
const { train, test } = induction({ seed: 0 })

/** Samples of a dataset as pixel_values [n, 1, 32, 32]. */
const pixels = (dataset, samples) => {
  const data = samples.flatMap((i) => Array.from(dataset.at(i).image.data, (x) => x / 255))
  return tensor("float32", [samples.length, 1, 32, 32], Float32Array.from(data))
}
const upTo = (n) => Array.from({ length: n }, (_, i) => i)
const name = ({ hook, head }) => `${hook.split(".")[1]}.${head}`
const mean = (xs) => xs.reduce((a, b) => a + b, 0) / xs.length

// 1. Take each head away, in three ways, and count what is still right.
const images = pixels(test, upTo(test.length))
const others = pixels(train, upTo(512))
const predicted = ({ outputs: { logits } }) => ops.cast(ops.argMax(logits), "float32")
const accuracy = (classes) => mean(classes.map((c, i) => Number(c === test.at(i).label)))
console.log(`right: ${(100 * accuracy(await measure(model, images, predicted))).toFixed(1)} % of ${test.length}`)

const sites = sitesOf(model, "blocks.*.attn.hook_z", ["head"])
const table = new Map(sites.map((site) => [name(site), []]))
for (const by of [{ zero: true }, { mean: others }, { resample: others, seed: 0 }]) {
  for await (const { site, values } of ablate(model, { images, by, sites, metric: predicted, batch: 128 }))
    table.get(name(site)).push(100 * accuracy(values))
}
console.log("without head   by zero   by mean   by another image's")
for (const [head, row] of table) console.log(head.padStart(12), ...row.map((x) => `${x.toFixed(1)} %`.padStart(9)))

// 2. Two images that differ in the second shape alone: what a head makes of "same", put into the run of "not same".
const key = ({ row, column, orientation, a }) => [row, column, orientation, a].join()
const same = new Map(upTo(train.length).flatMap((i) => (train.at(i).label === 0 ? [[key(train.latents(i)), i]] : [])))
const pairs = upTo(train.length).flatMap((i) => {
  const twin = same.get(key(train.latents(i)))
  return train.at(i).label === 1 && twin !== undefined ? [[twin, i]] : []
})
const [clean, corrupt] = [0, 1].map((k) => pixels(train, pairs.slice(0, 128).map((pair) => pair[k]))) // prettier-ignore
const metric = ({ outputs: { logits } }) => ops.sub(ops.select(logits, 1, 0), ops.select(logits, 1, 1))
const [high, low] = [await measure(model, clean, metric), await measure(model, corrupt, metric)].map(mean)
console.log(`same less not-same: ${high.toFixed(2)} where they are, ${low.toFixed(2)} where not; brought back by`)
const restored = new Map()
for await (const row of denoise(model, { clean, corrupt, sites, metric, batch: 128 }))
  restored.set(name(row.site), (row.mean - low) / (high - low))
for (const [head, share] of restored) console.log(head.padStart(12), `${(100 * share).toFixed(0)} %`.padStart(9))

// 3. Where the heads look: how much of what the class token and the patches with a shape read is on patches with a shape.
const some = upTo(128)
const { cache } = await model.runWithCache(pixels(test, some), { names: "blocks.*.attn.hook_pattern" })
const drawn = some.map((i) => {
  const { data } = test.at(i).image
  const hasInk = (p) => upTo(64).some((k) => data[(8 * (p >> 2) + (k >> 3)) * 32 + 8 * (p & 3) + (k & 7)])
  return upTo(16).filter(hasInk)
})
const chance = mean(drawn.map((patches) => patches.length / 17))
console.log(`attention on patches with a shape (${(100 * chance).toFixed(0)} % of the tokens)`)
for (const { hook, head } of sites) {
  const { data } = cache.get(hook.replace("hook_z", "hook_pattern")) // [image, head, query, key], 17 tokens
  const row = (i, q) => ((i * nHeads + head) * 17 + q) * 17
  const onShapes = (i, q) => drawn[i].reduce((sum, p) => sum + data[row(i, q) + p + 1], 0)
  const [cls, patches] = [
    some.map((i) => onShapes(i, 0)),
    some.map((i) => mean(drawn[i].map((p) => onShapes(i, p + 1)))),
  ]
  console.log(name({ hook, head }).padStart(12), ...[cls, patches].map((x) => `${(100 * mean(x)).toFixed(0)} %`.padStart(9))) // prettier-ignore
}
await model.release()
