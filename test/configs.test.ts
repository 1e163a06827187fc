/** @file Training configs: the seed's values, field by field, and what is refused. */
import { mkdtempSync, readFileSync, rmSync, writeFileSync } from "node:fs"
import { tmpdir } from "node:os"
import { join, resolve } from "node:path"
import { afterAll, describe, expect, it } from "vitest"
import {
  CIFAR10Config,
  CircleConfig,
  CONFIG_NAMES,
  configByName,
  defineConfig,
  DSpritesConfig,
  FIELDS,
  ImageNetConfig,
  InductionConfig,
  MNISTConfig,
  modelConfig,
  readConfig,
  setField,
  setFields,
  type GlobalConfig,
} from "../src/configs/index.ts"
import { build } from "../src/model/model.ts"
import { PrismaError } from "../src/errors.ts"

const folder = mkdtempSync(join(tmpdir(), "configs-"))
afterAll(() => rmSync(folder, { recursive: true }))

let files = 0
function file(json: unknown): string {
  const path = join(folder, `${files++}.json`)
  writeFileSync(path, typeof json === "string" ? json : JSON.stringify(json))
  return path
}

/** The message of the E_CONFIG that `action` ends with. */
async function refused(action: () => unknown, code = "E_CONFIG"): Promise<string> {
  try {
    await action()
  } catch (error) {
    expect(error).toBeInstanceOf(PrismaError)
    expect(error).toMatchObject({ code })
    const { message } = error as PrismaError
    expect(message).not.toContain("\n")
    return message
  }
  throw new Error("was accepted")
}

// vit_prisma/configs/{Induction,Circle,MNIST,DSprites}Config.py at commit 40181a5; undefined: the file has no such field.
const COLUMNS = ["induction", "circle", "mnist", "dsprites"] as const
const scratch = "/network/scratch/s/sonia.joseph/vit_prisma"
const TABLE: Readonly<Record<string, readonly unknown[]>> = {
  "image.image_size": [32, 32, 28, 64],
  "image.patch_size": [8, 1, 7, 8],
  "image.n_channels": [1, 1, 1, 1],
  "transformer.hidden_dim": [128, 128, 128, 512],
  "transformer.num_heads": [4, 4, 4, 8],
  "transformer.num_layers": [1, 1, 4, 4],
  "transformer.mlp_dim": [512, 512, 512, 2048],
  "transformer.activation_name": ["GELU", "GELU", "GELU", "GELU"],
  "transformer.attention_only": [true, false, false, false],
  "transformer.attn_hidden_layer": [true, true, true, true],
  "layernorm.qknorm": [false, false, false, false],
  "layernorm.layer_norm_eps": [0, 0, 0, 0],
  "dropout.patch": [0, 0, 0, 0],
  "dropout.position": [0, 0, 0, 0],
  "dropout.attention": [0, 0, 0, 0],
  "dropout.proj": [0, 0, 0, 0],
  "dropout.mlp": [0, 0, 0, 0],
  "init.weight_type": ["he", "he", "he", "he"],
  "init.cls_std": [1e-6, 1e-6, 1e-6, 1e-6],
  "init.pos_std": [0.02, 0.02, 0.02, 0.02],
  "training.loss_fn_name": ["CrossEntropy", "CrossEntropy", "CrossEntropy", "CrossEntropy"],
  "training.lr": [5e-4, 1e-4, 1e-4, 1e-4],
  "training.num_epochs": [50000, 50000, 5, 10],
  "training.batch_size": [64, 128, 64, 512],
  "training.warmup_steps": [10, 10, 10, 10],
  "training.weight_decay": [0.01, 0.01, 0, 0.01],
  "training.max_grad_norm": [1, 1, null, 1],
  "training.device": ["cuda", "cuda", "cuda", "cuda"],
  "training.seed": [0, 0, 0, 0],
  "training.optimizer_name": ["AdamW", "AdamW", "AdamW", "AdamW"],
  "training.scheduler_step": [200, 200, 1200, 200],
  "training.scheduler_gamma": [0.8, 0.8, 0.8, 0.8],
  "training.early_stopping": [false, undefined, undefined, true],
  "training.early_stopping_patience": [2, undefined, undefined, 3],
  "logging.log_dir": ["logs", "logs", "logs", "logs"],
  "logging.log_frequency": [1, 1, 10, 100],
  "logging.print_every": [0, 0, 0, 100],
  "logging.use_wandb": [true, true, true, true],
  "logging.wandb_project_name": ["induction_test", "circle_test", "mnist_test", "dsprites"],
  "logging.wandb_team_name": ["perceptual-alignment", undefined, undefined, undefined],
  "saving.parent_dir": [`${scratch}/induction/1_layer_attn_only`, scratch, scratch, "/scratch/sjoseph/yash/dsprites"],
  "saving.save_dir": ["checkpoints", "checkpoints", "checkpoints", "checkpoints/{run_id}"],
  "saving.save_checkpoints": [true, false, true, true],
  "saving.save_cp_frequency": [200, 10, 10, 50],
  "classification.num_classes": [4, 60, 10, 3],
  "classification.global_pool": [false, false, false, false],
}
/** What is other in the corrected configs. */
const CORRECTED = ["training.device", "logging.use_wandb", "saving.parent_dir", "saving.save_dir"]

