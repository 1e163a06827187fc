/** @file What a config's words and its absent keys mean: activations, eps, and configs of older libraries. */
import { describe, expect, it } from "vitest"
import { compare, readCase } from "./helpers/parity.ts"
import { floats } from "./helpers/read-safetensors.ts"
import * as v from "./helpers/variants.ts"

const { apart, changed } = v

describe("activations", () => {
  /** erf by its series, exact to 1e-10 for |x| < 4. */
  function erf(x: number): number {
    let [sum, term] = [0, x]
    for (let n = 0; n < 80; n++) {
      sum += term / (2 * n + 1)
      term *= (-x * x) / (n + 1)
    }
    return (2 / Math.sqrt(Math.PI)) * sum
  }
  const sigmoid = (x: number) => 1 / (1 + Math.exp(-x))
  const gelu = (x: number) => (x / 2) * (1 + erf(x / Math.SQRT2))
  const geluTanh = (x: number) => (x / 2) * (1 + Math.tanh(Math.sqrt(2 / Math.PI) * (x + 0.044715 * x ** 3)))
  const silu = (x: number) => x * sigmoid(x)
  const FORMULAS = { gelu, gelu_python: gelu, gelu_new: geluTanh, gelu_fast: geluTanh, gelu_pytorch_tanh: geluTanh, silu,
    swish: silu, quick_gelu: (x: number) => x * sigmoid(1.702 * x), relu: (x: number) => Math.max(0, x),
    leaky_relu: (x: number) => (x < 0 ? x / 100 : x), linear: (x: number) => x } // prettier-ignore

  /** The largest distance between what the MLP at `at` computes and the formula. */
  async function off(name: string, folder: string, at: string, formula: (x: number) => number): Promise<number> {
    const { inputs } = readCase({ name, folder: v.caseFolder(name) })
    const [pre, post] = await v.using(folder, async (m) => {
      const { cache } = await m.runWithCache(inputs, { names: `${at}.*` })
      return ["pre", "post"].map((which) => Array.from(cache.get(`${at}.hook_${which}`).data as Float32Array))
    })
    const used = pre!.map((x, i) => [x, i] as const).filter(([x]) => Math.abs(x) < 4)
    expect(used.length).toBeGreaterThan(1000)
    return Math.max(...used.map(([x, i]) => Math.abs(formula(x) - post![i]!)))
  }

  it.each(Object.entries(FORMULAS))("%s is its formula", async (name, formula) => {
    const folder = changed({ name: "hf-vit-names-v5", at: [] }, (c) => (c["hidden_act"] = name))
    expect(await off("hf-vit-names-v5", folder, "blocks.0.mlp", formula)).toBeLessThan(1e-6)
  })

  it.each([
    [{ approximate: "tanh" }, geluTanh],
    [{ approximate: "none" }, gelu],
    [null, gelu],
  ])("open_clip's act_kwargs %j of its text tower", async (kwargs, formula) => {
    const name = "open-clip-custom-text"
    const folder = changed({ name, at: ["model_cfg", "text_cfg"] }, (c) =>
      Object.assign(c, { act_kwargs: kwargs, norm_kwargs: null }),
    )
    expect(await off(name, folder, "text.blocks.0.mlp", formula)).toBeLessThan(1e-6)
    expect(await off(name, folder, "blocks.0.mlp", gelu)).toBeLessThan(1e-6)
  })
})

/** eps of each library's class, transformers 5.17, timm 1.0.29 and open_clip 3.3; and what scales the first residuals. */
const EPS = [
  ["hf-vit-names-v5", [], 1e-12, /embeddings\./],
  ["hf-deit", [], 1e-12, /embeddings\./],
  ["hf-dinov2", [], 1e-6, /embeddings\./],
  ["hf-clip-vision-base", [], 1e-5, /pre_layrnorm/],
  ["hf-clip-eos-2", ["vision_config"], 1e-5, /pre_layrnorm/],
  ["hf-siglip-vision", [], 1e-6, /embeddings\./],
  ["timm-wide", ["model_args"], 1e-6, /cls_token|pos_embed|patch_embed/],
  ["timm-clip", ["model_args"], 1e-5, /norm_pre/],
  ["open-clip-quickgelu", ["model_cfg", "vision_cfg"], 1e-5, /visual\.ln_pre/],
] as const

describe.each(EPS)("layer_norm_eps of %s %s absent", (name, at, eps, first) => {
  const without = () => apart({ name, at: [...at] }, (c) => delete c["layer_norm_eps"])
  const { inputs, expected } = readCase({ name, folder: v.caseFolder(name) })

  it("gives what the library gives", async () => {
    const outputs = await v.using(without(), (m) => m.run(inputs))
    for (const [key, got] of Object.entries(outputs)) {
      expect(compare(got, expected.get(key)!).problem, key).toBeUndefined()
    }
  })

  it(`is ${eps} in the graph`, async () => {
    const folder = without()
    const by = Math.sqrt(eps)
    v.editTensors(folder, (tensors) => {
      for (const [key, t] of tensors) if (first.test(key)) tensors.set(key, v.scaled(t, by))
    })
    const { residual, scale } = await v.using(folder, async (m) => {
      const { cache } = await m.runWithCache(inputs, { names: ["blocks.0.hook_resid_pre", "blocks.0.ln1.hook_scale"] })
      const [x, s] = [cache.get("blocks.0.hook_resid_pre"), cache.get("blocks.0.ln1.hook_scale")]
      return { residual: x.data as Float32Array, scale: s.data as Float32Array }
    })
    const d = residual.length / scale.length
    for (const [row, s] of scale.entries()) {
      const x = residual.subarray(row * d, (row + 1) * d)
      const mean = x.reduce((sum, v) => sum + v, 0) / d
      const variance = x.reduce((sum, v) => sum + (v - mean) ** 2, 0) / d
      expect((s * s - variance) / eps).toBeCloseTo(1, 2)
    }
  })
})

