/** @file Weights to begin with: their spreads against the formulas, and that they depend on nothing but seed and name. */
import { describe, expect, it } from "vitest"
import { cpuMs } from "./helpers/cpu.ts"
import { defineConfig, initOptions, MNISTConfig, modelConfig, type ConfigOverrides } from "../src/configs/index.ts"
import type { ModelConfig } from "../src/model/config.ts"
import { initialise, type InitOptions } from "../src/model/init.ts"
import { build } from "../src/model/model.ts"

const model = (overrides: ConfigOverrides = {}): ModelConfig => modelConfig(defineConfig(MNISTConfig, overrides))
const weights = (cfg: ModelConfig, options?: InitOptions) => {
  const made = initialise(cfg, options)
  return (name: string) => made.get(name)!
}

/** Mean, standard deviation, largest magnitude. */
function moments({ data }: { data: Float32Array }): { mean: number; std: number; most: number } {
  const mean = data.reduce((a, b) => a + b, 0) / data.length
  const std = Math.sqrt(data.reduce((a, b) => a + (b - mean) ** 2, 0) / data.length)
  return { mean, std, most: data.reduce((m, v) => Math.max(m, Math.abs(v)), 0) }
}

/** A sample of n values has its mean within 5 std / sqrt(n) and its std within 5 std / sqrt(2 n), but for 1 in a million. */
function isSpread(t: { data: Float32Array }, std: number): void {
  const { mean, std: got } = moments(t)
  const n = t.data.length
  expect(Math.abs(mean)).toBeLessThan((5 * std) / Math.sqrt(n))
  expect(Math.abs(got - std)).toBeLessThan((5 * std) / Math.sqrt(2 * n))
}

describe("the seed's scheme", () => {
  const w = weights(model({ layernorm: { layer_norm_eps: 1e-5, qknorm: true } }), { seed: 3 })

  it("draws linear weights with He's spread, sqrt(2 / inputs)", () => {
    isSpread(w("blocks.0.attn.q.weight"), Math.sqrt(2 / 128))
    isSpread(w("blocks.1.mlp.in.weight"), Math.sqrt(2 / 128))
    isSpread(w("blocks.1.mlp.out.weight"), Math.sqrt(2 / 512))
    isSpread(w("head.weight"), Math.sqrt(2 / 128))
  })

  it("draws patches as a new convolution: uniform up to 1 / sqrt(inputs)", () => {
    const t = w("embed.proj.weight")
    isSpread(t, 1 / 7 / Math.sqrt(3))
    expect(moments(t).most).toBeLessThanOrEqual(1 / 7)
    expect(moments(t).most).toBeGreaterThan(0.99 / 7)
  })

  it("draws class token and positions with their spreads", () => {
    isSpread(w("embed.cls"), 1e-6)
    isSpread(w("embed.pos"), 0.02)
    const other = weights(model(), { clsStd: 0.5, posStd: 1.5 })
    isSpread(other("embed.cls"), 0.5)
    // torch's trunc_normal_ cuts at 2, here 4/3 of its std: sqrt(1 - 2 a phi(a) / (2 Phi(a) - 1)) = 0.686 of it remain.
    expect(moments(other("embed.pos")).most).toBeLessThanOrEqual(2)
    isSpread(other("embed.pos"), 1.5 * 0.6862)
  })

  it("leaves norms at 1 and 0, biases at 0", () => {
    const norms = ["ln_pre", "blocks.0.ln1", "blocks.0.mlp.ln", "blocks.0.attn.q_norm", "ln_pooled"]
    for (const name of norms) {
      expect(new Set(w(`${name}.weight`).data)).toEqual(new Set([1]))
      expect(new Set(w(`${name}.bias`).data)).toEqual(new Set([0]))
    }
    for (const name of ["blocks.0.attn.out.bias", "blocks.3.mlp.in.bias", "head.bias"]) {
      expect(new Set(w(name).data)).toEqual(new Set([0]))
    }
  })

  it("can leave linear layers as torch makes them", () => {
    const plain = weights(model(), { weightType: "default" })
    isSpread(plain("blocks.0.mlp.out.weight"), 1 / Math.sqrt(512) / Math.sqrt(3))
    isSpread(plain("blocks.0.mlp.out.bias"), 1 / Math.sqrt(512) / Math.sqrt(3))
    isSpread(plain("blocks.0.mlp.in.bias"), 1 / Math.sqrt(128) / Math.sqrt(3))
  })

  it("gives weights without an activation torch's gain of 1", () => {
    const linear = weights(model({ transformer: { activation_name: "Linear" } }))
    isSpread(linear("blocks.0.attn.q.weight"), Math.sqrt(1 / 128))
  })
})

