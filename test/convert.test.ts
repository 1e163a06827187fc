/** @file Exported folders: onnxruntime alone gives the libraries' values and takes replacements; files, hashes, reloading. */
import { createHash } from "node:crypto"
import {
  cpSync,
  existsSync,
  mkdirSync,
  mkdtempSync,
  readdirSync,
  readFileSync,
  realpathSync,
  renameSync,
  rmSync,
  statSync,
  symlinkSync,
  writeFileSync,
} from "node:fs"
import { tmpdir } from "node:os"
import { join } from "node:path"
import * as ort from "onnxruntime-node"
import { afterAll, describe, expect, it } from "vitest"
import { convertModel } from "../src/export/convert.ts"
import { checkManifest } from "../src/files/manifest.ts"
import { checkOnnxFile } from "../src/files/onnx-file.ts"
import { loadPretrained, type LoadedViT } from "../src/hub/load-pretrained.ts"
import { float32, int64, type Tensor } from "../src/tensor/tensor.ts"
import { demoModel, reference } from "./helpers/cli.ts"
import { floats, readSafetensors, type Stored } from "./helpers/read-safetensors.ts"

const scratch = realpathSync(mkdtempSync(join(tmpdir(), "vit-prisma-convert-")))
afterAll(() => rmSync(scratch, { recursive: true }))
const at = (...names: string[]): string => join(scratch, ...names)

const PROCESSOR = "preprocessor_config.json"

interface Case {
  readonly name: string
  /** Hooks that become inputs. */
  readonly inputs: readonly string[]
}

const MID = "blocks.1.hook_resid_mid"
const CASES: readonly Case[] = [
  { name: "hf-vit-names-v5", inputs: [MID, "hook_pos_embed"] },
  { name: "hf-vit-sharded", inputs: [MID, "blocks.0.attn.hook_pattern"] },
  { name: "hf-vit-bfloat16", inputs: [MID, "blocks.0.ln1.hook_scale"] },
  { name: "hf-deit", inputs: [MID, "hook_embed"] },
  { name: "hf-dinov2-swiglu", inputs: [MID, "blocks.0.mlp.hook_pre"] },
  { name: "hf-siglip-vision", inputs: [MID, "blocks.0.attn.hook_q"] },
  { name: "hf-clip-eos-2", inputs: [MID, "text.blocks.0.hook_mlp_out"] },
  { name: "timm-gap", inputs: [MID, "blocks.0.hook_attn_out"] },
  { name: "timm-map-registers-classifier", inputs: [MID, "blocks.0.attn.hook_z"] },
  { name: "timm-clip", inputs: [MID, "hook_ln_pre"] },
  { name: "open-clip-quickgelu", inputs: [MID, "text.blocks.1.hook_resid_pre"] },
  { name: "open-clip-custom-text", inputs: [MID, "blocks.0.ln2.hook_normalized"] },
]

type Values = Readonly<Record<string, ort.Tensor>>

/** The example's inputs, and `batch` images made of its own in turn. */
function example(name: string): { expected: Map<string, Stored>; feeds: Values; of: (batch: number) => Values } {
  const expected = readSafetensors(join(reference(name), "expected.safetensors")).tensors
  const [pixels, ids] = [expected.get("input.pixel_values")!, expected.get("input.input_ids")]
  const [n, ...rest] = pixels.shape as [number, ...number[]]
  const one = floats(pixels).length / n
  const texts = ids && new ort.Tensor("int64", BigInt64Array.from(floats(ids), BigInt), [...ids.shape])
  const of = (batch: number): Values => {
    const data = new Float32Array(batch * one)
    for (let i = 0; i < batch; i++) {
      const image = floats(pixels).subarray((i % n) * one, ((i % n) + 1) * one)
      data.set(i < n ? image : image.map((v) => v * 0.5), i * one)
    }
    return { pixel_values: new ort.Tensor("float32", data, [batch, ...rest]), ...(texts && { input_ids: texts }) }
  }
  return { expected, feeds: of(n), of }
}

/** Largest |got - want| / max(1, max |want|). */
function error(got: ArrayLike<number>, want: ArrayLike<number>): number {
  expect(got.length).toBe(want.length)
  let [worst, scale] = [0, 1]
  for (let i = 0; i < want.length; i++) {
    const d = Math.abs(got[i]! - want[i]!)
    if (!(d <= worst)) worst = Number.isNaN(d) ? Infinity : d
    scale = Math.max(scale, Math.abs(want[i]!))
  }
  return worst / scale
}
const data = (t: ort.Tensor): Float32Array => t.data as Float32Array

const ours = (feeds: Values): { pixel_values: Tensor; input_ids?: Tensor } => {
  const { pixel_values, input_ids } = feeds
  return {
    pixel_values: float32(pixel_values!.dims, data(pixel_values!)),
    ...(input_ids && { input_ids: int64(input_ids.dims, Array.from(input_ids.data as BigInt64Array, Number)) }),
  }
}