const at = (config: GlobalConfig, name: string): unknown =>
  name.split(".").reduce<unknown>((value, key) => (value as Record<string, unknown>)[key], config)

/** Elements of all weights. */
const parameters = (config: GlobalConfig): number =>
  [...build(modelConfig(config)).scope.params.values()].reduce(
    (n, { shape }) => n + (shape as number[]).reduce((a, b) => a * b, 1),
    0,
  )

describe("the seed's configs", () => {
  it.each(COLUMNS.map((name, i) => [name, i] as const))("%s has every field of its file", (name, i) => {
    const [exact, corrected] = [configByName(name, "seed-exact"), configByName(name)]
    for (const [field, values] of Object.entries(TABLE)) {
      expect(FIELDS).toContain(field)
      if (values[i] === undefined) continue
      expect(at(exact, field), field).toEqual(values[i])
      if (!CORRECTED.includes(field)) expect(at(corrected, field), field).toEqual(values[i])
    }
    expect([exact.variant, corrected.variant]).toEqual(["seed-exact", "corrected"])
  })

  it("run here, write below this folder and tell nobody where they are corrected", () => {
    for (const name of CONFIG_NAMES) {
      const { training, logging, saving } = configByName(name)
      expect(training.device).toBe("auto")
      expect(logging.use_wandb).toBe(false)
      expect(saving).toMatchObject({ parent_dir: `runs/${name}`, save_dir: "checkpoints" })
    }
  })

  it.each(["corrected", "seed-exact"] as const)("are what the schema takes, %s", (variant) => {
    for (const name of variant === "corrected" ? CONFIG_NAMES : COLUMNS) {
      const config = configByName(name, variant)
      const parsed = defineConfig(config, {})
      expect(JSON.stringify(config)).toBe(JSON.stringify(parsed)) // also in order
      expect(Object.isFrozen(config.training.betas)).toBe(true)
    }
  })

  it("with what may be left out have each field that there is, and no other", () => {
    const config = defineConfig(MNISTConfig, {
      classification: { class_names: Array.from({ length: 10 }, (_, i) => String(i)) },
      data: { path: "p", target: "t", size: 8, image: "i", label: "l", test: "val", augment: [{ kind: "flip" }] },
    })
    const fields = Object.entries(config).flatMap(([section, value]) =>
      typeof value === "string" ? [section] : Object.keys(value).map((field) => `${section}.${field}`),
    )
    expect(fields).toEqual(FIELDS)
  })

  it("have the parameters of its BaseViT", () => {
    const counts = [InductionConfig, CircleConfig, MNISTConfig, DSpritesConfig].map(parameters)
    expect(counts).toEqual([76_676, 336_572, 799_370, 12_663_299])
    const mice = (attention_only: boolean) =>
      [1, 2, 3, 4].map((num_layers) =>
        parameters(defineConfig(DSpritesConfig, { transformer: { num_layers, attention_only } })),
      )
    expect(mice(false)).toEqual([3_216_899, 6_365_699, 9_514_499, 12_663_299])
    expect(mice(true)).toEqual([1_117_187, 2_166_275, 3_215_363, 4_264_451])
  })

  it("exist for CIFAR-10 and ImageNet, corrected only", async () => {
    expect([CIFAR10Config.image, ImageNetConfig.image]).toEqual([
      { image_size: 32, patch_size: 4, n_channels: 3 },
      { image_size: 224, patch_size: 16, n_channels: 3 },
    ])
    // ViT, width 128: 4 blocks of 198,272, patches 6,272, class 128, positions 65 * 128, norm 256, head 1,290.
    expect(parameters(CIFAR10Config)).toBe(4 * 198_272 + 48 * 128 + 128 + 128 + 65 * 128 + 256 + 1_290)
    expect(await refused(() => configByName("cifar10", "seed-exact"))).toContain("there are induction, circle, mnist")
    expect(await refused(() => configByName("minst"))).toBe(
      'no corrected config "minst" (nearest: "mnist"); there are induction, circle, mnist, dsprites, cifar10, imagenet',
    )
  })

  it("cannot be changed", () => {
    const config = MNISTConfig as unknown as { training: { lr: number; betas: number[] } }
    expect(() => (config.training.lr = 1)).toThrow(TypeError)
    expect(() => (config.training.betas[0] = 1)).toThrow(TypeError)
  })
})

