/** @file The text of graphs, pinned: a change of what the model computes shows here. */
import { describe, expect, it } from "vitest"
import * as ops from "../src/graph/ops.ts"
import { print } from "../src/graph/print.ts"
import type { ModelConfig } from "../src/model/config.ts"
import { build } from "../src/model/model.ts"
import { float32 } from "../src/tensor/tensor.ts"

/** A model of one layer, as small as there can be. */
const TINY: ModelConfig = {
  family: "test",
  architecture: "test",
  labels: [],
  text: undefined,
  dual: undefined,
  vision: {
    nLayers: 1, dModel: 4, nHeads: 2, dHead: 2, dMlp: 8, activation: "quick_gelu", gatedMlp: false, eps: 0.5,
    qkvBias: true, attnOutBias: false, mlpBias: true, qkNorm: false, layerScale: true,
    imageSize: [4, 4], patchSize: [2, 2], positionGrid: [2, 2], positionsAntialiased: false, nChannels: 1, patchBias: true,
    prefix: [{ name: "cls", count: 1 }], positions: "all", lnPre: false, lnFinal: true, pool: "cls", poolsPrefix: false,
    poolMlp: 0, lnPooled: false, pooler: undefined, nClasses: 3, dProjection: 0, rawHiddenState: false,
    outputs: ["logits"],
  },
} // prettier-ignore

