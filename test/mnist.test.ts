/** @file A trained ViT end to end: all MNIST test digits 0, 1 and 2 through the public API. */
import { existsSync, readFileSync } from "node:fs"
import { resolve } from "node:path"
import { gunzipSync } from "node:zlib"
import { describe, expect, it } from "vitest"
import { loadPretrained, type Image } from "../src/index.ts"
import { floats, readSafetensors } from "./helpers/read-safetensors.ts"

const shared = resolve(import.meta.dirname, "../../shared")
const MODEL = resolve(shared, "real/vit-mnist-3class")
const MNIST = resolve(shared, "data/mnist")

/** The items of an idx file (http://yann.lecun.com/exdb/mnist/): 00 00 08 rank, big-endian sizes, bytes. */
function idx(name: string): { shape: number[]; items: Uint8Array[] } {
  const bytes = new Uint8Array(gunzipSync(readFileSync(resolve(MNIST, name))))
  const view = new DataView(bytes.buffer, bytes.byteOffset, bytes.byteLength)
  const shape = Array.from({ length: bytes[3]! }, (_, axis) => view.getUint32(4 + 4 * axis))
  const size = shape.slice(1).reduce((a, b) => a * b, 1)
  const start = 4 + 4 * shape.length
  return { shape, items: Array.from({ length: shape[0]! }, (_, i) => bytes.subarray(start + i * size, start + (i + 1) * size)) }
} // prettier-ignore

const absent = !existsSync(MODEL) || !existsSync(MNIST)

describe.skipIf(absent)("the trained ViT of ../shared/real (skipped where it is absent)", () => {
  it(
    "classifies 3130 of the 3147 test digits 0, 1 and 2, with the logits of transformers",
    { timeout: 120_000 },
    async () => {
      const labels = idx("t10k-labels-idx1-ubyte.gz").items.map((item) => item[0]!)
      const { shape, items } = idx("t10k-images-idx3-ubyte.gz")
      expect(shape).toEqual([10_000, 28, 28])
      const used = [...labels.keys()].filter((i) => labels[i]! < 3)
      const images = used.map((i): Image => ({ width: 28, height: 28, channels: 1, data: items[i]!, notes: [] }))
      expect(images).toHaveLength(3147)

      const model = await loadPretrained(MODEL)
      const logits = new Float32Array(images.length * 3)
      const BATCH = 256
      for (let at = 0; at < images.length; at += BATCH) {
        const { logits: some } = await model.run(await model.images(...images.slice(at, at + BATCH)))
        logits.set(some.data as Float32Array, at * 3)
      }
      await model.release()

      const right = used.filter((i, row) => {
        const scores = [...logits.subarray(row * 3, row * 3 + 3)]
        return scores.indexOf(Math.max(...scores)) === labels[i]
      })
      expect(right).toHaveLength(3130)

      const expected = floats([...readSafetensors(resolve(MODEL, "expected.safetensors")).tensors.values()][0]!)
      expect(expected).toHaveLength(logits.length)
      let worst = 0
      for (const [i, want] of expected.entries()) worst = Math.max(worst, Math.abs(want - logits[i]!))
      expect(worst).toBeLessThan(1e-4) // measured: 3.3e-6
    },
  )
})