describe("other values", () => {
  it("are laid over a config, field by field", () => {
    const changed = defineConfig(MNISTConfig, { training: { lr: 1e-3 }, architecture: "preLN" })
    expect(changed).toEqual({ ...MNISTConfig, architecture: "preLN", training: { ...MNISTConfig.training, lr: 1e-3 } })
    expect(MNISTConfig.training.lr).toBe(1e-4)
  })

  it("keep mlp_dim at 4 hidden_dim where it was, but for the seed's own", () => {
    const narrow = { transformer: { hidden_dim: 64 } }
    expect(defineConfig(MNISTConfig, narrow).transformer.mlp_dim).toBe(256)
    expect(setField(MNISTConfig, "transformer.hidden_dim", "64").transformer.mlp_dim).toBe(256)
    expect(defineConfig(MNISTConfig, { transformer: { hidden_dim: 64, mlp_dim: 512 } }).transformer.mlp_dim).toBe(512)
    expect(defineConfig(configByName("mnist", "seed-exact"), narrow).transformer.mlp_dim).toBe(512)
    const wide = defineConfig(MNISTConfig, { transformer: { mlp_dim: 300 } })
    expect(defineConfig(wide, narrow).transformer.mlp_dim).toBe(300)
  })

  it("set together are held to what they must be together, in any order", async () => {
    const changes = [["image.image_size", "30"], ["image.patch_size", "10"], ["transformer.hidden_dim", "21"], ["transformer.num_heads", "3"]] as const // prettier-ignore
    for (const order of [changes, changes.toReversed()]) {
      const { image, transformer } = setFields(MNISTConfig, order)
      expect([image.image_size, image.patch_size, transformer.num_heads, transformer.mlp_dim]).toEqual([30, 10, 3, 84])
    }
    expect(setFields(MNISTConfig, [["training.lr", "1"], ["training.lr", "2"]]).training.lr).toBe(2) // prettier-ignore
    expect(await refused(() => setFields(MNISTConfig, changes.slice(1)))).toContain("28 not divisible by 10")
    expect(await refused(() => setFields(MNISTConfig, [...changes, ["training.lrr", "1"]]))).toContain("--set training.lrr=1: ") // prettier-ignore
  })

  it.each([
    ["training.lr", "1e-3", 1e-3],
    ["training.batch_size", "-1", -1],
    ["training.max_grad_norm", "null", null],
    ["training.betas", "[0.8, 0.99]", [0.8, 0.99]],
    ["transformer.attention_only", "true", true],
    ["transformer.activation_name", "LeakyReLU", "LeakyReLU"],
    ["logging.log_dir", "7", "7"],
    ["saving.run_id", "12", "12"],
    ["data.augment", '[{"kind": "flip"}]', [{ kind: "flip" }]],
    ["architecture", "preLN", "preLN"],
  ])("set %s to %s as what it means", (name, text, value) => {
    expect(at(setField(MNISTConfig, name, text), name)).toEqual(value)
  })

  it.each([
    ["training.lrr", "1", 'no field "training.lrr"; the nearest is "training.lr"'],
    ["training", "1", 'no field "training"'],
    ["__proto__.x", "1", 'no field "__proto__.x"'],
    ["training.lr", "0", "training.lr must be a number above 0, got 0"],
    ["training.lr", "1e999", "training.lr must be a number above 0, got Infinity"],
    ["training.lr", "fast", 'training.lr must be a number above 0, got "fast"'],
    ["training.batch_size", "0", "training.batch_size must be -1 (the whole set) or a whole number from 1 to 1048576, got 0"],
    ["training.batch_size", "1.5", "got 1.5"],
    ["training.num_epochs", "0", "training.num_epochs must be a whole number from 1 to 1000000000, got 0"],
    ["training.label_smoothing", "1", "training.label_smoothing must be a number of at least 0 and below 1, got 1"],
    ["training.optimizer_name", "Lion", 'training.optimizer_name must be one of "AdamW", "Adam", "SGD", got "Lion"'],
    ["training.betas", "[0.9]", "training.betas must be two numbers of at least 0 and below 1, got [0.9]"],
    ["dropout.path", "-0.1", "dropout.path must be a number of at least 0 and below 1, got -0.1"],
    ["transformer.num_heads", "3", "transformer.hidden_dim must be a multiple of transformer.num_heads: 128 not divisible by 3"],
    ["image.patch_size", "5", "image.image_size must be a multiple of image.patch_size: 28 not divisible by 5"],
    ["image.image_size", "9000", "image.image_size must be a whole number from 1 to 8192, got 9000"],
    ["data.mean", "[0.1, 0.2]", "data.mean must have 1 number (image.n_channels), got 2"],
    ["data.std", "[0]", "data.std must be numbers above 0, got [0]"],
  ])("refuse %s = %s", async (name, text, message) => {
    expect(await refused(() => setField(MNISTConfig, name, text))).toContain(`--set ${name}=`)
    expect(await refused(() => setField(MNISTConfig, name, text))).toContain(message)
  }) // prettier-ignore
})