describe("a graph as text", () => {
  it("is the whole forward pass of a model of one layer", () => {
    const { inputs, outputs } = build(TINY)
    expect(print(inputs, outputs)).toMatchInlineSnapshot(`
      "pixel_values: input [batch, 1, 4, 4]
      %1 = Reshape(embed.cls) [1, 1, 4]
      %2 = Expand(%1) [batch, 1, 4]
      %3 = Reshape(pixel_values) [batch, 1, 2, 2, 2, 2]
      %4 = Transpose{perm: [0, 2, 4, 1, 3, 5]}(%3) [batch, 2, 2, 1, 2, 2]
      %5 = Reshape(%4) [4*batch, 4]
      %6 = Gemm{transposed: true}(%5, embed.proj.weight, embed.proj.bias) [4*batch, 4]
      %7 = Reshape(%6) [batch, 4, 4]
      %8 = Concat{axis: 1}(%2, %7) [batch, 5, 4]
      %9 = Reshape(embed.pos) [1, 5, 4]
      %10 = Add(%8, %9) [batch, 5, 4]
      %11 = LayerNorm{eps: 0.5}(%10, blocks.0.ln1.weight, blocks.0.ln1.bias) [batch, 5, 4]
      %12 = Reshape(%11) [5*batch, 4]
      %13 = Gemm{transposed: true}(%12, blocks.0.attn.q.weight, blocks.0.attn.q.bias) [5*batch, 4]
      %14 = Reshape(%13) [batch, 5, 2, 2]
      %15 = Transpose{perm: [0, 2, 1, 3]}(%14) [batch, 2, 5, 2]
      %16 = Reshape(%11) [5*batch, 4]
      %17 = Gemm{transposed: true}(%16, blocks.0.attn.k.weight, blocks.0.attn.k.bias) [5*batch, 4]
      %18 = Reshape(%17) [batch, 5, 2, 2]
      %19 = Transpose{perm: [0, 2, 3, 1]}(%18) [batch, 2, 2, 5]
      %20 = MatMul(%15, %19) [batch, 2, 5, 5]
      %21 = Mul(%20, 0.7071068) [batch, 2, 5, 5]
      %22 = Softmax(%21) [batch, 2, 5, 5]
      %23 = Reshape(%11) [5*batch, 4]
      %24 = Gemm{transposed: true}(%23, blocks.0.attn.v.weight, blocks.0.attn.v.bias) [5*batch, 4]
      %25 = Reshape(%24) [batch, 5, 2, 2]
      %26 = Transpose{perm: [0, 2, 1, 3]}(%25) [batch, 2, 5, 2]
      %27 = MatMul(%22, %26) [batch, 2, 5, 2]
      %28 = Transpose{perm: [0, 2, 1, 3]}(%27) [batch, 5, 2, 2]
      %29 = Reshape(%28) [5*batch, 4]
      %30 = Gemm{transposed: true}(%29, blocks.0.attn.out.weight) [5*batch, 4]
      %31 = Reshape(%30) [batch, 5, 4]
      %32 = Mul(%31, blocks.0.ls1.gamma) [batch, 5, 4]
      %33 = Add(%10, %32) [batch, 5, 4]
      %34 = LayerNorm{eps: 0.5}(%33, blocks.0.ln2.weight, blocks.0.ln2.bias) [batch, 5, 4]
      %35 = Reshape(%34) [5*batch, 4]
      %36 = Gemm{transposed: true}(%35, blocks.0.mlp.in.weight, blocks.0.mlp.in.bias) [5*batch, 8]
      %37 = Reshape(%36) [batch, 5, 8]
      %38 = QuickGelu{alpha: 1.702}(%37) [batch, 5, 8]
      %39 = Reshape(%38) [5*batch, 8]
      %40 = Gemm{transposed: true}(%39, blocks.0.mlp.out.weight, blocks.0.mlp.out.bias) [5*batch, 4]
      %41 = Reshape(%40) [batch, 5, 4]
      %42 = Mul(%41, blocks.0.ls2.gamma) [batch, 5, 4]
      %43 = Add(%33, %42) [batch, 5, 4]
      %44 = LayerNorm{eps: 0.5}(%43, ln_final.weight, ln_final.bias) [batch, 5, 4]
      %45 = Slice{axis: 1, start: 0, end: 1}(%44) [batch, 1, 4]
      %46 = Reshape(%45) [batch, 4]
      %47 = Gemm{transposed: true}(%46, head.weight, head.bias) [batch, 3]
      return logits = %47"
    `)
  })

  it("shows a norm opened where its scale is written", () => {
    const { scope } = build(TINY, undefined, {
      reads: () => false,
      writes: (name) => name === "blocks.0.ln1.hook_scale",
      write: (name, v) => (name === "blocks.0.ln1.hook_scale" ? ops.mul(v, ops.scalar(2)) : v),
    })
    const [before, after] = ["hook_full_embed", "blocks.0.ln1.hook_normalized"].map((h) => scope.hooks.get(h)!.value)
    expect(print({ before: before! }, { after: after! })).toMatchInlineSnapshot(`
      "before: input [batch, 5, 4]
      %1 = ReduceMean{axes: [2], keepdims: true}(before) [batch, 5, 1]
      %2 = Sub(before, %1) [batch, 5, 4]
      %3 = Mul(%2, %2) [batch, 5, 4]
      %4 = ReduceMean{axes: [2], keepdims: true}(%3) [batch, 5, 1]
      %5 = Add(%4, 0.5) [batch, 5, 1]
      %6 = Sqrt(%5) [batch, 5, 1]
      %7 = Mul(%6, 2) [batch, 5, 1]
      %8 = Div(%2, %7) [batch, 5, 4]
      %9 = Mul(%8, blocks.0.ln1.weight) [batch, 5, 4]
      %10 = Add(%9, blocks.0.ln1.bias) [batch, 5, 4]
      return after = %10"
    `)
  })

  it("shows numbers as they are, larger constants by their shape, and dtypes other than float32", () => {
    const x = ops.input("x", ["b", 2])
    const values = [0.5, 100, 1e6, 1e10, -2.5e-7, 1 / 3, Infinity, 0].map((v) => ops.mul(x, ops.scalar(v)))
    const ids = ops.input("ids", ["n"], "int64")
    const unused = ops.param("w", [2])
    const outputs = {
      ...Object.fromEntries(values.map((v, i) => [`y${i}`, v])),
      rows: ops.gather(ops.constant(float32([1, 2], [5, 6])), ids),
    }
    expect(print({ x, ids, unused }, outputs)).toMatchInlineSnapshot(`
      "x: input [b, 2]
      ids: input int64 [n]
      unused: input [2]
      %1 = Mul(x, 0.5) [b, 2]
      %2 = Mul(x, 100) [b, 2]
      %3 = Mul(x, 1000000) [b, 2]
      %4 = Mul(x, 10000000000) [b, 2]
      %5 = Mul(x, -2.5e-7) [b, 2]
      %6 = Mul(x, 0.3333333) [b, 2]
      %7 = Mul(x, Infinity) [b, 2]
      %8 = Mul(x, 0) [b, 2]
      %9 = Gather(const [1, 2], ids) [n, 2]
      return y0 = %1
      return y1 = %2
      return y2 = %3
      return y3 = %4
      return y4 = %5
      return y5 = %6
      return y6 = %7
      return y7 = %8
      return rows = %9"
    `)
  })
})
