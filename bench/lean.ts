/**
 * @file ViT-B/16 written by hand as ONNX nodes, the leanest graph known here and variants of it: what the project's own
 * graph is compared with. Nothing of src/graph or src/model is used.
 */
import { relative } from "node:path"
import { openSafetensors, type SafetensorsFile } from "../src/files/safetensors-file.ts"
import { encodeModel, type Attribute, type Model, type Node } from "../src/onnx/model.ts"
import { physicalCores } from "../src/runtime/cores.ts"
import { load } from "../src/runtime/node.ts"
import { float32, int64, size, type StoredTensor, type Tensor } from "../src/tensor/tensor.ts"
import { VIT_B, type Checkpoint } from "./checkpoint.ts"

export interface Variant {
  /** `open`: MatMul, Softmax, MatMul; or one fused node of onnxruntime's, or of ONNX (opset 23). */
  readonly attention?: "open" | "MultiHeadAttention" | "Attention"
  /** The patch embedding as Conv instead of Reshape, Transpose and Gemm. */
  readonly conv?: boolean
  /** One Gemm for query, key and value, cut by Slice. */
  readonly fusedQkv?: boolean
  /** Where all tokens but the first are dropped: after the final norm, before it, or before the last block's queries. */
  readonly cut?: "after norm" | "before norm" | "in last block"
  /** The batch is 1 for good. */
  readonly fixedBatch?: boolean
  /** 20 and later have Gelu, 23 has Attention. */
  readonly opset?: number
  readonly prepack?: boolean
}

export const VARIANTS: Readonly<Record<string, Variant>> = {
  "lean graph": {},
  "norm of all tokens": { cut: "after norm" },
  "last block of the class token only": { cut: "in last block" },
  MultiHeadAttention: { attention: "MultiHeadAttention" },
  "MultiHeadAttention, class token only": { attention: "MultiHeadAttention", cut: "in last block" },
  "Conv patch embedding": { conv: true },
  "Conv, class token only": { conv: true, cut: "in last block" },
  "fused qkv": { fusedQkv: true },
  "fused qkv, class token only": { fusedQkv: true, cut: "in last block" },
  "opset 21": { opset: 21 },
  "opset 23, Attention": { opset: 23, attention: "Attention" },
  "batch fixed to 1": { fixedBatch: true },
  "prepacked weights": { prepack: true },
}

/** As many as the project's own runtime takes. */
export function threadsOf(): { readonly intraOpNumThreads?: number } {
  const threads = physicalCores()
  return threads === undefined ? {} : { intraOpNumThreads: threads }
}

/** Logits of images by plain onnxruntime. */
export type Bare = (images: Tensor) => Promise<Float32Array>

/** A session of a variant with the options that the project's own runtime gives. */
export async function bare({ root, model }: Checkpoint, variant: Variant): Promise<Bare> {
  const ort = load("onnxruntime-node")
  const weights = await openSafetensors(`${model}/model.safetensors`)
  const fused = await openSafetensors(`${root}/fused.safetensors`)
  const written = new Graph(root, weights, fused).vit(variant)
  const session = await ort.InferenceSession.create(withOpset(encodeModel(written), variant.opset ?? 17), {
    executionProviders: ["cpu"],
    logSeverityLevel: 3,
    ...threadsOf(),
    extra: {
      session: {
        force_spinning_stop: "1",
        ...(!variant.prepack && { disable_prepacking: "1" }),
        model_external_initializers_file_folder_path: root,
      },
    },
  })
  const [logits] = written.outputs.map((p) => p.name)
  return async ({ dtype, data, shape }) => {
    const fed = new ort.Tensor(dtype as never, data as never, shape)
    return (await session.run({ pixel_values: fed }, [logits!]))[logits!]!.data as Float32Array
  }
}

class Graph {
  readonly #root: string
  readonly #weights: SafetensorsFile
  readonly #fused: SafetensorsFile
  readonly #nodes: Node[] = []
  readonly #initializers = new Map<string, Tensor | StoredTensor>()

  constructor(root: string, weights: SafetensorsFile, fused: SafetensorsFile) {
    this.#root = root
    this.#weights = weights
    this.#fused = fused
  }