/** What replaces nothing at each replaceable hook: an empty first axis. */
function nothing(session: ort.InferenceSession): Values {
  const hooks = session.inputMetadata.filter((m) => !["pixel_values", "input_ids"].includes(m.name))
  return Object.fromEntries(
    hooks.map((m) => {
      const shape = m.isTensor ? m.shape.map((d) => (typeof d === "number" ? d : 0)) : []
      return [m.name, new ort.Tensor("float32", new Float32Array(), shape)]
    }),
  )
}

const quiet = { logSeverityLevel: 3 } as const
const sha256 = (path: string): string => createHash("sha256").update(readFileSync(path)).digest("hex")
const filesOf = (folder: string): string[] =>
  readdirSync(folder, { recursive: true, withFileTypes: true })
    .filter((entry) => entry.isFile())
    .map((entry) => join(entry.parentPath, entry.name).slice(folder.length + 1))
    .sort()

/** Every tensor of a folder's safetensors files. */
function weightsIn(folder: string): Map<string, Stored> {
  const files = readdirSync(folder).filter((name) => /model.*\.safetensors$/.test(name) && !name.startsWith("expected"))
  return new Map(files.flatMap((name) => [...readSafetensors(join(folder, name)).tensors]))
}

interface Manifest {
  files: Record<string, { bytes: number; sha256: string }>
  inputs: Record<string, { shape: unknown[]; replaces?: string }>
  outputs: Record<string, object>
}

async function sameOutputs(a: LoadedViT, b: LoadedViT, feeds: Values): Promise<void> {
  const [x, y] = [await a.run(ours(feeds)), await b.run(ours(feeds))]
  expect(Object.keys(y)).toEqual(Object.keys(x))
  for (const name of a.outputNames) expect(y[name]!.data, name).toEqual(x[name]!.data)
}

