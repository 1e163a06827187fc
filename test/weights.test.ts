/** @file Tensors against the config: the names they come under, their shapes and their number types. */
import { writeFileSync } from "node:fs"
import { join } from "node:path"
import { describe, expect, it } from "vitest"
import { readCase } from "./helpers/parity.ts"
import { floats, readSafetensors, type Stored } from "./helpers/read-safetensors.ts"
import * as v from "./helpers/variants.ts"

type Tensors = Map<string, Stored>

const inputsOf = (name: string) => readCase({ name, folder: v.caseFolder(name) }).inputs
const outputs = (name: string, folder = v.caseFolder(name)) => v.outputsOf(folder, inputsOf(name))

/** The case with its tensors changed. */
function tensors(name: string, change: (tensors: Tensors) => unknown): string {
  const folder = v.apart({ name, at: [] })
  v.editTensors(folder, change)
  return folder
}

const renamed = (name: string, to: (tensor: string) => string): string =>
  tensors(name, (all) => new Map([...all].map(([key, t]) => [to(key), t])))

describe("names", () => {
  const CASES = [
    "hf-vit-names-v5",
    "hf-dinov2-classifier",
    "hf-clip-eos-2",
    "hf-siglip-vision",
    "timm-wide",
    "open-clip-quickgelu",
  ]

  it.each(CASES)("of %s under what trainers wrap a model in", async (name) => {
    const expected = await outputs(name)
    const wrappers = ["module.", "_orig_mod.", "model.", "backbone.", "module._orig_mod.model.backbone."]
    for (const wrapper of wrappers) {
      expect(await outputs(name, renamed(name, (key) => wrapper + key)), wrapper).toEqual(expected)
    }
  }) // prettier-ignore

  it("under a wrapper that only some have are refused", async () => {
    const folder = renamed("timm-wide", (key) => (key.startsWith("head.") ? key : `module.${key}`))
    const message = await v.refused(folder, "E_MISSING_TENSORS")
    expect(message).toMatch(/; 30 missing: .*"cls_token".*; 30 unexpected: "module\./)
  })

  // transformers 4 on the left, 5 on the right.
  const V5 = [
    ["encoder.layer.", "layers."],
    ["attention.attention.query", "attention.q_proj"],
    ["attention.attention.key", "attention.k_proj"],
    ["attention.attention.value", "attention.v_proj"],
    ["attention.output.dense", "attention.o_proj"],
    ["intermediate.dense", "mlp.fc1"],
    ["output.dense", "mlp.fc2"],
  ] as const
  const toV5 = (key: string) => V5.reduce((name, [from, to]) => name.replace(from, to), key)

  it.each(["hf-vit-bfloat16", "hf-vit-pooler-wide", "hf-dino", "hf-deit"])("of %s as transformers 5 has them", async (name) => {
    const folder = renamed(name, toV5)
    expect(await outputs(name, folder)).toEqual(await outputs(name))
    expect(await outputs(name, renamed(name, (key) => `module.${toV5(key)}`))).toEqual(await outputs(name))
  }) // prettier-ignore

  it("of both generations at once are refused", async () => {
    const folder = tensors("hf-dino", (all) => [...all].forEach(([key, t]) => all.set(toV5(key), t)))
    expect(await v.refused(folder, "E_UNEXPECTED_TENSORS")).toMatch(/\d+ unexpected: "layers\.0\./)
  })

  it.each([
    ["hf-vit-names-v5", "vit."],
    ["hf-deit", "deit."],
    ["hf-dinov2-classifier", "dinov2."],
    ["hf-siglip-vision", "vision_model."],
    ["hf-clip-vision-base", "vision_model."],
  ])("of %s with %s, without it, and with both", async (name, prefix) => {
    const without = (key: string) => key.replace(prefix, "")
    const withPrefix = (key: string) => (/^(classifier|visual_proj)/.test(key) ? key : prefix + without(key))
    const expected = await outputs(name)
    expect(await outputs(name, renamed(name, without))).toEqual(expected)
    expect(await outputs(name, renamed(name, withPrefix))).toEqual(expected)
    const both = tensors(name, (all) => new Map([...all].flatMap(([key, t]) => [[without(key), t], [withPrefix(key), t]]))) // prettier-ignore
    const message = await v.refused(both, "E_AMBIGUOUS_PREFIX")
    expect(message).toMatch(
      new RegExp(`config\\.json: .*"${prefix}embeddings\\.\\S+" and "embeddings\\.|"embeddings\\.`),
    )
  })
})

describe("what does not match", () => {
  it("is missing: named, up to 20", async () => {
    const one = tensors("hf-deit", (all) => all.delete("deit.layernorm.bias"))
    expect(await v.refused(one, "E_MISSING_TENSORS")).toMatch(/; 1 missing: "deit\.layernorm\.bias"$/)
    const none = tensors("hf-deit", () => new Map())
    expect(await v.refused(none, "E_MISSING_TENSORS")).toMatch(/; 41 missing: ("[\w.]+", ){19}"[\w.]+" and 21 more$/)
  })

  it("is unexpected: named, up to 20, on one line whatever the name", async () => {
    const one = tensors("timm-wide", (all) => all.set("blocks.0.\n\u2028evil", v.f32([1])))
    expect(await v.refused(one, "E_UNEXPECTED_TENSORS")).toMatch(/; 1 unexpected: "blocks\.0\.\\u\{a\}\\u\{2028\}evil"$/)
    const many = tensors("timm-wide", (all) => Array.from({ length: 25 }, (_, i) => all.set(`x${i}`, v.f32([1]))))
    expect(await v.refused(many, "E_UNEXPECTED_TENSORS")).toMatch(/; 25 unexpected: ("x\d+", ){19}"x\d+" and 5 more$/)
    const long = tensors("timm-wide", (all) => all.set("x".repeat(1e6), v.f32([1])))
    expect((await v.refused(long, "E_UNEXPECTED_TENSORS")).length).toBeLessThan(500)
  }) // prettier-ignore

  it("is there twice under two names", async () => {
    const folder = tensors("hf-deit", (all) => all.set("cls_classifier.bias", all.get("classifier.bias")!))
    const message = await v.refused(folder, "E_DUPLICATE_TENSOR")
    expect(message).toContain('config.json: tensors "classifier.bias" and "cls_classifier.bias" both give the weight')
  })

  it("is told together where it is of several kinds", async () => {
    const folder = tensors("hf-deit", (all) => {
      all.delete("deit.layernorm.bias")
      all.set("x", v.f32([1])).set("deit.layernorm.weight", v.f32([31]))
    })
    expect(await v.refused(folder, "E_SHAPE_MISMATCH")).toMatch(
      /1 of another shape: "deit\.layernorm\.weight" is \[31\], the config wants \[32\]; 1 missing: ".*"; 1 unexpected: "x"$/,
    )
  })

  it.each([
    ["hf-deit", /query\.weight$/, [32, 31], "[32, 31], the config wants [32, 32]"],
    ["hf-deit", /key\.bias$/, [33], "[33], the config wants [32]"],
    ["hf-deit", /layer\.1\.\S+value\.weight$/, [31, 32], "[31, 32], the config wants [32, 32]"],
    ["hf-deit", /projection\.weight$/, [32, 4, 8, 8], "[32, 4, 8, 8], the config wants [32, 3, 8, 8]"],
    ["hf-deit", /projection\.weight$/, [32, 3, 4, 16], "[32, 3, 4, 16], the config wants [32, 3, 8, 8]"],
    ["hf-deit", /projection\.weight$/, [32, 192], "[32, 192], the config wants [32, 3, 8, 8]"],
    ["hf-deit", /position_embeddings$/, [1, 19, 32], "(19 positions; the config's image gives 16 patches and 2 other tokens)"],
    ["hf-deit", /position_embeddings$/, [7], "(7 positions; the config's image gives 16 patches and 2 other tokens)"],
    ["timm-wide", /blocks\.0\.attn\.qkv\.weight$/, [95, 32], "[95, 32], the config wants [96, 32]"],
    ["timm-wide", /blocks\.0\.attn\.qkv\.bias$/, [97], "[97], the config wants [96]"],
    ["timm-wide", /blocks\.0\.attn\.qkv\.bias$/, [], "[], the config wants [96]"],
    ["timm-wide", /blocks\.0\.attn\.qkv\.weight$/, [0, 32], "[0, 32], the config wants [96, 32]"],
    ["open-clip-quickgelu", /visual\.\S+\.0\.attn\.in_proj_weight$/, [98, 32], "[98, 32], the config wants [96, 32]"],
    ["open-clip-quickgelu", /^visual\.proj$/, [16, 32], "[16, 32], the config wants [32, 16]"],
    ["open-clip-quickgelu", /^logit_scale$/, [2], "[2], the config wants [1]"],
    ["hf-clip-eos-2", /^logit_scale$/, [0], "[0], the config wants [1]"],
    ["hf-clip-eos-2", /^logit_scale$/, [1, 2], "[1, 2], the config wants [1]"],
  ])("is of another shape: %s %s %j", async (name, key, shape, expected) => {
    const folder = tensors(name, (all) => [...all.keys()].filter((k) => key.test(k)).slice(0, 1).forEach((k) => all.set(k, v.f32(shape)))) // prettier-ignore
    expect(await v.refused(folder, "E_SHAPE_MISMATCH")).toContain(`is ${expected}`.replace("is (", "("))
  }) // prettier-ignore

  it("does not include axes of one", async () => {
    for (const name of ["hf-clip-eos-2", "open-clip-quickgelu"]) {
      for (const shape of [[], [1], [1, 1]]) {
        const folder = tensors(name, (all) => all.set("logit_scale", { ...all.get("logit_scale")!, shape }))
        expect(await outputs(name, folder)).toEqual(await outputs(name))
      }
    }
  })
})

describe("number types", () => {
  it.each([
    ["I32", 4],
    ["I64", 8],
    ["U8", 1],
    ["BOOL", 1],
    ["F4", 0.5],
    ["F8_E4M3", 1],
    ["F8_E5M2", 1],
    ["F8_E8M0", 1],
    ["C64", 8],
  ])("refuses %s, naming the tensor", async (dtype, bytes) => {
    const folder = tensors("hf-deit", (all) => all.set("deit.layernorm.bias", { dtype, shape: [32], bytes: new Uint8Array(32 * bytes) })) // prettier-ignore
    const message = await v.refused(folder, "E_UNSUPPORTED_DTYPE")
    expect(message).toMatch(/config\.json: tensor "deit\.layernorm\.bias" is \w+; weights must be float32, float16/)
  })

  it("lets a table of indexes be, which no model reads", async () => {
    const ids = { dtype: "I64", shape: [1, 17], bytes: new Uint8Array(17 * 8) }
    const name = "hf-clip-vision-base"
    const folder = tensors(name, (all) => {
      const at = [...all.keys()].find((key) => key.endsWith("embeddings.class_embedding"))!
      all.set(at.replace("class_embedding", "position_ids"), ids)
    })
    expect(await outputs(name, folder)).toEqual(await outputs(name))
  })

  /** Multiples of 1/256 below 8 in magnitude: exact in every float type but bfloat16. */
  const coarse = (x: number) => Math.max(-7, Math.min(7, Math.round(x * 256) / 256))
  const f16 = (x: number): number => {
    if (x === 0) return 0
    const exponent = Math.floor(Math.log2(Math.abs(x)))
    return (x < 0 ? 0x8000 : 0) + ((exponent + 15) << 10) + (Math.abs(x) / 2 ** exponent - 1) * 1024
  }
  const bits = (x: number) => new Uint32Array(Float32Array.of(x).buffer)[0]!
  const STORED = {
    F64: { from: coarse, as: (x: readonly number[]) => Float64Array.from(x) },
    F16: { from: coarse, as: (x: readonly number[]) => Uint16Array.from(x, f16) },
    BF16: {
      from: (x: number) => new Float32Array(Uint32Array.of(bits(x) & 0xffff0000).buffer)[0]!,
      as: (x: readonly number[]) => Uint16Array.from(x, (y) => bits(y) >>> 16),
    },
  }

  it.each(Object.entries(STORED))("reads %s as the numbers it stands for", async (dtype, { from, as }) => {
    for (const name of ["hf-deit", "timm-wide", "open-clip-quickgelu"]) {
      const values = (t: Stored) => [...floats(t)].map(from)
      const exact = tensors(name, (all) => all.forEach((t, key) => all.set(key, v.f32(t.shape, values(t)))))
      const stored = tensors(name, (all) =>
        all.forEach((t, key) => all.set(key, { dtype, shape: t.shape, bytes: new Uint8Array(as(values(t)).buffer) }))) // prettier-ignore
      const [want, got] = [await outputs(name, exact), await outputs(name, stored)]
      for (const [key, numbers] of Object.entries(want)) {
        const error = Math.max(...numbers.map((x, i) => Math.abs(x - got[key]![i]!)))
        expect(error, `${name} ${key}`).toBeLessThan(1e-5)
      }
    }
  })
})

describe("shards", () => {
  it("are one checkpoint, whatever lies where", async () => {
    const name = "timm-wide"
    const folder = v.apart({ name, at: [] })
    const { tensors: all } = readSafetensors(join(folder, "model.safetensors"))
    const map: Record<string, string> = {}
    for (const shard of [0, 1, 2]) {
      const file = `part ${shard} # %.safetensors`
      const part = new Map([...all].filter((_, i) => i % 3 === shard))
      v.writeTensors(join(folder, file), part)
      for (const key of part.keys()) map[key] = file
    }
    v.remove(join(folder, "model.safetensors"))
    writeFileSync(join(folder, "model.safetensors.index.json"), JSON.stringify({ weight_map: map }))
    expect(await outputs(name, folder)).toEqual(await outputs(name))
  })
})