  /** Tokens are flat, [b * T, d], wherever an op allows it. */
  vit(variant: Variant): Model {
    const { d, layers, T, image, classes } = VIT_B
    const { cut = "before norm" } = variant
    let x = this.#reshape(this.#embed(variant), -1, d)
    for (let i = 0; i < layers; i++) x = this.#block(x, i, variant, i === layers - 1 && cut === "in last block")
    const first = (y: string) => this.#first(y, T, d)
    const last = (y: string) => this.#norm(y, "vit.layernorm")
    const pooled = cut === "after norm" ? first(last(x)) : last(cut === "before norm" ? first(x) : x)
    const b = variant.fixedBatch ? 1 : "batch"
    return {
      nodes: this.#nodes,
      initializers: this.#initializers,
      inputs: [{ name: "pixel_values", dtype: "float32", shape: [b, 3, image, image] }],
      outputs: [{ name: this.#linear(pooled, "classifier"), dtype: "float32", shape: [b, classes] }],
    }
  }

  /** [b, T, d] */
  #embed({ conv }: Variant): string {
    const { d, P, image, patch } = VIT_B
    const grid = image / patch
    const projection = "vit.embeddings.patch_embeddings.projection"
    const bias = this.#weight(`${projection}.bias`)
    let patches: string
    if (conv) {
      const attrs = { kernel_shape: [patch, patch], strides: [patch, patch] }
      const filtered = this.#node("Conv", ["pixel_values", this.#weight(`${projection}.weight`), bias], attrs)
      patches = this.#transpose(this.#reshape(filtered, 0, d, P), [0, 2, 1])
    } else {
      const cut = this.#transpose(this.#reshape("pixel_values", -1, 3, grid, patch, grid, patch), [0, 2, 4, 1, 3, 5])
      const inner = 3 * patch * patch
      const rows = [this.#reshape(cut, -1, inner), this.#weight(`${projection}.weight`, [d, inner]), bias]
      patches = this.#reshape(this.#node("Gemm", rows, { transB: 1 }), -1, P, d)
    }
    const b = this.#node("Shape", ["pixel_values"], { start: 0, end: 1 })
    const shape = this.#node("Concat", [b, this.#ints(1), this.#ints(d)], { axis: 0 })
    const cls = this.#node("Expand", [this.#weight("vit.embeddings.cls_token"), shape])
    const tokens = this.#node("Concat", [cls, patches], { axis: 1 })
    return this.#node("Add", [tokens, this.#weight("vit.embeddings.position_embeddings")])
  }

  #block(x: string, i: number, variant: Variant, firstOnly: boolean): string {
    const { T, d } = VIT_B
    const at = `vit.encoder.layer.${i}`
    const only = (y: string) => (firstOnly ? this.#first(y, T, d) : y)
    const normed = this.#norm(x, `${at}.layernorm_before`)
    const z = this.#attention(normed, only(normed), firstOnly ? 1 : T, i, variant)
    const mid = this.#node("Add", [only(x), this.#linear(z, `${at}.attention.output.dense`)])
    const pre = this.#linear(this.#norm(mid, `${at}.layernorm_after`), `${at}.intermediate.dense`)
    const post = (variant.opset ?? 17) < 20 ? this.#node("Gelu", [pre], {}, CONTRIB) : this.#node("Gelu", [pre])
    return this.#node("Add", [mid, this.#linear(post, `${at}.output.dense`)])
  }

  /** [b * queries, d] */
  #attention(x: string, from: string, queries: number, i: number, { attention, fusedQkv }: Variant): string {
    const { T, d, h, e } = VIT_B
    const at = `vit.encoder.layer.${i}.attention.attention`
    const [q, k, v] =
      fusedQkv && queries === T
        ? this.#cutQkv(x, i)
        : [this.#linear(from, `${at}.query`), this.#linear(x, `${at}.key`), this.#linear(x, `${at}.value`)]
    const scale = 1 / Math.sqrt(e)
    if (attention && attention !== "open") {
      const tokens = [this.#reshape(q, -1, queries, d), this.#reshape(k, -1, T, d), this.#reshape(v, -1, T, d)]
      const heads = attention === "Attention" ? { q_num_heads: h, kv_num_heads: h } : { num_heads: h }
      const domain = attention === "Attention" ? undefined : CONTRIB
      return this.#reshape(this.#node(attention, tokens, { ...heads, scale: { float: scale } }, domain), -1, d)
    }
    const heads = (y: string, n: number, perm: number[]) => this.#transpose(this.#reshape(y, -1, n, h, e), perm)
    const scores = this.#node("MatMul", [heads(q, queries, [0, 2, 1, 3]), heads(k, T, [0, 2, 3, 1])])
    const pattern = this.#node("Softmax", [this.#node("Mul", [scores, this.#float(scale)])], { axis: -1 })
    const z = this.#node("MatMul", [pattern, heads(v, T, [0, 2, 1, 3])])
    return this.#reshape(this.#transpose(z, [0, 2, 1, 3]), -1, d)
  }

  #cutQkv(x: string, i: number): [string, string, string] {
    const { d } = VIT_B
    const ins = [x, this.#stored(`qkv.${i}.weight`, this.#fused), this.#stored(`qkv.${i}.bias`, this.#fused)]
    const qkv = this.#node("Gemm", ins, { transB: 1 })
    const part = (k: number) => this.#node("Slice", [qkv, this.#ints(k * d), this.#ints((k + 1) * d), this.#ints(1)])
    return [part(0), part(1), part(2)]
  }

  /** The first token of each image: [b * tokens, width] to [b, width]. */
  #first(x: string, tokens: number, width: number): string {
    const first = this.#node("Gather", [this.#reshape(x, -1, tokens, width), this.#ints(0)], { axis: 1 })
    return this.#reshape(first, -1, width)
  }

  #norm(x: string, name: string): string {
    const ins = [x, this.#weight(`${name}.weight`), this.#weight(`${name}.bias`)]
    return this.#node("LayerNormalization", ins, { axis: -1, epsilon: { float: 1e-12 } })
  }

  #linear(x: string, name: string): string {
    return this.#node("Gemm", [x, this.#weight(`${name}.weight`), this.#weight(`${name}.bias`)], { transB: 1 })
  }

  #reshape(x: string, ...shape: number[]): string {
    return this.#node("Reshape", [x, this.#ints(...shape)])
  }

