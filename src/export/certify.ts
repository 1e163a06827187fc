/** @file The exported model held against the float64 implementation, value by value. */
import { readFile } from "node:fs/promises"
import { join } from "node:path"
import { fail } from "../errors.ts"
import type { LoadedViT } from "../hub/load-pretrained.ts"
import { weightValues } from "../interp/weights.ts"
import { readTensor } from "../files/safetensors-file.ts"
import { load } from "../runtime/node.ts"
import type { OrtTensor } from "../runtime/ort.ts"
import { size } from "../tensor/tensor.ts"
import type { ExportedGraph } from "./convert.ts"
import { nPatches } from "../model/config.ts"
import { oracle } from "./oracle.ts"

/** One exported value: `error` is max |a - b| over max(1, max |b|), of float32 a against float64 b. */
export interface Certified {
  readonly name: string
  readonly shape: readonly number[]
  readonly error: number
  readonly cosine: number
}

export interface Certificate {
  /** How the random input was made. */
  readonly input: { readonly seed: number; readonly images: number; readonly texts: number }
  readonly values: readonly Certified[]
}

const SEED = 1

/** Run the written ONNX file by onnxruntime alone and compare every output. */
export async function certify(
  model: LoadedViT,
  onnx: string,
  { inputs, outputs }: ExportedGraph,
  onProgress: (step: string, done: number, total: number) => void,
): Promise<Certificate> {
  const feeds = randomInputs(model)
  onProgress("certify", 0, 2)
  const got = await runFile(onnx, { ...unreplaced(inputs), ...feeds }, Object.keys(outputs))
  onProgress("certify", 1, 2)
  const weights = new Map<string, { shape: readonly number[]; data: Float64Array }>()
  for (const [name, weight] of model.weights) {
    const { shape, data } = await weightValues(weight, readTensor)
    weights.set(name, { shape, data: Float64Array.from(data) })
  }
  const weight = (name: string) => weights.get(name) ?? fail("E_MISSING_TENSORS", `no weight "${name}"`)
  const expected = oracle(model.config, weight, feeds as never, { want: (name) => name in outputs })
  onProgress("certify", 2, 2)
  const values = Object.keys(outputs).map((name) => compared(name, got[name]!, expected.get(name)))
  return { input: { seed: SEED, images: 1, texts: model.config.text ? 2 : 0 }, values }
}

function compared(
  name: string,
  got: OrtTensor,
  expected: { shape: readonly number[]; data: Float64Array } | undefined,
): Certified {
  const a = got.data as Float32Array
  const b = expected?.data
  if (!b || b.length !== a.length) return { name, shape: [...got.dims], error: Infinity, cosine: 0 }
  let [worst, largest, ab, aa, bb] = [0, 1, 0, 0, 0]
  for (let i = 0; i < a.length; i++) {
    const d = Math.abs(a[i]! - b[i]!)
    // What is no number on either side is infinitely wrong.
    if (!Number.isFinite(d)) return { name, shape: [...got.dims], error: Infinity, cosine: 0 }
    worst = Math.max(worst, d)
    largest = Math.max(largest, Math.abs(b[i]!))
    ab += a[i]! * b[i]!
    aa += a[i]! * a[i]!
    bb += b[i]! * b[i]!
  }
  return { name, shape: [...got.dims], error: worst / largest, cosine: aa && bb ? ab / Math.sqrt(aa * bb) : 1 }
}

interface Feed {
  readonly dtype: "float32" | "int64"
  readonly shape: readonly number[]
  readonly data: Float32Array | BigInt64Array
}

/** One image of normal noise; of a dual encoder, two texts that end in their end-of-text token. */
function randomInputs({ config: { vision, text } }: LoadedViT): Readonly<Record<string, Feed>> {
  const random = generator(SEED)
  const shape = [1, vision.nChannels, ...vision.imageSize]
  const normal = () => Math.sqrt(-2 * Math.log(1 - random())) * Math.cos(2 * Math.PI * random())
  const pixels = { dtype: "float32", shape, data: Float32Array.from({ length: size(shape) }, normal) } as const
  if (vision.reconstructs === "masked")
    return { pixel_values: pixels, patch_mask: halfHidden(nPatches(vision), random) }
  if (!text) return { pixel_values: pixels }
  const { contextLength: t, vocabulary, pool, eosTokenId } = text
  const end = pool === "eos" ? Math.min(eosTokenId, vocabulary - 1) : vocabulary - 1
  const ids = [3, 5].flatMap((stop) =>
    Array.from({ length: t }, (_, i) =>
      BigInt(i < Math.min(stop, t - 1) ? Math.floor(random() * Math.min(end, vocabulary - 2)) : end),
    ),
  )
  return { pixel_values: pixels, input_ids: { dtype: "int64", shape: [2, t], data: BigInt64Array.from(ids) } }
}

/** A mask that hides about half the patches of one image. */
const halfHidden = (patches: number, random: () => number): Feed => ({
  dtype: "float32",
  shape: [1, patches],
  data: Float32Array.from({ length: patches }, () => (random() < 0.5 ? 1 : 0)),
})

/** mulberry32: a small generator with a period of 2^32. */
function generator(seed: number): () => number {
  let state = seed
  return () => {
    state = (state + 0x6d2b79f5) | 0
    let t = Math.imul(state ^ (state >>> 15), 1 | state)
    t = (t + Math.imul(t ^ (t >>> 7), 61 | t)) ^ t
    return ((t ^ (t >>> 14)) >>> 0) / 2 ** 32
  }
}

/** Replaceable hooks left as they are computed. */
const unreplaced = (inputs: ExportedGraph["inputs"]): Record<string, Feed> =>
  Object.fromEntries(
    Object.entries(inputs).flatMap(([name, { shape, replaces }]) => {
      const empty = shape.map((d) => (typeof d === "number" ? d : 0))
      return replaces === undefined
        ? []
        : [[name, { dtype: "float32", shape: empty, data: new Float32Array() }] as const]
    }),
  )

async function runFile(onnx: string, feeds: Readonly<Record<string, Feed>>, fetches: readonly string[]) {
  const ort = load("onnxruntime-node")
  const session = await ort.InferenceSession.create(await readFile(join(onnx, "model.onnx")), {
    logSeverityLevel: 3,
    extra: { session: { disable_prepacking: "1", model_external_initializers_file_folder_path: onnx } },
  })
  try {
    const fed = Object.entries(feeds).map(([name, f]) => [
      name,
      new ort.Tensor(f.dtype as never, f.data as never, f.shape),
    ])
    return await session.run(Object.fromEntries(fed) as Readonly<Record<string, OrtTensor>>, fetches)
  } finally {
    await session.release()
  }
}
