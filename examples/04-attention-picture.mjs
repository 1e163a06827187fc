// Draw where the class token of every head looks, layers down and heads across, beside the image.
import { writeFileSync } from "node:fs"
import { decodeImage, encodePng, loadPretrained } from "vit-prisma"

const model = await loadPretrained("model-cards/mnist")
const { cache } = await model.runWithCache(await model.images("model-cards/mnist/seven.png"), {
  names: "*pattern",
})
const image = await decodeImage("model-cards/mnist/seven.png")

const { nLayers, nHeads } = model.config.vision
const [cell, gap, grid] = [112, 8, 4]
const width = (nHeads + 1) * (cell + gap) - gap
const height = nLayers * (cell + gap) - gap
const canvas = new Uint8Array(width * height * 3).fill(255)

// Dark blue to yellow, even in lightness: a few points of cividis.
const stops = [
  [0, 34, 78],
  [53, 69, 108],
  [102, 105, 112],
  [148, 142, 119],
  [200, 184, 102],
  [254, 232, 56],
]
function colour(v) {
  const at = Math.min(v, 0.9999) * (stops.length - 1)
  const [low, high] = [stops[Math.floor(at)], stops[Math.floor(at) + 1]]
  return low.map((c, i) => c + (high[i] - c) * (at % 1))
}

function draw(column, row, pixel) {
  for (let y = 0; y < cell; y++) {
    for (let x = 0; x < cell; x++) {
      canvas.set(pixel(x / cell, y / cell), ((row * (cell + gap) + y) * width + column * (cell + gap) + x) * 3)
    }
  }
}

for (let layer = 0; layer < nLayers; layer++) {
  const { data, shape } = cache.pattern(layer) // [1, head, query, key]
  const t = shape[3]
  for (let head = 0; head < nHeads; head++) {
    const looked = data.subarray(head * t * t + 1, head * t * t + t) // query 0 is the class token
    const most = Math.max(...looked)
    draw(head + 1, layer, (x, y) => colour(looked[Math.floor(y * grid) * grid + Math.floor(x * grid)] / most))
  }
}
draw(0, 1, (x, y) => {
  const at = (Math.floor(y * image.height) * image.width + Math.floor(x * image.width)) * 3
  return image.data.subarray(at, at + 3)
})

const path = process.argv[2] ?? "attention.png"
writeFileSync(path, await encodePng(canvas, width, height, 3))
console.log(`${path}: ${width} x ${height} pixels`)
