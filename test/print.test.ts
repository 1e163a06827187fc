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
      %5 = Reshape(%4) [batch, 4, 4]
      %6 = Reshape(%5) [4*batch, 4]
      %7 = Gemm{transB: true}(%6, embed.proj.weight, embed.proj.bias) [4*batch, 4]
      %8 = Reshape(%7) [batch, 4, 4]
      %9 = Concat{axis: 1}(%2, %8) [batch, 5, 4]
      %10 = Reshape(embed.pos) [1, 5, 4]
      %11 = Add(%9, %10) [batch, 5, 4]
      %12 = LayerNorm{eps: 0.5}(%11, blocks.0.ln1.weight, blocks.0.ln1.bias) [batch, 5, 4]
      %13 = Reshape(%12) [5*batch, 4]
      %14 = Gemm{transB: true}(%13, blocks.0.attn.q.weight, blocks.0.attn.q.bias) [5*batch, 4]
      %15 = Reshape(%14) [batch, 5, 4]
      %16 = Reshape(%15) [batch, 5, 2, 2]
      %17 = Transpose{perm: [0, 2, 1, 3]}(%16) [batch, 2, 5, 2]
      %18 = Mul(%17, 0.7071068) [batch, 2, 5, 2]
      %19 = Reshape(%12) [5*batch, 4]
      %20 = Gemm{transB: true}(%19, blocks.0.attn.k.weight, blocks.0.attn.k.bias) [5*batch, 4]
      %21 = Reshape(%20) [batch, 5, 4]
      %22 = Reshape(%21) [batch, 5, 2, 2]
      %23 = Transpose{perm: [0, 2, 1, 3]}(%22) [batch, 2, 5, 2]
      %24 = MatMul{transB: true}(%18, %23) [batch, 2, 5, 5]
      %25 = Softmax(%24) [batch, 2, 5, 5]
      %26 = Reshape(%12) [5*batch, 4]
      %27 = Gemm{transB: true}(%26, blocks.0.attn.v.weight, blocks.0.attn.v.bias) [5*batch, 4]
      %28 = Reshape(%27) [batch, 5, 4]
      %29 = Reshape(%28) [batch, 5, 2, 2]
      %30 = Transpose{perm: [0, 2, 1, 3]}(%29) [batch, 2, 5, 2]
      %31 = MatMul(%25, %30) [batch, 2, 5, 2]
      %32 = Transpose{perm: [0, 2, 1, 3]}(%31) [batch, 5, 2, 2]
      %33 = Reshape(%32) [batch, 5, 4]
      %34 = Reshape(%33) [5*batch, 4]
      %35 = Gemm{transB: true}(%34, blocks.0.attn.out.weight) [5*batch, 4]
      %36 = Reshape(%35) [batch, 5, 4]
      %37 = Mul(%36, blocks.0.ls1.gamma) [batch, 5, 4]
      %38 = Add(%11, %37) [batch, 5, 4]
      %39 = LayerNorm{eps: 0.5}(%38, blocks.0.ln2.weight, blocks.0.ln2.bias) [batch, 5, 4]
      %40 = Reshape(%39) [5*batch, 4]
      %41 = Gemm{transB: true}(%40, blocks.0.mlp.in.weight, blocks.0.mlp.in.bias) [5*batch, 8]
      %42 = Reshape(%41) [batch, 5, 8]
      %43 = QuickGelu{alpha: 1.702}(%42) [batch, 5, 8]
      %44 = Reshape(%43) [5*batch, 8]
      %45 = Gemm{transB: true}(%44, blocks.0.mlp.out.weight, blocks.0.mlp.out.bias) [5*batch, 4]
      %46 = Reshape(%45) [batch, 5, 4]
      %47 = Mul(%46, blocks.0.ls2.gamma) [batch, 5, 4]
      %48 = Add(%38, %47) [batch, 5, 4]
      %49 = LayerNorm{eps: 0.5}(%48, ln_final.weight, ln_final.bias) [batch, 5, 4]
      %50 = Slice{axis: 1, start: 0, end: 1}(%49) [batch, 1, 4]
      %51 = Reshape(%50) [batch, 4]
      %52 = Gemm{transB: true}(%51, head.weight, head.bias) [batch, 3]
      return logits = %52"
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
