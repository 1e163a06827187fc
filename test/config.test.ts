/** @file Configs that are wrong, for every family: what is refused, and how. */
import { describe, expect, it } from "vitest"
import * as v from "./helpers/variants.ts"

const { apart, changed, written } = v

/** Where each family's config says what. */
const FAMILIES = [
  { name: "hf-vit-names-v5", at: [], layers: "num_hidden_layers", width: "hidden_size", heads: "num_attention_heads" },
  { name: "hf-deit", at: [], layers: "num_hidden_layers", width: "hidden_size", heads: "num_attention_heads" },
  { name: "hf-dinov2", at: [], layers: "num_hidden_layers", width: "hidden_size", heads: "num_attention_heads" },
  { name: "hf-clip-vision-base", at: [], layers: "num_hidden_layers", width: "hidden_size", heads: "num_attention_heads" },
  { name: "hf-siglip-vision", at: [], layers: "num_hidden_layers", width: "hidden_size", heads: "num_attention_heads" },
  { name: "hf-clip-eos-2", at: ["vision_config"], layers: "num_hidden_layers", width: "hidden_size", heads: "num_attention_heads" },
  { name: "hf-clip-eos-2", at: ["text_config"], layers: "num_hidden_layers", width: "hidden_size", heads: "num_attention_heads", text: true },
  { name: "hf-siglip-classifier", at: ["vision_config"], layers: "num_hidden_layers", width: "hidden_size", heads: "num_attention_heads" },
  { name: "timm-wide", at: ["model_args"], layers: "depth", width: "embed_dim", heads: "num_heads", image: "img_size", channels: "in_chans" },
  { name: "open-clip-quickgelu", at: ["model_cfg", "vision_cfg"], layers: "layers", width: "width", heads: "head_width", channels: "" },
  { name: "open-clip-quickgelu", at: ["model_cfg", "text_cfg"], layers: "layers", width: "width", heads: "heads", text: true },
].map((f) => ({ image: "image_size", channels: "num_channels", text: false, ...f, title: [f.name, ...f.at].join(" ") })) // prettier-ignore

type Family = (typeof FAMILIES)[number]

/** "vision_config.hidden_size", as messages name it. */
const full = ({ at }: Pick<Family, "at">, key: string): string => [...at, key].join(".")

const WRONG = ["32", 768.5, null, true, {}, 0, -1]