  #transpose(x: string, perm: readonly number[]): string {
    return this.#node("Transpose", [x], { perm })
  }

  #node(op: string, inputs: readonly string[], attrs: Record<string, Attribute> = {}, domain?: string): string {
    const out = `${op}_${this.#nodes.length}`
    this.#nodes.push({ op, inputs, outputs: [out], attrs, ...(domain && { domain }) })
    return out
  }

  #weight(name: string, shape?: readonly number[]): string {
    return this.#stored(name, this.#weights, shape)
  }

  #stored(name: string, from: SafetensorsFile, shape?: readonly number[]): string {
    const stored = from.stored(name)
    if (shape && size(shape) !== size(stored.shape)) throw new Error(`${name} is not [${shape.join(", ")}]`)
    this.#initializers.set(name, {
      ...stored,
      file: relative(this.#root, stored.file),
      shape: shape ?? stored.shape,
    })
    return name
  }

  #ints(...values: number[]): string {
    const name = `ints_${values.join("_")}`
    this.#initializers.set(name, int64([values.length], values))
    return name
  }

  #float(value: number): string {
    this.#initializers.set(`float_${value}`, float32([], [value]))
    return `float_${value}`
  }
}

const CONTRIB = "com.microsoft"

/** The encoder writes opset 17 in IR 8; a comparison with later ones changes the two numbers in its bytes. */
function withOpset(bytes: Uint8Array, opset: number): Uint8Array {
  const changed = Uint8Array.from(bytes)
  const at = Buffer.from(changed.buffer).lastIndexOf(Buffer.from([0x42, 4, 0x0a, 0, 0x10, 17]))
  if (at < 0 || changed[0] !== 0x08 || changed[1] !== 8) throw new Error("the encoder no longer writes opset 17, IR 8")
  changed[at + 5] = opset
  if (opset > 18) changed[1] = 10 // the first IR with opset 21
  return changed
}
