// What each head looks at, what its weights copy, and which heads read what others wrote.
import {
  attentionGradient,
  circuits,
  classMetric,
  headReport,
  loadPretrained,
  patchMap,
  patterns,
  readout,
  rollout,
  tokenLayout,
} from "vit-prisma"

const model = await loadPretrained("model-cards/mnist")
const images = await model.images("model-cards/mnist/seven.png")
const { vision } = model.config
const layout = tokenLayout(vision)

// Measured on images: give many, and every mean comes with an interval.
const { heads, detectors } = await headReport(model, images, { level: 0.1 })
const narrow = heads.toSorted((a, b) => a.entropy.mean - b.entropy.mean)[0]
console.log(
  `narrowest: head ${narrow.layer}.${narrow.head}, ${narrow.entropy.mean.toFixed(2)} of ${Math.log(17).toFixed(2)} nats`,
)
for (const { name, what, threshold, heads: named } of detectors) {
  const list = named.map(({ layer, head, score }) => `${layer}.${head} (${score.mean.toFixed(2)})`)
  if (list.length) console.log(`${name}, ${what}, above ${threshold.toFixed(2)}: ${list.join(", ")}`)
}

// Read from weights: how much of OV goes out in the direction it came in (1: it copies, -1: it takes away).
for (let layer = 0; layer < vision.nLayers; layer++) {
  const ov = await circuits.ovCircuits(model, layer, { fold: true })
  const copying = circuits.eigenvaluesOf(ov).map(({ re, im }) => {
    const sizes = re.map((x, i) => Math.hypot(x, im[i]))
    return re.reduce((a, b) => a + b) / sizes.reduce((a, b) => a + b)
  })
  console.log(`layer ${layer} copies`, copying.map((x) => x.toFixed(2).padStart(5)).join(" "))
}
const { scores, baseline } = await circuits.compositionScores(model, "V", { fold: true })
const best = scores.data.reduce((b, x, i) => (x > scores.data[b] ? i : b), vision.nHeads)
const name = (i) => `${Math.floor(i / vision.nHeads)}.${i % vision.nHeads}`
const n = vision.nLayers * vision.nHeads
console.log(
  `head ${name(best % n)} reads most of what head ${name(Math.floor(best / n))} writes:`,
  `${scores.data[best].toFixed(3)}, by chance ${baseline.toFixed(3)}`,
)

// Where the class token's answer comes from: the patterns multiplied, and weighed by what they do to the logit.
const layers = []
for await (const { pattern } of patterns(model, images)) layers.push(pattern)
const rolled = patchMap(rollout(layers, { from: readout(vision) }), layout)
const relevant = patchMap((await attentionGradient(model, images, classMetric(model, "7"))).tokens, layout)
const rows = (map) =>
  [0, 1, 2, 3].map((r) => Array.from(map.data.subarray(4 * r, 4 * r + 4), (x) => x.toFixed(3)).join(" "))
console.log("rollout                    relevance for 7")
for (const [i, row] of rows(rolled).entries()) console.log(`${row}    ${rows(relevant)[i]}`)