describe("timm's scheme", () => {
  const w = weights(model({ architecture: "preLN", training: { loss_fn_name: "MaskedReconstruction" } }), {
    scheme: "timm",
  })

  it("draws linear weights with 0.02, biases 0", () => {
    for (const name of ["blocks.0.attn.k.weight", "blocks.2.mlp.out.weight", "head.weight"]) isSpread(w(name), 0.02)
    for (const name of ["blocks.0.attn.k.bias", "blocks.2.mlp.out.bias", "head.bias"]) {
      expect(new Set(w(name).data)).toEqual(new Set([0]))
    }
    isSpread(w("embed.mask"), 0.02)
  })

  it("leaves patches, their bias too, as a new convolution", () => {
    isSpread(w("embed.proj.weight"), 1 / 7 / Math.sqrt(3))
    isSpread(w("embed.proj.bias"), 1 / 7 / Math.sqrt(3))
  })
})

describe("every weight", () => {
  it("that the model lists is made, in its shape", () => {
    for (const architecture of ["seed", "preLN"] as const) {
      const cfg = model({ architecture })
      const listed = [...build(cfg).scope.params].map(([name, { shape }]) => [name, shape])
      expect([...initialise(cfg)].map(([name, { shape }]) => [name, shape])).toEqual(listed)
    }
  })

  it("depends on seed, name and shape alone", () => {
    const [a, deeper] = [weights(model()), weights(model({ transformer: { num_layers: 6 } }))]
    for (const name of ["embed.pos", "blocks.3.mlp.in.weight", "head.weight"]) {
      expect(deeper(name)).toEqual(a(name))
      expect(weights(model(), { seed: 1 })(name)).not.toEqual(a(name))
    }
    expect(a("blocks.0.mlp.in.weight").data).not.toEqual(a("blocks.1.mlp.in.weight").data)
    const only = initialise(model(), { only: (name) => name === "head.weight" })
    expect([...only]).toEqual([["head.weight", a("head.weight")]])
  })

  it("is the same on every machine", () => {
    const sample = weights(model(), { seed: 7 })("head.weight").data.subarray(0, 4)
    expect([...sample].map((v) => v.toFixed(6))).toMatchInlineSnapshot(`
      [
        "-0.100875",
        "-0.085830",
        "-0.090626",
        "-0.116547",
      ]
    `)
  })

  it("follows the config", () => {
    const config = defineConfig(MNISTConfig, { init: { pos_std: 0.5 }, training: { seed: 9 } })
    expect(initialise(model(), initOptions(config))).toEqual(initialise(model(), { seed: 9, posStd: 0.5 }))
  })

  it.each([
    [{ seed: -1 }, "the seed must be a whole number >= 0, got -1"],
    [{ seed: 0.5 }, "the seed must be a whole number >= 0, got 0.5"],
    [{ posStd: NaN }, "posStd must be a number >= 0, got NaN"],
    [{ clsStd: -1 }, "clsStd must be a number >= 0, got -1"],
  ])("is refused for %j", (options, message) => {
    expect(() => initialise(model(), options)).toThrow(expect.objectContaining({ code: "E_CONFIG", message }))
  })

  it("is refused, at once, where there would be far too many", () => {
    const cfg = model({ transformer: { hidden_dim: 65536, mlp_dim: 65536, num_layers: 1024 } })
    const began = cpuMs()
    expect(() => initialise(cfg)).toThrow(expect.objectContaining({ code: "E_CONFIG_LIMIT" }))
    expect(cpuMs() - began).toBeLessThan(2000)
  })
})