describe.each(CASES)("$name", ({ name, inputs }) => {
  const folder = at(name)
  const { expected, feeds, of } = example(name)

  it("is certified and gives its library's values in onnxruntime, by path and by bytes", async () => {
    const model = await loadPretrained(reference(name))
    const { warnings, certificate } = await convertModel(model, folder, { hooks: "*", inputs, certify: true })
    expect(warnings).toEqual([])
    const [byPath, byBytes] = [
      await ort.InferenceSession.create(join(folder, "onnx/model.onnx"), quiet),
      await ort.InferenceSession.create(readFileSync(join(folder, "onnx/model.onnx")), {
        ...quiet,
        extra: { session: { model_external_initializers_file_folder_path: join(folder, "onnx") } },
      }),
    ]
    expect(certificate!.values.map((v) => v.name).sort()).toEqual([...byPath.outputNames].sort())
    expect(Math.max(...certificate!.values.map((v) => v.error))).toBeLessThan(1e-5)
    const got = await byPath.run({ ...feeds, ...nothing(byPath) })
    const wanted = [...expected].filter(([key]) => key in got)
    expect(wanted.length).toBeGreaterThan(25)
    for (const [key, want] of wanted) {
      expect(error(data(got[key]!), floats(want)), key).toBeLessThan(1e-5)
      // A hook that all images share has one row.
      expect([got[key]!.dims.slice(1), key], key).toEqual([want.shape.slice(1), key])
    }
    const again = await byBytes.run({ ...feeds, ...nothing(byBytes) })
    for (const key of byPath.outputNames) expect(data(again[key]!), key).toEqual(data(got[key]!))

    // Own values fed change nothing; others change what the API's patch changes.
    const fed = Object.fromEntries(inputs.map((hook) => [`${hook}.in`, got[hook]!]))
    const own = await byPath.run({ ...feeds, ...fed })
    for (const key of byPath.outputNames) expect(error(data(own[key]!), data(got[key]!)), key).toBeLessThan(1e-6)
    for (const hook of inputs) {
      const other = data(got[hook]!).map((v, i) => v * 0.5 + (i % 3) * 0.25)
      const changed = await byPath.run({
        ...feeds,
        ...nothing(byPath),
        [`${hook}.in`]: new ort.Tensor("float32", other, got[hook]!.dims),
      })
      expect(data(changed[hook]!)).toEqual(other)
      const patched = await model.run(ours(feeds), { patch: { [hook]: float32(got[hook]!.dims, other) } })
      for (const output of model.outputNames) {
        expect(error(data(changed[output]!), patched[output]!.data as Float32Array), output).toBeLessThan(1e-5)
      }
      const moved = model.outputNames.map((output) => error(data(changed[output]!), data(got[output]!)))
      expect(Math.max(...moved), hook).toBeGreaterThan(1e-3)
    }

    // Any number of images, and texts of any length.
    for (const batch of [1, 2, 3]) {
      const { pixel_values, input_ids } = of(batch)
      const ids = input_ids && {
        input_ids: new ort.Tensor("int64", (input_ids.data as BigInt64Array).slice(0, input_ids.dims[1]! - batch + 1), [
          1,
          input_ids.dims[1]! - batch + 1,
        ]),
      }
      const given: Values = { pixel_values: pixel_values!, ...ids }
      const here = await byPath.run({ ...given, ...nothing(byPath) })
      const there = await model.run(ours(given))
      for (const output of model.outputNames) {
        expect(here[output]!.dims, output).toEqual(there[output]!.shape)
        expect(error(data(here[output]!), there[output]!.data as Float32Array), output).toBeLessThan(1e-5)
      }
    }
  })

  it("holds what the manifest says, and the source's tensors to the byte", () => {
    const {
      files,
      inputs: taken,
      outputs,
    } = JSON.parse(readFileSync(join(folder, "manifest.json"), "utf8")) as Manifest
    expect([...Object.keys(files), "manifest.json"].sort()).toEqual(filesOf(folder))
    for (const [file, entry] of Object.entries(files)) {
      const path = join(folder, file)
      expect(entry, file).toEqual({ bytes: statSync(path).size, sha256: sha256(path) })
    }
    expect(
      Object.values(taken)
        .flatMap((t) => t.replaces ?? [])
        .sort(),
    ).toEqual([...inputs].sort())
    expect(Object.keys(outputs).length).toBeGreaterThan(25)

    const [source, copied] = [weightsIn(reference(name)), weightsIn(folder)]
    expect([...copied.keys()].sort()).toEqual([...source.keys()].sort())
    for (const [key, tensor] of source) expect(copied.get(key), key).toEqual(tensor)
    const safetensors = readdirSync(folder).find((file) => file.endsWith(".safetensors"))
    expect(sha256(join(folder, "onnx/model.onnx_data"))).toBe(sha256(join(folder, safetensors!)))
    expect(statSync(join(folder, "onnx/model.onnx_data")).ino).toBe(statSync(join(folder, safetensors!)).ino)
    // CV-05: however large the weights, the graph holds none of them.
    expect(statSync(join(folder, "onnx/model.onnx")).size).toBeLessThan(100_000)
  })

  it("loads again, moved, copied, and from a cache of links, with the same outputs", async () => {
    const source = await loadPretrained(reference(name))
    await sameOutputs(source, await loadPretrained(folder), feeds)

    const moved = at("moved", name)
    mkdirSync(at("moved"), { recursive: true })
    renameSync(folder, moved)
    const copy = at("copied", name)
    cpSync(moved, copy, { recursive: true })
    // The Hub's cache: every file is a link into blobs.
    const commit = "c0ffee".repeat(7).slice(0, 40)
    const repo = at("cache", `models--owner--${name}`)
    for (const [i, file] of filesOf(moved).entries()) {
      const link = join(repo, "snapshots", commit, file)
      for (const dir of [join(repo, "blobs"), join(repo, "refs"), join(link, "..")]) mkdirSync(dir, { recursive: true })
      cpSync(join(moved, file), join(repo, "blobs", String(i)))
      symlinkSync(`${"../".repeat(file.split("/").length + 1)}blobs/${i}`, link)
    }
    writeFileSync(join(repo, "refs", "main"), commit)
    for (const model of [
      await loadPretrained(copy),
      await loadPretrained(`owner/${name}`, { cacheDir: at("cache"), offline: true }),
    ]) {
      expect(model.warnings).toEqual([])
      await sameOutputs(source, model, feeds)
    }
    for (const dir of [moved, copy, join(repo, "snapshots", commit)]) {
      expect(await checkManifest(dir)).toBe(true)
      const external = await checkOnnxFile(join(dir, "onnx/model.onnx"))
      expect(external.length).toBeGreaterThan(10)
    }
    // onnxruntime alone, from each.
    for (const dir of [moved, copy, join(repo, "snapshots", commit)]) {
      const session = await ort.InferenceSession.create(join(dir, "onnx/model.onnx"), quiet)
      const got = await session.run({ ...feeds, ...nothing(session) })
      for (const output of source.outputNames) {
        const want = expected.get(output)
        if (want) expect(error(data(got[output]!), floats(want)), `${output} in ${dir}`).toBeLessThan(1e-5)
      }
    }
  })
})