describe("layer_norm_eps of a text tower absent", () => {
  it.each([
    ["hf-clip-eos-2", ["text_config"], 1e-5],
    ["open-clip-quickgelu", ["model_cfg", "text_cfg"], 1e-5],
  ] as const)("in %s is its library's", async (name, at, eps) => {
    const { inputs } = readCase({ name, folder: v.caseFolder(name) })
    const outputs = (change: (c: v.Json) => unknown) => v.outputsOf(changed({ name, at }, change), inputs)
    const absent = await outputs((c) => delete c["layer_norm_eps"])
    const given = (value: number) => (c: v.Json) =>
      Object.assign(c, { layer_norm_eps: value, norm_kwargs: { eps: value } })
    expect(await outputs(given(eps))).toEqual(absent)
    expect(await outputs(given(1e-6))).not.toEqual(absent)
  })
})

describe("configs of older libraries", () => {
  const outputs = (folder: string, name: string) =>
    v.outputsOf(folder, readCase({ name, folder: v.caseFolder(name) }).inputs)

  it("takes a timm config of 2022, which says all at its top", async () => {
    const folder = changed({ name: "timm-gap", at: [] }, (_, whole) => {
      const { pretrained_cfg, ...rest } = whole
      for (const key of Object.keys(whole)) delete whole[key]
      Object.assign(whole, rest, pretrained_cfg, { crop_pct: 0.5 })
    })
    expect(await outputs(folder, "timm-gap")).toEqual(await outputs(v.caseFolder("timm-gap"), "timm-gap"))
    expect(await v.using(folder, (m) => m.preprocessing)).toMatchObject({ resize: { edge: 64 }, mean: [0.5, 0.5, 0.5] })
  })

  it("takes CLIP's vision_config_dict and text_config_dict before the configs beside them, as transformers does", async () => {
    const name = "hf-clip-eos-2"
    const folder = changed({ name, at: [] }, (c) => {
      for (const key of ["vision_config", "text_config"]) [c[`${key}_dict`], c[key]] = [c[key], { hidden_size: 512 }]
    })
    expect(await outputs(folder, name)).toEqual(await outputs(v.caseFolder(name), name))
    const nothing = changed({ name, at: [] }, (c) => (c["vision_config_dict"] = null))
    expect(await outputs(nothing, name)).toEqual(await outputs(v.caseFolder(name), name))
  })

  it("knows null of Python in timm's arguments", async () => {
    const layerScale = changed({ name: "timm-dinov2", at: ["model_args"] }, (c) => (c["init_values"] = null))
    expect(await v.refused(layerScale, "E_UNEXPECTED_TENSORS")).toContain("ls1.gamma")
    const none = changed({ name: "timm-wide", at: [] }, (c) => (c["model_args"] = null))
    expect(await v.refused(none, "E_SHAPE_MISMATCH")).toContain("the config wants [192]") // the architecture's own sizes
    const norm = changed({ name: "timm-wide", at: ["model_args"] }, (c) => (c["fc_norm"] = null))
    expect(await outputs(norm, "timm-wide")).toEqual(await outputs(v.caseFolder("timm-wide"), "timm-wide"))
  })

  it("takes an empty list of architectures as none", async () => {
    const folder = changed({ name: "hf-dino", at: [] }, (c) => (c["architectures"] = []))
    expect(await v.using(folder, (m) => m.config.architecture)).toBe("ViTModel")
  })
})

describe("sizes that a config may say", () => {
  const ofCase = (name: string) => readCase({ name, folder: v.caseFolder(name) })

  it("pooler_output_size: the rows of the pooler", async () => {
    const name = "hf-deit-pooler"
    const folder = apart({ name, at: [] }, (c) => (c["pooler_output_size"] = 7))
    v.editTensors(folder, (tensors) => {
      for (const kind of ["weight", "bias"]) {
        const { shape, ...t } = tensors.get(`pooler.dense.${kind}`)!
        const bytes = t.bytes.slice(0, (t.bytes.length / shape[0]!) * 7)
        tensors.set(`pooler.dense.${kind}`, { ...t, shape: [7, ...shape.slice(1)], bytes })
      }
    })
    const { inputs, expected } = ofCase(name)
    const whole = expected.get("pooler_output")!
    const [n, d] = whole.shape as [number, number]
    const cut = Array.from({ length: n }, (_, i) => [...floats(whole)].slice(i * d, i * d + 7)).flat()
    const { pooler_output } = await v.using(folder, (m) => m.run(inputs))
    expect(compare(pooler_output, v.f32([n, 7], cut)).problem).toBeUndefined()
  })

  it("num_register_tokens 0: a tensor of none", async () => {
    const name = "hf-dinov2"
    const folder = apart({ name, at: [] }, (c) => {
      const said = { model_type: "dinov2_with_registers", architectures: ["Dinov2WithRegistersModel"] }
      return Object.assign(c, said, { num_register_tokens: 0 })
    })
    v.editTensors(folder, (tensors) => tensors.set("embeddings.register_tokens", v.f32([1, 0, 32])))
    const { inputs, expected } = ofCase(name)
    const { last_hidden_state } = await v.using(folder, (m) => m.run(inputs))
    expect(compare(last_hidden_state, expected.get("last_hidden_state")!).problem).toBeUndefined()
  })
})