describe.each(FAMILIES)("$title", (family) => {
  const { name, image, channels, text } = family
  const sizes = [family.layers, family.width, family.heads, ...(text || !channels ? [] : [channels])]
  const pairs = text ? [] : [image, "patch_size"]

  it.each([...sizes, ...pairs])("refuses a %s that is no number of at least 1", async (key) => {
    for (const value of [...WRONG, ...(sizes.includes(key) ? [[32]] : [[], [32, 32, 32], [0, 32], [32, "32"]])]) {
      const message = await v.refused(changed(family, (c) => (c[key] = value)), "E_CONFIG")
      expect(message).toContain(`${v.configName(name)}: ${full(family, key)} must be an integer of at least 1`)
      expect(message).toContain(`, got ${JSON.stringify(value)}`)
    }
  }) // prettier-ignore

  it("refuses a width that its heads do not divide, with both numbers", async () => {
    const folder = changed(family, (c) => Object.assign(c, { [family.width]: 770, [family.heads]: 12 }))
    const message = await v.refused(folder, "E_CONFIG")
    expect(message).toContain(`${full(family, family.width)} must be a multiple of ${full(family, family.heads)}`)
    expect(message).toContain("770 not divisible by 12")
  })

  it("refuses sizes beyond every published model before anything is made of them", async () => {
    const huge = { [family.width]: 2 ** 31, [family.layers]: 1e9, ...(!text && { [image]: 1e7 }) }
    for (const [key, value] of Object.entries(huge)) {
      const message = await v.refused(
        changed(family, (c) => (c[key] = value)),
        "E_CONFIG_LIMIT",
      )
      expect(message).toMatch(new RegExp(`${full(family, key)} is ${value}, the limit is \\d+`))
    }
  })

  it("refuses weights of another width, with the first difference and their number", async () => {
    const folder = changed(family, (c) => Object.assign(c, { [family.width]: 48, [family.heads]: 4 }))
    const message = await v.refused(folder, "E_SHAPE_MISMATCH")
    const [count] = /(\d+) of another shape: "\S+" is \[[\d, ]+\], the config wants \[[\d, ]*48[\d, ]*\]/
      .exec(message)!
      .slice(1)
      .map(Number)
    expect(count).toBeGreaterThan(15)
  })

  it("refuses weights of more and of fewer layers, naming up to 20", async () => {
    const fewer = await v.refused(changed(family, (c) => (c[family.layers] = 1)), "E_UNEXPECTED_TENSORS") // prettier-ignore
    expect(fewer).toMatch(/\d+ unexpected: "\S+\b1\./)
    const more = await v.refused(changed(family, (c) => (c[family.layers] = 5)), "E_MISSING_TENSORS") // prettier-ignore
    expect(more).toMatch(/\d+ missing: "\S+\b2\./)
    expect(more.split('"')).toHaveLength(41)
    expect(more).toMatch(/" and \d+ more$/)
  })

  if (text) return

  it("refuses an image that is not a whole number of patches", async () => {
    const message = await v.refused(changed(family, (c) => (c[image] = 33)), "E_CONFIG") // prettier-ignore
    expect(message).toContain(`${full(family, image)} must be a multiple of ${full(family, "patch_size")}`)
    expect(message).toContain("33 not divisible by 8")
  })

  it("names both token counts where the position table has another length", async () => {
    const message = await v.refused(changed(family, (c) => (c[image] = 40)), "E_SHAPE_MISMATCH")
    expect(message).toMatch(/1 of another shape: "\S+" is \[.*\], the config wants \[.*\] \(\d+ positions; .* 25 patches and \d other tokens\)/)
    const [got] = /(\d+) positions/.exec(message)!.slice(1).map(Number)
    expect([16, 17, 18, 24, 25]).toContain(got)
  }) // prettier-ignore
})

describe("keys that must be there", () => {
  it.each([
    ["hf-vit-names-v5", ["hidden_size", "num_hidden_layers", "num_attention_heads", "intermediate_size", "image_size", "patch_size"]],
    ["hf-dinov2", ["hidden_size", "num_hidden_layers", "num_attention_heads", "image_size", "patch_size"]],
    ["hf-siglip-vision", ["hidden_size", "num_hidden_layers", "num_attention_heads", "intermediate_size", "image_size", "patch_size"]],
    ["open-clip-quickgelu", ["model_cfg.embed_dim", "model_cfg.vision_cfg", "model_cfg.text_cfg"]],
  ])("of %s: %s", async (name, keys) => {
    for (const key of keys) {
      const at = key.split(".").slice(0, -1)
      const message = await v.refused(changed({ name, at }, (c) => delete c[key.split(".").at(-1)!]), "E_CONFIG")
      expect(message).toContain(`${v.configName(name)}: the key "${key}" is required and missing; it must be `)
    }
  }) // prettier-ignore

  it.each(["model_type", "architecture", "model_cfg"])("%s, which says whose config it is", async (key) => {
    const name = { model_type: "hf-deit", architecture: "timm-wide", model_cfg: "open-clip-quickgelu" }[key]!
    const message = await v.refused(
      changed({ name, at: [] }, (c) => delete c[key]),
      "E_CONFIG",
    )
    for (const word of [v.configName(name), "model_type", "architecture", "model_cfg", "siglip"]) {
      expect(message).toContain(word)
    }
  })
})

describe("what is not supported", () => {
  it.each([
    ["hf-vit-names-v5", "model_type", "vitdet", "nearest: vit)"],
    ["hf-vit-names-v5", "model_type", "dinov2_with_register", "nearest: dinov2_with_registers)"],
    ["hf-vit-names-v5", "architectures", ["ViTForMaskedImageModeling"], "supported are ViTForImageClassification, ViTModel"],
    ["hf-vit-names-v5", "architectures", ["ViTModel", "ViTForImageClassification"], "supported are"],
    ["hf-clip-eos-2", "architectures", ["CLIPTextModel"], "nearest: CLIPModel)"],
    ["timm-wide", "architecture", "vit_base_patch16_225", "nearest: vit_base_patch16_224)"],
    ["timm-wide", "architecture", "vit_base_patch16_18x2_224", "parallel blocks"],
    ["timm-wide", "architecture", "resnet50", "timm architecture"],
  ])("%s with %s %j", async (name, key, value, expected) => {
    const message = await v.refused(changed({ name, at: [] }, (c) => (c[key] = value)), "E_UNSUPPORTED_ARCH")
    expect(message).toContain(expected)
    expect(message).toContain("supported are")
    expect(message).toContain(JSON.stringify(Array.isArray(value) ? value[0] : value))
  }) // prettier-ignore

  it.each(["evil", "GELU", "gelu_10", "mish", "prelu", "", "constructor", "__proto__"])(
    "the activation %j: never taken for gelu",
    async (name) => {
      const parts = [
        ["hf-vit-names-v5", [], "hidden_act"],
        ["hf-clip-eos-2", ["text_config"], "hidden_act"],
        ["timm-wide", ["model_args"], "act_layer"],
      ] as const
      for (const [of, at, key] of parts) {
        const message = await v.refused(changed({ name: of, at: [...at] }, (c) => (c[key] = name)), "E_UNSUPPORTED_ACTIVATION") // prettier-ignore
        expect(message).toMatch(new RegExp(`${full({ at: [...at] }, key)} must be one of gelu, .*, got "${name}" \\(nearest: `))
      }
    },
  ) // prettier-ignore

  it.each([
    [{ quant_method: "bitsandbytes", load_in_4bit: true }, "bitsandbytes"],
    [{ quant_method: "fp8" }, "fp8"],
    [{}, "got {}"],
  ])("quantisation %j, before the tensors are looked at", async (value, word) => {
    const folder = apart({ name: "hf-vit-names-v5", at: [] }, (c) => (c["quantization_config"] = value))
    v.editTensors(folder, (t) => t.set("x", { dtype: "F8_E4M3", shape: [4], bytes: new Uint8Array(4) }))
    const message = await v.refused(folder, "E_UNSUPPORTED_QUANT")
    expect(message).toContain("quantization_config")
    expect(message).toContain(word)
  })

  it.each([
    ["timm-wide", ["model_args"], "global_pool", "avgmax"],
    ["timm-wide", ["model_args"], "pos_embed", "rope"],
    ["timm-wide", ["model_args"], "scale_attn_norm", true],
    ["timm-wide", [], "model_args", "embed_dim"],
    ["timm-wide", [], "model_args", [1]],
    ["timm-deit-distilled", [], "num_classes", 0],
    ["timm-deit-distilled", ["model_args"], "global_pool", "avg"],
    ["open-clip-quickgelu", ["model_cfg", "vision_cfg"], "pool_type", "max"],
    ["open-clip-quickgelu", ["model_cfg", "vision_cfg"], "attentional_pool", true],
    ["open-clip-quickgelu", ["model_cfg", "text_cfg"], "hf_model_name", "roberta-base"],
    ["open-clip-quickgelu", ["model_cfg", "text_cfg"], "proj_type", "mlp"],
    ["open-clip-quickgelu", ["model_cfg", "text_cfg"], "act_kwargs", { approximate: "erf" }],
    ["open-clip-timm-trunk", ["model_cfg", "vision_cfg"], "timm_proj", "mlp"],
  ])("%s %s.%s = %j", async (name, at, key, value) => {
    const message = await v.refused(
      changed({ name, at }, (c) => (c[key] = value)),
      "E_CONFIG",
    )
    expect(message).toContain(key)
    expect(message).toContain("must be")
  })
})

describe("names that every JavaScript object has", () => {
  const NAMES = ["__proto__", "constructor", "toString", "hasOwnProperty", "valueOf"]

  it.each([
    ["hf-vit-names-v5", [], "model_type", "E_UNSUPPORTED_ARCH"],
    ["timm-wide", [], "architecture", "E_UNSUPPORTED_ARCH"],
    ["timm-wide", ["model_args"], "global_pool", "E_CONFIG"],
    ["timm-wide", ["model_args"], "pos_embed", "E_CONFIG"],
    ["timm-wide", ["model_args"], "act_layer", "E_UNSUPPORTED_ACTIVATION"],
    ["open-clip-quickgelu", ["model_cfg", "vision_cfg"], "pool_type", "E_CONFIG"],
    ["open-clip-quickgelu", ["model_cfg", "text_cfg"], "pool_type", "E_CONFIG"],
    ["open-clip-timm-trunk", ["model_cfg", "vision_cfg"], "timm_model_name", "E_UNSUPPORTED_ARCH"],
    ["open-clip-timm-trunk", ["model_cfg", "vision_cfg"], "timm_pool", "E_CONFIG"],
    ["open-clip-timm-trunk", ["model_cfg", "vision_cfg"], "timm_proj", "E_CONFIG"],
  ])("are not found in a table: %s %s.%s", async (name, at, key, code) => {
    for (const value of NAMES) {
      const message = await v.refused(
        changed({ name, at }, (c) => (c[key] = value)),
        code,
      )
      expect(message).toContain(`"${value}"`)
    }
  })

  it("do not stand in for missing keys, and change no prototype", async () => {
    const text = '{"model_type":"vit","__proto__":{"hidden_size":32,"polluted":1},"constructor":{"prototype":{"polluted":1}}}'
    expect(await v.refused(written("hf-vit-names-v5", text), "E_CONFIG")).toContain('"hidden_size" is required')
    expect(Object.keys({})).toEqual([])
    expect("polluted" in {}).toBe(false)
  }) // prettier-ignore

  it("are ordinary labels", async () => {
    const id2label = { 0: "__proto__", 1: "constructor", 2: "<script>alert(1)</script>", 3: "&amp; 🐈 \u202e" }
    const folder = changed({ name: "hf-deit", at: [] }, (c) => (c["id2label"] = id2label))
    expect(await v.using(folder, (m) => m.config.labels)).toEqual(Object.values(id2label))
  })
})

describe("class names", () => {
  const vit = { name: "hf-vit-names-v5", at: [] }

  it.each([
    [{ id2label: { 0: "a", 1: "b", 2: "c" } }, /id2label gives 3 classes, "classifier.weight" has 4 rows/],
    [{ id2label: { 0: "a", 1: "b", 2: "c", 4: "e" } }, /id2label must have a text for each of 0 to 3, got nothing for 3/],
    [{ id2label: { 0: "a", 1: null, 2: "c", 3: "d" } }, /got null for 1/],
    [{ id2label: { 0: "a", 1: ["b"], 2: "c", 3: "d" } }, /got \["b"\] for 1/],
    [{ id2label: ["a", "b", "c", "d"] }, /id2label must be an object, got \["a"/],
    [{ id2label: "x".repeat(1e6) }, /id2label must be an object, got "x/],
    [{ id2label: { __proto: "a", 1: "b", 2: "c", 3: "d" } }, /got nothing for 0/],
    [{ id2label: undefined, num_labels: 3 }, /num_labels gives 3 classes/],
    [{ id2label: undefined, num_labels: -3 }, /num_labels must be an integer of at least 1, got -3/],
    [{ id2label: undefined }, /num_labels gives 2 classes/],
    [{ id2label: undefined, num_labels: 0 }, /num_labels must be an integer of at least 1, got 0/],
    [{ id2label: {} }, /id2label must name at least 1 class, got \{\}/],
  ])("%j", async (keys, expected) => {
    expect(await v.refused(changed(vit, (c) => Object.assign(c, keys)), "E_CONFIG")).toMatch(expected)
  }) // prettier-ignore

  it("are numbered where the config only counts them", async () => {
    const folder = changed(vit, (c) => Object.assign(c, { id2label: undefined, num_labels: 4 }))
    expect(await v.using(folder, (m) => m.config.labels)).toEqual(["LABEL_0", "LABEL_1", "LABEL_2", "LABEL_3"])
  })

  it("do not fill the memory", async () => {
    const folder = changed(vit, (c) => Object.assign(c, { id2label: undefined, num_labels: 9_999_999 }))
    expect(await v.refused(folder, "E_CONFIG_LIMIT")).toContain("num_labels is 9999999")
  })

  it("of timm are a list, or an object with gaps", async () => {
    const timm = { name: "timm-wide", at: [] }
    const gaps = changed(timm, (c) => (c["label_names"] = { 0: "zero", 3: "three" }))
    expect(await v.using(gaps, (m) => m.config.labels)).toEqual(["zero", "1", "2", "three", "4"])
    const short = changed(timm, (c) => (c["label_names"] = ["zero"]))
    expect(await v.refused(short, "E_CONFIG")).toContain("label_names has 1 names, num_classes is 5")
  })
})

describe("files that are no config", () => {
  const name = "hf-vit-names-v5"

  it.each([
    ["null", /the file must be an object, got null/],
    ["[]", /the file must be an object, got \[\]/],
    ['"vit"', /the file must be an object, got "vit"/],
    ["7", /the file must be an object, got 7/],
    ["", /is not valid JSON/],
    ['{"model_type":"vit",}', /is not valid JSON/],
    ['{"hidden_size": NaN}', /is not valid JSON/],
    ["\ufffd\u0000", /is not valid JSON/],
    ["version https://git-lfs.github.com/spec/v1\n", /is not valid JSON/],
    ['{"model_type":"vit","hidden_size":1e999}', /hidden_size must be an integer of at least 1, got Infinity/],
    ['{"model_type":"vit\\nfake: line"}', /"vit\\u\{a\}fake: line"/],
  ])("%j", async (text, expected) => {
    const code = text.includes("fake") ? "E_UNSUPPORTED_ARCH" : "E_CONFIG"
    expect(await v.refused(written(name, text), code)).toMatch(expected)
  })

  it("are bounded in nesting, size and what is said of them", async () => {
    expect(await v.refused(written(name, "[".repeat(1e5)), "E_CONFIG_LIMIT")).toMatch(/nesting deeper than \d+/)
    const deep = `{"model_type":"vit","x":${'{"x":'.repeat(1e5)}1${"}".repeat(1e5)}}`
    expect(await v.refused(written(name, deep), "E_CONFIG_LIMIT")).toMatch(/nesting/)
    const big = written(name, `{"model_type":"vit","x":"${"x".repeat(50e6)}"}`)
    expect(await v.refused(big, "E_CONFIG_LIMIT")).toMatch(/50000\d+ bytes, above the limit/)
    const long = "x".repeat(15e6)
    for (const keys of [{ model_type: long }, { architecture: long }, { model_type: "vit", architectures: [long] }]) {
      expect(await v.refused(written(name, JSON.stringify(keys)), "E_UNSUPPORTED_ARCH")).toContain("nearest")
    }
  })

  it.each([
    ["hf-dinov2-registers-base", [], { num_register_tokens: 4096 }],
    ["hf-dinov2", [], { mlp_ratio: 1e300 }],
    ["hf-clip-eos-2", ["text_config"], { max_position_embeddings: 65536 }],
    ["hf-clip-eos-2", ["text_config"], { vocab_size: 1e12 }],
    ["open-clip-quickgelu", ["model_cfg", "text_cfg"], { context_length: 65536 }],
    ["open-clip-quickgelu", ["model_cfg", "vision_cfg"], { mlp_ratio: 1e300 }],
    ["timm-wide", ["model_args"], { reg_tokens: 4096 }],
    ["timm-wide", ["model_args"], { mlp_ratio: 1e300 }],
    ["timm-wide", [], { num_classes: 1e12 }],
  ])("%s %s %j: tables that the graph itself would hold", async (name, at, keys) => {
    const message = await v.refused(
      changed({ name, at }, (c) => Object.assign(c, keys)),
      "E_CONFIG_LIMIT",
    )
    expect(message).toContain(Object.keys(keys)[0])
  })
})