describe("what goes along", () => {
  it("is the tokenizer of the source, to the byte, and no more of its files", async () => {
    const source = at("with tokenizer")
    cpSync(reference("hf-clip-eos-2"), source, { recursive: true })
    const tokenizer = ["tokenizer.json", "tokenizer_config.json", "special_tokens_map.json", "vocab.json", "merges.txt"]
    for (const file of [...tokenizer, "README.md", "training_args.bin", "model.py"])
      writeFileSync(join(source, file), `{"${file}":1}\n`)
    mkdirSync(join(source, "spiece.model"))
    await convertModel(await loadPretrained(source), at("tokenizer out"))
    for (const file of tokenizer)
      expect(readFileSync(at("tokenizer out", file))).toEqual(readFileSync(join(source, file)))
    expect(filesOf(at("tokenizer out"))).toEqual(
      [
        ...tokenizer,
        "config.json",
        "manifest.json",
        "model.safetensors",
        "onnx/model.onnx",
        "onnx/model.onnx_data",
      ].sort(),
    )
  })

  it("is preprocessing that fits the graph, also at another image size", async () => {
    const large = await loadPretrained(demoModel, { imageSize: 56 })
    const { warnings } = await convertModel(large, at("large"), { certify: true })
    expect(warnings).toEqual([
      "the graph takes 56x56 pixels, the config says 28x28: load the folder with imageSize 56x56",
    ])
    const processor = JSON.parse(readFileSync(at("large", PROCESSOR), "utf8")) as { size: object }
    expect(processor.size).toEqual({ height: 56, width: 56 })
    const session = await ort.InferenceSession.create(at("large", "onnx/model.onnx"), quiet)
    const image = await large.images(join(demoModel, "seven.png"))
    const got = await session.run({ pixel_values: new ort.Tensor("float32", image.data, image.shape) })
    const reloaded = await loadPretrained(at("large"), { imageSize: 56 })
    expect((await reloaded.images(join(demoModel, "seven.png"))).data).toEqual(image.data)
    expect(error(data(got["logits"]!), (await reloaded.run(image)).logits.data as Float32Array)).toBeLessThan(1e-6)
  })

  it("is the preprocessing with every step spelt out, or as it is where that was done", async () => {
    const files: [string, object, object | "the same"][] = [
      ["vit", { do_normalize: true, size: 28, image_mean: [0.5], image_std: [0.5], note: 1 }, { note: 1, do_resize: true, do_rescale: true, do_convert_rgb: false, size: { height: 28, width: 28 }, resample: 2 }],
      ["old", { feature_extractor_type: "ViTFeatureExtractor", size: 28, image_mean: [0.5], image_std: [0.5] }, { image_processor_type: "ViTFeatureExtractor", do_normalize: true }],
      ["clip", { image_processor_type: "CLIPImageProcessor", size: 32, crop_size: 28, do_convert_rgb: false, image_mean: [0.1], image_std: [0.2] }, { image_processor_type: "CLIPImageProcessor", size: { shortest_edge: 32 }, crop_size: { height: 28, width: 28 }, do_center_crop: true, resample: 3 }],
      ["nested", { image_processor: { image_processor_type: "ViTImageProcessor", size: { height: 28, width: 28 }, image_mean: [0.3], image_std: [0.2], do_convert_rgb: false } }, { image_mean: [0.3], do_normalize: true }],
      ["spelt", { image_processor_type: "ViTImageProcessor", do_convert_rgb: false, do_resize: true, size: { height: 28, width: 28 }, resample: 3, do_center_crop: false, do_rescale: true, rescale_factor: 1 / 255, do_normalize: true, image_mean: [0.2], image_std: [0.4], more: [1] }, "the same"],
    ] // prettier-ignore
    for (const [name, given, want] of files) {
      const source = at(`processor ${name}`)
      cpSync(demoModel, source, { recursive: true })
      writeFileSync(join(source, PROCESSOR), JSON.stringify(given))
      const model = await loadPretrained(source)
      await convertModel(model, at(`processor ${name} out`))
      const written = readFileSync(at(`processor ${name} out`, PROCESSOR), "utf8")
      if (want === "the same") expect(written).toBe(JSON.stringify(given))
      else expect(JSON.parse(written), name).toMatchObject(want)
      expect(JSON.parse(written), name).not.toHaveProperty("image_processor")
      expect((await loadPretrained(at(`processor ${name} out`))).preprocessing, name).toEqual(model.preprocessing)
    }
  })

  it("is a preprocessing that fits nothing, as it is", async () => {
    const source = at("misfit")
    cpSync(demoModel, source, { recursive: true })
    const processor = readFileSync(join(source, PROCESSOR), "utf8").replaceAll("28", "30")
    writeFileSync(join(source, PROCESSOR), processor)
    await convertModel(await loadPretrained(source), at("misfit out"))
    expect(readFileSync(at("misfit out", PROCESSOR), "utf8")).toBe(processor)
    expect(existsSync(at("misfit out", "onnx/model.onnx"))).toBe(true)
  })
})
