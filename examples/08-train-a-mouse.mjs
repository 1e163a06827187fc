// Train a small ViT on a dataset of one's own, stop, go on, and look inside what came out.
import { mkdtempSync } from "node:fs"
import { tmpdir } from "node:os"
import { join } from "node:path"
import { defineConfig, loadPretrained, MNISTConfig, nodeRuntime, Random, tensor, trainRun } from "vit-prisma"

// A dataset is a length and a sample at each index: here stripes in noise, whose direction is to be told.
const classes = ["across", "falling", "down", "rising"]
const stripes = (name, length) => ({
  name: `stripes/${name}`,
  fingerprint: `stripes 1 ${name} ${length}`, // whatever changes when a sample does
  classes,
  shape: [1, 16, 16],
  length,
  at(i) {
    const random = new Random(0, `stripes:${name}:${i}`) // each sample from a stream of its own
    const label = random.below(4)
    const [angle, phase] = [(label * Math.PI) / 4, 2 * Math.PI * random.uniform()]
    const pixel = (_, k) => {
      const along = Math.floor(k / 16) * Math.cos(angle) + (k % 16) * -Math.sin(angle)
      const grey = 128 + 60 * Math.sin(1.2 * along + phase) + 60 * random.normal()
      return Math.max(0, Math.min(255, grey))
    }
    return { image: tensor("uint8", [1, 16, 16], Uint8Array.from({ length: 256 }, pixel)), label }
  },
})
const data = { train: stripes("train", 4096), test: stripes("test", 512) }

const config = defineConfig(MNISTConfig, {
  architecture: "preLN",
  image: { image_size: 16, patch_size: 4 },
  transformer: { hidden_dim: 32, num_layers: 2 },
  classification: { num_classes: 4 },
  training: { lr: 3e-3, scheduler_type: "WarmupCosine", max_steps: 40, total_steps: 120 },
})
const out = join(mkdtempSync(join(tmpdir(), "prisma-")), "stripes")
const runtime = nodeRuntime()
const half = await trainRun(config, data, { out, runtime })
console.log(`after ${half.step} steps of ${half.parameters} weights: accuracy ${half.test.accuracy.toFixed(3)}`)

const longer = defineConfig(config, { training: { max_steps: 120 } })
const whole = await trainRun(longer, data, { out, runtime, resume: true })
console.log(`after ${whole.step} steps: accuracy ${whole.test.accuracy.toFixed(3)}`)

// The folder is a model like any other.
const model = await loadPretrained(out)
const { image, label } = data.test.at(0)
const x = tensor(
  "float32",
  [1, 1, 16, 16],
  Float32Array.from(image.data, (p) => (p / 255 - 0.5) / 0.5),
)
const { logits, cache } = await model.runWithCache(x, { names: "blocks.1.attn.hook_pattern" })
const told = classes[logits.data.indexOf(Math.max(...logits.data))]
console.log(`test image 0 is ${classes[label]}, it says ${told}; pattern`, cache.pattern(1).shape)