describe("a file", () => {
  it("gives back what was written to it", async () => {
    for (const name of CONFIG_NAMES) expect(await readConfig(file(configByName(name)))).toEqual(configByName(name))
  })

  it("of the seed's trainer is read, once its classes are said", async () => {
    const path = resolve(import.meta.dirname, "fixtures/legacy/config.json")
    const json = JSON.parse(readFileSync(path, "utf8")) as Record<string, object>
    expect(await refused(() => readConfig(path))).toBe(
      `${path}: classification.num_classes is missing; it must be a whole number from 1 to 1048576`,
    )
    const config = await readConfig(path, MNISTConfig)
    expect(config.transformer).toEqual(json["transformer"])
    expect(config.training).toMatchObject(json["training"]!)
    expect(config.classification).toEqual(MNISTConfig.classification)
  })

  it("may leave out what has a default, and mlp_dim", async () => {
    const { image, classification } = MNISTConfig
    const least = { image, classification, transformer: { hidden_dim: 32, num_heads: 2, num_layers: 1 } }
    const config = await readConfig(file(least))
    expect(config).toMatchObject({ ...least, variant: "corrected", architecture: "seed" })
    expect(config.transformer.mlp_dim).toBe(128)
    expect(config.training.betas).toEqual([0.9, 0.999])
  })

  it.each([
    [null, "the config must be an object, got null"],
    [[], "the config must be an object, got []"],
    [{}, "image.image_size is missing; it must be a whole number from 1 to 8192"],
    [{ ...MNISTConfig, image: [] }, "image must be an object, got []"],
    [{ imgae: MNISTConfig.image }, 'no field "imgae"'],
    [{ ...MNISTConfig, optimizer: {} }, 'no field "optimizer"; the nearest is'],
    [{ ...MNISTConfig, training: { learning_rate: 1 } }, 'no field "training.learning_rate"; the nearest is "training.'],
    [{ ...MNISTConfig, training: null }, "training must be an object, got null"],
    [{ ...MNISTConfig, image: { image_size: "28", patch_size: 7, n_channels: 1 } }, 'image.image_size must be a whole number from 1 to 8192, got "28"'],
    [{ ...MNISTConfig, logging: { track: [1] } }, "logging.track.0 must be a text, got 1"],
    [{ ...MNISTConfig, data: { augment: [{ kind: "blur" }] } }, "data.augment.0.kind must be"],
    ['{"__proto__": {}}', 'no field "__proto__"'],
    ["{", "is not valid JSON"],
  ])("of %j is refused", async (json, message) => {
    const path = file(json)
    const said = await refused(() => readConfig(path))
    expect(said).toContain(`${path}: `)
    expect(said).toContain(message)
  }) // prettier-ignore

  it("that is not there or far too large is refused", async () => {
    await refused(() => readConfig(join(folder, "nothing.json")), "E_NOT_A_FILE")
    await refused(() => readConfig(file(" ".repeat(2 ** 20 + 1))), "E_CONFIG_LIMIT")
  })
})
